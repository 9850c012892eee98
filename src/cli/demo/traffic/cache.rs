//! A CDN's cache in small: what may be stored, for how long, and what goes when it is full.
//!
//! It reads the fields that the shim writes, each provider in its own dialect, and nothing else: an answer without a
//! lifetime is not stored, since a guess would make the demo's offload look better than the shim's words earned.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::wire::{names, vary};

/// What an entry takes beside its body and its path, roughly.
const ENTRY_BYTES: usize = 256;
/// The longest lifetime that is believed, in seconds (RFC 9111 §1.2.2 asks for no more).
const MAX_SECONDS: u64 = 1 << 31;

/// Which fields a CDN takes its lifetimes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Surrogate-Control's lifetime, else Cache-Control's; `private` and `no-store` of the latter hold, its
    /// `no-cache` does not.
    Fastly,
    /// Cloudflare-CDN-Cache-Control, else CDN-Cache-Control, else Cache-Control; the first one there speaks alone.
    Cloudflare,
    /// Cache-Control, and with a Vary only what is gzip.
    Akamai,
}

/// What was granted to one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    /// How long it is fresh; zero: to be asked for every time.
    pub(super) lifetime: Duration,
    /// How long after that it may stand in for a failure (RFC 5861 §4).
    pub(super) stale_if_error: Duration,
    /// It differs by Accept-Encoding.
    pub(super) by_encoding: bool,
}

impl Terms {
    /// What this CDN may do with an answer; `None`: not store it. `gzip` says whether its body is.
    pub(super) fn read(dialect: Dialect, status: StatusCode, headers: &HeaderMap, gzip: bool) -> Option<Self> {
        let storable = matches!(status.as_u16(), 200 | 203 | 301 | 308 | 404 | 410);
        if !storable || headers.contains_key(names::SET_COOKIE) {
            return None;
        }
        let mut by_encoding = gzip;
        for name in vary::names(headers) {
            if !name.eq_ignore_ascii_case(names::ACCEPT_ENCODING.as_str().as_bytes()) {
                return None;
            }
            by_encoding = true;
        }
        let cache_control = Control::read(headers, &names::CACHE_CONTROL);
        let control = match dialect {
            Dialect::Fastly => {
                let general = cache_control.unwrap_or_default();
                let own = Control::read(headers, &names::SURROGATE_CONTROL).unwrap_or_default();
                Control {
                    max_age: own.max_age.or(general.s_maxage).or(general.max_age),
                    s_maxage: None,
                    stale_if_error: own.stale_if_error.or(general.stale_if_error),
                    no_store: own.no_store || general.no_store || general.private,
                    ..Control::default()
                }
            }
            Dialect::Cloudflare => Control::read(headers, &names::CLOUDFLARE_CDN_CACHE_CONTROL)
                .or_else(|| Control::read(headers, &names::CDN_CACHE_CONTROL))
                .or(cache_control)?,
            Dialect::Akamai if by_encoding && !gzip => return None,
            Dialect::Akamai => cache_control?,
        };
        if control.no_store || control.private {
            return None;
        }
        let age = headers.get(names::AGE).and_then(|field| field.to_str().ok()).map_or(0, seconds);
        let granted = if control.no_cache { 0 } else { control.s_maxage.or(control.max_age)? };
        // RFC 9111 §5.2.2.10: s-maxage brings proxy-revalidate with it.
        let strict = control.must_revalidate || control.s_maxage.is_some();
        let stale_if_error = if strict { 0 } else { control.stale_if_error.unwrap_or(0) };
        let terms = Self {
            lifetime: Duration::from_secs(granted.saturating_sub(age)),
            stale_if_error: Duration::from_secs(stale_if_error),
            by_encoding,
        };
        let validator = headers.contains_key(names::ETAG) || headers.contains_key(names::LAST_MODIFIED);
        let useful = !terms.lifetime.is_zero() || validator || !terms.stale_if_error.is_zero();
        useful.then_some(terms)
    }

