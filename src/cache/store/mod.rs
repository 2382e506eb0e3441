//! All SQL of the cache.

mod artifacts;
mod documents;
mod locks;
mod names;
mod upkeep;

pub(crate) use artifacts::{Cached, claim, fail, file, files, finish, image_of, lose, plan, release, remove, take_turns, tell};
pub(crate) use documents::{document, document_names, forget_documents, keep_document, tags};
pub(crate) use locks::{keep_lock, lock, missing_of_lock};
pub(crate) use names::{keep_name, named, names_of};
pub(crate) use upkeep::{totals, used};
