//! Writing what came in. Each statement takes a whole page.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use platform::database::DbError;
use sqlx::PgConnection;

use crate::{
    document::{Digest, Entry, Package},
    latest::Candidate,
    model::{DeclaredInput, Origin, ServerId, Status},
};

/// Makes rows for new servers and brings erased ones back; gives the ids that another origin holds.
pub(crate) async fn claim_names(
    connection: &mut PgConnection,
    ids: &[ServerId],
    origin: Origin,
    now: DateTime<Utc>,
) -> Result<HashSet<String>, sqlx::Error> {
    let names: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let uuids: Vec<_> = ids.iter().map(ServerId::uuid).collect();
    sqlx::query!(
        "INSERT INTO mcp_fabric.servers (id, uuid, origin, updated_at)
         SELECT id, uuid, $3, $4 FROM unnest($1::text[], $2::uuid[]) AS new(id, uuid)
         ON CONFLICT (id) DO UPDATE SET erased_at = NULL, origin = excluded.origin
         WHERE servers.erased_at IS NOT NULL",
        &names,
        &uuids,
        origin.as_str(),
        now,
    )
    .execute(&mut *connection)
    .await?;
    let taken = sqlx::query_scalar!("SELECT id FROM mcp_fabric.servers WHERE id = ANY($1) AND origin <> $2", &names, origin.as_str());
    Ok(taken.fetch_all(connection).await?.into_iter().collect())
}

/// What is known of one version.
pub(crate) struct Standing {
    pub(crate) content_hash: Vec<u8>,
    pub(crate) status: Status,
    pub(crate) is_latest: bool,
    status_message: Option<String>,
    status_changed_at: Option<DateTime<Utc>>,
    published_at: Option<DateTime<Utc>>,
    updated_at: DateTime<Utc>,
    extra_meta: Option<String>,
}

impl Standing {
    /// Whether the entry is a copy from before what is known, or one that says nothing of its own age.
    pub(crate) fn is_newer_than(&self, entry: &Entry) -> bool {
        entry.updated_at.is_some_and(|at| at < self.updated_at) || (entry.updated_at.is_none() && self.published_at.is_some())
    }

    /// Whether nothing but `is_latest` can differ.
    pub(crate) fn is_same(&self, entry: &Entry) -> bool {
        self.content_hash == entry.content_hash
            && self.status == entry.status
            && self.status_message == entry.status_message
            && self.status_changed_at == entry.status_changed_at
            && self.published_at == entry.published_at
            && entry.updated_at.is_none_or(|at| at == self.updated_at)
            && self.extra_meta == entry.extra_meta
    }
}

