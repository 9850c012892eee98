//! Finds out from which CDN a pull comes, by the signals of the presets.
//!
//! A request can pass through several CDNs. Each CDN adds its own fields, and most CDNs pass on the fields of the CDNs
//! before them. The CDN that pulls is the CDN nearest to edgeshim. Only two fields show the order of the CDNs: CDN-Loop
//! (RFC 8586) and Via (RFC 9110 §7.6.3), because each hop appends its entry to these fields. If a request has signals
//! of several CDNs, and these fields do not show which CDN is the nearest, no CDN is recognised. A guess could count a
//! pull under the wrong CDN.

use http::{HeaderMap, HeaderName};

use super::preset::{MOST_HOPS, Preset, Test, hops, is_named, is_via};
use crate::wire::names::{CDN_LOOP, VIA};

/// A set of presets. Bit `n` represents the preset at position `n` in the list of all presets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Presets(u64);

// The set has one bit for each preset. With more than 64 presets the program does not compile.
const _: () = assert!(crate::cdn::preset::NAMES.len() <= u64::BITS as usize);

impl Presets {
    /// Returns whether the set is empty.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns whether the set contains the preset at `position`.
    pub(crate) fn contains(self, position: usize) -> bool {
        self.0 & Self::one(position).0 != 0
    }

    /// Returns the positions of the presets in the set.
    pub(crate) fn positions(self) -> impl Iterator<Item = usize> {
        (0..crate::cdn::preset::NAMES.len()).filter(move |&position| self.contains(position))
    }

    fn one(position: usize) -> Self {
        Self(1 << position)
    }

    fn insert(&mut self, others: Self) {
        self.0 |= others.0;
    }
}

/// The signals of all presets, arranged so that the signals of a field are found quickly.
#[derive(Debug)]
pub(crate) struct Recogniser {
    presets: &'static [Preset],
    /// The signals, grouped by the length of their field's name. The index is this length. For many fields of a request
    /// the group is empty, so no names are compared.
    by_length: Vec<Vec<FieldSignals>>,
}

/// The signals of all presets in one field.
#[derive(Debug)]
struct FieldSignals {
    field: HeaderName,
    /// The presets for which the presence of the field is the signal.
    present: Presets,
    /// The presets that are recognised by a name in this header field, each with the name. The value of the header
    /// field is a list.
    named: Vec<(Presets, String)>,
    /// The presets that are recognised by another test of the field's value, each with the test.
    tested: Vec<(Presets, Test)>,
}

