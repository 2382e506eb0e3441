//! Manners towards registries: so many downloads at once from one host, and a rest for one that is down.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use url::Url;

use crate::{
    download::DownloadError,
    error::{CacheError, is_down},
};

/// So many things that it fails to give in a row, and a host is left alone for a while.
const FAILURES: usize = 5;
pub(crate) const REST: Duration = Duration::from_secs(30);

/// The hosts that are asked for anything.
#[derive(Debug)]
pub(crate) struct Hosts {
    at_once: usize,
    rest: Duration,
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Debug)]
struct Known {
    places: Arc<Semaphore>,
    /// What it failed to give, of late: one bad package does not make a bad host.
    failed: HashSet<String>,
    rests_until: Option<Instant>,
}

/// A place among the requests to one host.
#[derive(Debug)]
pub(crate) struct Visit<'a> {
    hosts: &'a Hosts,
    host: String,
    path: String,
    _place: OwnedSemaphorePermit,
}

impl Hosts {
    pub(crate) fn new(at_once: u32) -> Self {
        Self { at_once: at_once as usize, rest: REST, known: Mutex::default() }
    }

    /// Waits for a place. A host that rests is not asked, except by one who tries whether it is up again.
    pub(crate) async fn enter(&self, url: &Url) -> Result<Visit<'_>, DownloadError> {
        let host = format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default());
        let places = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = known.entry(host.clone()).or_insert_with(|| Known {
                places: Arc::new(Semaphore::new(self.at_once)),
                failed: HashSet::new(),
                rests_until: None,
            });
            match entry.rests_until {
                Some(until) if Instant::now() < until => return Err(DownloadError::Rests(host)),
                Some(_) => entry.rests_until = Some(Instant::now() + self.rest),
                None => {}
            }
            Arc::clone(&entry.places)
        };
        // Nobody closes it.
        let place = places.acquire_owned().await.map_err(|_| DownloadError::Rests(host.clone()))?;
        Ok(Visit { hosts: self, host, path: url.path().to_owned(), _place: place })
    }
}

impl Visit<'_> {
    /// Notes how it went and gives that on.
    pub(crate) fn ended<T>(self, outcome: Result<T, CacheError>) -> Result<T, CacheError> {
        let mut known = self.hosts.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = known.get_mut(&self.host) else { return outcome };
        if outcome.as_ref().is_err_and(is_down) {
            entry.failed.insert(self.path);
            if entry.failed.len() >= FAILURES {
                tracing::warn!(host = self.host, "a registry failed to give {FAILURES} things in a row and is left alone for a while");
                entry.rests_until = Some(Instant::now() + self.hosts.rest);
            }
        } else {
            entry.failed.clear();
            entry.rests_until = None;
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_host_that_fails_rests_and_is_tried_by_one() {
        let (hosts, url): (_, Url) = (Hosts { rest: Duration::from_millis(200), ..Hosts::new(2) }, "https://a.example/x".parse().unwrap());
        let fail = async |path: usize| {
            let visit = hosts.enter(&url.join(&format!("/{path}")).unwrap()).await?;
            let failed: Result<(), CacheError> = Err(DownloadError::Unreachable("gone".into()).into());
            visit.ended(failed).ok();
            Ok::<_, DownloadError>(())
        };
        for _ in 0..2 * FAILURES {
            fail(0).await.unwrap();
        }
        for path in 1..FAILURES {
            fail(path).await.unwrap();
        }
        assert!(matches!(hosts.enter(&url).await, Err(DownloadError::Rests(_))));
        assert!(hosts.enter(&"https://b.example/".parse().unwrap()).await.is_ok(), "another host is another matter");
        tokio::time::sleep(hosts.rest).await;
        let one = hosts.enter(&url).await.unwrap();
        assert!(hosts.enter(&url).await.is_err(), "one tries, the others wait for what it finds");
        one.ended(Ok(())).unwrap();
        let (_first, _second) = (hosts.enter(&url).await.unwrap(), hosts.enter(&url).await.unwrap());
        assert!(tokio::time::timeout(Duration::from_millis(100), hosts.enter(&url)).await.is_err(), "two at once, not three");
    }
}
