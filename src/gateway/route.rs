//! Which server a request is for, at endpoints of one and of several.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    fmt::Write as _,
    sync::Arc,
};

use axum::http::{HeaderMap, HeaderName, StatusCode};
use configurations::{Configuration, Sharing};
use futures_util::future::join_all;
use platform::http::header_text;
use runtime::Era;
use serde_json::Value;

use crate::{
    backend::{Backend, Listing},
    client::is_level,
    lists::{Kind, listed},
    meta::for_modern,
    modern::single,
    names,
    rpc::{Fault, HEADER_MISMATCH, INVALID_PARAMS, Members, Raw, plain, quoted, raw},
    work::{Asking, By, Work},
};

/// The key of a result's `_meta` that says which servers could not list what they have, and why.
const UNAVAILABLE_SERVERS: &str = "mcp-fabric/unavailable";
/// As servers with a handshake say that there is no such resource; newer ones call it invalid parameters.
const RESOURCE_NOT_FOUND: i64 = -32002;

impl Work {
    /// What the request comes to.
    pub(crate) async fn run(&self) -> Result<String, Fault> {
        match (&self.by, self.method.as_str()) {
            (By::Session(_), "ping") => Ok("{}".into()),
            (By::Session(_), "initialize") => Err(Fault::invalid("this session has begun already")),
            (By::Session(_), "logging/setLevel") => self.set_level().await,
            (By::Session(_), "resources/subscribe") => self.subscribe().await,
            (By::Session(_), "resources/unsubscribe") => self.unsubscribe().await,
            (By::Alone(_), "server/discover") => self.discover().await,
            (By::Alone(_), "initialize" | "ping" | "logging/setLevel" | "resources/subscribe" | "resources/unsubscribe") => {
                Err(Fault::method_not_found(&self.method))
            }
            _ if self.place.is_shared() => self.run_shared().await,
            _ => self.forward(self.only()?, self.as_it_is()).await,
        }
    }

    /// The server of an endpoint that has one.
    pub(crate) fn only(&self) -> Result<&Arc<Configuration>, Fault> {
        self.servers.first().ok_or_else(|| Fault::of(crate::rpc::UNAVAILABLE, "the server is not there any more"))
    }

