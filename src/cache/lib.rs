//! The package cache: packages of npm registries and Python indexes, container images and bundles, verified
//! before a byte of them is given, and the registries that clients install them from.
//!
//! Owns `mcp_fabric.cache_artifacts`, `cache_documents`, `cache_locks` and `cache_names`, and the folder `FABRIC_CACHE_DIR`. Bytes come
//! before rows: a row that says `cached` has its blob, and a blob without a row is only room that is lost.
//! A file is fetched once for any number of askers ([`flights`]) and replicas (a lease in its row), goes on
//! when they go away, and is compared with the digest that its registry states ([`download`]) before it is
//! stored ([`blobs`]). Reading it for the first time in a process compares it again.

mod archive;
mod artifacts;
mod asked;
mod blobs;
mod bring;
mod closure;
mod digest;
mod documents;
mod download;
mod error;
mod fetchers;
mod file_names;
mod flights;
pub mod fuzz;
mod give;
mod hosts;
mod job;
mod layout;
mod made;
mod model;
mod names;
mod npm;
mod oci;
mod policy;
mod pypi;
mod realms;
mod reference;
mod registries;
mod removal;
mod room;
mod routes;
mod service;
mod signatures;
mod sources;
mod standing;
mod store;
mod supply;
mod upkeep;
mod v2;

pub use archive::ArchiveError;
pub use blobs::BlobsError;
pub use download::DownloadError;
pub use error::CacheError;
pub use job::CACHE_PROGRESS;
pub use made::MADE_HERE;
pub use model::Wanted;
pub use names::{InvalidName, RegistryType};
pub use policy::Refusal;
pub use registries::registries;
pub use routes::router;
pub use service::{Cache, Neighbours};
pub use sources::NoRegistry;
pub use supply::{Part, Supply};
