//! Reads the samples that `balance.toml` names, and warns about the cost of a plan.

use std::path::Path;

use super::balance_file::BalanceFile;
use super::cost::crossing::crossings;
use super::cost::month::Month;
use super::cost::samples::Samples;
use super::plan::Plan;
use crate::clock;

/// The largest file of samples that is read before a change, because a change must not wait.
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

/// Returns a warning for each CDN whose forecast for this month crosses its commit or the end of a tier because of the
/// plan. If the cost is unknown, a warning says why. Returns nothing if `balance.toml` has no prices or no
/// samples. Targets whose nodes have different shares are left out.
pub(crate) fn warnings(file: &BalanceFile, plan: &Plan) -> Vec<String> {
    let Some(path) = file.samples.as_deref().filter(|_| !file.prices.is_empty()) else { return Vec::new() };
    let unchecked = |reason: String| vec![format!("the cost of this change is unknown: {reason}")];
    if let Ok(length) = path.metadata().map(|metadata| metadata.len())
        && length > MAX_FILE_BYTES
    {
        let (path, most) = (path.display(), MAX_FILE_BYTES >> 20);
        return unchecked(format!("{path} has more than {most} MiB, so it is not read before a change"));
    }
    let samples = match read_samples(file, path, Month::of_unix(clock::unix_time().as_secs())) {
        Ok(samples) => samples,
        Err(messages) => return unchecked(messages.into_iter().next().unwrap_or_default()),
    };
    let mut texts = Vec::new();
    for target in &plan.targets {
        let Some(before) = &target.before else { continue };
        texts.extend(crossings(&file.prices, &samples, &before.served(), &target.after.served()));
    }
    // Targets with the same change have the same warnings.
    texts.sort();
    texts.dedup();
    texts
}
