//! All SQL of the catalogue.

pub(crate) mod access;
pub(crate) mod ingest;
pub(crate) mod list;
pub(crate) mod read;
pub(crate) mod registry;
pub(crate) mod upkeep;
