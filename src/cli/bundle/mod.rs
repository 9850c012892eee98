//! `edgeshim bundle`: writes the evidence about an incident into one file, for the post-mortem. The file contains no
//! secrets, no complete addresses of clients, no e-mail addresses and no values of queries, except those of beacons
//! ([`redaction`]).

mod archive;
mod bundle_page;
mod charts;
mod collected;
mod log_window;
mod redaction;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use self::archive::Item;
use self::bundle_page::About;
use self::collected::{Collected, collect};
use self::log_window::LogWindow;
use super::admin_client::AdminClient;
use super::log_files::refuse_repeats;
use super::terminal::{USAGE, WRONG, print};
use crate::access_log::reader::entry::shown;
use crate::access_log::reader::stamp::Stamp;
use crate::keys::quantities::TIMEOUT;
use crate::keys::quote;

#[derive(Debug, clap::Args)]
pub(super) struct BundleArguments {
    /// The length of the window that ends now, for example 90s, 30m or 2h.
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    since: String,
    /// The address of `admin.listen`: `http://HOST:PORT` or `unix:PATH`.
    #[arg(long, value_name = "URL")]
    admin: String,
    /// The value of `admin.token`: `env:NAME` or `file:PATH`.
    #[arg(long, value_name = "SECRET")]
    token: Option<String>,
    /// An access log: a file, a gzip file, or `-` for standard input; may be repeated.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    log: Vec<PathBuf>,
    /// The file to write; the usual name ends with `.tar.gz`.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace an existing file.
    #[arg(long)]
    force: bool,
}

pub(super) fn bundle(arguments: &BundleArguments) -> ExitCode {
    match write(arguments) {
        Ok((text, problems)) => {
            print(&text);
            for problem in &problems {
                eprintln!("edgeshim bundle: {}", shown(problem, 1_000));
            }
            if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(WRONG) }
        }
        Err(message) => {
            eprintln!("edgeshim bundle: {message}");
            ExitCode::from(USAGE)
        }
    }
}

/// Writes the bundle. Returns the message for the user, and what could not be collected.
fn write(arguments: &BundleArguments) -> Result<(String, Vec<String>), String> {
    let BundleArguments { since, admin, token, log, out, force } = arguments;
    let window = (TIMEOUT.read)(since, Path::new("")).map_err(|why| format!("--since {} {why}", quote(since)))?;
    let name = shown(&out.display().to_string(), 4_096);
    check_out(out, *force).map_err(|why| format!("--out {name}: {why}"))?;
    refuse_repeats(log).map_err(|why| format!("--log {why}"))?;
    let client = AdminClient::new("--admin", admin, token.as_deref())?;
    let made = SystemTime::now();
    let from = made.checked_sub(window).unwrap_or(UNIX_EPOCH);
    let collected = collect(&client);
    let log_window = (!log.is_empty()).then(|| LogWindow::read(log, Stamp::of_time(from)));
    let (items, problems) = compose(&Made { at: made, from, window, admin }, &collected, log_window.as_ref(), log);
    let bytes = archive::write(&items, unix_seconds(made).as_secs(), out, *force)
        .map_err(|error| format!("--out {name}: {error}; name a file in a folder that this user may write to"))?;
    let folder = archive::FOLDER;
    Ok((format!("{name}: {} files, {bytes} bytes; unpack it and open {folder}/index.html\n", items.len()), problems))
}

/// Checks what exists at the path `out`. `--force` replaces only a regular file, so that it does not remove a device.
fn check_out(out: &Path, force: bool) -> Result<(), &'static str> {
    match (fs::symlink_metadata(out), fs::metadata(out)) {
        (Err(_), _) => Ok(()),
        (Ok(_), Err(_)) => Err("this is a symbolic link to a file that does not exist; remove the link, or name \
                                another file"),
        (Ok(_), Ok(file)) if !file.is_file() => Err("this is not a regular file; name a regular file or a new file"),
        (Ok(_), Ok(_)) if force => Ok(()),
        (Ok(_), Ok(_)) => Err("the file exists; name another file, or add --force to replace it"),
    }
}

