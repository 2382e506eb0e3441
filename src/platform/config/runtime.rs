//! Settings of installations and of what runs.

use super::{ConfigError, Layers, parse::FromSetting};

/// A package that a new fabric installs by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstPackage {
    /// Of npm.
    pub package: String,
    /// The id of the server to be.
    pub server: String,
}

impl FromSetting for FirstPackage {
    fn from_setting(text: &str) -> Result<Self, String> {
        let (package, server) = text.split_once('|').unwrap_or((text, text));
        let (package, server) = (package.trim(), server.trim());
        if package.is_empty() || server.is_empty() {
            return Err("is not a list of `package|server name`, parted by commas".into());
        }
        Ok(Self { package: package.to_owned(), server: server.to_owned() })
    }
}

/// `INSTALL_ON_START`; `off` for none.
pub(super) fn install_on_start(layers: &Layers) -> Result<Vec<FirstPackage>, ConfigError> {
    let list: Vec<FirstPackage> = layers.list("INSTALL_ON_START")?;
    Ok(list.into_iter().filter(|first| first.package != "off").collect())
}
