//! Starts the real binary on free ports, with a configuration from the test.

use super::metrics::Metrics;
use super::{PATIENCE, TempDir, raw, temp_dir, wait_until};
use std::fmt;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest time until the binary listens. The time is long, because many tests run at the same time on few cores.
const START: Duration = Duration::from_secs(20);

/// A configuration that is merged from pieces of TOML.
#[derive(Debug, Clone, Default)]
pub struct Config(toml::Table);

impl Config {
    /// Merges a piece of TOML into the configuration. A key of `piece` replaces the earlier value of the key. A table
    /// in an array of tables, such as `[[provider]]`, is appended to the array.
    pub fn with(mut self, piece: &str) -> Self {
        let piece: toml::Table =
            piece.parse().unwrap_or_else(|error| panic!("this piece is not valid TOML: {error}\n{piece}"));
        merge(&mut self.0, piece);
        self
    }
}

impl fmt::Display for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&toml::to_string(&self.0).map_err(|_| fmt::Error)?)
    }
}

fn merge(base: &mut toml::Table, piece: toml::Table) {
    for (key, value) in piece {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (Some(toml::Value::Array(old)), toml::Value::Array(new)) if new.iter().any(toml::Value::is_table) => {
                old.extend(new);
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// The lines that were read from a stream. A thread reads the stream, because a full pipe would stop the binary.
#[derive(Default)]
struct Lines {
    state: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

impl Lines {
    fn drain(stream: impl std::io::Read + Send + 'static) -> Arc<Self> {
        let lines = Arc::new(Self::default());
        let filled = Arc::clone(&lines);
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                filled.state.lock().unwrap_or_else(PoisonError::into_inner).0.push(text);
                filled.changed.notify_all();
                line.clear();
            }
            filled.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
            filled.changed.notify_all();
        });
        lines
    }

    /// Waits until `done` returns true for the lines that have arrived. Returns false if the stream ends or `timeout`
    /// passes before `done` returns true.
    fn wait(&self, timeout: Duration, mut done: impl FnMut(&[String]) -> bool) -> bool {
        let end = Instant::now() + timeout;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if done(&state.0) {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if state.1 || left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn text(&self) -> String {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0.join("\n")
    }
}

/// A running edgeshim. The process is killed when this value is dropped.
pub struct Shim {
    /// The address of the first TCP listener without TLS. Its port is 0 if there is no such listener.
    pub addr: SocketAddr,
    /// The URL of each listener, as the binary prints the URL: `http://…`, `https://…` or `unix:…`.
    pub listeners: Vec<String>,
    /// The address of the admin listener. Its port is 0 if the listener is a Unix socket.
    pub admin: SocketAddr,
    /// The process id.
    pub pid: u32,
    /// The folder that contains the configuration file.
    pub dir: TempDir,
    child: Child,
    stderr: Arc<Lines>,
    stdout: Arc<Lines>,
}

impl Shim {
    /// Makes a configuration that contains only the key `origin.url`. `origin` is an address or a URL.
    pub fn config(origin: impl fmt::Display) -> Config {
        let origin = origin.to_string();
        let url =
            if origin.contains("://") || origin.starts_with("unix:") { origin } else { format!("http://{origin}") };
        let mut table = toml::Table::new();
        let mut block = toml::Table::new();
        block.insert("url".into(), url.into());
        table.insert("origin".into(), block.into());
        Config(table)
    }

    /// Starts the binary with this configuration. If the configuration lacks `server.listen` or `admin.listen`, the
    /// binary listens on a free port. If the binary does not listen, panics with a message that contains stderr.
    pub fn start(config: impl fmt::Display) -> Self {
        Self::start_in(temp_dir(), config)
    }

    /// Starts like [`Shim::start`], with the configuration file in the folder `dir`.
    pub fn start_in(dir: TempDir, config: impl fmt::Display) -> Self {
        Self::try_start_in(dir, config)
            .unwrap_or_else(|(status, stderr)| panic!("edgeshim does not listen ({status:?}); stderr:\n{stderr}"))
    }

    /// Starts the binary. Returns an error with the exit status and stderr if the binary does not listen. The exit
    /// status is `None` if the binary did not exit.
    pub fn try_start_in(dir: TempDir, config: impl fmt::Display) -> Result<Self, (Option<ExitStatus>, String)> {
        Self::try_start_with(dir, config, |_| ())
    }

    /// Starts like [`Shim::try_start_in`]. `prepare` can change the command, for example to set variables.
    pub fn try_start_with(
        dir: TempDir,
        config: impl fmt::Display,
        prepare: impl FnOnce(&mut Command),
    ) -> Result<Self, (Option<ExitStatus>, String)> {
        let (text, expected) = completed(&config.to_string());
        let file = dir.write("edgeshim.toml", text);
        let mut command = binary();
        command.arg("run").arg("--config").arg(&file).stdout(Stdio::piped()).stderr(Stdio::piped());
        prepare(&mut command);
        let mut child = command.spawn().expect("the edgeshim binary starts");
        // `prepare` can put file descriptors of the test into the command. The drop closes these descriptors, so only
        // the binary has them.
        drop(command);
        let stderr = Lines::drain(child.stderr.take().expect("a pipe"));
        let stdout = Lines::drain(child.stdout.take().expect("a pipe"));
        let mut listeners = Vec::new();
        let mut admin = None;
        let ready = stderr.wait(START, |lines| {
            listeners = lines.iter().filter_map(|line| after(line, "listening on ")).collect();
            admin = lines.iter().find_map(|line| after(line, "admin on "));
            listeners.len() >= expected && admin.is_some()
        });
        let Some(admin) = admin.filter(|_| ready) else {
            // Either stderr has ended or the time has passed. After the end of stderr, the process needs a moment until
            // it exits.
            let mut status = None;
            wait_until(Duration::from_secs(1), || {
                status = child.try_wait().ok().flatten();
                status.is_some()
            });
            let _ = child.kill();
            let _ = child.wait();
            return Err((status, stderr.text()));
        };
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Ok(Self {
            addr: listeners.iter().find_map(|line| address(line, "http://")).unwrap_or(nowhere),
            admin: address(&admin, "http://").unwrap_or(nowhere),
            listeners,
            pid: child.id(),
            dir,
            child,
            stderr,
            stdout,
        })
    }

    /// Returns the address of the first TLS listener. Panics if there is no such listener.
    pub fn tls_addr(&self) -> SocketAddr {
        self.listeners.iter().find_map(|line| address(line, "https://")).expect("an https:// listener")
    }

    /// Reads the metrics once.
    pub fn metrics(&self) -> Metrics {
        let response = raw::fetch(self.admin, "/metrics", &[]);
        assert_eq!(response.status, 200, "the status of /metrics; the body is: {}", response.text());
        Metrics::parse(&response.text())
    }

    /// Reads the metrics until `done` returns true, and returns the last scrape. Panics if `done` returns false for as
    /// long as [`PATIENCE`].
    pub fn wait_metrics(&self, mut done: impl FnMut(&Metrics) -> bool) -> Metrics {
        let mut last = Metrics::default();
        let reached = wait_until(PATIENCE, || {
            last = self.metrics();
            done(&last)
        });
        assert!(reached, "the metrics did not become as expected within {PATIENCE:?}; the last scrape:\n{}", last.text);
        last
    }

    /// Waits until `times` pulls were counted under 499. Then checks that no other pull and no fault were counted, and
    /// that no pull is in flight.
    pub fn wait_aborts(&self, times: u64) {
        let pulls = "edgeshim_pulls_total";
        let after = self.wait_metrics(|now| now.count(pulls, &[("code", "499")]) >= times);
        assert_eq!(after.count(pulls, &[]), times, "each aborted pull must be counted once");
        assert_eq!(after.count("edgeshim_origin_faults_total", &[]), 0, "a disconnected client must not be a fault");
        assert_eq!(after.count("edgeshim_in_flight", &[]), 0, "no pull must be in flight");
    }

    /// Returns the resident memory of the process in KiB.
    pub fn rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("a running process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a VmRSS line");
        line.trim().trim_end_matches(" kB").parse().expect("a number of kB")
    }

    /// Sends a signal. `signal` is the name of the signal without SIG, for example "TERM".
    pub fn signal(&self, signal: &str) {
        // The shell has a builtin `kill`. A slim image can lack the program `kill`.
        let status = Command::new("sh").arg("-c").arg(format!("kill -{signal} {}", self.pid)).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{signal} {} failed", self.pid);
    }

    /// Writes another configuration and sends SIGHUP. Returns when `edgeshim_config_reloads_total` has increased.
    pub fn reload(&self, config: impl fmt::Display) {
        let name = "edgeshim_config_reloads_total";
        let before = self.metrics().sum(name, &[]);
        self.dir.write("edgeshim.toml", completed(&config.to_string()).0);
        self.signal("HUP");
        self.wait_metrics(|metrics| metrics.sum(name, &[]) > before);
    }

    /// Waits until the process exits. After `timeout`, panics with a message that contains stderr.
    pub fn wait_exit(&mut self, timeout: Duration) -> ExitStatus {
        let mut status = None;
        wait_until(timeout, || {
            status = self.child.try_wait().expect("a child process");
            status.is_some()
        });
        status.unwrap_or_else(|| panic!("edgeshim did not exit within {timeout:?}; stderr:\n{}", self.stderr()))
    }

    /// Returns whether the process still runs.
    pub fn running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    /// Returns what the process has written to stderr.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Returns what the process has written to stdout.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Waits for a line of stderr that contains `part`. Panics on a timeout.
    pub fn wait_stderr(&self, part: &str) {
        let found = self.stderr.wait(PATIENCE, |lines| lines.iter().any(|line| line.contains(part)));
        assert!(found, "stderr does not contain {part:?}:\n{}", self.stderr());
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- stderr of edgeshim ---\n{}\n---", self.stderr());
        }
    }
}

/// Returns a command for the binary under test, without arguments. Only the environment variables listed here are
/// passed on, so that no other variable changes the result of a test.
pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgeshim"));
    command.env_clear().stdin(Stdio::null());
    for kept in ["PATH", "TMPDIR", "LLVM_PROFILE_FILE"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    command
}

/// Runs the binary until it exits. Returns the exit code, stdout and stderr.
pub fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = binary().args(arguments).output().expect("the edgeshim binary starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// Sets `server.listen` and `admin.listen` to free ports if the keys are missing. Returns the configuration and the
/// expected number of `listening on` lines. Does not change invalid TOML.
fn completed(config: &str) -> (String, usize) {
    let Ok(mut table) = config.parse::<toml::Table>() else { return (config.to_owned(), 1) };
    default(&mut table, "server", "listen", toml::Value::Array(vec!["127.0.0.1:0".into()]));
    default(&mut table, "admin", "listen", "127.0.0.1:0".into());
    let count = |value: Option<&toml::Value>| value.and_then(toml::Value::as_array).map_or(0, Vec::len);
    let server = table.get("server");
    let plain = count(server.and_then(|server| server.get("listen")));
    let secure = count(server.and_then(|server| server.get("tls")).and_then(|tls| tls.get("listen")));
    (toml::to_string(&table).unwrap_or_else(|_| config.to_owned()), plain + secure)
}

fn default(table: &mut toml::Table, block: &str, key: &str, value: toml::Value) {
    let entry = table.entry(block).or_insert_with(|| toml::Table::new().into());
    if let Some(block) = entry.as_table_mut() {
        block.entry(key).or_insert(value);
    }
}

/// Returns the word after `prefix` in a line.
fn after(line: &str, prefix: &str) -> Option<String> {
    line.split_once(prefix)?.1.split_ascii_whitespace().next().map(str::to_owned)
}

fn address(url: &str, scheme: &str) -> Option<SocketAddr> {
    url.strip_prefix(scheme)?.trim_end_matches('/').parse().ok()
}

/// Returns the path of a file in the repository.
pub fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}
