//! One container: made within limits, attached to, watched, removed.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bollard::{
    Docker,
    container::LogOutput,
    models::{ContainerCreateBody, HostConfig, HostConfigLogConfig, ResourcesUlimits},
    query_parameters::{AttachContainerOptions, CreateContainerOptions, StatsOptions, StopContainerOptions},
};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use sandbox::Usage;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _, DuplexStream},
    sync::watch,
};

use super::engine::{Engine, EngineError, INSTANCE, NODE};
use crate::{
    log::{Feed, Log, Stream as From},
    model::{InstanceId, Kept},
};

/// Processes of one user id, in all containers together: no limit of ours, which is `pids_limit`, but left out it would be
/// one of the engine's, which Podman raises as far as the kernel goes, and not everywhere may.
const PROCESSES_OF_USER: i64 = 32_768;
/// The label that says what a container was made from: another digest is another container.
const MADE_FROM: &str = "io.github.mcp-fabric.made-from";
const OWNER: &str = "io.github.mcp-fabric.owner";
const SERVER: &str = "io.github.mcp-fabric.server";
/// Whoever an image does not name itself: nobody in particular.
const NOBODY: &str = "65532:65532";
/// How long a container may take to end by itself once it is asked.
const ASKED_SECONDS: i32 = 3;
const PIPE: usize = 64 << 10;

/// What a container is made from.
pub(crate) struct Order<'a> {
    pub(crate) id: InstanceId,
    pub(crate) owner: &'a str,
    pub(crate) server_id: &'a str,
    /// As the engine knows it, by digest.
    pub(crate) image: &'a str,
    pub(crate) args: &'a [String],
    pub(crate) env: &'a BTreeMap<String, SecretString>,
    /// Folders of the machine that it may read and write, under the same names.
    pub(crate) folders: &'a [PathBuf],
    pub(crate) network: bool,
    pub(crate) open_files: u64,
    pub(crate) limits: Kept,
}

/// How a container ended.
#[derive(Clone, Debug)]
pub(crate) enum Exit {
    /// With this code; whether for want of memory.
    Code(i64, bool),
    /// Nobody can say: the engine is gone.
    EngineGone(String),
}

/// A container that was started, or that was found running.
pub(crate) struct Container {
    engine: Arc<Engine>,
    pub(crate) name: String,
    exit: watch::Receiver<Option<Exit>>,
    /// Whether it ran before this process looked.
    pub(crate) was_running: bool,
}

/// What can be asked of a container from elsewhere.
#[derive(Clone)]
pub(crate) struct Handle {
    engine: Arc<Engine>,
    name: String,
}

/// The ends of its pipes.
pub(crate) struct Pipes {
    pub(crate) input: Pin<Box<dyn AsyncWrite + Send>>,
    pub(crate) output: DuplexStream,
}

pub(crate) fn name_of(id: InstanceId) -> String {
    format!("mcp-fabric-{id}")
}

