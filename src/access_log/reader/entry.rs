//! The typed values of one line of the format json.

use std::borrow::Cow;

pub(crate) use super::json_object::{Text, shown};
use super::json_object::{Value, fields};
use super::stamp;
use crate::wire::{decimal, json};

/// One line. Texts are still escaped as in JSON. A line of a local endpoint, for example of a beacon, has no class.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Entry<'l> {
    pub(crate) time: Text<'l>,
    pub(crate) id: Text<'l>,
    pub(crate) provider: Text<'l>,
    pub(crate) claimed: Text<'l>,
    pub(crate) proof: Text<'l>,
    pub(crate) pop: Text<'l>,
    pub(crate) client: Text<'l>,
    pub(crate) method: Text<'l>,
    pub(crate) host: Text<'l>,
    pub(crate) path: Text<'l>,
    pub(crate) protocol: Text<'l>,
    pub(crate) class: Text<'l>,
    pub(crate) status: u64,
    pub(crate) bytes: u64,
    pub(crate) origin_status: Option<u64>,
    pub(crate) origin_bytes: u64,
    /// The milliseconds until the origin's response head arrived, as written.
    pub(crate) origin_ms: Option<&'l [u8]>,
    pub(crate) total_ms: Option<&'l [u8]>,
    pub(crate) encoding: Text<'l>,
    pub(crate) guard: Text<'l>,
    pub(crate) cause: Text<'l>,
    pub(crate) locale: Text<'l>,
    pub(crate) referer: Text<'l>,
    pub(crate) user_agent: Text<'l>,
    pub(crate) pull: Text<'l>,
    pub(crate) revalidated: Text<'l>,
    pub(crate) why: Text<'l>,
}

/// The number of necessary keys. A line that lacks a necessary key is rejected. In the set of the keys of a line, each
/// key has a bit, and the necessary keys have the lowest bits.
const NEEDED: u32 = 7;

/// Returns the keys and values of a line in the order of the line, for people. Each text is cut after `most`
/// characters. Values that are null, nested or empty are left out, together with their keys.
pub(crate) fn shown_pairs(line: &[u8], most: usize) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let read = fields(line, |key, value| {
        let value = match value {
            Value::Text(text) => text.shown(most),
            Value::Word(word) => Text::of_raw(word).shown(most),
            Value::Null | Value::Nested => String::new(),
        };
        if !value.is_empty() {
            pairs.push((Text::of_raw(key).shown(most), value));
        }
        Ok(())
    });
    // The caller has read the line before, so there is no error.
    read.map(|()| pairs).unwrap_or_default()
}

/// Returns a line as JSON with some texts replaced. `change` gets each key and its text, and returns the new text, or
/// `None` to leave the key out. For a value that is not a text, `change` gets "". If `change` then returns a text, the
/// value stays unchanged. Nested and malformed values are left out.
///
/// # Errors
/// The line is not a JSON object.
pub(crate) fn rewritten(
    line: &[u8],
    mut change: impl FnMut(&str, &str) -> Option<String>,
) -> Result<String, &'static str> {
    let mut out = vec![b'{'];
    fields(line, |key, value| {
        let key = Text::of_raw(key).decoded();
        let text = match value {
            Value::Text(text) => text.decoded(),
            _ => Cow::Borrowed(""),
        };
        let Some(text) = change(&key, &text) else { return Ok(()) };
        let word = match value {
            Value::Text(_) => None,
            Value::Word(word) if word.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte)) => {
                Some(word)
            }
            Value::Null => Some(&b"null"[..]),
            Value::Word(_) | Value::Nested => return Ok(()),
        };
        if out.len() > 1 {
            out.push(b',');
        }
        out.push(b'"');
        json::push_escaped(&mut out, key.as_bytes(), json::is_active);
        out.extend_from_slice(b"\":");
        if let Some(word) = word {
            out.extend_from_slice(word);
        } else {
            out.push(b'"');
            json::push_escaped(&mut out, text.as_bytes(), json::is_active);
            out.push(b'"');
        }
        Ok(())
    })?;
    out.push(b'}');
    String::from_utf8(out).map_err(|_| "the line is not UTF-8")
}

