//! The chain: what is hashed of an event, and how one link holds the next.

use sha2::{Digest as _, Sha256};

use crate::model::{Body, Link};

/// What comes before the first event.
pub(crate) const GENESIS: [u8; 32] = [0; 32];
/// The first byte of what is hashed, so that a link is never taken for anything else.
const LINK: u8 = 0x01;
const COMMITMENT: u8 = 0x02;

/// Every member with its length before it, in one fixed order, so that no two events read the same.
/// Times count in microseconds, which is what the database keeps.
pub(crate) fn canonical(body: &Body) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let mut put = |bytes: Option<&[u8]>| match bytes {
        Some(bytes) => {
            out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX - 1).to_be_bytes());
            out.extend_from_slice(bytes);
        }
        None => out.extend_from_slice(&u32::MAX.to_be_bytes()),
    };
    put(Some(body.id.0.as_bytes()));
    put(Some(&body.at.timestamp_micros().to_be_bytes()));
    put(Some(body.event_type.as_str().as_bytes()));
    put(Some(body.action.as_bytes()));
    put(Some(body.outcome.as_str().as_bytes()));
    put(Some(body.actor.as_bytes()));
    put(Some(body.owner.as_bytes()));
    put(Some(body.door.as_bytes()));
    put(body.request_id.as_deref().map(str::as_bytes));
    put(body.target_type.as_deref().map(str::as_bytes));
    put(body.target_id.as_deref().map(str::as_bytes));
    put(body.server_id.as_deref().map(str::as_bytes));
    put(body.answers.as_ref().map(|id| id.0.as_bytes().as_slice()));
    put(Some(body.detail.as_bytes()));
    put(body.pii_commitment.as_ref().map(<[u8; 32]>::as_slice));
    out
}

/// `SHA-256(0x01 | prev | seq | authentic | SHA-256(canonical))`.
pub(crate) fn hash(prev: &[u8; 32], seq: i64, authentic: bool, canonical: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update([LINK]);
    hasher.update(prev);
    hasher.update(seq.to_be_bytes());
    hasher.update([u8::from(authentic)]);
    hasher.update(Sha256::digest(canonical));
    hasher.finalize().into()
}

/// What the chain holds of what is personal: nothing that could be tried out without the salt.
pub(crate) fn commitment(salt: &[u8; 16], content: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update([COMMITMENT]);
    hasher.update(salt);
    hasher.update(content);
    hasher.finalize().into()
}

impl Link {
    /// The next link.
    pub(crate) fn new(prev: [u8; 32], seq: i64, body: Body, authentic: bool) -> Self {
        let hash = hash(&prev, seq, authentic, &canonical(&body));
        Self { seq, body, authentic, prev, hash }
    }

    /// The hash that it has to have.
    pub(crate) fn expected(&self) -> [u8; 32] {
        hash(&self.prev, self.seq, self.authentic, &canonical(&self.body))
    }
}

/// 32 bytes of hexadecimal: a digest, or the public key that checkpoints are signed with.
pub fn unhex(text: &str) -> Option<[u8; 32]> {
    platform::random::unhex(text)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use platform::{Actor, clock};
    use proptest::prelude::*;

    use super::*;
    use crate::model::{EventId, NewEvent};

    fn body() -> Body {
        NewEvent::change("test.change").on("thing", 1).by(&Actor::system("test")).0
    }

    #[test]
    fn every_member_counts() {
        let plain = body();
        let changed: [fn(&mut Body); 12] = [
            |body| body.id = EventId::fresh(),
            |body| body.at += chrono::TimeDelta::microseconds(1),
            |body| body.action.push('x'),
            |body| body.outcome = crate::Outcome::Denied,
            |body| body.actor.push('x'),
            |body| body.owner.push('x'),
            |body| body.request_id = Some(String::new()),
            |body| body.target_id = None,
            |body| body.server_id = Some(String::new()),
            |body| body.answers = Some(EventId::fresh()),
            |body| body.detail.push(' '),
            |body| body.pii_commitment = Some([0; 32]),
        ];
        for (n, change) in changed.iter().enumerate() {
            let mut other = plain.clone();
            change(&mut other);
            assert_ne!(canonical(&plain), canonical(&other), "{n}");
        }
    }

    #[test]
    fn what_waits_survives_its_way_through_json() {
        let body = Body { at: clock::now(), pii_commitment: Some([7; 32]), ..body() };
        assert_eq!(serde_json::from_str::<Body>(&serde_json::to_string(&body).unwrap()).unwrap(), body);
    }

    proptest! {
        /// Moving bytes from one member to the next makes another event.
        #[test]
        fn members_do_not_run_together(text in ".{0,20}", at in 0usize..20) {
            let at = text.floor_char_boundary(at.min(text.len()));
            let split = |at: usize| Body { actor: text[..at].into(), owner: text[at..].into(), ..body_at_epoch() };
            let whole = split(text.len());
            prop_assert_eq!(canonical(&split(at)) == canonical(&whole), at == text.len());
        }
    }

    fn body_at_epoch() -> Body {
        Body { id: EventId(uuid::Uuid::nil()), at: chrono::DateTime::UNIX_EPOCH, ..body() }
    }
}
