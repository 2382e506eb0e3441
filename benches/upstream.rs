//! A registry of any size to mirror: generated documents, served on loopback as the official registry
//! serves its own (`GET /v0.1/servers` with `limit`, `cursor`, `version`, `updated_since` and
//! `include_deleted`). The same seed gives the same registry, byte for byte.
//!
//! Sizes and shapes follow the real entries of November 2026: about 1.1 kB each, half of them below
//! 520 bytes, one in twenty above 3 kB, a few above 20 kB.

#![expect(clippy::print_stdout, clippy::print_stderr, clippy::exit, reason = "a program for the terminal")]

use std::{collections::BTreeSet, net::SocketAddr, ops::Range, sync::Arc};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;

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

// ---------------------------------------------------------------------------------------------------
// Random choices

/// SplitMix64: small, fast, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap_or(0)
    }

    fn between(&mut self, range: Range<usize>) -> usize {
        range.start + self.below(range.len())
    }

    fn chance(&mut self, per_thousand: usize) -> bool {
        self.below(1000) < per_thousand
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }

    fn hex(&mut self, digits: usize) -> String {
        (0..digits).map(|_| char::from(b"0123456789abcdef"[self.below(16)])).collect()
    }

    /// A word that could be a name: `tavoro`, `mirelsen`.
    fn name(&mut self) -> String {
        let syllables = self.between(2..4);
        let mut name: String = (0..syllables).map(|_| format!("{}{}", self.pick(ONSETS), self.pick(VOWELS))).collect();
        name.push_str(self.pick(ENDINGS));
        name
    }
}

const ONSETS: &[&str] =
    &["b", "br", "c", "ch", "d", "dr", "f", "g", "gr", "h", "j", "k", "l", "m", "n", "p", "pr", "r", "s", "st", "t", "tr", "v", "w", "z"];
