//! The compressing body.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use flate2::{Compress, Compression, FlushCompress, Status};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::policy::Flush;
use crate::clock::Deadline;
use crate::edge::request::{EdgeBody, Tally};
use crate::fault::Fault;
use crate::ids::ClassId;
use crate::metrics::Ledger;

/// RFC 1952 §2.3.1: deflate, no name, no time, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// Input that one poll compresses before it lets others have their turn: about half a millisecond at level 4.
const INPUT_PER_POLL: usize = 64 * 1024;
/// Room for output: a socket buffer's worth, so that hyper writes it at once.
const OUTPUT_BYTES: usize = 16 * 1024;
/// Compressors that a worker keeps for its next answers; each holds some 270 KiB.
const SPARES: usize = 4;

thread_local! {
    static SPARE: RefCell<Vec<(u32, Compress)>> = const { RefCell::new(Vec::new()) };
}

pin_project! {
    /// A body, plain or compressed on its way.
    pub struct GzipBody<B> {
        #[pin]
        inner: B,
        // Boxed: most answers have none, and a compressor's state would make every body large.
        encoder: Option<Box<Encoder>>,
    }
}

impl<B> GzipBody<B> {
    pub(super) fn plain(inner: B) -> Self {
        Self { inner, encoder: None }
    }

    pub(super) fn compressed(inner: B, level: u32, flush: Flush, class: ClassId, ledger: Arc<Ledger>) -> Self {
        Self { inner, encoder: Some(Box::new(Encoder::new(level, flush, class, ledger))) }
    }
}

struct Encoder {
    deflate: Option<Compress>,
    level: u32,
    crc: crc32fast::Hasher,
    flush: Flush,
    output: BytesMut,
    /// Input that was not compressed yet, after a poll's share was used up.
    pending: Bytes,
    trailers: Option<HeaderMap>,
    /// Input since the last flush.
    unflushed: bool,
    idle: Option<Deadline>,
    state: State,
    input_bytes: u64,
    output_bytes: u64,
    class: ClassId,
    ledger: Arc<Ledger>,
}

#[derive(PartialEq, Eq)]
enum State {
    Running,
    Finished,
}

impl Encoder {
    fn new(level: u32, flush: Flush, class: ClassId, ledger: Arc<Ledger>) -> Self {
        let spare = SPARE.with_borrow_mut(|spares| {
            let position = spares.iter().position(|(spare_level, _)| *spare_level == level)?;
            Some(spares.swap_remove(position).1)
        });
        let mut output = BytesMut::with_capacity(OUTPUT_BYTES);
        output.extend_from_slice(&HEADER);
        Self {
            deflate: Some(spare.unwrap_or_else(|| Compress::new(Compression::new(level), false))),
            level,
            crc: crc32fast::Hasher::new(),
            flush,
            output,
            pending: Bytes::new(),
            trailers: None,
            unflushed: false,
            idle: None,
            state: State::Running,
            input_bytes: 0,
            output_bytes: 0,
            class,
            ledger,
        }
    }

    /// Runs the compressor over `input`, growing the output as needed.
    fn deflate(&mut self, mut input: &[u8], flush: FlushCompress) {
        let Some(deflate) = &mut self.deflate else { return };
        loop {
            if self.output.capacity() - self.output.len() < 1024 {
                self.output.reserve(OUTPUT_BYTES);
            }
            let start = self.output.len();
            // The compressor writes into initialised memory; zeroing 16 KiB is a hundredth of compressing it.
            self.output.resize(self.output.capacity(), 0);
            let (before_in, before_out) = (deflate.total_in(), deflate.total_out());
            let room = self.output.get_mut(start..).unwrap_or_default();
            let status = deflate.compress(input, room, flush);
            let taken = usize::try_from(deflate.total_in() - before_in).unwrap_or(usize::MAX);
            let made = usize::try_from(deflate.total_out() - before_out).unwrap_or(usize::MAX);
            let full = made == self.output.len() - start;
            self.output.truncate(start + made);
            input = input.get(taken..).unwrap_or_default();
            let done = match status {
                Ok(Status::StreamEnd) | Err(_) => true,
                Ok(Status::BufError) => !full,
                // A flush is over when it leaves room; plain compression when the input is used up.
                Ok(Status::Ok) => input.is_empty() && !full && flush != FlushCompress::Finish,
            };
            if done {
                return;
            }
        }
    }

