//! Whether the trail is whole, and what is wrong with it first if it is not.

use std::collections::BTreeMap;

use platform::{Action, Actor, database::DbError, random};
use serde::{Deserialize, Serialize};
use sqlx::{Connection as _, PgConnection};
use utoipa::ToSchema;

use crate::{
    Audit, AuditError,
    chain::GENESIS,
    checkpoint::{self, Statement},
    export::{self, Line},
    model::{Link, Personal},
    sealer::{HEAD_ALTERED, is_ours},
    service::Filter,
    store,
};

/// Events that are read at once.
const PAGE: i64 = 4096;

platform::words! {
    /// What is wrong with the trail.
    pub enum Damage {
        /// An event is not what was recorded.
        Content = "content",
        /// An event does not follow the one before it.
        Linkage = "linkage",
        /// Events are missing.
        Gap = "gap",
        /// Two events have one place.
        Fork = "fork",
        /// Events are missing at the beginning, and no signed purge accounts for them.
        HeadTruncation = "head_truncation",
        /// Events are missing at the end.
        TailTruncation = "tail_truncation",
        /// The chain is not the one that was signed.
        CheckpointDivergence = "checkpoint_divergence",
        /// A checkpoint, or the end of the chain, is not signed by this fabric.
        BadSignature = "bad_signature",
        /// An event was changed before it was chained.
        Unauthentic = "unauthentic",
        /// What is personal about an event is not what was recorded.
        Personal = "personal",
        /// Events wait to be chained for longer than ten seconds.
        Unsealed = "unsealed",
        /// An export was cut or changed.
        Export = "export",
    }
}

/// The first thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Found {
    /// What.
    pub kind: Damage,
    /// At which place of the chain.
    pub seq: Option<i64>,
    /// In a sentence.
    pub detail: String,
}

/// What a verification found.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Report {
    /// Whether all is well.
    pub ok: bool,
    /// How many events were looked at.
    pub events: i64,
    /// The first of them.
    pub first_seq: Option<i64>,
    /// The last of them.
    pub last_seq: Option<i64>,
    /// How many signed checkpoints were looked at.
    pub checkpoints: usize,
    /// The first thing that is wrong.
    pub damage: Option<Found>,
    /// What checkpoints are signed with (Ed25519, hexadecimal); keep a copy elsewhere.
    pub public_key: String,
}

fn found(kind: Damage, seq: Option<i64>, detail: impl Into<String>) -> Found {
    Found { kind, seq, detail: detail.into() }
}

/// Where the chain is while it is walked.
struct Walk {
    /// Where it may begin: the first event, or the one after a signed purge.
    starts: BTreeMap<i64, [u8; 32]>,
    /// What was signed, by place.
    signed: BTreeMap<i64, [u8; 32]>,
    first: Option<i64>,
    last: Option<(i64, [u8; 32])>,
    events: i64,
}

impl Walk {
    fn new(statements: &[Statement]) -> Self {
        let mut starts = BTreeMap::from([(1, GENESIS)]);
        starts.extend(statements.iter().filter_map(|statement| statement.purged).map(|(seq, hash)| (seq + 1, hash)));
        let signed = statements.iter().map(|statement| (statement.seq, statement.hash)).collect();
        Self { starts, signed, first: None, last: None, events: 0 }
    }

