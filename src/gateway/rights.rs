//! Streams last longer than the right to them may: it is looked again and again whether it is still there.

use std::{convert::Infallible, pin::pin, time::Duration};

use async_stream::stream;
use axum::{body::Bytes, extract::FromRequestParts as _, http::request::Parts};
use futures_util::{Stream as AsyncStream, StreamExt as _};
use platform::{Action, Actor, Class, Problem};

use crate::{Gateway, place::Place};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(4);

/// Who opened a stream, and where.
pub(crate) struct Rights {
    pub(crate) gateway: Gateway,
    pub(crate) parts: Parts,
    pub(crate) owner: String,
    pub(crate) place: Place,
}

impl Rights {
    /// Returns once the token is worth nothing any more, or not for this.
    async fn gone(self) {
        loop {
            tokio::time::sleep(EVERY).await;
            // What is busy or away says nothing of rights.
            let is_refusal = |problem: &Problem| matches!(problem.class, Class::Unauthenticated | Class::Forbidden | Class::NotFound);
            if self.check().await.is_err_and(|problem| is_refusal(&problem)) {
                return;
            }
        }
    }

    async fn check(&self) -> Result<(), Problem> {
        let actor = Actor::from_request_parts(&mut self.parts.clone(), &()).await?;
        actor.require(Action::ToolsCall)?;
        if actor.to_string() != self.owner {
            return Err(Problem::new(Class::Unauthenticated, "unauthenticated", "somebody else came with the same token"));
        }
        Ok(self.gateway.members(&actor, &self.place).await.map(drop)?)
    }
}

/// A stream, for as long as whoever opened it may read it.
pub(crate) fn while_allowed(
    events: impl AsyncStream<Item = Result<Bytes, Infallible>> + Send + 'static,
    rights: Rights,
) -> impl AsyncStream<Item = Result<Bytes, Infallible>> + Send + 'static {
    stream! {
        let (mut events, mut gone) = (pin!(events), pin!(rights.gone()));
        loop {
            tokio::select! {
                () = &mut gone => return,
                event = events.next() => match event {
                    Some(event) => yield event,
                    None => return,
                },
            }
        }
    }
}
