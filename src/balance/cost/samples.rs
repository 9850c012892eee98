//! Reads samples of traffic, one JSON object per line, and adds them up in the slots of a month.
//!
//! A sample is the traffic of one CDN in a period that starts at `time`. If one slot has several samples of one CDN,
//! these samples are added. So a file can have a line for each service of a CDN. Memory is bounded: one block of the
//! file, and the slots of one month for each CDN.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::month::{Month, SLOT_SECONDS, unix_of};
use crate::access_log::reader::blocks::{Blocks, Part, lines};
use crate::keys::grammar::label;
use crate::keys::quote;

/// The largest number in a sample. 10 PB in 5 minutes are 267 Tbps.
const MAX_NUMBER: u64 = 10_000_000_000_000_000;
/// The largest sum in a slot. With this limit, no sum of a month and no product with a price overflows 128 bits.
const MAX_SUM: u128 = 1_000_000_000_000_000_000;
/// The largest number of CDNs.
const MAX_PROVIDERS: usize = 100;
/// The largest number of wrong lines whose messages are kept.
const MAX_MESSAGES: usize = 10;
const EXAMPLE: &str = r#"{"time": "2026-11-29T02:55:00Z", "provider": "fastly", "bytes": 123456789, "requests": 4567}"#;

/// The members of a sample for pulls and for the bytes of pulls. A sample must have the first member if the price list
/// of the CDN has a price for pulls, and the second member if the list has a price for the bytes of pulls.
pub(crate) const PULLS: &str = "pulls";
pub(crate) const PULL_BYTES: &str = "pull_bytes";

/// An amount of traffic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Volume {
    pub bytes: u128,
    pub requests: u128,
    /// The requests of the CDN to the origin.
    pub pulls: u128,
    /// The bytes that the CDN got from the origin.
    pub pull_bytes: u128,
}

impl Volume {
    fn parts(&mut self) -> [&mut u128; 4] {
        [&mut self.bytes, &mut self.requests, &mut self.pulls, &mut self.pull_bytes]
    }

    /// Applies a function to each number and the number of the same kind in `other`.
    pub(crate) fn with(mut self, mut other: Self, apply: impl Fn(u128, u128) -> u128) -> Self {
        for (part, other) in self.parts().into_iter().zip(other.parts()) {
            *part = apply(*part, *other);
        }
        self
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        self.with(other, u128::saturating_add)
    }

    /// Returns `factor / divisor` of the volume, rounded down.
    pub(crate) fn scaled(self, factor: u128, divisor: u128) -> Self {
        self.with(self, |part, _| part.saturating_mul(factor).checked_div(divisor).unwrap_or(0))
    }
}

/// The traffic of one CDN in one month, by slot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Series(pub BTreeMap<u32, Volume>);

impl Series {
    /// Returns the length of the period of a sample, in seconds: the most frequent distance from a slot with a sample
    /// to the next. `None`: there are fewer than two slots.
    pub(crate) fn step(&self) -> Option<u64> {
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        for (one, next) in self.0.keys().zip(self.0.keys().skip(1)) {
            *counts.entry(next - one).or_default() += 1;
        }
        // If several distances are equally frequent, the shortest of them counts.
        let most = counts.into_iter().rev().max_by_key(|(_, count)| *count);
        most.map(|(distance, _)| u64::from(distance) * SLOT_SECONDS)
    }
}

/// The samples of a file that belong to one month.
#[derive(Debug)]
pub(crate) struct Samples {
    pub month: Month,
    pub providers: BTreeMap<String, Series>,
    /// The number of samples of other months.
    pub elsewhere: u64,
}

impl Samples {
    pub(crate) fn new(month: Month) -> Self {
        Self { month, providers: BTreeMap::new(), elsewhere: 0 }
    }

    /// Reads a file, which may be compressed with gzip. If the path is `-`, reads standard input. `needed` returns the
    /// members that the samples of a provider must have in addition to `time`, `provider`, `bytes` and `requests`.
    ///
    /// # Errors
    /// Returns messages if the file cannot be read, and for the first wrong lines.
    pub(crate) fn read(
        path: &Path,
        month: Month,
        needed: &dyn Fn(&str) -> Vec<&'static str>,
    ) -> Result<Self, Vec<String>> {
        let name = path.display();
        let failed = |error: std::io::Error| vec![format!("{name} cannot be read ({error}); name a file of samples")];
        let mut samples = Self::new(month);
        let (mut number, mut wrong, mut messages) = (0_u64, 0_u64, Vec::new());
        let mut take = |samples: &mut Self, line: Result<&[u8], String>| {
            number += 1;
            if let Err(message) = line.and_then(|line| samples.add_line(line, needed)) {
                wrong += 1;
                if messages.len() < MAX_MESSAGES {
                    messages.push(format!("{name}: line {number} {message}"));
                }
            }
        };
        let mut blocks = Blocks::open(path).map_err(failed)?;
        while let Some(part) = blocks.next().map_err(failed)? {
            match part {
                Part::Lines(part) => lines(part).for_each(|line| take(&mut samples, Ok(line))),
                Part::LongLine => {
                    take(&mut samples, Err(format!("is longer than 1 MiB; write for example {EXAMPLE}")));
                }
            }
        }
        if !blocks.rest().is_empty() {
            take(&mut samples, Ok(blocks.rest()));
        }
        if messages.is_empty() {
            return Ok(samples);
        }
        let more = wrong - messages.len() as u64;
        if more > 0 {
            messages.push(format!("{name}: {more} more lines are wrong"));
        }
        Err(messages)
    }

