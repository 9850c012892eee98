//! A file that can be replaced at any time. The whole file is read, up to a size limit. A thread checks every second
//! whether the file has changed. The thread ends when the value that was made from the content of the file is dropped.
//!
//! When the thread finds a change, it does not read the file at once. It reads the file after a second without another
//! change. If the file changes during the read, the result is discarded. The reason: while a tool is writing a file,
//! for example an address list, the part that has been written can look complete at the end of each line.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use crate::regular_file;

/// The time between two checks of a file.
const POLL: Duration = Duration::from_secs(1);

/// One state of a file: the time of its last change (ctime) in seconds and nanoseconds, its length, and its inode. The
/// time of the last write (mtime) is not enough: copy tools can set mtime to an old time, and mtime does not change
/// when new permissions make the file readable.
type Stamp = (i64, i64, u64, u64);

/// The content of a file at the time of a read.
pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
    /// The time at which the file was last written, as its file system reports it.
    pub(super) written: SystemTime,
}

/// The reason why a file was not read.
pub(super) enum ReadError {
    /// The file is missing, this process is not allowed to read it, or it is not a regular file.
    Io(io::Error),
    /// The file is longer than the limit.
    TooLarge,
}

/// A file, and its states at the last read and at the last check.
#[derive(Debug, Clone)]
pub(super) struct Followed {
    path: PathBuf,
    read: Option<Stamp>,
    checked: Option<Stamp>,
}

impl Followed {
    /// Reads a file of at most `most_bytes` bytes. Later calls of [`changed`](Self::changed) find changes of the file.
    pub(super) fn open(path: &Path, most_bytes: u64) -> Result<(Self, Content), ReadError> {
        // The state is determined before the read, so that the next check finds a change that happens during the read.
        let stamp = stamp(path);
        Ok((Self { path: path.to_owned(), read: stamp, checked: stamp }, read(path, most_bytes)?))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file if its state differs from the state at the last read, but equals the state at the last check. So
    /// each change is returned only once.
    pub(super) fn changed(&mut self, most_bytes: u64) -> Option<Result<Content, ReadError>> {
        let now = stamp(&self.path);
        let before = std::mem::replace(&mut self.checked, now);
        if now == self.read || now != before {
            return None;
        }
        let content = read(&self.path, most_bytes);
        if stamp(&self.path) != now {
            return None;
        }
        self.read = now;
        Some(content)
    }
}

/// Starts a thread that calls `check` every second. `user` is the value that uses the file. The thread ends after the
/// last reference to `user` is dropped.
pub(super) fn follow<T: Send + Sync + 'static>(
    thread_name: &str,
    user: &Arc<T>,
    mut check: impl FnMut(&T) + Send + 'static,
) -> io::Result<()> {
    let user = Arc::downgrade(user);
    thread::Builder::new().name(thread_name.to_owned()).spawn(move || {
        while let Some(user) = user.upgrade() {
            check(&user);
            drop(user);
            thread::sleep(POLL);
        }
    })?;
    Ok(())
}

fn stamp(path: &Path) -> Option<Stamp> {
    fs::metadata(path).ok().map(|file| (file.ctime(), file.ctime_nsec(), file.len(), file.ino()))
}

