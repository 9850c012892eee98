//! The arguments of `smoke`, and the targets that follow from them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cdn::preset::{NAMES, Preset};
use crate::cli::admin_client::token_argument;
use crate::edge::local::smoke_token;
use crate::keys::quantities::TIMEOUT;
use crate::keys::quote;
use crate::smoke::{Baseline, Named, Options, Server, Target, Trust, Url};

use super::machine;

/// The largest number of targets.
const MOST_TARGETS: usize = 64;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct SmokeArguments {
    /// The URLs to check, as a browser requests them. Each must be an object that caches may store.
    #[arg(required = true, value_name = "URL")]
    pub(super) urls: Vec<String>,
    /// Connect to this server in place of the URL's host. TLS and Host still use the URL's host. With several
    /// providers: NAME=HOST:PORT, once for each.
    #[arg(long, value_name = "EDGE")]
    pub(super) connect_to: Vec<String>,
    /// The CDN: the name of a preset, or NAME:PRESET if the provider has another name in edgeshim; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub(super) provider: Vec<String>,
    #[arg(
        long,
        value_name = "URL",
        help = "Compare with the origin: scheme and host, such as http://127.0.0.1:8080. \
        Each URL's path is appended, and the URL's host is sent as Host"
    )]
    pub(super) origin: Option<String>,
    // The token is read in this file and not by clap. An error message of clap would repeat the value.
    #[arg(
        long,
        help = "The value of smoke.token of the edgeshim at the origin: env:NAME or file:PATH. The token \
        is never sent"
    )]
    pub(super) token: Option<String>,
    /// Compare the time to the first byte with a file that `smoke --json` has written, or with a URL. If this URL has
    /// no path, it gets the path of each checked URL. More than 5 % and at least 1 ms above the baseline is a failure.
    #[arg(long, value_name = "FILE|URL")]
    pub(super) baseline: Option<String>,
    /// Print a score card that compares the first --provider with this CDN, which is in use now. This CDN needs its own
    /// --connect-to PROVIDER=HOST:PORT.
    #[arg(long, value_name = "PROVIDER")]
    pub(super) compare: Option<String>,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub(super) json: bool,
    #[arg(long, value_name = "FILE", help = "Also write the result as a JUnit file")]
    pub(super) junit: Option<PathBuf>,
    /// Trust only the certificate authorities in this PEM file.
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub(super) ca: Option<PathBuf>,
    /// Do not check certificates.
    #[arg(long)]
    pub(super) insecure: bool,
    /// The time limit of each request with its response.
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub(super) timeout: String,
}

/// What is to be checked.
pub(super) struct Plan {
    pub targets: Vec<Target>,
    /// The targets of the CDN in `--compare`, one for each URL. `targets` contains these targets too.
    pub incumbents: Vec<Target>,
    pub options: Options,
    pub baseline: Option<Baseline>,
}

impl SmokeArguments {
    /// Returns the plan, or a message about a wrong argument.
    pub(super) fn plan(&self) -> Result<Plan, String> {
        let urls: Vec<_> = self.urls.iter().map(|url| Url::parse(url)).collect::<Result<_, _>>()?;
        let providers: Vec<_> = self.provider.iter().map(|name| named("--provider", name)).collect::<Result<_, _>>()?;
        let incumbent = self.compare.as_deref().map(|name| named("--compare", name)).transpose()?;
        if let Some(twice) = repeated(providers.iter().map(|named| &named.name)) {
            return Err(format!(
                "--provider {twice} occurs twice; write it once, or write NAME:PRESET with another NAME for each of \
                 two providers with the same preset"
            ));
        }
        if let Some(twice) = repeated(urls.iter().map(|url| &url.text)) {
            return Err(format!("the URL {twice} occurs twice; write it once"));
        }
        if let Some(named) = incumbent.as_ref().filter(|named| providers.iter().any(|other| other.name == named.name)) {
            return Err(format!(
                "--compare {name} is also a --provider, and a CDN cannot be compared with itself; remove --provider \
                 {name}, and name the new CDN with --provider",
                name = named.name
            ));
        }
        let routes = self.routes(&providers, incumbent.as_ref())?;
        let target = |url: &Url, provider: Option<&Named>| {
            let route = routes.iter().find(|(name, _)| name.as_deref() == provider.map(|named| named.name.as_str()));
            let route = route.or_else(|| routes.iter().find(|(name, _)| name.is_none()));
            Target {
                url: url.clone(),
                provider: provider.cloned(),
                edge: route.map_or_else(|| url.server.clone(), |(_, server)| server.clone()),
            }
        };
        let of_url = |url: &Url| -> Vec<Target> {
            if providers.is_empty() {
                vec![target(url, None)]
            } else {
                providers.iter().map(|named| target(url, Some(named))).collect()
            }
        };
        let mut targets: Vec<_> = urls.iter().flat_map(of_url).collect();
        let incumbents: Vec<_> =
            incumbent.iter().flat_map(|named| urls.iter().map(|url| target(url, Some(named)))).collect();
        targets.extend(incumbents.iter().cloned());
        if targets.len() > MOST_TARGETS {
            return Err(format!(
                "{} targets (URLs times providers) are too many; write at most {MOST_TARGETS}",
                targets.len()
            ));
        }
        let origin = self.origin.as_deref().map(origin).transpose()?;
        let baseline = self.baseline.as_deref().map(read_baseline).transpose()?;
        let is_https = urls.iter().any(|url| url.is_https)
            || origin.as_ref().is_some_and(|url| url.is_https)
            || matches!(&baseline, Some(Baseline::Url(url)) if url.is_https);
        let trust = is_https.then(|| Trust::new(self.ca.as_deref(), self.insecure)).transpose();
        let options = Options {
            origin,
            token: self.token.as_deref().map(|text| token_argument(text, smoke_token)).transpose()?,
            trust: trust.map_err(|why| format!("--ca: {why}"))?,
            timeout: timeout(&self.timeout)?,
        };
        Ok(Plan { targets, incumbents, options, baseline })
    }

