//! Processes of this machine: started within limits, ended for certain.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use platform::{config::RuntimeConfig, files};
use sandbox::{Closer, GroupLimits, Limits, Machine, Pipes, Process, Start, USERS};
use secrecy::SecretString;
use tokio::{io::AsyncReadExt as _, process::ChildStderr};

use crate::{
    containers::SOCKETS,
    log::{Feed, Log, Stream},
    model::{InstanceId, Keeper, Kept},
};

/// How old a folder is that has its row, if it ever gets one.
const SETTLED: Duration = Duration::from_mins(10);
/// Starts processes.
pub(crate) struct Starter {
    /// Where instances have their folders.
    place: PathBuf,
    machine: Arc<Machine>,
    /// Servers may speak to a container engine, which opens everything to them.
    reaches_engine: bool,
    users: Arc<Mutex<HashSet<u32>>>,
    /// Counts starts.
    starts: AtomicU64,
    config: RuntimeConfig,
}

/// What is to be started.
pub(crate) struct Order<'a> {
    pub(crate) id: InstanceId,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) env: &'a BTreeMap<String, SecretString>,
    /// It may read and run what is below.
    pub(crate) read: Vec<PathBuf>,
    /// It may write below.
    pub(crate) write: Vec<PathBuf>,
    pub(crate) limits: Kept,
}

/// The process of an instance.
pub(crate) struct OwnProcess {
    pub(crate) process: Process,
    /// Where it may write.
    pub(crate) work: PathBuf,
    /// Kept until all of it has ended.
    user: Option<User>,
}

impl OwnProcess {
    /// Ends it in order.
    pub(crate) async fn end(self) -> io::Result<()> {
        let ended = self.process.end().await;
        drop(self.user);
        ended
    }

    /// Ends it at once.
    pub(crate) async fn kill(self) -> io::Result<()> {
        let ended = self.process.kill().await;
        drop(self.user);
        ended
    }
}

/// A user id that one instance has for as long as this lives.
struct User {
    uid: u32,
    all: Arc<Mutex<HashSet<u32>>>,
}

impl Drop for User {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.uid);
    }
}

impl Starter {
    /// Ends what an earlier process of this fabric left.
    pub(crate) fn new(place: &Path, machine: Arc<Machine>, config: &RuntimeConfig) -> io::Result<Self> {
        let instances = place.join("instances");
        fs::create_dir_all(&instances)?;
        fs::set_permissions(&instances, fs::Permissions::from_mode(0o711))?;
        let socket = engine_socket(config.engine.as_deref()).filter(|_| machine.closer().is_some() && !machine.has_own_users());
        // What is not shown cannot be spoken to.
        let socket = socket.filter(|_| machine.closer() == Some(&Closer::Landlock));
        if let Some(socket) = &socket {
            tracing::warn!(
                socket = %socket.display(),
                "servers run as the same user as this program, which may speak to a container engine: so may they, and have the \
                 whole machine; run this program as root, or as a user that is not in the engine's group"
            );
        }
        let starter = Self {
            reaches_engine: socket.is_some(),
            place: instances,
            machine,
            users: Arc::default(),
            starts: AtomicU64::new(0),
            config: config.clone(),
        };
        if starter.machine.has_own_users() && !starter.machine.has_cgroups() {
            starter.end_strangers();
        }
        Ok(starter)
    }

    /// Whether children can be kept from changing what they run.
    pub(crate) fn protects_trees(&self) -> bool {
        self.machine.closer().is_some() || self.machine.has_own_users()
    }

    /// Processes of our user ids whose fabric is gone. Without control groups there is no better way to find them.
    fn end_strangers(&self) {
        let owners = fs::read_dir(&self.place).into_iter().flatten().flatten();
        let uids: HashSet<u32> = owners.filter_map(|entry| entry.path().join("work").metadata().ok()).map(|found| found.uid()).collect();
        for uid in uids.into_iter().filter(|uid| USERS.contains(uid)) {
            sandbox::kill_all(|| sandbox::of_user(uid));
        }
    }

    /// The folder of an instance: its log, and `work`, which is the only place that the server can write to.
    pub(crate) fn folder(&self, id: InstanceId) -> PathBuf {
        self.place.join(id.to_string())
    }

