//! One request and everything that belongs to it: what the server says meanwhile, what it asks back, its answer.

use std::sync::{Arc, Weak};

use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

use crate::wire::Wire;

/// How much of what a server says during one request waits for its reader; a flood beyond that is lost.
pub(crate) const UNHEARD: usize = 64;

/// Who has requests under way with a server: what it asks back during them is for that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Party(pub u64);

/// Why a request has no result.
#[derive(Debug)]
pub enum Failure {
    /// The server's error, as it came.
    Refused(Box<RawValue>),
    /// It has gone.
    Closed,
}

/// What a request comes to, as the server wrote it.
pub type Reply = Result<Box<RawValue>, Failure>;

/// What a server says that is not an answer.
#[derive(Debug)]
pub enum Heard {
    /// The parameters of `notifications/progress` on a request.
    Progress(Box<RawValue>),
    /// Any other notification.
    Notification(String, Option<Box<RawValue>>),
    /// It wants something of its client.
    Asked(Asked),
}

/// A request of a server to its client. One that is dropped is refused.
#[derive(Debug)]
pub struct Asked {
    /// Which.
    pub method: String,
    /// With what.
    pub params: Option<Box<RawValue>>,
    /// None once it is answered.
    id: Option<Box<RawValue>>,
    wire: Weak<Wire>,
    taken_back: Option<oneshot::Receiver<()>>,
}

impl Asked {
    pub(crate) fn new(wire: &Arc<Wire>, method: String, params: Option<Box<RawValue>>, id: &RawValue) -> Self {
        let taken_back = Some(wire.expect_taken_back(id));
        Self { method, params, id: Some(id.to_owned()), wire: Arc::downgrade(wire), taken_back }
    }

    /// Tells when the server has taken it back: `false` once that cannot be any more. To be had once.
    pub fn taken_back(&mut self) -> impl Future<Output = bool> + Send + use<> {
        let told = self.taken_back.take();
        async move {
            match told {
                Some(told) => told.await.is_ok(),
                None => false,
            }
        }
    }

    /// Answers it with a result or an error.
    pub fn answer(mut self, answer: Result<&RawValue, &RawValue>) {
        self.tell(answer);
    }

    /// Refuses it with a code of JSON-RPC and a sentence.
    pub fn refuse(self, code: i64, message: &str) {
        let error = serde_json::json!({ "code": code, "message": message });
        if let Ok(error) = serde_json::value::to_raw_value(&error) {
            self.answer(Err(&error));
        }
    }

    fn tell(&mut self, answer: Result<&RawValue, &RawValue>) {
        if let (Some(id), Some(wire)) = (self.id.take(), self.wire.upgrade()) {
            wire.answer_asked(&id, answer);
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let nobody = r#"{"code":-32603,"message":"there is nobody who could be asked"}"#;
        if self.id.is_some()
            && let Ok(error) = RawValue::from_string(nobody.to_owned())
        {
            self.tell(Err(&error));
        }
    }
}

/// What comes next of a request.
#[derive(Debug)]
pub enum Next {
    /// Something before the answer.
    Heard(Heard),
    /// The end.
    Answer(Reply),
}

/// A request that is made once it is sent. Dropped before its answer, it is cancelled.
#[derive(Debug)]
pub struct Ticket {
    pub(crate) wire: Arc<Wire>,
    pub(crate) id: u64,
    pub(crate) answer: oneshot::Receiver<Reply>,
    pub(crate) heard: mpsc::Receiver<Heard>,
    /// Whether the server is at work on it.
    pub(crate) is_open: bool,
}

impl Ticket {
    /// Its number; also its progress token, where one is wanted.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Sends it, with parameters that are JSON.
    pub async fn send(&mut self, method: &str, params: &str) -> Result<(), Failure> {
        // The handshake is never cancelled (basic/utilities/cancellation).
        self.is_open = method != "initialize";
        if method == "subscriptions/listen" {
            self.wire.set_idle(self.id);
        }
        self.wire.send_request(self.id, method, params).await
    }

    /// What comes next. What the server said before its answer comes before that.
    pub async fn next(&mut self) -> Next {
        tokio::select! {
            biased;
            Some(heard) = self.heard.recv() => Next::Heard(heard),
            answer = &mut self.answer => {
                self.is_open = false;
                Next::Answer(answer.unwrap_or(Err(Failure::Closed)))
            }
        }
    }

    /// From now on, what the server asks is for this party while the request is under way; for nobody without one.
    pub fn set_party(&self, party: Option<Party>) {
        self.wire.set_party(self.id, party);
    }

    /// Its answer; what is said meanwhile is of no interest.
    pub async fn answer(&mut self) -> Reply {
        loop {
            if let Next::Answer(reply) = self.next().await {
                return reply;
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.wire.forget(self.id, self.is_open);
    }
}
