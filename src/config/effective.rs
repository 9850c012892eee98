//! The effective configuration as JSON in the file's own shape, for the admin side: what is typed there is what one
//! would type in TOML, and secrets are hidden.

use serde_json::{Map, Value, json};

use super::classes::MODES;
use super::scalar::{duration_text, size_text};
use super::settings::{AddressSource, OnDoubt, Provider, Settings, Verify};
use super::verify::REQUIRE;
use crate::access_log::{LogFormat, LogOutput};
use crate::edge::request::class::{CacheMode, CachePolicy, ClassRule, WhoopsieMode};

impl Settings {
    /// Everything that is in effect, in the file's own shape, with secrets as `***`. Keys of later releases stand at
    /// the only value that they can have; those that do nothing yet are left out.
    pub fn effective_json(&self) -> Value {
        let mut whole = json!({
            "server": self.server_json(),
            "admin": {
                "listen": self.admin.listen.to_string(),
                "token": self.admin.token.as_ref().map_or("", |_| "***"),
            },
            "origin": self.origin_json(),
            "identity": {
                "header": self.identity.header.as_str(),
                "recognise": self.identity.recognise,
                "unknown": doubt(self.identity.unknown),
                "unverified": doubt(self.identity.unverified),
            },
            "gzip": {
                "enabled": self.gzip.enabled,
                "level": self.gzip.level,
                "min_bytes": self.gzip.min_bytes,
                "twins": size_text(self.gzip.twins_bytes),
                "inflate": self.gzip.inflate,
                "types": self.gzip.types,
            },
            "whoopsie": {
                "statuses": self.whoopsie.statuses.words(),
                "pages": self.whoopsie.pages.folder().display().to_string(),
                "default_locale": self.whoopsie.default_locale,
                "hosts": self.whoopsie.hosts,
                "site_name": self.whoopsie.site_name,
                "status_url": self.whoopsie.status_url,
                "support_url": self.whoopsie.support_url,
                "beacon_base": self.whoopsie.beacon_base,
                "retry_after": duration_text(self.whoopsie.retry_after),
            },
            "beacon": {
                "path": self.beacon.path,
                "sources": self.beacon.sources,
                "country_database": self.beacon.country_database.as_ref().map_or_else(String::new, |path| path.display().to_string()),
            },
            "edge_logs": { "token": "" },
            "rum": { "path": self.rum.path.as_deref().unwrap_or_default(), "pages": self.rum.pages },
            "access_log": {
                "output": match &self.access_log.output {
                    LogOutput::Off => "off".to_owned(),
                    LogOutput::Stdout => "stdout".to_owned(),
                    LogOutput::File(path) => format!("file:{}", path.display()),
                },
                "format": match self.access_log.format {
                    LogFormat::Json => "json",
                    LogFormat::Combined => "combined",
                    LogFormat::Etsy => "etsy",
                },
            },
        });
        if let Some(whole) = whole.as_object_mut() {
            whole.insert("provider".to_owned(), self.providers.iter().map(provider).collect());
            whole.insert("class".to_owned(), self.classes.iter().map(class).collect());
        }
        whole
    }

    fn server_json(&self) -> Value {
        let server = &self.server;
        json!({
            "listen": server.listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "workers": server.workers,
            "hosts": server.hosts,
            "trusted_proxies": server.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "proxy_protocol": server.proxy_protocol,
            "max_connections": server.max_connections,
            "max_header_bytes": size_text(server.max_header_bytes as u64),
            "max_headers": server.max_headers,
            "max_request_body": size_text(server.max_request_body.unwrap_or(0)),
            "header_timeout": duration_text(server.header_timeout),
            "body_timeout": duration_text(server.body_timeout),
            "idle_timeout": duration_text(server.idle_timeout),
            "drain_delay": duration_text(server.drain_delay),
            "drain_timeout": duration_text(server.drain_timeout),
            "max_hops": server.max_hops,
            "tunnel_timeout": duration_text(server.tunnel_timeout),
        })
    }

