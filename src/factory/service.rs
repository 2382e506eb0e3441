use std::{path::Path, sync::Arc};

use audit::{EventType, NewEvent};
use cache::Cache;
use catalog::Catalog;
use chrono::TimeDelta;
use jobs::{Context, Handlers, JobId, Jobs, LogLevel, NewJob};
use packages::Toolchain;
use platform::{Action, Actor, Config, Database, client::Client, clock, files, ids};
use sandbox::Machine;
use serde_json::{Value, json};
use servers::{ServerId, ServerRef, Servers, Viewer};
use users::{Asker, Users};

use crate::{
    error::FactoryError,
    finding::Finding,
    generate::{Files, Language},
    job::{GenerateJob, Payload, blocking},
    make::{self, Understood},
    model::{Generated, InputKind, Order, OrderId, Wanted},
    output::{self, Draft, Output},
    pack::{Packed, claude_config, image},
    spec::ServerSpec,
    store,
    validate::{Report, Subject, Validator},
};

/// How many orders of one actor may wait or run.
const MOST_UNFINISHED: i64 = 20;
/// What chooses operations.
const MOST_PATTERNS: usize = 200;
const LONGEST_PATTERN: usize = 200;
/// For how long what failed can be tried again.
const FAILED_KEPT: TimeDelta = TimeDelta::days(1);
/// How many names are tried where nobody said one.
const NAMES_TRIED: usize = 50;

/// The factory; cheap to clone.
#[derive(Clone)]
pub struct Factory {
    pub(crate) inner: Arc<Inner>,
}

/// What the factory works with.
pub struct Neighbours {
    /// The database.
    pub database: Database,
    /// Making is a job.
    pub jobs: Jobs,
    /// With whose rights.
    pub users: Users,
    /// The catalogue.
    pub servers: Servers,
    /// The same, as people change it.
    pub catalog: Catalog,
    /// Where bundles go, and the compiler comes from.
    pub cache: Cache,
    /// What keeps what is tried out.
    pub machine: Arc<Machine>,
}

pub(crate) struct Inner {
    pub(crate) database: Database,
    pub(crate) jobs: Jobs,
    pub(crate) users: Users,
    pub(crate) servers: Servers,
    pub(crate) catalog: Catalog,
    pub(crate) cache: Cache,
    pub(crate) output: Output,
    pub(crate) validator: Validator,
    client: Client,
    pub(crate) model: Option<crate::llm::Model>,
}

/// What is looked at on demand.
pub(crate) enum Looked {
    Spec(Value),
    Path(String),
}

