use std::time::Duration;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};

use super::{Front, Peer};
use crate::{
    Actor,
    problem::{Class, Problem},
};

/// How often it is looked, which is how long an end may go unnoticed.
const LOOK: Duration = Duration::from_secs(2);

/// Whether whoever sent a request may still have what they asked for: an answer that goes on for hours, such as a stream
/// of events, ends with the login or the token that it was asked for with.
pub struct Standing {
    front: Front,
    headers: HeaderMap,
    peer: Option<Peer>,
    /// Who asked.
    pub actor: Actor,
}

impl Standing {
    /// Ready when the token has ended, or stands for somebody with other rights. While that cannot be told, nothing ends.
    pub async fn ended(self) {
        loop {
            tokio::time::sleep(LOOK).await;
            match self.front.access().authenticate(&self.headers, self.peer, &self.actor.origin, None).await {
                Ok(identity) if identity != self.actor.identity => return,
                Err(problem) if problem.class == Class::Unauthenticated => return,
                Ok(_) | Err(_) => {}
            }
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Standing {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let front = Front::of(parts)?;
        let actor = Actor::from_request_parts(parts, state).await?;
        // What a trusted caller from this machine is known by, too.
        let kept = [header::AUTHORIZATION, header::HOST];
        let headers = kept.into_iter().flat_map(|name| parts.headers.get_all(&name).iter().map(move |value| (name.clone(), value.clone())));
        Ok(Self { front, headers: headers.collect(), peer: parts.extensions.get().copied(), actor })
    }
}
