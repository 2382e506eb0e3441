//! Packages made runnable on this machine: so far, the programs that run them.

mod toolchains;

pub use toolchains::{Found, NoToolchain, Toolchain};