    /// Whether these fields speak of caching at all; a 304 that is silent leaves the old terms in force.
    pub(super) fn spoken(headers: &HeaderMap) -> bool {
        headers.contains_key(names::CACHE_CONTROL)
            || [&names::SURROGATE_CONTROL, &names::CDN_CACHE_CONTROL, &names::CLOUDFLARE_CDN_CACHE_CONTROL]
                .into_iter()
                .any(|name| headers.contains_key(name))
    }
}

/// The directives of all lines of one field; of one said twice the stricter holds.
#[derive(Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a directive by its own name")]
struct Control {
    max_age: Option<u64>,
    s_maxage: Option<u64>,
    stale_if_error: Option<u64>,
    no_store: bool,
    no_cache: bool,
    private: bool,
    must_revalidate: bool,
}

impl Control {
    /// `None`: the field is missing.
    fn read(headers: &HeaderMap, name: &HeaderName) -> Option<Self> {
        let mut lines = headers.get_all(name).iter().peekable();
        lines.peek()?;
        let mut control = Self::default();
        for line in lines {
            match line.to_str() {
                Ok(line) => directives(line).for_each(|(name, value)| control.take(name, value)),
                // Bytes that no directive has: better kept nowhere than kept wrongly.
                Err(_) => control.no_store = true,
            }
        }
        Some(control)
    }

    fn take(&mut self, name: &str, value: Option<&str>) {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        let stricter = |old: Option<u64>| {
            let new = value.map_or(0, seconds);
            Some(old.map_or(new, |old| old.min(new)))
        };
        if is("max-age") {
            self.max_age = stricter(self.max_age);
        } else if is("s-maxage") {
            self.s_maxage = stricter(self.s_maxage);
        } else if is("stale-if-error") {
            self.stale_if_error = stricter(self.stale_if_error);
        } else if is("no-store") {
            self.no_store = true;
        } else if is("no-cache") {
            self.no_cache = true;
        } else if is("private") {
            self.private = true;
        } else if is("must-revalidate") || is("proxy-revalidate") {
            self.must_revalidate = true;
        }
    }
}

/// `name` and `name=value`, separated by commas outside quotes; an open quote runs to the line's end.
fn directives(line: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let text = rest?;
        let (mut quoted, mut escaped) = (false, false);
        let end = text.bytes().position(|byte| match byte {
            _ if escaped => {
                escaped = false;
                false
            }
            b'\\' if quoted => {
                escaped = true;
                false
            }
            b'"' => {
                quoted = !quoted;
                false
            }
            byte => byte == b',' && !quoted,
        });
        let (item, after) = match end.and_then(|end| text.split_at_checked(end)) {
            Some((item, after)) => (item, after.strip_prefix(',')),
            None => (text, None),
        };
        rest = after;
        Some(match item.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim())),
            None => (item.trim(), None),
        })
    })
    .filter(|(name, _)| !name.is_empty())
}

/// RFC 9111 §1.2.2, quotes forgiven (§5.2); what is no number counts as none left (§4.2.1).
fn seconds(text: &str) -> u64 {
    let text = text.trim().trim_matches('"');
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return 0;
    }
    text.parse().unwrap_or(MAX_SECONDS).min(MAX_SECONDS)
}

/// One answer as it was kept.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    /// Its status.
    pub(super) status: StatusCode,
    /// Its body as pulled.
    pub(super) body: Bytes,
    /// Whether the body is gzip.
    pub(super) gzip: bool,
    /// For If-None-Match.
    pub(super) etag: Option<HeaderValue>,
    /// For If-Modified-Since.
    pub(super) last_modified: Option<HeaderValue>,
    /// What was granted.
    pub(super) terms: Terms,
}

/// What the cache knows of a path.
#[derive(Debug)]
pub(super) enum Found {
    /// May be handed out.
    Fresh(Stored),
    /// To be asked about first; `usable`: may be handed out if the origin fails.
    Stale {
        /// The old answer.
        stored: Stored,
        /// Its stale-if-error is not over.
        usable: bool,
    },
    /// Nothing.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Variant {
    Any,
    Gzip,
    Plain,
}

