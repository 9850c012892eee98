//! Where the origin listens and how this process uses it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

/// Where the origin listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A name or address, and a port.
    Tcp {
        /// Resolved anew for each connection.
        host: String,
        /// 1–65535.
        port: u16,
    },
    /// The path of a socket.
    Unix(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What a [`Client`](super::Client) needs of `[origin]` and `[server]`.
#[derive(Debug, Clone)]
pub struct OriginSettings {
    pub target: Target,
    /// HTTP/2 with prior knowledge instead of HTTP/1.1.
    pub http2: bool,
    pub connect_timeout: Duration,
    /// From the last byte of the request to the response head.
    pub response_timeout: Duration,
    /// Without progress on a body.
    pub body_timeout: Duration,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
    /// Idle connections of this worker.
    pub max_idle: usize,
    /// How often an idempotent request is sent again.
    pub retries: u32,
    /// Bytes of a request body; `None`: no limit.
    pub max_request_body: Option<u64>,
    /// Field lines of a response head.
    pub max_headers: usize,
    /// Bytes of a response head.
    pub max_header_bytes: usize,
    /// For an upgraded connection on which no byte moves.
    pub tunnel_timeout: Duration,
    /// Send header names in the case in which they were received (HTTP/1.1).
    pub preserve_header_case: bool,
    /// Fields that name or prove the provider. They are not allowed in request trailers.
    pub claims: Arc<[HeaderName]>,
}
