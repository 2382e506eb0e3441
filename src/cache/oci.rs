//! The documents of container registries (OCI image spec 1.1, and Docker's forms of the same): what an
//! image consists of, and the files beside its parts that make its folder an OCI image layout.

use platform::config::Target;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{digest::BlobId, reference::Pinned};

pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// What is asked of a registry.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
/// The most parts that an image may have, and the most images that an index may list.
const MAX_PARTS: usize = 1000;

/// A document that is not what a container registry sends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OciError {
    /// Not JSON, or of another shape.
    #[error("the registry's manifest cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Of the first generation, whose digests are of something else.
    #[error("the registry answered with a manifest of another generation than 2")]
    OtherGeneration,
    /// Neither an image nor an index.
    #[error("the registry answered with a manifest of another kind ({0})")]
    OtherKind(String),
    /// A part without a usable digest.
    #[error("the manifest names a part by no SHA-256 digest")]
    NoDigest,
    /// Too much of it.
    #[error("the manifest has more than {MAX_PARTS} entries")]
    TooMany,
}

/// A part of an image, or an image of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) digest: Pinned,
    pub(crate) size: u64,
    media_type: String,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    media_type: &'static str,
    pub(crate) config: Part,
    pub(crate) layers: Vec<Part>,
}

/// What stands under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Manifest {
    /// Images for several platforms.
    Index(Index),
    /// An image.
    Image(Image),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Index {
    media_type: &'static str,
    entries: Vec<(Part, Option<Platform>)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    media_type: Option<String>,
    artifact_type: Option<String>,
    manifests: Option<Vec<RawPart>>,
    config: Option<RawPart>,
    layers: Option<Vec<RawPart>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPart {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
}

impl TryFrom<&RawPart> for Part {
    type Error = OciError;

    fn try_from(raw: &RawPart) -> Result<Self, OciError> {
        let digest = Pinned::parse(&raw.digest).map_err(|_| OciError::NoDigest)?;
        Ok(Self { digest, size: raw.size, media_type: raw.media_type.clone() })
    }
}

impl Manifest {
    /// Reads the bytes whose digest is the manifest's name.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, OciError> {
        let raw: Raw = serde_json::from_slice(text)?;
        if raw.schema_version != 2 {
            return Err(OciError::OtherGeneration);
        }
        let other = || {
            OciError::OtherKind(
                raw.media_type.iter().chain(&raw.artifact_type).next().map_or("unnamed", |kind| kind).chars().take(80).collect(),
            )
        };
        let known = |kinds: [&'static str; 2]| match raw.media_type.as_deref() {
            None => Ok(kinds[0]),
            Some(named) => kinds.into_iter().find(|kind| *kind == named).ok_or_else(other),
        };
        let parts = |raw: &[RawPart]| if raw.len() > MAX_PARTS { Err(OciError::TooMany) } else { Ok(()) };
        match (&raw.manifests, &raw.config, &raw.layers) {
            (Some(manifests), None, None) => {
                parts(manifests)?;
                let entries = manifests.iter().map(|raw| Ok((Part::try_from(raw)?, raw.platform.clone())));
                let entries = entries.collect::<Result<_, OciError>>()?;
                Ok(Self::Index(Index { media_type: known([INDEX, DOCKER_LIST])?, entries }))
            }
            (None, Some(config), Some(layers)) => {
                parts(layers)?;
                let layers = layers.iter().map(Part::try_from).collect::<Result<_, OciError>>()?;
                Ok(Self::Image(Image { media_type: known([IMAGE, DOCKER_IMAGE])?, config: config.try_into()?, layers }))
            }
            _ => Err(other()),
        }
    }

    /// What `Content-Type` has to say.
    pub(crate) fn media_type(&self) -> &'static str {
        match self {
            Self::Index(index) => index.media_type,
            Self::Image(image) => image.media_type,
        }
    }
}

impl Index {
    /// The image for a platform: the first that is listed.
    pub(crate) fn choose(&self, target: &Target) -> Option<&Part> {
        let fits = |platform: &Platform| platform.os == target.os && platform.architecture == target.architecture;
        self.entries.iter().find(|(_, platform)| platform.as_ref().is_some_and(fits)).map(|(part, _)| part)
    }

    /// The platforms that there are images for; attestations stand under none.
    pub(crate) fn platforms(&self) -> String {
        let known = self.entries.iter().filter_map(|(_, platform)| platform.as_ref()).filter(|platform| platform.os != "unknown");
        let names: Vec<String> = known.map(|platform| format!("{}/{}", platform.os, platform.architecture)).collect();
        names.join(", ")
    }
}

