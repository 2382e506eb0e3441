//! Control groups, version 2 and 1: limits on memory, CPU and processes that no child can leave.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{processes::kill_all, spec::Membership};

/// The length of a period of CPU time, in microseconds.
const PERIOD: u64 = 100_000;
/// The group that the fabric itself moves to, where groups pass their controllers on.
const INSIDE: &str = "mcp-fabric-itself";
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// The groups that this process may make, if it may.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    layout: Layout,
}

#[derive(Clone, Debug)]
enum Layout {
    /// One tree with every controller.
    Unified(PathBuf),
    /// A tree for each controller, in the order of [`CONTROLLERS`].
    Split([PathBuf; 3]),
}

/// What a group may use.
#[derive(Clone, Copy, Debug, Default)]
pub struct GroupLimits {
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// Thousandths of a core.
    pub cpu_millis: Option<u64>,
    /// Processes and threads.
    pub processes: Option<u64>,
}

impl Cgroups {
    /// Looks for a place where groups can be made, below the one that this process is in. `name` tells fabrics apart.
    pub(crate) fn find(name: &str) -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let layout = Self::unified(&own, name).or_else(|| Self::split(&own, name))?;
        let found = Self { layout };
        found.sweep();
        let probe =
            found.create("probe", GroupLimits { memory_bytes: Some(1 << 30), cpu_millis: Some(1000), processes: Some(100) }).ok()?;
        probe.remove();
        Some(found)
    }

    /// The processes of a group that passes controllers on must be in its children.
    fn unified(own: &str, name: &str) -> Option<Layout> {
        let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let root = Path::new("/sys/fs/cgroup");
        let available = fs::read_to_string(root.join("cgroup.controllers")).ok()?;
        if !CONTROLLERS.iter().all(|wanted| available.split_whitespace().any(|there| there == *wanted)) {
            return None;
        }
        // Where an earlier process of this fabric had moved itself.
        let parent = root.join(path.strip_suffix(INSIDE).map_or(path, |above| above.trim_end_matches('/')));
        let inside = parent.join(INSIDE);
        fs::create_dir_all(&inside).ok()?;
        let processes = fs::read_to_string(parent.join("cgroup.procs")).ok()?;
        for pid in processes.lines() {
            fs::write(inside.join("cgroup.procs"), pid).ok()?;
        }
        let base = parent.join(name);
        fs::create_dir_all(&base).ok()?;
        for folder in [&parent, &base] {
            fs::write(folder.join("cgroup.subtree_control"), "+memory +pids +cpu").ok()?;
        }
        Some(Layout::Unified(base))
    }

    fn split(own: &str, name: &str) -> Option<Layout> {
        let base = |controller: &str| {
            let line = own.lines().find(|line| line.split(':').nth(1).is_some_and(|list| list.split(',').any(|one| one == controller)))?;
            let path = line.splitn(3, ':').nth(2)?.trim_start_matches('/');
            let base = Path::new("/sys/fs/cgroup").join(controller).join(path).join(name);
            fs::create_dir_all(&base).ok()?;
            Some(base)
        };
        let [memory, pids, cpu] = CONTROLLERS.map(base);
        Some(Layout::Split([memory?, pids?, cpu?]))
    }

    fn folders(&self, name: &str) -> Vec<PathBuf> {
        match &self.layout {
            Layout::Unified(base) => vec![base.join(name)],
            Layout::Split(bases) => bases.iter().map(|base| base.join(name)).collect(),
        }
    }

    /// Makes a group.
    pub(crate) fn create(&self, name: &str, limits: GroupLimits) -> io::Result<Group> {
        let folders = self.folders(name);
        let group = Group { is_unified: matches!(self.layout, Layout::Unified(_)), folders };
        group.folders.iter().try_for_each(fs::create_dir_all)?;
        let set = || -> io::Result<()> {
            let (memory, pids, cpu) = (group.folder(0), group.folder(1), group.folder(2));
            if let Some(bytes) = limits.memory_bytes {
                fs::write(memory.join(if group.is_unified { "memory.max" } else { "memory.limit_in_bytes" }), bytes.to_string())?;
                // Swapping would only put the end off; not every kernel counts it.
                let swap = if group.is_unified { ("memory.swap.max", 0) } else { ("memory.memsw.limit_in_bytes", bytes) };
                fs::write(memory.join(swap.0), swap.1.to_string()).ok();
            }
            if let Some(processes) = limits.processes {
                fs::write(pids.join("pids.max"), processes.to_string())?;
            }
            if let Some(millis) = limits.cpu_millis {
                let quota = (millis * PERIOD / 1000).max(1000);
                if group.is_unified {
                    fs::write(cpu.join("cpu.max"), format!("{quota} {PERIOD}"))?;
                } else {
                    fs::write(cpu.join("cpu.cfs_period_us"), PERIOD.to_string())?;
                    fs::write(cpu.join("cpu.cfs_quota_us"), quota.to_string())?;
                }
            }
            Ok(())
        };
        set()?;
        Ok(group)
    }

    /// Ends what an earlier process of this fabric left, and removes its groups.
    fn sweep(&self) {
        let bases = match &self.layout {
            Layout::Unified(base) => std::slice::from_ref(base),
            Layout::Split(bases) => &bases[..],
        };
        let names = bases.iter().filter_map(|base| fs::read_dir(base).ok()).flatten().flatten();
        let names: std::collections::BTreeSet<String> =
            names.filter(|entry| entry.path().is_dir()).filter_map(|entry| entry.file_name().into_string().ok()).collect();
        for name in names {
            let left = Group { is_unified: bases.len() == 1, folders: self.folders(&name) };
            left.kill();
            left.remove();
        }
    }
}

/// One group.
#[derive(Debug)]
pub(crate) struct Group {
    is_unified: bool,
    folders: Vec<PathBuf>,
}

impl Group {
    /// Of a controller, by its place in [`CONTROLLERS`].
    fn folder(&self, controller: usize) -> &Path {
        self.folders.get(controller).or(self.folders.first()).map_or(Path::new("/nowhere"), PathBuf::as_path)
    }

    /// Moves a process into it; what that starts is in it, too.
    pub(crate) fn add(&self, pid: u32) -> io::Result<()> {
        self.folders.iter().try_for_each(|folder| fs::write(folder.join("cgroup.procs"), pid.to_string()))
    }

    /// How a process sees that it is in it.
    pub(crate) fn membership(&self) -> Membership {
        let controller = if self.is_unified { "" } else { CONTROLLERS[CONTROLLERS.len() - 1] };
        let name = self.folder(0).file_name().unwrap_or_default().to_string_lossy().into_owned();
        Membership { controller: controller.to_owned(), name }
    }

    /// The processes in it.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.folder(0).join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Whether the kernel ended one of its processes for want of memory.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let file = if self.is_unified { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.folder(0).join(file)).unwrap_or_default();
        text.lines().filter_map(|line| line.strip_prefix("oom_kill ")).any(|count| count.trim() != "0")
    }

    /// Ends all of its processes; those that start others meanwhile, too.
    pub(crate) fn kill(&self) {
        kill_all(|| self.processes());
    }

    /// Removes it, where it is empty.
    pub(crate) fn remove(&self) {
        for folder in &self.folders {
            fs::remove_dir(folder).ok();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.remove();
    }
}
