//! What an instance and the rest of the program tell each other while it is there.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use configurations::Configuration;
use platform::clock;
use tokio::sync::{mpsc, watch};

use crate::{body::Watch, exchange::Heard, log::Log, model::State, session::Session};

/// What is wanted of an instance.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) runs: bool,
    /// This instance is not to run any more, whatever is wanted of its configuration.
    pub(crate) has_ended: bool,
    pub(crate) configuration: Arc<Configuration>,
    /// Counts wishes for a restart.
    pub(crate) restart: u64,
    /// Counts versions of what is installed.
    pub(crate) installed: Option<String>,
}

impl Wanted {
    /// It is not to run any more.
    pub(crate) fn end(&mut self) {
        self.runs = false;
        self.has_ended = true;
    }
}

/// What others see of an instance that this process runs.
pub(crate) struct Live {
    pub(crate) session: watch::Sender<Option<Arc<Session>>>,
    pub(crate) state: watch::Sender<State>,
    pub(crate) log: Arc<Log>,
    watch: Mutex<Option<Watch>>,
    /// Milliseconds since the epoch.
    used: AtomicI64,
    /// The tree that it runs from.
    pub(crate) tree: Mutex<Option<String>>,
    /// Where its wires leave what belongs to nobody's request, and who reads that.
    pub(crate) outside: mpsc::Sender<Heard>,
    unheard: Mutex<Option<mpsc::Receiver<Heard>>>,
}

/// How much of what a server says unasked waits for its reader.
const UNHEARD: usize = 256;

impl Live {
    pub(crate) fn new(log: Arc<Log>) -> Self {
        let used = AtomicI64::new(clock::now().timestamp_millis());
        let (outside, unheard) = mpsc::channel(UNHEARD);
        Self {
            session: watch::Sender::new(None),
            state: watch::Sender::new(State::Pending),
            log,
            watch: Mutex::default(),
            used,
            tree: Mutex::default(),
            outside,
            unheard: Mutex::new(Some(unheard)),
        }
    }

    /// What the server says unasked, for the one who reads it first.
    pub(crate) fn outside(&self) -> Option<mpsc::Receiver<Heard>> {
        self.unheard.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Somebody calls it.
    pub(crate) fn touch(&self) {
        self.used.store(clock::now().timestamp_millis(), Ordering::Relaxed);
    }

    pub(crate) fn idle_for(&self) -> Duration {
        let millis = clock::now().timestamp_millis() - self.used.load(Ordering::Relaxed);
        Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }

    pub(crate) fn watch(&self) -> Option<Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, session: Option<Arc<Session>>, watch: Option<Watch>) {
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = watch;
        self.session.send_replace(session);
    }
}
