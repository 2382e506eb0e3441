//! Whole days go when they are old enough, or when the trail is larger than it may be.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use platform::{Actor, Shutdown, clock, database::DbError};
use sqlx::Connection as _;
use tokio::time::sleep;

use crate::{
    Audit, AuditError, checkpoint,
    model::{EventType, NewEvent, Outcome},
    sealer::is_ours,
    store::{
        self,
        upkeep::{self, Day},
    },
};

/// How often it is looked whether a day may go; the days themselves decide that it is one a day.
const LOOK: Duration = Duration::from_mins(10);
/// Nothing is heard of an intent any more.
const INTENT_LIMIT: TimeDelta = TimeDelta::seconds(90);
/// From this share of the allowed size, in percent, a warning is recorded each day.
const WARN_AT: u64 = 80;

pub(crate) async fn run(audit: Audit, shutdown: Shutdown) {
    let mut warned: Option<NaiveDate> = None;
    loop {
        for done in [clean(&audit, &mut warned).await, time_out(&audit).await] {
            if let Err(error) = done {
                tracing::warn!(%error, "the upkeep of the audit trail did not work; it is tried again");
            }
        }
        tokio::select! {
            () = sleep(LOOK) => {}
            () = shutdown.begun() => return,
        }
    }
}

/// Why a day goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Age,
    Size,
}

/// Whether everything of `day` is older than `retention` at `now`.
fn is_over(day: NaiveDate, retention: TimeDelta, now: DateTime<Utc>) -> bool {
    day.succ_opt()
        .and_then(|next| next.and_hms_opt(0, 0, 0))
        .and_then(|end| end.and_utc().checked_add_signed(retention))
        .is_some_and(|end| end <= now)
}

/// The oldest day and why it goes, if one does; never the last one.
fn next_to_go(days: &[Day], retention: TimeDelta, max_bytes: u64, now: DateTime<Utc>) -> Option<(NaiveDate, Reason)> {
    let [oldest, _, ..] = days else { return None };
    if is_over(oldest.day, retention, now) {
        return Some((oldest.day, Reason::Age));
    }
    (max_bytes > 0 && size(days) > max_bytes).then_some((oldest.day, Reason::Size))
}

fn size(days: &[Day]) -> u64 {
    days.iter().map(|day| u64::try_from(day.bytes).unwrap_or(0)).sum()
}

async fn clean(audit: &Audit, warned: &mut Option<NaiveDate>) -> Result<(), AuditError> {
    let retention = TimeDelta::from_std(audit.inner.retention).unwrap_or(TimeDelta::MAX);
    loop {
        let days = upkeep::days(audit.inner.database.audit()).await?;
        // A clock that runs ahead must not take the trail with it.
        let mut connection = audit.inner.database.audit().acquire().await?;
        let now = upkeep::database_time(&mut connection).await?.min(clock::now());
        drop(connection);
        let share = size(&days) * 100 / audit.inner.max_bytes.max(1);
        if audit.inner.max_bytes > 0 && share >= WARN_AT && warned.is_none_or(|day| day < now.date_naive()) {
            *warned = Some(now.date_naive());
            tracing::warn!(percent = share, "the audit trail is nearly as large as FABRIC_AUDIT_MAX_MB allows; its oldest days go at 100");
            let event = NewEvent::new(EventType::Warning, "audit.size").outcome(Outcome::Success).with("percent", share);
            audit.record(&Actor::system("audit"), event).await?;
        }
        let Some((day, reason)) = next_to_go(&days, retention, audit.inner.max_bytes, now) else { return Ok(()) };
        if !purge(audit, day, reason).await? {
            return Ok(());
        }
    }
}

