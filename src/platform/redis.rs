//! Redis (or Valkey), where `REDIS_URL` names one: what replicas tell each other, and answers that are kept for them. PostgreSQL
//! has all of it; Redis may be slow, empty or gone at any time.

use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use redis::{
    AsyncCommands as _, Client, ErrorKind, RedisError,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use secrecy::{ExposeSecret as _, SecretString};

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(1);

/// `REDIS_URL` is none, or Redis does not do what it is asked for. Never says where it is: the address has a password.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RedisUnusable(String);

impl From<RedisError> for RedisUnusable {
    fn from(error: RedisError) -> Self {
        let what = match error.kind() {
            ErrorKind::Io => "cannot be reached, or the connection broke".to_owned(),
            ErrorKind::AuthenticationFailed => "refuses the password".to_owned(),
            other => format!("did not do what it was asked for ({other:?})"),
        };
        Self(format!("Redis {what}"))
    }
}

/// A Redis; cheap to clone. Everything of one fabric has one prefix there, so that several may use the same.
#[derive(Clone)]
pub struct Redis {
    client: Client,
    connection: ConnectionManager,
    prefix: String,
}

impl Redis {
    /// The one at an address; nothing is connected yet. `mark` tells this fabric from others.
    pub fn at(url: &SecretString, mark: &str) -> Result<Self, RedisUnusable> {
        let unfit = |_| RedisUnusable("REDIS_URL must be redis://, rediss:// or redis+unix://, with a host or a path".into());
        let client = Client::open(url.expose_secret()).map_err(unfit)?;
        let config =
            ConnectionManagerConfig::new().set_number_of_retries(1).set_connection_timeout(Some(LIMIT)).set_response_timeout(Some(LIMIT));
        let connection = client.get_connection_manager_lazy(config)?;
        Ok(Self { client, connection, prefix: format!("mcp-fabric:{mark}") })
    }

    fn name(&self, of: &str) -> String {
        format!("{}:{of}", self.prefix)
    }

    /// Tells whoever has subscribed to a channel.
    pub async fn publish(&self, channel: &str, text: &str) -> Result<(), RedisUnusable> {
        Ok(self.connection.clone().publish::<_, _, ()>(self.name(channel), text).await?)
    }

    /// What is told on a channel from now on; the stream ends with the connection.
    pub async fn subscribe(&self, channel: &str) -> Result<impl Stream<Item = String> + Send + Unpin + 'static, RedisUnusable> {
        let subscribing = async {
            let mut connection = self.client.get_async_pubsub().await?;
            connection.subscribe(self.name(channel)).await?;
            Ok::<_, RedisError>(connection.into_on_message())
        };
        let late = |_| RedisUnusable("Redis did not answer in time".into());
        let messages = tokio::time::timeout(LIMIT, subscribing).await.map_err(late)??;
        Ok(Box::pin(messages.filter_map(async |message| message.get_payload::<String>().ok())))
    }

    /// What is kept under a name.
    pub async fn get(&self, name: &str) -> Result<Option<String>, RedisUnusable> {
        Ok(self.connection.clone().get(self.name(name)).await?)
    }

    /// Forgets what is kept under a name.
    pub async fn forget(&self, name: &str) -> Result<(), RedisUnusable> {
        Ok(self.connection.clone().del::<_, ()>(self.name(name)).await?)
    }

    /// Keeps a text under a name for so long.
    pub async fn keep(&self, name: &str, text: &str, time: Duration) -> Result<(), RedisUnusable> {
        Ok(self.connection.clone().set_ex::<_, _, ()>(self.name(name), text, time.as_secs().max(1)).await?)
    }
}
