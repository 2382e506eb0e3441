//! Reading what `/api/mcp` shows of one server.

use platform::database::DbError;
use sqlx::{PgPool, Postgres, QueryBuilder, Row as _, postgres::PgRow};
use uuid::Uuid;

use crate::model::{Access, DeclaredInput, Described, PackageRow, RemoteRow, ServerId, ServerPackage, ServerRef, Summary, VersionRow};

/// What a list shows; `rank` comes from elsewhere.
pub(super) const COLUMNS: &str =
    "s.id, s.uuid, s.title, s.description, s.version, s.origin, s.status, s.categories, s.registry_types, s.updated_at,
     s.owner, s.created_by, s.visibility, s.is_hidden, s.is_denied, s.metadata, s.revision";

pub(super) fn summary(row: &PgRow) -> Result<Summary, DbError> {
    let id: String = row.try_get("id")?;
    let inconsistent = |column| DbError::Inconsistent { table: "servers", column, row: id.clone() };
    Ok(Summary {
        uuid: row.try_get("uuid")?,
        title: row.try_get("title")?,
        description: row.try_get("description")?,
        version: row.try_get("version")?,
        origin: row.try_get::<&str, _>("origin")?.parse().map_err(|_| inconsistent("origin"))?,
        status: row.try_get::<&str, _>("status")?.parse().map_err(|_| inconsistent("status"))?,
        categories: row.try_get("categories")?,
        registry_types: row.try_get("registry_types")?,
        updated_at: row.try_get("updated_at")?,
        access: Access {
            owner: row.try_get("owner")?,
            created_by: row.try_get("created_by")?,
            visibility: row.try_get::<&str, _>("visibility")?.parse().map_err(|_| inconsistent("visibility"))?,
            is_hidden: row.try_get("is_hidden")?,
            is_denied: row.try_get("is_denied")?,
            metadata: row.try_get("metadata")?,
            revision: row.try_get("revision")?,
        },
        rank: row.try_get("rank")?,
        id,
    })
}

pub(crate) async fn get(pool: &PgPool, server: &ServerRef) -> Result<Option<Summary>, DbError> {
    let mut query = QueryBuilder::new("SELECT ");
    query.push(COLUMNS).push(", 0::bigint AS rank FROM mcp_fabric.servers s WHERE s.erased_at IS NULL AND ");
    push_server(&mut query, server);
    query.build().fetch_optional(pool).await?.as_ref().map(summary).transpose()
}

/// What the latest version of a server says of itself.
pub(crate) async fn described(pool: &PgPool, server: &ServerRef) -> Result<Option<Described>, DbError> {
    let mut query = QueryBuilder::new("SELECT ");
    query.push(COLUMNS).push(
        ", 0::bigint AS rank, v.version AS described_version, v.document
         FROM mcp_fabric.servers s JOIN mcp_fabric.server_versions v ON v.server_id = s.id AND v.is_latest WHERE s.erased_at IS NULL AND ",
    );
    push_server(&mut query, server);
    let Some(row) = query.build().fetch_optional(pool).await? else { return Ok(None) };
    let Summary { id, origin, access, .. } = summary(&row)?;
    let document = serde_json::from_str(row.try_get("document")?);
    let document = document.map_err(|_| DbError::Inconsistent { table: "server_versions", column: "document", row: id.clone() })?;
    Ok(Some(Described { id, origin, version: row.try_get("described_version")?, document, access }))
}

fn push_server(query: &mut QueryBuilder<Postgres>, server: &ServerRef) {
    match server {
        ServerRef::Id(id) => query.push("s.id = ").push_bind(id.as_str().to_owned()),
        ServerRef::Uuid(uuid) => query.push("s.uuid = ").push_bind(*uuid),
    };
}

pub(crate) async fn id_of(pool: &PgPool, uuid: Uuid) -> Result<Option<ServerId>, DbError> {
    let id = sqlx::query_scalar!("SELECT id FROM mcp_fabric.servers WHERE uuid = $1", uuid).fetch_optional(pool).await?;
    Ok(id.and_then(|id| ServerId::parse(&id).ok()))
}

