//! Packages that tests install: a small server, and tarballs of any shape.

use flate2::{Compression, write::GzEncoder};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Packages, TestApp, eventually};

pub(crate) const SUBJECT: &str = include_str!("subject.js");

/// The tarball of an npm package, of paths and contents.
pub(crate) fn tarball(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        let name = &mut header.as_old_mut().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

impl Packages {
    /// The small server as an npm package.
    pub(crate) fn subject(&self, name: &str, version: &str) {
        let manifest = json!({ "name": name, "version": version, "bin": "server.js" }).to_string();
        let bytes = tarball(&[("package/package.json", &manifest), ("package/server.js", SUBJECT)]);
        self.npm(name, version, &bytes, |_| {});
    }
}

/// A server in one static file, compiled once.
fn static_program() -> &'static [u8] {
    static PROGRAM: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    PROGRAM.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let (source, program) = (folder.path().join("main.rs"), folder.path().join("server"));
        std::fs::write(&source, include_str!("container_subject.rs")).unwrap();
        let mut compiler = std::process::Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into()));
        compiler
            .args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-C", "strip=symbols", "-o"])
            .arg(&program)
            .arg(&source);
        let output = compiler.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(program).unwrap()
    })
}

impl Packages {
    /// The static server as an image built from scratch; gives the name under which it is pulled.
    pub(crate) fn container_subject(&self, tag: &str) -> String {
        let mut builder = tar::Builder::new(Vec::new());
        let program = static_program();
        for (path, kind, mode, bytes) in
            [("tmp/", tar::EntryType::Directory, 0o1777, &b""[..]), ("server", tar::EntryType::Regular, 0o755, program)]
        {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(bytes.len() as u64);
            header.set_mode(mode);
            builder.append_data(&mut header, path, bytes).unwrap();
        }
        let layer = builder.into_inner().unwrap();
        let architecture = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
        let config = json!({
            "architecture": architecture, "os": "linux", "config": { "Entrypoint": ["/server"], "Env": ["FROM_IMAGE=yes"] },
            "rootfs": { "type": "layers", "diff_ids": [super::digest(&layer)] }, "history": [{ "created_by": "a test" }],
        })
        .to_string();
        let made = self.image("acme/static", &[&layer], |manifest| {
            let name = super::digest(config.as_bytes());
            self.put(&format!("/v2/acme/static/blobs/{name}"), "application/octet-stream", config.clone());
            manifest["config"] = json!({ "mediaType": "application/vnd.oci.image.config.v1+json", "digest": name, "size": config.len() });
        });
        self.index("acme/static", tag, &[(&format!("linux/{architecture}"), &made)]);
        format!("{}/acme/static:{tag}", self.host())
    }
}

impl TestApp {
    /// Has the operator install something, and waits for the job; gives the installation.
    pub(crate) async fn install(&self, order: &Value) -> Value {
        let begun = self.op_post_json("/api/mcp/packages/install", order).await.expect(202);
        self.job(begun["job_id"].as_str().unwrap()).await;
        let path = format!("/api/mcp/packages/by-id/{}", begun["package"]["server_id"].as_str().unwrap().replace('/', "%2F"));
        self.op_get(&path).await.expect(200)
    }

    /// Waits until a server's only instance of somebody is in a state; gives it.
    pub(crate) async fn instance_in(&self, token: &str, server: &str, state: &str) -> Value {
        eventually(30, &format!("{server} is {state}"), || async {
            let found = self.call(Method::GET, &format!("/api/mcp/instances?server_id={server}"), token, &Value::Null).await.expect(200);
            found["instances"].as_array().unwrap().iter().find(|found| found["state"] == state).cloned()
        })
        .await
    }
}
