use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What is to be run, and within what. No secret is in it: others can see arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Absolute.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Folders and files that it may read and run, besides those of the system; `None` closes nothing.
    pub files: Option<Files>,
    /// Whether it may open the network.
    pub network: bool,
    /// What it may use.
    pub limits: Limits,
}

/// What a program may touch of the file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// It may read and run what is below.
    pub read: Vec<PathBuf>,
    /// It may write below, too.
    pub write: Vec<PathBuf>,
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
