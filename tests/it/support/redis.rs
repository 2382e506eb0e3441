//! A Redis of a test's own.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use super::skip;

/// Runs until it is dropped.
pub(crate) struct Redis {
    folder: TempDir,
    process: Option<Child>,
}

impl Redis {
    /// A new one; `None` where the machine has no `redis-server`.
    pub(crate) async fn start() -> Option<Self> {
        if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
            skip("there is no redis-server on this machine");
            return None;
        }
        let mut redis = Self { folder: tempfile::tempdir().unwrap(), process: None };
        redis.come_back().await;
        Some(redis)
    }

    fn socket(&self) -> String {
        self.folder.path().join("redis.sock").to_str().unwrap().to_owned()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", self.socket())
    }

    /// It is gone, with all that it had.
    pub(crate) fn go(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// It is there again, and empty.
    pub(crate) async fn come_back(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--unixsocket", &self.socket(), "--save", "", "--appendonly", "no"]).current_dir(self.folder.path());
        self.process = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        for _ in 0..100 {
            if tokio::net::UnixStream::connect(self.socket()).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("redis-server does not answer");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.go();
    }
}
