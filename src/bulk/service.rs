use std::sync::Arc;

use audit::{Audit, EventType, NewEvent as Told};
use cache::Cache;
use chrono::TimeDelta;
use configurations::{Change, Configurations, Strategy, TemplateId};
use events::{Events, Kind, NewEvent};
use futures_util::{FutureExt as _, future::BoxFuture};
use jobs::{Handlers, Jobs, NewJob};
use packages::Packages;
use platform::{Action, Actor, Config, Database, clock, config::BulkConfig};
use runtime::Runtime;
use serde_json::{Map, Value, json};
use servers::Servers;
use sqlx::PgConnection;
use users::{Asker, Belongings, UserId, Users};

use crate::{
    error::BulkError,
    job::{BulkJob, Payload},
    model::{BulkId, BulkOperation, Counts, Direction, Item, ItemStatus, Operation, Status, Wanted},
    plan::{Outcome, Planned, Which},
    store,
};

/// The event that says how far an operation over many servers is.
pub static BULK_PROGRESS: Kind = Kind {
    name: "BULK_PROGRESS",
    channel: "bulk",
    told: "When an operation over many servers begins and ends, and while it runs, a few times a second at most.",
    heard_by: "Whoever asked for it, and the operator.",
    payload: &[
        ("bulkId", "the operation"),
        ("operation", "what is done: `enable`, `install`, …"),
        ("status", "where it stands: `pending`, `running`, `complete`, `partial`, `failed`, `cancelled`, `rolled_back`"),
        ("counts", "how many servers stand where: `{total, pending, running, done, unchanged, failed, cancelled, rolled_back, kept}`"),
    ],
};

/// How long operations are remembered that have ended.
const KEPT: TimeDelta = TimeDelta::days(30);

/// What it works with.
#[expect(missing_docs, reason = "they are the services of these names")]
pub struct Neighbours {
    pub database: Database,
    pub audit: Audit,
    pub events: Events,
    pub jobs: Jobs,
    pub users: Users,
    pub servers: Servers,
    pub cache: Cache,
    pub configurations: Configurations,
    pub packages: Packages,
    pub runtime: Runtime,
}

/// Many servers at once; cheap to clone.
#[derive(Clone)]
pub struct Bulk {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) database: Database,
    pub(crate) audit: Audit,
    pub(crate) events: Events,
    pub(crate) jobs: Jobs,
    pub(crate) users: Users,
    pub(crate) servers: Servers,
    pub(crate) cache: Cache,
    pub(crate) configurations: Configurations,
    pub(crate) packages: Packages,
    pub(crate) runtime: Runtime,
    pub(crate) config: BulkConfig,
}

/// Which servers somebody means.
pub(crate) enum Meant {
    Named(Vec<String>),
    Found(Which),
    /// What a file of configurations names.
    Filed(Map<String, Value>, Strategy),
}

/// What somebody asks for.
pub(crate) struct Order {
    pub(crate) operation: Operation,
    pub(crate) meant: Meant,
    /// Of a template that is applied.
    pub(crate) template: Option<TemplateId>,
    /// All or nothing.
    pub(crate) atomic: bool,
}

impl Order {
    /// Fails where something is given that is of another operation, or something is not given.
    fn check(&self) -> Result<(), BulkError> {
        if self.atomic && !self.operation.has_opposite() {
            return Err(BulkError::Irreversible(self.operation));
        }
        if self.template.is_some() != (self.operation == Operation::ApplyTemplate) {
            return Err(BulkError::field("body.template_id", "is what `apply_template` needs, and nothing else takes"));
        }
        if matches!(self.meant, Meant::Filed(..)) != (self.operation == Operation::Import) {
            return Err(BulkError::field("body.document", "is the file that `import` needs, in place of servers, and nothing else takes"));
        }
        Ok(())
    }
}

impl Bulk {
    /// The service.
    pub fn new(config: &Config, neighbours: Neighbours) -> Self {
        let Neighbours { database, audit, events, jobs, users, servers, cache, configurations, packages, runtime } = neighbours;
        let config = config.bulk;
        Self { inner: Arc::new(Inner { database, audit, events, jobs, users, servers, cache, configurations, packages, runtime, config }) }
    }

    /// What does the jobs.
    pub fn handlers(&self, handlers: Handlers) -> Handlers {
        handlers.with(BulkJob { bulk: self.clone() })
    }