pub(crate) async fn packages(pool: &PgPool, server: &str, version: &str) -> Result<Vec<PackageRow>, DbError> {
    let rows = sqlx::query_as!(
        PackageRow,
        "SELECT registry_type, identifier, package_version, transport, file_sha256, cached_at, cache_path, cache_size_bytes, cache_checksum
         FROM mcp_fabric.server_packages WHERE server_id = $1 AND version = $2 ORDER BY position",
        server,
        version,
    );
    Ok(rows.fetch_all(pool).await?)
}

/// The types of registries from which servers take a package of this name, in any spelling.
pub(crate) async fn registry_types_of(pool: &PgPool, identifier: &str) -> Result<Vec<String>, DbError> {
    let types = sqlx::query_scalar!(
        "SELECT DISTINCT registry_type FROM mcp_fabric.server_packages p
         JOIN mcp_fabric.servers s ON s.id = p.server_id AND s.erased_at IS NULL AND s.origin IN ('predefined', 'upstream')
         WHERE lower(regexp_replace(identifier, '[-_.]+', '-', 'g')) = lower(regexp_replace($1, '[-_.]+', '-', 'g'))
           AND registry_type = ANY(ARRAY['npm', 'pypi', 'oci', 'docker', 'mcpb']) ORDER BY 1",
        identifier,
    );
    Ok(types.fetch_all(pool).await?)
}

/// Servers whose latest version names a package, in any spelling: predefined ones first, two at most.
pub(crate) async fn servers_of_package(pool: &PgPool, registry_type: &str, identifier: &str) -> Result<Vec<(String, String)>, DbError> {
    let rows = sqlx::query!(
        "SELECT DISTINCT s.id, s.origin, s.origin <> 'predefined' AS is_later
         FROM mcp_fabric.server_packages p
         JOIN mcp_fabric.server_versions v ON v.server_id = p.server_id AND v.version = p.version AND v.is_latest
         JOIN mcp_fabric.servers s ON s.id = p.server_id AND s.erased_at IS NULL AND s.origin IN ('predefined', 'upstream')
         WHERE lower(regexp_replace(p.identifier, '[-_.]+', '-', 'g')) = lower(regexp_replace($2, '[-_.]+', '-', 'g'))
           AND p.registry_type = $1
         ORDER BY is_later, s.id LIMIT 2",
        registry_type,
        identifier,
    );
    Ok(rows.fetch_all(pool).await?.into_iter().map(|row| (row.id, row.origin)).collect())
}

pub(crate) async fn file_sha256_of(pool: &PgPool, identifier: &str) -> Result<Option<String>, DbError> {
    let stated = sqlx::query_scalar!(
        r#"SELECT DISTINCT lower(file_sha256) AS "sha256!" FROM mcp_fabric.server_packages p
           JOIN mcp_fabric.servers s ON s.id = p.server_id AND s.erased_at IS NULL AND s.origin IN ('predefined', 'upstream')
           WHERE registry_type = 'mcpb' AND identifier = $1 AND file_sha256 IS NOT NULL
             AND lower(regexp_replace(identifier, '[-_.]+', '-', 'g')) = lower(regexp_replace($1, '[-_.]+', '-', 'g')) LIMIT 2"#,
        identifier,
    );
    let mut stated = stated.fetch_all(pool).await?;
    Ok(stated.pop().filter(|_| stated.is_empty()))
}

pub(crate) async fn names_package(pool: &PgPool, [registry_type, name, version]: [&str; 3]) -> Result<bool, DbError> {
    let named = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM mcp_fabric.server_packages
                          WHERE registry_type = $1 AND package_version = $3
                            AND lower(regexp_replace(identifier, '[-_.]+', '-', 'g')) = lower(regexp_replace($2, '[-_.]+', '-', 'g'))) AS "named!""#,
        registry_type,
        name,
        version,
    );
    Ok(named.fetch_one(pool).await?)
}

pub(crate) async fn has_version(pool: &PgPool, server: &str, version: &str) -> Result<bool, DbError> {
    let found = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM mcp_fabric.server_versions WHERE server_id = $1 AND version = $2) AS "found!""#,
        server,
        version,
    );
    Ok(found.fetch_one(pool).await?)
}

