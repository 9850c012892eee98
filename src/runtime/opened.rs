//! Opens the files that a configuration uses: address lists, the country file, the access log, and the files of
//! `[server.tls]`, `[origin.tls]` and `client_cert.ca`.

use std::sync::Arc;

use super::{BuildError, Lasting};
use crate::access_log::{AccessLog, OpenError};
use crate::cdn::addresses::AddressList;
use crate::cdn::known::Known;
use crate::cdn::preset::Preset;
use crate::cdn::proof::g2o::{Replays, Verifier};
use crate::cdn::proof::{Authorities, Proofs};
use crate::config::{AddressSource, Provider, Settings, Verify};
use crate::edge::request::objects::Objects;
use crate::edge::request::top::Tops;
use crate::ids::intern;
use crate::intake::country::Countries;
use crate::intake::edge_logs::Intake;
use crate::intake::ranges::{Ranges, RangesError};
use crate::intake::server_tls::{ProviderCa, ServerTls, Tickets, TypedPath};
use crate::metrics::Metrics;
use crate::origin::{Lease, OriginSettings, Resolver, Role, TlsProblem, Upstream};

pub(super) struct Opened {
    /// The configured providers, in the order of their ids.
    pub(super) providers: Arc<[Known]>,
    pub(super) countries: Option<Arc<Countries>>,
    pub(super) log: Option<AccessLog>,
    pub(super) intake: Arc<Intake>,
    pub(super) objects: Arc<Objects>,
    pub(super) tops: Arc<Tops>,
    pub(super) origin: Lease,
    /// The stand-in of the origin, if one is configured.
    pub(super) stand_in: Option<Lease>,
    pub(super) tls: Option<Arc<ServerTls>>,
}

impl Opened {
    /// Opens all files, and watches all files except the access log for changes.
    pub(super) fn new(settings: &Settings, metrics: &'static Metrics, lasting: &Lasting) -> Result<Self, BuildError> {
        let follow = |ranges: Ranges, provider| ranges.follow(provider, metrics).map_err(BuildError::Thread);
        let (origin, stand_in) = upstreams(settings, |origin, role| {
            if let Some(known) = lasting.upstreams.find(&origin, settings.limits, role).map_err(unusable)? {
                return Ok(known);
            }
            let lease = upstream(origin, settings, role, &lasting.resolver, metrics)?;
            lease.watch().map_err(BuildError::Thread)?;
            lasting.upstreams.add(&lease);
            Ok(lease)
        })?;
        let mut cas = Vec::new();
        let open_ca = |provider, path: &TypedPath| {
            let ca = ProviderCa::open(provider, path).map_err(BuildError::ServerTls)?;
            let authorities = ca.authorities();
            cas.push(ca);
            Ok(authorities)
        };
        let providers = known_providers(settings, &lasting.replays, follow, open_ca)?;
        let countries = open_countries(settings)?;
        let tls = open_tls(settings, cas, metrics, &lasting.tickets)?;
        // The log is opened last, because opening a log can make a new file. A configuration that cannot be used must
        // not leave a file.
        let log = lasting.logs.open(&settings.access_log, metrics.access_log_dropped.clone());
        Ok(Self {
            origin,
            stand_in,
            providers,
            countries,
            log: log.map_err(|error| match error {
                OpenError::Output(output, error) => BuildError::Log(output, error),
                OpenError::Thread(error) => BuildError::Thread(error),
            })?,
            intake: Arc::clone(&lasting.intake),
            objects: Arc::clone(&lasting.objects),
            tops: Arc::clone(&lasting.tops),
            tls,
        })
    }

    /// Reads the address lists, the files of `[origin.tls]` and the files of `client_cert.ca` once, and opens no other
    /// file.
    pub(super) fn still(settings: &Settings, metrics: &'static Metrics) -> Result<Self, BuildError> {
        let open = |origin, role| upstream(origin, settings, role, &Resolver::default(), metrics);
        let (origin, stand_in) = upstreams(settings, open)?;
        let open_ca = |provider, path: &TypedPath| {
            Ok(ProviderCa::open(provider, path).map_err(BuildError::ServerTls)?.authorities())
        };
        let providers = known_providers(settings, &Arc::default(), |ranges, _| Ok(ranges.list()), open_ca)?;
        Ok(Self {
            origin,
            stand_in,
            providers,
            countries: None,
            log: None,
            intake: Arc::default(),
            objects: Arc::default(),
            tops: Arc::default(),
            tls: None,
        })
    }
}

