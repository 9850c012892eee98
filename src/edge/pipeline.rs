//! The order of the layers, which only this file defines.
//!
//! A request passes the list of layers from top to bottom, and its response passes the list from bottom to top. Every
//! layer is always ready, so the stack is called without `poll_ready`. The tests below check the order, and that every
//! layer is ready.

use std::convert::Infallible;
use std::sync::Arc;

use tower::{Service, ServiceBuilder};

use super::admission::{AdmissionBody, AdmissionLayer, AdmissionParts};
use super::assign::Assigner;
use super::assign::experiment_keys::ExperimentSettings;
use super::cache_control::{CacheControlLayer, ProviderRules};
use super::gzip::{GzipBody, GzipLayer, GzipMemory, GzipSettings};
use super::identify::{Identifier, IdentifySettings};
use super::leaf::{Leaf, LeafParts, Origin, PreparedLeaf, boxed};
use super::local::{LocalBody, LocalLayer, LocalParts};
use super::observe::{ObserveBody, ObserveLayer, ObserveParts};
use super::pulls::{PullsBody, PullsLayer, PullsParts};
use super::recorder::Recorder;
use super::request::class::Classes;
use super::request::inspect::InspectLayer;
use super::request::{EdgeRequest, EdgeResponse};
use super::verify::{Verifier, VerifySettings};
use super::whoopsie::{WhoopsieBody, WhoopsieLayer, WhoopsieSettings};
use crate::cdn::known::Known;
use crate::metrics::Ledger;
use crate::origin::{Client, OriginBody};
use crate::pages::Pages;

/// The body of a response that has passed all layers.
pub(crate) type StackBody<B = OriginBody> = ObserveBody<LocalBody<PullsBody<WhoopsieBody<GzipBody<AdmissionBody<B>>>>>>;

/// The settings and the shared objects from which the layers are built.
pub(crate) struct Parts {
    pub observe: ObserveParts,
    pub identify: IdentifySettings,
    pub local: LocalParts,
    pub verify: VerifySettings,
    /// The configured providers, in the order of their ids.
    pub providers: Arc<[Known]>,
    pub pulls: PullsParts,
    pub whoopsie: WhoopsieSettings,
    pub pages: Arc<Pages>,
    pub gzip: GzipSettings,
    /// The memory of `gzip`, which all workers share.
    pub gzip_memory: GzipMemory,
    pub admission: AdmissionParts,
    pub leaf: LeafParts,
    pub classes: Classes,
    pub experiments: Vec<ExperimentSettings>,
    /// For each provider, the rules for its cache tags and response limits, in the order of the provider ids.
    pub provider_rules: Vec<ProviderRules>,
    pub ledger: Ledger,
}

