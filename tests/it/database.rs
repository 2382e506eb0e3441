//! Migrations and the roles that the service works as.

use mcp_fabric::app::StartError;
use platform::{Database, database::Owner};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::support::{TestApp, cluster, data};

async fn execute(connection: &mut PgConnection, statement: String) {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await.unwrap();
}

/// A prefix for roles of one test, which the cluster has once.
fn prefix() -> String {
    format!("t{}", &platform::ids::fresh().simple().to_string()[20..])
}

async fn drop_roles(prefix: &str) {
    let mut admin = cluster::admin().await;
    for role in ["app", "worker", "reveal", "audit", "owner"] {
        execute(&mut admin, format!("DROP ROLE IF EXISTS {prefix}_{role}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_may_make_roles_makes_them_and_serves_as_one_that_owns_nothing() {
    let prefix = prefix();
    let app = TestApp::with(&[("FABRIC_ROLE_PREFIX", &prefix)]).await;
    let mut connection = app.database.connect().await;
    let users: Vec<String> = sqlx::query_scalar("SELECT DISTINCT usename::text FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'mcp-fabric' ORDER BY 1")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    assert_eq!(users, ["app", "audit", "reveal", "worker"].map(|role| format!("{prefix}_{role}")));
    let powerful: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_roles WHERE rolname LIKE $1 || '\\_%' AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb)",
    )
    .bind(&prefix)
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(powerful, 0);
    app.import(&[data::entry("a.x/one", "1.0.0")]).await;
    let passwords: std::collections::BTreeMap<String, String> =
        serde_json::from_str(&std::fs::read_to_string(app.data().join("database-roles.json")).unwrap()).unwrap();
    let as_app = app.database.url_as(&format!("{prefix}_app"), &passwords[&format!("{prefix}_app")]);
    let mut outsider = <PgConnection as sqlx::Connection>::connect(&as_app).await.unwrap();
    for forbidden in
        ["DROP TABLE mcp_fabric.jobs", "ALTER TABLE mcp_fabric.jobs NO FORCE ROW LEVEL SECURITY", "CREATE TABLE mcp_fabric.mine (id int)"]
    {
        let error = sqlx::raw_sql(forbidden).execute(&mut outsider).await.unwrap_err();
        assert!(error.to_string().contains("must be owner") || error.to_string().contains("permission denied"), "{error}");
    }
    drop(app);
    drop_roles(&prefix).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_seen_only_by_whom_they_belong_to() {
    let app = TestApp::start().await;
    app.op_post("/api/mcp/sync/trigger").await.expect(202);
    let passwords: std::collections::BTreeMap<String, String> =
        serde_json::from_str(&std::fs::read_to_string(app.data().join("database-roles.json")).unwrap()).unwrap();
    let mut connection =
        <PgConnection as sqlx::Connection>::connect(&app.database.url_as("fabric_app", &passwords["fabric_app"])).await.unwrap();
    for (actor, expected) in [("operator", 1), ("system:sync", 1), ("user:somebody", 0), ("", 0), ("systemx", 0)] {
        sqlx::query("SELECT set_config('fabric.actor', $1, false)").bind(actor).execute(&mut connection).await.unwrap();
        let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM mcp_fabric.jobs").fetch_one(&mut connection).await.unwrap();
        assert_eq!(seen, expected, "{actor:?}");
    }
}

/// Whoever gives up a transaction at whatever moment of its beginning leaves nothing of it to the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_given_up_as_it_begins_is_not_left_open() {
    let app = TestApp::start().await;
    let database = Database::open(&Owner::from_url(&app.database.url().into()).unwrap(), &app.config()).await.unwrap();
    let actor = platform::Actor::system("somebody");
    let all = || async {
        let mut all = Vec::new();
        for _ in 0..app.config().database.pool {
            all.push(database.public().acquire().await.unwrap());
        }
        all
    };
    // All are open from here on: it is not about connecting.
    drop(all().await);
    for steps in 0..150 {
        for _ in 0..app.config().database.pool {
            let given_up = async {
                for _ in 0..steps {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                begun = database.begin(&actor) => drop(begun.unwrap()),
                () = given_up => {}
            }
        }
        for connection in &mut all().await {
            let clean = "SELECT now() = statement_timestamp() AND coalesce(current_setting('fabric.actor', true), '') = ''";
            let is_clean: bool = sqlx::Row::get(&sqlx::raw_sql(clean).fetch_one(&mut **connection).await.unwrap(), 0);
            assert!(is_clean, "given up after {steps} steps");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_may_not_make_roles_works_under_row_level_security_or_is_refused() {
    let prefix = prefix();
    let owner = format!("{prefix}_owner");
    let database = cluster::empty_database().await;
    let mut admin = database.connect().await;
    execute(&mut admin, format!("CREATE ROLE {owner} LOGIN PASSWORD 'secret'; ALTER DATABASE {} OWNER TO {owner}", database.name)).await;
    let url = database.url_as(&owner, "secret");
    let settings = [("DATABASE_URL", url.as_str()), ("FABRIC_ROLE_PREFIX", prefix.as_str())];

    let refused = TestApp::refused(&database, &[settings[0], settings[1], ("FABRIC_REQUIRE_ROLE_SEPARATION", "true")]).await;
    assert!(refused.is_configuration());
    assert!(refused.to_string().starts_with("FABRIC_REQUIRE_ROLE_SEPARATION is set, and the database role"), "{refused}");

    let app = TestApp::on(database, &settings).await;
    app.op_post("/api/mcp/sync/trigger").await.expect(202);
    assert_eq!(app.op_get("/api/mcp/jobs").await.expect(200)["jobs"].as_array().unwrap().len(), 1);
    let mut as_owner = <PgConnection as sqlx::Connection>::connect(&url).await.unwrap();
    let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM mcp_fabric.jobs").fetch_one(&mut as_owner).await.unwrap();
    assert_eq!(seen, 0, "row-level security holds for the owner, too");
    drop(as_owner);

    let output = crate::support::Binary::run(&app.data(), &settings, &["db", "setup"]);
    let sql = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(sql.contains(&format!("CREATE ROLE {prefix}_app LOGIN NOSUPERUSER")), "{sql}");
    let file = std::fs::read_to_string(app.data().join("database-roles.json")).unwrap();
    let passwords: std::collections::BTreeMap<String, String> = serde_json::from_str(&file).unwrap();
    assert!(passwords.values().all(|password| !sql.contains(password.as_str())), "no password in the SQL");
    let mut app = app;
    execute(&mut admin, sql).await;
    app.restart().await;
    let users: Vec<String> = sqlx::query_scalar("SELECT DISTINCT usename::text FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'mcp-fabric' ORDER BY 1")
        .fetch_all(&mut admin)
        .await
        .unwrap();
    assert_eq!(users, ["app", "audit", "reveal", "worker"].map(|role| format!("{prefix}_{role}")));
    drop(admin);
    drop(app);
    drop_roles(&prefix).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_ignores_row_level_security_is_refused() {
    let prefix = prefix();
    let app = TestApp::with(&[("FABRIC_ROLE_PREFIX", &prefix)]).await;
    let roles = std::fs::read(app.data().join("database-roles.json")).unwrap();
    for power in ["BYPASSRLS", "SUPERUSER"] {
        execute(&mut cluster::admin().await, format!("ALTER ROLE {prefix}_app {power}")).await;
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("database-roles.json"), &roles).unwrap();
        let refused =
            TestApp::refused(&app.database, &[("FABRIC_ROLE_PREFIX", &prefix), ("FABRIC_DATA_DIR", data.to_str().unwrap())]).await;
        assert!(refused.is_configuration());
        assert!(refused.to_string().contains(&format!("the role `{prefix}_app` is a superuser or has BYPASSRLS")), "{refused}");
        execute(&mut cluster::admin().await, format!("ALTER ROLE {prefix}_app NOSUPERUSER NOBYPASSRLS")).await;
    }
    drop(app);
    drop_roles(&prefix).await;
}

/// The database's own answer is put in the place of a server's that cannot be had here any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_too_old_is_refused() {
    let database = cluster::empty_database().await;
    let mut admin = database.connect().await;
    let older = "CREATE SCHEMA older; GRANT USAGE ON SCHEMA older TO PUBLIC;
        CREATE FUNCTION older.current_setting(name text) RETURNS text LANGUAGE sql
            AS $$ SELECT CASE name WHEN 'server_version_num' THEN '140018' ELSE '14.18' END $$";
    execute(&mut admin, format!("{older}; ALTER DATABASE {} SET search_path = older, pg_catalog", database.name)).await;
    let refused = TestApp::refused(&database, &[]).await;
    assert!(refused.is_configuration());
    assert_eq!(refused.to_string(), "the database server is PostgreSQL 14.18; MCP Fabric needs 15 or newer");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_ignores_row_level_security_never_serves() {
    let prefix = prefix();
    let owner = format!("{prefix}_owner");
    let database = cluster::empty_database().await;
    let mut admin = database.connect().await;
    execute(
        &mut admin,
        format!("CREATE ROLE {owner} LOGIN BYPASSRLS PASSWORD 'secret'; ALTER DATABASE {} OWNER TO {owner}", database.name),
    )
    .await;
    let url = database.url_as(&owner, "secret");
    let refused = TestApp::refused(&database, &[("DATABASE_URL", &url), ("FABRIC_ROLE_PREFIX", &prefix)]).await;
    assert!(refused.is_configuration());
    assert!(refused.to_string().contains(&format!("the role `{owner}` is a superuser or has BYPASSRLS")), "{refused}");
    drop(admin);
    drop(database);
    drop_roles(&prefix).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_its_row_level_security_is_refused() {
    let database = cluster::database().await;
    sqlx::raw_sql("ALTER TABLE mcp_fabric.jobs NO FORCE ROW LEVEL SECURITY").execute(&mut database.connect().await).await.unwrap();
    let refused = TestApp::refused(&database, &[]).await;
    assert!(refused.is_configuration());
    assert!(refused.to_string().starts_with("row-level security of mcp_fabric.jobs is switched off"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_of_another_data_folder_are_not_broken() {
    let prefix = prefix();
    let app = TestApp::with(&[("FABRIC_ROLE_PREFIX", &prefix)]).await;
    let refused = TestApp::refused(&app.database, &[("FABRIC_ROLE_PREFIX", &prefix)]).await;
    assert!(refused.is_configuration());
    assert!(refused.to_string().contains("exists, but the password in"), "{refused}");
    app.op_get("/api/mcp/jobs").await.expect(200);
    drop(app);
    drop_roles(&prefix).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_a_newer_program_is_refused() {
    let database = cluster::database().await;
    sqlx::query("INSERT INTO _sqlx_migrations (version, description, installed_on, success, checksum, execution_time) VALUES (29990101000000, 'future', now(), true, '', 0)")
        .execute(&mut database.connect().await)
        .await
        .unwrap();
    let refused = TestApp::refused(&database, &[]).await;
    assert!(matches!(refused, StartError::Database(_)) && refused.is_configuration());
    assert!(refused.to_string().starts_with("the database has migration 29990101000000, which this program does not know"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_database_is_a_clear_error_soon() {
    let database = cluster::empty_database().await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("postgresql://u:hunter2@{}/db", silent.local_addr().unwrap());
    for url in ["postgresql://u:hunter2@127.0.0.1:9/db", &silent, "postgresql+asyncpg://u:hunter2@127.0.0.1:9/db"] {
        let began = std::time::Instant::now();
        let refused = TestApp::refused(&database, &[("DATABASE_URL", url)]).await;
        assert!(began.elapsed() < std::time::Duration::from_secs(10));
        assert!(refused.to_string().starts_with("cannot reach the database 127.0.0.1/db: "), "{refused}");
        assert!(!format!("{refused:?} {refused}").contains("hunter2"));
    }
    let refused = TestApp::refused(&database, &[("DATABASE_URL", "mysql://u:hunter2@h/db")]).await;
    assert_eq!(refused.to_string(), "DATABASE_URL is not of the form postgresql://user:password@host:port/database");
}

/// Each migration can be undone and done again; the tables of a feature name it as their owner.
#[tokio::test(flavor = "multi_thread")]
async fn migrations_go_both_ways() {
    let database = cluster::database().await;
    let mut connection = <PgConnection as sqlx::Connection>::connect(&database.url()).await.unwrap();
    let schema = "SELECT coalesce(string_agg(table_name || '.' || column_name || ':' || data_type, ',' ORDER BY table_name, column_name), '') FROM information_schema.columns WHERE table_schema = 'mcp_fabric'";
    let before: String = sqlx::query_scalar(schema).fetch_one(&mut connection).await.unwrap();
    let mut undone = 0;
    while platform::database::migrations::revert(&mut connection).await.unwrap().is_some() {
        undone += 1;
    }
    let nothing: String = sqlx::query_scalar(schema).fetch_one(&mut connection).await.unwrap();
    assert_eq!((nothing.as_str(), undone), ("", platform::database::migrations::history(&mut connection).await.unwrap().len()));
    platform::database::migrations::migrate(&mut connection).await.unwrap();
    let after: String = sqlx::query_scalar(schema).fetch_one(&mut connection).await.unwrap();
    assert_eq!(after, before);
}

/// `lib.rs` of a feature lists the tables that it owns, and the migrations agree.
#[test]
fn every_table_has_the_owner_that_its_feature_names() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut checked = 0;
    for file in std::fs::read_dir(root.join("migrations")).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        if !path.to_string_lossy().ends_with(".up.sql") {
            continue;
        }
        let owner = text
            .lines()
            .next()
            .unwrap()
            .strip_prefix("-- Owner: ")
            .and_then(|line| line.split('.').next())
            .unwrap_or_else(|| panic!("{} names no owner", path.display()));
        let lib = std::fs::read_to_string(root.join("src").join(owner).join("lib.rs")).unwrap();
        for line in text.lines() {
            let Some(table) = line.strip_prefix("CREATE TABLE mcp_fabric.").or_else(|| line.strip_prefix("CREATE VIEW mcp_fabric.")) else {
                continue;
            };
            let table = table.split([' ', '(']).next().unwrap();
            assert!(lib.contains(&format!("{table}`")), "src/{owner}/lib.rs does not name {table}");
            checked += 1;
        }
    }
    assert!(checked >= 12, "{checked}");
}
