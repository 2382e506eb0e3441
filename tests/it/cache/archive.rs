//! Archives between fabrics.

use serde_json::{Value, json};

use super::{TARBALL, fabric, holding};
use crate::support::{Packages, TestApp};

/// A fabric with a package of each kind, and its archive.
async fn source(packages: &Packages) -> (TestApp, Vec<u8>) {
    packages.npm("@acme/tool", "1.2.3", TARBALL, |_| {});
    packages.pypi("acme-tool", "2.0.0", b"a wheel");
    let image = packages.image("acme/tool", &[b"a layer"], |_| {});
    packages.index("acme/tool", "1", &[("linux/amd64", &image)]);
    let host = packages.host();
    let app = fabric(packages, &[("FABRIC_ALLOWED_HOSTS", &host), ("FABRIC_CACHE_TARGETS", "linux/amd64")]).await;
    let wanted = json!({ "closure": false, "packages": [
        { "registry_type": "npm", "identifier": "@acme/tool" },
        { "registry_type": "pypi", "identifier": "acme-tool" },
        { "registry_type": "oci", "identifier": format!("{host}/acme/tool:1") },
    ] });
    let asked = app.op_post_json("/api/mcp/cache", &wanted).await.expect(202);
    let job = app.job(asked["job_id"].as_str().unwrap()).await;
    assert_eq!(job["status"], "complete", "{job}");
    let archive = app.op_post_json("/api/mcp/cache/export", &json!({ "all": true })).await;
    assert_eq!(archive.status, 200, "{}", archive.text());
    (app, archive.body)
}

