//! Lists the URLs that are pulled most. For each URL, the list has the number of pulls, of bytes, of providers and of
//! different queries. It also has the number of early pulls, which came while the provider still held the object.
//!
//! Each worker has a list of bounded size, so that a pull never waits for another worker. The list is a Misra-Gries
//! summary: when the list is full, the median of the counts is subtracted from all counts, and entries whose count
//! becomes 0 are removed. Each subtraction takes the whole median from at least half of the entries. So the count of a
//! URL lacks at most one pull for every [`HALF`] pulls of the list. [`Generation::error`] is the exact bound.
//! Counts are kept for two generations: the current ten minutes and the ten minutes before. So while pulls arrive, a
//! list covers the last 10 to 20 minutes.
//!
//! A URL is the host and the path, cut to [`URL_BYTES`]. The list has no queries, because queries can contain personal
//! data. The list has only an estimate of the number of different queries. Memory: at most 1.6 MiB for each worker.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use http::request;

use super::objects::UrlHash;
use crate::ids::ProviderId;
use crate::wire::host::host;
use crate::wire::values::cut;

/// Half of the largest number of entries of one generation.
const HALF: usize = 1024;
/// The longest URL in the list, in bytes.
const URL_BYTES: usize = 256;
/// The time after which a new generation of a list begins.
const PERIOD: Duration = Duration::from_mins(10);
/// The number of bits from which the number of different queries of a URL is estimated.
const QUERY_BITS: u32 = 64;

/// One URL of the list.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TopUrl {
    /// The host and the path.
    pub url: String,
    /// The number of pulls. The true number can be larger, by at most the error that [`Tops::top`] returns.
    pub pulls: u64,
    /// The bytes of these pulls. After a purge or a change of the generation, the bytes and the early pulls are
    /// estimates.
    pub bytes: u64,
    /// The number of providers that pulled the URL.
    pub providers: u32,
    /// The number of pulls with the reason `early`: the provider still held the object.
    pub early: u64,
    /// An estimate of the number of different queries. Pulls without a query count as one query. The estimate is at
    /// most 311.
    pub queries: u32,
}

/// The lists of all workers. All configurations share this value. After a configuration swap, each worker begins a new
/// list.
#[derive(Debug, Default)]
pub(crate) struct Tops {
    lists: Mutex<Vec<Weak<TopList>>>,
}

/// The list of one worker.
#[derive(Debug)]
pub(crate) struct TopList {
    /// The current generation, and the generation before the current generation.
    generations: Mutex<[Generation; 2]>,
}

/// The counts of a list for one [`PERIOD`].
#[derive(Debug)]
struct Generation {
    urls: HashMap<u64, Counted, BuildHasherDefault<Unhashed>>,
    begun: Instant,
    /// The sum of the medians that were subtracted from the counts.
    error: u64,
}

#[derive(Debug, Clone)]
struct Counted {
    url: Box<str>,
    pulls: u64,
    bytes: u64,
    early: u64,
    /// A bit for each provider. The providers from position 63 on share one bit.
    providers: u64,
    /// A bit for each group of queries. The hash of a query selects its group.
    queries: u64,
}

/// A hasher for keys that are hashes already.
#[derive(Debug, Default)]
struct Unhashed(u64);

impl Hasher for Unhashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl Generation {
    fn new() -> Self {
        Self { urls: HashMap::default(), begun: Instant::now(), error: 0 }
    }

    /// Subtracts the median of the counts from all counts, and removes the URLs whose count becomes 0. Reduces the
    /// bytes and the early pulls of a URL in the same ratio as its pulls.
    fn purge(&mut self) {
        let mut counts: Vec<_> = self.urls.values().map(|counted| counted.pulls).collect();
        let middle = counts.len() / 2;
        let (_, &mut median, _) = counts.select_nth_unstable(middle);
        // The remaining URLs move to a new table. In the old table, the places of removed URLs would stay in use, and
        // the size of the table would double.
        let full = std::mem::replace(&mut self.urls, HashMap::with_capacity_and_hasher(2 * HALF, <_>::default()));
        self.urls.extend(full.into_iter().filter_map(|(url, mut counted)| {
            let before = counted.pulls;
            counted.pulls = before.saturating_sub(median);
            counted.bytes = scaled(counted.bytes, counted.pulls, before);
            counted.early = scaled(counted.early, counted.pulls, before);
            (counted.pulls > 0).then_some((url, counted))
        }));
        self.error += median;
    }
}

