//! What is done with servers that run is in the trail, once.

use serde_json::{Value, json};

use super::with;
use crate::support::{TestApp, binary_command};

/// The actions that people took since an event, oldest first.
async fn since(app: &TestApp, newest: i64) -> Vec<String> {
    let mut events = app.trail("").await;
    events.retain(|event| {
        event["seq"].as_i64().unwrap() > newest && !event["actor"].as_str().unwrap().starts_with("system:") && event["answers"].is_null()
    });
    events.iter().rev().map(|event| event["action"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs npm"]
async fn what_is_done_with_servers_is_in_the_trail() {
    let (app, _packages) = with(&[], &json!({})).await;
    let newest = app.trail("").await[0]["seq"].as_i64().unwrap();
    let running = app.run_server("subject").await;
    let id = running["id"].as_str().unwrap().to_owned();
    app.tool(&running, "echo", json!({ "message": "not for the trail" })).await;
    app.op_post("/api/mcp/servers/subject/restart").await.expect(202);
    crate::support::eventually(10, "it is back", || async {
        let now = app.instance(&running["id"]).await;
        (now["state"] == "RUNNING" && now["pid"] != running["pid"]).then_some(())
    })
    .await;
    app.op_post("/api/mcp/servers/subject/stop").await.expect(202);
    app.instance_in(&app.token, "subject", "STOPPED").await;
    assert_eq!(app.call(reqwest::Method::DELETE, &format!("/api/mcp/instances/{id}"), &app.token, &Value::Null).await.status, 204);
    let told = ["configuration.put", "tool.call", "instance.restart", "configuration.put", "instance.remove"];
    assert_eq!(since(&app, newest).await, told);
    let trail = serde_json::to_string(&app.trail("&server_id=subject").await).unwrap();
    assert!(!trail.contains("not for the trail"), "what a tool is called with is nobody else's");
    assert!(trail.contains("credential.reveal"), "what a launch was given is there");

    // The same by the command line.
    let newest = app.trail("").await[0]["seq"].as_i64().unwrap();
    let run = async |words: &[&str]| {
        let mut command = binary_command(&app.data(), &[("FABRIC_URL", &app.url), ("FABRIC_TOKEN", &app.token)], words);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(run(&["run", "subject"]).await.starts_with("subject runs (pid "));
    assert!(run(&["ps"]).await.contains("RUNNING"));
    assert!(run(&["tools", "subject"]).await.contains("does echo"));
    assert_eq!(run(&["call", "subject", "echo", "message=two words"]).await, "two words\n");
    assert!(run(&["logs", "subject"]).await.contains("subject: here"));
    assert_eq!(run(&["stop", "--all"]).await, "stopped: subject\n");
    assert_eq!(since(&app, newest).await, ["configuration.put", "tool.call", "configuration.put"]);
    app.stop().await;
}
