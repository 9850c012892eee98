//! The parts that the page of `admin` and the page of `edgeshim balance serve` have in common: the listener with its
//! limits, the log-in and its sessions, the check for requests that another site has caused, and the documents with
//! their Content-Security-Policy.

pub(crate) mod answers;
pub(crate) mod document;
pub(crate) mod listener;
pub(crate) mod sessions;