impl Factory {
    /// The service.
    pub fn new(config: &Config, neighbours: Neighbours) -> Result<Self, FactoryError> {
        let Neighbours { database, jobs, users, servers, catalog, cache, machine } = neighbours;
        let place = files::servers_place(&config.data_dir).map_err(|error| FactoryError::Folder(std::io::Error::other(error)))?;
        let client = Client::new(config.allowed_hosts.clone(), config.offline)
            .map_err(|error| FactoryError::Folder(std::io::Error::other(error)))?;
        let model = crate::llm::Model::of(config)?;
        let inner = Inner {
            validator: Validator::new(cache.clone(), machine, config.runtime.clone(), &place)?,
            output: Output::new(&config.data_dir),
            database,
            jobs,
            users,
            servers,
            catalog,
            cache,
            client,
            model,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What does the jobs.
    pub fn handlers(&self, handlers: Handlers) -> Handlers {
        handlers.with(GenerateJob { factory: self.clone() })
    }

    /// Asks for a server.
    pub(crate) async fn begin(&self, actor: &Actor, wanted: Wanted, document: Vec<u8>) -> Result<JobId, FactoryError> {
        actor.require(Action::FactoryGenerate)?;
        // What the job will do, and whoever asks is to follow what comes of it.
        actor.require(Action::CatalogWrite)?;
        actor.require(Action::JobsRead)?;
        if let Some(visibility) = wanted.options.visibility {
            Catalog::require_generated_visibility(actor, visibility)?;
        }
        let patterns = wanted.options.choice.include.iter().chain(&wanted.options.choice.exclude);
        if patterns.clone().count() > MOST_PATTERNS || patterns.clone().any(|pattern| pattern.len() > LONGEST_PATTERN) {
            let message = format!("`include` and `exclude` have at most {MOST_PATTERNS} patterns of {LONGEST_PATTERN} bytes together");
            return Err(FactoryError::field("body.options", message));
        }
        if let Some(name) = &wanted.name {
            make::checked_name(name)?;
            actor.require_server(Action::FactoryGenerate, name)?;
        }
        if let Some(url) = &wanted.options.base_url {
            let is_usable = url::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some());
            if !is_usable {
                return Err(FactoryError::field("body.options.base_url", "must be an absolute http or https address"));
            }
        }
        let (asker, order) = (Asker::of(actor), OrderId(ids::fresh()));
        let told = NewEvent::new(EventType::Execution, "factory.generate")
            .with("input", wanted.kind.as_str())
            .with("runtime", wanted.runtime.as_str());
        let mut transaction = self.inner.database.begin(actor).await?;
        store::sweep_orders(&mut transaction, &asker.owner, clock::now() - FAILED_KEPT).await?;
        let unfinished = store::unfinished(&mut transaction, &asker.owner).await?;
        if unfinished >= MOST_UNFINISHED {
            return Err(FactoryError::TooMany(unfinished));
        }
        let job = self.inner.jobs.enqueue_in(&mut transaction, actor, NewJob::of::<GenerateJob>(&Payload { order }).told_as(told)).await?;
        let kept = serde_json::to_value(&wanted).unwrap_or_default();
        store::keep_order(&mut transaction, (order, job), &asker, actor.user(), (&kept, Some(&document)), clock::now()).await?;
        transaction.commit().await?;
        Ok(job)
    }

    /// Reads what was asked for: fetched first where it is an address, and by a model where it is a description and there is one.
    pub(crate) async fn understand(&self, order: &Order, context: &Context) -> Result<Understood, FactoryError> {
        let (wanted, document) = (order.wanted.clone(), order.document.clone().unwrap_or_default());
        let (bytes, url) = if wanted.kind == InputKind::Url {
            let (bytes, url) = crate::fetch::document(&self.inner.client, &document).await?;
            (bytes, Some(url))
        } else {
            (document, None)
        };
        if let (InputKind::Description, Some(model)) = (wanted.kind, &self.inner.model) {
            let understood = tokio::select! {
                understood = model.understand(&wanted, &bytes, context) => understood,
                () = context.stopping() => return Err(FactoryError::Stopped),
            };
            match understood {
                // What rules understand needs no model.
                Err(error @ (FactoryError::Model(_) | FactoryError::ModelAway(_))) => {
                    context.log(LogLevel::Warn, format!("{error}; the description is read by rules")).await;
                    let read = blocking(move || make::understand(&wanted, &bytes, url)).await?;
                    return if matches!(read, Understood::Questions(..)) { Err(error) } else { Ok(read) };
                }
                understood => return understood,
            }
        }
        blocking(move || make::understand(&wanted, &bytes, url)).await
    }

    /// Gives a specification its name and its version. The result, where the same was made before.
    pub(crate) async fn settle_name(&self, actor: &Actor, order: &Order, spec: &mut ServerSpec) -> Result<Option<Value>, FactoryError> {
        let wished = spec.name.clone();
        for number in 1..=NAMES_TRIED {
            let name = if number == 1 { wished.clone() } else { format!("{wished}-{number}") };
            let id = ServerId::parse(&name).map_err(servers::ServersError::from)?;
            if self.inner.catalog.may_name(actor, &id).await? {
                spec.name = name;
                break;
            }
            if order.wanted.name.is_some() || number == NAMES_TRIED {
                return Err(FactoryError::NameTaken(wished));
            }
        }
        let versions = store::versions(self.inner.database.public(), &spec.name).await?;
        let content = make::content_digest(spec, order.wanted.runtime);
        if let Some(same) = versions.iter().find(|one| one.content_sha256.as_deref() == Some(&content)) {
            spec.version.clone_from(&same.version);
            let has_image = order.wanted.options.image.is_none() || self.inner.output.image(spec).is_file();
            if self.inner.output.archive(spec).is_file() && has_image {
                self.keep_bundle_again(spec).await?;
                return Ok(Some(self.result(spec, order.wanted.runtime)));
            }
        } else {
            let is_free = order.wanted.kind == InputKind::Spec && !versions.iter().any(|one| one.version == spec.version);
            if !is_free {
                spec.version = make::next_version(versions.into_iter().map(|one| one.version));
            }
        }
        Ok(None)
    }

    /// Puts the bundle of a version into the cache again: no registry has it, and a restart may have come in between.
    async fn keep_bundle_again(&self, spec: &ServerSpec) -> Result<(), FactoryError> {
        let place = self.inner.output.archive(spec).with_extension("mcpb");
        let bytes = blocking(move || Ok(std::fs::read(place)?)).await?;
        let address = make::bundle_address(spec);
        let sha256 = self.inner.cache.keep_made(&address, &bytes).await?;
        Ok(self.inner.cache.mark_made(&address, &sha256).await?)
    }

    /// What a job gives.
    pub(crate) fn result(&self, spec: &ServerSpec, language: Language) -> Value {
        let archive = self.inner.output.archive(spec).display().to_string();
        json!({
            "name": spec.name,
            "version": spec.version,
            "package": archive,
            "claude_config": claude_config(spec, language, &archive),
            "server_id": spec.name,
            "bundle": make::bundle_address(spec),
            "tools": spec.tools.len(),
            "operations": spec.operations.len(),
            "image": self.inner.output.image(spec).is_file().then(|| self.inner.output.image(spec).display().to_string()),
        })
    }

    /// Writes the rows and the files of what was made, with nobody else writing the catalogue; what comes to nothing leaves
    /// neither.
    pub(crate) async fn register_made(
        &self,
        actor: &Actor,
        order: &Order,
        spec: &ServerSpec,
        (packed, image): (&Arc<Packed>, Option<Draft>),
        context: &Context,
    ) -> Result<(), FactoryError> {
        let address = make::bundle_address(spec);
        let sha256 = self.inner.cache.keep_made(&address, &packed.bundle).await?;
        let kept = self.keep_made_version(actor, order, spec, (packed, image, &sha256), context).await;
        if kept.is_err() {
            self.forget_unnamed(&spec.name, &address, &sha256).await?;
        }
        kept?;
        self.inner.servers.forget();
        Ok(self.inner.cache.mark_made(&address, &sha256).await?)
    }

    async fn keep_made_version(
        &self,
        actor: &Actor,
        order: &Order,
        spec: &ServerSpec,
        (packed, image, sha256): (&Arc<Packed>, Option<Draft>, &str),
        context: &Context,
    ) -> Result<(), FactoryError> {
        let made_from = make::content_digest(spec, order.wanted.runtime);
        let (_turn, mut transaction) = self.inner.servers.begin_alone().await?;
        let there = store::contents_in(&mut transaction, &spec.name).await?;
        if there.iter().any(|(version, own)| *version == spec.version && own.as_deref() != Some(&made_from)) {
            return Err(FactoryError::VersionTaken(spec.name.clone()));
        }
        let made = Generated {
            server_id: spec.name.clone(),
            version: spec.version.clone(),
            spec: Some(serde_json::to_value(spec).unwrap_or_default()),
            content_sha256: Some(made_from),
            package_path: Some(self.inner.output.archive(spec).display().to_string()),
            docker_image: image.as_ref().map(|_| image::name(spec)),
            claude_config: Some(packed.manifest["claude_config"].clone()),
            manifest: packed.manifest.clone(),
            bundle_sha256: Some(sha256.to_owned()),
        };
        context.hold_in(&mut transaction).await.map_err(|_| FactoryError::Stopped)?;
        // Whose name it is, is settled before anything is written to its folder.
        self.keep_in(&mut transaction, actor, &made, &packed.document, order.wanted.options.visibility).await?;
        let is_first = there.is_empty();
        let (output, for_disk, files) = (self.inner.output.clone(), spec.clone(), Arc::clone(packed));
        let written = blocking(move || {
            if is_first {
                // What an earlier server of this name left was another's.
                output.clear(&for_disk.name, image.as_ref())?;
            }
            Ok(output.write(&for_disk, &files, image.as_ref())?)
        });
        if let Err(error) = written.await {
            if !there.iter().any(|(version, _)| *version == spec.version) {
                let (output, spec) = (self.inner.output.clone(), spec.clone());
                blocking(move || Ok(output.remove_version(&spec)?)).await?;
            }
            return Err(error);
        }
        // Where nobody knows whether it was committed, the files stay.
        Ok(transaction.commit().await?)
    }

    /// Writes the rows of a version: of the catalogue, and the factory's own.
    pub(crate) async fn keep_in(
        &self,
        transaction: &mut sqlx::PgConnection,
        actor: &Actor,
        made: &Generated,
        document: &Value,
        visibility: Option<servers::Visibility>,
    ) -> Result<(), FactoryError> {
        let id = ServerId::parse(&made.server_id).map_err(servers::ServersError::from)?;
        let replaces = store::contents_in(transaction, &made.server_id).await?.iter().any(|(version, _)| *version == made.version);
        self.inner.catalog.put_generated_in(transaction, actor, &id, document, visibility, replaces).await?;
        Ok(store::keep(transaction, made, clock::now()).await?)
    }

    /// Looks at a specification, or at a folder or an archive with a server in it.
    pub(crate) async fn validate(&self, actor: &Actor, looked: Looked) -> Result<Report, FactoryError> {
        actor.require(Action::FactoryGenerate)?;
        let subject = match looked {
            Looked::Spec(document) => {
                let spec = match make::spec_of(&document) {
                    Ok(spec) => spec,
                    Err(FactoryError::Invalid(found)) => return Ok(Report::of_findings(found)),
                    Err(error) => return Err(error),
                };
                let built = blocking(move || {
                    let packed = make::build(&spec, Language::default(), "package.tgz")?;
                    make::subject(&spec, Language::default(), &packed)
                });
                match built.await {
                    Ok(subject) => subject,
                    Err(FactoryError::Invalid(found)) => return Ok(Report::of_findings(found)),
                    Err(error) => return Err(error),
                }
            }
            Looked::Path(path) => {
                let place = self.inner.output.found(&path, Viewer::of(actor) == Viewer::All)?;
                self.require_visible(actor, &place).await?;
                blocking(move || subject_at(&place)).await?
            }
        };
        Ok(self.inner.validator.check(&subject).await?)
    }

    /// What lies in the folder of a server that the actor may not know of is not there.
    async fn require_visible(&self, actor: &Actor, place: &Path) -> Result<(), FactoryError> {
        if Viewer::of(actor) == Viewer::All {
            return Ok(());
        }
        let name = self.inner.output.server_of(place).ok_or(FactoryError::NoSuchPath)?;
        let id = ServerId::parse(&name).map_err(|_| FactoryError::NoSuchPath)?;
        let found = self.inner.servers.summary(&Viewer::of(actor), &ServerRef::Id(id)).await;
        found.map(drop).map_err(|_| FactoryError::NoSuchPath)
    }
}

/// What is looked at of a folder or an archive: which program starts it, and what it was made from.
fn subject_at(place: &Path) -> Result<Subject, FactoryError> {
    let files = if place.is_dir() { output::project(place)? } else { output::unpacked(&std::fs::read(place)?)? };
    let spec = match files.get("server-spec.json") {
        Some(bytes) => {
            let document = serde_json::from_slice(bytes).map_err(|error| FactoryError::Unreadable(format!("server-spec.json: {error}")))?;
            Some(make::spec_of(&document)?)
        }
        None => None,
    };
    let starts = starts(&files);
    Ok(Subject { spec, packed: files.clone(), files, starts })
}

/// The program of a project: the first of `bin`, else `main`.
fn starts(files: &Files) -> Option<(Toolchain, String)> {
    if files.contains_key("pyproject.toml") && files.contains_key("server.py") {
        return Some((Toolchain::Python, "server.py".into()));
    }
    let package: Value = serde_json::from_slice(files.get("package.json")?).ok()?;
    let bin = match &package["bin"] {
        Value::String(path) => Some(path.as_str()),
        Value::Object(all) => all.values().find_map(Value::as_str),
        _ => None,
    };
    let path = bin.or_else(|| package["main"].as_str())?.trim_start_matches("./").to_owned();
    files.contains_key(&path).then_some((Toolchain::Node, path))
}

/// Findings as a caller of the older API reads them: errors and warnings by themselves.
pub(crate) fn parted(findings: &[Finding]) -> (Vec<String>, Vec<String>) {
    let of = |severity| {
        findings.iter().filter(|found| found.severity == severity).map(|found| format!("{}: {}", found.path, found.message)).collect()
    };
    (of(crate::finding::Severity::Error), of(crate::finding::Severity::Warning))
}
