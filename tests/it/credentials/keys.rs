//! Keys that are wrong, missing, weak or renamed.

use mcp_fabric::app::StartError;
use platform::keys::SecretKey;

use crate::support::TestApp;

#[tokio::test(flavor = "multi_thread")]
async fn wrong_missing_and_renamed_keys_end_the_start() {
    let app = TestApp::start().await;
    let first = crate::support::keys()[0];
    let other = SecretKey::generate().to_base64().to_string();
    let third = SecretKey::generate().to_base64().to_string();
    let refused = async |given: &[(&str, &str)]| match TestApp::refused(&app.database, given).await {
        error @ (StartError::Keys(_) | StartError::Config(_)) => {
            assert!(error.is_configuration());
            let text = error.to_string();
            assert!(!text.contains(first) && !text.contains(&other), "{text}");
            assert!(text.contains("mcp-fabric credentials new-key"), "{text}");
            text
        }
        error => panic!("{error}"),
    };
    let wrong = refused(&[("CREDENTIAL_ENCRYPTION_KEY", &other)]).await;
    let kid = platform::keys::KeyInput::parse(first).unwrap().resolve(&[0; 16]).id();
    assert!(wrong.contains(&format!("expected the key {kid} (version 1)")), "{wrong}");
    assert!(refused(&[("CREDENTIAL_ENCRYPTION_KEY", "")]).await.contains("is not set"));
    assert!(refused(&[("JWT_SECRET_KEY", "")]).await.contains("new-key"));
    let ring = |text: String| [("CREDENTIAL_ENCRYPTION_KEY", String::new()), ("CREDENTIAL_ENCRYPTION_KEYS", text)];
    let with = async |text: String| {
        let ring = ring(text);
        refused(&ring.each_ref().map(|(key, value)| (*key, value.as_str()))).await
    };
    assert!(with(format!("2:{first}")).await.contains("as version 2, and it is version 1"));
    assert!(with(format!("2:{other},3:{third}")).await.contains("expected the key"));
    drop(app.get("/health/live").await);
    let mut app = app;
    // The new key first: it seals from now on. Then the old one first again: that is not the order any more.
    app.set("CREDENTIAL_ENCRYPTION_KEY", "");
    app.set("CREDENTIAL_ENCRYPTION_KEYS", &format!("2:{other},1:{first}"));
    app.restart().await;
    let turned = TestApp::refused(
        &app.database,
        &[("CREDENTIAL_ENCRYPTION_KEY", ""), ("CREDENTIAL_ENCRYPTION_KEYS", &format!("1:{first},2:{other}"))],
    )
    .await;
    assert!(turned.to_string().contains("is given first, and newer values are sealed with version 2"), "{turned}");
}

#[tokio::test(flavor = "multi_thread")]
async fn weak_keys_and_placeholders_are_refused_before_anything_starts() {
    let hexadecimal = |byte: u8| format!("{byte:02x}").repeat(32);
    for (key, value) in [
        ("CREDENTIAL_ENCRYPTION_KEY", hexadecimal(0)),
        ("CREDENTIAL_ENCRYPTION_KEY", "short".into()),
        ("CREDENTIAL_ENCRYPTION_KEY", "changeme".into()),
        ("CREDENTIAL_ENCRYPTION_KEY", "passphrase:too short".into()),
        ("CREDENTIAL_ENCRYPTION_KEYS", "1:short".into()),
        ("CREDENTIAL_ENCRYPTION_KEY_FILE", "/no/such/file".into()),
        ("CREDENTIAL_ENCRYPTION_KEY_PREVIOUS", crate::support::keys()[0].to_owned()),
        ("JWT_SECRET_KEY", "your-super-secure-secret-key-change-in-production".into()),
        ("JWT_SECRET_KEY", hexadecimal(7)),
        ("JWT_SECRET_KEY", crate::support::keys()[1].to_owned()),
        ("FABRIC_JWT_TTL", "0".into()),
        ("FABRIC_JWT_TTL", "never".into()),
        ("FABRIC_AUDIT_RETENTION_DAYS", "0".into()),
        ("FABRIC_AUDIT_RETENTION_DAYS", "-1".into()),
        ("FABRIC_AUDIT_RETENTION_DAYS", "NaN".into()),
        ("FABRIC_REGISTRATION", "maybe".into()),
    ] {
        let mut layers = platform::config::Layers::defaults().unwrap();
        if value == crate::support::keys()[1] {
            // One key for two purposes.
            layers.set("CREDENTIAL_ENCRYPTION_KEY", value.clone(), platform::config::Source::Environment);
        }
        layers.set(key, value.clone(), platform::config::Source::Environment);
        let refused = platform::Config::from_layers(&layers).unwrap_err().to_string();
        assert!(refused.starts_with("CREDENTIAL_") || refused.starts_with("JWT_") || refused.starts_with("FABRIC_"), "{refused}");
        assert!(value.len() < 3 || !refused.contains(&value) || value.starts_with('/'), "{refused}");
    }
}
