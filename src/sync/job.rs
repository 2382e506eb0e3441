//! The run itself: page after page, phase after phase.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use jobs::{Context, Ended, Failure, Handler, JobStatus, LogLevel, Outcome, PROGRESS_MEMBERS, Policy, Progress, ProgressEvent, Retry};
use platform::{Database, clock, config::SyncConfig, database::DbError, ids};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use servers::{Origin, ServerId, Servers, ServersError, SkipReason};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    counters::Counters,
    history::{Kind, Phase, Run, RunId, RunStatus},
    page::Page,
    store::{self, PageDone},
    upstream::{Ask, Upstream, UpstreamError},
};

/// How much of the time before a run is read again: clocks differ, and a page is not a moment.
const OVERLAP: TimeDelta = TimeDelta::hours(2);
/// How often those who watch hear that the catalogue changes during a run.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(5);
const SWEEP_BATCH: i64 = 5000;
/// How long a run waits for another one to let go.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// Entries on a page, where the registry gives as many as it is asked for.
const PAGE: i64 = 100;
/// After so many pages a first fill reckons anew how many there are.
const ESTIMATE_EVERY: i32 = 10;
/// Pages in a row without an entry, each with a further cursor.
const MAX_EMPTY_PAGES: u32 = 100;

/// Mirrors the upstream registry.
pub struct SyncJob {
    pub(crate) database: Database,
    pub(crate) servers: Servers,
    pub(crate) upstream: Upstream,
    pub(crate) config: SyncConfig,
    pub(crate) counters: Counters,
}

/// Which run.
#[derive(Serialize, Deserialize)]
pub struct Payload {
    pub(crate) run_id: RunId,
}

/// The event that says how far the mirror is.
pub static SYNC_PROGRESS: events::Kind = events::Kind {
    name: "SYNC_PROGRESS",
    channel: "sync",
    told: "While the mirror reads the upstream registry, when that ends, and when documents were imported from files (which is no job, and at once complete).",
    heard_by: "Everybody.",
    payload: PROGRESS_MEMBERS,
};

impl Handler for SyncJob {
    const KIND: &'static str = "sync";
    type Payload = Payload;

    fn policy(&self) -> Policy {
        // Waits of up to an hour: an upstream that is down for a day does not lose a run its place.
        Policy {
            max_attempts: 30,
            backoff: Duration::from_mins(1),
            limit: 1,
            waits_for_others: false,
            progress: Some(ProgressEvent { kind: &SYNC_PROGRESS, is_public: true }),
        }
    }

    async fn run(&self, context: Context, payload: Payload) -> Result<Outcome, Failure> {
        // Whoever holds the lease normally is alone; this also holds off a worker that lost its lease
        // without noticing.
        let mut guard = self.database.system().acquire().await.map_err(DbError::from)?.detach();
        if !store::try_lock(&mut guard).await.map_err(DbError::from)? {
            let message = "another replica is still at work on a run".into();
            return Err(Failure { code: "sync_locked", message, retry: Retry::At(clock::now() + LOCK_WAIT) });
        }
        let fence = ids::fresh();
        let Some(run) = store::take(self.database.system(), payload.run_id, fence, self.upstream.shown_url()).await? else {
            return Err(Failure {
                code: "run_not_found",
                message: "the run of this job is gone, or FABRIC_UPSTREAM_URL is another one now; a new run begins afresh".into(),
                retry: Retry::Never,
            });
        };
        let mut attempt = Attempt::new(self, &context, run, fence);
        let outcome = attempt.go().await;
        attempt.announce().await?;
        match outcome? {
            Reached::End => Ok(Outcome::Complete(attempt.result().await?)),
            Reached::Stop => Ok(Outcome::Stopped),
        }
    }

    async fn ended(&self, connection: &mut PgConnection, payload: Payload, ended: &Ended) -> Result<(), DbError> {
        let status = match ended.status {
            JobStatus::Complete => RunStatus::Complete,
            JobStatus::Cancelled => RunStatus::Cancelled,
            JobStatus::Failed | JobStatus::NeedsInput => RunStatus::Failed,
            JobStatus::Pending if ended.error.is_some() => RunStatus::Failed,
            // It stopped with the program, and goes on.
            JobStatus::Pending | JobStatus::Processing => return Ok(()),
        };
        let Some(kind) = store::end(connection, payload.run_id, status, ended.error.as_ref(), clock::now()).await? else { return Ok(()) };
        self.counters.ended(kind, status);
        Ok(())
    }
}

