//! Servers that are known by what they are for, each with tools that work by themselves.

use std::{collections::BTreeSet, sync::LazyLock};

use serde::Deserialize;

use super::Question;
use crate::{
    names,
    parse::{Draft, Operation},
    spec::{Action, Base, Tool},
};

/// One kind of server.
#[derive(Deserialize)]
pub(super) struct Archetype {
    /// Words that mean it.
    names: Vec<String>,
    pub(super) title: String,
    pub(super) description: String,
    pub(super) instructions: Option<String>,
    #[serde(default)]
    bases: Vec<Base>,
    /// Tools that the others need.
    #[serde(default)]
    always: Vec<String>,
    /// Words that say nothing more of it.
    words: Vec<String>,
    tools: Vec<Known>,
}

#[derive(Deserialize)]
struct Known {
    /// Words that ask for it.
    words: Vec<String>,
    tool: Tool,
}

#[expect(clippy::expect_used, reason = "the files are part of the program, and a test reads them")]
static ALL: LazyLock<Vec<Archetype>> = LazyLock::new(|| {
    let read = |text| serde_json::from_str(text).expect("an archetype of this program can be read");
    [
        include_str!("archetypes/weather.json"),
        include_str!("archetypes/calculator.json"),
        include_str!("archetypes/values.json"),
        include_str!("archetypes/notes.json"),
        include_str!("archetypes/files.json"),
        include_str!("archetypes/fetch.json"),
    ]
    .map(read)
    .into()
});

/// What a text asks for: kinds of servers with those of their tools that are meant, and what no tool does.
pub(super) struct Meant {
    chosen: Vec<(&'static Archetype, BTreeSet<usize>)>,
    pub(super) questions: Vec<Question>,
}

/// What can be made without a document or a model.
pub(super) fn known() -> String {
    ALL.iter().map(|one| one.title.to_lowercase()).collect::<Vec<_>>().join(", ")
}

impl Meant {
    /// `None` where no kind is named.
    pub(super) fn of(text: &str) -> Option<Self> {
        let lower = text.to_lowercase();
        let words: Vec<String> = lower
            .split(|c: char| !(c.is_alphanumeric() || matches!(c, '-' | '/')))
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect();
        let is_named = |one: &&Archetype| {
            let first = words.iter().position(|word| one.names.contains(word));
            // Keys and values are two words, mostly.
            first.is_some() || (one.names[0] == "key-value" && lower.contains("key value"))
        };
        let mut named: Vec<&'static Archetype> = ALL.iter().filter(is_named).collect();
        // A verb of one kind is no other kind: notes are fetched, files hold values.
        let strong: Vec<&'static Archetype> =
            named.iter().copied().filter(|one| !matches!(one.names[0].as_str(), "fetch" | "file")).collect();
        if !strong.is_empty() {
            named.retain(|one| strong.iter().any(|other| std::ptr::eq(*one, *other)));
        } else if named.len() > 1 && lower.contains("file") && !lower.contains("http") && !lower.contains("url") && !lower.contains("web") {
            named.retain(|one| one.names[0] == "file");
        }
        if named.is_empty() {
            return None;
        }
        let mut meant = Self { chosen: named.into_iter().map(|one| (one, BTreeSet::new())).collect(), questions: Vec::new() };
        for phrase in phrases(&lower) {
            meant.hear(&phrase);
        }
        for (one, tools) in &mut meant.chosen {
            if tools.is_empty() {
                tools.extend(0..one.tools.len());
            }
            tools.extend((0..one.tools.len()).filter(|at| one.always.contains(&one.tools[*at].tool.name)));
        }
        Some(meant)
    }

    /// A phrase names tools, or says nothing that is not known, or is asked about.
    fn hear(&mut self, phrase: &str) {
        let words: Vec<&str> = phrase.split(|c: char| !c.is_alphanumeric() && c != '-').filter(|word| !word.is_empty()).collect();
        let mut is_known = words.iter().all(|word| SAYS_NOTHING.contains(word));
        for (one, tools) in &mut self.chosen {
            for (at, known) in one.tools.iter().enumerate() {
                if words.iter().any(|word| known.words.iter().any(|own| own == word)) {
                    tools.insert(at);
                    is_known = true;
                }
            }
            is_known |= words.iter().any(|word| one.names.iter().chain(&one.words).any(|own| own == word));
        }
        if !is_known {
            let about = crate::text::line(phrase, 80);
            self.questions.push(Question {
                id: "capability_unknown".into(),
                text: format!("What is `{about}` to do? No tool for it is known here: leave it out, or give the API document or curl commands that do it."),
                about,
            });
        }
    }

