//! The reason why each field line is present or was removed, by layer and field name. If there is no text for a layer,
//! the name of the layer is shown as the reason.

use std::borrow::Cow;

use http::HeaderName;

use super::trace::Trace;
use crate::cdn::dialect::Dialect;
use crate::cdn::tags::TagRule;
use crate::edge::cache_control::outcome::{Action, Guard, Outcome};
use crate::edge::request::class::CacheMode;
use crate::wire::cache_fields::CacheField;
use crate::wire::cache_tags;
use crate::wire::forwarded::Trail;
use crate::wire::names::{
    ACCEPT_ENCODING, ACCEPT_RANGES, AGE, AKAMAI_CACHE_CONTROL, CACHE_CONTROL, CDN_LOOP, CONNECTION, CONTENT_ENCODING,
    CONTENT_LENGTH, COOKIE, ETAG, EXPIRES, FORWARDED, HOST, IF_MATCH, IF_NONE_MATCH, IF_RANGE, PRAGMA, PROXY_STATUS,
    RANGE, REFERER, RETRY_AFTER, SERVER_TIMING, SET_COOKIE, TE, TRACEPARENT, TRACESTATE, UPGRADE, VARY, VIA,
    X_CDN_PROVIDER, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, X_REQUEST_ID,
};

pub(super) const AS_SENT: &str = "as sent";
const REWRITTEN: &str = "rewritten as above";
const HOP_BY_HOP: &str = "hop-by-hop (RFC 9110 §7.6.1)";

type Reason = Cow<'static, str>;

/// The name of the service below all layers, which sends the request to the origin.
pub(super) const LEAF: &str = "leaf";

/// The facts that decide the reasons for a request's fields.
pub(super) struct Incoming<'a> {
    pub(super) trail: Trail,
    /// The name of the identity header.
    pub(super) identity: &'a HeaderName,
    /// Whether the Host was assumed because no argument contains a Host.
    pub(super) host_assumed: bool,
    /// Whether `origin.host` is set.
    pub(super) host_set: bool,
}

impl Incoming<'_> {
    /// Returns the reason why a field line goes to the origin.
    pub(super) fn there(&self, name: &HeaderName, layer: Option<&'static str>) -> Reason {
        match layer {
            None if self.host_assumed && *name == HOST => "assumed; set another with --request-header".into(),
            None => AS_SENT.into(),
            Some("observe") if *name == X_REQUEST_ID => "one id for the origin, the log and the page".into(),
            Some("observe") if *name == TRACEPARENT => "new, because the request has no valid traceparent".into(),
            Some("assign") if *name == REFERER => "without the parameter of an override, which has a secret".into(),
            Some("assign") => "the visitor's arm ([[experiment]])".into(),
            Some("gzip") if *name == ACCEPT_ENCODING => "no coding, so that all ranges come from the same bytes".into(),
            Some("gzip") if *name == IF_MATCH => "made strong: a weak tag never matches here (RFC 9110 §13.1.1)".into(),
            Some("gzip") if *name == IF_NONE_MATCH => {
                "made strong again, because the origin sent the tag as strong".into()
            }
            Some(LEAF) => self.written(name).into(),
            Some(layer) => format!("set by {layer}").into(),
        }
    }

    fn written(&self, name: &HeaderName) -> &'static str {
        match name {
            name if *name == X_FORWARDED_FOR => {
                match (self.trail.proven, self.trail.kept > 0 || self.trail.peer_trusted) {
                    (true, _) => "the client that the proven CDN reports, then the peer",
                    (false, true) => "the addresses that trusted proxies report, then the peer",
                    (false, false) => "the peer",
                }
            }
            name if *name == FORWARDED => "the same addresses (RFC 7239)",
            name if *name == X_FORWARDED_PROTO => "the scheme of the request",
            name if *name == X_FORWARDED_HOST => "the host of the request",
            name if *name == VIA => "this hop (RFC 9110 §7.6.3)",
            name if *name == CDN_LOOP => "this hop (RFC 8586)",
            name if *name == X_CDN_PROVIDER => "the provider that edgeshim decided on",
            name if *name == HOST && self.host_set => "origin.host",
            name if *name == HOST => "the origin's host, because the request has no Host",
            name if *name == CONTENT_LENGTH => "the same length, written once",
            name if *name == COOKIE => "one line instead of several (RFC 9113 §8.2.3)",
            name if [CONNECTION, UPGRADE, TE].contains(name) => "for the next hop (RFC 9110 §7.6.1)",
            _ => "set by leaf",
        }
    }

    /// Returns the reason why a received field line does not go to the origin.
    pub(super) fn gone(&self, name: &HeaderName, layer: Option<&'static str>, trace: &Trace) -> Reason {
        match layer {
            Some("observe") if *name == X_REQUEST_ID => {
                "replaced: a valid id is one line of 1 to 128 characters of A-Z a-z 0-9 . _ -".into()
            }
            Some("observe") if *name == TRACESTATE => "there is no valid traceparent".into(),
            Some("observe") => "replaced: there is not exactly one valid line".into(),
            Some("identify") => "read by edgeshim; the origin gets the provider that edgeshim decided on".into(),
            Some("verify") => "secrets and signatures are never passed on".into(),
            Some("assign") if *name == REFERER => REWRITTEN.into(),
            Some("assign") => "sent by the client, so not trusted".into(),
            Some("gzip") if *name == RANGE || *name == IF_RANGE => {
                "a range with a weak tag in If-Range is not requested (RFC 9110 §13.1.5)".into()
            }
            Some(LEAF) => self.unwritten(name, trace).into(),
            Some(layer) if !trace.has_set(name) => format!("removed by {layer}").into(),
            Some(_) | None => REWRITTEN.into(),
        }
    }

    fn unwritten(&self, name: &HeaderName, trace: &Trace) -> &'static str {
        let chain = [&X_FORWARDED_FOR, &X_FORWARDED_PROTO, &X_FORWARDED_HOST, &FORWARDED];
        if chain.contains(&name) {
            return if self.trail.peer_trusted {
                "replaced: only reports of trusted proxies are trusted"
            } else {
                "replaced: the peer is not in server.trusted_proxies"
            };
        }
        match name {
            name if *name == X_CDN_PROVIDER && name != self.identity => "sent by the client, so not trusted",
            name if *name == CONTENT_LENGTH && !trace.has_set(name) => "a GET without a body needs no length",
            name if *name == HOST => "replaced by origin.host",
            name if trace.has_set(name) => REWRITTEN,
            _ => HOP_BY_HOP,
        }
    }
}