/// One member of every row: what `unnest` takes.
fn column<R, T>(rows: &[R], of: impl Fn(&R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

fn keys(entries: &[&Entry]) -> (Vec<String>, Vec<String>) {
    entries.iter().map(|entry| (entry.id.to_string(), entry.version.clone())).unzip()
}

/// What is known of each of these versions, by server and version.
pub(crate) async fn standing(connection: &mut PgConnection, entries: &[Entry]) -> Result<HashMap<(String, String), Standing>, DbError> {
    let (servers, versions) = keys(&entries.iter().collect::<Vec<_>>());
    let rows = sqlx::query!(
        "SELECT v.server_id, v.version, content_hash, status, is_latest, status_message, status_changed_at, published_at, updated_at, extra_meta
         FROM mcp_fabric.server_versions v
         JOIN unnest($1::text[], $2::text[]) AS wanted(server_id, version) ON v.server_id = wanted.server_id AND v.version = wanted.version",
        &servers,
        &versions,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let status = row.status.parse().map_err(|_| inconsistent_status(&row.server_id))?;
            let standing = Standing {
                content_hash: row.content_hash,
                status,
                is_latest: row.is_latest,
                status_message: row.status_message,
                status_changed_at: row.status_changed_at,
                published_at: row.published_at,
                updated_at: row.updated_at,
                extra_meta: row.extra_meta,
            };
            Ok(((row.server_id, row.version), standing))
        })
        .collect()
}

fn inconsistent_status(server: &str) -> DbError {
    DbError::Inconsistent { table: "server_versions", column: "status", row: server.to_owned() }
}

/// Keeps the bodies that are about to be replaced.
pub(crate) async fn keep_history(connection: &mut PgConnection, edited: &[&Entry], now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    if edited.is_empty() {
        return Ok(());
    }
    let (servers, versions) = keys(edited);
    sqlx::query!(
        "INSERT INTO mcp_fabric.server_version_history (server_id, version, content_hash, document, received_at, replaced_at)
         SELECT v.server_id, v.version, v.content_hash, v.document, v.received_at, $3
         FROM mcp_fabric.server_versions v
         JOIN unnest($1::text[], $2::text[]) AS edited(server_id, version) ON v.server_id = edited.server_id AND v.version = edited.version
         ON CONFLICT DO NOTHING",
        &servers,
        &versions,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes versions that are new or changed; which one is the latest is settled afterwards.
pub(crate) async fn write_versions(connection: &mut PgConnection, entries: &[&Entry], now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    if entries.is_empty() {
        return Ok(());
    }
    let (servers, versions) = keys(entries);
    sqlx::query!(
        "INSERT INTO mcp_fabric.server_versions
            (server_id, version, registry_name, document, received, content_hash, extra_meta, status, status_message,
             status_changed_at, published_at, updated_at, received_at)
         SELECT server_id, version, registry_name, document, received, content_hash, extra_meta, status, status_message,
                status_changed_at, published_at, coalesce(updated_at, $13), $13
         FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::text[], $8::text[], $9::text[],
                     $10::timestamptz[], $11::timestamptz[], $12::timestamptz[])
              AS new(server_id, version, registry_name, document, received, content_hash, extra_meta, status, status_message,
                     status_changed_at, published_at, updated_at)
         ON CONFLICT (server_id, version) DO UPDATE SET
            document = excluded.document, received = excluded.received, content_hash = excluded.content_hash,
            extra_meta = excluded.extra_meta, status = excluded.status, status_message = excluded.status_message,
            status_changed_at = excluded.status_changed_at, published_at = excluded.published_at,
            updated_at = excluded.updated_at, received_at = excluded.received_at",
        &servers,
        &versions,
        &column(entries, |entry| entry.id.registry_name()),
        &column(entries, |entry| entry.document.clone()),
        &column(entries, |entry| entry.received.clone()) as &[Option<String>],
        &column(entries, |entry| entry.content_hash.to_vec()),
        &column(entries, |entry| entry.extra_meta.clone()) as &[Option<String>],
        &column(entries, |entry| entry.status.as_str().to_owned()),
        &column(entries, |entry| entry.status_message.clone()) as &[Option<String>],
        &column(entries, |entry| entry.status_changed_at) as &[Option<DateTime<Utc>>],
        &column(entries, |entry| entry.published_at) as &[Option<DateTime<Utc>>],
        &column(entries, |entry| entry.updated_at) as &[Option<DateTime<Utc>>],
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes the packages of versions whose body is new. A package that stays what it was keeps what the
/// cache knows of it.
pub(crate) async fn write_packages(connection: &mut PgConnection, entries: &[&Entry]) -> Result<(), sqlx::Error> {
    if entries.is_empty() {
        return Ok(());
    }
    let packages: Vec<(&Entry, i32, Package)> = entries
        .iter()
        .flat_map(|&entry| (0..).zip(Digest::of(&entry.document).packages).map(move |(position, package)| (entry, position, package)))
        .collect();
    let (servers, versions) = keys(entries);
    let counts: Vec<i32> = entries
        .iter()
        .map(|entry| packages.iter().filter(|(of, ..)| std::ptr::eq(*of, *entry)).map(|(_, position, _)| position + 1).max().unwrap_or(0))
        .collect();
    sqlx::query!(
        "DELETE FROM mcp_fabric.server_packages p
         USING unnest($1::text[], $2::text[], $3::int[]) AS now(server_id, version, packages)
         WHERE p.server_id = now.server_id AND p.version = now.version AND p.position >= now.packages",
        &servers,
        &versions,
        &counts,
    )
    .execute(&mut *connection)
    .await?;
    if packages.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO mcp_fabric.server_packages AS p
            (server_id, version, position, registry_type, identifier, package_version, transport, registry_base_url, file_sha256)
         SELECT * FROM unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[])
         ON CONFLICT (server_id, version, position) DO UPDATE SET
            registry_type = excluded.registry_type, identifier = excluded.identifier, package_version = excluded.package_version,
            transport = excluded.transport, registry_base_url = excluded.registry_base_url, file_sha256 = excluded.file_sha256,
            cached_at = NULL, cache_path = NULL, cache_size_bytes = NULL, cache_checksum = NULL
         WHERE (p.registry_type, p.identifier, p.package_version, p.transport, p.registry_base_url, p.file_sha256)
            IS DISTINCT FROM (excluded.registry_type, excluded.identifier, excluded.package_version, excluded.transport,
                              excluded.registry_base_url, excluded.file_sha256)",
        &column(&packages, |(entry, ..)| entry.id.to_string()),
        &column(&packages, |(entry, ..)| entry.version.clone()),
        &column(&packages, |(_, position, _)| *position),
        &column(&packages, |(_, _, package)| package.registry_type.clone()),
        &column(&packages, |(_, _, package)| package.identifier.clone()),
        &column(&packages, |(_, _, package)| package.version.clone()) as &[Option<String>],
        &column(&packages, |(_, _, package)| package.transport.clone()) as &[Option<String>],
        &column(&packages, |(_, _, package)| package.registry_base_url.clone()) as &[Option<String>],
        &column(&packages, |(_, _, package)| package.file_sha256.clone()) as &[Option<String>],
    )
    .execute(&mut *connection)
    .await?;
    // A package that another version or server names, and that the cache has, is here for this one, too.
    sqlx::query!(
        "UPDATE mcp_fabric.server_packages p
         SET cached_at = known.cached_at, cache_path = known.cache_path, cache_size_bytes = known.cache_size_bytes, cache_checksum = known.cache_checksum
         FROM unnest($1::text[], $2::text[]) AS new(server_id, version), mcp_fabric.server_packages known
         WHERE p.server_id = new.server_id AND p.version = new.version AND p.cached_at IS NULL AND known.cached_at IS NOT NULL
           AND known.registry_type = p.registry_type AND known.identifier = p.identifier AND known.package_version IS NOT DISTINCT FROM p.package_version
           AND known.file_sha256 IS NOT DISTINCT FROM p.file_sha256
           AND lower(regexp_replace(known.identifier, '[-_.]+', '-', 'g')) = lower(regexp_replace(p.identifier, '[-_.]+', '-', 'g'))",
        &servers,
        &versions,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// All versions of the servers that are `open`, and of those `settled` ones that have no latest version
/// which stands.
pub(crate) async fn candidates(
    connection: &mut PgConnection,
    open: &[String],
    settled: &[String],
) -> Result<HashMap<String, Vec<Candidate>>, DbError> {
    if open.is_empty() && settled.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query!(
        "SELECT server_id, version, status, published_at FROM mcp_fabric.server_versions
         WHERE server_id = ANY($1) OR (server_id = ANY($2) AND server_id NOT IN (
            SELECT server_id FROM mcp_fabric.server_versions WHERE server_id = ANY($2) AND is_latest AND status <> 'deleted'))",
        open,
        settled,
    )
    .fetch_all(connection)
    .await?;
    let mut candidates: HashMap<String, Vec<Candidate>> = HashMap::new();
    for row in rows {
        let status = row.status.parse().map_err(|_| inconsistent_status(&row.server_id))?;
        let candidate = Candidate { version: row.version, status, published_at: row.published_at };
        candidates.entry(row.server_id).or_default().push(candidate);
    }
    Ok(candidates)
}

/// Makes `versions[i]` the latest version of `servers[i]`, and no other.
pub(crate) async fn set_latest(connection: &mut PgConnection, servers: &[String], versions: &[String]) -> Result<(), sqlx::Error> {
    if servers.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE mcp_fabric.server_versions v SET is_latest = false
         FROM unnest($1::text[], $2::text[]) AS wanted(server_id, version)
         WHERE v.server_id = wanted.server_id AND v.is_latest AND v.version <> wanted.version",
        servers,
        versions,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "UPDATE mcp_fabric.server_versions v SET is_latest = true
         FROM unnest($1::text[], $2::text[]) AS wanted(server_id, version)
         WHERE v.server_id = wanted.server_id AND v.version = wanted.version AND NOT v.is_latest",
        servers,
        versions,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The latest version of a server that `servers` does not yet describe.
pub(crate) struct Stale {
    pub(crate) server_id: String,
    pub(crate) version: String,
    pub(crate) document: String,
    pub(crate) content_hash: Vec<u8>,
    pub(crate) status: String,
    pub(crate) published_at: Option<DateTime<Utc>>,
    pub(crate) updated_at: DateTime<Utc>,
}

pub(crate) async fn stale(connection: &mut PgConnection, servers: &[String]) -> Result<Vec<Stale>, sqlx::Error> {
    if servers.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query_as!(
        Stale,
        "SELECT v.server_id, v.version, v.document, v.content_hash, v.status, v.published_at, v.updated_at
         FROM mcp_fabric.server_versions v JOIN mcp_fabric.servers s ON s.id = v.server_id
         WHERE v.server_id = ANY($1) AND v.is_latest
           AND (s.latest_hash, s.version, s.status, s.updated_at) IS DISTINCT FROM (v.content_hash, v.version, v.status, v.updated_at)",
        servers,
    )
    .fetch_all(connection)
    .await
}

/// What `servers` is to say of a server.
pub(crate) struct Refreshed {
    pub(crate) row: Stale,
    pub(crate) digest: Digest,
    pub(crate) categories: Vec<String>,
    pub(crate) credentials: Vec<DeclaredInput>,
}

impl Refreshed {
    fn distinct(words: impl Iterator<Item = String>) -> String {
        let mut words: Vec<String> = words.collect();
        words.sort();
        words.dedup();
        // Words of a registry hold no newline; PostgreSQL has no arrays of arrays of different length.
        words.join("\n")
    }

    fn registry_types(&self) -> String {
        Self::distinct(self.digest.packages.iter().map(|package| package.registry_type.clone()))
    }

    fn transports(&self) -> String {
        let of_packages = self.digest.packages.iter().filter_map(|package| package.transport.clone());
        Self::distinct(of_packages.chain(self.digest.remotes.iter().map(|remote| remote.kind.clone())))
    }
}

pub(crate) async fn write_refreshed(connection: &mut PgConnection, servers: &[Refreshed], rules_hash: &[u8]) -> Result<(), sqlx::Error> {
    if servers.is_empty() {
        return Ok(());
    }
    let ids = column(servers, |server| server.row.server_id.clone());
    sqlx::query!(
        r"UPDATE mcp_fabric.servers s SET
            title = new.title, description = new.description, version = new.version, status = new.status,
            categories = array_remove(string_to_array(new.categories, E'\n'), ''),
            registry_types = array_remove(string_to_array(new.registry_types, E'\n'), ''),
            transports = array_remove(string_to_array(new.transports, E'\n'), ''),
            has_remote = new.has_remote, published_at = new.published_at, updated_at = new.updated_at,
            latest_hash = new.latest_hash, rules_hash = $13
         FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bool[],
                     $10::timestamptz[], $11::timestamptz[], $12::bytea[])
              AS new(id, title, description, version, status, categories, registry_types, transports, has_remote, published_at, updated_at, latest_hash)
         WHERE s.id = new.id",
        &ids,
        &column(servers, |server| server.digest.title.clone()) as &[Option<String>],
        &column(servers, |server| server.digest.description.clone()),
        &column(servers, |server| server.row.version.clone()),
        &column(servers, |server| server.row.status.clone()),
        &column(servers, |server| server.categories.join("\n")),
        &column(servers, Refreshed::registry_types),
        &column(servers, Refreshed::transports),
        &column(servers, |server| !server.digest.remotes.is_empty()),
        &column(servers, |server| server.row.published_at) as &[Option<DateTime<Utc>>],
        &column(servers, |server| server.row.updated_at),
        &column(servers, |server| server.row.content_hash.clone()),
        rules_hash,
    )
    .execute(&mut *connection)
    .await?;
    write_remotes(connection, &ids, servers).await?;
    write_credential_docs(connection, &ids, servers).await
}

async fn write_remotes(connection: &mut PgConnection, ids: &[String], servers: &[Refreshed]) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = servers
        .iter()
        .flat_map(|server| (0_i32..).zip(&server.digest.remotes).map(|(position, remote)| (server.row.server_id.clone(), position, remote)))
        .collect();
    sqlx::query!("DELETE FROM mcp_fabric.server_remotes WHERE server_id = ANY($1)", ids).execute(&mut *connection).await?;
    sqlx::query!(
        "INSERT INTO mcp_fabric.server_remotes (server_id, position, type, url)
         SELECT * FROM unnest($1::text[], $2::int[], $3::text[], $4::text[])",
        &column(&rows, |(id, ..)| id.clone()),
        &column(&rows, |(_, position, _)| *position),
        &column(&rows, |(.., remote)| remote.kind.clone()),
        &column(&rows, |(.., remote)| remote.url.clone()),
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn write_credential_docs(connection: &mut PgConnection, ids: &[String], servers: &[Refreshed]) -> Result<(), sqlx::Error> {
    let rows: Vec<(&str, i32, &DeclaredInput)> = servers
        .iter()
        .flat_map(|server| (0_i32..).zip(&server.credentials).map(|(position, row)| (server.row.server_id.as_str(), position, row)))
        .collect();
    sqlx::query!("DELETE FROM mcp_fabric.credential_docs WHERE server_id = ANY($1)", ids).execute(&mut *connection).await?;
    sqlx::query!(
        "INSERT INTO mcp_fabric.credential_docs
            (server_id, position, location, env_var, description, required, secret, format, choices, default_value)
         SELECT server_id, position, location, env_var, description, required, secret, format,
                (SELECT array_agg(choice) FROM jsonb_array_elements_text(choices) AS choice), default_value
         FROM unnest($1::text[], $2::int[], $3::text[], $4::text[], $5::text[], $6::bool[], $7::bool[], $8::text[], $9::jsonb[], $10::text[])
              AS new(server_id, position, location, env_var, description, required, secret, format, choices, default_value)",
        &column(&rows, |(id, ..)| (*id).to_owned()),
        &column(&rows, |(_, position, _)| *position),
        &column(&rows, |(_, _, row)| row.location.clone()),
        &column(&rows, |(_, _, row)| row.env_var.clone()),
        &column(&rows, |(_, _, row)| row.description.clone()) as &[Option<String>],
        &column(&rows, |(_, _, row)| row.required),
        &column(&rows, |(_, _, row)| row.secret),
        &column(&rows, |(_, _, row)| row.format.clone()),
        &column(&rows, |(_, _, row)| row.choices.as_ref().map(|choices| serde_json::json!(choices))) as &[Option<serde_json::Value>],
        &column(&rows, |(_, _, row)| row.default_value.clone()) as &[Option<String>],
    )
    .execute(connection)
    .await?;
    Ok(())
}
