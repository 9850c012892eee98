//! The order of the layers: **the** place where it is written down.
//!
//! A request goes through the list from top to bottom, its answer from bottom to top. Every layer is always ready, so a stack may be
//! called without asking; the test at the foot holds that and the order.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{HeaderMap, HeaderName, HeaderValue, Method, request};
use http_body::Body as _;
use tower::{Service, ServiceBuilder};

use super::admission::{AdmissionBody, AdmissionLayer, AdmissionSettings};
use super::cache_control::{CacheControlLayer, ProviderRules};
use super::gzip::{GzipBody, GzipLayer, GzipMemory, GzipSettings};
use super::identify::{IdentifyLayer, IdentifySettings};
use super::local::{LocalBody, LocalLayer, LocalParts};
use super::observe::{ObserveBody, ObserveLayer, ObserveParts};
use super::pulls::{PullsBody, PullsLayer, PullsSettings};
use super::request::class::Classes;
use super::request::{Ctx, EdgeBody, EdgeRequest, EdgeResponse, Facts, Tally};
use super::verify::{VerifyLayer, VerifySettings};
use super::whoopsie::{WhoopsieBody, WhoopsieLayer, WhoopsieSettings};
use crate::cdn::known::{self, Known};
use crate::fault::{Begun, Fault};
use crate::ids::ProviderId;
use crate::metrics::Ledger;
use crate::origin::{self, OriginBody, forward};
use crate::pages::Pages;
use crate::wire::forwarded::Peer;
use crate::wire::names::{CONTENT_LENGTH, SERVER_TIMING};
use crate::wire::server_timing::ServerTiming;

/// The body of an answer when it leaves the last layer.
pub(crate) type AnswerBody = ObserveBody<LocalBody<PullsBody<WhoopsieBody<GzipBody<AdmissionBody<OriginBody>>>>>>;

/// The layers of one configuration, made once and shared by its workers.
#[derive(Clone)]
pub(crate) struct Layers {
    observe: ObserveLayer,
    identify: IdentifyLayer,
    local: LocalLayer,
    verify: VerifyLayer,
    pulls: PullsLayer,
    whoopsie: WhoopsieLayer,
    gzip: GzipLayer,
    cache_control: CacheControlLayer,
    admission: AdmissionLayer,
    forward: Arc<ForwardSettings>,
}

/// What the layers are made of.
pub(crate) struct Parts {
    /// `observe`'s.
    pub observe: ObserveParts,
    /// `identify`'s.
    pub identify: IdentifySettings,
    /// `local`'s.
    pub local: LocalParts,
    /// `verify`'s.
    pub verify: VerifySettings,
    /// The configured providers, in the order of their ids.
    pub providers: Arc<[Known]>,
    /// `pulls`'.
    pub pulls: PullsSettings,
    /// `whoopsie`'s.
    pub whoopsie: WhoopsieSettings,
    /// The pages.
    pub pages: Arc<Pages>,
    /// `gzip`'s.
    pub gzip: GzipSettings,
    /// What `gzip` remembers, shared by all workers.
    pub gzip_memory: GzipMemory,
    /// `admission`'s.
    pub admission: AdmissionSettings,
    /// The classes and their rules.
    pub classes: Classes,
    /// What each provider wants beside them, in the order of the ids.
    pub provider_rules: Vec<ProviderRules>,
    /// `origin.host`; none: the visitor's.
    pub host: Option<HeaderValue>,
    /// The origin's own authority, for a request without a Host.
    pub fallback_host: HeaderValue,
    /// Whether browsers are told which CDN served them (Server-Timing).
    pub server_timing: bool,
    /// Where everything is counted.
    pub ledger: Ledger,
}

/// What the origin is told, and the browser of how long it took.
pub(crate) struct ForwardSettings {
    identity: HeaderName,
    claims: Vec<HeaderName>,
    /// The names that the origin is told, by position.
    providers: Vec<HeaderValue>,
    host: Option<HeaderValue>,
    fallback_host: HeaderValue,
    loop_id: HeaderValue,
    server_timing: Option<ServerTiming>,
}

impl ForwardSettings {
    pub(crate) fn new(parts: &Parts) -> Self {
        let providers = parts.providers.iter();
        Self {
            identity: parts.identify.header.clone(),
            claims: known::claims(&parts.identify.header, &parts.providers).cloned().collect(),
            providers: providers.filter_map(|known| HeaderValue::from_str(&known.name).ok()).collect(),
            host: parts.host.clone(),
            fallback_host: parts.fallback_host.clone(),
            loop_id: HeaderValue::from_static(super::observe::PSEUDONYM),
            server_timing: parts.server_timing.then(|| ServerTiming::new(parts.ledger.providers())),
        }
    }