    /// The instances that have a folder which was not made just now.
    pub(crate) fn settled_folders(&self) -> Vec<InstanceId> {
        let entries = fs::read_dir(&self.place).into_iter().flatten().flatten();
        entries.filter(|entry| files::is_older_than(entry, SETTLED)).filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// Makes the folder of an instance.
    pub(crate) fn prepare(&self, id: InstanceId) -> io::Result<PathBuf> {
        let folder = self.folder(id);
        fs::create_dir_all(folder.join("work"))?;
        // What is below `work` is the server's: it may have put a link there that leads to somebody else's folder.
        let tmp = folder.join("work/tmp");
        if fs::symlink_metadata(&tmp).is_ok_and(|found| !found.is_dir()) {
            fs::remove_file(&tmp)?;
        }
        fs::create_dir_all(&tmp)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o711))?;
        fs::set_permissions(folder.join("work"), fs::Permissions::from_mode(0o700))?;
        Ok(folder)
    }

    /// A copy of a tree for one instance, for machines where nothing keeps it from writing to what it runs.
    pub(crate) fn private_copy(&self, id: InstanceId, tree: &Path) -> io::Result<PathBuf> {
        let copy = self.prepare(id)?.join("tree");
        match fs::remove_dir_all(&copy) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        copy_all(tree, &copy)?;
        Ok(copy)
    }

    /// Removes the folder of an instance.
    pub(crate) fn forget(&self, id: InstanceId) -> io::Result<()> {
        match fs::remove_dir_all(self.folder(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The user id that an instance had before, else one that is free.
    fn user(&self, work: &Path) -> io::Result<Option<User>> {
        if !self.machine.has_own_users() {
            return Ok(None);
        }
        let before = fs::metadata(work)?.uid();
        let mut all = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let free = |uid: &u32| !all.contains(uid);
        let taken: HashSet<u32> = fs::read_dir(&self.place)?
            .flatten()
            .filter_map(|entry| entry.path().join("work").metadata().ok())
            .map(|found| found.uid())
            .collect();
        let own = Some(before).filter(|uid| USERS.contains(uid)).filter(free);
        let uid = own.or_else(|| USERS.into_iter().find(|uid| free(uid) && !taken.contains(uid)));
        let uid = uid.ok_or_else(|| io::Error::other("every user id for servers is taken"))?;
        all.insert(uid);
        drop(all);
        let user = User { uid, all: Arc::clone(&self.users) };
        if own.is_none() {
            for folder in [work.to_owned(), work.join("tmp")] {
                lchown(&folder, Some(uid), Some(uid))?;
            }
        }
        Ok(Some(user))
    }

    /// What an instance may use: what was asked for, else what is usual here; and who keeps it.
    pub(crate) fn limits(&self, asked: &configurations::Limits) -> Kept {
        let usual = &self.config;
        let or = |asked: Option<i64>, usual: u64| asked.and_then(|asked| u64::try_from(asked).ok()).unwrap_or(usual);
        Kept {
            memory_bytes: or(asked.memory_bytes, usual.memory_bytes),
            cpu_millis: or(asked.cpu_millis.map(i64::from), usual.cpu_millis),
            processes: or(asked.processes.map(i64::from), usual.processes),
            limits: if self.machine.has_cgroups() { Keeper::Cgroup } else { Keeper::BestEffort },
            files_closed: self.machine.closer().is_some() && !self.reaches_engine,
        }
    }

    /// Starts a process in a folder and with a user id of its own.
    pub(crate) fn start(&self, order: Order<'_>) -> io::Result<(OwnProcess, Pipes)> {
        let work = self.prepare(order.id)?.join("work");
        let user = self.user(&work)?;
        let Kept { memory_bytes, cpu_millis, processes, .. } = order.limits;
        let (process, pipes) = self.machine.start(Start {
            mark: format!("{}.{}", order.id, self.starts.fetch_add(1, Ordering::Relaxed)),
            program: order.program,
            args: order.args,
            env: order.env,
            programs: Vec::new(),
            folder: &work,
            home: &work,
            read: order.read,
            write: order.write,
            network: self.config.network,
            group: GroupLimits { memory_bytes: Some(memory_bytes), cpu_millis: Some(cpu_millis), processes: Some(processes) },
            limits: Limits { open_files: self.config.open_files, file_bytes: self.config.file_bytes, processes: None },
            uid: user.as_ref().map(|user| user.uid),
        })?;
        Ok((OwnProcess { process, work, user }, pipes))
    }
}

/// A socket of a container engine that this user may speak to. No rule for files closes sockets.
fn engine_socket(address: Option<&str>) -> Option<PathBuf> {
    let named = address.and_then(|address| address.strip_prefix("unix://")).map(PathBuf::from);
    let usual = SOCKETS.iter().map(PathBuf::from);
    named.into_iter().chain(usual).find(|socket| rustix::fs::access(socket, rustix::fs::Access::WRITE_OK).is_ok())
}

fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, place) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy_all(&entry.path(), &place)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path())?, place)?;
        } else {
            fs::copy(entry.path(), place)?;
        }
    }
    Ok(())
}

/// Keeps what a process says on standard error, until it closes that.
pub(crate) async fn drain(mut errors: ChildStderr, log: Arc<Log>) {
    let (mut feed, mut chunk) = (Feed::new(log, Stream::Stderr), vec![0; 16 << 10]);
    while let Ok(count @ 1..) = errors.read(&mut chunk).await {
        feed.push(&chunk[..count]);
    }
}
