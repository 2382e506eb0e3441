//! Clients of revision 2026-07-28: each request says all of itself, and nothing is kept between two.

use std::sync::Arc;

use async_stream::stream;
use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderName, StatusCode},
    response::{IntoResponse, Response},
};
use futures_util::future::join_all;
use platform::http::header_text;
use serde_json::{json, value::RawValue};
use tokio::sync::{mpsc, oneshot};

use crate::{
    answer::{Accepts, First, UNSAID, Working, events, first, json as json_response, last, refused, stream_of},
    backend::MOST_SUBSCRIPTIONS,
    hearer::{Filter, Hearer, Listening},
    legacy::{Come, VERSION},
    meta::{CAPABILITIES, VERSION as META_VERSION},
    offer::Offer,
    revision::{ALL, Revision},
    rights::while_allowed,
    route::repeats,
    rpc::{Fault, HEADER_MISMATCH, INVALID_PARAMS, Id, Members, Message, Raw, UNSUPPORTED_REVISION, plain},
    service::{Busy, Gateway, Listener},
    stream::{ALIVE, COMMENT, event},
    trace,
    work::{Alone, By, Work},
};

const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// How much of what servers say may wait for the reader of a subscription.
const UNHEARD: usize = 256;

/// Whether a message is of this era: it says so, or can be of no other.
pub(crate) fn is_meant(headers: &HeaderMap, message: &Message) -> bool {
    let says = headers.get(VERSION).and_then(|value| value.to_str().ok()).is_some_and(|version| version >= Revision::Modern.as_str());
    match message {
        Message::Request { method, params, .. } => {
            let meta = params.as_deref().and_then(Members::of).and_then(|params| params.get("_meta").map(ToOwned::to_owned));
            let has_version = meta.as_deref().and_then(Members::of).is_some_and(|meta| meta.get(META_VERSION).is_some());
            says || has_version || method == "server/discover"
        }
        Message::Notification { .. } | Message::Response { .. } => says,
    }
}

pub(crate) async fn post(come: Come, servers: Offer, message: Message) -> Response {
    let Message::Request { id, method, params } = message else {
        // Nothing that it could tell of is kept.
        return StatusCode::ACCEPTED.into_response();
    };
    let begun = check(come.headers(), &method, params.as_deref()).and_then(|said| Ok((said, come.gateway.admit(&come.actor)?)));
    let (capabilities, busy) = match begun {
        Ok(begun) => begun,
        Err(fault) => return refused(Some(&id), fault),
    };
    let (say, mut said) = mpsc::channel(UNSAID);
    let is_subscription = method == "subscriptions/listen";
    let party = if is_subscription { come.gateway.party() } else { Gateway::party_of(&come.actor) };
    let work = Work {
        gateway: come.gateway.clone(),
        actor: come.actor.clone(),
        place: come.place.clone(),
        servers,
        by: By::Alone(Alone { party, capabilities }),
        id,
        method,
        params,
        say,
        accepts: Accepts::of(come.headers()),
        traceparent: trace::of(come.headers()),
    };
    if is_subscription {
        return listen(&come, work, busy);
    }
    if let Err(fault) = repeats(&work, come.headers()).await {
        return refused(Some(&work.id), fault);
    }
    let accepts = work.accepts;
    let mut working: Working = Box::pin(async move {
        let _busy = busy;
        let answer = work.run().await;
        last(&work.id, &answer, true)
    });
    match first(&mut working, &mut said, accepts).await {
        First::Answer(Some((status, body))) => json_response(status, body),
        First::Answer(None) => StatusCode::ACCEPTED.into_response(),
        First::Else(said_first) => events(while_allowed(stream_of(said_first, said, working), come.rights())),
    }
}

