//! HTTP syntax: reading and writing header fields, framing and addresses.
//!
//! The code works on bytes and `http::HeaderMap`, without sockets, futures, clocks or configuration. The exception is
//! [`received`], which reads hyper's bodies to check how a body ends. In other rooms, only tests access a header field
//! by a name that is written as text. Other code uses the names in [`names`].
//!
//! The input comes from untrusted peers, and most functions run once or twice per request. Therefore all functions copy
//! as little as possible, read each byte a bounded number of times, and never panic on malformed input.

pub(crate) mod added_fields;
pub(crate) mod cache_control;
pub(crate) mod cache_fields;
pub(crate) mod cache_tags;
pub(crate) mod certificate;
pub(crate) mod certificate_fields;
pub(crate) mod decimal;
pub(crate) mod directives;
pub(crate) mod etag;
pub(crate) mod forwarded;
pub(crate) mod frame_tracker;
pub(crate) mod head_fields;
pub(crate) mod head_tracker;
pub(crate) mod hex;
pub(crate) mod hops;
pub(crate) mod host;
pub(crate) mod json;
pub(crate) mod media_types;
pub(crate) mod names;
pub(crate) mod quality;
pub(crate) mod query_parameters;
pub(crate) mod received;
pub(crate) mod secret;
pub(crate) mod server_timing;
pub(crate) mod tokens;
pub(crate) mod trace_context;
pub(crate) mod values;
pub(crate) mod vary;
