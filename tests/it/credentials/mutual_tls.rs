//! The internal listener as virtual machines reach it: over TCP, with certificates on both sides.

use std::path::Path;

use reqwest::{Certificate, Client, Identity};
use serde_json::{Value, json};

use super::{decrypt, store};
use crate::support::{TestApp, certificate, skip};

fn client(server: &Path, own: Option<(&Path, &Path)>) -> Client {
    let builder = Client::builder().tls_certs_only([Certificate::from_pem(&std::fs::read(server).unwrap()).unwrap()]);
    let Some((certificate, key)) = own else { return builder.build().unwrap() };
    let pem = [std::fs::read(key).unwrap(), std::fs::read(certificate).unwrap()].concat();
    builder.identity(Identity::from_pem(&pem).unwrap()).build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_client_with_a_certificate_that_we_named_is_heard() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let folder = tempfile::tempdir().unwrap();
    let made = ["server", "client", "stranger"].map(|name| certificate(folder.path(), name));
    let [Some(server), Some(known), Some(stranger)] = made else { return skip("there is no openssl to make certificates with") };
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let app = TestApp::with(&[
        ("FABRIC_INTERNAL_LISTEN", &free.to_string()),
        ("FABRIC_INTERNAL_TLS_CERT", server.0.to_str().unwrap()),
        ("FABRIC_INTERNAL_TLS_KEY", server.1.to_str().unwrap()),
        ("FABRIC_INTERNAL_TLS_CLIENT_CA", known.0.to_str().unwrap()),
    ])
    .await;
    app.person("root@example.com", "admin").await;
    let ada = app.person("ada@example.com", "member").await;
    store(&app, &ada, "API_KEY", "sk-1").await;
    let service = app.service(&["credentials:reveal"], Some(&["everything"])).await;
    let url = format!("https://{free}{}", decrypt(&ada.id));
    let ask = |client: Client, token: Option<&str>| {
        let request = client.post(&url).json(&json!({}));
        let request = if let Some(token) = token { request.bearer_auth(token) } else { request };
        request.send()
    };
    let of = |pair: &(std::path::PathBuf, std::path::PathBuf)| client(&server.0, Some((&pair.0, &pair.1)));
    let answer = ask(of(&known), Some(&service)).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.json::<Value>().await.unwrap()["env"], json!({ "API_KEY": "sk-1" }));
    assert_eq!(ask(of(&known), None).await.unwrap().status(), 401, "a certificate is no token");
    assert!(ask(client(&server.0, None), Some(&service)).await.is_err(), "no certificate");
    assert!(ask(of(&stranger), Some(&service)).await.is_err(), "another certificate");
    let plain = format!("http://{free}{}", decrypt(&ada.id));
    assert!(Client::new().post(&plain).bearer_auth(&service).send().await.is_err(), "without TLS");
}
