//! MCP Fabric: a registry mirror, package cache, credential vault, runtime and gateway for MCP servers,
//! in one program on one PostgreSQL. This crate builds every service once and puts it behind HTTP and
//! the command line; `docs/architecture.md` is the map.

pub mod app;
pub mod cli;
mod connections;
mod health;
mod internal;
pub mod kinds;
pub mod openapi;
mod router;
mod services;
