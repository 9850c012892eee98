//! Passes one request from the layers to the origin, and passes the response back.

use std::any::Any;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use http::{Method, Request, Response, StatusCode, Version, request, response};
use hyper::body::Body as _;
use hyper::upgrade::OnUpgrade;

use super::body::{OriginBody, Source};
use super::client::Client;
use super::connection::{Connection, Content};
use super::forward;
use super::tunnel::{self, Tunnel};
use super::upload::{Progress, Upload};
use crate::fault::{Begun, Fault};
use crate::wire::added_fields::AddedFields;
use crate::wire::head_fields::Names;
use crate::wire::names::HOST;
use crate::wire::received::Received;
use crate::wire::values;

/// The permit by which `serve` counts the client's connection. `serve` puts the permit into the extensions of each
/// request that asks for an upgrade. If the connection is upgraded, the permit is dropped when the tunnel has ended.
#[derive(Clone)]
pub(crate) struct Hold(
    #[expect(dead_code, reason = "only the drop of this value has an effect")] Arc<dyn Any + Send + Sync>,
);

impl Hold {
    pub(crate) fn new(held: Arc<dyn Any + Send + Sync>) -> Self {
        Self(held)
    }
}

/// A response of the origin, as the layers get it.
#[derive(Debug)]
pub(crate) struct OriginResponse<B> {
    pub(crate) head: response::Parts,
    /// The set of the field names in `head`. It can have too many names.
    pub(crate) names: Names,
    pub(crate) body: B,
}

/// A request that is ready to be sent, and what is needed until its response arrives.
struct Outgoing {
    request: Request<Upload>,
    progress: Option<Arc<Progress>>,
    /// Whether the request may be sent twice.
    replayable: bool,
    /// The client's side of an upgrade, if the request asks for an upgrade.
    client: Option<(OnUpgrade, Option<Hold>)>,
    is_head: bool,
}

impl Client {
    /// Sends a request whose head is ready for the origin (see [`forward`]), except for the fields `added`.
    ///
    /// # Errors
    /// Returns a [`Fault`]. Its cause is the failure of the origin or of the client. The fault has already been
    /// counted.
    pub(crate) async fn call(
        self: Arc<Self>,
        head: request::Parts,
        added: Option<AddedFields>,
        body: Received,
    ) -> Result<OriginResponse<OriginBody>, Fault> {
        let Outgoing { mut request, progress, replayable, client, is_head } = self.outgoing(head, added, body);
        self.budget.earn();
        let response = match self.dispatch(&mut request, progress.as_deref(), replayable).await {
            Ok((response, connection)) => Arc::clone(&self).accept(response, connection, client, is_head),
            Err(fault) => Err(fault),
        };
        let mut response = response.inspect_err(|fault| self.count(fault))?;
        let begun = Begun { status: response.head.status.as_u16(), micros: 0, bytes: 0 };
        poll_fn(|cx| Poll::Ready(response.body.begin(cx))).await.map_err(|fault| fault.after(begun))?;
        Ok(response)
    }

    /// Makes the request for `dispatch`. If this function were a part of `call`, the future of `call` would contain
    /// further copies of the head and the body.
    fn outgoing(&self, mut head: request::Parts, added: Option<AddedFields>, body: Received) -> Outgoing {
        let hold = head.extensions.remove::<Hold>();
        let client =
            head.extensions.remove::<OnUpgrade>().filter(|_| forward::asks_upgrade(&head)).map(|on| (on, hold));
        if let Some(host) = &self.host {
            head.headers.insert(HOST, host.clone());
        }
        let upload = Upload::new(body, added, &self.settings.upstream.limits, &self.settings.claims);
        let progress = upload.progress();
        let replayable = head.method.is_idempotent() && upload.is_end_stream() && client.is_none();
        let is_head = head.method == Method::HEAD;
        let mut request = Request::from_parts(head, upload);
        forward::frame(&mut request);
        Outgoing { request, progress, replayable, client, is_head }
    }

    /// Checks the origin's response and prepares it for the layers. If the response has no body, its HTTP/1.1
    /// connection returns to the pool at once. If the head of such a response wrongly announces a body, the connection
    /// is closed.
    fn accept(
        self: Arc<Self>,
        mut response: Response<Content>,
        mut connection: Option<Box<Connection>>,
        client: Option<(OnUpgrade, Option<Hold>)>,
        is_head: bool,
    ) -> Result<OriginResponse<OriginBody>, Fault> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some((client, hold)) = client else {
                return Err(forward::unexpected_upgrade());
            };
            forward::check_size(&response, &self.settings.upstream.limits)?;
            let origin = hyper::upgrade::on(&mut response);
            let tunnel = Arc::new(Tunnel::default());
            response.extensions_mut().insert(Arc::clone(&tunnel));
            let timeout = self.settings.upstream.limits.tunnel_timeout;
            tokio::spawn(async move {
                // While these values exist, the metrics count both connections, and the drain waits for the client's
                // connection.
                let _held = (hold, connection);
                tunnel::carry(tunnel, client, origin, timeout).await;
            });
            let (head, _) = response.into_parts();
            let body = OriginBody::new(Source::empty(), None, self);
            return Ok(OriginResponse { names: Names::of(&head.headers), head, body });
        }
        if response.version() == Version::HTTP_2 {
            values::trim(response.headers_mut());
        }
        forward::check_size(&response, &self.settings.upstream.limits)?;
        if let Content::Hyper(_) = response.body() {
            // For a plain exchange, the parser has already made these checks.
            forward::check_response(&mut response)?;
        }
        let (mut head, content) = response.into_parts();
        let is_empty = is_head || forward::is_bodiless(head.status);
        if is_empty && !is_head && head.status != StatusCode::NOT_MODIFIED && forward::declares_content(&head.headers) {
            // It is unknown whether the origin sends the announced body. So no later response can be read safely on
            // this connection.
            connection = None;
        }
        let body = match content {
            _ if is_empty => Source::empty(),
            Content::Plain(left) => Source::Plain { left },
            Content::Hyper(incoming) => Source::Hyper(Box::new(Received::new(incoming, head.version))),
        };
        let names = forward::clean_response(&mut head, is_head);
        Ok(OriginResponse { head, names, body: OriginBody::new(body, connection, self) })
    }
}
