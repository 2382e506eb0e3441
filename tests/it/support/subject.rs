//! Packages that tests install: a small server, and tarballs of any shape.

use flate2::{Compression, write::GzEncoder};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Packages, TestApp, eventually};

const SUBJECT: &str = include_str!("subject.js");

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

impl TestApp {
    /// Has the operator install something, and waits for the job; gives the installation.
    pub(crate) async fn install(&self, order: &Value) -> Value {
        let begun = self.op_post_json("/api/mcp/packages/install", order).await.expect(202);
        self.job(begun["job_id"].as_str().unwrap()).await;
        let path = format!("/api/mcp/packages/by-id/{}", begun["package"]["server_id"].as_str().unwrap());
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
