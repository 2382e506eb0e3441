//! What can close the file system to a program: the kernel's Landlock, else bubblewrap.

use std::{
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::{Deserialize, Serialize};

use crate::{files, spec::Files};

/// Where bubblewrap is installed.
const PLACES: &[&str] = &["/usr/bin/bwrap", "/usr/local/bin/bwrap", "/bin/bwrap"];

/// What closes the file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Closer {
    /// Rules of the kernel for a process and what it starts (Linux 5.13 and newer).
    #[default]
    Landlock,
    /// A view of the file system of its own, made by the program that lies here.
    Bubblewrap(PathBuf),
}

impl Closer {
    /// Landlock, where the kernel has it.
    pub fn landlock() -> Option<Self> {
        files::has_landlock().then_some(Self::Landlock)
    }

    /// Bubblewrap, where it is installed and works for this user id; not every kernel lets everybody make namespaces.
    pub fn bubblewrap(uid: Option<u32>) -> Option<Self> {
        let program = PLACES.iter().map(Path::new).find(|place| is_program(place))?;
        works(program, uid).then(|| Self::Bubblewrap(program.to_owned()))
    }

    /// In a word.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Landlock => "Landlock",
            Self::Bubblewrap(_) => "bubblewrap",
        }
    }
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[expect(clippy::disallowed_methods, reason = "tries whether the program works here")]
fn works(program: &Path, uid: Option<u32>) -> bool {
    let mut command = Command::new(program);
    command.args(["--ro-bind", "/", "/", "--proc", "/proc", "--unshare-user", "--unshare-pid", "--", "/bin/true"]).env_clear();
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    command.status().is_ok_and(|status| status.success())
}

/// The arguments that make bubblewrap show `own` and the system's files, and nothing else, to the program that follows
/// them. What lies below comes after what lies above it. Other processes are not seen.
pub(crate) fn arguments(own: &Files, network: bool, folder: &Path) -> Vec<String> {
    let system = files::SYSTEM.iter().chain(files::RESOLVER).map(PathBuf::from).filter(|path| path != Path::new("/proc"));
    let mut shown: Vec<(PathBuf, &str)> = system.chain(own.read.iter().cloned()).map(|path| (path, "--ro-bind-try")).collect();
    shown.extend(own.write.iter().map(|path| (path.clone(), "--bind-try")));
    shown.sort_by(|a, b| a.0.cmp(&b.0));
    let mut arguments: Vec<String> = ["--die-with-parent", "--unshare-user", "--unshare-pid", "--unshare-ipc"].map(str::to_owned).into();
    if !network {
        arguments.push("--unshare-net".into());
    }
    for (path, how) in shown {
        let path = path.display().to_string();
        arguments.extend([how.to_owned(), path.clone(), path]);
    }
    arguments.extend(["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/", "--chdir"].map(str::to_owned));
    arguments.extend([folder.display().to_string(), "--".to_owned()]);
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_below_is_shown_after_what_lies_above() {
        let own = Files { read: vec!["/srv/trees/a".into()], write: vec!["/srv/trees/a/tmp".into(), "/srv".into()], by: Closer::Landlock };
        let arguments = arguments(&own, false, Path::new("/srv/trees/a/tmp"));
        let place = |path: &str| arguments.iter().position(|argument| argument == path).unwrap();
        assert!(place("/srv") < place("/srv/trees/a") && place("/srv/trees/a") < place("/srv/trees/a/tmp"));
        assert_eq!(arguments[place("/srv/trees/a") - 1], "--ro-bind-try");
        assert_eq!(arguments[place("/srv/trees/a/tmp") - 1], "--bind-try");
        assert!(arguments.contains(&"--unshare-net".to_owned()) && arguments.last().unwrap() == "--");
    }
}
