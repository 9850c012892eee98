//! The body of a response, which is forwarded unchanged, compressed, inflated, or replaced by its twin. "Read ahead"
//! means: read before the response head is sent, because the head depends on the body.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::Counts;
use super::apply::remove_digests;
use super::deflate::Deflater;
use super::inflate::Inflater;
use super::twins::Loan;
use crate::clock::{self, Deadline};
use crate::edge::request::{EdgeBody, Tally};
use crate::fault::Fault;
use crate::ids::ClassId;
use crate::origin::Pipe;

/// The number of input bytes that are compressed in one turn at level 4, before other tasks run. The work takes about
/// 1.3 ms. A usual page is shorter than 128 KiB, so the page is compressed in one turn. Then the compressor's state of
/// some 270 KiB is loaded into the CPU's cache only once.
pub(super) const BYTES_PER_TURN: usize = 128 * 1024;
/// The largest number of input bytes that are compressed in one step.
const BYTES_PER_STEP: usize = 32 * 1024;
/// Inflating makes this number of bytes in the time in which compression at level 4 reads one byte.
const INFLATE_SPEED: usize = 4;
/// The fixed cost of one step. The unit of all costs is the time in which compression at level 4 reads one byte.
/// Because of this cost, many tiny frames also end a turn.
const STEP_BYTES: usize = 256;

pin_project! {
    /// The body of every response from the service `Gzip`.
    pub struct GzipBody<B> {
        #[pin]
        inner: B,
        // The value is boxed, because `Work` is large and most responses have no work.
        work: Option<Box<Work>>,
    }
}

/// The state of a body that is read ahead, compressed, inflated or replaced.
#[derive(Default)]
struct Work {
    ahead: Ahead,
    job: Job,
    /// The rest of the current frame, which is the input of the next step.
    input: Bytes,
    trailers: Option<HeaderMap>,
    /// The cost of the work since the body last yielded, in the unit of [`STEP_BYTES`].
    spent: usize,
    /// The turn in which the body yielded to the worker's other tasks. No more work is allowed in that turn.
    yielded: Option<u64>,
    held: Held,
    finished: bool,
    /// Output that was made before the head was sent.
    made: Bytes,
}

#[derive(Default)]
#[allow(clippy::large_enum_variant, reason = "`Work`, which contains the job, is boxed")]
enum Job {
    /// Forward the frames that were read ahead, then the rest of the body.
    #[default]
    Pass,
    /// Send these compressed bytes. The value is empty after the bytes were sent.
    Ready(Bytes),
    Code(Coder),
}

enum Coder {
    Deflate(Deflater),
    Inflate(Inflater),
}

impl Coder {
    /// Does one step, which consumes `input` or a part of `input`. Returns the output, and the cost of the step
    /// without its fixed cost [`STEP_BYTES`].
    fn step(&mut self, input: &mut Bytes) -> Result<(Bytes, usize), Fault> {
        match self {
            Self::Deflate(deflater) => {
                let share = input.split_to(input.len().min(BYTES_PER_STEP));
                deflater.take(&share, input.is_empty());
                let made = if deflater.is_ready() { deflater.emit() } else { Bytes::new() };
                Ok((made, share.len() * deflater.weight()))
            }
            Self::Inflate(inflater) => {
                let made = inflater.step(input)?;
                let cost = made.len() / INFLATE_SPEED;
                Ok((made, cost))
            }
        }
    }

    /// Returns the rest of the output, after the end of the body.
    fn finish(&mut self) -> Result<Bytes, Fault> {
        match self {
            Self::Deflate(deflater) => {
                deflater.finish();
                Ok(deflater.emit())
            }
            Self::Inflate(inflater) => inflater.finish().map(|()| Bytes::new()),
        }
    }

    /// Returns the output that the compressor holds back, if that output has waited long enough. The compressor holds
    /// output back to send it together with later output.
    fn poll_flush(&mut self, held: &mut Held, cx: &Context<'_>) -> Option<Bytes> {
        let Self::Deflate(deflater) = self else { return None };
        let flushed = deflater.holds_back() && held.poll_long(cx, Duration::ZERO) && deflater.flush();
        flushed.then(|| deflater.emit())
    }
}

/// The part of the body that was read ahead.
#[derive(Default)]
struct Ahead {
    frames: VecDeque<Bytes>,
    bytes: u64,
    trailers: Option<HeaderMap>,
    /// Whether the body has ended, or has failed with `fault`.
    ended: bool,
    fault: Option<Fault>,
    /// While the body waits for the comparison with its twin, this loan counts the memory of the body against the limit
    /// of the store of twins. `None` if the body is not compared with a twin.
    _loan: Option<Loan>,
}

/// The time limit for output, or for a head, that waits to be sent.
#[derive(Default)]
struct Held {
    deadline: Option<Deadline>,
}