/// When, and for which window, a bundle is made.
struct Made<'a> {
    at: SystemTime,
    from: SystemTime,
    window: Duration,
    admin: &'a str,
}

fn unix_seconds(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Returns the files of the bundle, and what could not be collected.
fn compose(
    made: &Made<'_>,
    collected: &Collected,
    log_window: Option<&LogWindow>,
    logs: &[PathBuf],
) -> (Vec<Item>, Vec<String>) {
    let mut items = Vec::new();
    let mut add = |name: &str, what: &'static str, content: Vec<u8>| {
        items.push(Item { name: name.to_owned(), what, content });
    };
    if let Some(metrics) = &collected.metrics {
        add("metrics.txt", "the metrics", metrics.clone().into_bytes());
    }
    let documents = [
        ("config.json", "the effective configuration, without secrets", &collected.config),
        ("summary.json", "the last 30 seconds, the outages, the steps of the weights", &collected.summary),
        ("annotations.json", "the events", &collected.annotations),
        ("top.json", "the URLs that were pulled most", &collected.top),
    ];
    for (name, what, document) in documents {
        if let Some(document) = document {
            add(name, what, pretty(document));
        }
    }
    for (range, series) in &collected.series {
        add(&format!("series-{range}.json"), "the figures of the providers and the origin over time", pretty(series));
    }
    if let Some(log) = log_window {
        add("failures.ndjson", "the last log lines with a fault, a refusal or a 5xx", log.failures.content());
        add("access-log.ndjson", "the newest log lines of the window", log.lines.content());
        add("counters.txt", "the counters of the log lines of the window", counters(log));
    }
    let mut problems = collected.problems.clone();
    problems.extend(log_window.iter().flat_map(|log| log.problems.iter().cloned()));
    let (from, until) = (Stamp::of_time(made.from), Stamp::of_time(made.at));
    let admin = shown(made.admin, 300);
    let about = About {
        made: until.text(),
        from: from.text(),
        from_seconds: unix_seconds(made.from).as_secs_f64(),
        admin: &admin,
        problems: &problems,
    };
    let page = bundle_page::page(&about, collected, log_window, &items);
    items.insert(0, Item { name: "index.html".to_owned(), what: "this page", content: page.into_bytes() });
    let manifest = manifest(made, &about, collected, log_window, logs, &items);
    items.push(Item { name: "manifest.json".to_owned(), what: "the list of the files", content: pretty(&manifest) });
    (items, problems)
}

fn manifest(
    made: &Made<'_>,
    about: &About<'_>,
    collected: &Collected,
    log_window: Option<&LogWindow>,
    logs: &[PathBuf],
    items: &[Item],
) -> Value {
    let hex = |content: &[u8]| {
        Sha256::digest(content).iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    };
    let file = |item: &Item| {
        json!({
            "name": item.name,
            "what": item.what,
            "bytes": item.content.len(),
            "sha256": hex(&item.content),
        })
    };
    let lines = |log: &LogWindow| {
        let (lines, failures) = (&log.lines, &log.failures);
        json!({
            "lines": lines.added,
            "kept_lines": lines.kept().count(),
            "failures": failures.added,
            "kept_failures": failures.kept().count(),
        })
    };
    json!({
        "made": about.made,
        "from": about.from,
        "window_seconds": made.window.as_secs_f64(),
        "admin": about.admin,
        "made_by": { "version": env!("CARGO_PKG_VERSION"), "commit": option_env!("EDGESHIM_COMMIT") },
        "running": collected.versions(),
        "logs": logs.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
        "log": log_window.map(lines),
        "hidden": "addresses of clients are cut to /24 and /48; *** replaces e-mail addresses, values of parameters, \
                   tokens and secrets",
        "problems": about.problems,
        "files": items.iter().map(file).collect::<Vec<_>>(),
    })
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// Returns the counters of the log as lines in the format of the metrics.
fn counters(log: &LogWindow) -> Vec<u8> {
    let mut text = String::new();
    for (series, count) in &log.counters {
        let _ = writeln!(text, "{series} {count}");
    }
    text.into_bytes()
}