const VOWELS: &[&str] = &["a", "e", "i", "o", "u", "ai", "ea", "io", "ou"];
const ENDINGS: &[&str] = &["", "", "", "n", "r", "s", "ly", "ra", "io", "sen", "tec", "lab", "hub", "ware", "dev", "ai"];
/// What servers are about.
const TOPICS: &[&str] = &[
    "postgres",
    "mysql",
    "sqlite",
    "mongodb",
    "redis",
    "elasticsearch",
    "snowflake",
    "bigquery",
    "clickhouse",
    "duckdb",
    "neo4j",
    "supabase",
    "github",
    "gitlab",
    "bitbucket",
    "jira",
    "linear",
    "asana",
    "trello",
    "notion",
    "confluence",
    "obsidian",
    "slack",
    "discord",
    "telegram",
    "whatsapp",
    "gmail",
    "outlook",
    "calendar",
    "google-drive",
    "dropbox",
    "s3",
    "azure",
    "aws",
    "gcp",
    "kubernetes",
    "docker",
    "terraform",
    "ansible",
    "jenkins",
    "grafana",
    "prometheus",
    "datadog",
    "sentry",
    "splunk",
    "pagerduty",
    "salesforce",
    "hubspot",
    "stripe",
    "paypal",
    "shopify",
    "quickbooks",
    "xero",
    "zendesk",
    "intercom",
    "figma",
    "canva",
    "blender",
    "unity",
    "unreal",
    "playwright",
    "puppeteer",
    "selenium",
    "firecrawl",
    "browser",
    "crawler",
    "pdf",
    "excel",
    "word",
    "markdown",
    "latex",
    "arxiv",
    "pubmed",
    "wikipedia",
    "weather",
    "maps",
    "flights",
    "hotels",
    "stocks",
    "crypto",
    "bitcoin",
    "ethereum",
    "solana",
    "youtube",
    "spotify",
    "reddit",
    "twitter",
    "linkedin",
    "instagram",
    "news",
    "rss",
    "translate",
    "whisper",
    "images",
    "video",
    "audio",
    "memory",
    "rag",
    "embeddings",
    "pinecone",
    "qdrant",
    "chroma",
    "langchain",
    "openapi",
    "graphql",
    "swagger",
    "jupyter",
    "matlab",
    "filesystem",
    "shell",
    "ssh",
    "homeassistant",
    "mqtt",
    "modbus",
    "oscilloscope",
    "cad",
    "gis",
    "legal",
    "invoices",
    "recipes",
    "fitness",
    "genomics",
    "chess",
];
const VERBS: &[&str] = &[
    "search",
    "query",
    "manage",
    "create",
    "read",
    "update",
    "analyze",
    "monitor",
    "fetch",
    "extract",
    "generate",
    "summarize",
    "explore",
    "automate",
    "convert",
    "validate",
    "schedule",
    "track",
    "compare",
    "visualize",
    "control",
    "deploy",
    "debug",
    "review",
    "translate",
];
const OBJECTS: &[&str] = &[
    "issues",
    "tables",
    "documents",
    "messages",
    "files",
    "pages",
    "records",
    "dashboards",
    "logs",
    "metrics",
    "tickets",
    "projects",
    "notes",
    "events",
    "contacts",
    "payments",
    "orders",
    "images",
    "datasets",
    "workflows",
    "pipelines",
    "containers",
    "schemas",
    "emails",
    "reports",
    "prices",
    "forecasts",
    "routes",
    "tests",
    "pull requests",
    "knowledge graphs",
    "embeddings",
    "transcripts",
    "prompts",
    "test coverage",
];
const TAILS: &[&str] = &[
    "for AI agents",
    "for AI assistants",
    "with natural language",
    "through one API",
    "in real time",
    "over streamable HTTP",
    "without code",
    "from Claude and other clients",
    "with OAuth",
    "locally and read-only",
    "for teams",
    "across your organization",
    "and more.",
    "safely",
];
const KINDS: &[&str] = &["mcp", "mcp-server", "server", "mcp", "tools", "agent", "connector", "mcp"];
const VARIABLES: &[&str] = &[
    "API_KEY",
    "API_TOKEN",
    "ACCESS_TOKEN",
    "BASE_URL",
    "ORG_ID",
    "PROJECT_ID",
    "REGION",
    "TIMEOUT_MS",
    "LOG_LEVEL",
    "CLIENT_ID",
    "CLIENT_SECRET",
    "USERNAME",
    "PASSWORD",
    "DATABASE_URL",
    "WORKSPACE",
    "READ_ONLY",
    "MAX_RESULTS",
    "CACHE_DIR",
    "PROXY_URL",
    "MODEL",
];
const SCHEMAS: &[&str] = &["2025-07-09", "2025-09-29", "2025-10-17", "2025-10-17", "2025-12-11", "2025-12-11", "2025-12-11"];

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

// ---------------------------------------------------------------------------------------------------
// Servers

/// What all versions of a server have in common.
struct Server {
    name: String,
    topic: &'static str,
    brand: String,
    description: String,
    versions: usize,
    shape: Shape,
}

/// How much a document says, which is what its size comes from.
#[derive(Clone, Copy)]
struct Shape {
    packages: usize,
    remotes: usize,
    variables: usize,
    icons: bool,
}

impl Shape {
    fn choose(random: &mut Random) -> Self {
        let icons = random.chance(140);
        let (packages, remotes, variables) = match random.below(1000) {
            0..30 => (0, 0, 0),
            30..230 => (0, random.between(1..3), random.below(2)),
            230..560 => (1, 0, 0),
            560..840 => (1, usize::from(random.chance(100)), random.between(1..6)),
            840..960 => (random.between(1..3), random.below(2), random.between(4..12)),
            960..997 => (random.between(2..4), random.below(3), random.between(6..14)),
            _ => (random.between(3..8), random.below(19), random.between(18..28)),
        };
        Self { packages, remotes, variables, icons }
    }
}