/// The facts that decide the reasons for a response's fields.
#[expect(clippy::struct_excessive_bools, reason = "each field is one independent fact")]
pub(super) struct Outgoing<'a> {
    pub(super) provider: &'a str,
    pub(super) dialect: Dialect,
    pub(super) outcome: Outcome,
    /// Whether the origin's response is a 5xx.
    pub(super) is_error: bool,
    /// The class's `cache.mode`.
    pub(super) mode: CacheMode,
    /// Whether the field with the visitor's id is added to Vary, because the id selects an arm.
    pub(super) varies_by_id: bool,
    /// Whether the class has an `edge_ttl`.
    pub(super) has_edge_ttl: bool,
    /// Whether the origin sent a field that this CDN obeys before Cache-Control.
    pub(super) has_targeted: bool,
    pub(super) tags: TagRule,
    /// The number of cache tags that were removed because the CDN does not accept them.
    pub(super) tags_cut: usize,
    /// Whether the CDN accepts at least one cache tag of the response.
    pub(super) has_tags: bool,
}

impl<'a> Outgoing<'a> {
    pub(super) fn new(provider: &'a str, dialect: Option<Dialect>) -> Self {
        Self {
            provider,
            dialect: dialect.unwrap_or(Dialect::Generic),
            outcome: Outcome::default(),
            is_error: false,
            mode: CacheMode::Keep,
            varies_by_id: false,
            has_edge_ttl: false,
            has_targeted: false,
            tags: TagRule::default(),
            tags_cut: 0,
            has_tags: false,
        }
    }

    /// Returns the reason why a field line goes to the CDN.
    pub(super) fn there(&self, name: &HeaderName, layer: Option<&'static str>) -> Reason {
        let provider = self.provider;
        match layer {
            None if self.dialect.passed_field() == Some(name) => format!("{AS_SENT}: {provider}'s own field").into(),
            None => AS_SENT.into(),
            Some(LEAF) if *name == SERVER_TIMING => "tells the page's script which CDN served the page ([rum])".into(),
            Some(LEAF) => "the same length, written once".into(),
            Some("cache_control") => self.caching(name),
            Some("gzip") if *name == CONTENT_ENCODING => "compressed here".into(),
            Some("gzip") if *name == ETAG => "weak: the bytes have changed (RFC 9110 §8.8.1)".into(),
            Some("gzip") if *name == VARY => "another request may get another coding (RFC 9110 §12.5.5)".into(),
            Some("whoopsie") if self.is_about_caching(name) => "a page is never stored".into(),
            Some("whoopsie") if *name == PROXY_STATUS => "the cause of the page (RFC 9209)".into(),
            Some("whoopsie") if *name == RETRY_AFTER => "whoopsie.retry_after".into(),
            Some("whoopsie") => "set by the page".into(),
            Some("observe" | "pulls") if self.is_about_caching(name) => "a refusal is never stored".into(),
            Some("observe" | "pulls") => "set by the refusal".into(),
            Some(layer) => format!("set by {layer}").into(),
        }
    }

