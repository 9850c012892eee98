//! TLS to the origin: the keys of `[origin.tls]`, the certificates that edgeshim trusts, and its client certificate.
//!
//! The server's certificate is always checked: its chain against the authorities, its names against the server name,
//! and its dates. All workers share one configuration, and with it the sessions that later connections can resume.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::target::Role;
use super::tls_faults::Server;
use crate::keys::{Checked, Keys, PATH, Text, Visitor, quote};
use crate::regular_file;

/// The largest size of a file with certificates or a key, in bytes. A file with all authorities of a system has about a
/// quarter of this size.
const MOST_BYTES: u64 = 1024 * 1024;
/// The name of HTTP/2 in ALPN (RFC 9113 §3.1).
pub(super) const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// The keys of `[origin.tls]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// The file with the authorities that edgeshim trusts for the origin. `None`: the system's authorities.
    pub ca: Option<PathBuf>,
    /// The name that the origin's certificate must have. `None`: the host of the origin's URL.
    pub server_name: Option<String>,
    /// The file with edgeshim's certificate for the origin, followed by the certificates of its issuers.
    pub certificate: Option<PathBuf>,
    /// The file with the private key of `certificate`.
    pub key: Option<PathBuf>,
}

const SERVER_NAME: Text<String> =
    Text { example: "origin.example.com", read: |text, _| server_name(text), write: String::clone };

fn server_name(text: &str) -> Checked<String> {
    match ServerName::try_from(text) {
        Ok(_) => Ok(text.to_ascii_lowercase()),
        Err(_) => Err("is not a name that a certificate can have; write a host name or an IP address without a port, \
                       for example \"origin.example.com\""
            .to_owned()),
    }
}

impl Keys for TlsSettings {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.nonempty("ca", &PATH, &mut self.ca);
        v.nonempty("server_name", &SERVER_NAME, &mut self.server_name);
        v.nonempty("certificate", &PATH, &mut self.certificate);
        v.nonempty("key", &PATH, &mut self.key);
    }
}

/// The key of the stand-in's URL in `[origin]`.
const STAND_IN: &str = "stand_in";

/// A problem with one key of `[origin.tls]`, or with the key `stand_in` of `[origin]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsProblem {
    /// The name of the key.
    pub key: &'static str,
    /// What is wrong, and what to write instead. The message continues a sentence that begins with the key or its
    /// value.
    pub message: String,
}

impl fmt::Display for TlsProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let block = if self.is_in_tls() { "origin.tls" } else { "origin" };
        write!(f, "{block}.{} {}", self.key, self.message)
    }
}

impl TlsProblem {
    /// Returns whether the key is in the block `[origin.tls]`.
    pub(crate) fn is_in_tls(&self) -> bool {
        self.key != STAND_IN
    }
}

