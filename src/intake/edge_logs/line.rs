//! Reads one log line. A line is a JSON object, or a list of columns with a separator between them.
//!
//! Cost: one pass over the line. `serde_json` decodes only the members of the object that edgeshim reads, and skips the
//! other members.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::time;
use crate::cdn::preset::logs::{LogField, LogForm};
use crate::ids::EdgeResult;

/// The largest response size that is accepted, in bytes: 1 PiB. A line with a larger number is treated as damaged.
pub(super) const MAX_BYTES: u64 = 1 << 50;

/// The largest float that is read as a whole number: 2^53. Above this number, floats are not exact.
const MAX_WHOLE_FLOAT: f64 = 9_007_199_254_740_992.0;

/// The fields that are read from a line. A slot is a position in this list.
const FIELDS: [LogField; 5] = [LogField::Time, LogField::Status, LogField::Bytes, LogField::Result, LogField::Sender];

/// The values of one line, in the order of [`FIELDS`].
type Slots<'l> = [Scalar<'l>; FIELDS.len()];

/// For each of [`FIELDS`], whether a line has the field.
pub(super) type Present = [bool; FIELDS.len()];

/// The request that one line reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    /// The time of the request, in seconds of Unix time.
    pub time: i64,
    /// The size of the response, in bytes.
    pub bytes: u64,
    pub result: EdgeResult,
    /// Whether a client sent the request. Otherwise the CDN sent the request, for example to a shield.
    pub is_of_client: bool,
}

/// The format of one provider's lines.
#[derive(Debug)]
pub(super) struct LineForm {
    form: LogForm,
    /// For each of [`FIELDS`], the name of its member in a JSON object. In the name of a nested member, a dot separates
    /// the levels, as in `httpRequest.status`.
    members: [Option<String>; FIELDS.len()],
    /// For each of [`FIELDS`], the position of its column. The first column is 0.
    columns: [Option<usize>; FIELDS.len()],
    /// Whether at least one name can be the name of a nested member.
    has_nested: bool,
}

/// One value of a line.
#[derive(Debug, Clone, Default, PartialEq)]
enum Scalar<'l> {
    /// The line does not have the field, or the field has no value.
    #[default]
    Missing,
    Text(Cow<'l, str>),
    Whole(u64),
    Number(f64),
    /// A value that no field can have: a negative whole number, an array or an object.
    Bad,
}

impl LineForm {
    pub(super) fn new(form: LogForm) -> Self {
        let members = FIELDS.map(|field| form.member(field).map(str::to_owned));
        let columns = FIELDS.map(|field| form.column(field));
        let has_nested = members.iter().flatten().any(|name| name.contains('.'));
        Self { form, members, columns, has_nested }
    }

    /// Returns the names of the fields that are missing in `present`, although each complete log has these fields. The
    /// names are for messages.
    pub(super) fn missing(&self, present: Present) -> Vec<&str> {
        let is_needed = |field| match field {
            // The status is not counted. If the sender is absent, a client has sent the request.
            LogField::Status | LogField::Sender => false,
            LogField::Result => self.form.absent.is_none(),
            _ => true,
        };
        let slots = FIELDS.into_iter().zip(present).zip(&self.members);
        let missing = slots.filter(|((field, present), _)| !present && is_needed(*field));
        missing.filter_map(|(_, name)| name.as_deref()).collect()
    }

    /// Reads a line. Returns `None` in place of the line if the line is damaged, has no valid time, or has a value that
    /// is out of range. Also returns which fields the line has.
    pub(super) fn read(&self, line: &[u8]) -> (Option<Line>, Present) {
        let mut slots = Slots::default();
        let is_intact = if line.trim_ascii_start().first() == Some(&b'{') {
            let mut json = serde_json::Deserializer::from_slice(line);
            let object = Object { form: self, slots: &mut slots, parent: "" };
            object.deserialize(&mut json).and_then(|()| json.end()).is_ok()
        } else {
            self.split(line, &mut slots).is_some()
        };
        let present = slots.each_ref().map(|slot| *slot != Scalar::Missing);
        (is_intact.then(|| self.line(&slots)).flatten(), present)
    }