impl<'l> Entry<'l> {
    /// Reads a line without its newline. The keys can have any order, and unknown keys are ignored.
    ///
    /// # Errors
    /// The line is not a line of the format json. The error says what is wrong.
    pub(crate) fn read(line: &'l [u8]) -> Result<Self, &'static str> {
        let mut entry = Self::default();
        let mut seen = 0_u32;
        fields(line, |key, value| {
            let Some(bit) = entry.set(key, value)? else { return Ok(()) };
            if seen & 1 << bit != 0 {
                return Err("a key occurs twice");
            }
            seen |= 1 << bit;
            Ok(())
        })?;
        if seen.trailing_ones() < NEEDED {
            return Err("one of the keys time, id, provider, class, status, bytes and origin_bytes is missing");
        }
        if !stamp::is_stamp(entry.time.raw()) {
            return Err("time is not a time such as 2026-11-28T12:30:00.000Z");
        }
        if !(100..=999).contains(&entry.status) {
            return Err("status is not a number from 100 to 999");
        }
        Ok(entry)
    }

    /// Returns whether edgeshim writes this key.
    pub(crate) fn has_key(key: &str) -> bool {
        !matches!(Self::default().set(key.as_bytes(), Value::Null), Ok(None))
    }

    /// Sets the value of a key. Returns the bit of the key, or `None` if the key is unknown.
    fn set(&mut self, key: &[u8], value: Value<'l>) -> Result<Option<u32>, &'static str> {
        let texts = |text: &mut Text<'l>, bit: u32| match value {
            Value::Text(found) => {
                *text = found;
                Ok(Some(bit))
            }
            _ => Err("a value that must be a text is not a text"),
        };
        let whole = |number: &mut u64, bit: u32| match value {
            Value::Word(word) => {
                *number = decimal::read(word).ok_or("a value that must be a whole number is not a whole number")?;
                Ok(Some(bit))
            }
            _ => Err("a value that must be a whole number is not a whole number"),
        };
        let millis = |number: &mut Option<&'l [u8]>, bit: u32| match value {
            Value::Word(word) if word.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.') => {
                *number = Some(word);
                Ok(Some(bit))
            }
            Value::Null => Ok(Some(bit)),
            _ => Err("a value that must be a number of milliseconds is not a number"),
        };
        match key {
            b"time" => texts(&mut self.time, 0),
            b"id" => texts(&mut self.id, 1),
            b"provider" => texts(&mut self.provider, 2),
            b"class" => texts(&mut self.class, 3),
            b"status" => whole(&mut self.status, 4),
            b"bytes" => whole(&mut self.bytes, 5),
            b"origin_bytes" => whole(&mut self.origin_bytes, 6),
            b"claimed" => texts(&mut self.claimed, 7),
            b"proof" => texts(&mut self.proof, 8),
            b"pop" => texts(&mut self.pop, 9),
            b"client" => texts(&mut self.client, 10),
            b"method" => texts(&mut self.method, 11),
            b"host" => texts(&mut self.host, 12),
            b"path" => texts(&mut self.path, 13),
            b"protocol" => texts(&mut self.protocol, 14),
            b"origin_status" => match value {
                Value::Null => Ok(Some(15)),
                _ => whole(self.origin_status.insert(0), 15),
            },
            b"origin_ms" => millis(&mut self.origin_ms, 16),
            b"total_ms" => millis(&mut self.total_ms, 17),
            b"encoding" => texts(&mut self.encoding, 18),
            b"guard" => texts(&mut self.guard, 19),
            b"cause" => texts(&mut self.cause, 20),
            b"locale" => texts(&mut self.locale, 21),
            b"referer" => texts(&mut self.referer, 22),
            b"user_agent" => texts(&mut self.user_agent, 23),
            b"pull" => texts(&mut self.pull, 24),
            b"revalidated" => texts(&mut self.revalidated, 25),
            b"why" => texts(&mut self.why, 26),
            _ => Ok(None),
        }
    }

    /// Returns whether the line is of a pull. All other lines are of local endpoints.
    pub(crate) fn is_pull(&self) -> bool {
        !self.class.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::formats::{Formatter, LogFormat};
    use super::super::super::record::Record;
    use super::super::super::record::tests::{record, value};
    use super::*;
    use crate::ids::PullKind;

    fn written(record: &Record) -> Vec<u8> {
        let mut line = Vec::new();
        Formatter::new(LogFormat::Json).line(record, &mut line);
        assert_eq!(line.pop(), Some(b'\n'));
        line
    }

    #[test]
    fn line_when_written_by_the_writer_then_all_values_are_read() {
        let line = written(&Record { kind: PullKind::Retry, why: Some("first"), revalidated: "modified", ..record() });
        let entry = Entry::read(&line).unwrap();
        let texts = [
            entry.time,
            entry.id,
            entry.provider,
            entry.claimed,
            entry.proof,
            entry.pop,
            entry.client,
            entry.method,
            entry.host,
            entry.path,
            entry.protocol,
            entry.class,
            entry.encoding,
            entry.guard,
            entry.cause,
            entry.locale,
            entry.referer,
            entry.user_agent,
            entry.pull,
            entry.revalidated,
            entry.why,
        ];
        let texts = texts.map(|text| text.decoded().into_owned());
        let expected = [
            "2026-11-22T11:09:01.042Z",
            "r-1",
            "fastly",
            "Fastly",
            "secret",
            "FRA",
            "203.0.113.9",
            "GET",
            "img.example.com",
            "/a.png?v=1",
            "HTTP/1.1",
            "image",
            "gzip",
            "",
            "",
            "",
            "https://example.com/",
            "curl/8",
            "retry",
            "modified",
            "first",
        ];
        assert_eq!(texts, expected.map(str::to_owned));
        assert_eq!((entry.status, entry.bytes, entry.origin_status, entry.origin_bytes), (200, 1234, Some(200), 4321));
        assert_eq!((entry.origin_ms, entry.total_ms), (Some(&b"7.005"[..]), Some(&b"12.345"[..])));
        assert!(entry.is_pull());
        let local = written(&Record { class: None, origin_status: None, origin_us: None, ..record() });
        let entry = Entry::read(&local).unwrap();
        assert!(!entry.is_pull());
        assert_eq!((entry.origin_status, entry.origin_ms), (None, None));
    }

    #[test]
    fn line_when_damaged_or_of_another_format_then_is_rejected() {
        let line = String::from_utf8(written(&record())).unwrap();
        for (from, to) in [
            ("\"id\"", "\"ID\""),
            ("\"time\":\"2026-11-22T11:09:01.042Z\"", "\"time\":\"1795345741\""),
            ("\"status\":200", "\"status\":\"200\""),
            ("\"status\":200", "\"status\":42"),
            ("\"bytes\":1234", "\"bytes\":-1"),
            ("\"class\":\"image\"", "\"class\":null"),
            ("\"class\"", "\"id\""),
            ("\"origin_ms\":7.005", "\"origin_ms\":true"),
        ] {
            assert!(line.contains(from), "{from}");
            assert!(Entry::read(line.replacen(from, to, 1).as_bytes()).is_err(), "{from} {to}");
        }
        let more = line.replacen('{', "{\"host_name\":\"a\",\"kubernetes\":{\"pod\":\"x\"}, ", 1);
        assert!(Entry::read(more.as_bytes()).is_ok(), "unknown keys must be ignored");
    }

    proptest! {
        #[test]
        fn line_when_client_values_are_arbitrary_then_user_agent_is_read_unchanged(
            agent in "[\t -~\u{80}-\u{3000}]{0,60}", path in "/[!-~]{0,60}",
        ) {
            let Ok(target) = path.parse() else { return Ok(()) };
            let line = written(&Record { user_agent: value(&agent), target, ..record() });
            let entry = Entry::read(&line).unwrap();
            prop_assert_eq!(entry.user_agent.decoded(), agent);
        }
    }
}
