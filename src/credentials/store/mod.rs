//! All the SQL of the vault. Everything that touches ciphertext runs as the reveal role.

pub(crate) mod check;
pub(crate) mod keys;
pub(crate) mod reveal;
pub(crate) mod rotation;
pub(crate) mod rows;
pub(crate) mod secrets;
