//! Copies of the trail outside the database: a file, a receiver of our own. Where each has come to is kept, so
//! that none misses anything, and a rewritten trail can be compared with them.

use std::{path::PathBuf, time::Duration};

use platform::{Config, Shutdown, client::ClientError, database::DbError};
use tokio::{io::AsyncWriteExt as _, time::sleep};
use url::Url;

use crate::{
    Audit,
    export::jsonl,
    service::Filter,
    store::{self, upkeep},
};

const LOOK: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_secs(15);
const PAGE: i64 = 500;

/// One copy.
pub(crate) struct Copies {
    name: String,
    place: Place,
}

enum Place {
    File(PathBuf),
    Receiver(platform::client::Client, Url),
}

#[derive(Debug, thiserror::Error)]
enum CopyError {
    #[error(transparent)]
    Database(#[from] DbError),
    #[error("could not write {path}: {0}", path = .1.display())]
    File(#[source] std::io::Error, PathBuf),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("the receiver did not take it: {0}")]
    Receiver(String),
}

impl Copies {
    pub(crate) fn of(config: &Config) -> Result<Vec<Self>, ClientError> {
        let mut copies = Vec::new();
        if let Some(path) = &config.audit.copy_file {
            copies.push(Self { name: "file".into(), place: Place::File(path.clone()) });
        }
        if let Some(url) = &config.audit.copy_url {
            let client = platform::client::Client::new(config.allowed_hosts.iter().cloned(), config.offline)?;
            copies.push(Self { name: "receiver".into(), place: Place::Receiver(client, url.clone()) });
        }
        Ok(copies)
    }

    pub(crate) async fn run(self, audit: Audit, shutdown: Shutdown) {
        loop {
            let wait = match self.copy(&audit).await {
                Ok(true) => continue,
                Ok(false) => LOOK,
                Err(error) => {
                    tracing::warn!(copy = self.name, %error, "the audit trail could not be copied; it is tried again");
                    RETRY
                }
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = shutdown.begun() => return,
            }
        }
    }

    /// Copies the next page; tells whether there may be more.
    async fn copy(&self, audit: &Audit) -> Result<bool, CopyError> {
        let pool = audit.inner.database.audit();
        let from = upkeep::copied_to(pool, &self.name).await?;
        let mut connection = pool.acquire().await.map_err(DbError::from)?;
        let page = store::read::follow(&mut connection, &Filter::default(), from, PAGE).await?;
        drop(connection);
        let Some(last) = page.last().map(|(link, _)| link.seq) else { return Ok(false) };
        let is_full = i64::try_from(page.len()).is_ok_and(|len| len == PAGE);
        self.send(jsonl(page)).await?;
        upkeep::set_copied(pool, &self.name, last).await?;
        Ok(is_full)
    }

    async fn send(&self, lines: String) -> Result<(), CopyError> {
        match &self.place {
            Place::File(path) => {
                let append = async {
                    let mut file = tokio::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path).await?;
                    file.write_all(lines.as_bytes()).await?;
                    file.sync_data().await
                };
                append.await.map_err(|error| CopyError::File(error, path.clone()))
            }
            Place::Receiver(client, url) => {
                let request = client.post(url.clone())?.header("content-type", "application/x-ndjson").body(lines);
                // Neither the address nor what it answered is told: both may hold a secret.
                let answer = request.send().await.map_err(|error| CopyError::Receiver(error.without_url().to_string()))?;
                let status = answer.status();
                if status.is_success() { Ok(()) } else { Err(CopyError::Receiver(status.to_string())) }
            }
        }
    }
}
