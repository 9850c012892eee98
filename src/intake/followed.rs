//! A file that may be replaced at any time: read whole, within a bound, and looked at every second by a thread that ends with the
//! last user of what was made from it.
//!
//! What changes while it is read, or between two looks, is let alone until it has been still for one: a list that somebody is just
//! writing may look whole at the end of each line.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

/// How often a file is looked at.
const POLL: Duration = Duration::from_secs(1);

/// What tells one state of a file from another: when it last changed, to the nanosecond, its length, its inode. Not when it was last
/// written: copying tools set that back, and a file that somebody may read from now on has changed in nothing but its rights.
type Stamp = (i64, i64, u64, u64);

/// A file as it was read.
pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
    /// When it was written, as far as its file system tells.
    pub(super) written: SystemTime,
}

/// Why a file was not read.
pub(super) enum ReadError {
    /// It is not there, or not for this user, or no plain file.
    Io(io::Error),
    /// It is longer than was allowed.
    TooLarge,
}

/// A file and the state in which it was taken in last.
#[derive(Debug, Clone)]
pub(super) struct Followed {
    path: PathBuf,
    taken: Option<Stamp>,
    looked_at: Option<Stamp>,
}

impl Followed {
    /// Reads a file of at most so many bytes; what changes from now on is news.
    pub(super) fn open(path: &Path, most_bytes: u64) -> Result<(Self, Content), ReadError> {
        // Before it is read: what changes meanwhile is seen at the next look.
        let taken = stamp(path);
        Ok((Self { path: path.to_owned(), taken, looked_at: taken }, read(path, most_bytes)?))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file if it is another one than was taken in last and has been still since the last look. Each state is told once.
    pub(super) fn news(&mut self, most_bytes: u64) -> Option<Result<Content, ReadError>> {
        let now = stamp(&self.path);
        let before = std::mem::replace(&mut self.looked_at, now);
        if now == self.taken || now != before {
            return None;
        }
        let content = read(&self.path, most_bytes);
        if stamp(&self.path) != now {
            return None;
        }
        self.taken = now;
        Some(content)
    }
}

/// Calls `look` every second for as long as somebody else holds `user`.
pub(super) fn follow<T: Send + Sync + 'static>(
    thread_name: &str,
    user: &Arc<T>,
    mut look: impl FnMut(&T) + Send + 'static,
) -> io::Result<()> {
    let user = Arc::downgrade(user);
    thread::Builder::new().name(thread_name.to_owned()).spawn(move || {
        while let Some(user) = user.upgrade() {
            look(&user);
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
    // A pipe or a terminal would be waited for.
    if !fs::metadata(path).map_err(ReadError::Io)?.is_file() {
        return Err(ReadError::Io(io::Error::other("it is no plain file")));
    }
    let mut bytes = Vec::new();
    let written = File::open(path)
        .and_then(|file| {
            let written = file.metadata()?.modified()?;
            file.take(most_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
            Ok(written)
        })
        .map_err(ReadError::Io)?;
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

    /// A folder of its own, gone with the value.
    pub(in super::super) struct Folder(pub(in super::super) PathBuf);

    impl Folder {
        pub(in super::super) fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("edgeshim-followed-{}-{test}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        /// Puts a file in the place of another in one step, as list fetchers should.
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

    /// What two looks in a row say: the first sees the change, the second that it is over.
    fn news(followed: &mut Followed) -> Option<Result<Vec<u8>, &'static str>> {
        assert!(followed.news(8).is_none(), "not before it has been still");
        let told = followed.news(8)?;
        assert!(followed.news(8).is_none(), "once");
        Some(told.map(|content| content.bytes).map_err(|error| match error {
            ReadError::Io(_) => "io",
            ReadError::TooLarge => "too large",
        }))
    }

    #[test]
    fn file_when_it_changes_in_any_way_then_it_is_news_once() {
        let folder = Folder::new("changes");
        let path = folder.replace("list", "one");
        let (mut followed, content) = Followed::open(&path, 8).ok().unwrap();
        assert_eq!(content.bytes, b"one");
        assert_eq!(content.written, fs::metadata(&path).unwrap().modified().unwrap());
        assert_eq!(followed.path(), path);
        assert!(news(&mut followed).is_none(), "nothing has changed");

        folder.replace("list", "two");
        assert_eq!(news(&mut followed), Some(Ok(b"two".to_vec())));
        fs::write(&path, "").unwrap();
        assert_eq!(news(&mut followed), Some(Ok(Vec::new())), "truncated in its place");
        folder.replace("list", "12345678");
        assert_eq!(news(&mut followed), Some(Ok(b"12345678".to_vec())), "as long as is allowed");
        folder.replace("list", "123456789");
        assert_eq!(news(&mut followed), Some(Err("too large")));
        fs::remove_file(&path).unwrap();
        assert_eq!(news(&mut followed), Some(Err("io")), "vanished");
        fs::create_dir(&path).unwrap();
        assert_eq!(news(&mut followed), Some(Err("io")), "a folder");
        fs::remove_dir(&path).unwrap();
        assert_eq!(news(&mut followed), Some(Err("io")));
        folder.replace("list", "three");
        assert_eq!(news(&mut followed), Some(Ok(b"three".to_vec())));
        assert!(Followed::open(&folder.0.join("missing"), 8).is_err());
        assert!(Followed::open(&folder.0, 8).is_err());
    }

    #[test]
    fn file_when_it_is_being_written_then_it_is_let_alone_until_it_is_still() {
        let folder = Folder::new("written");
        let path = folder.replace("list", "one");
        let (mut followed, _) = Followed::open(&path, 8).ok().unwrap();
        for part in ["t", "tw", "two", "two2"] {
            // Another length, so that the stamp is another one whatever the file system's clock.
            fs::write(&path, part).unwrap();
            assert!(followed.news(8).is_none(), "{part}");
        }
        assert_eq!(followed.news(8).and_then(Result::ok).unwrap().bytes, b"two2");
    }

    #[test]
    fn thread_when_the_last_user_is_gone_then_it_ends() {
        let patience = Duration::from_secs(30);
        let (looked, looks) = channel();
        let user = Arc::new(7);
        follow("test", &user, move |&value| {
            let _ = looked.send(value);
        })
        .unwrap();
        for _ in 0..2 {
            assert_eq!(looks.recv_timeout(patience), Ok(7), "while there is a user");
        }
        drop(user);
        let end = std::iter::repeat_with(|| looks.recv_timeout(patience)).find_map(Result::err);
        assert_eq!(end, Some(RecvTimeoutError::Disconnected));
    }
}
