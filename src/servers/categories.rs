//! Categories by rule: a server belongs to each category one of whose keywords it mentions.

use std::{collections::HashSet, path::Path};

use platform::files::{FileError, read_if_present};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

const DEFAULT_RULES: &str = include_str!("../../config/categories.toml");
/// Where nothing fits.
const OTHER: &str = "other";

/// The rules of `config/categories.toml`.
#[derive(Clone, Debug)]
pub struct Rules {
    categories: Vec<Category>,
    /// SHA-256 of the file, so that servers that older rules sorted are found.
    pub(crate) hash: [u8; 32],
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Category {
    name: String,
    keywords: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    category: Vec<Category>,
}

/// The rules cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not of the form of a rules file.
    #[error("{0} is not a list of [[category]] with a name and keywords: {1}")]
    Form(String, String),
}

impl Rules {
    /// `categories.toml` in the configuration folder, else the built-in ones.
    pub fn load(config_dir: &Path) -> Result<Self, RulesError> {
        let path = config_dir.join("categories.toml");
        let text = read_if_present(&path)?;
        let Some(text) = text else {
            return Self::parse(DEFAULT_RULES).map_err(|reason| RulesError::Form("the built-in file".into(), reason));
        };
        Self::parse(&text).map_err(|reason| RulesError::Form(path.display().to_string(), reason))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        Ok(Self { categories: file.category, hash: Sha256::digest(text.as_bytes()).into() })
    }

    /// The categories of a server, in the order of the rules.
    pub(crate) fn sort(&self, id: &str, title: Option<&str>, description: &str) -> Vec<String> {
        // The namespace says who publishes it (`io.github.…`), not what it is about.
        let name = id.rsplit('/').next().unwrap_or_default();
        let text = format!("{name} {} {description}", title.unwrap_or_default()).to_lowercase();
        let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
        let known: HashSet<&str> = words.iter().copied().collect();
        let phrases = format!(" {} ", words.join(" "));
        let mentions = |keyword: &String| {
            if keyword.contains(' ') { phrases.contains(&format!(" {keyword} ")) } else { known.contains(keyword.as_str()) }
        };
        let found: Vec<String> = self
            .categories
            .iter()
            .filter(|category| category.keywords.iter().any(mentions))
            .map(|category| category.name.clone())
            .collect();
        if found.is_empty() { vec![OTHER.into()] } else { found }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_words_and_phrases_decide() {
        let rules =
            Rules::parse("[[category]]\nname = 'data'\nkeywords = ['sql', 'data base']\n[[category]]\nname = 'code'\nkeywords = ['git']\n")
                .unwrap();
        assert_eq!(rules.sort("io.x/sql-git", None, ""), ["data", "code"]);
        assert_eq!(rules.sort("io.x/mysqlish", Some("A Data-Base"), "digit"), ["data"]);
        assert_eq!(rules.sort("io.github.x/y", None, "digital"), ["other"]);
    }

    #[test]
    fn the_built_in_rules_parse() {
        let rules = Rules::parse(DEFAULT_RULES).unwrap();
        assert!(rules.sort("filesystem", None, "Secure file operations").contains(&"files".to_owned()));
    }
}
