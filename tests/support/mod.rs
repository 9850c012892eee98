//! The harness of the integration tests: the real binary on free ports ([`Shim`]), a scripted origin ([`Origin`]), a
//! client that sends raw bytes and reads strictly ([`Raw`]), and functions that poll for a condition.
//!
//! The harness uses threads and blocking sockets, so that a test can be read from top to bottom. The harness shares no
//! code with the product: a bug in shared code would make wrong bytes look correct. Every wait has a limit, so that no
//! test hangs.

// Each test file compiles the whole module but uses only a part of the module, so unused items are normal. The harness
// panics to report that a test failed.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::missing_errors_doc
)]

pub mod clients;
pub mod frames;
pub mod h2;
pub mod http1;
pub mod metrics;
pub mod mmdb;
pub mod origin;
pub mod presets;
pub mod raw;
pub mod shim;
pub mod tls_client;
pub mod tls_origin;

pub use metrics::Metrics;
pub use origin::{After, Conn, Origin, Request};
pub use raw::{Raw, Response};
pub use shim::{Config, Shim};

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A gate at which threads wait until a test opens it.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Waits until the gate is open, for at most four times [`PATIENCE`].
    pub fn wait(&self) {
        let open = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.0.1.wait_timeout_while(open, PATIENCE * 4, |open| !*open));
    }

    pub fn open(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }
}

/// The longest time that a test waits, by default.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A temporary folder, which is removed when this value is dropped.
pub struct TempDir(PathBuf);

/// Makes a temporary folder. Its path is short enough for the address of a Unix socket.
pub fn temp_dir() -> TempDir {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("edgeshim-{}-{number}", std::process::id()));
    // An earlier run with the same process id could have left files here.
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).expect("a temporary folder");
    TempDir(path)
}

impl TempDir {
    /// Writes a file into the folder and returns its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).expect("a folder inside the temporary folder");
        }
        std::fs::write(&path, content).expect("a file in the temporary folder");
        path
    }
}

impl Deref for TempDir {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Polls until `done` returns true. Returns false if `timeout` passes before `done` returns true. Calls `done` at least
/// once.
pub fn wait_until(timeout: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + timeout;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
