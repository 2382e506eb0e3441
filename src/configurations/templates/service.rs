use audit::NewEvent;
use platform::{Action, Actor, FieldError, clock};
use sqlx::PgConnection;

use super::{
    model::{Template, TemplateId},
    store,
};
use crate::{Configurations, error::ConfigurationsError, model::Change, model::Sharing};

/// How many templates one actor may have.
const MOST: i64 = 1000;

/// What somebody wants of a template; what is left out stays.
#[derive(Default)]
pub(crate) struct Wanted {
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    /// Members that are given take the place of the earlier ones.
    pub(crate) settings: Change,
    pub(crate) has_values: bool,
    pub(crate) shared: Option<bool>,
}

impl Wanted {
    fn lay_over(self, template: &mut Template) {
        let Self { name, description, settings, has_values, shared } = self;
        let Change { enabled, values, limits, restart, lifecycle, sharing } = settings;
        let now = &mut template.settings;
        if has_values {
            now.values = values;
        }
        now.enabled = enabled.or(now.enabled);
        now.limits = limits.or(now.limits);
        now.restart = restart.or(now.restart);
        now.lifecycle = lifecycle.or(now.lifecycle);
        now.sharing = sharing.or(now.sharing);
        template.name = name.unwrap_or(std::mem::take(&mut template.name));
        template.description = description.unwrap_or(std::mem::take(&mut template.description));
        template.shared = shared.unwrap_or(template.shared);
    }
}

fn taken() -> ConfigurationsError {
    ConfigurationsError::Fields(vec![FieldError::new("body.name", "is the name of another one of your templates")])
}

impl Configurations {
    /// Templates of the actor's own and those that are shared, by id.
    pub(crate) async fn templates(
        &self,
        actor: &Actor,
        after: Option<TemplateId>,
        limit: u32,
    ) -> Result<Vec<Template>, ConfigurationsError> {
        actor.require(Action::ConfigurationsRead)?;
        let mut transaction = self.inner.database.begin(actor).await?;
        Ok(store::list(&mut transaction, &actor.to_string(), after.map(|after| after.0), limit.into()).await?)
    }

    /// A template that the actor may use.
    pub async fn template(&self, actor: &Actor, id: TemplateId) -> Result<Template, ConfigurationsError> {
        actor.require(Action::ConfigurationsRead)?;
        let mut transaction = self.inner.database.begin(actor).await?;
        store::get(&mut transaction, &actor.to_string(), id.0).await?.ok_or(ConfigurationsError::NoTemplate)
    }

    /// Makes a template of the actor's own.
    pub(crate) async fn create_template(&self, actor: &Actor, wanted: Wanted) -> Result<Template, ConfigurationsError> {
        actor.require(Action::ConfigurationsWrite)?;
        let now = clock::now();
        let mut new = Template {
            id: TemplateId::fresh(),
            owner: actor.to_string(),
            name: String::new(),
            description: String::new(),
            settings: Change::default(),
            shared: false,
            revision: 1,
            created_at: now,
            updated_at: now,
        };
        wanted.lay_over(&mut new);
        check(actor, &new)?;
        let mut transaction = self.inner.database.begin(actor).await?;
        if store::count(&mut transaction, &new.owner).await? >= MOST {
            return Err(ConfigurationsError::Fields(vec![FieldError::new(
                "body",
                format!("you have {MOST} templates, as many as anybody may"),
            )]));
        }
        if !store::create(&mut transaction, &new, actor.user()).await? {
            return Err(taken());
        }
        self.tell_template(&mut transaction, actor, "template.create", &new).await?;
        transaction.commit().await?;
        Ok(new)
    }

    /// Changes a template of the actor's own.
    pub(crate) async fn update_template(
        &self,
        actor: &Actor,
        id: TemplateId,
        wanted: Wanted,
        expected: Option<i64>,
    ) -> Result<Template, ConfigurationsError> {
        let mut transaction = self.inner.database.begin(actor).await?;
        let mut held = hold(&mut transaction, actor, id, expected).await?;
        wanted.lay_over(&mut held);
        check(actor, &held)?;
        held.revision += 1;
        held.updated_at = clock::now();
        if !store::write(&mut transaction, &held).await? {
            return Err(taken());
        }
        self.tell_template(&mut transaction, actor, "template.update", &held).await?;
        transaction.commit().await?;
        Ok(held)
    }

    /// Removes a template of the actor's own; what it was applied to stays as it is.
    pub(crate) async fn remove_template(&self, actor: &Actor, id: TemplateId, expected: Option<i64>) -> Result<(), ConfigurationsError> {
        let mut transaction = self.inner.database.begin(actor).await?;
        let held = hold(&mut transaction, actor, id, expected).await?;
        store::remove(&mut transaction, id.0).await?;
        self.tell_template(&mut transaction, actor, "template.delete", &held).await?;
        Ok(transaction.commit().await?)
    }

    async fn tell_template(
        &self,
        transaction: &mut PgConnection,
        actor: &Actor,
        action: &'static str,
        template: &Template,
    ) -> Result<(), ConfigurationsError> {
        let told = NewEvent::change(action).on("template", template.id).with("revision", template.revision).with("shared", template.shared);
        self.inner.audit.record_in(transaction, actor, told.of(&template.owner)).await?;
        Ok(())
    }
}

/// One of the actor's own, held.
async fn hold(
    transaction: &mut PgConnection,
    actor: &Actor,
    id: TemplateId,
    expected: Option<i64>,
) -> Result<Template, ConfigurationsError> {
    actor.require(Action::ConfigurationsWrite)?;
    let held = store::hold(transaction, &actor.to_string(), id.0).await?.ok_or(ConfigurationsError::NoTemplate)?;
    if held.owner != actor.to_string() {
        return Err(actor.denied(Action::ConfigurationsWrite, "this template is somebody else's".to_owned()).into());
    }
    match expected {
        Some(expected) if expected != held.revision => Err(ConfigurationsError::Stale(held.revision)),
        _ => Ok(held),
    }
}

fn check(actor: &Actor, template: &Template) -> Result<(), ConfigurationsError> {
    if template.shared || template.settings.sharing == Some(Sharing::Shared) {
        actor.require(Action::ConfigurationsShare)?;
    }
    let wrong = template.wrong();
    if wrong.is_empty() { Ok(()) } else { Err(ConfigurationsError::Fields(wrong)) }
}
