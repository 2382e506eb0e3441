//! A program of somebody else while it runs: looked at, and ended for certain.

use std::{io, os::unix::process::ExitStatusExt as _, process::ExitStatus, sync::Arc, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use crate::{
    cgroups::Group,
    processes::{Usage, descendants, kill_all, of_user, usage, with_variable},
};

/// The variable that marks what a start started.
pub(crate) const MARK: &str = "FABRIC_INSTANCE";
/// How long a program may take to end once its input is closed, and once it is asked by a signal.
const CLOSED: Duration = Duration::from_millis(2500);
const ASKED: Duration = Duration::from_millis(1500);

/// A process that was started, and all that it starts.
pub struct Process {
    child: Child,
    /// Its number, which is that of its process group, too.
    pub pid: u32,
    group: Option<Arc<Group>>,
    uid: Option<u32>,
    /// What all that it starts has in its environment.
    mark: String,
}

/// The ends of its pipes.
pub struct Pipes {
    /// What it reads.
    pub input: ChildStdin,
    /// What it says.
    pub output: ChildStdout,
    /// What it complains of.
    pub errors: ChildStderr,
}

impl Process {
    pub(crate) fn begin(mut command: Command, group: Option<Arc<Group>>, uid: Option<u32>, mark: String) -> io::Result<(Self, Pipes)> {
        let mut child = command.spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other("the process ended at once"))?;
        if let Some(group) = &group {
            // Without its limits it does not run: the child ends when it is dropped.
            group.add(pid)?;
        }
        let (Some(input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err(io::Error::other("the process has no pipes"));
        };
        Ok((Self { child, pid, group, uid, mark }, Pipes { input, output, errors }))
    }

    /// Returns when it has ended.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// The processes that it consists of.
    pub fn members(&self) -> Members {
        Members { pid: self.pid, uid: self.uid, group: self.group.clone() }
    }

    /// Whether the kernel ended it for want of memory.
    pub fn ran_out_of_memory(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.ran_out_of_memory())
    }

    /// Ends it: its input is closed by whoever has it; then it is asked, and then it is not asked any more. What it
    /// started ends with it.
    pub async fn end(mut self) -> io::Result<()> {
        if tokio::time::timeout(CLOSED, self.child.wait()).await.is_err() {
            self.signal(Signal::TERM);
            if tokio::time::timeout(ASKED, self.child.wait()).await.is_err() {
                self.signal(Signal::KILL);
            }
        }
        self.finish().await
    }

    /// Ends everything of it at once.
    pub async fn kill(mut self) -> io::Result<()> {
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
        let (group, uid) = (self.group.take(), self.uid);
        if group.is_none() && uid.is_none() {
            // Its number may be another's by now, which is most unlikely so soon.
            self.signal_group(Signal::KILL);
        }
        let mark = self.mark.clone();
        let swept = tokio::task::spawn_blocking(move || match (group, uid) {
            (Some(group), _) => group.kill(),
            (None, Some(uid)) => kill_all(|| of_user(uid)),
            // What left the process group is known by its mark.
            (None, None) => kill_all(|| with_variable(MARK, &mark)),
        });
        swept.await.map_err(io::Error::other)?;
        self.child.wait().await.map(drop)
    }
}

/// The processes of an instance, to be looked at.
#[derive(Clone)]
pub struct Members {
    pid: u32,
    uid: Option<u32>,
    group: Option<Arc<Group>>,
}

impl Members {
    /// What they use; reads `/proc`.
    pub fn usage(&self) -> Usage {
        let pids = match (&self.group, self.uid) {
            (Some(group), _) => group.processes(),
            (None, Some(uid)) => of_user(uid),
            (None, None) => descendants(self.pid),
        };
        usage(&pids)
    }
}

/// Whether the kernel ended it because it wrote more into a file than it may. What runs inside of another program is
/// told of by that one's exit code.
pub fn wrote_too_much(status: ExitStatus) -> bool {
    let signal = Signal::XFSZ.as_raw();
    status.signal() == Some(signal) || status.code() == Some(128 + signal)
}

/// How a process ended, in words.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with exit code {code}"),
        (None, Some(signal)) => format!("it was ended by signal {signal}"),
        (None, None) => "it ended".into(),
    }
}
