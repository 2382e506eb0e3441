//! What happens in the child before it becomes the other program.

use std::{
    env, fs, io,
    os::unix::process::CommandExt as _,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::{
        DumpableBehavior, Gid, Resource, Rlimit, Signal, Uid, getgid, getuid, set_dumpable_behavior, set_parent_process_death_signal,
        setrlimit,
    },
    thread::{UnshareFlags, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::{
    CARRIED,
    closer::{self, Closer},
    files,
    spec::{Membership, Spec},
};

/// How long it is waited for the control group.
const JOINED: Duration = Duration::from_secs(5);

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
enum LaunchError {
    #[error("the order cannot be read: {0}")]
    Order(#[from] serde_json::Error),
    #[error("the limit of {0} cannot be set: {1}")]
    Limit(&'static str, io::Error),
    #[error("privileges cannot be given up: {0}")]
    Privileges(io::Error),
    #[error("it was not put into its control group")]
    Group,
    #[error("the network cannot be closed: {0}")]
    Network(io::Error),
    #[error("the file system cannot be closed: {0}")]
    Files(#[from] landlock::RulesetError),
    #[error("{0} cannot be started: {1}")]
    Program(String, io::Error),
}

/// Becomes the program of a [`Spec`] that is given as JSON; what it says is why it could not.
pub fn launch(order: &str) -> String {
    match prepare(order) {
        Ok(never) => match never {},
        Err(error) => error.to_string(),
    }
}

fn prepare(order: &str) -> Result<std::convert::Infallible, LaunchError> {
    let spec: Spec = serde_json::from_str(order)?;
    if let Some(user) = spec.user {
        become_user(user).map_err(|error| LaunchError::Privileges(error.into()))?;
    }
    // A fabric that is killed takes its servers with it. To become another user takes that back, and came first.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| LaunchError::Privileges(error.into()))?;
    if let Some(group) = &spec.group {
        join(group)?;
    }
    let limit = |name, resource, most: u64| {
        let most = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(resource, most).map_err(|error| LaunchError::Limit(name, error.into()))
    };
    limit("core dumps", Resource::Core, 0)?;
    limit("the size of files", Resource::Fsize, spec.limits.file_bytes)?;
    if let Some(processes) = spec.limits.processes {
        limit("processes", Resource::Nproc, processes)?;
    }
    set_no_new_privs(true).map_err(|error| LaunchError::Privileges(error.into()))?;
    let is_shown_apart = matches!(&spec.files, Some(own) if own.by != Closer::Landlock);
    if !spec.network && !is_shown_apart {
        close_network(spec.files.is_some()).map_err(LaunchError::Network)?;
    }
    if let Some(own) = spec.files.as_ref().filter(|_| !is_shown_apart) {
        files::close(own, spec.network)?;
    }
    limit("open files", Resource::Nofile, spec.limits.open_files)?;
    let error = become_program(&spec);
    Err(LaunchError::Program(spec.program.display().to_string(), error))
}

/// Becomes another user for good, while this process has one thread.
fn become_user(number: u32) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(number), Gid::from_raw(number));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    // Until another program begins, its own files below /proc would be root's, with the maps of a namespace among them.
    set_dumpable_behavior(DumpableBehavior::Dumpable)
}

/// Waits until the fabric has put this process into its group: what the program starts is in it from the first on.
fn join(group: &Membership) -> Result<(), LaunchError> {
    let begun = Instant::now();
    while !group.is_in(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default()) {
        if begun.elapsed() > JOINED {
            return Err(LaunchError::Group);
        }
        thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "this is the door: it becomes the program that was ordered")]
fn become_program(spec: &Spec) -> io::Error {
    let carried = env::vars_os().filter_map(|(name, value)| Some((name.to_str()?.strip_prefix(CARRIED)?.to_owned(), value)));
    let mut command = match spec.files.as_ref().map(|own| (own, &own.by)) {
        Some((own, Closer::Bubblewrap(around))) => {
            let folder = match env::current_dir() {
                Ok(folder) => folder,
                Err(error) => return error,
            };
            let mut command = Command::new(around);
            command.args(closer::arguments(own, spec.network, &folder)).arg(&spec.program);
            command
        }
        _ => Command::new(&spec.program),
    };
    command.args(&spec.args).env_clear().envs(carried).exec()
}

/// A network of its own has nobody in it. Where such a one cannot be made, the rules for the file system close TCP, if
/// there are any and the kernel knows how (Linux 6.7).
fn close_network(closes_files: bool) -> io::Result<()> {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    #[expect(deprecated, reason = "the flags that make it unsafe are not among these")]
    let alone = rustix::thread::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET);
    if alone.is_ok() {
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
        return Ok(());
    }
    if closes_files && files::closes_tcp() { Ok(()) } else { alone.map_err(Into::into) }
}
