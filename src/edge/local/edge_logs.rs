//! The endpoint to which CDNs push their logs (`[edge_logs]`). Each request has a batch of log lines in its body. The
//! endpoint checks the head of the request, reads the batch, and adds the sums of the lines to the metrics.
//!
//! A request without the right token is refused first, whatever else is wrong with the request. A thread of low
//! priority reads the batches, so that pulls do not wait. Only a few batches are read at the same time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::Body;
use metrics::Counter;

use super::batch_result::BatchResult;
use super::patience::Patience;
use super::{LocalFuture, LocalParts, Response, Shared};
use crate::cdn::preset::logs::LogForm;
use crate::clock::{self, Deadline};
use crate::edge::request::{EdgeRequest, uncacheable};
use crate::ids::{EdgeResult, LogLine, ProviderId};
use crate::intake::edge_logs::{Batch, BatchCoding, BatchForm, Intake, Reader, Sums};
use crate::keys::quantities::SIZE;
use crate::keys::secrets::SECRET;
use crate::keys::urls::local_path;
use crate::keys::{Keys, Text, Visitor};
use crate::metrics::offload::Book;
use crate::metrics::{LazyCounters, Ledger, Throttle, describe};
use crate::wire::media_types::essence;
use crate::wire::names::{
    ALLOW, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
    X_AMZ_FIREHOSE_ACCESS_KEY, X_AMZ_FIREHOSE_REQUEST_ID,
};
use crate::wire::secret::Secret;
use crate::wire::values::content_length;

/// The path at which Fastly asks whether Fastly is allowed to push logs to this host.
const FASTLY_CHALLENGE: &str = "/.well-known/fastly/logging/challenge";

/// The keys of `[edge_logs]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeLogSettings {
    /// The path to which CDNs push their logs. A slash and the name of the provider follow this path.
    pub path: String,
    /// The token of all providers that have no `edge_log_token`. `None`: only providers with an `edge_log_token` can
    /// push logs.
    pub token: Option<Secret>,
    /// The largest body in bytes, before inflating.
    pub max_body_bytes: u64,
}

impl Default for EdgeLogSettings {
    fn default() -> Self {
        Self { path: "/.edgeshim/edge-logs".to_owned(), token: None, max_body_bytes: 100 * 1024 * 1024 }
    }
}

impl Keys for EdgeLogSettings {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.text("path", &PATH, &mut self.path);
        v.nonempty("token", &SECRET, &mut self.token);
        v.text("max_body", &SIZE, &mut self.max_body_bytes);
    }
}

const PATH: Text<String> = Text {
    example: "/.edgeshim/edge-logs",
    read: |text, _| local_path(text, "/.edgeshim/edge-logs").map(|path| path.trim_end_matches('/').to_owned()),
    write: String::clone,
};

/// The settings of one provider's log.
#[derive(Debug, Clone)]
pub(crate) struct LogSource {
    /// The provider's token (`edge_log_token`), which replaces the common token `edge_logs.token`.
    pub token: Option<Secret>,
    pub form: LogForm,
    /// The number of requests that one line represents, because the CDN logs only a sample of its requests.
    pub sampling: u64,
    /// Whether the provider has the preset `fastly`. Fastly asks for permission before it pushes logs.
    pub is_fastly: bool,
}

/// The values that the endpoint needs in addition to the [`Ledger`].
#[derive(Debug, Default)]
pub(crate) struct EdgeLogParts {
    pub settings: EdgeLogSettings,
    /// The logs of the configured providers, in the order of their ids.
    pub sources: Vec<LogSource>,
    pub intake: Arc<Intake>,
}

impl EdgeLogParts {
    /// Returns whether at least one provider can push logs.
    fn is_on(&self) -> bool {
        self.settings.token.is_some() || self.sources.iter().any(|source| source.token.is_some())
    }

    /// Returns whether `path` is the path of the endpoint, with or without a name after it, and at least one provider
    /// can push logs. The name is not checked.
    pub(super) fn is_endpoint(&self, path: &str) -> bool {
        let name = path.strip_prefix(self.settings.path.as_str());
        self.is_on() && name.is_some_and(|name| name.is_empty() || name.starts_with('/'))
    }

    /// Returns whether `path` is the path of Fastly's question, and a provider with the preset `fastly` can push logs.
    pub(super) fn is_challenge(&self, path: &str) -> bool {
        let may_push = |source: &LogSource| source.is_fastly && self.token(source).is_some();
        path == FASTLY_CHALLENGE && self.sources.iter().any(may_push)
    }

