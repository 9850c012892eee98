//! `edgeshim balance serve`: serves the page until a signal arrives.

use std::process::ExitCode;

use sd_notify::NotifyState;

use super::arguments::Common;
use super::prompt::{Stop, with_runtime};
use super::{Failure, Result};
use crate::balance::api_call::Caller;
use crate::balance::balance_file::BalanceFile;
use crate::balance::page::Page;
use crate::cli::notify::notify;

pub(super) fn serve(file: BalanceFile, common: &Common) -> Result {
    // The page and its tasks can use the file until the process ends.
    let file: &'static BalanceFile = Box::leak(Box::new(file));
    let Some(keys) = &file.page else {
        let text = "balance.toml has no block [serve]; write for example [serve] and below it token = \
                    \"env:BALANCE_TOKEN\"";
        return Err(Failure::usage(text));
    };
    let caller = Caller { is_verbose: common.verbose };
    with_runtime(async {
        let stop = Stop::watch()?;
        let page = Page::new(file, keys, caller, stop.interrupt.clone()).map_err(Failure::usage)?;
        let (address, serving) = page.listen().map_err(|error| Failure::failed(error.to_string()))?;
        say!("edgeshim balance listens on {address}");
        notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
        let served = stop.or(serving).await;
        notify(&[NotifyState::Stopping]);
        // Waits until a change in progress is complete or is put back.
        page.finish().await;
        match served {
            Ok(Err(error)) => Err(Failure::failed(format!("the page cannot be served: {error}"))),
            Ok(Ok(())) | Err(_) => Ok(ExitCode::SUCCESS),
        }
    })
}
