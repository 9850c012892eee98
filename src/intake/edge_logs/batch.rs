//! Reads one batch: inflates the body, splits the body into records, and adds up what the log lines in these records
//! report.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use flate2::write::MultiGzDecoder;

use super::envelope::Envelope;
use super::line::{LineForm, MAX_BYTES, Present, STATUS_SLOT};
use super::split::{Array, Lines, NotAnArray, Record};
use crate::cdn::preset::logs::LogForm;
use crate::ids::{EdgeResult, LogLine};
use crate::metrics::offload::{AHEAD_SECONDS, Seconds, WINDOW_SECONDS};

/// The inflated body is allowed to be this many times as long as `edge_logs.max_body`.
const MOST_INFLATED: u64 = 10;
/// The number of bytes at the start of a body that decide whether the body is an array, an envelope or lines.
const SHAPE_BYTES: usize = 64;

/// The reason why a batch is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BatchError {
    /// The body is longer than `edge_logs.max_body`, or inflates to more than ten times that size.
    TooLarge,
    /// The body is not gzip, or its gzip is truncated.
    Gzip,
    /// The body begins like a JSON array or an envelope, but is not valid or is truncated.
    Json,
}

/// The format of one provider's batches, and their limits.
#[derive(Debug)]
pub(crate) struct BatchForm {
    lines: LineForm,
    /// The number of requests that one line represents, because the CDN logs only a sample of its requests.
    sampling: u64,
    /// The value of `edge_logs.max_body`.
    max_bytes: u64,
}

impl BatchForm {
    pub(crate) fn new(form: LogForm, sampling: u64, max_bytes: u64) -> Self {
        Self { lines: LineForm::new(form), sampling, max_bytes }
    }
}

/// The sums of a batch.
#[derive(Debug)]
pub(crate) struct Sums {
    /// The number of lines by [`LogLine`].
    pub lines: [u64; LogLine::ALL.len()],
    /// The number of requests by [`EdgeResult`].
    pub results: [u64; EdgeResult::ALL.len()],
    pub bytes: u64,
    /// The requests and bytes of each second.
    pub seconds: Seconds,
    /// The newest time in the lines, in seconds of Unix time. Lines that are too old or too far in the future are left
    /// out.
    pub newest: Option<i64>,
    /// For each field that edgeshim reads, whether at least one line has the field.
    present: Present,
    /// Whether the batch contains the test record that Cloudflare sends before its first batch.
    pub is_test: bool,
    /// The request id in the envelope of Firehose. `None` if the batch is not an envelope.
    pub request_id: Option<String>,
}

/// A batch whose body is arriving.
pub(crate) struct Batch {
    body: Body,
    /// The number of bytes that the rest of the body is allowed to have.
    left: u64,
}

/// The content coding of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BatchCoding {
    Gzip,
    /// The first byte of the body decides whether the body is gzip: no log line begins with the first byte of gzip.
    ByContent,
}

/// The first byte of gzip.
const GZIP_MAGIC: u8 = 0x1f;

enum Body {
    /// No byte has arrived, so it is unknown whether the body is gzip.
    Unknown(Sink),
    Plain(Sink),
    Gzip(Box<MultiGzDecoder<Sink>>),
    /// A placeholder while the sink moves from `Unknown` into `Plain` or `Gzip`.
    Moved,
}

impl Batch {
    /// Begins to read a batch. `now` is the current time in seconds of Unix time. If `from_firehose` is true, the body
    /// must be an envelope. Otherwise the start of the body decides.
    pub(crate) fn new(form: &Arc<BatchForm>, coding: BatchCoding, from_firehose: bool, now: i64) -> Self {
        let sink = Sink {
            shape: if from_firehose { Shape::Envelope(Envelope::new()) } else { Shape::Unknown(Vec::new()) },
            counter: Counter { form: Arc::clone(form), now, sums: Sums::new(now) },
            left: form.max_bytes.saturating_mul(MOST_INFLATED),
            error: None,
            inflated: 0,
        };
        let body = match coding {
            BatchCoding::Gzip => Body::Gzip(Box::new(MultiGzDecoder::new(sink))),
            BatchCoding::ByContent => Body::Unknown(sink),
        };
        Self { body, left: form.max_bytes }
    }

