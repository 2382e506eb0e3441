//! What `/proc` says of processes: who descends from whom, whose they are, and what they use.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt as _,
    thread,
    time::Duration,
};

use rustix::param::{clock_ticks_per_second, page_size};

/// What some processes use together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// How many there are.
    pub processes: u32,
    /// Bytes of resident memory.
    pub memory_bytes: u64,
    /// Milliseconds of CPU since each began.
    pub cpu_millis: u64,
}

/// The members of `/proc/<pid>/stat` that are looked at.
struct Stat {
    has_ended: bool,
    parent: u32,
    ticks: u64,
    resident_pages: u64,
}

/// Reads the line that the kernel writes; the name in it may hold anything, parentheses and spaces too.
fn parse(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
    // Counted from the state, which is the third field of proc(5).
    let has_ended = matches!(fields.first(), Some(&("Z" | "X")));
    Some(Stat { has_ended, parent: u32::try_from(number(1)?).ok()?, ticks: number(11)? + number(12)?, resident_pages: number(21)? })
}

fn stat(pid: u32) -> Option<Stat> {
    parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").ok().into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// A process and everything that it started, as far as their parents live.
pub(crate) fn descendants(root: u32) -> Vec<u32> {
    let parents: HashMap<u32, u32> = all().filter_map(|pid| Some((pid, stat(pid)?.parent))).collect();
    let mut found: HashSet<u32> = HashSet::from([root]);
    loop {
        let more: Vec<u32> =
            parents.iter().filter(|(pid, parent)| found.contains(parent) && !found.contains(pid)).map(|(pid, _)| *pid).collect();
        if more.is_empty() {
            return found.into_iter().filter(|pid| parents.contains_key(pid)).collect();
        }
        found.extend(more);
    }
}

/// Every process of a user id.
pub fn of_user(uid: u32) -> Vec<u32> {
    all().filter(|pid| fs::metadata(format!("/proc/{pid}")).is_ok_and(|found| found.uid() == uid)).collect()
}

/// Every process that was given this variable and has not changed what it shows of its environment. Only those that
/// may be looked into are found: one's own, unless one is root.
pub(crate) fn with_variable(name: &str, value: &str) -> Vec<u32> {
    let wanted = format!("{name}={value}");
    let has = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    all().filter(has).collect()
}

/// Ends all of these, and what they start meanwhile; gives up after a fifth of a second.
pub fn kill_all(find: impl Fn() -> Vec<u32>) {
    for _ in 0..50 {
        // Those that nobody has waited for yet have ended.
        let found: Vec<u32> = find().into_iter().filter(|pid| stat(*pid).is_some_and(|stat| !stat.has_ended)).collect();
        if found.is_empty() {
            return;
        }
        for pid in found {
            let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
            pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
        }
        thread::sleep(Duration::from_millis(4));
    }
}

/// What these processes use; those that are gone use nothing.
pub(crate) fn usage(pids: &[u32]) -> Usage {
    pids.iter().filter_map(|pid| stat(*pid)).fold(Usage::default(), |sum, stat| Usage {
        processes: sum.processes + 1,
        memory_bytes: sum.memory_bytes + stat.resident_pages * page_size() as u64,
        cpu_millis: sum.cpu_millis + stat.ticks * 1000 / clock_ticks_per_second().max(1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_looks_like_fields_is_no_trouble() {
        let line = "7 (a) b) (c) S 3 7 7 0 -1 4194560 1 0 0 0 11 5 0 0 20 0 1 0 99 1000 42 18446744073709551615 1 1";
        let stat = parse(line).unwrap();
        assert_eq!((stat.parent, stat.ticks, stat.resident_pages), (3, 16, 42));
        assert!(!stat.has_ended && parse(&line.replace(" S ", " Z ")).unwrap().has_ended);
        assert!(parse("7 (a").is_none());
    }

    #[test]
    fn we_are_among_the_processes() {
        let own = std::process::id();
        assert_eq!(usage(&[own]).processes, 1);
        assert!(usage(&[own]).memory_bytes > 1 << 20);
        assert!(descendants(own).contains(&own));
        assert!(of_user(rustix::process::getuid().as_raw()).contains(&own));
        assert_eq!(usage(&[u32::MAX]), Usage::default());
    }
}
