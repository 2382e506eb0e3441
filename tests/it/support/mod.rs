//! What the tests stand on: a real PostgreSQL, the real program on a free port, and loopback doubles of
//! outside parties.

mod app;
mod binary;
pub(crate) mod cluster;
pub(crate) mod data;
mod engine;
mod mcp;
pub(crate) mod packages;
mod people;
mod redis;
pub(crate) mod subject;
pub(crate) mod upstream;

pub(crate) use app::{Answer, TestApp};
pub(crate) use binary::{Binary, command as binary_command};
pub(crate) use engine::Engine;
pub(crate) use mcp::{Events, Mcp};
pub(crate) use packages::{Packages, Trouble, digest};
pub(crate) use people::{PASSWORD, Person};
pub(crate) use redis::Redis;
pub(crate) use subject::{SUBJECT, tarball};
pub(crate) use upstream::{Fault, Upstream};

use std::{future::Future, time::Duration};

/// A credential key and a key for logins: the same for every program that this process starts, since replicas share
/// them.
pub(crate) fn keys() -> [&'static str; 2] {
    static KEYS: std::sync::OnceLock<[String; 2]> = std::sync::OnceLock::new();
    let keys = KEYS.get_or_init(|| [(); 2].map(|()| platform::keys::SecretKey::generate().to_base64().to_string()));
    [&keys[0], &keys[1]]
}

/// Who may do everything.
pub(crate) fn operator() -> platform::Actor {
    platform::Actor::new(platform::Identity::Operator, std::sync::Arc::new(platform::Origin::inside()))
}

/// Says why a test does nothing here; where everything is to be tested, that is a failure.
pub(crate) fn skip(reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "{reason}");
    println!("skipped: {reason}");
}

/// A plain GET, for programs that the test does not hold as a [`TestApp`].
pub(crate) async fn get(url: &str) -> reqwest::Response {
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::get(url).await.unwrap()
}

/// Asks again until `check` gives something; fails the test when it does not within `seconds`.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(seconds: u64, what: &str, mut check: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what}: not within {seconds} s");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// A certificate for 127.0.0.1 that signs itself, and its key; `None` where there is no openssl.
pub(crate) fn certificate(folder: &std::path::Path, name: &str) -> Option<(std::path::PathBuf, std::path::PathBuf)> {
    let (certificate, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key.pem")));
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output();
    made.is_ok_and(|output| output.status.success()).then_some((certificate, key))
}