impl Server {
    /// Servers by name, with all versions shared out between them.
    fn generate(random: &mut Random, count: usize, versions: usize) -> Vec<Self> {
        let mut names = BTreeSet::new();
        let mut servers = Vec::with_capacity(count);
        let mut owner = random.name();
        while servers.len() < count {
            // Many publishers have several servers.
            if random.chance(600) {
                owner = random.name();
            }
            let topic = random.pick(TOPICS);
            let brand = capital(&owner);
            let name = server_name(random, &owner, topic);
            if !names.insert(name.clone()) {
                owner = random.name();
                continue;
            }
            let description = describe(random, topic, &brand);
            servers.push(Self { name, topic, brand, description, versions: 1, shape: Shape::choose(random) });
        }
        servers.sort_by(|a, b| a.name.cmp(&b.name));
        for _ in count..versions {
            // A tenth of the servers is released often, and a few of them very often; a prime scatters
            // them over the alphabet.
            let server = if random.chance(700) {
                let often = (count / 10).max(1);
                let chosen = random.below(often) * random.below(often) / often;
                chosen * 7919 % count
            } else {
                random.below(count)
            };
            servers[server].versions += 1;
        }
        servers
    }

    /// Version numbers in the order of their release.
    fn numbers(&self, random: &mut Random) -> Vec<String> {
        let (mut major, mut minor, mut patch) = (random.below(2), random.below(3), random.below(3));
        let next = |_| {
            let number = format!("{major}.{minor}.{patch}");
            match random.below(20) {
                0 => (major, minor, patch) = (major + 1, 0, 0),
                1..6 => (minor, patch) = (minor + 1, 0),
                _ => patch += 1,
            }
            number
        };
        (0..self.versions).map(next).collect()
    }
}

fn server_name(random: &mut Random, owner: &str, topic: &str) -> String {
    let namespace = match random.below(10) {
        0..7 => format!("io.github.{}", if random.chance(150) { capital(owner) } else { owner.to_owned() }),
        7 | 8 => format!("com.{owner}"),
        _ => format!("{}.{owner}", random.pick(&["ai", "dev", "org", "io", "app", "co"])),
    };
    let kind = random.pick(KINDS);
    let own = match random.below(6) {
        0 => format!("mcp-{topic}"),
        1 => format!("{topic}-{}-{kind}", random.pick(OBJECTS).replace(' ', "-")),
        2 => format!("{owner}-{kind}"),
        3 => format!("{}-{kind}", random.name()),
        _ => format!("{topic}-{kind}"),
    };
    format!("{namespace}/{own}")
}

/// A line of up to a hundred characters, which is what the registry takes.
fn describe(random: &mut Random, topic: &str, brand: &str) -> String {
    let about = if random.chance(400) { brand.to_owned() } else { capital(&topic.replace('-', " ")) };
    let (verb, other) = (random.pick(VERBS), random.pick(VERBS));
    let (object, second) = (random.pick(OBJECTS), random.pick(OBJECTS));
    let tail = random.pick(TAILS);
    let mut text = match random.below(6) {
        0 => format!("MCP server for {about}: {verb} {object} and {other} {second} {tail}"),
        1 => format!("{} {object} and {second} in {about} {tail}", capital(verb)),
        2 => format!("A Model Context Protocol server that lets you {verb} {about} {object} {tail}"),
        3 => format!("{about} integration. {}, {other} {object} {tail}", capital(verb)),
        4 => format!("Official {about} MCP server — {verb} {object}, {second} {tail}"),
        _ => format!("{} and {other} {about} {object} {tail}", capital(verb)),
    };
    let end = text.char_indices().nth(100).map_or(text.len(), |(end, _)| end);
    text.truncate(end);
    text
}

