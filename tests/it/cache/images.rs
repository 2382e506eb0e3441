//! Container images: brought in, laid out, pulled again.

use reqwest::Method;
use serde_json::{Value, json};

use super::{blobs, holding};
use crate::support::{Packages, TestApp, Trouble, data, digest};

const LAYER: &[u8] = b"a layer that two images share";

async fn fabric(packages: &Packages, further: &[(&str, &str)]) -> TestApp {
    let host = packages.host();
    let mut settings = vec![("FABRIC_ALLOWED_HOSTS", host.as_str()), ("FABRIC_CACHE_TARGETS", "linux/amd64")];
    settings.extend(further);
    TestApp::with(&settings).await
}

async fn add(app: &TestApp, identifier: &str, further: Value) -> Value {
    let mut body = json!({ "registry_type": "oci", "identifier": identifier });
    body.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
    let asked = app.op_post_json("/api/mcp/cache", &body).await.expect(202);
    app.job(asked["job_id"].as_str().unwrap()).await
}

/// How a name is written in paths of `/v2/`.
fn path(packages: &Packages, rest: &str) -> String {
    format!("/v2/{}/{rest}", packages.host().replace(':', "_"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_comes_in_with_its_parts_and_is_pulled_without_its_registry() {
    let packages = Packages::start().await;
    let (amd, arm) = (packages.image("acme/tool", &[LAYER, b"two"], |_| {}), packages.image("acme/tool", &[LAYER, b"three"], |_| {}));
    let index = packages.index("acme/tool", "1.0", &[("linux/arm64", &arm), ("linux/amd64", &amd)]);
    let mut app = fabric(&packages, &[]).await;
    let identifier = format!("{}/acme/tool:1.0", packages.host());
    let package = json!([{ "registryType": "oci", "identifier": identifier, "transport": { "type": "stdio" } }]);
    app.import(&[data::entry_with("a.x/one", "1.0.0", json!({ "packages": package }), json!({}))]).await;
    let asked = app.op_post("/api/mcp/servers/a.x%2Fone/cache").await.expect(202);
    let job = app.job(asked["job_id"].as_str().unwrap()).await;
    assert_eq!(job["status"], "complete", "{job}");

    let shown = app.op_get("/api/mcp/servers/a.x%2Fone/cache/status").await.expect(200)["packages"][0].clone();
    let folder = format!("oci/{}/acme/tool/{}", packages.host().replace(':', "_"), amd.replace(':', "-"));
    assert_eq!(
        (&shown["status"], &shown["target"], &shown["cache_path"], &shown["cache_checksum"]),
        (&json!("cached"), &json!("linux/amd64"), &json!(folder), &json!(amd))
    );
    assert_eq!(shown["files"].as_array().unwrap().len(), 4, "manifest, configuration, two layers");
    let detail = app.get("/api/mcp/servers/a.x%2Fone").await.expect(200);
    assert_eq!(detail["packages"][0]["cache_checksum"], amd);
    let read = |name: &str| -> Value { serde_json::from_slice(&std::fs::read(app.cache().join(&folder).join(name)).unwrap()).unwrap() };
    assert_eq!(read("oci-layout")["imageLayoutVersion"], "1.0.0");
    assert_eq!(read("index.json")["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], identifier);
    assert_eq!(read("manifest.json")[0]["RepoTags"], json!([identifier]));
    assert_eq!(std::fs::read(app.cache().join(&folder).join("blobs").join(digest(LAYER).replace(':', "/"))).unwrap(), LAYER);

    let job = add(&app, &identifier, json!({ "targets": ["linux/arm64"] })).await;
    assert_eq!((&job["status"], holding(&app, LAYER)), (&json!("complete"), 1), "shared layers are stored once");
    assert_eq!(packages.asked(&format!("/v2/acme/tool/blobs/{}", digest(LAYER))), 1, "and fetched once");
    let sums = app.op_get("/api/mcp/cache/stats").await.expect(200);
    assert_eq!((&sums["by_type"]["oci"]["packages"], &sums["by_type"]["oci"]["versions"]), (&json!(1), &json!(2)));

    app.set("FABRIC_OFFLINE", "true");
    app.restart().await;
    assert_eq!(app.get("/v2/").await.expect(200), json!({}));
    let manifest = app.get(&path(&packages, "acme/tool/manifests/1.0")).await;
    assert_eq!(manifest.header("docker-content-digest"), Some(index.as_str()));
    assert_eq!(manifest.header("content-type"), Some("application/vnd.oci.image.index.v1+json"));
    assert_eq!(digest(&manifest.body), index, "the very bytes");
    let image = app.get(&path(&packages, &format!("acme/tool/manifests/{amd}"))).await.expect(200);
    for part in image["layers"].as_array().unwrap().iter().chain([&image["config"]]) {
        let name = part["digest"].as_str().unwrap();
        let blob = app.get(&path(&packages, &format!("acme/tool/blobs/{name}"))).await;
        assert_eq!((blob.status, digest(&blob.body)), (200, name.to_owned()));
    }
    let blob = path(&packages, &format!("acme/tool/blobs/{}", digest(LAYER)));
    let head = app.send(app.request(Method::HEAD, &blob).header("range", "bytes=0-1")).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some(LAYER.len().to_string().as_str())), "a range is for GET only");
    let part = app.send(app.request(Method::GET, &blob).header("range", "bytes=2-")).await;
    assert_eq!((part.status, &part.body[..]), (206, &LAYER[2..]));
    let tags = app.get(&path(&packages, "acme/tool/tags/list")).await.expect(200);
    assert_eq!(tags["tags"], json!(["1.0"]));
    for (what, code) in
        [("acme/tool/manifests/2.0", "MANIFEST_UNKNOWN"), ("acme/other/tags/list", "NAME_UNKNOWN"), ("acme/tool/manifests", "UNSUPPORTED")]
    {
        let answer = app.get(&path(&packages, what)).await;
        assert_eq!((answer.status, &answer.json()["errors"][0]["code"]), (404, &json!(code)), "{what}");
    }
    let pushed = app.send(app.request(Method::POST, &path(&packages, "acme/tool/blobs/uploads/"))).await;
    assert_eq!((pushed.status, &pushed.json()["errors"][0]["code"]), (405, &json!("UNSUPPORTED")));

    let removed = app.send(app.request(Method::DELETE, "/api/mcp/servers/a.x%2Fone/cache").bearer_auth(&app.token)).await.expect(200);
    assert_eq!(removed["removed"], 8, "the images for both platforms");
    assert!(!app.cache().join("oci").exists() && holding(&app, LAYER) == 0);
    assert_eq!(app.get("/api/mcp/servers/a.x%2Fone").await.expect(200)["packages"][0]["cached_at"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_fill_the_cache_by_pulling() {
    let packages = Packages::start().await;
    let image = packages.image("acme/tool", &[LAYER], |_| {});
    packages.index("acme/tool", "1.0", &[("linux/amd64", &image)]);
    let app = fabric(&packages, &[]).await;
    let blob = path(&packages, &format!("acme/tool/blobs/{}", digest(LAYER)));
    assert_eq!(app.get(&blob).await.status, 404, "no image of it is known yet");
    app.get(&path(&packages, "acme/tool/manifests/1.0")).await.expect(200);
    app.get(&path(&packages, &format!("acme/tool/manifests/{image}"))).await.expect(200);
    let answers = futures_util::future::join_all((0..20).map(|_| app.get(&blob))).await;
    assert!(answers.iter().all(|answer| answer.status == 200 && answer.body == LAYER));
    assert_eq!(packages.asked(&format!("/v2/acme/tool/blobs/{}", digest(LAYER))), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_wrong_image_is_kept() {
    let packages = Packages::start().await;
    let app = fabric(&packages, &[]).await;
    let failed = async |repository: &str, image: &str, code: &str| {
        packages.index(repository, "1", &[("linux/amd64", image)]);
        let job = add(&app, &format!("{}/{repository}:1", packages.host()), json!({})).await;
        assert_eq!((&job["status"], &job["error"]["code"]), (&json!("failed"), &json!(code)), "{job}");
    };
    let good = packages.image("a/tampered", &[b"the one layer"], |_| {});
    packages.trouble(&format!("/v2/a/tampered/blobs/{}", digest(b"the one layer")), Trouble::Tampered);
    failed("a/tampered", &good, "integrity_mismatch").await;
    assert_eq!(holding(&app, b"the one layer"), 0);
    packages.trouble(&format!("/v2/a/tampered/manifests/{good}"), Trouble::Tampered);
    let other = packages.image("a/manifest", &[b"x"], |_| {});
    packages.trouble(&format!("/v2/a/manifest/manifests/{other}"), Trouble::Tampered);
    failed("a/manifest", &other, "integrity_mismatch").await;
    let sized = packages.image("a/size", &[b"of this size"], |manifest| manifest["layers"][0]["size"] = json!(3));
    failed("a/size", &sized, "integrity_mismatch").await;
    let one = packages.image("a/one", &[], |manifest| *manifest = json!({ "schemaVersion": 1, "fsLayers": [] }));
    failed("a/one", &one, "upstream_document_invalid").await;
    let named = packages.image("a/named", &[], |manifest| manifest["layers"] = json!([{ "digest": "sha256:../../etc", "size": 1 }]));
    failed("a/named", &named, "upstream_document_invalid").await;
    packages.index("a/platform", "1", &[("linux/s390x", &good)]);
    let job = add(&app, &format!("{}/a/platform:1", packages.host()), json!({})).await;
    assert_eq!(job["error"]["code"], "platform_not_found", "{job}");
    let job = add(&app, &format!("{}/a/nothing:1", packages.host()), json!({})).await;
    assert_eq!(job["error"]["code"], "package_not_found", "{job}");
    assert!(!blobs(&app).iter().any(|path| path.to_string_lossy().contains(".drafts")));
    for bad in ["../../etc", "ghcr.io/A", "ghcr.io/a:-x", "ghcr.io/con", "ghcr.io/a@sha256:0", "-rf"] {
        let body = json!({ "registry_type": "docker", "identifier": bad });
        app.op_post_json("/api/mcp/cache", &body).await.expect_problem(400, "invalid_package");
    }
    let elsewhere = json!({ "registry_type": "oci", "identifier": "169.254.169.254/a/b" });
    let asked = app.op_post_json("/api/mcp/cache", &elsewhere).await.expect(202);
    assert_eq!(app.job(asked["job_id"].as_str().unwrap()).await["error"]["code"], "upstream_host_refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_go_to_the_realm_of_their_own_registry_only() {
    let (packages, elsewhere) = (Packages::start().await, Packages::start().await);
    let image = packages.image("acme/private", &[LAYER], |_| {});
    packages.index("acme/private", "1", &[("linux/amd64", &image)]);
    packages.put("/token", "application/json", json!({ "token": "given" }).to_string());
    elsewhere.put("/token", "application/json", json!({ "token": "stolen" }).to_string());
    let app = fabric(&packages, &[]).await;
    let identifier = format!("{}/acme/private:1", packages.host());
    packages.trouble("/v2/", Trouble::Challenge(format!("Bearer realm=\"{}/token\",service=\"x\"", elsewhere.url)));
    let job = add(&app, &identifier, json!({})).await;
    assert_eq!(job["error"]["code"], "upstream_realm_refused", "{job}");
    assert_eq!(elsewhere.requests(), 0);

    let app = fabric(&packages, &[]).await;
    packages.trouble("/v2/", Trouble::Challenge(format!("Bearer realm=\"{}/token\",service=\"x\"", packages.url)));
    packages.put("/cdn/layer", "application/octet-stream", LAYER);
    elsewhere.put("/layer", "application/octet-stream", LAYER);
    let blob = format!("/v2/acme/private/blobs/{}", digest(LAYER));
    packages.trouble(&blob, Trouble::Redirect(format!("{}/layer", elsewhere.url)));
    let job = add(&app, &identifier, json!({})).await;
    assert_eq!(job["error"]["code"], "upstream_host_refused", "a redirect to another port of this machine: {job}");
    let both = format!("{},{}", packages.host(), elsewhere.host());
    let app = TestApp::with(&[("FABRIC_ALLOWED_HOSTS", &both), ("FABRIC_CACHE_TARGETS", "linux/amd64")]).await;
    packages.trouble("/v2/", Trouble::Challenge(format!("Bearer realm=\"{}/token\",service=\"x\"", packages.url)));
    packages.trouble(&blob, Trouble::Redirect(format!("{}/layer", elsewhere.url)));
    let job = add(&app, &identifier, json!({})).await;
    assert_eq!(job["status"], "complete", "{job}");
    assert!(packages.authorized(&blob), "the registry is shown the token");
    assert!(elsewhere.asked("/layer") == 1 && !elsewhere.authorized("/layer"), "whoever it leads to is not");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_lacks_a_layer_is_never_called_cached() {
    let packages = Packages::start().await;
    let image = packages.image("acme/tool", &[LAYER, b"a layer that is gone"], |_| {});
    packages.index("acme/tool", "1", &[("linux/amd64", &image)]);
    let gone = format!("/v2/acme/tool/blobs/{}", digest(b"a layer that is gone"));
    let app = fabric(&packages, &[]).await;
    let identifier = format!("{}/acme/tool:1", packages.host());
    packages.trouble(&gone, Trouble::Tampered);
    assert_eq!(add(&app, &identifier, json!({})).await["status"], "failed");
    let pruned = app.op_post_json("/api/mcp/cache/prune", &json!({ "failed": true })).await.expect(202);
    assert_eq!(app.job(pruned["job_id"].as_str().unwrap()).await["status"], "complete");
    let again = add(&app, &identifier, json!({})).await;
    assert_eq!(again["status"], "complete", "it is fetched, not called cached: {again}");

    // Removed while a part of it comes in: that part is no image.
    let job = app
        .send(app.request(Method::DELETE, &format!("/api/mcp/cache?registry_type=oci&identifier={identifier}")).bearer_auth(&app.token))
        .await;
    assert_eq!(job.expect(200)["removed"], 4);
    packages.trouble(&gone, Trouble::Wait(std::time::Duration::from_secs(2)));
    let asked = app.op_post_json("/api/mcp/cache", &json!({ "registry_type": "oci", "identifier": identifier })).await.expect(202);
    crate::support::eventually(10, "the layer is coming", || async { (packages.asked(&gone) == 3).then_some(()) }).await;
    app.send(app.request(Method::DELETE, &format!("/api/mcp/cache?registry_type=oci&identifier={identifier}")).bearer_auth(&app.token))
        .await;
    app.op_post(&format!("/api/mcp/jobs/{}/cancel", asked["job_id"].as_str().unwrap())).await;
    app.job(asked["job_id"].as_str().unwrap()).await;
    let again = app.op_post_json("/api/mcp/cache", &json!({ "registry_type": "oci", "identifier": identifier })).await;
    assert_eq!(again.status, 202, "a part of it is not it: {}", again.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_was_pulled_is_whole_and_comes_back_after_it_was_removed() {
    let packages = Packages::start().await;
    let image = packages.image("acme/tool", &[LAYER], |_| {});
    packages.index("acme/tool", "1", &[("linux/amd64", &image)]);
    let mut app = fabric(&packages, &[]).await;
    let manifest = path(&packages, &format!("acme/tool/manifests/{image}"));
    let pull = async |app: &TestApp| {
        let document = app.get(&manifest).await.expect(200);
        for part in document["layers"].as_array().unwrap().iter().chain([&document["config"]]) {
            let blob = path(&packages, &format!("acme/tool/blobs/{}", part["digest"].as_str().unwrap()));
            assert_eq!(app.get(&blob).await.status, 200);
        }
    };
    pull(&app).await;
    crate::support::eventually(5, "all of it is here", || async {
        let listed = app.op_get("/api/mcp/cache").await.expect(200);
        (listed["packages"][0]["files"] == 3).then_some(())
    })
    .await;
    assert_eq!(app.op_post_json("/api/mcp/cache/export", &json!({ "all": true })).await.status, 200);
    let name = format!("registry_type=oci&identifier={}/acme/tool&version={image}", packages.host());
    let removed = app.send(app.request(Method::DELETE, &format!("/api/mcp/cache?{name}")).bearer_auth(&app.token)).await;
    assert_eq!(removed.status, 200, "{}", removed.text());
    pull(&app).await;
    app.set("FABRIC_OFFLINE", "true");
    app.restart().await;
    pull(&app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_hub_is_called_by_short_names_and_its_remaining_pulls_are_shown() {
    let packages = Packages::start().await;
    let image = packages.image("library/tool", &[LAYER], |_| {});
    packages.index("library/tool", "1", &[("linux/amd64", &image)]);
    let app = fabric(&packages, &[("FABRIC_DOCKER_HUB", &packages.url)]).await;
    assert_eq!(add(&app, "tool:1", json!({})).await["status"], "complete");
    for path in [
        "/v2/tool/manifests/1",
        "/v2/library/tool/manifests/1",
        "/v2/docker.io/library/tool/manifests/1",
        "/v2/library/tool/manifests/1?ns=docker.io",
    ] {
        app.get(path).await.expect(200);
    }
    assert!(app.op_get("/metrics").await.text().contains("fabric_docker_hub_pulls_left 76"));
    assert_eq!(app.op_get("/api/mcp/cache?registry_type=docker").await.expect(200)["packages"][0]["identifier"], "docker.io/library/tool");
    let tags = app.get("/v2/tool/tags/list?n=0").await.expect(200);
    assert_eq!((&tags["name"], &tags["tags"]), (&json!("library/tool"), &json!([])));
}