    /// Reads `--connect-to`: the servers, each with the name of its provider, if the argument has a name.
    fn routes(&self, providers: &[Named], incumbent: Option<&Named>) -> Result<Vec<(Option<String>, Server)>, String> {
        let mut routes: Vec<(Option<String>, Server)> = Vec::new();
        let names: Vec<_> = providers.iter().chain(incumbent).map(|named| named.name.as_str()).collect();
        for text in &self.connect_to {
            let (name, server) = match text.split_once('=') {
                Some((name, server)) => (Some(name.to_ascii_lowercase()), server),
                None => (None, text.as_str()),
            };
            if let Some(name) = name.as_deref().filter(|name| !names.contains(name)) {
                return Err(format!(
                    "the name {name:?} in --connect-to is no provider of this command; add --provider {name}"
                ));
            }
            if routes.iter().any(|(known, _)| *known == name) {
                let of = name.map_or_else(String::new, |name| format!(" of {name}"));
                return Err(format!("--connect-to has a second server{of}; write only one"));
            }
            routes.push((name, Server::parse(server).map_err(|why| format!("--connect-to: {why}"))?));
        }
        let is_named = |named: &&Named| routes.iter().any(|(name, _)| name.as_deref() == Some(named.name.as_str()));
        let has_route = |name: &&&str| routes.iter().any(|(known, _)| known.as_deref() == Some(**name));
        let unnamed: Vec<_> = names.iter().filter(|name| !has_route(name)).copied().collect();
        if let Some(named) = incumbent.filter(|named| !is_named(named)) {
            return Err(format!(
                "--compare {name} has no server of its own; add --connect-to {name}=HOST:PORT",
                name = named.name
            ));
        }
        if names.len() > 1 && routes.iter().any(|(name, _)| name.is_none()) && unnamed.len() > 1 {
            return Err(format!(
                "one --connect-to cannot be the server of {}; write --connect-to NAME=HOST:PORT for each of them",
                unnamed.join(" and ")
            ));
        }
        Ok(routes)
    }
}

/// Returns the first text that occurs twice.
fn repeated<'a>(mut texts: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let mut known = BTreeSet::new();
    texts.find(|text| !known.insert(*text))
}

/// Reads the value of a flag that names a CDN.
fn named(flag: &str, text: &str) -> Result<Named, String> {
    let (name, preset) = text.split_once(':').unwrap_or((text, text));
    let (name, preset) = (name.to_ascii_lowercase(), preset.to_ascii_lowercase());
    match Preset::named(&preset) {
        Some(preset) if !name.is_empty() => Ok(Named { name, preset }),
        _ => Err(format!(
            "{flag} {}: there is no preset {preset:?}; write one of {}, or NAME:PRESET",
            quote(text),
            NAMES.join(", ")
        )),
    }
}

fn origin(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|why| format!("--origin: {why}"))?;
    if url.path.trim_end_matches('/').is_empty() {
        Ok(url)
    } else {
        Err(format!("--origin: {text:?} has a path; write only scheme and host, such as http://{}", url.authority))
    }
}

fn timeout(text: &str) -> Result<Duration, String> {
    (TIMEOUT.read)(text, Path::new(".")).map_err(|why| format!("--timeout: {} {why}", quote(text)))
}

fn read_baseline(text: &str) -> Result<Baseline, String> {
    if text.contains("://") {
        return Url::parse(text).map(Baseline::Url).map_err(|why| format!("--baseline: {why}"));
    }
    machine::read_times(Path::new(text)).map(|times| Baseline::Times(text.to_owned(), times))
}
