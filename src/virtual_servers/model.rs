use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

platform::id! {
    /// A virtual server.
    pub struct VirtualServerId;
}

platform::words! {
    /// What stands before the names of tools.
    pub enum Prefix {
        /// The server that they are of.
        Server = "server",
        /// Nothing.
        None = "none",
    }
}

/// A named endpoint of somebody.
#[derive(Clone, Debug)]
pub struct VirtualServer {
    /// Its row.
    pub id: VirtualServerId,
    /// Whose it is, as actors are written.
    pub owner: String,
    /// For people.
    pub name: String,
    /// A domain of the pool, or a path of this fabric; it stays as long as the server does.
    pub endpoint: String,
    /// Sources that it may reach.
    pub source_ids: Vec<String>,
    /// Servers that it offers.
    pub server_ids: Vec<String>,
    /// What stands before the names of tools.
    pub prefix: Prefix,
    /// The tools that are offered, by their names here; all where there are none.
    pub tools: Vec<String>,
    /// Tools by their names here, and what they are called instead.
    pub renamed: BTreeMap<String, String>,
    /// Counts changes; for `If-Match`.
    pub revision: i64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
    /// Since when it is removed.
    pub deleted_at: Option<DateTime<Utc>>,
}

/// What is to be changed; what is not named stays.
#[derive(Default)]
pub(crate) struct Change {
    pub(crate) name: Option<String>,
    pub(crate) source_ids: Option<Vec<String>>,
    pub(crate) server_ids: Option<Vec<String>>,
    pub(crate) prefix: Option<Prefix>,
    pub(crate) tools: Option<Vec<String>>,
    pub(crate) renamed: Option<BTreeMap<String, String>>,
}

impl Change {
    pub(crate) fn apply(self, to: &mut VirtualServer) {
        let unique = |list: Vec<String>| list.into_iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>();
        if let Some(name) = self.name {
            name.trim().clone_into(&mut to.name);
        }
        to.source_ids = self.source_ids.map_or_else(|| std::mem::take(&mut to.source_ids), unique);
        to.server_ids = self.server_ids.map_or_else(|| std::mem::take(&mut to.server_ids), unique);
        to.tools = self.tools.map_or_else(|| std::mem::take(&mut to.tools), unique);
        to.prefix = self.prefix.unwrap_or(to.prefix);
        if let Some(renamed) = self.renamed {
            to.renamed = renamed;
        }
    }
}

/// How many sources, servers, tools and names one may have.
const MOST: usize = 200;

impl VirtualServer {
    /// The first field that cannot be kept, and why.
    pub(crate) fn unfit(&self) -> Option<(&'static str, &'static str)> {
        if self.name.is_empty() || self.name.chars().count() > 255 || self.name.chars().any(char::is_control) {
            return Some(("body.name", "must be 1 to 255 characters on one line"));
        }
        if [self.source_ids.len(), self.server_ids.len(), self.tools.len(), self.renamed.len()].into_iter().any(|count| count > MOST) {
            return Some(("body", "has more than 200 of something"));
        }
        let is_name = |name: &String| {
            (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        };
        if !self.renamed.values().all(is_name) {
            return Some(("body.renamed", "new names must be 1 to 64 letters, digits, `_` and `-`"));
        }
        let all: BTreeSet<&String> = self.renamed.values().collect();
        (all.len() < self.renamed.len()).then_some(("body.renamed", "gives one name to two tools"))
    }

    /// What a tool is called here, if it is offered; by its name before anything is renamed.
    pub fn shown(&self, name: &str) -> Option<String> {
        let is_offered = self.tools.is_empty() || self.tools.iter().any(|tool| tool == name);
        is_offered.then(|| self.renamed.get(name).cloned().unwrap_or_else(|| name.to_owned()))
    }

    /// The name before anything is renamed, of a tool that is offered under a name.
    pub fn original(&self, shown: &str) -> Option<String> {
        let name = self.renamed.iter().find(|(_, new)| *new == shown).map_or(shown, |(name, _)| name.as_str());
        (self.shown(name).as_deref() == Some(shown)).then(|| name.to_owned())
    }
}

/// What one server offers, by names.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Of its tools.
    pub tools: Vec<String>,
    /// Of its prompts.
    pub prompts: Vec<String>,
}

/// Names that two tools, or two prompts, would have.
pub(crate) fn collisions(server: &VirtualServer, offered: &[Names]) -> Vec<String> {
    let tools = offered.iter().flat_map(|one| &one.tools).filter_map(|tool| server.shown(tool));
    let prompts = offered.iter().flat_map(|one| &one.prompts).cloned();
    twice(tools).into_iter().chain(twice(prompts)).collect()
}

fn twice(names: impl Iterator<Item = String>) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    names.filter(|name| !seen.insert(name.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(tools: &[&str], renamed: &[(&str, &str)]) -> VirtualServer {
        let now = chrono::DateTime::UNIX_EPOCH;
        VirtualServer {
            id: VirtualServerId::fresh(),
            owner: "operator".into(),
            name: "x".into(),
            endpoint: "/mcp/v/x".into(),
            source_ids: Vec::new(),
            server_ids: Vec::new(),
            prefix: Prefix::None,
            tools: tools.iter().map(|tool| (*tool).to_owned()).collect(),
            renamed: renamed.iter().map(|(name, new)| ((*name).to_owned(), (*new).to_owned())).collect(),
            revision: 1,
            created_at: now,
            updated_at: now,
            deleted_at: None,
        }
    }

    #[test]
    fn a_name_leads_back_to_its_tool_and_hidden_ones_to_none() {
        let one = server(&["a", "b"], &[("a", "z"), ("c", "y")]);
        assert_eq!((one.shown("a").as_deref(), one.shown("b").as_deref(), one.shown("c")), (Some("z"), Some("b"), None));
        assert_eq!((one.original("z").as_deref(), one.original("b").as_deref()), (Some("a"), Some("b")));
        assert_eq!((one.original("a"), one.original("y"), one.original("c")), (None, None, None));
        assert_eq!(server(&[], &[]).original("a").as_deref(), Some("a"));
    }

    #[test]
    fn two_tools_of_one_name_collide_unless_one_is_renamed_or_left_out() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let tools = [names(&["echo", "x"]), names(&["echo"])].map(|tools| Names { tools, prompts: Vec::new() });
        assert_eq!(collisions(&server(&[], &[]), &tools), ["echo"]);
        assert!(collisions(&server(&["x"], &[]), &tools).is_empty());
        assert_eq!(collisions(&server(&[], &[("x", "echo")]), &tools), ["echo"]);
        let prompts = [names(&["greet"]), names(&["greet", "echo"])].map(|prompts| Names { tools: names(&["echo"]), prompts });
        assert_eq!(collisions(&server(&["x"], &[("x", "y")]), &prompts), ["greet"], "prompts are neither renamed nor left out");
    }

    #[test]
    fn what_cannot_be_kept_is_said() {
        assert!(server(&[], &[("a", "fine")]).unfit().is_none());
        for renamed in [&[("a", "two words")][..], &[("a", "")], &[("a", "x"), ("b", "x")]] {
            assert_eq!(server(&[], renamed).unfit().unwrap().0, "body.renamed");
        }
        assert_eq!(VirtualServer { name: "\n".into(), ..server(&[], &[]) }.unfit().unwrap().0, "body.name");
    }
}
