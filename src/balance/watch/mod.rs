//! Probes the edges of the CDNs, takes a provider away in DNS while its edge is down, and brings the provider back if
//! its mode is `obey`.
//!
//! `edge_probe` sends the requests, `edge_health` counts the results, and `next_act` says what to do about a target.
//! `tries` says when to try and what to report. `edge_health`, `next_act` and `tries` use no clock and no socket.
//! `watched_edges` makes the rounds of probes and publishes what is known about each edge. Each `watched_target` makes
//! the acts of one target, in a future of its own. `between_targets` has what all targets share, and what follows an
//! act.
//!
//! A slow DNS service or a slow shim does not delay the probes or the reading of other targets. Only the writes of the
//! targets wait for each other. There is no queue of acts: when a target is ready, it uses only the latest results. No
//! modes, weights or flags are kept. They are read from DNS before each act, so a person or another process can change
//! them at any time.

pub(crate) mod between_targets;
mod edge_health;
pub(crate) mod edge_probe;
mod next_act;
pub(crate) mod one_watch;
mod tries;
pub(crate) mod watched_edges;
pub(crate) mod watched_target;
