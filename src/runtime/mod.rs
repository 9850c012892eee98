//! Builds a `Runtime` from `Settings`. A runtime contains everything that can be prepared for a configuration. A
//! runtime is built once and replaced only as a whole (swapped).
//!
//! A swap keeps the metrics, the drain's state, the limiter and everything in [`Lasting`]. The limiter gets new limits,
//! but requests with a permit stay counted. The origin and the states of its addresses stay if the settings of the
//! origin do not change. Each worker also keeps its connections to the origin if its [`ClientSettings`] do not change.
//! Labels, classes, pages and layers are built again. The twins, the known entity tags and the recent request ids are
//! lost.

mod build_error;
mod inherited;
mod opened;
mod slot;

use std::convert::Infallible;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use http::HeaderValue;
use tower::Service;

pub(crate) use self::build_error::BuildError;
pub(crate) use self::inherited::{Inherited, PREDECESSOR, Passed, Socket, name_in_hand_over, with_file};
use self::opened::Opened;
pub use self::slot::Slot;
use crate::access_log::Logs;
use crate::cdn::known::{self, Known};
use crate::cdn::proof::g2o::Replays;
use crate::config::{Provider, Settings};
use crate::edge::admission::AdmissionParts;
use crate::edge::admission::limiter::Limiter;
use crate::edge::assign::override_parameters;
use crate::edge::cache_control::ProviderRules;
use crate::edge::gzip::GzipMemory;
use crate::edge::leaf::LeafParts;
use crate::edge::local::{EdgeLogParts, LocalParts, LogSource};
use crate::edge::observe::ObserveParts;
use crate::edge::pipeline::{Parts, StackBody, stack};
use crate::edge::pulls::PullsParts;
use crate::edge::request::attempts::Attempts;
use crate::edge::request::class::Classes;
use crate::edge::request::objects::Objects;
use crate::edge::request::top::Tops;
use crate::edge::request::{EdgeRequest, EdgeResponse};
use crate::ids::{ProviderId, intern};
use crate::intake::edge_logs::Intake;
use crate::intake::server_tls::{self, ServerTls, Tickets};
use crate::metrics::{Labels, Ledger, Metrics};
use crate::origin::{self, ClientSettings, Resolver, Target, Upstreams};
use crate::pages::{PageSettings, Pages};

/// The stack of layers, in the form that `serve` uses.
pub trait EdgeService:
    Service<Box<EdgeRequest>, Response = EdgeResponse<StackBody>, Error = Infallible, Future: Send + 'static>
    + Send
    + 'static
{
}

impl<S> EdgeService for S where
    S: Service<Box<EdgeRequest>, Response = EdgeResponse<StackBody>, Error = Infallible, Future: Send + 'static>
        + Send
        + 'static
{
}

/// What all configurations of a process share.
#[derive(Debug, Default)]
pub struct Lasting {
    /// The G2O signatures that were accepted so far, so that no signature is accepted twice.
    replays: Arc<Replays>,
    /// The batches of log lines that are being read or were accepted, so that no batch is counted twice.
    intake: Arc<Intake>,
    /// The objects that the providers hold.
    objects: Arc<Objects>,
    /// The URLs that are pulled most.
    tops: Arc<Tops>,
    /// How the origin's name is looked up.
    resolver: Resolver,
    /// The origin and its stand-in, with the states of their addresses.
    upstreams: Upstreams,
    /// The open access logs.
    logs: Logs,
    /// The keys of TLS session tickets, so that sessions can be resumed after a reload.
    tickets: Arc<Tickets>,
}

impl Lasting {
    /// Uses a resolver in place of the system's resolver.
    pub fn with_resolver(resolver: Resolver) -> Self {
        Self { resolver, ..Self::default() }
    }

    pub(crate) fn logs(&self) -> &Logs {
        &self.logs
    }
}

/// One configuration, with everything that was prepared from this configuration.
pub struct Runtime {
    settings: Settings,
    metrics: &'static Metrics,
    labels: Labels,
    ledger: Ledger,
    prepared: Prepared,
    opened: Opened,
    limiter: Arc<Limiter>,
    gzip_memory: GzipMemory,
    attempts: Arc<Attempts>,
}

