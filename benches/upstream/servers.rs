//! Servers: what all versions of one have in common, and what people would search for.

use std::collections::BTreeSet;

use crate::words::{KINDS, OBJECTS, Random, TAILS, TOPICS, VERBS, capital};

/// What all versions of a server have in common.
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) topic: &'static str,
    pub(crate) brand: String,
    pub(crate) description: String,
    pub(crate) versions: usize,
    pub(crate) shape: Shape,
}

/// How much a document says, which is what its size comes from.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) packages: usize,
    pub(crate) remotes: usize,
    pub(crate) variables: usize,
    pub(crate) icons: bool,
}

impl Shape {
    pub(crate) fn choose(random: &mut Random) -> Self {
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
    pub(crate) fn generate(random: &mut Random, count: usize, versions: usize) -> Vec<Self> {
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
    pub(crate) fn numbers(&self, random: &mut Random) -> Vec<String> {
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

pub(crate) fn server_name(random: &mut Random, owner: &str, topic: &str) -> String {
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
pub(crate) fn describe(random: &mut Random, topic: &str, brand: &str) -> String {
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
pub(crate) fn queries(random: &mut Random, servers: &[Server], count: usize) -> BTreeSet<String> {
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