    /// Returns the token that a provider must send.
    fn token<'a>(&'a self, source: &'a LogSource) -> Option<&'a Secret> {
        source.token.as_ref().or(self.settings.token.as_ref())
    }
}

/// The endpoint with its counters.
#[derive(Debug)]
pub(super) struct EdgeLogs {
    /// The configured providers, in the order of their ids. The list is empty if no provider can push logs.
    sources: Vec<Source>,
    batches: LazyCounters<(ProviderId, BatchResult)>,
}

/// One provider with its counters.
#[derive(Debug)]
struct Source {
    name: &'static str,
    form: Arc<BatchForm>,
    requests: [Counter; EdgeResult::ALL.len()],
    bytes: Counter,
    lines: [Counter; LogLine::ALL.len()],
    /// The sums of the log, from which the offload is calculated.
    book: Arc<Book>,
    /// Limits how often a warning reports that the log lacks a field.
    messages: Arc<Throttle>,
}

impl EdgeLogs {
    pub(super) fn new(parts: &EdgeLogParts, ledger: &Ledger) -> Self {
        let is_on = parts.is_on();
        let names: Vec<_> = ledger.providers().skip(ProviderId::RESERVED.len()).collect();
        let metrics = ledger.metrics();
        let source = |(name, source): (&'static str, &LogSource)| Source {
            name,
            form: Arc::new(BatchForm::new(source.form.clone(), source.sampling, parts.settings.max_body_bytes)),
            requests: EdgeResult::ALL.map(|result| metrics.series(&describe::EDGE_REQUESTS, &[name, result.as_str()])),
            bytes: metrics.series(&describe::EDGE_BYTES, &[name]),
            lines: LogLine::ALL.map(|result| metrics.series(&describe::EDGE_LOG_LINES, &[name, result.as_str()])),
            book: metrics.offload.book(name),
            messages: parts.intake.messages(name),
        };
        let sources = names.into_iter().zip(&parts.sources).filter(|_| is_on).map(source).collect();
        Self { sources, batches: ledger.lazy(&describe::EDGE_LOG_BATCHES) }
    }

    /// Checks the head of a request. Returns the position of the provider and the reader of its batch. If the batch is
    /// refused, returns the id of the provider and the reason.
    pub(super) fn begin(
        &self,
        local: &LocalParts,
        head: &http::request::Parts,
    ) -> Result<(usize, Reading), (ProviderId, BatchResult)> {
        let parts = &local.edge_logs;
        let name = head.uri.path().strip_prefix(parts.settings.path.as_str()).unwrap_or_default();
        let name = name.strip_prefix('/').unwrap_or_default();
        let found = self.sources.iter().position(|source| source.name.eq_ignore_ascii_case(name));
        let provider = found.map_or(ProviderId::OTHER, ProviderId::configured);
        let refuse = |result| Err((provider, result));
        let source = found.and_then(|position| parts.sources.get(position));
        let token = source.map_or(parts.settings.token.as_ref(), |source| parts.token(source));
        if !token.is_some_and(|token| has_token(&head.headers, token)) {
            return refuse(BatchResult::Token);
        }
        let Some((position, source)) = found.and_then(|position| Some((position, self.sources.get(position)?))) else {
            return refuse(BatchResult::Provider);
        };
        if !matches!(head.method, Method::POST | Method::PUT) {
            return refuse(BatchResult::Method);
        }
        let Some(coding) = coding(&head.headers).filter(|_| has_log_type(&head.headers)) else {
            return refuse(BatchResult::MediaType);
        };
        let length = content_length(&head.headers).unwrap_or_default().unwrap_or(0);
        if length > parts.settings.max_body_bytes {
            return refuse(BatchResult::TooLarge);
        }
        let from_firehose = head.headers.contains_key(&X_AMZ_FIREHOSE_REQUEST_ID);
        let batch = Batch::new(&source.form, coding, from_firehose, unix_seconds);
        let reader = Reader::begin(&parts.intake, source.name, batch);
        let Some(reader) = reader else { return refuse(BatchResult::Busy) };
        Ok((position, Reading { reader: Some(reader), deadline: None, patience: Patience::new(local.body_timeout) }))
    }

