//! Processes of this machine: started within limits, ended for certain.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{MetadataExt as _, PermissionsExt as _, lchown},
    },
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use platform::{config::RuntimeConfig, files};
use rustix::{
    io::{FdFlags, fcntl_setfd},
    process::{Pid, Signal, kill_process_group},
};
use sandbox::{Cgroups, Files, Group, GroupLimits, Limits, Spec, Usage};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
};

use crate::{
    containers::SOCKETS,
    log::{Feed, Log, Stream},
    model::{InstanceId, Keeper, Kept},
};

/// User ids that nobody else has: the range that systemd gives to services without accounts.
const USERS: std::ops::RangeInclusive<u32> = 61184..=65519;
/// The variable that marks what a start started.
const MARK: &str = "FABRIC_INSTANCE";
/// How old a folder is that has its row, if it ever gets one.
const SETTLED: Duration = Duration::from_mins(10);
/// How long a server may take to end once its input is closed, and once it is asked by a signal.
const CLOSED: Duration = Duration::from_millis(2500);
const ASKED: Duration = Duration::from_millis(1500);

/// Starts processes.
pub(crate) struct Starter {
    /// Where instances have their folders.
    place: PathBuf,
    /// This program, opened once: it is found again wherever it lies, and whoever may look there.
    launcher: fs::File,
    cgroups: Option<Arc<Cgroups>>,
    closes_files: bool,
    has_own_users: bool,
    /// Servers may speak to a container engine, which opens everything to them.
    reaches_engine: bool,
    users: Arc<Mutex<HashSet<u32>>>,
    /// Counts starts: what ends late never meets what begins.
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

/// A process that was started.
pub(crate) struct Process {
    child: Child,
    pub(crate) pid: u32,
    group: Option<Arc<Group>>,
    user: Option<User>,
    pub(crate) work: PathBuf,
    /// What all that it starts has in its environment.
    mark: String,
}

/// The ends of its pipes.
pub(crate) struct Pipes {
    pub(crate) input: ChildStdin,
    pub(crate) output: ChildStdout,
    pub(crate) errors: ChildStderr,
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
    /// Looks at what this machine lets us do, and ends what an earlier process of this fabric left.
    pub(crate) fn new(place: &Path, node: &str, config: &RuntimeConfig) -> io::Result<Self> {
        let instances = place.join("instances");
        fs::create_dir_all(&instances)?;
        fs::set_permissions(&instances, fs::Permissions::from_mode(0o711))?;
        let launcher = fs::File::open(config.launcher.as_deref().unwrap_or(Path::new("/proc/self/exe")))?;
        fcntl_setfd(&launcher, FdFlags::empty())?;
        let is_open = config.sandbox.is_wanted();
        let cgroups = is_open.then(|| Cgroups::find(&format!("mcp-fabric-{node}"))).flatten().map(Arc::new);
        let (closes_files, has_own_users) = (is_open && sandbox::has_landlock(), is_open && files::runs_for_others(place));
        let socket = engine_socket(config.engine.as_deref()).filter(|_| closes_files && !has_own_users);
        if let Some(socket) = &socket {
            tracing::warn!(
                socket = %socket.display(),
                "servers run as the same user as this program, which may speak to a container engine: so may they, and have the \
                 whole machine; run this program as root, or as a user that is not in the engine's group"
            );
        }
        let starter = Self {
            closes_files,
            has_own_users,
            reaches_engine: socket.is_some(),
            place: instances,
            launcher,
            cgroups,
            users: Arc::default(),
            starts: AtomicU64::new(0),
            config: config.clone(),
        };
        if starter.has_own_users && starter.cgroups.is_none() {
            starter.end_strangers();
        }
        Ok(starter)
    }

    /// Whether children can be kept from changing what they run.
    pub(crate) fn protects_trees(&self) -> bool {
        self.closes_files || self.has_own_users
    }

    /// In words, for whoever asks how servers are kept.
    pub(crate) fn describe(&self) -> String {
        let yes = |is: bool| if is { "yes" } else { "no" };
        let (groups, users, closed) = (self.cgroups.is_some(), self.has_own_users, self.closes_files);
        format!("control groups: {}, own user ids: {}, closed file system: {}", yes(groups), yes(users), yes(closed))
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
        if !self.has_own_users {
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
            limits: if self.cgroups.is_some() { Keeper::Cgroup } else { Keeper::BestEffort },
            files_closed: self.closes_files && !self.reaches_engine,
        }
    }

