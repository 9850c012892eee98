//! The failures of requests. [`Fault`] is the only error type between the origin and the whoopsie page.
//! [`Cause::status`] is the one place that maps a cause to a status.

use std::error::Error;
use std::fmt;

use http::StatusCode;

use crate::ids::label; // tidy: the macro that declares a label; `ids` imports nothing from `fault`

label! {
    /// The cause of a fault. The metrics use the cause as the label `cause`.
    pub enum Cause {
        /// The connection to the origin's address was refused.
        Refused = "refused",
        /// The connection was not established within `origin.connect_timeout`.
        ConnectTimeout = "connect_timeout",
        /// The connection failed for another reason, for example no route, an unknown name or a missing socket file.
        Unreachable = "unreachable",
        /// The origin's certificate is not valid.
        TlsCertificate = "tls_certificate",
        /// The origin ended the TLS connection with an alert.
        TlsAlert = "tls_alert",
        /// The origin does not speak TLS, or broke the protocol of TLS.
        TlsProtocol = "tls_protocol",
        /// The origin reset the connection before it responded.
        Reset = "reset",
        /// The origin closed the connection before it responded.
        Closed = "closed",
        /// The response head did not arrive within `origin.response_timeout`.
        Timeout = "timeout",
        /// The origin sent a response head that is invalid, ambiguous or too large.
        BrokenHead = "broken_head",
        /// The response body was truncated, or edgeshim could not inflate it.
        Cut = "cut",
        /// The response body made no progress for `server.body_timeout`.
        Stalled = "stalled",
        /// The origin read nothing more of the request body for `server.body_timeout`.
        UploadStalled = "upload_stalled",
        /// The origin already has as many requests as `origin.max_in_flight` allows. The queue is full, or this request
        /// waited in the queue for too long.
        Overload = "overload",
        /// The request body from the client made no progress for `server.body_timeout`.
        RequestStalled = "request_stalled",
        /// The request body from the client is longer than `server.max_request_body`.
        RequestTooLarge = "request_too_large",
        /// The request body from the client was truncated, or its framing is invalid.
        RequestCut = "request_cut",
    }
}

impl Cause {
    /// Returns the status of the response with which edgeshim reports the fault to the client. A fault in the middle of
    /// a response body comes too late for a status, so such a fault is only counted and logged.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Refused
            | Self::Unreachable
            | Self::Reset
            | Self::Closed
            | Self::TlsCertificate
            | Self::TlsAlert
            | Self::TlsProtocol
            | Self::BrokenHead
            | Self::Cut => StatusCode::BAD_GATEWAY,
            Self::ConnectTimeout | Self::Timeout | Self::Stalled | Self::UploadStalled => StatusCode::GATEWAY_TIMEOUT,
            Self::Overload => StatusCode::SERVICE_UNAVAILABLE,
            Self::RequestStalled => StatusCode::REQUEST_TIMEOUT,
            Self::RequestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RequestCut => StatusCode::BAD_REQUEST,
        }
    }

    /// Returns whether the client caused the failure. Such a failure does not count as a fault of the origin.
    pub fn is_client_error(self) -> bool {
        matches!(self, Self::RequestStalled | Self::RequestTooLarge | Self::RequestCut)
    }

    /// Returns whether TLS with the origin has failed.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::TlsCertificate | Self::TlsAlert | Self::TlsProtocol)
    }

    /// Returns the error type for Proxy-Status (RFC 9209 §2.3) that belongs to this cause. [`Fault::proxy_status`]
    /// returns a more exact error type for a response head that is too large.
    pub fn proxy_status(self) -> &'static str {
        match self {
            Self::Refused => "connection_refused",
            Self::ConnectTimeout => "connection_timeout",
            Self::Unreachable => "destination_unavailable",
            Self::Reset | Self::Closed => "connection_terminated",
            Self::TlsCertificate => "tls_certificate_error",
            Self::TlsAlert => "tls_alert_received",
            Self::TlsProtocol => "tls_protocol_error",
            Self::Timeout => "http_response_timeout",
            Self::BrokenHead => "http_protocol_error",
            Self::Cut => "http_response_incomplete",
            Self::Stalled => "connection_read_timeout",
            Self::UploadStalled => "connection_write_timeout",
            Self::Overload => "connection_limit_reached",
            Self::RequestStalled | Self::RequestTooLarge | Self::RequestCut => "http_request_error",
        }
    }
}

/// A failure: its cause and, if there is one, the underlying error.
#[derive(Debug)]
pub struct Fault {
    cause: Cause,
    source: Option<Box<dyn Error + Send + Sync>>,
    waiting: Option<u32>,
    /// Whether the response head was too large.
    too_large: bool,
    begun: Option<Begun>,
    guard: &'static str,
}

/// The part of the origin's response that had arrived before the fault. Nothing of this response has been sent to the
/// client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// The status that the origin sent.
    pub status: u16,
    /// The time from sending the request to the response head, in microseconds. If the fault came before the layers got
    /// the head, this is the time from sending the request to the fault.
    pub micros: u32,
    /// The number of body bytes read from the origin.
    pub bytes: u64,
}

