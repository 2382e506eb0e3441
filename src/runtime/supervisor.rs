//! The life of one instance: each step of it is stored before the next one is made.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use chrono::TimeDelta;
use configurations::{Configuration, Lifecycle, Restart};
use futures_util::future::{BoxFuture, OptionFuture};
use platform::{Actor, Coded as _, clock, database::DbError, random};
use tokio::sync::watch;

use crate::{
    body::Body,
    boot::{self, Running, boot},
    cures,
    launch::{self, ENGINE_UNAVAILABLE, Launch},
    live::{Live, Wanted},
    model::{Backend, Instance, Reason, State},
    service::Inner,
    session::Session,
    store,
    wire::CallError,
};

/// After so long without an end, earlier ends no longer count.
const STEADY: Duration = Duration::from_mins(1);
/// The wait before the second start in a row; it doubles. The first one is made at once.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// So many starts in a row, none of which lasted, are enough.
const MOST_ATTEMPTS: i32 = 8;
/// So many questions in a row without an answer mean that a server is not well.
const MOST_SILENCES: u32 = 3;
/// How long it is waited before an engine that is away is asked again.
const ENGINE_PAUSE: Duration = Duration::from_secs(1);
/// How long a server may go on that has closed its output.
const CLOSED: Duration = Duration::from_secs(2);
/// How long a step waits for a database that is away.
const RETRY: Duration = Duration::from_millis(500);

/// Why instances end with their fabric.
pub(crate) const FABRIC_STOPPED: &str = "fabric_stopped";

/// Runs one instance.
pub(crate) struct Supervisor {
    pub(crate) inner: Arc<Inner>,
    pub(crate) instance: Instance,
    pub(crate) wanted: watch::Receiver<Wanted>,
    /// What was wanted when it was last started.
    pub(crate) launched: Wanted,
    pub(crate) live: Arc<Live>,
}

/// The row is somebody else's by now.
struct Superseded;

/// Why a server that runs does not go on.
enum Turn {
    /// It is not wanted any more, or the program stops.
    Unwanted(Reason),
    /// It is to be started anew.
    Restart,
    /// It ended by itself, or has to be ended; whether that counts as an error.
    Died(Reason, bool),
}

/// How the time in which a server ran came to its end; the process is gone.
enum End {
    Unwanted,
    Restart,
    Died(Reason, bool),
}

/// What came of making everything that a start needs.
enum Created {
    Launch(Box<Launch>),
    Unwanted(Reason),
    Failed(Reason),
}

/// What comes after a wait.
enum After {
    Again,
    Unwanted(Reason),
    Enough(Reason),
}

impl Supervisor {
    pub(crate) async fn run(mut self) {
        if self.live().await.is_err() {
            tracing::warn!(instance = %self.instance.id, "another fabric has taken an instance over");
        }
        self.live.set(None, None);
    }

    /// From PENDING to STOPPED or FAILED.
    async fn live(&mut self) -> Result<(), Superseded> {
        if let Some(reason) = self.unwanted() {
            return self.step(State::Stopped, Some(reason)).await;
        }
        let inner = Arc::clone(&self.inner);
        let admission = inner.admission.lock().await;
        let (owner, limits) = (self.instance.owner.clone(), self.wanted.borrow().configuration.limits);
        if let Err(error) = self.inner.require_room(&owner, &limits, Some(self.instance.configuration)).await {
            drop(admission);
            return self.fail(launch::reason_of(&error)).await;
        }
        let is_here = self.instance.backend != Backend::Remote;
        self.instance.limits = is_here.then(|| self.inner.limits(&limits, self.instance.backend == Backend::Container));
        self.step(State::Creating, None).await?;
        drop(admission);
        let Some(mut launch) = self.launch().await? else { return Ok(()) };
        self.step(State::Starting, None).await?;
        let mut has_run = false;
        loop {
            let booted = tokio::select! {
                booted = boot(&self.inner, &mut self.instance, &self.live, &launch) => booted,
                reason = gone(&mut self.wanted, &self.inner.shutdown) => return self.stop(reason).await,
            };
            let (reason, is_error) = match booted {
                // An engine that is away is waited for, however long.
                Err(reason) if reason.code == ENGINE_UNAVAILABLE => match self.wait_for_engine(&reason).await? {
                    Some(reason) => return self.stop(reason).await,
                    None => continue,
                },
                // Only what had run before is tried again, and what a known cure was applied to.
                Err(reason) if !has_run => {
                    if !self.cure(&launch, &reason).await {
                        return self.fail(reason).await;
                    }
                    launch = match self.launch().await? {
                        Some(launch) => launch,
                        None => return Ok(()),
                    };
                    continue;
                }
                Err(reason) => (reason, true),
                Ok(running) => {
                    has_run = true;
                    if let Err(superseded) = self.step(State::Running, None).await {
                        self.end(running.body, &running.session).await;
                        return Err(superseded);
                    }
                    match self.watch(running).await? {
                        End::Unwanted => return Ok(()),
                        End::Died(reason, is_error) => (reason, is_error),
                        End::Restart => {
                            launch = match self.launch().await? {
                                Some(launch) => launch,
                                None => return Ok(()),
                            };
                            continue;
                        }
                    }
                }
            };
            if !self.is_to_be_restarted(is_error) {
                return self.fail(reason).await;
            }
            match self.wait(reason).await? {
                After::Again => {}
                After::Unwanted(reason) => return self.stop(reason).await,
                After::Enough(reason) => return self.fail(reason).await,
            }
        }
    }

