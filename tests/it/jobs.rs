//! Durable jobs: driven through the service with handlers of the test's own, and over HTTP.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use events::Events;
use jobs::{
    Context, Ended, Failure, Handler, Handlers, Job, JobStatus, Jobs, JobsError, LogLevel, NewJob, Outcome, Policy, Progress, Retry,
};
use platform::{
    Config, Database, Shutdown,
    config::Source,
    database::{DbError, Owner},
    telemetry::Metrics,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::support::{
    TestApp,
    cluster::{self, TestDatabase},
    eventually, operator,
};

/// What a test job does.
#[derive(Serialize, Deserialize, Clone)]
enum Script {
    Succeed,
    /// Fails so often, then succeeds.
    Fail(u32),
    FailForGood,
    Panic,
    /// Waits until it is asked to stop.
    Wait,
    /// Ignores that it is asked to stop, for so many milliseconds.
    Sleep(u64),
    NeedInput,
    /// Three steps; the process is lost after the second.
    Steps,
}

struct Scripted {
    runs: Arc<AtomicU32>,
    effects: Arc<AtomicU32>,
    most_at_once: Arc<AtomicU32>,
    at_once: Arc<AtomicU32>,
    ends: Arc<Mutex<Vec<JobStatus>>>,
    limit: i32,
}

impl Handler for Scripted {
    const KIND: &'static str = "scripted";
    type Payload = Script;

    fn policy(&self) -> Policy {
        Policy { max_attempts: 3, backoff: Duration::from_millis(10), limit: self.limit, ..Policy::default() }
    }

    async fn run(&self, context: Context, script: Script) -> Result<Outcome, Failure> {
        let run = self.runs.fetch_add(1, Ordering::SeqCst);
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        let ended = self.act(&context, script, run).await;
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        ended
    }

    async fn ended(&self, _: &mut sqlx::PgConnection, _: Script, ended: &Ended) -> Result<(), DbError> {
        self.ends.lock().unwrap().push(ended.status);
        Ok(())
    }
}

impl Scripted {
    async fn act(&self, context: &Context, script: Script, run: u32) -> Result<Outcome, Failure> {
        let failure = |retry| Failure { code: "scripted", message: "as the script says".into(), retry };
        match script {
            Script::Succeed => {
                context.log(LogLevel::Info, "hello").await;
                context.progress(Progress { done: 1, total: Some(2), unit: "things".into(), message: "half".into() });
                Ok(Outcome::Complete(json!({ "answer": 42 })))
            }
            Script::Fail(times) if run < times => Err(failure(Retry::Backoff)),
            Script::Fail(_) => Ok(Outcome::Complete(json!(run))),
            Script::FailForGood => Err(failure(Retry::Never)),
            Script::Panic => panic!("as the script says"),
            Script::Wait => {
                context.stopping().await;
                Ok(Outcome::Stopped)
            }
            Script::Sleep(milliseconds) => {
                tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                Ok(Outcome::Complete(json!({ "token": context.job_id(), "ended": platform::clock::now() })))
            }
            Script::NeedInput => Ok(Outcome::NeedsInput(json!({ "question": "which?" }))),
            Script::Steps => {
                let mut given = Vec::new();
                for step in ["first", "second", "third"] {
                    let effect = async { Ok(self.effects.fetch_add(1, Ordering::SeqCst)) };
                    given.push(context.step(step, effect).await?);
                    if step == "second" && run == 0 {
                        return Err(failure(Retry::Backoff));
                    }
                }
                Ok(Outcome::Complete(json!(given)))
            }
        }
    }
}

/// A worker process: its services on a database.
struct Node {
    jobs: Jobs,
    events: Events,
    shutdown: Shutdown,
    runs: Arc<AtomicU32>,
    effects: Arc<AtomicU32>,
    most_at_once: Arc<AtomicU32>,
    at_once: Arc<AtomicU32>,
    ends: Arc<Mutex<Vec<JobStatus>>>,
    database: Database,
    _folder: tempfile::TempDir,
}

impl Node {
    async fn start(database: &TestDatabase, name: &str, limit: i32, lease_seconds: &str) -> Self {
        Self::counting(database, name, limit, lease_seconds, Arc::default(), Arc::default()).await
    }

    /// A second process whose running jobs are counted with those of this one.
    async fn beside(&self, database: &TestDatabase, name: &str, limit: i32) -> Self {
        Self::counting(database, name, limit, "30", self.at_once.clone(), self.most_at_once.clone()).await
    }

    async fn counting(
        database: &TestDatabase,
        name: &str,
        limit: i32,
        lease_seconds: &str,
        at_once: Arc<AtomicU32>,
        most_at_once: Arc<AtomicU32>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        cluster::share_roles(folder.path()).await;
        let mut layers = platform::config::Layers::defaults().unwrap();
        for (key, value) in
            [("FABRIC_DATA_DIR", folder.path().to_str().unwrap()), ("FABRIC_JOB_LEASE_SECONDS", lease_seconds), ("FABRIC_JOB_WORKERS", "8")]
        {
            layers.set(key, value, Source::Flag);
        }
        let config = Config::from_layers(&layers).unwrap();
        let database = Database::open(&Owner::from_url(&database.url().into()).unwrap(), &config).await.unwrap();
        let shutdown = Shutdown::default();
        let events =
            Events::start(&config, database.clone(), None, mcp_fabric::kinds::KINDS, &Metrics::default(), &shutdown).await.unwrap();
        let keys = audit::AuditKeys::derive(&platform::keys::SecretKey::generate());
        let audit = audit::Audit::start(&config, database.clone(), events.clone(), keys, &Metrics::default(), &shutdown).unwrap();
        let jobs = Jobs::new(database.clone(), events.clone(), audit);
        let [runs, effects] = std::array::from_fn(|_| Arc::<AtomicU32>::default());
        let ends = Arc::default();
        let handler = Scripted {
            runs: Arc::clone(&runs),
            effects: Arc::clone(&effects),
            most_at_once: Arc::clone(&most_at_once),
            at_once: Arc::clone(&at_once),
            ends: Arc::clone(&ends),
            limit,
        };
        jobs.start(&config, name.to_owned(), Handlers::default().with(handler), &Metrics::default(), &shutdown);
        Self { jobs, events, shutdown, runs, effects, most_at_once, at_once, ends, database, _folder: folder }
    }

    async fn ask(&self, script: Script) -> jobs::JobId {
        self.jobs.enqueue(&operator(), NewJob::of::<Scripted>(&script)).await.unwrap()
    }

    async fn get(&self, id: jobs::JobId) -> Job {
        self.jobs.get(&operator(), id).await.unwrap().0
    }

    async fn until(&self, id: jobs::JobId, status: JobStatus) -> Job {
        eventually(20, &format!("the job is {status}"), || async {
            let job = self.get(id).await;
            (job.status == status).then_some(job)
        })
        .await
    }

    fn ends(&self) -> Vec<JobStatus> {
        self.ends.lock().unwrap().clone()
    }

    async fn stop(self) {
        assert!(self.shutdown.finish(Duration::from_secs(5)).await);
        self.database.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_done_once_with_log_progress_result_and_events() {
    let database = cluster::database().await;
    let node = Node::start(&database, "one", 8, "30").await;
    let mut heard = node.events.subscribe();
    let id = node.ask(Script::Succeed).await;
    let job = node.until(id, JobStatus::Complete).await;
    assert_eq!((job.result, job.error, job.attempt), (Some(json!({ "answer": 42 })), None, 1));
    assert_eq!(job.progress.unwrap().message, "half");
    let (_, log) = node.jobs.get(&operator(), id).await.unwrap();
    assert_eq!(log[0].message, "hello");
    let mut told = Vec::new();
    while told.last().map(String::as_str) != Some("complete") {
        let event = tokio::time::timeout(Duration::from_secs(5), heard.recv()).await.unwrap().unwrap();
        if event.kind == "JOB_STATUS_CHANGED" {
            told.push(event.payload["status"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(told, ["pending", "processing", "complete"]);
    assert_eq!(node.runs.load(Ordering::SeqCst), 1);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_retried_with_a_limit_and_a_code() {
    let database = cluster::database().await;
    let node = Node::start(&database, "one", 8, "30").await;
    let id = node.ask(Script::Fail(2)).await;
    assert_eq!(node.until(id, JobStatus::Complete).await.attempt, 3);
    assert_eq!(node.ends(), [JobStatus::Pending, JobStatus::Pending, JobStatus::Complete], "its feature hears of each end");
    for (script, code, attempts) in
        [(Script::Fail(99), "scripted", 3), (Script::FailForGood, "scripted", 1), (Script::Panic, "internal", 1)]
    {
        let id = node.ask(script).await;
        let job = node.until(id, JobStatus::Failed).await;
        assert_eq!((job.error.unwrap()["code"].as_str().unwrap(), job.attempt), (code, attempts));
    }
    let id = node.ask(Script::NeedInput).await;
    assert_eq!(node.until(id, JobStatus::NeedsInput).await.result, Some(json!({ "question": "which?" })));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_steps_are_not_done_again() {
    let database = cluster::database().await;
    let node = Node::start(&database, "one", 8, "30").await;
    let id = node.ask(Script::Steps).await;
    assert_eq!(node.until(id, JobStatus::Complete).await.result, Some(json!([0, 1, 2])));
    assert_eq!((node.runs.load(Ordering::SeqCst), node.effects.load(Ordering::SeqCst)), (2, 3));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_and_running_jobs_can_be_cancelled_and_tried_again() {
    let database = cluster::database().await;
    let node = Node::start(&database, "one", 1, "30").await;
    let (running, waiting) = (node.ask(Script::Wait).await, node.ask(Script::Succeed).await);
    node.until(running, JobStatus::Processing).await;
    assert_eq!(node.jobs.cancel(&operator(), waiting).await.unwrap().0.status, JobStatus::Cancelled);
    assert_eq!(node.ends(), [JobStatus::Cancelled], "also of a job that never began");
    node.jobs.cancel(&operator(), running).await.unwrap();
    node.until(running, JobStatus::Cancelled).await;
    assert!(matches!(node.jobs.cancel(&operator(), running).await, Err(JobsError::Finished(JobStatus::Cancelled))));
    node.jobs.retry(&operator(), waiting).await.unwrap();
    node.until(waiting, JobStatus::Complete).await;
    assert!(matches!(node.jobs.retry(&operator(), waiting).await, Err(JobsError::NotRetryable(JobStatus::Complete))));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_over_all_replicas_and_each_job_runs_once() {
    let database = cluster::database().await;
    let one = Node::start(&database, "one", 2, "30").await;
    let two = one.beside(&database, "two", 2).await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(one.ask(Script::Sleep(20)).await);
    }
    for id in ids {
        one.until(id, JobStatus::Complete).await;
    }
    assert_eq!(one.runs.load(Ordering::SeqCst) + two.runs.load(Ordering::SeqCst), 20);
    assert_eq!(one.most_at_once.load(Ordering::SeqCst), 2);
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn higher_priorities_go_first() {
    let database = cluster::database().await;
    let node = Node::start(&database, "one", 1, "30").await;
    let blocker = node.ask(Script::Wait).await;
    node.until(blocker, JobStatus::Processing).await;
    let mut ids = Vec::new();
    for priority in [0, 5, -5] {
        let job = NewJob::of::<Scripted>(&Script::Succeed).priority(priority);
        ids.push(node.jobs.enqueue(&operator(), job).await.unwrap());
    }
    node.jobs.cancel(&operator(), blocker).await.unwrap();
    let mut ended = Vec::new();
    for id in &ids {
        ended.push(node.until(*id, JobStatus::Complete).await.completed_at.unwrap());
    }
    assert!(ended[1] < ended[0] && ended[0] < ended[2], "{ended:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_set_back_holds_up_no_job() {
    let database = cluster::database().await;
    let node = Node::start(&database, "one", 1, "30").await;
    let blocker = node.ask(Script::Wait).await;
    node.until(blocker, JobStatus::Processing).await;
    let id = node.ask(Script::Succeed).await;
    // As if it had been put in an hour from now, before the clock was set back.
    sqlx::query(
        "UPDATE mcp_fabric.jobs SET created_at = created_at + interval '1 hour', run_at = run_at + interval '1 hour' WHERE id = $1",
    )
    .bind(id.0)
    .execute(&mut database.connect().await)
    .await
    .unwrap();
    node.jobs.cancel(&operator(), blocker).await.unwrap();
    node.until(id, JobStatus::Complete).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_workers_job_goes_to_another_and_the_lost_one_writes_nothing_more() {
    let database = cluster::database().await;
    let lost = Node::start(&database, "lost", 8, "1").await;
    let id = lost.ask(Script::Sleep(4000)).await;
    lost.until(id, JobStatus::Processing).await;
    // The worker still works, but its lease is taken from it, as when a machine sleeps.
    sqlx::query("UPDATE mcp_fabric.jobs SET leased_until = now() - interval '1 minute', lease_token = gen_random_uuid()")
        .execute(&mut database.connect().await)
        .await
        .unwrap();
    let other = Node::start(&database, "other", 8, "1").await;
    let job = other.until(id, JobStatus::Complete).await;
    assert_eq!((job.attempt, lost.runs.load(Ordering::SeqCst) + other.runs.load(Ordering::SeqCst)), (2, 2));
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(other.get(id).await.result, job.result, "what the superseded run says is not kept");
    other.stop().await;
    lost.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_gives_jobs_back_and_the_next_start_takes_them_up_at_once() {
    let database = cluster::database().await;
    let node = Node::start(&database, "same", 8, "30").await;
    let id = node.ask(Script::Wait).await;
    node.until(id, JobStatus::Processing).await;
    node.stop().await;
    let mut connection = database.connect().await;
    let (status, attempt): (String, i32) =
        sqlx::query_as("SELECT status, attempt FROM mcp_fabric.jobs").fetch_one(&mut connection).await.unwrap();
    assert_eq!((status.as_str(), attempt), ("pending", 0));
    // A crash leaves the row as it was while the job ran.
    sqlx::query("UPDATE mcp_fabric.jobs SET status = 'processing', lease_owner = 'same', lease_token = gen_random_uuid(), leased_until = now() + interval '1 hour'").execute(&mut connection).await.unwrap();
    let again = Node::start(&database, "same", 8, "30").await;
    eventually(5, "it runs again", || async { (again.runs.load(Ordering::SeqCst) == 1).then_some(()) }).await;
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_takes_its_process_down_each_time_is_given_up() {
    let database = cluster::database().await;
    let id = {
        let node = Node::start(&database, "same", 8, "30").await;
        let id = node.ask(Script::Wait).await;
        node.until(id, JobStatus::Processing).await;
        node.stop().await;
        id
    };
    sqlx::query("UPDATE mcp_fabric.jobs SET status = 'processing', attempt = 25, lease_owner = 'same', lease_token = gen_random_uuid(), leased_until = now()")
        .execute(&mut database.connect().await)
        .await
        .unwrap();
    let node = Node::start(&database, "same", 8, "30").await;
    assert_eq!(node.until(id, JobStatus::Failed).await.error.unwrap()["code"], "worker_lost");
    assert_eq!(node.ends(), [JobStatus::Failed]);
    let told: Vec<String> =
        sqlx::query_scalar("SELECT payload->>'status' FROM mcp_fabric.events WHERE type = 'JOB_STATUS_CHANGED' ORDER BY id")
            .fetch_all(&mut database.connect().await)
            .await
            .unwrap();
    assert_eq!(told.last().unwrap(), "failed");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_singleton_waits_or_runs_once() {
    let database = cluster::database().await;
    let node = Node::start(&database, "one", 8, "30").await;
    let job = || NewJob::of::<Scripted>(&Script::Wait).singleton("only");
    let first = node.jobs.enqueue(&operator(), job()).await.unwrap();
    assert!(matches!(node.jobs.enqueue(&operator(), job()).await, Err(JobsError::AlreadyRunning(Some(id))) if id == first));
    node.jobs.cancel(&operator(), first).await.unwrap();
    node.until(first, JobStatus::Cancelled).await;
    let second = node.jobs.enqueue(&operator(), job()).await.unwrap();
    assert!(matches!(node.jobs.retry(&operator(), first).await, Err(JobsError::AlreadyRunning(Some(id))) if id == second));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_over_http() {
    let app = TestApp::start().await;
    for path in ["/api/mcp/jobs", "/api/mcp/jobs/x", "/api/mcp/events", "/api/mcp/sync/history"] {
        app.get(path).await.expect_problem(401, "unauthenticated");
    }
    assert_eq!(app.op_get("/api/mcp/jobs").await.expect(200), json!({ "jobs": [], "next_cursor": null }));
    for id in ["x", "00000000-0000-0000-0000-000000000000"] {
        app.op_get(&format!("/api/mcp/jobs/{id}")).await.expect_problem(404, "job_not_found");
        app.op_post(&format!("/api/mcp/jobs/{id}/cancel")).await.expect_problem(404, "job_not_found");
    }
    app.op_get("/api/mcp/jobs?status=done").await.expect_problem(400, "invalid_status");
    let run = app.op_post("/api/mcp/sync/trigger").await.expect(202);
    let id = run["job_id"].as_str().unwrap();
    let job = app.op_get(&format!("/api/mcp/jobs/{id}")).await.expect(200);
    let mut keys: Vec<&str> = job.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let expected = [
        "attempt",
        "cancel_requested",
        "completed_at",
        "created_at",
        "created_by",
        "error",
        "job_id",
        "kind",
        "log",
        "priority",
        "progress",
        "result",
        "started_at",
        "status",
    ];
    assert_eq!(keys, expected);
    assert_eq!((&job["kind"], &job["created_by"]), (&json!("sync"), &json!("operator")));
    let list = app.op_get("/api/mcp/jobs?kind=sync&limit=1").await.expect(200);
    assert_eq!(list["jobs"][0]["job_id"], job["job_id"]);
    app.op_post(&format!("/api/mcp/jobs/{id}/cancel")).await.expect(200);
    app.job(id).await;
    app.op_post(&format!("/api/mcp/jobs/{id}/cancel")).await.expect_problem(409, "job_finished");
}
