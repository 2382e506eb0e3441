//! The servers that a new fabric installs by itself (`INSTALL_ON_START`).

use std::{collections::BTreeMap, sync::Arc};

use platform::{Actor, Coded as _, Identity, actor, clock, config::FirstPackage};

use crate::{Packages, error::PackagesError, model::Order, store};

impl Packages {
    /// Asks for each package of the set whose server was never installed by itself before. None of them delays
    /// another, nor the program.
    pub(crate) async fn first_run(&self, set: Vec<FirstPackage>) {
        for first in set {
            if let Err(error) = self.install_first(&first).await {
                tracing::warn!(package = first.package, server = first.server, code = error.code(), %error, "could not install a package of INSTALL_ON_START");
            }
        }
    }

    async fn install_first(&self, first: &FirstPackage) -> Result<(), PackagesError> {
        let mut transaction = self.inner.database.begin_system().await?;
        if !store::first_time(&mut transaction, &first.server, clock::now()).await? {
            return Ok(());
        }
        transaction.commit().await?;
        let operator = Actor::new(Identity::Operator, Arc::new(actor::Origin::inside()));
        let order = Order {
            name: first.package.clone(),
            server_name: Some(first.server.clone()),
            registry_type: Some("npm".into()),
            env: BTreeMap::new(),
            enabled: true,
            ..Order::default()
        };
        self.install(&operator, order).await.map(drop)
    }
}
