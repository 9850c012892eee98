//! A lock, so that only one watch runs for each journal. Two watches whose probes have different results would undo
//! each other's changes again and again.

use std::fs::File;
use std::path::PathBuf;

use crate::balance::balance_file::BalanceFile;
use crate::balance::journal::{Locked, lock};

/// Locks the watch until the returned value is dropped.
///
/// # Errors
/// Returns a message if another watch with the same journal runs, or if the lock file cannot be written.
pub(crate) fn lock_watch(file: &BalanceFile) -> Result<File, String> {
    let mut path = file.journal.as_os_str().to_owned();
    path.push(".watch.lock");
    let path = PathBuf::from(path);
    lock(&path, super::watched_target::WHO).map_err(|error| match error {
        Locked::By(holder) => format!(
            "another watch with this journal runs already ({holder}); stop the other watch first, or start one watch \
             for all targets"
        ),
        Locked::Failed(error) => format!(
            "{} cannot be written ({error}); in balance.toml (journal), name a file whose folder this user may write",
            path.display()
        ),
    })
}
