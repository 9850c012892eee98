//! Decides which CDN pulls. The operator configures each CDN to send its provider's name in the identity header. If
//! that header is missing, the presets' signals decide. A signal is a header field by which a preset recognises the
//! pulls of its CDN. If the header contradicts the signals, the provider is `other`.
//!
//! **Place:** inside `observe`, which has checked the head; outside of every layer that depends on the provider.
//! **Reads:** the identity header (`identity.header`), the presets' signals, CDN-Loop, Via, and the fields by which the
//! provider's preset recognises shield pulls and health checks. This layer removes the identity header, because only
//! the leaf sends the provider to the origin, in X-CDN-Provider. Exception: if the identity header is X-CDN-Provider,
//! the leaf replaces or removes the header.
//! **Metrics:** none; `pulls` counts the pull under the provider.
//! **Cost:** one pass over the names of the header fields, and one lookup for each signal by which a shield pull or a
//! health check of the provider is recognised. **Can fail:** no.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use super::request::inspect::Inspect;
use super::request::{COUNT_OR_REJECT, Ctx, EdgeRequest};
use crate::cdn::known::Known;
use crate::cdn::preset::{Br, NAMES, Preset};
use crate::cdn::recognise::Recogniser;
use crate::ids::{ProviderId, Reason};
use crate::keys::grammar::{has_meaning, header_name};
use crate::keys::{Checked, Keys, Text, Visitor};
use crate::wire::head_fields::Fields;
use crate::wire::names::X_CDN_PROVIDER;

/// The keys of `[identity]` that this layer uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentifySettings {
    /// The name of the identity header.
    pub header: HeaderName,
    /// Whether the presets' signals are used. If the header is missing, the signals decide. If the header is present,
    /// the signals can contradict the header.
    pub recognise: bool,
    /// Whether pulls without a configured provider are refused.
    pub reject_unknown: bool,
}

impl Default for IdentifySettings {
    fn default() -> Self {
        Self { header: X_CDN_PROVIDER.clone(), recognise: true, reject_unknown: false }
    }
}

impl Keys for IdentifySettings {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.text("header", &IDENTITY_HEADER, &mut self.header);
        v.flag("recognise", &mut self.recognise);
        v.choice("unknown", &COUNT_OR_REJECT, &mut self.reject_unknown);
    }
}

const IDENTITY_HEADER: Text<HeaderName> =
    Text { example: "X-CDN-Provider", read: |text, _| identity_header(text), write: |name| name.as_str().to_owned() };

fn identity_header(text: &str) -> Checked<HeaderName> {
    let name = header_name(text)?;
    // A field that HTTP, CDNs or edgeshim use for another purpose is not allowed here. A provider's name in such a
    // field would break the message, or a proxy would remove the field.
    if has_meaning(&name) {
        return Err(
            "is a field that has another purpose; write a field that only the CDNs set, for example \"X-CDN-Provider\""
                .to_owned(),
        );
    }
    Ok(name)
}

/// The reason for the decision about the provider. Below, "header" means the identity header. If signals of several
/// CDNs match, "the signals" are the signals of the nearest CDN. The number in a variant is the position of a preset in
/// [`NAMES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// The header names a configured provider.
    Named,
    /// The header names no configured provider.
    UnknownName,
    /// Two lines of the header have different values.
    NamesDiffer,
    /// The header names a provider. No signal of the provider's own preset matches, but a signal of this preset
    /// matches.
    SignalsDiffer(usize),
    /// There is no header. The signals belong to this preset, and exactly one provider has this preset.
    Recognised(usize),
    /// There is no header. The signals belong to this preset, and no provider has this preset.
    NotConfigured(usize),
    /// There is no header. The signals belong to this preset, and several providers have this preset.
    Shared(usize),
    /// There is no header. Signals of several presets match, and CDN-Loop and Via do not show which CDN is the nearest.
    Unclear,
    /// There is no header. Either no signal matches, or `identity.recognise` is off.
    NoSignal,
}

/// Decides the provider of a pull.
#[derive(Debug)]
pub(crate) struct Identifier {
    settings: IdentifySettings,
    /// The configured providers, in the order of their ids.
    providers: Arc<[Known]>,
    recogniser: Option<Recogniser>,
    /// For each preset, how many configured providers have this preset: none, one or several. If one provider has the
    /// preset, the signals of the preset select this provider.
    by_preset: [Recognised; NAMES.len()],
}