    /// Reads the next bytes of the body. Returns the number of bytes after inflating. The caller uses this number to
    /// limit the work in one turn.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<usize, BatchError> {
        let Some(first) = bytes.first() else { return Ok(0) };
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or(BatchError::TooLarge)?;
        if let Body::Unknown(_) = &self.body
            && let Body::Unknown(sink) = std::mem::replace(&mut self.body, Body::Moved)
        {
            self.body = match *first {
                GZIP_MAGIC => Body::Gzip(Box::new(MultiGzDecoder::new(sink))),
                _ => Body::Plain(sink),
            };
        }
        let (written, sink) = match &mut self.body {
            Body::Plain(sink) | Body::Unknown(sink) => (sink.write_all(bytes), sink),
            Body::Gzip(gzip) => (gzip.write_all(bytes), gzip.get_mut()),
            Body::Moved => return Err(BatchError::Gzip),
        };
        match (sink.error, written) {
            (Some(error), _) => Err(error),
            (None, Err(_)) => Err(BatchError::Gzip),
            (None, Ok(())) => Ok(std::mem::take(&mut sink.inflated)),
        }
    }

    /// Returns the sums of the batch after its last byte.
    ///
    /// # Errors
    /// The body is truncated or damaged.
    pub(crate) fn finish(self) -> Result<Sums, BatchError> {
        match self.body {
            Body::Plain(sink) | Body::Unknown(sink) => sink.finish(),
            Body::Gzip(mut gzip) => match gzip.try_finish() {
                Ok(()) => gzip.finish().map_err(|_| BatchError::Gzip)?.finish(),
                Err(_) => Err(gzip.get_ref().error.unwrap_or(BatchError::Gzip)),
            },
            Body::Moved => Err(BatchError::Gzip),
        }
    }
}

impl BatchForm {
    /// Returns the names of the fields that no line of a batch has. If the batch has no lines, the list is empty. A
    /// field can be absent from all lines because the CDN has renamed the field.
    pub(crate) fn absent_fields(&self, sums: &Sums) -> Vec<&str> {
        if sums.lines.iter().sum::<u64>() == 0 {
            return Vec::new();
        }
        // The status is not counted, so a log without it is complete.
        let absent = sums.present.iter().enumerate().filter(|(slot, present)| !**present && *slot != STATUS_SLOT);
        absent.filter_map(|(slot, _)| self.lines.name(slot)).collect()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("left", &self.left).finish_non_exhaustive()
    }
}

/// The shape of a body.
enum Shape {
    /// The shape is not decided yet. These are the bytes that have arrived so far.
    Unknown(Vec<u8>),
    Lines(Lines),
    Array(Array),
    Envelope(Envelope),
}

/// Receives the bytes of the body after inflating, decides the shape, and passes the records to the counter.
struct Sink {
    shape: Shape,
    counter: Counter,
    /// The number of bytes that are still allowed to arrive, after inflating.
    left: u64,
    /// The reason of the last error. The decoder passes on only an `io::Error`, which does not contain the reason.
    error: Option<BatchError>,
    /// The number of bytes since the last call of [`Batch::feed`] ended.
    inflated: usize,
}

