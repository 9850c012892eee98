//! The thread that makes twins ripe: it compresses the body of a twin again, to brotli and to a smaller gzip form. No
//! pull waits for this work. The first pull that gets its body from a twin puts the twin's key into the queue of the
//! thread. A pull that accepts br but not gzip also puts the key into the queue if the twin has no br.
//!
//! The thread gets the body from the twin, so the queue contains only keys. The thread decompresses its own output and
//! compares length and checksum with the twin before it stores the output. `benches/README.md` has the figures by which
//! the compressors were chosen.
//!
//! **Limits:** on Linux, the thread has the lowest priority. It uses at most a quarter of one core, and pauses while
//! the rest of the process is busy. The queue has at most [`QUEUE`] keys. The memory of the work counts against the
//! limit for bodies in flight (`Loan`), and is freed if a pause is longer than [`LONGEST_PAUSE`]. [`LONGEST_WORK`]
//! limits the work on one twin.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use brotli::CompressorWriter;
use brotli::enc::BrotliEncoderParams;
use bytes::Bytes;
use flate2::bufread::GzDecoder;
use metrics::Counter;
use rustix::time::{ClockId, clock_gettime};
use zopfli::{BlockType, DeflateEncoder};

use super::deflate::HEADER;
use super::twins::{Key, Loan, Stage, Twin, Twins};
use crate::ids::label;
use crate::metrics::Table;

/// The value that is added to the nice value of the thread. 19 gives the lowest priority.
#[cfg(target_os = "linux")]
const NICE: i32 = 19;
/// The largest number of keys in the queue. If the queue is full, a further twin stays as it is until a later pull.
const QUEUE: usize = 256;
/// The time after which the thread is started again, if it could not be started.
const START_PAUSE: Duration = Duration::from_mins(1);
/// After each piece of work, the thread sleeps for this number multiplied by the CPU time of the work. So the thread
/// uses at most a quarter of one core.
const SLEEP: u32 = 3;
/// The shortest sleep. It must be long enough to measure the CPU time of the rest of the process.
const SHORTEST_SLEEP: Duration = Duration::from_millis(10);
/// The longest pause in which the thread keeps an incomplete form in memory. After a longer pause, the thread makes the
/// form from the start.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The sleep while the rest of the process is busy.
const BUSY_SLEEP: Duration = Duration::from_millis(100);
/// The rest of the process is busy if it uses more than this share of the available CPUs, in percent.
const BUSY_PERCENT: u128 = 50;
/// The number of bytes that are compressed without a sleep. Zopfli needs about 0.2 s for this number of bytes.
const PIECE_BYTES: usize = 64 * 1024;
/// The largest CPU time for one twin. Zopfli needs some 15 s for the longest body of usual text. Some bodies need 20
/// times as long, for example random bits that are written as text.
const LONGEST_WORK: Duration = Duration::from_secs(20);
/// The number of bytes that brotli compresses in one block.
const BLOCK_BYTES: u64 = 256 * 1024;
/// Brotli's best quality.
const BROTLI_QUALITY: i32 = 11;
/// The sizes of brotli's window, as exponents of 2. A larger window would need 32 MiB for a body of 4 MiB.
const WINDOW_BITS: std::ops::RangeInclusive<u32> = 16..=20;

label! {
    /// The coding of a form that the ripener has stored: the label `coding` of `edgeshim_twins_ripened_total`. The
    /// ripener makes the forms in this order.
    pub(crate) enum RipeCoding {
        /// A brotli stream that is smaller than the first gzip member of the twin.
        Br = "br",
        /// A gzip member that is smaller than the first gzip member of the twin.
        Gzip = "gzip",
    }
}

