//! Random choices, and the words that they are made of.

use std::ops::Range;

/// `SplitMix64`: small, fast, and the same on every machine.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap_or(0)
    }

    pub(crate) fn between(&mut self, range: Range<usize>) -> usize {
        range.start + self.below(range.len())
    }

    pub(crate) fn chance(&mut self, per_thousand: usize) -> bool {
        self.below(1000) < per_thousand
    }

    pub(crate) fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }

    pub(crate) fn hex(&mut self, digits: usize) -> String {
        (0..digits).map(|_| char::from(b"0123456789abcdef"[self.below(16)])).collect()
    }

    /// A word that could be a name: `tavoro`, `mirelsen`.
    pub(crate) fn name(&mut self) -> String {
        let syllables = self.between(2..4);
        let mut name = String::new();
        for _ in 0..syllables {
            name.push_str(self.pick(ONSETS));
            name.push_str(self.pick(VOWELS));
        }
        name.push_str(self.pick(ENDINGS));
        name
    }
}

pub(crate) const ONSETS: &[&str] =
    &["b", "br", "c", "ch", "d", "dr", "f", "g", "gr", "h", "j", "k", "l", "m", "n", "p", "pr", "r", "s", "st", "t", "tr", "v", "w", "z"];
pub(crate) const VOWELS: &[&str] = &["a", "e", "i", "o", "u", "ai", "ea", "io", "ou"];
pub(crate) const ENDINGS: &[&str] = &["", "", "", "n", "r", "s", "ly", "ra", "io", "sen", "tec", "lab", "hub", "ware", "dev", "ai"];
/// What servers are about.
pub(crate) const TOPICS: &[&str] = &[
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
pub(crate) const VERBS: &[&str] = &[
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
pub(crate) const OBJECTS: &[&str] = &[
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
pub(crate) const TAILS: &[&str] = &[
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
pub(crate) const KINDS: &[&str] = &["mcp", "mcp-server", "server", "mcp", "tools", "agent", "connector", "mcp"];
pub(crate) const VARIABLES: &[&str] = &[
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
pub(crate) const SCHEMAS: &[&str] = &["2025-07-09", "2025-09-29", "2025-10-17", "2025-10-17", "2025-12-11", "2025-12-11", "2025-12-11"];

pub(crate) fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
