//! Reads a short request body completely, before the request goes to the origin. So a slow client occupies neither a
//! permit of `admission` nor a connection to the origin, and the origin gets the body in one piece.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::request;
use http_body::Body as _;

use super::options::MessageLimits;
use super::upload::Upload;
use crate::fault::{Cause, Fault};
use crate::wire::names::EXPECT;
use crate::wire::received::Received;

/// The length of the largest body that is gathered, in bytes. It is also nginx's default for `client_body_buffer_size`.
const SHORT: u64 = 16 * 1024;
/// The memory for all gathered bodies of the process, in bytes.
const TOTAL: u64 = 64 * 1024 * 1024;

static RESERVED: AtomicU64 = AtomicU64::new(0);

/// Memory for a gathered body. The memory counts as used until this value is dropped.
#[derive(Debug)]
pub(crate) struct Reserved(u64);

impl Reserved {
    /// Reserves memory for a body that should be gathered. Returns `None` for a body that should be streamed:
    ///
    /// - The body is empty, longer than [`SHORT`], or of unknown length.
    /// - The client waits for a 100. Then the origin decides whether the client sends its body.
    /// - The gathered bodies of other requests use all of the memory.
    pub(crate) fn for_body(head: &request::Parts, body: &Received) -> Option<Self> {
        let length = body.size_hint().exact().filter(|length| (1..=SHORT).contains(length))?;
        if head.headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
            return None;
        }
        let reserved = RESERVED.fetch_add(length, Ordering::Relaxed) + length;
        // The drop releases the memory if the limit is exceeded.
        Some(Self(length)).filter(|_| reserved <= TOTAL)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        RESERVED.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// The bytes of a gathered body, with their memory.
struct Gathered {
    data: Bytes,
    _reserved: Reserved,
}

impl AsRef<[u8]> for Gathered {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

/// Reads a body completely.
///
/// # Errors
/// Returns the fault of the client: its body is larger than `server.max_request_body`, stalls or is cut.
pub(crate) async fn gather(body: Received, reserved: Reserved, limits: MessageLimits) -> Result<Received, Fault> {
    let is_h2 = body.is_h2();
    let mut upload = Upload::new(body, None, &limits, &Arc::default());
    let mut data = Bytes::new();
    let mut pieces = Vec::new();
    let mut trailers = None;
    while !upload.is_end_stream() {
        match poll_fn(|cx| Pin::new(&mut upload).poll_frame(cx)).await {
            Some(Ok(frame)) => match frame.into_data() {
                // A body that arrives in one piece is not copied.
                Ok(piece) if piece.len() as u64 == reserved.0 => data = piece,
                Ok(piece) => pieces.extend_from_slice(&piece),
                Err(frame) => trailers = frame.into_trailers().ok(),
            },
            Some(Err(fault)) => {
                if is_h2 {
                    // If the client has reset the stream, hyper notices the reset now, and drops this future.
                    tokio::task::yield_now().await;
                }
                return Err(fault);
            }
            None => break,
        }
    }
    if !pieces.is_empty() {
        data = pieces.into();
    }
    if data.len() as u64 != reserved.0 {
        return Err(Fault::from_error(Cause::RequestCut, "the body is shorter than its Content-Length"));
    }
    Ok(Received::complete(Bytes::from_owner(Gathered { data, _reserved: reserved }), trailers))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(expect: Option<&str>) -> request::Parts {
        let mut request = http::Request::new(());
        if let Some(expect) = expect {
            request.headers_mut().insert(EXPECT, expect.parse().unwrap());
        }
        request.into_parts().0
    }

    fn body(length: u64) -> Received {
        Received::complete(vec![b'x'; usize::try_from(length).unwrap()].into(), None)
    }

    // One test, because the memory belongs to the process.
    #[test]
    fn memory_when_reserved_then_only_for_short_bodies_and_up_to_the_limit() {
        let is_gathered = |expect, length| Reserved::for_body(&head(expect), &body(length)).is_some();
        for (length, expected) in [(0, false), (1, true), (SHORT, true), (SHORT + 1, false)] {
            assert_eq!(is_gathered(None, length), expected, "{length} bytes");
        }
        assert!(!is_gathered(Some("100-Continue"), 1) && is_gathered(Some("something"), 1));
        let mut held: Vec<_> = (0..TOTAL / SHORT).map(|_| Reserved::for_body(&head(None), &body(SHORT))).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(!is_gathered(None, 1), "more memory was reserved than the limit allows");
        held.pop();
        assert!(is_gathered(None, SHORT), "the memory of a dropped body is still reserved");
        drop(held);
        assert_eq!(RESERVED.load(Ordering::Relaxed), 0);
    }
}
