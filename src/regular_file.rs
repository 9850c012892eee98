//! Opens the files whose paths a person wrote: the configuration, secrets, pages, certificates, lists, logs.
//!
//! Only regular files are read. Opening or reading a FIFO waits for another process, possibly for ever, and a device
//! such as `/dev/zero` has no end. A log that edgeshim writes can also be another kind of file, for example a FIFO from
//! which another process reads. Symbolic links are followed, because Kubernetes shows a `ConfigMap` through links.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

/// With these flags, opening a FIFO does not wait, and an opened terminal does not become the terminal of this process.
/// For a regular file, the flags change nothing.
const FLAGS: i32 = OFlags::NONBLOCK.union(OFlags::NOCTTY).bits().cast_signed();

/// Opens a regular file for reading.
///
/// # Errors
/// The file cannot be opened, or it is not a regular file.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(FLAGS).open(path)?;
    // The check uses the opened file. Before the open, the path could lead to another file.
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        return Ok(file);
    }
    let what = if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        "a special file"
    };
    Err(io::Error::other(format!("it is not a regular file, but {what}")))
}

/// Opens a file for appending, and creates the file if it is missing. A FIFO without a reader is an error.
pub(crate) fn open_to_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).custom_flags(FLAGS).open(path)
}

/// Reads a regular file. Returns at most `most_bytes` + 1 bytes, so that the caller detects a longer file.
///
/// # Errors
/// The file cannot be read, or it is not a regular file.
pub(crate) fn read(path: &Path, most_bytes: u64) -> io::Result<Vec<u8>> {
    read_opened(&open(path)?, most_bytes)
}

/// Reads a file as [`read`] does, after [`open`] has opened the file.
pub(crate) fn read_opened(file: &File, most_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn file_when_it_is_no_regular_file_then_rejected_at_once() {
        let folder = std::env::temp_dir().join(format!("edgeshim-regular-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let (fifo, file, link) = (folder.join("fifo"), folder.join("file"), folder.join("link"));
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        fs::write(&file, "12345").unwrap();
        symlink("file", &link).unwrap();
        let message = |path: &Path| read(path, 9).unwrap_err().to_string();
        assert_eq!(message(&fifo), "it is not a regular file, but a pipe");
        assert_eq!(message(&folder), "it is not a regular file, but a folder");
        assert_eq!(message(Path::new("/dev/zero")), "it is not a regular file, but a device");
        assert_eq!(read(&folder.join("missing"), 9).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(open_to_append(&fifo).is_err(), "no process reads the FIFO");
        assert_eq!(read(&link, 9).unwrap(), b"12345", "a symbolic link must be followed");
        assert_eq!(read(&file, 3).unwrap(), b"1234", "one byte more than the limit must be returned");
        fs::remove_dir_all(&folder).unwrap();
    }
}
