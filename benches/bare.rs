//! The least that axum can do: serves the bytes of given files at given paths, with nothing around the
//! handler. What a request costs here is what every request costs.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

use std::net::SocketAddr;

use axum::{Router, body::Bytes, http::header, routing::get};

const USAGE: &str = "\
A bare axum server, to compare answers from memory with.

  cargo bench --bench bare -- --listen 127.0.0.1:0 /v0.1/servers=page.json

  --listen ADDR    serve there until stopped; port 0 takes a free one and prints it
  PATH=FILE        what to answer at a path (without a query), as application/json";

fn main() {
    // Cargo itself adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if words.is_empty() || words.iter().any(|word| word == "--help") {
        println!("{USAGE}");
        return;
    }
    let served = routes(&words).and_then(|(listen, router)| serve(listen, router).map_err(|error| format!("cannot serve: {error}")));
    if let Err(reason) = served {
        eprintln!("{reason}\n\n{USAGE}");
        std::process::exit(2);
    }
}

fn routes(words: &[String]) -> Result<(SocketAddr, Router), String> {
    let [option, listen, pairs @ ..] = words else { return Err("--listen is needed".into()) };
    let listen: SocketAddr = listen.parse().map_err(|_| format!("{listen} is not address:port"))?;
    if option != "--listen" || !listen.ip().is_loopback() {
        return Err("--listen comes first, with an address of this machine only".into());
    }
    let mut router = Router::new();
    for pair in pairs {
        let (path, file) = pair.split_once('=').ok_or_else(|| format!("{pair} is not PATH=FILE"))?;
        let body = Bytes::from(std::fs::read(file).map_err(|error| format!("cannot read {file}: {error}"))?);
        router = router.route(path, get(async move || ([(header::CONTENT_TYPE, "application/json")], body.clone())));
    }
    Ok((listen, router))
}

#[tokio::main]
async fn serve(listen: SocketAddr, router: Router) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(listen).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, router).await
}
