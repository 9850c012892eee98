//! Probes the edges of the CDNs, takes a provider away in DNS while its edge is down, and brings it back.
//!
//! `edge_probe` sends the requests, `edge_health` counts the results, and `next_act` says what to do about a target.
//! `tries` says when to try and what to report. These decisions use no clock and no socket. `rounds` connects them with
//! the DNS services. Nothing but the counts is kept: the modes and the flags are read from DNS before each act, so a
//! person or another process can change them at any time.

mod edge_health;
pub(crate) mod edge_probe;
mod next_act;
pub(crate) mod one_watch;
pub(crate) mod rounds;
mod tries;
