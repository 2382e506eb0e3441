//! The life of one instance: each step of it is stored before the next one is made.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use chrono::TimeDelta;
use configurations::Restart;
use platform::{clock, random};
use tokio::sync::watch;

use crate::{
    attend::{End, gone},
    boot::{Running, Starting, boot},
    containers, cures,
    error::RuntimeError,
    launch::{self, AUTHORIZATION_NEEDED, ENGINE_UNAVAILABLE, Known, Launch},
    live::{Live, Wanted},
    model::{Backend, Cap, Instance, Kept, Reason, State},
    service::Inner,
    store,
};

/// The wait before the second start in a row; it doubles. The first one is made at once.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// So many starts in a row, none of which lasted, are enough.
const MOST_ATTEMPTS: i32 = 8;
/// How long it is waited before an engine that is away is asked again.
const ENGINE_PAUSE: Duration = Duration::from_secs(1);
/// How long it is waited before it is looked again whether there is a place.
const ROOM_PAUSE: Duration = Duration::from_secs(3);

/// Why instances end with their fabric.
pub(crate) const FABRIC_STOPPED: &str = "fabric_stopped";

/// Runs one instance.
pub(crate) struct Supervisor {
    pub(crate) inner: Arc<Inner>,
    pub(crate) instance: Instance,
    pub(crate) wanted: watch::Receiver<Wanted>,
    /// What was wanted when it was last started.
    pub(crate) launched: Wanted,
    /// What was known of its server a moment ago.
    pub(crate) server: Option<Known>,
    pub(crate) live: Arc<Live>,
    /// Whether it ran with what is wanted now: then a start that fails is tried again.
    pub(crate) has_run: bool,
}

/// The row is somebody else's by now.
pub(crate) struct Superseded;

/// What came of making everything that a start needs.
enum Created {
    Launch(Box<Launch>),
    Unwanted(Reason),
    Failed(Reason),
}

