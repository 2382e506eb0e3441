//! Tickets: what browsers open streams with.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::sockets::Socket;
use crate::support::{Answer, TestApp, data};

const PAGE: &str = "http://localhost:3000";

async fn ticket(app: &TestApp, token: &str, origin: Option<&str>) -> String {
    let mut request = app.request(Method::POST, "/api/mcp/events/ticket").bearer_auth(token);
    if let Some(origin) = origin {
        request = request.header("origin", origin);
    }
    let answer = app.send(request).await;
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    answer.expect(201)["ticket"].as_str().unwrap().to_owned()
}

/// What opening the event stream answers.
async fn open(app: &TestApp, ticket: &str, headers: &[(&str, &str)]) -> Result<(), Answer> {
    let mut request = app.request(Method::GET, &format!("/api/mcp/events?ticket={ticket}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    if response.status() == StatusCode::OK { Ok(()) } else { Err(Answer::of(response).await) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_counts_once_for_its_page_and_not_for_long() {
    let app = TestApp::start().await;
    let token = app.token.clone();
    let refused = |answer: Result<(), Answer>| answer.expect_err("it does not count").expect_problem(401, "unauthenticated");

    let once = ticket(&app, &token, Some(PAGE)).await;
    assert!(open(&app, &once, &[("origin", PAGE)]).await.is_ok());
    refused(open(&app, &once, &[("origin", PAGE)]).await);

    let stolen = ticket(&app, &token, Some(PAGE)).await;
    refused(open(&app, &stolen, &[("origin", "http://localhost:3001")]).await);
    refused(open(&app, &stolen, &[("origin", PAGE)]).await);
    let elsewhere = ticket(&app, &token, Some(PAGE)).await;
    refused(open(&app, &elsewhere, &[]).await);
    let no_page = ticket(&app, &token, None).await;
    refused(open(&app, &no_page, &[("origin", PAGE)]).await);
    let no_page = ticket(&app, &token, None).await;
    assert!(open(&app, &no_page, &[]).await.is_ok());

    let old = ticket(&app, &token, None).await;
    let mut connection = app.database.connect().await;
    sqlx::query("UPDATE mcp_fabric.event_tickets SET expires_at = now() - interval '1 second'").execute(&mut connection).await.unwrap();
    refused(open(&app, &old, &[]).await);
    for rubbish in ["x", "%00", &"A".repeat(43), &"A".repeat(10_000)] {
        refused(open(&app, rubbish, &[]).await);
    }
    let both = ticket(&app, &token, None).await;
    app.op_get(&format!("/api/mcp/events?ticket={both}")).await.expect_problem(400, "ticket_and_token");

    let many = ticket(&app, &token, None).await;
    let (app, many) = (&app, many.as_str());
    let opened = futures_util::future::join_all((0..20).map(|_| async move { open(app, many, &[]).await.is_ok() })).await;
    assert_eq!(opened.iter().filter(|opened| **opened).count(), 1, "of twenty at once, one");
    assert!(!app.trail("&action=access.refuse").await.is_empty(), "what does not count is told to the trail");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_has_the_rights_of_its_token_and_ends_with_it() {
    let app = TestApp::start().await;
    app.person("root@example.com", "admin").await;
    let ada = app.person("ada@example.com", "member").await;
    let opened = ticket(&app, &ada.access, Some(PAGE)).await;
    let mut socket = Socket::open(&app, &format!("?ticket={opened}"), &[("origin", PAGE)]).await.unwrap();
    assert_eq!(socket.next().await["type"], "CONNECTED");
    app.import(&[data::entry("a.x/one", "1.0.0")]).await;
    assert_eq!(socket.next().await["type"], "CATALOG_CHANGED", "the operator's jobs and audit are no matter of a member");
    let late = ticket(&app, &ada.access, Some(PAGE)).await;
    assert_eq!(app.call(Method::POST, "/api/mcp/auth/logout", &ada.access, &Value::Null).await.status, 204);
    assert_eq!(Socket::open(&app, &format!("?ticket={late}"), &[("origin", PAGE)]).await.err(), Some(401));
    assert_eq!(socket.closed().await, 1008);

    app.post("/api/mcp/events/ticket", &json!({})).await.expect_problem(401, "unauthenticated");
    let evil = app.request(Method::POST, "/api/mcp/events/ticket").bearer_auth(&app.token).header("origin", "http://evil.example");
    app.send(evil).await.expect_problem(403, "unknown_origin");
    let deaf = app.service(&["cache:write"], None).await;
    app.call(Method::POST, "/api/mcp/events/ticket", &deaf, &json!({})).await.expect_problem(403, "forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_ticket_nor_token_is_in_the_database() {
    let app = TestApp::start().await;
    let given = ticket(&app, &app.token, None).await;
    let rows: Vec<String> = sqlx::query_scalar("SELECT t::text || encode(t.sealed, 'escape') FROM mcp_fabric.event_tickets t")
        .fetch_all(&mut app.database.connect().await)
        .await
        .unwrap();
    assert_eq!(rows.len(), 1);
    assert!(!rows[0].contains(&given) && !rows[0].contains(&app.token));
    // One that is used by two replicas counts for one.
    let beside = TestApp::beside(&app).await;
    assert!(open(&beside, &given, &[]).await.is_ok());
    assert!(open(&app, &given, &[]).await.is_err());
}