    async fn servers_of(&self, actor: &Actor, order: Order) -> Result<Vec<Planned>, BulkError> {
        actor.require(order.operation.action())?;
        // Whoever asks is to follow what comes of it, and what it waits for.
        actor.require(Action::JobsRead)?;
        order.check()?;
        let ids = match order.meant {
            Meant::Named(named) => self.named(actor, order.operation, &named).await?,
            Meant::Found(which) => self.found(actor, order.operation, which).await?,
            Meant::Filed(file, strategy) => return self.filed(actor, file, strategy).await,
        };
        let wanted = match order.template {
            Some(template) => {
                let settings = self.inner.configurations.template(actor, template).await?.settings;
                self.inner.configurations.fit_all(actor, &ids, "body.template_id", &settings).await?;
                Some(Wanted::Settings(Box::new(settings)))
            }
            None => None,
        };
        Ok(ids.into_iter().map(|server_id| Planned { server_id, wanted: wanted.clone() }).collect())
    }

    /// The servers of a file, and what it wants of each.
    async fn filed(&self, actor: &Actor, file: Map<String, Value>, strategy: Strategy) -> Result<Vec<Planned>, BulkError> {
        let changes = self.inner.configurations.changes_of(actor, file, "body.document", strategy).await?;
        let wanted = |change: Option<Change>| change.map_or(Wanted::Archive, |change| Wanted::Settings(Box::new(change)));
        Ok(changes.into_iter().map(|(server_id, change)| Planned { server_id, wanted: Some(wanted(change)) }).collect())
    }

    /// What would be done to each server, and nothing more.
    pub(crate) async fn rehearse(&self, actor: &Actor, order: Order) -> Result<Vec<(String, Outcome)>, BulkError> {
        let operation = order.operation;
        let servers = self.servers_of(actor, order).await?;
        let mut outcomes = Vec::with_capacity(servers.len());
        for server in servers {
            let outcome = Self::outcome(operation, &self.look(actor, &server.server_id).await?, server.wanted.as_ref());
            outcomes.push((server.server_id, outcome));
        }
        Ok(outcomes)
    }

    /// Asks for an operation.
    pub(crate) async fn begin(&self, actor: &Actor, order: Order) -> Result<BulkOperation, BulkError> {
        let (operation, atomic) = (order.operation, order.atomic);
        let servers = self.servers_of(actor, order).await?;
        let total = i64::try_from(servers.len()).unwrap_or(i64::MAX);
        let mut new = BulkOperation {
            id: BulkId::fresh(),
            asker: Asker::of(actor),
            operation,
            direction: Direction::Forward,
            atomic,
            status: Status::Pending,
            job: None,
            generation: 0,
            created_at: clock::now(),
            finished_at: None,
            counts: Counts { total, pending: total, ..Counts::default() },
        };
        let mut transaction = self.inner.database.begin(actor).await?;
        self.require_room(&mut transaction, &new.asker.owner).await?;
        store::prune(&mut transaction, &new.asker.owner, clock::now() - KEPT).await?;
        store::create(&mut transaction, &new, &servers).await?;
        self.enqueue_in(&mut transaction, actor, &mut new, "bulk.begin").await?;
        transaction.commit().await?;
        Ok(new)
    }

    async fn require_room(&self, transaction: &mut PgConnection, owner: &str) -> Result<(), BulkError> {
        let unfinished = store::unfinished(transaction, owner).await?;
        if unfinished < i64::from(self.inner.config.unfinished) { Ok(()) } else { Err(BulkError::TooMany(unfinished)) }
    }

    /// Gives a job to an operation that waits, with its entry in the trail and its event.
    async fn enqueue_in(
        &self,
        transaction: &mut PgConnection,
        actor: &Actor,
        operation: &mut BulkOperation,
        action: &'static str,
    ) -> Result<(), BulkError> {
        let told = Told::new(EventType::BulkOperation, action).on("bulk_operation", operation.id);
        let told = told.with("operation", operation.operation.as_str()).with("servers", operation.counts.total);
        self.inner.audit.record_in(transaction, actor, told.of(&operation.asker.owner)).await?;
        operation.generation += 1;
        let payload = Payload { bulk: operation.id, generation: operation.generation };
        let job = NewJob::of::<BulkJob>(&payload).singleton(format!("bulk:{}", operation.id)).told();
        operation.job = Some(self.inner.jobs.enqueue_in(transaction, actor, job).await?);
        store::give(transaction, operation).await?;
        self.tell_in(transaction, operation).await
    }

    /// Tells of where an operation stands when the transaction commits.
    pub(crate) async fn tell_in(&self, transaction: &mut PgConnection, operation: &BulkOperation) -> Result<(), BulkError> {
        let payload = json!({
            "bulkId": operation.id, "operation": operation.operation, "status": operation.status, "counts": operation.counts,
        });
        let event = NewEvent::of(&operation.asker.owner, &BULK_PROGRESS, payload);
        Ok(self.inner.events.publish_in(transaction, event).await?)
    }