/// Builds the stack of layers in front of an origin, outermost layer first. The macro `$wrap` receives the name and
/// the value of each layer, and returns the layer for the stack.
macro_rules! stack {
    ($parts:expr, $origin:expr, $wrap:ident) => {{
        let parts: Parts = $parts;
        let (classes, ledger) = (Arc::new(parts.classes), Arc::new(parts.ledger));
        let (origin, providers) = ($origin, parts.providers);
        let experiments = parts.experiments;
        let ids = experiments.iter().map(|experiment| experiment.id.header.clone()).collect();
        let prepared = Arc::new(PreparedLeaf::new(parts.leaf, &parts.identify.header, &providers, &ledger));
        // The order is important: the outermost layer comes first. The comment before each layer gives the reason for
        // its place.
        ServiceBuilder::new()
            // `observe` rejects a request whose head can be read in two ways, and adds an id to every other request
            // without a valid id. So the layers below can rely on an unambiguous head with an id.
            .layer($wrap!(observe, ObserveLayer::new(parts.observe, classes.clone(), ledger.clone())))
            // Most layers below depend on the provider or the dialect that `identify` finds.
            .layer($wrap!(identify, InspectLayer::new(Identifier::new(parts.identify, providers.clone()))))
            // Beacons come from browsers, so `local` responds to them before `verify` can mark a request without a
            // valid proof as refused.
            .layer($wrap!(local, LocalLayer::new(parts.local, providers.clone(), ledger.clone())))
            // `verify` checks a claimed provider before `pulls` counts a pull under that provider.
            .layer($wrap!(verify, InspectLayer::new(Verifier::new(parts.verify, providers.clone()))))
            // `assign` removes the parameters of overrides after `verify` has checked the CDN's signature of the
            // target, and before `pulls` stores the target.
            .layer($wrap!(assign, InspectLayer::new(Assigner::new(experiments, classes.clone(), providers, &ledger))))
            // `pulls` is outside of `whoopsie`, so that pages are counted like all other responses to pulls.
            .layer($wrap!(pulls, PullsLayer::new(parts.pulls, ledger.clone())))
            // `whoopsie` turns every failure below into a response. `whoopsie` is outside of `gzip` and
            // `cache_control`, so that these layers do not change the pages.
            .layer($wrap!(whoopsie, WhoopsieLayer::new(parts.whoopsie, parts.pages, classes.clone(), ledger.clone())))
            // A response passes `gzip` after `cache_control`, so that `gzip` writes Vary and ETag last.
            .layer($wrap!(gzip, GzipLayer::new(parts.gzip, parts.gzip_memory, classes.clone(), ledger.clone())))
            // `cache_control` reads the origin's header fields before another layer changes them.
            .layer($wrap!(cache_control, CacheControlLayer::new(&classes, parts.provider_rules, ids, ledger.clone())))
            // `admission` is next to the leaf, so that only requests that go to the origin take a permit.
            .layer($wrap!(admission, AdmissionLayer::new(parts.admission, &classes)))
            // Each layer moves the future of the layer below. The leaf's future has several KiB, so it is boxed.
            .service(Leaf { call: move |request| boxed(Arc::clone(&origin), Arc::clone(&prepared), request) })
    }};
}

/// Builds the stack of one worker in front of the worker's client for the origin.
pub(crate) fn stack(
    parts: Parts,
    origin: Arc<Client>,
) -> impl Service<Box<EdgeRequest>, Response = EdgeResponse<StackBody>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ use<> {
    macro_rules! as_it_is {
        ($name:ident, $layer:expr) => {
            $layer
        };
    }
    stack!(parts, origin, as_it_is)
}

