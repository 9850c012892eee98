//! Serves one connection: without hyper while its requests are plain (`plain.rs`), otherwise with hyper. Applies the
//! configured limits, the connection's deadline and the drain (`drain.rs`). An HTTP/1.1 connection that waits for a
//! request is parked after a short time: its state and hyper's buffers are freed until the next bytes arrive.

use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::http2;
use hyper_util::rt::TokioIo;

use super::batched::{Batch, Batched, batched};
use super::connection_limits::{Limits, StreamExecutor};
use super::endings::{expired, has_expired, shut_down, watch};
use super::lazy::Lazy;
use super::permit::ConnectionPermit;
use super::plain::{Served, serve_plain};
use super::requests::{Requests, Streams};
use super::sniff::{Sniffed, sniff};
use super::state::{Purpose, State};
use super::tls::{Begun, begin};
use super::watched::{Socket, Watched};
use super::worker::Worker;
use crate::clock::{self, Deadline};
use crate::ids::Reason;
use crate::intake::server_tls::ServerTls;
use crate::runtime::EdgeService;
use crate::wire::forwarded::{Peer, Scheme};

/// The longest time that edgeshim waits for the peer to close the connection after a truncated HTTP/1.0 response on a
/// unix socket. nginx, for example, closes the connection after 60 seconds.
const CUT_RESPONSE_LIMIT: Duration = Duration::from_mins(10);

/// Serves a connection with TLS until it ends.
pub(super) async fn serve_tls<E: EdgeService>(
    stream: Lazy,
    address: IpAddr,
    tls: Arc<ServerTls>,
    worker: Arc<Worker<E>>,
    permit: ConnectionPermit,
) {
    let state = Arc::new(State::new(worker.limits(), permit));
    // The box keeps the task small after the handshake.
    let begun = Box::pin(begin(stream, &tls, &state, state.limits.proxy_protocol)).await;
    // While a reference to `tls` exists, the thread that follows the certificate files runs. A long connection must not
    // keep the thread of an old configuration running.
    drop(tls);
    let Begun { mut stream, source, certificate, is_h2 } = match begun {
        Ok(begun) => begun,
        Err(error) => {
            if error.kind() == io::ErrorKind::InvalidData {
                worker.refused(Reason::Malformed);
            }
            return;
        }
    };
    state.await_head();
    let sniffed = match sniff(&mut stream, &state, false).await {
        Ok(sniffed) if is_h2.is_none_or(|is_h2| is_h2 == sniffed.is_h2) => sniffed,
        other => {
            match other {
                // The client does not send the protocol that ALPN selected.
                Ok(_) => worker.refused(Reason::Malformed),
                Err(error) => refused_start(&error, &worker),
            }
            shut_down(&mut stream).await;
            return;
        }
    };
    let address = source.unwrap_or(address);
    let peer = match certificate {
        None => worker.peers.peer(address, Scheme::Https),
        Some(certificate) => Arc::new(Peer::new(address, Scheme::Https).with_certificate(Arc::new(certificate))),
    };
    serve_requests(&mut Some(stream), sniffed.prefix.freeze(), sniffed.is_h2, Requests { worker, peer, state }).await;
}

/// Counts the refusal of a connection whose first bytes do not arrive in time or are malformed.
fn refused_start<E: EdgeService>(error: &io::Error, worker: &Worker<E>) {
    if error.kind() == io::ErrorKind::TimedOut {
        worker.refused(Reason::HeaderTimeout);
    } else if error.kind() == io::ErrorKind::InvalidData {
        worker.refused(Reason::Malformed);
    }
}

/// Serves a connection without TLS until it ends. An idle connection keeps this future, so the future has few fields.
pub(super) fn serve<E: EdgeService>(
    stream: Lazy,
    address: IpAddr,
    worker: Arc<Worker<E>>,
    permit: ConnectionPermit,
) -> impl Future<Output = ()> {
    let state = Arc::new(State::new(worker.limits(), permit));
    let mut parked = Some(stream);
    async move {
        let Some(stream) = &mut parked else { return };
        let Sniffed { prefix, is_h2, source } = match sniff(stream, &state, state.limits.proxy_protocol).await {
            Ok(sniffed) => sniffed,
            Err(error) => return refused_start(&error, &worker),
        };
        let peer = worker.peers.peer(source.unwrap_or(address), Scheme::Http);
        serve_requests(&mut parked, prefix.freeze(), is_h2, Requests { worker, peer, state }).await;
    }
}

