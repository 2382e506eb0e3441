//! References inside of a document. None leads out of it.

use serde_json::Value;

/// How many references follow each other at most.
const MOST_HOPS: usize = 32;

/// A document whose references can be followed.
#[derive(Clone, Copy)]
pub(crate) struct Root<'a>(pub(crate) &'a Value);

/// A reference that cannot be followed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// To a file or an address: those are not asked.
    Outside(String),
    /// To nothing.
    Missing(String),
    /// To itself.
    Circular(String),
}

impl Broken {
    pub(crate) fn id(&self) -> &'static str {
        match self {
            Self::Outside(_) => "ref-outside",
            Self::Missing(_) => "ref-missing",
            Self::Circular(_) => "ref-circular",
        }
    }

    pub(crate) fn message(&self) -> String {
        match self {
            Self::Outside(to) => format!("`{to}` lies outside of the document, and nothing outside is read; bundle the document first"),
            Self::Missing(to) => format!("`{to}` names nothing in the document"),
            Self::Circular(to) => format!("`{to}` stands for nothing but itself"),
        }
    }
}

impl<'a> Root<'a> {
    /// What a node stands for: itself, or what its reference names; and the last reference that was followed.
    pub(crate) fn follow(self, node: &'a Value) -> Result<(&'a Value, Option<&'a str>), Broken> {
        let (mut at, mut last) = (node, None);
        for _ in 0..MOST_HOPS {
            let Some(reference) = at.get("$ref").and_then(Value::as_str) else { return Ok((at, last)) };
            at = self.find(reference)?;
            last = Some(reference);
        }
        Err(Broken::Circular(shown(last.unwrap_or_default())))
    }

    fn find(self, reference: &str) -> Result<&'a Value, Broken> {
        let Some(pointer) = reference.strip_prefix('#') else { return Err(Broken::Outside(shown(reference))) };
        let decoded = percent_encoding::percent_decode_str(pointer).decode_utf8_lossy();
        self.0.pointer(&decoded).ok_or_else(|| Broken::Missing(shown(reference)))
    }
}

fn shown(reference: &str) -> String {
    crate::text::line(reference, 200)
}