    /// Reads the columns of a line into the slots. Returns `None` if the line is not UTF-8.
    fn split<'l>(&self, line: &'l [u8], slots: &mut Slots<'l>) -> Option<()> {
        let line = std::str::from_utf8(line).ok()?.trim_end_matches('\r');
        for (position, column) in line.split(self.form.separator).enumerate() {
            for (slot, place) in slots.iter_mut().zip(self.columns) {
                if place == Some(position) {
                    *slot = Scalar::of_column(column);
                }
            }
        }
        Some(())
    }

    fn line(&self, [time, status, bytes, result, sender]: &Slots<'_>) -> Option<Line> {
        // Some CDNs write the status 0 or 000 if the client disconnected before the response.
        status.whole().ok()?.is_none_or(|status| status == 0 || (100..1000).contains(&status)).then_some(())?;
        Some(Line {
            time: time.time()?,
            bytes: Some(bytes.whole().ok()?.unwrap_or(0)).filter(|bytes| *bytes <= MAX_BYTES)?,
            result: match result {
                Scalar::Missing => self.form.absent.unwrap_or(EdgeResult::Other),
                result => result.text().map_or(EdgeResult::Other, |text| self.form.result(&text)),
            },
            is_of_client: match sender {
                Scalar::Missing => true,
                sender => sender.text().is_some_and(|text| self.form.is_client(&text)),
            },
        })
    }
}

impl<'l> Scalar<'l> {
    fn of_column(column: &'l str) -> Self {
        match column {
            "" | "-" => Self::Missing,
            text => Self::Text(Cow::Borrowed(text)),
        }
    }

    fn time(&self) -> Option<i64> {
        match self {
            Self::Text(text) => time::of_text(text),
            #[allow(clippy::cast_precision_loss, reason = "nanoseconds lose less than a microsecond")]
            Self::Whole(number) => time::of_number(*number as f64),
            Self::Number(number) => time::of_number(*number),
            Self::Missing | Self::Bad => None,
        }
    }

    /// Returns the value as text, or `None` if the value is neither a text nor a whole number.
    fn text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Text(text) => Some(Cow::Borrowed(text)),
            Self::Whole(number) => Some(Cow::Owned(number.to_string())),
            Self::Missing | Self::Number(_) | Self::Bad => None,
        }
    }

    /// Returns a whole number, or `None` if the field is missing or empty.
    ///
    /// # Errors
    /// The value is not a whole number.
    fn whole(&self) -> Result<Option<u64>, ()> {
        match self {
            Self::Missing => Ok(None),
            Self::Whole(number) => Ok(Some(*number)),
            Self::Text(text) if matches!(text.as_ref(), "" | "-") => Ok(None),
            Self::Text(text) => text.parse().map(Some).map_err(|_| ()),
            Self::Number(_) | Self::Bad => Err(()),
        }
    }
}

/// Reads the members of an object into the slots. `parent` is the complete name of the member that contains this
/// object. For the line itself, `parent` is empty.
struct Object<'f, 's, 'l> {
    form: &'f LineForm,
    slots: &'s mut Slots<'l>,
    parent: &'f str,
}

/// What is done with a member of an object.
enum Place<'f> {
    /// The value of the member is read into this slot.
    Slot(usize),
    /// The value must be an object, and its members are searched. This is the complete name of the member.
    Below(&'f str),
    /// The member is not needed.
    Skipped,
}

impl<'f> Object<'f, '_, '_> {
    fn place(&self, key: &str) -> Place<'f> {
        if !self.form.has_nested {
            let slot = self.form.members.iter().position(|name| name.as_deref() == Some(key));
            return slot.map_or(Place::Skipped, Place::Slot);
        }
        let mut place = Place::Skipped;
        for (slot, name) in self.form.members.iter().enumerate() {
            let Some(name) = name else { continue };
            let below = match self.parent {
                "" => Some(name.as_str()),
                parent => name.strip_prefix(parent).and_then(|rest| rest.strip_prefix('.')),
            };
            match below.and_then(|below| below.strip_prefix(key)) {
                Some("") => return Place::Slot(slot),
                Some(rest) if rest.starts_with('.') => {
                    place = Place::Below(name.get(..name.len() - rest.len()).unwrap_or_default());
                }
                _ => {}
            }
        }
        place
    }
}

