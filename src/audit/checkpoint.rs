//! Signed statements about the chain: where it ends, and which part of its beginning has been purged.

use chrono::{DateTime, Utc};
use platform::{clock, database::DbError, random};
use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;

use crate::{
    AuditKeys,
    chain::{GENESIS, unhex},
    keys::is_signed,
    store::{
        chain::Head,
        upkeep::{self, Checkpoint},
    },
};

const FIRST_LINE: &str = "mcp-fabric audit checkpoint 1";

/// What a checkpoint says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    pub(crate) seq: i64,
    pub(crate) hash: [u8; 32],
    pub(crate) at: DateTime<Utc>,
    /// The last event that was purged, with its hash.
    pub(crate) purged: Option<(i64, [u8; 32])>,
    /// SHA-256 of the checkpoint before.
    pub(crate) previous: [u8; 32],
}

impl Statement {
    fn text(&self) -> String {
        let purged = self.purged.map(|(seq, hash)| format!("purged {seq} {}\n", random::hex(&hash))).unwrap_or_default();
        format!(
            "{FIRST_LINE}\nseq {}\nhash {}\nat {}\n{purged}previous {}\n",
            self.seq,
            random::hex(&self.hash),
            clock::rfc3339(self.at),
            random::hex(&self.previous)
        )
    }

    /// What a text of that form says.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        (lines.next()? == FIRST_LINE).then_some(())?;
        let seq = lines.next()?.strip_prefix("seq ")?.parse().ok()?;
        let hash = unhex(lines.next()?.strip_prefix("hash ")?)?;
        let at = lines.next()?.strip_prefix("at ")?.parse().ok()?;
        let mut line = lines.next()?;
        let mut purged = None;
        if let Some(rest) = line.strip_prefix("purged ") {
            let (seq, hash) = rest.split_once(' ')?;
            purged = Some((seq.parse().ok()?, unhex(hash)?));
            line = lines.next()?;
        }
        let previous = unhex(line.strip_prefix("previous ")?)?;
        let statement = Self { seq, hash, at, purged, previous };
        (statement.text() == text).then_some(statement)
    }
}

/// What the next checkpoint calls this one.
pub(crate) fn digest(body: &str) -> [u8; 32] {
    Sha256::digest(body.as_bytes()).into()
}

/// Whether the statement of a checkpoint is signed by the holder of `public`.
pub(crate) fn verified(checkpoint: &Checkpoint, public: &[u8; 32]) -> Option<Statement> {
    let statement = Statement::parse(&checkpoint.body)?;
    let is_its = statement.seq == checkpoint.seq && statement.purged.map(|(seq, _)| seq) == checkpoint.purged_to;
    (is_its && is_signed(public, checkpoint.body.as_bytes(), &checkpoint.signature)).then_some(statement)
}

/// Signs where the chain ends now; with `purged`, also that everything up to that event may go.
pub(crate) async fn write(
    connection: &mut PgConnection,
    keys: &AuditKeys,
    head: &Head,
    purged: Option<(i64, [u8; 32])>,
) -> Result<(), DbError> {
    let previous = upkeep::last_checkpoint(connection).await?.map_or(GENESIS, |last| digest(&last.body));
    let statement = Statement { seq: head.seq, hash: head.hash, at: clock::now(), purged, previous };
    let body = statement.text();
    let signature = keys.sign(body.as_bytes()).to_vec();
    let purged_to = purged.map(|(seq, _)| seq);
    upkeep::add_checkpoint(connection, &Checkpoint { seq: head.seq, at: statement.at, purged_to, body, signature }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_reads_as_it_was_written() {
        for purged in [None, Some((7, [3; 32]))] {
            let statement = Statement { seq: 9, hash: [1; 32], at: clock::now(), purged, previous: [2; 32] };
            assert_eq!(Statement::parse(&statement.text()), Some(statement.clone()));
            assert_eq!(Statement::parse(&statement.text().replace("seq 9", "seq 09")), None);
            assert_eq!(Statement::parse(&format!("{}x", statement.text())), None);
        }
    }
}
