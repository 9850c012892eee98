//! The file `cdn_TARGET.json` with the weights of a target, for other programs.

use std::fs;
use std::path::Path;

use crate::balance::share::Shares;
use crate::balance::tables::written_json;

/// Writes `cdn_TARGET.json`, completely or not at all. Returns the path.
pub(super) fn write(folder: &Path, target: &str, shares: &Shares) -> std::result::Result<String, String> {
    let path = folder.join(format!("cdn_{target}.json"));
    let unfinished = folder.join(format!("cdn_{target}.json.{}.tmp", std::process::id()));
    let text = format!("{:#}\n", written_json(shares));
    match fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, &path)) {
        Ok(()) => Ok(path.display().to_string()),
        Err(error) => {
            let _ = fs::remove_file(&unfinished);
            Err(format!("{} cannot be written ({error}); name another folder with -o", path.display()))
        }
    }
}