    /// The actor's own, newest first.
    pub(crate) async fn list(&self, actor: &Actor, before: Option<BulkId>, limit: u32) -> Result<Vec<BulkOperation>, BulkError> {
        actor.require(Action::JobsRead)?;
        let mut transaction = self.inner.database.begin(actor).await?;
        Ok(store::list(&mut transaction, &actor.to_string(), actor.servers(), (None, before), limit.into()).await?)
    }

    /// One of the actor's own, with its servers.
    pub(crate) async fn get(&self, actor: &Actor, id: BulkId) -> Result<(BulkOperation, Vec<Item>), BulkError> {
        actor.require(Action::JobsRead)?;
        let mut transaction = self.inner.database.begin(actor).await?;
        let found = store::list(&mut transaction, &actor.to_string(), actor.servers(), (Some(id), None), 1)
            .await?
            .pop()
            .ok_or(BulkError::NotFound)?;
        let items = store::items(&mut transaction, id).await?;
        Ok((found, items))
    }

    /// Stops an operation: what is done stays, what is worked on is finished, the rest is not begun.
    pub(crate) async fn cancel(&self, actor: &Actor, id: BulkId) -> Result<BulkOperation, BulkError> {
        actor.require(Action::JobsManage)?;
        let (found, _) = self.get(actor, id).await?;
        actor.require(found.operation.action())?;
        let job = found.job.filter(|_| !found.status.is_finished()).ok_or(BulkError::Finished)?;
        let told = Told::new(EventType::BulkOperation, "bulk.cancel").on("bulk_operation", id);
        self.inner.audit.record(actor, told.of(&found.asker.owner)).await?;
        self.inner.jobs.cancel(actor, job).await?;
        Ok(self.get(actor, id).await?.0)
    }

    /// Tries again what failed or was cancelled, with the rights of whoever asks for that.
    pub(crate) async fn retry(&self, actor: &Actor, id: BulkId) -> Result<BulkOperation, BulkError> {
        let again = [ItemStatus::Failed, ItemStatus::Cancelled];
        self.begin_again(actor, id, Direction::Forward, (&again, ItemStatus::Pending), "bulk.retry").await
    }

    /// Undoes what was done.
    pub(crate) async fn roll_back(&self, actor: &Actor, id: BulkId) -> Result<BulkOperation, BulkError> {
        self.begin_again(actor, id, Direction::Back, (&[ItemStatus::Done], ItemStatus::Done), "bulk.roll_back").await
    }

    async fn begin_again(
        &self,
        actor: &Actor,
        id: BulkId,
        direction: Direction,
        (from, to): (&[ItemStatus], ItemStatus),
        action: &'static str,
    ) -> Result<BulkOperation, BulkError> {
        actor.require(Action::JobsManage)?;
        let (found, _) = self.get(actor, id).await?;
        actor.require(found.operation.action())?;
        if direction == Direction::Back && !found.operation.has_opposite() {
            return Err(BulkError::Irreversible(found.operation));
        }
        let mut transaction = self.inner.database.begin(actor).await?;
        let held = store::hold(&mut transaction, id).await?.ok_or(BulkError::NotFound)?;
        if !held.status.is_finished() {
            return Err(BulkError::Unfinished);
        }
        self.require_room(&mut transaction, &held.asker.owner).await?;
        if store::turn_items(&mut transaction, id, from, to, None).await? == 0 {
            return Err(if direction == Direction::Back { BulkError::NothingToRollBack } else { BulkError::NothingToRetry });
        }
        let mut held = store::hold(&mut transaction, id).await?.ok_or(BulkError::NotFound)?;
        (held.status, held.direction, held.asker) = (Status::Pending, direction, Asker::of(actor));
        self.enqueue_in(&mut transaction, actor, &mut held, action).await?;
        transaction.commit().await?;
        Ok(held)
    }
}

impl Belongings for Bulk {
    fn erase<'a>(&'a self, transaction: &'a mut PgConnection, user: UserId) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let owner = format!("user:{user}");
            let count = store::erase(transaction, &owner).await.map_err(|error| error.to_string())?;
            if count > 0 {
                let event = Told::change("bulk.erase").with("count", count).of(owner);
                let recorded = self.inner.audit.record_in(transaction, &Actor::system("erase"), event).await;
                recorded.map_err(|error| error.to_string())?;
            }
            Ok(())
        }
        .boxed()
    }
}
