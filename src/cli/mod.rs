//! The command line: one file or folder for each command.

/// Writes a line to standard output. Unlike `println!`, it does not panic if the write fails.
macro_rules! say {
    ($($text:tt)*) => {
        crate::cli::terminal::print(&(format!($($text)*) + "\n"))
    };
}

mod admin_client;
mod assign;
mod balance;
mod bundle;
mod check;
mod completions;
mod config_argument;
mod demo;
mod explain;
mod export_pages;
mod hand_over;
mod list_providers;
mod log_files;
mod man_pages;
mod notify;
mod reload;
mod run;
mod smoke;
mod terminal;
mod verify_log;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use self::config_argument::ConfigArgument;
use self::terminal::USAGE;

/// The version of the crate and the commit of its sources.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("EDGESHIM_COMMIT"), ")");

/// A reverse proxy between several CDNs and one origin.
#[derive(Debug, Parser)]
#[command(name = "edgeshim", version = VERSION, about, arg_required_else_help = true)]
#[command(after_help = "Examples:\n  \
        edgeshim demo --traffic\n  \
        edgeshim check --config edgeshim.toml\n  \
        edgeshim run --config edgeshim.toml")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT.
    #[command(after_help = "Without --config: ./edgeshim.toml if it exists, else the defaults.\n\n\
            Signals: SIGTERM and SIGINT end the process after a drain, with exit code 0.\n\
            SIGHUP reloads the configuration. SIGUSR1 reopens the access log's file.\n\
            SIGUSR2 starts a new process with the same sockets. When the new process serves, this process drains.\n\n\
            Example:\n  edgeshim run --config edgeshim.toml")]
    Run(ConfigArgument),
    /// Check a configuration and list every problem in it.
    #[command(after_help = "Exit code: 0 if there is no problem, 1 if there are problems.\n\n\
            Example:\n  edgeshim check --config edgeshim.toml")]
    Check(ConfigArgument),
    /// Start a sample site behind edgeshim, on loopback addresses. No configuration file is needed.
    #[command(after_help = "Examples:\n  edgeshim demo --traffic\n  edgeshim demo --traffic --incident")]
    Demo(demo::DemoArguments),
    /// Explain one request: its provider, class and rule, which header fields change, and why.
    #[command(after_help = "Examples:\n  \
            edgeshim explain --path /logo.png --provider fastly\n  \
            edgeshim explain --path /x.html --response-header 'Set-Cookie: a=1'\n  \
            edgeshim explain --path / --request-header 'CF-Ray: 8a1-FRA' --status 503 --json\n  \
            edgeshim explain 0193a1b2c3 --log access.log access.log.1.gz\n  \
            edgeshim explain 0193a1b2c3 --json --log - < access.log")]
    Explain(explain::ExplainArguments),
    /// Send requests to a CDN's edge, and check that the CDN obeys the header fields of the origin.
    #[command(after_help = "Each check passes, fails or is skipped with a reason. A failure names what to change.\n\
            Exit code: 0 if nothing failed, 1 if a check or a row of a score card failed, 2 if an argument is wrong\n\
            or the result cannot be written.\n\n\
            Examples:\n  \
            edgeshim smoke https://img.example.com/x.jpg\n  \
            edgeshim smoke https://img.example.com/x.jpg --provider fastly --connect-to 151.101.1.1:443\n  \
            edgeshim smoke https://img.example.com/x.jpg --origin http://10.0.0.1 --token env:SMOKE_TOKEN\n  \
            edgeshim smoke https://img.example.com/x.jpg --json > baseline.json\n  \
            edgeshim smoke https://img.example.com/x.jpg --baseline baseline.json --junit smoke.xml\n  \
            edgeshim smoke https://a.test/x.jpg --compare fastly --connect-to fastly=b.test:443")]
    Smoke(smoke::SmokeArguments),
    /// Write the evidence about an incident into one file, with a page to read it.
    #[command(
        after_help = "The file contains the configuration without secrets, the metrics, the history, the events,\n\
            and the top list. With --log, it also contains the log lines of the window. The addresses of clients\n\
            are cut to networks, and the values in queries are hidden.\n\n\
            Exit code: 0 if the bundle is complete, 1 if a part is missing; the file then says which part;\n\
            2 if no file was written.\n\n\
            Example:\n  \
            edgeshim bundle --since 1h --admin http://127.0.0.1:9900 --log access.log --out incident.tar.gz"
    )]
    Bundle(bundle::BundleArguments),
    /// Count the lines of an access log, and compare the sums with the counters of a running edgeshim.
    #[command(after_help = "Exit code: 0 if all lines can be read and, with --metrics, the log equals the counters;\n\
            1 if not; 2 if a file or the metrics cannot be read.\n\n\
            Examples:\n  \
            edgeshim verify-log access.log\n  \
            edgeshim verify-log access.log.2.gz access.log.1 access.log --metrics http://127.0.0.1:9900")]
    VerifyLog(verify_log::VerifyLogArguments),
    /// List the CDNs that have a preset, or the facts of one preset.
    #[command(after_help = "Examples:\n  edgeshim providers\n  edgeshim providers fastly")]
    Providers(list_providers::ProvidersArguments),
    /// Export the error page and the wait page as files, for CDNs and other hosts.
    #[command(after_help = "Example:\n  edgeshim whoopsie export --out pages")]
    Whoopsie(export_pages::WhoopsieArguments),
    /// Show and change how much of the traffic each CDN gets: its weight in DNS.
    Balance(balance::BalanceArguments),
    /// Show which arm of each experiment a visitor gets, and why.
    #[command(after_help = "Without --config: ./edgeshim.toml if it exists, else the defaults.\n\
            Exit code: 0 if the arms are shown, 2 if an argument or the configuration is wrong.\n\n\
            Examples:\n  \
            edgeshim assign --id 4711\n  \
            edgeshim assign --config edgeshim.toml --id 4711 --group staff --experiment cdn --json")]
    Assign(assign::AssignArguments),
    /// Write completions for a shell to standard output.
    #[command(after_help = "Example:\n  edgeshim completions bash > /etc/bash_completion.d/edgeshim")]
    Completions(completions::CompletionsArguments),
    /// Write the man pages into a folder: one for edgeshim and one for each command.
    #[command(hide = true, after_help = "Example:\n  edgeshim man --out pages")]
    Man(man_pages::ManArguments),
}

