//! The servers that are there from the first start, also without any upstream.

use std::path::Path;

use platform::files::{FileError, read_if_present};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    document::{Entry, parse_entry},
    model::Origin,
};

const BUILT_IN: &str = include_str!("../../config/predefined.json");

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    servers: Vec<&'a RawValue>,
}

/// The predefined servers cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PredefinedError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not of the form of a list of entries.
    #[error("{0} is not of the form {{\"servers\": […]}}: {1}")]
    Form(String, String),
}

/// `predefined.json` of the configuration folder, else the built-in list.
pub(crate) fn load(config_dir: &Path) -> Result<Vec<Entry>, PredefinedError> {
    let path = config_dir.join("predefined.json");
    let text = read_if_present(&path)?;
    parse(text.as_deref().unwrap_or(BUILT_IN)).map_err(|reason| PredefinedError::Form(path.display().to_string(), reason))
}

fn parse(text: &str) -> Result<Vec<Entry>, String> {
    let file: File = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let read = |raw: &&RawValue| {
        let entry = parse_entry(raw, Origin::Predefined);
        let entry = entry.map_err(|skip| format!("entry {}: {:?}", skip.name.unwrap_or_default(), skip.reason))?;
        Ok(Entry { is_latest: Some(true), ..entry })
    };
    file.servers.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_servers_are_acceptable_documents() {
        let entries = parse(BUILT_IN).unwrap();
        let ids: Vec<&str> = entries.iter().map(|entry| entry.id.as_str()).collect();
        assert_eq!(ids, ["everything", "filesystem", "memory", "sequential-thinking", "time", "git", "fetch"]);
        for entry in entries {
            let report = crate::validate::validate(entry.document.as_bytes());
            assert!(report.valid, "{}: {:?}", entry.id, report.issues);
        }
    }
}
