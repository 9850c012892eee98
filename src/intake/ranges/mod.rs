//! Address lists of CDNs, read from files that can be replaced at any time.
//!
//! A thread checks the files every second. If the new content of a file has an error, no part of the new content is
//! used. The previous content of the file stays in use, and the log gets one message. A lookup takes no lock. During a
//! change, a lookup sees either the old addresses or the new addresses.

mod entries;
mod list;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;

use self::entries::{ListError, MOST_BYTES};
pub use self::list::parse;
use super::followed::{Content, Followed, follow};
use crate::cdn::addresses::{AddressList, AddressSet};
use crate::metrics::{Metrics, describe};

/// The reason why a file cannot be used as an address list. The message is written after the name of the file.
#[derive(Debug)]
pub struct RangesError {
    pub path: PathBuf,
    pub error: ListError,
}

impl fmt::Display for RangesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for RangesError {}

/// The addresses of one provider: the networks in the configuration, together with the networks in its files.
#[derive(Debug)]
pub(crate) struct Ranges {
    list: Arc<AddressList>,
    sources: Sources,
}

#[derive(Debug)]
struct Sources {
    networks: Vec<IpNet>,
    files: Vec<ListFile>,
}

#[derive(Debug)]
struct ListFile {
    followed: Followed,
    usable: Usable,
}

/// The last content of a file that was usable as a list.
#[derive(Debug)]
struct Usable {
    networks: Vec<IpNet>,
    written: SystemTime,
}

impl Ranges {
    /// Reads the files of a provider. The files are treated as untrusted input.
    pub(crate) fn open(paths: &[PathBuf], networks: &[IpNet]) -> Result<Self, RangesError> {
        let open = |path: &PathBuf| ListFile::open(path).map_err(|error| RangesError { path: path.clone(), error });
        let sources = Sources { networks: networks.to_vec(), files: paths.iter().map(open).collect::<Result<_, _>>()? };
        Ok(Self { list: Arc::new(AddressList::new(sources.set(), sources.as_of())), sources })
    }

    /// Returns the list as it was read. The list does not change when the files change.
    pub(crate) fn list(self) -> Arc<AddressList> {
        self.list
    }

    /// Starts a thread that reads each file again when the file changes. After the last reference to the list is
    /// dropped, the thread ends within about a second. If there are no files, no thread is started.
    pub(crate) fn follow(self, provider: &'static str, metrics: &Metrics) -> io::Result<Arc<AddressList>> {
        let Self { list, mut sources } = self;
        if !sources.files.is_empty() {
            let failed = metrics.reloads_failed.clone();
            let age = metrics.held(&describe::RANGES_AGE, provider, age_seconds(&list));
            follow("ranges", &list, move |list| {
                for error in sources.check(list) {
                    failed.increment(1);
                    let path = error.path.display();
                    tracing::warn!(
                        "provider.verify.addresses of {provider}: {path} {error}; the previous list stays in use"
                    );
                }
                age.set(age_seconds(list));
            })?;
        }
        Ok(list)
    }
}

impl Sources {
    /// Reads the files that have changed. Returns an error for each file that cannot be used.
    fn check(&mut self, list: &AddressList) -> Vec<RangesError> {
        let (mut errors, mut changed) = (Vec::new(), false);
        for file in &mut self.files {
            let Some(read) = file.followed.changed(MOST_BYTES) else { continue };
            match read.map_err(ListError::from).and_then(|content| Usable::new(&content)) {
                Ok(usable) => {
                    file.usable = usable;
                    changed = true;
                }
                Err(error) => errors.push(RangesError { path: file.followed.path().to_owned(), error }),
            }
        }
        if changed {
            list.replace(self.set(), self.as_of());
        }
        errors
    }

    fn set(&self) -> AddressSet {
        let read = self.files.iter().flat_map(|file| &file.usable.networks);
        AddressSet::new(self.networks.iter().chain(read).copied())
    }

    /// Returns the time at which the oldest of the files was written. Without files the result is `None`.
    fn as_of(&self) -> Option<SystemTime> {
        self.files.iter().map(|file| file.usable.written).min()
    }
}

impl ListFile {
    fn open(path: &Path) -> Result<Self, ListError> {
        let (followed, content) = Followed::open(path, MOST_BYTES)?;
        Ok(Self { followed, usable: Usable::new(&content)? })
    }
}

impl Usable {
    fn new(content: &Content) -> Result<Self, ListError> {
        Ok(Self { networks: parse(&content.bytes)?, written: content.written })
    }
}

