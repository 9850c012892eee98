//! What header fields say on the wire: names, lists, weights, tags, hosts, hops, addresses, ids, timings and framing.
//!
//! Pure functions on bytes and `http::HeaderMap`: no socket, no future, no clock, no configuration. [`received`] alone is more: it
//! checks how a body ends. A field's name is
//! spelt here and nowhere else ([`names`]). All of it runs on what strangers sent, mostly once or twice a request, so
//! every reader works on borrowed data, looks at each byte a bounded number of times and answers "malformed" by a
//! value, never by a panic.

pub(crate) mod cache_control;
pub(crate) mod cache_fields;
pub(crate) mod cache_tags;
pub(crate) mod certificate;
pub(crate) mod directives;
pub(crate) mod etag;
pub(crate) mod forwarded;
pub(crate) mod frame_tracker;
pub(crate) mod head_tracker;
pub(crate) mod hops;
pub(crate) mod host;
pub(crate) mod json;
pub(crate) mod media_types;
pub(crate) mod names;
pub(crate) mod quality;
pub(crate) mod received;
pub(crate) mod secret;
pub(crate) mod server_timing;
pub(crate) mod tokens;
pub(crate) mod trace_context;
pub(crate) mod values;
pub(crate) mod vary;