impl Held {
    /// Returns whether the output or the head has been held back for longer than `patience`. If not, the worker wakes
    /// the task at its first check of deadlines after `patience` has passed. If the task is polled earlier for another
    /// reason, the wait continues.
    fn poll_long(&mut self, cx: &Context<'_>, patience: Duration) -> bool {
        let deadline = self.deadline.get_or_insert_with(Deadline::new);
        if deadline.is_due() {
            return true;
        }
        if !deadline.is_armed() {
            deadline.arm(patience.max(Duration::from_millis(1)));
        }
        deadline.watch(cx);
        false
    }

    fn end(&self) {
        if let Some(deadline) = &self.deadline {
            deadline.disarm();
        }
    }
}

impl<B> GzipBody<B> {
    pub(super) fn plain(inner: B) -> Self {
        Self { inner, work: None }
    }

    /// Creates a body that is read ahead before the layer decides how to send the body.
    pub(super) fn undecided(inner: B, loan: Option<Loan>) -> Self {
        let ahead = Ahead { _loan: loan, ..Ahead::default() };
        Self { inner, work: Some(Box::new(Work { ahead, ..Work::default() })) }
    }

    fn set(&mut self, job: Job) {
        self.work.get_or_insert_default().job = job;
    }

    pub(super) fn deflate(mut self, deflater: Deflater) -> Self {
        self.set(Job::Code(Coder::Deflate(deflater)));
        self
    }

    pub(super) fn inflate(mut self, inflater: Inflater) -> Self {
        self.set(Job::Code(Coder::Inflate(inflater)));
        self
    }

    /// Replaces the body, which was read ahead, by the form `coded` of its twin.
    pub(super) fn twin(self, coded: Bytes, class: ClassId, counts: &Counts) -> Self {
        // The bytes are counted now and not at the end of the body. The twin has already saved the compression, so a
        // client that disconnects later must not change the count.
        counts.compressed(class, self.bytes_ahead(), coded.len() as u64);
        self.ready(coded)
    }

    /// Compresses the body, which was read ahead as a whole.
    pub(super) fn whole(self, mut deflater: Deflater) -> Self {
        for frame in self.ahead().into_iter().flat_map(|ahead| &ahead.frames) {
            deflater.take(frame, false);
        }
        deflater.finish();
        let gzip = deflater.emit();
        self.ready(gzip)
    }

    fn ready(mut self, gzip: Bytes) -> Self {
        let trailers = self.work.take().and_then(|work| work.ahead.trailers).map(without_digests);
        self.work = Some(Box::new(Work { job: Job::Ready(gzip), trailers, ..Work::default() }));
        self
    }

    fn ahead(&self) -> Option<&Ahead> {
        self.work.as_ref().map(|work| &work.ahead)
    }

    /// Returns the number of bytes that were read ahead.
    pub(super) fn bytes_ahead(&self) -> u64 {
        self.ahead().map_or(0, |ahead| ahead.bytes)
    }

    /// Whether the whole body was read ahead.
    pub(super) fn is_whole_ahead(&self) -> bool {
        self.ahead().is_some_and(|ahead| ahead.ended && ahead.fault.is_none())
    }

    /// Takes the fault, if the body failed before anything was sent.
    pub(super) fn take_fault(&mut self) -> Option<Fault> {
        self.work.as_mut()?.ahead.fault.take()
    }

    /// Returns the CRC-32 of the bytes that were read ahead.
    pub(super) fn crc_ahead(&self) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        for frame in self.ahead().into_iter().flat_map(|ahead| &ahead.frames) {
            crc.update(frame);
        }
        crc.finalize()
    }
}

impl<B: EdgeBody + Unpin> GzipBody<B> {
    /// Reads ahead until `goal` bytes have arrived, the body has ended or failed, or `patience` has passed. `patience`
    /// limits the complete wait and not the time between two frames, because the complete wait delays the head.
    pub(super) fn poll_ahead(&mut self, cx: &mut Context<'_>, goal: u64, patience: Duration) -> Poll<()> {
        let Some(work) = &mut self.work else { return Poll::Ready(()) };
        let ahead = &mut work.ahead;
        while ahead.bytes < goal && !ahead.ended {
            match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    // Empty frames, which HTTP/2 allows, are not stored. They add nothing to `bytes`, so `goal` would
                    // not limit the list.
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => {
                        ahead.bytes += data.len() as u64;
                        ahead.frames.push_back(data);
                    }
                    Err(frame) => ahead.trailers = frame.into_trailers().ok(),
                },
                Poll::Ready(Some(Err(fault))) => {
                    ahead.fault = Some(fault);
                    ahead.ended = true;
                }
                Poll::Ready(None) => ahead.ended = true,
                Poll::Pending if work.held.poll_long(cx, patience) => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }
}

