//! What an attacker with the database can do: none of it gives a value that is not the row's own.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use super::{PATH, decrypt, execute, revealed, scene, store};

/// Whoever has the database can do all this; none of it gives a value that is not the row's own.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_changed_do_not_open() {
    let (app, ada, service) = scene().await;
    let bob = app.person("bob@example.com", "member").await;
    let id = store(&app, &ada, "API_KEY", "of ada").await["id"].as_str().unwrap().to_owned();
    store(&app, &bob, "API_KEY", "of bob").await;
    let mut connection = app.database.connect().await;
    execute(
        &mut connection,
        "CREATE TABLE kept AS SELECT * FROM credentials.mcp_credentials; ALTER TABLE credentials.mcp_credentials DISABLE TRIGGER ALL",
    )
    .await;
    const BACK: &str = "UPDATE credentials.mcp_credentials c SET user_id = k.user_id, encrypted_value = k.encrypted_value, iv = k.iv, wrapped_dek = k.wrapped_dek, key_commit = k.key_commit, rev = k.rev, kek_version = k.kek_version, alg = k.alg, env_var = k.env_var, server_id = k.server_id FROM kept k WHERE k.id = c.id";
    for damage in [
        "encrypted_value = translate(encrypted_value, 'ABCDEFabcdef012345', 'BCDEFAbcdefa123450')",
        "encrypted_value = left(encrypted_value, 40)",
        "encrypted_value = ''",
        "iv = 'AAAAAAAAAAAAAAAA'",
        "wrapped_dek = set_byte(wrapped_dek, 20, get_byte(wrapped_dek, 20) # 1)",
        "key_commit = set_byte(key_commit, 0, get_byte(key_commit, 0) # 128)",
        "rev = rev + 1",
        "rev = 0",
        "alg = 0",
        "env_var = 'OTHER_KEY'",
        "server_id = 'everything', id = gen_random_uuid()",
        "encrypted_value = (SELECT k.encrypted_value FROM kept k WHERE k.id <> c.id), iv = (SELECT k.iv FROM kept k WHERE k.id <> c.id)",
        "encrypted_value = (SELECT k.encrypted_value FROM kept k WHERE k.id <> c.id), iv = (SELECT k.iv FROM kept k WHERE k.id <> c.id), wrapped_dek = (SELECT k.wrapped_dek FROM kept k WHERE k.id <> c.id), key_commit = (SELECT k.key_commit FROM kept k WHERE k.id <> c.id)",
    ] {
        let damaged =
            sqlx::raw_sql(sqlx::AssertSqlSafe(format!("UPDATE credentials.mcp_credentials c SET {damage} WHERE user_id = '{}'", ada.id)))
                .execute(&mut connection)
                .await
                .unwrap();
        assert_eq!(damaged.rows_affected(), 1);
        let answer = app.internal(&decrypt(&ada.id), Some(&service), &json!({})).await;
        answer.expect_problem(500, "integrity_error");
        assert!(!answer.text().contains("of bob") && !answer.text().contains("of ada"));
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("UPDATE credentials.mcp_credentials SET id = '{id}' WHERE user_id = '{}'", ada.id)))
            .execute(&mut connection)
            .await
            .unwrap();
        execute(&mut connection, BACK).await;
        assert_eq!(revealed(&app, &service, &ada.id).await, json!({ "API_KEY": "of ada" }), "{damage}");
    }
    // The rows change places.
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "UPDATE credentials.mcp_credentials SET user_id = 'x' WHERE user_id = '{a}'; UPDATE credentials.mcp_credentials SET user_id = '{a}' WHERE user_id = '{b}'; UPDATE credentials.mcp_credentials SET user_id = '{b}' WHERE user_id = 'x'",
        a = ada.id,
        b = bob.id
    )))
    .execute(&mut connection)
    .await
    .unwrap();
    app.internal(&decrypt(&ada.id), Some(&service), &json!({})).await.expect_problem(500, "integrity_error");
    sqlx::raw_sql("UPDATE credentials.mcp_credentials SET kek_version = NULL, alg = 0").execute(&mut connection).await.unwrap();
    app.internal(&decrypt(&bob.id), Some(&service), &json!({})).await.expect_problem(500, "integrity_error");
    let failures = app.trail("&action=credential.reveal&outcome=failure").await;
    assert_eq!(failures.len(), 15);
    assert!(failures.iter().all(|event| event["detail"]["code"] == "integrity_error" && event["answers"].is_string()));
}

