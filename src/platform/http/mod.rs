//! The HTTP pieces that every feature's routes share.

pub mod access;
mod address;
pub mod answer;
pub mod cors;
pub mod extract;
pub mod front;
pub mod header_text;
mod peer;
mod rate;
mod standing;

pub use address::Address;
pub use answer::Answer;
pub use extract::{Json, Path, Query};
pub use front::{Front, Reader};
pub use peer::Peer;
pub use standing::Standing;
