//! Where programs of the factory run: in the sandbox that servers run in, each with a folder and a user id of its own.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{PermissionsExt as _, lchown},
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use platform::{config::RuntimeConfig, ids};
use sandbox::{FACTORY_USERS, GroupLimits, Limits, Machine, Pipes, Process, Start};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{ChildStdin, ChildStdout},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::generate::Files;

/// How long a program may take for one answer, and for all of its work.
const PATIENCE: Duration = Duration::from_secs(20);
/// What one line and what complaints are kept of, in bytes.
const LONGEST_LINE: u64 = 64 << 20;
const COMPLAINTS: usize = 16 << 10;

/// Starts programs.
pub(crate) struct Kept {
    machine: Arc<Machine>,
    config: RuntimeConfig,
    /// Where their folders are.
    place: PathBuf,
    free: Arc<Mutex<Vec<u32>>>,
    turns: Arc<Semaphore>,
}

/// A folder that is removed with what is in it, and the user id of what runs there.
pub(crate) struct Room {
    pub(crate) folder: PathBuf,
    uid: u32,
    free: Arc<Mutex<Vec<u32>>>,
    _turn: OwnedSemaphorePermit,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(self.uid);
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, folder = %self.folder.display(), "a folder of the factory could not be removed");
        }
    }
}

impl Room {
    /// What programs may read and not write.
    pub(crate) fn files(&self) -> PathBuf {
        self.folder.join("files")
    }

    /// What they may write.
    fn home(&self) -> PathBuf {
        self.folder.join("home")
    }
}

/// How a program is started.
pub(crate) struct Order<'a> {
    pub(crate) program: &'a Path,
    pub(crate) args: Vec<String>,
    pub(crate) env: BTreeMap<String, SecretString>,
    /// Beside the room's files.
    pub(crate) read: Vec<PathBuf>,
    pub(crate) network: bool,
}

impl Kept {
    pub(crate) fn new(machine: Arc<Machine>, config: RuntimeConfig, place: &Path) -> io::Result<Self> {
        let place = place.join("factory");
        // What an earlier process left.
        match fs::remove_dir_all(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(&place)?,
        }
        fs::set_permissions(&place, fs::Permissions::from_mode(0o711))?;
        let count = FACTORY_USERS.count();
        Ok(Self { machine, config, place, free: Arc::new(Mutex::new(FACTORY_USERS.collect())), turns: Arc::new(Semaphore::new(count)) })
    }

    /// Whether what runs may open connections.
    pub(crate) fn has_network(&self) -> bool {
        self.config.network
    }

    /// A room with these files in it.
    pub(crate) async fn room(&self, files: Files) -> io::Result<Room> {
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(io::Error::other)?;
        let uid = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop().ok_or_else(|| io::Error::other("no user id is free"))?;
        let room = Room { folder: self.place.join(ids::fresh().to_string()), uid, free: Arc::clone(&self.free), _turn: turn };
        let has_own_users = self.machine.has_own_users();
        tokio::task::spawn_blocking(move || {
            for folder in [room.files(), room.home().join("tmp")] {
                fs::create_dir_all(folder)?;
            }
            fs::set_permissions(&room.folder, fs::Permissions::from_mode(0o711))?;
            for (name, bytes) in files {
                let path = room.files().join(name);
                fs::create_dir_all(path.parent().unwrap_or(&room.folder))?;
                fs::write(path, bytes)?;
            }
            for folder in [room.home(), room.home().join("tmp")] {
                fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
                if has_own_users {
                    lchown(&folder, Some(room.uid), Some(room.uid))?;
                }
            }
            Ok(room)
        })
        .await
        .map_err(io::Error::other)?
    }

    fn start(&self, room: &Room, order: Order<'_>) -> io::Result<(Process, Pipes)> {
        let config = &self.config;
        let files = room.files();
        self.machine.start(Start {
            mark: format!("factory.{}", ids::fresh()),
            program: order.program.to_owned(),
            args: order.args,
            env: &order.env,
            programs: Vec::new(),
            folder: &files,
            home: &room.home(),
            read: order.read.into_iter().chain([files.clone()]).collect(),
            write: Vec::new(),
            network: order.network && config.network,
            group: GroupLimits {
                memory_bytes: Some(config.memory_bytes.max(1 << 30)),
                cpu_millis: None,
                processes: Some(config.processes),
            },
            limits: Limits { open_files: config.open_files, file_bytes: config.file_bytes, processes: None },
            uid: self.machine.has_own_users().then_some(room.uid),
        })
    }