/// A whole row that is put back as it was opens, since it is what once was right. The trail knows better.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_put_back_or_taken_away_are_found() {
    let (app, ada, service) = scene().await;
    for name in ["ROLLED", "SWAPPED", "DELETED", "MISSING", "FINE", "FORGED"] {
        store(&app, &ada, name, "first").await;
    }
    let mut connection = app.database.connect().await;
    execute(
        &mut connection,
        "CREATE TABLE kept AS SELECT * FROM credentials.mcp_credentials; ALTER TABLE credentials.mcp_credentials DISABLE TRIGGER ALL",
    )
    .await;
    store(&app, &ada, "ROLLED", "second").await;
    app.call(Method::DELETE, &format!("{PATH}/{}/everything/DELETED", ada.id), &ada.access, &Value::Null).await;
    execute(&mut connection, "
        UPDATE credentials.mcp_credentials c SET encrypted_value = k.encrypted_value, iv = k.iv, wrapped_dek = k.wrapped_dek, key_commit = k.key_commit, rev = k.rev
            FROM kept k WHERE k.id = c.id AND c.env_var = 'ROLLED';
        UPDATE credentials.mcp_credentials SET env_var = 'SWAPPED2' WHERE env_var = 'SWAPPED';
        INSERT INTO credentials.mcp_credentials SELECT * FROM kept WHERE env_var = 'DELETED';
        DELETE FROM credentials.mcp_credentials WHERE env_var = 'MISSING';
        INSERT INTO credentials.mcp_credentials (user_id, server_id, env_var, encrypted_value, iv) VALUES ('eve', 'everything', 'PLAIN', 'AAAA', 'AAAA')").await;
    let answer = app.internal(&decrypt(&ada.id), Some(&service), &json!({ "env_vars": ["ROLLED"] })).await;
    assert_eq!(answer.expect(200)["env"]["ROLLED"], "first", "sealing alone cannot tell");
    let ordered = app.op_post("/api/mcp/credentials/verify").await.expect(202);
    let job = app.job(ordered["job_id"].as_str().unwrap()).await;
    let found: BTreeSet<(String, String)> = job["result"]["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| (finding["fault"].as_str().unwrap().to_owned(), finding["env_var"].as_str().unwrap_or_default().to_owned()))
        .collect();
    let expected = [("missing", ""), ("plain", "PLAIN"), ("resurrected", "DELETED"), ("rolled_back", "ROLLED"), ("unopenable", "SWAPPED2")];
    assert_eq!(found, expected.map(|(fault, name)| (fault.to_owned(), name.to_owned())).into(), "{job}");
    assert_eq!(job["result"]["ok"], false);
    assert_eq!(app.trail("&action=credentials.faults").await.len(), 1);
}

/// The requirements' own form: value and tag in one text, the iv in another, under the master key itself.
#[tokio::test(flavor = "multi_thread")]
async fn values_in_the_plain_form_are_sealed() {
    use aes_gcm::{Aes256Gcm, KeyInit as _, aead::Aead as _};
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let (app, ada, service) = scene().await;
    let key: [u8; 32] = STANDARD.decode(crate::support::keys()[0]).unwrap().try_into().unwrap();
    let raw = Aes256Gcm::new(&key.into()).encrypt(&[7; 12].into(), b"from before".as_slice()).unwrap();
    let mut connection = app.database.connect().await;
    for (user, name, value) in [(&ada.id, "OLD_KEY", STANDARD.encode(&raw)), (&ada.id, "WRONG_KEY", STANDARD.encode([1; 40]))] {
        sqlx::query("INSERT INTO credentials.mcp_credentials (user_id, server_id, env_var, encrypted_value, iv) VALUES ($1, 'everything', $2, $3, $4)")
            .bind(user)
            .bind(name)
            .bind(value)
            .bind(STANDARD.encode([7; 12]))
            .execute(&mut connection)
            .await
            .unwrap();
    }
    let ordered = app.op_post("/api/mcp/credentials/migrate").await.expect(202);
    let job = app.job(ordered["job_id"].as_str().unwrap()).await;
    assert_eq!((&job["result"]["migrated"], job["result"]["failed"].as_array().unwrap().len()), (&json!(1), 1));
    let answer = app.internal(&decrypt(&ada.id), Some(&service), &json!({ "env_vars": ["OLD_KEY"] })).await;
    assert_eq!(answer.expect(200)["env"], json!({ "OLD_KEY": "from before" }));
    app.internal(&decrypt(&ada.id), Some(&service), &json!({ "env_vars": ["WRONG_KEY"] })).await.expect_problem(500, "integrity_error");
}
