//! JSON-RPC over lines: what is said to a process, and what it answers. Results stay as they came, member by member.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, value::RawValue};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
};

use crate::{
    exchange::{Asked, Failure, Heard, Party, Reply, Ticket, UNHEARD},
    lines::{Line, Lines},
    log::Log,
    message::{Belonging, BelongingMeta, Message, TakenBack, WireError},
};

/// How many messages may wait to be written to a process that does not read.
const UNWRITTEN: usize = 1024;
/// How many bytes of them; a longer message waits until it is alone.
const UNWRITTEN_BYTES: u32 = 8 << 20;

/// Why a request has no result, for people.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// The server refused: its code and its sentence.
    #[error("the server answered with an error: {message} ({code})")]
    Refused {
        /// As JSON-RPC has it.
        code: i64,
        /// What it says, cut and without control characters.
        message: String,
    },
    /// It did not answer in time.
    #[error("the server did not answer within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// It answered with more than is kept.
    #[error("the server answered with more than may be kept")]
    TooMuch,
    /// It has gone.
    #[error("the server has ended")]
    Closed,
}

impl From<Failure> for CallError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(error) => {
                let error: WireError = serde_json::from_str(error.get()).unwrap_or_default();
                Self::Refused { code: error.code, message: plain(&error.message, 500) }
            }
            Failure::Closed => Self::Closed,
        }
    }
}

/// The other end of a process's standard input and output.
#[derive(Debug)]
pub struct Wire {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, Waiting>>,
    /// What the server asks, by its ids, until that is answered or taken back.
    asked: Mutex<HashMap<String, oneshot::Sender<()>>>,
    /// `None` once nothing more is said.
    out: Mutex<Option<Out>>,
    room: Arc<Semaphore>,
    /// Of answers, which never wait behind a long request, and of cancellations.
    urgent_room: Arc<Semaphore>,
    closed: AtomicBool,
    /// Told when it closes.
    end: Notify,
    /// For what belongs to no request.
    outside: mpsc::Sender<Heard>,
}

/// Where messages go: in their order, and before those.
#[derive(Clone, Debug)]
struct Out {
    usual: mpsc::Sender<Unwritten>,
    urgent: mpsc::Sender<Unwritten>,
}

/// A request under way.
#[derive(Debug)]
struct Waiting {
    tell: oneshot::Sender<Reply>,
    heard: mpsc::Sender<Heard>,
    /// None for the fabric's own, which nothing is asked.
    party: Option<Party>,
    /// It waits for what may come, and keeps no server busy.
    is_idle: bool,
}

/// A message on its way, and the room that it takes.
#[derive(Debug)]
struct Unwritten {
    line: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

/// What a stranger says, for people.
pub(crate) fn plain(text: &str, most: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(most).collect()
}

impl Wire {
    /// Takes over both ends. The tasks end when the process closes its output, or when the wire is dropped.
    pub(crate) fn open(
        input: impl AsyncWrite + Send + Unpin + 'static,
        output: impl AsyncRead + Send + Unpin + 'static,
        log: Arc<Log>,
        outside: mpsc::Sender<Heard>,
    ) -> Arc<Self> {
        let (usual, queue) = mpsc::channel(UNWRITTEN);
        let (urgent, urgent_queue) = mpsc::channel(UNWRITTEN);
        let wire = Arc::new(Self {
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
            asked: Mutex::default(),
            out: Mutex::new(Some(Out { usual, urgent })),
            room: Arc::new(Semaphore::new(UNWRITTEN_BYTES as usize)),
            urgent_room: Arc::new(Semaphore::new(UNWRITTEN_BYTES as usize)),
            closed: AtomicBool::new(false),
            end: Notify::new(),
            outside,
        });
        spawn(write(input, queue, urgent_queue));
        spawn(read(output, Arc::clone(&wire), log));
        wire
    }

    /// The place of a request that is not sent yet.
    pub(crate) fn ticket(self: &Arc<Self>, party: Option<Party>) -> Ticket {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (tell, answer) = oneshot::channel();
        let (say, heard) = mpsc::channel(UNHEARD);
        self.waiting().insert(id, Waiting { tell, heard: say, party, is_idle: false });
        Ticket { wire: Arc::clone(self), id, answer, heard, is_open: false }
    }

