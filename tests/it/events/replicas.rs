//! Several fabrics on one database: the same tests by PostgreSQL alone, and with Redis.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;

use super::{read, sockets::Socket};
use crate::support::{Redis, TestApp, data, eventually};

/// Two fabrics on one database; each hears by one of these ways.
async fn two(redis: Option<&Redis>) -> (TestApp, TestApp) {
    let url = redis.map(Redis::url);
    let settings: Vec<(&str, &str)> = url.iter().map(|url| ("REDIS_URL", url.as_str())).collect();
    let one = TestApp::with(&settings).await;
    let two = TestApp::beside_with(&one, &settings).await;
    (one, two)
}

/// By which way a fabric hears of events now.
async fn way(app: &TestApp) -> String {
    let metrics = app.op_get("/metrics").await.text();
    let line = metrics.lines().find(|line| line.starts_with("fabric_event_way{") && line.ends_with(" 1")).unwrap_or_default();
    line.split('"').nth(1).unwrap_or_default().to_owned()
}

async fn goes(app: &TestApp, wanted: &str) {
    eventually(20, &format!("it hears by {wanted}"), || async { (way(app).await == wanted).then_some(()) }).await;
}

/// What one does reaches who follows the other, both ways.
async fn each_hears_the_other(one: &TestApp, two: &TestApp, version: &str) {
    for (from, to, name) in [(one, two, "a.x/one"), (two, one, "a.x/two")] {
        let followed = read(to, "/api/mcp/events?channels=catalog", None, 1);
        let change = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            from.import(&[data::entry(name, version)]).await;
        };
        let (followed, ()) = tokio::join!(followed, change);
        assert_eq!(followed[0].1["type"], "CATALOG_CHANGED");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_one_replica_reach_the_followers_of_another() {
    let (one, two) = two(None).await;
    assert_eq!((way(&one).await.as_str(), way(&two).await.as_str()), ("postgresql", "postgresql"));
    each_hears_the_other(&one, &two, "1.0.0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_reach_the_followers_of_another_by_redis() {
    let Some(redis) = Redis::start().await else { return };
    let (mut one, two) = self::two(Some(&redis)).await;
    goes(&one, "teller").await;
    goes(&two, "redis").await;
    each_hears_the_other(&one, &two, "1.0.0").await;
    // Whoever told has gone: the other one does.
    one.halt().await;
    goes(&two, "teller").await;
    let followed = read(&two, "/api/mcp/events?channels=catalog", None, 1);
    let change = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        two.import(&[data::entry("a.x/three", "1.0.0")]).await;
    };
    assert_eq!(tokio::join!(followed, change).0[0].1["type"], "CATALOG_CHANGED");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_goes_and_comes_back_with_nothing_missing_and_nothing_twice() {
    let Some(mut redis) = Redis::start().await else { return };
    let (one, two) = self::two(Some(&redis)).await;
    goes(&two, "redis").await;
    let (mut socket, connected) = Socket::with(&two, &two.token, "?channels=catalog").await;
    let before = connected["lastEventId"].as_i64().unwrap();
    let mut version = 0;
    let mut write = async || {
        for _ in 0..5 {
            version += 1;
            one.import(&[data::entry("a.x/one", &format!("1.0.{version}"))]).await;
        }
    };
    write().await;
    redis.go();
    write().await;
    goes(&two, "postgresql").await;
    write().await;
    redis.come_back().await;
    write().await;
    goes(&two, "redis").await;
    write().await;
    let mut heard = Vec::new();
    for _ in 0..25 {
        heard.push(socket.next().await["id"].as_i64().unwrap());
    }
    let kept: Vec<i64> = sqlx::query_scalar("SELECT id FROM mcp_fabric.events WHERE channel = 'catalog' AND id > $1 ORDER BY id")
        .bind(before)
        .fetch_all(&mut one.database.connect().await)
        .await
        .unwrap();
    assert_eq!(heard, kept, "in order, each once");
    assert_eq!(heard.iter().collect::<BTreeSet<_>>().len(), 25);
    socket.say(&json!({ "type": "ping" })).await;
    assert_eq!(socket.next().await["type"], "PONG");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_not_there_stops_nothing() {
    // Nobody listens at this port.
    let app = TestApp::with(&[("REDIS_URL", "redis://:s3cret-word@127.0.0.1:1/0")]).await;
    assert_eq!(way(&app).await, "teller");
    let other = TestApp::beside_with(&app, &[("REDIS_URL", "redis://:s3cret-word@127.0.0.1:1/0")]).await;
    goes(&other, "postgresql").await;
    each_hears_the_other(&app, &other, "1.0.0").await;
    let refused = TestApp::refused(&app.database, &[("REDIS_URL", "memcached://s3cret-word")]).await.to_string();
    assert!(refused.contains("REDIS_URL must be") && !refused.contains("s3cret"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn states_are_kept_for_other_replicas_and_never_old() {
    let Some(mut redis) = Redis::start().await else { return };
    let (one, two) = self::two(Some(&redis)).await;
    goes(&two, "redis").await;
    let states = async |app: &TestApp| app.op_get("/api/mcp/states").await.expect(200);
    assert_eq!(states(&one).await["source"], "postgresql");
    eventually(5, "it is kept", || async { (states(&two).await["source"] == "redis").then_some(()) }).await;
    // A server that is wanted fails, since nothing of it can be had; whoever hears of each step reads no older one.
    two.import(&[data::entry("a.x/one", "1.0.0")]).await;
    let (mut socket, _) = Socket::with(&one, &one.token, "?channels=servers").await;
    two.op_post_json("/api/mcp/users/me/servers", &json!({ "server_id": "a.x/one", "enabled": true })).await.expect(201);
    let mut steps = 0;
    loop {
        let event = socket.of_type("SERVER_STATE_CHANGED").await;
        steps += 1;
        let order = |state: &serde_json::Value| ["PENDING", "CREATING", "STARTING", "FAILED"].iter().position(|known| state == known);
        let (told, seen) = (order(&event["payload"]["newState"]), states(&one).await);
        assert!(told.is_some() && order(&seen["servers"]["a.x/one"]["state"]) >= told, "{seen} after {event}");
        if event["payload"]["newState"] == "FAILED" {
            break;
        }
    }
    assert!(steps >= 2);
    redis.go();
    let seen = states(&two).await;
    assert_eq!((&seen["source"], &seen["servers"]["a.x/one"]["state"]), (&json!("postgresql"), &json!("FAILED")));
}
