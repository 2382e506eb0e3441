//! The way to a fabric: the one that is named, the one of the data folder, or one for this command alone.

use std::{path::Path, time::Duration};

use platform::{
    Config, client,
    config::{ConfigError, InternalListen, sources::environment},
    files::{self, IoContext as _},
};
use reqwest::{Method, RequestBuilder};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio_util::io::ReaderStream;

use super::{CliError, Context, private_layers};
use crate::app::{self, App, StartError};

pub(super) use platform::client::encoded;

const REQUEST_LIMIT: Duration = Duration::from_mins(2);

/// The fabric did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It refused.
    #[error("{detail} ({code})")]
    Refused {
        /// Why.
        detail: String,
        /// Stable.
        code: String,
    },
    /// It is not there.
    #[error("no fabric answers at {0}: {1}")]
    Unreachable(String, String),
    /// What it said is not JSON.
    #[error("{0} does not answer like a fabric")]
    NotAFabric(String),
    /// A URL was given without a token.
    #[error("FABRIC_URL is set, and so FABRIC_TOKEN has to be, or a file ~/.config/mcp-fabric/token: the token that fabric takes")]
    NoToken,
    /// Plaintext is given out by a running fabric on this machine only.
    #[error("this needs the internal socket of a fabric that runs on this data folder; start it first")]
    NoSocket,
    /// Servers run as long as their fabric does.
    #[error("no fabric serves this data folder, and servers run only as long as their fabric does; start it with `mcp-fabric serve`")]
    NotServing,
    /// The client cannot be made.
    #[error(transparent)]
    Setup(#[from] client::ClientError),
    /// The data folder cannot be read.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// The fabric for this command cannot start.
    #[error(transparent)]
    Start(#[from] Box<StartError>),
    /// A setting cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// A fabric that can be asked.
pub(super) struct Fabric {
    http: reqwest::Client,
    url: String,
    token: Option<SecretString>,
    /// Started for this command alone.
    own: Option<Box<App>>,
}

impl Fabric {
    pub(super) async fn reach(context: &Context) -> Result<Self, ClientError> {
        rustls::crypto::ring::default_provider().install_default().ok();
        if let Some(url) = &context.url {
            return Ok(Self {
                http: client::fabric_api()?,
                url: url.trim_end_matches('/').to_owned(),
                token: context.token.clone().map_or_else(kept_token, |token| Ok(Some(token)))?,
                own: None,
            });
        }
        let http = client::local_api()?;
        if let Some(running) = app::running(&context.config.data_dir) {
            let token = context.token.clone().map_or_else(|| operator_token(&context.config), Ok)?;
            return Ok(Self { http, url: running.url, token: Some(token), own: None });
        }
        let config = Config::from_layers(&private_layers(&context.layers))?;
        let own = Box::pin(App::start(config)).await.map_err(Box::new)?;
        Ok(Self { http, url: own.url.clone(), token: Some(operator_token(&context.config)?), own: Some(Box::new(own)) })
    }

    /// The same for what outlives a command: nothing is started for it.
    pub(super) async fn reach_running(context: &Context) -> Result<Self, ClientError> {
        if context.url.is_none() && app::running(&context.config.data_dir).is_none() {
            return Err(ClientError::NotServing);
        }
        Self::reach(context).await
    }

    /// Ends the fabric that was started for this command.
    pub(super) async fn leave(self) {
        if let Some(own) = self.own {
            own.stop().await;
        }
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.send(self.request(Method::GET, path)).await
    }

    pub(super) async fn post(&self, path: &str) -> Result<Value, ClientError> {
        self.send(self.request(Method::POST, path)).await
    }

    pub(super) async fn post_json(&self, path: &str, body: Vec<u8>) -> Result<Value, ClientError> {
        self.send(self.request(Method::POST, path).header("content-type", "application/json").body(body)).await
    }

    pub(super) async fn put_json(&self, path: &str, body: Vec<u8>) -> Result<Value, ClientError> {
        self.send(self.request(Method::PUT, path).header("content-type", "application/json").body(body)).await
    }

    /// For what looks at everything before it answers.
    pub(super) async fn post_patiently(&self, path: &str) -> Result<Value, ClientError> {
        self.send(self.plain(Method::POST, path)).await
    }

    /// Writes what a path gives into a new file; gives how many bytes that were.
    pub(super) async fn save(&self, path: &str, file: &Path) -> Result<u64, CliError> {
        self.write(self.plain(Method::GET, path), file).await
    }

    pub(super) async fn delete(&self, path: &str) -> Result<Value, ClientError> {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// Posts an order and writes what comes into a new file; gives how many bytes that were.
    pub(super) async fn download(&self, path: &str, order: Vec<u8>, file: &Path) -> Result<u64, CliError> {
        self.write(self.plain(Method::POST, path).header("content-type", "application/json").body(order), file).await
    }

    /// Shows each line of an answer that goes on, as JSON, until it ends.
    pub(super) async fn follow(&self, path: &str, show: impl Fn(&Value)) -> Result<(), ClientError> {
        let unreachable = |error: reqwest::Error| ClientError::Unreachable(self.url.clone(), reason(&error));
        let mut response = self.plain(Method::GET, path).send().await.map_err(unreachable)?;
        if !response.status().is_success() {
            return self.read(response).await.map(drop);
        }
        let mut rest = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            rest.extend_from_slice(&chunk);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                show(&serde_json::from_slice(&line).map_err(|_| ClientError::NotAFabric(self.url.clone()))?);
            }
        }
        Ok(())
    }

    async fn write(&self, request: RequestBuilder, file: &Path) -> Result<u64, CliError> {
        let unreachable = |error: reqwest::Error| ClientError::Unreachable(self.url.clone(), reason(&error));
        let mut response = request.send().await.map_err(unreachable)?;
        if !response.status().is_success() {
            self.read(response).await?;
            return Ok(0);
        }
        let mut out = tokio::fs::File::create_new(file).await.about("create", file)?;
        let mut written = 0;
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    out.write_all(&chunk).await.about("write", file)?;
                    written += chunk.len() as u64;
                }
                Ok(None) => break,
                Err(error) => {
                    // Half an archive is none.
                    tokio::fs::remove_file(file).await.about("remove", file)?;
                    return Err(unreachable(error).into());
                }
            }
        }
        out.sync_all().await.about("write", file)?;
        Ok(written)
    }

    /// Posts a file.
    pub(super) async fn upload(&self, path: &str, file: &Path) -> Result<Value, CliError> {
        let body = tokio::fs::File::open(file).await.about("read", file)?;
        let size = body.metadata().await.about("read", file)?.len();
        let request = self.plain(Method::POST, path).header("content-type", "application/x-tar").header("content-length", size);
        Ok(self.send(request.body(reqwest::Body::wrap_stream(ReaderStream::new(body)))).await?)
    }

    /// Posts to the internal listener, which is where plaintext is; gives the text of the answer.
    pub(super) async fn internal(&self, config: &Config, path: &str, body: Vec<u8>) -> Result<String, ClientError> {
        let InternalListen::Socket(socket) = &config.vault.internal else { return Err(ClientError::NoSocket) };
        if !socket.exists() {
            return Err(ClientError::NoSocket);
        }
        let request = client::socket_api(socket)?.post(format!("http://localhost{path}")).header("content-type", "application/json");
        let request = match &self.token {
            Some(token) => request.bearer_auth(token.expose_secret()),
            None => request,
        };
        let sent = request.body(body).timeout(REQUEST_LIMIT).send().await;
        let response = sent.map_err(|error| ClientError::Unreachable(socket.display().to_string(), reason(&error)))?;
        if response.status().is_success() {
            return response.text().await.map_err(|error| ClientError::Unreachable(socket.display().to_string(), reason(&error)));
        }
        Err(self.read(response).await.err().unwrap_or_else(|| ClientError::NotAFabric(socket.display().to_string())))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.plain(method, path).timeout(REQUEST_LIMIT)
    }

    /// For what takes as long as it takes.
    fn plain(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.token {
            Some(token) => request.bearer_auth(token.expose_secret()),
            None => request,
        }
    }

    /// A request whose answer goes on for as long as it does.
    pub(super) fn stream(&self, method: Method, path: &str) -> RequestBuilder {
        self.plain(method, path)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Value, ClientError> {
        self.read(request.send().await.map_err(|error| ClientError::Unreachable(self.url.clone(), reason(&error)))?).await
    }

    async fn read(&self, response: reqwest::Response) -> Result<Value, ClientError> {
        let status = response.status();
        if status == reqwest::StatusCode::NO_CONTENT {
            return Ok(Value::Null);
        }
        let body: Value = response.json().await.map_err(|_| ClientError::NotAFabric(self.url.clone()))?;
        if status.is_success() {
            return Ok(body);
        }
        if status == reqwest::StatusCode::UNAUTHORIZED && self.token.is_none() {
            return Err(ClientError::NoToken);
        }
        let member = |key: &str| body[key].as_str().unwrap_or("unknown").to_owned();
        Err(ClientError::Refused { detail: member("detail"), code: member("code") })
    }
}

fn operator_token(config: &Config) -> Result<SecretString, ClientError> {
    let text = files::read_if_present(&files::operator_token_file(&config.data_dir))?;
    Ok(text.unwrap_or_default().trim().into())
}

/// The token that a user keeps for fabrics elsewhere, where clients start this program and can give it no secret.
fn kept_token() -> Result<Option<SecretString>, ClientError> {
    let Some(home) = environment("HOME") else { return Ok(None) };
    let text = files::read_if_present(&Path::new(&home).join(".config/mcp-fabric/token"))?;
    Ok(text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).map(Into::into))
}

fn reason(error: &reqwest::Error) -> String {
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(next) = source {
        reason = next.to_string();
        source = next.source();
    }
    reason
}
