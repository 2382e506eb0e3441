use std::sync::{Arc, OnceLock};

use audit::{Audit, EventType, NewEvent as Told};
use chrono::{DateTime, TimeDelta, Utc};
use events::{Events, NewEvent};
use jobs::{Handlers, Jobs, JobsError, NewJob};
use platform::{Action, Actor, Config, Database, Shutdown, clock, config::SyncConfig, database::DbError, ids, telemetry::Metrics};
use serde_json::json;
use servers::{Origin, Servers};

use crate::{
    counters::Counters,
    error::SyncError,
    history::{Kind, Mode, Run, RunId, RunStatus},
    job::{Payload, SYNC_PROGRESS, SyncJob},
    page,
    schedule::{Schedule, ScheduleError},
    store::{self, PageDone},
    upstream::Upstream,
};

/// At most one sync job waits or runs.
const SINGLETON: &str = "sync";
/// A start with a mirror that is older begins a run.
const OLD_AFTER: TimeDelta = TimeDelta::hours(24);
/// A mirror that is older shows as a warning: a daily run has the time that it takes.
const STALE_AFTER: TimeDelta = TimeDelta::hours(26);

/// The mirror.
#[derive(Clone)]
pub struct Sync {
    database: Database,
    audit: Audit,
    events: Events,
    jobs: Jobs,
    servers: Servers,
    upstream: Upstream,
    config: SyncConfig,
    offline: bool,
    counters: Counters,
    schedule: Arc<OnceLock<Schedule>>,
}

/// What the mirror works with.
pub struct Neighbours {
    /// The database.
    pub database: Database,
    /// The audit trail.
    pub audit: Audit,
    /// Who watches.
    pub events: Events,
    /// Runs are jobs.
    pub jobs: Jobs,
    /// What the mirror fills.
    pub servers: Servers,
}

/// How old the mirror is.
#[derive(Clone, Debug)]
pub struct Freshness {
    /// When the last successful run began.
    pub last_success: Option<DateTime<Utc>>,
    /// Whether that is too long ago.
    pub is_stale: bool,
    /// Requests to upstream that failed in a row.
    pub failures: u32,
    /// Until when upstream is left alone.
    pub resting_until: Option<DateTime<Utc>>,
}

/// What the status shows.
pub(crate) struct Standing {
    pub(crate) current: Option<Run>,
    pub(crate) last: Option<Run>,
    pub(crate) freshness: Freshness,
    pub(crate) next_run_at: Option<DateTime<Utc>>,
    pub(crate) servers: i64,
    pub(crate) versions: i64,
}

impl Sync {
    /// The service; [`Sync::start`] puts it on its schedule.
    pub fn new(
        config: &Config,
        Neighbours { database, audit, events, jobs, servers }: Neighbours,
        upstream: Upstream,
        metrics: &Metrics,
    ) -> Self {
        let counters = Counters::new(metrics);
        let (config, offline) = (config.sync.clone(), config.offline);
        Self { database, audit, events, jobs, servers, upstream, config, offline, counters, schedule: Arc::default() }
    }

    /// What does the runs.
    pub fn handlers(&self, handlers: Handlers) -> Handlers {
        handlers.with(SyncJob {
            database: self.database.clone(),
            servers: self.servers.clone(),
            upstream: self.upstream.clone(),
            config: self.config.clone(),
            counters: self.counters.clone(),
        })
    }

    /// Keeps the schedule, and starts a run now when the mirror is older than a day.
    pub async fn start(&self, shutdown: &Shutdown) -> Result<(), ScheduleError> {
        if self.offline {
            return Ok(());
        }
        if let Some(fields) = &self.config.cron {
            let sync = self.clone();
            let schedule = Schedule::start(fields, shutdown, move || sync.clone().run_daily()).await?;
            self.schedule.set(schedule).ok();
        }
        if self.config.on_start {
            let sync = self.clone();
            shutdown.spawn(async move { sync.catch_up().await });
        }
        Ok(())
    }

    /// Every replica has the schedule; the first one to ask starts the run.
    async fn run_daily(self) {
        match self.trigger_due(&Actor::system("cron")).await {
            Ok(run) => tracing::info!(run = %run.id, kind = %run.kind, "the daily sync begins"),
            Err(SyncError::AlreadyRunning(_)) => tracing::info!("a sync is running already; the daily one is left out"),
            Err(error) => tracing::error!(%error, "the daily sync could not begin"),
        }
    }

    async fn catch_up(&self) {
        let begun = match self.freshness().await {
            Ok(freshness) if freshness.last_success.is_some_and(|at| clock::now() - at <= OLD_AFTER) => return,
            Ok(_) => self.trigger_due(&Actor::system("start")).await,
            Err(error) => Err(error),
        };
        match begun {
            Ok(run) => tracing::info!(run = %run.id, kind = %run.kind, "the catalogue is older than a day; a sync begins"),
            Err(SyncError::AlreadyRunning(_)) => tracing::info!("an interrupted sync goes on"),
            Err(error) => tracing::warn!(%error, "could not begin a sync"),
        }
    }

    /// Asks for a run of the kind that is due.
    pub async fn trigger_due(&self, actor: &Actor) -> Result<Run, SyncError> {
        let last_whole = self.last_success(&["full", "reconcile"]).await?;
        let mode = match last_whole {
            None => Mode::Full,
            Some(run) if clock::now() - run.started_at > TimeDelta::from_std(self.config.reconcile_every).unwrap_or(TimeDelta::MAX) => {
                Mode::Reconcile
            }
            Some(_) => Mode::Incremental,
        };
        self.trigger(actor, Some(mode)).await
    }