    /// Applies a known cure to a server that failed to start, once; false where there is none.
    async fn cure(&self, launch: &Launch, reason: &Reason) -> bool {
        let Some(cure) = cures::of(&reason.text).filter(|_| launch.is_python && reason.code == "start_failed") else { return false };
        match self.inner.packages.cure(&self.instance.server_id, cure).await {
            Ok(true) => {
                self.live.log.note(&format!("it does not start with the newest of what it needs; it is installed anew with `{cure}`"));
                true
            }
            Ok(false) => false,
            Err(error) => {
                tracing::warn!(%error, "a known cure could not be applied");
                false
            }
        }
    }

    fn is_to_be_restarted(&self, is_error: bool) -> bool {
        match self.wanted.borrow().configuration.restart {
            Restart::Always => true,
            Restart::OnFailure => is_error,
            Restart::Never => false,
        }
    }

    /// Waits before the next start, longer each time. Too many in a row are enough.
    async fn wait(&mut self, reason: Reason) -> Result<After, Superseded> {
        self.instance.attempt += 1;
        if self.instance.attempt > MOST_ATTEMPTS {
            let text = format!("it was started {MOST_ATTEMPTS} times in a row and never lasted; the last time: {}", reason.text);
            return Ok(After::Enough(Reason::new("crash_loop", text)));
        }
        let doublings = u32::try_from(self.instance.attempt - 2).unwrap_or(0);
        let pause = if self.instance.attempt == 1 { Duration::ZERO } else { (FIRST_WAIT * 2_u32.pow(doublings)).min(LONGEST_WAIT) };
        let pause = random::jitter(pause);
        self.instance.next_try_at = Some(clock::now() + TimeDelta::from_std(pause).unwrap_or_default());
        self.instance.pid = None;
        self.instance.restarts += 1;
        self.live.log.note(&format!("{}; it is started again in {:.1} s", reason.text, pause.as_secs_f32()));
        if self.instance.state == State::Running {
            self.step(State::Starting, Some(reason)).await?;
        } else {
            self.note_wait(&reason).await?;
        }
        Ok(self.pause(pause).await.map_or(After::Again, After::Unwanted))
    }

    /// Waits for an engine that is away, which is no failure of the server; gives why it is not wanted any more, if so.
    async fn wait_for_engine(&mut self, reason: &Reason) -> Result<Option<Reason>, Superseded> {
        self.instance.next_try_at = Some(clock::now() + TimeDelta::from_std(ENGINE_PAUSE).unwrap_or_default());
        self.note_wait(reason).await?;
        Ok(self.pause(ENGINE_PAUSE).await)
    }

    /// Lets time pass; gives why it is not to run any more, if that comes first.
    async fn pause(&mut self, pause: Duration) -> Option<Reason> {
        tokio::select! {
            () = tokio::time::sleep(pause) => None,
            reason = gone(&mut self.wanted, &self.inner.shutdown) => Some(reason),
        }
    }

    /// Why it is not to run, if it is not.
    fn unwanted(&self) -> Option<Reason> {
        if self.inner.shutdown.has_begun() {
            return Some(Reason::new(FABRIC_STOPPED, "the fabric stopped"));
        }
        (!self.wanted.borrow().runs).then(|| Reason::new("not_wanted", "it is not wanted any more"))
    }

    /// Everything that a start needs; nothing when the instance has been ended instead.
    async fn launch(&mut self) -> Result<Option<Box<Launch>>, Superseded> {
        match self.create().await {
            Created::Launch(launch) => Ok(Some(launch)),
            Created::Unwanted(reason) => self.stop(reason).await.map(|()| None),
            Created::Failed(reason) => self.fail(reason).await.map(|()| None),
        }
    }