/// Searches as people type them: mostly one or two words of what they want, names, beginnings of words,
/// and now and then a sentence, a word that every server has, or one that none has.
fn queries(random: &mut Random, servers: &[Server], count: usize) -> BTreeSet<String> {
    let mut queries = BTreeSet::new();
    let widest = ["mcp", "mcp server", "server", "ai", "api"];
    let mut tries = 0;
    while queries.len() < count && tries < 100 * count {
        tries += 1;
        let server = &servers[random.below(servers.len())];
        let topic = server.topic.replace('-', " ");
        queries.insert(match random.below(100) {
            0..30 => topic,
            30..50 => format!("{topic} {}", random.pick(OBJECTS)),
            50..60 => format!("{} {}", random.pick(VERBS), random.pick(OBJECTS)),
            60..70 => server.brand.to_lowercase(),
            70..80 => server.name.split('/').next_back().unwrap_or_default().to_owned(),
            80..85 => server.name.clone(),
            85..90 => topic.chars().take(4).collect(),
            90..94 => format!("{} {} from {topic}", random.pick(VERBS), random.pick(OBJECTS)),
            94..97 => format!("qx{}", random.hex(8)),
            97 => format!("\"{} {}\"", random.pick(VERBS), random.pick(OBJECTS)),
            _ => random.pick(&widest).to_owned(),
        });
    }
    queries
}

// ---------------------------------------------------------------------------------------------------
// Documents

#[derive(Serialize)]
struct Entry<'a> {
    server: Document<'a>,
    #[serde(rename = "_meta")]
    meta: Outer<'a>,
}

#[derive(Serialize)]
struct Outer<'a> {
    #[serde(rename = "io.modelcontextprotocol.registry/official")]
    official: Official<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Official<'a> {
    status: &'a str,
    status_changed_at: String,
    published_at: String,
    updated_at: String,
    is_latest: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    #[serde(rename = "$schema")]
    schema: String,
    name: &'a str,
    description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    repository: serde_json::Value,
    version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    website_url: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    icons: Vec<serde_json::Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    packages: Vec<serde_json::Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remotes: Vec<serde_json::Value>,
}

impl<'a> Document<'a> {
    fn of(random: &mut Random, server: &'a Server, version: &'a str) -> Self {
        let (namespace, own) = server.name.split_once('/').unwrap_or_default();
        let owner = namespace.split('.').next_back().unwrap_or_default();
        let shape = server.shape;
        let icon = || json!({ "src": format!("https://{owner}.example.com/icons/{own}.png"), "mimeType": "image/png", "sizes": ["96x96"] });
        Self {
            schema: format!("https://static.modelcontextprotocol.io/schemas/{}/server.schema.json", random.pick(SCHEMAS)),
            name: &server.name,
            description: &server.description,
            title: random.chance(500).then(|| format!("{} {}", server.brand, capital(server.topic))),
            repository: match random.below(8) {
                0 => json!({}),
                _ => json!({ "url": format!("https://github.com/{owner}/{own}"), "source": "github" }),
            },
            version,
            website_url: random.chance(180).then(|| format!("https://{owner}.example.com/docs/{own}")),
            icons: shape.icons.then(icon).into_iter().collect(),
            packages: (0..shape.packages).map(|number| package(random, server, owner, own, version, number)).collect(),
            remotes: (0..shape.remotes).map(|number| remote(owner, own, number, shape.variables)).collect(),
        }
    }
}

fn package(random: &mut Random, server: &Server, owner: &str, own: &str, version: &str, number: usize) -> serde_json::Value {
    let variables: Vec<_> = (0..server.shape.variables).map(|nth| variable(random, server, nth)).collect();
    let mut package = match (own.len() + number) % 8 {
        0..4 => {
            json!({ "registryType": "npm", "identifier": format!("@{}/{own}", owner.to_lowercase()), "version": version, "runtimeHint": "npx" })
        }
        4 | 5 => json!({ "registryType": "oci", "identifier": format!("ghcr.io/{}/{own}:{version}", owner.to_lowercase()) }),
        6 => json!({ "registryType": "pypi", "identifier": own, "version": version, "runtimeHint": "uvx" }),
        _ => json!({
            "registryType": "mcpb",
            "identifier": format!("https://github.com/{owner}/{own}/releases/download/v{version}/{own}.mcpb"),
            "fileSha256": random.hex(64),
        }),
    };
    package["transport"] = json!({ "type": "stdio" });
    if !variables.is_empty() {
        package["environmentVariables"] = variables.into();
    }
    package
}