    fn take(&mut self, mut data: Bytes) -> bool {
        let share = data.split_to(data.len().min(INPUT_PER_POLL));
        self.input_bytes += share.len() as u64;
        self.crc.update(&share);
        self.unflushed = true;
        let flush = if self.flush == Flush::Always { FlushCompress::Sync } else { FlushCompress::None };
        self.deflate(&share, flush);
        if flush == FlushCompress::Sync {
            self.unflushed = false;
        }
        self.pending = data;
        !self.pending.has_remaining()
    }

    fn sync(&mut self) {
        self.deflate(&[], FlushCompress::Sync);
        self.unflushed = false;
    }

    fn finish(&mut self) {
        self.deflate(&[], FlushCompress::Finish);
        let crc = std::mem::take(&mut self.crc).finalize();
        self.output.extend_from_slice(&crc.to_le_bytes());
        // ISIZE is the length modulo 2^32 (RFC 1952 §2.3.1).
        #[allow(clippy::cast_possible_truncation)]
        let isize = self.input_bytes as u32;
        self.output.extend_from_slice(&isize.to_le_bytes());
        self.state = State::Finished;
    }

    /// Whether what has been made goes out now: events at once, all else when it is worth a write.
    fn is_ready(&self) -> bool {
        let enough = if self.flush == Flush::Always { 1 } else { OUTPUT_BYTES / 2 };
        self.output.len() >= enough
    }

    fn emit(&mut self) -> Frame<Bytes> {
        self.output_bytes += self.output.len() as u64;
        Frame::data(self.output.split().freeze())
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        self.ledger.gzip(self.class, self.input_bytes, self.output_bytes);
        if let Some(mut deflate) = self.deflate.take() {
            SPARE.with_borrow_mut(|spares| {
                if spares.len() < SPARES {
                    deflate.reset();
                    spares.push((self.level, deflate));
                }
            });
        }
    }
}

impl<B: EdgeBody> Body for GzipBody<B> {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let mut this = self.project();
        let Some(encoder) = this.encoder else { return this.inner.poll_frame(cx) };
        if encoder.state == State::Finished {
            return Poll::Ready(encoder.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        if encoder.pending.has_remaining() {
            let pending = std::mem::take(&mut encoder.pending);
            encoder.take(pending);
            if encoder.is_ready() {
                return Poll::Ready(Some(Ok(encoder.emit())));
            }
        }
        if encoder.pending.has_remaining() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut budget = INPUT_PER_POLL;
        loop {
            match this.inner.as_mut().poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(idle) = &encoder.idle {
                        idle.disarm();
                    }
                    match frame.into_data() {
                        Ok(data) => {
                            budget = budget.saturating_sub(data.len());
                            let all = encoder.take(data);
                            if encoder.is_ready() {
                                return Poll::Ready(Some(Ok(encoder.emit())));
                            }
                            if !all || budget == 0 {
                                cx.waker().wake_by_ref();
                                return Poll::Pending;
                            }
                        }
                        Err(frame) => encoder.trailers = frame.into_trailers().ok(),
                    }
                }
                // The error goes on and the gzip stream stays without its end, so that nobody takes it for whole.
                Poll::Ready(Some(Err(fault))) => return Poll::Ready(Some(Err(fault))),
                Poll::Ready(None) => {
                    encoder.finish();
                    return Poll::Ready(Some(Ok(encoder.emit())));
                }
                Poll::Pending => {
                    if encoder.flush == Flush::Idle && encoder.unflushed {
                        let idle = encoder.idle.get_or_insert_with(Deadline::new);
                        if idle.is_due() {
                            idle.disarm();
                            encoder.sync();
                            return Poll::Ready(Some(Ok(encoder.emit())));
                        }
                        if !idle.is_armed() {
                            // Due at the worker's next look at its deadlines.
                            idle.arm(Duration::ZERO);
                        }
                        idle.watch(cx);
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.encoder {
            None => self.inner.is_end_stream(),
            Some(encoder) => encoder.state == State::Finished && encoder.trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.encoder {
            None => self.inner.size_hint(),
            Some(_) => SizeHint::default(),
        }
    }
}

impl<B: EdgeBody> EdgeBody for GzipBody<B> {
    fn tally(&self) -> Tally {
        self.inner.tally()
    }

    fn drain(&mut self) -> bool {
        self.inner.drain()
    }
}