    /// Asks for a run; without a mode, for the kind that is due. What changed can only be read after a
    /// whole run, so the first run is a full one.
    pub async fn trigger(&self, actor: &Actor, mode: Option<Mode>) -> Result<Run, SyncError> {
        actor.require(Action::SyncManage)?;
        if self.offline {
            return Err(SyncError::Offline);
        }
        let Some(mode) = mode else { return Box::pin(self.trigger_due(actor)).await };
        let whole = self.last_success(&["full", "reconcile"]).await?;
        let last = self.last_success(&["full", "reconcile", "incremental"]).await?;
        let kind = if whole.is_none() && mode == Mode::Incremental { Kind::Full } else { mode.into() };
        let mut run = new_run(kind);
        run.updated_since = last.filter(|_| kind == Kind::Incremental).map(|last| last.started_at);

        let mut transaction = self.database.begin(actor).await?;
        let job = NewJob::of::<SyncJob>(&Payload { run_id: run.id }).singleton(SINGLETON);
        let job = job.told_as(Told::new(EventType::BulkOperation, "sync.trigger").with("mode", run.kind.to_string()));
        match self.jobs.enqueue_in(&mut transaction, actor, job).await {
            Ok(job_id) => run.job_id = Some(job_id.0),
            Err(JobsError::AlreadyRunning(job)) => {
                drop(transaction);
                let run = match job {
                    Some(job) => store::of_job(self.database.system(), job.0).await?,
                    None => None,
                };
                return Err(SyncError::AlreadyRunning(run.map(Box::new)));
            }
            Err(error) => return Err(error.into()),
        }
        store::start(&mut transaction, &run, self.upstream.shown_url(), clock::now()).await?;
        transaction.commit().await?;
        Ok(run)
    }

    async fn last_success(&self, kinds: &[&str]) -> Result<Option<Run>, SyncError> {
        Ok(store::last_success(self.database.public(), self.upstream.shown_url(), kinds).await?)
    }

    /// How old the mirror is.
    pub async fn freshness(&self) -> Result<Freshness, SyncError> {
        let last_success = self.last_success(&["full", "reconcile", "incremental"]).await?.map(|run| run.started_at);
        let (failures, resting_until) = self.upstream.failures();
        Ok(Freshness {
            last_success,
            is_stale: !self.offline && last_success.is_none_or(|at| clock::now() - at > STALE_AFTER),
            failures,
            resting_until,
        })
    }

    /// Where the mirror's address is.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    pub(crate) async fn standing(&self) -> Result<Standing, SyncError> {
        let pool = self.database.public();
        let current = store::running(pool).await?;
        let (servers, versions) = self.servers.counts().await?;
        let next_run_at = match self.schedule.get() {
            Some(schedule) => schedule.next_run().await,
            None => None,
        };
        Ok(Standing { current, last: store::last_ended(pool).await?, freshness: self.freshness().await?, next_run_at, servers, versions })
    }

    /// Runs, newest first.
    pub async fn history(&self, actor: &Actor, before: Option<RunId>, limit: u32) -> Result<Vec<Run>, SyncError> {
        actor.require(Action::SyncRead)?;
        Ok(store::list(self.database.system(), before, limit.into()).await?)
    }

    /// Takes one page from a file. The first page of an import starts a run, the others name it, and the
    /// last one ends it.
    pub async fn import(&self, actor: &Actor, run: Option<RunId>, is_last: bool, body: &[u8]) -> Result<Run, SyncError> {
        actor.require(Action::SyncManage)?;
        let page = page::parse(body)?;
        let seen = page.entries.len() + page.skipped.len();
        let mut transaction = self.database.begin_system().await?;
        let id = if let Some(id) = run {
            if !store::is_open_import(&mut transaction, id).await? {
                return Err(SyncError::RunNotFound(id));
            }
            id
        } else {
            let run = new_run(Kind::Import);
            store::start(&mut transaction, &run, "import", clock::now()).await?;
            run.id
        };
        let mut applied = self.servers.apply_in(&mut transaction, actor, page.entries, Origin::Upstream).await?;
        let mut skipped = page.skipped;
        skipped.append(&mut applied.skipped);
        let done = PageDone { seen, applied: &applied, skipped: &skipped, phase: Kind::Import.first_phase(), cursor: None };
        // An import has one fence for all its pages: its own id.
        if !store::save_page(&mut transaction, id, id.0, &done).await? {
            return Err(SyncError::RunNotFound(id));
        }
        let told = Told::new(EventType::BulkOperation, "sync.import").on("run", id).with("entries", seen).with("last", is_last);
        self.audit.record_in(&mut transaction, actor, told).await?;
        if is_last {
            store::end(&mut transaction, id, RunStatus::Complete, None, clock::now()).await?;
            self.servers.announce_in(&mut transaction).await?;
            let payload = json!({ "jobId": null, "status": RunStatus::Complete });
            self.events.publish_in(&mut transaction, NewEvent::for_everyone(&SYNC_PROGRESS, payload)).await?;
        }
        transaction.commit().await.map_err(DbError::from)?;
        if is_last {
            self.servers.forget();
        }
        store::get(self.database.system(), id).await?.ok_or(SyncError::RunNotFound(id))
    }
}

fn new_run(kind: Kind) -> Run {
    Run {
        id: RunId(ids::fresh()),
        job_id: None,
        kind,
        status: RunStatus::Running,
        phase: kind.first_phase(),
        started_at: clock::now(),
        finished_at: None,
        updated_since: None,
        cursor: None,
        pages: 0,
        seen: 0,
        inserted: 0,
        updated: 0,
        deleted: 0,
        skipped: 0,
        skipped_entries: json!([]),
        error: None,
    }
}