    fn caching(&self, name: &HeaderName) -> Reason {
        let provider = self.provider;
        match CacheField::of(name) {
            _ if self.dialect.targeted_field() == Some(name) => self.targeted_field(),
            _ if self.dialect.passed_field() == Some(name) => {
                format!("only directives that cannot allow storing: {}", self.guarded()).into()
            }
            _ if *name == CACHE_CONTROL => self.cache_control(),
            _ if *name == VARY && self.varies_by_id => "with the field that selects the visitor's arm".into(),
            _ if *name == VARY => "reduced to class.cache.vary".into(),
            Some(_) => "only the directives for ESI".into(),
            None if !self.is_tags(name) => {
                format!("lines joined, to fit the limits of {provider} (RFC 9110 §5.3)").into()
            }
            None if self.tags_cut > 0 => {
                format!("cache tags as {provider} reads them, without {} tags that it does not accept", self.tags_cut)
                    .into()
            }
            None => format!("cache tags as {provider} reads them").into(),
        }
    }

    /// Whether `name` is the field in which the CDN reads cache tags.
    fn is_tags(&self, name: &HeaderName) -> bool {
        matches!(&self.tags, TagRule::Field { name: own, .. } if own == name)
    }

    fn is_about_caching(&self, name: &HeaderName) -> bool {
        *name == CACHE_CONTROL || self.dialect.targeted_field() == Some(name)
    }

    fn cache_control(&self) -> Reason {
        match self.outcome.action {
            Some(Action::Defaulted) => "the class's lifetime, because the origin sets none".into(),
            Some(Action::Overridden) => "the class's rule, in place of the origin's".into(),
            Some(Action::Forbidden) => "cache.mode = \"never\"".into(),
            Some(Action::Guarded) => self.guarded(),
            Some(Action::Tidied) | None if self.is_error => "an error is never stored".into(),
            Some(Action::Tidied) | None => "the origin's directives, merged into one line (RFC 9111 §5.2)".into(),
        }
    }

    fn guarded(&self) -> Reason {
        let (reported, stripped) = ([Guard::VaryUserAgent, Guard::VaryCookie], Guard::CookieStripped);
        let overrides = |guard: &Guard| !reported.contains(guard) && *guard != stripped;
        let guards: Vec<_> = self.outcome.guards.iter().filter(overrides).map(Guard::as_str).collect();
        format!("the guard {} overrides every rule", guards.join(" and ")).into()
    }

    fn targeted_field(&self) -> Reason {
        let provider = self.provider;
        match self.outcome.action {
            Some(Action::Defaulted | Action::Overridden) if self.has_edge_ttl => {
                format!("edge_ttl, in the field that {provider} obeys first").into()
            }
            Some(Action::Defaulted | Action::Overridden | Action::Forbidden) => {
                format!("the same rule, in the field that {provider} obeys first").into()
            }
            Some(Action::Guarded) => self.guarded(),
            Some(Action::Tidied) | None if self.is_error => "an error is never stored".into(),
            Some(Action::Tidied) | None if self.has_targeted => {
                format!("the origin's directives that are only for {provider}").into()
            }
            Some(Action::Tidied) | None => format!("the origin's directives, in the form that {provider} obeys").into(),
        }
    }

