//! What is told to clients of servers and endpoints that change.

use std::sync::Arc;

use configurations::CONFIGURATION_CHANGED;
use events::Audience;
use runtime::SERVER_STATE_CHANGED;
use servers::CATALOG_CHANGED;
use sources::SOURCE_CHANGED;
use tokio::sync::broadcast::error::RecvError;
use virtual_servers::VIRTUAL_SERVER_CHANGED;

use crate::{
    Gateway,
    client::Client,
    hearer::{Hearer, Listening},
    place::Place,
    service::Listener,
};

impl Gateway {
    /// Tells sessions of servers that come and go.
    pub(crate) async fn follow(self, mut events: events::Receiver) {
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = self.inner.shutdown.begun() => return,
            };
            match event {
                Ok(event) if event.is(&CONFIGURATION_CHANGED) => self.inner.members.invalidate_all(),
                Ok(event) if event.is(&CATALOG_CHANGED) && event.payload["access"] == true => {
                    self.inner.members.invalidate_all();
                    self.inner.put_together.invalidate_all();
                    // Whose it was is not looked at: to hear once too often costs a list.
                    match &event.audience {
                        Audience::Owner(owner) => self.tell_places(|_, user| user == owner),
                        Audience::Everyone | Audience::Auditors => self.tell_places(|_, _| true),
                    }
                }
                Ok(event) if event.is(&VIRTUAL_SERVER_CHANGED) => {
                    self.inner.put_together.invalidate_all();
                    self.inner.domains.invalidate_all();
                    if let Some(id) = event.payload["virtualServerId"].as_str().and_then(|id| id.parse().ok()) {
                        self.tell_places(|place, _| *place == Place::Virtual(id));
                    }
                }
                Ok(event) if event.is(&SOURCE_CHANGED) => {
                    self.inner.put_together.invalidate_all();
                    if let Audience::Owner(owner) = &event.audience {
                        // Which of them have the source is not looked at: to hear once too often costs a list.
                        self.tell_places(|place, user| matches!(place, Place::Virtual(_)) && user == owner);
                    }
                }
                Ok(event) if event.is(&SERVER_STATE_CHANGED) => {
                    // Of one that is for a session, or for one era, whoever uses it hears by itself.
                    let is_for_all = event.payload["session"].is_null();
                    let has_turned = event.payload["newState"] == "RUNNING" || event.payload["oldState"] == "RUNNING";
                    if is_for_all
                        && has_turned
                        && let (Some(server), Audience::Owner(owner)) = (&event.server, &event.audience)
                    {
                        self.tell_of(server, owner);
                    }
                }
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => {
                    self.inner.members.invalidate_all();
                    self.inner.put_together.invalidate_all();
                    self.inner.domains.invalidate_all();
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// What a server offers is there, or not there any more: sessions that may be offered it hear of it.
    fn tell_of(&self, server: &str, owner: &str) {
        let is_concerned = |place: &Place, user: &str| match place {
            Place::Server(id) => id == server,
            // Whether a virtual server has it is not looked at: to hear once too often costs a list.
            Place::All | Place::Virtual(_) => owner == user || self.is_shared(server),
        };
        let clients: Vec<Arc<Client>> = {
            let clients = self.clients();
            clients.values().filter(|client| is_concerned(&client.place, client.owner())).cloned().collect()
        };
        let listening: Vec<Arc<Listening>> = {
            let listeners = self.listeners();
            let concerned = listeners.iter().filter(|one| is_concerned(&one.place, &one.actor.to_string()));
            let concerned: Vec<&Listener> = concerned.collect();
            for one in &concerned {
                self.inner.shutdown.spawn(self.clone().attach((*one).clone(), server.to_owned()));
            }
            concerned.iter().filter_map(|one| one.listening.upgrade()).collect()
        };
        tell_lists(&clients, &listening);
    }

    /// What these endpoints of these users offer is something else by now.
    fn tell_places(&self, is_concerned: impl Fn(&Place, &str) -> bool) {
        let clients: Vec<_> = self.clients().values().filter(|client| is_concerned(&client.place, client.owner())).cloned().collect();
        let listening: Vec<_> = {
            let listeners = self.listeners();
            let concerned = listeners.iter().filter(|one| is_concerned(&one.place, &one.actor.to_string()));
            concerned.filter_map(|one| one.listening.upgrade()).collect()
        };
        tell_lists(&clients, &listening);
    }

    /// Lets a modern client that listens hear a server that has come.
    async fn attach(self, listener: Listener, server: String) {
        let Ok(servers) = self.members(&listener.actor, &listener.place).await else { return };
        for configuration in servers.iter().filter(|one| one.server_id == server && !one.is_per_session()) {
            if let Ok((backend, _)) = self.reach(configuration, "").await {
                backend.attach(listener.party.0, || Hearer::Stream(listener.listening.clone()));
            }
        }
    }

    fn is_shared(&self, server: &str) -> bool {
        self.backends().values().any(|backend| backend.configuration.server_id == server && backend.is_shared())
    }
}

fn tell_lists(clients: &[Arc<Client>], listening: &[Arc<Listening>]) {
    for list in ["tools", "prompts", "resources"] {
        let changed = format!("notifications/{list}/list_changed");
        for client in clients {
            client.hear(&changed, None);
        }
        for one in listening {
            one.hear(&changed, None);
        }
    }
}
