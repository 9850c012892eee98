//! The certificates and keys of `[server.tls]`, and the CAs of client certificates. The files can be replaced at any
//! time.
//!
//! A thread checks the files every second. If a new pair of certificate and key has an error, for example because the
//! key does not match, the previous pair stays in use, and the change counts as a failed reload. The same applies to
//! the files of CAs. A handshake loads the active certificates and CAs without a lock.

mod choice;
mod clients;
mod cryptography;
mod expiry;
mod pair;
mod provider_ca;
mod tickets;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use metrics::Counter;
use rustls::pki_types::CertificateDer;
use rustls::server::NoServerSessionStorage;
use rustls::{ServerConfig, version};

use self::choice::Choice;
use self::clients::Clients;
use self::cryptography::provider;
use self::expiry::{days_left, unix_now};
use self::pair::{Pair, PairFile};
pub(crate) use self::provider_ca::{FOREIGN_CA, ProviderCa};
pub(crate) use self::tickets::Tickets;
use super::followed::{Content, Followed, ReadError, follow};
use crate::ids::{Handshake, intern};
use crate::keys::{Checked, Keys, Text, Visitor, quote};
use crate::metrics::{HeldGauge, Metrics, describe};
use crate::wire::certificate::Certificate;

/// The largest accepted size of a file with certificates or with a key, in bytes.
const MOST_BYTES: u64 = 1024 * 1024;
/// The protocols that edgeshim offers, the preferred protocol first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The path of a file, in two forms.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TypedPath {
    /// The path as in the configuration.
    pub typed: String,
    /// The path that is opened. A relative path starts at the folder of the configuration file.
    pub path: PathBuf,
}

/// A value of the configuration: the path of a file with a certificate, a key or CAs. An empty text means no file.
pub(crate) const TYPED_PATH: Text<TypedPath> = Text {
    example: "tls/cert.pem",
    read: |text, folder| {
        let path = if text.is_empty() { PathBuf::new() } else { folder.join(text) };
        Ok(TypedPath { typed: text.to_owned(), path })
    },
    write: |path| path.typed.clone(),
};

/// The files of one certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PairPaths {
    /// The certificate, then the intermediate certificates.
    pub certificate: TypedPath,
    /// The private key of the certificate.
    pub key: TypedPath,
}

impl Keys for PairPaths {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.text("certificate", &TYPED_PATH, &mut self.certificate);
        v.text("key", &TYPED_PATH, &mut self.key);
    }
}

/// The files of `[server.tls]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsFiles {
    /// The default pair, for a client that names no host, or a host for which there is no certificate. If such a client
    /// accepts only the key of another pair, the client gets that pair.
    pub first: PairPaths,
    /// The CAs whose client certificates are accepted. `None`: edgeshim asks for no client certificate.
    pub client_ca: Option<TypedPath>,
    /// Further certificates. The client's SNI selects the certificate.
    pub more: Vec<PairPaths>,
}

impl Keys for TlsFiles {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        self.first.keys(v);
        v.nonempty("client_ca", &TYPED_PATH, &mut self.client_ca);
        v.blocks("more", &mut self.more);
    }
}

impl TlsFiles {
    fn pairs(&self) -> impl Iterator<Item = &PairPaths> {
        std::iter::once(&self.first).chain(&self.more)
    }
}

/// The key of the configuration that names a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKey {
    /// A key of a pair. 0 is the pair of `[server.tls]`, and 1 is the first pair of `more`.
    Pair(usize, PairFile),
    ClientCa,
    /// The CAs of the provider with this name.
    ProviderCa(&'static str),
}

impl fmt::Display for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pair(0, file) => write!(f, "server.tls.{}", file.key()),
            Self::Pair(number, file) => write!(f, "server.tls.more[{}].{}", number - 1, file.key()),
            Self::ClientCa => f.write_str("server.tls.client_ca"),
            Self::ProviderCa(provider) => write!(f, "provider[{provider}].verify.client_cert.ca"),
        }
    }
}

/// The reason why a file of `[server.tls]` or of a provider's `client_cert` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsError {
    pub(crate) key: FileKey,
    /// The path as in the configuration.
    typed: String,
    /// What is wrong, and what to write instead. The message continues a sentence that begins with the path.
    pub(crate) message: String,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.key, quote(&self.typed), self.message)
    }
}

impl std::error::Error for TlsError {}

/// The state that the TLS handshakes of all listeners share.
#[derive(Debug)]
pub(crate) struct ServerTls {
    active: ArcSwap<Active>,
    /// How often changed files were read and used.
    changes: AtomicU64,
    handshakes: [Counter; Handshake::ALL.len()],
}

