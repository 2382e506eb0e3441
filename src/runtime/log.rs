//! What an instance says: kept in two files that take turns, and carried to those who follow.

use std::{
    fs,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, TimeDelta, Utc};
use platform::clock;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use utoipa::ToSchema;

/// How large a file becomes before the other one is begun.
const ROTATE_AT: u64 = 1 << 20;
/// How much of a line is kept.
const LONGEST_LINE: usize = 8 << 10;
/// How many lines a slow follower may be behind.
const BUFFER: usize = 512;
/// Shorter secrets would hide half of what is said.
const SHORTEST_SECRET: usize = 6;

platform::words! {
    /// Where a line comes from.
    pub enum Stream {
        /// Standard error of the server.
        Stderr = "stderr",
        /// Standard output that is not of the protocol.
        Stdout = "stdout",
        /// The fabric.
        Fabric = "fabric",
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Entry {
    /// When it came.
    pub at: DateTime<Utc>,
    /// From where.
    pub stream: Stream,
    /// What, with `[secret]` for values that the server was given in confidence.
    pub text: String,
}

/// Where lines go, and what was written there.
#[derive(Default)]
struct Written {
    /// With its size.
    file: Option<(fs::File, u64)>,
    last: DateTime<Utc>,
}

/// Only the fabric reads it.
fn open(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// How a secret may be said: whole, line by line, and as JSON has it.
fn spellings(secret: &str) -> Vec<String> {
    let json = serde_json::to_string(secret).unwrap_or_default();
    let json = json.trim_matches('"').to_owned();
    let all = secret.lines().map(str::trim).chain([secret.trim(), &json]).filter(|text| text.len() >= SHORTEST_SECRET);
    all.map(str::to_owned).collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

/// The log of one instance. No two of its lines have the same time, and they are told in the order of it: whoever has
/// read up to a line knows which ones come after it.
pub struct Log {
    folder: PathBuf,
    file: Mutex<Written>,
    secrets: Mutex<Vec<SecretString>>,
    live: broadcast::Sender<Entry>,
}

impl Log {
    /// Opens the log that lies in a folder.
    pub(crate) fn open(folder: &Path) -> io::Result<Arc<Self>> {
        let file = open(&folder.join("log"))?;
        let size = file.metadata()?.len();
        let live = broadcast::channel(BUFFER).0;
        let file = Mutex::new(Written { file: Some((file, size)), ..Written::default() });
        Ok(Arc::new(Self { folder: folder.to_owned(), file, secrets: Mutex::default(), live }))
    }

    /// From now on, these values are not shown.
    pub(crate) fn hide<'a>(&self, secrets: impl Iterator<Item = &'a SecretString>) {
        let mut spelt: Vec<String> = secrets.flat_map(|secret| spellings(secret.expose_secret())).collect();
        // The whole goes before its parts.
        spelt.sort_unstable_by_key(|text| std::cmp::Reverse(text.len()));
        *self.secrets.lock().unwrap_or_else(PoisonError::into_inner) = spelt.into_iter().map(SecretString::from).collect();
    }

    /// And this one, too.
    pub(crate) fn hide_also(&self, secret: &SecretString) {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        // Most of the time it is the one of the last request.
        if secrets.iter().any(|known| known.expose_secret() == secret.expose_secret()) {
            return;
        }
        let is_new = |spelt: &String| !secrets.iter().any(|known| known.expose_secret() == spelt);
        let further: Vec<String> = spellings(secret.expose_secret()).into_iter().filter(is_new).collect();
        secrets.extend(further.into_iter().map(SecretString::from));
    }

    /// What is said, without secrets.
    pub(crate) fn clean(&self, line: &[u8]) -> String {
        // Cut only after values are hidden: half a secret would not be known as one.
        let cut = &line[..line.len().min(8 * LONGEST_LINE)];
        let mut text = String::from_utf8_lossy(cut).trim_end().to_owned();
        for secret in self.secrets.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            text = text.replace(secret.expose_secret(), "[secret]");
        }
        // Colours and cursor movements are for the terminal of whoever wrote it.
        text.chars().filter(|c| !c.is_control() || *c == '\t').take(LONGEST_LINE).collect()
    }

    /// Adds what the server said.
    pub(crate) fn add(&self, stream: Stream, line: &[u8]) {
        let text = self.clean(line);
        let mut written = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        written.last = clock::now().max(written.last + TimeDelta::microseconds(1));
        let entry = Entry { at: written.last, stream, text };
        if let Err(error) = self.write(&mut written.file, &entry) {
            // A full disk costs lines, not servers.
            tracing::debug!(%error, "a line of an instance's log is lost");
        }
        self.live.send(entry).ok();
    }

    /// Adds what the fabric says.
    pub(crate) fn note(&self, text: &str) {
        self.add(Stream::Fabric, text.as_bytes());
    }

    fn write(&self, held: &mut Option<(fs::File, u64)>, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        if held.as_ref().is_none_or(|(_, size)| *size > ROTATE_AT) {
            fs::rename(self.folder.join("log"), self.folder.join("log.1"))
                .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
            *held = Some((open(&self.folder.join("log"))?, 0));
        }
        if let Some((file, size)) = held {
            file.write_all(&line)?;
            *size += line.len() as u64;
        }
        Ok(())
    }

    /// The lines from now on.
    pub(crate) fn follow(&self) -> broadcast::Receiver<Entry> {
        self.live.subscribe()
    }

    /// The newest lines of what lies in a folder, oldest first.
    pub(crate) fn tail(folder: &Path, lines: usize) -> Vec<Entry> {
        let mut found: Vec<Entry> = Vec::new();
        for name in ["log.1", "log"] {
            let text = end_of(&folder.join(name)).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| serde_json::from_str::<Entry>(line).ok()));
        }
        found.split_off(found.len().saturating_sub(lines))
    }

    /// What the server said last, for the reason of a failure.
    pub(crate) fn last_words(&self, since: DateTime<Utc>) -> String {
        let tail = Self::tail(&self.folder, 20);
        let said = tail.iter().filter(|entry| entry.at >= since && entry.stream != Stream::Fabric && !entry.text.is_empty());
        let said: Vec<&str> = said.map(|entry| entry.text.as_str()).collect();
        let last = said[said.len().saturating_sub(6)..].join(" | ");
        let begin = last.char_indices().rev().nth(599).map_or(0, |(place, _)| place);
        last[begin..].to_owned()
    }
}

