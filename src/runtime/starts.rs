//! Who takes up what is switched on: whoever starts it, or the loop that compares what runs with what is wanted.

use std::sync::PoisonError;

use platform::Actor;

use crate::service::Inner;

/// A start that takes up its instance itself. Where it does not get there, others do.
pub(crate) struct BegunStart<'a> {
    inner: &'a Inner,
    key: (String, String),
}

impl Drop for BegunStart<'_> {
    fn drop(&mut self) {
        self.inner.starts.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        self.inner.look_at(&self.key.1);
    }
}

impl Inner {
    /// From now on somebody who starts a server takes it up themselves, once it is switched on.
    pub(crate) fn begin_start(&self, actor: &Actor, server_id: &str) -> BegunStart<'_> {
        let key = (actor.to_string(), server_id.to_owned());
        self.starts.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        BegunStart { inner: self, key }
    }

    /// Whether somebody is about to take up the instance of an owner and a server.
    pub(crate) fn is_being_started(&self, owner: &str, server_id: &str) -> bool {
        self.starts.lock().unwrap_or_else(PoisonError::into_inner).contains(&(owner.to_owned(), server_id.to_owned()))
    }

    /// What is wanted of a server, or runs of it, may be another thing by now.
    pub(crate) fn look_at(&self, server_id: &str) {
        self.to_look_at.lock().unwrap_or_else(PoisonError::into_inner).insert(server_id.to_owned());
        self.wake.notify_one();
    }
}
