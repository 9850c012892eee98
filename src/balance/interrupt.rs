//! Whether a signal has arrived that ends a command.

use tokio::sync::watch;

/// Whether a signal has arrived. After a signal, a change stops before its next write, and is put back. After the last
/// write, a signal only ends the lookups and the wait for the DNS servers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt(watch::Sender<bool>);

impl Interrupt {
    pub(crate) fn set(&self) {
        self.0.send_replace(true);
    }

    pub(super) fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for a signal.
    pub(crate) async fn wait(&self) {
        // There is no error, because this value is a sender.
        let _ = self.0.subscribe().wait_for(|is_set| *is_set).await;
    }
}
