//! Reads one batch: inflates the body, splits the body into records, and adds up what the log lines in these records
//! report.

use std::fmt;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};

use super::envelope::Envelope;
use super::gunzip::{Gunzip, STEP_BYTES};
use super::line::{LineForm, MAX_BYTES, Present};
use super::split::{Array, Lines, NotAnArray, Record};
use crate::cdn::preset::logs::LogForm;
use crate::ids::{EdgeResult, LogLine};
use crate::metrics::offload::{AHEAD_SECONDS, Seconds, WINDOW_SECONDS};

/// The inflated body is allowed to be this many times as long as `edge_logs.max_body`.
const MOST_INFLATED: u64 = 10;
/// The number of bytes at the start of a body that decide whether the body is an array, an envelope or lines.
const SHAPE_BYTES: usize = 256;
/// The largest number of bytes that are read to decide the shape of a body, including the whitespace at its start.
const SHAPE_AND_SPACE_BYTES: usize = 16 * 1024;

/// The reason why a batch is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BatchError {
    /// The body is longer than `edge_logs.max_body`, or inflates to more than ten times that size.
    TooLarge,
    /// The body is not gzip, or its gzip is truncated or damaged.
    Gzip,
    /// The JSON array or the envelope in the body is damaged or truncated. Or Firehose sent the body, and the body is
    /// not an envelope.
    Json,
    /// The thread that reads batches cannot start or has failed.
    Aborted,
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
    /// The time of the newest request that was counted, in seconds of Unix time.
    pub newest: Option<i64>,
    /// For each field that edgeshim reads, whether at least one line has the field.
    present: Present,
    /// Whether the batch contains the test record that Cloudflare sends before its first batch.
    pub is_test: bool,
    /// The request id in the envelope of Firehose. `None` if the batch is not an envelope.
    pub request_id: Option<String>,
}

/// A clock that returns the seconds of Unix time.
pub(crate) type UnixSeconds = fn() -> i64;

/// A batch whose body is arriving.
pub(crate) struct Batch {
    coding: Coding,
    sink: Sink,
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

enum Coding {
    /// No byte has arrived, so it is unknown whether the body is gzip.
    Unknown,
    Identity,
    Gzip(Gunzip),
}

impl Batch {
    /// Begins to read a batch. If `from_firehose` is true, the body must be an envelope. Otherwise the start of the
    /// body decides.
    pub(crate) fn new(form: &Arc<BatchForm>, coding: BatchCoding, from_firehose: bool, clock: UnixSeconds) -> Self {
        let begun = clock();
        let sink = Sink {
            shape: if from_firehose { Shape::Envelope(Envelope::new()) } else { Shape::Unknown(Vec::new()) },
            counter: Counter { form: Arc::clone(form), clock, begun, now: begun, sums: Sums::new(begun) },
            left: form.max_bytes.saturating_mul(MOST_INFLATED),
        };
        let coding = match coding {
            BatchCoding::Gzip => Coding::Gzip(Gunzip::new()),
            BatchCoding::ByContent => Coding::Unknown,
        };
        Self { coding, sink, left: form.max_bytes }
    }

    /// Reads a part of `input`, and removes this part from `input`. The part has at most [`STEP_BYTES`], before and
    /// after inflating. Returns 0 if more input is needed. Otherwise returns the cost of the step, which is at least 1:
    /// the number of bytes before inflating plus the number of bytes after inflating.
    pub(crate) fn step(&mut self, input: &mut Bytes) -> Result<usize, BatchError> {
        if let (Coding::Unknown, Some(first)) = (&self.coding, input.first()) {
            self.coding = match *first {
                GZIP_MAGIC => Coding::Gzip(Gunzip::new()),
                _ => Coding::Identity,
            };
        }
        let part = input.get(..STEP_BYTES).unwrap_or(input);
        let (rest, inflated) = match &mut self.coding {
            Coding::Unknown => return Ok(0),
            Coding::Identity => (&[][..], part),
            Coding::Gzip(gunzip) => {
                let mut rest = part;
                let inflated = gunzip.step(&mut rest).map_err(|_| BatchError::Gzip)?;
                (rest, inflated)
            }
        };
        let taken = part.len() - rest.len();
        self.left = self.left.checked_sub(taken as u64).ok_or(BatchError::TooLarge)?;
        let cost = (taken + inflated.len()).max(usize::from(!part.is_empty()));
        self.sink.feed(inflated)?;
        input.advance(taken);
        Ok(cost)
    }

