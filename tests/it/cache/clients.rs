//! Real package clients.

use serde_json::json;

use crate::support::TestApp;

/// Real clients and the registries that the machine's own clients use: online, then without any upstream.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm, pip, uv and the public npm and PyPI registries"]
async fn real_clients_install_from_the_fabric_and_then_offline() {
    let hosts = file_hosts().await;
    // The registries are those of the installed clients.
    let usual = [("FABRIC_NPM_REGISTRY", ""), ("FABRIC_PYPI_INDEX", "")];
    let settings = [("FABRIC_ALLOWED_HOSTS", hosts.as_str()), ("FABRIC_RATE_LIMIT", "0"), usual[0], usual[1]];
    let mut app = TestApp::with(&settings).await;
    for server in ["everything", "time"] {
        let asked = app.op_post(&format!("/api/mcp/servers/{server}/cache")).await.expect(202);
        let job = app.job(asked["job_id"].as_str().unwrap()).await;
        assert_eq!(job["status"], "complete", "{job}");
        assert_eq!(app.op_post(&format!("/api/mcp/servers/{server}/cache")).await.expect(200)["status"], "cached");
    }
    app.set("FABRIC_OFFLINE", "true");
    app.restart().await;
    let work = tempfile::tempdir().unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new(program);
        command.args(arguments).current_dir(work.path()).env("HOME", work.path()).env("npm_config_cache", work.path().join("npm"));
        command.env("UV_CACHE_DIR", work.path().join("uv")).env("PIP_NO_CACHE_DIR", "1").env_remove("PIP_FIND_LINKS");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let (npm, pypi) = (format!("{}/npm/", app.url), format!("{}/pypi/simple/", app.url));
    let package = "@modelcontextprotocol/server-everything";
    run("npm", &["install", "--no-audit", "--no-fund", "--registry", &npm, package]);
    run("python3", &["-m", "venv", "by-pip"]);
    run("by-pip/bin/pip", &["install", "--quiet", "--index-url", &pypi, "mcp-server-time"]);
    run("uv", &["venv", "--quiet", "by-uv"]);
    run("uv", &["pip", "install", "--quiet", "--python", "by-uv/bin/python", "--index-url", &pypi, "mcp-server-time"]);
    let everything = work.path().join(format!("node_modules/{package}/dist/index.js"));
    for (program, arguments) in [
        ("node".into(), vec![everything.to_str().unwrap().to_owned()]),
        (work.path().join("by-pip/bin/mcp-server-time"), vec![]),
        (work.path().join("by-uv/bin/mcp-server-time"), vec![]),
    ] {
        let said = initialize(&program, &arguments);
        assert!(said.contains("protocolVersion"), "{}: {said}", program.display());
    }
}

/// The hosts from which the configured index gives files: here they may have private addresses.
pub(crate) async fn file_hosts() -> String {
    let ask = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)";
    let answer = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program).args(arguments).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned()).filter(|said| !said.is_empty())
    };
    let index = answer("pip", &["config", "get", "global.index-url"]).or_else(|| answer("python3", &["-c", ask])).unwrap();
    let page = crate::support::get(&format!("{}/mcp-server-time/", index.trim_end_matches('/'))).await;
    let base = page.url().clone();
    let text = page.text().await.unwrap();
    let href = text.split("href=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    base.join(href).unwrap().host_str().unwrap().to_owned()
}

/// Starts an MCP server and gives what it says to `initialize`.
fn initialize(program: &std::path::Path, arguments: &[String]) -> String {
    use std::io::{BufRead as _, Write as _};
    let mut child = std::process::Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let hello = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } } });
    writeln!(child.stdin.as_mut().unwrap(), "{hello}").unwrap();
    let mut said = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    said
}