/// What a request has to say of itself, in its body and again in its headers; gives the client's capabilities.
fn check(headers: &HeaderMap, method: &str, params: Option<&RawValue>) -> Result<Raw, Fault> {
    let params = params.and_then(Members::of).unwrap_or_default();
    let meta = params.get("_meta").and_then(Members::of).unwrap_or_default();
    let bad = |code, message: String| Fault::ours(StatusCode::BAD_REQUEST, code, message);
    let (version, capabilities) = (meta.text(META_VERSION), meta.get(CAPABILITIES).filter(|given| given.get().starts_with('{')));
    let (Some(version), Some(capabilities)) = (version, capabilities) else {
        return Err(bad(INVALID_PARAMS, format!("Invalid params: `_meta` has to have `{META_VERSION}` and `{CAPABILITIES}`")));
    };
    let said = single(headers, &VERSION)?.ok_or_else(|| bad(HEADER_MISMATCH, "the header `MCP-Protocol-Version` is missing".into()))?;
    if said != version {
        return Err(bad(HEADER_MISMATCH, "the header `MCP-Protocol-Version` is not what `_meta` says".into()));
    }
    if version != Revision::Modern.as_str() {
        let shown = plain(&version, 64);
        let data = json!({ "supported": ALL, "requested": shown });
        return Err(bad(UNSUPPORTED_REVISION, "Unsupported protocol version".into()).with(data));
    }
    let said = single(headers, &METHOD)?.ok_or_else(|| bad(HEADER_MISMATCH, "the header `Mcp-Method` is missing".into()))?;
    if said != method {
        return Err(bad(HEADER_MISMATCH, "the header `Mcp-Method` is not the method of the body".into()));
    }
    let named = match method {
        "tools/call" | "prompts/get" => params.text("name"),
        "resources/read" => params.text("uri"),
        _ => None,
    };
    if let Some(named) = named {
        let said = single(headers, &NAME)?.ok_or_else(|| bad(HEADER_MISMATCH, "the header `Mcp-Name` is missing".into()))?;
        if header_text::decode(said).is_none_or(|said| said != named) {
            return Err(bad(HEADER_MISMATCH, "the header `Mcp-Name` is not the name in the body".into()));
        }
    }
    Ok(capabilities.to_owned())
}

/// A header that may be there once: what reads another of two would see another request.
pub(crate) fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Fault> {
    let unfit = || Fault::ours(StatusCode::BAD_REQUEST, HEADER_MISMATCH, format!("the header `{name}` has to be there once, as a text"));
    let mut all = headers.get_all(name).iter();
    let Some(value) = all.next() else { return Ok(None) };
    if all.next().is_some() { Err(unfit()) } else { value.to_str().map(Some).map_err(|_| unfit()) }
}

/// A stream of what servers say unasked, until its reader goes.
fn listen(come: &Come, work: Work, busy: Busy) -> Response {
    let params = work.params.as_deref().and_then(Members::of).unwrap_or_default();
    let filter: Option<Filter> = params.get("notifications").and_then(|wanted| serde_json::from_str(wanted.get()).ok());
    let Some(filter) = filter else {
        return refused(Some(&work.id), Fault::of(INVALID_PARAMS, "Invalid params: `notifications` has to say what is wanted"));
    };
    if filter.resource_subscriptions.len() > MOST_SUBSCRIPTIONS {
        let text = format!("Invalid params: more than {MOST_SUBSCRIPTIONS} resources are wanted");
        return refused(Some(&work.id), Fault::of(INVALID_PARAMS, text));
    }
    let (say, mut said) = mpsc::channel(UNHEARD);
    let listening = Arc::new(Listening::new(work.id.clone(), filter.clone(), say));
    let (gateway, party) = (work.gateway.clone(), work.party());
    gateway.note_listener(Listener { actor: work.actor.clone(), place: work.place.clone(), party, listening: Arc::downgrade(&listening) });
    let subscribed = Arc::new(Subscribed { work, listening: Arc::clone(&listening) });
    let hearing = Arc::clone(&subscribed);
    let (tell, heard) = oneshot::channel();
    gateway.inner.shutdown.spawn(async move {
        hearing.hear(&filter).await;
        tell.send(()).ok();
    });
    let limit = gateway.inner.config.list_limit;
    let (acknowledgement, stop) = (listening.acknowledgement(), listening.stop.clone());
    drop(listening);
    let told = stream! {
        let _ends = (Ends(subscribed), busy);
        // What is said to be heard is heard; a server that does not answer is heard later.
        tokio::time::timeout(limit, heard).await.ok();
        yield Ok(Bytes::from(event(None, &acknowledgement)));
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                said = said.recv() => match said {
                    Some(said) => yield Ok(Bytes::from(event(None, &said))),
                    None => return,
                },
                () = tokio::time::sleep(ALIVE) => yield Ok(Bytes::from_static(COMMENT.as_bytes())),
            }
        }
    };
    events(while_allowed(told, come.rights()))
}

