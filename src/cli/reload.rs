//! Reloads the configuration after SIGHUP, or after a change of a file if `server.watch` is on.
//!
//! A thread builds the new runtime completely while the old runtime serves, and then swaps the two runtimes. If
//! anything fails, the running configuration stays active, and all problems are logged. Reloads run one after the
//! other. Signals that arrive during a reload cause one more reload.

use std::error::Error;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use super::config_argument::ConfigArgument;
use super::notify::{notify, notify_reloading};
use crate::config;
use crate::runtime::{Lasting, Runtime, Slot};
use crate::serve::Server;

/// The time between two checks of the watched files.
const POLL: Duration = Duration::from_secs(1);

/// The handle with which other code requests a reload from the reload thread.
pub(super) struct Reloader {
    requests: SyncSender<()>,
}

/// The data that a reload needs.
pub(super) struct Reload {
    pub(super) argument: ConfigArgument,
    pub(super) slot: &'static Slot,
    pub(super) lasting: Arc<Lasting>,
    pub(super) server: Arc<Server>,
}

impl Reloader {
    /// Starts the thread. The thread ends with the process.
    pub(super) fn start(reload: Reload) -> io::Result<Self> {
        // The queue has room for one request, for a reload that has not begun yet. A further request before the start
        // of this reload is dropped, because this reload will read the newest files.
        let (requests, inbox) = sync_channel(1);
        let watch = Watch::new(&reload.argument);
        thread::Builder::new().name("reload".to_owned()).spawn(move || run(&reload, &inbox, watch))?;
        Ok(Self { requests })
    }

    /// Requests a reload. Returns at once.
    pub(super) fn request(&self) {
        let _ = self.requests.try_send(());
    }
}

/// Shows in the metrics that this configuration was loaded now.
pub(super) fn loaded(runtime: &Runtime) {
    runtime.metrics().loaded(env!("CARGO_PKG_VERSION"), env!("EDGESHIM_COMMIT"), &runtime.fingerprint());
}

fn run(reload: &Reload, inbox: &Receiver<()>, mut watch: Watch) {
    let mut replaced: Vec<Arc<Runtime>> = Vec::new();
    loop {
        match inbox.recv_timeout(POLL) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => {
                // An old runtime can be large, so this thread frees it, and not a worker.
                replaced.retain(|runtime| Arc::strong_count(runtime) > 1);
                reload.lasting.logs().close_unused();
                if !watch.has_changed(&reload.argument) || !reload.slot.load().settings().server.watch {
                    continue;
                }
                if reload.server.is_draining() {
                    tracing::warn!(
                        "a file of the configuration has changed, but the drain has begun: nothing is reloaded"
                    );
                    watch = Watch::new(&reload.argument);
                    continue;
                }
                tracing::info!("reload: a file of the configuration has changed");
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
        watch = Watch::new(&reload.argument);
        let running = reload.slot.load();
        // After a reload that failed, the running configuration is in the list already.
        if !replaced.iter().any(|known| Arc::ptr_eq(known, &running)) {
            replaced.push(running);
        }
        notify_reloading();
        reload.run();
        notify(&[sd_notify::NotifyState::Ready]);
    }
}

impl Reload {
    fn run(&self) {
        let metrics = self.slot.load().metrics();
        match self.try_reload() {
            Ok(()) => {
                loaded(&self.slot.load());
                metrics.reloads_ok.increment(1);
            }
            Err(problems) => {
                metrics.reloads_failed.increment(1);
                for problem in problems.to_string().lines() {
                    tracing::error!("reload failed: {problem}");
                }
                tracing::error!("reload failed: the running configuration stays active; run `edgeshim check`");
            }
        }
    }

    fn try_reload(&self) -> Result<(), Box<dyn Error>> {
        let mut settings = self.argument.load()?;
        let running = self.slot.load();
        let refused = settings.keep_until_restart(running.settings());
        let changes = running.settings().changes(&settings);
        let wanted = settings.server.listeners();
        // The listeners come first: if an address cannot be bound, no runtime is built. Building the runtime can create
        // the file of a new access log, and this file must not stay after a reload that fails.
        let listeners = self.server.prepare(&wanted)?;
        let runtime = Runtime::build(settings, running.metrics(), &self.lasting)?;
        // From here on nothing can fail.
        self.slot.swap(runtime);
        let opened = self.server.change(&wanted, listeners);
        tracing::info!("reload: the new configuration is active; changed keys: {}", changes.len());
        for change in changes {
            tracing::info!("reload: {change}");
        }
        for address in opened {
            tracing::info!("reload: listening on {address}");
        }
        for change in refused {
            tracing::warn!("reload: {change} needs a restart; until then, the old value stays active");
        }
        Ok(())
    }
}

/// The identity and the state of a file: device, inode, time of the last change, and length. Symbolic links are
/// followed, so the replacement of a link is a change too.
type Stamp = Option<(u64, u64, i64, i64, u64)>;

/// The states of all watched files, at the last reload and at the last check.
struct Watch {
    loaded: Vec<(PathBuf, Stamp)>,
    checked: Vec<(PathBuf, Stamp)>,
}

impl Watch {
    fn new(argument: &ConfigArgument) -> Self {
        let now = stamps(argument);
        Self { loaded: now.clone(), checked: now }
    }

    /// Returns whether a file has changed since the last reload but not since the last check. If a file has changed
    /// since the last check, a program could still be writing it.
    fn has_changed(&mut self, argument: &ConfigArgument) -> bool {
        let now = stamps(argument);
        let is_settled = now == self.checked;
        self.checked = now;
        is_settled && self.checked != self.loaded
    }
}

fn stamps(argument: &ConfigArgument) -> Vec<(PathBuf, Stamp)> {
    let stamp = |path: PathBuf| {
        let found = fs::metadata(&path).ok();
        (path, found.map(|file| (file.dev(), file.ino(), file.ctime(), file.ctime_nsec(), file.len())))
    };
    argument.file().map(|file| config::sources(&file)).unwrap_or_default().into_iter().map(stamp).collect()
}