/// A real registry of images and a real client, from the registry through the fabric, then without it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs docker-registry and skopeo"]
async fn real_images_go_from_a_real_registry_through_the_fabric_to_a_real_client() {
    let work = tempfile::tempdir().unwrap();
    let registry = ImageRegistry::start(work.path()).await;
    let image = scratch_image(&work.path().join("made"));
    let skopeo = |arguments: &[&str]| {
        let output = std::process::Command::new("skopeo").args(["--insecure-policy"]).args(arguments).output().unwrap();
        assert!(output.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let made = format!("oci:{}:1.0", work.path().join("made").display());
    skopeo(&["copy", "--preserve-digests", "--dest-tls-verify=false", &made, &format!("docker://{}/acme/tool:1.0", registry.host)]);
    let mut app = TestApp::with(&[("FABRIC_ALLOWED_HOSTS", &registry.host), ("FABRIC_CACHE_TARGETS", "linux/amd64")]).await;
    let identifier = format!("{}/acme/tool:1.0", registry.host);
    let asked = app.op_post_json("/api/mcp/cache", &json!({ "registry_type": "docker", "identifier": identifier })).await.expect(202);
    let job = app.job(asked["job_id"].as_str().unwrap()).await;
    assert_eq!(job["status"], "complete", "{job}");
    drop(registry);
    app.set("FABRIC_OFFLINE", "true");
    app.restart().await;
    let name =
        format!("{}/{}/acme/tool:1.0", app.url.strip_prefix("http://").unwrap(), identifier.split('/').next().unwrap().replace(':', "_"));
    let pulled = work.path().join("pulled");
    skopeo(&[
        "copy",
        "--preserve-digests",
        "--src-tls-verify=false",
        &format!("docker://{name}"),
        &format!("oci:{}:1.0", pulled.display()),
    ]);
    let index = |folder: &std::path::Path| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(folder.join("index.json")).unwrap()).unwrap()
    };
    assert_eq!(index(&pulled)["manifests"][0]["digest"], image);
    let folder = app.cache().join(
        job["result"]["packages"][0]["identifier"]
            .as_str()
            .map_or_else(String::new, |name| format!("oci/{}/{}", name.replace(':', "_"), image.replace(':', "-"))),
    );
    // The folder itself is an image layout, and what `docker load` reads.
    let copied = work.path().join("copied");
    skopeo(&["copy", "--preserve-digests", &format!("oci:{}", folder.display()), &format!("oci:{}:1.0", copied.display())]);
    assert_eq!(index(&copied)["manifests"][0]["digest"], image);
    let archive = work.path().join("image.tar");
    let tar =
        std::process::Command::new("tar").args(["-C", folder.to_str().unwrap(), "-cf", archive.to_str().unwrap(), "."]).status().unwrap();
    assert!(tar.success());
    skopeo(&["copy", &format!("docker-archive:{}", archive.display()), &format!("oci:{}:1.0", work.path().join("loaded").display())]);
}

/// Debian's registry on a free port.
struct ImageRegistry {
    child: std::process::Child,
    host: String,
}

impl ImageRegistry {
    async fn start(folder: &std::path::Path) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let config = folder.join("registry.yml");
        let store = folder.join("registry");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n",
            store.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = std::process::Command::new("docker-registry");
        let child =
            command.arg("serve").arg(&config).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        let registry = Self { child, host };
        crate::support::eventually(20, "the registry answers", || async { std::net::TcpStream::connect(&registry.host).ok().map(drop) })
            .await;
        registry
    }
}

impl Drop for ImageRegistry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// An image layout with one layer, made of nothing; gives the digest of its manifest.
fn scratch_image(folder: &std::path::Path) -> String {
    use crate::support::digest;
    let put = |bytes: &[u8]| {
        let name = digest(bytes);
        let place = folder.join("blobs").join(name.replace(':', "/"));
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(place, bytes).unwrap();
        name
    };
    let layer = vec![0; 10_240];
    let config =
        json!({ "architecture": "amd64", "os": "linux", "config": {}, "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] } })
            .to_string();
    let part = |kind: &str, bytes: &[u8]| json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": put(bytes), "size": bytes.len() });
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": part("config.v1+json", config.as_bytes()), "layers": [part("layer.v1.tar", &layer)],
    })
    .to_string();
    let name = put(manifest.as_bytes());
    let mut entry = part("manifest.v1+json", manifest.as_bytes());
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "1.0" });
    std::fs::write(folder.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string()).unwrap();
    std::fs::write(folder.join("index.json"), json!({ "schemaVersion": 2, "manifests": [entry] }).to_string()).unwrap();
    name
}