    /// Adds the sample of a line. An empty line is skipped.
    fn add_line(&mut self, line: &[u8], needed: &dyn Fn(&str) -> Vec<&'static str>) -> Result<(), String> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let Ok(sample) = serde_json::from_slice::<Map<String, Value>>(line) else {
            return Err(format!("is not a JSON object, or is cut; write for example {EXAMPLE}"));
        };
        let text = |name: &str| match sample.get(name) {
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(format!("has the {name} {}; write a text in quotes, as in {EXAMPLE}", shown(other))),
            None => Err(format!("has no {name}; write for example {EXAMPLE}")),
        };
        let number = |name: &str| match sample.get(name) {
            Some(value) => value.as_u64().filter(|number| *number <= MAX_NUMBER).map(u128::from).ok_or_else(|| {
                format!("has {name} = {}; write a whole number from 0 to {MAX_NUMBER}, without quotes", shown(value))
            }),
            None => Err(format!("has no {name}; write for example {EXAMPLE}")),
        };
        let time = text("time")?;
        let seconds = unix_of(time).ok_or_else(|| {
            format!("has the time {}; write a time in UTC, for example \"2026-11-29T02:55:00Z\"", quote(time))
        })?;
        let provider = text("provider")?;
        let provider = label(provider, &[], "\"fastly\"")
            .map_err(|message| format!("has a wrong provider: {} {message}", quote(provider)))?;
        let mut volume = Volume { bytes: number("bytes")?, requests: number("requests")?, ..Volume::default() };
        let needed = needed(&provider);
        for (name, part) in [(PULLS, &mut volume.pulls), (PULL_BYTES, &mut volume.pull_bytes)] {
            if sample.contains_key(name) {
                *part = number(name)?;
            } else if needed.contains(&name) {
                return Err(format!(
                    "has no {name}, but the price of {provider} bills pulls from the origin; write for example \
                     \"{name}\": 123"
                ));
            }
        }
        if let Some(slot) = self.month.slot(seconds) {
            return self.add(&provider, slot, volume);
        }
        self.elsewhere += 1;
        Ok(())
    }

    fn add(&mut self, provider: &str, slot: u32, volume: Volume) -> Result<(), String> {
        if !self.providers.contains_key(provider) && self.providers.len() == MAX_PROVIDERS {
            return Err(format!("has one provider too many; write samples of at most {MAX_PROVIDERS} providers"));
        }
        let sum = self.providers.entry(provider.to_owned()).or_default().0.entry(slot).or_default();
        let mut after = sum.plus(volume);
        if after.parts().into_iter().any(|part| *part > MAX_SUM) {
            return Err(format!(
                "makes the sum of its 5 minutes larger than {MAX_SUM}; correct the numbers of these 5 minutes"
            ));
        }
        *sum = after;
        Ok(())
    }
}