    async fn create(&mut self) -> Created {
        self.launched = self.wanted.borrow_and_update().clone();
        let configuration = Arc::clone(&self.launched.configuration);
        let made = tokio::select! {
            made = launch::prepare(&self.inner, self.instance.id, &configuration, &self.live.log) => made,
            reason = gone(&mut self.wanted, &self.inner.shutdown) => return Created::Unwanted(reason),
        };
        match made {
            Ok(launch) => {
                self.instance.version = Some(launch.version.clone());
                self.instance.limits = launch.limits;
                self.launched.installed = Some(launch.tree.clone());
                *self.live.tree.lock().unwrap_or_else(PoisonError::into_inner) = Some(launch.tree.clone());
                Created::Launch(Box::new(launch))
            }
            Err(reason) => Created::Failed(reason),
        }
    }

    /// Looks after a server that runs, until its process is gone.
    async fn watch(&mut self, running: Running) -> Result<End, Superseded> {
        let Running { mut body, session, since } = running;
        self.live.set(Some(Arc::clone(&session)), Some(body.watch()));
        self.live.touch();
        let turn = self.attend(&mut body, &session).await;
        self.live.set(None, None);
        if since.elapsed() >= STEADY {
            self.instance.attempt = 0;
        }
        self.instance.pid = None;
        self.instance.container = None;
        match turn {
            Turn::Unwanted(reason) => {
                let stepped = self.step(State::Stopping, Some(reason.clone())).await;
                // Also where the row is another fabric's by now: that starts one of its own.
                self.end(body, &session).await;
                stepped?;
                self.step(State::Stopped, Some(reason)).await?;
                Ok(End::Unwanted)
            }
            Turn::Restart => {
                self.instance.restarts += 1;
                self.instance.attempt = 0;
                let reason = Reason::new("restart", "it is started anew, as somebody asked or as something changed");
                let stepped = self.step(State::Starting, Some(reason)).await;
                self.end(body, &session).await;
                stepped?;
                Ok(End::Restart)
            }
            Turn::Died(reason, is_error) => {
                if let Err(error) = body.kill().await {
                    tracing::warn!(error, "what a server started could not be ended");
                }
                Ok(End::Died(reason, is_error))
            }
        }
    }

    /// Ends a process in order: its input is closed, which asks it to end.
    async fn end(&self, body: Body, session: &Session) {
        session.wire.hang_up();
        if let Err(error) = body.end().await {
            self.live.log.note(&format!("it could not be ended in order: {error}"));
        }
    }

    async fn attend(&mut self, body: &mut Body, session: &Session) -> Turn {
        let watchdog = boot::watchdog(&self.inner, body.watch(), self.instance.limits);
        tokio::pin!(watchdog);
        let mut probe = tokio::time::interval(self.inner.config.probe_every);
        probe.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        probe.tick().await;
        // While it is asked, everything else goes on: it may end, or not be wanted any more.
        let mut asked: Option<BoxFuture<'_, Result<(), CallError>>> = None;
        let mut silences = 0;
        loop {
            tokio::select! {
                ended = body.ended() => return Turn::Died(ended.reason, ended.is_error),
                () = session.wire.closed() => {
                    // The end of a process and of its output come together; which of them is seen first is chance.
                    return match tokio::time::timeout(CLOSED, body.ended()).await {
                        Ok(ended) => Turn::Died(ended.reason, ended.is_error),
                        Err(_) => Turn::Died(Reason::new("output_closed", "it closed its output"), true),
                    };
                }
                reason = &mut watchdog => return Turn::Died(reason, true),
                turn = changed(&mut self.wanted, &self.launched, &self.inner.shutdown) => return turn,
                _ = probe.tick(), if asked.is_none() => {
                    if let Some(reason) = self.is_idle(session) {
                        return Turn::Unwanted(reason);
                    }
                    asked = Some(Box::pin(session.probe()));
                }
                well = OptionFuture::from(asked.as_mut()), if asked.is_some() => {
                    asked = None;
                    match well {
                        Some(Err(CallError::Closed)) => {}
                        Some(Err(_)) => silences += 1,
                        Some(Ok(())) | None => silences = 0,
                    }
                    if silences >= MOST_SILENCES {
                        return Turn::Died(Reason::new("not_answering", "it did not answer three times in a row"), true);
                    }
                }
            }
        }
    }

