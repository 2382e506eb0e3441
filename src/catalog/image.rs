//! What a server is made of, in one text: an OCI reference, or `<type>:<identifier>@<version>`.

use serde_json::{Value, json};
use servers::{Places, ServerPackage};

/// Types that stand before an identifier; a text without one of them is an OCI reference.
const TYPES: [&str; 2] = ["npm", "pypi"];

/// An image, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    registry_type: &'static str,
    identifier: String,
    version: Option<String>,
}

impl Image {
    /// Reads one; says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        if text.is_empty() || text.len() > 500 || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err("must be an OCI reference (ghcr.io/acme/tool:1.0.0), or npm:<name>@<version>, or pypi:<name>@<version>");
        }
        let typed = text.split_once(':').and_then(|(kind, rest)| Some((TYPES.into_iter().find(|known| *known == kind)?, rest)));
        let Some((registry_type, rest)) = typed else {
            let identifier = text.strip_prefix("oci:").or_else(|| text.strip_prefix("docker:")).unwrap_or(text);
            return Ok(Self { registry_type: "oci", identifier: identifier.to_owned(), version: None });
        };
        // The scope of an npm package begins with the same sign.
        let (identifier, version) = match rest.rfind('@').filter(|at| *at > 0) {
            Some(at) => (&rest[..at], Some(rest[at + 1..].to_owned())),
            None => (rest, None),
        };
        let version = version.filter(|version| !version.is_empty());
        if identifier.is_empty() || version.is_none() {
            return Err("needs a name and a version behind its type, as in npm:@acme/tool@1.0.0");
        }
        Ok(Self { registry_type, identifier: identifier.to_owned(), version })
    }

    /// The same as an entry of a document.
    pub(crate) fn package(&self) -> Value {
        let mut package = json!({ "registryType": self.registry_type, "identifier": self.identifier, "transport": { "type": "stdio" } });
        if let Some(version) = &self.version {
            package["version"] = version.as_str().into();
        }
        package
    }

    /// The version that it names; of an OCI reference, its tag, if that looks like one.
    pub(crate) fn version(&self) -> Option<&str> {
        let tag = || {
            let path = self.identifier.split('@').next()?.rsplit('/').next()?;
            let (_, tag) = path.split_once(':')?;
            tag.starts_with(|c: char| c.is_ascii_digit()).then_some(tag)
        };
        self.version.as_deref().or_else(tag)
    }
}

/// The image of a server: of its first package, else its address elsewhere.
pub(crate) fn image_of(places: &Places, server: &str) -> Option<String> {
    let shown = |package: &ServerPackage| match (package.registry_type.as_str(), &package.version) {
        ("oci" | "docker", None) => package.identifier.clone(),
        (kind, Some(version)) => format!("{kind}:{}@{version}", package.identifier),
        (kind, None) => format!("{kind}:{}", package.identifier),
    };
    places.packages.get(server).map(shown).or_else(|| places.remotes.get(server).cloned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_references_or_packages_with_their_type() {
        let parsed = |text: &str| {
            Image::parse(text).map(|image| (image.registry_type, image.identifier.clone(), image.version().map(str::to_owned)))
        };
        let oci = |reference: &str, version: Option<&str>| Ok(("oci", reference.to_owned(), version.map(str::to_owned)));
        assert_eq!(parsed("ghcr.io/acme/tool:1.2.3"), oci("ghcr.io/acme/tool:1.2.3", Some("1.2.3")));
        assert_eq!(parsed("localhost:5000/tool"), oci("localhost:5000/tool", None));
        assert_eq!(parsed("mcp/time:latest"), oci("mcp/time:latest", None));
        assert_eq!(parsed("oci:mcp/time"), oci("mcp/time", None));
        assert_eq!(parsed("npm:@acme/tool@1.0.0"), Ok(("npm", "@acme/tool".into(), Some("1.0.0".into()))));
        assert_eq!(parsed("pypi:mcp-server-time@2.0"), Ok(("pypi", "mcp-server-time".into(), Some("2.0".into()))));
        for wrong in ["", " ", "a b", "npm:", "npm:@acme/tool", "npm:tool", "npm:tool@", "a\nb"] {
            assert!(Image::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
