use platform::database::DbError;
use sqlx::{PgConnection, PgPool};

use crate::{archive::CarriedDocument, digest::BlobId, model::Document, names::RegistryType, reference::OciName};

pub(crate) async fn document(pool: &PgPool, registry: RegistryType, name: &str) -> Result<Option<Document>, DbError> {
    let row = sqlx::query!(
        "SELECT blob, source, etag, checked_at FROM mcp_fabric.cache_documents WHERE registry_type = $1 AND name = $2",
        registry.as_str(),
        name,
    );
    let Some(row) = row.fetch_optional(pool).await? else { return Ok(None) };
    let blob = BlobId::from_bytes(&row.blob).ok_or_else(|| DbError::Inconsistent {
        table: "cache_documents",
        column: "blob",
        row: name.to_owned(),
    })?;
    Ok(Some(Document { blob, source: row.source, etag: row.etag, checked_at: row.checked_at }))
}

/// Keeps a document; gives the blob that it replaces.
pub(crate) async fn keep_document(
    connection: &mut PgConnection,
    registry: RegistryType,
    name: &str,
    document: &Document,
    size: i64,
) -> Result<Option<BlobId>, sqlx::Error> {
    let before = sqlx::query_scalar!(
        "SELECT blob FROM mcp_fabric.cache_documents WHERE registry_type = $1 AND name = $2 FOR UPDATE",
        registry.as_str(),
        name
    )
    .fetch_optional(&mut *connection)
    .await?;
    sqlx::query!(
        "INSERT INTO mcp_fabric.cache_documents (registry_type, name, blob, source, etag, checked_at, size_bytes) VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (registry_type, name) DO UPDATE SET blob = excluded.blob, source = excluded.source, etag = excluded.etag,
            checked_at = excluded.checked_at, size_bytes = excluded.size_bytes",
        registry.as_str(),
        name,
        document.blob.as_bytes(),
        document.source,
        document.etag,
        document.checked_at,
        size,
    )
    .execute(&mut *connection)
    .await?;
    let replaced = before.filter(|before| before.as_slice() != document.blob.as_bytes());
    Ok(replaced.and_then(|replaced| BlobId::from_bytes(&replaced)))
}

/// Names of the documents that are there.
pub(crate) async fn document_names(pool: &PgPool, registry: RegistryType) -> Result<Vec<String>, DbError> {
    let names =
        sqlx::query_scalar!("SELECT name FROM mcp_fabric.cache_documents WHERE registry_type = $1 ORDER BY name", registry.as_str());
    Ok(names.fetch_all(pool).await?)
}

/// The tags of a repository that are known here.
pub(crate) async fn tags(pool: &PgPool, name: &OciName) -> Result<Vec<String>, DbError> {
    let tags = sqlx::query_scalar!(
        r#"SELECT substr(name, length($1) + 2) AS "tag!" FROM mcp_fabric.cache_documents
           WHERE registry_type = 'oci' AND starts_with(name, $1 || ':') ORDER BY 1"#,
        name.as_str(),
    );
    Ok(tags.fetch_all(pool).await?)
}

/// Forgets the documents that are this blob: manifests of an image that is removed.
pub(crate) async fn forget_documents(connection: &mut PgConnection, blob: &BlobId) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM mcp_fabric.cache_documents WHERE registry_type = 'oci' AND blob = $1", blob.as_bytes())
        .execute(connection)
        .await?;
    Ok(())
}

/// What registries said of a package, for an archive: all tags and manifests of a repository of images.
pub(crate) async fn documents_of(pool: &PgPool, registry: RegistryType, name: &str) -> Result<Vec<CarriedDocument>, DbError> {
    let rows = sqlx::query!(
        r#"SELECT registry_type, name, encode(blob, 'hex') AS "sha256!", source, etag, checked_at
           FROM mcp_fabric.cache_documents
           WHERE registry_type = $1 AND (name = $2 OR $1 = 'oci' AND (starts_with(name, $2 || ':') OR starts_with(name, $2 || '@')))
           ORDER BY name"#,
        registry.as_str(),
        name,
    );
    let rows = rows.fetch_all(pool).await?.into_iter();
    let carried = rows.map(|row| CarriedDocument {
        registry_type: row.registry_type,
        name: row.name,
        sha256: row.sha256,
        size: 0,
        source: row.source,
        etag: row.etag,
        checked_at: row.checked_at,
    });
    Ok(carried.collect())
}

/// Takes what a registry said from an archive, unless something newer is here.
pub(crate) async fn take_document(connection: &mut PgConnection, document: &CarriedDocument, blob: &BlobId) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO mcp_fabric.cache_documents AS d (registry_type, name, blob, source, etag, checked_at, size_bytes) VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (registry_type, name) DO UPDATE SET blob = excluded.blob, source = excluded.source, etag = excluded.etag,
            checked_at = excluded.checked_at, size_bytes = excluded.size_bytes
         WHERE d.checked_at < excluded.checked_at",
        document.registry_type,
        document.name,
        blob.as_bytes(),
        document.source,
        document.etag,
        document.checked_at,
        i64::try_from(document.size).unwrap_or(i64::MAX),
    )
    .execute(connection)
    .await?;
    Ok(())
}
