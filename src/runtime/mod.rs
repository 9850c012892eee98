//! Settings -> Runtime: everything that can be prepared for a configuration, built once and swapped whole.
//!
//! A swap keeps the metrics, the listeners, the drain's state and the limiter before the origin, of which only the
//! limits change, so that requests in flight stay counted. Labels, classes, pages, layers and each worker's connections
//! to the origin are new.

mod build_error;
mod opened;
mod slot;

use std::convert::Infallible;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use http::HeaderValue;
use tower::Service;

pub(crate) use self::build_error::BuildError;
use self::opened::{known_providers, open_countries};
pub use self::slot::Slot;
use crate::access_log::AccessLog;
use crate::cdn::known::{self, Known};
use crate::cdn::proof::g2o::Replays;
use crate::config::Settings;
use crate::edge::admission::AdmissionParts;
use crate::edge::admission::limiter::Limiter;
use crate::edge::cache_control::ProviderRules;
use crate::edge::gzip::GzipMemory;
use crate::edge::leaf::LeafParts;
use crate::edge::local::LocalParts;
use crate::edge::observe::ObserveParts;
use crate::edge::pipeline::{Parts, StackBody, stack};
use crate::edge::pulls::PullsSettings;
use crate::edge::request::attempts::Attempts;
use crate::edge::request::class::Classes;
use crate::edge::request::{EdgeRequest, EdgeResponse};
use crate::ids::{ProviderId, intern};
use crate::intake::country::Countries;
use crate::intake::ranges::Ranges;
use crate::metrics::{Labels, Ledger, Metrics};
use crate::origin::{self, ClientSettings, Target};
use crate::pages::{PageSettings, Pages};

/// The stack of layers, as `serve` sees it.
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

/// One configuration, ready to serve.
pub struct Runtime {
    settings: Settings,
    metrics: &'static Metrics,
    labels: Labels,
    ledger: Ledger,
    classes: Classes,
    gzip_memory: GzipMemory,
    pages: Arc<Pages>,
    log: Option<AccessLog>,
    limiter: Arc<Limiter>,
    host: Option<HeaderValue>,
    fallback_host: HeaderValue,
    countries: Option<Arc<Countries>>,
    providers: Arc<[Known]>,
    attempts: Arc<Attempts>,
}