/// The certificates and CAs that are in use.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) config: Arc<ServerConfig>,
    clients: Option<Arc<Clients>>,
}

impl Active {
    /// Returns the client certificate of a connection. `chain` is empty if the client has sent no certificate.
    ///
    /// # Errors
    /// Returns an error if the certificate cannot be read, or if the chain leads to none of the CAs. The handshake has
    /// already checked the chain of a new session. But the certificate of a resumed session can have expired since
    /// then.
    pub(crate) fn client(&self, chain: &[CertificateDer<'_>]) -> Result<Option<Certificate>, ()> {
        let (Some(clients), Some((leaf, intermediates))) = (&self.clients, chain.split_first()) else {
            return Ok(None);
        };
        clients.certificate(leaf, intermediates).map(Some).ok_or(())
    }
}

impl ServerTls {
    /// Reads the files. `provider_cas` are the CAs of the providers, which were read already.
    ///
    /// # Errors
    /// Returns an error for each file that cannot be used.
    pub(crate) fn open(
        files: &TlsFiles,
        provider_cas: Vec<ProviderCa>,
        tickets: &Arc<Tickets>,
        metrics: &Metrics,
    ) -> Result<(Self, Sources), Vec<TlsError>> {
        let sources = Sources { provider_cas, ..Sources::open(files, Arc::clone(tickets), metrics)? };
        let active = sources.active().map_err(|error| vec![error])?;
        let handshakes = Handshake::ALL.map(|result| metrics.series(&describe::TLS_HANDSHAKES, &[result.as_str()]));
        Ok((Self { active: ArcSwap::from_pointee(active), changes: AtomicU64::new(0), handshakes }, sources))
    }

    /// Returns the certificates and CAs for the next handshake.
    pub(crate) fn active(&self) -> Arc<Active> {
        self.active.load_full()
    }

    /// Returns how often changed files were read and used.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    pub(crate) fn count(&self, result: Handshake) {
        if let Some(counter) = self.handshakes.get(result.position()) {
            counter.increment(1);
        }
    }

    /// Starts a thread that reads each file again when the file changes. After the last reference to the returned value
    /// is dropped, the thread ends within about a second.
    pub(crate) fn follow(self, mut sources: Sources) -> io::Result<Arc<Self>> {
        let tls = Arc::new(self);
        follow("certificates", &tls, move |tls| {
            for error in sources.check(tls) {
                sources.failed.increment(1);
                tracing::warn!("{error}; the previous files stay in use");
            }
            sources.warn();
        })?;
        Ok(tls)
    }
}

/// The files, and what was read from them.
#[derive(Debug)]
pub(crate) struct Sources {
    pairs: Vec<FollowedPair>,
    clients: Option<FollowedClients>,
    provider_cas: Vec<ProviderCa>,
    tickets: Arc<Tickets>,
    /// `edgeshim_config_reloads_total{result="failed"}`
    failed: Counter,
}

#[derive(Debug)]
struct FollowedPair {
    number: usize,
    paths: PairPaths,
    certificate: Followed,
    key: Followed,
    contents: (Result<Vec<u8>, String>, Result<Vec<u8>, String>),
    usable: Arc<Pair>,
    /// The error in the new contents. If certificate and key are replaced one after the other, they do not match for
    /// a moment. So the error is reported only if the next check finds no further change.
    suspect: Option<TlsError>,
    expiry: HeldGauge,
    /// The number of days until the expiry at the time of the last warning.
    warned: Option<i64>,
}

#[derive(Debug)]
struct FollowedClients {
    path: TypedPath,
    followed: Followed,
    usable: Arc<Clients>,
}

impl Sources {
    fn open(files: &TlsFiles, tickets: Arc<Tickets>, metrics: &Metrics) -> Result<Self, Vec<TlsError>> {
        let mut errors = Vec::new();
        let mut good = |result: Result<_, TlsError>| result.map_err(|error| errors.push(error)).ok();
        let pairs: Vec<_> = files
            .pairs()
            .enumerate()
            .filter_map(|(number, paths)| good(FollowedPair::open(number, paths, metrics)))
            .collect();
        let clients = match files.client_ca.as_ref().map(FollowedClients::open).transpose() {
            Ok(clients) => clients,
            Err(error) => {
                errors.push(error);
                None
            }
        };
        let failed = metrics.reloads_failed.clone();
        let provider_cas = Vec::new();
        if errors.is_empty() { Ok(Self { pairs, clients, provider_cas, tickets, failed }) } else { Err(errors) }
    }

