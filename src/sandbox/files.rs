//! The file system as a program sees it, by Landlock (Linux 5.13 and newer).

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, Scope,
};

use crate::spec::Files;

/// What the newest kernels know; older ones keep what they know.
const NEWEST: ABI = ABI::V6;
/// What programs of every kind read: the system's own files, and what the kernel tells.
pub(crate) const SYSTEM: &[&str] =
    &["/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc", "/opt", "/proc", "/sys/fs/cgroup", "/sys/devices/system"];
/// Where the resolver's file really lies.
pub(crate) const RESOLVER: &[&str] = &["/run/systemd/resolve", "/run/resolvconf", "/mnt/wsl/resolv.conf"];
const DEVICES: &[&str] = &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

/// Whether the kernel can close the file system.
pub(crate) fn has_landlock() -> bool {
    let wanted = Ruleset::default().set_compatibility(CompatLevel::HardRequirement).handle_access(AccessFs::from_all(ABI::V1));
    wanted.and_then(Ruleset::create).is_ok()
}

/// Whether the kernel can close TCP.
pub(crate) fn closes_tcp() -> bool {
    let wanted = Ruleset::default().set_compatibility(CompatLevel::HardRequirement).handle_access(AccessNet::from_all(ABI::V4));
    wanted.and_then(Ruleset::create).is_ok()
}

/// Closes everything to this process and its children but the system's own files and what is named.
pub(crate) fn close(own: &Files, network: bool) -> Result<(), RulesetError> {
    let (read, all) = (AccessFs::from_read(NEWEST), AccessFs::from_all(NEWEST));
    let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(all)?.scope(Scope::from_all(NEWEST))?;
    if !network {
        ruleset = ruleset.handle_access(AccessNet::from_all(NEWEST))?;
    }
    let mut created = ruleset.create()?;
    let system = SYSTEM.iter().chain(RESOLVER).map(PathBuf::from);
    for path in system.chain(own.read.iter().cloned()) {
        created = allow(created, &path, read)?;
    }
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    for path in DEVICES {
        created = allow(created, Path::new(path), device)?;
    }
    for path in &own.write {
        created = allow(created, path, all)?;
    }
    created.restrict_self().map(drop)
}

/// What is not there needs no rule. A file has no right that only folders have.
fn allow(created: landlock::RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<landlock::RulesetCreated, RulesetError> {
    let Ok(found) = PathFd::new(path) else { return Ok(created) };
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
    created.add_rule(PathBeneath::new(found, access))
}
