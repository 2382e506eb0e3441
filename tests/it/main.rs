//! Black-box tests: the running program over HTTP, on a real PostgreSQL.
#![expect(clippy::disallowed_methods, reason = "tests start processes and make clients as outsiders do")]
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a test that fails says so by a panic")]
#![expect(
    clippy::large_futures,
    clippy::too_many_lines,
    clippy::match_same_arms,
    clippy::similar_names,
    clippy::format_collect,
    clippy::items_after_statements,
    reason = "a test tells one story from its beginning to its end"
)]

mod support;

mod access;
mod audit;
mod backup;
mod bulk;
mod cache;
mod catalog;
mod catalogue;
mod configurations;
mod credentials;
mod database;
mod events;
mod factory;
mod faults;
mod gateway;
mod identity;
mod jobs;
mod packages;
mod permissions;
mod process;
mod registry;
mod requirements;
mod rotation;
mod runtime;
mod secrets;
mod sync;
mod templates;
mod transfer;
