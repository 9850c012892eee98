//! The innermost service: one origin, reached over reused connections, with bodies streamed in both directions.
//!
//! Each worker has its own [`Client`], so a connection stays on one core and the lock of its pool is never contended. A
//! request goes over an idle connection where there is one, else over a new one. `ARCHITECTURE.md` ("The pool, and when
//! a request is sent twice") lists the cases in which a request is sent again; `send.rs` implements them.
//!
//! The only error is a [`Fault`](crate::fault::Fault), with any cause but an overload. A request without a body that
//! goes over a reused HTTP/1.1 connection allocates nothing here.

mod body;
mod client;
mod connect;
mod connection;
mod errors;
mod exchange;
pub(crate) mod forward;
mod options;
mod pool;
mod send;
mod target;
mod tunnel;
mod upload;

pub(crate) use body::OriginBody;
pub(crate) use client::Client;
pub(crate) use exchange::Hold;
pub(crate) use options::{ClientSettings, MessageLimits, OriginSettings};
pub use target::Target;
pub(crate) use tunnel::Tunnel;