    fn step(&mut self, link: &Link, personal: Option<&Personal>) -> Result<(), Found> {
        let seq = link.seq;
        let at = |kind, detail: &str| Err(found(kind, Some(seq), detail));
        match self.last {
            None => match self.starts.get(&seq) {
                Some(prev) if *prev == link.prev => {}
                Some(_) => return at(Damage::Linkage, "the first event does not follow what was before it"),
                None => {
                    let missing = self.starts.range(..seq).next_back().map_or(1, |(start, _)| *start);
                    return Err(found(
                        Damage::HeadTruncation,
                        Some(missing),
                        format!("events {missing} to {} are missing, and no signed purge covers them", seq - 1),
                    ));
                }
            },
            Some((last, _)) if seq == last => return at(Damage::Fork, "two events have this place"),
            Some((last, _)) if seq > last + 1 => {
                return Err(found(Damage::Gap, Some(last + 1), format!("events {} to {} are missing", last + 1, seq - 1)));
            }
            Some((_, hash)) if hash != link.prev => return at(Damage::Linkage, "it does not follow the event before it"),
            Some(_) => {}
        }
        if link.expected() != link.hash {
            return at(Damage::Content, "it is not what was recorded");
        }
        if link.body.action == HEAD_ALTERED {
            return at(Damage::BadSignature, "here the writer found that the end of the chain had been altered");
        }
        if !link.authentic {
            return at(Damage::Unauthentic, "it was changed before it was chained");
        }
        if personal.is_some_and(|personal| Some(personal.commitment()) != link.body.pii_commitment) {
            return at(Damage::Personal, "what is personal about it is not what was recorded");
        }
        if self.signed.get(&seq).is_some_and(|signed| *signed != link.hash) {
            return at(Damage::CheckpointDivergence, "a signed checkpoint says that another event stood here");
        }
        self.first.get_or_insert(seq);
        self.last = Some((seq, link.hash));
        self.events += 1;
        Ok(())
    }

    /// What is wrong once the end is reached.
    fn end(&self, newest: Option<&Statement>) -> Result<(), Found> {
        let last = self.last.map_or(0, |(seq, _)| seq);
        match newest {
            Some(newest) if newest.seq > newest.purged.map_or(last, |(to, _)| to.max(last)) => Err(found(
                Damage::TailTruncation,
                Some(last + 1),
                format!("a signed checkpoint knows events up to {}, and they end at {last}", newest.seq),
            )),
            Some(_) | None => Ok(()),
        }
    }
}

impl Audit {
    /// Looks at the whole trail, as it is at one moment.
    pub async fn verify(&self, actor: &Actor) -> Result<Report, AuditError> {
        actor.require(Action::AuditReadAll)?;
        match self.seal().await {
            // What waits for too long is what this is to find out.
            Ok(()) | Err(AuditError::Database(DbError::Timeout(_))) => {}
            Err(error) => return Err(error),
        }
        let mut connection = self.inner.database.audit().acquire().await?;
        let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let checkpoints = store::upkeep::checkpoints(&mut transaction).await?;
        let mut report = Report {
            ok: false,
            events: 0,
            first_seq: None,
            last_seq: None,
            checkpoints: checkpoints.len(),
            damage: None,
            public_key: random::hex(&self.inner.keys.public()),
        };
        let damage = match self.statements(&checkpoints) {
            Err(damage) => Some(damage),
            Ok(statements) => {
                let mut walk = Walk::new(&statements);
                let damage = self.walk(&mut transaction, &mut walk, statements.last()).await?;
                (report.events, report.first_seq, report.last_seq) = (walk.events, walk.first, walk.last.map(|(seq, _)| seq));
                damage
            }
        };
        report.ok = damage.is_none();
        report.damage = damage;
        Ok(report)
    }

    /// The checkpoints, each signed and each naming the one before it.
    fn statements(&self, checkpoints: &[store::upkeep::Checkpoint]) -> Result<Vec<Statement>, Found> {
        let mut previous = GENESIS;
        let mut statements = Vec::with_capacity(checkpoints.len());
        for checkpoint in checkpoints {
            let statement = checkpoint::verified(checkpoint, &self.inner.keys.public()).ok_or_else(|| {
                found(Damage::BadSignature, Some(checkpoint.seq), "a checkpoint at this place is not signed by this fabric")
            })?;
            if statement.previous != previous {
                return Err(found(Damage::CheckpointDivergence, Some(checkpoint.seq), "a checkpoint before this one is missing"));
            }
            previous = checkpoint::digest(&checkpoint.body);
            statements.push(statement);
        }
        Ok(statements)
    }

