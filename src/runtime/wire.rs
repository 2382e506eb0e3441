//! JSON-RPC over lines: what is said to a process, and what it answers. Results stay as they came, member by member.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
};

use crate::log::Log;

/// A line that is longer is passed over: nobody's answer is so long, and it would have to be kept whole.
const LONGEST_LINE: usize = 16 << 20;
/// How many messages may wait to be written to a process that does not read.
const UNWRITTEN: usize = 1024;
/// How many bytes of them; a longer message waits until it is alone.
const UNWRITTEN_BYTES: u32 = 8 << 20;

/// Why a request has no result.
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

type Answer = Result<Box<RawValue>, CallError>;

/// The other end of a process's standard input and output.
pub struct Wire {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    /// `None` once nothing more is said.
    out: Mutex<Option<mpsc::Sender<Unwritten>>>,
    room: Arc<Semaphore>,
    closed: AtomicBool,
    /// Told when it closes.
    end: Notify,
    /// Told when the server says that its tools are others.
    pub(crate) tools_changed: Notify,
}

/// A message on its way, and the room that it takes.
struct Unwritten {
    line: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: Option<String>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<WireError>,
}

#[derive(Deserialize)]
struct WireError {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
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
    ) -> Arc<Self> {
        let (out, queue) = mpsc::channel(UNWRITTEN);
        let wire = Arc::new(Self {
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
            out: Mutex::new(Some(out)),
            room: Arc::new(Semaphore::new(UNWRITTEN_BYTES as usize)),
            closed: AtomicBool::new(false),
            end: Notify::new(),
            tools_changed: Notify::new(),
        });
        spawn(write(input, queue));
        spawn(read(output, Arc::clone(&wire), log));
        wire
    }

    /// Asks, and waits for the answer that long at most.
    pub(crate) async fn request(&self, method: &str, params: &Value, within: Duration) -> Answer {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (tell, answer) = oneshot::channel();
        self.waiting().insert(id, tell);
        let _forget = Forget { wire: self, id };
        if self.closed.load(Ordering::Acquire) {
            return Err(CallError::Closed);
        }
        let asked = async {
            self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })).await?;
            answer.await.map_err(|_| CallError::Closed)?
        };
        if let Ok(answer) = tokio::time::timeout(within, asked).await {
            return answer;
        }
        // It may be at work on it still; a server that does not read is not waited for.
        let params = json!({ "requestId": id, "reason": "it took too long" });
        self.offer(&json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": params }));
        Err(CallError::Timeout(within))
    }

    /// Tells without an answer.
    pub(crate) async fn notify(&self, method: &str) -> Result<(), CallError> {
        self.send(&json!({ "jsonrpc": "2.0", "method": method })).await
    }

    async fn send(&self, message: &Value) -> Result<(), CallError> {
        let out = self.out().clone().ok_or(CallError::Closed)?;
        let line = line(message);
        let room = Arc::clone(&self.room).acquire_many_owned(room_of(&line)).await.map_err(|_| CallError::Closed)?;
        out.send(Unwritten { line, _room: room }).await.map_err(|_| CallError::Closed)
    }

    fn out(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Sender<Unwritten>>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the process's input, once what is on its way is written: the way to ask a server to end.
    pub(crate) fn hang_up(&self) {
        self.out().take();
    }

    fn offer(&self, message: &Value) {
        // What a full queue does not take is lost, as it would be on a broken pipe.
        let line = line(message);
        if let (Some(out), Ok(room)) = (&*self.out(), Arc::clone(&self.room).try_acquire_many_owned(room_of(&line))) {
            out.try_send(Unwritten { line, _room: room }).ok();
        }
    }

    /// Returns once the process has closed its output.
    pub(crate) async fn closed(&self) {
        let end = self.end.notified();
        if !self.closed.load(Ordering::Acquire) {
            end.await;
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many requests wait for an answer.
    pub(crate) fn in_flight(&self) -> usize {
        self.waiting().len()
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.waiting().clear();
        self.end.notify_waiters();
    }

    fn take(&self, line: &[u8]) -> Result<(), ()> {
        let message: Message = serde_json::from_slice(line).map_err(|_| ())?;
        match (message.method, message.id) {
            (Some(method), Some(id)) => self.answer(&method, id),
            (Some(method), None) => {
                if method == "notifications/tools/list_changed" {
                    self.tools_changed.notify_one();
                }
            }
            (None, Some(id)) => {
                let answer = match (message.result, message.error) {
                    (_, Some(error)) => Err(CallError::Refused { code: error.code, message: plain(&error.message, 500) }),
                    (Some(result), None) => Ok(result.to_owned()),
                    (None, None) => return Err(()),
                };
                let waiting = id.get().parse().ok().and_then(|id: u64| self.waiting().remove(&id));
                // An answer that comes too late is nobody's.
                if let Some(tell) = waiting {
                    tell.send(answer).ok();
                }
            }
            (None, None) => return Err(()),
        }
        Ok(())
    }

    /// A server may ask whether we are there; nothing else was offered to it.
    fn answer(&self, method: &str, id: &RawValue) {
        let answer = if method == "ping" {
            json!({ "jsonrpc": "2.0", "id": id, "result": {} })
        } else {
            json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32601, "message": "Method not found" } })
        };
        self.offer(&answer);
    }
}