    /// Starts a process in a group, a folder and with a user id of its own, and with nothing in its environment but
    /// what is ordered.
    #[expect(clippy::disallowed_methods, reason = "this is the door through which servers are started")]
    pub(crate) fn start(&self, order: Order) -> io::Result<(Process, Pipes)> {
        let work = self.prepare(order.id)?.join("work");
        let user = self.user(&work)?;
        let Kept { memory_bytes, cpu_millis, processes, .. } = order.limits;
        let limits = GroupLimits { memory_bytes: Some(memory_bytes), cpu_millis: Some(cpu_millis), processes: Some(processes) };
        let mark = format!("{}.{}", order.id, self.starts.fetch_add(1, Ordering::Relaxed));
        let group = self.cgroups.as_ref().map(|groups| groups.create(&mark, limits)).transpose()?.map(Arc::new);
        let path = program_path(&order.program);
        let own = Files {
            read: order.read.into_iter().chain(prefix(&order.program)).collect(),
            write: order.write.into_iter().chain([work.clone()]).collect(),
        };
        let spec = Spec {
            program: order.program,
            args: order.args,
            files: self.closes_files.then_some(own),
            network: self.config.network,
            limits: Limits {
                open_files: self.config.open_files,
                file_bytes: self.config.file_bytes,
                processes: (group.is_none() && user.is_some()).then_some(processes),
            },
            group: group.as_ref().map(|group| group.membership()),
        };
        let mut command = Command::new(format!("/proc/self/fd/{}", self.launcher.as_raw_fd()));
        command.arg0("mcp-fabric").arg(sandbox::LAUNCH).arg(serde_json::to_string(&spec)?).current_dir(&work);
        command.env_clear().env("PATH", path).env("HOME", &work).env("TMPDIR", work.join("tmp")).env("LANG", "C.UTF-8");
        command.envs(order.env.iter().map(|(name, value)| (name, value.expose_secret())));
        if group.is_none() && user.is_none() {
            // Nobody else may set variables of this prefix.
            command.env(MARK, &mark);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        if let Some(user) = &user {
            command.uid(user.uid).gid(user.uid);
        }
        let mut child = command.spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other("the process ended at once"))?;
        if let Some(group) = &group {
            // Without its limits it does not run: the child ends when it is dropped.
            group.add(pid)?;
        }
        let (Some(input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err(io::Error::other("the process has no pipes"));
        };
        Ok((Process { child, pid, group, user, work, mark }, Pipes { input, output, errors }))
    }
}

/// A socket of a container engine that this user may speak to. No rule for files closes sockets.
fn engine_socket(address: Option<&str>) -> Option<PathBuf> {
    let named = address.and_then(|address| address.strip_prefix("unix://")).map(PathBuf::from);
    let usual = SOCKETS.iter().map(PathBuf::from);
    named.into_iter().chain(usual).find(|socket| rustix::fs::access(socket, rustix::fs::Access::WRITE_OK).is_ok())
}

/// Where a server finds programs: beside its own, and where the system has them.
fn program_path(program: &Path) -> String {
    let own = program.parent().map(|folder| format!("{}:", folder.display())).unwrap_or_default();
    format!("{own}/usr/local/bin:/usr/bin:/bin")
}

/// Where an interpreter that does not lie in the system's folders has its files.
fn prefix(program: &Path) -> Vec<PathBuf> {
    let real = fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
    let above = real.parent().and_then(Path::parent).map(Path::to_owned);
    above.into_iter().filter(|prefix| prefix.parent().is_some() && *prefix != Path::new("/root") && *prefix != Path::new("/home")).collect()
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

impl Process {
    /// Returns when it has ended.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// The processes that it consists of.
    pub(crate) fn members(&self) -> Members {
        Members { pid: self.pid, uid: self.user.as_ref().map(|user| user.uid), group: self.group.clone() }
    }

    /// Whether the kernel ended it for want of memory.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.ran_out_of_memory())
    }

    /// Ends it: its input is closed by whoever has it; then it is asked, and then it is not asked any more. What it
    /// started ends with it.
    pub(crate) async fn end(mut self) -> io::Result<()> {
        if tokio::time::timeout(CLOSED, self.child.wait()).await.is_err() {
            self.signal(Signal::TERM);
            if tokio::time::timeout(ASKED, self.child.wait()).await.is_err() {
                self.signal(Signal::KILL);
            }
        }
        self.finish().await
    }

    /// Ends everything of it at once.
    pub(crate) async fn kill(mut self) -> io::Result<()> {
        self.signal(Signal::KILL);
        self.finish().await
    }

    /// Once it was waited for, its number may be another's.
    fn signal(&self, signal: Signal) {
        if self.child.id().is_some() {
            self.signal_group(signal);
        }
    }

    fn signal_group(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            kill_process_group(pid, signal).ok();
        }
    }

    /// Nothing of it is left: neither what is in its process group, nor in its control group, nor of its user id.
    async fn finish(&mut self) -> io::Result<()> {
        let (group, uid) = (self.group.take(), self.user.as_ref().map(|user| user.uid));
        if group.is_none() && uid.is_none() {
            // Its number may be another's by now, which is most unlikely so soon.
            self.signal_group(Signal::KILL);
        }
        let mark = self.mark.clone();
        let swept = tokio::task::spawn_blocking(move || match (group, uid) {
            (Some(group), _) => group.kill(),
            (None, Some(uid)) => sandbox::kill_all(|| sandbox::of_user(uid)),
            // What left the process group is known by its mark.
            (None, None) => sandbox::kill_all(|| sandbox::with_variable(MARK, &mark)),
        });
        swept.await.map_err(io::Error::other)?;
        self.child.wait().await.map(drop)
    }
}

/// The processes of an instance, to be looked at.
#[derive(Clone)]
pub(crate) struct Members {
    pid: u32,
    uid: Option<u32>,
    group: Option<Arc<Group>>,
}

impl Members {
    /// What they use; reads `/proc`.
    pub(crate) fn usage(&self) -> Usage {
        let pids = match (&self.group, self.uid) {
            (Some(group), _) => group.processes(),
            (None, Some(uid)) => sandbox::of_user(uid),
            (None, None) => sandbox::descendants(self.pid),
        };
        sandbox::usage(&pids)
    }
}

/// Bytes below a folder, as far as it can be read.
pub(crate) fn disk_usage(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => disk_usage(&entry.path()),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// Whether the kernel ended it because it wrote more into a file than it may.
pub(crate) fn wrote_too_much(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt as _;
    status.signal() == Some(Signal::XFSZ.as_raw())
}

/// How a process ended, in words.
pub(crate) fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with exit code {code}"),
        (None, Some(signal)) => format!("it was ended by signal {signal}"),
        (None, None) => "it ended".into(),
    }
}