/// One attempt at a run.
struct Attempt<'a> {
    job: &'a SyncJob,
    context: &'a Context,
    run: Run,
    fence: Uuid,
    announced: Instant,
    /// Whether the catalogue changed since then, or may have before this attempt.
    unannounced: bool,
    /// Hashes of the cursors that this attempt was given in the present phase.
    cursors: HashSet<u64>,
    hasher: RandomState,
    expected_pages: Option<u64>,
    is_first_fill: bool,
}

/// How far an attempt, or a part of it, got.
enum Reached {
    End,
    Stop,
}

impl<'a> Attempt<'a> {
    fn new(job: &'a SyncJob, context: &'a Context, run: Run, fence: Uuid) -> Self {
        let unannounced = run.pages > 0;
        Self {
            job,
            context,
            run,
            fence,
            announced: Instant::now(),
            unannounced,
            cursors: HashSet::new(),
            hasher: RandomState::new(),
            expected_pages: None,
            is_first_fill: false,
        }
    }

    async fn go(&mut self) -> Result<Reached, Failure> {
        self.expected_pages = self.estimate().await?;
        self.is_first_fill = self.run.kind == Kind::Full && self.expected_pages.is_none();
        let going_on = if self.run.pages > 0 { format!(", going on after page {}", self.run.pages) } else { String::new() };
        self.context.log(LogLevel::Info, format!("{} sync from {}{going_on}", self.run.kind, self.job.upstream.shown_url())).await;
        while self.run.phase != Phase::Done {
            let ended = match self.run.phase {
                Phase::Sweep => self.sweep().await?,
                _ => self.read_phase().await?,
            };
            if let Reached::Stop = ended {
                return Ok(Reached::Stop);
            }
        }
        Ok(Reached::End)
    }

    /// Reads the present phase to its end.
    async fn read_phase(&mut self) -> Result<Reached, Failure> {
        let phase = self.run.phase;
        self.cursors.clear();
        let mut empty_pages = 0;
        while self.run.phase == phase {
            let ask = self.ask();
            let cursor = self.run.cursor.clone();
            let page = tokio::select! {
                page = self.job.upstream.page(&ask, cursor.as_deref()) => page.map_err(|error| failure(&error))?,
                () = self.context.stopping() => return Ok(Reached::Stop),
            };
            self.refuse_loop(page.next_cursor.as_deref())?;
            empty_pages = if page.entries.is_empty() && page.skipped.is_empty() { empty_pages + 1 } else { 0 };
            if empty_pages > MAX_EMPTY_PAGES {
                return Err(endless());
            }
            self.apply(page).await?;
        }
        Ok(Reached::End)
    }

    fn ask(&self) -> Ask {
        match self.run.phase {
            Phase::Latest => Ask::Latest,
            Phase::Changes => Ask::Changes(self.run.updated_since.unwrap_or(self.run.started_at) - OVERLAP),
            Phase::All | Phase::Sweep | Phase::Done => Ask::All,
        }
    }

    /// A registry that hands out a cursor twice would be read for ever.
    fn refuse_loop(&mut self, next: Option<&str>) -> Result<(), Failure> {
        let Some(next) = next else { return Ok(()) };
        let is_same = self.run.cursor.as_deref() == Some(next);
        if is_same || !self.cursors.insert(self.hasher.hash_one(next)) {
            return Err(endless());
        }
        Ok(())
    }