impl TopList {
    fn new() -> Self {
        Self { generations: Mutex::new([Generation::new(), Generation::new()]) }
    }

    fn generations(&self) -> MutexGuard<'_, [Generation; 2]> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a pull that arrives at the time `now`.
    pub(crate) fn begin(&self, url: UrlHash, provider: ProviderId, head: &request::Parts, now: Instant) {
        let mut generations = self.generations();
        let [current, previous] = &mut *generations;
        if now.saturating_duration_since(current.begun) >= PERIOD {
            *previous = std::mem::replace(current, Generation::new());
        }
        if current.urls.len() >= 2 * HALF && !current.urls.contains_key(&url.path) {
            current.purge();
        }
        let counted = current.urls.entry(url.path).or_insert_with(|| Counted {
            url: text(head).into(),
            pulls: 0,
            bytes: 0,
            early: 0,
            providers: 0,
            queries: 0,
        });
        counted.pulls += 1;
        counted.providers |= 1 << provider.index().min(63);
        counted.queries |= 1 << (url.query % u64::from(QUERY_BITS));
    }

    /// Adds the bytes of a pull that has ended, and whether its reason is `early`. Does nothing if the current
    /// generation does not contain the URL.
    pub(crate) fn end(&self, url: UrlHash, bytes: u64, is_early: bool) {
        if let Some(counted) = self.generations()[0].urls.get_mut(&url.path) {
            counted.bytes = counted.bytes.saturating_add(bytes);
            counted.early += u64::from(is_early);
        }
    }
}

impl Tops {
    /// Returns a new list for a worker. When the worker drops the list, the counts of the list are lost.
    pub(crate) fn list(&self) -> Arc<TopList> {
        let list = Arc::new(TopList::new());
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        lists.retain(|list| list.strong_count() > 0);
        lists.push(Arc::downgrade(&list));
        list
    }

    /// Returns at most `most` URLs. The URLs with the most pulls come first. Also returns the error: the largest number
    /// of pulls that each count can lack.
    pub(crate) fn top(&self, most: usize) -> (Vec<TopUrl>, u64) {
        let lists: Vec<_> = {
            let lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
            lists.iter().filter_map(Weak::upgrade).collect()
        };
        let (mut merged, mut error) = (HashMap::<u64, Counted>::new(), 0);
        for list in lists {
            for generation in &*list.generations() {
                error += generation.error;
                for (url, counted) in &generation.urls {
                    let sum = merged.entry(*url).or_insert_with(|| Counted {
                        pulls: 0,
                        bytes: 0,
                        early: 0,
                        ..counted.clone()
                    });
                    sum.pulls += counted.pulls;
                    sum.bytes = sum.bytes.saturating_add(counted.bytes);
                    sum.early += counted.early;
                    sum.providers |= counted.providers;
                    sum.queries |= counted.queries;
                }
            }
        }
        let mut urls: Vec<_> = merged.into_values().collect();
        urls.sort_unstable_by(|one, other| other.pulls.cmp(&one.pulls).then_with(|| one.url.cmp(&other.url)));
        urls.truncate(most);
        let shown = |counted: Counted| TopUrl {
            pulls: counted.pulls,
            bytes: counted.bytes,
            providers: counted.providers.count_ones(),
            // The early pulls could exceed the pulls: a pull that was in flight during a purge is counted as early only
            // after the purge has reduced the pulls.
            early: counted.early.min(counted.pulls),
            queries: different(counted.queries.count_ones()),
            url: counted.url.into(),
        };
        (urls.into_iter().map(shown).collect(), error)
    }
}

/// Returns `count * part / whole`, without overflow. The result is 0 if `whole` is 0.
fn scaled(count: u64, part: u64, whole: u64) -> u64 {
    let product = u128::from(count) * u128::from(part);
    u64::try_from(product.checked_div(u128::from(whole)).unwrap_or(0)).unwrap_or(u64::MAX)
}

