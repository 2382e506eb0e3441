//! What happens to the cache when its process is killed, or when its disk is full or cannot be written.

use std::{collections::BTreeMap, path::Path, time::Duration};

use super::{TARBALL, fabric};
use crate::support::{Binary, Packages, Trouble, cluster, digest};

/// Everything that the load asks for: where, and what has to come.
fn load(packages: &Packages) -> BTreeMap<String, Vec<u8>> {
    let mut wanted = BTreeMap::new();
    for number in 0..3 {
        let (npm, wheel, layer) =
            (format!("tool{number}x"), format!("wheel {number}").into_bytes(), format!("layer {number}").into_bytes());
        let tarball = [TARBALL, npm.as_bytes()].concat();
        packages.npm(&npm, "1.0.0", &tarball, |_| {});
        wanted.insert(format!("/npm/{npm}/-/{npm}-1.0.0.tgz"), tarball);
        packages.pypi(&format!("acme-{number}"), "2.0.0", &wheel);
        wanted.insert(format!("/pypi/files/acme-{number}/2.0.0/acme_{number}-2.0.0-py3-none-any.whl"), wheel);
        let image = packages.image(&format!("acme/{number}"), &[&layer], |_| {});
        packages.index(&format!("acme/{number}"), "1", &[("linux/amd64", &image)]);
        let path = format!("/v2/{}/acme/{number}", packages.host().replace(':', "_"));
        wanted.insert(format!("{path}/manifests/{image}"), Vec::new());
        wanted.insert(format!("{path}/blobs/{}", digest(&layer)), layer);
    }
    wanted
}

