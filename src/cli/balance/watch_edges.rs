//! `edgeshim balance watch`: the loop over the rounds, the output, and the messages to the service manager.

use std::process::ExitCode;

use sd_notify::NotifyState;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::arguments::Common;
use super::prompt::{Stop, with_runtime};
use super::{Failure, Result};
use crate::balance::api_call::Caller;
use crate::balance::balance_file::{BalanceFile, TargetKeys};
use crate::balance::tables::aligned;
use crate::balance::transaction::Services;
use crate::balance::watch::edge_probe::Probed;
use crate::balance::watch::one_watch::lock_watch;
use crate::balance::watch::rounds::Watch;
use crate::cli::notify::notify;
use crate::cli::terminal::{WRONG, print};

/// Watches until a signal arrives. `once` only probes each edge once.
pub(super) fn watch(file: &BalanceFile, common: &Common, targets: &[&TargetKeys], once: bool) -> Result {
    let caller = Caller { is_verbose: common.verbose };
    with_runtime(async {
        let mut stop = Stop::watch()?;
        let services = Services::new(file, &caller, stop.interrupt.clone()).map_err(Failure::usage)?;
        let mut watch = Watch::new(file, &caller, &services, targets).map_err(Failure::usage)?;
        if once {
            let results = stop.or(watch.probe()).await?;
            print(&aligned(&watch.rows(&results)));
            let is_fine = results.iter().all(Probed::is_success);
            return Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::from(WRONG) });
        }
        let _lock = lock_watch(file).map_err(Failure::failed)?;
        match Box::pin(rounds(file, &mut watch, &mut stop)).await {
            Err(Failure::Interrupted) => {}
            Err(failure) => return Err(failure),
            Ok(never) => match never {},
        }
        notify(&[NotifyState::Stopping]);
        tell(&mut watch);
        say!("stopped; {}", watch.standing());
        Ok(ExitCode::SUCCESS)
    })
}

async fn rounds(file: &BalanceFile, watch: &mut Watch<'_>, stop: &mut Stop) -> Result<std::convert::Infallible> {
    // This clock does not jump.
    let start = Instant::now();
    let mut ticks = interval(file.watch.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tell(watch);
    notify(&[NotifyState::Ready]);
    let mut shown = None;
    loop {
        stop.or(ticks.tick()).await?;
        let results = stop.or(watch.probe()).await?;
        watch.count(results);
        if shown != Some(watch.down()) {
            let (down, all) = watch.down();
            notify(&[NotifyState::Status(&format!("{down} of {all} edges are down"))]);
            shown = Some((down, all));
        }
        tell(watch);
        let due = watch.due(start.elapsed());
        let read = stop.or(watch.read(&due)).await?;
        for (target, nodes) in due.into_iter().zip(read) {
            let mut nodes = Some(nodes);
            // Several providers of a target can go away or return in one round.
            while let Some(found) = nodes.take()
                && let Some(work) = stop.or(watch.look(target, found, start.elapsed())).await?
                && let Some(writer) = stop.or(watch.begin(target, &work, start.elapsed())).await?
            {
                let entry = watch.act(target, &work, writer, start.elapsed()).await;
                tell(watch);
                let Some(entry) = entry else { break };
                for warning in stop.or(work.change.announce(&entry)).await? {
                    complain!("warning: {warning}");
                }
                nodes = stop.or(watch.read(&[target])).await?.pop();
            }
            tell(watch);
        }
    }
}

/// Shows the news.
fn tell(watch: &mut Watch<'_>) {
    for news in watch.take_news() {
        if news.is_problem {
            complain!("{}", news.text);
        } else {
            say!("{}", news.text);
        }
    }
}
