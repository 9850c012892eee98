//! The targets of smoke, which are URLs at the edges of providers, and the clients that connect to a server.

use std::sync::Arc;
use std::time::Duration;

use super::place::{Server, Url};
use super::probe::{Probe, Question, Route};
use super::trust::Trust;
use crate::cdn::preset::Preset;
use crate::cdn::preset::edge_fields::EdgeFields;
use crate::wire::names::ACCEPT_ENCODING;
use crate::wire::secret::Secret;

/// A provider that was named on the command line.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    /// The name that edgeshim has for the provider.
    pub name: String,
    pub preset: &'static Preset,
}

/// A URL at an edge.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub url: Url,
    pub provider: Option<Named>,
    /// The server to connect to.
    pub edge: Server,
}

/// The options that apply to all targets.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The origin: a URL without a path.
    pub origin: Option<Url>,
    pub token: Option<Secret>,
    /// The settings of TLS. They exist if any URL begins with `https://`.
    pub trust: Option<Trust>,
    pub timeout: Duration,
}

/// A function that reports what smoke does at the moment.
pub(crate) type Note = Arc<dyn Fn(&Target, &'static str) + Send + Sync>;

impl Target {
    pub(crate) fn fields(&self) -> &'static EdgeFields {
        static UNKNOWN: EdgeFields =
            EdgeFields { status: None, hit: Vec::new(), miss: Vec::new(), pop: None, ask: None };
        self.provider.as_ref().map_or(&UNKNOWN, |named| &named.preset.edge)
    }

    /// Returns a client for the edge.
    pub(crate) fn probe(&self, options: &Options) -> Probe {
        let tls = options.trust.clone().filter(|_| self.url.is_https);
        let name = self.url.server.bare_host().to_owned();
        Probe::new(Route {
            server: self.edge.clone(),
            tls: tls.map(|trust| (trust, name)),
            authority: self.url.authority.clone(),
            timeout: options.timeout,
        })
    }

    /// Returns a request for the edge without conditions. `coding` is the value of Accept-Encoding. If the CDN reports
    /// the cache result only to requests with a certain field, the request has this field.
    pub(crate) fn question(&self, target: &str, coding: &str) -> Question {
        let question = Question::get(target).with(&ACCEPT_ENCODING, coding);
        match &self.fields().ask {
            Some((name, value)) => question.with(name, value.to_str().unwrap_or_default()),
            None => question,
        }
    }
}

/// Returns a client for a server other than the edge. `authority` is the value of Host.
pub(crate) fn probe_of(url: &Url, authority: &str, options: &Options) -> Probe {
    let tls = options.trust.clone().filter(|_| url.is_https);
    Probe::new(Route {
        server: url.server.clone(),
        tls: tls.map(|trust| (trust, url.server.bare_host().to_owned())),
        authority: authority.to_owned(),
        timeout: options.timeout,
    })
}
