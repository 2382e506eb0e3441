//! Streams that a server elsewhere keeps open: the only one of the old transport, the one beside requests of the newer one, and
//! the rest of an answer that broke off.

use std::{sync::Arc, time::Duration};

use platform::random;
use reqwest::{
    Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};

use super::{
    carrier::{Carrier, with},
    events::{Events, Place},
    lost::Lost,
};
use crate::model::Reason;

/// How long the head of a stream may take.
const HEAD: Duration = Duration::from_secs(20);
/// How long to wait for the stream beside requests when it broke off, doubled each time that nothing came.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_mins(1);
const LAST_EVENT: &str = "last-event-id";

impl Carrier {
    /// The one stream of the old transport.
    pub(super) async fn listen(self: Arc<Self>) {
        let lost = match self.follow().await {
            Ok(()) => Reason::new("connection_closed", "it closed its stream"),
            Err(Lost::Gone(reason)) => reason,
            Err(Lost::Refused(why)) => Reason::new("remote_refused", why),
        };
        self.gone.send_replace(Some(lost));
    }

    async fn follow(&self) -> Result<(), Lost> {
        let response = self.get(&[]).await?;
        if !response.status().is_success() {
            return Err(self.refused(response.status()));
        }
        let mut events = Events::new(response);
        while let Some((kind, data)) = events.next().await? {
            if kind == "endpoint" {
                let target = self.order.url.join(data.trim()).ok().filter(|target| target.origin() == self.order.url.origin());
                let target = target.ok_or_else(|| Lost::Refused("it names an address elsewhere for messages".into()))?;
                self.target.send_replace(Some(target));
            } else {
                self.say(&data).await;
            }
        }
        Ok(())
    }

    /// What a server says outside of requests: a stream of its own, from the handshake on, where the server has one ("Listening
    /// for Messages from the Server" of revisions 2025-03-26 to 2025-11-25). That it breaks off harms no request; it is taken up
    /// again where it was.
    pub(super) async fn listen_beside(self: Arc<Self>) {
        let (mut place, mut stood, mut wait) = (Place::default(), false, FIRST_WAIT);
        loop {
            match self.open_stream(&place).await {
                Ok(Opened::Stream(mut events)) => {
                    stood = true;
                    while let Ok(Some((_, data))) = events.next().await {
                        wait = FIRST_WAIT;
                        self.say(&data).await;
                    }
                    place = events.place;
                }
                Ok(Opened::Refused(status)) if is_final(status, stood) => return,
                // It knew the session, and does not any more.
                Ok(Opened::Refused(StatusCode::NOT_FOUND)) if self.has_session() => {
                    self.gone.send_replace(Some(Reason::new("session_ended", "it does not know this session any more")));
                    return;
                }
                // It does not keep what was told so long ago: from now on is better than nothing.
                Ok(Opened::Refused(status)) if matches!(status.as_u16(), 400 | 404 | 410 | 412) => place = Place::default(),
                Err(Lost::Gone(reason)) if !reason.is_passing => {
                    self.gone.send_replace(Some(reason));
                    return;
                }
                // Its requests say what is wrong with it.
                Ok(Opened::Refused(_)) | Err(_) => {}
            }
            tokio::time::sleep(random::jitter(place.retry.unwrap_or(wait).max(wait))).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// The rest of an answer that broke off, where the server has kept it.
    pub(super) async fn read_on(&self, place: &Place) -> Result<Option<Events>, Lost> {
        match self.open_stream(place).await? {
            Opened::Stream(events) => Ok(Some(events)),
            Opened::Refused(_) => Ok(None),
        }
    }

    async fn open_stream(&self, place: &Place) -> Result<Opened, Lost> {
        let mut headers = self.session_headers();
        headers.extend(place.last.clone().map(|last| (LAST_EVENT.to_owned(), last)));
        let response = self.get(&headers).await?;
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !response.status().is_success() || !kind.starts_with("text/event-stream") {
            return Ok(Opened::Refused(response.status()));
        }
        Ok(Opened::Stream(Events::at(place.clone(), response)))
    }

    async fn get(&self, headers: &[(String, String)]) -> Result<Response, Lost> {
        let request = || Ok(with(self.client.get(self.order.url.clone())?.header(ACCEPT, "text/event-stream"), headers));
        self.ask(request, HEAD).await
    }
}

enum Opened {
    Stream(Events),
    Refused(StatusCode),
}

/// Whether a server has no such stream, or will not give it; one that it gave once may only be in use still.
fn is_final(status: StatusCode, stood: bool) -> bool {
    status == StatusCode::METHOD_NOT_ALLOWED || (!stood && !status.is_server_error())
}
