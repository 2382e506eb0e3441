//! What a server offers, remembered for endpoints that offer it among others' things.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use runtime::{Era, Repeated, Session, repeated};
use serde_json::value::RawValue;

use crate::{
    meta::{Manner, to_server},
    names,
    offer::Offer,
    rpc::{Fault, Members, Raw, TIMEOUT, UNAVAILABLE, quoted, raw},
};

/// Pages and things beyond these are not asked for.
const MOST_PAGES: usize = 100;
const MOST_ITEMS: usize = 10_000;
/// How much a server may say of all its things of one kind.
const MOST_BYTES: usize = 16 << 20;
/// How long a page may take that nobody waits for any more.
const PAGE: Duration = Duration::from_secs(30);
/// For how long a list is taken as it was, where no server said that it has changed.
const FRESH: Duration = Duration::from_mins(5);

/// What there are lists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tools,
    Prompts,
    Resources,
    Templates,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Tools, Self::Prompts, Self::Resources, Self::Templates];

    pub(crate) fn of_method(method: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.method() == method)
    }

    pub(crate) fn method(self) -> &'static str {
        match self {
            Self::Tools => "tools/list",
            Self::Prompts => "prompts/list",
            Self::Resources => "resources/list",
            Self::Templates => "resources/templates/list",
        }
    }

    /// The member of a result that has the list.
    pub(crate) fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
        }
    }

    /// The member that a thing is asked for by.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Tools | Self::Prompts => "name",
            Self::Resources => "uri",
            Self::Templates => "uriTemplate",
        }
    }

    /// What a server says when a list is another one.
    pub(crate) fn of_notification(method: &str) -> &'static [Self] {
        match method {
            "notifications/tools/list_changed" => &[Self::Tools],
            "notifications/prompts/list_changed" => &[Self::Prompts],
            "notifications/resources/list_changed" => &[Self::Resources, Self::Templates],
            _ => &[],
        }
    }
}

/// One thing that a server offers.
pub(crate) struct Item {
    /// What it is asked for by.
    pub(crate) key: String,
    /// As the server describes it.
    pub(crate) described: Raw,
}

/// All of one kind.
pub(crate) struct List {
    pub(crate) items: Vec<Item>,
    /// Names behind the server's own that are not the things' own names.
    pub(crate) renamed: HashMap<String, String>,
    /// Of tools whose arguments are repeated in headers: where each stands, and its header.
    pub(crate) headers: HashMap<String, Vec<Repeated>>,
    /// Of which process it is.
    session: Weak<Session>,
    at: Instant,
}

/// The lists of one server.
#[derive(Default)]
pub(crate) struct Lists([Mutex<Slot>; 4]);

#[derive(Default)]
struct Slot {
    list: Option<Arc<List>>,
    is_outdated: bool,
    /// Counts changes that the server told.
    changes: u64,
}

