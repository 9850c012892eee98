//! The simulated visitors: which paths they request, and how often.

use std::iter::repeat_with;
use std::sync::Arc;

use fastrand::Rng;
use http::HeaderValue;

use super::simulated_cdn::Visit;
use crate::cli::demo::site;

/// On average, one visitor out of this number requests a page that fails.
const FAILURE_EVERY: u32 = 200;
/// On average, one visitor out of this number does not accept gzip.
const PLAIN_EVERY: u32 = 20;

/// The values of Accept-Language, with their weights.
const LANGUAGES: [(&str, u32); 12] = [
    ("en-GB,en;q=0.9", 38),
    ("de-DE,de;q=0.9,en;q=0.5", 16),
    ("fr-FR,fr;q=0.9,en;q=0.4", 10),
    ("es-ES,es;q=0.9", 8),
    ("nl-NL,nl;q=0.9,en;q=0.7", 6),
    ("pl,en;q=0.5", 5),
    ("pt-BR,pt;q=0.9", 4),
    ("ja", 4),
    ("zh-CN,zh;q=0.9", 3),
    ("sv-SE,sv;q=0.9,en;q=0.8", 3),
    ("ar", 2),
    ("he-IL,he;q=0.9,en;q=0.5", 1),
];

/// The paths of the pages that fail. All paths are chosen equally often.
const FAILURES: [&str; 4] = ["/fail?status=500", "/fail?status=502", "/fail?status=503", "/fail?status=504"];

/// Chooses the CDN and the request of each visitor. The choices depend only on the seed and the weights of the CDNs.
#[derive(Debug)]
pub(super) struct Crowd {
    random: Rng,
    cdn_weights: Vec<u32>,
    paths: Vec<Arc<str>>,
    failures: [Arc<str>; FAILURES.len()],
    zipf: Zipf,
}

impl Crowd {
    pub(super) fn new(seed: u64, cdn_weights: Vec<u32>) -> Self {
        let paths: Vec<Arc<str>> = site::paths().into_iter().map(Arc::from).collect();
        let zipf = Zipf::new(paths.len());
        Self { random: Rng::with_seed(seed), cdn_weights, paths, failures: FAILURES.map(Arc::from), zipf }
    }

    /// Returns the index of the CDN and the request of the next visitor.
    pub(super) fn next_visit(&mut self) -> (usize, Visit) {
        let random = &mut self.random;
        let cdn = weighted(random, self.cdn_weights.iter().copied());
        let language = weighted(random, LANGUAGES.iter().map(|language| language.1));
        let language = LANGUAGES.get(language).map_or("en", |language| language.0);
        let gzip = random.u32(..PLAIN_EVERY) != 0;
        let path = if random.u32(..FAILURE_EVERY) == 0 {
            random.choice(&self.failures)
        } else {
            self.paths.get(self.zipf.draw(random))
        };
        let path = path.cloned().unwrap_or_else(|| Arc::from("/"));
        let accept = match &path {
            path if path.starts_with("/images/") => "image/avif,image/webp,image/*,*/*;q=0.8",
            path if path.starts_with("/assets/") || path.starts_with("/api/") => "*/*",
            _ => "text/html,application/xhtml+xml,*/*;q=0.8",
        };
        // These addresses are reserved for documentation (RFC 5737).
        let address = format!("198.51.100.{}", random.u8(1..255));
        let visit = Visit {
            path,
            gzip,
            accept: HeaderValue::from_static(accept),
            language: HeaderValue::from_static(language),
            address: HeaderValue::from_str(&address).unwrap_or_else(|_| HeaderValue::from_static("198.51.100.1")),
        };
        (cdn, visit)
    }
}

/// Returns a random index, chosen by weight.
fn weighted(random: &mut Rng, weights: impl Iterator<Item = u32> + Clone) -> usize {
    let mut point = random.u32(..weights.clone().sum::<u32>().max(1));
    for (index, weight) in weights.enumerate() {
        if point < weight {
            return index;
        }
        point -= weight;
    }
    0
}

/// Zipf's law with exponent 1: the n-th item is chosen 1/n times as often as the first item.
#[derive(Debug)]
struct Zipf {
    cumulative: Vec<f64>,
}

impl Zipf {
    fn new(items: usize) -> Self {
        let (mut rank, mut total) = (0.0, 0.0);
        let sums = repeat_with(|| {
            rank += 1.0;
            total += 1.0 / rank;
            total
        });
        Self { cumulative: sums.take(items).collect() }
    }

    /// Returns a random index, counted from 0.
    fn draw(&self, random: &mut Rng) -> usize {
        let point = random.f64() * self.cumulative.last().copied().unwrap_or(0.0);
        self.cumulative.partition_point(|&sum| sum <= point).min(self.cumulative.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_when_many_indexes_are_drawn_then_frequencies_follow_the_law() {
        let (zipf, mut random) = (Zipf::new(50), Rng::with_seed(7));
        let mut counts = [0_u32; 50];
        for _ in 0..100_000 {
            counts[zipf.draw(&mut random)] += 1;
        }
        // H(50) is the sum 1 + 1/2 + … + 1/50. The first item gets 1 ÷ H(50) = 22.2 % of the draws. The second item
        // gets half as many draws as the first item, and the last item gets a fiftieth as many draws as the first item.
        assert!((21_700..22_800).contains(&counts[0]), "{counts:?}");
        assert!((10_700..11_600).contains(&counts[1]), "{counts:?}");
        assert!((350..550).contains(&counts[49]), "{counts:?}");
        assert_eq!(Zipf::new(0).draw(&mut random), 0);
    }

    #[test]
    fn crowd_when_seed_is_repeated_then_repeats_the_visits() {
        let visits = |seed| {
            let mut crowd = Crowd::new(seed, vec![50, 30, 20]);
            (0..500)
                .map(|_| crowd.next_visit())
                .map(|(cdn, visit)| (cdn, visit.path, visit.language))
                .collect::<Vec<_>>()
        };
        assert_eq!(visits(3), visits(3));
        assert_ne!(visits(3), visits(4));
    }

    #[test]
    fn visits_when_many_then_cdns_follow_the_weights_and_few_paths_fail() {
        let mut crowd = Crowd::new(11, vec![50, 30, 20]);
        let (mut shares, mut failures) = ([0_u32; 3], 0_u32);
        for _ in 0..20_000 {
            let (cdn, visit) = crowd.next_visit();
            shares[cdn] += 1;
            failures += u32::from(visit.path.starts_with("/fail"));
        }
        for (share, weight) in shares.into_iter().zip([50, 30, 20]) {
            assert!(share.abs_diff(weight * 200) < 400, "{shares:?}");
        }
        assert!((50..160).contains(&failures), "{failures}");
    }
}
