//! What the targets of a watch share: the journal, the turn to write, and the work after an act, such as its
//! announcement.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Mutex, MutexGuard, Notify, mpsc};
use tokio::time::Instant;

use crate::balance::announce::announce;
use crate::balance::api_call::Caller;
use crate::balance::balance_file::BalanceFile;
use crate::balance::interrupt::Interrupt;
use crate::balance::journal::{Entry, Journal};
use crate::balance::transaction::Services;

/// How many acts can wait for their announcement.
pub(crate) const MAX_UNANNOUNCED: usize = 64;

/// A message for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct News {
    pub text: String,
    pub is_problem: bool,
}

/// Shows a message to the operator.
pub(crate) type Tell<'f> = &'f dyn Fn(&News);

/// The journal as it was read, with the size of the file and the time of the file's last change.
type ReadJournal = ((u64, Option<SystemTime>), Rc<Journal>);

/// What the targets share.
pub(crate) struct Shared<'f> {
    pub(super) file: &'f BalanceFile,
    pub(super) caller: &'f Caller,
    pub(super) services: &'f Services<'f>,
    pub(super) tell: Tell<'f>,
    /// The start of the watch, on a clock that does not jump.
    start: Instant,
    journal: RefCell<Option<ReadJournal>>,
    turn: Mutex<()>,
    has_written: Notify,
}

impl<'f> Shared<'f> {
    pub(crate) fn new(file: &'f BalanceFile, caller: &'f Caller, services: &'f Services<'f>, tell: Tell<'f>) -> Self {
        let (journal, turn, has_written) = Default::default();
        Self { file, caller, services, tell, start: Instant::now(), journal, turn, has_written }
    }

    /// Returns the time since the start.
    pub(super) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Waits until no other target of this watch writes. The journal has one lock. Without the wait for the turn, a
    /// target could find this lock taken, and would then have to wait for its next round.
    pub(super) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Returns the journal. Reads the file only if the file has changed.
    pub(super) fn journal(&self) -> Result<Rc<Journal>, String> {
        let path = &self.file.journal;
        let metadata = std::fs::metadata(path).ok();
        let stamp = metadata.map_or((0, None), |metadata| (metadata.len(), metadata.modified().ok()));
        let mut kept = self.journal.borrow_mut();
        let journal = match kept.take() {
            Some((read, journal)) if read == stamp => journal,
            _ => Rc::new(Journal::read(path)?),
        };
        Ok(Rc::clone(&kept.insert((stamp, journal)).1))
    }

    /// Wakes `settle_writes`, because records were written.
    pub(super) fn has_written(&self) {
        self.has_written.notify_one();
    }

    /// After each write, waits until the DNS servers have the records. Ends when a signal arrives.
    pub(crate) async fn settle_writes(&self, stop: &Interrupt) {
        let settled = async {
            loop {
                self.has_written.notified().await;
                self.settle().await;
            }
        };
        tokio::select! {
            biased;
            () = stop.wait() => {}
            () = settled => {}
        }
    }

    /// Waits until the DNS servers have the records, or until a signal arrives. Warns if the DNS servers may lack the
    /// records.
    pub(crate) async fn settle(&self) {
        self.services.settle().await.iter().for_each(|text| self.warn(text));
    }

    /// Announces acts to the shims, one after the other, until all senders are dropped. After a signal, acts are not
    /// announced, and a warning names each of them.
    pub(crate) async fn announce_acts(&self, mut acts: mpsc::Receiver<Entry>, stop: &Interrupt) {
        while let Some(entry) = acts.recv().await {
            tokio::select! {
                biased;
                () = stop.wait() => self.not_announced(&entry, "the watch ends"),
                texts = announce(self.file, self.caller, &entry) => texts.iter().for_each(|text| self.warn(text)),
            }
        }
    }

    pub(super) fn not_announced(&self, entry: &Entry, reason: &str) {
        self.warn(&format!("the change {} is made, but not announced: {reason}", entry.id));
    }

    pub(super) fn warn(&self, text: &str) {
        (self.tell)(&News { text: format!("warning: {text}"), is_problem: true });
    }
}