fn room_of(line: &[u8]) -> u32 {
    u32::try_from(line.len()).unwrap_or(u32::MAX).min(UNWRITTEN_BYTES)
}

fn line(message: &Value) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Takes a request off the list, however it ends.
struct Forget<'a> {
    wire: &'a Wire,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.wire.waiting().remove(&self.id);
    }
}

#[expect(clippy::disallowed_methods, reason = "ends with the process that it speaks to, which its supervisor ends")]
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

async fn write(mut input: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Unwritten>) {
    while let Some(Unwritten { line, _room }) = queue.recv().await {
        if input.write_all(&line).await.is_err() || input.flush().await.is_err() {
            return;
        }
    }
}

async fn read(output: impl AsyncRead + Unpin, wire: Arc<Wire>, log: Arc<Log>) {
    let mut lines = Lines { reader: BufReader::with_capacity(32 << 10, output), buffer: Vec::new() };
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

enum Line<'a> {
    Whole(&'a [u8]),
    TooLong,
}

/// Lines of a stranger, none of which is kept beyond [`LONGEST_LINE`].
struct Lines<R> {
    reader: BufReader<R>,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    async fn next(&mut self) -> Option<Line<'_>> {
        self.buffer.clear();
        if self.buffer.capacity() > 1 << 20 {
            self.buffer.shrink_to(1 << 20);
        }
        let mut is_too_long = false;
        loop {
            let chunk = self.reader.fill_buf().await.ok()?;
            if chunk.is_empty() {
                return (!self.buffer.is_empty() && !is_too_long).then_some(Line::Whole(&self.buffer));
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let taken = end.unwrap_or(chunk.len());
            if !is_too_long && self.buffer.len() + taken <= LONGEST_LINE {
                self.buffer.extend_from_slice(&chunk[..taken]);
            } else {
                is_too_long = true;
                self.buffer = Vec::new();
            }
            self.reader.consume(end.map_or(taken, |end| end + 1));
            if end.is_some() {
                return Some(if is_too_long { Line::TooLong } else { Line::Whole(&self.buffer) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> (Arc<Wire>, tokio::io::DuplexStream, tokio::io::DuplexStream, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let ((ours, theirs), (reads, writes)) = (tokio::io::duplex(1 << 16), tokio::io::duplex(1 << 16));
        let log = Log::open(folder.path()).unwrap();
        (Wire::open(ours, reads, log), theirs, writes, folder)
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
