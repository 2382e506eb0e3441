//! Is it alive, and can it serve?

use std::path::PathBuf;

use axum::{extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use platform::{Database, http::Json};
use serde::Serialize;
use sync::Sync;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// With less room than this the database may stop at any write.
const LEAST_FREE_BYTES: u64 = 64 << 20;

/// What is looked at.
#[derive(Clone)]
pub(crate) struct Health {
    database: Database,
    sync: Sync,
    /// Folders whose disks must not fill up.
    disks: Vec<PathBuf>,
}

impl Health {
    pub(crate) fn new(database: Database, sync: Sync, disks: Vec<PathBuf>) -> Self {
        Self { database, sync, disks }
    }

    /// `/health/live` and `/health/ready`.
    pub(crate) fn router(self) -> OpenApiRouter {
        OpenApiRouter::new().routes(routes!(live)).routes(routes!(ready)).with_state(self)
    }
}

/// How one thing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Level {
    /// As it should be.
    Ok,
    /// Serving, but somebody should look.
    Warn,
    /// Not able to serve.
    Fail,
}

#[derive(Serialize, ToSchema)]
struct Live {
    status: Level,
}

#[derive(Serialize, ToSchema)]
struct Ready {
    status: Level,
    database: Level,
    disk: Level,
    upstream: UpstreamAge,
}

#[derive(Serialize, ToSchema)]
struct UpstreamAge {
    status: Level,
    /// When the last successful run began.
    last_success_at: Option<DateTime<Utc>>,
    /// Requests that failed in a row.
    failures: u32,
}

/// Whether the process answers.
#[utoipa::path(get, path = "/health/live", tag = "system", responses((status = 200, description = "It does", body = Live)))]
async fn live() -> Json<Live> {
    Json(Live { status: Level::Ok })
}

/// Whether it can serve: database and disk; an old mirror is a warning.
#[utoipa::path(get, path = "/health/ready", tag = "system",
    responses((status = 200, description = "It can", body = Ready), (status = 503, description = "It cannot", body = Ready)))]
async fn ready(State(health): State<Health>) -> (StatusCode, Json<Ready>) {
    let database = if health.database.ping().await.is_ok() { Level::Ok } else { Level::Fail };
    let has_room =
        |folder: &PathBuf| rustix::fs::statvfs(folder).is_ok_and(|room| room.f_bavail.saturating_mul(room.f_frsize) >= LEAST_FREE_BYTES);
    let disk = if health.disks.iter().all(has_room) { Level::Ok } else { Level::Fail };
    let upstream = match health.sync.freshness().await {
        Ok(fresh) => {
            let status = if fresh.is_stale || fresh.failures > 0 { Level::Warn } else { Level::Ok };
            UpstreamAge { status, last_success_at: fresh.last_success, failures: fresh.failures }
        }
        Err(_) => UpstreamAge { status: Level::Warn, last_success_at: None, failures: 0 },
    };
    let status = database.max(disk).max(upstream.status);
    let code = if status == Level::Fail { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (code, Json(Ready { status, database, disk, upstream }))
}