    fn is_idle(&self, session: &Session) -> Option<Reason> {
        let is_on_demand = self.wanted.borrow().configuration.lifecycle != Lifecycle::Persistent;
        let is_idle = is_on_demand && session.wire.in_flight() == 0 && self.live.idle_for() >= self.inner.config.idle_after;
        is_idle.then(|| Reason::new("idle", "nobody called it for a while"))
    }

    /// Ends what is not wanted before it ran.
    async fn stop(&mut self, reason: Reason) -> Result<(), Superseded> {
        self.step(State::Stopping, Some(reason.clone())).await?;
        self.step(State::Stopped, Some(reason)).await
    }

    /// It failed: nothing is started again before somebody wants it anew.
    async fn fail(&mut self, reason: Reason) -> Result<(), Superseded> {
        self.live.log.note(&format!("failed: {}", reason.text));
        self.instance.pid = None;
        self.instance.next_try_at = None;
        let code = reason.code;
        self.step(State::Failed, Some(reason)).await?;
        let configuration = Arc::clone(&self.wanted.borrow().configuration);
        let (actor, owner, server) = (Actor::system("runtime"), &configuration.owner, &configuration.server_id);
        let given_up = self.inner.configurations.give_up(&actor, owner, server, configuration.revision, code);
        if let Err(error) = given_up.await {
            tracing::warn!(%error, code = error.code(), "a server that failed could not be switched off");
        }
        Ok(())
    }

    /// Makes a step, and tells of it. While the database is away, nothing goes on.
    async fn step(&mut self, to: State, reason: Option<Reason>) -> Result<(), Superseded> {
        if !self.instance.state.may_become(to) {
            tracing::error!(instance = %self.instance.id, from = %self.instance.state, %to, "a step that there is not");
            self.inner.count(self.instance.state, to, "refused");
            return Err(Superseded);
        }
        if to.is_over() {
            self.instance.pid = None;
            self.instance.container = None;
            self.instance.next_try_at = None;
        }
        loop {
            match self.inner.store_step(&self.instance, to, reason.as_ref()).await {
                Ok(true) => break,
                Ok(false) => {
                    self.inner.count(self.instance.state, to, "refused");
                    return Err(Superseded);
                }
                Err(error) => {
                    tracing::warn!(instance = %self.instance.id, %to, %error, "a step cannot be stored yet");
                    if self.inner.shutdown.has_begun() {
                        return Err(Superseded);
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        self.inner.count(self.instance.state, to, "ok");
        self.instance.state = to;
        self.live.state.send_replace(to);
        Ok(())
    }

    /// Stores until when a start waits, and why.
    async fn note_wait(&self, reason: &Reason) -> Result<(), Superseded> {
        let noted = async {
            let mut transaction = self.inner.database.begin_for_all().await?;
            let is_ours = store::note_try(&mut transaction, &self.instance, reason).await?;
            transaction.commit().await?;
            Ok::<_, DbError>(is_ours)
        };
        match noted.await {
            Ok(false) => Err(Superseded),
            Ok(true) => Ok(()),
            Err(error) => {
                tracing::warn!(instance = %self.instance.id, %error, "what an instance waits for could not be stored");
                Ok(())
            }
        }
    }
}

/// Returns when the instance is not to run.
async fn gone(wanted: &mut watch::Receiver<Wanted>, shutdown: &platform::Shutdown) -> Reason {
    tokio::select! {
        () = shutdown.begun() => Reason::new(FABRIC_STOPPED, "the fabric stopped"),
        _ = wanted.wait_for(|wanted| !wanted.runs) => Reason::new("not_wanted", "it is not wanted any more"),
    }
}

/// Returns when something else is wanted of an instance that runs.
async fn changed(wanted: &mut watch::Receiver<Wanted>, before: &Wanted, shutdown: &platform::Shutdown) -> Turn {
    let is_other = |now: &Wanted| {
        let is_upgraded = now.installed.is_some() && now.installed != before.installed;
        !now.runs || now.restart != before.restart || is_upgraded || differs(&now.configuration, &before.configuration)
    };
    tokio::select! {
        () = shutdown.begun() => Turn::Unwanted(Reason::new(FABRIC_STOPPED, "the fabric stopped")),
        now = wanted.wait_for(is_other) => match now {
            Ok(now) if now.runs => Turn::Restart,
            _ => Turn::Unwanted(Reason::new("not_wanted", "it is not wanted any more")),
        },
    }
}

/// Whether a configuration asks for another process, and not only for other manners towards the same one.
fn differs(now: &Configuration, before: &Configuration) -> bool {
    now.values != before.values || now.limits != before.limits
}
