//! What a server was before, how that differs, and how it becomes so again.

use platform::{Action, Actor};
use serde_json::{Value, json};
use servers::{ServerRef, Summary};

use crate::{
    Catalog,
    error::CatalogError,
    model::{Change, Revision},
    service::{Shown, is_own},
    store,
};

/// Two revisions, and what makes the first into the second.
pub(crate) struct Difference {
    pub(crate) from: i64,
    pub(crate) to: i64,
    /// JSON Patch (RFC 6902).
    pub(crate) patch: Value,
}

impl Catalog {
    /// The revisions of a server, newest first.
    pub(crate) async fn history(
        &self,
        actor: &Actor,
        server: &ServerRef,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Revision>, CatalogError> {
        let summary = self.of_right(actor, server).await?;
        Ok(store::revisions(self.inner.database.system(), &summary.id, before, limit.into()).await?)
    }

    /// One revision.
    pub(crate) async fn revision(&self, actor: &Actor, server: &ServerRef, revision: i64) -> Result<Revision, CatalogError> {
        let summary = self.of_right(actor, server).await?;
        self.kept(&summary, revision).await
    }

    /// What changed from one revision to another: to the newest, and from the one before, where nothing else is said.
    pub(crate) async fn difference(
        &self,
        actor: &Actor,
        server: &ServerRef,
        from: Option<i64>,
        to: Option<i64>,
    ) -> Result<Difference, CatalogError> {
        let summary = self.of_right(actor, server).await?;
        let to = to.unwrap_or(summary.access.revision);
        let from = from.unwrap_or_else(|| to.saturating_sub(1).max(1));
        let (before, after) = (self.kept(&summary, from).await?, self.kept(&summary, to).await?);
        let patch = json_patch::diff(&state(&before), &state(&after));
        Ok(Difference { from, to, patch: serde_json::to_value(patch).unwrap_or_default() })
    }

    /// Makes a server what it was: its document and what was said of it. Who sees it stays as it is.
    pub(crate) async fn restore(
        &self,
        actor: &Actor,
        server: &ServerRef,
        revision: i64,
        note: Option<String>,
        expected: Option<i64>,
    ) -> Result<Shown, CatalogError> {
        actor.require(Action::CatalogWrite)?;
        let kept = self.revision(actor, server, revision).await?;
        let change = Change {
            document: kept.document,
            metadata: kept.metadata.as_object().cloned(),
            note: note.or_else(|| Some(format!("as it was in revision {revision}"))),
            ..Change::default()
        };
        self.write(actor, "catalog.restore", server, &change, expected).await
    }

    /// What a server was may have been private: its owner and administrators look at it.
    async fn of_right(&self, actor: &Actor, server: &ServerRef) -> Result<Summary, CatalogError> {
        actor.require(Action::CatalogWrite)?;
        let summary = self.found(actor, server).await?;
        actor.require_server(Action::CatalogWrite, &summary.id)?;
        if !summary.access.owner.as_ref().is_some_and(|owner| is_own(actor, owner)) {
            actor.require(Action::CatalogManage)?;
        }
        Ok(summary)
    }

    async fn kept(&self, summary: &Summary, revision: i64) -> Result<Revision, CatalogError> {
        store::revision(self.inner.database.system(), &summary.id, revision).await?.ok_or(CatalogError::NoRevision)
    }
}

/// All of a revision that can differ.
fn state(revision: &Revision) -> Value {
    json!({
        "document": revision.document, "metadata": revision.metadata, "visibility": revision.visibility, "hidden": revision.is_hidden,
    })
}
