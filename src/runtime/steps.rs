//! The steps of an instance, as they are stored and told.

use std::{sync::Arc, time::Duration};

use configurations::Configuration;
use platform::database::DbError;

use crate::{
    model::{Reason, State},
    store,
    supervisor::{Superseded, Supervisor},
};

/// How long a step waits for a database that is away.
const RETRY: Duration = Duration::from_millis(500);

impl Supervisor {
    /// Ends what is not wanted before it ran.
    pub(crate) async fn stop(&mut self, reason: Reason) -> Result<(), Superseded> {
        self.step(State::Stopping, Some(reason.clone())).await?;
        self.step(State::Stopped, Some(reason)).await
    }

    /// It failed: nothing is started again before somebody wants it anew.
    pub(crate) async fn fail(&mut self, reason: Reason) -> Result<(), Superseded> {
        self.live.log.note(&format!("failed: {}", reason.text));
        // What was started, and not what may be wanted by now: that is tried for itself.
        let configuration = Arc::clone(&self.launched.configuration);
        // One session says nothing of the others.
        let given_up = self.instance.session.is_empty().then_some(&*configuration);
        self.make_step(State::Failed, Some(reason), given_up).await
    }

    /// Makes a step, and tells of it. While the database is away, nothing goes on.
    pub(crate) async fn step(&mut self, to: State, reason: Option<Reason>) -> Result<(), Superseded> {
        self.make_step(to, reason, None).await
    }

    /// Makes a step; what is `given_up` is switched off with it.
    async fn make_step(&mut self, to: State, reason: Option<Reason>, given_up: Option<&Configuration>) -> Result<(), Superseded> {
        if !self.instance.state.may_become(to) {
            tracing::error!(instance = %self.instance.id, from = %self.instance.state, %to, "a step that there is not");
            self.inner.count(self.instance.state, to, "refused");
            return Err(Superseded);
        }
        let reason = reason.map(|reason| Reason { text: self.live.log.clean(reason.text.as_bytes()), ..reason });
        if to.is_over() {
            self.instance.pid = None;
            self.instance.container = None;
            self.instance.next_try_at = None;
        }
        loop {
            match self.inner.store_step(&self.instance, to, reason.as_ref(), given_up).await {
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
    pub(crate) async fn note_wait(&self, reason: &Reason) -> Result<(), Superseded> {
        let reason = Reason { text: self.live.log.clean(reason.text.as_bytes()), ..reason.clone() };
        let noted = async {
            let mut connection = self.inner.database.for_all().await?;
            let is_ours = store::note_try(&mut connection, &self.instance, &reason).await?;
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