#[derive(Debug, Clone, Copy)]
enum Recognised {
    None,
    One(ProviderId),
    Several,
}

impl Identifier {
    pub(crate) fn new(settings: IdentifySettings, providers: Arc<[Known]>) -> Self {
        let mut by_preset = [Recognised::None; NAMES.len()];
        for (position, known) in providers.iter().enumerate() {
            let place = NAMES.iter().position(|&name| name == known.preset.name);
            if let Some(entry) = place.and_then(|place| by_preset.get_mut(place)) {
                *entry = match entry {
                    Recognised::None => Recognised::One(ProviderId::configured(position)),
                    Recognised::One(_) | Recognised::Several => Recognised::Several,
                };
            }
        }
        let recogniser = settings.recognise.then(|| Recogniser::new(Preset::all()));
        Self { settings, providers, recogniser, by_preset }
    }

    /// Returns the provider of a pull and the reason. Several lines of the header with the same value count as one
    /// line.
    pub(crate) fn identify<'a>(&self, fields: impl Into<Fields<'a>>) -> (ProviderId, Why) {
        let fields = fields.into();
        let mut lines = fields.lines(&self.settings.header);
        let Some(first) = lines.next() else { return self.recognise(fields.headers()) };
        let name = first.as_bytes().trim_ascii();
        if lines.any(|other| !other.as_bytes().trim_ascii().eq_ignore_ascii_case(name)) {
            return (ProviderId::OTHER, Why::NamesDiffer);
        }
        let named = self.providers.iter().enumerate();
        match named.into_iter().find(|(_, known)| known.name.as_bytes().eq_ignore_ascii_case(name)) {
            Some((position, known)) => match self.contradicted(known.preset, fields) {
                Some(place) => (ProviderId::OTHER, Why::SignalsDiffer(place)),
                None => (ProviderId::configured(position), Why::Named),
            },
            None => (ProviderId::OTHER, Why::UnknownName),
        }
    }

    /// Writes the provider, its dialect and the kind of pull to `ctx`. If the pull has no configured provider and the
    /// settings refuse such pulls, marks the pull as refused. Removes the identity header, except X-CDN-Provider, which
    /// the leaf replaces or removes.
    fn admit(&self, headers: &mut HeaderMap, ctx: &mut Ctx) {
        let fields = ctx.fields(headers);
        let (provider, _) = self.identify(fields);
        let has_header = fields.can_have(&self.settings.header);
        ctx.provider = provider;
        match provider.position().and_then(|position| self.providers.get(position)) {
            Some(known) => {
                ctx.dialect = known.preset.dialect;
                ctx.takes_br = known.preset.br != Br::No;
                ctx.kind = known.preset.kind(fields);
            }
            None if self.settings.reject_unknown && ctx.refusal.is_none() => {
                ctx.refusal = Some(Reason::UnknownProvider);
            }
            None => {}
        }
        // The leaf removes X-CDN-Provider if the provider is not configured or not verified.
        if has_header && self.settings.header != X_CDN_PROVIDER {
            headers.remove(&self.settings.header);
        }
    }

    fn recognise(&self, headers: &HeaderMap) -> (ProviderId, Why) {
        let Some(recogniser) = &self.recogniser else { return (ProviderId::NONE, Why::NoSignal) };
        let found = recogniser.signals(headers);
        if found.is_empty() {
            return (ProviderId::NONE, Why::NoSignal);
        }
        let Some(place) = recogniser.nearest(found, headers) else { return (ProviderId::OTHER, Why::Unclear) };
        match self.by_preset.get(place) {
            Some(&Recognised::One(provider)) => (provider, Why::Recognised(place)),
            Some(Recognised::Several) => (ProviderId::OTHER, Why::Shared(place)),
            Some(Recognised::None) | None => (ProviderId::OTHER, Why::NotConfigured(place)),
        }
    }

    /// Returns the position of another preset whose signals match, if there is one. Returns `None` also if `preset` has
    /// no signals, if one of its signals is present, or if `identity.recognise` is off.
    fn contradicted(&self, preset: &Preset, fields: Fields<'_>) -> Option<usize> {
        let recogniser = self.recogniser.as_ref()?;
        if !preset.has_signals() || preset.has_signal_in(fields) {
            return None;
        }
        recogniser.signals(fields.headers()).positions().next()
    }
}

