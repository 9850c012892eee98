//! Which CDN a pull shows itself to come from, by the signals of the presets.
//!
//! Several CDNs may stand in a row, each with its own fields, and most pass on the fields of those before them. The one that pulled
//! is the nearest, and only two fields tell the order: CDN-Loop (RFC 8586) and Via (RFC 9110 §7.6.3), to which each hop appends. Where
//! they do not tell it, nobody is recognised: a guess would count one CDN's pulls as another's.

use http::{HeaderMap, HeaderName};

use super::preset::{MOST_HOPS, Preset, Test, hops, is_named, is_via};
use crate::wire::names::{CDN_LOOP, VIA};

/// A set of presets, by their place in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Presets(u64);

// A preset more than there are bits does not compile.
const _: () = assert!(crate::cdn::preset::NAMES.len() <= u64::BITS as usize);

impl Presets {
    /// Whether none is in it.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the one at `place` is in it.
    pub(crate) fn contains(self, place: usize) -> bool {
        self.0 & Self::one(place).0 != 0
    }

    /// The places of those in it.
    pub(crate) fn places(self) -> impl Iterator<Item = usize> {
        (0..crate::cdn::preset::NAMES.len()).filter(move |&place| self.contains(place))
    }

    fn one(place: usize) -> Self {
        Self(1 << place)
    }

    fn insert(&mut self, others: Self) {
        self.0 |= others.0;
    }
}

/// The signals of all presets, in the order in which a request is asked for them.
#[derive(Debug)]
pub(crate) struct Recogniser {
    presets: &'static [Preset],
    /// By the length of the field's name: nearly every field of a request is told apart by that.
    by_length: Vec<Vec<Sign>>,
}

/// One field, and who is recognised by it.
#[derive(Debug)]
struct Sign {
    field: HeaderName,
    /// Those of whom the field alone is a sign.
    present: Presets,
    /// Those who are named in a list, and how.
    named: Vec<(Presets, String)>,
    /// Those who have something else in it.
    tested: Vec<(Presets, Test)>,
}

impl Sign {
    fn found_in(&self, headers: &HeaderMap) -> Presets {
        let mut found = self.present;
        if !self.named.is_empty() {
            let is_its = if self.field == VIA { is_via } else { is_named };
            for member in hops(headers, &self.field) {
                for (preset, _) in self.named.iter().filter(|(_, name)| is_its(member, name)) {
                    found.insert(*preset);
                }
            }
        }
        if !self.tested.is_empty() {
            for line in headers.get_all(&self.field) {
                for (preset, _) in self.tested.iter().filter(|(_, test)| test.holds_in(line)) {
                    found.insert(*preset);
                }
            }
        }
        found
    }
}

/// The chains that tell an order, as indices of [`Order`].
const CHAINS: usize = 2;

/// Where each preset last stands in each chain; 0: nowhere.
type Order = [[u16; CHAINS]; crate::cdn::preset::NAMES.len()];

impl Recogniser {
    /// Recognises by the signals of `presets`.
    pub(crate) fn new(presets: &'static [Preset]) -> Self {
        let mut by_length: Vec<Vec<Sign>> = Vec::new();
        for (place, preset) in presets.iter().enumerate() {
            for signal in &preset.signals {
                let field = &signal.field.name;
                let length = field.as_str().len();
                if by_length.len() <= length {
                    by_length.resize_with(length + 1, Vec::new);
                }
                let signs = &mut by_length[length];
                let at = signs.iter().position(|sign| sign.field == *field).unwrap_or(signs.len());
                if at == signs.len() {
                    let present = Presets::default();
                    signs.push(Sign { field: field.clone(), present, named: Vec::new(), tested: Vec::new() });
                }
                let sign = &mut signs[at];
                match &signal.test {
                    Test::Present => sign.present.insert(Presets::one(place)),
                    Test::Member(name) => sign.named.push((Presets::one(place), name.clone())),
                    test => sign.tested.push((Presets::one(place), test.clone())),
                }
            }
        }
        Self { presets, by_length }
    }

    /// All presets of which the request carries a signal.
    pub(crate) fn signals(&self, headers: &HeaderMap) -> Presets {
        let mut found = Presets::default();
        for name in headers.keys() {
            let signs = self.by_length.get(name.as_str().len()).map(Vec::as_slice).unwrap_or_default();
            if let Some(sign) = signs.iter().find(|sign| sign.field == *name) {
                found.insert(sign.found_in(headers));
            }
        }
        found
    }

    /// Which of `found` pulled: the nearest. None where that cannot be told.
    pub(crate) fn nearest(&self, found: Presets, headers: &HeaderMap) -> Option<usize> {
        if found.0.is_power_of_two() {
            return found.places().next();
        }
        let order = self.order(headers);
        let is_nearest =
            |&place: &usize| found.places().all(|other| other == place || is_after(order[place], order[other]));
        found.places().find(is_nearest)
    }

