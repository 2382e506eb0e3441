//! The same containers on Podman, through its compatible socket.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use serde_json::json;

use super::containers::with;
use crate::support::{eventually, skip};

/// Podman's service on a socket of its own, with images and containers of its own.
struct Podman {
    service: Child,
    folder: tempfile::TempDir,
}

impl Podman {
    /// `fabric` is where images come from: over plain HTTP, which Podman takes only from places that it is told.
    async fn start(fabric: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let registries = format!("[[registry]]\nlocation = \"{fabric}\"\ninsecure = true\n");
        fs::write(folder.path().join("registries.conf"), registries).unwrap();
        // Not every machine lets it raise limits as it would by itself; where it keeps its storage is its own.
        let settings = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n";
        fs::write(folder.path().join("containers.conf"), settings).unwrap();
        let mut command = Self::command(&folder);
        command.args(["system", "service", "--time=0", &format!("unix://{}", folder.path().join("socket").display())]);
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let service = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().ok()?;
        let podman = Self { service, folder };
        let socket = podman.folder.path().join("socket");
        eventually(30, "Podman answers", || async { socket.exists().then_some(()) }).await;
        Some(podman)
    }

    fn command(folder: &tempfile::TempDir) -> Command {
        let place = |name: &str| folder.path().join(name).display().to_string();
        let mut command = Command::new("podman");
        command.env("CONTAINERS_CONF", place("containers.conf")).env("CONTAINERS_REGISTRIES_CONF", place("registries.conf"));
        command.args(["--root", &place("root"), "--runroot", &place("run"), "--storage-driver=vfs"]);
        command
    }

    fn podman(&self, arguments: &[&str]) -> String {
        let output = Self::command(&self.folder).args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.podman(&["rm", "--all", "--force", "--time", "0"]);
        Command::new("kill").arg(self.service.id().to_string()).status().ok();
        self.service.wait().ok();
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let place = self.folder.path().display().to_string();
        for mount in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)).filter(|mount| mount.starts_with(&place)) {
            Command::new("umount").arg("-l").arg(mount).status().ok();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Podman"]
async fn podman_runs_servers_as_docker_does() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root starts a service of Podman that sets limits");
    }
    // A port that nobody has now.
    let fabric = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let Some(podman) = Podman::start(&fabric).await else { return skip("Podman is not installed") };
    let socket = format!("unix://{}", podman.folder.path().join("socket").display());
    let (app, _packages) = with(&[("FABRIC_CONTAINER_ENGINE", &socket), ("FABRIC_LISTEN", &fabric)]).await;
    let wanted = json!({ "server_id": "boxed", "enabled": true, "limits": { "memory_bytes": 134_217_728, "processes": 32 } });
    app.op_post_json("/api/mcp/users/me/servers", &wanted).await.expect(201);
    let running = app.instance_in(&app.token, "boxed", "RUNNING").await;
    assert_eq!((running["backend"].as_str(), running["limits"]["limits"].as_str()), (Some("container"), Some("engine")));
    assert_eq!(app.tool(&running, "echo", json!({ "message": "from a pod" })).await, "from a pod");
    let status = app.tool(&running, "status", json!({})).await;
    assert!(status.contains("CapEff:\t0000000000000000") && status.contains("NoNewPrivs:\t1"), "{status}");
    assert_ne!(app.tool(&running, "write", json!({ "path": "/x" })).await, "written");
    let inspected = podman.podman(&[
        "inspect",
        "--latest",
        "--format",
        "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} {{.HostConfig.ReadonlyRootfs}}",
    ]);
    assert_eq!(inspected, "134217728 32 true");
    // Its own end: it comes back as another container.
    let path = format!("/api/mcp/instances/{}/tools/die/call", running["id"].as_str().unwrap());
    app.op_post_json(&path, &json!({})).await.expect_problem(502, "server_ended");
    eventually(30, "it is back", || async {
        let now = app.instance(&running["id"]).await;
        (now["state"] == "RUNNING" && now["restarts"].as_i64() > running["restarts"].as_i64()).then_some(())
    })
    .await;
    app.op_post_json("/api/mcp/users/me/servers", &json!({ "server_id": "boxed", "enabled": false })).await.expect(200);
    app.instance_in(&app.token, "boxed", "STOPPED").await;
    assert_eq!(podman.podman(&["ps", "--all", "--quiet"]), "", "nothing is left of it");
    app.stop().await;
}