/// What came of a start.
enum Booted {
    Running(Box<Running>),
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
        if !self.enter().await? {
            return Ok(());
        }
        while let Some(launch) = self.launch().await? {
            if self.instance.state == State::Creating {
                self.step(State::Starting, None).await?;
            }
            if !self.round(&launch).await? {
                break;
            }
        }
        Ok(())
    }

    /// Takes a place on this machine, and waits where others have them all; false when the instance has been ended
    /// instead.
    async fn enter(&mut self) -> Result<bool, Superseded> {
        let inner = Arc::clone(&self.inner);
        loop {
            if let Some(reason) = self.unwanted() {
                self.step(State::Stopped, Some(reason)).await?;
                return Ok(false);
            }
            let admission = inner.admission.lock().await;
            let Err(reason) = self.find_room().await else {
                self.step(State::Creating, None).await?;
                return Ok(true);
            };
            drop(admission);
            if !reason.is_passing {
                self.fail(reason).await?;
                return Ok(false);
            }
            self.wait_out(&reason, ROOM_PAUSE).await?;
            self.server = None;
        }
    }

    /// Notes what it may use from now on, if there is room for that.
    async fn find_room(&mut self) -> Result<(), Reason> {
        let limits = self.wanted.borrow().configuration.limits;
        let found =
            self.inner.require_room(&self.instance.owner, &limits, Some((self.instance.configuration, &self.instance.session))).await;
        found.map_err(|error| Reason {
            // Others may end; a user's own limit is theirs to keep.
            is_passing: matches!(error, RuntimeError::LimitReached(Cap::OfNode, _) | RuntimeError::Database(_)),
            ..launch::reason_of(&error)
        })?;
        self.instance.limits = self.wanted_limits();
        Ok(())
    }

    fn wanted_limits(&self) -> Option<Kept> {
        let limits = &self.wanted.borrow().configuration.limits;
        (self.instance.backend != Backend::Remote).then(|| self.inner.limits(limits, self.instance.backend == Backend::Container))
    }

    /// Everything that a start needs; nothing when the instance has been ended instead. What passes is waited for.
    async fn launch(&mut self) -> Result<Option<Box<Launch>>, Superseded> {
        let mut pause = FIRST_WAIT;
        loop {
            match self.create().await {
                Created::Launch(launch) => return Ok(Some(launch)),
                Created::Unwanted(reason) => return self.stop(reason).await.map(|()| None),
                Created::Failed(reason) if reason.is_passing => {
                    if let Some(reason) = self.wait_out(&reason, pause).await? {
                        return self.stop(reason).await.map(|()| None);
                    }
                    pause = (pause * 2).min(LONGEST_WAIT);
                }
                Created::Failed(reason) => return self.fail(reason).await.map(|()| None),
            }
        }
    }

    async fn create(&mut self) -> Created {
        self.launched = self.wanted.borrow_and_update().clone();
        if let Err(reason) = self.make_room().await {
            return Created::Failed(reason);
        }
        let configuration = Arc::clone(&self.launched.configuration);
        let server = self.server.take();
        let made = tokio::select! {
            made = launch::prepare(&self.inner, self.instance.id, &configuration, server, &self.live.log) => made,
            reason = gone(&mut self.wanted, &self.inner.shutdown) => return Created::Unwanted(reason),
        };
        match made {
            Ok(launch) => {
                self.instance.version = Some(launch.version.clone());
                self.launched.installed.clone_from(&launch.installed);
                *self.live.tree.lock().unwrap_or_else(PoisonError::into_inner) = Some(launch.tree.clone());
                Created::Launch(Box::new(launch))
            }
            Err(reason) => Created::Failed(reason),
        }
    }

    /// What is started anew may have been given other limits: there has to be room for them, too.
    async fn make_room(&mut self) -> Result<(), Reason> {
        if self.instance.limits == self.wanted_limits() {
            return Ok(());
        }
        let inner = Arc::clone(&self.inner);
        let _admission = inner.admission.lock().await;
        self.find_room().await?;
        let noted = async {
            let mut connection = inner.database.for_all().await?;
            store::note_limits(&mut connection, &self.instance).await?;
            Ok::<_, RuntimeError>(())
        };
        noted.await.map_err(|error| launch::reason_of(&error))
    }

    /// One start, and the time in which the server runs; false when the instance is over.
    async fn round(&mut self, launch: &Launch) -> Result<bool, Superseded> {
        let (reason, is_error) = match self.boot(launch).await? {
            Booted::Unwanted(reason) => return self.stop(reason).await.map(|()| false),
            // Only what had run before is tried again, and what a known cure was applied to.
            Booted::Failed(reason) if !self.has_run => {
                if self.cure(launch, &reason).await {
                    return Ok(true);
                }
                return self.fail(reason).await.map(|()| false);
            }
            Booted::Failed(reason) => (reason, true),
            Booted::Running(running) => {
                self.has_run = true;
                if let Err(superseded) = self.step(State::Running, None).await {
                    self.end(running.body, &running.session).await;
                    return Err(superseded);
                }
                match self.watch(*running).await? {
                    End::Unwanted => return Ok(false),
                    End::Restart => return Ok(true),
                    End::Died(reason, is_error) => (reason, is_error),
                }
            }
        };
        if reason.code == AUTHORIZATION_NEEDED || !self.is_to_be_restarted(is_error) {
            return self.fail(reason).await.map(|()| false);
        }
        match self.wait(reason).await? {
            After::Again => Ok(true),
            After::Unwanted(reason) => self.stop(reason).await.map(|()| false),
            After::Enough(reason) => self.fail(reason).await.map(|()| false),
        }
    }

    /// Starts it. An engine that is away is waited for, however long.
    async fn boot(&mut self, launch: &Launch) -> Result<Booted, Superseded> {
        loop {
            let mut starting = Starting::default();
            let booted = tokio::select! {
                booted = boot(&self.inner, &mut self.instance, &self.live, launch, &mut starting) => match booted {
                    Ok(running) => Booted::Running(Box::new(running)),
                    Err(reason) => Booted::Failed(reason),
                },
                reason = gone(&mut self.wanted, &self.inner.shutdown) => Booted::Unwanted(reason),
            };
            match booted {
                Booted::Failed(reason) => {
                    starting.kill().await;
                    if reason.code != ENGINE_UNAVAILABLE {
                        return Ok(Booted::Failed(reason));
                    }
                    if let Some(reason) = self.wait_out(&reason, ENGINE_PAUSE).await? {
                        return Ok(Booted::Unwanted(reason));
                    }
                }
                Booted::Unwanted(reason) => {
                    self.clear(starting).await;
                    return Ok(Booted::Unwanted(reason));
                }
                running @ Booted::Running(_) => return Ok(running),
            }
        }
    }

    /// Ends what was being started, before it is said to be over.
    async fn clear(&self, mut starting: Starting) {
        starting.kill().await;
        if self.instance.backend == Backend::Container
            && let Err(error) = self.inner.engine.remove(&containers::name_of(self.instance.id)).await
        {
            tracing::warn!(instance = %self.instance.id, %error, "a container that was being started could not be removed yet");
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

    /// Waits before the next start, longer each time. Too many in a row are enough, unless what keeps it from running
    /// passes by itself.
    async fn wait(&mut self, reason: Reason) -> Result<After, Superseded> {
        self.instance.attempt += 1;
        if self.instance.attempt > MOST_ATTEMPTS && !reason.is_passing {
            let text = format!("it was started {MOST_ATTEMPTS} times in a row and never lasted; the last time: {}", reason.text);
            return Ok(After::Enough(Reason::new("crash_loop", text)));
        }
        let doublings = u32::try_from(self.instance.attempt - 2).unwrap_or(0).min(6);
        let pause = if self.instance.attempt == 1 { Duration::ZERO } else { (FIRST_WAIT * 2_u32.pow(doublings)).min(LONGEST_WAIT) };
        let pause = random::jitter(pause);
        self.set_next_try(pause);
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

    /// Waits for what is no failure of the server; gives why it is not wanted any more, if so.
    async fn wait_out(&mut self, reason: &Reason, pause: Duration) -> Result<Option<Reason>, Superseded> {
        tracing::debug!(instance = %self.instance.id, reason = reason.text, "a start waits");
        self.set_next_try(pause);
        self.note_wait(reason).await?;
        Ok(self.pause(pause).await)
    }

    fn set_next_try(&mut self, pause: Duration) {
        self.instance.next_try_at = Some(clock::now() + TimeDelta::from_std(pause).unwrap_or_default());
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
}
