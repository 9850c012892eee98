//! The innermost service. It sends requests to one origin over reused connections and streams bodies in both
//! directions.
//!
//! Each worker has its own [`Client`]. So a connection stays on one core, and the lock of the connection pool is never
//! contended. A request is sent over an idle connection. If no connection is idle, a new connection is made. With
//! HTTP/2, the requests of a worker share one connection. `ARCHITECTURE.md` ("The pool, and when a request is sent
//! twice") lists the cases in which a request is sent again. `send.rs` implements these cases. `plain/` makes the most
//! frequent kind of exchange, and hyper makes all other exchanges. All workers share one [`Upstream`]: the addresses of
//! the origin, and TLS.
//!
//! The only error is a [`Fault`](crate::fault::Fault). Its cause can be any cause except `Overload`. For a request
//! without a body that is sent over a reused HTTP/1.1 connection, this module mostly allocates nothing. An exception is
//! a response with a field name that is not standard and was not in a recent response (`plain/known_names.rs`).

mod body;
mod both_clients;
mod budget;
mod client;
mod connect;
mod connection;
mod endpoint;
mod errors;
mod exchange;
pub(crate) mod forward;
mod gather;
mod health;
mod lease;
mod lookup;
mod options;
mod pipe;
mod plain;
mod pool;
mod resolver;

mod send;
mod socket;
mod target;
mod tls;
mod tls_faults;
mod tls_stream;
mod tunnel;
mod upkeep;
mod upload;
mod upstream;

pub(crate) use body::OriginBody;
pub use both_clients::{Answer, Script};
pub(crate) use client::{Client, ClientSettings};
pub(crate) use exchange::{Hold, OriginResponse};
pub(crate) use gather::{Reserved, gather};
pub(crate) use lease::{Lease, Upstreams};
pub(crate) use options::{MessageLimits, OriginSettings};
pub(crate) use pipe::Pipe;
pub use resolver::Resolver;
pub(crate) use target::Role;
pub use target::Target;
pub(crate) use tls::{TlsProblem, certificates};
pub(crate) use tunnel::Tunnel;
pub(crate) use upstream::Upstream;