    /// Prepares the usable certificates and CAs for handshakes.
    fn active(&self) -> Result<Active, TlsError> {
        let clients = self.clients.as_ref().map(|clients| Arc::clone(&clients.usable));
        let ticketer = self.tickets.of(clients.as_deref().map(Clients::sha256));
        let choice = Choice::new(self.pairs.iter().map(|pair| Arc::clone(&pair.usable)));
        let typed = || self.pairs.first().map(|pair| pair.paths.certificate.typed.clone()).unwrap_or_default();
        let error = |error: rustls::Error| TlsError {
            key: FileKey::Pair(0, PairFile::Certificate),
            typed: typed(),
            message: format!("cannot be used ({error})"),
        };
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .map_err(error)?;
        let mut config = match &clients {
            Some(clients) => builder.with_client_cert_verifier(clients.verifier()),
            None => builder.with_no_client_auth(),
        }
        .with_cert_resolver(Arc::new(choice));
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        // The processors of CDNs have instructions for AES too. So edgeshim does not need to follow the order of a
        // CDN's suites.
        config.ignore_client_order = true;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = ticketer.map_err(error)?;
        Ok(Active { config: Arc::new(config), clients })
    }

    /// Reads the files that have changed. Returns an error for each change that cannot be used.
    fn check(&mut self, tls: &ServerTls) -> Vec<TlsError> {
        let (mut errors, mut changed) = (Vec::new(), false);
        for pair in &mut self.pairs {
            match pair.check() {
                Some(Ok(())) => changed = true,
                Some(Err(error)) => errors.push(error),
                None => {}
            }
        }
        let mut has_new_clients = false;
        match self.clients.as_mut().and_then(FollowedClients::check) {
            Some(Ok(())) => (changed, has_new_clients) = (true, true),
            Some(Err(error)) => errors.push(error),
            None => {}
        }
        let accepted = self.clients.as_ref().map(|clients| &*clients.usable);
        for ca in &mut self.provider_cas {
            match ca.check(accepted, has_new_clients) {
                Some(Ok(())) => changed = true,
                Some(Err(error)) => errors.push(error),
                None => {}
            }
        }
        if changed {
            match self.active() {
                Ok(active) => {
                    tls.active.store(Arc::new(active));
                    tls.changes.fetch_add(1, Ordering::Relaxed);
                    tracing::info!("certificates or CAs of client certificates were read again after a change");
                }
                Err(error) => errors.push(error),
            }
        }
        errors
    }

    /// Sets the metrics. Logs a warning for each certificate that is not valid now or will soon expire: at once, and
    /// then once a day.
    fn warn(&mut self) {
        let now = unix_now();
        for pair in &mut self.pairs {
            let (_, not_after) = pair.usable.valid;
            pair.expiry.set(seconds_f64(not_after));
            let Some(message) = expiry::warning(pair.usable.valid, now) else { continue };
            let days = days_left(not_after, now);
            if pair.warned.replace(days) != Some(days) {
                let key = FileKey::Pair(pair.number, PairFile::Certificate);
                tracing::warn!("{key}: {} {message}", quote(&pair.paths.certificate.typed));
            }
        }
    }
}

impl FollowedPair {
    fn open(number: usize, paths: &PairPaths, metrics: &Metrics) -> Result<Self, TlsError> {
        let error = |file: PairFile, message| file_error(FileKey::Pair(number, file), paths, message);
        let read = |path: &Path| Followed::open(path, MOST_BYTES).map_err(unreadable);
        let (certificate, chain) =
            read(&paths.certificate.path).map_err(|message| error(PairFile::Certificate, message))?;
        let (key, private) = read(&paths.key.path).map_err(|message| error(PairFile::Key, message))?;
        let usable = Pair::new(&chain.bytes, &private.bytes).map_err(|(file, message)| error(file, message))?;
        let name = intern(&paths.certificate.typed);
        let expiry = metrics.held(&describe::CERTIFICATE_EXPIRY, name, seconds_f64(usable.valid.1));
        Ok(Self {
            number,
            paths: paths.clone(),
            certificate,
            key,
            contents: (Ok(chain.bytes), Ok(private.bytes)),
            usable: Arc::new(usable),
            suspect: None,
            expiry,
            warned: None,
        })
    }