async fn import(app: &TestApp, archive: &[u8], key: Option<&str>) -> crate::support::Answer {
    let key = key.map(|key| format!("?key={}", key.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D"))).unwrap_or_default();
    let request = app.request(reqwest::Method::POST, &format!("/api/mcp/cache/import{key}"));
    app.send(request.bearer_auth(&app.token).header("content-type", "application/x-tar").body(archive.to_vec())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_travel_to_a_fabric_without_internet() {
    let packages = Packages::start().await;
    let (from, archive) = source(&packages).await;
    let key = from.op_get("/api/mcp/cache/key").await.expect(200)["key"].as_str().unwrap().to_owned();
    let to = TestApp::with(&[("FABRIC_OFFLINE", "true"), ("FABRIC_CACHE_TARGETS", "linux/amd64")]).await;
    import(&to, &archive, None).await.expect_problem(422, "archive_untrusted");
    assert_eq!(holding(&to, TARBALL), 0);
    let brought = import(&to, &archive, Some(&key)).await.expect(200);
    assert_eq!((&brought["packages"], &brought["key"]), (&json!(3), &json!(key)));
    assert_eq!(to.get("/npm/@acme%2Ftool/-/tool-1.2.3.tgz").await.body, TARBALL);
    assert_eq!(to.get("/npm/@acme%2Ftool").await.expect(200)["dist-tags"]["latest"], "1.2.3");
    assert!(to.get("/pypi/simple/acme-tool/").await.text().contains("acme_tool-2.0.0-py3-none-any.whl"));
    let manifest = format!("/v2/{}/acme/tool/manifests/1", packages.host().replace(':', "_"));
    assert_eq!(to.get(&manifest).await.status, 200);
    assert!(to.cache().join("npm/@acme/tool/1.2.3/manifest.json").is_file());
    let listed = to.op_get("/api/mcp/cache").await.expect(200);
    assert!(listed["packages"].as_array().unwrap().iter().all(|package| package["pinned"] == true), "{listed}");
    import(&to, &archive, Some(&key)).await.expect(200);
    let asked = to.op_post_json("/api/mcp/cache", &json!({ "registry_type": "npm", "identifier": "@acme/tool", "closure": false })).await;
    assert_eq!(asked.expect(200)["status"], "cached", "names travel, too");
    from.op_post_json("/api/mcp/cache/export", &json!({ "servers": ["a.x/none"] })).await.expect_problem(404, "server_not_found");
    from.get("/api/mcp/cache/key").await.expect_problem(401, "unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_no_way_around_the_rules() {
    let packages = Packages::start().await;
    let (from, archive) = source(&packages).await;
    let key = from.op_get("/api/mcp/cache/key").await.expect(200)["key"].as_str().unwrap().to_owned();
    for (setting, value, code) in [
        ("FABRIC_CACHE_DENY", "npm:@acme/*", "policy_name"),
        ("FABRIC_CACHE_REQUIRE", "npm:signature", "policy_proof"),
        ("FABRIC_CACHE_MIN_AGE_HOURS", "10", "policy_age"),
    ] {
        let to = TestApp::with(&[("FABRIC_OFFLINE", "true"), ("FABRIC_CACHE_TRUSTED_KEYS", &key), (setting, value)]).await;
        import(&to, &archive, None).await.expect_problem(403, code);
        assert_eq!(to.op_get("/api/mcp/cache").await.expect(200)["packages"], json!([]), "{setting}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_archive_is_seen_at_once() {
    let packages = Packages::start().await;
    let (mut from, first) = source(&packages).await;
    let key = from.op_get("/api/mcp/cache/key").await.expect(200)["key"].as_str().unwrap().to_owned();
    let to = TestApp::with(&[("FABRIC_OFFLINE", "true"), ("FABRIC_CACHE_TRUSTED_KEYS", &key)]).await;
    import(&to, &first, None).await.expect(200);
    assert_eq!(to.get("/npm/@acme%2Ftool").await.expect(200)["dist-tags"]["latest"], "1.2.3");
    packages.npm("@acme/tool", "2.0.0", b"newer", |_| {});
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    from.set("FABRIC_CACHE_METADATA_SECONDS", "1");
    from.restart().await;
    let wanted = json!({ "registry_type": "npm", "identifier": "@acme/tool", "version": "2.0.0", "closure": false });
    let asked = from.op_post_json("/api/mcp/cache", &wanted).await.expect(202);
    assert_eq!(from.job(asked["job_id"].as_str().unwrap()).await["status"], "complete");
    let second = from.op_post_json("/api/mcp/cache/export", &json!({ "all": true })).await;
    assert_eq!(second.status, 200, "{}", second.text());
    import(&to, &second.body, None).await.expect(200);
    assert!(to.get("/npm/@acme%2Ftool").await.expect(200)["versions"]["2.0.0"].is_object());
}

/// The archive with its entries changed.
fn changed(archive: &[u8], change: impl Fn(&str, &mut Vec<u8>) -> bool, further: &[(&str, tar::EntryType)]) -> Vec<u8> {
    let mut out = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        if change(&name, &mut bytes) {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_entry_type(tar::EntryType::Regular);
            out.append_data(&mut header, name, &bytes[..]).unwrap();
        }
    }
    for (name, kind) in further {
        let mut header = tar::Header::new_ustar();
        header.set_size(0);
        header.set_entry_type(*kind);
        if kind.is_symlink() {
            header.set_link_name("/etc/passwd").unwrap();
        }
        out.append_data(&mut header, name, &[][..]).unwrap();
    }
    out.into_inner().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_was_changed_brings_nothing() {
    let packages = Packages::start().await;
    let (_from, archive) = source(&packages).await;
    let key = {
        let mut entries = tar::Archive::new(&archive[..]);
        let signature = entries.entries().unwrap().nth(1).unwrap().unwrap();
        serde_json::from_reader::<_, Value>(signature).unwrap()["key"].as_str().unwrap().to_owned()
    };
    let to = TestApp::with(&[("FABRIC_OFFLINE", "true"), ("FABRIC_CACHE_TRUSTED_KEYS", &key)]).await;
    let keep = |_: &str, _: &mut Vec<u8>| true;
    let replace = |from: &'static str, to: &'static str| {
        move |name: &str, bytes: &mut Vec<u8>| {
            if name == "fabric-cache.json" {
                *bytes = String::from_utf8(bytes.clone()).unwrap().replace(from, to).into_bytes();
            }
            true
        }
    };
    let flip = |name: &str, bytes: &mut Vec<u8>| {
        if name.starts_with("blobs/") {
            bytes[0] ^= 1;
        }
        true
    };
    for (what, wrong, code) in [
        ("a manifest that was edited", changed(&archive, replace("1.2.3", "6.6.6"), &[]), "archive_mismatch"),
        ("bytes that were changed", changed(&archive, flip, &[]), "archive_mismatch"),
        (
            "a blob that is missing",
            changed(
                &archive,
                |name: &str, _: &mut Vec<u8>| {
                    !name.starts_with("blobs/0")
                        && !name.starts_with("blobs/1")
                        && !name.starts_with("blobs/2")
                        && !name.starts_with("blobs/3")
                        && !name.starts_with("blobs/4")
                },
                &[],
            ),
            "archive_mismatch",
        ),
        ("a file that nobody signed", changed(&archive, keep, &[("blobs/x", tar::EntryType::Regular)]), "archive_invalid"),
        ("a way out", changed(&archive, keep, &[("blobs/link", tar::EntryType::Symlink)]), "archive_invalid"),
        ("a header for the next entry", changed(&archive, keep, &[("blobs/pax", tar::EntryType::XHeader)]), "archive_invalid"),
        ("a long name", changed(&archive, keep, &[("blobs/long", tar::EntryType::GNULongName)]), "archive_invalid"),
        ("a device", changed(&archive, keep, &[("blobs/null", tar::EntryType::Char)]), "archive_invalid"),
        ("no signature", changed(&archive, |name: &str, _: &mut Vec<u8>| name != "fabric-cache.sig", &[]), "archive_invalid"),
        ("half of it", archive[..archive.len() / 2].to_vec(), "archive_invalid"),
        ("nothing", Vec::new(), "archive_invalid"),
        ("something else", b"PK".repeat(2000), "archive_invalid"),
    ] {
        let answer = import(&to, &wrong, None).await;
        assert_eq!((answer.status, &answer.json()["code"]), (422, &json!(code)), "{what}: {}", answer.text());
    }
    assert_eq!(to.op_get("/api/mcp/cache").await.expect(200)["packages"], json!([]), "nothing of it counts");
    assert_eq!(to.get("/npm/@acme%2Ftool").await.status, 404);
    import(&to, &archive, None).await.expect(200);
}
