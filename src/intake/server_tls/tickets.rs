//! The keys of session tickets.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;

/// The ticket keys of the process. All workers share the keys. Two configurations share keys only if their files with
/// the CAs of client certificates are equal, or if neither has such a file. rustls makes a new key every six hours, and
/// accepts the previous key for another six hours.
///
/// A ticket contains the client certificate of its session. So if the CAs of client certificates change, new keys are
/// made, and sessions that the old CAs allowed are not resumed. Keys exist as long as a configuration uses them. So a
/// reload that fails does not replace the keys of the running configuration.
#[derive(Debug, Default)]
pub(crate) struct Tickets(Mutex<Vec<Keys>>);

#[derive(Debug)]
struct Keys {
    /// SHA-256 of the file with the CAs of client certificates. `None`: edgeshim asks for no client certificate.
    clients: Option<[u8; 32]>,
    ticketer: Weak<dyn ProducesTickets>,
}

impl Tickets {
    /// Returns the keys for a file of CAs. `clients` is SHA-256 of this file. If no configuration has keys for this
    /// file, makes new keys.
    pub(super) fn of(&self, clients: Option<[u8; 32]>) -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|keys| keys.ticketer.strong_count() > 0);
        let mut same = all.iter().filter(|keys| keys.clients == clients);
        if let Some(ticketer) = same.find_map(|keys| keys.ticketer.upgrade()) {
            return Ok(ticketer);
        }
        let ticketer = Ticketer::new()?;
        all.push(Keys { clients, ticketer: Arc::downgrade(&ticketer) });
        Ok(ticketer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticket_keys_when_client_cas_change_then_are_new() {
        let tickets = Tickets::default();
        let first = tickets.of(None).unwrap();
        assert!(Arc::ptr_eq(&first, &tickets.of(None).unwrap()), "the keys must survive a reload");
        let with_clients = tickets.of(Some([1; 32])).unwrap();
        let ticket = first.encrypt(b"session").unwrap();
        assert_eq!(first.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(with_clients.decrypt(&ticket), None);
    }

    #[test]
    fn ticket_keys_when_a_reload_with_other_client_cas_fails_then_do_not_change() {
        let tickets = Tickets::default();
        let running = tickets.of(None).unwrap();
        drop(tickets.of(Some([1; 32])).unwrap());
        assert!(Arc::ptr_eq(&running, &tickets.of(None).unwrap()));
    }
}
