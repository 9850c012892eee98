//! Finds the reason of each pull: why a provider pulls an object. An object is a response that a provider can hold in
//! its cache. The host, the path, the query and the content coding identify an object.
//!
//! edgeshim cannot see the caches of the providers. So a table of fixed size stores, for each object and provider, the
//! end of the lifetime that edgeshim granted. The table is approximate: if too many objects need the same place, an
//! entry is lost. Then a later pull can get a wrong reason, for example `first` instead of `early`. The table has
//! 1,048,576 entries in 8 MiB and needs no lock. Each object of a provider needs at most three entries.
//!
//! Error rate: with 50,000 URLs and three providers, about 5 of 1,000,000 pulls get a wrong reason (see the test
//! below).

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use http::request;

use crate::cdn::grant::Grant;
use crate::ids::{ContentCoding, PullReason};
use crate::wire::head_fields::Fields;
use crate::wire::host::host;
use crate::wire::names::{IF_MODIFIED_SINCE, IF_NONE_MATCH, RANGE};

/// A part of the table. The hash of an object selects one bucket, and the object is searched only in this bucket. A
/// bucket has the size of one cache line of the processor. The upper half of an entry is a part of the object's hash.
/// The lower half is the second in which the object's lifetime ends. An entry that is 0 is free.
type Bucket = [AtomicU64; 8];

const BUCKETS: usize = 1 << 17;

/// The hashes of the parts of a URL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct UrlHash {
    /// The hash of the host and the path.
    pub(super) path: u64,
    /// The hash of the query. 0: the URL has no query.
    pub(super) query: u64,
}

/// The data of a pull from which its reason follows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pulled {
    pub url: UrlHash,
    /// A hash of the provider's name.
    pub provider: u64,
    pub coding: ContentCoding,
    pub wanted: Wanted,
    /// Whether the CDN can store the response: it was complete, and the method was GET.
    pub is_stored: bool,
    /// Whether the response is a 304 to a GET. A 304 does not name the coding, so the 304 renews the lifetimes of the
    /// object in all codings that are in the table.
    pub is_not_modified: bool,
    /// The lifetime that the response grants to the provider. `None` if the pull ended before the response, if edgeshim
    /// refused the pull, or if the method is neither GET nor HEAD.
    pub grant: Option<Grant>,
}

/// The part of an object that a request selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Whole,
    /// A part of the object: the request has Range.
    Slice,
    /// The object if it has changed: the request is conditional.
    Change,
}

impl Wanted {
    pub(crate) fn of(fields: Fields<'_>) -> Self {
        if fields.has(&RANGE) {
            Self::Slice
        } else if fields.has(&IF_NONE_MATCH) || fields.has(&IF_MODIFIED_SINCE) {
            Self::Change
        } else {
            Self::Whole
        }
    }
}

/// The table of the objects that the providers hold.
#[derive(Debug)]
pub(crate) struct Objects {
    buckets: Box<[Bucket]>,
    hashes: RandomState,
    start: Instant,
}

impl Default for Objects {
    fn default() -> Self {
        let buckets = (0..BUCKETS).map(|_| Bucket::default()).collect();
        Self { buckets, hashes: RandomState::new(), start: Instant::now() }
    }
}

impl Objects {
    /// Returns a hash of a provider's name.
    pub(crate) fn provider(&self, name: &str) -> u64 {
        self.hashes.hash_one(name)
    }

    /// Returns the hashes of the host, the path and the query of a request.
    pub(crate) fn url(&self, head: &request::Parts) -> UrlHash {
        UrlHash {
            path: self.hashes.hash_one((host(&head.headers), head.uri.path())),
            query: head.uri.query().map_or(0, |query| self.hashes.hash_one(query)),
        }
    }

    /// Returns the reason of a pull that has ended. If the provider can store the whole object, or if the response is a
    /// 304, also stores the end of the object's lifetime in the table. The lifetime begins at the time `now`.
    pub(crate) fn reason(&self, pulled: &Pulled, now: Instant) -> PullReason {
        let seconds = now.saturating_duration_since(self.start).as_secs();
        // The number of the first second is 1, because 0 marks a free entry.
        self.reason_at(pulled, u32::try_from(seconds).unwrap_or(u32::MAX).saturating_add(1))
    }

    fn reason_at(&self, pulled: &Pulled, now: u32) -> PullReason {
        let Some(Grant::Lifetime(seconds)) = pulled.grant else { return PullReason::Uncacheable };
        if pulled.wanted == Wanted::Slice {
            return PullReason::Slice;
        }
        let until = now.saturating_add(u32::try_from(seconds).unwrap_or(u32::MAX));
        if pulled.wanted == Wanted::Change {
            if pulled.is_not_modified {
                let known = ContentCoding::ALL.into_iter().map(|coding| Pulled { coding, ..*pulled });
                known.filter(|known| self.find(known.object()).entry.is_some()).for_each(|known| {
                    self.hold(self.find(known.object()), &known, until);
                });
            } else if pulled.is_stored {
                self.hold(self.find(pulled.object()), pulled, until);
            }
            return PullReason::Revalidation;
        }
        let found = self.find(pulled.object());
        let holds = |object| self.find(object).until() > now;
        let reason = match found.until() {
            0 if holds(pulled.any_query()) => PullReason::Variant,
            0 if holds(pulled.any_provider()) => PullReason::Elsewhere,
            0 => PullReason::First,
            until if until > now => PullReason::Early,
            _ => PullReason::Expired,
        };
        if pulled.is_stored {
            self.hold(found, pulled, until);
        }
        reason
    }

