//! A container engine of the test's own, killed under what runs in it.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde_json::json;

use super::{containers::with, faults::processes_of};
use crate::support::{eventually, skip};

/// A Docker Engine on a socket of its own.
struct OwnEngine {
    daemon: Child,
    folder: tempfile::TempDir,
}

impl OwnEngine {
    async fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let engine = Self { daemon: Self::daemon(&folder)?, folder };
        eventually(60, "its own engine answers", || async { engine.docker(&["version"]).map(drop) }).await;
        Some(engine)
    }

    fn daemon(folder: &tempfile::TempDir) -> Option<Child> {
        let place = |name: &str| folder.path().join(name).display().to_string();
        let log = std::fs::File::options().create(true).append(true).open(place("log")).unwrap();
        let mut command = Command::new("dockerd");
        command.args(["--host", &format!("unix://{}", place("socket")), "--data-root", &place("data"), "--exec-root", &place("exec")]);
        command.args(["--pidfile", &place("pid"), "--iptables=false", "--ip6tables=false", "--storage-driver=vfs"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().ok()
    }

    fn socket(&self) -> String {
        format!("unix://{}", self.folder.path().join("socket").display())
    }

    /// What `docker` prints, where it succeeds.
    fn docker(&self, arguments: &[&str]) -> Option<String> {
        let output = Command::new("docker").args(["--host", &self.socket()]).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// As the machine's own killer would, and then again as its supervisor.
    fn kill_and_start(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        // Its own containerd ends with it; where the number of that is in use by then, it would be waited for in vain.
        for stale in ["pid", "exec/containerd/containerd.pid"] {
            std::fs::remove_file(self.folder.path().join(stale)).ok();
        }
        self.daemon = Self::daemon(&self.folder).unwrap();
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        Command::new("kill").arg(self.daemon.id().to_string()).status().ok();
        self.daemon.wait().ok();
        // A killed one leaves the program that holds its containers.
        for pid in processes_of(&[&self.folder.path().display().to_string()]) {
            Command::new("kill").args(["-9", &pid]).status().ok();
        }
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let place = self.folder.path().display().to_string();
        let own = mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|mount| mount.starts_with(&place));
        let mut own: Vec<PathBuf> = own.map(PathBuf::from).collect();
        own.reverse();
        for mount in own {
            Command::new("umount").arg("-l").arg(mount).status().ok();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a container engine"]
async fn an_engine_that_is_killed_costs_a_restart_and_nothing_is_doubled() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root starts a container engine of its own");
    }
    let Some(mut engine) = OwnEngine::start().await else { return skip("dockerd is not installed") };
    let socket = engine.socket();
    let (app, _packages) = with(&[("FABRIC_CONTAINER_ENGINE", &socket), ("FABRIC_SERVER_NETWORK", "false")]).await;
    let running = app.run_server("boxed").await;
    assert_eq!(app.tool(&running, "echo", json!({ "message": "before" })).await, "before");
    let label = format!("label=io.github.mcp-fabric.instance={}", running["id"].as_str().unwrap());
    let listed = ["ps", "-a", "-q", "--no-trunc", "--filter", label.as_str()];
    let first = engine.docker(&listed).unwrap();
    engine.kill_and_start();
    let again = eventually(60, "it runs again", || async {
        let now = app.instance(&running["id"]).await;
        // A row that says RUNNING names a container that answers, but for the moment in which the end is noticed.
        (now["state"] == "RUNNING" && now["restarts"].as_i64() > Some(0)).then_some(now)
    })
    .await;
    assert_eq!(app.tool(&again, "echo", json!({ "message": "after" })).await, "after");
    let second = engine.docker(&listed).unwrap();
    assert!(second.lines().count() == 1 && !first.is_empty(), "one container: {second}");
    assert_eq!(app.op_get("/api/mcp/users/me/servers/boxed").await.expect(200)["enabled"], true);
    app.op_post("/api/mcp/servers/boxed/stop").await.expect(202);
    app.instance_in(&app.token, "boxed", "STOPPED").await;
    assert_eq!(engine.docker(&listed).unwrap(), "");
    app.stop().await;
}
