//! Packages made runnable on this machine, under the ids of servers.
//!
//! Owns `mcp_fabric.installations`, `package_folders` and `first_runs`, and the folders `trees` and `packages` of the
//! data folder. An install reads only the cache; what it makes is a tree named by the digest of everything in it,
//! which no server can write to. Installing, and upgrading, is a job; a row says what can be started, also while
//! another version comes.

mod bundle;
mod detect;
mod error;
mod first_run;
pub mod fuzz;
mod job;
mod look;
mod manifest;
mod model;
mod plan;
mod python;
mod routes;
mod scripts;
mod service;
mod store;
mod toolchains;
mod trees;
mod unpack;
mod unzip;
mod upgrades;

pub use bundle::FOLDER as BUNDLE_FOLDER;
pub use error::PackagesError;
pub use model::{BundleProgram, Entry, Installation, InstallationId, Order, Runnable, Stage};
pub use routes::router;
pub use service::{INSTALLATION_CHANGED, Neighbours, Packages};
pub use toolchains::{Found, NoToolchain, Toolchain};
pub use upgrades::Updates;
