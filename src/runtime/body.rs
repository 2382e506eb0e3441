//! What an instance consists of: a process of this machine, or a container.

use std::{path::PathBuf, time::Duration};

use sandbox::{Members, Usage};

use crate::{
    containers::{Container, Exit, Handle},
    model::Reason,
    process::OwnProcess,
    remote::Remote,
};

/// How long a server elsewhere has to hear that it is not needed any more.
const GOODBYE: Duration = Duration::from_millis(150);

/// A server that was started.
pub(crate) enum Body {
    Process(Box<OwnProcess>),
    Container(Container),
    Remote(Remote),
}

/// How it ended: why, and whether that counts as an error.
pub(crate) struct Ended {
    pub(crate) reason: Reason,
    pub(crate) is_error: bool,
}

/// What can be looked at from elsewhere.
#[derive(Clone)]
pub(crate) enum Watch {
    /// With the folder that it writes to.
    Process(Members, PathBuf),
    Container(Handle),
    /// What it uses is used elsewhere.
    Nothing,
}

fn out_of_memory() -> Ended {
    Ended { reason: Reason::new("out_of_memory", "it used more memory than it may, and was ended"), is_error: true }
}

impl Body {
    /// Returns when it has ended.
    pub(crate) async fn ended(&mut self) -> Ended {
        match self {
            Self::Process(own) => {
                let status = own.process.ended().await;
                if own.process.ran_out_of_memory() {
                    return out_of_memory();
                }
                match status {
                    Ok(status) if sandbox::wrote_too_much(status) => {
                        let text = "it wrote a file that is larger than it may write, and was ended";
                        Ended { reason: Reason::new("file_too_large", text), is_error: true }
                    }
                    Ok(status) => Ended { reason: Reason::new("exited", sandbox::describe(status)), is_error: !status.success() },
                    Err(error) => Ended { reason: Reason::new("exited", format!("it cannot be waited for: {error}")), is_error: true },
                }
            }
            Self::Container(container) => match container.ended().await {
                Exit::Code(_, true) => out_of_memory(),
                Exit::Code(code, false) => {
                    Ended { reason: Reason::new("exited", format!("it ended with exit code {code}")), is_error: code != 0 }
                }
                Exit::EngineGone(why) => Ended { reason: Reason::new("engine_gone", why), is_error: true },
            },
            Self::Remote(remote) => Ended { reason: remote.ended().await, is_error: true },
        }
    }

    pub(crate) fn watch(&self) -> Watch {
        match self {
            Self::Process(own) => Watch::Process(own.process.members(), own.work.clone()),
            Self::Container(container) => Watch::Container(container.handle()),
            Self::Remote(_) => Watch::Nothing,
        }
    }

    pub(crate) fn pid(&self) -> Option<i32> {
        match self {
            Self::Process(own) => i32::try_from(own.process.pid).ok(),
            Self::Container(_) | Self::Remote(_) => None,
        }
    }

    pub(crate) fn container(&self) -> Option<String> {
        match self {
            Self::Process(_) | Self::Remote(_) => None,
            Self::Container(container) => Some(container.name.clone()),
        }
    }

    /// Ends it in order; its input is closed already.
    pub(crate) async fn end(self) -> Result<(), String> {
        match self {
            Self::Process(own) => own.end().await.map_err(|error| error.to_string()),
            Self::Container(container) => container.end().await.map_err(|error| error.to_string()),
            Self::Remote(remote) => {
                // It is told that its session is over, if it can be told.
                tokio::time::sleep(GOODBYE).await;
                drop(remote);
                Ok(())
            }
        }
    }

    /// Ends it at once.
    pub(crate) async fn kill(self) -> Result<(), String> {
        match self {
            Self::Process(own) => own.kill().await.map_err(|error| error.to_string()),
            Self::Container(container) => container.kill().await.map_err(|error| error.to_string()),
            Self::Remote(remote) => {
                drop(remote);
                Ok(())
            }
        }
    }
}

impl Watch {
    /// What it uses now.
    pub(crate) async fn usage(&self) -> Option<Usage> {
        match self {
            Self::Process(members, _) => {
                let members = members.clone();
                tokio::task::spawn_blocking(move || members.usage()).await.ok()
            }
            Self::Container(handle) => handle.usage().await,
            Self::Nothing => None,
        }
    }
}
