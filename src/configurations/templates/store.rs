use chrono::{DateTime, Utc};
use platform::database::DbError;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::model::{Template, TemplateId};

struct Row {
    id: Uuid,
    owner: String,
    name: String,
    description: String,
    settings: Value,
    shared: bool,
    revision: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<Row> for Template {
    type Error = DbError;

    fn try_from(row: Row) -> Result<Self, DbError> {
        let inconsistent = |_| DbError::Inconsistent { table: "templates", column: "settings", row: row.id.to_string() };
        Ok(Self {
            settings: serde_json::from_value(row.settings).map_err(inconsistent)?,
            id: TemplateId(row.id),
            owner: row.owner,
            name: row.name,
            description: row.description,
            shared: row.shared,
            revision: row.revision,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

fn settings(template: &Template) -> Value {
    serde_json::to_value(&template.settings).unwrap_or_default()
}

/// Writes a new one; false where its owner has one of that name.
pub(crate) async fn create(connection: &mut PgConnection, new: &Template, user: Option<Uuid>) -> Result<bool, sqlx::Error> {
    let made = sqlx::query!(
        "INSERT INTO mcp_fabric.templates (id, owner, user_id, name, description, settings, shared, revision, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9) ON CONFLICT (owner, name) DO NOTHING",
        new.id.0,
        new.owner,
        user,
        new.name,
        new.description,
        settings(new),
        new.shared,
        new.revision,
        new.created_at,
    );
    Ok(made.execute(connection).await?.rows_affected() == 1)
}

/// Those of an owner and those that are shared, after an id.
pub(crate) async fn list(connection: &mut PgConnection, owner: &str, after: Option<Uuid>, limit: i64) -> Result<Vec<Template>, DbError> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT id, owner, name, description, settings, shared, revision, created_at, updated_at FROM mcp_fabric.templates
         WHERE (owner = $1 OR shared) AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3",
        owner,
        after,
        limit,
    );
    rows.fetch_all(connection).await?.into_iter().map(Template::try_from).collect()
}

/// How many an owner has.
pub(crate) async fn count(connection: &mut PgConnection, owner: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM mcp_fabric.templates WHERE owner = $1"#, owner).fetch_one(connection).await
}

/// One that an owner has or everybody may use.
pub(crate) async fn get(connection: &mut PgConnection, owner: &str, id: Uuid) -> Result<Option<Template>, DbError> {
    let row = sqlx::query_as!(
        Row,
        "SELECT id, owner, name, description, settings, shared, revision, created_at, updated_at FROM mcp_fabric.templates
         WHERE id = $2 AND (owner = $1 OR shared)",
        owner,
        id,
    );
    row.fetch_optional(connection).await?.map(Template::try_from).transpose()
}

/// The same, held or everybody may use.
pub(crate) async fn hold(connection: &mut PgConnection, owner: &str, id: Uuid) -> Result<Option<Template>, DbError> {
    let row = sqlx::query_as!(
        Row,
        "SELECT id, owner, name, description, settings, shared, revision, created_at, updated_at FROM mcp_fabric.templates
         WHERE id = $2 AND (owner = $1 OR shared) FOR UPDATE",
        owner,
        id,
    );
    row.fetch_optional(connection).await?.map(Template::try_from).transpose()
}

/// Writes one that is held; false where its owner has another one of that name.
pub(crate) async fn write(connection: &mut PgConnection, new: &Template) -> Result<bool, sqlx::Error> {
    let written = sqlx::query!(
        "UPDATE mcp_fabric.templates t SET name = $2, description = $3, settings = $4, shared = $5, revision = $6, updated_at = $7
         WHERE id = $1 AND NOT EXISTS (SELECT FROM mcp_fabric.templates other WHERE other.owner = t.owner AND other.name = $2 AND other.id <> $1)",
        new.id.0,
        new.name,
        new.description,
        settings(new),
        new.shared,
        new.revision,
        new.updated_at,
    );
    Ok(written.execute(connection).await?.rows_affected() == 1)
}

pub(crate) async fn remove(connection: &mut PgConnection, id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM mcp_fabric.templates WHERE id = $1", id).execute(connection).await?;
    Ok(())
}

/// What only its owner uses goes with them; what is shared stays in the operator's hands, under a name that tells it apart.
pub(crate) async fn erase(connection: &mut PgConnection, owner: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE mcp_fabric.templates SET owner = 'operator', user_id = NULL, name = left(name, 60) || ' ' || id
         WHERE owner = $1 AND shared",
        owner
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!("DELETE FROM mcp_fabric.templates WHERE owner = $1", owner).execute(connection).await?;
    Ok(())
}
