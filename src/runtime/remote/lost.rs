//! Why something did not come through.

use platform::client::ClientError;
use reqwest::StatusCode;

use crate::{model::Reason, wire::plain};

/// Why a message did not come through.
pub(super) enum Lost {
    /// Nothing will any more.
    Gone(Reason),
    /// This one was refused.
    Refused(String),
}

impl From<ClientError> for Lost {
    fn from(error: ClientError) -> Self {
        Self::Gone(Reason::new("remote_refused", error.to_string()))
    }
}

pub(super) fn unreachable(error: &reqwest::Error) -> Lost {
    let mut why = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(next) = source {
        why = next.to_string();
        source = next.source();
    }
    Lost::Gone(Reason::passing("remote_unreachable", format!("it cannot be reached: {}", plain(&why, 200))))
}

pub(super) fn refused(status: StatusCode) -> Lost {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Lost::Gone(Reason::new("remote_unauthorized", format!("it refuses the credentials that it was given ({status})")))
        }
        status if status.is_redirection() => Lost::Gone(Reason::new(
            "remote_redirects",
            format!("it sends elsewhere ({status}), which is not followed: headers may hold secrets"),
        )),
        status => Lost::Refused(format!("HTTP {status}")),
    }
}
