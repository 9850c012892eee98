//! Writes the trailers of HTTP/1.1 responses. hyper itself writes only the trailers that the response head announces.
//!
//! The body reports its end only after hyper has written everything before the trailers. hyper then writes its last
//! chunk. The stream (`watched.rs`) replaces this chunk with a last chunk that contains the trailers.

use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use http::HeaderMap;

/// The bytes with which hyper ends a chunked body.
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The trailers of the current response. The response body and the stream (`watched.rs`) share this value.
#[derive(Debug, Default)]
pub(super) struct TrailerWriter {
    stage: Mutex<Stage>,
    /// Whether trailers are waiting or being written. The flag saves a lock for each write of a response without
    /// trailers.
    is_active: AtomicBool,
}

/// The last chunk with the trailers, and how much of it has been written. The chunk is boxed, because each connection
/// has a `Stage` and few connections have trailers.
#[derive(Debug, Default)]
enum Stage {
    #[default]
    None,
    /// hyper still has to write bytes that come before the trailers.
    Waiting(Box<Bytes>),
    /// hyper has written everything before the trailers. The next write of hyper ends the body.
    Next(Box<Bytes>),
    /// This part of the chunk still has to be written.
    Writing(Box<Bytes>),
}

impl TrailerWriter {
    /// Stores the trailers of the body. The body must not end before [`poll`](Self::poll) returns `Ready`.
    pub(super) fn begin(&self, trailers: &HeaderMap) {
        *self.stage() = Stage::Waiting(Box::new(last_chunk(trailers)));
        self.is_active.store(true, Ordering::Relaxed);
    }

    /// Returns `Ready` when the body is allowed to end. At that moment, the stream wakes the connection's task.
    pub(super) fn poll(&self) -> Poll<()> {
        if matches!(*self.stage(), Stage::Waiting(_)) { Poll::Pending } else { Poll::Ready(()) }
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

    /// Notes that hyper has written everything that it had. Returns `true` if the body is now allowed to end.
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

    /// Returns the bytes to write instead of `bufs`, if `bufs` are the end of a body with trailers. If the caller
    /// cannot write some of these bytes, the caller must pass the rest to [`pending`](Self::pending).
    pub(super) fn replacement(&self, bufs: &[IoSlice<'_>]) -> Option<Bytes> {
        let mut stage = self.stage();
        match std::mem::take(&mut *stage) {
            Stage::Next(last) if bufs.iter().flat_map(|buf| buf.iter()).eq(LAST_CHUNK) => Some(*last),
            Stage::Writing(rest) => Some(*rest),
            waiting @ Stage::Waiting(_) => {
                *stage = waiting;
                None
            }
            // hyper wrote no last chunk. So the body is not chunked and cannot have trailers.
            Stage::Next(_) | Stage::None => {
                self.is_active.store(false, Ordering::Relaxed);
                None
            }
        }
    }

    pub(super) fn pending(&self, rest: Bytes) {
        *self.stage() = Stage::Writing(Box::new(rest));
    }

    pub(super) fn written(&self) {
        self.is_active.store(false, Ordering::Relaxed);
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Builds the end of a chunked body, with the trailers (RFC 9112 §7.1).
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