    async fn walk(&self, connection: &mut PgConnection, walk: &mut Walk, newest: Option<&Statement>) -> Result<Option<Found>, DbError> {
        let mut after = 0;
        loop {
            let page = match store::read::follow(connection, &Filter::default(), after, PAGE).await {
                Ok(page) => page,
                Err(DbError::Inconsistent { column, row, .. }) => {
                    return Ok(Some(found(
                        Damage::Content,
                        None,
                        format!("the event {row} has a {column} that this program never writes"),
                    )));
                }
                Err(error) => return Err(error),
            };
            let Some((last, _)) = page.last() else { break };
            // Two events with one place may stand on both sides of a page's end.
            after = if page.len() > 1 && i64::try_from(page.len()).is_ok_and(|len| len == PAGE) { last.seq - 1 } else { last.seq };
            let keep = if after < last.seq { page.len() - 1 } else { page.len() };
            for (link, personal) in &page[..keep] {
                if let Err(damage) = walk.step(link, personal.as_ref()) {
                    return Ok(Some(damage));
                }
            }
        }
        if let Err(damage) = walk.end(newest) {
            return Ok(Some(damage));
        }
        self.end(connection, walk).await
    }

    /// The end of the chain as its writer left it, and what waits to be chained.
    async fn end(&self, connection: &mut PgConnection, walk: &Walk) -> Result<Option<Found>, DbError> {
        let head = store::chain::head(connection).await?;
        let last = walk.last.map_or(0, |(seq, _)| seq);
        if !is_ours(&self.inner.keys, &head) {
            return Ok(Some(found(Damage::BadSignature, Some(head.seq), "the end of the chain was not written by this fabric")));
        }
        let purged_to = walk.starts.keys().next_back().map_or(0, |start| start - 1);
        if head.seq > last && head.seq > purged_to {
            let detail = format!("the writer had reached {}, and events end at {last}", head.seq);
            return Ok(Some(found(Damage::TailTruncation, Some(last + 1), detail)));
        }
        if last > head.seq || walk.last.is_some_and(|(seq, hash)| seq == head.seq && hash != head.hash) {
            return Ok(Some(found(Damage::Fork, Some(last), format!("the writer stands at {} with another event", head.seq))));
        }
        let overdue = store::chain::overdue(connection).await?;
        Ok((overdue > 0).then(|| found(Damage::Unsealed, None, format!("{overdue} events wait to be chained for longer than ten seconds"))))
    }
}

/// Looks at an export (JSONL) without a database. With `public`, its last line has to be signed with that key.
pub fn verify_export(text: &str, public: Option<[u8; 32]>) -> Report {
    let mut report =
        Report { ok: false, events: 0, first_seq: None, last_seq: None, checkpoints: 0, damage: None, public_key: String::new() };
    let broken = |detail: &str| Some(found(Damage::Export, None, detail));
    let Some((lines, seal)) = export::split(text) else {
        report.damage = broken("its last line is not the signed one that an export ends with");
        return report;
    };
    report.public_key.clone_from(&seal.public_key);
    report.checkpoints = 1;
    if !seal.is_valid_for(lines, public) {
        report.damage = broken("what its last line signs is not what stands above it, or another key signed it");
    }
    let mut walk = Walk::new(&[]);
    for line in lines.lines() {
        let Some((link, personal)) = Line::parse(line) else {
            report.damage = broken("a line is not an event");
            break;
        };
        if walk.last.is_none() || !seal.complete {
            // An export begins anywhere, and one by a filter leaves events out.
            walk.starts = BTreeMap::from([(link.seq, link.prev)]);
            walk.first.get_or_insert(link.seq);
            walk.last = None;
        }
        if let Err(damage) = walk.step(&link, personal.as_ref()) {
            report.damage = Some(damage);
            break;
        }
    }
    (report.events, report.first_seq, report.last_seq) = (walk.events, walk.first, walk.last.map(|(seq, _)| seq));
    report.ok = report.damage.is_none();
    report
}
