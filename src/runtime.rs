//! Settings -> Runtime: everything that can be prepared for a configuration, built once and swapped whole.
//!
//! What survives a swap: the metrics, the listeners, the drain's state, the gate before the origin (only its limits change, so that
//! what is in flight stays counted). What is built anew: labels' handles, classes, pages, the
//! layers, and each worker's way to the origin.

use std::convert::Infallible;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderValue;
use tower::Service;

use crate::access_log::AccessLog;
use crate::cdn::addresses::AddressList;
use crate::cdn::known::{self, Known};
use crate::cdn::preset::Preset;
use crate::cdn::proof::Proofs;
use crate::cdn::proof::g2o::{Replays, Verifier};
use crate::config::{AddressSource, OnDoubt, Provider, Settings, Target, Verify};
use crate::edge::admission::AdmissionSettings;
use crate::edge::admission::gate::{Gate, GateLimits};
use crate::edge::cache_control::ProviderWords;
use crate::edge::gzip::{GzipMemory, GzipSettings};
use crate::edge::identify::IdentifySettings;
use crate::edge::local::LocalSettings;
use crate::edge::observe::ObserveSettings;
use crate::edge::pipeline::{AnswerBody, Layers, Parts};
use crate::edge::pulls::PullsSettings;
use crate::edge::request::attempts::Attempts;
use crate::edge::request::class::Classes;
use crate::edge::request::{EdgeRequest, EdgeResponse};
use crate::edge::verify::VerifySettings;
use crate::edge::whoopsie::WhoopsieSettings;
use crate::ids::{ProviderId, intern};
use crate::intake::country::{Countries, CountryError};
use crate::intake::ranges::{Ranges, RangesError};
use crate::metrics::{Labels, Ledger, Metrics};
use crate::origin::{self, OriginSettings};
use crate::pages::{PageSettings, Pages};
use crate::wire::media_types::MediaTypes;

/// The whole stack of layers, as `serve` sees it.
pub trait EdgeService:
    Service<Box<EdgeRequest>, Response = EdgeResponse<AnswerBody>, Error = Infallible, Future: Send + 'static>
    + Send
    + 'static
{
}

impl<S> EdgeService for S where
    S: Service<Box<EdgeRequest>, Response = EdgeResponse<AnswerBody>, Error = Infallible, Future: Send + 'static>
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
    gzip: GzipSettings,
    gzip_memory: GzipMemory,
    pages: Arc<Pages>,
    log: Option<AccessLog>,
    gate: Arc<Gate>,
    host: Option<HeaderValue>,
    fallback_host: HeaderValue,
    countries: Option<Arc<Countries>>,
    providers: Arc<[Known]>,
    attempts: Arc<Attempts>,
}

/// Why a configuration that is valid by itself cannot be served.
#[derive(Debug)]
pub enum BuildError {
    /// The pages cannot be rendered with these settings.
    Pages(crate::pages::PagesError),
    /// A glob or a value that its check let through.
    Value(String),
    /// The access log's file cannot be opened.
    Log(io::Error),
    /// The country file can no longer be used.
    Countries(CountryError),
    /// A file of addresses can no longer be used.
    Ranges(RangesError),
    /// There is no thread to be had for following a file.
    Thread(io::Error),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pages(error) => error.fmt(f),
            Self::Value(error) => f.write_str(error),
            Self::Countries(error) => write!(f, "beacon.country_database: the file {error}"),
            Self::Ranges(error) => write!(f, "provider.verify.addresses: {} {error}", error.path.display()),
            Self::Thread(error) => write!(f, "no thread can be started ({error}); allow this user more of them"),
            Self::Log(error) => write!(
                f,
                "access_log.output: the file cannot be opened ({error}); name one in a folder that exists and that this user may write to"
            ),
        }
    }
}

impl std::error::Error for BuildError {}

impl Runtime {
    /// Prepares everything. `replays`: the signatures that were accepted so far, which no configuration may forget.
    ///
    /// # Errors
    /// See [`BuildError`]; nothing is left behind.
    pub fn build(settings: Settings, metrics: &'static Metrics, replays: &Arc<Replays>) -> Result<Self, BuildError> {
        let prepared = Prepared::new(&settings)?;
        let follow = |ranges: Ranges, provider| ranges.follow(provider, metrics).map_err(BuildError::Thread);
        let providers = known_providers(&settings, replays, follow)?;
        let countries = open_countries(&settings).map_err(BuildError::Countries)?;
        let log = AccessLog::open(&settings.access_log, metrics.access_log_dropped.clone()).map_err(BuildError::Log)?;
        Ok(Self::of(settings, metrics, prepared, World { providers, countries, log }))
    }

