//! What an order means: which package, under which server, with which document.

use cache::{Cache, Wanted};
use platform::{Action, Actor};
use serde_json::{Map, Value, json};
use servers::{Described, ServerId, ServerRef, Servers, ServersError, Viewer, validate::CURRENT_SCHEMA};

use crate::{
    error::PackagesError,
    model::{Order, folder_of},
};

/// Types that can be installed, most wanted first.
const TYPES: [&str; 4] = ["npm", "pypi", "mcpb", "oci"];

/// An order, understood.
pub(crate) struct Plan {
    pub(crate) server: ServerId,
    pub(crate) package: Wanted,
    /// The server of the catalogue whose package it is.
    pub(crate) base: Option<Described>,
    /// The document of a server of the order's own; `None` where it is the catalogue's.
    pub(crate) document: Option<Value>,
    /// Whether a server of somebody's own has that document's name.
    pub(crate) replaces: bool,
    /// The revision of the server as it was looked at; none where it was not there.
    pub(crate) seen: Option<i64>,
}

/// Understands an order; refuses what the actor may not install.
pub(crate) async fn understand(servers: &Servers, actor: &Actor, order: &Order) -> Result<Plan, PackagesError> {
    let (package, base) = package_of(servers, actor, order).await?;
    let (_, name) = Cache::spelling(&package)?;
    let package = Wanted { identifier: if package.registry_type == "oci" { package.identifier } else { name }, ..package };
    if !actor.may(Action::PackagesManage) {
        require_vouched(actor, base.as_ref())?;
    }
    let server = match (&order.server_name, &base) {
        (Some(name), _) => ServerId::parse(name).map_err(ServersError::from)?,
        (None, Some(base)) => ServerId::parse(&base.id).map_err(ServersError::from)?,
        (None, None) => ServerId::parse(&folder_of(&package.identifier)).map_err(ServersError::from)?,
    };
    let there = there(servers, &server).await?;
    if let Some(there) = &there {
        if !there.access.shows_to(&Viewer::of(actor)) {
            return Err(PackagesError::NameTaken(server.to_string()));
        }
        servers.require_usable(&Viewer::of(actor), &ServerRef::Id(server.clone())).await?;
    }
    let seen = there.as_ref().map(|there| there.access.revision);
    let replaces = there.as_ref().is_some_and(|there| !there.is_of_catalogue());
    let document = match there {
        Some(there) if there.is_of_catalogue() => {
            if !names(&there.document, &package) {
                return Err(PackagesError::NameTaken(server.to_string()));
            }
            if !order.is_plain() {
                return Err(PackagesError::NeedsOwnName(server.to_string()));
            }
            None
        }
        Some(_) | None => Some(document(&server, base.as_ref(), &package)),
    };
    Ok(Plan { server, package, base, document, replaces, seen })
}

/// Fails for a package that nobody stands behind.
pub(crate) fn require_vouched(actor: &Actor, base: Option<&Described>) -> Result<(), PackagesError> {
    if base.is_some_and(Described::is_vouched_for) {
        return Ok(());
    }
    let reason = "a package that no server of the catalogue names, or only one of a member's own, is installed by an administrator";
    Err(actor.denied(Action::PackagesManage, reason.to_owned()).into())
}

