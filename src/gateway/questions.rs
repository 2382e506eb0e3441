//! What a server asks a session during a request: what it takes back of that is told to the client.

use std::sync::Arc;

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use platform::Shutdown;
use tokio::sync::mpsc::WeakSender;

use crate::{client::Client, work::Said};

/// The questions of one request that are neither answered nor taken back.
pub(crate) struct Questions {
    open: FuturesUnordered<BoxFuture<'static, Option<Told>>>,
    /// Where the request's own stream is read. Weak: a question keeps no answer open.
    say: Option<WeakSender<Said>>,
    shutdown: Shutdown,
}

/// The notification that a question was taken back, for whom.
pub(crate) struct Told {
    message: String,
    client: Arc<Client>,
}

impl Questions {
    pub(crate) fn new(say: Option<WeakSender<Said>>, shutdown: Shutdown) -> Self {
        Self { open: FuturesUnordered::new(), say, shutdown }
    }

    /// `taken_back` comes to the notification, or to nothing once the question is answered.
    pub(crate) fn add(&mut self, client: &Arc<Client>, taken_back: impl Future<Output = Option<String>> + Send + 'static) {
        let client = Arc::clone(client);
        self.open.push(taken_back.map(|message| message.map(|message| Told { message, client })).boxed());
    }

    /// The next one that is taken back; nothing where no question is open.
    pub(crate) async fn taken_back(&mut self) -> Option<Told> {
        while let Some(came) = self.open.next().await {
            if came.is_some() {
                return came;
            }
        }
        None
    }

    /// Tells it where it was asked, as long as that is read, else on the session's own stream.
    pub(crate) async fn tell(&mut self, told: Told) {
        tell(self.say.as_ref(), told).await;
    }

    /// Before an answer, which closes the stream that a question was asked on.
    pub(crate) async fn tell_what_is_taken_back(&mut self) {
        while let Some(Some(told)) = self.taken_back().now_or_never() {
            self.tell(told).await;
        }
    }
}

async fn tell(say: Option<&WeakSender<Said>>, told: Told) {
    let Told { message, client } = told;
    let is_told = match say.and_then(WeakSender::upgrade) {
        Some(say) => say.send(Said { message: message.clone(), may_be_lost: true }).await.is_ok(),
        None => false,
    };
    if !is_told {
        client.say(&message);
    }
}

impl Drop for Questions {
    /// What is open when the request ends, answered or given up, may still be taken back.
    fn drop(&mut self) {
        let mut open = std::mem::take(&mut self.open);
        if open.is_empty() {
            return;
        }
        let say = self.say.take();
        self.shutdown.spawn(async move {
            while let Some(came) = open.next().await {
                if let Some(told) = came {
                    tell(say.as_ref(), told).await;
                }
            }
        });
    }
}
