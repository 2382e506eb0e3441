//! Bundles: files of releases that are known by their SHA-256.

use serde_json::{Value, json};

use super::holding;
use crate::support::{Packages, TestApp, Trouble, data, digest};

const BUNDLE: &[u8] = b"a bundle that nobody opens here";

fn hex(bytes: &[u8]) -> String {
    digest(bytes).replace("sha256:", "")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_what_its_server_says_it_is() {
    let packages = Packages::start().await;
    let path = "/acme/tool/releases/download/v1.0.0/tool.mcpb";
    packages.put(path, "application/octet-stream", BUNDLE);
    let (host, url) = (packages.host(), format!("{}{path}", packages.url));
    let app = TestApp::with(&[("FABRIC_ALLOWED_HOSTS", &host)]).await;
    let server = |name: &str, sha256: Value| {
        let package = json!([{ "registryType": "mcpb", "identifier": url, "fileSha256": sha256, "transport": { "type": "stdio" } }]);
        data::entry_with(name, "1.0.0", json!({ "packages": package }), json!({}))
    };
    app.import(&[server("a.x/one", json!(hex(BUNDLE))), server("a.x/wrong", json!(hex(b"another")))]).await;
    let job = async |name: &str| {
        let asked = app.op_post(&format!("/api/mcp/servers/{name}/cache")).await.expect(202);
        app.job(asked["job_id"].as_str().unwrap()).await
    };
    let wrong = job("a.x%2Fwrong").await;
    assert_eq!((&wrong["error"]["code"], holding(&app, BUNDLE)), (&json!("integrity_mismatch"), 0), "{wrong}");
    packages.trouble(path, Trouble::Tampered);
    let tampered = job("a.x%2Fone").await;
    assert_eq!((&tampered["error"]["code"], holding(&app, BUNDLE)), (&json!("integrity_mismatch"), 0), "{tampered}");
    packages.trouble(path, Trouble::BrokenAt(7));
    let good = job("a.x%2Fone").await;
    assert_eq!((&good["status"], holding(&app, BUNDLE)), (&json!("complete"), 1), "{good}");
    let shown = app.op_get("/api/mcp/servers/a.x%2Fone/cache/status").await.expect(200)["packages"][0].clone();
    assert_eq!((&shown["status"], &shown["cache_checksum"]), (&json!("cached"), &json!(digest(BUNDLE))));
    assert_eq!(app.op_get("/api/mcp/servers/a.x%2Fwrong/cache/status").await.expect(200)["packages"][0]["status"], "failed");
    let place = app.cache().join(shown["cache_path"].as_str().unwrap()).join("tool.mcpb");
    assert_eq!(std::fs::read(place).unwrap(), BUNDLE);
    assert_eq!(app.op_post("/api/mcp/servers/a.x%2Fone/cache").await.expect(200)["status"], "cached");
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_come_from_the_hosts_that_are_named_and_with_a_digest() {
    let packages = Packages::start().await;
    let host = packages.host();
    let app = TestApp::with(&[("FABRIC_ALLOWED_HOSTS", &host)]).await;
    let ask = async |identifier: &str, sha256: Option<String>| {
        let asked =
            app.op_post_json("/api/mcp/cache", &json!({ "registry_type": "mcpb", "identifier": identifier, "file_sha256": sha256 })).await;
        app.job(asked.expect(202)["job_id"].as_str().unwrap()).await["error"]["code"].clone()
    };
    assert_eq!(ask("https://evil.example/x.mcpb", Some(hex(BUNDLE))).await, "bundle_host_refused");
    assert_eq!(ask("http://169.254.169.254/x.mcpb", Some(hex(BUNDLE))).await, "bundle_host_refused");
    assert_eq!(ask(&format!("http://{host}/x.mcpb"), None).await, "digest_missing");
    assert_eq!(ask(&format!("http://{host}/x.mcpb"), Some("short".into())).await, "digest_missing");
    assert_eq!(ask(&format!("http://{host}/x.mcpb"), Some(hex(BUNDLE))).await, "upstream_error");
    packages.put("/y.mcpb", "application/octet-stream", BUNDLE);
    packages.trouble("/y.mcpb", Trouble::Redirect("http://169.254.169.254/latest".into()));
    assert_eq!(ask(&format!("http://{host}/y.mcpb"), Some(hex(BUNDLE))).await, "upstream_host_refused");
    for bad in ["file:///etc/passwd", "https://github.com/../x", "x", "https://u:p@github.com/x"] {
        app.op_post_json("/api/mcp/cache", &json!({ "registry_type": "mcpb", "identifier": bad }))
            .await
            .expect_problem(400, "invalid_package");
    }
}
