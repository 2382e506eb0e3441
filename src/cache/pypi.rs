//! The documents of Python package indexes (the Simple API: PEP 503, 592, 629, 658, 691, 700), read in either
//! form and rendered anew. Nothing of an upstream's HTML is passed on.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;

use crate::{
    digest::{Algorithm, Digest},
    file_names::{Distribution, distribution},
    names::{PypiName, PypiVersion},
};

pub(crate) const JSON: &str = "application/vnd.pypi.simple.v1+json";
pub(crate) const HTML: &str = "application/vnd.pypi.simple.v1+html";
/// What is asked of an upstream.
pub(crate) const ACCEPT: &str = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01";

/// A document that is not what an index sends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PypiError {
    /// Not JSON, or of another shape.
    #[error("the index's document cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Not UTF-8.
    #[error("the index's document is not text")]
    NotText,
    /// PEP 629.
    #[error("the index speaks version {0} of the Simple API, and only 1 is known")]
    OtherMajor(String),
    /// Neither JSON nor HTML.
    #[error("the index answered with something that is neither JSON nor HTML")]
    OtherType,
}

/// A project with the files that can be cached: those with a SHA-256 and a name of their project.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Project {
    pub(crate) files: Vec<File>,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) name: String,
    /// As the name says it; the same for all who ask, so that it is read once.
    pub(crate) version: PypiVersion,
    /// Where it comes from.
    pub(crate) url: Url,
    /// Hexadecimal.
    pub(crate) sha256: String,
    pub(crate) size: Option<u64>,
    pub(crate) requires_python: Option<String>,
    /// The reason, perhaps empty.
    pub(crate) yanked: Option<String>,
    pub(crate) upload_time: Option<String>,
    /// The SHA-256 of `<url>.metadata`, where the index has one.
    pub(crate) metadata_sha256: Option<String>,
    /// Where the index keeps attestations of it (PEP 740).
    #[serde(default)]
    pub(crate) provenance: Option<String>,
}

impl File {
    /// What its bytes have to be.
    pub(crate) fn digest(&self) -> Option<Digest> {
        Digest::from_hex(Algorithm::Sha256, &self.sha256)
    }

    pub(crate) fn published_at(&self) -> Option<DateTime<Utc>> {
        self.upload_time.as_ref()?.parse().ok()
    }

    /// What its name says.
    pub(crate) fn distribution(&self) -> Option<Distribution> {
        distribution(&self.name)
    }
}

impl Project {
    /// Reads what an index answered at `url` (after redirects).
    pub(crate) fn parse(name: &PypiName, url: &Url, content_type: &str, body: &[u8]) -> Result<Self, PypiError> {
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let files = match essence.as_str() {
            JSON | "application/json" => from_json(url, body)?,
            HTML | "text/html" => from_html(url, std::str::from_utf8(body).map_err(|_| PypiError::NotText)?)?,
            _ => return Err(PypiError::OtherType),
        };
        let ours = |file: Stated| {
            let found = distribution(&file.name).filter(|found| found.name == *name)?;
            Digest::from_hex(Algorithm::Sha256, &file.sha256)?;
            // Only a wheel has its metadata beside it, and only with a digest it can be given.
            let is_usable = |text: &String| found.tags.is_some() && Digest::from_hex(Algorithm::Sha256, text).is_some();
            Some(File {
                name: file.name,
                version: found.version,
                url: file.url,
                sha256: file.sha256,
                size: file.size,
                requires_python: file.requires_python,
                yanked: file.yanked,
                upload_time: file.upload_time,
                metadata_sha256: file.metadata_sha256.filter(is_usable),
                provenance: file.provenance,
            })
        };
        let mut seen = HashSet::new();
        Ok(Self { files: files.into_iter().filter_map(ours).filter(|file| seen.insert(file.name.clone())).collect() })
    }

    /// Whether the index says of no file when it was published: its HTML form never does.
    pub(crate) fn is_timeless(&self) -> bool {
        self.files.iter().all(|file| file.upload_time.is_none())
    }

