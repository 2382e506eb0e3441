use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use platform::database::DbError;
use sqlx::{PgConnection, PgPool};

use crate::{
    archive::CarriedName,
    model::Wanted,
    names::{Package, RegistryType},
};

/// Notes which exact package somebody means by a name; gives whether that is new.
pub(crate) async fn keep_name(
    connection: &mut PgConnection,
    wanted: &Wanted,
    target: &str,
    package: &Package,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO mcp_fabric.cache_names (registry_type, identifier, wanted, target, package_type, name, version, resolved_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (registry_type, identifier, wanted, target) DO UPDATE SET
            package_type = excluded.package_type, name = excluded.name, version = excluded.version, resolved_at = excluded.resolved_at",
        wanted.registry_type,
        wanted.identifier,
        wanted.version.as_deref().unwrap_or_default(),
        target,
        package.registry().as_str(),
        package.name(),
        package.version(),
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The packages that were last meant by a name, one for each target that was asked for.
pub(crate) async fn named(pool: &PgPool, wanted: &Wanted) -> Result<Vec<(String, Package)>, DbError> {
    let rows = sqlx::query!(
        "SELECT target, package_type, name, version FROM mcp_fabric.cache_names
         WHERE registry_type = $1 AND identifier = $2 AND wanted = $3 ORDER BY target",
        wanted.registry_type,
        wanted.identifier,
        wanted.version.as_deref().unwrap_or_default(),
    );
    let read = |registry: &str, name: &str, version: &str| Package::parse(registry.parse::<RegistryType>().ok()?, name, version).ok();
    let rows = rows.fetch_all(pool).await?.into_iter();
    rows.map(|row| {
        let inconsistent = || DbError::Inconsistent { table: "cache_names", column: "name", row: row.name.clone() };
        Ok((row.target.clone(), read(&row.package_type, &row.name, &row.version).ok_or_else(inconsistent)?))
    })
    .collect()
}

/// When it was last found out what a name means.
pub(crate) async fn named_at(pool: &PgPool, wanted: &Wanted) -> Result<Option<DateTime<Utc>>, DbError> {
    let at = sqlx::query_scalar!(
        "SELECT min(resolved_at) FROM mcp_fabric.cache_names WHERE registry_type = $1 AND identifier = $2 AND wanted = $3",
        wanted.registry_type,
        wanted.identifier,
        wanted.version.as_deref().unwrap_or_default(),
    );
    Ok(at.fetch_one(pool).await?)
}

/// By which names a package is known: registry type, identifier, and version as it was asked for. A name for
/// several targets stands for the package of the first.
pub(crate) async fn names_of(connection: &mut PgConnection, package: &Package, target: &str) -> Result<Vec<[String; 3]>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT registry_type, identifier, wanted FROM mcp_fabric.cache_names
         WHERE package_type = $1 AND name = $2 AND version = $3 AND target IN ('', $4)",
        package.registry().as_str(),
        package.name(),
        package.version(),
        target,
    );
    Ok(rows.fetch_all(connection).await?.into_iter().map(|row| [row.registry_type, row.identifier, row.wanted]).collect())
}

/// What the packages of an archive are called.
pub(crate) async fn names_of_all(pool: &PgPool, packages: &BTreeSet<[String; 3]>) -> Result<Vec<CarriedName>, DbError> {
    let column = |at: usize| packages.iter().map(|package| package[at].clone()).collect::<Vec<String>>();
    let names = sqlx::query_as!(
        CarriedName,
        "SELECT n.registry_type, identifier, wanted, target, package_type, n.name, n.version FROM mcp_fabric.cache_names n
         JOIN unnest($1::text[], $2::text[], $3::text[]) AS p(registry_type, name, version)
           ON (n.package_type, n.name, n.version) = (p.registry_type, p.name, p.version)
         ORDER BY 1, 2, 3, 4",
        &column(0),
        &column(1),
        &column(2),
    );
    Ok(names.fetch_all(pool).await?)
}

/// Takes names from an archive; those that are known here stay.
pub(crate) async fn take_names(connection: &mut PgConnection, names: &[CarriedName], now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    let column = |text: fn(&CarriedName) -> &String| names.iter().map(|name| text(name).clone()).collect::<Vec<String>>();
    sqlx::query!(
        "INSERT INTO mcp_fabric.cache_names (registry_type, identifier, wanted, target, package_type, name, version, resolved_at)
         SELECT *, $8::timestamptz FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
         ON CONFLICT DO NOTHING",
        &column(|name| &name.registry_type),
        &column(|name| &name.identifier),
        &column(|name| &name.wanted),
        &column(|name| &name.target),
        &column(|name| &name.package_type),
        &column(|name| &name.name),
        &column(|name| &name.version),
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}