impl Lists {
    fn slot(&self, kind: Kind) -> std::sync::MutexGuard<'_, Slot> {
        self.0[kind as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is remembered, however old.
    pub(crate) fn known(&self, kind: Kind) -> Option<Arc<List>> {
        self.slot(kind).list.clone()
    }

    /// What is remembered, if it holds still.
    pub(crate) fn fresh(&self, kind: Kind, session: &Arc<Session>) -> Option<Arc<List>> {
        let slot = self.slot(kind);
        let is_of = |list: &&Arc<List>| std::ptr::eq(list.session.as_ptr(), Arc::as_ptr(session)) && list.at.elapsed() < FRESH;
        slot.list.as_ref().filter(|list| !slot.is_outdated && is_of(list)).cloned()
    }

    pub(crate) fn outdate(&self, kind: Kind) {
        let mut slot = self.slot(kind);
        slot.is_outdated = true;
        slot.changes += 1;
    }

    /// What there was of changes, before a list is asked for.
    pub(crate) fn changes(&self, kind: Kind) -> u64 {
        self.slot(kind).changes
    }

    /// Keeps a list, which is outdated already where the server has told of a change since it was asked for.
    pub(crate) fn keep(&self, kind: Kind, list: &Arc<List>, changes: u64) {
        let mut slot = self.slot(kind);
        slot.is_outdated = slot.changes != changes;
        slot.list = Some(Arc::clone(list));
    }
}

/// Asks a server for all of one kind.
pub(crate) async fn fetch(session: &Arc<Session>, kind: Kind, prefix: &str, manner: &Manner) -> Result<List, Fault> {
    let (mut items, mut renamed, mut headers) = (Vec::new(), HashMap::new(), HashMap::new());
    let (mut cursor, mut bytes) = (None::<Raw>, 0);
    for _ in 0..MOST_PAGES {
        let page = match page(session, kind, cursor.as_deref(), manner).await {
            // A server without any need not know the method.
            Err(Fault::Theirs(error)) if Fault::Theirs(error.clone()).code() == crate::rpc::METHOD_NOT_FOUND => break,
            page => page?,
        };
        bytes += page.get().len();
        if bytes > MOST_BYTES {
            return Err(Fault::of(UNAVAILABLE, "the server lists more than may be kept"));
        }
        let members = Members::of(&page).unwrap_or_default();
        let listed: Vec<&RawValue> =
            members.get(kind.member()).and_then(|listed| serde_json::from_str(listed.get()).ok()).unwrap_or_default();
        for described in listed {
            let Some(key) = Members::of(described).and_then(|item| item.text(kind.key())) else { continue };
            if kind.key() == "name" {
                let own = names::own(prefix, &key);
                if own != key {
                    renamed.insert(own, key.clone());
                }
            }
            let said = if kind == Kind::Tools { repeated(described) } else { Vec::new() };
            if !said.is_empty() {
                headers.insert(key.clone(), said);
            }
            items.push(Item { key, described: described.to_owned() });
        }
        let next = members.get("nextCursor").filter(|next| next.get() != "null").map(ToOwned::to_owned);
        let is_same = next.as_ref().map(|next| next.get()) == cursor.as_ref().map(|cursor| cursor.get());
        if next.is_none() || is_same || items.len() > MOST_ITEMS {
            break;
        }
        cursor = next;
    }
    items.truncate(MOST_ITEMS);
    Ok(List { items, renamed, headers, session: Arc::downgrade(session), at: Instant::now() })
}

async fn page(session: &Arc<Session>, kind: Kind, cursor: Option<&RawValue>, manner: &Manner) -> Result<Raw, Fault> {
    let mut ticket = session.ticket(None);
    let mut params = Members::default();
    if let Some(cursor) = cursor {
        params.set("cursor", cursor.to_owned());
    }
    let params = raw(params.to_string());
    let manner = (session.era == Era::Modern).then_some(manner);
    let (params, _) = to_server(Some(&params), None, (session.era, ticket.id()), manner, None);
    let asked = async {
        ticket.send(kind.method(), &params).await?;
        ticket.answer().await
    };
    match tokio::time::timeout(PAGE, asked).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err(Fault::of(TIMEOUT, "the server did not list what it has in time")),
    }
}

/// A thing as it is listed where several servers offer theirs, and what it is called there; `None` where it is not offered.
pub(crate) fn listed(offer: &Offer, kind: Kind, prefix: &str, item: &Item) -> Option<(String, String)> {
    let name = match kind {
        Kind::Tools => offer.tool(prefix, &item.key)?,
        Kind::Prompts => offer.prompt(prefix, &item.key),
        Kind::Resources | Kind::Templates => return Some((item.key.clone(), item.described.get().to_owned())),
    };
    let mut members = Members::of(&item.described).unwrap_or_default();
    members.set("name", raw(quoted(&name)));
    let described = members.to_string();
    Some((name, described))
}
