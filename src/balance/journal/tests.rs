//! Tests of the journal. They use real files.

use std::fs;

use super::*;
use crate::balance::share::{Mode, Share};
use crate::balance::undo::undo;

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path =
            std::env::temp_dir().join(format!("edgeshim-journal-{}-{:x}", std::process::id(), fastrand::u64(..)));
        fs::create_dir(&path).expect("a new folder");
        Self(path)
    }

    fn journal(&self) -> PathBuf {
        self.0.join("balance.jsonl")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn shares(weight: u32) -> Shares {
    Shares(BTreeMap::from([("a".to_owned(), Share::new(Mode::Obey, weight))]))
}

fn entry(id: &str, from: Option<u32>, to: u32, result: &str) -> Entry {
    Entry {
        time: now(),
        id: id.to_owned(),
        who: "alice \"al\"\n".to_owned(),
        action: "weight 5".to_owned(),
        provider: Some("a".to_owned()),
        from: BTreeMap::from([("images".to_owned(), from.map(shares))]),
        to: BTreeMap::from([("images".to_owned(), shares(to))]),
        why: Some("a test".to_owned()),
        force: None,
        result: result.to_owned(),
    }
}

fn before(journal: &Journal, changes: usize) -> Result<BTreeMap<String, Shares>, String> {
    undo(journal, changes, None, false).map(|undo| undo.to)
}

fn append(path: &Path, entry: &Entry) {
    Writer::open(path, "alice").expect("the journal is free").append(entry).expect("the journal can be written");
}

#[test]
fn entries_when_appended_then_each_has_one_line_and_is_read_back() {
    let folder = Folder::new();
    let entries =
        [entry("1", None, 5, "done"), entry("2", Some(5), 6, "put back: x"), entry("3", Some(5), 7, "done, y")];
    for entry in &entries {
        append(&folder.journal(), entry);
    }
    let text = fs::read_to_string(folder.journal()).expect("the journal");
    assert_eq!(text.lines().count(), 3, "{text}");
    let keys: Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
    for key in ["time", "id", "who", "action", "targets", "provider", "from", "to", "why", "force", "result"] {
        assert!(keys.get(key).is_some(), "{key} is missing: {keys}");
    }
    let journal = Journal::read(&folder.journal()).expect("the journal can be read");
    assert_eq!(journal.entries, entries);
    assert_eq!(journal.last["images"], shares(7), "a change that was put back does not count");
    assert_eq!(journal.bad_lines, 0);
}

#[test]
fn journal_when_missing_then_is_empty() {
    let journal = Journal::read(&Folder::new().journal()).expect("an empty journal");
    assert!(journal.entries.is_empty() && before(&journal, 1).is_err());
}

#[test]
fn last_line_when_cut_then_is_skipped_and_next_change_begins_a_new_line() {
    let folder = Folder::new();
    append(&folder.journal(), &entry("1", None, 5, "done"));
    append(&folder.journal(), &entry("2", Some(5), 6, "done"));
    let bytes = fs::read(folder.journal()).expect("the journal");
    fs::write(folder.journal(), &bytes[..bytes.len() - 20]).expect("the cut journal");
    let journal = Journal::read(&folder.journal()).expect("the journal can be read");
    assert_eq!((journal.entries.len(), journal.bad_lines, journal.first_bad_line), (1, 1, Some(2)));
    append(&folder.journal(), &entry("3", Some(5), 7, "done"));
    let journal = Journal::read(&folder.journal()).expect("the journal can be read");
    assert_eq!((journal.entries.len(), journal.bad_lines, journal.first_bad_line), (2, 1, Some(2)));
    assert_eq!(journal.last["images"], shares(7));
}

#[test]
fn journal_when_lines_are_invalid_then_has_no_changes() {
    let folder = Folder::new();
    for text in [&b"\xff\xfe\n"[..], b"{}\n[]\n7\n", b"\n\n", br#"{"time":1}"#] {
        fs::write(folder.journal(), text).expect("a file");
        let journal = Journal::read(&folder.journal()).expect("the journal can be read");
        assert!(journal.entries.is_empty());
    }
    assert!(Journal::read(&folder.0).is_err(), "a folder is no journal");
}

#[test]
fn rollback_when_changes_are_counted_then_failed_changes_do_not_count() {
    let mut journal = Journal::default();
    for entry in [
        entry("1", Some(1), 2, "done"),
        entry("2", Some(2), 9, "put back: x"),
        entry("3", Some(2), 3, "done"),
        entry("4", Some(3), 9, "split: x"),
    ] {
        journal.add(entry);
    }
    assert_eq!(before(&journal, 1).map(|to| to["images"].clone()), Ok(shares(2)));
    assert_eq!(before(&journal, 2).map(|to| to["images"].clone()), Ok(shares(1)));
    assert!(before(&journal, 3).is_err_and(|error| error.contains("2 changes")));
    assert!(!journal.last.contains_key("images"), "after a split, the state of the nodes is not known");
    journal.add(entry("5", None, 4, "done"));
    assert!(before(&journal, 1).is_err_and(|error| error.contains("nothing to go back to")));
}

#[test]
fn second_writer_when_first_is_open_then_is_refused_and_message_names_first_user() {
    let folder = Folder::new();
    let first = Writer::open(&folder.journal(), "alice").expect("the journal is free");
    let error = Writer::open(&folder.journal(), "bob").expect_err("the journal is locked").texts.concat();
    assert!(error.contains("in progress") && error.contains("alice"), "{error}");
    drop(first);
    assert!(Writer::open(&folder.journal(), "bob").is_ok());
}

#[test]
fn journal_when_not_writable_then_message_says_that_no_change_is_made() {
    let folder = Folder::new();
    fs::create_dir(folder.journal()).expect("a folder in place of the journal");
    let error = Writer::open(&folder.journal(), "alice").expect_err("a folder").texts.concat();
    assert!(error.contains("no change is made"), "{error}");
    let error = Writer::open(&folder.0.join("no/such/folder"), "alice").expect_err("no folder").texts.concat();
    assert!(error.contains("cannot be written"), "{error}");
}

#[test]
fn change_when_started_and_ended_then_has_one_entry() {
    let mut journal = Journal::default();
    journal.add(entry("1", Some(1), 2, STARTED));
    assert_eq!(journal.unfinished["images"].id, "1");
    journal.add(entry("1", Some(1), 2, DONE));
    assert_eq!(journal.entries, [entry("1", Some(1), 2, DONE)]);
    assert!(journal.unfinished.is_empty());
    assert_eq!(journal.last["images"], shares(2));
}

#[test]
fn change_when_journal_has_no_result_then_stays_unfinished_until_next_change() {
    let mut journal = Journal::default();
    journal.add(entry("1", Some(1), 2, DONE));
    journal.add(entry("2", Some(2), 3, STARTED));
    assert_eq!(journal.unfinished["images"].id, "2");
    assert_eq!(
        before(&journal, 1).map(|to| to["images"].clone()),
        Ok(shares(2)),
        "a rollback undoes the unfinished change"
    );
    assert_eq!(before(&journal, 2).map(|to| to["images"].clone()), Ok(shares(1)));
    // The next change found the weights of the interrupted change, and was put back to them.
    journal.add(entry("3", Some(3), 4, STARTED));
    journal.add(entry("3", Some(3), 4, "put back: x"));
    assert!(journal.unfinished.is_empty());
    assert_eq!(journal.last["images"], shares(3));
}

#[test]
fn line_when_sync_to_disk_fails_then_is_removed_again() {
    let folder = Folder::new();
    append(&folder.journal(), &entry("1", None, 5, DONE));
    let before = fs::read(folder.journal()).expect("the journal");
    let mut writer = Writer::open(&folder.journal(), "alice").expect("the journal is free");
    let full = |_: &File| Err(std::io::ErrorKind::StorageFull.into());
    let error = writer.append_with(&entry("2", Some(5), 6, DONE), full).expect_err("the disk is full");
    assert!(error.contains("cannot be written") && !error.contains("by hand"), "{error}");
    assert_eq!(fs::read(folder.journal()).expect("the journal"), before);
    writer.append(&entry("3", Some(5), 6, DONE)).expect("the disk has space again");
    drop(writer);
    let journal = Journal::read(&folder.journal()).expect("the journal can be read");
    assert_eq!((journal.entries.len(), journal.bad_lines), (2, 0));
}

#[test]
fn line_when_longer_than_the_limit_then_is_neither_written_nor_read() {
    let folder = Folder::new();
    let mut long = entry("1", None, 5, STARTED);
    long.why = Some("w".repeat(MAX_LINE_BYTES));
    let mut writer = Writer::open(&folder.journal(), "alice").expect("the journal is free");
    let error = writer.append(&long).expect_err("the line is too long");
    assert!(error.contains("change fewer targets at a time"), "{error}");
    // The result is cut, so that the second line fits if the first line fits.
    for (id, part) in [("2", "é\""), ("3", "\n"), ("4", "\u{1b}\\")] {
        writer.append(&entry(id, None, 5, &format!("split: {}", part.repeat(MAX_LINE_BYTES)))).expect("a cut result");
    }
    drop(writer);
    let good = fs::read(folder.journal()).expect("the journal");
    let text = [b"x".repeat(3 * MAX_LINE_BYTES), b"\n".to_vec(), good].concat();
    fs::write(folder.journal(), text).expect("a long line");
    let journal = Journal::read(&folder.journal()).expect("the journal can be read");
    assert_eq!((journal.entries.len(), journal.bad_lines, journal.first_bad_line), (3, 1, Some(1)));
    let is_cut = |entry: &Entry| entry.result.ends_with('…') && !entry.result.contains(char::is_control);
    assert!(journal.entries.iter().all(is_cut));
}

#[test]
fn journal_when_larger_than_the_limit_then_is_not_read_and_not_written() {
    let folder = Folder::new();
    // The file has a hole, so it needs no space on the disk.
    File::create(folder.journal()).and_then(|file| file.set_len(MAX_FILE_BYTES)).expect("a large file");
    let mut writer = Writer::open(&folder.journal(), "alice").expect("the journal is free");
    let error = writer.append(&entry("1", None, 5, STARTED)).expect_err("the journal is full");
    assert!(error.contains("256 MiB") && error.contains("rename the file"), "{error}");
    drop(writer);
    File::create(folder.journal()).and_then(|file| file.set_len(MAX_FILE_BYTES + 1)).expect("a large file");
    let error = Journal::read(&folder.journal()).expect_err("the journal is too large");
    assert!(error.contains("256 MiB") && error.contains("rename the file"), "{error}");
}

#[test]
fn lock_file_when_a_symbolic_link_then_is_refused_and_link_target_is_unchanged() {
    let folder = Folder::new();
    let other = folder.0.join("other");
    fs::write(&other, "precious").expect("a file");
    std::os::unix::fs::symlink(&other, folder.0.join("balance.jsonl.lock")).expect("a link");
    let error = Writer::open(&folder.journal(), "alice").expect_err("the lock is a link").texts.concat();
    assert!(error.contains("no change is made"), "{error}");
    assert_eq!(fs::read_to_string(&other).expect("the file"), "precious");
}

#[test]
fn note_when_no_change_was_made_then_is_listed_and_interrupted_change_stays_unfinished() {
    let folder = Folder::new();
    for entry in [entry("1", Some(4), 5, "done"), entry("2", Some(5), 6, STARTED), entry("3", Some(5), 5, KEPT)] {
        append(&folder.journal(), &entry);
    }
    let journal = Journal::read(&folder.journal()).expect("the journal can be read");
    assert_eq!((journal.entries.len(), &journal.unfinished["images"].id), (3, &"2".to_owned()));
    assert_eq!(journal.last["images"], shares(5));
    assert_eq!(before(&journal, 2).expect("two changes")["images"], shares(4), "a note is not a change");
}

#[test]
fn lock_when_taken_then_message_has_the_name_of_its_process_or_says_that_the_name_is_missing() {
    let folder = Folder::new();
    let path = folder.0.join("lock");
    let mut other = appending().open(&path).expect("a new file");
    other.lock().expect("the file is free");
    let holder = || match lock(&path, "bob") {
        Err(Locked::By(holder)) => holder,
        other => panic!("{other:?}"),
    };
    assert_eq!(holder(), "by a process that has not written its name");
    writeln!(other, "alice, process 1").expect("the file can be written");
    assert_eq!(holder(), "\"alice, process 1\"");
}
