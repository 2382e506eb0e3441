//! An image for containers: those of a base, which comes verified out of the package cache, and one more layer with the
//! server. It is written as an archive of OCI's image layout, which engines load; no engine is needed to make it.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    path::Path,
};

use cache::Supply;
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};

use crate::{
    digest::sha256_hex,
    generate::{Files, Language, entry},
    make,
    spec::ServerSpec,
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const LARGEST_DOCUMENT: u64 = 4 << 20;

/// What the image is called.
pub(crate) fn name(spec: &ServerSpec) -> String {
    format!("{}/{}:{}", cache::MADE_HERE, spec.name, spec.version)
}

/// Writes the archive.
pub(crate) fn write(spec: &ServerSpec, files: &Files, language: Language, base: &Supply, to: &Path) -> io::Result<()> {
    let of_base: BTreeMap<&str, &Path> = base.parts.iter().map(|part| (part.sha256.as_str(), part.path.as_path())).collect();
    let read = |digest: &str| -> io::Result<Value> {
        let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
        let path = of_base.get(hex).ok_or_else(|| unfit("a part of the base image is not in the cache"))?;
        if fs::metadata(path)?.len() > LARGEST_DOCUMENT {
            return Err(unfit("a document of the base image is too large"));
        }
        serde_json::from_slice(&fs::read(path)?).map_err(|_| unfit("a document of the base image is not JSON"))
    };
    let manifest = read(&base.version)?;
    let (layer, diff_id) = layer(files, language)?;
    let mut config = read(manifest["config"]["digest"].as_str().unwrap_or_default())?;
    settle(&mut config, spec, language, &diff_id);
    let config = config.to_string().into_bytes();
    let mut layers = manifest["layers"].as_array().cloned().ok_or_else(|| unfit("the base image has no layers"))?;
    let described =
        |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": format!("sha256:{}", sha256_hex(bytes)), "size": bytes.len() });
    let inherited: Vec<String> =
        layers.iter().filter_map(|layer| layer["digest"].as_str()?.strip_prefix("sha256:").map(str::to_owned)).collect();
    layers.push(described(LAYER, &layer));
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": described(CONFIG, &config), "layers": layers })
        .to_string()
        .into_bytes();
    let mut whole = described(MANIFEST, &manifest);
    whole["annotations"] = json!({ "org.opencontainers.image.ref.name": name(spec), "io.containerd.image.name": name(spec) });
    let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [whole] });
    let place = |hex: &str| format!("blobs/sha256/{hex}");
    let paths: Vec<String> = inherited.iter().cloned().chain([sha256_hex(&layer)]).map(|hex| place(&hex)).collect();
    // What older engines look for.
    let loaded = json!([{ "Config": place(&sha256_hex(&config)), "RepoTags": [name(spec)], "Layers": paths }]);

    let mut tar = tar::Builder::new(io::BufWriter::new(fs::File::create(to)?));
    let mut add = |name: &str, bytes: &[u8]| tar.append_data(&mut header(bytes.len() as u64, 0o644), name, bytes);
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    add("index.json", index.to_string().as_bytes())?;
    add("manifest.json", loaded.to_string().as_bytes())?;
    for bytes in [&config, &manifest, &layer] {
        add(&place(&sha256_hex(bytes)), bytes)?;
    }
    let mut written = std::collections::BTreeSet::new();
    for hex in inherited {
        if written.insert(hex.clone()) {
            let file = fs::File::open(of_base.get(hex.as_str()).ok_or_else(|| unfit("a layer of the base image is not in the cache"))?)?;
            let size = file.metadata()?.len();
            tar.append_data(&mut header(size, 0o644), place(&hex), file)?;
        }
    }
    let mut file = tar.into_inner()?;
    file.flush()?;
    file.get_ref().sync_all()
}

fn unfit(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// The layer with the server, and the digest of what it unpacks to.
fn layer(files: &Files, language: Language) -> io::Result<(Vec<u8>, String)> {
    let program = files.get(entry(language)).ok_or_else(|| unfit("the project has no program"))?;
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header(program.len() as u64, 0o755), place(language).trim_start_matches('/'), &program[..])?;
    let plain = tar.into_inner()?;
    let mut gzip = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::best());
    gzip.write_all(&plain)?;
    Ok((gzip.finish()?, format!("sha256:{}", sha256_hex(&plain))))
}

fn place(language: Language) -> &'static str {
    match language {
        Language::Node => "/app/server.mjs",
        Language::Python => "/app/server.py",
    }
}

/// The configuration of the base with the server as its program, as nobody.
fn settle(config: &mut Value, spec: &ServerSpec, language: Language, diff_id: &str) {
    let program = match language {
        Language::Node => "node",
        Language::Python => "python3",
    };
    for name in ["config", "rootfs"] {
        if !config[name].is_object() {
            config[name] = json!({});
        }
    }
    if !config["rootfs"]["diff_ids"].is_array() {
        config["rootfs"] = json!({ "type": "layers", "diff_ids": [] });
    }
    if let Some(ids) = config["rootfs"]["diff_ids"].as_array_mut() {
        ids.push(diff_id.into());
    }
    let own = &mut config["config"];
    own["Entrypoint"] = json!([program, place(language)]);
    own["Cmd"] = Value::Null;
    own["WorkingDir"] = "/app".into();
    own["User"] = "65534:65534".into();
    if !own["Labels"].is_object() {
        own["Labels"] = json!({});
    }
    own["Labels"]["io.modelcontextprotocol.server.name"] = make::registry_name(&spec.name).into();
    own["Labels"]["org.opencontainers.image.version"] = spec.version.clone().into();
    if let Some(history) = config["history"].as_array_mut() {
        history.push(json!({ "created_by": format!("mcp-fabric {}", env!("CARGO_PKG_VERSION")) }));
    }
}