    /// Saves a page and where to go on after it, in one transaction.
    async fn apply(&mut self, page: Page) -> Result<(), Failure> {
        let seen = page.entries.len() + page.skipped.len();
        let next_phase = if page.next_cursor.is_some() { self.run.phase } else { self.run.kind.after(self.run.phase) };
        let reached = page.entries.last().map(|entry| entry.id.clone());
        let met = if self.run.kind == Kind::Reconcile { met(&page) } else { Vec::new() };

        let mut transaction = self.job.database.begin_system().await?;
        store::relax_durability(&mut transaction).await.map_err(DbError::from)?;
        let mut applied =
            self.job.servers.apply_in(&mut transaction, &self.context.actor(), page.entries, Origin::Upstream).await.map_err(failed)?;
        if !met.is_empty() {
            store::remember_seen(&mut transaction, self.run.id, &met).await.map_err(DbError::from)?;
        }
        // Every entry of the first phase comes again in the second.
        let mut skipped = page.skipped;
        skipped.append(&mut applied.skipped);
        let listed = if self.run.phase == Phase::Latest { &[][..] } else { &skipped[..] };
        let done = PageDone { seen, applied: &applied, skipped: listed, phase: next_phase, cursor: page.next_cursor.as_deref() };
        if !store::save_page(&mut transaction, self.run.id, self.fence, &done).await.map_err(DbError::from)? {
            return Err(Failure { code: "superseded", message: "another worker has taken the run over".into(), retry: Retry::Never });
        }
        self.context.checkpoint_in(&mut transaction).await?;
        self.unannounced |= applied.changed;
        if self.unannounced && self.announced.elapsed() >= ANNOUNCE_EVERY {
            self.job.servers.announce_in(&mut transaction).await?;
            self.announced = Instant::now();
            self.unannounced = false;
        }
        transaction.commit().await.map_err(DbError::from)?;

        self.run.phase = next_phase;
        self.run.cursor = page.next_cursor;
        self.run.pages += 1;
        if let Some(reached) = reached.filter(|_| self.is_first_fill && self.run.pages % ESTIMATE_EVERY == 0) {
            self.expected_pages = self.extrapolate(&reached).await?;
        }
        self.tell_progress();
        Ok(())
    }

    fn tell_progress(&self) {
        let done = u64::try_from(self.run.pages).unwrap_or(0);
        let message = match self.run.phase {
            Phase::Latest => "reading the latest versions",
            Phase::All => "reading all versions",
            Phase::Changes => "reading what changed",
            Phase::Sweep => "looking for what upstream erased",
            Phase::Done => "done",
        };
        // An estimate that has been passed is none.
        let total = self.expected_pages.filter(|total| *total >= done);
        self.context.progress(Progress { done, total, unit: "pages".into(), message: message.into() });
    }

    /// How many pages a first fill has: its second phase comes by names, all of which the first one met.
    async fn extrapolate(&self, reached: &ServerId) -> Result<Option<u64>, Failure> {
        if self.run.phase != Phase::All {
            return Ok(None);
        }
        let (before, all) = self.job.servers.place_of(reached).await.map_err(failed)?;
        let latest = all / PAGE + 1;
        let done = (i64::from(self.run.pages) - latest).max(1);
        let total = latest + done * all / before.max(1);
        Ok(u64::try_from(total).ok())
    }

    /// How many pages the run has, going by what the catalogue holds.
    async fn estimate(&self) -> Result<Option<u64>, Failure> {
        let (servers, versions) = self.job.servers.counts().await.map_err(failed)?;
        let pages = |count: i64| u64::try_from(count / PAGE + 1).unwrap_or(0);
        let last = store::last_success(self.job.database.system(), self.job.upstream.shown_url(), &["full", "reconcile"]).await?;
        Ok(match self.run.kind {
            _ if last.is_none() => None,
            Kind::Full => Some(pages(servers) + pages(versions) + 1),
            Kind::Reconcile => Some(pages(versions) + 1),
            Kind::Incremental | Kind::Import => None,
        })
    }

