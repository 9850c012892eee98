//! What we know about CDNs: no sockets, no futures.

pub mod addresses;
pub mod dialect;
pub mod preset;
pub mod proof;