impl Sink {
    fn feed(&mut self, bytes: &[u8]) -> Result<(), BatchError> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or(BatchError::TooLarge)?;
        self.inflated += bytes.len();
        let Shape::Unknown(first) = &mut self.shape else { return self.split(bytes) };
        first.extend_from_slice(bytes);
        if first.trim_ascii_start().len() < SHAPE_BYTES && first.len() < SHAPE_BYTES * 64 {
            return Ok(());
        }
        self.decide()
    }

    /// Decides the shape of the body by its first bytes, and splits these bytes into records.
    fn decide(&mut self) -> Result<(), BatchError> {
        let Shape::Unknown(first) = &mut self.shape else { return Ok(()) };
        let first = std::mem::take(first);
        let text = first.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&first);
        let start = text.trim_ascii_start();
        let is_envelope = || {
            let member = start.strip_prefix(b"{").map(<[u8]>::trim_ascii_start);
            member.is_some_and(|member| member.starts_with(b"\"requestId\""))
        };
        self.shape = if start.first() == Some(&b'[') {
            Shape::Array(Array::of_lines())
        } else if is_envelope() {
            Shape::Envelope(Envelope::new())
        } else {
            Shape::Lines(Lines::new())
        };
        self.split(text)
    }

    fn split(&mut self, bytes: &[u8]) -> Result<(), BatchError> {
        let counter = &mut self.counter;
        let mut each = |record: Record<'_>| counter.record(record);
        match &mut self.shape {
            Shape::Unknown(_) => Ok(()),
            Shape::Lines(lines) => {
                lines.feed(bytes, &mut each);
                Ok(())
            }
            Shape::Array(array) => match array.feed(bytes, &mut each) {
                Ok(rest) if rest.trim_ascii().is_empty() => Ok(()),
                Ok(_) | Err(NotAnArray) => Err(BatchError::Json),
            },
            Shape::Envelope(envelope) => envelope.feed(bytes, &mut each).map_err(|_| BatchError::Json),
        }
    }

    fn finish(mut self) -> Result<Sums, BatchError> {
        self.decide()?;
        let counter = &mut self.counter;
        match self.shape {
            Shape::Unknown(_) => {}
            Shape::Lines(mut lines) => lines.finish(&mut |record| counter.record(record)),
            Shape::Array(array) if array.has_ended() => {}
            Shape::Array(_) => return Err(BatchError::Json),
            Shape::Envelope(envelope) => {
                let head = envelope.finish().map_err(|_| BatchError::Json)?;
                self.counter.sums.request_id = Some(head.request_id);
            }
        }
        Ok(self.counter.sums)
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.feed(bytes).map_err(|error| {
            self.error = Some(error);
            io::Error::other("edgeshim refuses the batch")
        })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the log line in each record and adds the line to the sums.
struct Counter {
    form: Arc<BatchForm>,
    now: i64,
    sums: Sums,
}

impl Counter {
    fn record(&mut self, record: Record<'_>) {
        let Self { form, now, sums } = self;
        let (line, present) = match record {
            Record::Text(text) if is_test(text) => {
                sums.is_test = true;
                return;
            }
            Record::Text(text) => form.lines.read(text),
            Record::TooLong => (None, Present::default()),
        };
        for (any, present) in sums.present.iter_mut().zip(present) {
            *any |= present;
        }
        let Some(line) = line else {
            sums.lines[LogLine::Unparsed.position()] += 1;
            return;
        };
        if line.time > *now + AHEAD_SECONDS || line.time <= *now - WINDOW_SECONDS {
            sums.lines[LogLine::Outside.position()] += 1;
            return;
        }
        let bytes = line.bytes.saturating_mul(form.sampling).min(MAX_BYTES);
        sums.lines[LogLine::Parsed.position()] += 1;
        sums.results[line.result.position()] += form.sampling;
        sums.bytes = sums.bytes.saturating_add(bytes);
        sums.seconds.add(line.time, form.sampling, bytes);
        sums.newest = sums.newest.max(Some(line.time));
    }
}

impl Sums {
    /// Returns the body of the response, as JSON. Firehose requires a response with its request id and a timestamp. If
    /// the response has another form, Firehose sends the batch again.
    pub(crate) fn response(&self, now_millis: u128) -> String {
        let [parsed, unparsed, outside] = self.lines;
        let json = match &self.request_id {
            Some(id) => serde_json::json!({ "requestId": id, "timestamp": u64::try_from(now_millis).unwrap_or(0) }),
            None => serde_json::json!({ "parsed": parsed, "unparsed": unparsed, "outside": outside }),
        };
        json.to_string()
    }

    fn new(now: i64) -> Self {
        Self {
            lines: [0; LogLine::ALL.len()],
            results: [0; EdgeResult::ALL.len()],
            bytes: 0,
            seconds: Seconds::new(now),
            newest: None,
            present: Present::default(),
            is_test: false,
            request_id: None,
        }
    }
}

/// Returns whether a record is the test record that Cloudflare sends before its first batch.
fn is_test(record: &[u8]) -> bool {
    record.trim_ascii() == br#"{"content":"tests"}"#
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::cdn::preset::logs::LogForm;

    const NOW: i64 = 1_700_000_000;

    fn form(max_bytes: u64) -> Arc<BatchForm> {
        Arc::new(BatchForm::new(LogForm::default(), 2, max_bytes))
    }

    fn read(pieces: &[&[u8]], max_bytes: u64) -> Result<Sums, BatchError> {
        let mut batch = Batch::new(&form(max_bytes), BatchCoding::ByContent, false, NOW);
        for piece in pieces {
            batch.feed(piece)?;
        }
        batch.finish()
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).expect("writing to memory does not fail");
        encoder.finish().expect("writing to memory does not fail")
    }

    #[test]
    fn batch_when_received_in_pieces_then_has_the_same_sums() {
        let lines =
            format!("\u{feff}{{\"time\":{NOW},\"bytes\":7,\"result\":\"hit\"}}\nx\n{{\"time\":{}}}\n", NOW + 61);
        let array =
            format!("[{{\"time\":{NOW},\"bytes\":7,\"result\":\"hit\"}},0,{{\"time\":{}}}]\n", NOW - WINDOW_SECONDS);
        for body in [lines.as_bytes(), array.as_bytes(), &gzip(lines.as_bytes()), &gzip(array.as_bytes())] {
            for at in 0..body.len() {
                let (one, two) = body.split_at(at);
                let sums = read(&[one, b"", two], 1000).expect("the body must be a valid batch");
                assert_eq!((sums.lines, sums.results, sums.bytes), ([1, 1, 1], [2, 0, 0, 0, 0], 14), "{at}");
                assert_eq!(sums.newest, Some(NOW));
            }
        }
    }

    #[test]
    fn gzip_batch_when_truncated_or_damaged_then_fails_with_a_gzip_error() {
        let body = gzip(b"{\"time\":1700000000}\n");
        for end in 1..body.len() {
            assert_eq!(read(&[&body[..end]], 1000).err(), Some(BatchError::Gzip), "{end}");
        }
        let mut damaged = body;
        let last = damaged.len() - 5;
        damaged[last] ^= 1;
        assert_eq!(read(&[&damaged], 1000).err(), Some(BatchError::Gzip));
    }

    #[test]
    fn batch_when_too_large_before_or_after_inflating_then_rejected() {
        assert!(read(&[&[b' '; 1000]], 1000).is_ok());
        assert_eq!(read(&[&[b' '; 1000], b" "], 1000).err(), Some(BatchError::TooLarge));
        assert!(read(&[&gzip(&[b' '; 10_000])], 1000).is_ok());
        assert_eq!(read(&[&gzip(&[b' '; 10_001])], 1000).err(), Some(BatchError::TooLarge));
    }

    #[test]
    fn envelope_when_firehose_header_field_is_missing_then_recognised_by_content() {
        let body =
            b"{ \"requestId\": \"a\", \"timestamp\": 1, \"records\": [{\"data\":\"eyJ0aW1lIjoxNzAwMDAwMDAwfQo=\"}]}";
        let sums = read(&[body], 1000).expect("the body must be a valid envelope");
        assert_eq!((sums.lines, sums.request_id.as_deref()), ([1, 0, 0], Some("a")));
        assert!(sums.response(7).contains("\"timestamp\":7"));
    }

    #[test]
    fn field_when_absent_from_all_lines_then_listed_as_absent() {
        let form = form(1000);
        let absent = |body: &str| {
            let sums = read(&[body.as_bytes()], 1000).expect("the body must be a valid batch");
            form.absent_fields(&sums).join(" ")
        };
        assert_eq!(absent(&format!("{{\"time\":{NOW},\"bytes\":1}}\n{{\"status\":200}}")), "result");
        assert_eq!(absent("{\"Time\":1}"), "time bytes result");
        assert_eq!((absent(""), absent("{\"content\":\"tests\"}")), (String::new(), String::new()));
    }
}
