//! Which servers administrators allow.

use std::collections::BTreeSet;

use audit::NewEvent;
use platform::{Action, Actor, clock, ids};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    Catalog,
    error::CatalogError,
    model::{Effect, Rule},
    store,
};

const LONGEST: usize = 255;
/// How many rules there may be: each is compared with every server.
const MOST: i64 = 200;

/// What a rule changes.
pub(crate) struct Effects {
    /// Servers that were allowed and are not any more.
    pub(crate) denied: Vec<String>,
    /// Servers that were denied and are not any more.
    pub(crate) allowed: Vec<String>,
}

impl Catalog {
    /// All rules.
    pub(crate) async fn rules(&self, actor: &Actor) -> Result<Vec<Rule>, CatalogError> {
        actor.require(Action::CatalogManage)?;
        Ok(store::rules(self.inner.database.system()).await?)
    }

    /// Adds a rule, or says what one would change.
    pub(crate) async fn add_rule(
        &self,
        actor: &Actor,
        effect: Effect,
        pattern: &str,
        note: Option<String>,
        is_rehearsal: bool,
    ) -> Result<(Rule, Effects), CatalogError> {
        actor.require(Action::CatalogManage)?;
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | '*');
        if pattern.is_empty() || pattern.len() > LONGEST || !pattern.chars().all(is_part) {
            return Err(CatalogError::field("body.pattern", "must be the name of a server, with `*` for any characters: io.github.acme/*"));
        }
        if note.as_ref().is_some_and(|note| note.chars().count() > LONGEST || note.chars().any(char::is_control)) {
            return Err(CatalogError::field("body.note", format!("must be at most {LONGEST} characters on one line")));
        }
        let rule =
            Rule { id: ids::fresh(), effect, pattern: pattern.to_owned(), note, created_by: actor.to_string(), created_at: clock::now() };
        let (_turn, mut transaction) = self.inner.servers.begin_alone().await?;
        if store::count_rules(&mut transaction).await? >= MOST {
            return Err(CatalogError::field(
                "body",
                format!("there are {MOST} rules already, as many as there may be; take one with `*` for several"),
            ));
        }
        let before = store::denied(&mut transaction).await?;
        if !store::add_rule(&mut transaction, &rule).await? {
            return Err(CatalogError::RuleTaken);
        }
        let effects = self.effects_in(&mut transaction, &before).await?;
        if is_rehearsal {
            return Ok((rule, effects));
        }
        let told = NewEvent::change("catalog.rule_add").on("catalog_rule", rule.id).with("pattern", pattern);
        self.inner.audit.record_in(&mut transaction, actor, told.with("effect", effect.as_str())).await?;
        self.inner.servers.announce_access_in(&mut transaction, None).await?;
        transaction.commit().await?;
        self.inner.servers.forget();
        Ok((rule, effects))
    }

    /// Removes a rule.
    pub(crate) async fn remove_rule(&self, actor: &Actor, id: Uuid) -> Result<Effects, CatalogError> {
        actor.require(Action::CatalogManage)?;
        let (_turn, mut transaction) = self.inner.servers.begin_alone().await?;
        let before = store::denied(&mut transaction).await?;
        let pattern = store::remove_rule(&mut transaction, id).await?.ok_or(CatalogError::NoRule)?;
        let effects = self.effects_in(&mut transaction, &before).await?;
        let told = NewEvent::change("catalog.rule_remove").on("catalog_rule", id).with("pattern", pattern);
        self.inner.audit.record_in(&mut transaction, actor, told).await?;
        self.inner.servers.announce_access_in(&mut transaction, None).await?;
        transaction.commit().await?;
        self.inner.servers.forget();
        Ok(effects)
    }

    async fn effects_in(&self, transaction: &mut PgConnection, before: &BTreeSet<String>) -> Result<Effects, CatalogError> {
        let after = store::denied(transaction).await?;
        Ok(Effects { denied: after.difference(before).cloned().collect(), allowed: before.difference(&after).cloned().collect() })
    }
}