impl FieldSignals {
    fn found_in(&self, headers: &HeaderMap) -> Presets {
        let mut found = self.present;
        if !self.named.is_empty() {
            let matches = if self.field == VIA { is_via } else { is_named };
            for member in hops(headers, &self.field) {
                for (preset, _) in self.named.iter().filter(|(_, name)| matches(member, name)) {
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

/// The number of chains. A chain is a field that shows the order of the CDNs. Index 0 is CDN-Loop, index 1 is Via.
const CHAINS: usize = 2;

/// For each preset and each chain, the position of the nearest hop with the preset's name. A higher position is nearer
/// to edgeshim. 0: the chain does not contain the preset.
type Order = [[u16; CHAINS]; crate::cdn::preset::NAMES.len()];

impl Recogniser {
    /// Prepares the signals of `presets`.
    pub(crate) fn new(presets: &'static [Preset]) -> Self {
        let mut by_length: Vec<Vec<FieldSignals>> = Vec::new();
        for (position, preset) in presets.iter().enumerate() {
            for signal in &preset.signals {
                let field = &signal.field.name;
                let length = field.as_str().len();
                if by_length.len() <= length {
                    by_length.resize_with(length + 1, Vec::new);
                }
                let signals = &mut by_length[length];
                let at = signals.iter().position(|signals| signals.field == *field).unwrap_or(signals.len());
                if at == signals.len() {
                    let present = Presets::default();
                    signals.push(FieldSignals { field: field.clone(), present, named: Vec::new(), tested: Vec::new() });
                }
                let of_field = &mut signals[at];
                match &signal.test {
                    Test::Present => of_field.present.insert(Presets::one(position)),
                    Test::Member(name) => of_field.named.push((Presets::one(position), name.clone())),
                    test => of_field.tested.push((Presets::one(position), test.clone())),
                }
            }
        }
        Self { presets, by_length }
    }

    /// Returns all presets that have a signal in the request.
    pub(crate) fn signals(&self, headers: &HeaderMap) -> Presets {
        let mut found = Presets::default();
        for name in headers.keys() {
            let signals = self.by_length.get(name.as_str().len()).map(Vec::as_slice).unwrap_or_default();
            if let Some(of_field) = signals.iter().find(|signals| signals.field == *name) {
                found.insert(of_field.found_in(headers));
            }
        }
        found
    }

    /// Returns the preset in `found` whose CDN is the nearest, as a position in the list of all presets. The nearest
    /// CDN sent the pull. Returns `None` if the request does not show which CDN is the nearest.
    pub(crate) fn nearest(&self, found: Presets, headers: &HeaderMap) -> Option<usize> {
        if found.0.is_power_of_two() {
            return found.positions().next();
        }
        let order = self.order(headers);
        let is_nearest =
            |&one: &usize| found.positions().all(|other| other == one || is_after(order[one], order[other]));
        found.positions().find(is_nearest)
    }

    fn order(&self, headers: &HeaderMap) -> Order {
        let mut order = Order::default();
        // Positions count down, because the nearest hop comes first. So a higher position means a nearer hop.
        let descending = || (1..=MOST_HOPS).rev();
        let members = descending().zip(hops(headers, &CDN_LOOP)).map(|(at, member)| (0, at, member));
        let entries = descending().zip(hops(headers, &VIA)).map(|(at, member)| (1, at, member));
        for (chain, at, member) in members.chain(entries) {
            for (index, preset) in self.presets.iter().enumerate() {
                let is_named_here = preset.signals.iter().any(|signal| match &signal.test {
                    Test::Member(name) if chain == 0 && signal.field.name == CDN_LOOP => is_named(member, name),
                    Test::Member(name) if chain == 1 && signal.field.name == VIA => is_via(member, name),
                    _ => false,
                });
                if is_named_here && let Some(positions) = order.get_mut(index) {
                    positions[chain] = at.max(positions[chain]);
                }
            }
        }
        order
    }
}

/// Returns whether the preset with the positions `one` is nearer than the preset with the positions `other`. At least
/// one chain must contain both presets, and in each such chain, the position in `one` must be the higher position.
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

    fn recognised(lines: &[&str]) -> &'static str {
        let recogniser = Recogniser::new(Preset::all());
        let headers = headers(lines);
        let found = recogniser.signals(&headers);
        if found.is_empty() {
            "none"
        } else {
            recogniser.nearest(found, &headers).map_or("unclear", |position| NAMES[position])
        }
    }

    #[test]
    fn cdn_when_request_has_a_signal_then_recognised() {
        for (lines, name) in [
            (&["fastly-ff: a!LHR!cache-1"][..], "fastly"),
            (&["cf-ray: 8a1-FRA"], "cloudflare"),
            (&["cdn-loop: cloudflare; subreqs=1"], "cloudflare"),
            (&["user-agent: Amazon CloudFront"], "cloudfront"),
            (&["via: 1.1 google"], "google"),
            (&["via: BunnyCDN"], "bunny"),
            (&["via: HTTP/1.1 ECS (ewr/15BD)"], "edgecast"),
            (&["user-agent: curl/8", "via: 1.1 squid", "cdn-loop: other"], "none"),
            (&["x-forwarded-for: 192.0.2.1"], "none"),
        ] {
            assert_eq!(recognised(lines), name, "{lines:?}");
        }
    }

    #[test]
    fn cdn_when_several_cdns_have_signals_then_recognised_only_if_the_nearest_is_clear() {
        for (lines, name) in [
            (&["cf-ray: 8a1-FRA", "cdn-loop: cloudflare, Fastly", "fastly-ff: a!LHR!c"][..], "fastly"),
            (&["cf-ray: 8a1-FRA", "cdn-loop: Fastly, cloudflare", "fastly-ff: a!LHR!c"], "cloudflare"),
            (&["cf-ray: 8a1-FRA", "cdn-loop: Fastly", "cdn-loop: cloudflare", "fastly-ff: a!LHR!c"], "cloudflare"),
            (&["via: 1.1 google, BunnyCDN"], "bunny"),
            (&["via: BunnyCDN", "via: 1.1 google"], "google"),
            // An unclosed quote makes only the member with the quote invalid, and empty members are ignored.
            (&["cf-ray: 8a1-FRA", "cdn-loop: \"cloudflare, Fastly", "cdn-loop: , ", "fastly-ff: a!LHR!c"], "unclear"),
            (&["cf-ray: 8a1-FRA", "cdn-loop: \", cloudflare, Fastly", "fastly-ff: a!LHR!c"], "fastly"),
            // Neither CDN-Loop nor Via contains both CDNs, so no field shows the order.
            (&["cf-ray: 8a1-FRA", "cdn-loop: cloudflare", "via: 1.1 google"], "unclear"),
            (&["cf-ray: 8a1-FRA", "fastly-ff: a!LHR!c"], "unclear"),
        ] {
            assert_eq!(recognised(lines), name, "{lines:?}");
        }
    }

    const FIELDS: [&str; 7] = ["via", "cdn-loop", "fastly-ff", "cf-ray", "user-agent", "x-azure-fdid", "cdn-loopcount"];

    proptest! {
        #[test]
        fn recognition_when_header_fields_are_arbitrary_then_no_panic_and_nearest_cdn_has_a_signal(
            lines in prop::collection::vec(
                (prop::sample::select(FIELDS.to_vec()), prop::collection::vec(32_u8..=255, 0..40)),
                0..8,
            ),
        ) {
            let line = |(name, value): (&'static str, Vec<u8>)| {
                Some((HeaderName::from_static(name), HeaderValue::from_bytes(&value).ok()?))
            };
            let headers: HeaderMap = lines.into_iter().filter_map(line).collect();
            let recogniser = Recogniser::new(Preset::all());
            let found = recogniser.signals(&headers);
            if let Some(position) = recogniser.nearest(found, &headers) {
                prop_assert!(found.contains(position));
                let preset = &Preset::all()[position];
                let _ = (preset.kind(&headers), preset.pop(&headers).as_str());
            }
        }
    }
}