/// Returns the age of the list. If the list was written at a time in the future, its age is 0.
fn age_seconds(list: &AddressList) -> f64 {
    list.as_of().and_then(|as_of| SystemTime::now().duration_since(as_of).ok()).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::IpAddr;

    use super::*;
    use crate::intake::followed::tests::Folder;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn messages(errors: &[RangesError]) -> Vec<String> {
        errors.iter().map(|error| format!("{} {error}", error.path.file_name().unwrap().display())).collect()
    }

    #[test]
    fn list_when_a_file_changes_then_has_the_last_valid_content_of_each_file() {
        let folder = Folder::new("ranges");
        let (one, two) = (folder.replace("one", "192.0.2.0/24"), folder.replace("two", "[\"198.51.100.0/24\"]"));
        let paths = [one.clone(), two];
        let Ranges { list, mut sources } = Ranges::open(&paths, &["203.0.113.0/24".parse().unwrap()]).unwrap();
        let all = ["192.0.2.1", "198.51.100.1", "203.0.113.1"];
        assert!(all.iter().all(|address| list.contains(ip(address))));

        // The first check notices the change, and the second check finds that the file no longer changes.
        let mut two_checks = |list: &AddressList| {
            assert_eq!(messages(&sources.check(list)), [""; 0]);
            let errors = messages(&sources.check(list));
            assert_eq!(messages(&sources.check(list)), [""; 0], "the same error must not be reported twice");
            errors
        };
        assert_eq!(two_checks(&list), [""; 0]);

        folder.replace("one", "192.0.2.128/25");
        assert_eq!(two_checks(&list), [""; 0]);
        assert!(!list.contains(ip("192.0.2.1")) && list.contains(ip("192.0.2.129")));
        assert!(list.contains(ip("198.51.100.1")) && list.contains(ip("203.0.113.1")));

        let breaks: [(&dyn Fn(), &str); 5] = [
            (&|| drop(folder.replace("one", "192.0.2.0/24\nhtml")), "one has no network in line 2"),
            (&|| fs::write(&one, "").unwrap(), "one has no networks"),
            (&|| fs::remove_file(&one).unwrap(), "one cannot be read"),
            (&|| fs::create_dir(&one).unwrap(), "one cannot be read (it is not a regular file, but a folder)"),
            (&|| fs::remove_dir(&one).unwrap(), "one cannot be read"),
        ];
        let as_of = list.as_of();
        for (breaking, message) in breaks {
            breaking();
            let errors = two_checks(&list);
            assert!(errors.len() == 1 && errors[0].starts_with(message), "{message}: {errors:?}");
            assert!(list.contains(ip("192.0.2.129")) && !list.contains(ip("192.0.2.1")), "{message}");
            assert_eq!(list.as_of(), as_of, "{message}");
        }
        // While the file `one` is unusable, changes of the file `two` are still used, together with the last usable
        // content of the file `one`.
        folder.replace("two", "{\"addresses\":[\"198.51.100.77\"]}");
        assert_eq!(two_checks(&list), [""; 0]);
        assert!(list.contains(ip("192.0.2.129")) && list.contains(ip("198.51.100.77")));
        assert!(!list.contains(ip("198.51.100.1")));

        folder.replace("one", "192.0.2.0/30");
        assert_eq!(two_checks(&list), [""; 0]);
        assert!(list.contains(ip("192.0.2.1")) && !list.contains(ip("192.0.2.129")));
    }

    #[test]
    fn list_when_opened_with_an_unusable_file_then_error_names_the_file() {
        let folder = Folder::new("opened");
        let good = folder.replace("good", "192.0.2.0/24");
        let bad = folder.replace("bad", "192.0.2.0/24\n::/0");
        let error = Ranges::open(&[good.clone(), bad.clone()], &[]).unwrap_err();
        assert_eq!(error.path, bad);
        assert!(error.to_string().starts_with("has a network in line 2 that contains all addresses"), "{error}");
        let missing = Ranges::open(&[folder.0.join("missing"), good], &[]).unwrap_err();
        assert!(missing.to_string().starts_with("cannot be read ("), "{missing}");
        let large = folder.0.join("large");
        fs::File::create(&large).and_then(|file| file.set_len(MOST_BYTES + 1)).unwrap();
        let error = Ranges::open(&[large], &[]).unwrap_err();
        assert!(error.to_string().starts_with("is longer than 64 MiB"), "{error}");
    }

    #[test]
    fn ranges_age_when_list_has_several_files_then_equals_age_of_oldest_file() {
        let folder = Folder::new("age");
        let paths = [folder.replace("old", "192.0.2.0/24"), folder.replace("young", "198.51.100.0/24")];
        let hour = std::time::Duration::from_hours(1);
        let old = SystemTime::now() - hour;
        fs::File::options().write(true).open(&paths[0]).and_then(|file| file.set_modified(old)).unwrap();
        let metrics = Metrics::new().unwrap();
        let list = Ranges::open(&paths, &[]).unwrap().follow("fastly", &metrics).unwrap();
        assert_eq!(list.as_of(), fs::metadata(&paths[0]).unwrap().modified().ok());
        let fixed = Ranges::open(&[], &["192.0.2.0/24".parse().unwrap()]).unwrap().follow("akamai", &metrics).unwrap();
        assert!(fixed.contains(ip("192.0.2.1")) && fixed.as_of().is_none());
        assert_eq!(Arc::weak_count(&fixed), 0, "a thread must not be started for a list without files");

        let text = metrics.render();
        let (_, age) = text.split_once("edgeshim_ranges_age_seconds{provider=\"fastly\"} ").unwrap();
        let age: f64 = age.lines().next().unwrap().parse().unwrap();
        assert!((3600.0..7200.0).contains(&age), "{age}");
        assert!(!text.contains("provider=\"akamai\""));
    }
}