/// Shows a JSON value in a message.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        other => other.to_string().chars().take(40).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn november() -> Month {
        Month::parse("2026-11").expect("a month")
    }

    fn nothing(_: &str) -> Vec<&'static str> {
        Vec::new()
    }

    fn add(samples: &mut Samples, line: &str) -> Result<(), String> {
        samples.add_line(line.as_bytes(), &|name| if name == "pulling" { vec![PULLS, PULL_BYTES] } else { Vec::new() })
    }

    #[test]
    fn samples_when_in_one_slot_then_are_added_and_other_months_are_counted() {
        let mut samples = Samples::new(november());
        for line in [
            r#"{"time":"2026-11-01T00:00:00Z","provider":"Fastly","bytes":10,"requests":1}"#,
            r#"{"time":"2026-11-01T00:04:59.9Z","provider":"fastly","bytes":5,"requests":2,"pulls":7,"x":[]}"#,
            r#"{"time":"2026-11-01T00:05:00Z","provider":"fastly","bytes":1,"requests":0}"#,
            r#"{"time":"2026-12-01T00:00:00Z","provider":"fastly","bytes":1000,"requests":0}"#,
            r#"{"time":"2026-10-31T23:59:59Z","provider":"fastly","bytes":1000,"requests":0}"#,
            "  ",
        ] {
            assert_eq!(add(&mut samples, line), Ok(()), "{line}");
        }
        assert_eq!(samples.elsewhere, 2);
        let series = &samples.providers["fastly"];
        assert_eq!(series.0[&0], Volume { bytes: 15, requests: 3, pulls: 7, pull_bytes: 0 });
        assert_eq!((series.0.len(), series.0[&1].bytes), (2, 1));
    }

    #[test]
    fn line_when_wrong_then_message_says_what_to_write() {
        let mut samples = Samples::new(november());
        let with = |old: &str, new: &str| {
            r#"{"time":"2026-11-01T00:00:00Z","provider":"fastly","bytes":10,"requests":1}"#.replace(old, new)
        };
        for (line, part) in [
            ("[1]".to_owned(), "is not a JSON object, or is cut; write for example {\"time\""),
            (with("}", ""), "is cut"),
            (with("{", "{{"), "is not a JSON object"),
            (with("\"time\"", "\"when\""), "has no time; write"),
            (with("00:00Z", "00:00+01:00"), "write a time in UTC, for example \"2026-11-29T02:55:00Z\""),
            (with("\"2026-11-01T00:00:00Z\"", "1764547200"), "has the time 1764547200; write a text in quotes"),
            (with("fastly", "fast ly"), "has a wrong provider: \"fast ly\" is not a name"),
            (with("10", "-10"), "has bytes = -10; write a whole number from 0"),
            (with("10", "1.5"), "has bytes = 1.5; write a whole number"),
            (with("10", "\"10\""), "has bytes = \"10\"; write a whole number"),
            (with("10", "null"), "has bytes = null"),
            (with("10", "10000000000000001"), "from 0 to 10000000000000000"),
            (with(",\"requests\":1", ""), "has no requests"),
            (with("fastly", "pulling"), "has no pulls, but the price of pulling bills pulls from the origin"),
            (with("\"fastly\"", "\"pulling\",\"pulls\":1"), "has no pull_bytes, but"),
        ] {
            let message = add(&mut samples, &line).expect_err(&line);
            assert!(message.contains(part), "{line}: {message}");
        }
        assert!(samples.providers.is_empty());
    }

    #[test]
    fn file_when_lines_are_wrong_then_messages_have_the_numbers_of_the_lines() {
        let path = std::env::temp_dir().join(format!("edgeshim-samples-{}", std::process::id()));
        let good = r#"{"time":"2026-11-01T00:00:00Z","provider":"fastly","bytes":10,"requests":1}"#;
        std::fs::write(&path, format!("{good}\n\nx\n{good}\n{}{{\"time", "y\n".repeat(12))).expect("a file");
        let messages = Samples::read(&path, november(), &nothing).expect_err("wrong lines");
        assert!(messages[0].contains(": line 3 is not a JSON object"), "{messages:?}");
        assert!(messages[1].contains(": line 5 is not a JSON object"), "{messages:?}");
        assert_eq!(messages.len(), MAX_MESSAGES + 1);
        assert!(messages[MAX_MESSAGES].ends_with("4 more lines are wrong"), "{messages:?}");
        let mut file = std::fs::File::create(&path).expect("a file");
        writeln!(file, "{}", "z".repeat(1 << 21)).expect("a long line");
        write!(file, "{good}").expect("a line without a newline");
        let messages = Samples::read(&path, november(), &nothing).expect_err("a long line");
        assert!(messages.len() == 1 && messages[0].contains("line 1 is longer than 1 MiB"), "{messages:?}");
        std::fs::write(&path, good).expect("a file");
        assert_eq!(Samples::read(&path, november(), &nothing).expect("one sample").providers["fastly"].0[&0].bytes, 10);
        std::fs::remove_file(&path).expect("the file");
        assert!(Samples::read(&path, november(), &nothing).expect_err("no file")[0].contains("cannot be read"));
    }

    #[test]
    fn line_when_sum_or_number_of_providers_is_too_large_then_is_rejected() {
        let mut samples = Samples::new(november());
        let most = Volume { bytes: MAX_NUMBER.into(), ..Volume::default() };
        for _ in 0..100 {
            assert_eq!(samples.add("a", 0, most), Ok(()));
        }
        assert!(samples.add("a", 0, most).is_err());
        assert_eq!(samples.add("a", 1, most), Ok(()));
        for number in 1..MAX_PROVIDERS {
            assert_eq!(samples.add(&format!("p{number}"), 0, most), Ok(()));
        }
        assert!(samples.add("one-more", 0, most).is_err());
    }

    #[test]
    fn step_when_a_sample_is_missing_then_is_the_most_frequent_distance() {
        let series = |slots: &[u32]| Series(slots.iter().map(|slot| (*slot, Volume::default())).collect());
        assert_eq!(series(&[0, 1, 2, 9, 10]).step(), Some(300));
        assert_eq!(series(&[0, 12, 24, 48]).step(), Some(3600));
        assert_eq!(series(&[0, 1, 13]).step(), Some(300), "two distances are equally frequent");
        assert_eq!((series(&[4]).step(), series(&[]).step()), (None, None));
    }

    proptest! {
        #[test]
        fn line_when_bytes_are_arbitrary_then_is_read_without_panic(
            line in proptest::collection::vec(any::<u8>(), 0..80),
            near in r#"\{("(time|provider|bytes|requests)":("[0-9TZ:-]{0,22}"|[0-9.e-]{0,20}|null),?){0,5}\}"#,
        ) {
            let mut samples = Samples::new(november());
            for line in [&line[..], near.as_bytes()] {
                if let Err(message) = samples.add_line(line, &nothing) {
                    prop_assert!(!message.contains(char::is_control), "{message:?}");
                }
            }
        }
    }
}