    fn as_it_is(&self) -> Asking<'_> {
        Asking { method: &self.method, params: self.params.as_deref(), renamed: None, traceparent: None }
    }

    async fn run_shared(&self) -> Result<String, Fault> {
        if let Some(kind) = Kind::of_method(&self.method) {
            return self.list_all(kind).await;
        }
        match self.method.as_str() {
            "tools/call" => self.call(Kind::Tools).await,
            "prompts/get" => self.call(Kind::Prompts).await,
            "resources/read" => {
                let uri = self.param("uri")?;
                let server = self.server_of(&uri).await?;
                self.forward(&server, self.as_it_is()).await
            }
            "completion/complete" => self.complete().await,
            _ => Err(Fault::method_not_found(&self.method)),
        }
    }

    /// Everything of one kind that the servers of this place have, in the order of their ids. Who does not list in time
    /// is left out, or listed as it was.
    async fn list_all(&self, kind: Kind) -> Result<String, Fault> {
        if self.params.as_deref().and_then(Members::of).is_some_and(|params| params.get("cursor").is_some()) {
            return Err(Fault::of(INVALID_PARAMS, "Invalid params: this list has one page, so there are no cursors"));
        }
        let listings = join_all(self.servers.iter().map(|server| self.list_of(server, kind))).await;
        let (mut items, mut missing, mut seen) = (Vec::new(), Members::default(), HashSet::new());
        for (server, listing) in self.servers.iter().zip(listings) {
            let list = match listing {
                Listing::Known(list) => list,
                Listing::Missing(why) => {
                    missing.set(&server.server_id, raw(quoted(&why)));
                    continue;
                }
            };
            let prefix = names::server(&server.server_id);
            let granted = list.items.iter().filter(|item| self.is_granted(server, kind, &item.key));
            for item in granted.filter(|item| kind.key() == "name" || seen.insert(item.key.clone())) {
                items.extend(listed(&self.servers, kind, &prefix, item));
            }
        }
        // A name that two have is neither's.
        let mut count: HashMap<&str, usize> = HashMap::new();
        for (name, _) in &items {
            *count.entry(name).or_default() += 1;
        }
        let items: Vec<&str> = items.iter().filter(|(name, _)| count[name.as_str()] == 1).map(|(_, item)| item.as_str()).collect();
        let mut result = format!("{{\"{}\":[{}]", kind.member(), items.join(","));
        if !missing.is_empty() {
            let _ = write!(result, ",\"_meta\":{{\"{UNAVAILABLE_SERVERS}\":{missing}}}");
        }
        result.push('}');
        Ok(match self.era() {
            Era::Legacy => result,
            Era::Modern => for_modern(&raw(result), &self.method),
        })
    }

    /// Whether another server here has the same name before its things: then neither is meant by it.
    fn is_ambiguous(&self, server: &Configuration) -> bool {
        let prefix = names::server(&server.server_id);
        self.servers.has_prefixes() && self.servers.iter().any(|other| other.id != server.id && names::server(&other.server_id) == prefix)
    }

    async fn list_of(&self, server: &Arc<Configuration>, kind: Kind) -> Listing {
        if self.place.is_shared() && self.is_ambiguous(server) {
            return Listing::Missing("another server has the same short name; each is at its own endpoint, /mcp/s/{server}".into());
        }
        let within = self.gateway.inner.config.list_limit;
        match tokio::time::timeout(within, self.backend(server)).await {
            Ok(Ok((backend, session))) => backend.list(kind, &session, within).await,
            Ok(Err(fault)) => match fault {
                Fault::Ours { message, .. } => Listing::Missing(message),
                other => Listing::Missing(other.error()),
            },
            Err(_) => Listing::Missing("it has not started yet".into()),
        }
    }

    /// The server that a whole name says, and what that calls the thing itself.
    async fn named(&self, whole: &str, kind: Kind) -> Result<(&Arc<Configuration>, String), Fault> {
        let unknown = || {
            let shown = plain(whole, 128);
            Fault::of(INVALID_PARAMS, format!("Unknown {}: {shown}", if kind == Kind::Tools { "tool" } else { "prompt" }))
        };
        let base = if kind == Kind::Tools { self.servers.tool_base(whole).ok_or_else(unknown)? } else { whole.to_owned() };
        if !self.servers.has_prefixes() {
            return self.unprefixed(&base, kind).await.ok_or_else(unknown);
        }
        let (prefix, own) = names::part(&base).ok_or_else(unknown)?;
        let server = self.servers.iter().find(|server| names::server(&server.server_id) == prefix).ok_or_else(unknown)?;
        if self.is_ambiguous(server) {
            return Err(unknown());
        }
        let (backend, session) = self.backend(server).await?;
        let list = match backend.known(kind) {
            Some(list) => Some(list),
            None => match backend.list(kind, &session, self.gateway.inner.config.list_limit).await {
                Listing::Known(list) => Some(list),
                Listing::Missing(_) => None,
            },
        };
        let original = list.and_then(|list| list.renamed.get(own).cloned());
        Ok((server, original.unwrap_or_else(|| own.to_owned())))
    }

    /// The only server that lists a thing of this name, and what it calls it; of two, neither is meant.
    async fn unprefixed(&self, name: &str, kind: Kind) -> Option<(&Arc<Configuration>, String)> {
        let listings = join_all(self.servers.iter().map(|server| self.list_of(server, kind))).await;
        let mut found = self.servers.iter().zip(listings).filter_map(|(server, listing)| match listing {
            Listing::Known(list) => list.items.iter().find(|item| names::own("", &item.key) == name).map(|item| (server, item.key.clone())),
            Listing::Missing(_) => None,
        });
        let first = found.next();
        first.filter(|_| found.next().is_none())
    }

    async fn call(&self, kind: Kind) -> Result<String, Fault> {
        let whole = self.param("name")?;
        let (server, name) = self.named(&whole, kind).await?;
        let asking = Asking { method: &self.method, params: self.params.as_deref(), renamed: Some(("name", &name)), traceparent: None };
        self.forward(server, asking).await
    }

    /// The first server that lists a resource, or a template that it fits.
    async fn server_of(&self, uri: &str) -> Result<Arc<Configuration>, Fault> {
        for (kind, fits) in [(Kind::Resources, is_same as fn(&str, &str) -> bool), (Kind::Templates, fits_template)] {
            let listings = join_all(self.servers.iter().map(|server| self.list_of(server, kind))).await;
            for (server, listing) in self.servers.iter().zip(listings) {
                if let Listing::Known(list) = listing
                    && list.items.iter().any(|item| fits(&item.key, uri))
                {
                    return Ok(Arc::clone(server));
                }
            }
        }
        let code = if self.era() == Era::Modern { INVALID_PARAMS } else { RESOURCE_NOT_FOUND };
        Err(Fault::of(code, "Resource not found").with(serde_json::json!({ "uri": uri })))
    }

    async fn complete(&self) -> Result<String, Fault> {
        let params = self.params.as_deref().and_then(Members::of).unwrap_or_default();
        let reference = params.get("ref").map(ToOwned::to_owned);
        let mut reference = reference.as_deref().and_then(Members::of).unwrap_or_default();
        let unfit = || Fault::of(INVALID_PARAMS, "Invalid params: `ref` has to name a prompt or a resource");
        let server = match reference.text("type").as_deref() {
            Some("ref/prompt") => {
                let (server, name) = self.named(&reference.text("name").ok_or_else(unfit)?, Kind::Prompts).await?;
                reference.set("name", raw(quoted(&name)));
                Arc::clone(server)
            }
            Some("ref/resource") => self.server_of(&reference.text("uri").ok_or_else(unfit)?).await?,
            _ => return Err(unfit()),
        };
        let mut changed = params.clone();
        changed.set("ref", raw(reference.to_string()));
        let changed: Raw = raw(changed.to_string());
        self.forward(&server, Asking { method: &self.method, params: Some(&changed), renamed: None, traceparent: None }).await
    }

    /// A session says from which level on it wants to hear logs; servers that log by a handshake are told.
    async fn set_level(&self) -> Result<String, Fault> {
        let level = self.param("level")?;
        if !is_level(&level) {
            return Err(Fault::of(INVALID_PARAMS, "Invalid params: `level` is none that there is"));
        }
        let By::Session(client) = &self.by else { return Err(Fault::method_not_found(&self.method)) };
        client.set_log_level(level.clone());
        if self.place.is_shared() {
            let attached = self.servers.iter().filter(|server| self.gateway.is_attached(server, client.party));
            let told = join_all(attached.map(|server| self.tell_level(server, &level)));
            // Who does not take a level, or not now, is filtered here.
            tokio::time::timeout(self.gateway.inner.config.list_limit, told).await.ok();
            return Ok("{}".into());
        }
        self.tell_level(self.only()?, &level).await
    }

    async fn tell_level(&self, server: &Arc<Configuration>, level: &str) -> Result<String, Fault> {
        let (backend, session) = self.backend(server).await?;
        // A modern server hears it with each request; of one that several users share, each hears what they want.
        if session.era == Era::Modern || server.sharing == Sharing::Shared {
            return Ok("{}".into());
        }
        backend.note_level(level);
        self.forward(server, self.as_it_is()).await
    }

    async fn resource(&self) -> Result<(Arc<Configuration>, Arc<Backend>, Era, String), Fault> {
        let uri = self.param("uri")?;
        let server = if self.place.is_shared() { self.server_of(&uri).await? } else { Arc::clone(self.only()?) };
        self.require_granted(&server, &self.method, &uri)?;
        let (backend, session) = self.backend(&server).await?;
        Ok((server, backend, session.era, uri))
    }

    async fn subscribe(&self) -> Result<String, Fault> {
        let (server, backend, era, uri) = self.resource().await?;
        backend.subscribe(&uri, self.party().0)?;
        if era == Era::Modern {
            backend.tells_of(&uri).await;
            return Ok("{}".into());
        }
        let answer = self.forward(&server, self.as_it_is()).await;
        if answer.is_err() {
            backend.unsubscribe(&uri, self.party().0);
        }
        answer
    }

    /// A modern client wants to hear of a resource: a server with a handshake is told, a modern one as well by its backend.
    pub(crate) async fn watch(&self, uri: &str) {
        let server = if self.place.is_shared() { self.server_of(uri).await } else { self.only().map(Arc::clone) };
        let Ok(server) = server else { return };
        if self.require_granted(&server, "resources/subscribe", uri).is_err() {
            return;
        }
        let Ok((backend, session)) = self.backend(&server).await else { return };
        if backend.subscribe(uri, self.party().0).is_err() {
            return;
        }
        if session.era == Era::Modern {
            backend.tells_of(uri).await;
        } else {
            let params = raw(serde_json::json!({ "uri": uri }).to_string());
            let asked = self
                .forward(&server, Asking { method: "resources/subscribe", params: Some(&params), renamed: None, traceparent: None })
                .await;
            if let Err(fault) = asked {
                tracing::debug!(server = server.server_id, error = fault.error(), "a resource cannot be watched");
            }
        }
    }

    async fn unsubscribe(&self) -> Result<String, Fault> {
        let (server, backend, era, uri) = self.resource().await?;
        let is_last = backend.unsubscribe(&uri, self.party().0);
        if is_last && era == Era::Legacy { self.forward(&server, self.as_it_is()).await } else { Ok("{}".into()) }
    }
}

