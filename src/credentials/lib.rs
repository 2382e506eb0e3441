//! The vault: people's keys for servers, sealed so that whoever has the database can neither read nor move them.
//!
//! Owns the schema `credentials`. [`Ring`] holds the master keys, [`envelope`] seals, [`Credentials`] stores, tells,
//! reveals and rotates.
//!
//! Invariants:
//! - plaintext leaves by one door, [`Credentials::reveal`], on the internal listener, and only after its audit event
//!   is on disk;
//! - the public side works as a role that cannot select ciphertext;
//! - a value is sealed with its row's identity and revision, and never opened by trying keys;
//! - a rotation changes how values are wrapped, never the values; whenever it dies, it goes on where it was.

mod changes;
mod dotenv;
mod envelope;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod inputs;
mod keeper;
mod migrate;
mod model;
mod reveal;
mod ring;
mod rotation;
mod routes;
mod secrets;
mod service;
mod store;
mod transfer;
mod verify;

pub use error::CredentialsError;
pub use inputs::input_credential;
pub use model::{CredentialId, EnvVar, Kind, Metadata, RotationId, Unfit, UserRef};
pub use ring::{Ring, RingError, jwt_key};
pub use routes::{internal, router};
pub use secrets::instance_secret;
pub use service::Credentials;
pub use store::keys::is_in_use;
pub use transfer::{decrypted, encrypted};
