//! Looking after a server that runs: whether it lives, answers, is wanted, and keeps within its limits.

use std::{sync::Arc, time::Duration};

use configurations::{Configuration, Lifecycle};
use futures_util::future::{BoxFuture, OptionFuture};
use tokio::sync::watch;

use crate::{
    body::Body,
    boot::{self, Running},
    live::Wanted,
    model::{Reason, State},
    session::Session,
    supervisor::{FABRIC_STOPPED, Superseded, Supervisor},
    wire::CallError,
};

/// After so long without an end, earlier ends no longer count.
const STEADY: Duration = Duration::from_mins(1);
/// So many questions in a row without an answer mean that a server is not well.
const MOST_SILENCES: u32 = 3;
/// How long a server may go on that has closed its output.
const CLOSED: Duration = Duration::from_secs(2);

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
pub(crate) enum End {
    Unwanted,
    Restart,
    Died(Reason, bool),
}

impl Supervisor {
    /// Looks after a server that runs, until its process is gone.
    pub(crate) async fn watch(&mut self, running: Running) -> Result<End, Superseded> {
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
    pub(crate) async fn end(&self, body: Body, session: &Session) {
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
        let is_persistent = self.instance.session.is_empty() && self.wanted.borrow().configuration.lifecycle == Lifecycle::Persistent;
        let is_idle = !is_persistent && session.wire.in_flight() == 0 && self.live.idle_for() >= self.inner.config.idle_after;
        is_idle.then(|| Reason::new("idle", "nobody called it for a while"))
    }
}

/// Returns when the instance is not to run.
pub(crate) async fn gone(wanted: &mut watch::Receiver<Wanted>, shutdown: &platform::Shutdown) -> Reason {
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
    now.values != before.values || now.limits != before.limits || now.sharing != before.sharing
}
