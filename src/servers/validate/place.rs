//! A value of the document together with where it stands.

use serde_json::Value;

use super::report::clip;

/// Names of members come from the document and may be of any length.
const MAX_NAME: usize = 80;

/// A value of the document together with where it stands.
#[derive(Clone, Debug)]
pub(super) struct Place<'a> {
    /// Like `packages[0].transport`.
    pub(super) path: String,
    /// What stands there.
    pub(super) value: &'a Value,
}

impl<'a> Place<'a> {
    /// The whole document.
    pub(super) fn root(value: &'a Value) -> Self {
        Self { path: String::new(), value }
    }

    /// The path that a member has, whether it is there or not.
    pub(super) fn path_of(&self, name: &str) -> String {
        let name = clip(name.to_owned(), MAX_NAME);
        if self.path.is_empty() { name } else { format!("{}.{name}", self.path) }
    }

    /// A member of an object.
    pub(super) fn member(&self, name: &str) -> Option<Self> {
        Some(Self { path: self.path_of(name), value: self.value.get(name)? })
    }

    /// All members of an object; none if it is something else.
    pub(super) fn members(&self) -> impl Iterator<Item = (&'a str, Self)> {
        let members = self.value.as_object().into_iter().flatten();
        members.map(|(name, value)| (name.as_str(), Self { path: self.path_of(name), value }))
    }

    /// All elements of an array; none if it is something else.
    pub(super) fn items(&self) -> impl Iterator<Item = Self> {
        let items = self.value.as_array().into_iter().flatten().enumerate();
        items.map(|(index, value)| Self { path: format!("{}[{index}]", self.path), value })
    }

    /// All elements of the array in a member; none if there is no such array.
    pub(super) fn list(&self, name: &str) -> Vec<Self> {
        self.member(name).map(|list| list.items().collect()).unwrap_or_default()
    }

    /// The text in a member, if there is one.
    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.value.get(name)?.as_str()
    }

    /// The text in a member; an absent one counts as empty, as it does for the official registry.
    pub(super) fn text_or_empty(&self, name: &str) -> &'a str {
        self.text(name).unwrap_or_default()
    }
}