/// A subscription.
struct Subscribed {
    work: Work,
    listening: Arc<Listening>,
}

impl Subscribed {
    /// Lets it hear every server of its place that answers, and watch what it wants to watch. What comes later is heard
    /// when it comes.
    async fn hear(&self, filter: &Filter) {
        let heard = join_all(self.work.servers.iter().map(async |server| {
            if let Ok((backend, _)) = self.work.backend(server).await {
                backend.attach(self.work.party().0, || Hearer::Stream(Arc::downgrade(&self.listening)));
            }
        }));
        let watched = join_all(filter.resource_subscriptions.iter().map(|uri| self.work.watch(uri)));
        tokio::select! {
            () = self.listening.stop.cancelled() => {}
            _ = futures_util::future::join(heard, watched) => {}
        }
        if self.listening.stop.is_cancelled() {
            self.work.gateway.detach(self.work.party());
        }
    }
}

/// Ends a subscription when nobody reads it any more.
struct Ends(Arc<Subscribed>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.listening.stop.cancel();
        self.0.work.gateway.detach(self.0.work.party());
    }
}

/// A message that this era has no use for.
pub(crate) fn no_such_method_of_http(id: Option<&Id>) -> Response {
    let fault = Fault::ours(StatusCode::METHOD_NOT_ALLOWED, crate::rpc::INVALID_REQUEST, "this revision has POST alone");
    let mut response = refused(id, fault);
    response.headers_mut().insert(axum::http::header::ALLOW, axum::http::HeaderValue::from_static("POST"));
    response
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::rpc::raw;

    fn code(headers: &[(&HeaderName, &str)], method: &str, params: &str) -> i64 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append((*name).clone(), HeaderValue::from_str(value).unwrap());
        }
        check(&map, method, Some(&raw(params.to_owned()))).map_or_else(|fault| fault.code(), |_| 0)
    }

    #[test]
    fn headers_say_what_the_body_says() {
        let body = |name: &str, version: &str| {
            format!("{{\"name\":\"{name}\",\"_meta\":{{\"{META_VERSION}\":\"{version}\",\"{CAPABILITIES}\":{{}}}}}}")
        };
        let good = [(&VERSION, "2026-07-28"), (&METHOD, "tools/call"), (&NAME, "echo")];
        assert_eq!(code(&good, "tools/call", &body("echo", "2026-07-28")), 0);
        let encoded = [(&VERSION, "2026-07-28"), (&METHOD, "tools/call"), (&NAME, "=?base64?w6TDtg==?=")];
        assert_eq!(code(&encoded, "tools/call", &body("äö", "2026-07-28")), 0);
        assert_eq!(code(&good, "tools/call", &body("other", "2026-07-28")), HEADER_MISMATCH);
        assert_eq!(code(&good, "prompts/get", &body("echo", "2026-07-28")), HEADER_MISMATCH);
        assert_eq!(code(&good[..1], "tools/call", &body("echo", "2026-07-28")), HEADER_MISMATCH);
        assert_eq!(code(&good[1..], "tools/call", &body("echo", "2026-07-28")), HEADER_MISMATCH);
        assert_eq!(code(&[good[0], good[0], good[1], good[2]], "tools/call", &body("echo", "2026-07-28")), HEADER_MISMATCH);
        assert_eq!(code(&[(&VERSION, "2027-01-01"), good[1], good[2]], "tools/call", &body("echo", "2026-07-28")), HEADER_MISMATCH);
        assert_eq!(code(&[(&VERSION, "2027-01-01"), good[1], good[2]], "tools/call", &body("echo", "2027-01-01")), UNSUPPORTED_REVISION);
        for unsaid in ["{}", "{\"_meta\":{}}", &format!("{{\"_meta\":{{\"{META_VERSION}\":\"2026-07-28\"}}}}")] {
            assert_eq!(code(&good, "tools/call", unsaid), INVALID_PARAMS, "{unsaid}");
        }
    }
}
