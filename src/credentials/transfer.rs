//! Credentials from files and into files: `.env` and JSON in, age (encrypted to a passphrase or a recipient) in and out.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    str::FromStr as _,
};

use age::{
    armor::{ArmoredReader, ArmoredWriter, Format as Armor},
    scrypt, x25519,
};
use audit::EventType;
use chrono::{DateTime, Utc};
use platform::{Action, Actor};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use servers::ServerRef;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::{
    Credentials, dotenv,
    error::CredentialsError,
    model::{EnvVar, Kind, UserRef},
    service::Value,
    store::{check, rows},
};

/// Values in one file.
const MOST: usize = 2000;
/// How hard a passphrase is to try (log₂ of scrypt's N): half a second and 128 MiB.
const WORK: u8 = 17;
/// How hard the passphrase of a foreign file may make us work: what the age program writes, 256 MiB.
const MOST_WORK: u8 = 18;

platform::words! {
    /// What a file is.
    pub enum FileKind {
        /// `NAME=value` lines.
        Env = "env",
        /// `{"NAME": "value"}` for one server, or `{"server": {"NAME": "value"}}`.
        Json = "json",
        /// What an export gives.
        Age = "age",
    }
}

platform::words! {
    /// What becomes of what is there.
    pub enum Strategy {
        /// A server's credentials are those of the file.
        Replace = "replace",
        /// The file wins, and the rest stays.
        Overlay = "overlay",
        /// Only what is missing comes in.
        Append = "append",
    }
}

/// What is to be taken in.
pub(crate) struct Import {
    pub(crate) kind: FileKind,
    pub(crate) strategy: Strategy,
    pub(crate) server: Option<String>,
    pub(crate) content: SecretString,
    /// A passphrase, or an identity (`AGE-SECRET-KEY-…`).
    pub(crate) secret: Option<SecretString>,
}

/// What was taken in.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Imported {
    /// How many servers it was about.
    pub servers: usize,
    /// How many values were stored.
    pub stored: usize,
    /// How many were left as they were.
    pub kept: usize,
}

/// For whom an export is.
pub(crate) enum Reader {
    /// Whoever knows it.
    Passphrase(SecretString),
    /// The holder of the key (`age1…`).
    Recipient(String),
}

/// The inside of an export.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inside {
    fabric: u8,
    credentials: Vec<One>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct One {
    server_id: String,
    env_var: String,
    kind: Kind,
    value: String,
    expires_at: Option<DateTime<Utc>>,
}

fn content(message: &'static str) -> CredentialsError {
    CredentialsError::field("body.content", message)
}

impl Credentials {
    /// Takes a file in, server by server, each completely or not at all.
    pub(crate) async fn import(&self, actor: &Actor, user: Option<&str>, import: Import) -> Result<Imported, CredentialsError> {
        actor.require(Action::CredentialsWrite)?;
        let user = Self::user_of(actor, user)?;
        let strategy = import.strategy;
        let by_server = read(import).await?;
        let mut imported = Imported { servers: by_server.len(), stored: 0, kept: 0 };
        for (server, ones) in by_server {
            let server: ServerRef = server.parse().map_err(|_| servers::ServersError::NotFound)?;
            let id = self.server(actor, Action::CredentialsWrite, &server).await?;
            let there: BTreeSet<String> = if strategy == Strategy::Append { self.names(actor, &user, &id).await? } else { BTreeSet::new() };
            let all = ones.len();
            let mut values = Vec::with_capacity(all);
            for one in ones.into_iter().filter(|one| !there.contains(&one.env_var)) {
                let env_var = EnvVar::parse(&one.env_var).map_err(|unfit| content(unfit.0))?;
                values.push(Value { env_var, plaintext: one.value.into(), kind: one.kind, expires_at: one.expires_at });
            }
            imported.kept += all - values.len();
            imported.stored += values.len();
            self.store_all(actor, user.as_str(), &server, values, strategy == Strategy::Replace).await?;
        }
        Ok(imported)
    }

