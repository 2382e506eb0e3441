//! Templates: what somebody wants of servers, whichever they are, to be applied to many.

mod model;
mod routes;
mod service;
mod store;

pub use model::{Template, TemplateId};
pub(crate) use routes::router;
pub(crate) use store::erase;
