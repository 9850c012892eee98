//! Messages to the service manager (systemd's `sd_notify`). Without a service manager, nothing is sent.

use sd_notify::NotifyState;

/// Sends states to the service manager.
pub(super) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot send a message to the service manager at $NOTIFY_SOCKET: {error}");
    }
}

/// Reports the start of a reload. systemd requires the time together with this state.
pub(super) fn notify_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(time) => notify(&[NotifyState::Reloading, time]),
        Err(error) => tracing::warn!("cannot read the monotonic clock for the service manager: {error}"),
    }
}
