//! Black-box tests: the running program over HTTP, on a real PostgreSQL.
#![expect(clippy::disallowed_methods, reason = "tests start processes and make clients as outsiders do")]
#![allow(missing_docs, reason = "the names of tests say what they show")]

mod support;

mod access;
mod catalogue;
mod database;
mod events;
mod faults;
mod jobs;
mod process;
mod registry;
mod sync;