    /// Reads the files that have changed. Returns `Ok` if the new pair is usable. If the new pair has an error, the
    /// next call returns the error, unless a file has changed again. In all other cases, returns `None`.
    fn check(&mut self) -> Option<Result<(), TlsError>> {
        let read = |read: Result<Content, ReadError>| read.map(|content| content.bytes).map_err(unreadable);
        let (chain, private) = (self.certificate.changed(MOST_BYTES), self.key.changed(MOST_BYTES));
        if chain.is_none() && private.is_none() {
            return self.suspect.take().map(Err);
        }
        self.contents.0 = chain.map_or_else(|| self.contents.0.clone(), read);
        self.contents.1 = private.map_or_else(|| self.contents.1.clone(), read);
        let pair = match &self.contents {
            (Ok(chain), Ok(private)) => Pair::new(chain, private),
            (Err(message), _) => Err((PairFile::Certificate, message.clone())),
            (_, Err(message)) => Err((PairFile::Key, message.clone())),
        };
        match pair {
            Ok(pair) => {
                self.usable = Arc::new(pair);
                (self.suspect, self.warned) = (None, None);
                Some(Ok(()))
            }
            Err((file, message)) => {
                self.suspect = Some(file_error(FileKey::Pair(self.number, file), &self.paths, message));
                None
            }
        }
    }
}

impl FollowedClients {
    fn open(path: &TypedPath) -> Result<Self, TlsError> {
        let error = |message| TlsError { key: FileKey::ClientCa, typed: path.typed.clone(), message };
        let (followed, content) = Followed::open(&path.path, MOST_BYTES).map_err(|failed| error(unreadable(failed)))?;
        let usable = Clients::new(&content.bytes).map_err(error)?;
        Ok(Self { path: path.clone(), followed, usable: Arc::new(usable) })
    }

    fn check(&mut self) -> Option<Result<(), TlsError>> {
        let read = self.followed.changed(MOST_BYTES)?;
        let clients = read.map_err(unreadable).and_then(|content| Clients::new(&content.bytes));
        Some(match clients {
            Ok(clients) => {
                self.usable = Arc::new(clients);
                Ok(())
            }
            Err(message) => Err(TlsError { key: FileKey::ClientCa, typed: self.path.typed.clone(), message }),
        })
    }
}

/// Checks all files of `[server.tls]`. Returns the errors, and a warning for each certificate that is not valid now or
/// will soon expire.
pub(crate) fn check(files: &TlsFiles) -> (Vec<TlsError>, Vec<String>) {
    let (mut errors, mut warnings) = (Vec::new(), Vec::new());
    for (number, paths) in files.pairs().enumerate() {
        match read_pair(paths) {
            Ok(pair) => warnings.extend(expiry::warning(pair.valid, unix_now()).map(|message| {
                format!(
                    "{}: {} {message}",
                    FileKey::Pair(number, PairFile::Certificate),
                    quote(&paths.certificate.typed)
                )
            })),
            Err((file, message)) => errors.push(file_error(FileKey::Pair(number, file), paths, message)),
        }
    }
    if let Some(path) = &files.client_ca
        && let Err(error) = FollowedClients::open(path)
    {
        errors.push(error);
    }
    (errors, warnings)
}

/// Reads a file with CA certificates. Returns SHA-256 of each certificate.
pub(crate) fn authorities(path: &Path) -> Checked<Vec<[u8; 32]>> {
    let (_, content) = Followed::open(path, MOST_BYTES).map_err(unreadable)?;
    Clients::new(&content.bytes).map(|clients| clients.authorities().collect())
}

fn read_pair(paths: &PairPaths) -> Result<Pair, (PairFile, String)> {
    let read = |path: &Path| Followed::open(path, MOST_BYTES).map(|(_, content)| content.bytes).map_err(unreadable);
    let chain = read(&paths.certificate.path).map_err(|message| (PairFile::Certificate, message))?;
    let private = read(&paths.key.path).map_err(|message| (PairFile::Key, message))?;
    Pair::new(&chain, &private)
}

fn file_error(key: FileKey, paths: &PairPaths, message: String) -> TlsError {
    let path = match key {
        FileKey::Pair(_, PairFile::Key) => &paths.key,
        _ => &paths.certificate,
    };
    TlsError { key, typed: path.typed.clone(), message }
}

fn unreadable(error: ReadError) -> String {
    match error {
        ReadError::Io(error) => {
            format!("cannot be read ({error}); name a file that this user may read")
        }
        ReadError::TooLarge => format!("is longer than {MOST_BYTES} bytes; name a PEM file"),
    }
}

#[allow(clippy::cast_precision_loss, reason = "a time in seconds is exact")]
fn seconds_f64(seconds: i64) -> f64 {
    seconds as f64
}
