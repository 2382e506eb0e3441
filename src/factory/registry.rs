//! What was made, as a registry of its own: registered, found, listed and removed.

use futures_util::{FutureExt as _, future::BoxFuture};
use platform::{Action, Actor, FieldError};
use serde_json::{Map, Value, json};
use servers::{Filter, Origin, ServerId, ServerRef, ServersError, Sort, Viewer, validate::CURRENT_SCHEMA};
use sqlx::PgConnection;
use users::{Belongings, UserId};

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
        actor.require(Action::CatalogWrite)?;
        let mut made = Self::read_manifest(manifest)?;
        actor.require_server(Action::FactoryGenerate, &made.server_id)?;
        let id = ServerId::parse(&made.server_id).map_err(ServersError::from)?;
        if !self.inner.catalog.may_name(actor, &id).await? {
            return Err(FactoryError::NameTaken(made.server_id));
        }
        // What is run by others has been vouched for: what the factory made, or what an administrator registers.
        let mut document = document_of(&made, actor.may(Action::CatalogManage));
        let bundle = self.bundle_of(actor, &mut made, &mut document).await?;
        self.complete_by_before(&id, &mut made, &mut document).await?;
        let kept = async {
            let (_turn, mut transaction) = self.inner.servers.begin_alone().await?;
            self.keep_in(&mut transaction, actor, &made, &document, None).await?;
            Ok::<_, FactoryError>(transaction.commit().await?)
        };
        if let Err(error) = kept.await {
            if let (Some(address), Some(sha256)) = (&bundle, &made.bundle_sha256) {
                self.forget_unnamed(&made.server_id, address, sha256).await?;
            }
            return Err(error);
        }
        self.inner.servers.forget();
        if let (Some(address), Some(sha256)) = (bundle, &made.bundle_sha256) {
            self.inner.cache.mark_made(&address, sha256).await?;
        }
        self.get(actor, &made.server_id, Some(&made.version)).await
    }

    /// The manifest of what was made here says less than is known of it: the rest stays as it was.
    async fn complete_by_before(&self, id: &ServerId, made: &mut Generated, document: &mut Value) -> Result<(), FactoryError> {
        let versions = store::versions(self.inner.database.public(), id.as_str()).await?;
        let is_same = |one: &Stored| one.version == made.version && one.bundle_sha256.is_some() && one.bundle_sha256 == made.bundle_sha256;
        let Some(before) = versions.into_iter().find(is_same) else { return Ok(()) };
        made.spec = made.spec.take().or(before.spec);
        made.content_sha256 = before.content_sha256;
        made.docker_image = made.docker_image.take().or(before.docker_image);
        made.claude_config = made.claude_config.take().or(before.claude_config);
        let latest = self.inner.servers.document(&Viewer::All, &ServerRef::Id(id.clone())).await?.document;
        if latest["version"] == made.version.as_str() {
            *document = latest;
        }
        Ok(())
    }

    /// Removes a bundle that no row names; where that is not known, it stays.
    pub(crate) async fn forget_unnamed(&self, server_id: &str, address: &str, sha256: &str) -> Result<(), FactoryError> {
        let versions = store::versions(self.inner.database.public(), server_id).await;
        let is_unnamed = versions.is_ok_and(|all| all.iter().all(|one| one.bundle_sha256.as_deref() != Some(sha256)));
        if is_unnamed {
            self.inner.cache.forget_made(address, sha256).await?;
        }
        Ok(())
    }

    fn read_manifest(manifest: Map<String, Value>) -> Result<Generated, FactoryError> {
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
        let package_path = text_of("package_path").or_else(|| text_of("package")).filter(|path| !path.is_empty());
        if package_path.as_ref().is_some_and(|path| path.len() > LONGEST_PATH || path.contains('\0')) {
            wrong.push(FieldError::new("body.package", "is no path"));
        }
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

    /// Takes the bundle that lies beside the archive into the cache; gives its address. Only the operator may name a path
    /// outside of the server's own folder, which has to be the actor's already.
    async fn bundle_of(&self, actor: &Actor, made: &mut Generated, document: &mut Value) -> Result<Option<String>, FactoryError> {
        let Some(path) = made.package_path.clone() else { return Ok(None) };
        let may_anywhere = Viewer::of(actor) == Viewer::All;
        let place = match self.inner.output.found(&path, may_anywhere) {
            Ok(place) => place,
            // Where it is only named, as earlier systems did, it may be elsewhere.
            Err(FactoryError::NoSuchPath) => return Ok(None),
            Err(error) => return Err(error),
        };
        let is_own =
            self.inner.output.server_of(&place).as_deref() == Some(&made.server_id) && self.get(actor, &made.server_id, None).await.is_ok();
        if !may_anywhere && !is_own {
            return Err(FactoryError::Outside);
        }
        made.package_path = Some(place.display().to_string());
        let bundle = place.with_extension("mcpb");
        let read = blocking(move || match std::fs::read(&bundle) {
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
            // Nobody takes the name meanwhile.
            let (_turn, mut transaction) = self.inner.servers.begin_alone().await?;
            if store::contents_in(&mut transaction, &stored.server_id).await?.is_empty() {
                let (output, name) = (self.inner.output.clone(), stored.server_id);
                blocking(move || Ok(output.remove(&name)?)).await?;
            }
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

impl Belongings for Factory {
    /// What is private goes with its owner, with its files; rows go with the catalogue's.
    fn erase<'a>(&'a self, transaction: &'a mut PgConnection, user: UserId) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let erased = async {
                let own = self.inner.servers.owned_in(transaction, &format!("user:{user}")).await?;
                for (id, _) in own.into_iter().filter(|(_, is_private)| *is_private) {
                    let bundles = store::bundles_in(transaction, id.as_str()).await?;
                    if bundles.is_empty() {
                        continue;
                    }
                    for (version, sha256) in bundles.into_iter().filter_map(|(version, sha256)| Some((version, sha256?))) {
                        self.inner.cache.forget_made(&make::address_of(id.as_str(), &version), &sha256).await?;
                    }
                    let output = self.inner.output.clone();
                    blocking(move || Ok(output.remove(id.as_str())?)).await?;
                }
                Ok::<_, FactoryError>(())
            };
            erased.await.map_err(|error| error.to_string())
        }
        .boxed()
    }
}

/// What the catalogue has of a server that was registered by a manifest. An image is run only if somebody vouches for it.
fn document_of(made: &Generated, is_vouched: bool) -> Value {
    let said = made.manifest["description"].as_str().map(|said| text::line(said, 100)).filter(|said| !said.is_empty());
    let mut document = json!({
        "$schema": CURRENT_SCHEMA,
        "name": make::registry_name(&made.server_id),
        "description": said.unwrap_or_else(|| format!("The server {}", made.server_id)),
        "version": made.version,
    });
    if let Some(image) = made.docker_image.as_ref().filter(|_| is_vouched) {
        document["packages"] = json!([{ "registryType": "oci", "identifier": image, "transport": { "type": "stdio" } }]);
    }
    document
}
