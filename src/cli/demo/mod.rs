//! `edgeshim demo`: starts a sample site, edgeshim in front of it, and the admin listener, in one process on loopback.

mod site;
mod traffic;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tokio::net::TcpListener;

use super::run::{Running, log_to_stderr};
use super::terminal::USAGE;
use crate::config;

/// The time between two reports of the offload, with `--traffic`.
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// The time from the start until the site fails, and the time for which it fails, with `--incident`.
const INCIDENT: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(30));

#[derive(Debug, clap::Args)]
pub(super) struct DemoArguments {
    /// Add simulated visitors and three simulated CDNs with caches, so that the metrics change.
    #[arg(long)]
    traffic: bool,
    /// Let the site fail with 503 from second 30 to second 60. Needs --traffic.
    #[arg(long, requires = "traffic")]
    incident: bool,
    /// The number of simulated visits per second. Without --traffic, this option has no effect.
    #[arg(long, default_value_t = 40, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    visitors: u32,
    /// The address on which edgeshim listens. Port 0 means any free port.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The address of the admin listener. Port 0 means any free port.
    #[arg(long, default_value = "127.0.0.1:9900", value_name = "ADDRESS")]
    admin: SocketAddr,
}

pub(super) fn demo(arguments: &DemoArguments) -> ExitCode {
    log_to_stderr();
    match start(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("edgeshim demo: {error}");
            eprintln!("If a port is in use, write other ports: --listen 127.0.0.1:0 --admin 127.0.0.1:0");
            ExitCode::from(USAGE)
        }
    }
}

fn start(arguments: &DemoArguments) -> Result<(), Box<dyn std::error::Error>> {
    if !arguments.listen.ip().is_loopback() || !arguments.admin.ip().is_loopback() {
        return Err("--listen and --admin must be loopback addresses; write for example 127.0.0.1:8080".into());
    }
    let fails: &'static AtomicBool = Box::leak(Box::default());
    let origin = start_site(fails)?;
    let token = random_token();
    let running = start_shim(arguments.listen, arguments.admin, origin, &token)?;
    let no_address = "the demo's edgeshim has no TCP address; this is a bug in edgeshim";
    let shim = running.server().tcp_address().ok_or(no_address)?;
    running.announce();
    print_hints(shim, running.admin());
    if arguments.traffic {
        print_traffic_hints(running.admin());
        start_traffic(shim, arguments.visitors, token)?;
    }
    if arguments.incident {
        let (from, length) = INCIDENT;
        say!("The site will fail from second {} to second {}.\n", from.as_secs(), (from + length).as_secs());
        thread::Builder::new().name("incident".to_owned()).spawn(move || fail_for_a_while(fails, from, length))?;
    }
    running.until_signal();
    Ok(())
}

/// Returns a token for the pushed logs. Nobody can guess the token, because the keys of a `RandomState` come from
/// random numbers of the operating system.
fn random_token() -> String {
    [0, 1].map(|number: u8| format!("{:016x}", RandomState::new().hash_one(number))).concat()
}

fn start_shim(
    listen: SocketAddr,
    admin: SocketAddr,
    origin: SocketAddr,
    token: &str,
) -> Result<Running, Box<dyn std::error::Error>> {
    let text = include_str!("demo.toml")
        .replace("{listen}", &listen.to_string())
        .replace("{admin}", &admin.to_string())
        .replace("{origin}", &origin.to_string())
        .replace("{token}", token);
    Running::start(config::parse(&text, "demo.toml", Path::new("."))?)
}

/// Starts the site on a separate thread, and returns the address of the site. While `fails` is set, the site responds
/// with 503.
fn start_site(fails: &'static AtomicBool) -> std::io::Result<SocketAddr> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = tokio.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    thread::Builder::new().name("site".to_owned()).spawn(move || tokio.block_on(site::serve(listener, fails)))?;
    Ok(address)
}

/// Waits for `from`, then lets the site fail for `length`.
fn fail_for_a_while(fails: &AtomicBool, from: Duration, length: Duration) {
    thread::sleep(from);
    fails.store(true, Ordering::Relaxed);
    say!("incident: the site fails with 503 for {} s\n", length.as_secs());
    thread::sleep(length);
    fails.store(false, Ordering::Relaxed);
    say!("incident: the site works again\n");
}

fn start_traffic(shim: SocketAddr, visitors: u32, log_token: String) -> std::io::Result<()> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("traffic".to_owned()).spawn(move || {
        tokio.block_on(async move {
            let mut settings = traffic::TrafficSettings::new(shim);
            settings.visitors_per_second = visitors;
            settings.log_token = Some(log_token);
            let live = settings.live.clone();
            tokio::spawn(async move {
                let mut ticks = tokio::time::interval(REPORT_EVERY);
                ticks.tick().await;
                loop {
                    ticks.tick().await;
                    for provider in live.report() {
                        say!("{provider}");
                    }
                    say!("");
                }
            });
            traffic::run(settings).await;
        });
    })?;
    Ok(())
}

