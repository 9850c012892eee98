//! The keys of `[origin]`, and the keys of `[server]` that limit requests and responses.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::health::HealthSettings;
use super::target::{Role, Target};
use super::tls::{TlsProblem, TlsSettings};
use crate::keys::quantities::{SIZE_LIMIT, TIMEOUT, size, size_text};
use crate::keys::urls::HOST;
use crate::keys::{Checked, Keys, Text, Visitor};

/// The settings of `[origin]`, except the keys that `admission` reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginSettings {
    pub target: Target,
    /// Whether to use HTTP/2 instead of HTTP/1.1: without TLS by prior knowledge, with TLS if the origin chooses
    /// HTTP/2.
    pub http2: bool,
    /// The longest time until a connection is established, including the lookup of the name and the handshakes of TLS
    /// and HTTP/2.
    pub connect_timeout: Duration,
    /// The longest time from the last byte of the request to the response head.
    pub response_timeout: Duration,
    /// The longest time for which an idle connection is kept for further requests.
    pub idle_timeout: Duration,
    /// The largest number of idle HTTP/1.1 connections, for all workers together. 0: they are not reused.
    pub max_idle: usize,
    /// The largest number of retries of one request.
    pub retries: u32,
    /// The stand-in: a static mirror that gets a request after the origin has failed. `None`: there is no stand-in.
    pub stand_in: Option<Target>,
    /// The keys of `origin.health`.
    pub health: HealthSettings,
    /// The keys of `[origin.tls]`.
    pub tls: TlsSettings,
    /// The Host that edgeshim sends to the origin, in lower case. `None`: the Host of the request.
    pub host: Option<String>,
    /// Whether the names of header fields keep their original case (only on HTTP/1.1).
    pub preserve_header_case: bool,
    /// Whether these are the settings of a stand-in whose origin uses TLS too. The origin's thread (`upkeep.rs`) then
    /// reports the problems of the files, and the thread of the stand-in does not. No key sets this value.
    pub(super) shares_files: bool,
}

impl Default for OriginSettings {
    fn default() -> Self {
        Self {
            target: Target::Tcp { host: "127.0.0.1".to_owned(), port: 3000, tls: false },
            http2: false,
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
            max_idle: 256,
            retries: 1,
            stand_in: None,
            health: HealthSettings::default(),
            tls: TlsSettings::default(),
            host: None,
            preserve_header_case: false,
            shares_files: false,
        }
    }
}

impl OriginSettings {
    /// Returns the settings of the stand-in, if one is configured: the origin's timeouts, `max_idle`, `retries`
    /// and `tls.ca`, and the defaults of all other keys.
    pub(crate) fn stand_in(&self) -> Option<Self> {
        Some(Self {
            target: self.stand_in.clone()?,
            tls: TlsSettings { ca: self.tls.ca.clone(), ..TlsSettings::default() },
            connect_timeout: self.connect_timeout,
            response_timeout: self.response_timeout,
            idle_timeout: self.idle_timeout,
            max_idle: self.max_idle,
            retries: self.retries,
            shares_files: matches!(self.target, Target::Tcp { tls: true, .. }),
            ..Self::default()
        })
    }

    /// Returns the problems of `[origin.tls]` and its files.
    pub(crate) fn tls_problems(&self) -> Vec<TlsProblem> {
        let problems = |origin: &Self, role| match &origin.target {
            Target::Tcp { host, tls: true, .. } => origin.tls.load(host, origin.http2, role).err().unwrap_or_default(),
            _ => Vec::new(),
        };
        let mut all = problems(self, Role::Origin);
        let is_unused = |target: Option<&Target>| !matches!(target, Some(Target::Tcp { tls: true, .. }));
        let TlsSettings { ca, server_name, certificate, key } = &self.tls;
        let unused = "has no effect, because origin.url does not start with https://; write an https:// URL in \
                      origin.url, or remove this key";
        let without_tls = is_unused(Some(&self.target));
        for (key, is_set, is_unused) in [
            ("ca", ca.is_some(), without_tls && is_unused(self.stand_in.as_ref())),
            ("server_name", server_name.is_some(), without_tls),
            ("certificate", certificate.is_some(), without_tls),
            ("key", key.is_some(), without_tls),
        ] {
            if is_set && is_unused {
                all.push(TlsProblem { key, message: unused.to_owned() });
            }
        }
        for problem in self.stand_in().map(|stand_in| problems(&stand_in, Role::StandIn)).unwrap_or_default() {
            if !all.contains(&problem) {
                all.push(problem);
            }
        }
        all
    }
}

impl Keys for OriginSettings {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.text("url", &Target::TEXT, &mut self.target);
        v.flag("http2", &mut self.http2);
        v.text("connect_timeout", &TIMEOUT, &mut self.connect_timeout);
        v.text("response_timeout", &TIMEOUT, &mut self.response_timeout);
        v.text("idle_timeout", &TIMEOUT, &mut self.idle_timeout);
        v.integer("max_idle", 0..=1_000_000, &mut self.max_idle);
        v.integer("retries", 0..=10, &mut self.retries);
        v.nonempty("host", &HOST, &mut self.host);
        v.flag("preserve_header_case", &mut self.preserve_header_case);
        v.nonempty("stand_in", &Target::TEXT, &mut self.stand_in);
        v.block("health", |v| self.health.keys(v));
        v.block("tls", |v| self.tls.keys(v));
    }
}

/// The keys of `[server]` that limit requests and responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageLimits {
    /// The largest size of a message head, in bytes: from 4 KiB to 1 MiB.
    pub max_header_bytes: usize,
    /// The largest number of field lines in a head.
    pub max_headers: usize,
    /// The largest size of a request body, in bytes. `None`: no limit.
    pub max_request_body: Option<u64>,
    /// The longest time without progress of a request body or a response body.
    pub body_timeout: Duration,
    /// The longest time without a byte in either direction on an upgraded connection.
    pub tunnel_timeout: Duration,
}

impl Default for MessageLimits {
    fn default() -> Self {
        Self {
            max_header_bytes: 64 * 1024,
            max_headers: 128,
            max_request_body: None,
            body_timeout: Duration::from_mins(1),
            tunnel_timeout: Duration::from_hours(1),
        }
    }
}

impl Keys for MessageLimits {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.text("max_header_bytes", &HEADER_BYTES, &mut self.max_header_bytes);
        v.integer("max_headers", 1..=1_000, &mut self.max_headers);
        v.text("max_request_body", &SIZE_LIMIT, &mut self.max_request_body);
        v.text("body_timeout", &TIMEOUT, &mut self.body_timeout);
        v.text("tunnel_timeout", &TIMEOUT, &mut self.tunnel_timeout);
    }
}

const HEADER_BYTES: Text<usize> =
    Text { example: "64KiB", read: |text, _| header_bytes(text), write: |bytes| size_text(*bytes as u64) };

fn header_bytes(text: &str) -> Checked<usize> {
    const BOUNDS: RangeInclusive<u64> = 4 * 1024..=1024 * 1024;
    let bytes = size(text)?;
    usize::try_from(bytes).ok().filter(|_| BOUNDS.contains(&bytes)).ok_or_else(|| {
        let (low, high) = (size_text(*BOUNDS.start()), size_text(*BOUNDS.end()));
        format!("is out of range; write a size from \"{low}\" to \"{high}\"")
    })
}