impl Variant {
    fn of(gzip: bool, terms: &Terms) -> Self {
        match (terms.by_encoding, gzip) {
            (false, _) => Self::Any,
            (true, true) => Self::Gzip,
            (true, false) => Self::Plain,
        }
    }
}

type Key = (Arc<str>, Variant);

#[derive(Debug)]
struct Entry {
    stored: Stored,
    fresh_until: Instant,
    used: u64,
}

/// The store of one CDN: bounded by bytes, the least lately used goes first.
#[derive(Debug)]
pub(super) struct Cache {
    entries: HashMap<Key, Entry>,
    by_use: BTreeMap<u64, Key>,
    uses: u64,
    held_bytes: usize,
    limit_bytes: usize,
}

impl Cache {
    /// An empty cache that holds about this many bytes.
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self { entries: HashMap::new(), by_use: BTreeMap::new(), uses: 0, held_bytes: 0, limit_bytes }
    }

    /// What there is for a visitor who does or does not take gzip.
    pub(super) fn find(&mut self, path: &Arc<str>, gzip: bool, now: Instant) -> Found {
        let own = (Arc::clone(path), if gzip { Variant::Gzip } else { Variant::Plain });
        let key = if self.entries.contains_key(&own) { own } else { (Arc::clone(path), Variant::Any) };
        let Some(entry) = self.entries.get_mut(&key) else {
            return Found::Nothing;
        };
        self.uses += 1;
        self.by_use.remove(&entry.used);
        self.by_use.insert(self.uses, key);
        entry.used = self.uses;
        let stored = entry.stored.clone();
        if now < entry.fresh_until {
            return Found::Fresh(stored);
        }
        let usable = now.saturating_duration_since(entry.fresh_until) < stored.terms.stale_if_error;
        Found::Stale { stored, usable }
    }

    /// Keeps an answer pulled for such a visitor, new or renewed, in place of what was there for the same visitors.
    pub(super) fn keep(&mut self, path: &Arc<str>, gzip: bool, stored: Stored, now: Instant) {
        self.forget(path, gzip);
        let key = (Arc::clone(path), Variant::of(gzip, &stored.terms));
        let weight = weight(&key, &stored);
        if weight > self.limit_bytes {
            return;
        }
        while self.held_bytes > self.limit_bytes - weight {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            self.drop_entry(&oldest);
        }
        self.uses += 1;
        self.held_bytes += weight;
        self.by_use.insert(self.uses, key.clone());
        // Each lifetime is at most 2³¹ s, which any clock here has room for; were it not so, the answer is stale at
        // once.
        let fresh_until = now.checked_add(stored.terms.lifetime).unwrap_or(now);
        self.entries.insert(key, Entry { stored, fresh_until, used: self.uses });
    }

    /// Forgets what such a visitor would have been given.
    pub(super) fn forget(&mut self, path: &Arc<str>, gzip: bool) {
        for variant in [if gzip { Variant::Gzip } else { Variant::Plain }, Variant::Any] {
            self.drop_entry(&(Arc::clone(path), variant));
        }
    }

    fn drop_entry(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.by_use.remove(&entry.used);
            self.held_bytes = self.held_bytes.saturating_sub(weight(key, &entry.stored));
        }
    }
}

