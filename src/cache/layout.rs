//! The folder of an image as an OCI image layout that `docker load` takes, too.

use serde_json::json;

use crate::{
    artifacts::Artifacts,
    error::CacheError,
    names::Package,
    oci::Manifest,
    reference::{OciAt, OciReference},
    store,
};

impl Artifacts {
    /// Writes what lies beside the parts of an image once all of them are here.
    pub(crate) async fn write_layout(&self, package: &Package) -> Result<(), CacheError> {
        let Package::Oci(name, manifest) = package else { return Ok(()) };
        let text = self.blobs.read(manifest.blob()).await?;
        let Manifest::Image(image) = Manifest::parse(&text)? else { return Ok(()) };
        let mut connection = self.database.system().acquire().await?;
        let names = store::names_of(&mut connection, package, &self.target.to_string()).await?;
        drop(connection);
        let tagged = names.iter().filter_map(|[_, identifier, _]| OciReference::parse(identifier).ok()).find(|known| !known.is_fixed());
        // Without a tag it gets one that is surely no other image's.
        let tag = || OciAt::Tag(format!("sha256-{}", manifest.blob().hex()));
        let full = tagged.unwrap_or_else(|| OciReference { name: name.clone(), at: tag() }).to_string();
        let folder = package.folder();
        self.write_json(&folder.join("oci-layout"), &json!({ "imageLayoutVersion": "1.0.0" })).await?;
        self.write_json(&folder.join("manifest.json"), &image.docker_save(&full)).await?;
        self.write_json(&folder.join("index.json"), &image.layout_index(manifest, text.len(), &full)).await
    }
}
