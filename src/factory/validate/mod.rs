//! Whether a server is right: what it says of itself, its types, what it depends on, how it speaks, and what it asks of
//! its API. What could not be looked at is skipped, and says so; it never passes.

mod calls;
pub(crate) mod dependencies;
mod echo;
mod expect;
mod kept;
pub(crate) mod lint;
mod protocol;
mod sample;
mod typecheck;

use std::{collections::BTreeMap, io, path::Path, path::PathBuf, sync::Arc, time::Instant};

use cache::Cache;
use packages::Toolchain;
use platform::config::RuntimeConfig;
use sandbox::Machine;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::{
    calls::Program,
    kept::{Kept, Room},
    protocol::Heard,
    typecheck::Compiler,
};
use crate::{
    finding::{Finding, Severity},
    generate::Files,
    spec::ServerSpec,
};

/// How many findings of one rule a report has.
const MOST_OF_ONE: usize = 50;

/// The levels, each of which looks closer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs, reason = "their names are their numbers")]
pub(crate) enum Level {
    L0,
    L1,
    L2,
    L3,
    L4,
}

impl Level {
    /// What is looked at.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::L0 => "specification",
            Self::L1 => "types",
            Self::L2 => "dependencies",
            Self::L3 => "protocol",
            Self::L4 => "calls",
        }
    }
}

/// What came of a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it")]
pub(crate) enum Verdict {
    Passed,
    Failed,
    Skipped,
}

/// A level, and what came of it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Looked {
    /// Which.
    pub(crate) level: Level,
    /// What was looked at.
    pub(crate) about: String,
    /// What came of it.
    pub(crate) verdict: Verdict,
    /// Why it was skipped, or what was looked at in numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
    /// How long it took, in milliseconds.
    pub(crate) took_ms: u64,
}

/// All that was found.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct Report {
    /// No level failed.
    pub(crate) valid: bool,
    /// The levels, in order.
    pub(crate) levels: Vec<Looked>,
    /// What was found.
    pub(crate) findings: Vec<Finding>,
}

impl Report {
    fn add(&mut self, level: Level, began: Instant, note: Option<String>, found: Vec<Finding>) {
        let failed = found.iter().any(|one| one.severity == Severity::Error);
        let verdict = if failed { Verdict::Failed } else { Verdict::Passed };
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.levels.push(Looked { level, about: level.about().into(), verdict, note, took_ms });
        self.findings.extend(found);
    }

    fn skip(&mut self, level: Level, why: impl Into<String>) {
        let why = why.into();
        self.findings.push(Finding::info("skipped", level.about(), format!("{level:?} was skipped: {why}")));
        self.levels.push(Looked { level, about: level.about().into(), verdict: Verdict::Skipped, note: Some(why), took_ms: 0 });
    }

    fn settle(mut self) -> Self {
        self.levels.sort_by_key(|looked| looked.level);
        self.findings.sort_by_key(|found| std::cmp::Reverse(found.severity));
        let all = self.findings.len();
        let mut of_rule: BTreeMap<String, usize> = BTreeMap::new();
        self.findings.retain(|found| {
            let count = of_rule.entry(found.id.clone()).or_default();
            *count += 1;
            *count <= MOST_OF_ONE
        });
        if self.findings.len() < all {
            self.findings.push(Finding::info("findings-more", "", format!("{} more of the same rules", all - self.findings.len())));
        }
        self.valid = self.levels.iter().all(|looked| looked.verdict != Verdict::Failed);
        self
    }

    /// The report of what was refused before anything was run.
    pub(crate) fn of_findings(found: Vec<Finding>) -> Self {
        let mut report = Self::default();
        report.add(Level::L0, Instant::now(), None, found);
        for level in [Level::L1, Level::L2, Level::L3, Level::L4] {
            report.skip(level, "the specification has errors");
        }
        report.settle()
    }

    /// What is wrong.
    pub(crate) fn errors(&self) -> Vec<Finding> {
        self.findings.iter().filter(|one| one.severity == Severity::Error).cloned().collect()
    }
}

/// What is looked at.
pub(crate) struct Subject {
    /// What it was made from, where that is known.
    pub(crate) spec: Option<ServerSpec>,
    /// Its project, or what is left of it.
    pub(crate) files: Files,
    /// What is run: unpacked from the archive into a fresh folder.
    pub(crate) packed: Files,
    /// The program and its first arguments, the file that runs among them.
    pub(crate) starts: Option<(Toolchain, String)>,
}

/// Looks at servers.
pub(crate) struct Validator {
    cache: Cache,
    kept: Arc<Kept>,
    place: PathBuf,
}

impl Validator {
    /// `place` is where the files lie that programs use.
    pub(crate) fn new(cache: Cache, machine: Arc<Machine>, config: RuntimeConfig, place: &Path) -> io::Result<Self> {
        Ok(Self { cache, kept: Arc::new(Kept::new(machine, config, place)?), place: place.to_owned() })
    }