    /// Adds when files were published, and how large they are, from the index's other interface (`/pypi/<name>/json`).
    /// Only what it says of the same bytes counts.
    pub(crate) fn add_times(&mut self, document: &[u8]) -> Result<(), PypiError> {
        let document: JsonReleases = serde_json::from_slice(document)?;
        let stated: BTreeMap<&str, &JsonRelease> =
            document.releases.values().flatten().map(|file| (file.filename.as_str(), file)).collect();
        for file in &mut self.files {
            if let Some(found) = stated.get(file.name.as_str()).filter(|found| found.digests.get("sha256") == Some(&file.sha256)) {
                file.upload_time = file.upload_time.take().or_else(|| found.upload_time_iso_8601.clone());
                file.size = file.size.or(found.size);
            }
        }
        Ok(())
    }

    /// Leaves out files that were published after a moment, or of which nobody says when.
    pub(crate) fn published_before(mut self, moment: Option<DateTime<Utc>>) -> Self {
        if let Some(moment) = moment {
            self.files.retain(|file| file.published_at().is_some_and(|published_at| published_at <= moment));
        }
        self
    }

    /// The files of one version.
    pub(crate) fn of_version(&self, version: &PypiVersion) -> impl Iterator<Item = &File> {
        let wanted = version.key();
        self.files.iter().filter(move |file| file.version.key() == wanted)
    }

    /// The exact version that is asked for, or the newest stable one that is not yanked.
    pub(crate) fn resolve(&self, wanted: Option<&str>) -> Option<PypiVersion> {
        if let Some(wanted) = wanted.filter(|wanted| *wanted != "latest") {
            let version = PypiVersion::parse(wanted).ok()?;
            return self.of_version(&version).next().map(|found| found.version.clone());
        }
        let offered = self.files.iter().filter(|file| file.yanked.is_none()).map(|file| file.version.clone());
        let (stable, unstable): (Vec<_>, Vec<_>) = offered.partition(|version| !version.is_unstable());
        let newest = |versions: Vec<PypiVersion>| versions.into_iter().max_by_key(PypiVersion::key);
        newest(stable).or_else(|| newest(unstable))
    }

    /// The page as JSON; addresses are relative to it.
    pub(crate) fn render_json(&self, name: &PypiName) -> String {
        let files: Vec<Value> = self.files.iter().map(|file| file_json(name, file)).collect();
        let offered: BTreeSet<&str> = self.files.iter().map(|file| file.version.as_str()).collect();
        let mut versions: Vec<&str> = offered.into_iter().collect();
        versions.sort_by_cached_key(|version| PypiVersion::parse(version).ok().and_then(|version| version.key()));
        json!({ "meta": { "api-version": "1.0" }, "name": name.as_str(), "versions": versions, "files": files }).to_string()
    }

    /// The page as HTML.
    pub(crate) fn render_html(&self, name: &PypiName) -> String {
        let links: Vec<String> = self.files.iter().map(|file| file_html(name, file)).collect();
        format!(
            "<!DOCTYPE html>\n<html><head><meta name=\"pypi:repository-version\" content=\"1.0\"><title>Links for {0}</title></head>\n<body><h1>Links for {0}</h1>\n{1}\n</body></html>\n",
            escape(name.as_str()),
            links.join("\n")
        )
    }
}

fn file_html(name: &PypiName, file: &File) -> String {
    let attribute = |attribute: &str, value: &Option<String>| match value {
        Some(value) => format!(" {attribute}=\"{}\"", escape(value)),
        None => String::new(),
    };
    let metadata = file.metadata_sha256.as_ref().map(|sha256| format!("sha256={sha256}"));
    format!(
        "<a href=\"{}#sha256={}\"{}{}{}{}>{}</a><br>",
        escape(&relative_url(name, file)),
        escape(&file.sha256),
        attribute("data-requires-python", &file.requires_python),
        attribute("data-yanked", &file.yanked),
        attribute("data-core-metadata", &metadata),
        attribute("data-dist-info-metadata", &metadata),
        escape(&file.name)
    )
}