impl Inspect for Identifier {
    fn inspect(&self, request: &mut EdgeRequest) {
        let EdgeRequest { ctx, head, line, .. } = request;
        if let Some(line) = line {
            line.record.claimed = ctx.fields(&head.headers).get(&self.settings.header).cloned();
        }
        self.admit(&mut head.headers, ctx);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn identify(providers: &[(&str, &str)], recognise: bool, lines: &[(&str, &str)]) -> (ProviderId, Why) {
        let known = |&(name, preset): &(&str, &str)| Known {
            name: name.to_owned(),
            preset: Preset::named(preset).unwrap(),
            proofs: None,
        };
        let identifier = Identifier::new(
            IdentifySettings { recognise, ..IdentifySettings::default() },
            providers.iter().map(known).collect(),
        );
        let field = |&(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())
        };
        identifier.identify(&lines.iter().map(field).collect::<HeaderMap>())
    }

    const TWO: [(&str, &str); 2] = [("fastly", "fastly"), ("akamai", "akamai")];
    const NAME: &str = "x-cdn-provider";
    const FIRST: ProviderId = ProviderId(3);

    fn place(name: &str) -> usize {
        NAMES.iter().position(|&known| known == name).unwrap()
    }

    #[test]
    fn identity_header_when_name_is_configured_then_selects_the_provider_else_selects_other() {
        let who = |lines: &[&str]| {
            let lines: Vec<_> = lines.iter().map(|&line| (NAME, line)).collect();
            identify(&TWO, false, &lines).0
        };
        assert_eq!(who(&[]), ProviderId::NONE);
        assert_eq!(who(&["FastLY"]), ProviderId::configured(0));
        assert_eq!(who(&["akamai", "Akamai"]), ProviderId::configured(1));
        assert_eq!(who(&["akamai", "fastly"]), ProviderId::OTHER);
        for forged in ["", "none", "other", "unverified", "fastly, akamai", "fastlyy", "x"] {
            assert_eq!(who(&[forged]), ProviderId::OTHER, "{forged}");
        }
    }

    #[test]
    fn signals_when_identity_header_is_missing_then_decide_the_provider() {
        let (fastly, cloudflare) = (("fastly-ff", "a!LHR!c"), ("cf-ray", "8a1-FRA"));
        assert_eq!(identify(&TWO, true, &[fastly]), (FIRST, Why::Recognised(place("fastly"))));
        assert_eq!(identify(&TWO, false, &[fastly]), (ProviderId::NONE, Why::NoSignal));
        assert_eq!(identify(&TWO, true, &[cloudflare]), (ProviderId::OTHER, Why::NotConfigured(place("cloudflare"))));
        assert_eq!(identify(&TWO, true, &[cloudflare, fastly]), (ProviderId::OTHER, Why::Unclear));
        let shared = [("images", "fastly"), ("fastly", "fastly")];
        assert_eq!(identify(&shared, true, &[fastly]), (ProviderId::OTHER, Why::Shared(place("fastly"))));
        assert_eq!(identify(&TWO, true, &[("via", "1.1 squid")]), (ProviderId::NONE, Why::NoSignal));
    }

    #[test]
    fn identity_header_when_only_signals_of_another_cdn_match_then_provider_is_other() {
        let named = |preset: &str, lines: &[(&str, &str)]| {
            let lines: Vec<_> = [(NAME, "cdn")].iter().chain(lines).copied().collect();
            identify(&[("cdn", preset)], true, &lines)
        };
        let (fastly, cloudflare) = (("fastly-ff", "a!LHR!c"), ("cf-ray", "8a1-FRA"));
        assert_eq!(named("fastly", &[cloudflare]), (ProviderId::OTHER, Why::SignalsDiffer(place("cloudflare"))));
        for trusted in [&[][..], &[fastly], &[cloudflare, fastly]] {
            assert_eq!(named("fastly", trusted), (FIRST, Why::Named), "{trusted:?}");
        }
        assert_eq!(
            named("generic", &[cloudflare]),
            (FIRST, Why::Named),
            "a preset without signals cannot be contradicted"
        );
    }
}