    /// Returns the reason why a field line of the origin does not go to the CDN.
    pub(super) fn gone(&self, name: &HeaderName, layer: Option<&'static str>, trace: &Trace) -> Reason {
        let (provider, rewritten) = (self.provider, trace.has_set(name));
        match layer {
            Some("whoopsie") => "describes the response that the page replaces".into(),
            Some("cache_control") if self.is_tags(name) || cache_tags::delimiter(name).is_some() => {
                self.tags_gone(name, trace)
            }
            _ if rewritten => REWRITTEN.into(),
            Some(LEAF) if *name == CONTENT_LENGTH => {
                "a repeated line, or a length for a status without a body (RFC 9110 §8.6)".into()
            }
            Some(LEAF) => HOP_BY_HOP.into(),
            Some("cache_control") => self.caching_gone(name, trace),
            Some("gzip") if *name == CONTENT_LENGTH => "the new length is not known yet".into(),
            Some("gzip") if *name == ACCEPT_RANGES => "ranges of compressed bytes are not served".into(),
            Some("gzip") if *name == ETAG => "this tag cannot be made weak, and the bytes have changed".into(),
            Some("gzip") if *name == CONTENT_ENCODING => "decompressed here (gzip.inflate)".into(),
            Some("gzip") if *name == VARY => {
                format!("{provider} stores nothing that varies, and every client can read these bytes").into()
            }
            Some("gzip") => "describes bytes that have changed".into(),
            Some(layer) => format!("removed by {layer}").into(),
            None => REWRITTEN.into(),
        }
    }

    fn tags_gone(&self, name: &HeaderName, trace: &Trace) -> Reason {
        let provider = self.provider;
        match &self.tags {
            TagRule::Field { .. } if trace.has_set(name) => REWRITTEN.into(),
            TagRule::Field { .. } if !self.has_tags && self.tags_cut > 0 => {
                format!("{provider} accepts none of these tags").into()
            }
            TagRule::Field { .. } if !self.has_tags => "has no cache tag".into(),
            TagRule::Field { name: own, .. } if trace.has(own) && self.tags_cut == 0 => {
                format!("the tags are in {own}").into()
            }
            TagRule::Field { name: own, .. } if trace.has(own) => {
                format!("the tags that {provider} accepts are in {own}").into()
            }
            TagRule::Field { name: own, .. } if own != name => {
                format!("the tags were moved to {own}, which was then removed").into()
            }
            TagRule::Field { .. } | TagRule::Unchanged => self.too_large(),
            TagRule::Dropped => format!("{provider} has no cache tags").into(),
        }
    }

    fn too_large(&self) -> Reason {
        format!("removed, because the head is larger than {} accepts", self.provider).into()
    }

    /// Returns the reason why a targeted field (RFC 9213) that the CDN reads does not go to the CDN.
    fn targeted_gone(&self, name: &HeaderName, trace: &Trace) -> Reason {
        let provider = self.provider;
        if let Some(written) = self.dialect.targeted_field().filter(|written| *written != name && trace.has(written)) {
            return format!("edgeshim writes the directives for {provider} into {written}").into();
        }
        match self.outcome.action {
            Some(Action::Guarded) => self.guarded(),
            Some(Action::Overridden | Action::Forbidden) => self.cache_control(),
            Some(Action::Tidied | Action::Defaulted) | None => {
                format!("has no directive that edgeshim passes on to {provider}").into()
            }
        }
    }

    fn caching_gone(&self, name: &HeaderName, trace: &Trace) -> Reason {
        if self.dialect.passed_field() == Some(name) {
            let mode = match self.mode {
                CacheMode::Keep | CacheMode::Default => return self.guarded(),
                CacheMode::Override => "override",
                CacheMode::Never => "never",
            };
            return format!("{} would obey this field before the class's rule (cache.mode {mode})", self.provider)
                .into();
        }
        if self.dialect.reads().contains(&name) {
            return self.targeted_gone(name, trace);
        }
        match CacheField::of(name) {
            _ if *name == PRAGMA => "Cache-Control replaces it (RFC 9111 §5.4)",
            _ if *name == EXPIRES => "Cache-Control replaces it (RFC 9111 §5.3)",
            _ if *name == SET_COOKIE => "the guard cookie_stripped (class.cache.strip_cookies)",
            _ if *name == AGE => "an error has no age",
            _ if *name == VARY => "reduced to class.cache.vary",
            _ if *name == CACHE_CONTROL => "has no valid directive",
            Some(_) if *name == AKAMAI_CACHE_CONTROL && self.dialect == Dialect::Akamai => {
                "of Akamai's own fields, only Edge-Control is passed on"
            }
            Some(CacheField::Targeted | CacheField::SurrogateControl) => "another CDN's field",
            Some(_) => "not for this CDN",
            None => return self.too_large(),
        }
        .into()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn reason_when_layer_has_no_text_then_names_the_layer() {
        let outgoing = Outgoing::new("fastly", None);
        let trace = Trace::begin(&HeaderMap::new());
        assert_eq!(outgoing.there(&VIA, Some("methods")), "set by methods");
        assert_eq!(outgoing.gone(&VIA, Some("methods"), &trace), "removed by methods");
    }
}
