//! What this machine can keep other people's programs with, and their start.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use platform::{
    config::{Isolation, RuntimeConfig},
    files,
};
use rustix::io::{FdFlags, fcntl_setfd};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::process::Command;

use crate::{
    CARRIED, LAUNCH, SCRIPTS_USER,
    cgroups::{Cgroups, GroupLimits},
    closer::Closer,
    process::{MARK, Pipes, Process},
    spec::{Files, Limits, Spec},
};

/// What was found.
#[derive(Debug)]
pub struct Machine {
    /// This program, opened once: it is found again wherever it lies, and whoever may look there.
    launcher: fs::File,
    cgroups: Option<Arc<Cgroups>>,
    closer: Option<Closer>,
    has_own_users: bool,
}

/// What is to be started.
pub struct Start<'a> {
    /// Never had by anything else that this fabric started: what ends late does not meet what begins.
    pub mark: String,
    /// Absolute.
    pub program: PathBuf,
    /// Its arguments; others can see them.
    pub args: Vec<String>,
    /// Its whole environment, beside a path, a home and a place for passing files.
    pub env: &'a BTreeMap<String, SecretString>,
    /// Folders with programs that it finds before those of the system.
    pub programs: Vec<PathBuf>,
    /// Where it begins.
    pub folder: &'a Path,
    /// What it may write to, with `tmp` in it.
    pub home: &'a Path,
    /// It may read and run what is below.
    pub read: Vec<PathBuf>,
    /// It may write below.
    pub write: Vec<PathBuf>,
    /// Whether it may open the network.
    pub network: bool,
    /// What all that it starts may use together.
    pub group: GroupLimits,
    /// What each process may use; processes are counted here where there are no groups.
    pub limits: Limits,
    /// The user id that it has; `None` for ours.
    pub uid: Option<u32>,
}

impl Machine {
    /// Looks at what this machine lets us do, and ends what an earlier process of the fabric of this name left. `place` is
    /// where the files lie that programs use.
    pub fn look(config: &RuntimeConfig, node: &str, place: &Path) -> io::Result<Self> {
        let launcher = fs::File::open(config.launcher.as_deref().unwrap_or(Path::new("/proc/self/exe")))?;
        fcntl_setfd(&launcher, FdFlags::empty())?;
        let is_wanted = config.sandbox != Isolation::Off;
        let has_own_users = is_wanted && files::runs_for_others(place);
        let bubblewrap = || Closer::bubblewrap(has_own_users.then_some(SCRIPTS_USER));
        let needed = |what: &str| io::Error::other(format!("FABRIC_SANDBOX asks for {what}, which is not there or does not work here"));
        let closer = match config.sandbox {
            Isolation::Auto => Closer::landlock().or_else(bubblewrap),
            Isolation::Landlock => Some(Closer::landlock().ok_or_else(|| needed("Landlock (Linux 5.13)"))?),
            Isolation::Bubblewrap => Some(bubblewrap().ok_or_else(|| needed("bubblewrap (Debian: apt-get install bubblewrap)"))?),
            Isolation::Off => None,
        };
        let cgroups = is_wanted.then(|| Cgroups::find(&format!("mcp-fabric-{node}"))).flatten().map(Arc::new);
        Ok(Self { launcher, cgroups, closer, has_own_users })
    }

    /// Whether control groups keep limits.
    pub fn has_cgroups(&self) -> bool {
        self.cgroups.is_some()
    }

    /// Whether programs run under user ids of their own.
    pub fn has_own_users(&self) -> bool {
        self.has_own_users
    }

    /// What closes the file system, if anything does.
    pub fn closer(&self) -> Option<&Closer> {
        self.closer.as_ref()
    }

    /// In words, for whoever asks how programs are kept.
    pub fn describe(&self) -> String {
        let yes = |is: bool| if is { "yes" } else { "no" };
        let closed = self.closer.as_ref().map_or("no".to_owned(), |closer| format!("yes, by {}", closer.name()));
        format!("control groups: {}, own user ids: {}, closed file system: {closed}", yes(self.has_cgroups()), yes(self.has_own_users))
    }

    /// Starts a program in a process group and a control group of its own, with nothing in its environment but what is
    /// ordered.
    #[expect(clippy::disallowed_methods, reason = "this is the door through which other people's programs are started")]
    pub fn start(&self, order: Start<'_>) -> io::Result<(Process, Pipes)> {
        let group = self.cgroups.as_ref().map(|groups| groups.create(&order.mark, order.group)).transpose()?.map(Arc::new);
        let path = program_path(&order.program, &order.programs);
        let files = self.closer.clone().map(|by| Files {
            read: order.read.into_iter().chain(prefix(&order.program)).collect(),
            write: order.write.into_iter().chain([order.home.to_owned()]).collect(),
            by,
        });
        let processes = order.group.processes.filter(|_| group.is_none() && order.uid.is_some());
        let spec = Spec {
            program: order.program,
            args: order.args,
            files,
            network: order.network,
            user: order.uid,
            limits: Limits { processes, ..order.limits },
            group: group.as_ref().map(|group| group.membership()),
        };
        let mut command = Command::new(format!("/proc/self/fd/{}", self.launcher.as_raw_fd()));
        command.arg0("mcp-fabric").arg(LAUNCH).arg(serde_json::to_string(&spec)?).current_dir(order.folder);
        let home = [("HOME", order.home.to_owned()), ("TMPDIR", order.home.join("tmp"))];
        let own = [("PATH", path.into()), ("LANG", "C.UTF-8".into())].into_iter().chain(home.map(|(name, folder)| (name, folder.into())));
        let given = order.env.iter().map(|(name, value)| (name.as_str(), OsString::from(value.expose_secret())));
        // Nobody else may set variables of this prefix.
        let mark = (group.is_none() && order.uid.is_none()).then(|| (MARK, OsString::from(&order.mark)));
        command.env_clear().envs(own.chain(given).chain(mark).map(|(name, value)| (format!("{CARRIED}{name}"), value)));
        // The launcher becomes the other user, and not what is begun here: that would copy the tables of all our memory first.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        Process::begin(command, group, order.uid, order.mark)
    }
}

/// Where a program finds others: beside itself, where it is told, and where the system has them.
fn program_path(program: &Path, further: &[PathBuf]) -> String {
    let own = program.parent().into_iter().chain(further.iter().map(PathBuf::as_path)).map(|folder| format!("{}:", folder.display()));
    format!("{}/usr/local/bin:/usr/bin:/bin", own.collect::<String>())
}

/// Where an interpreter that does not lie in the system's folders has its files.
fn prefix(program: &Path) -> Vec<PathBuf> {
    let real = fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
    let above = real.parent().and_then(Path::parent).map(Path::to_owned);
    above.into_iter().filter(|prefix| prefix.parent().is_some() && *prefix != Path::new("/root") && *prefix != Path::new("/home")).collect()
}