    /// Asks, and waits for the answer that long at most.
    pub(crate) async fn request(self: &Arc<Self>, method: &str, params: &Value, within: Duration) -> Result<Box<RawValue>, CallError> {
        let mut ticket = self.ticket(None);
        let asked = async {
            ticket.send(method, &params.to_string()).await?;
            ticket.answer().await
        };
        // What takes too long is cancelled: the server may be at work on it still.
        let answered = tokio::time::timeout(within, asked).await.map_err(|_| CallError::Timeout(within))?;
        Ok(answered?)
    }

    pub(crate) async fn send_request(&self, id: u64, method: &str, params: &str) -> Result<(), Failure> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Failure::Closed);
        }
        let mut line = String::with_capacity(params.len() + method.len() + 64);
        let _ = write!(line, "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":{},\"params\":", quoted(method));
        self.send(line, params).await
    }

    /// Tells without an answer; the parameters are JSON.
    pub(crate) async fn notify(&self, method: &str, params: Option<&str>) -> Result<(), Failure> {
        let head = format!("{{\"jsonrpc\":\"2.0\",\"method\":{},\"params\":", quoted(method));
        self.send(head, params.unwrap_or("{}")).await
    }

    async fn send(&self, head: String, params: &str) -> Result<(), Failure> {
        let line = line(head, params);
        let out = self.out().clone().ok_or(Failure::Closed)?;
        let room = Arc::clone(&self.room).acquire_many_owned(room_of(&line)).await.map_err(|_| Failure::Closed)?;
        out.usual.send(Unwritten { line, _room: room }).await.map_err(|_| Failure::Closed)
    }

    fn out(&self) -> std::sync::MutexGuard<'_, Option<Out>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the process's input, once what is on its way is written: the way to ask a server to end.
    pub(crate) fn hang_up(&self) {
        self.out().take();
    }

    /// What a full queue does not take is lost, as it would be on a broken pipe.
    fn offer(&self, head: String, rest: &str) {
        let line = line(head, rest);
        if let (Some(out), Ok(room)) = (&*self.out(), Arc::clone(&self.urgent_room).try_acquire_many_owned(room_of(&line))) {
            out.urgent.try_send(Unwritten { line, _room: room }).ok();
        }
    }

    fn asked(&self) -> std::sync::MutexGuard<'_, HashMap<String, oneshot::Sender<()>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server asks something; gives what tells when it takes that back.
    pub(crate) fn expect_taken_back(&self, id: &RawValue) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        self.asked().insert(id.get().to_owned(), tell);
        told
    }

    /// Answers what the server asks; nobody waits for an answer to what was taken back.
    pub(crate) fn answer_asked(&self, id: &RawValue, answer: Result<&RawValue, &RawValue>) {
        if self.asked().remove(id.get()).is_none() {
            return;
        }
        let (key, value) = match answer {
            Ok(result) => ("result", result),
            Err(error) => ("error", error),
        };
        self.offer(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"{key}\":"), value.get());
    }

    /// Nobody waits for a request any more; one that is still worked on is cancelled.
    pub(crate) fn forget(&self, id: u64, is_open: bool) {
        if self.waiting().remove(&id).is_some() && is_open {
            let params = format!("{{\"requestId\":{id},\"reason\":\"nobody waits for it any more\"}}");
            let line = line("{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":".to_owned(), &params);
            // Never before its request, which may still be on its way.
            if let (Some(out), Ok(room)) = (&*self.out(), Arc::clone(&self.urgent_room).try_acquire_many_owned(room_of(&line))) {
                out.usual.try_send(Unwritten { line, _room: room }).ok();
            }
        }
    }

    /// Returns once the process has closed its output.
    pub(crate) async fn closed(&self) {
        let end = self.end.notified();
        if !self.closed.load(Ordering::Acquire) {
            end.await;
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many requests the server is at work on.
    pub(crate) fn in_flight(&self) -> usize {
        self.waiting().values().filter(|waiting| !waiting.is_idle).count()
    }

    pub(crate) fn set_party(&self, id: u64, party: Option<Party>) {
        if let Some(waiting) = self.waiting().get_mut(&id) {
            waiting.party = party;
        }
    }

    pub(crate) fn set_idle(&self, id: u64) {
        if let Some(waiting) = self.waiting().get_mut(&id) {
            waiting.is_idle = true;
        }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.waiting().clear();
        self.asked().clear();
        self.end.notify_waiters();
    }

    fn take(self: &Arc<Self>, line: &[u8]) -> Result<(), ()> {
        let message: Message = serde_json::from_slice(line).map_err(|_| ())?;
        let params = message.params.map(ToOwned::to_owned);
        match (message.method, message.id) {
            (Some(method), Some(id)) if method == "ping" => {
                self.offer(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":"), "{}");
            }
            (Some(method), Some(id)) => self.hear(Heard::Asked(Asked::new(self, method, params, id))),
            (Some(method), None) => self.hear_notification(method, params),
            (None, Some(id)) => {
                let reply = match (message.result, message.error) {
                    (_, Some(error)) => Err(Failure::Refused(error.to_owned())),
                    (Some(result), None) => Ok(result.to_owned()),
                    (None, None) => return Err(()),
                };
                let waiting = id.get().parse().ok().and_then(|id: u64| self.waiting().remove(&id));
                // An answer that comes too late is nobody's.
                if let Some(waiting) = waiting {
                    waiting.tell.send(reply).ok();
                }
            }
            (None, None) => return Err(()),
        }
        Ok(())
    }

    fn hear_notification(&self, method: String, params: Option<Box<RawValue>>) {
        if method == "notifications/cancelled"
            && let Some(back) = params.as_deref().and_then(|params| serde_json::from_str::<TakenBack<'_>>(params.get()).ok())
            && let Some(tell) = self.asked().remove(back.id.get())
        {
            tell.send(()).ok();
        }
        let belonging: Belonging = params.as_deref().and_then(|params| serde_json::from_str(params.get()).ok()).unwrap_or_default();
        let of = belonging.progress.or_else(|| belonging.meta.and_then(BelongingMeta::subscription));
        match (method.as_str(), params, of) {
            ("notifications/progress", Some(params), Some(of)) => self.tell(of, Heard::Progress(params)),
            // Progress of nothing; and of what it takes back, by a number that nobody else knows, a late answer does no harm.
            ("notifications/progress" | "notifications/cancelled", ..) => {}
            (_, params, Some(of)) => self.tell(of, Heard::Notification(method, params)),
            // What a server logs while it works for one alone is for that one.
            ("notifications/message", params, None) => self.hear(Heard::Notification(method, params)),
            (_, params, None) => self.leave(Heard::Notification(method, params)),
        }
    }

    fn tell(&self, id: u64, heard: Heard) {
        let to = self.waiting().get(&id).map(|waiting| waiting.heard.clone());
        // A flood that nobody reads is lost.
        to.and_then(|to| to.try_send(heard).ok());
    }

    /// To the newest request of whoever alone has some under way, else outside.
    fn hear(&self, heard: Heard) {
        let to = {
            let waiting = self.waiting();
            let mut all = waiting.iter().filter_map(|(id, waiting)| Some((id, waiting.party?, &waiting.heard)));
            all.next().and_then(|first| {
                let (mut newest, mut is_one) = ((first.0, first.2), true);
                for (id, party, heard) in all {
                    is_one &= party == first.1;
                    newest = if id > newest.0 { (id, heard) } else { newest };
                }
                is_one.then(|| newest.1.clone())
            })
        };
        match to {
            Some(to) => drop(to.try_send(heard)),
            None => self.leave(heard),
        }
    }

    /// Not for anybody's request.
    fn leave(&self, heard: Heard) {
        self.outside.try_send(heard).ok();
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn room_of(line: &[u8]) -> u32 {
    u32::try_from(line.len()).unwrap_or(u32::MAX).min(UNWRITTEN_BYTES)
}

/// One line. JSON has line ends between its words only, where a space is as good.
fn line(mut head: String, rest: &str) -> Vec<u8> {
    head.push_str(rest);
    head.push_str("}\n");
    let mut line = head.into_bytes();
    let end = line.len() - 1;
    line[..end].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    line
}

#[expect(clippy::disallowed_methods, reason = "ends with the process that it speaks to, which its supervisor ends")]
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

async fn write(mut input: impl AsyncWrite + Unpin, mut usual: mpsc::Receiver<Unwritten>, mut urgent: mpsc::Receiver<Unwritten>) {
    loop {
        let next = tokio::select! {
            biased;
            Some(next) = urgent.recv() => Some(next),
            next = usual.recv() => next,
        };
        let Some(Unwritten { line, _room }) = next else { return };
        if input.write_all(&line).await.is_err() || input.flush().await.is_err() {
            return;
        }
    }
}

async fn read(output: impl AsyncRead + Unpin, wire: Arc<Wire>, log: Arc<Log>) {
    let mut lines = Lines::new(output);
    while let Some(line) = lines.next().await {
        match line {
            Line::Whole(line) if line.iter().all(u8::is_ascii_whitespace) => {}
            Line::Whole(line) => {
                if wire.take(line).is_err() {
                    log.add(crate::log::Stream::Stdout, line);
                }
            }
            Line::TooLong => log.note("a line of standard output that is longer than 16 MiB was passed over"),
        }
    }
    wire.close();
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncBufReadExt as _, BufReader};

    use super::*;

    fn wire() -> (Arc<Wire>, tokio::io::DuplexStream, tokio::io::DuplexStream, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let ((ours, theirs), (reads, writes)) = (tokio::io::duplex(1 << 16), tokio::io::duplex(1 << 16));
        let log = Log::open(folder.path()).unwrap();
        (Wire::open(ours, reads, log, mpsc::channel(1).0), theirs, writes, folder)
    }

    #[tokio::test]
    async fn answers_find_their_requests_among_rubbish() {
        let (wire, theirs, mut writes, _folder) = wire();
        let mut asked = BufReader::new(theirs).lines();
        let server = async {
            let first: Value = serde_json::from_str(&asked.next_line().await.unwrap().unwrap()).unwrap();
            let second: Value = serde_json::from_str(&asked.next_line().await.unwrap().unwrap()).unwrap();
            let rubbish = "Welcome!\n[]\n{\"id\":99,\"result\":{}}\n\n{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"method\":\"ping\"}\n";
            writes.write_all(rubbish.as_bytes()).await.unwrap();
            let refused = json!({ "id": second["id"], "error": { "code": -32602, "message": "no\u{1b}[31m" } });
            let answers = format!("{refused}\n{{\"id\":{},\"result\":{{\"b\":1,\"a\":2}}}}\n", first["id"]);
            writes.write_all(answers.as_bytes()).await.unwrap();
            let pong = asked.next_line().await.unwrap().unwrap();
            assert_eq!(serde_json::from_str::<Value>(&pong).unwrap(), json!({ "jsonrpc": "2.0", "id": "a", "result": {} }));
            // Late answers, and the end.
            drop(writes);
        };
        let limit = Duration::from_secs(5);
        let params = json!({});
        let (one, two, ()) = tokio::join!(wire.request("one", &params, limit), wire.request("two", &params, limit), server);
        assert_eq!(one.unwrap().get(), "{\"b\":1,\"a\":2}", "as it came");
        assert!(matches!(two, Err(CallError::Refused { code: -32602, message }) if message == "no [31m"));
        wire.closed().await;
        assert!(matches!(wire.request("three", &json!({}), limit).await, Err(CallError::Closed)));
        assert_eq!(wire.in_flight(), 0);
    }

    #[tokio::test]
    async fn who_does_not_answer_is_not_waited_for() {
        let (wire, _theirs, _writes, _folder) = wire();
        let asked = wire.request("x", &json!({}), Duration::from_millis(20)).await;
        assert!(matches!(asked, Err(CallError::Timeout(_))));
        assert_eq!(wire.in_flight(), 0);
    }

    #[tokio::test]
    async fn a_flood_is_not_kept() {
        let (wire, theirs, mut writes, _folder) = wire();
        let flood = async {
            let chunk = vec![b'x'; 1 << 20];
            for _ in 0..20 {
                writes.write_all(&chunk).await.unwrap();
            }
            writes.write_all(b"\n{\"id\":1,\"result\":{}}\n").await.unwrap();
        };
        let params = json!({});
        let (answer, ()) = tokio::join!(wire.request("x", &params, Duration::from_secs(20)), flood);
        assert!(answer.is_ok());
        drop(theirs);
    }
}