impl Image {
    /// Configuration and layers, each once.
    pub(crate) fn parts(&self) -> Vec<&Part> {
        let mut parts: Vec<&Part> = Vec::new();
        for part in std::iter::once(&self.config).chain(&self.layers) {
            if !parts.iter().any(|known| known.digest == part.digest) {
                parts.push(part);
            }
        }
        parts
    }

    /// `index.json` of an OCI image layout. The full name is what `podman load` and containerd call it by.
    pub(crate) fn layout_index(&self, manifest: &Pinned, size: usize, name: &str) -> Value {
        let annotations = json!({ "org.opencontainers.image.ref.name": name, "io.containerd.image.name": name });
        json!({
            "schemaVersion": 2, "mediaType": INDEX,
            "manifests": [{ "mediaType": self.media_type, "digest": manifest.as_str(), "size": size, "annotations": annotations }],
        })
    }

    /// `manifest.json` as `docker save` writes it, for `docker load`.
    pub(crate) fn docker_save(&self, name: &str) -> Value {
        let place = |part: &Part| format!("blobs/sha256/{}", part.digest.blob().hex());
        let layers: Vec<String> = self.layers.iter().map(place).collect();
        json!([{ "Config": place(&self.config), "RepoTags": [name], "Layers": layers }])
    }
}

/// The digest that a registry states in a header, where it is one of ours.
pub(crate) fn stated_digest(text: &str) -> Option<BlobId> {
    Pinned::parse(text).ok().map(|pinned| *pinned.blob())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const TWO: &str = "sha256:01ba4719c80b6fe911b091a7c05124b64eeece964e09c058ef8f9805daca546b";

    fn read(value: &Value) -> Result<Manifest, OciError> {
        Manifest::parse(value.to_string().as_bytes())
    }

    #[test]
    fn images_and_indexes_are_told_apart_and_chosen_from() {
        let entry = |digest: &str, os: &str, arch: &str| json!({ "mediaType": IMAGE, "digest": digest, "size": 3, "platform": { "os": os, "architecture": arch } });
        let index =
            read(&json!({ "schemaVersion": 2, "manifests": [entry(ONE, "unknown", "unknown"), entry(TWO, "linux", "arm64")] })).unwrap();
        let Manifest::Index(index) = index else { panic!("no index") };
        let target = |arch: &str| Target { os: "linux".into(), architecture: arch.into() };
        assert_eq!(index.choose(&target("arm64")).unwrap().digest.as_str(), TWO);
        assert_eq!((index.choose(&target("amd64")), index.platforms().as_str()), (None, "linux/arm64"));

        let part = |digest: &str| json!({ "mediaType": "x", "digest": digest, "size": 3 });
        let image =
            read(&json!({ "schemaVersion": 2, "mediaType": DOCKER_IMAGE, "config": part(ONE), "layers": [part(TWO), part(TWO)] })).unwrap();
        assert_eq!(image.media_type(), DOCKER_IMAGE);
        let Manifest::Image(image) = image else { panic!("no image") };
        assert_eq!(image.parts().len(), 2, "each once");
        assert_eq!(image.docker_save("x:1")[0]["Layers"].as_array().unwrap().len(), 2, "each as often as it is stacked");
    }

    #[test]
    fn other_documents_are_refused() {
        let part = json!({ "digest": ONE, "size": 3 });
        for (document, told) in [
            (json!({ "schemaVersion": 1, "fsLayers": [] }), "generation"),
            (json!({ "schemaVersion": 2 }), "another kind"),
            (json!({ "schemaVersion": 2, "mediaType": "text/x", "config": part, "layers": [] }), "another kind (text/x)"),
            (json!({ "schemaVersion": 2, "manifests": [], "config": part, "layers": [] }), "another kind"),
            (json!({ "schemaVersion": 2, "config": { "digest": "md5:x", "size": 3 }, "layers": [] }), "no SHA-256"),
            (json!({ "schemaVersion": 2, "config": { "digest": ONE, "size": -3 }, "layers": [] }), "cannot be read"),
            (json!({ "schemaVersion": 2, "config": part, "layers": vec![part.clone(); 1001] }), "more than"),
        ] {
            let error = read(&document).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_manifest_is_read_without_harm(text in "(\\{|\\}|\"schemaVersion\":2|\"layers\":\\[|,|\\PC){0,60}") {
            Manifest::parse(text.as_bytes()).ok();
        }
    }
}