fn variable(random: &mut Random, server: &Server, number: usize) -> serde_json::Value {
    let own = VARIABLES[number % VARIABLES.len()];
    let is_secret = own.ends_with("KEY") || own.ends_with("TOKEN") || own.ends_with("SECRET") || own.ends_with("PASSWORD");
    let prefix = server.brand.to_uppercase();
    let described = format!(
        "{} of your {} account, to {} {}",
        capital(&own.to_lowercase().replace('_', " ")),
        server.brand,
        random.pick(VERBS),
        random.pick(OBJECTS)
    );
    json!({ "name": format!("{prefix}_{own}"), "description": described, "isRequired": number == 0, "isSecret": is_secret, "format": "string" })
}

fn remote(owner: &str, own: &str, number: usize, headers: usize) -> serde_json::Value {
    let kind = if number % 2 == 0 { "streamable-http" } else { "sse" };
    let mut remote = json!({ "type": kind, "url": format!("https://mcp-{number}.{owner}.example.com/{own}") });
    if headers > 0 {
        remote["headers"] =
            json!([{ "name": "Authorization", "description": "Bearer token for the API", "isRequired": true, "isSecret": true }]);
    }
    remote
}

// ---------------------------------------------------------------------------------------------------
// The registry

/// First publication of all, and how long there is to publish: long over, so that a mirror which asks for
/// what changed of late is told of nothing.
const EPOCH: i64 = 1_752_000_000_000_000;
const SPAN: usize = 14_000_000_000_000;

/// Every entry by name and version, rendered end to end with commas between, so that a page of
/// neighbours is one piece of the text.
struct Registry {
    text: String,
    entries: Vec<Place>,
    mean_document: usize,
}

struct Place {
    /// `name:version`, which is the cursor after this entry.
    name_length: usize,
    key: Box<str>,
    bytes: Range<usize>,
    updated_at: i64,
    is_latest: bool,
    is_deleted: bool,
}

impl Place {
    fn key(&self) -> (&str, &str) {
        (&self.key[..self.name_length], &self.key[self.name_length + 1..])
    }
}

impl Registry {
    fn render(random: &mut Random, servers: &[Server]) -> Self {
        let mut registry = Self { text: String::new(), entries: Vec::new(), mean_document: 0 };
        let mut documents = 0;
        for server in servers {
            documents += registry.add(random, server);
        }
        registry.mean_document = documents / registry.entries.len().max(1);
        registry
    }

