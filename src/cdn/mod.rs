//! Knowledge about CDNs: no sockets, no futures.

pub(crate) mod addresses;
pub(crate) mod dialect;
pub(crate) mod known;
pub(crate) mod limits;
pub(crate) mod preset;
pub(crate) mod proof;
pub(crate) mod recognise;
pub(crate) mod tags;
