//! HTTP/2 clients, which use hyper. `connect` and `H2` use no TLS (prior knowledge). `handshake` uses any open stream,
//! for example a TLS stream. The module `frames` sends frames that hyper would not send.

use super::PATIENCE;
use super::http1::{self, Fields};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::any::Any;
use std::collections::VecDeque;
use std::error::Error;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Builder, Runtime};

/// The longest time that [`H2`] waits for an event. This time is longer than the shim's timeouts in the tests.
const LONG: Duration = PATIENCE.saturating_mul(4);

/// Makes a runtime that runs on the thread of the test.
pub fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Connects to a TCP address. The current runtime drives the connection in the background.
pub async fn connect<B>(addr: SocketAddr) -> http2::SendRequest<B>
where
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    handshake(tokio::net::TcpStream::connect(addr).await.expect("a connection")).await
}

/// Starts HTTP/2 on an open stream. The current runtime drives the connection in the background.
pub async fn handshake<S, B>(stream: S) -> http2::SendRequest<B>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, connection) = shaken.expect("an HTTP/2 connection");
    tokio::spawn(connection);
    sender
}

/// Returns the fields of a head or of trailers.
pub fn fields(map: &HeaderMap) -> Fields {
    map.iter().map(|(name, value)| (name.to_string(), http1::lossy(value.as_bytes()))).collect()
}

/// A body that is made of frames, for a request or a response.
#[derive(Default)]
pub struct Pieces {
    pub frames: VecDeque<Bytes>,
    pub trailers: Option<HeaderMap>,
    /// A signal from the test. When the signal arrives, the body gets one more frame, which contains the text `last`.
    pub later: Option<Arc<Mutex<Receiver<()>>>>,
    /// Whether the body repeats a frame of 4 KiB without end, after `frames`.
    pub endless: bool,
    /// Whether the body sends nothing more after `frames` and does not end.
    pub hangs: bool,
    /// Whether the body fails with an error after `frames`.
    pub breaks: bool,
    /// A value that is dropped with the body, so that a test notices the drop.
    pub guard: Option<Box<dyn Any + Send>>,
}

impl Pieces {
    /// Makes a body of these frames.
    pub fn of(frames: impl IntoIterator<Item = Bytes>) -> Self {
        Self { frames: frames.into_iter().collect(), ..Self::default() }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(piece) = self.frames.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if self.endless {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 4096])))));
        }
        if let Some(later) = &self.later {
            if later.lock().unwrap_or_else(PoisonError::into_inner).try_recv().is_err() {
                // The runtime polls this body again after its other tasks.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.later = None;
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"last")))));
        }
        if self.hangs {
            return Poll::Pending;
        }
        if self.breaks {
            return Poll::Ready(Some(Err(std::io::Error::other("cut"))));
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        let open = self.endless || self.hangs || self.breaks;
        self.frames.is_empty() && self.trailers.is_none() && self.later.is_none() && !open
    }
}

/// The received part of a response.
#[derive(Debug, Default)]
pub struct Received {
    pub status: u16,
    pub fields: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// True when the framing says that the body is complete.
    pub complete: bool,
    /// The error that ended the body, if any.
    pub error: String,
}

impl Received {
    /// Returns the value of the first field with this name. The case of the letters does not matter.
    pub fn field(&self, name: &str) -> Option<&str> {
        http1::find(&self.fields, name)
    }

    /// Returns all values of the fields with this name, in order.
    pub fn fields_named(&self, name: &str) -> Vec<&str> {
        http1::find_all(&self.fields, name)
    }
}

/// One HTTP/2 connection. The connection makes progress only while a method of this type runs.
pub struct H2 {
    tokio: Runtime,
    sender: http2::SendRequest<Pieces>,
}

impl H2 {
    pub fn connect(addr: SocketAddr) -> Self {
        let tokio = runtime();
        let sender = tokio.block_on(connect(addr));
        Self { tokio, sender }
    }

    /// Sends a request and reads the response.
    pub fn ask(&mut self, method: &str, target: &str, fields: &[(&str, &str)], body: Pieces) -> Received {
        let response = self.head(method, target, fields, body).expect("a response");
        self.rest(response)
    }

    /// Sends a request and reads the head of the response.
    pub fn head(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: Pieces,
    ) -> Result<hyper::Response<Incoming>, hyper::Error> {
        let mut request = hyper::Request::builder().method(method).uri(format!("http://shim.test{target}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let sending = self.sender.send_request(request.body(body).expect("a request"));
        let waiting = async { tokio::time::timeout(LONG, sending).await };
        self.tokio.block_on(waiting).expect("a response head in time")
    }

    /// Reads the body of a response whose head was read by [`H2::head`].
    pub fn rest(&self, response: hyper::Response<Incoming>) -> Received {
        let (head, mut body) = response.into_parts();
        let mut received =
            Received { status: head.status.as_u16(), fields: self::fields(&head.headers), ..Received::default() };
        self.tokio.block_on(async {
            loop {
                match tokio::time::timeout(LONG, body.frame()).await.expect("the next frame in time") {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => received.body.extend_from_slice(&data),
                        Err(frame) => {
                            received.trailers = self::fields(&frame.into_trailers().expect("a frame of trailers"));
                        }
                    },
                    Some(Err(error)) => {
                        let mut why: Option<&dyn Error> = Some(&error);
                        while let Some(error) = why {
                            let _ = write!(received.error, "{error}; ");
                            why = error.source();
                        }
                        return received;
                    }
                    None => return Received { complete: true, ..received },
                }
            }
        })
    }

    /// Returns the next frame of a body, or `None` at the end of the body or at an error.
    pub fn frame(&self, body: &mut Incoming) -> Option<Frame<Bytes>> {
        let waiting = async { tokio::time::timeout(LONG, body.frame()).await };
        self.tokio.block_on(waiting).expect("the next frame in time").and_then(Result::ok)
    }

    /// Sends a GET request and cancels the request when `until` returns true.
    pub fn leave(&mut self, target: &str, mut until: impl FnMut() -> bool) {
        let request = hyper::Request::get(format!("http://shim.test{target}")).body(Pieces::default());
        let sending = self.sender.send_request(request.expect("a request"));
        self.tokio.block_on(async {
            let mut sending = std::pin::pin!(sending);
            let end = Instant::now() + LONG;
            while !until() {
                assert!(Instant::now() < end, "`until` did not return true within {LONG:?}");
                let waited = tokio::time::timeout(Duration::from_millis(2), sending.as_mut()).await;
                assert!(waited.is_err(), "a response arrived before the request was cancelled: {waited:?}");
            }
        });
    }

    /// Drives the connection for a millisecond. Always returns true, so that a condition for [`super::wait_until`] can
    /// contain the call.
    pub fn drive(&self) -> bool {
        self.tokio.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
        true
    }
}