    /// Makes a request's head ready for the origin.
    pub(crate) fn write(&self, head: &mut request::Parts, ctx: &Ctx, peer: &Peer, bodiless: bool) {
        let outward = forward::Outward {
            peer,
            trail: ctx.trail,
            identity: &self.identity,
            claims: &self.claims,
            provider: ctx.provider.position().and_then(|position| self.providers.get(position)),
            host: self.host.as_ref(),
            fallback_host: &self.fallback_host,
            loop_id: &self.loop_id,
            trailers: ctx.takes_trailers,
        };
        forward::outbound(head, &outward);
        if bodiless && head.method == Method::GET {
            // `Content-Length: 0` on a GET says nothing, and some origins wonder about it.
            head.headers.remove(CONTENT_LENGTH);
        }
    }

    /// Tells the browser which CDN served it and how long the origin took. On a 304 too: it renews what a browser has kept (RFC 9111
    /// §4.3.4), and another CDN may have brought that.
    pub(crate) fn tell_timing(&self, headers: &mut HeaderMap, provider: ProviderId, micros: u32) {
        if let Some(timing) = &self.server_timing
            && let Some(value) = timing.value(provider.index(), micros)
        {
            headers.append(&SERVER_TIMING, value);
        }
    }
}

impl Layers {
    /// Prepares every layer.
    pub(crate) fn new(parts: Parts) -> Self {
        let forward = ForwardSettings::new(&parts);
        let ledger = Arc::new(parts.ledger);
        let classes = Arc::new(parts.classes);
        Self {
            observe: ObserveLayer::new(parts.observe, Arc::clone(&classes), Arc::clone(&ledger)),
            identify: IdentifyLayer::new(parts.identify, Arc::clone(&parts.providers)),
            local: LocalLayer::new(parts.local, Arc::clone(&ledger)),
            verify: VerifyLayer::new(parts.verify, parts.providers),
            pulls: PullsLayer::new(parts.pulls, Arc::clone(&ledger)),
            whoopsie: WhoopsieLayer::new(parts.whoopsie, parts.pages, Arc::clone(&classes), Arc::clone(&ledger)),
            gzip: GzipLayer::new(parts.gzip, parts.gzip_memory, Arc::clone(&classes), Arc::clone(&ledger)),
            cache_control: CacheControlLayer::new(&classes, parts.provider_rules, Arc::clone(&ledger)),
            admission: AdmissionLayer::new(parts.admission, &classes),
            forward: Arc::new(forward),
        }
    }

    /// The stack over one worker's way to the origin, outermost layer first.
    pub(crate) fn over(
        &self,
        origin: Arc<origin::Client>,
    ) -> impl Service<Box<EdgeRequest>, Response = EdgeResponse<AnswerBody>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + use<> {
        let forward = Arc::clone(&self.forward);
        let leaf = Leaf { call: move |request| to_origin(Arc::clone(&origin), Arc::clone(&forward), request) };
        // The order is important. Outermost first; each with the reason for its place.
        ServiceBuilder::new()
            // observe: a head that can be read in two ways goes no further; everything below has one id.
            .layer(&self.observe)
            // identify: the provider decides how all that follows is counted and answered.
            .layer(&self.identify)
            // local: beacons come from browsers, so before anything that is asked of a CDN.
            .layer(&self.local)
            // verify: a claim is held against its proofs before it is counted.
            .layer(&self.verify)
            // pulls: counts what is sent, pages and refusals too.
            .layer(&self.pulls)
            // whoopsie: from here outwards nothing fails; its pages pass neither gzip nor the cache policy.
            .layer(&self.whoopsie)
            // gzip: works on what the policy has let through, so that Vary and ETag come last.
            .layer(&self.gzip)
            // cache_control: sees the origin's own fields.
            .layer(&self.cache_control)
            // admission: what it lets through is at the origin, and nothing else is.
            .layer(&self.admission)
            .service(leaf)
    }
}

/// The innermost service: the origin itself.
#[derive(Clone)]
struct Leaf<C> {
    call: C,
}

impl<C, F> Service<Box<EdgeRequest>> for Leaf<C>
where
    C: Fn(Box<EdgeRequest>) -> F,
    F: Future<Output = Result<EdgeResponse<OriginBody>, Fault>>,
{
    type Response = EdgeResponse<OriginBody>;
    type Error = Fault;
    type Future = F;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Box<EdgeRequest>) -> F {
        (self.call)(request)
    }
}

async fn to_origin(
    origin: Arc<origin::Client>,
    settings: Arc<ForwardSettings>,
    request: Box<EdgeRequest>,
) -> Result<EdgeResponse<OriginBody>, Fault> {
    let EdgeRequest { ctx, peer, mut head, body, .. } = *request;
    settings.write(&mut head, &ctx, &peer, body.is_end_stream());
    let sent = Instant::now();
    let answered = origin.call(head, body).await;
    let micros = u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX);
    let (mut head, body) = match answered {
        Ok(response) => response.into_parts(),
        Err(fault) => {
            return Err(match fault.begun() {
                Some(begun) => fault.after(Begun { micros, ..begun }),
                None => fault,
            });
        }
    };
    settings.tell_timing(&mut head.headers, ctx.provider, micros);
    let facts = Facts { origin_status: Some(head.status.as_u16()), origin_us: Some(micros), ..Facts::new(ctx.class) };
    Ok(EdgeResponse { head, body, facts })
}