impl Runtime {
    /// Prepares everything that serving needs. Callers pass the same `lasting` with each configuration.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(settings: Settings, metrics: &'static Metrics, lasting: &Arc<Lasting>) -> Result<Self, BuildError> {
        let prepared = Prepared::new(&settings)?;
        let opened = Opened::new(&settings, metrics, lasting)?;
        let runtime = Self::of(settings, metrics, prepared, opened);
        // Building a stack of layers creates the metric series that the first scrape must contain. This stack is
        // dropped at once, because each worker builds its own stack later.
        drop(runtime.stack(None));
        Ok(runtime)
    }

    /// Prepares a runtime for `explain`. This function reads the address lists, the files of `[origin.tls]` and the
    /// files of `client_cert.ca` once. It opens no other file, watches no file, and starts with an empty store of used
    /// G2O signatures.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub(crate) fn build_still(settings: Settings, metrics: &'static Metrics) -> Result<Self, BuildError> {
        let prepared = Prepared::new(&settings)?;
        let opened = Opened::still(&settings, metrics)?;
        Ok(Self::of(settings, metrics, prepared, opened))
    }

    fn of(settings: Settings, metrics: &'static Metrics, prepared: Prepared, opened: Opened) -> Self {
        let labels = Labels {
            providers: settings.providers.iter().map(|provider| intern(&provider.name)).collect(),
            classes: settings.classes.iter().map(|class| intern(&class.name)).collect(),
            locales: prepared.pages.locales().map(intern).collect(),
            beacon_sources: beacon_sources(&settings),
            rum_pages: settings.rum.pages.iter().map(|page| intern(page)).collect(),
        };
        let ledger = metrics.ledger(&labels);
        Self {
            limiter: Arc::new(Limiter::new(settings.admission, metrics)),
            gzip_memory: GzipMemory::new(&settings.gzip, &ledger),
            ledger,
            attempts: Arc::default(),
            settings,
            metrics,
            labels,
            prepared,
            opened,
        }
    }

    /// Checks everything that `build` can check without opening files.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn check(settings: &Settings) -> Result<(), BuildError> {
        Prepared::new(settings).map(drop)
    }

    /// Builds the layers for one worker, and below them the client of the origin. Each worker has its own layers and
    /// client, so that only one core changes their reference counts. `previous` is the worker's client for the previous
    /// configuration. This client stays in use, with its idle connections, if its settings have not changed.
    pub fn stack(&self, previous: Option<&Arc<origin::Client>>) -> (impl EdgeService + use<>, Arc<origin::Client>) {
        let settings = self.client_settings();
        let client = match previous {
            Some(previous) if previous.has(&settings) => Arc::clone(previous),
            _ => Arc::new(origin::Client::new(settings, self.metrics)),
        };
        (stack(self.parts(), Arc::clone(&client)), client)
    }

    /// Returns the settings of the layers, and what was prepared for the layers.
    pub(crate) fn parts(&self) -> Parts {
        let settings = &self.settings;
        Parts {
            observe: ObserveParts {
                settings: settings.observe.clone(),
                limits: settings.limits,
                log: self.opened.log.clone(),
                hidden_parameters: override_parameters(&settings.experiments),
            },
            identify: settings.identity.clone(),
            verify: settings.verify.clone(),
            providers: Arc::clone(&self.opened.providers),
            pulls: PullsParts {
                request_ids: self.opened.providers.iter().map(|known| known.preset.request_id.clone()).collect(),
                attempts: Arc::clone(&self.attempts),
                objects: Arc::clone(&self.opened.objects),
                tops: Arc::clone(&self.opened.tops),
            },
            local: LocalParts {
                beacon: settings.beacon.clone(),
                rum: settings.rum.clone(),
                sources: self.labels.beacon_sources.clone(),
                countries: self.opened.countries.clone(),
                edge_logs: EdgeLogParts {
                    settings: settings.edge_logs.clone(),
                    sources: log_sources(settings, &self.opened.providers),
                    intake: Arc::clone(&self.opened.intake),
                },
                smoke: settings.smoke.clone(),
                body_timeout: settings.limits.body_timeout,
            },
            whoopsie: settings.whoopsie,
            pages: Arc::clone(&self.prepared.pages),
            gzip: settings.gzip.clone(),
            gzip_memory: self.gzip_memory.clone(),
            admission: AdmissionParts {
                limiter: (settings.admission.max_in_flight > 0).then(|| Arc::clone(&self.limiter)),
                queue_timeout: settings.origin.response_timeout,
                limits: settings.limits,
            },
            leaf: LeafParts {
                host: self.prepared.host.clone(),
                fallback_host: self.prepared.fallback_host.clone(),
                server_timing: settings.rum.path.is_some(),
            },
            classes: self.prepared.classes.clone(),
            experiments: settings.experiments.clone(),
            provider_rules: provider_rules(settings, &self.opened.providers),
            ledger: self.metrics.ledger(&self.labels),
        }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn metrics(&self) -> &'static Metrics {
        self.metrics
    }

    /// Returns the ledger, which creates the metric handles for the labels of this configuration.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Returns the URLs that are pulled most.
    pub(crate) fn tops(&self) -> &Tops {
        &self.opened.tops
    }

    /// Returns what the listeners need for TLS, or `None` if the configuration has no `[server.tls]` block.
    pub(crate) fn tls(&self) -> Option<&Arc<ServerTls>> {
        self.opened.tls.as_ref()
    }

    /// Returns what the operator should know about a valid configuration: certificates that are not valid now or will
    /// soon expire.
    pub fn warnings(settings: &Settings) -> Vec<String> {
        settings.server.tls.as_ref().map_or_else(Vec::new, |tls| server_tls::check(&tls.files).1)
    }

    /// Returns the number of worker threads: the configured number, or one for each CPU that this process may use.
    pub fn workers(&self) -> usize {
        match self.settings.server.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        }
    }

    /// Returns a hash of the configuration. The hash is the value of the label `config` of `edgeshim_build_info`.
    pub fn fingerprint(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.settings.effective_json().to_string().hash(&mut hasher);
        self.settings.pages.files.hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }

    fn client_settings(&self) -> ClientSettings {
        let settings = &self.settings;
        ClientSettings {
            upstream: Arc::clone(self.opened.origin.upstream()),
            stand_in: self.opened.stand_in.as_ref().map(|lease| Arc::clone(lease.upstream())),
            max_idle: settings.origin.max_idle.div_ceil(self.workers()),
            claims: known::claims(&settings.identity.header, &self.opened.providers).cloned().collect(),
        }
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The parts of a runtime that need only the settings.
struct Prepared {
    pages: Arc<Pages>,
    classes: Classes,
    host: Option<HeaderValue>,
    fallback_host: HeaderValue,
}

impl Prepared {
    fn new(settings: &Settings) -> Result<Self, BuildError> {
        let mut problems = Vec::new();
        let pages = Pages::build(&page_settings(settings))
            .map_err(|error| problems.extend(error.all().into_iter().map(BuildError::Pages)));
        let classes =
            Classes::new(settings.classes.clone()).map_err(|error| problems.push(BuildError::Value(error.to_string())));
        let host = settings.origin.host.as_deref().map(HeaderValue::from_str).transpose();
        let host = host.map_err(|error| problems.push(BuildError::Value(error.to_string())));
        let authority = match &settings.origin.target {
            Target::Tcp { .. } => settings.origin.target.to_string(),
            Target::Unix(_) => "localhost".to_owned(),
        };
        let fallback_host =
            HeaderValue::try_from(authority).map_err(|error| problems.push(BuildError::Value(error.to_string())));
        match (pages, classes, host, fallback_host) {
            (Ok(pages), Ok(classes), Ok(host), Ok(fallback_host)) => {
                Ok(Self { pages: Arc::new(pages), classes, host, fallback_host })
            }
            _ => Err(BuildError::Several(problems)),
        }
    }
}

/// Returns the settings of the pages, including the path of the beacon.
pub(crate) fn page_settings(settings: &Settings) -> PageSettings {
    PageSettings { beacon_path: settings.beacon.path.clone(), ..settings.pages.clone() }
}

/// Returns the sources that a beacon can have: the names of the providers, then the configured sources.
fn beacon_sources(settings: &Settings) -> Vec<&'static str> {
    let mut sources = Vec::new();
    let names = settings.providers.iter().map(|provider| &provider.name);
    for source in names.chain(&settings.beacon.sources) {
        let source = intern(source);
        if !sources.contains(&source) {
            sources.push(source);
        }
    }
    sources
}

/// Returns the forms and tokens of the logs that the providers push, in the order of the configuration.
fn log_sources(settings: &Settings, known: &[Known]) -> Vec<LogSource> {
    let source = |(provider, known): (&Provider, &Known)| LogSource {
        token: provider.edge_log_token.clone(),
        form: known.preset.logs.renamed(&provider.edge_log_fields),
        sampling: provider.edge_log_sampling.into(),
        is_fastly: known.preset.name == "fastly",
    };
    settings.providers.iter().zip(known).map(source).collect()
}

/// Returns the rules that adapt responses to each provider, in the order of provider ids. The rules for the reserved
/// ids change nothing.
fn provider_rules(settings: &Settings, known: &[Known]) -> Vec<ProviderRules> {
    let reserved = ProviderId::RESERVED.map(|_| ProviderRules::default());
    let configured = settings.providers.iter().zip(known).map(|(provider, known)| ProviderRules {
        tags: known.preset.tags(provider.tag_header.as_ref()),
        limits: known.preset.limits,
    });
    reserved.into_iter().chain(configured).collect()
}