/// Serves the requests of a connection whose protocol is known. `prefix` has the bytes that were already read. At the
/// call and while the connection is parked, the stream is in `parked`. If the stream were an argument, the future of
/// the caller, which an idle connection keeps, would have room for a second stream.
#[expect(
    clippy::manual_async_fn,
    reason = "an async function would store each argument twice, and an idle connection keeps this future"
)]
fn serve_requests<S, E>(
    parked: &mut Option<S>,
    mut prefix: Bytes,
    is_h2: bool,
    service: Requests<E>,
) -> impl Future<Output = ()>
where
    S: Socket,
    E: EdgeService,
{
    async move {
        if is_h2 {
            service.state.begin_h2();
        }
        // After a flood, the next bytes lead to an error.
        let _ = service.state.received(&prefix);
        if is_h2 {
            let Some(stream) = parked.take() else { return };
            let (stream, batch) = batched(Watched::new(stream, prefix, Arc::clone(&service.state)));
            let limits = Arc::clone(&service.state.limits);
            let connection = limits.http2.serve_connection(TokioIo::new(stream), Streams(service.clone()));
            Box::pin(drive_h2(connection, batch, &service.state, &service.worker)).await;
            return;
        }
        // When a parked connection gets bytes again, it gets the limits of the configuration that is active then.
        let mut later = None;
        loop {
            let Some(stream) = parked.take() else { return };
            // The boxes keep the task small. So the task is cheap to move before it runs, and a parked connection needs
            // little memory.
            *parked = {
                let limits: &Limits = later.as_deref().unwrap_or(&service.state.limits);
                // No arm of this match waits. If one waited, the future would keep the result of the plain server.
                let hyper = match driven_plain(stream, std::mem::take(&mut prefix), limits, &service).await {
                    Served::Parked(stream) => Err(stream),
                    Served::Odd(odd, received) => Ok(driven_h1(odd, received, limits, &service)),
                    Served::Ended => return,
                };
                match hyper {
                    Ok(connection) => connection.await,
                    Err(stream) => Some(stream),
                }
            };
            let Some(stream) = parked else { return };
            if service.state.is_open_ended() {
                Box::pin(wait_for_peer(stream, &service.state)).await;
                return;
            }
            service.state.arm(Purpose::Idle, service.state.idle_left());
            if !has_input(stream, &service.state).await {
                // With TLS, the shutdown sends close_notify.
                shut_down(stream).await;
                return;
            }
            service.state.disarm();
            later = Some(service.worker.limits());
        }
    }
}

/// Waits for input on a parked connection. Returns `true` if there is input or the connection has ended.
/// Returns `false` after `server.idle_timeout` or, during the drain, after [`LEAVE_AFTER`](super::state::LEAVE_AFTER).
async fn has_input<S: Socket>(stream: &mut S, state: &State) -> bool {
    poll_fn(|cx| {
        state.deadline.watch(cx);
        if state.permit.is_closing() {
            state.leave();
        }
        match stream.poll_readable(cx) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if state.deadline.is_due() => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Waits until the peer has closed the connection or has sent bytes. Waits for at most [`CUT_RESPONSE_LIMIT`], and
/// stops when the connection must end. edgeshim cannot choose to reset a unix socket, so a truncated HTTP/1.0 response
/// would look complete if edgeshim closed the connection first. If the peer has sent bytes that edgeshim has not read,
/// the kernel reports a reset to the peer at the close, so no further wait is necessary.
async fn wait_for_peer<S: Socket>(stream: &mut S, state: &State) {
    let deadline = Deadline::new();
    deadline.arm(CUT_RESPONSE_LIMIT);
    poll_fn(|cx| {
        deadline.watch(cx);
        let over = state.permit.is_closing() || deadline.is_due();
        if over || stream.poll_readable(cx).is_ready() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Calls [`serve_plain`], and boxes its future.
fn driven_plain<'a, S: Socket, E: EdgeService>(
    stream: S,
    prefix: Bytes,
    limits: &'a Limits,
    service: &'a Requests<E>,
) -> Pin<Box<impl Future<Output = Served<S>> + 'a>> {
    // The future is created in the box, as in `driven_h1`.
    let place = Box::new_uninit();
    Box::into_pin(Box::write(place, begin_plain(stream, prefix, limits, service)))
}

#[inline(never)]
fn begin_plain<'a, S: Socket, E: EdgeService>(
    stream: S,
    prefix: Bytes,
    limits: &'a Limits,
    service: &'a Requests<E>,
) -> impl Future<Output = Served<S>> + 'a {
    serve_plain(stream, prefix, limits, service)
}

/// Calls [`drive_h1`], and boxes its future.
fn driven_h1<'a, S: Socket, E: EdgeService>(
    stream: S,
    prefix: Bytes,
    limits: &'a Limits,
    service: &'a Requests<E>,
) -> Pin<Box<impl Future<Output = Option<S>> + 'a>> {
    // The box exists before the future, and the future comes from a call. So the future can be created in the box.
    // Otherwise the future, which has more than a KiB, would be created on the stack and copied to the box.
    let place = Box::new_uninit();
    Box::into_pin(Box::write(place, begin_h1(stream, prefix, limits, service)))
}

#[inline(never)]
fn begin_h1<'a, S: Socket, E: EdgeService>(
    stream: S,
    prefix: Bytes,
    limits: &'a Limits,
    service: &'a Requests<E>,
) -> impl Future<Output = Option<S>> + 'a {
    drive_h1(stream, prefix, limits, service)
}