    /// Adds all versions of a server; gives the size of its documents.
    fn add(&mut self, random: &mut Random, server: &Server) -> usize {
        let numbers = server.numbers(random);
        let newest = numbers.len() - 1;
        let is_taken_down = random.chance(5);
        let first = random.below(SPAN);
        let step = (SPAN - first) / (numbers.len() + 1);
        let mut order: Vec<usize> = (0..numbers.len()).collect();
        order.sort_by(|a, b| numbers[*a].cmp(&numbers[*b]));
        let mut documents = 0;
        for number in order {
            let published = EPOCH + i64::try_from(first + number * step + random.below(step.max(1))).unwrap_or(0);
            let is_latest = number == newest;
            let is_deleted = is_taken_down || (!is_latest && random.chance(3));
            let status = if is_deleted {
                "deleted"
            } else if random.chance(8) {
                "deprecated"
            } else {
                "active"
            };
            let document = Document::of(random, server, &numbers[number]);
            let official = Official {
                status,
                status_changed_at: rfc3339(published),
                published_at: rfc3339(published),
                updated_at: rfc3339(published),
                is_latest,
            };
            let entry = serde_json::to_string(&Entry { server: document, meta: Outer { official } }).unwrap_or_default();
            documents +=
                entry.find(r#","_meta":{"io.modelcontextprotocol.registry/official""#).unwrap_or(entry.len()) - r#"{"server":"#.len();
            let begin = self.text.len();
            self.text.push_str(&entry);
            self.entries.push(Place {
                name_length: server.name.len(),
                key: format!("{}:{}", server.name, numbers[number]).into(),
                bytes: begin..self.text.len(),
                updated_at: published,
                is_latest,
                is_deleted,
            });
            self.text.push(',');
        }
        documents
    }

    fn page(&self, filter: &Filter) -> String {
        let start =
            self.entries.partition_point(|entry| filter.after.as_ref().is_some_and(|(name, version)| entry.key() <= (name, version)));
        let found: Vec<&Place> = self.entries[start..].iter().filter(|entry| filter.takes(entry)).take(filter.limit).collect();
        let texts: Vec<&str> = found.iter().map(|entry| &self.text[entry.bytes.clone()]).collect();
        let mut metadata = json!({ "count": found.len() });
        // As upstream does it: a full page has a cursor even where nothing follows.
        if let Some(last) = found.last().filter(|_| found.len() == filter.limit) {
            metadata["nextCursor"] = json!(last.key);
        }
        format!(r#"{{"servers":[{}],"metadata":{metadata}}}"#, texts.join(","))
    }
}

fn rfc3339(micros: i64) -> String {
    DateTime::from_timestamp_micros(micros).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Micros, true)
}

#[derive(Deserialize)]
struct Asked {
    cursor: Option<String>,
    limit: Option<String>,
    version: Option<String>,
    updated_since: Option<String>,
    include_deleted: Option<bool>,
}

struct Filter {
    after: Option<(String, String)>,
    limit: usize,
    version: Option<String>,
    since: Option<i64>,
    include_deleted: bool,
}

impl Filter {
    fn takes(&self, entry: &Place) -> bool {
        let is_version = match self.version.as_deref() {
            None => true,
            Some("latest") => entry.is_latest,
            Some(version) => entry.key().1 == version,
        };
        is_version && self.since.is_none_or(|since| entry.updated_at > since) && (self.include_deleted || !entry.is_deleted)
    }
}

impl Asked {
    fn filter(self) -> Result<Filter, (StatusCode, &'static str)> {
        let limit = match self.limit.as_deref().map_or(Ok(30), str::parse) {
            Ok(limit @ 1..=100) => limit,
            _ => return Err((StatusCode::UNPROCESSABLE_ENTITY, "validation failed")),
        };
        let since = self.updated_since.map(|text| text.parse::<DateTime<Utc>>()).transpose();
        let since = since.map_err(|_| (StatusCode::BAD_REQUEST, "Invalid updated_since format: expected RFC3339 timestamp"))?;
        if since.is_some() && self.include_deleted == Some(false) {
            return Err((StatusCode::BAD_REQUEST, "Cannot set include_deleted=false when using updated_since"));
        }
        let after = self.cursor.filter(|cursor| !cursor.is_empty()).map(|cursor| match cursor.split_once(':') {
            Some((name, version)) => (name.to_owned(), version.to_owned()),
            None => (cursor, String::from(char::MAX)),
        });
        Ok(Filter {
            after,
            limit,
            version: self.version,
            since: since.map(|since| since.timestamp_micros()),
            include_deleted: since.is_some() || self.include_deleted == Some(true),
        })
    }
}

async fn list(State(registry): State<Arc<Registry>>, Query(asked): Query<Asked>) -> Response {
    match asked.filter() {
        Ok(filter) => ([(header::CONTENT_TYPE, "application/json")], registry.page(&filter)).into_response(),
        Err((status, detail)) => (status, Json(json!({ "status": status.as_u16(), "detail": detail }))).into_response(),
    }
}
