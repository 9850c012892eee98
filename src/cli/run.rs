//! `edgeshim run`: serves until a signal ends the process.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::config_argument::ConfigArgument;
use super::terminal::USAGE;
use crate::admin::{self, Admin, Mark};
use crate::config::Settings;
use crate::metrics::Metrics;
use crate::runtime::{Runtime, Slot};
use crate::serve::{Drain, Server};

pub(super) fn run(argument: &ConfigArgument) -> ExitCode {
    log_to_stderr();
    let settings = match argument.load_or_print() {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    match Running::start(settings) {
        Ok(running) => {
            running.announce();
            running.until_signal();
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("edgeshim: {error}");
            ExitCode::from(USAGE)
        }
    }
}

/// Logs messages to standard error. `RUST_LOG` is ignored, so that this variable cannot turn on more messages of
/// libraries.
pub(super) fn log_to_stderr() {
    let level = if std::env::var_os("EDGESHIM_DEBUG").is_some() { tracing::Level::DEBUG } else { tracing::Level::WARN };
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false).init();
}

/// A running edgeshim with its admin listener.
pub(super) struct Running {
    slot: &'static Slot,
    drain: Arc<Drain>,
    server: Server,
    admin: Admin,
    tokio: tokio::runtime::Runtime,
    signals: Signals,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reopen: Signal,
    /// SIGHUP is handled, so that a SIGHUP from log rotation or from a closed terminal does not end the process.
    hang_up: Signal,
}

impl Running {
    pub(super) fn start(settings: Settings) -> Result<Self, Box<dyn std::error::Error>> {
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new()?));
        let runtime = Runtime::build(settings, metrics, &Arc::default())?;
        metrics.loaded(
            env!("CARGO_PKG_VERSION"),
            option_env!("EDGESHIM_COMMIT").unwrap_or("unknown"),
            &runtime.fingerprint(),
        );
        let slot: &'static Slot = Box::leak(Box::new(Slot::new(runtime)));
        let drain = Arc::new(Drain::default());
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // The signal handlers are installed before the addresses are printed. So a signal that is sent as soon as the
        // addresses are visible also causes a drain.
        let signals = {
            let _entered = tokio.enter();
            Signals {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
                reopen: signal(SignalKind::user_defined1())?,
                hang_up: signal(SignalKind::hangup())?,
            }
        };
        let server = Server::start(slot, &drain)?;
        let ready = Arc::clone(&drain);
        let admin = admin::start(slot, move || ready.is_ready())?;
        Ok(Self { slot, drain, server, admin, tokio, signals })
    }

    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    pub(super) fn admin(&self) -> &str {
        &self.admin.address
    }

    /// Prints the listening addresses to standard error, one on each line.
    pub(super) fn announce(&self) {
        for address in self.server.addresses() {
            eprintln!("listening on {address}");
        }
        eprintln!("admin on {}", self.admin.address);
    }

    /// Serves until SIGTERM or SIGINT, then drains. A second SIGTERM or SIGINT ends the drain.
    pub(super) fn until_signal(self) {
        let Self { slot, drain, server, admin, tokio, mut signals } = self;
        tokio.block_on(signals.end(slot));
        let settings = slot.load().settings().server.clone();
        drain.announce();
        admin.mark(Mark::Drain, "the drain begins");
        let completed = tokio.block_on(async {
            tokio::select! {
                () = signals.end(slot) => true,
                completed = finish(server, settings.drain_delay, settings.drain_timeout) => completed,
            }
        });
        if !completed {
            tracing::warn!("server.drain_timeout has passed; the requests that had not ended were cut off");
        }
        if let Some(log) = slot.load().log() {
            log.close();
        }
        // After a second signal, the drain's thread can still be waiting for requests. This thread ends with the
        // process.
        tokio.shutdown_background();
    }
}

/// Waits for `delay`, then drains. Returns false if requests were cut off after `timeout`. The drain waits on its own
/// thread, so that signals are still handled.
async fn finish(server: Server, delay: Duration, timeout: Duration) -> bool {
    tokio::time::sleep(delay).await;
    tokio::task::spawn_blocking(move || server.finish(timeout)).await.unwrap_or(false)
}

impl Signals {
    /// Returns when SIGTERM or SIGINT arrives. Until then, handles SIGUSR1 and SIGHUP.
    async fn end(&mut self, slot: &'static Slot) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.reopen.recv() => {
                    if let Some(log) = slot.load().log() {
                        log.reopen();
                    }
                }
                _ = self.hang_up.recv() => {
                    tracing::warn!("SIGHUP: this release cannot reload; restart edgeshim to change the configuration");
                }
            }
        }
    }
}