/// Signs that the day goes, and then lets it go. A crash between the two is made good by the next look.
async fn purge(audit: &Audit, day: NaiveDate, reason: Reason) -> Result<bool, AuditError> {
    let mut connection = audit.inner.database.audit().acquire().await?;
    let mut transaction = connection.begin().await?;
    if !upkeep::lock_upkeep(&mut transaction).await? {
        return Ok(false);
    }
    // Readers of the whole trail keep a day from going; nobody else is to wait for them because of us.
    upkeep::limit_waiting(&mut transaction).await?;
    let end = upkeep::end_of(&mut transaction, day).await?;
    if let Some((seq, hash, _)) = end {
        let covered = upkeep::last_checkpoint(&mut transaction).await?.and_then(|last| last.purged_to).is_some_and(|to| to >= seq);
        if !covered {
            let Some(head) = store::chain::lock_head(&mut transaction).await?.filter(|head| is_ours(&audit.inner.keys, head)) else {
                return Ok(false);
            };
            checkpoint::write(&mut transaction, &audit.inner.keys, &head, Some((seq, hash))).await?;
        }
    }
    match upkeep::drop_day(&mut transaction, day).await {
        Ok(true) => {}
        // Somebody reads it; or it is gone already.
        Ok(false) | Err(DbError::Timeout(_)) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    let (to_seq, events) = end.map_or((0, 0), |(seq, _, count)| (seq, count));
    let event = NewEvent::new(EventType::System, "audit.purge")
        .with("day", day.to_string())
        .with("events", events)
        .with("to_seq", to_seq)
        .with("because", if reason == Reason::Age { "age" } else { "size" });
    audit.record_in(&mut transaction, &Actor::system("audit"), event).await?;
    transaction.commit().await?;
    tracing::info!(%day, events, "a day of the audit trail was purged");
    Ok(true)
}

/// Intents that nothing answered are said to have timed out: the program died, or the database did.
async fn time_out(audit: &Audit) -> Result<(), AuditError> {
    let mut connection = audit.inner.database.audit().acquire().await?;
    let mut transaction = connection.begin().await?;
    if !upkeep::lock_upkeep(&mut transaction).await? {
        return Ok(());
    }
    let unanswered = upkeep::unanswered(&mut transaction, clock::now() - INTENT_LIMIT).await?;
    for (intent, owner, action, server) in unanswered {
        let mut event =
            NewEvent::new(EventType::System, "audit.timeout").outcome(Outcome::Timeout).of(owner).answers(intent).with("of", action);
        event.server_id = server;
        audit.record_in(&mut transaction, &Actor::system("audit"), event).await?;
    }
    transaction.commit().await.map_err(DbError::from)?;
    // Before the next look, so that none is told twice.
    audit.seal().await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_day_goes_when_its_last_moment_is_old_enough() {
        let day = "2026-01-01".parse().unwrap();
        let retention = TimeDelta::days(30);
        assert!(!is_over(day, retention, at("2026-01-31T23:59:59.999999Z")));
        assert!(is_over(day, retention, at("2026-02-01T00:00:00Z")));
        assert!(!is_over(day, retention, at("2025-12-31T00:00:00Z")), "a clock that was set back");
    }

    #[test]
    fn the_oldest_day_goes_first_and_the_last_one_stays() {
        let days = |sizes: &[i64]| -> Vec<Day> {
            let first: NaiveDate = "2026-01-01".parse().unwrap();
            sizes.iter().zip(first.iter_days()).map(|(bytes, day)| Day { day, bytes: *bytes }).collect()
        };
        let now = at("2026-01-03T12:00:00Z");
        assert_eq!(next_to_go(&days(&[5, 5, 5]), TimeDelta::days(30), 0, now), None);
        assert_eq!(next_to_go(&days(&[5, 5, 5]), TimeDelta::days(30), 15, now), None);
        let oldest = "2026-01-01".parse().unwrap();
        assert_eq!(next_to_go(&days(&[5, 5, 5]), TimeDelta::days(30), 14, now), Some((oldest, Reason::Size)));
        assert_eq!(next_to_go(&days(&[5, 5, 5]), TimeDelta::days(1), 0, now), Some((oldest, Reason::Age)));
        assert_eq!(next_to_go(&days(&[500]), TimeDelta::days(1), 1, now), None);
    }
}