/// The paths at the registry of what takes long.
fn slow(packages: &Packages, wait: Duration) {
    for number in 0..3 {
        let layer = digest(format!("layer {number}").as_bytes());
        for path in [
            format!("/files/tool{number}x-1.0.0.tgz"),
            format!("/wheels/acme_{number}-2.0.0-py3-none-any.whl"),
            format!("/v2/acme/{number}/blobs/{layer}"),
        ] {
            packages.trouble(&path, Trouble::Wait(wait));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_at_any_moment_leaves_no_wrong_row_and_no_unverified_byte() {
    const KILLS: u64 = 50;
    let packages = Packages::start().await;
    let wanted = load(&packages);
    let database = cluster::database().await;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    cluster::share_roles(&data).await;
    let (url, own, host) = (database.url(), packages.settings(), packages.host());
    let settings = [
        ("DATABASE_URL", url.as_str()),
        (own[0].0, own[0].1.as_str()),
        (own[1].0, own[1].1.as_str()),
        ("FABRIC_ALLOWED_HOSTS", host.as_str()),
    ];
    // The moments are spread by the golden ratio: as good as chance, and the same in each run.
    for round in 0..KILLS {
        let spread = |most: u64| Duration::from_millis(round * 618 % 1000 * most / 1000);
        slow(&packages, spread(40));
        let program = Binary::serve(&data, &settings);
        let asking: Vec<_> = wanted.keys().map(|path| tokio::spawn(reqwest::get(format!("{}{path}", program.url)))).collect();
        tokio::time::sleep(spread(250)).await;
        program.kill();
        for ((path, bytes), asked) in wanted.iter().zip(asking) {
            let Ok(answer) = asked.await.unwrap() else { continue };
            let (status, complete) = (answer.status(), answer.bytes().await);
            if let (200, Ok(got)) = (status.as_u16(), complete) {
                assert!(bytes.is_empty() || got == bytes[..], "round {round}: {path}");
            }
        }
        if round % 7 == 6 {
            forget_everything(&database, &data.with_file_name("cache")).await;
        }
    }
    let program = Binary::serve(&data, &settings);
    for (path, bytes) in wanted.iter().filter(|(path, _)| path.contains("/manifests/")).chain(&wanted) {
        let answer = reqwest::get(format!("{}{path}", program.url)).await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        assert!(bytes.is_empty() || answer.bytes().await.unwrap() == bytes[..], "{path}");
    }
    program.terminate();
    let cache = folder.path().join("cache");
    assert_eq!(std::fs::read_dir(cache.join(".drafts")).unwrap().count(), 0, "no temporary file is left");
    let rows: Vec<(String, String, i64)> =
        sqlx::query_as("SELECT file_name, encode(blob, 'hex'), size_bytes FROM mcp_fabric.cache_artifacts WHERE status = 'cached'")
            .fetch_all(&mut database.connect().await)
            .await
            .unwrap();
    assert!(rows.len() >= 9, "{rows:?}");
    for (name, blob, size) in rows {
        let bytes = std::fs::read(cache.join(".blobs/sha256").join(&blob[..2]).join(&blob)).unwrap();
        assert_eq!((i64::try_from(bytes.len()).unwrap(), digest(&bytes)), (size, format!("sha256:{blob}")), "{name}");
    }
}

/// So that later rounds have something to fetch again.
async fn forget_everything(database: &cluster::TestDatabase, cache: &Path) {
    sqlx::query("DELETE FROM mcp_fabric.cache_artifacts").execute(&mut database.connect().await).await.unwrap();
    for kind in ["npm", "pypi", "oci"] {
        std::fs::remove_dir_all(cache.join(kind)).ok();
    }
}

/// A disk of its own, unmounted in the end.
struct Disk {
    place: tempfile::TempDir,
}

impl Disk {
    /// `None` where this user may not mount anything.
    fn of(megabytes: u32) -> Option<Self> {
        let place = tempfile::tempdir().unwrap();
        let disk = Self { place };
        disk.mount(&format!("size={megabytes}m")).then_some(disk)
    }

    fn mount(&self, options: &str) -> bool {
        let mut command = std::process::Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "fabric-test"]).arg(self.place.path());
        command.stderr(std::process::Stdio::null()).status().is_ok_and(|status| status.success())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        std::process::Command::new("umount").arg("-l").arg(self.place.path()).stderr(std::process::Stdio::null()).status().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_what_is_here_is_given_all_the_same() {
    let Some(disk) = Disk::of(4) else { return println!("skipped: a disk can only be mounted by root") };
    let packages = Packages::start().await;
    packages.npm("small", "1.0.0", TARBALL, |_| {});
    packages.npm("large", "1.0.0", &vec![7; 8 << 20], |_| {});
    let place = disk.place.path().join("cache");
    let app = fabric(&packages, &[("FABRIC_CACHE_DIR", place.to_str().unwrap()), ("FABRIC_CACHE_RESERVE_MB", "0")]).await;
    assert_eq!(app.get("/npm/small/-/small-1.0.0.tgz").await.body, TARBALL);
    app.get("/npm/large/-/large-1.0.0.tgz").await.expect_problem(503, "cache_full");
    assert_eq!(std::fs::read_dir(place.join(".drafts")).unwrap().count(), 0, "half a file is no use");
    assert_eq!(app.get("/npm/small/-/small-1.0.0.tgz").await.body, TARBALL);
    packages.npm("other", "1.0.0", b"other", |_| {});
    assert_eq!(app.get("/npm/other/-/other-1.0.0.tgz").await.body, b"other", "there is room again for what fits");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_cannot_be_written_still_gives_what_is_in_it() {
    let Some(disk) = Disk::of(16) else { return println!("skipped: a disk can only be mounted by root") };
    let packages = Packages::start().await;
    for name in ["here", "missing"] {
        packages.npm(name, "1.0.0", name.as_bytes(), |_| {});
        packages.npm("document", "1.0.0", TARBALL, |_| {});
    }
    let place = disk.place.path().join("cache");
    let app = fabric(&packages, &[("FABRIC_CACHE_DIR", place.to_str().unwrap()), ("FABRIC_CACHE_RESERVE_MB", "0")]).await;
    assert_eq!(app.get("/npm/here/-/here-1.0.0.tgz").await.body, b"here");
    app.get("/npm/missing").await.expect(200);
    assert!(disk.mount("remount,ro"), "the disk is read-only now");
    assert_eq!(app.get("/npm/here/-/here-1.0.0.tgz").await.body, b"here");
    app.get("/npm/missing/-/missing-1.0.0.tgz").await.expect_problem(503, "cache_read_only");
    app.stop().await;
}
