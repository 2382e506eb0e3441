//! Starting a process until it answers, and what keeps an eye on it from then on.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use platform::{clock, database::DbError};

use crate::{
    launch::Launch,
    model::{Instance, Keeper, Kept, Reason},
    process::{self, Members, Pipes, Process},
    service::Inner,
    session::Session,
    store,
    supervisor::Live,
    wire::{CallError, Wire},
};

/// How often the watchdog looks at what the kernel does not keep.
const LOOK: Duration = Duration::from_secs(1);
const LOOK_AT_DISK: Duration = Duration::from_secs(5);

/// A server that answers.
pub(crate) struct Running {
    pub(crate) process: Process,
    pub(crate) session: Arc<Session>,
    pub(crate) since: Instant,
}

/// Starts the process of a launch and greets it. Whoever forgets this ends the process.
pub(crate) async fn boot(inner: &Arc<Inner>, instance: &mut Instance, live: &Arc<Live>, launch: &Launch) -> Result<Running, Reason> {
    let since = clock::now();
    let failed = Reason::new;
    let (process, pipes) =
        inner.starter.start(launch.order(instance.id)).map_err(|error| failed("not_started", format!("it cannot be started: {error}")))?;
    instance.pid = i32::try_from(process.pid).ok();
    instance.next_try_at = None;
    let Pipes { input, output, errors } = pipes;
    inner.shutdown.spawn(process::drain(errors, Arc::clone(&live.log)));
    let wire = Wire::open(input, output, Arc::clone(&live.log));
    let mut starting = Starting { process: Some(process) };
    note_pid(inner, instance).await;
    let known = store::era(inner.database.system(), &instance.server_id, &launch.version).await.ok().flatten();
    let greeted = tokio::select! {
        greeted = Session::open(wire, known, inner.config.start_limit) => greeted,
        status = starting.ended() => {
            // What it said last comes through another pipe.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let text = status.map_or_else(|error| error.to_string(), process::describe);
            return Err(failed("start_failed", with_last_words(text, live, since)));
        }
    };
    let session = match greeted {
        Ok(session) => session,
        Err(error) => {
            if known.is_some() {
                // It may be another program by now: the next start asks anew.
                store::learn(inner.database.system(), &instance.server_id, &launch.version, None, clock::now()).await.ok();
            }
            let status = starting.kill().await;
            let code = if matches!(error, CallError::Timeout(_)) { "start_timeout" } else { "start_failed" };
            let text = status.filter(|_| matches!(error, CallError::Closed)).unwrap_or_else(|| error.to_string());
            return Err(failed(code, with_last_words(text, live, since)));
        }
    };
    let tools = match session.tools(inner.config.start_limit).await {
        Ok(tools) => tools,
        Err(error) => {
            starting.kill().await;
            return Err(failed("start_failed", with_last_words(format!("it does not list its tools: {error}"), live, since)));
        }
    };
    if known != Some(session.era) {
        let learned = store::learn(inner.database.system(), &instance.server_id, &launch.version, Some(session.era), clock::now()).await;
        if let Err(error) = learned {
            tracing::debug!(%error, "how a server speaks could not be kept");
        }
    }
    instance.era = Some(session.era);
    instance.tools = i32::try_from(tools.len()).ok();
    let process = starting.process.take().ok_or_else(|| failed("not_started", "its process is gone".to_owned()))?;
    Ok(Running { process, session: Arc::new(session), since: Instant::now() })
}

async fn note_pid(inner: &Inner, instance: &Instance) {
    let noted = async {
        let mut transaction = inner.database.begin_for_all().await?;
        store::note_pid(&mut transaction, instance).await?;
        transaction.commit().await?;
        Ok::<_, DbError>(())
    };
    if let Err(error) = noted.await {
        tracing::debug!(%error, "the process of a start could not be stored");
    }
}

fn with_last_words(text: String, live: &Live, since: chrono::DateTime<chrono::Utc>) -> String {
    let said = live.log.last_words(since);
    if said.is_empty() { text } else { format!("{text}; it said: {said}") }
}

/// A process that does not answer yet: whoever forgets it ends it with all that it started.
struct Starting {
    process: Option<Process>,
}

impl Starting {
    async fn ended(&mut self) -> std::io::Result<std::process::ExitStatus> {
        match &mut self.process {
            Some(process) => process.ended().await,
            None => std::future::pending().await,
        }
    }

    /// Ends it; tells how it had ended by itself, if it had.
    async fn kill(&mut self) -> Option<String> {
        let mut process = self.process.take()?;
        let status = tokio::time::timeout(Duration::from_millis(100), process.ended()).await.ok()?.ok().map(process::describe);
        process.kill().await.ok();
        status
    }
}

impl Drop for Starting {
    #[expect(clippy::disallowed_methods, reason = "ends with the process")]
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            tokio::spawn(async move { process.kill().await.ok() });
        }
    }
}

/// Returns when an instance uses more than it may of what the kernel does not keep.
pub(crate) async fn watchdog(inner: &Inner, members: Members, work: PathBuf, limits: Option<Kept>) -> Reason {
    let mut disk_at = Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(limits) = limits else { continue };
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
            let used = tokio::task::spawn_blocking(move || process::disk_usage(&work)).await.unwrap_or_default();
            if used > most {
                return Reason::new("disk_quota", format!("it keeps {} MiB in its folder and may keep {}", used >> 20, most >> 20));
            }
        }
    }
}