impl Runtime {
    /// Prepares everything. `replays`: the signatures accepted so far, which stay known under each configuration.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn build(settings: Settings, metrics: &'static Metrics, replays: &Arc<Replays>) -> Result<Self, BuildError> {
        let prepared = Prepared::new(&settings)?;
        let follow = |ranges: Ranges, provider| ranges.follow(provider, metrics).map_err(BuildError::Thread);
        let providers = known_providers(&settings, replays, follow)?;
        let countries = open_countries(&settings).map_err(BuildError::Countries)?;
        let log = AccessLog::open(&settings.access_log, metrics.access_log_dropped.clone()).map_err(BuildError::Log)?;
        Ok(Self::of(settings, metrics, prepared, World { providers, countries, log }))
    }

    /// Prepares the same for `explain`: reads address lists once, opens no other file, follows no file, and knows no
    /// signatures.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub(crate) fn build_still(settings: Settings, metrics: &'static Metrics) -> Result<Self, BuildError> {
        let prepared = Prepared::new(&settings)?;
        let providers = known_providers(&settings, &Arc::default(), |ranges, _| Ok(ranges.list()))?;
        Ok(Self::of(settings, metrics, prepared, World { providers, countries: None, log: None }))
    }

    fn of(settings: Settings, metrics: &'static Metrics, prepared: Prepared, world: World) -> Self {
        let World { providers, countries, log } = world;
        let labels = Labels {
            providers: settings.providers.iter().map(|provider| intern(&provider.name)).collect(),
            classes: settings.classes.iter().map(|class| intern(&class.name)).collect(),
            locales: prepared.pages.locales().map(intern).collect(),
            beacon_sources: beacon_sources(&settings).iter().map(|source| intern(source)).collect(),
            rum_pages: settings.rum.pages.iter().map(|page| intern(page)).collect(),
        };
        let ledger = metrics.ledger(&labels);
        let limiter = Arc::new(Limiter::new(settings.admission, metrics));
        let Prepared { pages, classes, host, fallback_host } = prepared;
        let pages = Arc::new(pages);
        let gzip_memory = GzipMemory::new(settings.gzip.twins_bytes);
        let runtime = Self {
            settings,
            metrics,
            labels,
            ledger,
            classes,
            gzip_memory,
            pages,
            log,
            limiter,
            host,
            fallback_host,
            countries,
            providers,
            attempts: Arc::default(),
        };
        // Creates every metric series, so that the first scrape has them all. Each worker builds its own layers later.
        drop(runtime.stack());
        runtime
    }

    /// Finds what `build` would refuse, without opening files.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn check(settings: &Settings) -> Result<(), BuildError> {
        Prepared::new(settings).map(drop)
    }

    /// The layers over a client for the origin, for one worker, so that only one core uses the reference counts.
    pub fn stack(&self) -> (impl EdgeService + use<>, Arc<origin::Client>) {
        let client = Arc::new(origin::Client::new(self.client_settings(), self.metrics));
        (stack(self.parts(), Arc::clone(&client)), client)
    }

    /// The settings of the layers, and what was prepared for them.
    pub(crate) fn parts(&self) -> Parts {
        let settings = &self.settings;
        Parts {
            observe: ObserveParts {
                settings: settings.observe.clone(),
                limits: settings.limits,
                log: self.log.clone(),
            },
            identify: settings.identity.clone(),
            verify: settings.verify.clone(),
            providers: Arc::clone(&self.providers),
            pulls: PullsSettings {
                request_ids: self.providers.iter().map(|known| known.preset.request_id.clone()).collect(),
                attempts: Arc::clone(&self.attempts),
            },
            local: LocalParts {
                beacon: settings.beacon.clone(),
                rum: settings.rum.clone(),
                providers: Arc::clone(&self.providers),
                sources: beacon_sources(settings),
                countries: self.countries.clone(),
                body_timeout: settings.limits.body_timeout,
            },
            whoopsie: settings.whoopsie.clone(),
            pages: Arc::clone(&self.pages),
            gzip: settings.gzip.clone(),
            gzip_memory: self.gzip_memory.clone(),
            admission: AdmissionParts {
                limiter: (settings.admission.max_in_flight > 0).then(|| Arc::clone(&self.limiter)),
                queue_timeout: settings.origin.response_timeout,
            },
            leaf: LeafParts {
                host: self.host.clone(),
                fallback_host: self.fallback_host.clone(),
                server_timing: settings.rum.path.is_some(),
            },
            classes: self.classes.clone(),
            provider_rules: provider_rules(settings, &self.providers),
            ledger: self.metrics.ledger(&self.labels),
        }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn metrics(&self) -> &'static Metrics {
        self.metrics
    }

    /// Metrics that are counted outside of the layers.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The access log, unless it is off.
    pub(crate) fn log(&self) -> Option<&AccessLog> {
        self.log.as_ref()
    }

    /// Worker threads: as configured, or one for each CPU that the cgroup grants.
    pub fn workers(&self) -> usize {
        match self.settings.server.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        }
    }

    /// A hash of the configuration: the label `config` of `edgeshim_build_info`.
    pub fn fingerprint(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.settings.effective_json().to_string().hash(&mut hasher);
        self.settings.pages.files.hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }

    fn client_settings(&self) -> ClientSettings {
        let settings = &self.settings;
        ClientSettings {
            origin: settings.origin.clone(),
            limits: settings.limits,
            max_idle: settings.origin.max_idle.div_ceil(self.workers()),
            claims: known::claims(&settings.identity.header, &self.providers).cloned().collect(),
        }
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// What uses files.
struct World {
    providers: Arc<[Known]>,
    countries: Option<Arc<Countries>>,
    log: Option<AccessLog>,
}

/// What is made of settings alone.
struct Prepared {
    pages: Pages,
    classes: Classes,
    host: Option<HeaderValue>,
    fallback_host: HeaderValue,
}

impl Prepared {
    fn new(settings: &Settings) -> Result<Self, BuildError> {
        let value = |error: &dyn fmt::Display| BuildError::Value(error.to_string());
        let pages = Pages::build(&page_settings(settings));
        let host = settings.origin.host.as_deref().map(HeaderValue::from_str);
        let authority = match &settings.origin.target {
            Target::Tcp { .. } => settings.origin.target.to_string(),
            Target::Unix(_) => "localhost".to_owned(),
        };
        Ok(Self {
            fallback_host: HeaderValue::try_from(authority).map_err(|error| value(&error))?,
            pages: pages.map_err(BuildError::Pages)?,
            classes: Classes::new(settings.classes.clone()).map_err(|error| value(&error))?,
            host: host.transpose().map_err(|error| value(&error))?,
        })
    }
}

/// The settings of the pages, with the beacon's path.
pub(crate) fn page_settings(settings: &Settings) -> PageSettings {
    PageSettings { beacon_path: settings.beacon.path.clone(), ..settings.pages.clone() }
}

/// The names of the providers, then the configured sources.
fn beacon_sources(settings: &Settings) -> Vec<String> {
    let mut sources: Vec<String> = Vec::new();
    let names = settings.providers.iter().map(|provider| &provider.name);
    for source in names.chain(&settings.beacon.sources) {
        if !sources.contains(source) {
            sources.push(source.clone());
        }
    }
    sources
}

/// How responses are adapted to each provider, in the order of ids; not at all for the reserved ids.
fn provider_rules(settings: &Settings, known: &[Known]) -> Vec<ProviderRules> {
    let reserved = ProviderId::RESERVED.map(|_| ProviderRules::default());
    let configured = settings.providers.iter().zip(known).map(|(provider, known)| ProviderRules {
        tags: known.preset.tags(provider.tag_header.as_ref()),
        limits: known.preset.limits,
    });
    reserved.into_iter().chain(configured).collect()
}
