//! Every type of event that the program tells; docs/events.md is made of them.

use events::Kind;

/// In the order of the document.
pub static KINDS: &[&Kind] = &[
    &runtime::SERVER_STATE_CHANGED,
    &configurations::CONFIGURATION_CHANGED,
    &servers::CATALOG_CHANGED,
    &sync::SYNC_PROGRESS,
    &cache::CACHE_PROGRESS,
    &bulk::BULK_PROGRESS,
    &jobs::JOB_PROGRESS,
    &jobs::JOB_STATUS_CHANGED,
    &packages::INSTALLATION_CHANGED,
    &virtual_servers::VIRTUAL_SERVER_CHANGED,
    &sources::SOURCE_CHANGED,
    &audit::AUDIT_RECORDED,
];
