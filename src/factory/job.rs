//! An order at work: read, named, built, packed, looked at, and only then registered, in one transaction.

use std::{collections::BTreeMap, sync::Arc};

use cache::Wanted;

use jobs::{Context, Ended, Failure, Handler, JobStatus, LogLevel, Outcome, Policy, Progress};
use platform::{Actor, Coded as _, clock, database::DbError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::{
    Factory,
    error::FactoryError,
    finding::{Finding, Severity},
    make::{self, Understood},
    model::{Order, OrderId},
    output::Draft,
    pack::{Packed, image},
    spec::ServerSpec,
    store, text,
    validate::{Report, Verdict},
};

const STEPS: u64 = 5;
/// How many findings of one rule the log has.
const MOST_OF_ONE: usize = 5;

/// The job of an order.
pub(crate) struct GenerateJob {
    pub(crate) factory: Factory,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Payload {
    pub(crate) order: OrderId,
}

impl Handler for GenerateJob {
    const KIND: &'static str = "generate";
    type Payload = Payload;

    fn policy(&self) -> Policy {
        Policy { limit: 2, ..Policy::default() }
    }

    async fn run(&self, context: Context, payload: Payload) -> Result<Outcome, Failure> {
        let attempt = Attempt { factory: self.factory.clone(), context };
        attempt.go(payload.order).await.or_else(|error| match error {
            FactoryError::Stopped => Ok(Outcome::Stopped),
            FactoryError::Database(error) => Err(error.into()),
            error
                if error.code() == "database_unavailable"
                    || matches!(error, FactoryError::ModelAway(_) | FactoryError::VersionTaken(_)) =>
            {
                Err(Failure::passing(&error))
            }
            error => Err(Failure::last(&error)),
        })
    }

    async fn ended(&self, connection: &mut PgConnection, payload: Payload, ended: &Ended) -> Result<(), DbError> {
        // What failed may be tried again by whoever asked; what is done is not.
        if matches!(ended.status, JobStatus::Complete | JobStatus::NeedsInput | JobStatus::Cancelled) {
            store::forget_order(connection, payload.order).await?;
        } else if ended.status == JobStatus::Failed {
            store::note_failed(connection, payload.order, Some(clock::now())).await?;
        }
        Ok(())
    }
}

struct Attempt {
    factory: Factory,
    context: Context,
}

impl Attempt {
    async fn go(&self, id: OrderId) -> Result<Outcome, FactoryError> {
        let inner = &self.factory.inner;
        let mut transaction = inner.database.begin_for_all().await?;
        let order = store::order(&mut transaction, id).await?.ok_or(FactoryError::OrderGone)?;
        store::note_failed(&mut transaction, id, None).await?;
        transaction.commit().await?;
        let actor = inner.users.asker(&order.asker).await?.ok_or(FactoryError::AskerGone)?;
        self.step(0, "reading").await?;
        let (mut spec, findings) = match self.factory.understand(&order, &self.context).await? {
            Understood::Spec(spec, findings) => (*spec, findings),
            Understood::Questions(name, questions) => {
                self.context.log(LogLevel::Info, format!("{} questions are to be answered first", questions.len())).await;
                return Ok(Outcome::NeedsInput(json!({ "name": name, "questions": questions })));
            }
        };
        self.tell(&findings).await;
        if let Some(made) = self.factory.settle_name(&actor, &order, &mut spec).await? {
            self.context.log(LogLevel::Info, format!("{} {} was made from the same before", spec.name, spec.version)).await;
            return Ok(Outcome::Complete(made));
        }
        self.step(1, "writing code").await?;
        let packed = self.pack(&order, &spec).await?;
        self.step(2, "looking at it").await?;
        let report = self.look(&order, &spec, &packed).await?;
        self.tell(&report.findings).await;
        if !report.valid {
            return Err(FactoryError::Invalid(report.errors()));
        }
        self.step(3, "packing").await?;
        let image = self.image(&order, &spec, &packed).await?;
        let result = self.register(&actor, &order, &spec, (&packed, image), &report).await?;
        Ok(Outcome::Complete(result))
    }

    async fn step(&self, done: u64, message: &str) -> Result<(), FactoryError> {
        if self.context.is_stopping() {
            return Err(FactoryError::Stopped);
        }
        self.context.progress(Progress { done, total: Some(STEPS), unit: "steps".into(), message: message.into() });
        self.context.log(LogLevel::Info, message).await;
        Ok(())
    }

    async fn tell(&self, findings: &[Finding]) {
        let mut told: BTreeMap<&str, usize> = BTreeMap::new();
        for found in findings {
            let count = told.entry(&found.id).or_default();
            *count += 1;
            if *count > MOST_OF_ONE {
                continue;
            }
            let level = match found.severity {
                Severity::Info => LogLevel::Info,
                Severity::Warning => LogLevel::Warn,
                Severity::Error => LogLevel::Error,
            };
            self.context.log(level, format!("{} {}: {}", found.id, text::line(&found.path, 200), found.message)).await;
        }
        for (id, count) in told.into_iter().filter(|(_, count)| *count > MOST_OF_ONE) {
            self.context.log(LogLevel::Info, format!("{id}: {} more", count - MOST_OF_ONE)).await;
        }
    }

    async fn pack(&self, order: &Order, spec: &ServerSpec) -> Result<Arc<Packed>, FactoryError> {
        let (spec, language) = (spec.clone(), order.wanted.runtime);
        let archive = self.factory.inner.output.archive(&spec).display().to_string();
        blocking(move || make::build(&spec, language, &archive).map(Arc::new)).await
    }

    async fn look(&self, order: &Order, spec: &ServerSpec, packed: &Packed) -> Result<Report, FactoryError> {
        let subject = make::subject(spec, order.wanted.runtime, packed)?;
        let report = tokio::select! {
            report = self.factory.inner.validator.check(&subject) => report?,
            () = self.context.stopping() => return Err(FactoryError::Stopped),
        };
        for looked in &report.levels {
            let verdict = match looked.verdict {
                Verdict::Passed => "passed",
                Verdict::Failed => "failed",
                Verdict::Skipped => "skipped",
            };
            let note = looked.note.as_ref().map(|note| format!(": {note}")).unwrap_or_default();
            self.context.log(LogLevel::Info, format!("{:?} {} {verdict}{note}", looked.level, looked.about)).await;
        }
        Ok(report)
    }

    /// An image on the base that is wanted, if one is.
    async fn image(&self, order: &Order, spec: &ServerSpec, packed: &Arc<Packed>) -> Result<Option<Draft>, FactoryError> {
        let Some(base) = &order.wanted.options.image else { return Ok(None) };
        let wanted = Wanted { registry_type: "oci".into(), identifier: base.clone(), version: None, sha256: None };
        let base = self.factory.inner.cache.supply(&wanted, "", Some(&self.context)).await?;
        let (output, spec, packed, language) = (self.factory.inner.output.clone(), spec.clone(), Arc::clone(packed), order.wanted.runtime);
        let written = blocking(move || {
            let draft = output.draft(&spec)?;
            image::write(&spec, &packed.files, language, &base, &draft.0)?;
            Ok(draft)
        });
        written.await.map(Some)
    }

    async fn register(
        &self,
        actor: &Actor,
        order: &Order,
        spec: &ServerSpec,
        (packed, image): (&Arc<Packed>, Option<Draft>),
        report: &Report,
    ) -> Result<Value, FactoryError> {
        self.step(4, "registering").await?;
        self.factory.register_made(actor, order, spec, (packed, image), &self.context).await?;
        let mut result = self.factory.result(spec, order.wanted.runtime);
        result["report"] = json!(report);
        Ok(result)
    }
}

/// Work that would hold up others.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FactoryError> + Send + 'static,
) -> Result<T, FactoryError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(FactoryError::Folder(std::io::Error::other(error))))
}