impl Order<'_> {
    /// A digest of everything that another process would see; of secrets, too, so that a changed one makes a new container.
    fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        let mut add = |text: &str| {
            hasher.update((text.len() as u64).to_be_bytes());
            hasher.update(text.as_bytes());
        };
        // Where it is pulled from may change with the fabric's port; what it is does not.
        add(self.image.split_once('/').map_or(self.image, |(_, image)| image));
        self.args.iter().for_each(|arg| add(arg));
        for (name, value) in self.env {
            add(name);
            add(value.expose_secret());
        }
        self.folders.iter().for_each(|folder| add(&folder.display().to_string()));
        add(&format!("{:?} {}", self.limits, self.network));
        // Keyed by the instance: equal secrets of two of them do not show.
        add(&self.id.to_string());
        platform::random::hex(&hasher.finalize())
    }

    fn body(&self, node: &str, user: Option<String>) -> ContainerCreateBody {
        let labels = [
            (NODE, node.to_owned()),
            (INSTANCE, self.id.to_string()),
            (OWNER, self.owner.to_owned()),
            (SERVER, self.server_id.to_owned()),
            (MADE_FROM, self.digest()),
        ];
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let memory = Some(signed(self.limits.memory_bytes));
        let most = |name: &str, most: i64| ResourcesUlimits { name: Some(name.to_owned()), soft: Some(most), hard: Some(most) };
        let limits = vec![most("nofile", signed(self.open_files)), most("nproc", PROCESSES_OF_USER)];
        let host = HostConfig {
            memory,
            // As much as memory alone: none of it is swapped.
            memory_swap: memory,
            nano_cpus: Some(signed(self.limits.cpu_millis).saturating_mul(1_000_000)),
            pids_limit: Some(signed(self.limits.processes)),
            ulimits: Some(limits),
            readonly_rootfs: Some(true),
            tmpfs: Some(HashMap::from([("/tmp".to_owned(), "rw,nosuid,nodev,size=67108864,mode=1777".to_owned())])),
            cap_drop: Some(vec!["ALL".into()]),
            security_opt: Some(vec!["no-new-privileges".into()]),
            network_mode: Some(if self.network { "bridge" } else { "none" }.into()),
            binds: Some(self.folders.iter().map(|folder| format!("{0}:{0}", folder.display())).collect()),
            log_config: Some(HostConfigLogConfig {
                typ: Some("json-file".into()),
                config: Some(HashMap::from([("max-size".to_owned(), "1m".to_owned()), ("max-file".to_owned(), "2".to_owned())])),
            }),
            ..HostConfig::default()
        };
        let env = self.env.iter().map(|(name, value)| format!("{name}={}", value.expose_secret()));
        ContainerCreateBody {
            image: Some(self.image.to_owned()),
            user: Some(user.unwrap_or_else(|| NOBODY.to_owned())),
            cmd: (!self.args.is_empty()).then(|| self.args.to_vec()),
            env: Some(std::iter::once("HOME=/tmp".to_owned()).chain(env).collect()),
            labels: Some(labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            open_stdin: Some(true),
            // It outlives whoever is attached, and can be attached to again.
            stdin_once: Some(false),
            tty: Some(false),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        }
    }
}

impl Container {
    /// Makes and starts a container, or finds the one of this instance running that was made from the same.
    pub(crate) async fn start(engine: &Arc<Engine>, order: &Order<'_>, log: &Arc<Log>) -> Result<(Self, Pipes), EngineError> {
        let name = name_of(order.id);
        let was_running = is_running(engine, &name, &order.digest()).await?;
        if !was_running {
            let user = engine.pull(order.image).await?;
            engine.remove(&name).await?;
            let options = CreateContainerOptions { name: Some(name.clone()), platform: String::new() };
            let body = order.body(&engine.node, user);
            engine.ask("create", async |docker: Docker| docker.create_container(Some(options), body).await).await?;
        }
        let started = Self::attach_and_start(engine, name.clone(), was_running, log).await;
        if started.is_err() && !was_running {
            engine.remove(&name).await.ok();
        }
        started
    }

    async fn attach_and_start(engine: &Arc<Engine>, name: String, was_running: bool, log: &Arc<Log>) -> Result<(Self, Pipes), EngineError> {
        let options = AttachContainerOptions { stream: true, stdin: true, stdout: true, stderr: true, logs: false, detach_keys: None };
        // Before it starts: the first line would be lost.
        let attached = engine.ask("attach", async |docker: Docker| docker.attach_container(&name, Some(options)).await).await?;
        if !was_running {
            engine.ask("start", async |docker: Docker| docker.start_container(&name, None).await).await?;
        }
        let (output, ours) = tokio::io::duplex(PIPE);
        let (tell, exit) = watch::channel(None);
        spawn(pump(attached.output, ours, Arc::clone(log), Handle { engine: Arc::clone(engine), name: name.clone() }, tell));
        Ok((Self { engine: Arc::clone(engine), name, exit, was_running }, Pipes { input: attached.input, output }))
    }

