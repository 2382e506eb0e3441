use std::sync::Arc;

use futures_util::{FutureExt as _, future::BoxFuture};
use platform::config::Target;

use super::{Fetcher, Offer, Planned, other};
use crate::{
    digest::Digest,
    documents::{Ask, Documents, Name},
    error::CacheError,
    file_names::FileName,
    model::{Facts, Wanted},
    names::Package,
    oci::{ACCEPT, Image, Manifest},
    reference::{OciAt, OciName, OciReference, Pinned},
};

/// How deep an index may lie in another.
const DEPTH: usize = 3;

/// Images of container registries.
pub(super) struct Oci {
    pub(super) documents: Arc<Documents>,
}

impl Oci {
    async fn packages(&self, wanted: &Wanted, targets: &[Target], ask: Ask) -> Result<Vec<Package>, CacheError> {
        let reference = OciReference::parse(&wanted.identifier)?;
        let mut packages = Vec::new();
        for target in targets {
            let package = Package::Oci(reference.name.clone(), self.image_for(&reference, target, ask).await?);
            if !packages.contains(&package) {
                packages.push(package);
            }
        }
        Ok(packages)
    }

    /// The manifest of the image for a platform. An image that stands alone is for whatever it is for.
    async fn image_for(&self, reference: &OciReference, target: &Target, ask: Ask) -> Result<Pinned, CacheError> {
        let mut reference = reference.clone();
        for _ in 0..DEPTH {
            let said = self.documents.get(&Name::Oci(reference.clone()), ask).await?;
            let index = match Manifest::parse(&said.text)? {
                Manifest::Image(_) => return Ok(Pinned::of(said.row.blob)),
                Manifest::Index(index) => index,
            };
            let chosen = index.choose(target).ok_or_else(|| CacheError::NoPlatform(target.to_string(), index.platforms()))?;
            reference.at = OciAt::Digest(chosen.digest.clone());
        }
        Err(CacheError::Document("indexes lie too deep in each other".into()))
    }

    async fn image(&self, name: &OciName, manifest: &Pinned) -> Result<(Image, u64), CacheError> {
        let reference = OciReference { name: name.clone(), at: OciAt::Digest(manifest.clone()) };
        let said = self.documents.get(&Name::Oci(reference), Ask::IfOld).await?;
        match Manifest::parse(&said.text)? {
            Manifest::Image(image) => Ok((image, said.text.len() as u64)),
            Manifest::Index(_) => Err(CacheError::Document("this is an index, not an image".into())),
        }
    }

    async fn part(&self, name: &OciName, manifest: &Pinned, file: &FileName) -> Result<Offer, CacheError> {
        let part = Pinned::parse(file.as_str())?;
        let (kind, size) = if part == *manifest {
            ("manifests", None)
        } else {
            let (image, _) = self.image(name, manifest).await?;
            let stated = image.parts().into_iter().find(|known| known.digest == part).map(|known| known.size);
            ("blobs", Some(stated.ok_or(CacheError::NoVersion)?))
        };
        let documents = &self.documents;
        Ok(Offer {
            url: documents.realms.address(name, kind, part.as_str())?,
            auth: documents.realms.auth(documents.client().await?, name).await?,
            accept: (kind == "manifests").then_some(ACCEPT),
            digest: Digest::of_blob(part.blob()),
            size,
            facts: Facts::NONE,
        })
    }
}

impl Fetcher for Oci {
    fn exact<'a>(&'a self, wanted: &'a Wanted, targets: &'a [Target], ask: Ask) -> BoxFuture<'a, Result<Vec<Package>, CacheError>> {
        self.packages(wanted, targets, ask).boxed()
    }

    fn files<'a>(&'a self, package: &'a Package, _: &'a [Target]) -> BoxFuture<'a, Result<Vec<Planned>, CacheError>> {
        let Package::Oci(name, manifest) = package else { return other() };
        async move {
            let (image, size) = self.image(name, manifest).await?;
            let parts = image.parts().into_iter().map(|part| (FileName::part(&part.digest), Some(part.size)));
            Ok(std::iter::once((FileName::part(manifest), Some(size))).chain(parts).collect())
        }
        .boxed()
    }

    fn offer<'a>(&'a self, package: &'a Package, file: &'a FileName, _: Ask) -> BoxFuture<'a, Result<Offer, CacheError>> {
        let Package::Oci(name, manifest) = package else { return other() };
        self.part(name, manifest, file).boxed()
    }
}
