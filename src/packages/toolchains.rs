//! The programs that packages are run with, as this machine has them.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use platform::{config::sources::environment, files};

/// How long a program may take to tell its version.
const PATIENCE: Duration = Duration::from_secs(10);

/// A program that packages need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// Runs packages of npm.
    Node,
    /// Chooses what a package of npm needs.
    Npm,
    /// Runs packages of Python.
    Python,
    /// Chooses what a package of Python needs, and installs it.
    Uv,
}

/// A program that is there.
#[derive(Clone, Debug)]
pub struct Found {
    /// Where; absolute.
    pub program: PathBuf,
    /// As it tells it, without its name.
    pub version: String,
}

/// A program that is not there, or does not work.
#[derive(Debug, thiserror::Error)]
pub enum NoToolchain {
    /// Not in any folder of `PATH`.
    #[error("{0} is not installed: {1}")]
    Missing(&'static str, &'static str),
    /// It lies where servers, which run under user ids of their own, cannot reach it.
    #[error("{0} is installed only where servers cannot reach it, below a folder that is closed to other users ({path}): install it for all users ({1})", path = .2.display())]
    Closed(&'static str, &'static str, PathBuf),
    /// It is there and tells no version.
    #[error("{} does not tell its version within {} s; is the installation whole?", .0.display(), PATIENCE.as_secs())]
    Broken(PathBuf),
}

impl Toolchain {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Node, Self::Npm, Self::Python, Self::Uv];

    /// The name of the program.
    pub fn program(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Npm => "npm",
            Self::Python => "python3",
            Self::Uv => "uv",
        }
    }

    /// What to do where it is not there.
    fn remedy(self) -> &'static str {
        match self {
            Self::Node => "servers from npm need it; install Node.js 20 or newer (Debian: apt-get install nodejs)",
            Self::Npm => "caching servers from npm needs it; install npm (Debian: apt-get install npm)",
            Self::Python => "servers from PyPI need it; install Python 3.10 or newer (Debian: apt-get install python3)",
            Self::Uv => "caching servers from PyPI needs it, or pip; install uv (pip install uv)",
        }
    }

    /// Looks for it in `PATH`, and asks it for its version.
    pub async fn find(self) -> Result<Found, NoToolchain> {
        let folders = environment("PATH").unwrap_or_default();
        let mut programs = in_path(&folders, self.program());
        let program = programs.next().ok_or_else(|| NoToolchain::Missing(self.program(), self.remedy()))?;
        asked(program, &folders).await
    }

    /// The first one in `PATH` that a server of the fabric whose files lie in `place` can start.
    pub async fn find_for_servers(self, place: &Path) -> Result<Found, NoToolchain> {
        if !files::runs_for_others(place) {
            return self.find().await;
        }
        let folders = environment("PATH").unwrap_or_default();
        let mut closed = None;
        for program in in_path(&folders, self.program()) {
            let program = program.canonicalize().unwrap_or(program);
            if files::is_open_to_all(&program) {
                return asked(program, &folders).await;
            }
            closed.get_or_insert(program);
        }
        Err(match closed {
            Some(program) => NoToolchain::Closed(self.program(), self.remedy(), program),
            None => NoToolchain::Missing(self.program(), self.remedy()),
        })
    }
}

/// The programs of that name; relative folders are not looked into.
fn in_path(folders: &str, name: &str) -> impl Iterator<Item = PathBuf> {
    let is_program = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
    std::env::split_paths(folders).filter(|folder| folder.is_absolute()).map(move |folder| folder.join(name)).filter(is_program)
}

async fn asked(program: PathBuf, folders: &str) -> Result<Found, NoToolchain> {
    match said_by(&program, folders).await.as_deref().and_then(version) {
        Some(version) => Ok(Found { program, version: version.to_owned() }),
        None => Err(NoToolchain::Broken(program)),
    }
}

/// What it prints when it is asked for its version.
#[expect(clippy::disallowed_methods, reason = "asks the machine's own programs for their versions")]
async fn said_by(program: &Path, folders: &str) -> Option<String> {
    let mut command = tokio::process::Command::new(program);
    command.arg("--version").env_clear().env("PATH", folders).env("HOME", environment("HOME").unwrap_or_default());
    command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The version in what a program says: `v20.1.0`, `Python 3.11.2`, `uv 0.9.1 (…)`.
fn version(said: &str) -> Option<&str> {
    let words = said.lines().next()?.split_whitespace();
    words.map(|word| word.strip_prefix('v').unwrap_or(word)).find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_programs_say() {
        let said = ["v20.19.2\n", "Python 3.11.2", "uv 0.9.1 (a1b2 2026-01-01)", "9.2.0\n", "", "nothing", "vNext"];
        assert_eq!(said.map(version), [Some("20.19.2"), Some("3.11.2"), Some("0.9.1"), Some("9.2.0"), None, None, None]);
    }

    #[test]
    fn programs_are_looked_for_in_whole_folders_only() {
        let first = |folders: &str, name: &str| in_path(folders, name).next();
        assert_eq!(first("/nowhere:/bin", "sh"), Some(PathBuf::from("/bin/sh")));
        assert_eq!(first("bin:.:", "sh"), None);
        assert_eq!(first("/", "bin"), None, "a folder is no program");
    }

    #[tokio::test]
    async fn a_program_that_tells_nothing_is_broken() {
        assert_eq!(said_by(Path::new("/bin/false"), "/bin").await, None);
        assert_eq!(said_by(Path::new("/nowhere/node"), "/bin").await, None);
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_a_program_says_makes_the_reader_panic(said in "\\PC*") {
            version(&said);
        }
    }
}
