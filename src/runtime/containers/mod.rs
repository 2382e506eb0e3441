//! Containers, through the API of a container engine: Docker's, or Podman's compatible socket.

mod container;
mod engine;

pub(crate) use container::{Container, Exit, Handle, Order, name_of};
pub use engine::engine_version;
pub(crate) use engine::{Engine, EngineError, INSTANCE, SOCKETS};