/// Pieces of what a server says, put together to lines.
pub(crate) struct Feed {
    log: Arc<Log>,
    stream: Stream,
    line: Vec<u8>,
}

impl Feed {
    pub(crate) fn new(log: Arc<Log>, stream: Stream) -> Self {
        Self { log, stream, line: Vec::new() }
    }

    /// A line without an end is told in pieces.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.line.len() > 64 << 10 {
                self.log.add(self.stream, &self.line);
                self.line.clear();
            }
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.log.add(self.stream, &self.line);
        }
    }
}

/// The last part of a file, large enough for every line that is asked for.
fn end_of(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(2 * ROTATE_AT)))?;
    let mut bytes = Vec::new();
    file.take(2 * ROTATE_AT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_colours_do_not_reach_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(folder.path()).unwrap();
        log.hide(["hunter22".into(), "abc".into(), "-----BEGIN\nfirst-part\nsecond-part\n".into()].iter());
        log.add(Stream::Stderr, b"\x1b[31mtoken hunter22 abc\x1b[0m\n");
        assert_eq!(Log::tail(folder.path(), 1)[0].text, "[31mtoken [secret] abc[0m");
        log.note("a line: second-part; as JSON: {\"key\":\"-----BEGIN\\nfirst-part\\nsecond-part\\n\"}");
        assert_eq!(Log::tail(folder.path(), 1)[0].text, "a line: [secret]; as JSON: {\"key\":\"[secret]\"}");
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(folder.path().join("log")).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert!(log.last_words(DateTime::<Utc>::MIN_UTC).contains("[secret]"));
    }

    #[test]
    fn lines_have_an_order_whoever_says_them() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(folder.path()).unwrap();
        let mut live = log.follow();
        std::thread::scope(|scope| {
            for stream in [Stream::Stderr, Stream::Stdout] {
                let log = &log;
                scope.spawn(move || (0..200).for_each(|_| log.add(stream, b"x")));
            }
        });
        let kept = Log::tail(folder.path(), 400);
        assert_eq!(kept.len(), 400);
        assert!(kept.windows(2).all(|pair| pair[0].at < pair[1].at));
        let told: Vec<Entry> = std::iter::from_fn(|| live.try_recv().ok()).collect();
        assert_eq!(told, kept);
    }

    #[test]
    fn two_files_take_turns() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(folder.path()).unwrap();
        let line = vec![b'x'; 8000];
        for _ in 0..600 {
            log.add(Stream::Stderr, &line);
        }
        log.note("the end");
        let size = |name: &str| fs::metadata(folder.path().join(name)).unwrap().len();
        assert!(size("log") + size("log.1") < 3 * ROTATE_AT);
        assert_eq!(Log::tail(folder.path(), 3).last().unwrap().text, "the end");
        assert_eq!(Log::tail(folder.path(), 3).len(), 3);
    }
}