/// Estimates the number of different queries from the number of bits that the queries have set (linear counting).
fn different(set: u32) -> u32 {
    let free = f64::from(QUERY_BITS - set).max(0.5);
    let bits = f64::from(QUERY_BITS);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the estimate is between 0 and 311")]
    let estimate = (-bits * (free / bits).ln()).round() as u32;
    estimate
}

/// Returns the host and the path of a request.
fn text(head: &request::Parts) -> String {
    let host = str::from_utf8(host(&head.headers)).unwrap_or_default();
    let mut text = cut(host, URL_BYTES).to_owned();
    text.push_str(cut(head.uri.path(), URL_BYTES - text.len()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::request::objects::Objects;

    fn head(target: &str) -> request::Parts {
        http::Request::builder().uri(target).header("host", "a.test").body(()).unwrap().into_parts().0
    }

    fn pull(list: &TopList, objects: &Objects, provider: usize, target: &str, bytes: u64) {
        let head = head(target);
        let url = objects.url(&head);
        list.begin(url, ProviderId::configured(provider), &head, Instant::now());
        list.end(url, bytes, bytes > 100);
    }

    #[test]
    fn top_list_when_two_workers_count_the_same_url_then_adds_the_counts() {
        let (tops, objects) = (Tops::default(), Objects::default());
        let lists = [tops.list(), tops.list()];
        // The hash of a query has a random key. The bits of the three queries must differ. "/a" has no query, so its
        // bit is 0.
        let bit = |target: &str| objects.url(&head(target)).query % u64::from(QUERY_BITS);
        let targets = (0..).map(|number| format!("/a?x={number}"));
        let with_bit = targets.map(|target| (bit(&target), target)).filter(|(bit, _)| *bit != 0);
        let mut with_bit = with_bit.take(1000).collect::<Vec<_>>();
        with_bit.dedup_by_key(|(bit, _)| *bit);
        pull(&lists[0], &objects, 0, &with_bit[0].1, 10);
        pull(&lists[0], &objects, 1, &with_bit[1].1, 200);
        pull(&lists[1], &objects, 1, "/a", 30);
        pull(&lists[1], &objects, 1, "/b", 1);
        let (urls, error) = tops.top(10);
        let a = TopUrl { url: "a.test/a".to_owned(), pulls: 3, bytes: 240, providers: 2, early: 1, queries: 3 };
        let b = TopUrl { url: "a.test/b".to_owned(), pulls: 1, bytes: 1, providers: 1, early: 0, queries: 1 };
        assert_eq!((urls, error), (vec![a.clone(), b], 0));
        assert_eq!(tops.top(1).0, [a]);
        drop(lists);
        assert_eq!(tops.top(10), (Vec::new(), 0));
    }

    #[test]
    fn list_when_urls_exceed_the_entries_then_is_bounded_and_keeps_the_most_pulled_url() {
        let (tops, objects) = (Tops::default(), Objects::default());
        let list = tops.list();
        for number in 0..40_000 {
            pull(&list, &objects, 0, &format!("/unique/{number}"), 1);
            if number % 10 == 0 {
                pull(&list, &objects, 0, "/popular", 1);
            }
        }
        let (urls, error) = tops.top(5);
        assert_eq!(urls[0].url, "a.test/popular");
        assert!(error > 0 && error <= 44_000 / HALF as u64, "{error}");
        assert!(urls[0].pulls <= 4000 && urls[0].pulls + error >= 4000, "{urls:?} {error}");
        assert!(list.generations()[0].urls.len() <= 2 * HALF);
    }

    #[test]
    fn url_when_counts_are_purged_then_ratios_of_bytes_and_early_pulls_to_pulls_stay() {
        let (tops, objects) = (Tops::default(), Objects::default());
        let list = tops.list();
        for number in 0..40_000 {
            pull(&list, &objects, 0, &format!("/unique/{number}"), 1);
            if number % 10 == 0 {
                // Half of the pulls are early.
                pull(&list, &objects, 0, "/popular", if number % 20 == 0 { 50 } else { 150 });
            }
        }
        let (urls, error) = tops.top(1);
        #[allow(clippy::cast_precision_loss, reason = "the counts are small")]
        let ratio = |count: u64| count as f64 / urls[0].pulls as f64;
        assert!(error > 0 && urls[0].pulls < 4000, "{urls:?} {error}");
        assert!((ratio(urls[0].bytes) - 100.0).abs() < 2.0 && (ratio(urls[0].early) - 0.5).abs() < 0.02, "{urls:?}");
        assert_eq!([scaled(u64::MAX, 1, 2), scaled(7, 0, 3), scaled(7, 3, 0)], [u64::MAX / 2, 0, 0]);
    }

    #[test]
    fn early_pull_when_ended_after_a_purge_then_early_pulls_do_not_exceed_pulls() {
        let (tops, objects) = (Tops::default(), Objects::default());
        let (list, head) = (tops.list(), head("/a"));
        let url = objects.url(&head);
        let begin = || list.begin(url, ProviderId::NONE, &head, Instant::now());
        (0..3).for_each(|_| begin());
        pull(&list, &objects, 0, "/b", 1);
        list.generations()[0].purge();
        begin();
        (0..4).for_each(|_| list.end(url, 1, true));
        let (urls, _) = tops.top(1);
        assert_eq!((urls[0].pulls, urls[0].early), (1, 1));
    }

    /// Returns the memory of a list, in bytes.
    fn memory(list: &TopList) -> usize {
        let generations = list.generations();
        let table = |one: &Generation| one.urls.capacity() * 8 / 7 * (size_of::<(u64, Counted)>() + 1);
        let urls = |one: &Generation| one.urls.values().map(|counted| counted.url.len()).sum::<usize>();
        generations.iter().map(|one| table(one) + urls(one)).sum()
    }

    /// Counts pulls of different URLs, and returns the largest memory of the list.
    fn largest_memory(urls: u32) -> usize {
        let (tops, objects) = (Tops::default(), Objects::default());
        let (list, mut largest) = (tops.list(), 0);
        let path = "x".repeat(URL_BYTES);
        for number in 0..urls {
            if number == urls / 2 {
                // A new generation begins, so that both generations are full.
                list.generations()[0].begun = Instant::now().checked_sub(PERIOD).unwrap();
            }
            pull(&list, &objects, 0, &format!("/{number}/{path}?{number}"), 1);
            if number % 64 == 0 {
                largest = largest.max(memory(&list));
            }
        }
        largest
    }

    #[test]
    fn memory_when_urls_are_distinct_then_stays_below_the_stated_bound() {
        for urls in [10_000, 200_000] {
            let bytes = largest_memory(urls);
            assert!((1 << 20..16 * (1 << 20) / 10).contains(&bytes), "{bytes} bytes with {urls} URLs");
        }
    }

    #[test]
    #[ignore = "takes a minute; run it with: cargo test --release --lib memory_when -- --ignored"]
    fn memory_when_10_million_urls_are_distinct_then_stays_below_the_stated_bound() {
        let bytes = largest_memory(10_000_000);
        assert!((1 << 20..16 * (1 << 20) / 10).contains(&bytes), "{bytes} bytes");
    }

    #[test]
    fn url_when_longer_than_256_bytes_then_truncated() {
        let text = text(&head(&format!("/{}", "x".repeat(1000))));
        assert_eq!(text.len(), URL_BYTES);
        assert!(text.starts_with("a.test/xxx"));
    }

    #[test]
    fn query_estimate_when_bits_are_set_then_equals_the_result_of_linear_counting() {
        assert_eq!([0, 1, 2, 32, 64].map(different), [0, 1, 2, 44, 311]);
    }

    #[test]
    fn top_list_when_a_period_ends_then_counts_the_last_two_periods() {
        let (tops, objects) = (Tops::default(), Objects::default());
        let list = tops.list();
        let head = head("/a");
        let url = objects.url(&head);
        let start = Instant::now();
        let provider = ProviderId::NONE;
        list.begin(url, provider, &head, start);
        list.generations()[0].begun = start;
        list.begin(url, provider, &head, start + PERIOD);
        assert_eq!(tops.top(1).0[0].pulls, 2);
        list.generations()[0].begun = start + PERIOD;
        list.begin(url, provider, &head, start + PERIOD * 2);
        assert_eq!(tops.top(1).0[0].pulls, 2, "the pull of the first period must not be counted any more");
    }
}
