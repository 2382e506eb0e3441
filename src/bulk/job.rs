//! An operation at work.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use jobs::{Context, Ended, Failure, Handler, JobStatus, LogLevel, Outcome, Policy, Progress, Retry};
use platform::{Actor, Coded, clock, database::DbError, public_message};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use tokio::{task::JoinSet, time::MissedTickBehavior};

use crate::{
    Bulk,
    error::BulkError,
    model::{Acted, Before, BulkId, BulkOperation, Direction, Item, ItemStatus, Status},
    plan,
    store::{self, Came},
};

/// How often progress is told at most.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// The job of an operation.
pub(crate) struct BulkJob {
    pub(crate) bulk: Bulk,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Payload {
    pub(crate) bulk: BulkId,
    /// Which of the jobs that the operation was given.
    pub(crate) generation: i32,
}

impl Handler for BulkJob {
    const KIND: &'static str = "bulk";
    type Payload = Payload;

    fn policy(&self) -> Policy {
        Policy { limit: 32, waits_for_others: true, ..Policy::default() }
    }

    async fn run(&self, context: Context, payload: Payload) -> Result<Outcome, Failure> {
        let attempt = Attempt { bulk: self.bulk.clone(), context, id: payload.bulk, is_further: Arc::default() };
        attempt.go(payload.generation).await.map_err(|error| match error {
            BulkError::Database(error) => error.into(),
            // A restart of the database is nobody's failure.
            error if error.code() == "database_unavailable" => Failure::passing(&error),
            error => Failure::last(&error),
        })
    }

    async fn ended(&self, connection: &mut PgConnection, payload: Payload, ended: &Ended) -> Result<(), DbError> {
        if ended.status == JobStatus::Pending {
            return Ok(());
        }
        let id = payload.bulk;
        let Some(held) = store::hold(connection, id).await?.filter(|held| held.is_worked_on_by(payload.generation)) else { return Ok(()) };
        let (was_cancelled, is_forward) = (ended.status == JobStatus::Cancelled, held.direction == Direction::Forward);
        if is_forward {
            let error = ended.error.as_ref().map(|error| (error["code"].as_str(), error["message"].as_str()));
            let error = error.and_then(|(code, message)| code.zip(message));
            let left = if was_cancelled { ItemStatus::Cancelled } else { ItemStatus::Failed };
            store::turn_items(connection, id, &[ItemStatus::Pending], left, error).await?;
            let half = ("interrupted", "it was worked on when the operation ended: it may be half done");
            store::turn_items(connection, id, &[ItemStatus::Running], ItemStatus::Failed, Some(half)).await?;
        }
        let Some(mut held) = store::hold(connection, id).await? else { return Ok(()) };
        let is_half_way_back = !is_forward && held.counts.done > 0;
        held.status = if was_cancelled && is_half_way_back { Status::Cancelled } else { held.counts.status(held.direction) };
        store::set(connection, id, held.status, held.direction, Some(clock::now())).await?;
        match self.bulk.tell_in(connection, &held).await {
            Err(BulkError::Database(error)) => Err(error),
            _ => Ok(()),
        }
    }
}

/// One attempt at an operation: the first, or the one that goes on after a restart.
#[derive(Clone)]
struct Attempt {
    bulk: Bulk,
    context: Context,
    id: BulkId,
    /// Whether earlier interruptions count no more: it has come further than the attempt before.
    is_further: Arc<AtomicBool>,
}

impl Attempt {
    async fn go(&self, generation: i32) -> Result<Outcome, BulkError> {
        let nothing = Ok(Outcome::Complete(serde_json::Value::Null));
        // Another job has it by now, or it has ended: somebody put this one back.
        if !self.now().await?.is_some_and(|held| held.is_worked_on_by(generation)) {
            return nothing;
        }
        let Some(held) = self.set(Status::Running, None).await? else { return nothing };
        let mut direction = held.direction;
        if direction == Direction::Forward {
            let is_whole = self.each(&held, Direction::Forward).await?;
            if self.context.is_stopping() {
                return Ok(Outcome::Stopped);
            }
            if held.atomic && !is_whole {
                self.context.log(LogLevel::Warn, "a server failed, and all or nothing was asked for: what was done is undone").await;
                direction = Direction::Back;
                self.set(Status::Running, Some(direction)).await?;
            }
        }
        if direction == Direction::Back {
            self.each(&held, Direction::Back).await?;
            if self.context.is_stopping() {
                return Ok(Outcome::Stopped);
            }
        }
        let counts = self.now().await?.map(|operation| operation.counts);
        Ok(Outcome::Complete(serde_json::json!({ "bulk_id": self.id, "counts": counts })))
    }

