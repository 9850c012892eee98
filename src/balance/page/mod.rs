//! The page of `edgeshim balance serve`, and the API that the page uses: `/api/state`, `/api/preview` and
//! `/api/change`.
//!
//! `gate` decides who is allowed to use the page, and `api_paths` finds the response to a request. `reading` reads what
//! the page shows, with `dns_reads` for the weights and `month_bills` for the cost. `asked` makes the preview of a
//! change, and makes the change after a person has confirmed the preview.

mod api_paths;
mod asked;
mod dns_reads;
mod gate;
mod month_bills;
mod reading;

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, LazyLock};

use tokio::sync::Mutex;

use self::api_paths::Paths;
use self::gate::Gate;
use self::month_bills::KnownSamples;
use self::reading::{KnownJournal, Reading};
use super::api_call::Caller;
use super::balance_file::BalanceFile;
use super::interrupt::Interrupt;
use super::page_keys::PageKeys;
use super::transaction::Services;
use crate::operators::document::Document;
use crate::operators::listener::{accept, address, bind_for};

static PAGE: LazyLock<Document> = LazyLock::new(|| Document::new(include_str!("balance_page.html")));

/// The page while it is served. It lives until the process ends.
#[derive(Debug)]
pub(crate) struct Page {
    file: &'static BalanceFile,
    caller: Caller,
    services: Services<'static>,
    gate: Gate,
    reading: Mutex<Reading>,
    journal: Mutex<KnownJournal>,
    samples: Mutex<KnownSamples>,
    /// Locked while a change is made. At most one change is made at a time.
    changing: Mutex<()>,
    /// The number of changes that were tried.
    changes: AtomicU64,
}

impl Page {
    /// Prepares the page. The page is never freed.
    ///
    /// # Errors
    /// Returns a message if the keys of a DNS service cannot be used, or if there is no source of random numbers.
    pub(crate) fn new(
        file: &'static BalanceFile,
        keys: &'static PageKeys,
        caller: Caller,
        interrupt: Interrupt,
    ) -> Result<&'static Self, String> {
        let services = Services::new(file, &caller, interrupt)?;
        let gate = Gate::new(keys).map_err(|error| format!("there are no random numbers for sessions ({error})"))?;
        Ok(Box::leak(Box::new(Self {
            file,
            caller,
            services,
            gate,
            reading: Mutex::new(Reading::new(&file.targets)),
            journal: Mutex::default(),
            samples: Mutex::default(),
            changing: Mutex::default(),
            changes: AtomicU64::new(0),
        })))
    }

    /// Binds the address. Returns the address as a person writes it, and the work that serves the page.
    ///
    /// # Errors
    /// Returns an error if the address cannot be used.
    pub(crate) fn listen(&'static self) -> io::Result<(String, impl Future<Output = io::Result<()>>)> {
        let listener = bind_for(&self.gate.keys().listen, "serve.listen", "the page of balance")?;
        Ok((address(&listener)?, accept(listener, Arc::new(Paths(self)))))
    }

    /// Waits until no change is in progress.
    pub(crate) async fn finish(&self) {
        drop(self.changing.lock().await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::document::check_document;

    #[test]
    fn page_of_balance_when_compressed_then_keeps_the_rules_for_documents() {
        check_document(&PAGE);
    }
}
