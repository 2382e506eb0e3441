//! Names of container images and of MCP bundles: the grammar of OCI references (distribution spec, "Pulling
//! manifests"; the short forms are Docker's), and addresses of release files.

use std::fmt;

use crate::{
    digest::BlobId,
    names::{InvalidName, is_reserved},
};

/// What names without a host stand for.
const HUB: &str = "docker.io";
/// The longest name with its host, by the specification.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;
const MAX_ADDRESS: usize = 1024;

/// The host and repository of an image: `docker.io/library/alpine`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OciName {
    text: String,
    /// Where the host ends in `text`.
    host: usize,
}

impl OciName {
    /// Takes the short forms of Docker Hub (`alpine`, `owner/image`), too.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidName> {
        let (host, path) = match text.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host.to_ascii_lowercase(), path.to_owned()),
            _ => (HUB.to_owned(), text.to_owned()),
        };
        let host = if matches!(host.as_str(), "index.docker.io" | "registry-1.docker.io") { HUB.to_owned() } else { host };
        let path = if host == HUB && !path.contains('/') { format!("library/{path}") } else { path };
        let ok = is_host(&host) && path.split('/').all(is_component) && host.len() + 1 + path.len() <= MAX_NAME;
        if ok { Ok(Self { text: format!("{host}/{path}"), host: host.len() }) } else { Err(InvalidName::OciName) }
    }

    /// The same where no colon can stand: in paths of `/v2/`, and of folders. There `host_5000` is `host:5000`.
    pub(crate) fn parse_path(text: &str) -> Result<Self, InvalidName> {
        let named = text.split_once('/').and_then(|(host, path)| {
            let (name, port) = host.rsplit_once('_')?;
            port.parse::<u16>().is_ok().then(|| format!("{name}:{port}/{path}"))
        });
        Self::parse(named.as_deref().unwrap_or(text))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Its registry, with a port where one is named.
    pub(crate) fn host(&self) -> &str {
        &self.text[..self.host]
    }

    /// Its name there.
    pub(crate) fn repository(&self) -> &str {
        &self.text[self.host + 1..]
    }

    pub(crate) fn is_on_hub(&self) -> bool {
        self.host() == HUB
    }
}

fn is_host(host: &str) -> bool {
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    name.split('.').all(is_label) && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, and nothing that could be taken for the folder of a version.
fn is_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let edges = bytes.first().copied().is_some_and(is_word) && bytes.last().copied().is_some_and(is_word);
    let separators = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).filter(|run| !run.is_empty());
    let mut separators = separators.peekable();
    edges
        && separators.all(|run| matches!(run, "." | "_" | "__") || run.bytes().all(|b| b == b'-'))
        && !is_reserved(text)
        && text.strip_prefix("sha256-").is_none_or(|hex| hex.len() != 64)
}

/// What of a repository is meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum OciAt {
    /// Whatever bears this tag now.
    Tag(String),
    /// These bytes.
    Digest(Pinned),
}

impl OciAt {
    /// As it stands in paths: a tag, or `sha256:<hex>`.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidName> {
        if text.contains(':') {
            return Pinned::parse(text).map(Self::Digest);
        }
        let is_inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let ok = text.len() <= MAX_TAG && text.bytes().all(is_inner) && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        if ok { Ok(Self::Tag(text.to_owned())) } else { Err(InvalidName::OciTag) }
    }
}

impl fmt::Display for OciAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(pinned) => f.write_str(pinned.as_str()),
        }
    }
}

/// Bytes by their digest: `sha256:` and 64 lowercase hexadecimal digits; other algorithms are not in use.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Pinned {
    text: String,
    blob: BlobId,
}

impl Pinned {
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidName> {
        let hex = text.strip_prefix("sha256:").filter(|hex| !hex.bytes().any(|b| b.is_ascii_uppercase()));
        hex.and_then(BlobId::from_hex).map(Self::of).ok_or(InvalidName::Digest)
    }

    pub(crate) fn of(blob: BlobId) -> Self {
        Self { text: format!("sha256:{}", blob.hex()), blob }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn blob(&self) -> &BlobId {
        &self.blob
    }
}

/// One image by name: `[host[:port]/]repository[:tag][@sha256:<hex>]`; a digest counts more than a tag.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OciReference {
    pub(crate) name: OciName,
    pub(crate) at: OciAt,
}