    pub(crate) async fn names(&self, actor: &Actor, user: &UserRef, server: &str) -> Result<BTreeSet<String>, CredentialsError> {
        let there = rows::list(self.inner.database.public(), &crate::service::acting(actor), user, server).await?;
        Ok(there.into_iter().map(|metadata| metadata.env_var).collect())
    }

    /// All credentials of a user, encrypted for a reader. It is a reveal, and told like one.
    pub(crate) async fn export(&self, actor: &Actor, user: &str, reader: Reader) -> Result<String, CredentialsError> {
        actor.require(Action::CredentialsExport)?;
        let user = UserRef::parse(user).map_err(|_| CredentialsError::NotFound("credential"))?;
        let recipient = Recipient::parse(reader)?;
        let event = self.event_of(EventType::BulkOperation, "credential.export", &user, "all");
        self.inner.audit.record(actor, event).await?;
        let mut transaction = self.inner.database.begin_reveal("export").await?;
        let wholes = check::of_user(&mut transaction, user.as_str()).await?;
        drop(transaction);
        let mut credentials = Vec::with_capacity(wholes.len());
        let is_granted = |server: &String| actor.servers().is_none_or(|servers| servers.contains(server));
        for (whole, kind) in wholes.into_iter().filter(|(whole, _)| is_granted(&whole.server)) {
            let value = self.open_row(&whole.row, &user, &whole.server).await?.expose_secret().to_owned();
            let (server_id, env_var, expires_at) = (whole.server, whole.row.env_var, whole.row.expires_at);
            credentials.push(One { server_id, env_var, kind, value, expires_at });
        }
        let inside = Zeroizing::new(serde_json::to_vec(&Inside { fabric: 1, credentials }).unwrap_or_default());
        on_a_thread(move || recipient.encrypt(&inside)).await
    }
}

/// Work for a passphrase takes a second.
async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CredentialsError> + Send + 'static,
) -> Result<T, CredentialsError> {
    // A passphrase takes up to 256 MiB: one at a time, whoever asks.
    static TURN: Semaphore = Semaphore::const_new(1);
    let _turn = TURN.acquire().await.map_err(|_| CredentialsError::Contended)?;
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(CredentialsError::Contended))
}

enum Recipient {
    Passphrase(scrypt::Recipient),
    Key(x25519::Recipient),
}

impl Recipient {
    fn parse(reader: Reader) -> Result<Self, CredentialsError> {
        match reader {
            Reader::Passphrase(passphrase) if passphrase.expose_secret().chars().count() < 12 => {
                Err(CredentialsError::field("body.passphrase", "has fewer than 12 characters"))
            }
            Reader::Passphrase(passphrase) => {
                let mut recipient = scrypt::Recipient::new(passphrase.expose_secret().to_owned().into());
                recipient.set_work_factor(WORK);
                Ok(Self::Passphrase(recipient))
            }
            Reader::Recipient(text) => {
                let key = x25519::Recipient::from_str(text.trim());
                key.map(Self::Key).map_err(|_| CredentialsError::field("body.recipient", "is not a recipient such as age1…"))
            }
        }
    }

    fn encrypt(&self, inside: &[u8]) -> Result<String, CredentialsError> {
        let recipient: &dyn age::Recipient = match self {
            Self::Passphrase(recipient) => recipient,
            Self::Key(recipient) => recipient,
        };
        let failed = || content("could not be encrypted");
        let encryptor = age::Encryptor::with_recipients(std::iter::once(recipient)).map_err(|_| failed())?;
        let armor = ArmoredWriter::wrap_output(Vec::new(), Armor::AsciiArmor).map_err(|_| failed())?;
        let mut writer = encryptor.wrap_output(armor).map_err(|_| failed())?;
        writer.write_all(inside).map_err(|_| failed())?;
        let out = writer.finish().and_then(ArmoredWriter::finish).map_err(|_| failed())?;
        String::from_utf8(out).map_err(|_| failed())
    }
}