    fn origin_json(&self) -> Value {
        let origin = &self.origin;
        json!({
            "url": origin.target.to_string(),
            "http2": origin.http2,
            "connect_timeout": duration_text(origin.connect_timeout),
            "response_timeout": duration_text(origin.response_timeout),
            "idle_timeout": duration_text(origin.idle_timeout),
            "max_idle": origin.max_idle,
            "retries": origin.retries,
            "max_in_flight": origin.max_in_flight,
            "max_waiting": origin.max_waiting,
            "host": origin.host.as_deref().unwrap_or_default(),
            "preserve_header_case": origin.preserve_header_case,
            "tls": { "ca": "", "server_name": "", "certificate": "", "key": "" },
        })
    }
}

fn doubt(on_doubt: OnDoubt) -> &'static str {
    match on_doubt {
        OnDoubt::Count => "count",
        OnDoubt::Reject => "reject",
    }
}

fn provider(provider: &Provider) -> Value {
    let mut keys = Map::new();
    keys.insert("name".to_owned(), json!(provider.name));
    keys.insert("preset".to_owned(), json!(provider.preset));
    keys.insert("tag_header".to_owned(), json!(provider.tag_header.as_ref().map_or("", |field| field.as_str())));
    if let Some(proofs) = &provider.verify {
        keys.insert("verify".to_owned(), verify(proofs));
    }
    Value::Object(keys)
}

/// The proofs; those that are not asked are left out, as they must be in the file.
fn verify(proofs: &Verify) -> Value {
    let mut keys = Map::new();
    let require = REQUIRE.iter().find(|&&(_, require)| require == proofs.require).map_or("any", |&(word, _)| word);
    keys.insert("require".to_owned(), json!(require));
    if let Some(secret) = &proofs.secret {
        // Secrets write themselves as stars.
        keys.insert("secret".to_owned(), json!({ "header": secret.field.as_str(), "values": secret.values }));
    }
    if !proofs.addresses.is_empty() {
        let typed = |source: &AddressSource| match source {
            AddressSource::Network(network) => network.to_string(),
            AddressSource::File(path) => format!("file:{}", path.display()),
        };
        keys.insert("addresses".to_owned(), proofs.addresses.iter().map(typed).collect());
    }
    if let Some(rule) = &proofs.client_cert {
        let hex = |sha256: &[u8; 32]| sha256.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        let sha256 = rule.sha256.iter().map(hex).collect::<Vec<_>>();
        keys.insert("client_cert".to_owned(), json!({ "san": rule.san, "sha256": sha256 }));
    }
    if let Some(g2o) = &proofs.g2o {
        keys.insert("g2o".to_owned(), json!({ "keys": g2o.keys, "versions": g2o.versions }));
    }
    Value::Object(keys)
}

fn class(rule: &ClassRule) -> Value {
    json!({
        "name": rule.name,
        "path": rule.path,
        "content_type": rule.content_type,
        "cache": cache(&rule.cache),
        "gzip": rule.gzip,
        "whoopsie": match rule.whoopsie {
            WhoopsieMode::Auto => "auto",
            WhoopsieMode::Always => "always",
            WhoopsieMode::Never => "never",
        },
        "admission": rule.admission,
    })
}

/// The cache keys; those that mean nothing in this mode are left out, as they must be in the file.
fn cache(policy: &CachePolicy) -> Value {
    let mut keys = Map::new();
    let mode = MODES.iter().find(|&&(_, mode)| mode == policy.mode).map_or("keep", |&(word, _)| word);
    keys.insert("mode".to_owned(), json!(mode));
    if matches!(policy.mode, CacheMode::Default | CacheMode::Override) {
        let times = [
            ("ttl", policy.ttl),
            ("edge_ttl", policy.edge_ttl),
            ("stale_while_revalidate", policy.stale_while_revalidate),
            ("stale_if_error", policy.stale_if_error),
            ("error_ttl", Some(policy.error_ttl)),
        ];
        for (key, seconds) in times {
            if let Some(seconds) = seconds {
                keys.insert(key.to_owned(), json!(format!("{seconds}s")));
            }
        }
        keys.insert("immutable".to_owned(), json!(policy.immutable));
    }
    keys.insert("strip_cookies".to_owned(), json!(policy.strip_cookies));
    if let Some(vary) = &policy.vary {
        keys.insert("vary".to_owned(), json!(vary));
    }
    keys.insert("allow_authorization".to_owned(), json!(policy.allow_authorization));
    Value::Object(keys)
}
