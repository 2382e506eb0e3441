//! All SQL of the cache.

mod artifacts;
mod documents;
mod locks;
mod names;
mod upkeep;

pub(crate) use artifacts::{
    Cached, Coming, claim, coming, fail, file, files, finish, holds, image_of, lose, note_refused, pin, plan, release, remove, seen_at,
    take_turns, tell,
};
pub(crate) use documents::{document, document_names, documents_of, forget_documents, keep_document, tags, take_document};
pub(crate) use locks::{keep_lock, lock, missing_of_lock};
pub(crate) use names::{keep_name, named, named_at, names_of, names_of_all, take_names};
pub(crate) use upkeep::{
    Stored, by_use, bytes_stored, coldest, files_of_blob, forget_cold_documents, forget_failed, is_cold, is_known, list, stored, totals,
    used,
};