/// Fails where headers do not repeat those arguments of a tool that its schema says they repeat.
pub(crate) async fn repeats(work: &Work, headers: &HeaderMap) -> Result<(), Fault> {
    if work.method != "tools/call" {
        return Ok(());
    }
    let Ok(whole) = work.param("name") else { return Ok(()) };
    let (server, name) = if work.place.is_shared() { work.named(&whole, Kind::Tools).await? } else { (work.only()?, whole) };
    let Listing::Known(list) = work.list_of(server, Kind::Tools).await else { return Ok(()) };
    let Some(repeated) = list.headers.get(&name) else { return Ok(()) };
    let params = work.params.as_deref().and_then(Members::of).unwrap_or_default();
    let arguments = params.get("arguments").and_then(|given| serde_json::from_str::<Value>(given.get()).ok()).unwrap_or_default();
    for one in repeated {
        let wanted = one.value(&arguments);
        let Ok(header) = HeaderName::try_from(&one.header) else { continue };
        let said = single(headers, &header)?.map(|said| header_text::decode(said).map(Cow::into_owned).unwrap_or_default());
        if said != wanted {
            let text = format!("the header `{header}` does not repeat the argument `{}`", one.path.join("."));
            return Err(Fault::ours(StatusCode::BAD_REQUEST, HEADER_MISMATCH, text));
        }
    }
    Ok(())
}