impl<B: EdgeBody + Unpin> GzipBody<B> {
    /// Makes the first piece of the inflated body. A fault is stored for [`take_fault`](Self::take_fault), because
    /// nothing has been sent yet. The function waits at most until the worker's next check of its deadlines, because
    /// the wait delays the head.
    pub(super) fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let polled = Pin::new(&mut *self).poll_frame(cx);
        let work = self.work.get_or_insert_default();
        match polled {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => work.made = data,
                Err(frame) => work.trailers = frame.into_trailers().ok(),
            },
            Poll::Ready(Some(Err(fault))) => work.ahead.fault = Some(fault),
            Poll::Ready(None) => {}
            Poll::Pending if work.held.poll_long(cx, Duration::ZERO) => {}
            Poll::Pending => return Poll::Pending,
        }
        work.held.end();
        Poll::Ready(())
    }
}

fn without_digests(mut trailers: HeaderMap) -> HeaderMap {
    remove_digests(&mut trailers);
    trailers
}

/// Polls for the next frame. The frames that were read ahead come first.
fn poll_source<B: EdgeBody>(
    ahead: &mut Ahead,
    inner: Pin<&mut B>,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
    if let Some(data) = ahead.frames.pop_front() {
        ahead.bytes -= data.len() as u64;
        return Poll::Ready(Some(Ok(Frame::data(data))));
    }
    if !ahead.ended {
        return inner.poll_frame(cx);
    }
    if let Some(fault) = ahead.fault.take() {
        return Poll::Ready(Some(Err(fault)));
    }
    Poll::Ready(ahead.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
}

impl<B: EdgeBody> Body for GzipBody<B> {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let mut this = self.project();
        let Some(work) = this.work else { return this.inner.poll_frame(cx) };
        let Work { ahead, job, input, trailers, spent, yielded, held, finished, made } = &mut **work;
        if !made.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(made)))));
        }
        let coder = match job {
            Job::Pass => return poll_source(ahead, this.inner, cx),
            Job::Ready(gzip) if !gzip.is_empty() => return Poll::Ready(Some(Ok(Frame::data(std::mem::take(gzip))))),
            Job::Ready(_) => return Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
            Job::Code(coder) => coder,
        };
        loop {
            if *finished {
                return Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            if *yielded == Some(clock::turn()) {
                return Poll::Pending;
            }
            *yielded = None;
            if *spent >= BYTES_PER_TURN {
                *spent = 0;
                *yielded = Some(clock::turn());
                clock::yield_turn(cx);
                return Poll::Pending;
            }
            let made = if input.is_empty() {
                match poll_source(ahead, this.inner.as_mut(), cx) {
                    Poll::Ready(Some(Ok(frame))) => {
                        match frame.into_data() {
                            Ok(data) => *input = data,
                            Err(frame) => *trailers = frame.into_trailers().ok().map(without_digests),
                        }
                        continue;
                    }
                    // The rest of the output is not sent: a compressed body then has no gzip trailer (checksum and
                    // length), so no client treats the body as complete.
                    Poll::Ready(Some(Err(fault))) => return Poll::Ready(Some(Err(fault))),
                    Poll::Ready(None) => {
                        *finished = true;
                        coder.finish()?
                    }
                    Poll::Pending => match coder.poll_flush(held, cx) {
                        Some(made) => made,
                        None => return Poll::Pending,
                    },
                }
            } else {
                let (made, cost) = coder.step(input)?;
                *spent += STEP_BYTES + cost;
                made
            };
            if !made.is_empty() {
                held.end();
                return Poll::Ready(Some(Ok(Frame::data(made))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self.work.as_deref() {
            None => self.inner.is_end_stream(),
            Some(Work { job: Job::Pass, ahead, .. }) if !ahead.ended => {
                ahead.frames.is_empty() && self.inner.is_end_stream()
            }
            Some(Work { job: Job::Pass, ahead, .. }) => {
                ahead.frames.is_empty() && ahead.trailers.is_none() && ahead.fault.is_none()
            }
            Some(Work { job: Job::Ready(gzip), trailers, .. }) => gzip.is_empty() && trailers.is_none(),
            Some(work) => work.finished && work.trailers.is_none() && work.made.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self.work.as_deref() {
            None => self.inner.size_hint(),
            // If there are trailers, the length must stay unknown, because HTTP/1.1 can send trailers only in chunked
            // framing.
            Some(Work { job: Job::Pass, ahead, .. }) if self.is_whole_ahead() && ahead.trailers.is_none() => {
                SizeHint::with_exact(ahead.bytes)
            }
            Some(Work { job: Job::Ready(gzip), trailers: None, .. }) => SizeHint::with_exact(gzip.len() as u64),
            Some(_) => SizeHint::default(),
        }
    }
}

impl<B: EdgeBody> EdgeBody for GzipBody<B> {
    fn tally(&self) -> Tally {
        let tally = self.inner.tally();
        match self.work.as_deref() {
            Some(Work { job: Job::Code(Coder::Inflate(inflater)), .. }) => {
                Tally { fault: tally.fault.or(inflater.fault()), ..tally }
            }
            _ => tally,
        }
    }

    fn drain(&mut self) -> bool {
        self.inner.drain()
    }

    fn poll_splice(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Pipe, Fault>>> {
        let this = self.project();
        if this.work.is_some() { Poll::Ready(None) } else { this.inner.poll_splice(cx) }
    }
}
