use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::closer::Closer;

/// What is to be run, and within what. No secret is in it: others can see arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// Absolute.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) args: Vec<String>,
    /// Folders and files that it may read and run, besides those of the system; `None` closes nothing.
    pub(crate) files: Option<Files>,
    /// Whether it may open the network.
    pub(crate) network: bool,
    /// The user, and the group of the same number, that it becomes; `None` stays who we are.
    pub(crate) user: Option<u32>,
    /// What it may use.
    pub(crate) limits: Limits,
    /// The control group that it is in before it begins; `None` for none.
    pub(crate) group: Option<Membership>,
}

/// A control group, as `/proc/self/cgroup` shows that a process is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Membership {
    /// The controller that a process joins last; empty in version 2, where all are joined at once.
    pub(crate) controller: String,
    /// The last part of its path.
    pub(crate) name: String,
}

impl Membership {
    /// Whether a `/proc/self/cgroup` shows it.
    pub(crate) fn is_in(&self, cgroups: &str) -> bool {
        cgroups.lines().any(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            controllers.split(',').any(|controller| controller == self.controller) && path.rsplit('/').next() == Some(&self.name)
        })
    }
}

/// What a program may touch of the file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Files {
    /// It may read and run what is below.
    pub(crate) read: Vec<PathBuf>,
    /// It may write below, too.
    pub(crate) write: Vec<PathBuf>,
    /// What keeps it from the rest.
    pub(crate) by: Closer,
}

/// Limits that the kernel keeps for one process (`setrlimit`); Node lives with all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Files and sockets that are open at once.
    pub open_files: u64,
    /// Bytes of one file that it writes.
    pub file_bytes: u64,
    /// Processes and threads of its user id; only where that is its own.
    pub processes: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { open_files: 4096, file_bytes: 1 << 30, processes: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_in_a_group_when_the_last_controller_says_so() {
        let group = |controller: &str| Membership { controller: controller.into(), name: "a.1".into() };
        assert!(group("cpu").is_in("5:memory:/x/a.1\n4:cpu,cpuacct:/x/a.1\n0::/\n"));
        assert!(!group("cpu").is_in("5:memory:/x/a.1\n4:cpu,cpuacct:/\n0::/x/a.1\n"), "not yet");
        assert!(group("").is_in("0::/fabric/a.1\n"));
        assert!(!group("").is_in("0::/fabric/a.10\n"));
        assert!(!group("").is_in("rubbish"));
    }
}