fn is_same(listed: &str, uri: &str) -> bool {
    listed == uri
}

/// Whether an address can be made of a template (RFC 6570): its fixed parts follow each other in it.
fn fits_template(template: &str, uri: &str) -> bool {
    let (mut rest, mut is_first) = (uri, true);
    let mut parts = template.split('{').map(|part| part.split_once('}').map_or(part, |(_, fixed)| fixed)).peekable();
    while let Some(fixed) = parts.next() {
        if is_first {
            let Some(after) = rest.strip_prefix(fixed) else { return false };
            rest = after;
        } else if parts.peek().is_none() {
            return rest.ends_with(fixed);
        } else {
            let Some(place) = rest.find(fixed) else { return false };
            rest = &rest[place + fixed.len()..];
        }
        is_first = false;
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_fit_templates_by_their_fixed_parts() {
        assert!(fits_template("test://template/{id}/data", "test://template/7/data"));
        assert!(!fits_template("test://template/{id}/data", "test://template/7/date"));
        assert!(fits_template("file:///{path}", "file:///a/b"));
        assert!(fits_template("a{x}b{y}c", "a1b2c") && !fits_template("a{x}b{y}c", "a1c"));
        assert!(fits_template("fixed", "fixed") && !fits_template("fixed", "fixed2"));
    }
}
