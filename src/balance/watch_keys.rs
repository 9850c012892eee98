//! The keys of `[watch]`, and the URL of a probe.

use std::fmt;
use std::time::Duration;

use super::base_url::{BASE_URL, BaseUrl};
use crate::config::Section;
use crate::keys::quantities::TIMEOUT;
use crate::keys::{Checked, Keys, Text, Visitor};

/// The shortest time between two rounds.
const SHORTEST_EVERY: Duration = Duration::from_millis(100);
/// The longest URL of a probe, in bytes.
const MAX_URL_BYTES: usize = 2_000;

/// The keys of `[watch]`.
#[derive(Debug, Clone)]
pub(crate) struct WatchKeys {
    /// The time from the start of a round to the start of the next round.
    pub every: Duration,
    /// The time limit of one probe.
    pub timeout: Duration,
    /// How many probes in a row must fail before an edge is down.
    pub down_after: u32,
    /// How many probes in a row must succeed before an edge is up. More are needed if the edge has gone down several
    /// times.
    pub up_after: u32,
}

impl Default for WatchKeys {
    fn default() -> Self {
        Self { every: Duration::from_secs(10), timeout: Duration::from_secs(3), down_after: 3, up_after: 6 }
    }
}

impl Keys for WatchKeys {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.text("every", &TIMEOUT, &mut self.every);
        v.text("timeout", &TIMEOUT, &mut self.timeout);
        v.integer("down_after", 1..=1000, &mut self.down_after);
        v.integer("up_after", 1..=1000, &mut self.up_after);
    }
}

impl WatchKeys {
    pub(crate) fn check(&self, block: &Section<'_>) {
        if self.every < SHORTEST_EVERY && !block.is_bad("every") {
            block.reject("every", "is shorter than 100 ms; write a longer time, for example \"10s\"");
        }
    }
}

/// The URL that a probe requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProbeUrl {
    /// The server, without a path.
    pub server: BaseUrl,
    /// The path and the query.
    pub target: String,
}

pub(crate) const PROBE_URL: Text<ProbeUrl> = Text {
    example: "https://fastly-test.example.com/ping",
    read: |text, _| probe_url(text),
    write: ToString::to_string,
};

impl fmt::Display for ProbeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.server, self.target)
    }
}

fn probe_url(text: &str) -> Checked<ProbeUrl> {
    const REMEDY: &str = "write for example \"https://fastly-test.example.com/ping\"";
    if text.len() > MAX_URL_BYTES {
        return Err(format!("is longer than {MAX_URL_BYTES} bytes; {REMEDY}"));
    }
    let scheme = text.find("://").map_or(0, |at| at + 3);
    let (server, target) = match text.get(scheme..).and_then(|rest| rest.find(['/', '?', '#'])) {
        Some(at) => text.split_at(scheme + at),
        None => (text, ""),
    };
    let server = (BASE_URL.read)(server, std::path::Path::new(""))
        .map_err(|_| format!("is not a URL with http:// or https:// and a host without a user name; {REMEDY}"))?;
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    if target.contains('#') || !target.bytes().all(|b| b.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&b)) {
        return Err(format!("has a fragment or a character that a path must not have; {REMEDY}"));
    }
    Ok(ProbeUrl { server, target })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn probe_url_when_valid_then_keeps_its_path_and_query() {
        for (text, written) in [
            ("https://cdn.example/ping/", "https://cdn.example:443/ping/"),
            ("HTTP://Cdn.example", "http://cdn.example:80/"),
            ("http://[::1]:1?a=b/c", "http://[::1]:1/?a=b/c"),
        ] {
            assert_eq!(probe_url(text).map(|url| url.to_string()).as_deref(), Ok(written), "{text}");
        }
    }

    #[test]
    fn probe_url_when_wrong_then_message_has_an_example() {
        let long = format!("https://a/{}", "a".repeat(2_000));
        for bad in
            ["", "cdn.example/ping", "ftp://a/", "https://", "https://u@a/", "https://a/#b", "https://a/ b", &long]
        {
            let message = probe_url(bad).expect_err("the URL is wrong");
            assert!(message.contains("https://fastly-test.example.com/ping"), "{bad}: {message}");
        }
    }

    proptest! {
        #[test]
        fn probe_url_when_text_is_arbitrary_then_read_without_panic(text in "(https?://)?.{0,40}") {
            if let Ok(url) = probe_url(&text) {
                prop_assert_eq!(probe_url(&url.to_string()), Ok(url));
            }
        }
    }
}