/// Builds the same stack with a probe below each layer, for `explain`.
pub(crate) fn recorded_stack<O: Origin>(
    parts: Parts,
    origin: Arc<O>,
    recorder: &Recorder,
) -> impl Service<Box<EdgeRequest>, Response = EdgeResponse<StackBody<O::Body>>, Error = Infallible> {
    macro_rules! recorded {
        ($name:ident, $layer:expr) => {
            recorder.below(stringify!($name), $layer)
        };
    }
    stack!(parts, origin, recorded)
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use http::{HeaderValue, request};
    use tower::Layer;

    use super::*;
    use crate::edge::leaf::send;
    use crate::edge::request::{Ctx, Facts};
    use crate::fault::Fault;
    use crate::origin::OriginResponse;
    use crate::wire::added_fields::AddedFields;
    use crate::wire::forwarded::{Peer, Scheme};
    use crate::wire::names::HOST;
    use crate::wire::received::Received;

    const ORDER: &[&str] = &[
        "observe",
        "identify",
        "local",
        "verify",
        "assign",
        "pulls",
        "whoopsie",
        "gzip",
        "cache_control",
        "admission",
    ];

    /// An origin that never responds.
    struct Silent;

    impl Origin for Silent {
        type Body = OriginBody;

        async fn call(
            self: Arc<Self>,
            _: request::Parts,
            _: Option<AddedFields>,
            _: Received,
        ) -> Result<OriginResponse<OriginBody>, Fault> {
            std::future::pending().await
        }
    }

    #[test]
    fn stack_when_built_then_layers_are_in_the_listed_order() {
        let recorder = Recorder::default();
        let _stack = recorded_stack(parts(), Arc::new(Silent), &recorder);
        assert_eq!(recorder.take().layers, ORDER);
    }

    #[test]
    fn layer_line_when_in_stack_macro_then_previous_line_is_a_comment() {
        let source = include_str!("pipeline.rs").split("#[cfg(test)]").next().unwrap();
        let lines: Vec<_> = source.lines().map(str::trim).collect();
        let layers = lines.windows(2).filter(|pair| pair[1].starts_with(".layer("));
        assert!(layers.clone().count() > 0);
        for pair in layers {
            assert!(pair[0].starts_with("// "), "write a comment before this line: {}", pair[1]);
        }
    }

    /// Returns the size of the future that `send` returns, without calling `send`.
    fn future_size<F>(_send: fn(Arc<Client>, Arc<PreparedLeaf>, Box<EdgeRequest>) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn types_of_a_request_when_measured_then_are_within_the_size_limits() {
        // Each request allocates memory for the future of the leaf, so a larger future costs more.
        let size = future_size(send::<Client>);
        assert!(size <= 4608, "the future of the leaf has {size} bytes");
        let size = size_of::<StackBody>();
        assert!(size <= 640, "StackBody has {size} bytes");
        assert!(size_of::<Facts>() <= 72, "Facts has {} bytes", size_of::<Facts>());
        assert!(size_of::<Ctx>() <= 88, "Ctx has {} bytes", size_of::<Ctx>());
    }

    /// Wraps a layer or its service. At each call, the wrapper checks that the wrapped service is ready.
    #[derive(Clone)]
    struct Ready<T>(T);

    impl<S, L: Layer<S>> Layer<S> for Ready<L> {
        type Service = Ready<L::Service>;

        fn layer(&self, inner: S) -> Self::Service {
            Ready(self.0.layer(inner))
        }
    }

    impl<S: Service<Box<EdgeRequest>>> Service<Box<EdgeRequest>> for Ready<S> {
        type Response = S::Response;
        type Error = S::Error;
        type Future = S::Future;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
            self.0.poll_ready(cx)
        }

        fn call(&mut self, request: Box<EdgeRequest>) -> S::Future {
            assert!(self.0.poll_ready(&mut Context::from_waker(Waker::noop())).is_ready());
            READY.set(READY.get() + 1);
            self.0.call(request)
        }
    }

    thread_local! {
        static READY: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    #[test]
    fn layer_when_called_then_is_ready() {
        macro_rules! ready {
            ($name:ident, $layer:expr) => {
                Ready($layer)
            };
        }
        let mut stack = stack!(parts(), Arc::new(Silent), ready);
        let (head, ()) = http::Request::get("/").header(HOST, "a.test").body(()).unwrap().into_parts();
        let peer = Arc::new(Peer::new([192, 0, 2, 1].into(), Scheme::Http));
        let ctx = Ctx::new(&peer, &head.headers, true);
        let body = Received::empty();
        drop(stack.call(Box::new(EdgeRequest { ctx, peer, line: None, head, body })));
        assert_eq!(READY.get(), ORDER.len(), "some layers were not called");
    }

    fn parts() -> Parts {
        let metrics: &'static crate::metrics::Metrics = Box::leak(Box::new(crate::metrics::Metrics::new().unwrap()));
        Parts {
            observe: ObserveParts {
                settings: crate::edge::observe::ObserveSettings::default(),
                limits: crate::origin::MessageLimits::default(),
                log: None,
                hidden_parameters: Vec::new(),
            },
            identify: IdentifySettings::default(),
            verify: VerifySettings::default(),
            providers: Arc::default(),
            pulls: PullsParts {
                request_ids: Vec::new(),
                attempts: Arc::default(),
                objects: Arc::default(),
                tops: Arc::default(),
            },
            local: LocalParts {
                beacon: crate::edge::local::BeaconSettings::default(),
                rum: crate::edge::local::RumSettings::default(),
                sources: Vec::new(),
                countries: None,
                edge_logs: crate::edge::local::EdgeLogParts::default(),
                smoke: crate::edge::local::SmokeSettings::default(),
                body_timeout: std::time::Duration::from_mins(1),
            },
            whoopsie: WhoopsieSettings::default(),
            pages: Arc::new(Pages::build(&crate::pages::PageSettings::default()).unwrap()),
            gzip: GzipSettings::default(),
            gzip_memory: GzipMemory::new(&GzipSettings::default(), &metrics.ledger(&crate::metrics::Labels::default())),
            admission: AdmissionParts { limiter: None, queue_timeout: std::time::Duration::from_secs(30) },
            leaf: LeafParts { host: None, fallback_host: HeaderValue::from_static("localhost"), server_timing: false },
            classes: Classes::new(Vec::new()).unwrap(),
            experiments: Vec::new(),
            provider_rules: Vec::new(),
            ledger: metrics.ledger(&crate::metrics::Labels::default()),
        }
    }
}