    /// The server with what is meant.
    pub(super) fn add_to(self, draft: &mut Draft) {
        for (one, tools) in self.chosen {
            let first = draft.bases.len();
            draft.bases.extend(one.bases.iter().cloned());
            draft.title.get_or_insert_with(|| one.title.clone());
            draft.description.get_or_insert_with(|| one.description.clone());
            if draft.instructions.is_none() {
                draft.instructions.clone_from(&one.instructions);
            }
            for at in tools {
                let mut tool = one.tools[at].tool.clone();
                if let Action::Http(http) = &mut tool.action {
                    http.base += first;
                }
                let route = tool.name.clone();
                draft.operations.push(Operation {
                    id: Some(tool.name.clone()),
                    tool,
                    tags: vec![one.title.clone()],
                    route,
                    is_deprecated: false,
                });
            }
        }
    }

    /// The name of the server: that of the kinds.
    pub(super) fn name(&self) -> String {
        let titles: Vec<&str> = self.chosen.iter().map(|(one, _)| one.title.as_str()).collect();
        names::server(&titles.join(" ")).unwrap_or_else(|| "mcp-tools".into())
    }
}

const SAYS_NOTHING: [&str; 62] = [
    "a", "an", "and", "the", "of", "for", "to", "in", "on", "at", "by", "from", "with", "it", "its", "them", "their", "any", "all", "some",
    "each", "every", "simple", "small", "basic", "api", "apis", "server", "mcp", "tool", "tools", "service", "that", "which", "can",
    "lets", "me", "my", "users", "user", "i", "you", "we", "please", "make", "build", "create", "want", "need", "like", "using", "use",
    "is", "are", "be", "as", "support", "supports", "provides", "offers", "world", "over",
];

/// What is listed after the words that begin a list: `with add, subtract and divide`. Without such words, nothing.
fn phrases(lower: &str) -> Vec<String> {
    let begins = [
        " with ",
        " that ",
        " which ",
        " to ",
        " including ",
        " supporting ",
        " supports ",
        " offering ",
        " for ",
        " where ",
        ": ",
        " can ",
    ];
    let spaced = lower.replace(['\n', '\r', '\t'], " ");
    let Some(start) = begins.iter().filter_map(|word| spaced.find(word).map(|at| at + word.len())).min() else { return Vec::new() };
    let list = spaced[start..]
        .replace([';', '.', '\u{2022}'], ",")
        .replace(" and ", ",")
        .replace(" or ", ",")
        .replace(" plus ", ", plus ")
        .replace('&', ",");
    list.split(',').map(str::trim).filter(|phrase| !phrase.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(text: &str) -> Vec<String> {
        let meant = Meant::of(text).unwrap();
        assert!(meant.questions.is_empty(), "{text}: {:?}", meant.questions);
        let mut draft = Draft::new(crate::spec::SourceKind::Description, meant.name());
        meant.add_to(&mut draft);
        draft.operations.into_iter().map(|one| one.tool.name).collect()
    }

    #[test]
    fn descriptions_choose_tools() {
        assert_eq!(
            tools("A weather API that fetches current conditions and forecasts"),
            ["find_place", "get_current_weather", "get_forecast"]
        );
        assert_eq!(tools("A calculator API with add, subtract, multiply, divide"), ["add", "subtract", "multiply", "divide"]);
        assert_eq!(tools("calculator").len(), 8);
        assert_eq!(tools("a key-value store with get and set"), ["set_value", "get_value"]);
        assert_eq!(tools("Take notes, with search"), ["search_notes"]);
        assert_eq!(tools("a file store to read and write text files"), ["read_file", "write_file"]);
        assert_eq!(tools("Fetch web pages as text"), ["fetch"]);
        assert_eq!(tools("a server with notes and a calculator").len(), 13);
    }

    #[test]
    fn what_no_tool_does_is_asked_about() {
        let meant = Meant::of("A weather API with current conditions and alerts by SMS").unwrap();
        assert_eq!(meant.questions[0].about, "alerts by sms");
        assert!(Meant::of("An API for ordering pizza").is_none());
    }
}
