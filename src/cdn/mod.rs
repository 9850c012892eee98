//! The facts about CDNs, and the code that depends on these facts. The code uses no sockets and no futures.

pub(crate) mod addresses;
pub(crate) mod dialect;
pub(crate) mod grant;
pub(crate) mod known;
pub(crate) mod limits;
pub(crate) mod preset;
pub(crate) mod proof;
pub(crate) mod recognise;
pub(crate) mod tags;
