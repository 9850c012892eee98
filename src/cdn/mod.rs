//! What we know about CDNs: no sockets, no futures.

pub mod addresses;
pub mod dialect;
pub mod known;
pub mod limits;
pub mod preset;
pub mod proof;
pub mod recognise;
pub mod tags;