    /// Prepares the same for a look at what it decides: address lists are read once, no other file is opened, nothing is followed,
    /// and no signature was there before.
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
        let gate = Arc::new(Gate::new(gate_limits(&settings), metrics));
        let Prepared { pages, classes, gzip, host, fallback_host } = prepared;
        let pages = Arc::new(pages);
        let gzip_memory = GzipMemory::new(settings.gzip.twins_bytes);
        let runtime = Self {
            settings,
            metrics,
            labels,
            ledger,
            classes,
            gzip,
            gzip_memory,
            pages,
            log,
            gate,
            host,
            fallback_host,
            countries,
            providers,
            attempts: Arc::default(),
        };
        // Each worker builds its own layers later. Building them here makes every series, so that the first scrape has them all.
        drop(Layers::new(runtime.parts()));
        runtime
    }

    /// What `build` would refuse, without opening anything: for `check`.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub fn check(settings: &Settings) -> Result<(), BuildError> {
        Prepared::new(settings).map(drop)
    }

    /// The layers over a way to the origin of their own: one worker's. Reference counts are then touched by one core only.
    pub fn stack(&self) -> (impl EdgeService + use<>, Arc<origin::Client>) {
        let client = Arc::new(origin::Client::new(self.origin_settings(), self.metrics));
        (Layers::new(self.parts()).over(Arc::clone(&client)), client)
    }

    /// What the layers are made of.
    pub(crate) fn parts(&self) -> Parts {
        let settings = &self.settings;
        let mut replaces = [false; 100];
        for (above, replaced) in (500_u16..).zip(&mut replaces) {
            *replaced = settings.whoopsie.statuses.contains(above);
        }
        let server = &settings.server;
        Parts {
            observe: ObserveSettings {
                hosts: server.hosts.clone(),
                trusted_proxies: server.trusted_proxies.clone(),
                max_hops: server.max_hops,
                max_headers: server.max_headers,
                max_request_body: server.max_request_body,
                log: self.log.clone(),
            },
            identify: IdentifySettings {
                header: settings.identity.header.clone(),
                providers: Arc::clone(&self.providers),
                recognise: settings.identity.recognise,
                reject_unknown: settings.identity.unknown == OnDoubt::Reject,
            },
            verify: VerifySettings {
                providers: Arc::clone(&self.providers),
                reject_unverified: settings.identity.unverified == OnDoubt::Reject,
            },
            pulls: PullsSettings {
                request_ids: self.providers.iter().map(|known| known.preset.request_id.clone()).collect(),
                attempts: Arc::clone(&self.attempts),
            },
            local: LocalSettings {
                providers: Arc::clone(&self.providers),
                beacon_path: settings.beacon.path.clone(),
                beacon_sources: beacon_sources(settings),
                countries: self.countries.clone(),
                rum_path: settings.rum.path.clone(),
                rum_pages: settings.rum.pages.clone(),
                body_timeout: server.body_timeout,
            },
            whoopsie: WhoopsieSettings {
                replaces,
                retry_after: settings.whoopsie.retry_after,
                pages: Arc::clone(&self.pages),
            },
            gzip: self.gzip.clone(),
            gzip_memory: self.gzip_memory.clone(),
            admission: AdmissionSettings {
                gate: (settings.origin.max_in_flight > 0).then(|| Arc::clone(&self.gate)),
                patience: settings.origin.response_timeout,
            },
            classes: self.classes.clone(),
            words: provider_words(settings, &self.providers),
            host: self.host.clone(),
            fallback_host: self.fallback_host.clone(),
            server_timing: settings.rum.path.is_some(),
            ledger: self.metrics.ledger(&self.labels),
        }
    }

    /// The configuration this was built from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The process' metrics.
    pub fn metrics(&self) -> &'static Metrics {
        self.metrics
    }

    /// Handles for what is counted outside of the layers.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The access log, while it is on.
    pub(crate) fn log(&self) -> Option<&AccessLog> {
        self.log.as_ref()
    }

    /// Worker threads: as configured, or one for each CPU that the process may use, the cgroup's quota counted in.
    pub fn workers(&self) -> usize {
        match self.settings.server.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        }
    }

    /// A short name for the configuration's content: the label `config` of `edgeshim_build_info`.
    pub fn fingerprint(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.settings.effective_json().to_string().hash(&mut hasher);
        self.settings.whoopsie.pages.hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }

    fn origin_settings(&self) -> OriginSettings {
        let origin = &self.settings.origin;
        OriginSettings {
            target: match &origin.target {
                Target::Tcp { host, port } => origin::Target::Tcp { host: host.clone(), port: *port },
                Target::Unix(path) => origin::Target::Unix(path.clone()),
            },
            http2: origin.http2,
            connect_timeout: origin.connect_timeout,
            response_timeout: origin.response_timeout,
            body_timeout: self.settings.server.body_timeout,
            idle_timeout: origin.idle_timeout,
            max_idle: origin.max_idle.div_ceil(self.workers()),
            retries: origin.retries,
            max_request_body: self.settings.server.max_request_body,
            max_headers: self.settings.server.max_headers,
            max_header_bytes: self.settings.server.max_header_bytes,
            tunnel_timeout: self.settings.server.tunnel_timeout,
            preserve_header_case: origin.preserve_header_case,
            claims: known::claims(&self.settings.identity.header, &self.providers).cloned().collect(),
        }
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// What is read from files, or written to them.
struct World {
    providers: Arc<[Known]>,
    countries: Option<Arc<Countries>>,
    log: Option<AccessLog>,
}

/// What can be made of settings without touching the world.
struct Prepared {
    pages: Pages,
    classes: Classes,
    gzip: GzipSettings,
    host: Option<HeaderValue>,
    fallback_host: HeaderValue,
}

impl Prepared {
    fn new(settings: &Settings) -> Result<Self, BuildError> {
        let value = |error: &dyn fmt::Display| BuildError::Value(error.to_string());
        let pages = Pages::build(&page_settings(settings));
        let host = settings.origin.host.as_deref().map(HeaderValue::from_str);
        let authority = match &settings.origin.target {
            Target::Tcp { .. } => settings.origin.target.to_string().replace("http://", ""),
            Target::Unix(_) => "localhost".to_owned(),
        };
        Ok(Self {
            fallback_host: HeaderValue::try_from(authority).map_err(|error| value(&error))?,
            pages: pages.map_err(BuildError::Pages)?,
            classes: Classes::new(settings.classes.clone()).map_err(|error| value(&error))?,
            gzip: gzip_settings(settings),
            host: host.transpose().map_err(|error| value(&error))?,
        })
    }
}

/// What the configuration says about the pages.
pub(crate) fn page_settings(settings: &Settings) -> PageSettings {
    let whoopsie = &settings.whoopsie;
    PageSettings {
        files: Arc::clone(&whoopsie.pages),
        default_locale: whoopsie.default_locale.clone(),
        hosts: whoopsie.hosts.iter().map(|(host, locale)| (host.clone(), locale.clone())).collect(),
        site_name: whoopsie.site_name.clone(),
        status_url: whoopsie.status_url.clone(),
        support_url: whoopsie.support_url.clone(),
        beacon_base: whoopsie.beacon_base.clone(),
        beacon_path: settings.beacon.path.clone(),
    }
}

fn gate_limits(settings: &Settings) -> GateLimits {
    let origin = &settings.origin;
    GateLimits { max_in_flight: origin.max_in_flight, max_waiting: origin.max_waiting }
}

/// What `gzip` is to know.
pub(crate) fn gzip_settings(settings: &Settings) -> GzipSettings {
    let gzip = &settings.gzip;
    GzipSettings {
        enabled: gzip.enabled,
        level: gzip.level,
        min_bytes: gzip.min_bytes,
        inflate: gzip.inflate,
        types: MediaTypes::new(gzip.types.iter().map(String::as_str)),
    }
}

/// The providers' names, then the further ones that are configured.
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

/// The configured providers with all that is known of them.
fn known_providers(
    settings: &Settings,
    replays: &Arc<Replays>,
    list: impl Fn(Ranges, &'static str) -> Result<Arc<AddressList>, BuildError>,
) -> Result<Arc<[Known]>, BuildError> {
    let known = |provider: &Provider| {
        let preset = Preset::named(&provider.preset)
            .ok_or_else(|| BuildError::Value(format!("there is no preset {:?}", provider.preset)))?;
        let addresses = |sources: &[AddressSource]| {
            let ranges = open_ranges(sources).map_err(BuildError::Ranges)?;
            list(ranges, intern(&provider.name))
        };
        let proofs = |verify: &Verify| {
            Ok(Proofs {
                require: verify.require,
                secret: verify.secret.clone(),
                addresses: if verify.addresses.is_empty() { None } else { Some(addresses(&verify.addresses)?) },
                client_cert: verify.client_cert.clone(),
                g2o: verify.g2o.as_ref().map(|keys| Verifier::new(keys, Arc::clone(replays))),
            })
        };
        let proofs = provider.verify.as_ref().map(proofs).transpose()?;
        Ok(Known { name: provider.name.clone(), preset, proofs })
    };
    settings.providers.iter().map(known).collect()
}

/// Where a provider pulls from.
fn open_ranges(sources: &[AddressSource]) -> Result<Ranges, RangesError> {
    let (mut networks, mut files) = (Vec::new(), Vec::new());
    for source in sources {
        match source {
            AddressSource::Network(network) => networks.push(*network),
            AddressSource::File(path) => files.push(path.clone()),
        }
    }
    Ranges::open(&files, &networks)
}

/// How an answer is put to each provider, in the order of their ids: to the reserved ones as it is.
fn provider_words(settings: &Settings, known: &[Known]) -> Vec<ProviderWords> {
    let reserved = ProviderId::RESERVED.map(|_| ProviderWords::default());
    let configured = settings.providers.iter().zip(known).map(|(provider, known)| ProviderWords {
        tags: known.preset.tags(provider.tag_header.as_ref()),
        limits: known.preset.limits,
    });
    reserved.into_iter().chain(configured).collect()
}

/// The country file, followed from here on.
fn open_countries(settings: &Settings) -> Result<Option<Arc<Countries>>, CountryError> {
    let Some(path) = &settings.beacon.country_database else { return Ok(None) };
    let countries = Arc::new(Countries::open(path)?);
    countries.watch().map_err(CountryError::Read)?;
    Ok(Some(countries))
}

/// Where the configuration in force is kept. It lives as long as the process.
#[derive(Debug)]
pub struct Slot {
    runtime: ArcSwap<Runtime>,
}

impl Slot {
    /// A slot that holds `runtime`.
    pub fn new(runtime: Runtime) -> Self {
        Self { runtime: ArcSwap::from_pointee(runtime) }
    }

    /// The configuration in force.
    pub fn load(&self) -> Arc<Runtime> {
        self.runtime.load_full()
    }

    /// Whether `runtime` is still in force; cheaper than [`load`](Self::load).
    pub fn holds(&self, runtime: &Arc<Runtime>) -> bool {
        Arc::ptr_eq(&self.runtime.load(), runtime)
    }

    /// Puts another configuration in force; requests under way end under theirs, and the line before the origin goes on.
    pub fn swap(&self, mut runtime: Runtime) {
        runtime.gate = Arc::clone(&self.load().gate);
        runtime.gate.limit(gate_limits(&runtime.settings));
        self.runtime.store(Arc::new(runtime));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::admission::gate::Entered;

    fn runtime(max_in_flight: usize, metrics: &'static Metrics) -> Runtime {
        let mut settings = Settings::default();
        settings.origin.max_in_flight = max_in_flight;
        Runtime::build(settings, metrics, &Arc::default()).unwrap()
    }

    #[test]
    fn gate_when_the_configuration_is_swapped_then_what_is_in_flight_stays_counted() {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new().unwrap()));
        let slot = Slot::new(runtime(1, metrics));
        let Entered::Inside(first) = slot.load().gate.enter() else { panic!("no place") };
        slot.swap(runtime(2, metrics));
        let Entered::Inside(_second) = slot.load().gate.enter() else { panic!("no second place") };
        assert!(
            matches!(slot.load().gate.enter(), Entered::Full(fault) if fault.waiting() == Some(0)),
            "the first is forgotten"
        );
        drop(first);
        assert!(matches!(slot.load().gate.enter(), Entered::Inside(_)));
    }
}
