//! Archives whose bytes depend on nothing but what is in them: sorted names, no owners, one time.

use std::io::{self, Write as _};

use flate2::{Compression, GzBuilder};
use zip::{CompressionMethod, DateTime, ZipWriter, write::SimpleFileOptions};

use super::documents;
use crate::{
    generate::{Files, Language, entry},
    spec::ServerSpec,
};

/// An archive as npm has them: everything below `package/`.
pub(super) fn tarball(files: &Files, program: &str) -> io::Result<Vec<u8>> {
    // A fixed header: neither a time nor the system's name is in it.
    let writer = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::best());
    let mut tar = tar::Builder::new(writer);
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(if name == program { 0o755 } else { 0o644 });
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        tar.append_data(&mut header, format!("package/{name}"), &bytes[..])?;
    }
    tar.into_inner()?.finish()
}

/// A bundle of MCPB: its manifest, and what runs.
pub(super) fn bundle(spec: &ServerSpec, files: &Files, language: Language) -> io::Result<Vec<u8>> {
    let program = entry(language);
    let manifest = format!("{:#}\n", documents::bundle_manifest(spec, language)).into_bytes();
    let kept = files.iter().filter(|(name, _)| *name == program || *name == "README.md");
    let all: std::collections::BTreeMap<&str, &[u8]> =
        kept.map(|(name, bytes)| (name.as_str(), bytes.as_slice())).chain([("manifest.json", manifest.as_slice())]).collect();
    let mut zip = ZipWriter::new(io::Cursor::new(Vec::new()));
    for (name, bytes) in all {
        let mode = if name == program { 0o755 } else { 0o644 };
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .compression_level(Some(9))
            .last_modified_time(DateTime::default())
            .unix_permissions(mode);
        zip.start_file(name, options)?;
        zip.write_all(bytes)?;
    }
    Ok(zip.finish()?.into_inner())
}