/// Prepares connections to the origin or to its stand-in.
fn upstream(
    origin: OriginSettings,
    settings: &Settings,
    role: Role,
    resolver: &Resolver,
    metrics: &'static Metrics,
) -> Result<Lease, BuildError> {
    let upstream = Upstream::new(origin, settings.limits, role, resolver.clone(), metrics);
    upstream.map(Lease::new).map_err(unusable)
}

fn unusable(problems: Vec<TlsProblem>) -> BuildError {
    BuildError::Several(problems.into_iter().map(BuildError::OriginTls).collect())
}

/// Returns the origin, and its stand-in if there is one.
fn upstreams(
    settings: &Settings,
    open: impl Fn(OriginSettings, Role) -> Result<Lease, BuildError>,
) -> Result<(Lease, Option<Lease>), BuildError> {
    let stand_in = settings.origin.stand_in().map(|stand_in| open(stand_in, Role::StandIn)).transpose()?;
    Ok((open(settings.origin.clone(), Role::Origin)?, stand_in))
}

/// Returns the configured providers, each with its preset and its proofs.
fn known_providers(
    settings: &Settings,
    replays: &Arc<Replays>,
    list: impl Fn(Ranges, &'static str) -> Result<Arc<AddressList>, BuildError>,
    mut open_ca: impl FnMut(&'static str, &TypedPath) -> Result<Arc<Authorities>, BuildError>,
) -> Result<Arc<[Known]>, BuildError> {
    let known = |provider: &Provider| {
        let preset = Preset::named(provider.preset).ok_or_else(|| {
            BuildError::Value(format!(
                "there is no preset {:?}; `edgeshim providers` lists the presets",
                provider.preset
            ))
        })?;
        let addresses = |sources: &[AddressSource]| {
            let ranges = open_ranges(sources).map_err(BuildError::Ranges)?;
            list(ranges, intern(&provider.name))
        };
        let mut proofs = |verify: &Verify| {
            Ok(Proofs {
                require: verify.require,
                secret: verify.secret.clone(),
                addresses: if verify.addresses.is_empty() { None } else { Some(addresses(&verify.addresses)?) },
                client_cert: verify.client_cert.clone(),
                authorities: verify
                    .client_cert_ca
                    .as_ref()
                    .map(|ca| open_ca(intern(&provider.name), ca))
                    .transpose()?,
                g2o: verify.g2o.as_ref().map(|keys| Verifier::new(keys, Arc::clone(replays))),
            })
        };
        let proofs = provider.verify.as_ref().map(&mut proofs).transpose()?;
        Ok(Known { name: provider.name.clone(), preset, proofs })
    };
    settings.providers.iter().map(known).collect()
}

/// Collects the networks from which a provider pulls: the networks in the configuration, and the networks in the
/// configured files.
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

/// Reads the certificates and keys of `[server.tls]`. Watches their files and the files with the CAs of the providers
/// for changes. Without `[server.tls]`, no provider has a CA, because `client_cert.ca` needs `server.tls.client_ca`.
fn open_tls(
    settings: &Settings,
    provider_cas: Vec<ProviderCa>,
    metrics: &Metrics,
    tickets: &Arc<Tickets>,
) -> Result<Option<Arc<ServerTls>>, BuildError> {
    let Some(tls) = &settings.server.tls else { return Ok(None) };
    let (tls, sources) = ServerTls::open(&tls.files, provider_cas, tickets, metrics)
        .map_err(|errors| BuildError::Several(errors.into_iter().map(BuildError::ServerTls).collect()))?;
    tls.follow(sources).map(Some).map_err(BuildError::Thread)
}

/// Opens the country file and watches the file for changes.
fn open_countries(settings: &Settings) -> Result<Option<Arc<Countries>>, BuildError> {
    let Some(path) = &settings.beacon.country_database else { return Ok(None) };
    let countries = Arc::new(Countries::open(path).map_err(BuildError::Countries)?);
    countries.watch().map_err(BuildError::Thread)?;
    Ok(Some(countries))
}