    /// Removes what this reconcile has not met, unless that is too much to believe.
    async fn sweep(&mut self) -> Result<Reached, Failure> {
        let (gone, known) = self.unseen().await?;
        let gone = if store::has_seen(self.job.database.system(), self.run.id, &UNREADABLE).await? && !gone.is_empty() {
            let message = format!(
                "upstream sent entries that cannot be read, and {} versions that may be among them were not met; none is removed",
                gone.len()
            );
            self.context.log(LogLevel::Warn, message).await;
            Vec::new()
        } else {
            gone
        };
        let share = percent(gone.len(), known);
        if share > self.job.config.max_drop_percent {
            return Err(Failure {
                code: "erase_refused",
                message: format!(
                    "upstream no longer has {} of {known} versions ({share:.1} %), which is more than FABRIC_SYNC_MAX_DROP_PERCENT allows; nothing was removed",
                    gone.len()
                ),
                retry: Retry::Never,
            });
        }
        let mut transaction = self.job.database.begin_system().await?;
        let erased = self.job.servers.erase_in(&mut transaction, &self.context.actor(), &gone).await.map_err(failed)?;
        let applied = servers::Applied { deleted: u32::try_from(erased).unwrap_or(u32::MAX), ..Default::default() };
        let done = PageDone { seen: 0, applied: &applied, skipped: &[], phase: Phase::Done, cursor: None };
        if !store::save_page(&mut transaction, self.run.id, self.fence, &done).await.map_err(DbError::from)? {
            return Err(Failure { code: "superseded", message: "another worker has taken the run over".into(), retry: Retry::Never });
        }
        store::forget_seen(&mut transaction, self.run.id).await.map_err(DbError::from)?;
        self.context.checkpoint_in(&mut transaction).await?;
        transaction.commit().await.map_err(DbError::from)?;
        if erased > 0 {
            self.context.log(LogLevel::Warn, format!("removed {erased} versions that upstream erased")).await;
        }
        self.run.phase = Phase::Done;
        self.unannounced |= erased > 0;
        Ok(Reached::End)
    }

    /// The versions that upstream did not show, and how many there are of all.
    async fn unseen(&self) -> Result<(Vec<(String, String)>, usize), Failure> {
        let mut after = (String::new(), String::new());
        let (mut gone, mut known) = (Vec::new(), 0);
        loop {
            let portion = self.job.servers.mirrored_versions(self.run.started_at, &after, SWEEP_BATCH).await.map_err(failed)?;
            let Some(last) = portion.last() else { return Ok((gone, known)) };
            after = last.clone();
            known += portion.len();
            gone.extend(store::unseen(self.job.database.system(), self.run.id, &portion).await?);
        }
    }

    /// Says what the attempt changed and did not say yet.
    async fn announce(&self) -> Result<(), Failure> {
        if !self.unannounced {
            return Ok(());
        }
        let mut transaction = self.job.database.begin_system().await?;
        self.job.servers.announce_in(&mut transaction).await?;
        transaction.commit().await.map_err(DbError::from)?;
        self.job.servers.forget();
        Ok(())
    }

    async fn result(&self) -> Result<Value, Failure> {
        let run = store::get(self.job.database.system(), self.run.id).await?;
        let Some(run) = run else { return Ok(Value::Null) };
        let summary = format!(
            "{} new, {} changed, {} removed, {} skipped, on {} pages",
            run.inserted, run.updated, run.deleted, run.skipped, run.pages
        );
        self.context.log(LogLevel::Info, summary).await;
        Ok(json!({
            "run_id": run.id, "kind": run.kind, "pages": run.pages, "seen": run.seen, "inserted": run.inserted,
            "updated": run.updated, "deleted": run.deleted, "skipped": run.skipped,
        }))
    }
}

/// Stands among what was met for entries that do not even say which version they are.
const UNREADABLE: (String, String) = (String::new(), String::new());

/// What a page shows to be there upstream, whether it could be taken or not: an entry that went bad does
/// not remove what was good before.
fn met(page: &Page) -> Vec<(String, String)> {
    let taken = page.entries.iter().map(|entry| (entry.id.to_string(), entry.version.clone()));
    let skipped = page.skipped.iter().map(|skip| match (&skip.name, &skip.version) {
        // What stands first in an entry that is too large need not be its own name.
        (Some(name), Some(version)) if skip.reason != SkipReason::TooLarge => (name.clone(), version.clone()),
        _ => UNREADABLE,
    });
    let mut met: Vec<(String, String)> = taken.chain(skipped).collect();
    met.sort();
    met.dedup();
    met
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
fn percent(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

fn endless() -> Failure {
    let message = "upstream gives out cursors that lead nowhere, so its list has no end; what was read so far is kept".into();
    Failure { code: "upstream_cursor_loop", message, retry: Retry::Never }
}

fn failure(error: &UpstreamError) -> Failure {
    let retry = match error.not_before() {
        Some(at) => Retry::At(at),
        None if error.is_passing() => Retry::Backoff,
        None => Retry::Never,
    };
    Failure { code: error.code(), message: error.to_string(), retry }
}

fn failed(error: ServersError) -> Failure {
    match error {
        ServersError::Database(error) => error.into(),
        other => Failure::last(&other),
    }
}
