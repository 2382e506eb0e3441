use serde_json::json;

use crate::support::{TestApp, data};

#[tokio::test(flavor = "multi_thread")]
async fn predefined_servers_are_there_from_the_first_start() {
    let app = TestApp::start().await;
    let list = app.get("/api/mcp/servers").await.expect(200);
    let ids: Vec<&str> = list["servers"].as_array().unwrap().iter().map(|server| server["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["everything", "fetch", "filesystem", "git", "memory", "sequential-thinking", "time"]);
    assert_eq!(list["total"], 7);
    assert_eq!(list["next_cursor"], json!(null));
    app.import(&[data::entry("io.x/y", "1.0.0")]).await;
    assert_eq!(app.get("/api/mcp/servers").await.expect(200)["total"], 8);
}
