//! Starting a process until it answers, and what keeps an eye on it from then on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use platform::{clock, database::DbError, files};

use crate::{
    body::{Body, Ended, Watch},
    launch::{AUTHORIZATION_NEEDED, Launch},
    live::Live,
    model::{Era, Instance, Keeper, Kept, Reason},
    service::Inner,
    session::Session,
    store,
    wire::CallError,
};

/// How often the watchdog looks at what the kernel does not keep.
const LOOK: Duration = Duration::from_secs(1);
const LOOK_AT_DISK: Duration = Duration::from_secs(5);

/// A server that answers.
pub(crate) struct Running {
    pub(crate) body: Body,
    pub(crate) session: Arc<Session>,
    pub(crate) since: Instant,
}

/// Starts the process of a launch and greets it. Where this is forgotten or fails, `starting` has what is there.
pub(crate) async fn boot(
    inner: &Arc<Inner>,
    instance: &mut Instance,
    live: &Arc<Live>,
    launch: &Launch,
    starting: &mut Starting,
) -> Result<Running, Reason> {
    let since = clock::now();
    let failed = Reason::new;
    let (body, wire) = launch.start(inner, instance, live).await?;
    instance.pid = body.pid();
    instance.container = body.container();
    instance.next_try_at = None;
    let was_running = matches!(&body, Body::Container(container) if container.was_running);
    starting.body = Some(body);
    let learned = note_start(inner, instance).await;
    let fixed = instance.fixed_era();
    let known = fixed.or(learned);
    let greet = async {
        match known.filter(|_| was_running) {
            Some(era) => Session::resume(wire, era).await,
            None => Session::open(wire, known, launch.asks, inner.config.start_limit).await,
        }
    };
    let greeted = tokio::select! {
        greeted = greet => greeted,
        ended = starting.ended() => {
            // What it said last comes through another pipe.
            tokio::time::sleep(Duration::from_millis(50)).await;
            return Err(ended_early(ended.reason, live, since));
        }
    };
    let session = match greeted {
        Ok(session) => session,
        Err(error) => {
            if known.is_some() && fixed.is_none() {
                // It may be another program by now: the next start asks anew.
                store::learn(inner.database.system(), &instance.server_id, &launch.version, None, clock::now()).await.ok();
            }
            let ended = starting.kill().await;
            if let Some(reason) = ended.filter(|_| matches!(error, CallError::Closed)) {
                return Err(ended_early(reason, live, since));
            }
            let code = if matches!(error, CallError::Timeout(_)) { "start_timeout" } else { "start_failed" };
            return Err(failed(code, with_last_words(error.to_string(), live, since)));
        }
    };
    let tools = match session.tools(inner.config.start_limit).await {
        Ok(tools) => tools,
        Err(error) => {
            starting.kill().await;
            return Err(failed("start_failed", with_last_words(format!("it does not list its tools: {error}"), live, since)));
        }
    };
    if fixed.is_none() && known != Some(session.era) {
        let learned = store::learn(inner.database.system(), &instance.server_id, &launch.version, Some(session.era), clock::now()).await;
        if let Err(error) = learned {
            tracing::debug!(%error, "how a server speaks could not be kept");
        }
    }
    instance.era = Some(session.era);
    instance.tools = i32::try_from(tools.len()).ok();
    let body = starting.body.take().ok_or_else(|| failed("not_started", "its process is gone".to_owned()))?;
    Ok(Running { body, session: Arc::new(session), since: Instant::now() })
}

/// Stores the process of a start; gives how this version of the server speaks, where that was learned.
async fn note_start(inner: &Inner, instance: &Instance) -> Option<Era> {
    let noted = async {
        let mut connection = inner.database.for_all().await?;
        store::note_start(&mut connection, instance).await
    };
    noted.await.unwrap_or_else(|error: DbError| {
        tracing::debug!(%error, "the process of a start could not be stored");
        None
    })
}

/// It ended before it answered.
fn ended_early(reason: Reason, live: &Live, since: chrono::DateTime<chrono::Utc>) -> Reason {
    let is_telling = reason.is_passing || reason.code == AUTHORIZATION_NEEDED;
    let code = if is_telling { reason.code } else { "start_failed".into() };
    Reason { code, text: with_last_words(reason.text, live, since), ..reason }
}

fn with_last_words(text: String, live: &Live, since: chrono::DateTime<chrono::Utc>) -> String {
    let said = live.log.last_words(since);
    if said.is_empty() { text } else { format!("{text}; it said: {said}") }
}

/// What does not answer yet: whoever forgets it ends it with all that it started.
#[derive(Default)]
pub(crate) struct Starting {
    body: Option<Body>,
}

impl Starting {
    async fn ended(&mut self) -> Ended {
        match &mut self.body {
            Some(body) => body.ended().await,
            None => std::future::pending().await,
        }
    }

    /// Ends it; tells why it had ended by itself, if it had.
    pub(crate) async fn kill(&mut self) -> Option<Reason> {
        let mut body = self.body.take()?;
        let ended = tokio::time::timeout(Duration::from_millis(100), body.ended()).await.ok().map(|ended| ended.reason);
        body.kill().await.ok();
        ended
    }
}

impl Drop for Starting {
    #[expect(clippy::disallowed_methods, reason = "ends with what it ends")]
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            tokio::spawn(async move { body.kill().await.ok() });
        }
    }
}

/// Returns when an instance uses more than it may of what neither the kernel nor an engine keeps.
pub(crate) async fn watchdog(inner: &Inner, watch: Watch, limits: Option<Kept>) -> Reason {
    let (Watch::Process(members, work), Some(limits)) = (watch, limits) else { return std::future::pending().await };
    let mut disk_at = Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        if limits.limits == Keeper::BestEffort {
            let (members, most) = (members.clone(), limits.memory_bytes);
            let used = tokio::task::spawn_blocking(move || members.usage()).await.unwrap_or_default();
            if used.memory_bytes > most {
                return Reason::new(
                    "out_of_memory",
                    format!("it used {} MiB of memory and may use {}", used.memory_bytes >> 20, most >> 20),
                );
            }
        }
        if disk_at.elapsed() >= LOOK_AT_DISK {
            disk_at = Instant::now();
            let (work, most) = (work.clone(), inner.config.disk_bytes);
            let used = tokio::task::spawn_blocking(move || files::disk_usage(&work)).await.unwrap_or_default();
            if used > most {
                return Reason::new("disk_quota", format!("it keeps {} MiB in its folder and may keep {}", used >> 20, most >> 20));
            }
        }
    }
}
