//! What users want of servers: whether they run, with which values, within which limits.
//!
//! Owns `mcp_fabric.configurations` and `templates`. A configuration is desired state: nothing here starts or stops anything; a change is
//! told as [`CONFIGURATION_CHANGED`]. Secret values are in the vault and never in a row of this feature. What is removed
//! is archived, and can be restored.

mod clients;
mod error;
mod inputs;
mod model;
mod routes;
mod service;
mod store;
mod templates;
mod transfer;
mod transfer_routes;

pub use error::ConfigurationsError;
pub use model::{Change, Configuration, ConfigurationId, Lifecycle, Limits, Restart, Sharing, Standing};
pub use routes::router;
pub use service::{CONFIGURATION_CHANGED, Configurations, Shown};
pub use templates::{Template, TemplateId};
pub use transfer::Strategy;
