//! Reads the samples that `balance.toml` names, and warns about the cost of a plan.

use std::path::Path;

use super::balance_file::BalanceFile;
use super::cost::crossing::crossings;
use super::cost::month::Month;
use super::cost::samples::Samples;
use super::plan::Plan;
use crate::clock;

/// The largest file of samples that is read before a change or for the page, in bytes. A larger file would take too
/// long.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Reads the samples of a month. The samples of a CDN must have the members that its price needs.
///
/// # Errors
/// Returns messages if the file or its lines are wrong.
pub(crate) fn read_samples(file: &BalanceFile, path: &Path, month: Month) -> Result<Samples, Vec<String>> {
    let needed = |provider: &str| {
        let tariff = file.prices.iter().find(|tariff| tariff.provider == provider);
        tariff.map(super::cost::tariff::Tariff::needed).unwrap_or_default()
    };
    Samples::read(path, month, &needed)
}

/// Reads the samples of a month, unless the file has more than `MAX_FILE_BYTES`.
///
/// # Errors
/// Returns messages if the file is too large, or if the file or its lines are wrong.
pub(crate) fn read_small_samples(file: &BalanceFile, path: &Path, month: Month) -> Result<Samples, Vec<String>> {
    if path.metadata().is_ok_and(|metadata| metadata.len() > MAX_FILE_BYTES) {
        let (path, most) = (path.display(), MAX_FILE_BYTES >> 20);
        let text = format!("{path} has more than {most} MiB, so only edgeshim balance cost reads it");
        return Err(vec![text]);
    }
    read_samples(file, path, month)
}

/// Returns a warning with the first of the messages about samples that cannot be read.
pub(crate) fn unchecked(messages: Vec<String>) -> Vec<String> {
    messages.into_iter().take(1).map(|message| format!("the cost of this change is unknown: {message}")).collect()
}

/// Returns a warning for each CDN whose forecast for the present month crosses its commit or the end of a tier because
/// of the plan. If the cost is unknown, a warning says why. Returns nothing if `balance.toml` has no prices or no
/// samples.
pub(crate) fn warnings(file: &BalanceFile, plan: &Plan) -> Vec<String> {
    let Some(path) = file.samples.as_deref().filter(|_| !file.prices.is_empty()) else { return Vec::new() };
    match read_small_samples(file, path, Month::of_unix(clock::unix_time().as_secs())) {
        Ok(samples) => warnings_with(file, &samples, plan),
        Err(messages) => unchecked(messages),
    }
}

/// Returns the warnings for these samples. A target is left out if its nodes have different shares, or if a node has no
/// shares.
pub(crate) fn warnings_with(file: &BalanceFile, samples: &Samples, plan: &Plan) -> Vec<String> {
    let mut texts = Vec::new();
    for target in &plan.targets {
        let Some(before) = &target.before else { continue };
        texts.extend(crossings(&file.prices, samples, &before.served(), &target.after.served()));
    }
    // Targets with the same change have the same warnings.
    texts.sort();
    texts.dedup();
    texts
}