async fn there(servers: &Servers, id: &ServerId) -> Result<Option<Described>, PackagesError> {
    match servers.document(&Viewer::All, &ServerRef::Id(id.clone())).await {
        Ok(found) => Ok(Some(found)),
        Err(ServersError::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A server of the catalogue goes before a package of the same name, unless a type is given.
async fn package_of(servers: &Servers, actor: &Actor, order: &Order) -> Result<(Wanted, Option<Described>), PackagesError> {
    let wanted = |registry_type: &str, version: Option<String>| Wanted {
        registry_type: if registry_type == "docker" { "oci".into() } else { registry_type.to_owned() },
        identifier: order.name.clone(),
        version,
        sha256: None,
    };
    if order.registry_type.is_none()
        && let Ok(server) = order.name.parse::<ServerRef>()
    {
        match servers.document(&Viewer::of(actor), &server).await {
            Ok(base) => {
                let package = first_package(&base.document).ok_or(PackagesError::NothingToInstall)?;
                let version = order.version.clone().or(package.version);
                return Ok((Wanted { version, ..package }, Some(base)));
            }
            Err(ServersError::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let registry_type = match &order.registry_type {
        Some(registry_type) => registry_type.clone(),
        None if order.name.contains('\0') => return Err(PackagesError::Field("body.name", "is not the name of a package")),
        None => match &servers.registry_types_of(&order.name).await?[..] {
            [] => "npm".into(),
            [only] => only.clone(),
            several => return Err(cache::CacheError::Ambiguous(several.join(", ")).into()),
        },
    };
    let mut package = wanted(&registry_type, order.version.clone());
    Cache::spelling(&package)?;
    let base = match servers.server_of_package(&package.registry_type, &order.name).await? {
        Some(id) => Some(servers.document(&Viewer::of(actor), &id.parse::<ServerRef>().map_err(ServersError::from)?).await?),
        None => None,
    };
    if package.registry_type == "mcpb" {
        package.sha256 = servers.file_sha256_of(&package.identifier).await?;
    }
    Ok((package, base))
}

pub(crate) fn packages_in(document: &Value) -> impl Iterator<Item = &Value> {
    document["packages"].as_array().into_iter().flatten()
}

/// The package entry of a document that can be installed, the most wanted type first.
pub(crate) fn first_package(document: &Value) -> Option<Wanted> {
    let of_type = |kind: &str| packages_in(document).find(|package| package["registryType"] == *kind);
    let package = TYPES.iter().find_map(|kind| of_type(kind))?;
    let text = |key: &str| package[key].as_str().map(str::to_owned);
    Some(Wanted {
        registry_type: text("registryType")?,
        identifier: text("identifier")?,
        version: text("version").filter(|version| version != "latest"),
        sha256: text("fileSha256"),
    })
}

/// The entry of a package in a document.
pub(crate) fn entry<'a>(document: &'a Value, package: &Wanted) -> Option<&'a Value> {
    let spelt = |kind: &str, identifier: &str| {
        let wanted = Wanted { registry_type: kind.to_owned(), identifier: identifier.to_owned(), version: None, sha256: None };
        Cache::spelling(&wanted).ok()
    };
    let own = spelt(&package.registry_type, &package.identifier)?;
    packages_in(document).find(|entry| {
        let (kind, identifier) = (entry["registryType"].as_str().unwrap_or_default(), entry["identifier"].as_str().unwrap_or_default());
        spelt(kind, identifier).as_ref() == Some(&own)
    })
}

fn names(document: &Value, package: &Wanted) -> bool {
    entry(document, package).is_some()
}

/// The document of a server of its own: what the catalogue says of the package, under another name.
fn document(server: &ServerId, base: Option<&Described>, package: &Wanted) -> Value {
    let known = base.and_then(|base| entry(&base.document, package)).and_then(Value::as_object);
    let mut entry: Map<String, Value> = known.cloned().unwrap_or_default();
    entry.insert("registryType".into(), package.registry_type.clone().into());
    entry.insert("identifier".into(), package.identifier.clone().into());
    entry.entry("transport").or_insert_with(|| json!({ "type": "stdio" }));
    match &package.version {
        Some(version) => entry.insert("version".into(), version.clone().into()),
        None => entry.remove("version"),
    };
    let text = |key: &str| base.and_then(|base| base.document[key].as_str()).map(str::to_owned);
    json!({
        "$schema": CURRENT_SCHEMA,
        "name": server.registry_name(),
        "title": text("title").unwrap_or_else(|| server.to_string()),
        "description": text("description").unwrap_or_else(|| format!("The package {}", package.identifier).chars().take(100).collect()),
        "version": base.map_or("1.0.0", |base| &base.version),
        "packages": [entry],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_of_a_package_is_found_in_any_spelling() {
        let document = json!({ "packages": [
            { "registryType": "npm", "identifier": "mcp-server-time" }, { "registryType": "pypi", "identifier": "MCP_Server.Time", "version": "1" },
        ] });
        let wanted = |kind: &str| Wanted { registry_type: kind.into(), identifier: "mcp-server-time".into(), version: None, sha256: None };
        assert_eq!(entry(&document, &wanted("pypi")).unwrap()["version"], "1");
        assert!(entry(&document, &wanted("oci")).is_none());
        assert_eq!(first_package(&document).unwrap().registry_type, "npm");
    }
}
