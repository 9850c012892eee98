//! `edgeshim balance watch`: the rounds of probes, the acts of each target, the output, and the messages to the service
//! manager.

use std::process::ExitCode;

use sd_notify::NotifyState;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::arguments::Common;
use super::prompt::{Stop, with_runtime};
use super::{Failure, Result};
use crate::balance::api_call::Caller;
use crate::balance::balance_file::{BalanceFile, TargetKeys};
use crate::balance::side_by_side::all;
use crate::balance::tables::aligned;
use crate::balance::transaction::Services;
use crate::balance::watch::between_targets::{MAX_UNANNOUNCED, News, Shared};
use crate::balance::watch::edge_probe::Probed;
use crate::balance::watch::one_watch::lock_watch;
use crate::balance::watch::watched_edges::Edges;
use crate::balance::watch::watched_target::Target;
use crate::cli::notify::notify;
use crate::cli::terminal::{WRONG, print};

/// Watches until a signal arrives. With `once`, only probes each edge once.
pub(super) fn watch(file: &BalanceFile, common: &Common, targets: &[&TargetKeys], once: bool) -> Result {
    let caller = Caller { is_verbose: common.verbose };
    with_runtime(async {
        let stop = Stop::watch()?;
        let services = Services::new(file, &caller, stop.interrupt.clone()).map_err(Failure::usage)?;
        let mut edges = Edges::new(&file.watch, common.verbose, &tell, targets).map_err(Failure::usage)?;
        if once {
            let results = stop.or(edges.probe()).await?;
            print(&aligned(&edges.rows(&results)));
            let is_fine = results.iter().all(Probed::is_success);
            return Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::from(WRONG) });
        }
        let _lock = lock_watch(file).map_err(Failure::failed)?;
        let shared = Shared::new(file, &caller, &services, &tell);
        let (acted, acts) = mpsc::channel(MAX_UNANNOUNCED);
        let target = |&keys| follow(Target::new(&shared, keys, &edges, acted.clone()), &stop);
        let followed = targets.iter().map(target).collect();
        // The channel closes when all targets have ended.
        drop(acted);
        edges.introduce(targets);
        let ((), standings, (), ()) = tokio::join!(
            rounds(file, &mut edges, &stop),
            all(followed),
            shared.settle_writes(&stop.interrupt),
            shared.announce_acts(acts, &stop.interrupt),
        );
        // After the signal, `settle` does not wait. It only warns about writes that may not have reached all DNS
        // servers.
        shared.settle().await;
        let standings: Vec<String> = standings.into_iter().flatten().collect();
        let standing = if standings.is_empty() { "no provider is away".to_owned() } else { standings.join("; ") };
        say!("stopped; {standing}");
        Ok(ExitCode::SUCCESS)
    })
}

/// Probes all edges in each round, until a signal arrives.
async fn rounds(file: &BalanceFile, edges: &mut Edges<'_>, stop: &Stop) {
    let mut ticks = interval(file.watch.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    notify(&[NotifyState::Ready]);
    let mut shown = None;
    while let Ok(results) = stop
        .or(async {
            ticks.tick().await;
            edges.probe().await
        })
        .await
    {
        edges.count(results);
        let (down, all) = edges.down();
        if shown.replace(down) != Some(down) {
            notify(&[NotifyState::Status(&format!("edges down: {down} of {all}"))]);
        }
    }
    notify(&[NotifyState::Stopping]);
}

/// Makes the acts of one target, until a signal arrives. An act that is being made is completed or put back first.
/// Returns which providers are away.
async fn follow(mut target: Target<'_>, stop: &Stop) -> Option<String> {
    while stop.or(target.next_round()).await.is_ok() {
        // Several providers of a target can go away or return in one round.
        while let Ok(Some(act)) = stop.or(target.look()).await
            && let Ok(Some(begun)) = stop.or(target.begin(&act)).await
            && target.make(act, begun).await
        {}
    }
    target.standing()
}

/// Shows a message.
fn tell(news: &News) {
    if news.is_problem {
        complain!("{}", news.text);
    } else {
        say!("{}", news.text);
    }
}