/// The handle of the thread. The first key starts the thread. When the handle is dropped, the thread ends.
#[derive(Debug)]
pub(super) struct Ripener {
    spawn: fn(Box<dyn FnOnce() + Send>) -> io::Result<()>,
    twins: Weak<Twins>,
    queue: Arc<Queue>,
    ripened: Arc<Table<RipeCoding, Counter>>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    keys: VecDeque<Key>,
    is_started: bool,
    is_stopped: bool,
    /// The time of the next attempt to start the thread, if the previous attempt has failed.
    next_start: Option<Instant>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next key. Returns `None` if the thread must end.
    fn next(&self) -> Option<Key> {
        let mut state = self.lock();
        loop {
            if state.is_stopped {
                return None;
            }
            if let Some(key) = state.keys.pop_front() {
                return Some(key);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Sleeps. Returns `false` at once if the thread must end.
    fn sleep(&self, time: Duration) -> bool {
        let state = self.lock();
        let wait = self.changed.wait_timeout_while(state, time, |state| !state.is_stopped);
        !wait.unwrap_or_else(PoisonError::into_inner).0.is_stopped
    }
}

impl Ripener {
    pub(super) fn new(twins: &Arc<Twins>, ripened: Table<RipeCoding, Counter>) -> Self {
        let spawn = |run| thread::Builder::new().name("ripener".to_owned()).spawn(run).map(drop);
        Self { spawn, twins: Arc::downgrade(twins), queue: Arc::default(), ripened: Arc::new(ripened) }
    }

    /// Puts the key of a twin into the queue, if the stage of the twin is `Green`. Does nothing if the queue is full,
    /// if the work needs more memory than the store allows, if the store no longer has this twin, or if the thread
    /// cannot be started.
    pub(super) fn offer(&self, twins: &Twins, key: Key, twin: &Twin) {
        if twin.stage != Stage::Green || memory(key.length) > twins.capacity() {
            return;
        }
        let mut state = self.queue.lock();
        if state.keys.len() < QUEUE
            && self.is_started(&mut state)
            && twins.change(&key, twin.crc, Stage::Green, |twin| twin.stage = Stage::Queued)
        {
            state.keys.push_back(key);
            drop(state);
            self.queue.changed.notify_one();
        }
    }

    /// Starts the thread, if it has not been started. Returns whether the thread has been started.
    fn is_started(&self, state: &mut QueueState) -> bool {
        if state.is_started || state.next_start.is_some_and(|next| Instant::now() < next) {
            return state.is_started;
        }
        let (twins, queue, ripened) = (Weak::clone(&self.twins), Arc::clone(&self.queue), Arc::clone(&self.ripened));
        let run = move || run(&twins, &Work { queue: &queue, ripened: &ripened, is_busy: &is_busy });
        match (self.spawn)(Box::new(run)) {
            Ok(()) => state.is_started = true,
            Err(error) => {
                state.next_start = Some(Instant::now() + START_PAUSE);
                tracing::error!(
                    "the thread that compresses twins again cannot start ({error}); twins stay as they are, and the \
                     next attempt follows in {START_PAUSE:?}; raise the limit of threads for this user (ulimit -u)"
                );
            }
        }
        state.is_started
    }
}

impl Drop for Ripener {
    fn drop(&mut self) {
        self.queue.lock().is_stopped = true;
        self.queue.changed.notify_one();
    }
}

/// The values that the thread uses for its work.
struct Work<'a> {
    queue: &'a Queue,
    ripened: &'a Table<RipeCoding, Counter>,
    /// See [`is_busy`].
    is_busy: &'a dyn Fn(Duration, Duration) -> bool,
}

/// Why the work on a form has ended early.
#[derive(Debug, PartialEq, Eq)]
enum Early {
    /// The thread must end.
    Stopped,
    /// The rest of the process was busy for longer than [`LONGEST_PAUSE`].
    Busy,
    /// The work on the twin has reached [`LONGEST_WORK`], the compressor has failed, or the form does not decode to the
    /// body.
    GivenUp,
}

fn run(twins: &Weak<Twins>, work: &Work<'_>) {
    // On Linux, each thread has its own priority. Elsewhere, the call would change the priority of the process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::warn!(%error, "the thread that compresses twins again cannot lower its priority");
    }
    while let Some(key) = work.queue.next() {
        let Some(twins) = twins.upgrade() else { return };
        ripen(&twins, key, work);
    }
}

/// Compresses the body of one twin again, and sets the stage of the twin.
fn ripen(twins: &Arc<Twins>, key: Key, work: &Work<'_>) {
    let Some(twin) = twins.find(&key).filter(|twin| twin.stage == Stage::Queued) else { return };
    // The compressors are not code of edgeshim, and the origin chooses their input. A panic in a compressor must not
    // end the thread. After a panic, the twin counts as ripe, so the input is not tried again.
    let stage = catch_unwind(AssertUnwindSafe(|| make_forms(twins, key, &twin, work))).unwrap_or_else(|_| {
        tracing::error!("compressing a twin again has failed; the twin keeps the forms that it has");
        Stage::Ripe
    });
    twins.change(&key, twin.crc, Stage::Queued, |twin| twin.stage = stage);
}

/// Makes both forms of a twin and stores the forms that are smaller than the first gzip member. Returns the next stage
/// of the twin.
fn make_forms(twins: &Arc<Twins>, key: Key, twin: &Twin, work: &Work<'_>) -> Stage {
    let mut pace = Pace::new(work);
    for coding in RipeCoding::ALL {
        if coding == RipeCoding::Br && twin.br.is_some() {
            // An earlier attempt has made this form.
            continue;
        }
        let made = loop {
            match make_form(twins, key, twin, coding, &mut pace) {
                Err(Early::Busy) => {}
                made => break made,
            }
        };
        let form = match made {
            Ok(Some(form)) => form,
            // The next pull that uses the twin puts the key into the queue again.
            Ok(None) | Err(Early::Stopped | Early::Busy) => return Stage::Green,
            Err(Early::GivenUp) => continue,
        };
        let is_stored = form.len() < twin.gzip.len()
            && twins.change(&key, twin.crc, Stage::Queued, |twin| match coding {
                RipeCoding::Br => twin.br = Some(form),
                RipeCoding::Gzip => twin.gzip = form,
            });
        if is_stored {
            work.ripened.get(coding).increment(1);
        }
    }
    Stage::Ripe
}

/// Makes one form of a twin. Returns `None` if bodies in flight use too much memory, or if the twin is damaged. A
/// damaged twin is removed.
fn make_form(
    twins: &Arc<Twins>,
    key: Key,
    twin: &Twin,
    coding: RipeCoding,
    pace: &mut Pace<'_>,
) -> Result<Option<Bytes>, Early> {
    // This pause has no limit, because the thread does not have the memory for the work yet.
    pace.rest(Duration::MAX)?;
    let Some(_loan) = Loan::take(twins, memory(key.length)) else { return Ok(None) };
    let is_right = |decoder: &mut dyn Read| sum(decoder).is_ok_and(|sum| sum == (key.length, twin.crc));
    let mut body = Vec::with_capacity(usize::try_from(key.length).unwrap_or_default());
    if GzDecoder::new(&twin.gzip[..]).take(key.length).read_to_end(&mut body).is_err() || !is_right(&mut &body[..]) {
        tracing::error!("a bug in edgeshim: a gzip twin does not decode to its body; the twin is removed");
        twins.remove(&key);
        return Ok(None);
    }
    let form = match coding {
        RipeCoding::Br => brotli(&body, pace)?,
        RipeCoding::Gzip => gzip(&body, twin.crc, pace)?,
    };
    let decodes = match coding {
        RipeCoding::Br => is_right(&mut brotli::Decompressor::new(&form[..], PIECE_BYTES)),
        RipeCoding::Gzip => is_right(&mut GzDecoder::new(&form[..])),
    };
    if decodes { Ok(Some(form)) } else { Err(Early::GivenUp) }
}

/// Returns the memory that the work on a body needs at most, in bytes. The body itself needs `length` bytes. Of the
/// compressors, brotli needs the most: 8 bytes for each byte of its window, 88 bytes for each byte of a block, some 4
/// bytes for each byte of the body, and 1 MiB. These numbers were measured with text and with random bits. Zopfli needs
/// at most 5 MiB.
fn memory(length: u64) -> u64 {
    length + (8 << window_bits(length)) + 88 * length.min(BLOCK_BYTES) + 4 * length + (1 << 20)
}

/// Returns the size of brotli's window, as an exponent of 2: the smallest window that contains the whole body. If no
/// window contains the body, returns the largest.
fn window_bits(length: u64) -> u32 {
    // A window with the size 2^n contains only 2^n - 16 bytes (RFC 7932 §9.1).
    (u64::BITS - (length + 15).leading_zeros()).clamp(*WINDOW_BITS.start(), *WINDOW_BITS.end())
}

/// Returns the body as a brotli stream.
fn brotli(body: &[u8], pace: &mut Pace<'_>) -> Result<Bytes, Early> {
    let params = BrotliEncoderParams {
        quality: BROTLI_QUALITY,
        lgwin: i32::try_from(window_bits(body.len() as u64)).unwrap_or_default(),
        size_hint: body.len(),
        ..BrotliEncoderParams::default()
    };
    let mut writer = CompressorWriter::with_params(Vec::new(), PIECE_BYTES, &params);
    pace.write(body, &mut writer)?;
    Ok(exact(&writer.into_inner()))
}

/// Returns the body as a gzip member that Zopfli compresses. `crc` is the body's checksum.
fn gzip(body: &[u8], crc: u32, pace: &mut Pace<'_>) -> Result<Bytes, Early> {
    let mut encoder = DeflateEncoder::new(zopfli_options(), BlockType::Dynamic, HEADER.to_vec());
    pace.write(body, &mut encoder)?;
    let mut member = encoder.finish().map_err(|_| Early::GivenUp)?;
    member.extend_from_slice(&crc.to_le_bytes());
    // ISIZE is the length modulo 2^32 (RFC 1952 §2.3.1). The longest body of a twin has 4 MiB.
    member.extend_from_slice(&u32::try_from(body.len()).unwrap_or_default().to_le_bytes());
    Ok(exact(&member))
}

/// The options of Zopfli. More than five iterations make the output less than 0.1 % smaller.
fn zopfli_options() -> zopfli::Options {
    zopfli::Options { iteration_count: const { NonZeroU64::new(5).expect("not 0") }, ..zopfli::Options::default() }
}

/// Copies the bytes of a form to a buffer of the exact size, because a form stays in memory for a long time.
fn exact(bytes: &[u8]) -> Bytes {
    Bytes::from(Box::<[u8]>::from(bytes))
}

/// Reads to the end. Returns the number of bytes and their CRC-32.
fn sum(reader: &mut dyn Read) -> io::Result<(u64, u32)> {
    let (mut crc, mut length) = (crc32fast::Hasher::new(), 0);
    let mut buffer = [0; 8 * 1024];
    loop {
        let read = reader.read(&mut buffer)?;
        if read == 0 {
            return Ok((length, crc.finalize()));
        }
        crc.update(buffer.get(..read).unwrap_or_default());
        length += read as u64;
    }
}

/// The rhythm of work and sleep for one twin.
struct Pace<'a> {
    work: &'a Work<'a>,
    /// The CPU time of the thread at the start of the work on this twin.
    begun: Duration,
    /// The CPU time of the thread at the end of the previous sleep.
    worked: Duration,
}

