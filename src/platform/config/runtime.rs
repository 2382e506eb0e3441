//! Settings of installations and of what runs.

use std::{path::PathBuf, time::Duration};

use super::{
    ConfigError, Layers,
    parse::{Bounded, FromSetting, Seconds},
};

/// A package that a new fabric installs by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstPackage {
    /// Of npm.
    pub package: String,
    /// The id of the server to be.
    pub server: String,
}

impl FromSetting for FirstPackage {
    fn from_setting(text: &str) -> Result<Self, String> {
        let (package, server) = text.split_once('|').unwrap_or((text, text));
        let (package, server) = (package.trim(), server.trim());
        if package.is_empty() || server.is_empty() {
            return Err("is not a list of `package|server name`, parted by commas".into());
        }
        Ok(Self { package: package.to_owned(), server: server.to_owned() })
    }
}

/// `INSTALL_ON_START`; `off` for none.
pub(super) fn install_on_start(layers: &Layers) -> Result<Vec<FirstPackage>, ConfigError> {
    let list: Vec<FirstPackage> = layers.list("INSTALL_ON_START")?;
    Ok(list.into_iter().filter(|first| first.package != "off").collect())
}

/// How servers are kept from the rest of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// As well as this machine can.
    Auto,
    /// The file system by Landlock, or no start.
    Landlock,
    /// The file system by bubblewrap, or no start.
    Bubblewrap,
    /// Not at all.
    Off,
}

impl FromSetting for Isolation {
    fn from_setting(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "landlock" => Ok(Self::Landlock),
            "bubblewrap" => Ok(Self::Bubblewrap),
            "off" => Ok(Self::Off),
            _ => Err("is none of `auto`, `landlock`, `bubblewrap` and `off`".into()),
        }
    }
}

/// How servers run.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// How servers are kept from the rest of the machine.
    pub sandbox: Isolation,
    /// Packages of npm whose install scripts run.
    pub install_scripts: Vec<String>,
    /// The container engine's address; without one, where engines usually are.
    pub engine: Option<String>,
    /// Whether they may open the network.
    pub network: bool,
    /// Folders of this machine that servers of every user may be given; the operator's may be given any.
    pub paths: Vec<PathBuf>,
    /// Bytes of memory of one, where nothing else is asked for.
    pub memory_bytes: u64,
    /// Thousandths of a core, likewise.
    pub cpu_millis: u64,
    /// Processes and threads, likewise.
    pub processes: u64,
    /// Files and sockets that one has open at once.
    pub open_files: u64,
    /// Bytes of one file that one writes.
    pub file_bytes: u64,
    /// Bytes of everything that one keeps in its folder.
    pub disk_bytes: u64,
    /// Instances at once on this fabric; 0 leaves them to others.
    pub most_instances: u32,
    /// Instances at once of one user.
    pub most_of_user: u32,
    /// Bytes of memory that all instances may ask for together; 0 for no limit.
    pub most_memory_bytes: u64,
    /// Thousandths of a core that all instances may ask for together; 0 for no limit.
    pub most_cpu_millis: u64,
    /// How long a server may take to answer after its start.
    pub start_limit: Duration,
    /// How long a tool may take.
    pub call_limit: Duration,
    /// How often a server that runs is asked whether it is well.
    pub probe_every: Duration,
    /// After which time without a call one that starts on demand is ended.
    pub idle_after: Duration,
    /// The program that starts servers; without one, this program.
    pub launcher: Option<PathBuf>,
}

impl RuntimeConfig {
    pub(super) fn from_layers(layers: &Layers) -> Result<Self, ConfigError> {
        let number = |key| Ok::<u64, ConfigError>(layers.get::<Bounded>(key)?.0.into());
        let megabytes = |key| Ok::<u64, ConfigError>(number(key)? << 20);
        let seconds = |key| Ok::<Duration, ConfigError>(layers.get::<Seconds>(key)?.0);
        Ok(Self {
            sandbox: layers.get("FABRIC_SANDBOX")?,
            install_scripts: layers.list("FABRIC_INSTALL_SCRIPTS")?,
            engine: layers.optional("FABRIC_CONTAINER_ENGINE")?,
            network: layers.get("FABRIC_SERVER_NETWORK")?,
            paths: layers.list("FABRIC_SERVER_PATHS")?,
            memory_bytes: megabytes("FABRIC_SERVER_MEMORY_MB")?,
            cpu_millis: number("FABRIC_SERVER_CPU_MILLIS")?,
            processes: number("FABRIC_SERVER_PROCESSES")?,
            open_files: number("FABRIC_SERVER_OPEN_FILES")?,
            file_bytes: megabytes("FABRIC_SERVER_FILE_MB")?,
            disk_bytes: megabytes("FABRIC_SERVER_DISK_MB")?,
            most_instances: layers.get::<Bounded>("FABRIC_MAX_INSTANCES")?.0,
            most_of_user: layers.get::<Bounded>("FABRIC_MAX_INSTANCES_PER_USER")?.0,
            most_memory_bytes: megabytes("FABRIC_MAX_SERVERS_MEMORY_MB")?,
            most_cpu_millis: number("FABRIC_MAX_SERVERS_CPU_MILLIS")?,
            start_limit: seconds("FABRIC_START_SECONDS")?,
            call_limit: seconds("FABRIC_CALL_SECONDS")?,
            probe_every: seconds("FABRIC_PROBE_SECONDS")?,
            idle_after: seconds("FABRIC_IDLE_SECONDS")?,
            launcher: None,
        })
    }
}