    /// Counts a batch that was read completely, unless the batch is a test or was counted before. Returns the result
    /// and the body of the response.
    pub(super) fn count(&self, parts: &EdgeLogParts, position: usize, sums: &Sums) -> (BatchResult, String) {
        let [parsed, unparsed, outside] = sums.lines;
        let name = self.sources.get(position).map_or("", |source| source.name);
        let result = if parsed + unparsed + outside == 0 && sums.is_test {
            BatchResult::Test
        } else if sums.request_id.as_ref().is_some_and(|id| !parts.intake.accept(name, id)) {
            BatchResult::Repeated
        } else {
            BatchResult::Counted
        };
        if let (BatchResult::Counted, Some(source)) = (result, self.sources.get(position)) {
            source.count(sums);
        }
        (result, sums.response(unix_millis()))
    }

    /// Counts the result of a batch.
    pub(super) fn counted(&self, provider: ProviderId, result: BatchResult) {
        self.batches.get((provider, result)).increment(1);
    }
}

impl Source {
    fn count(&self, sums: &Sums) {
        for (counter, count) in self.requests.iter().zip(sums.results) {
            counter.increment(count);
        }
        self.bytes.increment(sums.bytes);
        for (counter, count) in self.lines.iter().zip(sums.lines) {
            counter.increment(count);
        }
        if let Some(newest) = sums.newest {
            self.book.log(&sums.seconds, newest);
        }
        let absent = self.form.absent_fields(sums);
        if !absent.is_empty()
            && let Some(batches) = self.messages.pass()
        {
            tracing::warn!(
                "the log of {}: no line of a batch has {}; if the CDN has renamed a field, write its new name in \
                 the key edge_log_fields of this provider (number of such batches since the last warning: {batches})",
                self.name,
                absent.join(" or "),
            );
        }
    }
}

/// A batch whose body is arriving.
#[derive(Debug)]
pub(crate) struct Reading {
    reader: Option<Reader>,
    deadline: Option<Deadline>,
    patience: Patience,
}

impl Reading {
    /// Passes the bytes that arrive to the reader. The result is ready when the whole batch was read or the batch is
    /// refused. After that, this function must not be called again.
    pub(super) fn poll<B: Body<Data = Bytes> + Unpin>(
        &mut self,
        body: &mut B,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Sums, BatchResult>> {
        const ONCE: &str = "the batch was polled again after its result had been returned";
        loop {
            let reader = self.reader.as_mut().expect(ONCE);
            ready!(reader.poll_ready(cx)).map_err(BatchResult::from)?;
            let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
                let deadline = self.deadline.get_or_insert_with(Deadline::new);
                if deadline.is_due() {
                    return Poll::Ready(Err(BatchResult::Late));
                }
                if !deadline.is_armed() {
                    deadline.arm(self.patience.wait(clock::now_ms()));
                }
                deadline.watch(cx);
                return Poll::Pending;
            };
            match frame {
                None => return Poll::Ready(self.reader.take().expect(ONCE).finish().map_err(BatchResult::from)),
                Some(Err(_)) => return Poll::Ready(Err(BatchResult::Cut)),
                Some(Ok(frame)) => {
                    // An empty frame does not count as progress. So a sender of only empty frames reaches the timeout.
                    let Some(piece) = frame.into_data().ok().filter(|piece| !piece.is_empty()) else { continue };
                    if let Some(deadline) = &self.deadline {
                        deadline.disarm();
                    }
                    self.patience.received(piece.len(), clock::now_ms());
                    reader.read(piece);
                }
            }
        }
    }
}

impl Shared {
    /// Responds to Fastly's question whether Fastly is allowed to push logs. The response `*` allows the logs of any
    /// Fastly service.
    pub(super) fn challenge(&self, mut request: Box<EdgeRequest>) -> Response {
        self.check(&mut request);
        let mut head = uncacheable(StatusCode::OK, request.ctx.dialect);
        let text: &[u8] = if matches!(request.head.method, Method::GET | Method::HEAD) {
            head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            b"*\n"
        } else {
            head.status = StatusCode::METHOD_NOT_ALLOWED;
            head.headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            b""
        };
        self.complete(request, head, Bytes::from_static(text), "")
    }

    /// Begins to read a batch of log lines, or refuses the batch.
    pub(super) fn read_logs<F>(self: &Arc<Self>, request: Box<EdgeRequest>) -> LocalFuture<F> {
        match self.edge_logs.begin(&self.parts, &request.head) {
            Ok((source, reading)) => {
                let batch = LogBatch { shared: Arc::clone(self), request, source, reading };
                LocalFuture::ReadingLogs { batch: Some(Box::new(batch)) }
            }
            Err((provider, result)) => {
                LocalFuture::Done { response: Some(self.logs(request, provider, result, String::new())) }
            }
        }
    }