    /// Runs a program to its end; gives how it ended and what it printed.
    pub(crate) async fn run(&self, room: &Room, order: Order<'_>) -> io::Result<(ExitStatus, String)> {
        let (mut process, pipes) = self.start(room, order)?;
        drop(pipes.input);
        let read = async |mut pipe: Box<dyn tokio::io::AsyncRead + Send + Unpin>| {
            let mut text = Vec::new();
            (&mut pipe).take(1 << 20).read_to_end(&mut text).await?;
            tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
            io::Result::Ok(text)
        };
        let work = async { tokio::join!(process.ended(), read(Box::new(pipes.output)), read(Box::new(pipes.errors))) };
        let outcome = tokio::time::timeout(PATIENCE * 6, work).await;
        process.kill().await?;
        let (status, output, errors) = outcome.map_err(|_| io::Error::other("it took longer than two minutes, and was ended"))?;
        let mut text = output?;
        text.extend(errors?);
        Ok((status?, String::from_utf8_lossy(&text).into_owned()))
    }

    /// Starts a program that speaks MCP.
    #[expect(clippy::disallowed_methods, reason = "reads until the program closes its pipe, which it does when it ends")]
    pub(crate) fn speak(&self, room: &Room, order: Order<'_>) -> io::Result<Speaking> {
        let (process, pipes) = self.start(room, order)?;
        let complaints: Arc<Mutex<Vec<u8>>> = Arc::default();
        let (kept, mut errors) = (Arc::clone(&complaints), pipes.errors);
        tokio::spawn(async move {
            let mut chunk = vec![0; 4096];
            while let Ok(count @ 1..) = errors.read(&mut chunk).await {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                let room = COMPLAINTS.saturating_sub(kept.len());
                kept.extend_from_slice(&chunk[..count.min(room)]);
            }
        });
        Ok(Speaking { process, input: pipes.input, output: BufReader::new(pipes.output), next: 0, complaints, stray: Vec::new() })
    }
}

/// A program that speaks MCP over its pipes.
pub(crate) struct Speaking {
    process: Process,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    next: i64,
    complaints: Arc<Mutex<Vec<u8>>>,
    /// Lines that were no messages.
    pub(crate) stray: Vec<String>,
}

/// What came of a request: a result, or an error of JSON-RPC.
pub(crate) type Answer = Result<Value, Value>;

impl Speaking {
    /// Asks, and waits for the answer.
    pub(crate) async fn ask(&mut self, method: &str, params: &Value) -> io::Result<Answer> {
        self.next += 1;
        let id = self.next;
        self.say(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })).await?;
        self.answer(id).await
    }

    /// Writes one message.
    pub(crate) async fn say(&mut self, message: &Value) -> io::Result<()> {
        let line = format!("{message}\n");
        let written = async {
            self.input.write_all(line.as_bytes()).await?;
            self.input.flush().await
        };
        tokio::time::timeout(PATIENCE, written).await.map_err(|_| io::Error::other("it does not read"))?.map_err(|_| self.gone())
    }

    /// Waits for the answer to a request.
    pub(crate) async fn answer(&mut self, id: i64) -> io::Result<Answer> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let mut line = Vec::new();
            let mut output = (&mut self.output).take(LONGEST_LINE);
            let reading = tokio::time::timeout_at(deadline, output.read_until(b'\n', &mut line)).await;
            let count = reading.map_err(|_| io::Error::other(format!("no answer within {} s", PATIENCE.as_secs())))??;
            if count == 0 {
                return Err(self.gone());
            }
            let Ok(mut message) = serde_json::from_slice::<Value>(&line) else {
                if self.stray.len() < 10 {
                    self.stray.push(String::from_utf8_lossy(&line).chars().take(200).collect());
                }
                continue;
            };
            if message["id"] == id {
                return Ok(if message.get("error").is_some() { Err(message["error"].take()) } else { Ok(message["result"].take()) });
            }
        }
    }

    fn gone(&self) -> io::Error {
        let said = self.complaints.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let said = String::from_utf8_lossy(&said);
        let last: String = said.trim().lines().rev().take(5).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join(" | ");
        io::Error::other(format!(
            "it ended: {}",
            if last.is_empty() { "it said nothing".to_owned() } else { crate::text::line(&last, 400) }
        ))
    }

    /// Closes its input; gives whether it ended by that.
    pub(crate) async fn end(mut self) -> io::Result<bool> {
        drop(self.input);
        let ended = tokio::time::timeout(Duration::from_secs(4), self.process.ended()).await;
        self.process.kill().await?;
        Ok(ended.is_ok_and(|status| status.is_ok_and(|status| status.success())))
    }
}
