//! What header fields say on the wire: names, lists, weights, tags, hosts, hops, addresses, ids, timings and framing.
//!
//! Pure functions on bytes and `http::HeaderMap`: no socket, no future, no clock, no configuration. [`received`] alone is more: it
//! checks how a body ends. A field's name is
//! spelt here and nowhere else ([`names`]). All of it runs on what strangers sent, mostly once or twice a request, so
//! every reader works on borrowed data, looks at each byte a bounded number of times and answers "malformed" by a
//! value, never by a panic.

pub mod cache_control;
pub mod certificate;
pub mod etag;
pub mod forwarded;
pub mod frames;
pub mod guard;
pub mod hops;
pub mod host;
pub mod ids;
pub mod names;
pub mod quality;
pub mod received;
pub mod secret;
pub mod server_timing;
pub mod tags;
pub mod tokens;
pub mod values;
pub mod vary;
