//! Starting other people's programs: in a process group of their own, with an empty environment, limits, and a view of
//! the files that is no larger than it has to be.
//!
//! A child is started through the program itself ([`launch`]): between the fork and the other program, the launcher
//! sets limits, gives up privileges and closes the file system with Landlock, all of which need no unsafe code there.

mod cgroups;
mod files;
mod launcher;
mod processes;
mod spec;

pub use cgroups::{Cgroups, Group, GroupLimits};
pub use files::has_landlock;
pub use launcher::launch;
pub use processes::{Usage, descendants, kill_all, of_user, usage, with_variable};
pub use spec::{Files, Limits, Membership, Spec};

/// The first argument that makes the program a launcher.
pub const LAUNCH: &str = "launch";