    /// Stores that the provider holds the object until the second `until`. `found` is the place of the object in the
    /// table.
    fn hold(&self, found: Found<'_>, pulled: &Pulled, until: u32) {
        found.put(until);
        for shared in [pulled.any_query(), pulled.any_provider()] {
            let found = self.find(shared);
            if found.until() < until {
                found.put(until);
            }
        }
    }

    /// Searches the table for the object with this hash.
    fn find(&self, object: u64) -> Found<'_> {
        let number = usize::try_from(object & 0xffff_ffff).unwrap_or(0) % BUCKETS;
        let bucket = self.buckets.get(number).unwrap_or(&self.buckets[0]);
        let tag = tag(object);
        // Relaxed ordering is enough, because no reader of an entry reads other memory that was written together with
        // the entry.
        let entry = bucket.iter().find(|entry| entry.load(Ordering::Relaxed) >> 32 == tag);
        Found { object, bucket, entry }
    }
}

/// The place of an object in the table.
#[derive(Clone, Copy)]
struct Found<'o> {
    object: u64,
    bucket: &'o Bucket,
    /// `None` if the object is not in the table.
    entry: Option<&'o AtomicU64>,
}

impl Found<'_> {
    /// Returns the second in which the lifetime of the object ends. 0: the object is not in the table.
    fn until(self) -> u32 {
        let entry = self.entry.map_or(0, |entry| entry.load(Ordering::Relaxed));
        u32::try_from(entry & u64::from(u32::MAX)).unwrap_or(0)
    }

    /// Writes the end of the lifetime into the object's entry. If the object has no entry, uses a free entry of the
    /// bucket. If no entry is free, replaces the entry of another object.
    fn put(self, until: u32) {
        let free = || self.bucket.iter().find(|entry| entry.load(Ordering::Relaxed) == 0);
        let other = || self.bucket.get(usize::try_from(self.object >> 61).unwrap_or(0));
        if let Some(entry) = self.entry.or_else(free).or_else(other) {
            entry.store(tag(self.object) << 32 | u64::from(until), Ordering::Relaxed);
        }
    }
}

/// Returns the part of an object's hash that an entry stores. This part is never 0, because an entry that is 0 is free.
fn tag(object: u64) -> u64 {
    (object >> 32) | 1
}

impl Pulled {
    /// Returns the hash of the object and its provider.
    fn object(&self) -> u64 {
        mix(mix(self.path_and_coding(), self.provider), self.url.query ^ 1)
    }

    /// Returns the hash of the entry that all queries of this path share. The entry has the latest end of the lifetimes
    /// of these queries at this provider.
    fn any_query(&self) -> u64 {
        mix(mix(self.path_and_coding(), self.provider), 2)
    }

    /// Returns the hash of the entry that all providers share for this object. The entry has the latest end of the
    /// object's lifetimes.
    fn any_provider(&self) -> u64 {
        mix(mix(self.path_and_coding(), 3), self.url.query ^ 1)
    }

    fn path_and_coding(&self) -> u64 {
        self.url.path.wrapping_add(self.coding.position() as u64)
    }
}

