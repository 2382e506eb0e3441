//! What was made, as a registry of its own: registered, found, listed and removed.

use platform::{Action, Actor, FieldError};
use serde_json::{Map, Value, json};
use servers::{Filter, Origin, ServerId, ServerRef, ServersError, Sort, Viewer, validate::CURRENT_SCHEMA};

use crate::{
    Factory,
    error::FactoryError,
    job::blocking,
    make,
    model::{Generated, Stored},
    names, store, text,
};

/// What one list has at most.
pub(crate) const MOST_LISTED: u32 = 1000;
const LONGEST_PATH: usize = 4096;

/// A server in a list.
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) description: String,
}

impl Factory {
    /// A version of a server that the actor may see; the latest without one.
    pub(crate) async fn get(&self, actor: &Actor, name: &str, version: Option<&str>) -> Result<Stored, FactoryError> {
        actor.require(Action::CatalogWrite)?;
        let id = ServerId::parse(name).map_err(|_| FactoryError::NotFound)?;
        actor.require_server(Action::CatalogWrite, id.as_str())?;
        let found = self.inner.servers.summary(&Viewer::of(actor), &ServerRef::Id(id)).await?;
        let versions = store::versions(self.inner.database.public(), &found.id).await?;
        let wanted = |one: &Stored| version.map_or(Some(&one.version) == found.version.as_ref(), |version| one.version == version);
        versions.into_iter().find(wanted).ok_or(FactoryError::NotFound)
    }

    /// The servers that were made, of those that the actor may see, by name.
    pub(crate) async fn list(&self, actor: &Actor, search: Option<&str>, limit: u32) -> Result<Vec<Listed>, FactoryError> {
        actor.require(Action::CatalogWrite)?;
        let filter =
            Filter { viewer: Viewer::of(actor), origins: vec![Origin::Generated], search: search.map(str::to_owned), ..Filter::default() };
        let (mut found, _) = self.inner.servers.list(&filter, Sort::Name, None, limit).await?;
        found.truncate(limit as usize);
        let listed =
            |one: servers::Summary| Listed { name: one.id, version: one.version.unwrap_or_default(), description: one.description };
        Ok(found.into_iter().map(listed).collect())
    }

    /// Registers a server by its `manifest.json`; what is in it beside the known members is kept.
    pub(crate) async fn register(&self, actor: &Actor, manifest: Map<String, Value>) -> Result<Stored, FactoryError> {
        actor.require(Action::FactoryGenerate)?;
        let mut made = self.read_manifest(actor, manifest)?;
        actor.require_server(Action::FactoryGenerate, &made.server_id)?;
        let mut document = document_of(&made);
        let bundle = self.bundle_of(&mut made, &mut document).await?;
        let (_turn, mut transaction) = self.inner.servers.begin_alone().await?;
        self.keep_in(&mut transaction, actor, &made, &document, None).await?;
        transaction.commit().await?;
        self.inner.servers.forget();
        if let (Some(address), Some(sha256)) = (bundle, &made.bundle_sha256) {
            self.inner.cache.mark_made(&address, sha256).await?;
        }
        self.get(actor, &made.server_id, Some(&made.version)).await
    }

    fn read_manifest(&self, actor: &Actor, manifest: Map<String, Value>) -> Result<Generated, FactoryError> {
        let mut wrong = Vec::new();
        let text_of = |name: &str| manifest.get(name).and_then(Value::as_str).map(str::to_owned);
        let name = text_of("name").unwrap_or_default();
        if !names::is_server(&name) {
            wrong.push(FieldError::new(
                "body.name",
                "is needed: 2 to 64 lower-case letters, digits and single hyphens, such as mcp-weather",
            ));
        }
        let version = text_of("version").unwrap_or_default();
        if semver::Version::parse(&version).is_err() {
            wrong.push(FieldError::new("body.version", "is needed: a semantic version, such as 1.0.0"));
        }
        for name in ["spec", "claude_config"] {
            if manifest.get(name).is_some_and(|value| !value.is_object() && !value.is_null()) {
                wrong.push(FieldError::new(format!("body.{name}"), "must be an object"));
            }
        }
        let path = text_of("package_path").or_else(|| text_of("package"));
        let package_path = match path.filter(|path| !path.is_empty()) {
            Some(path) if path.len() > LONGEST_PATH => {
                wrong.push(FieldError::new("body.package", "is too long"));
                None
            }
            Some(path) => match self.inner.output.found(&path, Viewer::of(actor) == Viewer::All) {
                Ok(place) => Some(place.display().to_string()),
                // Where it is only named, as earlier systems did, it may be elsewhere.
                Err(FactoryError::NoSuchPath) => Some(path),
                Err(error) => return Err(error),
            },
            None => None,
        };
        if !wrong.is_empty() {
            return Err(FactoryError::Fields(wrong));
        }
        let object = |name: &str| manifest.get(name).filter(|value| value.is_object()).cloned();
        Ok(Generated {
            server_id: name,
            version,
            spec: object("spec"),
            content_sha256: None,
            package_path,
            docker_image: text_of("docker_image").filter(|image| !image.is_empty()),
            claude_config: object("claude_config"),
            bundle_sha256: None,
            manifest: Value::Object(manifest),
        })
    }

