//! An operation at work.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use jobs::{Context, Ended, Failure, Handler, JobStatus, LogLevel, Outcome, Policy, Progress, Retry};
use platform::{Actor, Coded, clock, database::DbError, public_message};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::{
    Bulk,
    error::BulkError,
    model::{Acted, Before, BulkId, BulkOperation, Direction, Item, ItemStatus, Status},
    store,
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
}

impl Handler for BulkJob {
    const KIND: &'static str = "bulk";
    type Payload = Payload;

    fn policy(&self) -> Policy {
        Policy { limit: 4, ..Policy::default() }
    }

    async fn run(&self, context: Context, payload: Payload) -> Result<Outcome, Failure> {
        let attempt = Attempt { bulk: &self.bulk, context: &context, id: payload.bulk };
        attempt.go().await.map_err(|error| match error {
            BulkError::Database(error) => error.into(),
            error => Failure::last(&error),
        })
    }

    async fn ended(&self, connection: &mut PgConnection, payload: Payload, ended: &Ended) -> Result<(), DbError> {
        if ended.status == JobStatus::Pending {
            return Ok(());
        }
        let id = payload.bulk;
        // What was at work may be half done: it failed, and can be tried again.
        let left = if ended.status == JobStatus::Cancelled { ItemStatus::Cancelled } else { ItemStatus::Failed };
        let Some(held) = store::hold(connection, id).await? else { return Ok(()) };
        if held.direction == Direction::Forward {
            store::turn_items(connection, id, &[ItemStatus::Pending, ItemStatus::Running], left).await?;
        }
        let Some(mut held) = store::hold(connection, id).await? else { return Ok(()) };
        held.status = held.counts.status(held.direction);
        store::set(connection, id, held.status, held.direction, None, Some(clock::now())).await?;
        match self.bulk.tell_in(connection, &held).await {
            Err(BulkError::Database(error)) => Err(error),
            _ => Ok(()),
        }
    }
}

/// One attempt at an operation: the first, or the one that goes on after a restart.
struct Attempt<'a> {
    bulk: &'a Bulk,
    context: &'a Context,
    id: BulkId,
}

impl Attempt<'_> {
    async fn go(&self) -> Result<Outcome, BulkError> {
        let held = self.set(Status::Running, None).await?;
        let Some(held) = held else { return Ok(Outcome::Complete(serde_json::Value::Null)) };
        let actor = self.bulk.inner.users.asker(&held.asker).await?.ok_or(BulkError::AskerGone)?;
        let mut direction = held.direction;
        if direction == Direction::Forward {
            let is_whole = self.each(&actor, &held, Direction::Forward).await?;
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
            self.each(&actor, &held, Direction::Back).await?;
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
        store::set(&mut transaction, self.id, held.status, held.direction, None, None).await?;
        self.bulk.tell_in(&mut transaction, &held).await?;
        transaction.commit().await?;
        Ok(Some(held))
    }

    /// Works on each server that is left, some at once; gives whether none failed.
    async fn each(&self, actor: &Actor, operation: &BulkOperation, direction: Direction) -> Result<bool, BulkError> {
        let mut transaction = self.bulk.inner.database.begin_for_all().await?;
        let items = store::items(&mut transaction, self.id).await?;
        transaction.commit().await?;
        let (total, mut is_whole) = (items.len(), !items.iter().any(|item| item.status == ItemStatus::Failed));
        let is_left = |item: &Item| match direction {
            Direction::Forward => matches!(item.status, ItemStatus::Pending | ItemStatus::Running),
            Direction::Back => item.status == ItemStatus::Done,
        };
        let mut left: VecDeque<Item> = items.into_iter().filter(is_left).collect();
        if direction == Direction::Back {
            left = left.into_iter().rev().collect();
        }
        let mut pace = tokio::time::interval(Duration::from_secs(1) / self.bulk.inner.config.per_second);
        let (mut at_work, mut told) = (FuturesUnordered::new(), Instant::now());
        loop {
            let may_begin = !self.context.is_stopping() && (is_whole || !operation.atomic || direction == Direction::Back);
            if may_begin && at_work.len() < self.bulk.inner.config.at_once as usize && !left.is_empty() {
                tokio::select! {
                    _ = pace.tick() => at_work.extend(left.pop_front().map(|item| self.one(actor, operation, direction, item))),
                    () = self.context.stopping() => {}
                }
                continue;
            }
            let ended = tokio::select! {
                ended = at_work.next() => ended,
                // What is at work is looked at again by the next attempt.
                () = self.given_back() => return Ok(is_whole),
            };
            let Some(ended) = ended else { break };
            is_whole &= ended? != ItemStatus::Failed;
            self.tell(operation, total - left.len() - at_work.len(), total, &mut told).await?;
        }
        Ok(is_whole)
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

    async fn one(&self, actor: &Actor, operation: &BulkOperation, direction: Direction, item: Item) -> Result<ItemStatus, BulkError> {
        let place = (self.id, item.n);
        let came = match direction {
            Direction::Forward => self.forward(actor, operation, &item).await,
            Direction::Back => self.bulk.undo(actor, operation.operation, &item).await.map(|status| (status, None)),
        };
        let (status, error, result) = match came {
            Ok((status, result)) => (status, None, result),
            // Nothing is known of what it came to: it is looked at again when the database is back.
            Err(BulkError::Database(error @ DbError::Unavailable(_))) => return Err(error.into()),
            Err(error) => {
                let status = if direction == Direction::Forward { ItemStatus::Failed } else { ItemStatus::Kept };
                if error.class() == platform::Class::Internal {
                    tracing::error!(%error, server = item.server_id, "an operation over many servers met an error");
                }
                (status, Some((error.shown_code(), public_message(&error))), None)
            }
        };
        let mut transaction = self.bulk.inner.database.begin_for_all().await?;
        self.checkpoint(&mut transaction).await?;
        store::end_item(&mut transaction, place, status, error.as_ref(), result.as_ref(), clock::now()).await?;
        transaction.commit().await?;
        if let Some((_, message)) = &error {
            self.context.log(LogLevel::Warn, format!("{}: {message}", item.server_id)).await;
        }
        Ok(status)
    }

    async fn forward(
        &self,
        actor: &Actor,
        operation: &BulkOperation,
        item: &Item,
    ) -> Result<(ItemStatus, Option<serde_json::Value>), BulkError> {
        let now = self.bulk.look(actor, &item.server_id).await?;
        let before: Before = item.before.clone().unwrap_or_else(|| now.clone());
        let mut transaction = self.bulk.inner.database.begin_for_all().await?;
        self.checkpoint(&mut transaction).await?;
        store::begin_item(&mut transaction, (self.id, item.n), &before, clock::now()).await?;
        transaction.commit().await?;
        match self.bulk.act(actor, operation.operation, &item.server_id, (&before, &now)).await? {
            Acted::Done(result) => Ok((ItemStatus::Done, Some(result))),
            Acted::Unchanged => Ok((ItemStatus::Unchanged, None)),
        }
    }

    /// Nothing is written once another worker has taken the job over.
    async fn checkpoint(&self, transaction: &mut PgConnection) -> Result<(), BulkError> {
        self.context.checkpoint_in(transaction).await.map_err(|failure: Failure| match failure.retry {
            Retry::Never => BulkError::Ended(failure.code.into(), failure.message),
            Retry::Backoff | Retry::At(_) => BulkError::Database(DbError::Unavailable(sqlx::Error::PoolClosed)),
        })
    }
}
