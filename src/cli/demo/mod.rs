//! `edgeshim demo`: starts a sample site, edgeshim in front of it, and the admin listener, in one process on loopback.

mod site;
mod traffic;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use tokio::net::TcpListener;

use super::run::{Running, log_to_stderr};
use super::terminal::USAGE;
use crate::config;

/// The time between two reports of the offload, with `--traffic`.
const REPORT_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(super) struct DemoArguments {
    /// Add simulated visitors and three simulated CDNs with caches, so that the metrics change.
    #[arg(long)]
    traffic: bool,
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
    let origin = start_site()?;
    let text = include_str!("demo.toml")
        .replace("{listen}", &arguments.listen.to_string())
        .replace("{admin}", &arguments.admin.to_string())
        .replace("{origin}", &origin.to_string());
    let settings = config::parse(&text, "demo.toml", Path::new("."))?;
    let running = Running::start(settings)?;
    let shim = running.server().tcp_address().ok_or("edgeshim has no TCP address in the demo")?;
    running.announce();
    print_hints(shim, running.admin());
    if arguments.traffic {
        start_traffic(shim, arguments.visitors)?;
    }
    running.until_signal();
    Ok(())
}

/// Starts the site on a separate thread, and returns the address of the site.
fn start_site() -> std::io::Result<SocketAddr> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = tokio.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    thread::Builder::new().name("site".to_owned()).spawn(move || tokio.block_on(site::serve(listener)))?;
    Ok(address)
}

fn start_traffic(shim: SocketAddr, visitors: u32) -> std::io::Result<()> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("traffic".to_owned()).spawn(move || {
        tokio.block_on(async move {
            let mut settings = traffic::TrafficSettings::new(shim);
            settings.visitors_per_second = visitors;
            let live = settings.live.clone();
            tokio::spawn(async move {
                let mut ticks = tokio::time::interval(REPORT_EVERY);
                ticks.tick().await;
                loop {
                    ticks.tick().await;
                    for provider in live.report() {
                        println!("{provider}");
                    }
                    println!();
                }
            });
            traffic::run(settings).await;
        });
    })?;
    Ok(())
}

fn print_hints(shim: SocketAddr, admin: &str) {
    println!(
        "\nThe sample site is behind edgeshim. Try these commands in another shell:\n\n  \
         curl -i http://{shim}/ -H 'X-CDN-Provider: fastly'\n  \
         curl -sI http://{shim}/images/harbour.jpg -H 'X-CDN-Provider: akamai'\n  \
         curl -sI http://{shim}/assets/site.css -H 'X-CDN-Provider: cloudflare' -H 'Accept-Encoding: gzip'\n  \
         curl -si 'http://{shim}/fail?status=503' -H 'Accept: text/html' -H 'Accept-Language: fr'\n  \
         curl -s {admin}/metrics | grep edgeshim_pulls_total\n\n\
         Press Ctrl-C to stop.\n"
    );
}
