use chrono::{DateTime, Utc};
use platform::{
    FieldError,
    secrets::{is_named_secret, is_secret_itself},
};
use serde_json::Value;

use crate::model::{Change, Limits};

/// How many values a template may have.
const MOST_VALUES: usize = 100;
const LONGEST_VALUE: usize = 32 << 10;
const LONGEST_NAME: usize = 100;
const LONGEST_DESCRIPTION: usize = 500;

platform::id! {
    /// A template.
    pub struct TemplateId;
}

/// What somebody wants of servers, whichever they are.
#[derive(Clone, Debug)]
pub struct Template {
    /// Its row.
    pub id: TemplateId,
    /// Whose it is, as actors are written.
    pub owner: String,
    /// For people; one of its owner's alone.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// What is laid over a configuration.
    pub settings: Change,
    /// Whether everybody may use it.
    pub shared: bool,
    /// Counts changes; for `If-Match`.
    pub revision: i64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

impl Template {
    /// All that is wrong with it, whatever it is applied to.
    pub(crate) fn wrong(&self) -> Vec<FieldError> {
        let mut wrong = Vec::new();
        let mut note = |is_wrong: bool, place: &str, message: &str| wrong.extend(is_wrong.then(|| FieldError::new(place, message)));
        let is_line = |text: &str, most: usize| text.chars().count() <= most && !text.chars().any(char::is_control);
        note(self.name.trim().is_empty() || !is_line(&self.name, LONGEST_NAME), "body.name", "must be 1 to 100 characters on one line");
        note(!is_line(&self.description, LONGEST_DESCRIPTION), "body.description", "must be at most 500 characters on one line");
        note(self.settings.values.len() > MOST_VALUES, "body.values", "may be 100 at most");
        note(
            self.settings == Change::default(),
            "body",
            "says nothing that is wanted: values, limits, restart, lifecycle, sharing or enabled",
        );
        if let Some((limit, message)) = self.settings.limits.as_ref().and_then(Limits::unfit) {
            note(true, &format!("body.limits.{limit}"), message);
        }
        for (name, value) in &self.settings.values {
            let place = format!("body.values.{name}");
            match value {
                Value::Array(_) | Value::Object(_) => note(true, &place, "must be text, a number, true, false or null"),
                Value::Null => {}
                value if is_named_secret(name) || value.as_str().is_some_and(is_secret_itself) => {
                    note(true, &place, "looks like a secret, which a template does not keep; give it as a credential");
                }
                Value::String(text) => note(text.len() > LONGEST_VALUE, &place, "is longer than 32 KiB"),
                Value::Bool(_) | Value::Number(_) => {}
            }
        }
        wrong
    }
}
