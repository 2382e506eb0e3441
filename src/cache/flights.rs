//! One piece of work for any number of simultaneous askers, who all hear how it ended. It goes on when
//! they go away.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use platform::Shutdown;
use tokio::sync::watch;

/// Work that is under way, by what it is for.
pub(crate) struct Flights<K, T> {
    running: Arc<Mutex<HashMap<K, watch::Receiver<Option<T>>>>>,
    shutdown: Shutdown,
}

/// The work ended without saying how: the program stops, or made a mistake.
#[derive(Debug)]
pub(crate) struct Lost;

impl<K: Clone + Eq + Hash + Send + 'static, T: Clone + Send + Sync + 'static> Flights<K, T> {
    pub(crate) fn new(shutdown: Shutdown) -> Self {
        Self { running: Arc::default(), shutdown }
    }

    /// Joins the work for `key`, or starts it. Gives how it ended, and whether it was joined.
    pub(crate) async fn join_or_start<F>(&self, key: K, work: impl FnOnce() -> F) -> (Result<T, Lost>, bool)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (mut landed, joined) = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(landed) = running.get(&key) {
                (landed.clone(), true)
            } else {
                let (land, landed) = watch::channel(None);
                running.insert(key.clone(), landed.clone());
                let (entry, work) = (Entry { running: Arc::clone(&self.running), key }, work());
                self.shutdown.spawn(async move {
                    let entry = entry;
                    let outcome = work.await;
                    // Whoever asks from now on starts anew, and finds what this work left.
                    drop(entry);
                    land.send_replace(Some(outcome));
                });
                (landed, false)
            }
        };
        let outcome = landed.wait_for(Option::is_some).await.map(|outcome| outcome.clone());
        (outcome.ok().flatten().ok_or(Lost), joined)
    }
}

/// Taken out however the work ends.
struct Entry<K: Eq + Hash, T> {
    running: Arc<Mutex<HashMap<K, watch::Receiver<Option<T>>>>>,
    key: K,
}

impl<K: Eq + Hash, T> Drop for Entry<K, T> {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };

    use super::*;

    #[tokio::test]
    async fn many_askers_start_one_piece_of_work_and_all_hear_its_end() {
        let flights = Arc::new(Flights::<u32, Result<u32, u32>>::new(Shutdown::default()));
        let started = Arc::new(AtomicU32::new(0));
        let ask = || {
            let (flights, started) = (Arc::clone(&flights), Arc::clone(&started));
            async move {
                let work = || async move {
                    started.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Err(7)
                };
                flights.join_or_start(1, work).await.0.unwrap()
            }
        };
        // The first asker goes away; the work does not.
        tokio::time::timeout(Duration::from_millis(10), ask()).await.unwrap_err();
        let ends = futures_util::future::join_all((0..20).map(|_| ask())).await;
        assert_eq!((ends, started.load(Ordering::SeqCst)), (vec![Err(7); 20], 1));
        ask().await.unwrap_err();
        assert_eq!(started.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn work_that_panics_leaves_nobody_waiting() {
        let flights = Flights::<u32, u32>::new(Shutdown::default());
        let (ended, _) = flights.join_or_start(1, || async { panic!("as planned") }).await;
        assert!(ended.is_err());
        assert_eq!(flights.join_or_start(1, || async { 5 }).await.0.unwrap(), 5);
    }
}