    /// Takes the bundle that lies beside the archive into the cache; gives its address.
    async fn bundle_of(&self, made: &mut Generated, document: &mut Value) -> Result<Option<String>, FactoryError> {
        let Some(path) = made.package_path.clone() else { return Ok(None) };
        let place = std::path::PathBuf::from(path).with_extension("mcpb");
        let read = blocking(move || match std::fs::read(&place) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        });
        let Some(bytes) = read.await? else { return Ok(None) };
        let address = make::address_of(&made.server_id, &made.version);
        let sha256 = self.inner.cache.keep_made(&address, &bytes).await?;
        document["packages"] =
            json!([{ "registryType": "mcpb", "identifier": address, "fileSha256": sha256, "transport": { "type": "stdio" } }]);
        made.bundle_sha256 = Some(sha256);
        Ok(Some(address))
    }

    /// Removes a server with all its versions, and its files if that is wanted.
    pub(crate) async fn remove(&self, actor: &Actor, name: &str, with_files: bool) -> Result<(), FactoryError> {
        let stored = self.get(actor, name, None).await?;
        let versions = store::versions(self.inner.database.public(), &stored.server_id).await?;
        let id = ServerId::parse(&stored.server_id).map_err(ServersError::from)?;
        self.inner.catalog.remove(actor, &ServerRef::Id(id), None).await?;
        for one in &versions {
            if let Some(sha256) = &one.bundle_sha256 {
                self.inner.cache.forget_made(&make::address_of(&one.server_id, &one.version), sha256).await?;
            }
        }
        if with_files {
            let (output, name) = (self.inner.output.clone(), stored.server_id);
            blocking(move || Ok(output.remove(&name)?)).await?;
        }
        Ok(())
    }

    /// Where the bytes of a bundle lie, for an actor who may see its server.
    pub(crate) async fn bundle(&self, viewer: &Viewer, name: &str, version: &str) -> Result<std::path::PathBuf, FactoryError> {
        let id = ServerId::parse(name).map_err(|_| FactoryError::NotFound)?;
        let found = self.inner.servers.summary(viewer, &ServerRef::Id(id)).await?;
        let versions = store::versions(self.inner.database.public(), &found.id).await?;
        let one = versions.into_iter().find(|one| one.version == version).ok_or(FactoryError::NotFound)?;
        let sha256 = one.bundle_sha256.ok_or(FactoryError::NotFound)?;
        Ok(self.inner.cache.made(&make::address_of(&one.server_id, &one.version), &sha256).await?)
    }
}

/// What the catalogue has of a server that was registered by a manifest.
fn document_of(made: &Generated) -> Value {
    let said = made.manifest["description"].as_str().map(|said| text::line(said, 100)).filter(|said| !said.is_empty());
    let mut document = json!({
        "$schema": CURRENT_SCHEMA,
        "name": format!("local.fabric/{}", made.server_id),
        "description": said.unwrap_or_else(|| format!("The server {}", made.server_id)),
        "version": made.version,
    });
    if let Some(image) = &made.docker_image {
        document["packages"] = json!([{ "registryType": "oci", "identifier": image, "transport": { "type": "stdio" } }]);
    }
    document
}
