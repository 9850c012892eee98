//! The file `cdn_TARGET.json` with the weights of a target, for other programs.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use crate::balance::share::Shares;
use crate::balance::tables::written_json;

/// Writes `cdn_TARGET.json`, completely or not at all. Returns the path.
pub(super) fn write(folder: &Path, target: &str, shares: &Shares) -> std::result::Result<String, String> {
    let path = folder.join(format!("cdn_{target}.json"));
    let unfinished = folder.join(format!("cdn_{target}.json.{:016x}.tmp", fastrand::u64(..)));
    let failed = |error| format!("{} cannot be written ({error}); name another folder with -o", path.display());
    let text = format!("{:#}\n", written_json(shares));
    // Other users may be able to write into the folder. A file or a link that already has the temporary name is not
    // opened.
    let mut file = File::create_new(&unfinished).map_err(failed)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| fs::rename(&unfinished, &path));
    written.map(|()| path.display().to_string()).map_err(|error| {
        let _ = fs::remove_file(&unfinished);
        failed(error)
    })
}
