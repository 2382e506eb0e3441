//! What is sent to a model, and what comes back: the Messages API (version 2026-10-21), which several local servers speak,
//! too, or chat completions.

use std::time::Duration;

use platform::{
    client::{Client, own_host},
    config::{ModelConfig, Speaks},
};
use reqwest::{Response, StatusCode};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use url::Url;

use crate::error::FactoryError;

const VERSION: &str = "2026-10-21";
const LIMIT: Duration = Duration::from_mins(5);
/// How often one question is asked, and how long is waited between two at most.
const TRIES: u32 = 4;
const LONGEST_WAIT: Duration = Duration::from_secs(20);
const LARGEST: usize = 4 << 20;

/// A way to ask a model.
pub(super) struct Wire {
    client: Client,
    settings: ModelConfig,
    url: Url,
}

/// What a model said.
pub(super) enum Said {
    Whole(String),
    /// Its tokens ran out.
    CutOff,
}

impl Wire {
    pub(super) fn new(settings: &ModelConfig, offline: bool) -> Result<Self, FactoryError> {
        let path = match settings.speaks {
            Speaks::Messages => "v1/messages",
            Speaks::ChatCompletions => "chat/completions",
        };
        let mut url = settings.base.clone();
        url.set_path(&format!("{}/{path}", settings.base.path().trim_end_matches('/')));
        // The operator says where the model is, wherever that is.
        let client = Client::direct(own_host(&url), offline).map_err(|error| FactoryError::Model(error.to_string()))?;
        Ok(Self { client, settings: settings.clone(), url })
    }

    pub(super) fn model(&self) -> &str {
        &self.settings.model
    }

    pub(super) fn speaks(&self) -> Speaks {
        self.settings.speaks
    }

    /// Asks once; what is busy is asked again.
    pub(super) async fn ask(&self, system: &str, messages: &[Value], schema: &Value, tokens: u32) -> Result<Said, FactoryError> {
        let body = match self.settings.speaks {
            Speaks::Messages => json!({
                "model": self.settings.model,
                "max_tokens": tokens,
                "system": system,
                "messages": messages,
                "output_config": { "format": { "type": "json_schema", "schema": schema } },
            }),
            Speaks::ChatCompletions => {
                let all: Vec<Value> =
                    std::iter::once(json!({ "role": "system", "content": system })).chain(messages.iter().cloned()).collect();
                let format = json!({ "type": "json_schema", "json_schema": { "name": "server", "strict": true, "schema": schema } });
                json!({ "model": self.settings.model, "max_completion_tokens": tokens, "messages": all, "response_format": format })
            }
        };
        let mut why = String::new();
        for attempt in 0..TRIES {
            let answer = match self.send(&body).await {
                Ok(answer) => answer,
                Err(error) => {
                    why = error;
                    tokio::time::sleep(wait(None, attempt)).await;
                    continue;
                }
            };
            let status = answer.status();
            if status.is_success() {
                return self.read(&read(answer).await?);
            }
            let after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_secs);
            let said = read(answer).await.unwrap_or_default();
            why = format!("the language model's server answered {}: {}", status.as_u16(), message(&said));
            let passes = status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT || status.is_server_error();
            if !passes {
                return Err(FactoryError::Model(why));
            }
            if attempt + 1 < TRIES {
                tokio::time::sleep(wait(after, attempt)).await;
            }
        }
        Err(FactoryError::ModelAway(why))
    }

    async fn send(&self, body: &Value) -> Result<Response, String> {
        let request = self.client.post(self.url.clone()).map_err(|error| error.to_string())?;
        let mut request = request.timeout(LIMIT).json(body);
        if self.settings.speaks == Speaks::Messages {
            request = request.header("anthropic-version", VERSION);
        }
        if let Some(key) = &self.settings.key {
            request = request.bearer_auth(key.expose_secret());
        }
        request
            .send()
            .await
            .map_err(|_| format!("the language model's server {} cannot be reached", self.url.host_str().unwrap_or_default()))
    }

    fn read(&self, answer: &Value) -> Result<Said, FactoryError> {
        let broken = || FactoryError::Model("the language model's answer has another shape than its API's".into());
        let refused = |what: &str| FactoryError::Model(format!("the language model {what}"));
        let (text, reason) = match self.settings.speaks {
            Speaks::Messages => {
                // A block of thinking may come first.
                let blocks = answer["content"].as_array().ok_or_else(broken)?;
                let text: String =
                    blocks.iter().filter(|block| block["type"] == "text").filter_map(|block| block["text"].as_str()).collect();
                (text, answer["stop_reason"].as_str().unwrap_or_default().to_owned())
            }
            Speaks::ChatCompletions => {
                let choice = &answer["choices"][0];
                if choice["message"]["refusal"].is_string() {
                    return Err(refused("refused"));
                }
                let text = choice["message"]["content"].as_str().unwrap_or_default().to_owned();
                (text, choice["finish_reason"].as_str().ok_or_else(broken)?.to_owned())
            }
        };
        match reason.as_str() {
            "end_turn" | "stop" | "stop_sequence" if !text.is_empty() => Ok(Said::Whole(text)),
            "max_tokens" | "length" => Ok(Said::CutOff),
            "refusal" | "content_filter" => Err(refused("refused")),
            "model_context_window_exceeded" => Err(refused("cannot take a description of this length")),
            other => Err(refused(&format!("ended by `{}` without an answer", crate::text::line(other, 40)))),
        }
    }
}

fn wait(after: Option<Duration>, attempt: u32) -> Duration {
    after.unwrap_or_else(|| Duration::from_millis(500) * 2u32.pow(attempt)).min(LONGEST_WAIT)
}

async fn read(answer: Response) -> Result<Value, FactoryError> {
    let bytes = answer.bytes().await.map_err(|_| FactoryError::ModelAway("the language model's answer broke off".into()))?;
    if bytes.len() > LARGEST {
        return Err(FactoryError::Model("the language model's answer is too large".into()));
    }
    serde_json::from_slice(&bytes).map_err(|_| FactoryError::Model("the language model's answer is not JSON".into()))
}

/// What the API says of an error; never what was sent.
fn message(answer: &Value) -> String {
    crate::text::line(answer["error"]["message"].as_str().unwrap_or("no reason is given"), 200)
}