/// Combines two hashes.
fn mix(one: u64, other: u64) -> u64 {
    let product = u128::from(one ^ 0x9e37_79b9_7f4a_7c15) * u128::from(other ^ 0xd6e8_feb8_6659_fd93);
    let low = u64::try_from(product & u128::from(u64::MAX)).unwrap_or_default();
    low ^ u64::try_from(product >> 64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const NAMES: [&str; 3] = ["fastly", "akamai", "cloudflare"];

    fn pulled(objects: &Objects, provider: usize, target: &str) -> Pulled {
        let head = http::Request::builder().uri(target).header("host", "a.test").body(()).unwrap().into_parts().0;
        Pulled {
            url: objects.url(&head),
            provider: objects.provider(NAMES[provider]),
            coding: ContentCoding::Identity,
            wanted: Wanted::Whole,
            is_stored: true,
            is_not_modified: false,
            grant: Some(Grant::Lifetime(60)),
        }
    }

    #[test]
    fn reason_when_objects_were_pulled_before_then_depends_on_stored_lifetimes() {
        let objects = Objects::default();
        let at = |now, provider, target, change: fn(&mut Pulled)| {
            let mut pulled = pulled(&objects, provider, target);
            change(&mut pulled);
            objects.reason_at(&pulled, now).as_str()
        };
        let same = |_: &mut Pulled| {};
        assert_eq!(at(1, 0, "/a", same), "first");
        assert_eq!(at(60, 0, "/a", same), "early");
        assert_eq!(at(121, 0, "/a", same), "expired");
        assert_eq!(at(122, 0, "/a?x=1", same), "variant");
        assert_eq!(at(123, 0, "/a?x=1", same), "early");
        assert_eq!(at(124, 1, "/a", same), "elsewhere");
        assert_eq!(at(125, 1, "/b", same), "first");
        assert_eq!(at(126, 0, "/a", |pulled| pulled.coding = ContentCoding::Gzip), "first", "another coding");
        assert_eq!(at(127, 0, "/a", |pulled| pulled.wanted = Wanted::Slice), "slice");
        assert_eq!(at(128, 0, "/a", |pulled| pulled.grant = Some(Grant::Forbidden)), "uncacheable");
        assert_eq!(at(129, 0, "/a", |pulled| pulled.grant = None), "uncacheable");
        // A response to HEAD stores nothing, so the next GET has the reason `first` again.
        assert_eq!(at(130, 2, "/c", |pulled| pulled.is_stored = false), "first");
        assert_eq!(at(131, 2, "/c", same), "first");
        // A second pull of an object whose lifetime is 0 counts as `expired`.
        assert_eq!(at(132, 2, "/d", |pulled| pulled.grant = Some(Grant::Lifetime(0))), "first");
        assert_eq!(at(132, 2, "/d", same), "expired");
    }

    #[test]
    fn revalidation_when_object_is_unchanged_or_changed_then_renews_the_lifetime() {
        let objects = Objects::default();
        let mut get = pulled(&objects, 0, "/a");
        get.coding = ContentCoding::Gzip;
        assert_eq!(objects.reason_at(&get, 1), PullReason::First);
        let not_modified = Pulled {
            wanted: Wanted::Change,
            is_not_modified: true,
            coding: ContentCoding::Identity,
            is_stored: false,
            ..get
        };
        assert_eq!(objects.reason_at(&not_modified, 70), PullReason::Revalidation);
        assert_eq!(objects.reason_at(&get, 100), PullReason::Early, "the 304 must renew the lifetime until second 130");
        let modified = Pulled { wanted: Wanted::Change, ..get };
        assert_eq!(objects.reason_at(&modified, 200), PullReason::Revalidation);
        assert_eq!(objects.reason_at(&get, 201), PullReason::Early);
    }

    /// The exact table, with which the test compares [`Objects`]: for each provider, path and query, the second in
    /// which the lifetime ends.
    #[derive(Default)]
    struct Exact(HashMap<(usize, u32, u32), u32>);

    impl Exact {
        fn reason(&mut self, provider: usize, path: u32, query: u32, now: u32, seconds: u32) -> PullReason {
            let holds = |key: (usize, u32, u32)| self.0.get(&key).is_some_and(|until| *until > now);
            let key = (provider, path, query);
            let reason = match self.0.get(&key) {
                Some(until) if *until > now => PullReason::Early,
                Some(_) => PullReason::Expired,
                None if (0..4).any(|query| holds((provider, path, query))) => PullReason::Variant,
                None if (0..3).any(|provider| holds((provider, path, query))) => PullReason::Elsewhere,
                None => PullReason::First,
            };
            self.0.insert(key, now + seconds);
            reason
        }
    }

    #[test]
    fn reason_counts_when_50000_urls_are_pulled_then_are_within_1_percent_of_exact_table() {
        const PULLS: u32 = 1_000_000;
        let objects = Objects::default();
        let mut exact = Exact::default();
        let mut random = fastrand::Rng::with_seed(1);
        let paths: Vec<_> = (0..12_500_u32).map(|path| objects.hashes.hash_one(path)).collect();
        let providers = NAMES.map(|name| objects.provider(name));
        let mut counts: HashMap<&str, [u64; 2]> = HashMap::new();
        let mut different = 0;
        for pull in 0..PULLS {
            let now = 1 + pull / 500;
            // Paths with small numbers are pulled more often than paths with large numbers.
            let path = random.u32(0..12_500).min(random.u32(0..12_500)).min(random.u32(0..12_500));
            let (provider, query, seconds) = (random.usize(0..3), random.u32(0..4), 60 + path % 600);
            let pulled = Pulled {
                url: UrlHash { path: paths[path as usize], query: u64::from(query) * 0x1234_5678_9abc_def1 },
                provider: providers[provider],
                grant: Some(Grant::Lifetime(seconds.into())),
                ..pulled(&objects, 0, "/")
            };
            let approximate = objects.reason_at(&pulled, now);
            let truth = exact.reason(provider, path, query, now, seconds);
            counts.entry(approximate.as_str()).or_default()[0] += 1;
            counts.entry(truth.as_str()).or_default()[1] += 1;
            different += u32::from(approximate != truth);
        }
        println!("{counts:?}; {different} of {PULLS} pulls have another reason");
        for (reason, [approximate, truth]) in &counts {
            assert!(approximate.abs_diff(*truth) * 100 <= *truth, "{reason}: {approximate} pulls instead of {truth}");
        }
        assert!(counts.len() == 5 && different < PULLS / 1000, "{different} pulls have another reason");
    }
}