fn weight(key: &Key, stored: &Stored) -> usize {
    stored.body.len().saturating_add(key.0.len()).saturating_add(ENTRY_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(lines: &[(&HeaderName, &str)]) -> HeaderMap {
        lines.iter().map(|&(name, value)| (name.clone(), HeaderValue::from_str(value).expect("value"))).collect()
    }

    fn lifetime(dialect: Dialect, lines: &[(&HeaderName, &str)]) -> Option<u64> {
        Terms::read(dialect, StatusCode::OK, &headers(lines), false).map(|terms| terms.lifetime.as_secs())
    }

    const ALL: [Dialect; 3] = [Dialect::Fastly, Dialect::Cloudflare, Dialect::Akamai];

    #[test]
    fn terms_when_no_store_or_private_keep_nothing() {
        for dialect in ALL {
            for line in ["no-store", "max-age=60, no-store", "private", "Private=\"a, b\" , max-age=60", "", "public"] {
                assert_eq!(lifetime(dialect, &[(&names::CACHE_CONTROL, line)]), None, "{dialect:?} {line}");
            }
            let two = [(&names::CACHE_CONTROL, "max-age=60"), (&names::CACHE_CONTROL, "no-store")];
            assert_eq!(lifetime(dialect, &two), None);
            let cookie = [(&names::CACHE_CONTROL, "max-age=60"), (&names::SET_COOKIE, "a=b")];
            assert_eq!(lifetime(dialect, &cookie), None);
            assert_eq!(lifetime(dialect, &[]), None);
        }
    }

    #[test]
    fn terms_when_s_maxage_is_there_take_it_over_max_age() {
        for dialect in ALL {
            assert_eq!(lifetime(dialect, &[(&names::CACHE_CONTROL, "max-age=5, s-maxage=\"90\"")]), Some(90));
            assert_eq!(lifetime(dialect, &[(&names::CACHE_CONTROL, "max-age=50"), (&names::AGE, "20")]), Some(30));
            assert_eq!(lifetime(dialect, &[(&names::CACHE_CONTROL, "max-age=99999999999999999999")]), Some(1 << 31));
        }
    }

    #[test]
    fn terms_when_a_field_is_for_one_cdn_are_read_by_that_cdn_alone() {
        let lines = [
            (&names::CACHE_CONTROL, "max-age=1"),
            (&names::SURROGATE_CONTROL, "max-age=2"),
            (&names::CLOUDFLARE_CDN_CACHE_CONTROL, "max-age=3"),
        ];
        assert_eq!(ALL.map(|dialect| lifetime(dialect, &lines)), [Some(2), Some(3), Some(1)]);
        let own = [(&names::CACHE_CONTROL, "no-store"), (&names::CLOUDFLARE_CDN_CACHE_CONTROL, "max-age=3")];
        assert_eq!(ALL.map(|dialect| lifetime(dialect, &own)), [None, Some(3), None]);
    }

    #[test]
    fn terms_when_vary_names_more_than_accept_encoding_keep_nothing() {
        let vary = |line| headers(&[(&names::CACHE_CONTROL, "max-age=9"), (&names::VARY, line)]);
        for dialect in ALL {
            for line in ["*", "Cookie", "Accept-Encoding, Accept-Language"] {
                assert_eq!(Terms::read(dialect, StatusCode::OK, &vary(line), true), None, "{dialect:?} {line}");
            }
            let kept = Terms::read(dialect, StatusCode::OK, &vary("accept-encoding"), true).expect("kept");
            assert!(kept.by_encoding);
        }
        assert_eq!(Terms::read(Dialect::Akamai, StatusCode::OK, &vary("Accept-Encoding"), false), None);
    }

    #[test]
    fn terms_when_the_status_is_a_failure_keep_nothing() {
        let long = headers(&[(&names::CACHE_CONTROL, "max-age=600")]);
        for status in [500, 502, 503, 599, 206, 302, 401] {
            let status = StatusCode::from_u16(status).expect("status");
            assert!(ALL.iter().all(|&dialect| Terms::read(dialect, status, &long, false).is_none()));
        }
    }

    #[test]
    fn terms_when_stale_if_error_meets_a_strict_word_drop_it() {
        let grace = |line| {
            let headers = headers(&[(&names::CACHE_CONTROL, line)]);
            Terms::read(Dialect::Akamai, StatusCode::OK, &headers, false).expect("kept").stale_if_error.as_secs()
        };
        assert_eq!(grace("max-age=1, stale-if-error=30"), 30);
        assert_eq!(grace("max-age=1, stale-if-error=30, must-revalidate"), 0);
        assert_eq!(grace("s-maxage=1, stale-if-error=30"), 0);
    }

    fn stored(size: usize, lifetime: u64, stale_if_error: u64, by_encoding: bool) -> Stored {
        Stored {
            status: StatusCode::OK,
            body: vec![0; size].into(),
            gzip: false,
            etag: None,
            last_modified: None,
            terms: Terms {
                lifetime: Duration::from_secs(lifetime),
                stale_if_error: Duration::from_secs(stale_if_error),
                by_encoding,
            },
        }
    }

    #[test]
    fn cache_when_the_lifetime_is_over_calls_it_stale_and_later_unusable() {
        let (mut cache, path, start) = (Cache::new(10_000), Arc::from("/a"), Instant::now());
        cache.keep(&path, true, stored(10, 5, 10, false), start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(matches!(cache.find(&path, false, at(4)), Found::Fresh(_)));
        assert!(matches!(cache.find(&path, true, at(5)), Found::Stale { usable: true, .. }));
        assert!(matches!(cache.find(&path, true, at(15)), Found::Stale { usable: false, .. }));
        cache.forget(&path, true);
        assert!(matches!(cache.find(&path, true, at(1)), Found::Nothing));
    }

    #[test]
    fn cache_when_the_answer_varies_keeps_one_copy_a_coding() {
        let (mut cache, path, now) = (Cache::new(10_000), Arc::from("/a"), Instant::now());
        cache.keep(&path, true, stored(10, 60, 0, true), now);
        assert!(matches!(cache.find(&path, false, now), Found::Nothing));
        cache.keep(&path, false, stored(20, 60, 0, true), now);
        let sizes = [true, false].map(|gzip| match cache.find(&path, gzip, now) {
            Found::Fresh(stored) => stored.body.len(),
            _ => 0,
        });
        assert_eq!(sizes, [10, 20]);
    }

    #[test]
    fn cache_when_full_drops_the_least_lately_used() {
        let (mut cache, now) = (Cache::new(4_000), Instant::now());
        let paths: Vec<Arc<str>> = ["/a", "/b", "/c", "/d"].map(Arc::from).into();
        for path in &paths[..3] {
            cache.keep(path, true, stored(1_000, 60, 0, false), now);
        }
        assert!(matches!(cache.find(&paths[0], true, now), Found::Fresh(_)));
        cache.keep(&paths[3], true, stored(1_000, 60, 0, false), now);
        let there = [0, 1, 2, 3].map(|place| matches!(cache.find(&paths[place], true, now), Found::Fresh(_)));
        assert_eq!(there, [true, false, true, true]);
        cache.keep(&paths[1], true, stored(4_000, 60, 0, false), now);
        assert!(matches!(cache.find(&paths[1], true, now), Found::Nothing));
    }

    proptest! {
        #[test]
        fn directives_when_given_any_text_end_and_name_only_what_is_there(line in "[ -~]{0,80}") {
            let all: Vec<_> = directives(&line).collect();
            prop_assert!(all.len() <= line.len());
            for (name, value) in all {
                prop_assert!(!name.is_empty() && line.contains(name));
                prop_assert!(value.is_none_or(|value| line.contains(value)));
            }
        }

        #[test]
        fn directives_when_joined_come_back(
            names in prop::collection::vec("[a-z-]{1,9}(=([0-9]{1,5}|\"[a-z, ]{0,6}\"))?", 0..6),
        ) {
            let line = names.join(" , ");
            let back: Vec<String> = directives(&line)
                .map(|(name, value)| value.map_or_else(|| name.to_owned(), |value| format!("{name}={value}")))
                .collect();
            prop_assert_eq!(back, names);
        }

        #[test]
        fn cache_when_used_at_random_never_holds_more_than_its_bound(
            steps in prop::collection::vec((0_u8..12, 0_usize..900, any::<bool>(), any::<bool>()), 0..60),
        ) {
            let (mut cache, now) = (Cache::new(3_000), Instant::now());
            for (path, size, gzip, by_encoding) in steps {
                let path = Arc::from(format!("/{path}"));
                cache.keep(&path, gzip, stored(size, 60, 0, by_encoding), now);
                let _ = cache.find(&path, !gzip, now);
                prop_assert!(cache.held_bytes <= 3_000);
                prop_assert_eq!(cache.entries.len(), cache.by_use.len());
                let held: usize = cache.entries.iter().map(|(key, entry)| weight(key, &entry.stored)).sum();
                prop_assert_eq!(cache.held_bytes, held);
            }
        }
    }
}