/// Serves a connection with hyper until it ends. `prefix` has the bytes that were already read. hyper's connection is
/// made here, in its final place, because each move would copy more than a KiB. Returns the stream if the connection
/// can be parked, or if edgeshim must wait until the peer closes the connection.
async fn drive_h1<S, E>(stream: S, prefix: Bytes, limits: &Limits, service: &Requests<E>) -> Option<S>
where
    S: Socket,
    E: EdgeService,
{
    let (state, worker) = (&*service.state, &*service.worker);
    let io = TokioIo::new(Watched::new(stream, prefix, Arc::clone(&service.state)));
    let mut connection = limits.http1.serve_connection(io, service).with_upgrades();
    let mut closing = false;
    let ended = poll_fn(|cx| {
        watch(state, cx);
        loop {
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Some(ended));
            }
            if closing || !state.is_leaving() || !state.is_busy() {
                break;
            }
            // The response in progress becomes the last response on this connection. A connection without a request is
            // not shut down here. Such a connection stays open for a short time, because a request head can be on its
            // way and hyper would close the connection without reading that head.
            closing = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        if !has_expired(state) {
            return Poll::Pending;
        }
        Poll::Ready(None)
    })
    .await;
    if let Some(Err(error)) = &ended {
        if error.is_parse() {
            worker.refused(Reason::Malformed);
        }
        tracing::debug!(%error, "a client connection ended with an error");
    }
    if state.is_open_ended() {
        let mut stream = connection.into_parts()?.io.into_inner().into_stream();
        if state.awaits_only_rest() {
            // The response is complete and the client has stopped sending, so the connection is closed in an orderly
            // way.
            stream.reset_at_close(false);
            shut_down(&mut stream).await;
            return None;
        }
        // Dropping the stream resets the connection. If the socket type has no reset, the caller waits until the peer
        // closes the connection.
        return (!stream.reset_at_close(true)).then_some(stream);
    }
    match ended {
        // Between two requests hyper's buffer is empty or contains only empty lines, which can be dropped.
        None => expired(connection.into_parts()?.io.into_inner().into_stream(), state, worker).await,
        Some(_) => None,
    }
}

/// Returns whether the codec (h2) has ended an HTTP/2 connection because the client sends too many frames of one kind,
/// for example DATA frames that are empty or have only padding.
fn is_flood(error: &hyper::Error) -> bool {
    let codec = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    codec.is_some_and(|codec| codec.is_library() && codec.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM))
}

async fn drive_h2<S, E>(
    mut connection: http2::Connection<TokioIo<Batched<Watched<S>>>, Streams<E>, StreamExecutor>,
    batch: Batch<Watched<S>>,
    state: &State,
    worker: &Worker<E>,
) where
    S: Socket,
    E: EdgeService,
{
    let mut closing = false;
    poll_fn(|cx| {
        state.deadline.watch(cx);
        if state.permit.is_closing() {
            if !closing {
                closing = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            // An idle connection is closed after a short wait, even if the client ignores GOAWAY.
            state.leave();
        }
        if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
            let is_flooded = state.is_flooded() || ended.as_ref().is_err_and(is_flood);
            if is_flooded {
                worker.refused(Reason::Flood);
            }
            if let Err(error) = ended {
                tracing::debug!(%error, "a client connection ended with an error");
            }
            return Poll::Ready(());
        }
        if let Poll::Ready(Err(error)) = batch.poll_send(cx) {
            tracing::debug!(%error, "a client connection ended with an error");
            return Poll::Ready(());
        }
        if !state.deadline.is_due() {
            return Poll::Pending;
        }
        match state.purpose() {
            Purpose::Idle if state.is_busy() => state.disarm(),
            // The idle timeout has passed: send GOAWAY now, and close after a short wait.
            Purpose::Idle if !closing => {
                closing = true;
                Pin::new(&mut connection).graceful_shutdown();
                state.arm(Purpose::Idle, clock::TICK * 10);
                cx.waker().wake_by_ref();
            }
            purpose => {
                if purpose == Purpose::Head {
                    worker.refused(Reason::HeaderTimeout);
                }
                return Poll::Ready(());
            }
        }
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin;
    use crate::runtime::Runtime;

    /// Returns the size of the future that [`serve`] returns with the layers of `stack`.
    fn task_bytes<E: EdgeService>(
        _: impl Fn(&Runtime, Option<&Arc<origin::Client>>) -> (E, Arc<origin::Client>),
    ) -> usize {
        fn result_bytes<A, B, C, D, R>(_: impl Fn(A, B, C, D) -> R) -> usize {
            size_of::<R>()
        }
        result_bytes(serve::<E>)
    }

    #[test]
    fn task_of_a_connection_when_measured_then_leaves_room_for_the_header_of_the_runtime() {
        // tokio adds about 100 bytes to a task, and rounds the size up to a multiple of 128.
        let bytes = task_bytes(Runtime::stack);
        assert!(bytes <= 272, "an idle connection keeps a future of {bytes} bytes");
    }
}
