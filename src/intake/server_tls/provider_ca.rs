//! The CAs of one provider (`client_cert.ca`). The file can be replaced at any time.

use std::sync::Arc;

use super::clients::Clients;
use super::{FileKey, MOST_BYTES, TlsError, TypedPath, unreadable};
use crate::cdn::proof::Authorities;
use crate::intake::followed::Followed;

/// The message about a CA whose certificates the handshake refuses.
pub(crate) const FOREIGN_CA: &str =
    "has a CA that is not in server.tls.client_ca; add all CAs of this file to the file of server.tls.client_ca";

/// The file, and the CAs that were read from it.
#[derive(Debug)]
pub(crate) struct ProviderCa {
    provider: &'static str,
    path: TypedPath,
    followed: Followed,
    authorities: Arc<Authorities>,
    /// The CAs in the new content of the file, while some of these CAs are not in `server.tls.client_ca`. The operator
    /// can replace this file before the file of `server.tls.client_ca`.
    pending: Option<Vec<[u8; 32]>>,
    /// The error about `pending`. The error is reported if the next check finds no further change.
    suspect: Option<TlsError>,
}

impl ProviderCa {
    pub(crate) fn open(provider: &'static str, path: &TypedPath) -> Result<Self, TlsError> {
        let error = |message| TlsError { key: FileKey::ProviderCa(provider), typed: path.typed.clone(), message };
        let (followed, content) = Followed::open(&path.path, MOST_BYTES).map_err(|failed| error(unreadable(failed)))?;
        let clients = Clients::new(&content.bytes).map_err(error)?;
        let authorities = Arc::new(Authorities::new(clients.authorities().collect()));
        Ok(Self { provider, path: path.clone(), followed, authorities, pending: None, suspect: None })
    }

    /// Returns the CAs that are in use.
    pub(crate) fn authorities(&self) -> Arc<Authorities> {
        Arc::clone(&self.authorities)
    }

    /// Reads the file if it has changed. `accepted` are the CAs of `server.tls.client_ca`, and `has_changed` is true if
    /// they have just changed. Returns `Ok` if new CAs are in use. If the file cannot be used, returns the error at
    /// once. If a CA is not in `accepted`, the next call returns the error, unless the file or `accepted` has changed
    /// again. In all other cases, returns `None`.
    pub(super) fn check(&mut self, accepted: Option<&Clients>, has_changed: bool) -> Option<Result<(), TlsError>> {
        match self.followed.changed(MOST_BYTES) {
            Some(read) => {
                self.suspect = None;
                match read.map_err(unreadable).and_then(|content| Clients::new(&content.bytes)) {
                    Ok(clients) => self.pending = Some(clients.authorities().collect()),
                    Err(message) => {
                        self.pending = None;
                        return Some(Err(self.error(message)));
                    }
                }
            }
            None if has_changed => {}
            None => return self.suspect.take().map(Err),
        }
        let list = self.pending.take()?;
        let is_accepted = |ca: &[u8; 32]| accepted.is_some_and(|accepted| accepted.authorities().any(|own| own == *ca));
        if list.iter().all(is_accepted) {
            self.suspect = None;
            self.authorities.replace(list);
            return Some(Ok(()));
        }
        self.pending = Some(list);
        self.suspect = Some(self.error(FOREIGN_CA.to_owned()));
        None
    }

    fn error(&self, message: String) -> TlsError {
        TlsError { key: FileKey::ProviderCa(self.provider), typed: self.path.typed.clone(), message }
    }
}