/// The first package of the latest version of each of these servers, by server.
pub(crate) async fn first_packages(pool: &PgPool, servers: &[String]) -> Result<Vec<(String, ServerPackage)>, DbError> {
    let rows = sqlx::query!(
        "SELECT DISTINCT ON (p.server_id) p.server_id, registry_type, identifier, package_version, file_sha256
         FROM mcp_fabric.server_packages p JOIN mcp_fabric.servers s ON s.id = p.server_id AND s.version = p.version
         WHERE p.server_id = ANY($1) ORDER BY p.server_id, position",
        servers,
    );
    let found = rows.fetch_all(pool).await?.into_iter().map(|row| {
        let package = ServerPackage {
            registry_type: row.registry_type,
            identifier: row.identifier,
            version: row.package_version,
            file_sha256: row.file_sha256,
        };
        (row.server_id, package)
    });
    Ok(found.collect())
}

/// The first address of each of these servers that has one, by server.
pub(crate) async fn first_remotes(pool: &PgPool, servers: &[String]) -> Result<Vec<(String, String)>, DbError> {
    let rows = sqlx::query!(
        "SELECT DISTINCT ON (server_id) server_id, url FROM mcp_fabric.server_remotes WHERE server_id = ANY($1) ORDER BY server_id, position",
        servers,
    );
    Ok(rows.fetch_all(pool).await?.into_iter().map(|row| (row.server_id, row.url)).collect())
}

pub(crate) async fn remotes(pool: &PgPool, server: &str) -> Result<Vec<RemoteRow>, DbError> {
    let rows = sqlx::query_as!(
        RemoteRow,
        "SELECT type AS kind, url FROM mcp_fabric.server_remotes WHERE server_id = $1 ORDER BY position",
        server
    );
    Ok(rows.fetch_all(pool).await?)
}

pub(crate) async fn credentials(pool: &PgPool, server: &str) -> Result<Vec<DeclaredInput>, DbError> {
    let rows = sqlx::query_as!(
        DeclaredInput,
        "SELECT location, env_var, description, required, secret, format, choices, default_value
         FROM mcp_fabric.credential_docs WHERE server_id = $1 ORDER BY position",
        server,
    );
    let mut inputs = rows.fetch_all(pool).await?;
    let of_package = sqlx::query_scalar!("SELECT inputs FROM mcp_fabric.installed_inputs WHERE server_id = $1", server);
    if let Some(of_package) = of_package.fetch_optional(pool).await? {
        let wrong = |_| DbError::Inconsistent { table: "installed_inputs", column: "inputs", row: server.to_owned() };
        let of_package: Vec<DeclaredInput> = serde_json::from_value(of_package).map_err(wrong)?;
        let further = of_package.into_iter().filter(|input| !inputs.iter().any(|known| known.env_var == input.env_var));
        inputs.extend(further.collect::<Vec<_>>());
    }
    Ok(inputs)
}

/// Newest first; `after` is the version after which to go on.
pub(crate) async fn versions(pool: &PgPool, server: &str, after: Option<&str>, limit: i64) -> Result<Vec<VersionRow>, DbError> {
    let rows = sqlx::query!(
        "SELECT version, status, is_latest, published_at, updated_at FROM mcp_fabric.server_versions v
         WHERE server_id = $1 AND ($2::text IS NULL OR (coalesce(published_at, '-infinity'), version) < (
            SELECT coalesce(last.published_at, '-infinity'), last.version FROM mcp_fabric.server_versions last
            WHERE last.server_id = $1 AND last.version = $2))
         ORDER BY coalesce(published_at, '-infinity') DESC, version DESC LIMIT $3",
        server,
        after,
        limit,
    );
    let rows = rows.fetch_all(pool).await?;
    rows.into_iter()
        .map(|row| {
            let status = row.status.parse();
            let status =
                status.map_err(|_| DbError::Inconsistent { table: "server_versions", column: "status", row: server.to_owned() })?;
            Ok(VersionRow {
                version: row.version,
                status,
                is_latest: row.is_latest,
                published_at: row.published_at,
                updated_at: row.updated_at,
            })
        })
        .collect()
}

pub(crate) async fn categories(pool: &PgPool) -> Result<Vec<(String, i64)>, DbError> {
    let rows = sqlx::query!(r#"SELECT name AS "name!", count AS "count!" FROM mcp_fabric.server_categories ORDER BY count DESC, name"#);
    Ok(rows.fetch_all(pool).await?.into_iter().map(|row| (row.name, row.count)).collect())
}