    /// Returns the response to a batch of log lines. `body` is the body of the response to an accepted batch.
    fn logs(&self, request: Box<EdgeRequest>, provider: ProviderId, result: BatchResult, body: String) -> Response {
        self.edge_logs.counted(provider, result);
        let (status, text) = result.status();
        let mut head = uncacheable(status, request.ctx.dialect);
        let is_accepted = status == StatusCode::OK;
        let content_type = if is_accepted { "application/json" } else { "text/plain; charset=utf-8" };
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        match result {
            BatchResult::Token => _ = head.headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            BatchResult::Method => _ = head.headers.insert(ALLOW, HeaderValue::from_static("POST, PUT")),
            BatchResult::Busy => _ = head.headers.insert(RETRY_AFTER, HeaderValue::from_static("5")),
            _ => {}
        }
        if !request.body.is_end_stream() {
            // On HTTP/1, this closes the connection, because the rest of the request body is not read.
            head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let body = if is_accepted { Bytes::from(body) } else { Bytes::from_static(text.as_bytes()) };
        self.complete(request, head, body, if is_accepted { "" } else { result.as_str() })
    }
}

/// A batch of log lines that is being read.
#[derive(Debug)]
pub(crate) struct LogBatch {
    shared: Arc<Shared>,
    request: Box<EdgeRequest>,
    /// The position of the provider among the configured providers.
    source: usize,
    reading: Reading,
}

impl LogBatch {
    /// Reads the bytes that have arrived. The result is ready when the whole batch was read or the batch is refused.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Sums, BatchResult>> {
        self.reading.poll(&mut self.request.body, cx)
    }

    /// Counts the batch and returns the response to the request.
    pub(super) fn response(self, sums: Result<Sums, BatchResult>) -> Response {
        let Self { shared, request, source, .. } = self;
        let (result, body) = match sums {
            Ok(sums) => shared.edge_logs.count(&shared.parts.edge_logs, source, &sums),
            Err(result) => (result, String::new()),
        };
        shared.logs(request, ProviderId::configured(source), result, body)
    }
}

/// Returns whether a request has the token: as a bearer token, as the password of Basic authentication, or as the
/// access key of Firehose.
fn has_token(headers: &HeaderMap, token: &Secret) -> bool {
    if headers.get(&X_AMZ_FIREHOSE_ACCESS_KEY).is_some_and(|key| token.matches(key.as_bytes())) {
        return true;
    }
    let sent = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    let scheme = |name: &[u8]| {
        let (scheme, sent) = sent.split_at_checked(name.len())?;
        scheme.eq_ignore_ascii_case(name).then(|| sent.trim_ascii())
    };
    if let Some(sent) = scheme(b"Bearer ") {
        return token.matches(sent);
    }
    let decoded = scheme(b"Basic ").and_then(|sent| STANDARD.decode(sent).ok());
    decoded.is_some_and(|pair| {
        let colon = pair.iter().position(|byte| *byte == b':');
        colon.and_then(|colon| pair.get(colon + 1..)).is_some_and(|password| token.matches(password))
    })
}

/// Returns whether the Content-Type is a type that CDNs use for logs. A request without Content-Type is accepted too.
fn has_log_type(headers: &HeaderMap) -> bool {
    const TYPES: [&[u8]; 9] = [
        b"application/json",
        b"application/x-ndjson",
        b"application/ndjson",
        b"application/jsonl",
        b"application/x-jsonlines",
        b"application/x-json-stream",
        b"text/plain",
        b"text/tab-separated-values",
        b"application/octet-stream",
    ];
    let Some(value) = headers.get(CONTENT_TYPE) else { return true };
    TYPES.iter().any(|known| essence(value.as_bytes()).eq_ignore_ascii_case(known))
}

/// Returns the coding of a body, or `None` if edgeshim cannot decode the coding.
fn coding(headers: &HeaderMap) -> Option<BatchCoding> {
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    let (first, second) = (values.next(), values.next());
    match (first.map(|value| value.as_bytes().trim_ascii().to_ascii_lowercase()).as_deref(), second) {
        // Some programs that push logs send gzip without Content-Encoding.
        (None | Some(b"" | b"identity"), None) => Some(BatchCoding::ByContent),
        (Some(b"gzip" | b"x-gzip"), None) => Some(BatchCoding::Gzip),
        _ => None,
    }
}

fn unix_seconds() -> i64 {
    i64::try_from(unix_millis() / 1000).unwrap_or(i64::MAX)
}

fn unix_millis() -> u128 {
    clock::unix_time().as_millis()
}