/// Something else of the fabric's that is to be kept under a passphrase: keys in a backup.
pub async fn encrypted(inside: Zeroizing<Vec<u8>>, passphrase: &SecretString) -> Result<String, CredentialsError> {
    let recipient = Recipient::parse(Reader::Passphrase(passphrase.clone()))?;
    on_a_thread(move || recipient.encrypt(&inside)).await
}

/// What [`encrypted`] gave.
pub async fn decrypted(text: String, passphrase: &SecretString) -> Result<Zeroizing<Vec<u8>>, CredentialsError> {
    let (text, passphrase) = (SecretString::from(text), passphrase.clone());
    on_a_thread(move || decrypt(&text, &passphrase)).await
}

/// What a file holds, by server.
async fn read(import: Import) -> Result<BTreeMap<String, Vec<One>>, CredentialsError> {
    let Import { kind, server, content: text, secret, .. } = import;
    let ones = match kind {
        FileKind::Env => {
            let server = server.ok_or_else(|| CredentialsError::field("body.server_id", "is needed: an .env file names no server"))?;
            let pairs = dotenv::parse(text.expose_secret()).map_err(|_| content("has a line that is not NAME=value"))?;
            pairs.into_iter().map(|(env_var, value)| plain(&server, env_var, value)).collect()
        }
        FileKind::Json => from_json(server.as_deref(), text.expose_secret())?,
        FileKind::Age => {
            let secret = secret.ok_or_else(|| CredentialsError::field("body.passphrase", "is needed, or `identity`"))?;
            let inside = on_a_thread(move || decrypt(&text, &secret)).await?;
            let inside: Inside = serde_json::from_slice(&inside).map_err(|_| content("holds something else than an export"))?;
            inside.credentials
        }
    };
    if ones.len() > MOST {
        return Err(content("holds more than 2000 values"));
    }
    let mut by_server: BTreeMap<String, Vec<One>> = BTreeMap::new();
    for one in ones {
        let of_server = by_server.entry(one.server_id.clone()).or_default();
        if of_server.iter().any(|other| other.env_var == one.env_var) {
            return Err(content("names a variable twice"));
        }
        of_server.push(one);
    }
    Ok(by_server)
}

fn plain(server: &str, env_var: String, value: String) -> One {
    One { server_id: server.to_owned(), env_var, kind: Kind::Env, value, expires_at: None }
}

fn from_json(server: Option<&str>, text: &str) -> Result<Vec<One>, CredentialsError> {
    if let Some(server) = server {
        let values: BTreeMap<String, String> = serde_json::from_str(text).map_err(|_| content("is not an object of names and texts"))?;
        return Ok(values.into_iter().map(|(env_var, value)| plain(server, env_var, value)).collect());
    }
    let servers: BTreeMap<String, BTreeMap<String, String>> =
        serde_json::from_str(text).map_err(|_| content("is not an object of servers, each with names and texts"))?;
    let of_server = |(server, values): (String, BTreeMap<String, String>)| {
        values.into_iter().map(move |(env_var, value)| plain(&server, env_var, value))
    };
    Ok(servers.into_iter().flat_map(of_server).collect())
}

fn decrypt(text: &SecretString, secret: &SecretString) -> Result<Zeroizing<Vec<u8>>, CredentialsError> {
    let wrong = || content("does not open with this passphrase or identity, or is no age file");
    let secret = secret.expose_secret();
    let decryptor = age::Decryptor::new(ArmoredReader::new(text.expose_secret().as_bytes())).map_err(|_| wrong())?;
    let identity: Box<dyn age::Identity> = if let Ok(identity) = x25519::Identity::from_str(secret.trim()) {
        Box::new(identity)
    } else {
        let mut identity = scrypt::Identity::new(secret.to_owned().into());
        identity.set_max_work_factor(MOST_WORK);
        Box::new(identity)
    };
    let mut reader = decryptor.decrypt(std::iter::once(identity.as_ref())).map_err(|_| wrong())?;
    let mut inside = Zeroizing::new(Vec::new());
    reader.read_to_end(&mut inside).map_err(|_| wrong())?;
    Ok(inside)
}
