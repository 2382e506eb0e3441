//! A thousand clients, of whom some read slowly and some come back all at once.

use std::time::Duration;

use futures_util::{StreamExt as _, future::join_all};
use mcp_fabric::kinds::KINDS;
use reqwest::Method;
use serde_json::Value;

use super::sockets::Socket;
use crate::support::{TestApp, data};

const EACH: usize = 500;

/// Reads server-sent events until one of a type is there; gives its id.
async fn told(app: &TestApp, from: Option<i64>) -> i64 {
    let mut request = app.request(Method::GET, "/api/mcp/events?channels=sync").bearer_auth(&app.token);
    if let Some(from) = from {
        request = request.header("last-event-id", from.to_string());
    }
    let mut stream = request.send().await.unwrap().bytes_stream();
    let mut text = String::new();
    loop {
        text.push_str(std::str::from_utf8(&stream.next().await.unwrap().unwrap()).unwrap());
        if let Some(data) = text.lines().find_map(|line| line.strip_prefix("data: ")).filter(|_| text.ends_with("\n\n")) {
            return serde_json::from_str::<Value>(data).unwrap()["id"].as_i64().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clients_hear_the_same_and_come_back_together() {
    let app = TestApp::with(&[("FABRIC_RATE_LIMIT", "0"), ("FABRIC_MAX_CONNECTIONS", "4000")]).await;
    // They are there, and read nothing.
    let silent = join_all((0..50).map(|_| Socket::with(&app, &app.token, ""))).await;
    let hear = async {
        let sockets = join_all((0..EACH).map(|_| Socket::with(&app, &app.token, "?channels=sync"))).await;
        let streams = join_all((0..EACH).map(|_| told(&app, None)));
        let change = async {
            let followers = format!("fabric_event_followers{{stream=\"sse\"}} {EACH}");
            crate::support::eventually(30, "all follow", || async {
                app.op_get("/metrics").await.text().contains(&followers).then_some(())
            })
            .await;
            app.import(&[data::entry("a.x/one", "1.0.0")]).await;
        };
        let (streams, ()) = tokio::join!(streams, change);
        let mut ids = streams;
        for (mut socket, _) in sockets {
            ids.push(socket.next().await["id"].as_i64().unwrap());
        }
        ids
    };
    let ids = tokio::time::timeout(Duration::from_mins(2), hear).await.expect("all hear of it");
    assert_eq!(ids.len(), 2 * EACH);
    assert!(ids.iter().all(|id| *id == ids[0]));
    // A storm: all of them come back at once and want what they missed.
    let again = join_all((0..2 * EACH).map(|_| told(&app, Some(ids[0] - 1))));
    let again = tokio::time::timeout(Duration::from_mins(2), again).await.expect("all are served");
    assert!(again.iter().all(|id| *id == ids[0]));
    drop(silent);
    app.stop().await;
}

#[test]
fn the_document_of_events_is_what_the_program_tells() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/events.md");
    let document = events::document(KINDS);
    if std::env::var("UPDATE_DOCS").is_ok() {
        std::fs::write(path, &document).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), document, "UPDATE_DOCS=1 writes it");
}
