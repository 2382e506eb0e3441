//! Servers elsewhere: MCP over HTTP, carried to and from the lines that [`crate::wire`] speaks.
//!
//! Streamable HTTP answers each message with JSON or with a stream of events (revisions from 2025-03-26 on); HTTP+SSE has one
//! stream for all answers and an address for messages (2024-11-05). Redirects are not followed: headers may hold secrets.

mod carrier;
mod events;
mod listen;
mod lost;

use std::{collections::BTreeMap, sync::Arc};

use oauth::Bearer;
use platform::client::Client;
use reqwest::Url;
use secrecy::SecretString;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, DuplexStream},
    sync::watch,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::carrier::Carrier;
use crate::{log::Log, model::Reason, outgoing::Message};

const PIPE: usize = 64 << 10;

platform::words! {
    /// How a server elsewhere is spoken to.
    pub enum Transport {
        /// A message is a request, and its answer is the answer.
        StreamableHttp = "streamable-http",
        /// One stream for all answers.
        Sse = "sse",
    }
}

/// Where a server is, and what is sent along.
#[derive(Clone)]
pub(crate) struct Order {
    pub(crate) transport: Transport,
    pub(crate) url: Url,
    pub(crate) headers: BTreeMap<String, SecretString>,
    /// The tokens of a login there.
    pub(crate) bearer: Option<Bearer>,
}

/// A server elsewhere that is spoken to.
pub(crate) struct Remote {
    gone: watch::Receiver<Option<Reason>>,
    /// Ends what carries when this is dropped.
    _stop: DropGuard,
}

impl Remote {
    /// Returns when it cannot be spoken to any more, and why.
    pub(crate) async fn ended(&mut self) -> Reason {
        let ended = || Reason::new("connection_closed", "the connection ended");
        self.gone.wait_for(Option::is_some).await.ok().and_then(|gone| gone.clone()).unwrap_or_else(ended)
    }
}

/// Begins to speak with a server elsewhere: gives what ends it, and both ends of its lines.
pub(crate) fn open(client: &Client, order: Order, log: Arc<Log>) -> (Remote, DuplexStream, DuplexStream) {
    let (input, lines) = tokio::io::duplex(PIPE);
    let (out, output) = tokio::io::duplex(PIPE);
    let (tell, gone) = watch::channel(None);
    let carrier = Arc::new(Carrier::new(client.clone(), order, log, out, tell));
    let stop = CancellationToken::new();
    if carrier.order.transport == Transport::Sse {
        spawn(&stop, Arc::clone(&carrier).listen());
    }
    spawn(&stop, carry(Arc::clone(&carrier), lines, stop.clone()));
    (Remote { gone, _stop: stop.drop_guard() }, input, output)
}

#[expect(clippy::disallowed_methods, reason = "ends with the connection that it carries")]
fn spawn(stop: &CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = task => {}
        }
    });
}

/// Sends each line as a message of its own; at the end, the session.
async fn carry(carrier: Arc<Carrier>, lines: DuplexStream, stop: CancellationToken) {
    let mut lines = BufReader::new(lines).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Some(message) = Message::parse(line) else { continue };
        if message.method == "notifications/initialized" {
            // Before it has come, a server may refuse everything else.
            carrier.send(message).await;
            if carrier.order.transport == Transport::StreamableHttp {
                spawn(&stop, Arc::clone(&carrier).listen_beside());
            }
            continue;
        }
        // Where there is no session, a request is taken back by closing its stream.
        let running = message.taken_back.as_ref().and_then(|id| carrier.running().remove(id));
        if let Some(running) = running {
            running.cancel();
            continue;
        }
        let token = carrier.begin(&message);
        let carrier = Arc::clone(&carrier);
        spawn(&stop, async move { carrier.send_unless(message, token).await });
    }
    carrier.close().await;
}