impl<'a> Pace<'a> {
    fn new(work: &'a Work<'a>) -> Self {
        let now = cpu_time(ClockId::ThreadCPUTime);
        Self { work, begun: now, worked: now }
    }

    /// Writes the body in pieces, with a sleep before each piece and after the last piece.
    fn write(&mut self, body: &[u8], writer: &mut dyn Write) -> Result<(), Early> {
        for piece in body.chunks(PIECE_BYTES) {
            self.rest(LONGEST_PAUSE)?;
            writer.write_all(piece).map_err(|_| Early::GivenUp)?;
        }
        self.rest(LONGEST_PAUSE)
    }

    /// Sleeps in proportion to the work since the previous sleep. Then pauses as long as the rest of the process is
    /// busy, but not for longer than `longest`.
    fn rest(&mut self, longest: Duration) -> Result<(), Early> {
        let now = cpu_time(ClockId::ThreadCPUTime);
        if now.saturating_sub(self.begun) > LONGEST_WORK {
            return Err(Early::GivenUp);
        }
        let mut time = (now.saturating_sub(self.worked) * SLEEP).max(SHORTEST_SLEEP);
        let mut paused = Duration::ZERO;
        loop {
            let (start, before) = (Instant::now(), cpu_time(ClockId::ProcessCPUTime));
            if !self.work.queue.sleep(time) {
                return Err(Early::Stopped);
            }
            let used = cpu_time(ClockId::ProcessCPUTime).saturating_sub(before);
            self.worked = cpu_time(ClockId::ThreadCPUTime);
            if !(self.work.is_busy)(used, start.elapsed()) {
                return Ok(());
            }
            if paused >= longest {
                return Err(Early::Busy);
            }
            time = BUSY_SLEEP;
            paused += time;
        }
    }
}

