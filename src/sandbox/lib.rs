//! Starting other people's programs: in a process group of their own, with an empty environment, limits, and a view of
//! the files that is no larger than it has to be.
//!
//! A child is started through the program itself ([`launch`]): between the fork and the other program, the launcher
//! sets limits, gives up privileges and closes the file system ([`Closer`]), all of which need no unsafe code there.
//! [`Machine`] knows what this machine can do, and starts a [`Process`].

mod cgroups;
mod closer;
mod files;
mod launcher;
mod machine;
mod process;
mod processes;
mod spec;

pub use cgroups::GroupLimits;
pub use closer::Closer;
pub use launcher::launch;
pub use machine::{Machine, Start};
pub use process::{Members, Pipes, Process, describe, wrote_too_much};
pub use processes::{Usage, kill_all, of_user};
pub use spec::Limits;

/// The first argument that makes the program a launcher.
pub const LAUNCH: &str = "launch";

/// What the launcher's variables are called by before the names that the program is to have: what reads variables before the
/// launcher has become another user finds none that it knows.
pub(crate) const CARRIED: &str = "CARRIED_";

/// User ids that nobody else has: the range that systemd gives to services without accounts.
pub const USERS: std::ops::RangeInclusive<u32> = 61184..=65510;
/// Likewise, for what the factory tries out.
pub const FACTORY_USERS: std::ops::RangeInclusive<u32> = 65511..=65518;
/// Likewise, for scripts of packages: one of them runs at a time.
pub const SCRIPTS_USER: u32 = 65519;