    fn order(&self, headers: &HeaderMap) -> Order {
        let mut order = Order::default();
        // Where a hop stands, counted so that more is nearer: from the nearest, which comes first.
        let places_of = || (1..=MOST_HOPS).rev();
        let members = places_of().zip(hops(headers, &CDN_LOOP)).map(|(at, member)| (0, at, member));
        let entries = places_of().zip(hops(headers, &VIA)).map(|(at, member)| (1, at, member));
        for (chain, at, member) in members.chain(entries) {
            for (place, preset) in self.presets.iter().enumerate() {
                let stands_there = preset.signals.iter().any(|signal| match &signal.test {
                    Test::Member(name) if chain == 0 && signal.field.name == CDN_LOOP => is_named(member, name),
                    Test::Member(name) if chain == 1 && signal.field.name == VIA => is_via(member, name),
                    _ => false,
                });
                if stands_there && let Some(places) = order.get_mut(place) {
                    places[chain] = at.max(places[chain]);
                }
            }
        }
        order
    }
}

/// Whether one stands nearer than the other: in one chain at least, and in none the other way round.
fn is_after(one: [u16; CHAINS], other: [u16; CHAINS]) -> bool {
    let chains = || one.into_iter().zip(other).filter(|&(one, other)| one != 0 && other != 0);
    chains().next().is_some() && chains().all(|(one, other)| one > other)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;
    use crate::cdn::preset::NAMES;

    fn headers(lines: &[&str]) -> HeaderMap {
        let fields = lines.iter().map(|line| line.split_once(": ").unwrap());
        fields
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    fn who(lines: &[&str]) -> &'static str {
        let recogniser = Recogniser::new(Preset::all());
        let headers = headers(lines);
        let found = recogniser.signals(&headers);
        if found.is_empty() {
            "nobody"
        } else {
            recogniser.nearest(found, &headers).map_or("unclear", |place| NAMES[place])
        }
    }

    #[test]
    fn one_cdn_when_its_signs_are_there_is_recognised() {
        for (lines, name) in [
            (&["fastly-ff: a!LHR!cache-1"][..], "fastly"),
            (&["cf-ray: 8a1-FRA"], "cloudflare"),
            (&["cdn-loop: cloudflare; subreqs=1"], "cloudflare"),
            (&["user-agent: Amazon CloudFront"], "cloudfront"),
            (&["via: 1.1 google"], "google"),
            (&["via: BunnyCDN"], "bunny"),
            (&["via: HTTP/1.1 ECS (ewr/15BD)"], "edgecast"),
            (&["user-agent: curl/8", "via: 1.1 squid", "cdn-loop: other"], "nobody"),
            (&["x-forwarded-for: 192.0.2.1"], "nobody"),
        ] {
            assert_eq!(who(lines), name, "{lines:?}");
        }
    }

    #[test]
    fn several_cdns_in_a_row_are_told_by_their_order_or_not_at_all() {
        for (lines, name) in [
            (&["cf-ray: 8a1-FRA", "cdn-loop: cloudflare, Fastly", "fastly-ff: a!LHR!c"][..], "fastly"),
            (&["cf-ray: 8a1-FRA", "cdn-loop: Fastly, cloudflare", "fastly-ff: a!LHR!c"], "cloudflare"),
            (&["cf-ray: 8a1-FRA", "cdn-loop: Fastly", "cdn-loop: cloudflare", "fastly-ff: a!LHR!c"], "cloudflare"),
            (&["via: 1.1 google, BunnyCDN"], "bunny"),
            (&["via: BunnyCDN", "via: 1.1 google"], "google"),
            // A quote that is never closed, and an empty line: what somebody wrote hides nobody else.
            (&["cf-ray: 8a1-FRA", "cdn-loop: \"cloudflare, Fastly", "cdn-loop: , ", "fastly-ff: a!LHR!c"], "unclear"),
            (&["cf-ray: 8a1-FRA", "cdn-loop: \", cloudflare, Fastly", "fastly-ff: a!LHR!c"], "fastly"),
            // Nothing says who came first.
            (&["cf-ray: 8a1-FRA", "cdn-loop: cloudflare", "via: 1.1 google"], "unclear"),
            (&["cf-ray: 8a1-FRA", "fastly-ff: a!LHR!c"], "unclear"),
        ] {
            assert_eq!(who(lines), name, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn any_fields_are_judged_without_panic(
            lines in prop::collection::vec((
                prop::sample::select(vec!["via", "cdn-loop", "fastly-ff", "cf-ray", "user-agent", "x-azure-fdid", "cdn-loopcount"]),
                prop::collection::vec(32_u8..=255, 0..40).prop_filter_map("a field's value", |bytes| HeaderValue::from_bytes(&bytes).ok()),
            ), 0..8),
        ) {
            let headers: HeaderMap = lines.into_iter().map(|(name, value)| (HeaderName::from_static(name), value)).collect();
            let recogniser = Recogniser::new(Preset::all());
            let found = recogniser.signals(&headers);
            if let Some(place) = recogniser.nearest(found, &headers) {
                prop_assert!(found.contains(place));
                let preset = &Preset::all()[place];
                let _ = (preset.kind(&headers), preset.pop(&headers).as_str());
            }
        }
    }
}