impl<'l> DeserializeSeed<'l> for Object<'_, '_, 'l> {
    type Value = ();

    fn deserialize<D: Deserializer<'l>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'l> Visitor<'l> for Object<'_, '_, 'l> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a log line that is a JSON object")
    }

    fn visit_map<A: MapAccess<'l>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(ScalarSeed)? {
            let place = key.text().map_or(Place::Skipped, |key| self.place(&key));
            match place {
                Place::Slot(slot) => {
                    let value = map.next_value_seed(ScalarSeed)?;
                    if let Some(slot) = self.slots.get_mut(slot) {
                        *slot = value;
                    }
                }
                Place::Below(parent) => {
                    map.next_value_seed(Object { form: self.form, slots: &mut *self.slots, parent })?;
                }
                Place::Skipped => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Reads one value, or the name of a member.
struct ScalarSeed;

impl<'l> DeserializeSeed<'l> for ScalarSeed {
    type Value = Scalar<'l>;

    fn deserialize<D: Deserializer<'l>>(self, deserializer: D) -> Result<Scalar<'l>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'l> Visitor<'l> for ScalarSeed {
    type Value = Scalar<'l>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of a log line")
    }

    fn visit_borrowed_str<E>(self, text: &'l str) -> Result<Scalar<'l>, E> {
        Ok(Scalar::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar<'l>, E> {
        Ok(Scalar::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Scalar<'l>, E> {
        Ok(Scalar::Whole(number))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Scalar<'l>, E> {
        Ok(Scalar::Bad)
    }

    fn visit_f64<E>(self, number: f64) -> Result<Scalar<'l>, E> {
        // Some programs that ship logs write each number as a float, for example `5.0`.
        let is_whole = (0.0..=MAX_WHOLE_FLOAT).contains(&number) && number.fract() == 0.0;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the number was checked")]
        Ok(if is_whole { Scalar::Whole(number as u64) } else { Scalar::Number(number) })
    }

    fn visit_bool<E>(self, value: bool) -> Result<Scalar<'l>, E> {
        Ok(Scalar::Text(Cow::Borrowed(if value { "true" } else { "false" })))
    }

    fn visit_unit<E>(self) -> Result<Scalar<'l>, E> {
        Ok(Scalar::Missing)
    }

    fn visit_seq<A: SeqAccess<'l>>(self, mut list: A) -> Result<Scalar<'l>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Bad)
    }

    fn visit_map<A: MapAccess<'l>>(self, mut map: A) -> Result<Scalar<'l>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Bad)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cdn::preset::Preset;
    use crate::cdn::preset::logs::{LogPlace, RenamedFields};

    fn form(preset: &str) -> LineForm {
        LineForm::new(Preset::named(preset).expect("the preset must exist").logs.clone())
    }

    fn read(preset: &str, line: &str) -> Option<(i64, u64, EdgeResult)> {
        form(preset).read(line.as_bytes()).0.map(|line| (line.time, line.bytes, line.result))
    }

    #[test]
    fn line_when_in_the_format_of_a_preset_then_time_bytes_and_result_are_read() {
        let time = 1_700_000_000;
        for (preset, line, bytes, result) in [
            (
                "fastly",
                concat!(
                    r#"{"timestamp":"2023-11-14T22:13:20+0000","client_ip":"192.0.2.1","url":"/a?b=\"c\"","#,
                    r#""response_state":"HIT-CLUSTER","response_status":200,"response_body_size":1234}"#
                ),
                1234,
                EdgeResult::Hit,
            ),
            (
                "fastly",
                concat!(
                    r#"{"timestamp":"2023-11-14T22:13:20Z","response_state":"MISS","#,
                    r#""response_status":"304","response_body_size":"0"}"#
                ),
                0,
                EdgeResult::Miss,
            ),
            (
                "cloudflare",
                concat!(
                    r#"{"EdgeStartTimestamp":1700000000123456789,"EdgeResponseStatus":200,"#,
                    r#""EdgeResponseBytes":7,"CacheCacheStatus":"dynamic","Cookies":{"a":[1,{}]}}"#
                ),
                7,
                EdgeResult::Pass,
            ),
            (
                "akamai",
                r#"{"reqTimeSec":"1700000000.25","statusCode":"200","bytes":"99","cacheStatus":"1"}"#,
                99,
                EdgeResult::Hit,
            ),
            ("akamai", r#"{"reqTimeSec":1700000000.25,"bytes":99,"cacheStatus":0}"#, 99, EdgeResult::Miss),
            (
                "cloudfront",
                concat!(
                    "1700000000.123\t192.0.2.1\t0.001\t200\t5678\tGET\thttps\td1.cloudfront.net\t/a\t50\tFRA1\t",
                    "id\twww.test\t0.001\tHTTP/2.0\tIPv4\tcurl\t-\t-\t-\tHit\t-\tTLSv1.3\tTLS_AES\tRefreshHit"
                ),
                5678,
                EdgeResult::Hit,
            ),
            (
                "bunny",
                "MISS|200|1700000000123|412|390|192.0.2.0|-|https://a.b-cdn.net/v.mp4|DE|curl|322b|DE\r",
                412,
                EdgeResult::Miss,
            ),
            (
                "google",
                concat!(
                    r#"{"insertId":"a","httpRequest":{"status":200,"responseSize":"321","cacheHit":true,"#,
                    r#""x":{"status":1}},"timestamp":"2023-11-14T22:13:20.5Z"}"#
                ),
                321,
                EdgeResult::Hit,
            ),
            ("generic", r#"{"time":1700000000,"status":200,"bytes":5,"result":"pass"}"#, 5, EdgeResult::Pass),
            ("generic", r#"{"time":1700000000,"bytes":null,"result":null}"#, 0, EdgeResult::Other),
            ("generic", r#"{"time":1700000000.0,"status":200.0,"bytes":5.0}"#, 5, EdgeResult::Other),
            ("generic", r#"{"time":1700000000,"bytes":1e3}"#, 1000, EdgeResult::Other),
        ] {
            assert_eq!(read(preset, line), Some((time, bytes, result)), "{preset}: {line}");
        }
    }

    #[test]
    fn line_when_damaged_or_out_of_range_then_rejected() {
        for line in [
            "",
            "x",
            "{",
            "{}",
            r#"{"time":1700000000"#,
            r#"{"time":1700000000} x"#,
            r#"{"time":"yesterday"}"#,
            r#"{"time":-1}"#,
            r#"{"time":{"a":1}}"#,
            r#"{"time":1700000000,"bytes":-1}"#,
            r#"{"time":1700000000,"bytes":1.5}"#,
            r#"{"time":1700000000,"bytes":-5.0}"#,
            r#"{"time":1700000000,"bytes":9e15}"#,
            r#"{"time":1700000000,"bytes":NaN}"#,
            r#"{"time":1700000000,"bytes":1e300}"#,
            r#"{"time":1700000000,"bytes":18446744073709551616}"#,
            r#"{"time":1700000000,"bytes":1125899906842625}"#,
            r#"{"time":1700000000,"bytes":"12 KB"}"#,
            r#"{"time":1700000000,"bytes":[1]}"#,
            r#"{"time":1700000000,"status":99}"#,
            r#"{"time":1700000000,"status":"OK"}"#,
            r#"["time",1700000000]"#,
            "1700000000\t200",
        ] {
            assert_eq!(read("generic", line), None, "{line}");
        }
        assert_eq!(form("cloudfront").read(b"1700000000\t\xff\t0").0, None);
    }

    #[test]
    fn line_when_fields_are_renamed_then_values_are_read_at_the_new_places() {
        let renamed = RenamedFields::from([
            (LogField::Time, LogPlace::Column(2)),
            (LogField::Bytes, LogPlace::Column(1)),
            (LogField::Status, LogPlace::Member("a.b.c".to_owned())),
        ]);
        let form = LineForm::new(Preset::named("fastly").expect("the preset must exist").logs.renamed(&renamed));
        let (columns, present) = form.read(b"77\t1700000000");
        assert_eq!((columns.map(|line| line.bytes), present), (Some(77), [true, false, true, false, false]));
        let (_, present) = form.read(br#"{"timestamp":1700000000,"a":{"b":{"c":200,"d":1}},"response_state":"HIT"}"#);
        assert_eq!(present, [true, true, false, true, false]);
        assert_eq!(
            form.read(br#"{"timestamp":1700000000,"a":7}"#).0,
            None,
            "the line must be rejected, because the member a is not an object"
        );
    }

    proptest! {
        #[test]
        fn line_when_arbitrary_bytes_then_parse_does_not_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..80), text in "[{}\"\\[\\],:time0-9.e-]{0,60}"
        ) {
            for preset in ["generic", "google", "cloudfront"] {
                let _ = (form(preset).read(&bytes), form(preset).read(text.as_bytes()));
            }
        }
    }
}
