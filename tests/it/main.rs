//! Black-box tests: the running program over HTTP, on a real PostgreSQL.
#![expect(clippy::disallowed_methods, reason = "tests start processes and make clients as outsiders do")]
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a test that fails says so by a panic")]

mod support;

mod access;
mod cache;
mod catalogue;
mod database;
mod events;
mod faults;
mod jobs;
mod process;
mod registry;
mod requirements;
mod sync;
