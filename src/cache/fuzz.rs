//! The parsers of data from outside, for the fuzzer: whatever they are given, they end, and what they give
//! back keeps their promises.

use crate::{
    file_names::{FileName, distribution},
    names::{NpmName, NpmVersion, Package, PypiName, PypiVersion, RegistryType},
    npm::{Asked, Packument},
    oci::Manifest,
    pypi::{HTML, JSON, Project},
    realms::Accounts,
    reference::OciReference,
    signatures::Keys,
    sources::Npmrc,
};

/// What an npm registry answers, and what a client asks below `/npm/`.
///
/// # Panics
/// When a promise is not kept.
pub fn npm(data: &[u8]) {
    let Ok(name) = NpmName::parse("tool") else { return };
    if let Ok(packument) = Packument::parse(&name, data) {
        for form in [true, false] {
            if let Ok(rendered) = packument.render("http://fabric/npm", form, form) {
                assert!(Packument::parse(&name, rendered.as_bytes()).is_ok());
            }
        }
        if let Ok(version) = packument.resolve("latest") {
            packument.tarball(&version, true).ok();
        }
    }
    Asked::parse(&String::from_utf8_lossy(data));
}

/// What a Python index answers, in either form.
///
/// # Panics
/// When a promise is not kept.
pub fn pypi(data: &[u8]) {
    let (Ok(name), Ok(url)) = (PypiName::parse("tool"), "https://index.example/simple/tool/".parse()) else { return };
    for form in [JSON, HTML] {
        let Ok(project) = Project::parse(&name, &url, form, data) else { continue };
        let again = Project::parse(&name, &url, JSON, project.render_json(&name).as_bytes());
        assert_eq!(again.map(|again| again.files.len()).ok(), Some(project.files.len()));
        project.resolve(None);
        project.render_html(&name);
    }
}

/// Names, versions and file names: what parses stays below its folder.
///
/// # Panics
/// When a promise is not kept.
pub fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (name, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let (version, file) = rest.split_once('\n').unwrap_or((rest, ""));
    for registry in RegistryType::ALL {
        if let Ok(package) = Package::parse(registry, name, version) {
            assert!(package.folder().components().all(|part| matches!(part, std::path::Component::Normal(_))));
            if let Ok(file) = FileName::parse(&package, file) {
                assert!(file.place().components().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }
    }
    NpmVersion::parse(&text).ok();
    PypiVersion::parse(&text).ok();
    distribution(&text);
}

/// Names of images, manifests and what else container registries send.
///
/// # Panics
/// When a promise is not kept.
pub fn oci(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(reference) = OciReference::parse(&text) {
        assert_eq!(OciReference::parse(&reference.to_string()), Ok(reference));
    }
    if let Ok(Manifest::Image(image)) = Manifest::parse(data) {
        assert!(image.parts().len() <= image.layers.len() + 1);
    }
    Accounts::parse(data);
    Keys::parse(data).ok();
}

/// An `.npmrc`.
pub fn npmrc(data: &[u8]) {
    if let Ok(url) = "https://h.example/npm/".parse() {
        Npmrc::parse(&String::from_utf8_lossy(data), |_| None).auth(&url);
    }
}
