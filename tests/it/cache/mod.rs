//! The package cache: over the API, and through the registries that it serves.

mod archive;
mod bundles;
pub(crate) mod clients;
mod crashes;
mod faults;
mod images;
mod policy;

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Packages, TestApp, Trouble, data, eventually};

const TARBALL: &[u8] = b"the bytes of a tarball, which nobody unpacks here, and which are long enough to break off";

async fn fabric(packages: &Packages, further: &[(&str, &str)]) -> TestApp {
    let own = packages.settings();
    let mut settings: Vec<(&str, &str)> = own.iter().map(|(key, value)| (*key, value.as_str())).collect();
    settings.extend(further);
    TestApp::with(&settings).await
}

fn server(packages: &Value) -> Value {
    data::entry_with("a.x/one", "1.0.0", json!({ "packages": packages }), json!({}))
}

fn blobs(app: &TestApp) -> Vec<std::path::PathBuf> {
    fn files(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() { files(&entry, found) } else { found.push(entry) }
        }
    }
    let mut found = Vec::new();
    files(&app.cache().join(".blobs"), &mut found);
    files(&app.cache().join(".drafts"), &mut found);
    found
}

/// How many blobs hold these bytes.
fn holding(app: &TestApp, bytes: &[u8]) -> usize {
    blobs(app).iter().filter(|path| std::fs::read(path).unwrap() == bytes).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_servers_packages_are_cached_shown_and_removed() {
    let packages = Packages::start().await;
    packages.npm("@acme/tool", "1.2.3", TARBALL, |_| {});
    packages.pypi("acme-tool", "2.0.0", b"a wheel");
    let app = fabric(&packages, &[]).await;
    app.import(&[server(&json!([
        { "registryType": "npm", "identifier": "@acme/tool", "version": "1.2.3", "transport": { "type": "stdio" } },
        { "registryType": "pypi", "identifier": "Acme_Tool", "version": "2.0.0", "transport": { "type": "stdio" } },
    ]))])
    .await;
    let path = "/api/mcp/servers/a.x%2Fone/cache";
    for (method, path) in [(Method::POST, path.to_owned()), (Method::GET, format!("{path}/status")), (Method::DELETE, path.to_owned())] {
        app.send(app.request(method, &path)).await.expect_problem(401, "unauthenticated");
    }

    let alone = json!({ "closure": false });
    let asked = app.op_post_json(path, &alone).await.expect(202);
    assert_eq!((&asked["status"], &asked["packages"][0]["status"]), (&json!("pending"), &json!("not_cached")));
    let job = app.job(asked["job_id"].as_str().unwrap()).await;
    assert_eq!(job["status"], "complete", "{job}");
    let status = app.op_get(&format!("{path}/status")).await.expect(200);
    let npm = &status["packages"][0];
    let checksum = format!("sha256:{}", platform::random::hex(&<sha2::Sha256 as sha2::Digest>::digest(TARBALL)));
    assert_eq!(
        (&status["server_id"], &npm["status"], &npm["cache_path"], &npm["cache_size_bytes"], &npm["cache_checksum"], &npm["attempts"]),
        (&json!("a.x/one"), &json!("cached"), &json!("npm/@acme/tool/1.2.3"), &json!(TARBALL.len()), &json!(checksum), &json!(1))
    );
    assert_eq!(status["packages"][1]["cache_path"], "pypi/acme-tool/2.0.0");
    let shown = app.get("/api/mcp/servers/a.x%2Fone").await.expect(200);
    assert_eq!((&shown["packages"][0]["cache_checksum"], &shown["packages"][0]["cached_at"]), (&json!(checksum), &npm["cached_at"]));
    assert_eq!(shown["packages"][1]["cache_size_bytes"], 7, "in whatever spelling the document names it");
    assert_eq!(std::fs::read(app.cache().join("npm/@acme/tool/1.2.3/tool-1.2.3.tgz")).unwrap(), TARBALL);
    let manifest: Value = serde_json::from_slice(&std::fs::read(app.cache().join("npm/@acme/tool/1.2.3/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["files"][0]["source"], format!("{}/files/tool-1.2.3.tgz", packages.url));
    assert!(app.cache().join("CACHEDIR.TAG").is_file());

    assert_eq!(app.op_post_json(path, &alone).await.expect(200)["status"], "cached");
    assert_eq!(app.op_post(&format!("{path}?closure=false")).await.expect(200)["status"], "cached", "without a body, too");
    let sums = app.op_get("/api/mcp/cache/stats").await.expect(200);
    assert_eq!(
        (&sums["total"]["files"], &sums["by_type"]["npm"]["bytes"]),
        (&json!(3), &json!(TARBALL.len())),
        "a wheel's metadata is a file, too"
    );
    let again = json!([{ "registryType": "npm", "identifier": "@acme/tool", "version": "1.2.3", "transport": { "type": "stdio" } }]);
    app.import(&[data::entry_with("a.x/two", "1.0.0", json!({ "packages": again }), json!({}))]).await;
    let other = app.get("/api/mcp/servers/a.x%2Ftwo").await.expect(200);
    assert_eq!(other["packages"][0]["cache_checksum"], checksum, "a server that comes later and names the same package");
    let removed = app.send(app.request(Method::DELETE, path).bearer_auth(&app.token)).await.expect(200);
    assert_eq!(removed, json!({ "removed": 3, "freed_bytes": TARBALL.len() + 7 + 53 }));
    let shown = app.get("/api/mcp/servers/a.x%2Fone").await.expect(200);
    assert_eq!((&shown["packages"][0]["cached_at"], &shown["packages"][0]["cache_path"]), (&Value::Null, &Value::Null));
    assert!(!app.cache().join("npm").exists() && holding(&app, TARBALL) == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_cached_is_told_at_once() {
    let packages = Packages::start().await;
    let app = fabric(&packages, &[]).await;
    app.import(&[
        server(&json!([{ "registryType": "nuget", "identifier": "x", "version": "1.0.0" }])),
        data::entry_with(
            "a.x/remote",
            "1.0.0",
            json!({ "packages": [], "remotes": [{ "type": "sse", "url": "https://x.example" }] }),
            json!({}),
        ),
        data::entry_with(
            "a.x/odd",
            "1.0.0",
            json!({ "packages": [{ "registryType": "npm", "identifier": "../../etc", "version": "1.0.0" }] }),
            json!({}),
        ),
    ])
    .await;
    app.op_post("/api/mcp/servers/a.x%2Fone/cache").await.expect_problem(422, "unsupported_registry_type");
    app.op_post("/api/mcp/servers/a.x%2Fremote/cache").await.expect_problem(422, "no_packages");
    app.op_post("/api/mcp/servers/a.x%2Fodd/cache").await.expect_problem(400, "invalid_package");
    app.op_post("/api/mcp/servers/a.x%2Fnone/cache").await.expect_problem(404, "server_not_found");
    app.op_post_json("/api/mcp/servers/a.x%2Fone/cache", &json!({ "version": "9.9.9" })).await.expect_problem(404, "version_not_found");
    app.op_post_json("/api/mcp/servers/a.x%2Fone/cache", &json!({ "sideways": 1 })).await.expect_problem(400, "invalid_body");
    app.op_post_json("/api/mcp/cache", &json!({ "identifier": "nothing-here" })).await.expect_problem(404, "package_unknown");
    app.op_post_json("/api/mcp/cache", &json!({ "registry_type": "npm", "identifier": "nothing-here", "closure": false }))
        .await
        .expect(202);
    let job = eventually(20, "the job fails", || async {
        let jobs = app.op_get("/api/mcp/jobs?kind=cache").await.expect(200);
        (jobs["jobs"][0]["status"] == "failed").then(|| jobs["jobs"][0].clone())
    })
    .await;
    assert_eq!(job["error"]["code"], "package_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn npm_clients_get_documents_with_our_addresses_and_verified_tarballs() {
    let packages = Packages::start().await;
    packages.npm("@acme/tool", "1.2.3", TARBALL, |_| {});
    let app = fabric(&packages, &[]).await;
    let full = app.get("/npm/@acme%2Ftool").await.expect(200);
    let tarball = format!("{}/npm/@acme/tool/-/tool-1.2.3.tgz", app.url);
    assert_eq!((&full["versions"]["1.2.3"]["dist"]["tarball"], &full["readme"]), (&json!(tarball), &json!("words")));
    let short = app.request(Method::GET, "/npm/@acme/tool").header("accept", "application/vnd.npm.install-v1+json; q=1.0, */*");
    let short = app.send(short).await;
    assert_eq!(short.header("content-type"), Some("application/vnd.npm.install-v1+json"));
    let etag = short.header("etag").unwrap().to_owned();
    let short = short.expect(200);
    assert_eq!((&short["readme"], &short["versions"]["1.2.3"]["scripts"]), (&Value::Null, &Value::Null));
    let again =
        app.request(Method::GET, "/npm/@acme/tool").header("accept", "application/vnd.npm.install-v1+json").header("if-none-match", etag);
    assert_eq!(app.send(again).await.status, 304);
    assert_eq!(app.get("/npm/@acme/tool/latest").await.expect(200)["version"], "1.2.3");

    let file = app.get("/npm/@acme/tool/-/tool-1.2.3.tgz").await;
    assert_eq!((file.status, &file.body[..]), (200, TARBALL));
    assert_eq!(file.header("cache-control"), Some("public, max-age=31536000, immutable"));
    let etag = file.header("etag").unwrap().to_owned();
    let ask = |name: &'static str, value: &str| app.send(app.request(Method::GET, "/npm/@acme/tool/-/tool-1.2.3.tgz").header(name, value));
    assert_eq!(ask("if-none-match", &etag).await.status, 304);
    let part = ask("range", "bytes=4-8").await;
    assert_eq!(
        (part.status, &part.body[..], part.header("content-range")),
        (206, &TARBALL[4..9], Some(format!("bytes 4-8/{}", TARBALL.len()).as_str()))
    );
    assert_eq!(ask("range", "bytes=500-").await.status, 416);
    let head = app.send(app.request(Method::HEAD, "/npm/@acme/tool/-/tool-1.2.3.tgz")).await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some(TARBALL.len().to_string().as_str()), 0));
    assert_eq!((packages.asked("/npm/@acme%2Ftool"), packages.asked("/files/tool-1.2.3.tgz")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn python_clients_get_pages_in_either_form_files_and_metadata() {
    let packages = Packages::start().await;
    packages.pypi("acme-tool", "2.0.0", b"a wheel");
    let app = fabric(&packages, &[]).await;
    let page = app
        .send(app.request(Method::GET, "/pypi/simple/acme-tool/").header("accept", "application/vnd.pypi.simple.v1+json, text/html;q=0.1"))
        .await;
    assert_eq!(page.header("content-type"), Some("application/vnd.pypi.simple.v1+json"));
    let page = page.expect(200);
    let file = "../../files/acme-tool/2.0.0/acme_tool-2.0.0-py3-none-any.whl";
    assert_eq!((&page["files"][0]["url"], &page["files"][0]["requires-python"]), (&json!(file), &json!(">=3.10")));
    let html = app.get("/pypi/simple/acme-tool/").await;
    assert_eq!(html.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(html.text().contains("data-core-metadata=\"sha256="), "{}", html.text());
    let path = "/pypi/files/acme-tool/2.0.0/acme_tool-2.0.0-py3-none-any.whl";
    assert_eq!(&app.get(path).await.body[..], b"a wheel");
    assert!(app.get(&format!("{path}.metadata")).await.text().starts_with("Metadata-Version"));
    for (asked, leads) in [("/pypi/simple/Acme_Tool/", "/pypi/simple/acme-tool/"), ("/pypi/simple/acme-tool", "/pypi/simple/acme-tool/")] {
        let answer = app.get(asked).await;
        assert_eq!((answer.status, answer.header("location")), (308, Some(leads)), "{asked}");
    }
    let index =
        app.send(app.request(Method::GET, "/pypi/simple/").header("accept", "application/vnd.pypi.simple.v1+json")).await.expect(200);
    assert_eq!(index["projects"], json!([{ "name": "acme-tool" }]));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_could_lead_elsewhere_lead_nowhere() {
    let packages = Packages::start().await;
    let app = fabric(&packages, &[]).await;
    for path in [
        "/npm/..%2F..%2Fetc%2Fpasswd",
        "/npm/@..%2Fx",
        "/npm/@a%2F..",
        "/npm/con",
        "/npm/-rf",
        "/npm/a%00b",
        "/npm/%D0%B0cme",
        "/npm/a/-/..%2F..%2Fx.tgz",
        "/npm/a/-/b-1.0.0.tgz",
        "/npm/.blobs",
        "/pypi/simple/..%2F..%2Fetc/",
        "/pypi/files/a/1.0/..%2F..%2Fx.whl",
        "/pypi/files/a/1.0/b-1.0-py3-none-any.whl",
        "/pypi/files/..%2Fa/1.0/a-1.0-py3-none-any.whl",
        "/npm/%ff",
    ] {
        let answer = app.get(path).await;
        answer.expect_problem(404, "route_not_found");
    }
    assert_eq!(packages.requests(), 0, "nothing is asked of a registry by such a name");
    app.get(&format!("/npm/{}", "a".repeat(10_000))).await.expect_problem(404, "route_not_found");
    let entries: Vec<_> = std::fs::read_dir(app.cache()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(entries.len(), 4, "{entries:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_askers_make_one_request() {
    let packages = Packages::start().await;
    packages.npm("tool", "1.0.0", TARBALL, |_| {});
    packages.trouble("/npm/tool", Trouble::Wait(Duration::from_millis(300)));
    packages.trouble("/files/tool-1.0.0.tgz", Trouble::Wait(Duration::from_millis(300)));
    let app = fabric(&packages, &[("FABRIC_RATE_LIMIT", "0")]).await;
    let answers = futures_util::future::join_all((0..200).map(|_| app.get("/npm/tool/-/tool-1.0.0.tgz"))).await;
    assert!(answers.iter().all(|answer| answer.status == 200 && &answer.body[..] == TARBALL));
    assert_eq!((packages.asked("/npm/tool"), packages.asked("/files/tool-1.0.0.tgz")), (1, 1));
    let stats = app.op_get("/api/mcp/cache/stats").await.expect(200)["by_type"]["npm"].clone();
    let [hits, misses, coalesced] = ["hits", "misses", "coalesced"].map(|key| stats[key].as_u64().unwrap());
    assert_eq!((misses, hits + coalesced), (1, 199), "{stats}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_stops_nothing() {
    let packages = Packages::start().await;
    packages.npm("tool", "1.0.0", TARBALL, |_| {});
    packages.trouble("/files/tool-1.0.0.tgz", Trouble::Wait(Duration::from_millis(500)));
    let app = fabric(&packages, &[]).await;
    let gone = app.request(Method::GET, "/npm/tool/-/tool-1.0.0.tgz").timeout(Duration::from_millis(200)).send().await;
    assert!(gone.unwrap_err().is_timeout());
    eventually(5, "the file is there all the same", || async { (holding(&app, TARBALL) == 1).then_some(()) }).await;
    assert_eq!(app.get("/npm/tool/-/tool-1.0.0.tgz").await.status, 200);
    assert_eq!(packages.asked("/files/tool-1.0.0.tgz"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_make_one_request_between_them() {
    let packages = Packages::start().await;
    packages.npm("tool", "1.0.0", TARBALL, |_| {});
    packages.trouble("/files/tool-1.0.0.tgz", Trouble::Wait(Duration::from_millis(700)));
    let one = fabric(&packages, &[]).await;
    let shared = one.cache();
    let own = packages.settings();
    let settings = [(own[0].0, own[0].1.as_str()), ("FABRIC_CACHE_DIR", shared.to_str().unwrap())];
    let two = TestApp::beside_with(&one, &settings).await;
    let (first, second) = tokio::join!(one.get("/npm/tool/-/tool-1.0.0.tgz"), two.get("/npm/tool/-/tool-1.0.0.tgz"));
    assert_eq!((first.status, second.status), (200, 200));
    assert_eq!(packages.asked("/files/tool-1.0.0.tgz"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_files_are_streamed_whole_or_in_part_and_checked_when_they_change() {
    let packages = Packages::start().await;
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    packages.npm("large", "1.0.0", &large, |_| {});
    let app = fabric(&packages, &[]).await;
    let path = "/npm/large/-/large-1.0.0.tgz";
    for _ in 0..2 {
        assert!(app.get(path).await.body[..] == large[..]);
    }
    let part = app.send(app.request(Method::GET, path).header("range", "bytes=1000000-1999999")).await;
    assert!(part.status == 206 && part.body[..] == large[1_000_000..2_000_000]);
    let blob = blobs(&app).into_iter().find(|path| path.metadata().unwrap().len() == 3_000_000).unwrap();
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, vec![0; 3_000_000]).unwrap();
    assert!(app.get(path).await.body[..] == large[..], "a file that was exchanged under a running program is not given");
    assert_eq!(packages.asked("/files/large-1.0.0.tgz"), 2);
}