impl TlsSettings {
    /// Reads the files and prepares TLS for connections to `host`. If `http2` is true, edgeshim offers HTTP/2 before
    /// HTTP/1.1. The stand-in is often a public mirror, so the authorities of the system are trusted for the stand-in
    /// in addition to `ca`.
    ///
    /// # Errors
    /// Returns all problems of the keys and their files.
    pub(super) fn load(&self, host: &str, http2: bool, role: Role) -> Result<Tls, Vec<TlsProblem>> {
        let mut problems = Vec::new();
        let used = Mutex::new(self.stamps());
        let name = self.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.trim_end_matches('.').to_owned()).map_err(|_| match role {
            Role::Origin => TlsProblem {
                key: "server_name",
                message: format!(
                    "is missing, and {}, the host of origin.url, is not a name that a certificate can have; write the \
                     name in the origin's certificate",
                    quote(host)
                ),
            },
            // `server_name` is not used for the stand-in.
            Role::StandIn => TlsProblem {
                key: STAND_IN,
                message: "has a host that is not a name that a certificate can have; write a name in the stand-in's \
                          certificate"
                    .to_owned(),
            },
        });
        let config = self.config(http2, role, &mut |problem| problems.push(problem));
        match (name, config) {
            (Ok(name), Some(config)) if problems.is_empty() => {
                Ok(Tls { config: ArcSwap::from_pointee(config), name, http2, role, settings: self.clone(), used })
            }
            (name, _) => {
                problems.extend(name.err());
                Err(problems)
            }
        }
    }

    fn config(&self, http2: bool, role: Role, problem: &mut impl FnMut(TlsProblem)) -> Option<ClientConfig> {
        let mut note = |key, message| problem(TlsProblem { key, message });
        let roots = self.roots(role).map_err(|message| note("ca", message)).ok();
        let identity = match (&self.certificate, &self.key) {
            (None, None) => Some(None),
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate).map_err(|message| note("certificate", message));
                let key = private_key(key).map_err(|message| note("key", message));
                chain.ok().zip(key.ok()).map(Some)
            }
            (Some(_), None) => {
                note("key", "is missing; write the path of the private key of origin.tls.certificate".to_owned());
                None
            }
            (None, Some(_)) => {
                note("certificate", "is missing; write the path of the certificate of origin.tls.key".to_owned());
                None
            }
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| note("ca", format!("cannot be used ({error})")))
            .ok()?
            .with_root_certificates(roots?);
        let mut config = match identity? {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| {
                    let message = match error {
                        rustls::Error::InconsistentKeys(_) => {
                            "is not the key of origin.tls.certificate; write the path of the key of that certificate"
                                .to_owned()
                        }
                        error => format!("cannot be used with origin.tls.certificate ({error}); write another key"),
                    };
                    note("key", message);
                })
                .ok()?,
        };
        config.alpn_protocols = if http2 { vec![H2.to_vec(), HTTP_1_1.to_vec()] } else { vec![HTTP_1_1.to_vec()] };
        Some(config)
    }

    fn stamps(&self) -> Vec<Option<Stamp>> {
        let stamp = |path: &PathBuf| {
            fs::metadata(path).ok().map(|file| (file.ctime(), file.ctime_nsec(), file.len(), file.ino()))
        };
        [&self.ca, &self.certificate, &self.key].into_iter().flatten().map(stamp).collect()
    }

    /// Returns the authorities that edgeshim trusts for the origin or the stand-in.
    fn roots(&self, role: Role) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = &self.ca {
            let (added, _) = roots.add_parsable_certificates(certificates(path)?);
            if added == 0 {
                return Err(
                    "has no certificate that can be an authority; write the path of a PEM file with the certificate of \
                            the authority that issued the origin's certificate"
                        .to_owned(),
                );
            }
            if role == Role::Origin {
                return Ok(roots);
            }
        }
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err("is empty, and this system has no certificate authorities; install the package \
                        ca-certificates, or write the path of a PEM file with the authority of the origin's certificate"
                .to_owned());
        }
        Ok(roots)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let remedy = "write the path of a PEM file that this user may read";
    let bytes = regular_file::read(path, MOST_BYTES)
        .map_err(|error| format!("names a file that cannot be read ({error}); {remedy}"))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(format!("names a file of more than {MOST_BYTES} bytes; write the path of a smaller PEM file"));
    }
    Ok(bytes)
}

pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err("names a file without valid certificates; write the path of a PEM file that has \
                  \"-----BEGIN CERTIFICATE-----\""
            .to_owned()),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| {
        "names a file without a private key; write the path of a PEM file that has \"-----BEGIN PRIVATE KEY-----\"; an \
         encrypted key cannot be used"
            .to_owned()
    })
}

/// The state of a file. If two states of a file differ, the file has changed.
pub(super) type Stamp = (i64, i64, u64, u64);

/// TLS for the connections to one origin.
pub(crate) struct Tls {
    config: ArcSwap<ClientConfig>,
    name: ServerName<'static>,
    http2: bool,
    role: Role,
    settings: TlsSettings,
    /// The states that the files in use had just before they were read.
    used: Mutex<Vec<Option<Stamp>>>,
}

impl Tls {
    /// Does the handshake on a new connection.
    pub(super) async fn handshake<S>(&self, stream: S) -> std::io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        TlsConnector::from(self.config.load_full()).connect(self.name.clone(), stream).await
    }

    /// Returns what messages about faults need to know about the server.
    pub(super) fn server(&self) -> Server {
        Server { role: self.role, has_certificate: self.settings.certificate.is_some() }
    }

    /// Returns the states of the files of `[origin.tls]`.
    pub(super) fn stamps(&self) -> Vec<Option<Stamp>> {
        self.settings.stamps()
    }

    /// Reads the files, and uses them if they have changed. Returns whether they have changed. If there is a problem,
    /// the last good files stay in use.
    pub(super) fn reload(&self) -> Result<bool, Vec<TlsProblem>> {
        let stamps = self.stamps();
        if stamps.is_empty() {
            return Ok(false);
        }
        let mut problems = Vec::new();
        let config = self.settings.config(self.http2, self.role, &mut |problem| problems.push(problem));
        let Some(config) = config.filter(|_| problems.is_empty()) else { return Err(problems) };
        let mut used = self.lock();
        let has_changed = *used != stamps;
        if has_changed {
            // Unchanged files keep their configuration, because it contains the sessions that can be resumed.
            self.config.store(Arc::new(config));
            *used = stamps;
        }
        Ok(has_changed)
    }

    /// Returns the states of the files that are in use.
    pub(super) fn used(&self) -> Vec<Option<Stamp>> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Stamp>>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}
