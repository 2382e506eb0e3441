//! Events that nobody waits for: refusals, and what came of intents.

use std::time::Duration;

use platform::{Actor, Shutdown};
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

pub(crate) async fn run(audit: Audit, mut notes: mpsc::Receiver<Written>, shutdown: Shutdown) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            received = notes.recv_many(&mut batch, BATCH) => if received == 0 { return },
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

/// Tries until it is written; at the end of the program, once.
async fn write(audit: &Audit, batch: &mut Vec<Written>, shutdown: &Shutdown) {
    let mut events = Vec::with_capacity(batch.len());
    let (mut pii, mut macs) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
    for written in batch.drain(..) {
        events.push(written.event);
        pii.push(written.pii);
        macs.push(written.mac.to_vec());
    }
    while let Err(error) = store::put_all(audit.inner.database.audit(), &events, &pii, &macs).await {
        tracing::warn!(%error, events = events.len(), "the audit trail cannot be written; trying again");
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = shutdown.begun() => return,
        }
    }
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
