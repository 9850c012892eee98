//! The result of a batch of log lines, with the response to the batch.

use http::StatusCode;

use crate::ids::label;
use crate::intake::edge_logs::BatchError;

label! {
    /// The result of a batch: the label `result` of `edgeshim_edge_log_batches_total`.
    pub(crate) enum BatchResult {
        /// The batch was counted.
        Counted = "counted",
        /// A batch with the same Firehose request id was counted before, so this batch was not counted.
        Repeated = "repeated",
        /// The batch has only the test record that Cloudflare sends, so nothing was counted.
        Test = "test",
        /// The token is missing or wrong.
        Token = "token",
        /// No provider has the name in the path.
        Provider = "provider",
        /// The method is neither POST nor PUT.
        Method = "method",
        /// edgeshim does not accept the Content-Type or the Content-Encoding for logs.
        MediaType = "media_type",
        /// The body is too large.
        TooLarge = "too_large",
        /// The gzip of the body is damaged or truncated.
        Gzip = "gzip",
        /// The JSON array or the envelope in the body is damaged or truncated. Or Firehose sent the body, and the body
        /// is not an envelope.
        Json = "json",
        /// No byte of the body arrived for `server.body_timeout`, or the body arrived too slowly.
        Late = "late",
        /// The body was truncated, for example because the connection was closed.
        Cut = "cut",
        /// There are two causes. First: other requests use all permits to read a batch, or the provider's share of the
        /// permits. Second: the thread that reads the batches cannot start or has ended.
        Busy = "busy",
    }
}

impl From<BatchError> for BatchResult {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::TooLarge => Self::TooLarge,
            BatchError::Gzip => Self::Gzip,
            BatchError::Json => Self::Json,
            BatchError::Aborted => Self::Busy,
        }
    }
}

impl BatchResult {
    /// Returns the status of the response. If the batch is refused, also returns the body of the response.
    pub(super) fn status(self) -> (StatusCode, &'static str) {
        match self {
            Self::Counted | Self::Repeated | Self::Test => (StatusCode::OK, ""),
            Self::Token => (
                StatusCode::UNAUTHORIZED,
                "send the header field Authorization: Bearer TOKEN, where TOKEN is the value of edge_logs.token, or of \
                 edge_log_token if the provider has this key\n",
            ),
            Self::Provider => (
                StatusCode::NOT_FOUND,
                "the path does not end with the name of a provider: write a slash and the name of a [[provider]] after \
                 the value of edge_logs.path\n",
            ),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "send the log with POST\n"),
            Self::MediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "this body is not a log: send JSON, NDJSON or plain text, without a coding or with gzip\n",
            ),
            Self::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "this body is longer than edge_logs.max_body, or inflates to more than ten times that size: send \
                 smaller batches\n",
            ),
            Self::Gzip => {
                (StatusCode::BAD_REQUEST, "the gzip of this body is damaged or truncated; nothing was counted\n")
            }
            Self::Json => {
                (StatusCode::BAD_REQUEST, "the JSON of this body is damaged or truncated; nothing was counted\n")
            }
            Self::Late => {
                (StatusCode::REQUEST_TIMEOUT, "the rest of this body did not arrive in time; nothing was counted\n")
            }
            Self::Cut => (StatusCode::BAD_REQUEST, "this body was truncated; nothing was counted\n"),
            Self::Busy => (
                StatusCode::SERVICE_UNAVAILABLE,
                "this batch cannot be read now, because too many batches arrive at the same time or the reader has \
                 failed: send this batch again later\n",
            ),
        }
    }
}
