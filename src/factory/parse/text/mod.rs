//! Descriptions in English, read by rules: commands of curl, routes in lines of their own, verbs over things at an
//! address, or kinds of servers that are known. What the rules do not understand is asked about; nothing is made up.

mod archetypes;
mod routes;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::archetypes::Meant;
use super::{Draft, Said};
use crate::{
    error::FactoryError,
    names,
    spec::{Provenance, SourceKind},
};

/// What a description may measure, in characters.
pub(crate) const LONGEST: usize = 100_000;

/// What has to be known before a server can be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Question {
    /// Which kind of question; stable.
    pub(crate) id: String,
    /// In words.
    #[serde(rename = "question")]
    pub(crate) text: String,
    /// What of the input it is about.
    pub(crate) about: String,
}

impl Question {
    pub(crate) fn new(id: &str, question: impl Into<String>, about: &str) -> Self {
        Self { id: id.into(), text: question.into(), about: crate::text::line(about, 120) }
    }
}

/// Reads a description. Where there are questions, the draft has nothing that can be called.
pub(super) fn read(text: &str, said: &Said) -> Result<Draft, FactoryError> {
    if text.chars().count() > LONGEST {
        return Err(FactoryError::TooLarge(format!("a description has at most {LONGEST} characters")));
    }
    if text.trim().is_empty() {
        return Err(FactoryError::field("body.description", "is empty"));
    }
    let mut draft = if text.lines().any(|line| line.trim_start().trim_start_matches(['$', ' ', '`']).starts_with("curl ")) {
        let commands: Vec<&str> = text
            .lines()
            .skip_while(|line| !line.contains("curl "))
            .map(|line| line.trim_start().trim_start_matches(['$', '`', ' ']))
            .collect();
        super::curl::read(&commands.join("\n"), said)?
    } else if let Some(draft) = routes::read(text, said) {
        draft
    } else if let Some(meant) = Meant::of(text) {
        let mut draft = Draft::new(SourceKind::Description, said.name.clone().unwrap_or_else(|| meant.name()));
        draft.questions.clone_from(&meant.questions);
        if draft.questions.is_empty() {
            meant.add_to(&mut draft);
        }
        draft
    } else {
        let mut draft =
            Draft::new(SourceKind::Description, said.name.clone().or_else(|| names::server(text)).unwrap_or_else(|| "mcp-tools".into()));
        let known = archetypes::known();
        draft.questions.push(Question::new(
            "api_unknown",
            format!(
                "Which API is it, and what does it take? Give its OpenAPI document, a Postman collection or curl commands; or write one \
                 line for each operation, such as `GET /pets - the pets of the shop`, and its address. Without those, these kinds are known: \
                 {known}. With a language model (ANTHROPIC_API_KEY, or FACTORY_LLM_URL), descriptions may be free."
            ),
            text,
        ));
        draft
    };
    draft.kind = SourceKind::Description;
    for (pointer, from) in [("", Provenance::Rule), ("/source", Provenance::Option)] {
        draft.provenance.insert(pointer.into(), from);
    }
    draft.provenance.insert("/name".into(), if said.name.is_some() { Provenance::Option } else { Provenance::Rule });
    Ok(draft)
}