/// Whether the rest of the process is busy. The thread slept for the time `elapsed`. In this time, the rest of the
/// process used the CPU time `used`.
fn is_busy(used: Duration, elapsed: Duration) -> bool {
    let cpus = thread::available_parallelism().map_or(1, |cpus| cpus.get() as u128);
    used.as_micros() * 100 > elapsed.as_micros() * cpus * BUSY_PERCENT
}

fn cpu_time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), nanoseconds)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::time::Instant;

    use super::super::twins::Draft;
    use super::*;
    use crate::metrics::{Labels, Metrics, describe};

    const SIZE: u64 = 64 << 20;

    fn ripener(twins: &Arc<Twins>) -> Ripener {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new().unwrap()));
        Ripener::new(twins, metrics.ledger(&Labels::default()).table(&describe::TWINS_RIPENED))
    }

    fn text(bytes: usize, seed: u64) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(seed);
        let words = ["<p>", "</p>", "the ", "and ", "of ", "a "];
        let mut text: Vec<u8> =
            std::iter::repeat_with(|| words[random.usize(..words.len())]).take(bytes).collect::<String>().into();
        text.truncate(bytes);
        text
    }

    /// Stores the twin of a body, as a first pull does. `crc` is the checksum in the twin.
    fn store(twins: &Arc<Twins>, tag: &[u8], body: &[u8], crc: u32) -> Key {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(5));
        encoder.write_all(body).unwrap();
        let key = twins.key(1, tag, body.len() as u64);
        let mut draft = Draft::new(twins, key).unwrap();
        assert!(draft.push(&encoder.finish().unwrap()));
        draft.finish(body.len() as u64, crc);
        key
    }

    fn offer(ripener: &Ripener, twins: &Twins, key: Key) {
        ripener.offer(twins, key, &twins.find(&key).unwrap());
    }

    fn work<'a>(ripener: &'a Ripener, is_busy: &'a dyn Fn(Duration, Duration) -> bool) -> Work<'a> {
        Work { queue: &ripener.queue, ripened: &ripener.ripened, is_busy }
    }

    /// Compresses the offered twins again in the thread of the test.
    fn ripen_all(ripener: &Ripener, twins: &Arc<Twins>) {
        loop {
            let Some(key) = ripener.queue.lock().keys.pop_front() else { return };
            ripen(twins, key, &work(ripener, &|_, _| false));
        }
    }

    /// Returns a ripener that never starts its thread.
    fn without_thread(twins: &Arc<Twins>) -> Ripener {
        let ripener = ripener(twins);
        ripener.queue.lock().is_started = true;
        ripener
    }

    #[test]
    fn thread_when_it_cannot_start_then_twins_stay_green_and_a_later_pull_starts_the_thread() {
        let twins = Arc::new(Twins::new(SIZE));
        let mut ripener = ripener(&twins);
        let spawn = std::mem::replace(&mut ripener.spawn, |_| Err(io::Error::other("planted")));
        let body = text(500, 1);
        let key = store(&twins, b"tag", &body, crc32fast::hash(&body));
        offer(&ripener, &twins, key);
        assert_eq!(twins.find(&key).unwrap().stage, Stage::Green);
        ripener.spawn = spawn;
        offer(&ripener, &twins, key);
        assert_eq!(twins.find(&key).unwrap().stage, Stage::Green, "the pause after the failure is not over");
        ripener.queue.lock().next_start = Some(Instant::now());
        offer(&ripener, &twins, key);
        let end = Instant::now() + Duration::from_mins(2);
        while twins.find(&key).unwrap().stage != Stage::Ripe && Instant::now() < end {
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(twins.find(&key).unwrap().stage, Stage::Ripe);
    }

    #[test]
    fn twin_when_ripe_then_its_forms_are_not_larger_and_decode_to_the_body() {
        let twins = Arc::new(Twins::new(SIZE));
        let ripener = without_thread(&twins);
        let mut random = fastrand::Rng::with_seed(1);
        for body in [text(500, 1), text(70_000, 2), vec![b'a'; 300_000], (0..9_000).map(|_| random.u8(..)).collect()] {
            let key = store(&twins, b"tag", &body, crc32fast::hash(&body));
            let first = twins.find(&key).unwrap();
            offer(&ripener, &twins, key);
            assert_eq!(twins.find(&key).unwrap().stage, Stage::Queued);
            ripen_all(&ripener, &twins);
            let ripe = twins.find(&key).unwrap();
            assert_eq!(ripe.stage, Stage::Ripe);
            assert!(ripe.gzip.len() <= first.gzip.len());
            let expected = (body.len() as u64, crc32fast::hash(&body));
            assert_eq!(sum(&mut GzDecoder::new(&ripe.gzip[..])).unwrap(), expected);
            if let Some(br) = ripe.br {
                assert!(br.len() < first.gzip.len());
                assert_eq!(sum(&mut brotli::Decompressor::new(&br[..], 4096)).unwrap(), expected);
            } else {
                assert_eq!(body.len(), 9_000, "compressible text has no br");
            }
            // A ripe twin is not compressed once more.
            offer(&ripener, &twins, key);
            assert!(ripener.queue.lock().keys.is_empty());
        }
    }

    #[test]
    fn twin_when_checksum_does_not_match_its_gzip_then_is_removed() {
        let twins = Arc::new(Twins::new(SIZE));
        let ripener = without_thread(&twins);
        let body = text(5_000, 1);
        let key = store(&twins, b"tag", &body, crc32fast::hash(&body) ^ 1);
        offer(&ripener, &twins, key);
        ripen_all(&ripener, &twins);
        assert!(twins.find(&key).is_none());
    }

    #[test]
    fn twin_when_replaced_while_its_key_is_queued_then_new_twin_stays_green() {
        let twins = Arc::new(Twins::new(SIZE));
        let ripener = without_thread(&twins);
        let (old, new) = (text(5_000, 1), text(5_000, 2));
        let key = store(&twins, b"tag", &old, crc32fast::hash(&old));
        offer(&ripener, &twins, key);
        assert_eq!(store(&twins, b"tag", &new, crc32fast::hash(&new)), key);
        assert!(!twins.change(&key, crc32fast::hash(&old), Stage::Queued, |twin| twin.br = Some(Bytes::new())));
        ripen_all(&ripener, &twins);
        let twin = twins.find(&key).unwrap();
        assert!(twin.br.is_none() && twin.stage == Stage::Green && twin.crc == crc32fast::hash(&new));
    }

    #[test]
    fn queue_when_full_then_refuses_further_twins() {
        let twins = Arc::new(Twins::new(SIZE));
        let ripener = without_thread(&twins);
        let body = text(500, 1);
        for tag in 0..QUEUE + 10 {
            let key = store(&twins, &tag.to_le_bytes(), &body, crc32fast::hash(&body));
            offer(&ripener, &twins, key);
            offer(&ripener, &twins, key);
            let stage = if tag < QUEUE { Stage::Queued } else { Stage::Green };
            assert_eq!(twins.find(&key).unwrap().stage, stage, "twin {tag}");
        }
        assert_eq!(ripener.queue.lock().keys.len(), QUEUE);
    }

    #[test]
    fn twin_when_memory_is_missing_then_stays_green() {
        let body = text(5_000, 1);
        let small = Arc::new(Twins::new(1 << 20));
        let ripener = without_thread(&small);
        let key = store(&small, b"tag", &body, crc32fast::hash(&body));
        offer(&ripener, &small, key);
        assert!(ripener.queue.lock().keys.is_empty(), "the work needs more memory than the whole store");

        let twins = Arc::new(Twins::new(SIZE));
        let ripener = without_thread(&twins);
        let key = store(&twins, b"tag", &body, crc32fast::hash(&body));
        offer(&ripener, &twins, key);
        let loan = Loan::take(&twins, SIZE).unwrap();
        ripen_all(&ripener, &twins);
        assert_eq!(twins.find(&key).unwrap().stage, Stage::Green);
        drop(loan);
        offer(&ripener, &twins, key);
        ripen_all(&ripener, &twins);
        assert_eq!(twins.find(&key).unwrap().stage, Stage::Ripe);
    }

    #[test]
    fn process_when_busy_for_long_then_memory_of_the_work_is_freed_until_process_is_quiet() {
        let twins = Arc::new(Twins::new(SIZE));
        let ripener = without_thread(&twins);
        let body = text(5_000, 1);
        let key = store(&twins, b"tag", &body, crc32fast::hash(&body));
        offer(&ripener, &twins, key);
        ripener.queue.lock().keys.clear();
        // Whether the work has a `Loan` at each check. The process is busy from the second check, which is the first
        // check with a `Loan`, to the 17th check.
        let on_loan = RefCell::new(Vec::new());
        let is_busy = |_, _| {
            let mut checks = on_loan.borrow_mut();
            checks.push(Loan::take(&twins, SIZE).is_none());
            (2..18).contains(&checks.len())
        };
        ripen(&twins, key, &work(&ripener, &is_busy));
        let checks = on_loan.into_inner();
        let kept = checks[1..].iter().take_while(|&&on_loan| on_loan).count();
        assert!(!checks[0] && (1..=12).contains(&kept), "{checks:?}");
        assert!(checks[1 + kept..18].iter().all(|&on_loan| !on_loan), "{checks:?}");
        assert_eq!(twins.find(&key).unwrap().stage, Stage::Ripe);
    }

    #[test]
    fn thread_when_handle_is_dropped_during_the_work_then_ends_before_the_twin_is_ripe() {
        let twins = Arc::new(Twins::new(SIZE));
        let ripener = without_thread(&twins);
        let body = text(4 << 20, 1);
        let key = store(&twins, b"tag", &body, crc32fast::hash(&body));
        offer(&ripener, &twins, key);
        let (weak, queue, forms) = (Arc::downgrade(&twins), Arc::clone(&ripener.queue), Arc::clone(&ripener.ripened));
        let run = move || run(&weak, &Work { queue: &queue, ripened: &forms, is_busy: &|_, _| false });
        let thread = thread::spawn(run);
        let end = Instant::now() + Duration::from_mins(1);
        while !ripener.queue.lock().keys.is_empty() && Instant::now() < end {
            thread::yield_now();
        }
        drop(ripener);
        thread.join().unwrap();
        assert_ne!(twins.find(&key).unwrap().stage, Stage::Ripe);
    }

    #[test]
    fn window_when_computed_then_is_the_smallest_that_contains_the_body_or_the_largest() {
        for (length, bits) in [(0, 16), (65_520, 16), (65_521, 17), (100_000, 17), (4 << 20, 20)] {
            assert_eq!(window_bits(length), bits, "{length}");
        }
        assert!(memory(4 << 20) < SIZE, "the longest body does not fit in the default store");
    }

    #[test]
    fn process_when_more_than_half_of_the_cpus_are_used_then_is_busy() {
        let cpus = u32::try_from(thread::available_parallelism().unwrap().get()).unwrap();
        let elapsed = Duration::from_millis(100);
        assert!(!is_busy(elapsed * cpus / 2, elapsed));
        assert!(is_busy(elapsed * cpus / 2 + Duration::from_millis(1), elapsed));
    }
}
