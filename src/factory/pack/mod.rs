//! From a project to what people install: an archive for npm, a bundle for MCP clients, and the documents beside them. The
//! same specification gives the same bytes.

mod archive;
mod documents;
pub(crate) mod image;

use std::io;

use serde_json::Value;

use crate::{
    digest::sha256_hex,
    generate::{Files, Language},
    spec::ServerSpec,
};

pub(crate) use documents::claude_config;

/// What was packed.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    /// The project with all documents, as it lies in its folder.
    pub(crate) files: Files,
    /// `<name>-<version>.tgz`.
    pub(crate) archive: Vec<u8>,
    /// `<name>-<version>.mcpb`.
    pub(crate) bundle: Vec<u8>,
    /// What the registry has of it: a `server.json` whose package is the bundle.
    pub(crate) document: Value,
    /// `manifest.json`.
    pub(crate) manifest: Value,
}

/// Where things will be, which documents say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places<'a> {
    /// The absolute path of the archive.
    pub(crate) archive: &'a str,
    /// The address of the bundle.
    pub(crate) bundle_url: &'a str,
}

/// `<name>-<version>.tgz`.
pub(crate) fn archive_name(spec: &ServerSpec) -> String {
    format!("{}-{}.tgz", spec.name, spec.version)
}

/// `<name>-<version>.oci.tar`.
pub(crate) fn image_name(spec: &ServerSpec) -> String {
    format!("{}-{}.oci.tar", spec.name, spec.version)
}

/// `<name>-<version>.mcpb`.
pub(crate) fn bundle_name(spec: &ServerSpec) -> String {
    format!("{}-{}.mcpb", spec.name, spec.version)
}

/// Packs a project.
pub(crate) fn pack(spec: &ServerSpec, mut files: Files, language: Language, places: Places<'_>) -> io::Result<Packed> {
    let bundle = archive::bundle(spec, &files, language)?;
    let document = documents::server_json(spec, places.bundle_url, &sha256_hex(&bundle));
    let mut add = |name: &str, value: &Value| files.insert(name.to_owned(), format!("{value:#}\n").into_bytes());
    add("server.json", &document);
    add("server-spec.json", &serde_json::to_value(spec)?);
    add("sbom.cdx.json", &documents::sbom(spec, language));
    // In the archive, what is beside it lies wherever it was put.
    add("manifest.json", &documents::manifest(spec, language, None, None));
    let archive = archive::tarball(&files, crate::generate::entry(language))?;
    let manifest = documents::manifest(spec, language, Some(places.archive), Some((&sha256_hex(&archive), &sha256_hex(&bundle))));
    Ok(Packed { files, archive, bundle, document, manifest })
}
