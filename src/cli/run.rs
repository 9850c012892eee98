//! `edgeshim run`: serves until a signal ends the process.

use std::error::Error;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::config_argument::ConfigArgument;
use super::hand_over::{self, Outcome};
use super::notify::notify;
use super::reload::{Reload, Reloader, loaded};
use super::terminal::USAGE;
use crate::admin::{self, Admin, Mark};
use crate::config::Settings;
use crate::metrics::Metrics;
use crate::runtime::{Inherited, Lasting, Runtime, Slot, Socket, name_in_hand_over};
use crate::serve::{Cut, Drain, Server};

pub(super) fn run(argument: &ConfigArgument) -> ExitCode {
    // This call changes the environment, so it must happen before any thread starts.
    let inherited = Inherited::from_env();
    log_to_stderr();
    let settings = match argument.load_or_print() {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let started = inherited.map_err(Into::into).and_then(|inherited| Running::start_with(settings, inherited));
    match started.and_then(|running| running.reloading(argument)) {
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

/// Logs messages to standard error: edgeshim's own messages, and the errors of libraries. Warnings of libraries are not
/// logged, because a hostile client could fill the log with them. `EDGESHIM_DEBUG` also shows these warnings, and all
/// debug messages. `RUST_LOG` is ignored, so that this variable cannot turn on more messages of libraries.
pub(super) fn log_to_stderr() {
    let shown = match std::env::var_os("EDGESHIM_DEBUG") {
        Some(_) => Targets::new().with_default(LevelFilter::DEBUG),
        None => Targets::new().with_default(LevelFilter::ERROR).with_target(env!("CARGO_PKG_NAME"), LevelFilter::INFO),
    };
    let messages = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_target(false);
    tracing_subscriber::registry().with(messages).with(shown).init();
}

/// A running edgeshim with its admin listener.
pub(super) struct Running {
    slot: &'static Slot,
    lasting: Arc<Lasting>,
    drain: Arc<Drain>,
    server: Arc<Server>,
    admin: Admin,
    tokio: tokio::runtime::Runtime,
    signals: Signals,
    reloader: Option<Reloader>,
    predecessor: Option<UnixDatagram>,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reopen: Signal,
    hang_up: Signal,
    hand_over: Signal,
    outcomes: UnboundedSender<Outcome>,
    outcome: UnboundedReceiver<Outcome>,
    /// Whether the drain has begun.
    draining: bool,
}

/// The reason why [`Signals::end`] returns.
#[derive(PartialEq, Eq)]
enum End {
    /// SIGTERM or SIGINT.
    Signal,
    /// Another process has taken over the sockets.
    HandedOver,
}

impl Running {
    pub(super) fn start(settings: Settings) -> Result<Self, Box<dyn Error>> {
        Self::start_with(settings, Inherited::default())
    }

    fn start_with(settings: Settings, inherited: Inherited) -> Result<Self, Box<dyn Error>> {
        let wanted = settings.server.listeners();
        let admin_listen = settings.admin.listen.clone();
        let mut names: Vec<_> = wanted.iter().map(|listen| (listen, listen.socket_name())).collect();
        names.push((&admin_listen, "admin"));
        let (mut sockets, predecessor) = inherited.assign(&names)?;
        let admin_socket = match sockets.pop().flatten() {
            Some(passed) => admin::Source::Inherited(passed.socket),
            // The old process, which this process replaces, can still use the admin address.
            None if predecessor.is_some() => admin::Source::BindWhenFree,
            None => admin::Source::Bind,
        };
        let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new()?));
        let lasting = Arc::default();
        let runtime = Runtime::build(settings, metrics, &lasting)?;
        loaded(&runtime);
        let slot: &'static Slot = Box::leak(Box::new(Slot::new(runtime)));
        let drain = Arc::new(Drain::default());
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // The signal handlers are installed before the addresses are printed. So a signal that is sent as soon as the
        // addresses are visible also causes a drain.
        let signals = {
            let _entered = tokio.enter();
            let (outcomes, outcome) = unbounded_channel();
            Signals {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
                reopen: signal(SignalKind::user_defined1())?,
                hang_up: signal(SignalKind::hangup())?,
                hand_over: signal(SignalKind::user_defined2())?,
                outcomes,
                outcome,
                draining: false,
            }
        };
        let server = Arc::new(Server::start_with(slot, &drain, sockets)?);
        let ready = Arc::clone(&drain);
        let admin = admin::start(slot, admin_socket, move || ready.is_ready())?;
        Ok(Self { slot, lasting, drain, server, admin, tokio, signals, reloader: None, predecessor })
    }

    /// From now on, SIGHUP causes a reload. If `server.watch` is on, a changed file also causes a reload.
    fn reloading(self, argument: &ConfigArgument) -> Result<Self, Box<dyn Error>> {
        let reload = Reload {
            argument: argument.clone(),
            slot: self.slot,
            lasting: Arc::clone(&self.lasting),
            server: Arc::clone(&self.server),
        };
        Ok(Self { reloader: Some(Reloader::start(reload)?), ..self })
    }

    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    pub(super) fn admin(&self) -> &str {
        &self.admin.address
    }

    /// Prints the listening addresses to standard error, one on each line. Reports to the service manager that this
    /// process serves. In a hand-over, also reports this to the old process.
    pub(super) fn announce(&self) {
        for address in self.server.addresses() {
            eprintln!("listening on {address}");
        }
        eprintln!("admin on {}", self.admin.address);
        notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
        if let Some(predecessor) = &self.predecessor
            && let Err(error) = hand_over::report(predecessor)
        {
            tracing::warn!("hand-over: the old process has already ended ({error})");
        }
    }

    /// Serves until SIGTERM, SIGINT or the end of a hand-over, then drains. A SIGTERM or SIGINT during the drain ends
    /// the drain.
    pub(super) fn until_signal(self) {
        let Self { slot, lasting, drain, server, admin, tokio, mut signals, reloader, .. } = self;
        let end = tokio.block_on(signals.end(&lasting, reloader.as_ref(), || {
            let mut sockets = server.sockets()?;
            let name = name_in_hand_over("admin", &slot.load().settings().admin.listen);
            sockets.extend(admin.socket().map(|socket| (name, socket)));
            Ok(sockets)
        }));
        signals.draining = true;
        let settings = slot.load().settings().server.clone();
        admin.mark(Mark::Drain, "the drain begins");
        let delay = match end {
            End::Signal => {
                drain.announce();
                notify(&[NotifyState::Stopping, NotifyState::Status("draining")]);
                settings.drain_delay
            }
            // /readyz stays at 200, because the new process serves.
            End::HandedOver => {
                server.handed_over();
                admin.hand_over();
                Duration::ZERO
            }
        };
        let cut = tokio.block_on(async {
            let second_signal = async {
                let drains = || Err(io::Error::other("the drain has begun"));
                // A new process that was starting when the drain began can still take over. The drain continues.
                while signals.end(&lasting, None, drains).await == End::HandedOver {
                    server.handed_over();
                    admin.hand_over();
                }
            };
            tokio::select! {
                () = second_signal => None,
                cut = finish(Arc::clone(&server), delay, settings.drain_timeout) => cut,
            }
        });
        if let Some(Cut { requests, tunnels }) = cut {
            tracing::warn!(
                "server.drain_timeout has passed; cut off: {requests} requests in flight, {tunnels} tunnels (WebSocket)"
            );
        }
        lasting.logs().close();
        // If a signal has ended the drain, the drain's thread can still be waiting for requests. This thread ends with
        // the process.
        tokio.shutdown_background();
    }
}

/// Waits for `delay`, then drains. Returns what was cut off after `timeout`. The drain waits on its own thread, so that
/// signals are still handled.
async fn finish(server: Arc<Server>, delay: Duration, timeout: Duration) -> Option<Cut> {
    tokio::time::sleep(delay).await;
    tokio::task::spawn_blocking(move || server.finish(timeout)).await.unwrap_or_default()
}

impl Signals {
    /// Handles signals until SIGTERM or SIGINT arrives, or until a new process has taken over the sockets. `reloader`
    /// is `None` if no reload is possible. `sockets` returns the sockets for a hand-over.
    async fn end(
        &mut self,
        lasting: &Lasting,
        reloader: Option<&Reloader>,
        sockets: impl Fn() -> io::Result<Vec<(String, Socket)>>,
    ) -> End {
        let mut handing_over = false;
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return End::Signal,
                _ = self.interrupt.recv() => return End::Signal,
                _ = self.reopen.recv() => lasting.logs().reopen(),
                _ = self.hang_up.recv() => {
                    if let Some(reloader) = reloader {
                        reloader.request();
                    } else {
                        tracing::warn!("SIGHUP: nothing to reload, because the drain has begun or no file is in use");
                    }
                }
                _ = self.hand_over.recv() => {
                    if handing_over {
                        tracing::warn!("SIGUSR2: a new process is already starting");
                        continue;
                    }
                    let sockets = sockets().map_err(Into::into);
                    match sockets.and_then(|sockets| hand_over::start(sockets, self.outcomes.clone())) {
                        Ok(()) => handing_over = true,
                        Err(error) => tracing::error!("SIGUSR2: the new process cannot be started: {error}"),
                    }
                }
                Some(outcome) = self.outcome.recv() => match outcome {
                    Outcome::Ready(pid) => {
                        tracing::info!("hand-over: process {pid} serves; this process drains");
                        notify(&[NotifyState::MainPid(pid)]);
                        return End::HandedOver;
                    }
                    Outcome::Failed(why) => {
                        let continues = if self.draining { "drain" } else { "serve" };
                        tracing::error!("hand-over failed: {why}; this process continues to {continues}");
                        handing_over = false;
                    }
                },
            }
        }
    }
}
