//! A registry of any size to mirror: generated documents, served on loopback as the official registry
//! serves its own (`GET /v0.1/servers` with `limit`, `cursor`, `version`, `updated_since` and
//! `include_deleted`). The same seed gives the same registry, byte for byte.
//!
//! Sizes and shapes follow the real entries of November 2026: about 1.1 kB each, half of them below
//! 520 bytes, one in twenty above 3 kB, a few above 20 kB.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

mod documents;
mod registry;
mod servers;
mod words;

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, routing::get};

use registry::{Registry, list};
use servers::{Server, queries};
use words::Random;

const USAGE: &str = "\
A generated registry on loopback, to measure the mirror with.

  cargo bench --bench upstream -- --servers 40000 --versions 150000 --listen 127.0.0.1:0
  cargo bench --bench upstream -- --servers 40000 --versions 150000 --queries 200

  --servers N      how many servers
  --versions N     how many versions they have altogether
  --seed N         another registry of that size (default 1)
  --listen ADDR    serve it there until stopped; port 0 takes a free one and prints it
  --queries N      print N searches that people could type, one a line, and end";

fn main() {
    let asked = Arguments::read(std::env::args().skip(1)).unwrap_or_else(|reason| {
        eprintln!("{reason}\n\n{USAGE}");
        std::process::exit(2);
    });
    let Some(asked) = asked else {
        println!("{USAGE}");
        return;
    };
    let mut random = Random(asked.seed);
    let servers = Server::generate(&mut random, asked.servers, asked.versions);
    if let Some(count) = asked.queries {
        for query in queries(&mut Random(asked.seed), &servers, count) {
            println!("{query}");
        }
        return;
    }
    let registry = Registry::render(&mut random, &servers);
    drop(servers);
    if let Err(error) = serve(registry, asked.listen) {
        eprintln!("cannot serve: {error}");
        std::process::exit(1);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn serve(registry: Registry, listen: SocketAddr) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(listen).await?;
    println!("{} entries, {} bytes a document", registry.entries.len(), registry.mean_document);
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, Router::new().route("/v0.1/servers", get(list)).with_state(Arc::new(registry))).await
}

struct Arguments {
    servers: usize,
    versions: usize,
    seed: u64,
    listen: SocketAddr,
    queries: Option<usize>,
}

impl Arguments {
    /// `None` when nothing is asked for, as in a plain `cargo bench`.
    fn read(words: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        // Cargo itself adds `--bench`.
        let words: Vec<String> = words.filter(|word| word != "--bench").collect();
        if words.is_empty() || words.iter().any(|word| word == "--help") {
            return Ok(None);
        }
        let mut asked = Self { servers: 0, versions: 0, seed: 1, listen: SocketAddr::from(([127, 0, 0, 1], 0)), queries: None };
        for pair in words.chunks(2) {
            let [name, value] = pair else { return Err(format!("{} wants a value", pair[0])) };
            let number = || value.parse().map_err(|_| format!("{name} wants a number, not {value}"));
            match name.as_str() {
                "--servers" => asked.servers = number()?,
                "--versions" => asked.versions = number()?,
                "--seed" => asked.seed = value.parse().map_err(|_| format!("--seed wants a number, not {value}"))?,
                "--queries" => asked.queries = Some(number()?),
                "--listen" => asked.listen = value.parse().map_err(|_| format!("--listen wants address:port, not {value}"))?,
                _ => return Err(format!("there is no {name}")),
            }
        }
        if !asked.listen.ip().is_loopback() {
            return Err("--listen wants an address of this machine only".into());
        }
        if asked.servers == 0 || asked.versions < asked.servers {
            return Err("--servers and --versions are needed, and every server has a version at least".into());
        }
        Ok(Some(asked))
    }
}