/// Runs the command in the arguments, and returns its exit code:
///
/// - 0: the command succeeded.
/// - 1: `check` found a problem. `explain ID` found nothing. `verify-log` found a difference or a line that cannot be
///   read. A check or a row of a score card of `smoke` failed. A part of a `bundle` is missing. `balance` refused a
///   change, found a problem, failed or was interrupted.
/// - 2: the command line is wrong, the configuration of a command other than `check` is wrong, or another command
///   failed.
/// - 3: `balance ramp` has put the weights back.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // clap returns --help and --version as errors too.
            let code = if error.use_stderr() { USAGE } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    terminal::exit_code(match arguments.command {
        Command::Run(argument) => run::run(&argument),
        Command::Check(argument) => check::check(&argument),
        Command::Demo(arguments) => demo::demo(&arguments),
        Command::Explain(arguments) => explain::explain(&arguments),
        Command::Smoke(arguments) => smoke::smoke(&arguments),
        Command::Bundle(arguments) => bundle::bundle(&arguments),
        Command::VerifyLog(arguments) => verify_log::verify_log(&arguments),
        Command::Providers(arguments) => list_providers::providers(&arguments),
        Command::Whoopsie(arguments) => export_pages::whoopsie(&arguments),
        Command::Balance(arguments) => balance::balance(arguments),
        Command::Assign(arguments) => assign::assign(&arguments),
        Command::Completions(arguments) => completions::completions(&arguments, &mut Arguments::command()),
        Command::Man(arguments) => man_pages::man(&arguments, Arguments::command()),
    })
}