impl Fault {
    /// Creates a fault without an underlying error.
    pub fn new(cause: Cause) -> Self {
        Self { cause, source: None, waiting: None, too_large: false, begun: None, guard: "" }
    }

    /// Creates a fault with the error that caused it.
    pub fn from_error(cause: Cause, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { source: Some(source.into()), ..Self::new(cause) }
    }

    /// Creates the fault for a response head that has more field lines or bytes than the configuration allows.
    pub fn head_too_large(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { too_large: true, ..Self::from_error(Cause::BrokenHead, source) }
    }

    /// Creates an overload fault. `waiting` is the number of requests in the queue.
    pub fn overload(waiting: usize) -> Self {
        Self { waiting: Some(u32::try_from(waiting).unwrap_or(u32::MAX)), ..Self::new(Cause::Overload) }
    }

    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// Returns the error type for Proxy-Status (RFC 9209 §2.3).
    pub fn proxy_status(&self) -> &'static str {
        if self.too_large { "http_response_header_section_size" } else { self.cause.proxy_status() }
    }

    /// Adds the part of the response that had arrived before the fault.
    pub fn after(self, begun: Begun) -> Self {
        Self { begun: Some(begun), ..self }
    }

    /// Adds the guard that keeps the page for this fault out of caches.
    pub fn guarded(self, guard: &'static str) -> Self {
        Self { guard, ..self }
    }

    /// Returns the guard that applied, or "".
    pub fn guard(&self) -> &'static str {
        self.guard
    }

    /// Returns the part of the response that had arrived, or `None` if the response head had not arrived.
    pub fn begun(&self) -> Option<Begun> {
        self.begun
    }

    /// Returns a hint for the operator: what to check or change.
    pub fn remedy(&self) -> &'static str {
        match self.cause {
            Cause::Refused => "nothing listens at this address: start the origin, or correct origin.url",
            Cause::ConnectTimeout => {
                "check for a firewall that drops packets, and for a full accept queue at the origin; the limit is \
                 origin.connect_timeout"
            }
            Cause::Unreachable => {
                "check the name in origin.url, the route, the socket file with its permissions, and `ulimit -n` of \
                 edgeshim"
            }
            Cause::Reset | Cause::Closed => {
                "check the origin's log for crashed workers; keep origin.idle_timeout below the origin's keep-alive \
                 timeout"
            }
            Cause::TlsCertificate | Cause::TlsAlert | Cause::TlsProtocol => {
                "to see the handshake, run `openssl s_client -connect HOST:PORT -servername NAME`"
            }
            Cause::Timeout => {
                "the origin is slow: find the request id in the origin's log; the limit is origin.response_timeout"
            }
            Cause::BrokenHead if self.too_large => {
                "let the origin send fewer or shorter fields, or raise server.max_headers or server.max_header_bytes"
            }
            Cause::BrokenHead => {
                "send the request directly to the origin with `curl -i` and check the response; also check whether \
                 origin.http2 matches the protocol of the origin"
            }
            Cause::Cut => "check for origin workers that crashed during a response, and for a wrong Content-Length",
            Cause::Stalled => {
                "the origin stopped sending in the middle of a response body; the limit is server.body_timeout"
            }
            Cause::UploadStalled => "the origin stopped reading a request body: check the origin's limits and its disk",
            Cause::Overload => {
                "check in edgeshim_origin_seconds whether the origin became slower; raise origin.max_in_flight only if \
                 the origin has free capacity"
            }
            Cause::RequestStalled | Cause::RequestTooLarge | Cause::RequestCut => "the client caused this failure",
        }
    }

    /// Returns the number of requests in the queue, if the cause is an overload.
    pub fn waiting(&self) -> Option<u32> {
        self.waiting
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.cause.as_str())?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        if let Some(waiting) = self.waiting {
            write!(f, ": {waiting} in the queue")?;
        }
        Ok(())
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|s| &**s as &(dyn Error + 'static))
    }
}

/// Returns the cause of the outermost fault in a chain of errors. hyper wraps the errors of edgeshim's bodies in its
/// own errors, so the fault is not always the first error of the chain.
pub(crate) fn cause_in(error: &(dyn Error + 'static)) -> Option<Cause> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(fault) = error.downcast_ref::<Fault>() {
            return Some(fault.cause);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_when_client_caused_the_failure_then_is_4xx() {
        for cause in Cause::ALL {
            assert_eq!(cause.status().is_client_error(), cause.is_client_error(), "{cause:?}");
        }
    }

    #[test]
    fn cause_when_fault_contains_another_fault_then_is_the_cause_of_the_outer_fault() {
        let outer = Fault::from_error(Cause::Closed, Fault::new(Cause::RequestCut));
        assert_eq!(cause_in(&outer), Some(Cause::Closed));
    }

    #[test]
    fn overload_when_displayed_then_text_contains_the_queue_length() {
        let fault = Fault::overload(200);
        assert_eq!((fault.cause(), fault.waiting()), (Cause::Overload, Some(200)));
        assert_eq!(fault.to_string(), "overload: 200 in the queue");
        assert_eq!(Fault::overload(usize::MAX).waiting(), Some(u32::MAX));
        assert_eq!(Fault::new(Cause::Reset).waiting(), None);
    }
}