impl EdgeBody for OriginBody {
    fn tally(&self) -> Tally {
        Tally { origin_bytes: self.bytes(), fault: self.fault() }
    }

    fn drain(&mut self) -> bool {
        OriginBody::drain(self)
    }
}

#[cfg(test)]
mod tests {
    use tower::Layer;

    use super::*;

    /// The file's own text above this module: what is written there is what is built.
    fn source() -> &'static str {
        include_str!("pipeline.rs").split("#[cfg(test)]").next().unwrap()
    }

    #[test]
    fn layers_when_stacked_then_in_the_order_that_the_contract_gives() {
        let order =
            ["observe", "identify", "local", "verify", "pulls", "whoopsie", "gzip", "cache_control", "admission"];
        let stacked = source().split("// The order is important.").nth(1).unwrap();
        let bare: String = stacked.split_whitespace().collect();
        for (what, places) in [
            ("each layer's reason", order.map(|layer| stacked.find(&format!("// {layer}: ")).unwrap())),
            ("each layer", order.map(|layer| bare.find(&format!(".layer(&self.{layer})")).unwrap())),
        ] {
            assert!(places.is_sorted(), "{what}, in the order of the contract");
        }
    }

    #[test]
    fn body_when_it_leaves_then_wrapped_in_the_same_order() {
        // The alias would not compile in another order; this holds its size, which every answer's task carries.
        let size = size_of::<AnswerBody>();
        assert!(size <= 640, "{size} bytes");
        assert!(size_of::<Facts>() <= 64, "{} bytes", size_of::<Facts>());
        assert!(size_of::<crate::edge::request::Ctx>() <= 80, "{} bytes", size_of::<crate::edge::request::Ctx>());
    }

    #[test]
    fn layer_when_asked_whether_it_is_ready_then_always() {
        #[derive(Clone)]
        struct Never;
        impl Service<Box<EdgeRequest>> for Never {
            type Response = EdgeResponse<OriginBody>;
            type Error = Fault;
            type Future = std::future::Pending<Result<Self::Response, Fault>>;
            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Fault>> {
                Poll::Ready(Ok(()))
            }
            fn call(&mut self, _: Box<EdgeRequest>) -> Self::Future {
                std::future::pending()
            }
        }
        fn ready<S: Service<Box<EdgeRequest>>>(mut service: S) -> bool {
            service.poll_ready(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
        }
        let layers = layers();
        let inner = || layers.gzip.layer(layers.cache_control.layer(layers.admission.layer(Never)));
        assert!(ready(layers.admission.layer(Never)));
        assert!(ready(layers.cache_control.layer(Never)));
        assert!(ready(inner()));
        let page = || layers.whoopsie.layer(inner());
        assert!(ready(page()));
        assert!(ready(layers.verify.layer(layers.pulls.layer(page()))));
        assert!(ready(layers.observe.layer(layers.identify.layer(layers.local.layer(layers.pulls.layer(page()))))));
    }

    fn layers() -> Layers {
        let metrics: &'static crate::metrics::Metrics = Box::leak(Box::new(crate::metrics::Metrics::new().unwrap()));
        Layers::new(Parts {
            observe: ObserveParts {
                settings: crate::edge::observe::ObserveSettings::default(),
                limits: origin::MessageLimits::default(),
                log: None,
            },
            identify: IdentifySettings::default(),
            verify: VerifySettings::default(),
            providers: Arc::default(),
            pulls: PullsSettings { request_ids: Vec::new(), attempts: Arc::default() },
            local: LocalParts {
                beacon: crate::edge::local::BeaconSettings::default(),
                rum: crate::edge::local::RumSettings::default(),
                providers: Arc::default(),
                sources: Vec::new(),
                countries: None,
                body_timeout: std::time::Duration::from_mins(1),
            },
            whoopsie: WhoopsieSettings::default(),
            pages: Arc::new(Pages::build(&crate::pages::PageSettings::default()).unwrap()),
            gzip: GzipSettings::default(),
            gzip_memory: GzipMemory::new(0),
            admission: AdmissionSettings { gate: None, patience: std::time::Duration::from_secs(30) },
            classes: Classes::new(Vec::new()).unwrap(),
            provider_rules: Vec::new(),
            host: None,
            fallback_host: HeaderValue::from_static("localhost"),
            server_timing: false,
            ledger: metrics.ledger(&crate::metrics::Labels::default()),
        })
    }
}