    async fn now(&self) -> Result<Option<BulkOperation>, BulkError> {
        let mut transaction = self.bulk.inner.database.begin_for_all().await?;
        Ok(store::hold(&mut transaction, self.id).await?)
    }

    async fn set(&self, status: Status, direction: Option<Direction>) -> Result<Option<BulkOperation>, BulkError> {
        let mut transaction = self.bulk.inner.database.begin_for_all().await?;
        let Some(mut held) = store::hold(&mut transaction, self.id).await? else { return Ok(None) };
        (held.status, held.direction) = (status, direction.unwrap_or(held.direction));
        if direction == Some(Direction::Back) {
            // What was not begun is not any more.
            store::turn_items(&mut transaction, self.id, &[ItemStatus::Pending], ItemStatus::Cancelled, None).await?;
        }
        store::set(&mut transaction, self.id, held.status, held.direction, None).await?;
        self.bulk.tell_in(&mut transaction, &held).await?;
        transaction.commit().await?;
        Ok(Some(held))
    }

    /// Works on each server that is left, some at once; gives whether none failed.
    async fn each(&self, operation: &BulkOperation, direction: Direction) -> Result<bool, BulkError> {
        let items = store::items(&mut *self.bulk.inner.database.for_all().await?, self.id).await?;
        let (total, mut is_whole) = (items.len(), !items.iter().any(|item| item.status == ItemStatus::Failed));
        let is_left = |item: &Item| match direction {
            Direction::Forward => matches!(item.status, ItemStatus::Pending | ItemStatus::Running),
            // What failed may have been begun: of all or nothing, that goes back, too.
            Direction::Back => {
                item.status == ItemStatus::Done || (operation.atomic && item.status == ItemStatus::Failed && item.before.is_some())
            }
        };
        let mut left: VecDeque<Item> = items.into_iter().filter(is_left).collect();
        match direction {
            // What an earlier attempt was at comes first, and is finished whatever became of the others.
            Direction::Forward => left.make_contiguous().sort_by_key(|item| item.status != ItemStatus::Running),
            Direction::Back => left.make_contiguous().reverse(),
        }
        let config = self.bulk.inner.config;
        let mut pace = tokio::time::interval(Duration::from_secs(1) / config.per_second);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Tasks of their own: what holds a lock goes on while this waits for another one.
        let (mut at_work, mut told, operation) = (JoinSet::new(), Instant::now(), Arc::new(operation.clone()));
        loop {
            let goes_on = |item: &Item| is_whole || !operation.atomic || direction == Direction::Back || item.status == ItemStatus::Running;
            let may_begin = !self.context.is_stopping() && at_work.len() < config.at_once as usize && left.front().is_some_and(goes_on);
            tokio::select! {
                Some(ended) = at_work.join_next() => {
                    is_whole &= ended.map_err(|panic| BulkError::Ended("internal".into(), panic.to_string()))?? != ItemStatus::Failed;
                    self.tell(&operation, total - left.len() - at_work.len(), total, &mut told).await?;
                }
                _ = pace.tick(), if may_begin => if let Some(item) = left.pop_front() {
                    at_work.spawn(self.clone().one(Arc::clone(&operation), direction, item));
                },
                // What is at work is looked at again by the next attempt.
                () = self.given_back(), if !at_work.is_empty() => return Ok(is_whole),
                else => return Ok(is_whole),
            }
        }
    }

    /// Ready when the program stops or the lease is lost; a cancelled operation finishes what it is at.
    async fn given_back(&self) {
        self.context.stopping().await;
        if self.context.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }

    async fn tell(&self, operation: &BulkOperation, done: usize, total: usize, told: &mut Instant) -> Result<(), BulkError> {
        let message = operation.operation.as_str().to_owned();
        self.context.progress(Progress { done: done as u64, total: Some(total as u64), unit: "servers".into(), message });
        if told.elapsed() < TELL_EVERY {
            return Ok(());
        }
        *told = Instant::now();
        let mut transaction = self.bulk.inner.database.begin_for_all().await?;
        if let Some(now) = store::hold(&mut transaction, self.id).await? {
            self.bulk.tell_in(&mut transaction, &now).await?;
        }
        Ok(transaction.commit().await?)
    }

    async fn one(self, operation: Arc<BulkOperation>, direction: Direction, item: Item) -> Result<ItemStatus, BulkError> {
        let place = (self.id, item.n);
        let came = self.come_to(&operation, direction, &item).await;
        let came = match came {
            // What failed stays told as it failed, though it is undone.
            Ok((ItemStatus::RolledBack | ItemStatus::Kept, _)) if item.status == ItemStatus::Failed => return Ok(item.status),
            Ok((status, result)) => Came { status, error: None, result },
            // Nothing is known of what it came to: it is looked at again when the database is back.
            Err(error) if error.code() == "database_unavailable" => return Err(error),
            Err(error) => {
                if error.class() == platform::Class::Internal {
                    tracing::error!(%error, server = item.server_id, "an operation over many servers met an error");
                }
                let status = if direction == Direction::Forward { ItemStatus::Failed } else { item.status };
                Came { status, error: Some((error.shown_code(), public_message(&error))), result: None }
            }
        };
        let mut connection = self.bulk.inner.database.for_all().await?;
        require_hold(store::end_item(&mut connection, self.context.hold(), place, &came, clock::now()).await?)?;
        if !self.is_further.load(Ordering::Relaxed) {
            self.context.checkpoint_in(&mut connection).await.map_err(superseded)?;
            self.is_further.store(true, Ordering::Relaxed);
        }
        drop(connection);
        if let Some((_, message)) = &came.error {
            self.context.log(LogLevel::Warn, format!("{}: {message}", item.server_id)).await;
        }
        Ok(came.status)
    }

    /// Acts as whoever asked, with the rights that they have now.
    async fn come_to(
        &self,
        operation: &BulkOperation,
        direction: Direction,
        item: &Item,
    ) -> Result<(ItemStatus, Option<serde_json::Value>), BulkError> {
        let actor = self.bulk.inner.users.asker(&operation.asker).await?.ok_or(BulkError::AskerGone)?;
        match direction {
            Direction::Forward => self.forward(&actor, operation, item).await,
            Direction::Back => Ok((self.bulk.undo(&actor, operation.operation, item).await?, None)),
        }
    }

    async fn forward(
        &self,
        actor: &Actor,
        operation: &BulkOperation,
        item: &Item,
    ) -> Result<(ItemStatus, Option<serde_json::Value>), BulkError> {
        let now = self.bulk.look(actor, &item.server_id).await?;
        let mut before: Before = item.before.clone().unwrap_or_else(|| now.clone());
        let revision = |at: &Before| at.configuration.as_ref().map(|own| own.revision);
        let is_there = Bulk::outcome(operation.operation, &now, item.wanted.as_ref()) == plan::Outcome::Unchanged;
        // It was tried before, and somebody wants something else since: that is what it goes back to.
        if item.wanted.is_some() && !is_there && revision(&before) != revision(&now) {
            before = now.clone();
        }
        let mut connection = self.bulk.inner.database.for_all().await?;
        let begun = store::begin_item(&mut connection, self.context.hold(), (self.id, item.n), &before, clock::now()).await?;
        drop(connection);
        require_hold(begun)?;
        match self.bulk.act(actor, operation.operation, (&item.server_id, item.wanted.as_ref()), (&before, &now)).await? {
            Acted::Done(result) => Ok((ItemStatus::Done, Some(result))),
            Acted::Unchanged => Ok((ItemStatus::Unchanged, None)),
        }
    }
}

/// Nothing is written once another worker has taken the job over.
fn require_hold(is_held: bool) -> Result<(), BulkError> {
    if is_held { Ok(()) } else { Err(superseded(Failure::lease_lost())) }
}

fn superseded(failure: Failure) -> BulkError {
    match failure.retry {
        Retry::Never => BulkError::Ended(failure.code.into(), failure.message),
        Retry::Backoff | Retry::At(_) => BulkError::Database(DbError::Unavailable(sqlx::Error::PoolClosed)),
    }
}
