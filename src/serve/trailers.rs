//! Writes trailers that the response head does not announce. hyper leaves such trailers out.
//!
//! The body waits until hyper has written everything before the trailers. Then the body ends, and hyper's last chunk is
//! replaced by one with the trailers.

use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use http::HeaderMap;

/// How hyper ends a chunked body.
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The trailers of the current response, shared by its body and the watched stream.
#[derive(Debug, Default)]
pub(super) struct TrailerWriter {
    stage: Mutex<Stage>,
    /// Whether the stage is not `None`, so that a write without trailers takes no lock.
    is_active: AtomicBool,
}

/// The last chunk with the trailers, and its progress.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    None,
    /// hyper still has bytes to write before them.
    Waiting(Bytes),
    /// hyper has written everything. What it writes next ends the body.
    Next(Bytes),
    /// This part is still to be written.
    Writing(Bytes),
}

impl TrailerWriter {
    /// Takes `trailers` at the first call. Ready when the body may end; the connection's task is then woken.
    pub(super) fn poll(&self, trailers: &mut Option<HeaderMap>) -> Poll<()> {
        let mut stage = self.stage();
        if let Some(trailers) = trailers.take() {
            *stage = Stage::Waiting(last_chunk(&trailers));
            self.is_active.store(true, Ordering::Relaxed);
        }
        if matches!(*stage, Stage::Waiting(_)) { Poll::Pending } else { Poll::Ready(()) }
    }

    pub(super) fn is_active(&self) -> bool {
        self.is_active.load(Ordering::Relaxed)
    }

    /// Drops trailers that could not be written.
    pub(super) fn clear(&self) {
        if self.is_active() {
            *self.stage() = Stage::None;
            self.is_active.store(false, Ordering::Relaxed);
        }
    }

    /// hyper has written all that it had. True if the body may end now.
    pub(super) fn flushed(&self) -> bool {
        let mut stage = self.stage();
        match std::mem::take(&mut *stage) {
            Stage::Waiting(last) => {
                *stage = Stage::Next(last);
                true
            }
            other => {
                *stage = other;
                false
            }
        }
    }

    /// What to write instead of `bufs`, if hyper ends the body with them. An unwritten rest goes to `pending`.
    pub(super) fn replacement(&self, bufs: &[IoSlice<'_>]) -> Option<Bytes> {
        let mut stage = self.stage();
        match std::mem::take(&mut *stage) {
            Stage::Next(last) if bufs.iter().flat_map(|buf| buf.iter()).eq(LAST_CHUNK) => Some(last),
            Stage::Writing(rest) => Some(rest),
            waiting @ Stage::Waiting(_) => {
                *stage = waiting;
                None
            }
            // The body is not chunked and cannot have trailers.
            Stage::Next(_) | Stage::None => {
                self.is_active.store(false, Ordering::Relaxed);
                None
            }
        }
    }

    pub(super) fn pending(&self, rest: Bytes) {
        *self.stage() = Stage::Writing(rest);
    }

    pub(super) fn written(&self) {
        self.is_active.store(false, Ordering::Relaxed);
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of a chunked body with trailers (RFC 9112 §7.1).
fn last_chunk(trailers: &HeaderMap) -> Bytes {
    let mut last = b"0\r\n".to_vec();
    for (name, value) in trailers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            last.extend_from_slice(part);
        }
    }
    last.extend_from_slice(b"\r\n");
    last.into()
}