fn read(path: &Path, most_bytes: u64) -> Result<Content, ReadError> {
    let read = || {
        let file = regular_file::open(path)?;
        let written = file.metadata()?.modified()?;
        Ok((regular_file::read_opened(&file, most_bytes)?, written))
    };
    let (mut bytes, written) = read().map_err(ReadError::Io)?;
    if bytes.len() as u64 > most_bytes {
        return Err(ReadError::TooLarge);
    }
    bytes.shrink_to_fit();
    Ok(Content { bytes, written })
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::mpsc::{RecvTimeoutError, channel};

    use super::*;

    /// A new folder, which is removed when this value is dropped.
    pub(in super::super) struct Folder(pub(in super::super) PathBuf);

    impl Folder {
        pub(in super::super) fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("edgeshim-followed-{}-{test}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        /// Replaces a file in one step, as a tool that downloads lists should replace its files.
        pub(in super::super) fn replace(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
            let (new, path) = (self.0.join("new"), self.0.join(name));
            fs::write(&new, content).unwrap();
            fs::rename(&new, &path).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Returns the result of the second of two checks. The first check notices the change, and the second check finds
    /// that the file no longer changes.
    fn changed(followed: &mut Followed) -> Option<Result<Vec<u8>, &'static str>> {
        assert!(followed.changed(8).is_none(), "the check that finds the change must not read the file");
        let changed = followed.changed(8)?;
        assert!(followed.changed(8).is_none(), "the same change must not be returned twice");
        Some(changed.map(|content| content.bytes).map_err(|error| match error {
            ReadError::Io(_) => "io",
            ReadError::TooLarge => "too large",
        }))
    }

    #[test]
    fn file_when_changed_then_is_read_once() {
        let folder = Folder::new("changes");
        let path = folder.replace("list", "one");
        let (mut followed, content) = Followed::open(&path, 8).ok().unwrap();
        assert_eq!(content.bytes, b"one");
        assert_eq!(content.written, fs::metadata(&path).unwrap().modified().unwrap());
        assert_eq!(followed.path(), path);
        assert!(changed(&mut followed).is_none(), "an unchanged file must not be read again");

        folder.replace("list", "two");
        assert_eq!(changed(&mut followed), Some(Ok(b"two".to_vec())));
        fs::write(&path, "").unwrap();
        assert_eq!(changed(&mut followed), Some(Ok(Vec::new())), "the file was truncated in place");
        folder.replace("list", "12345678");
        assert_eq!(changed(&mut followed), Some(Ok(b"12345678".to_vec())), "the file has the maximum length");
        folder.replace("list", "123456789");
        assert_eq!(changed(&mut followed), Some(Err("too large")));
        fs::remove_file(&path).unwrap();
        assert_eq!(changed(&mut followed), Some(Err("io")), "the file was removed");
        fs::create_dir(&path).unwrap();
        assert_eq!(changed(&mut followed), Some(Err("io")), "the path is a folder");
        fs::remove_dir(&path).unwrap();
        assert_eq!(changed(&mut followed), Some(Err("io")));
        folder.replace("list", "three");
        assert_eq!(changed(&mut followed), Some(Ok(b"three".to_vec())));
        assert!(Followed::open(&folder.0.join("missing"), 8).is_err());
        assert!(Followed::open(&folder.0, 8).is_err());
    }

    #[test]
    fn file_when_written_in_steps_then_is_read_only_after_the_last_change() {
        let folder = Folder::new("written");
        let path = folder.replace("list", "one");
        let (mut followed, _) = Followed::open(&path, 8).ok().unwrap();
        for part in ["t", "tw", "two", "two2"] {
            // Each write changes the length, so that the state differs even if the clock of the file system is coarse.
            fs::write(&path, part).unwrap();
            assert!(followed.changed(8).is_none(), "{part}");
        }
        assert_eq!(followed.changed(8).and_then(Result::ok).unwrap().bytes, b"two2");
    }

    #[test]
    fn thread_when_the_last_reference_is_dropped_then_ends() {
        let patience = Duration::from_secs(30);
        let (checked, checks) = channel();
        let user = Arc::new(7);
        follow("test", &user, move |&value| {
            let _ = checked.send(value);
        })
        .unwrap();
        for _ in 0..2 {
            assert_eq!(checks.recv_timeout(patience), Ok(7), "the thread must run while there is a reference");
        }
        drop(user);
        let end = std::iter::repeat_with(|| checks.recv_timeout(patience)).find_map(Result::err);
        assert_eq!(end, Some(RecvTimeoutError::Disconnected));
    }
}