    /// Returns when it has ended.
    pub(crate) async fn ended(&mut self) -> Exit {
        match self.exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().unwrap_or(Exit::EngineGone("it was not watched".into())),
            Err(_) => Exit::EngineGone("it was not watched".into()),
        }
    }

    pub(crate) fn handle(&self) -> Handle {
        Handle { engine: Arc::clone(&self.engine), name: self.name.clone() }
    }

    /// Asks it to end, and removes it.
    pub(crate) async fn end(self) -> Result<(), EngineError> {
        let options = StopContainerOptions { t: Some(ASKED_SECONDS), signal: None };
        let stopped = self.engine.ask("stop", async |docker: Docker| docker.stop_container(&self.name, Some(options)).await).await;
        let removed = self.engine.remove(&self.name).await;
        match stopped {
            Err(error) if !error.is_missing() => Err(error),
            _ => removed,
        }
    }

    /// Removes it at once.
    pub(crate) async fn kill(self) -> Result<(), EngineError> {
        self.engine.remove(&self.name).await
    }
}

async fn is_running(engine: &Engine, name: &str, made_from: &str) -> Result<bool, EngineError> {
    match engine.ask("inspect", async |docker: Docker| docker.inspect_container(name, None).await).await {
        Ok(found) => {
            let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
            let runs = found.state.and_then(|state| state.running).unwrap_or(false);
            Ok(runs && labels.get(MADE_FROM).is_some_and(|label| label == made_from))
        }
        Err(error) if error.is_missing() => Ok(false),
        Err(error) => Err(error),
    }
}

#[expect(clippy::disallowed_methods, reason = "ends with the container that it listens to")]
fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

type Output = Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>;

/// Carries what a container says until it ends, and then tells how.
async fn pump(mut said: Output, mut to: DuplexStream, log: Arc<Log>, handle: Handle, tell: watch::Sender<Option<Exit>>) {
    let mut feed = Feed::new(log, From::Stderr);
    while let Some(Ok(part)) = said.next().await {
        match part {
            LogOutput::StdOut { message } | LogOutput::Console { message } => {
                // Whoever read it may have gone; what it says on its other channel is kept still.
                to.write_all(&message).await.ok();
            }
            LogOutput::StdErr { message } => feed.push(&message),
            LogOutput::StdIn { .. } => {}
        }
    }
    drop(feed);
    drop(to);
    tell.send_replace(Some(handle.exit().await));
}

impl Handle {
    /// How it ended; it may take the engine a moment to know.
    async fn exit(&self) -> Exit {
        for _ in 0..50 {
            match self.engine.ask("inspect", async |docker: Docker| docker.inspect_container(&self.name, None).await).await {
                Ok(found) => {
                    let state = found.state.unwrap_or_default();
                    if !state.running.unwrap_or(false) {
                        return Exit::Code(state.exit_code.unwrap_or(-1), state.oom_killed.unwrap_or(false));
                    }
                }
                Err(error) if error.is_missing() => return Exit::Code(-1, false),
                Err(error) => return Exit::EngineGone(error.to_string()),
            }
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        Exit::EngineGone("it closed its output and goes on".into())
    }

    /// What it uses now.
    pub(crate) async fn usage(&self) -> Option<Usage> {
        let options = StatsOptions { stream: false, one_shot: true };
        let asked = self.engine.ask("stats", async |docker: Docker| Box::pin(docker.stats(&self.name, Some(options))).try_next().await);
        let found = asked.await.ok().flatten()?;
        let memory = found.memory_stats.unwrap_or_default();
        // What could be given back at once is not counted, as `docker stats` has it.
        let idle =
            memory.stats.as_ref().and_then(|stats| stats.get("inactive_file").or(stats.get("total_inactive_file"))).copied().unwrap_or(0);
        let cpu = found.cpu_stats.and_then(|cpu| cpu.cpu_usage).and_then(|usage| usage.total_usage).unwrap_or(0);
        let processes = found.pids_stats.and_then(|pids| pids.current).unwrap_or(0);
        Some(Usage {
            processes: u32::try_from(processes).unwrap_or(u32::MAX),
            memory_bytes: memory.usage.unwrap_or(0).saturating_sub(idle),
            cpu_millis: cpu / 1_000_000,
        })
    }
}
