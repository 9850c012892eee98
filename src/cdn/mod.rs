//! What edgeshim knows about CDNs. The code here uses no sockets and no futures.

pub(crate) mod addresses;
pub(crate) mod dialect;
pub(crate) mod grant;
pub(crate) mod known;
pub(crate) mod limits;
pub(crate) mod preset;
pub(crate) mod proof;
pub(crate) mod recognise;
pub(crate) mod tags;
