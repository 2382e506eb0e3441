//! Calls of modern clients that wait while a server with a handshake asks something back.
//!
//! Such a server asks by a request and goes on waiting; a modern client is answered with `input_required` and calls again
//! with what was asked for. In between, the call is parked here, and the client holds a `requestState` that names it.
//! That state comes back from outside: it is authenticated, of one actor at one place, and ends.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use platform::{clock, keys::SecretKey, random};
use runtime::{Asked, Ticket};
use serde_json::value::RawValue;

use crate::{
    backend::Backend,
    client::THINKING,
    place::Place,
    rpc::{Fault, INVALID_PARAMS, Raw, UNAVAILABLE, quoted},
};

/// How many calls may wait of everybody, and of one actor.
const MOST: usize = 1000;
const MOST_OF_ONE: usize = 50;
/// What the only question of a parked call is called.
pub(crate) const QUESTION: &str = "question";

/// A call that waits.
pub(crate) struct Parked {
    pub(crate) ticket: Ticket,
    pub(crate) asked: Asked,
    pub(crate) token: Option<Raw>,
    pub(crate) backend: Arc<Backend>,
    pub(crate) asker: Asker,
}

/// For whom, where and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) owner: String,
    pub(crate) place: Place,
    pub(crate) method: String,
    /// The tool, the prompt or the resource.
    pub(crate) of: String,
}

/// Where they wait.
pub(crate) struct Lot {
    key: SecretKey,
    all: Mutex<HashMap<String, (i64, Parked)>>,
}

impl Default for Lot {
    fn default() -> Self {
        // Calls do not outlive this process, and what names them need not.
        Self { key: SecretKey::generate(), all: Mutex::default() }
    }
}

impl Lot {
    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<String, (i64, Parked)>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a call wait; gives the result that asks the client.
    pub(crate) fn park(&self, parked: Parked) -> Result<String, Fault> {
        let params = parked.asked.params.as_deref().map_or("{}", RawValue::get);
        let question = format!("{{\"method\":{},\"params\":{params}}}", quoted(&parked.asked.method));
        let kept = i64::try_from(THINKING.as_millis()).unwrap_or(i64::MAX);
        let (id, until) = (random::token(), clock::now().timestamp_millis() + kept);
        let state = self.state(&id, until, &parked.asker);
        let mut all = self.all();
        all.retain(|_, (until, _)| *until > clock::now().timestamp_millis());
        let of_one = all.values().filter(|(_, other)| other.asker.owner == parked.asker.owner).count();
        if all.len() >= MOST || of_one >= MOST_OF_ONE {
            return Err(Fault::of(UNAVAILABLE, "too many calls wait for an answer of their clients"));
        }
        all.insert(id, (until, parked));
        Ok(format!(
            "{{\"resultType\":\"input_required\",\"inputRequests\":{{\"{QUESTION}\":{question}}},\"requestState\":{}}}",
            quoted(&state)
        ))
    }

    /// The call that a state names, if it is this asker's and there still.
    pub(crate) fn take(&self, state: &str, asker: &Asker) -> Result<Parked, Fault> {
        let unfit = || Fault::of(INVALID_PARAMS, "Invalid params: `requestState` is not one that was given for this call, or it has ended");
        let mut parts = state.splitn(3, '.');
        let (Some(id), Some(until)) = (parts.next(), parts.next().and_then(|until| until.parse::<i64>().ok())) else { return Err(unfit()) };
        let mac = parts.next().and_then(|mac| URL_SAFE_NO_PAD.decode(mac).ok()).ok_or_else(unfit)?;
        if !self.key.verify(&[&signed(id, until, asker)], &mac) {
            return Err(unfit());
        }
        let (until, parked) = self.all().remove(id).ok_or_else(unfit)?;
        if until <= clock::now().timestamp_millis() { Err(unfit()) } else { Ok(parked) }
    }

    /// Ends those that waited too long; what they wait for is refused.
    pub(crate) fn sweep(&self) {
        let now = clock::now().timestamp_millis();
        self.all().retain(|_, (until, _)| *until > now);
    }

    fn state(&self, id: &str, until: i64, asker: &Asker) -> String {
        format!("{id}.{until}.{}", URL_SAFE_NO_PAD.encode(self.key.mac(&[&signed(id, until, asker)])))
    }
}

/// What a state is authenticated for; parts are told apart by their lengths.
fn signed(id: &str, until: i64, asker: &Asker) -> Vec<u8> {
    let (until, place) = (until.to_string(), asker.place.to_string());
    let mut bytes = Vec::new();
    for part in [id, &until, &asker.owner, &place, &asker.method, &asker.of] {
        bytes.extend((part.len() as u64).to_be_bytes());
        bytes.extend(part.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(owner: &str) -> Asker {
        Asker { owner: owner.into(), place: Place::All, method: "tools/call".into(), of: "a".into() }
    }

    #[test]
    fn a_state_is_of_one_actor_and_one_call_and_cannot_be_made_up() {
        let lot = Lot::default();
        let until = clock::now().timestamp_millis() + 1000;
        let state = lot.state("id", until, &asker("one"));
        let fits = |state: &str, asker: &Asker| {
            let mac = URL_SAFE_NO_PAD.decode(state.rsplit('.').next().unwrap()).unwrap();
            lot.key.verify(&[&signed("id", until, asker)], &mac)
        };
        assert!(fits(&state, &asker("one")));
        assert!(!fits(&state, &asker("two")));
        assert!(!fits(&state, &Asker { of: "b".into(), ..asker("one") }));
        assert!(!fits(&state, &Asker { place: Place::Server("x".into()), ..asker("one") }));
        for forged in ["", ".", "..", "id.1.x", "id.99999999999999999999.AAAA", &state, &Lot::default().state("id", until, &asker("one"))] {
            assert!(matches!(lot.take(forged, &asker("one")), Err(Fault::Ours { code: INVALID_PARAMS, .. })), "{forged}");
        }
    }
}
