//! Writes the archive: a tar file in gzip. The same content and time make the same bytes, whoever makes the archive.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};

/// The folder in the archive.
pub(super) const FOLDER: &str = "edgeshim-bundle";
/// Only the user can read the archive, because it describes the inside of a system.
const MODE: u32 = 0o600;

/// A file of the archive.
pub(super) struct Item {
    pub(super) name: String,
    /// What the file contains, for people.
    pub(super) what: &'static str,
    pub(super) content: Vec<u8>,
}

/// Writes the archive. `unix_seconds` is the time of all files.
fn pack<W: Write>(items: &[Item], unix_seconds: u64, out: W) -> io::Result<W> {
    // The gzip header contains neither a time nor a file name.
    let gzip = GzBuilder::new().mtime(0).write(out, Compression::new(6));
    let mut archive = tar::Builder::new(gzip);
    for item in items {
        let mut header = tar::Header::new_ustar();
        header.set_size(item.content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(unix_seconds);
        archive.append_data(&mut header, format!("{FOLDER}/{}", item.name), &*item.content)?;
    }
    archive.into_inner()?.finish()
}

/// Writes the archive to a file. The file appears under its name only when it is complete. Without `replace`, an
/// existing file stays and the result is an error. Returns the size of the file.
pub(super) fn write(items: &[Item], unix_seconds: u64, path: &Path, replace: bool) -> io::Result<u64> {
    let temporary = temporary(path);
    let file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&temporary)?;
    let written = pack(items, unix_seconds, file).and_then(|file| finish(&file, &temporary, path, replace));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn finish(file: &File, temporary: &Path, path: &Path, replace: bool) -> io::Result<u64> {
    file.sync_all()?;
    if replace {
        fs::rename(temporary, path)?;
    } else {
        // Unlike a rename, a link fails if another process has made the file in the meantime.
        fs::hard_link(temporary, path)?;
        fs::remove_file(temporary)?;
    }
    Ok(file.metadata()?.len())
}

fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    fn item(name: &str, content: &[u8]) -> Item {
        Item { name: name.to_owned(), what: "", content: content.to_vec() }
    }

    #[test]
    fn archive_when_packed_twice_then_bytes_are_equal_and_files_are_complete() {
        let items = [item("index.html", b"<p>"), item("log.ndjson", &vec![b'x'; 100_000])];
        let packed = pack(&items, 1_795_345_741, Vec::new()).unwrap();
        assert_eq!(packed, pack(&items, 1_795_345_741, Vec::new()).unwrap());
        let mut archive = tar::Archive::new(GzDecoder::new(&packed[..]));
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            assert_eq!((entry.header().mtime().unwrap(), entry.header().uid().unwrap()), (1_795_345_741, 0));
            found.push((entry.path().unwrap().display().to_string(), content.len()));
        }
        let expected = [("edgeshim-bundle/index.html", 3), ("edgeshim-bundle/log.ndjson", 100_000)];
        assert_eq!(found, expected.map(|(name, length)| (name.to_owned(), length)));
    }

    #[test]
    fn file_when_it_exists_then_is_replaced_only_on_request_and_no_temporary_file_stays() {
        let folder = std::env::temp_dir().join(format!("edgeshim-archive-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("a.tar.gz");
        let items = [item("a", b"a")];
        let size = write(&items, 0, &path, false).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), size);
        fs::write(&path, "old").unwrap();
        assert_eq!(write(&items, 0, &path, false).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write(&items, 0, &path, true).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), size);
        assert!(write(&items, 0, &folder.join("no/such/folder"), false).is_err());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }
}