impl OciReference {
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidName> {
        let (rest, digest) = text.split_once('@').map_or((text, None), |(rest, digest)| (rest, Some(digest)));
        let (name, tag) = match rest.rsplit_once(':') {
            // A colon before the last slash belongs to a port.
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        let tag = OciAt::parse(tag.unwrap_or("latest")).ok().filter(|at| matches!(at, OciAt::Tag(_))).ok_or(InvalidName::OciTag)?;
        let at = digest.map(Pinned::parse).transpose()?.map_or(tag, OciAt::Digest);
        Ok(Self { name: OciName::parse(name)?, at })
    }

    pub(crate) fn is_fixed(&self) -> bool {
        matches!(self.at, OciAt::Digest(_))
    }
}

impl fmt::Display for OciReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joint = if self.is_fixed() { '@' } else { ':' };
        write!(f, "{}{joint}{}", self.name.as_str(), self.at)
    }
}

/// The address of a bundle in a release, without its scheme: `github.com/owner/repo/releases/download/v1/x.mcpb`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BundleName(String);

impl BundleName {
    /// Takes a URL without user, query and fragment; every segment of it becomes a folder.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidName> {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
        let is_segment = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '@' || c == '_')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b'+' | b'@' | b'-'))
                && !is_reserved(part)
        };
        let ok = rest.len() <= MAX_ADDRESS
            && rest.split_once('/').is_some_and(|(host, path)| is_host(&host.to_ascii_lowercase()) && path.split('/').all(is_segment));
        let (host, path) = rest.split_once('/').filter(|_| ok).ok_or(InvalidName::Bundle)?;
        Ok(Self(format!("{}/{path}", host.to_ascii_lowercase())))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn host(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    /// The last segment.
    pub(crate) fn file(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn references_are_read_as_docker_reads_them() {
        for (text, full) in [
            ("alpine", "docker.io/library/alpine:latest".to_owned()),
            ("owner/image:1.0", "docker.io/owner/image:1.0".to_owned()),
            ("index.docker.io/owner/image", "docker.io/owner/image:latest".to_owned()),
            ("ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1".to_owned()),
            ("localhost/x", "localhost/x:latest".to_owned()),
            ("127.0.0.1:5000/a__b/c-d", "127.0.0.1:5000/a__b/c-d:latest".to_owned()),
            (&format!("ghcr.io/a/b:1@sha256:{HEX}"), format!("ghcr.io/a/b@sha256:{HEX}")),
        ] {
            assert_eq!(OciReference::parse(text).unwrap().to_string(), full);
        }
        for bad in [
            "",
            "/",
            "a//b",
            "A/b",
            "ghcr.io/../etc",
            "ghcr.io/a..b",
            "ghcr.io/-a",
            "ghcr.io/a_",
            "ghcr.io/a___b",
            "ghcr.io/con",
            "ghcr.io/a:b/c",
            "ghcr.io/a:-x",
            "ghcr.io/a@sha256:abc",
            "ghcr.io/a@md5:d41d8cd98f00b204e9800998ecf8427e",
            "host:99999/a",
            "ghcr.io/а",
            "ghcr.io/a\0",
            "user@ghcr.io/a",
        ] {
            assert!(OciReference::parse(bad).is_err(), "{bad}");
        }
        assert!(OciName::parse(&format!("ghcr.io/sha256-{HEX}")).is_err(), "it would lie in the folder of a version");
        assert!(OciName::parse(&format!("ghcr.io/{}", "a".repeat(300))).is_err());
        assert_eq!(OciName::parse_path("127.0.0.1_5000/a/b").unwrap().as_str(), "127.0.0.1:5000/a/b");
        assert_eq!(OciName::parse_path("my_image").unwrap().as_str(), "docker.io/library/my_image");
    }

    #[test]
    fn addresses_of_bundles_are_plain() {
        let name = BundleName::parse("https://GitHub.com/Acme/tool/releases/download/v1.0.0/Tool-1.0.0.mcpb").unwrap();
        assert_eq!((name.host(), name.file()), ("github.com", "Tool-1.0.0.mcpb"));
        for bad in [
            "https://github.com",
            "https://github.com/",
            "https://u:p@github.com/x",
            "https://github.com/a/../b",
            "https://github.com/a?b",
            "https://github.com/a%2fb",
            "https://github.com/.git/x",
            "https://github.com/-rf",
            "file:///etc/passwd",
            "https://github.com/a//b",
            "https://github.com/con/x",
        ] {
            assert!(BundleName::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_the_same_and_stays_below_its_folder(text in "[a-z0-9./:@_-]{0,60}") {
            if let Ok(reference) = OciReference::parse(&text) {
                let again = OciReference::parse(&reference.to_string()).unwrap();
                prop_assert_eq!(&again, &reference);
                prop_assert!(reference.name.as_str().split('/').all(|part| !part.is_empty() && !part.starts_with('.')));
            }
            if let Ok(name) = BundleName::parse(&text) {
                prop_assert!(name.as_str().split('/').all(|part| !part.is_empty() && !part.starts_with('.')));
            }
        }
    }
}
