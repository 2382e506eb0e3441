//! Events that nobody waits for: refusals, and what came of intents.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use platform::{Actor, Shutdown, clock};
use tokio::sync::mpsc;

use crate::{
    Audit,
    model::{EventType, NewEvent, Outcome},
    service::Written,
    store,
};

/// How many may wait; a flood of refusals beyond that is counted.
pub(crate) const WAITING: usize = 8192;
const BATCH: usize = 512;
const RETRY: Duration = Duration::from_secs(1);

/// How long promised events are gathered, so that one write takes many; they are on disk within a quarter of a second.
pub(crate) const GATHER: Duration = Duration::from_millis(100);
/// For how long promises are taken while nothing can be written.
const STALE_MILLIS: i64 = 2000;

/// Since when nothing could be written, in milliseconds since the epoch; 0 when all is well.
#[derive(Default)]
pub(crate) struct Behind(AtomicI64);

impl Behind {
    fn begin(&self) {
        self.0.compare_exchange(0, clock::now().timestamp_millis(), Ordering::Relaxed, Ordering::Relaxed).ok();
    }

    fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    pub(crate) fn is_stale(&self) -> bool {
        let since = self.0.load(Ordering::Relaxed);
        since != 0 && clock::now().timestamp_millis() - since > STALE_MILLIS
    }
}

/// Writes what comes through one queue; waits that long for more after the first.
pub(crate) async fn run(audit: Audit, mut notes: mpsc::Receiver<Written>, gather: Duration, shutdown: Shutdown) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            received = notes.recv_many(&mut batch, BATCH) => {
                if received == 0 {
                    return;
                }
                if !gather.is_zero() && received < BATCH {
                    gather_more(&mut notes, &mut batch, gather, &shutdown).await;
                }
            }
            () = shutdown.begun() => {
                notes.close();
                while notes.recv_many(&mut batch, BATCH).await > 0 {
                    write(&audit, &mut batch, &shutdown).await;
                }
                return;
            }
        }
        say_unsaid(&audit, &mut batch);
        write(&audit, &mut batch, &shutdown).await;
    }
}

async fn gather_more(notes: &mut mpsc::Receiver<Written>, batch: &mut Vec<Written>, gather: Duration, shutdown: &Shutdown) {
    tokio::select! {
        () = tokio::time::sleep(gather) => {}
        () = shutdown.begun() => {}
    }
    while batch.len() < BATCH
        && let Ok(written) = notes.try_recv()
    {
        batch.push(written);
    }
}

/// Tries until it is written; at the end of the program, once.
async fn write(audit: &Audit, batch: &mut Vec<Written>, shutdown: &Shutdown) {
    let mut events = Vec::with_capacity(batch.len());
    let (mut pii, mut macs) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
    for written in batch.drain(..) {
        events.push(written.event);
        pii.push(written.pii);
        macs.push(written.mac.to_vec());
    }
    audit.inner.behind.begin();
    while let Err(error) = store::put_all(audit.inner.database.audit(), &events, &pii, &macs).await {
        tracing::warn!(%error, events = events.len(), "the audit trail cannot be written; trying again");
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = shutdown.begun() => return,
        }
    }
    audit.inner.behind.end();
    audit.inner.sealer.wake();
}

/// One event for all that found the queue full.
fn say_unsaid(audit: &Audit, batch: &mut Vec<Written>) {
    let Ok(mut unsaid) = audit.inner.unsaid.lock() else { return };
    for (action, count) in std::mem::take(&mut *unsaid) {
        let event = NewEvent::new(EventType::Warning, "audit.flood")
            .outcome(Outcome::Failure)
            .with("action", action)
            .with("not_recorded_singly", count);
        batch.push(audit.write(&Actor::system("audit"), event).1);
    }
}