fn print_hints(shim: SocketAddr, admin: &str) {
    say!(
        "\nThe sample site is behind edgeshim. Try these commands in another shell:\n\n  \
         curl -i http://{shim}/ -H 'X-CDN-Provider: fastly'\n  \
         curl -sI http://{shim}/images/harbour.jpg -H 'X-CDN-Provider: akamai'\n  \
         curl -sI http://{shim}/assets/site.css -H 'X-CDN-Provider: cloudflare' -H 'Accept-Encoding: gzip'\n  \
         curl -si 'http://{shim}/fail?status=503' -H 'Accept: text/html' -H 'Accept-Language: fr'\n  \
         curl -s {admin}/metrics | grep edgeshim_pulls_total\n\n\
         Press Ctrl-C to stop.\n"
    );
}

fn print_traffic_hints(admin: &str) {
    say!(
        "Three simulated CDNs serve visitors, pull from edgeshim, and push their logs to edgeshim each second. \
         Open the page {admin}/ in a browser, or try these commands in another shell:\n\n  \
         curl -s {admin}/metrics | grep -E 'edgeshim_(offload|share)_ratio|edgeshim_edge_log_lag'\n  \
         curl -s {admin}/metrics | grep -E 'edgeshim_(edge_requests|pull_reasons)_total'\n"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("the listener accepts a connection");
        let request = format!("GET {path} HTTP/1.0\r\nHost: demo.test\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("the request is sent");
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await.expect("the response is received");
        String::from_utf8_lossy(&response).into_owned()
    }

    /// Returns the sum of the values of those series of the metric `name` whose labels contain the text `label`.
    fn sum(page: &str, name: &str, label: &str) -> f64 {
        let series = page.lines().filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(label));
        series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    #[test]
    fn demo_when_cdns_push_logs_then_metrics_agree_with_the_counts_of_the_cdns() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let origin = start_site(Box::leak(Box::default())).expect("the site starts");
        let token = random_token();
        let running = start_shim(any, any, origin, &token).expect("edgeshim starts");
        let shim = running.server().tcp_address().expect("edgeshim has a TCP address");
        let admin = running
            .admin()
            .trim_start_matches("http://")
            .parse()
            .expect("the admin address is an IP address and a port");
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("the runtime starts");
        tokio.block_on(async {
            let settings = traffic::TrafficSettings {
                visitors_per_second: 200,
                visitors: Some(500),
                log_token: Some(token),
                ..traffic::TrafficSettings::new(shim)
            };
            let counts = traffic::run(settings).await;
            let page = fetch(admin, "/metrics").await;
            for one in counts {
                let provider = format!("provider=\"{}\"", one.name);
                let lines = |result| {
                    sum(&page, "edgeshim_edge_log_lines_total", &format!("{provider},result=\"{result}\"")).to_string()
                };
                let wanted = [one.edge_requests.to_string(), "0".to_owned(), "0".to_owned()];
                assert_eq!([lines("parsed"), lines("unparsed"), lines("outside")], wanted, "{one:?}");
                let other = format!("{provider},result=\"other\"");
                assert_eq!(sum(&page, "edgeshim_edge_requests_total", &other).to_string(), "0", "{one:?}");
                assert_eq!(
                    sum(&page, "edgeshim_edge_bytes_total", &provider).to_string(),
                    one.bytes_edge.to_string(),
                    "{one:?}"
                );
                for (of, offload) in [("requests", one.offload()), ("bytes", one.offload_of_bytes())] {
                    let gauge = sum(&page, "edgeshim_offload_ratio", &format!("{provider},of=\"{of}\""));
                    assert!(
                        (gauge - offload).abs() < 0.01,
                        "the offload ratio of {of} is {gauge}, but the CDN counted {one:?}"
                    );
                }
                assert!(page.contains(&format!("edgeshim_edge_log_lag_seconds{{{provider}}}")), "{page}");
            }
        });
    }

    #[test]
    fn site_when_failure_begins_and_ends_then_sends_503_and_then_200() {
        let fails: &'static AtomicBool = Box::leak(Box::default());
        let site = start_site(fails).expect("the site starts");
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("the runtime starts");
        let status = || tokio.block_on(fetch(site, "/"))[9..12].to_owned();
        fails.store(true, Ordering::Relaxed);
        assert_eq!(status(), "503");
        fail_for_a_while(fails, Duration::ZERO, Duration::ZERO);
        assert_eq!(status(), "200");
    }

    #[test]
    fn token_when_made_twice_then_differs_and_has_32_characters() {
        let (one, other) = (random_token(), random_token());
        assert!(one.len() == 32 && one != other, "{one} {other}");
    }
}