    /// Returns the sums of the batch after its last byte.
    ///
    /// # Errors
    /// The body is truncated or damaged.
    pub(crate) fn finish(self) -> Result<Sums, BatchError> {
        if let Coding::Gzip(gunzip) = &self.coding {
            gunzip.finish().map_err(|_| BatchError::Gzip)?;
        }
        self.sink.finish()
    }
}

impl BatchForm {
    /// Returns the names of the necessary fields that no line of a batch has. If the batch has no lines, the list is
    /// empty. A field can be absent from all lines because the CDN has renamed the field.
    pub(crate) fn absent_fields(&self, sums: &Sums) -> Vec<&str> {
        if sums.lines.iter().sum::<u64>() == 0 { Vec::new() } else { self.lines.missing(sums.present) }
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
}

impl Sink {
    fn feed(&mut self, bytes: &[u8]) -> Result<(), BatchError> {
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or(BatchError::TooLarge)?;
        let Shape::Unknown(first) = &mut self.shape else { return self.split(bytes) };
        first.extend_from_slice(bytes);
        let is_enough = first.trim_ascii_start().len() >= SHAPE_BYTES || first.len() >= SHAPE_AND_SPACE_BYTES;
        if is_enough { self.decide() } else { Ok(()) }
    }

    /// Decides the shape of the body by its first bytes, and splits these bytes into records.
    fn decide(&mut self) -> Result<(), BatchError> {
        let Shape::Unknown(first) = &mut self.shape else { return Ok(()) };
        let first = std::mem::take(first);
        let text = first.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&first);
        // The number of bytes that have arrived must not change the decision. So later bytes are left out.
        let start = text.get(..SHAPE_AND_SPACE_BYTES).unwrap_or(text).trim_ascii_start();
        let start = start.get(..SHAPE_BYTES).unwrap_or(start);
        self.shape = if start.first() == Some(&b'[') {
            Shape::Array(Array::new())
        } else if Envelope::is_start(start) {
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

/// Reads the log line in each record and adds the line to the sums.
struct Counter {
    form: Arc<BatchForm>,
    clock: UnixSeconds,
    /// The time at which the batch began to arrive.
    begun: i64,
    /// The latest time that was read from the clock.
    now: i64,
    sums: Sums,
}

impl Counter {
    fn record(&mut self, record: Record<'_>) {
        let Self { form, clock, begun, now, sums } = self;
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
        if line.time > *now + AHEAD_SECONDS {
            // A batch can take minutes to arrive. So its newest lines can be newer than the time at which the batch
            // began to arrive.
            *now = (*now).max(clock());
        }
        if line.time > *now + AHEAD_SECONDS || line.time <= *begun - WINDOW_SECONDS {
            sums.lines[LogLine::Outside.position()] += 1;
            return;
        }
        sums.lines[LogLine::Parsed.position()] += 1;
        if !line.is_of_client {
            return;
        }
        let bytes = line.bytes.saturating_mul(form.sampling).min(MAX_BYTES);
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
    use std::cell::Cell;
    use std::io::Write as _;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::super::outcome;
    use super::*;
    use crate::cdn::preset::Preset;
    use crate::cdn::preset::logs::{LogField, LogForm};

    const NOW: i64 = 1_700_000_000;

    fn form(max_bytes: u64) -> Arc<BatchForm> {
        Arc::new(BatchForm::new(LogForm::default(), 2, max_bytes))
    }

    fn read(pieces: &[&[u8]], max_bytes: u64) -> Result<Sums, BatchError> {
        let mut batch = Batch::new(&form(max_bytes), BatchCoding::ByContent, false, || NOW);
        for piece in pieces {
            let mut piece = Bytes::copy_from_slice(piece);
            while batch.step(&mut piece)? > 0 {}
        }
        batch.finish()
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).expect("writing to memory does not fail");
        encoder.finish().expect("writing to memory does not fail")
    }

    #[test]
    fn batch_when_received_in_two_pieces_then_sums_do_not_depend_on_the_pieces() {
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
    fn line_time_when_batch_arrives_slowly_then_compared_with_the_current_time() {
        thread_local! {
            static CLOCK: Cell<i64> = const { Cell::new(NOW) };
        }
        let mut batch = Batch::new(&form(1000), BatchCoding::ByContent, false, || CLOCK.get());
        let mut feed = |time: i64| {
            let mut piece = Bytes::from(format!("{{\"time\":{time}}}\n"));
            while batch.step(&mut piece).expect("the line must be valid") > 0 {}
        };
        feed(NOW);
        CLOCK.set(NOW + 600);
        feed(NOW + 600);
        feed(NOW + 661);
        feed(NOW - WINDOW_SECONDS + 1);
        feed(NOW - WINDOW_SECONDS);
        let sums = batch.finish().expect("the body must be a valid batch");
        assert_eq!((sums.lines, sums.newest), ([3, 0, 2], Some(NOW + 600)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn batch_when_size_of_pieces_varies_then_result_does_not_change(
            text in concat!(
                r#"([ \n\x{feff}]{0,3})(\[|\{"records":\[\{"data":"|)"#,
                r#"([\[\]{}",:=\\/ \nZ0-9]|"time":1700000000|"bytes":5|"result":"hit""#,
                r#"|\{"time":1700000000\}\n|YQo=|"\}\],"requestId":"a"\}){0,30}"#,
            ),
            size in 1_usize..40, is_gzip in any::<bool>(), is_firehose in any::<bool>(), damage in 0_usize..400
        ) {
            let mut body = if is_gzip { gzip(text.as_bytes()) } else { text.into_bytes() };
            if is_gzip && let Some(byte) = body.get_mut(damage) {
                *byte ^= 1;
            }
            for preset in ["generic", "google", "cloudfront"] {
                let whole = outcome(preset, &body, usize::MAX, is_firehose, || NOW);
                prop_assert_eq!(whole, outcome(preset, &body, size, is_firehose, || NOW));
            }
        }
    }

    #[test]
    fn step_when_gzip_or_an_envelope_is_large_then_work_is_bounded() {
        let line = format!("{{\"time\":{NOW}}}\n");
        let data = STANDARD.encode(line.repeat(100_000));
        let envelope = format!("{{\"requestId\":\"a\",\"records\":[{{\"data\":\"{data}\"}}]}}");
        for body in [envelope.clone().into_bytes(), gzip(envelope.as_bytes()), gzip(&vec![b' '; 4 << 20])] {
            let mut batch = Batch::new(&form(100 << 20), BatchCoding::ByContent, false, || NOW);
            let (mut input, mut steps) = (Bytes::from(body), 0);
            loop {
                let cost = batch.step(&mut input).expect("the body must be valid");
                assert!(cost <= 2 * STEP_BYTES, "{cost}");
                if cost == 0 {
                    break;
                }
                steps += 1;
            }
            assert!(steps > 100, "{steps}");
            assert!([0, 100_000].contains(&batch.finish().expect("the body must be complete").lines[0]));
        }
    }

    #[test]
    fn line_when_cdn_sent_the_request_then_request_is_not_counted() {
        for (preset, client, own) in [
            ("fastly", r#""fastly_is_edge":true"#, r#""fastly_is_edge":false"#),
            ("fastly", r#""x":1"#, r#""fastly_is_edge":"false""#),
            ("cloudflare", r#""ClientRequestSource":"eyeball""#, r#""ClientRequestSource":"edgeWorkerFetch""#),
            ("cloudflare", r#""ClientRequestSource":"orangeToOrange""#, r#""ClientRequestSource":"healthcheck""#),
            ("cloudflare", r#""ClientRequestSource":1"#, r#""ClientRequestSource":2"#),
            ("akamai", r#""isMidgress":"0""#, r#""isMidgress":"1""#),
            ("akamai", r#""isMidgress":0"#, r#""isMidgress":2"#),
            ("google", r#""jsonPayload":{"cacheId":"a"}"#, r#""jsonPayload":{"parentInsertId":"b"}"#),
        ] {
            let logs = Preset::named(preset).expect("the preset must exist").logs.clone();
            let time = logs.member(LogField::Time).expect("the time must be a member").to_owned();
            let form = Arc::new(BatchForm::new(logs, 1, 1000));
            let body = [client, own].map(|sender| format!("{{\"{time}\":{NOW},{sender}}}\n")).concat();
            let mut batch = Batch::new(&form, BatchCoding::ByContent, false, || NOW);
            batch.step(&mut Bytes::from(body.clone())).expect("the body must be valid");
            let sums = batch.finish().expect("the body must be complete");
            assert_eq!((sums.lines, sums.results.iter().sum::<u64>()), ([2, 0, 0], 1), "{preset}: {body}");
        }
    }

    #[test]
    fn google_line_when_cache_hit_is_absent_then_counted_as_a_miss_without_a_warning() {
        let form =
            Arc::new(BatchForm::new(Preset::named("google").expect("the preset must exist").logs.clone(), 1, 1000));
        let mut batch = Batch::new(&form, BatchCoding::ByContent, false, || NOW);
        let body = format!("{{\"timestamp\":{NOW},\"httpRequest\":{{\"cacheLookup\":true,\"responseSize\":\"5\"}}}}");
        batch.step(&mut Bytes::from(body)).expect("the body must be valid");
        let sums = batch.finish().expect("the body must be complete");
        assert_eq!((sums.results, form.absent_fields(&sums)), ([0, 1, 0, 0, 0], Vec::<&str>::new()));
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
