//! `edgeshim verify-log`: counts the lines of an access log, and compares the sums with the counters of a running
//! edgeshim.

mod comparison;
mod scraped;
mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use self::comparison::{Row, compare};
use self::scraped::Scraped;
use self::verdict::{Compared, FileLines, Verdict};
use super::admin_client::AdminClient;
use super::log_files::{LogFile, open_all};
use super::terminal::{USAGE, WRONG, print, print_json};
use crate::access_log::reader::recount::Recount;

/// The largest metrics page that is read, in bytes.
const METRICS_BYTES: usize = 64 << 20;
const METRICS_LIMIT: Duration = Duration::from_secs(10);
/// The largest number of comparisons. A line is written some milliseconds after its pull is counted. So if the log has
/// too few lines, the command reads the new end of the log and compares again.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(super) struct VerifyLogArguments {
    /// The logs: files, gzip files, or `-` for standard input. Name the rotated files too.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The address of `admin.listen` of the edgeshim that wrote the log: `http://HOST:PORT` or `unix:PATH`. Its
    /// counters must equal the log.
    #[arg(long, value_name = "URL")]
    metrics: Option<String>,
    /// The value of `admin.token`: `env:NAME` or `file:PATH`. edgeshim serves its metrics
    /// without a token, so this option is needed only if a proxy in front of the listener checks a token.
    #[arg(long, value_name = "SECRET", requires = "metrics")]
    token: Option<String>,
    /// The value of `beacon.path`.
    #[arg(long, value_name = "PATH", default_value = "/status/images/beacon.gif")]
    beacon_path: String,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn verify_log(arguments: &VerifyLogArguments) -> ExitCode {
    match verify(arguments) {
        Ok(verdict) => {
            if arguments.json {
                print_json(&verdict.json());
            } else {
                print(&verdict.to_string());
            }
            if verdict.is_fine() { ExitCode::SUCCESS } else { ExitCode::from(WRONG) }
        }
        Err(message) => {
            eprintln!("edgeshim verify-log: {message}");
            ExitCode::from(USAGE)
        }
    }
}

/// A running edgeshim.
struct Shim {
    client: AdminClient,
}

impl Shim {
    fn scrape(&self) -> Result<Scraped, String> {
        let text =
            self.client.get("/metrics", METRICS_BYTES, METRICS_LIMIT).map_err(|why| format!("/metrics: {why}"))?;
        Scraped::read(&text).map_err(|why| format!("/metrics: {why}; is this the admin listener of edgeshim?"))
    }
}

fn verify(arguments: &VerifyLogArguments) -> Result<Verdict, String> {
    let shim = match &arguments.metrics {
        Some(url) => Some(Shim { client: AdminClient::new("--metrics", url, arguments.token.as_deref())? }),
        None => None,
    };
    let mut files = open_all(&arguments.files)?;
    let before = shim.as_ref().map(Shim::scrape).transpose()?;
    let started = match &before {
        Some(before) => Some(before.started.ok_or(
            "the metrics have no edgeshim_start_timestamp_seconds, so it is unknown which lines the counters contain; \
             compare with an edgeshim of this version",
        )?),
        None => None,
    };
    let mut recount = Recount::new(started, &arguments.beacon_path);
    let begun = Instant::now();
    read(&mut files, &mut recount)?;
    let elapsed = begun.elapsed();
    let compared = match (&shim, &before) {
        (Some(shim), Some(before)) => Some(compare_until_equal(shim, before, &mut files, &mut recount)?),
        _ => None,
    };
    Ok(Verdict {
        bytes: files.iter().map(LogFile::bytes).sum(),
        files: files.iter().map(file_lines).collect(),
        counters: recount.counters(),
        recount,
        compared,
        elapsed,
    })
}

fn read(files: &mut [LogFile], recount: &mut Recount) -> Result<(), String> {
    for file in files {
        file.read(|_, entry| {
            recount.add(entry).map_err(|_| {
                "the log has more combinations of providers, classes and statuses than edgeshim can write; name a log \
                 of edgeshim"
                    .to_owned()
            })
        })?;
    }
    Ok(())
}

/// Compares the log with the counters. If the log has too few lines, reads what was added to the log, and compares
/// again.
fn compare_until_equal(
    shim: &Shim,
    before: &Scraped,
    files: &mut [LogFile],
    recount: &mut Recount,
) -> Result<Compared, String> {
    let mut attempt = 1;
    loop {
        let after = shim.scrape()?;
        if after.started != before.started {
            return Err("edgeshim was started again while the log was read; run the command again".to_owned());
        }
        let rows = compare(&recount.counters(), &before.counters, &after.counters, before.in_flight);
        let is_equal = rows.iter().filter(|row| row.is_exact()).all(|row| row.differences.is_empty());
        let is_short = |row: &Row| row.is_exact() && row.differences.iter().any(|one| one.log < one.counter);
        if is_equal || !rows.iter().any(is_short) || attempt == ATTEMPTS {
            let is_moving = before.counters != after.counters || before.in_flight > 0;
            return Ok(Compared { rows, is_moving, started: after.started, dropped: after.dropped });
        }
        attempt += 1;
        thread::sleep(PAUSE);
        read(files, recount)?;
    }
}

fn file_lines(file: &LogFile) -> FileLines {
    FileLines {
        name: file.name.clone(),
        lines: file.tally.lines,
        unreadable: file.tally.unreadable,
        first_unreadable: file.tally.first_unreadable.as_ref().map(|first| (first.number, first.why.clone())),
        has_incomplete_line: file.has_incomplete_line(),
    }
}
