//! Stopping: one token for the whole program, and the tasks that must end before it does.

use std::{future::Future, time::Duration};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Handed to everything that runs in the background.
#[derive(Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// Runs `task` in the background; the program waits for it when it stops.
    #[expect(clippy::disallowed_methods, reason = "this is the door")]
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.tasks.track_future(task));
    }

    /// Asks everything to stop.
    pub fn begin(&self) {
        self.token.cancel();
    }

    /// Whether stopping has begun.
    pub fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Returns once stopping has begun.
    pub async fn begun(&self) {
        self.token.cancelled().await;
    }

    /// A token that is cancelled with the program, for one piece of work that can also be cancelled alone.
    pub fn child(&self) -> CancellationToken {
        self.token.child_token()
    }

    /// Waits until all background tasks have ended; false when `limit` passed first.
    pub async fn finish(&self, limit: Duration) -> bool {
        self.begin();
        self.tasks.close();
        tokio::time::timeout(limit, self.tasks.wait()).await.is_ok()
    }
}

/// The operating system's wishes that the program ends. From when this is made, they are noted and do not
/// kill it.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Begins to note SIGTERM and SIGINT.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Returns when one has come; tells its name.
    pub async fn received(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
