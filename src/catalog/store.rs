//! All SQL of revisions and rules.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use platform::database::DbError;
use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::model::{Revision, Rule};

struct RevisionRow {
    server_id: String,
    revision: i64,
    document: Option<Value>,
    metadata: Value,
    visibility: String,
    is_hidden: bool,
    changed_by: String,
    changed_at: DateTime<Utc>,
    note: Option<String>,
}

impl TryFrom<RevisionRow> for Revision {
    type Error = DbError;

    fn try_from(row: RevisionRow) -> Result<Self, DbError> {
        let inconsistent = |_| DbError::Inconsistent { table: "catalog_revisions", column: "visibility", row: row.server_id.clone() };
        Ok(Self {
            visibility: row.visibility.parse().map_err(inconsistent)?,
            number: row.revision,
            document: row.document,
            metadata: row.metadata,
            is_hidden: row.is_hidden,
            changed_by: row.changed_by,
            changed_at: row.changed_at,
            note: row.note,
        })
    }
}

/// Keeps a revision; one that is there already stays as it is.
pub(crate) async fn keep(connection: &mut PgConnection, server: &str, revision: &Revision) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO mcp_fabric.catalog_revisions (server_id, revision, document, metadata, visibility, is_hidden, changed_by, changed_at, note)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (server_id, revision) DO NOTHING",
        server,
        revision.number,
        revision.document,
        revision.metadata,
        revision.visibility.as_str(),
        revision.is_hidden,
        revision.changed_by,
        revision.changed_at,
        revision.note,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets the oldest of a server beyond the newest `most`.
pub(crate) async fn prune(connection: &mut PgConnection, server: &str, most: i64) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "DELETE FROM mcp_fabric.catalog_revisions WHERE server_id = $1 AND revision IN
            (SELECT revision FROM mcp_fabric.catalog_revisions WHERE server_id = $1 ORDER BY revision DESC OFFSET $2)",
        server,
        most
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Newest first, before a revision.
pub(crate) async fn revisions(pool: &PgPool, server: &str, before: Option<i64>, limit: i64) -> Result<Vec<Revision>, DbError> {
    let rows = sqlx::query_as!(
        RevisionRow,
        "SELECT server_id, revision, document, metadata, visibility, is_hidden, changed_by, changed_at, note FROM mcp_fabric.catalog_revisions
         WHERE server_id = $1 AND ($2::bigint IS NULL OR revision < $2) ORDER BY revision DESC LIMIT $3",
        server,
        before,
        limit,
    );
    rows.fetch_all(pool).await?.into_iter().map(Revision::try_from).collect()
}

pub(crate) async fn revision(pool: &PgPool, server: &str, revision: i64) -> Result<Option<Revision>, DbError> {
    let row = sqlx::query_as!(
        RevisionRow,
        "SELECT server_id, revision, document, metadata, visibility, is_hidden, changed_by, changed_at, note FROM mcp_fabric.catalog_revisions
         WHERE server_id = $1 AND revision = $2",
        server,
        revision,
    );
    row.fetch_optional(pool).await?.map(Revision::try_from).transpose()
}

/// Forgets all of a server's.
pub(crate) async fn forget(connection: &mut PgConnection, server: &str) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM mcp_fabric.catalog_revisions WHERE server_id = $1", server).execute(connection).await?;
    Ok(())
}

/// Forgets who made changes and rules.
pub(crate) async fn forget_person(connection: &mut PgConnection, person: &str) -> Result<(), sqlx::Error> {
    sqlx::query!("UPDATE mcp_fabric.catalog_revisions SET changed_by = 'erased' WHERE changed_by = $1", person)
        .execute(&mut *connection)
        .await?;
    sqlx::query!("UPDATE mcp_fabric.catalog_rules SET created_by = 'erased' WHERE created_by = $1", person).execute(connection).await?;
    Ok(())
}

/// Whether the rules deny a server of this id.
pub(crate) async fn denies(connection: &mut PgConnection, server: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT mcp_fabric.catalog_denies($1) AS "denied!""#, server).fetch_one(connection).await
}

/// The ids of all servers that are denied.
pub(crate) async fn denied(connection: &mut PgConnection) -> Result<BTreeSet<String>, sqlx::Error> {
    let denied = sqlx::query_scalar!("SELECT id FROM mcp_fabric.servers WHERE is_denied AND erased_at IS NULL ORDER BY id");
    Ok(denied.fetch_all(connection).await?.into_iter().collect())
}

struct RuleRow {
    id: Uuid,
    effect: String,
    pattern: String,
    note: Option<String>,
    created_by: String,
    created_at: DateTime<Utc>,
}

pub(crate) async fn rules(pool: &PgPool) -> Result<Vec<Rule>, DbError> {
    let rows = sqlx::query_as!(
        RuleRow,
        "SELECT id, effect, pattern, note, created_by, created_at FROM mcp_fabric.catalog_rules ORDER BY effect, pattern"
    );
    let rule = |row: RuleRow| {
        let inconsistent = |_| DbError::Inconsistent { table: "catalog_rules", column: "effect", row: row.id.to_string() };
        Ok(Rule {
            effect: row.effect.parse().map_err(inconsistent)?,
            id: row.id,
            pattern: row.pattern,
            note: row.note,
            created_by: row.created_by,
            created_at: row.created_at,
        })
    };
    rows.fetch_all(pool).await?.into_iter().map(rule).collect()
}

pub(crate) async fn count_rules(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM mcp_fabric.catalog_rules"#).fetch_one(connection).await
}

/// Adds a rule; false where there is such a one.
pub(crate) async fn add_rule(connection: &mut PgConnection, rule: &Rule) -> Result<bool, sqlx::Error> {
    let added = sqlx::query!(
        "INSERT INTO mcp_fabric.catalog_rules (id, effect, pattern, note, created_by, created_at) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (effect, pattern) DO NOTHING",
        rule.id,
        rule.effect.as_str(),
        rule.pattern,
        rule.note,
        rule.created_by,
        rule.created_at,
    );
    Ok(added.execute(connection).await?.rows_affected() == 1)
}

/// Removes a rule; gives its pattern.
pub(crate) async fn remove_rule(connection: &mut PgConnection, id: Uuid) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!("DELETE FROM mcp_fabric.catalog_rules WHERE id = $1 RETURNING pattern", id).fetch_optional(connection).await
}