    /// Looks at all levels, types beside the rest.
    pub(crate) async fn check(&self, subject: &Subject) -> io::Result<Report> {
        let mut report = Report::default();
        let began = Instant::now();
        match &subject.spec {
            Some(spec) => report.add(Level::L0, began, None, lint::lint(spec)),
            None => report.skip(Level::L0, "there is no server-spec.json"),
        }
        if !report.errors().is_empty() {
            return Ok(Report::of_findings(report.findings));
        }
        let began = Instant::now();
        match dependencies::check(&subject.files) {
            Some(found) => report.add(Level::L2, began, None, found),
            None => report.skip(Level::L2, "there is neither a package.json nor a pyproject.toml"),
        }
        let (types, spoken) = tokio::join!(self.types(subject), self.spoken(subject));
        for part in [types?, spoken?] {
            report.levels.extend(part.levels);
            report.findings.extend(part.findings);
        }
        Ok(report.settle())
    }

    async fn types(&self, subject: &Subject) -> io::Result<Report> {
        let mut report = Report::default();
        let began = Instant::now();
        if !subject.files.contains_key("tsconfig.json") {
            report.skip(Level::L1, "it is not written in TypeScript");
            return Ok(report);
        }
        match Compiler::find(&self.cache, &self.place).await {
            Ok(compiler) => {
                let found = compiler.check(&self.kept, &subject.files).await?;
                report.add(Level::L1, began, Some(format!("TypeScript {}", typecheck::TYPESCRIPT)), found);
            }
            Err(why) => report.skip(Level::L1, format!("the TypeScript compiler is not here: {why}")),
        }
        Ok(report)
    }

    async fn spoken(&self, subject: &Subject) -> io::Result<Report> {
        let mut report = Report::default();
        let found = match &subject.starts {
            Some((toolchain, _)) => toolchain.find_for_servers(&self.place).await.map_err(|why| why.to_string()),
            None => Err("nothing says which program it starts with".to_owned()),
        };
        let (Ok(found), Some((_, file))) = (&found, &subject.starts) else {
            let why = found.map_or_else(|why| why, |_| String::new());
            report.skip(Level::L3, why.clone());
            report.skip(Level::L4, why);
            return Ok(report);
        };
        let room = self.kept.room(subject.packed.clone()).await?;
        let args = vec![room.files().join(file).display().to_string()];
        let read = found.program.canonicalize().ok().and_then(|path| path.parent()?.parent().map(Path::to_owned)).into_iter().collect();
        let program = Program { kept: &self.kept, room: &room, path: &found.program, args: &args, read };
        self.levels(subject, &program, &room, &mut report).await?;
        Ok(report)
    }

    async fn levels(&self, subject: &Subject, program: &Program<'_>, _: &Room, report: &mut Report) -> io::Result<()> {
        let began = Instant::now();
        let found = match spoken_to(program).await {
            Ok(found) => found,
            Err(error) => vec![Finding::error("protocol", "stdio", error.to_string())],
        };
        let failed = found.iter().any(|one| one.severity == Severity::Error);
        report.add(Level::L3, began, None, found);
        let began = Instant::now();
        match &subject.spec {
            _ if failed => report.skip(Level::L4, "it does not speak the protocol"),
            None => report.skip(Level::L4, "there is no server-spec.json that says what its calls have to be"),
            Some(_) if !self.kept.has_network() => report.skip(Level::L4, "servers may not open connections here (FABRIC_SERVER_NETWORK)"),
            Some(spec) => match calls::check(spec, program).await {
                Ok(called) => {
                    let note = format!(
                        "{} of {} requests as the document demands, {} operations left out",
                        called.exact, called.compared, called.left_out
                    );
                    report.add(Level::L4, began, Some(note), called.findings);
                }
                Err(error) => report.add(Level::L4, began, None, vec![Finding::error("calls", "stdio", error.to_string())]),
            },
        }
        Ok(())
    }
}

/// Both eras, each by a process of its own: some servers keep to the first that they hear.
async fn spoken_to(program: &Program<'_>) -> io::Result<Vec<Finding>> {
    let mut found = Vec::new();
    let mut server = program.start(std::collections::BTreeMap::new(), false)?;
    let Heard { findings, tools } = protocol::modern(&mut server).await?;
    found.extend(findings);
    found.extend(stray(&server));
    if !server.end().await? {
        found.push(Finding::error("stdin-end", "stdio", "it does not end when its input does"));
    }
    for revision in protocol::revisions() {
        let mut server = program.start(std::collections::BTreeMap::new(), false)?;
        let heard = protocol::legacy(&mut server, revision).await?;
        if !tools.is_empty() && heard.tools != tools {
            found.push(Finding::error(
                "eras-differ",
                "tools/list",
                format!("the tools of {revision} are not those of the present revision"),
            ));
        }
        let seen: Vec<Finding> = heard.findings.into_iter().filter(|one| !found.contains(one)).collect();
        found.extend(seen);
        found.extend(stray(&server));
        server.end().await?;
    }
    Ok(found)
}

fn stray(server: &kept::Speaking) -> Vec<Finding> {
    let told =
        |line: &String| Finding::error("stdout", "stdout", format!("what is no message was written: {}", crate::text::line(line, 120)));
    server.stray.iter().map(told).collect()
}