fn file_json(name: &PypiName, file: &File) -> Value {
    let mut out = BTreeMap::from([
        ("filename", json!(file.name)),
        ("url", json!(relative_url(name, file))),
        ("hashes", json!({ "sha256": file.sha256 })),
    ]);
    out.extend(file.size.map(|size| ("size", json!(size))));
    out.extend(file.requires_python.as_ref().map(|text| ("requires-python", json!(text))));
    out.extend(file.upload_time.as_ref().map(|text| ("upload-time", json!(text))));
    out.extend(file.yanked.as_ref().map(|reason| ("yanked", if reason.is_empty() { json!(true) } else { json!(reason) })));
    out.extend(file.metadata_sha256.as_ref().map(|sha256| ("core-metadata", json!({ "sha256": sha256 }))));
    json!(out)
}

/// From `/pypi/simple/<name>/` to `/pypi/files/<name>/<version>/<file>`.
fn relative_url(name: &PypiName, file: &File) -> String {
    format!("../../files/{}/{}/{}", name.as_str(), file.version.as_str(), file.name)
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

fn check_version(version: &str) -> Result<(), PypiError> {
    match version.split('.').next() {
        Some("1") => Ok(()),
        _ => Err(PypiError::OtherMajor(version.chars().take(20).collect())),
    }
}

#[derive(Deserialize)]
struct JsonPage {
    meta: JsonMeta,
    files: Vec<JsonFile>,
}

#[derive(Deserialize)]
struct JsonMeta {
    #[serde(rename = "api-version")]
    api_version: String,
}

#[derive(Deserialize)]
struct JsonFile {
    filename: String,
    url: String,
    #[serde(default)]
    hashes: BTreeMap<String, String>,
    size: Option<u64>,
    #[serde(rename = "requires-python")]
    requires_python: Option<String>,
    #[serde(default)]
    yanked: Value,
    #[serde(rename = "upload-time")]
    upload_time: Option<String>,
    #[serde(rename = "core-metadata", default)]
    core_metadata: Value,
    #[serde(rename = "dist-info-metadata", default)]
    dist_info_metadata: Value,
    provenance: Option<String>,
}

/// A file as an index states it, of whatever name.
struct Stated {
    name: String,
    url: Url,
    sha256: String,
    size: Option<u64>,
    requires_python: Option<String>,
    yanked: Option<String>,
    upload_time: Option<String>,
    metadata_sha256: Option<String>,
    provenance: Option<String>,
}

fn from_json(base: &Url, body: &[u8]) -> Result<Vec<Stated>, PypiError> {
    let page: JsonPage = serde_json::from_slice(body)?;
    check_version(&page.meta.api_version)?;
    let hash = |value: &Value| value.get("sha256").and_then(Value::as_str).map(str::to_ascii_lowercase);
    Ok(page
        .files
        .into_iter()
        .filter_map(|file| {
            Some(Stated {
                url: address(base, &file.url)?,
                name: file.filename,
                sha256: file.hashes.get("sha256")?.to_ascii_lowercase(),
                size: file.size,
                requires_python: file.requires_python,
                yanked: match file.yanked {
                    Value::Bool(true) => Some(String::new()),
                    Value::String(reason) => Some(reason),
                    _ => None,
                },
                upload_time: file.upload_time,
                metadata_sha256: hash(&file.core_metadata).or_else(|| hash(&file.dist_info_metadata)),
                provenance: file.provenance,
            })
        })
        .collect())
}

/// What `/pypi/<name>/json` says of files, as far as we ask.
#[derive(Deserialize)]
struct JsonReleases {
    #[serde(default)]
    releases: BTreeMap<String, Vec<JsonRelease>>,
}

#[derive(Deserialize)]
struct JsonRelease {
    filename: String,
    #[serde(default)]
    digests: BTreeMap<String, String>,
    upload_time_iso_8601: Option<String>,
    size: Option<u64>,
}

fn address(base: &Url, text: &str) -> Option<Url> {
    base.join(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"))
}

/// Reads the anchors of a page, and its version where it states one.
fn from_html(base: &Url, text: &str) -> Result<Vec<Stated>, PypiError> {
    let mut files = Vec::new();
    for (tag, attributes, inner) in tags(text) {
        if tag == "meta" && attributes.get("name").is_some_and(|name| name == "pypi:repository-version") {
            check_version(attributes.get("content").map_or("", String::as_str))?;
        }
        let (true, Some(href)) = (tag == "a", attributes.get("href")) else { continue };
        let Some(mut url) = address(base, href) else { continue };
        let Some(sha256) = url.fragment().and_then(|fragment| fragment.strip_prefix("sha256=")).map(str::to_ascii_lowercase) else {
            continue;
        };
        url.set_fragment(None);
        let metadata = attributes.get("data-core-metadata").or_else(|| attributes.get("data-dist-info-metadata"));
        files.push(Stated {
            name: inner.trim().to_owned(),
            url,
            sha256,
            size: None,
            requires_python: attributes.get("data-requires-python").cloned(),
            yanked: attributes.get("data-yanked").cloned(),
            upload_time: None,
            metadata_sha256: metadata.and_then(|text| text.strip_prefix("sha256=")).map(str::to_ascii_lowercase),
            provenance: attributes.get("data-provenance").cloned(),
        });
    }
    Ok(files)
}

/// The start tags of a page, in lower case, with their attributes and the text up to the next tag. Enough
/// for what indexes send; comments and scripts yield tags that nobody looks for.
fn tags(text: &str) -> impl Iterator<Item = (String, BTreeMap<String, String>, String)> {
    text.split('<').skip(1).filter_map(|piece| {
        let end = tag_end(piece)?;
        let (inside, rest) = (&piece[..end], &piece[end + 1..]);
        let name_end = inside.find(|c: char| c.is_ascii_whitespace() || c == '/').unwrap_or(inside.len());
        Some((inside[..name_end].to_ascii_lowercase(), attributes(&inside[name_end..]), unescape(rest)))
    })
}

/// The place of the `>` that ends a tag: one outside of quotes.
fn tag_end(piece: &str) -> Option<usize> {
    let mut quote = None;
    piece.char_indices().find_map(|(at, c)| match (quote, c) {
        (None, '>') => Some(at),
        (None, '"' | '\'') => {
            quote = Some(c);
            None
        }
        (Some(open), c) if c == open => {
            quote = None;
            None
        }
        _ => None,
    })
}

fn attributes(mut text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    loop {
        text = text.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '/');
        let name_end = text.find(|c: char| c.is_ascii_whitespace() || c == '=').unwrap_or(text.len());
        if name_end == 0 {
            return found;
        }
        let name = text[..name_end].to_ascii_lowercase();
        text = text[name_end..].trim_start();
        let mut value = "";
        if let Some(rest) = text.strip_prefix('=') {
            let rest = rest.trim_start();
            let quoted = rest.chars().next().filter(|c| matches!(c, '"' | '\''));
            (value, text) = match quoted {
                Some(quote) => rest[1..].split_once(quote).unwrap_or((&rest[1..], "")),
                None => rest.split_at(rest.find(|c: char| c.is_ascii_whitespace()).unwrap_or(rest.len())),
            };
        }
        found.entry(name).or_insert_with(|| unescape(value));
    }
}

fn unescape(text: &str) -> String {
    if !text.contains('&') {
        return text.to_owned();
    }
    let named = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&#x27;", "'"), ("&amp;", "&")];
    named.iter().fold(text.to_owned(), |text, (entity, character)| text.replace(entity, character))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page(content_type: &str, body: &str) -> Result<Project, PypiError> {
        let url = "https://index.example/simple/mcp-server-time/".parse().unwrap();
        Project::parse(&PypiName::parse("mcp-server-time").unwrap(), &url, content_type, body.as_bytes())
    }

    const SHA: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn json_page() -> String {
        let file = |name: &str, extra: Value| {
            let mut file = json!({ "filename": name, "url": format!("../../files/{name}"), "hashes": { "sha256": SHA } });
            file.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            file
        };
        json!({ "meta": { "api-version": "1.4" }, "name": "mcp-server-time", "files": [
            file("mcp_server_time-1.0.0-py3-none-any.whl", json!({ "requires-python": ">=3.10", "size": 7, "core-metadata": { "sha256": SHA } })),
            file("mcp_server_time-1.1.0-py3-none-any.whl", json!({ "yanked": "broken <b>" })),
            file("mcp_server_time-1.2.0rc1.tar.gz", json!({})),
            file("other-1.0.0.tar.gz", json!({})),
            { "filename": "mcp_server_time-0.9.tar.gz", "url": "x", "hashes": { "md5": "0" } },
            file("../mcp_server_time-1.0.0.tar.gz", json!({})),
        ] }).to_string()
    }

    #[test]
    fn a_page_is_read_in_either_form_and_rendered_in_both() {
        let project = page(JSON, &json_page()).unwrap();
        let names: Vec<&str> = project.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(
            names,
            ["mcp_server_time-1.0.0-py3-none-any.whl", "mcp_server_time-1.1.0-py3-none-any.whl", "mcp_server_time-1.2.0rc1.tar.gz"]
        );
        assert_eq!(project.files[0].url.as_str(), "https://index.example/files/mcp_server_time-1.0.0-py3-none-any.whl");
        assert_eq!(project.resolve(None).unwrap().as_str(), "1.0.0", "neither yanked nor unstable");
        assert_eq!(project.resolve(Some("1.1")).unwrap().as_str(), "1.1.0");
        assert_eq!(project.resolve(Some("3.0")), None);

        let name = PypiName::parse("mcp-server-time").unwrap();
        let html = project.render_html(&name);
        assert!(html.contains("data-yanked=\"broken &lt;b&gt;\""), "{html}");
        // What we render can be read again, at the place of our own files.
        let url: Url = "http://fabric/pypi/simple/mcp-server-time/".parse().unwrap();
        let from_html = Project::parse(&name, &url, "text/html; charset=utf-8", html.as_bytes()).unwrap();
        let from_json = Project::parse(&name, &url, JSON, project.render_json(&name).as_bytes()).unwrap();
        assert_eq!(
            from_html.files[0].url.as_str(),
            "http://fabric/pypi/files/mcp-server-time/1.0.0/mcp_server_time-1.0.0-py3-none-any.whl"
        );
        for (html, json) in from_html.files.iter().zip(&from_json.files) {
            assert_eq!((&html.name, &html.url, &html.sha256, &html.yanked), (&json.name, &json.url, &json.sha256, &json.yanked));
            assert_eq!((&html.requires_python, &html.metadata_sha256), (&json.requires_python, &json.metadata_sha256));
        }
    }

    #[test]
    fn other_answers_are_refused() {
        assert!(matches!(page(JSON, r#"{"meta":{"api-version":"2.0"},"files":[]}"#), Err(PypiError::OtherMajor(_))));
        assert!(matches!(page("text/html", "<meta name='pypi:repository-version' content=\"2.0\">"), Err(PypiError::OtherMajor(_))));
        assert!(matches!(page("image/png", ""), Err(PypiError::OtherType)));
        assert!(page(JSON, "<html>").is_err());
        let wicked = format!("<a href=\"file:///etc/passwd#sha256={SHA}\">mcp_server_time-1.0.0.tar.gz</a>");
        assert_eq!(page("text/html", &wicked).unwrap().files, []);
    }

    proptest! {
        #[test]
        fn any_page_is_read_without_harm(text in "(<a href=\"|<a href='|#sha256=|</a>|>|\\PC){0,60}") {
            page("text/html", &text).ok();
            page(JSON, &text).ok();
        }
    }
}
