//! The result of a batch of log lines, with the response to it.

use http::StatusCode;

use crate::ids::label;
use crate::intake::edge_logs::BatchError;

label! {
    /// The result of a batch: the label `result` of `edgeshim_edge_log_batches_total`.
    pub(crate) enum BatchResult {
        /// The batch was counted.
        Counted = "counted",
        /// The batch was counted before, so it was not counted again.
        Repeated = "repeated",
        /// The batch was only the test of a CDN.
        Test = "test",
        /// The token is missing or wrong.
        Token = "token",
        /// No provider has the name in the path.
        Provider = "provider",
        /// The method is neither POST nor PUT.
        Method = "method",
        /// The body has another type or coding than log lines have.
        MediaType = "media_type",
        /// The body is too large.
        TooLarge = "too_large",
        /// The gzip of the body is damaged or truncated.
        Gzip = "gzip",
        /// The JSON array or the envelope of the body is damaged or truncated.
        Json = "json",
        /// The body stopped arriving.
        Late = "late",
        /// The connection ended before the body.
        Cut = "cut",
        /// Too many batches were being read.
        Busy = "busy",
    }
}

impl From<BatchError> for BatchResult {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::TooLarge => Self::TooLarge,
            BatchError::Gzip => Self::Gzip,
            BatchError::Json => Self::Json,
        }
    }
}

impl BatchResult {
    /// Returns the status of the response, and its text if the batch is refused.
    pub(super) fn status(self) -> (StatusCode, &'static str) {
        match self {
            Self::Counted | Self::Repeated | Self::Test => (StatusCode::OK, ""),
            Self::Token => (StatusCode::UNAUTHORIZED, "send the token of edge_logs.token: Authorization: Bearer ...\n"),
            Self::Provider => {
                (StatusCode::NOT_FOUND, "no provider has this name: end the path with a configured name\n")
            }
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "send the log with POST\n"),
            Self::MediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "this body is not a log: send JSON, NDJSON or plain text, without a coding or with gzip\n",
            ),
            Self::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "this body is longer than edge_logs.max_body, or than ten times that size without gzip\n",
            ),
            Self::Gzip => {
                (StatusCode::BAD_REQUEST, "the gzip of this body is damaged or truncated; nothing was counted\n")
            }
            Self::Json => {
                (StatusCode::BAD_REQUEST, "the JSON of this body is damaged or truncated; nothing was counted\n")
            }
            Self::Late => (StatusCode::REQUEST_TIMEOUT, "this body stopped arriving; nothing was counted\n"),
            Self::Cut => (StatusCode::BAD_REQUEST, "this body was truncated; nothing was counted\n"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "other batches are being read; send this one again\n"),
        }
    }
}
