//! Decides what caches are allowed to do with one response. First the class's rule is applied to the origin's
//! directives. Then the guards are applied. A guard overrides every rule.
//!
//! This file has plain functions on headers, which the `cache_control` layer calls. A [`Prepared`] is built once for a
//! class's [`CachePolicy`] and a [`Dialect`]. A `Prepared` is applied to each response of that class to a CDN with that
//! dialect. Cost: one pass over the field names, and one allocation for each field value that is not prepared. Applying
//! a `Prepared` twice has the same result as applying it once.
//!
//! A response can have directives in two fields. Cache-Control is for all caches. The targeted field (RFC 9213) is for
//! the pulling CDN, if the CDN's dialect has such a field. Within one field the strictest directive applies. The two
//! fields are independent: if an origin sends `no-cache` in Cache-Control and `max-age=60` in the targeted field, each
//! field keeps its directive. There are three exceptions:
//!
//! - A targeted field with neither a lifetime nor no-store, private or no-cache is completed from Cache-Control,
//!   because some CDNs then read Cache-Control too.
//! - no-transform in the targeted field is copied to Cache-Control.
//! - Some CDNs read only lifetimes in their targeted field, and ignore no-cache. For such a CDN, no-store or private in
//!   the targeted field adds `private` to Cache-Control, unless Cache-Control already has one of the two. no-cache
//!   becomes a lifetime of 0 in the targeted field.
//!
//! Guards check the directives that the pulling CDN obeys. Guards also check Cache-Control, because another cache may
//! read only that field. If the CDN's directives are unsafe, the guard adds `private` to Cache-Control and removes the
//! targeted field. The reason: most CDNs ignore Cache-Control in a response with their targeted field. The guard
//! `error` sets no-store in both fields instead.
//!
//! Akamai's Edge-Control is read like a targeted field, but is never added to a response. In the modes `keep` and
//! `default` the origin's Edge-Control is forwarded unchanged. Exception: if a guard or a 5xx status forbids storing,
//! every directive that can allow storing is removed from the field. In the modes `override` and `never` Edge-Control
//! is removed. If the class has no rule for the response's status or for the request's method, the prohibitions in the
//! removed field move to Cache-Control: no-store and bypass-cache become no-store, a lifetime of 0 becomes
//! `s-maxage=0`.

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, Method, StatusCode};

use super::changes::{self, Change};
use super::decision::Decision;
use super::field_pair::{Field, FieldPair, PreparedField, Rule};
use super::origin_fields;
use super::outcome::{Action, Guard, Guards, Outcome};
use super::storing::{Vary, allows_authorization, is_shared};
use crate::cdn::dialect::Dialect;
use crate::cdn::grant::Grant;
use crate::edge::request::class::{CacheMode, CachePolicy};
use crate::wire::cache_control::CacheControl;
use crate::wire::cache_fields::{CacheField, CacheFields};
use crate::wire::names;

/// If Vary has this number of members or more, the grant is read from the complete head.
const MOST_VARY_MEMBERS: usize = 32;

/// The facts that the policy needs in addition to the response head.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The request's method.
    pub method: &'a Method,
    /// Whether the request has Authorization.
    pub authorization: bool,
    /// Whether the response can depend on the arm of an experiment, and must not be stored by shared caches.
    pub assigned: bool,
    /// The clock, read only for a response that has Expires and no valid Date.
    pub now: fn() -> SystemTime,
}

/// The cache settings of one class, prepared for one dialect.
#[derive(Debug, Clone)]
pub struct Prepared {
    dialect: Dialect,
    mode: CacheMode,
    /// The rule for responses that get the class's lifetime. `None` if the class sets no lifetime.
    rule: Option<Rule>,
    /// The rule for the statuses 404 and 410.
    error: Rule,
    no_store: Rule,
    /// A targeted field with a lifetime of 0, which replaces no-cache for a CDN that ignores no-cache.
    no_lifetime: PreparedField,
    strip_cookies: bool,
    allow_authorization: bool,
    vary: Option<Box<[Box<str>]>>,
    /// The decisions about the most frequent kinds of responses without caching fields: a 200, and a 5xx.
    usual: Option<Box<[Decision; 2]>>,
}

impl Prepared {
    /// Prepares the fields that `policy` sets in `dialect`. If the class has neither `ttl` nor `edge_ttl`, the modes
    /// `default` and `override` set a lifetime only for the statuses 404 and 410. For all other responses, the origin's
    /// directives are only rewritten without contradictions ([`Action::Tidied`]).
    pub fn new(policy: &CachePolicy, dialect: Dialect) -> Self {
        let windows = CacheControl {
            stale_while_revalidate: policy.stale_while_revalidate,
            stale_if_error: policy.stale_if_error,
            ..CacheControl::default()
        };
        let rule = dialect.lifetimes(policy.ttl, policy.edge_ttl).map(|lifetimes| Rule {
            cache_control: PreparedField::new(CacheControl {
                max_age: Some(lifetimes.max_age),
                s_maxage: lifetimes.s_maxage,
                // `immutable` applies only while a response is fresh (RFC 8246 §2), so `immutable` has no effect
                // together with max-age=0.
                immutable: policy.immutable && lifetimes.max_age > 0,
                ..windows.clone()
            }),
            targeted: lifetimes
                .targeted
                .map(|seconds| PreparedField::new(CacheControl { max_age: Some(seconds), ..windows.clone() })),
        });
        let no_store = CacheControl { no_store: true, ..CacheControl::default() };
        let mut prepared = Self {
            dialect,
            mode: policy.mode,
            rule,
            error: Rule::for_all(CacheControl { max_age: Some(policy.error_ttl), ..CacheControl::default() }),
            no_store: Rule {
                targeted: dialect.targeted_field().map(|_| PreparedField::new(no_store.clone())),
                cache_control: PreparedField::new(no_store),
            },
            no_lifetime: PreparedField::new(CacheControl { max_age: Some(0), ..CacheControl::default() }),
            strip_cookies: policy.strip_cookies,
            allow_authorization: policy.allow_authorization,
            vary: policy.vary.as_ref().map(|kept| kept.iter().map(|name| name.as_str().into()).collect()),
            usual: None,
        };
        let facts = Facts { method: &Method::GET, authorization: false, assigned: false, now: SystemTime::now };
        let decide = |status| prepared.decide(&HeaderMap::new(), CacheFields::default(), status, &facts);
        // All 5xx have the same decision, because the guard `error` forbids storing for all of them.
        let usual = [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE].map(decide);
        prepared.usual = Some(Box::new(usual));
        prepared
    }

    /// Returns the decision about a response, if it is prepared.
    fn usual(&self, present: CacheFields, status: StatusCode, facts: &Facts<'_>) -> Option<&Decision> {
        let [ok, error] = &**self.usual.as_ref()?;
        if !present.is_empty() || *facts.method != Method::GET || facts.authorization || facts.assigned {
            return None;
        }
        match status {
            StatusCode::OK => Some(ok),
            status => status.is_server_error().then_some(error),
        }
    }

    /// Decides which caching fields a response gets, and changes its head. The changed head has at most one
    /// Cache-Control line, no Pragma and no Expires. The targeted fields of other CDNs are removed, except that the
    /// directive `content` (ESI) of Surrogate-Control can stay. Interim responses (1xx) are not changed.
    pub fn apply(&self, headers: &mut HeaderMap, status: StatusCode, facts: &Facts<'_>) -> Outcome {
        let present = CacheFields::of(&*headers);
        self.apply_to(headers, present, status, facts)
    }

    /// Does the same as [`Prepared::apply`]. `present` has the caching fields of the head.
    pub(super) fn apply_to(
        &self,
        headers: &mut HeaderMap,
        present: CacheFields,
        status: StatusCode,
        facts: &Facts<'_>,
    ) -> Outcome {
        if status.is_informational() {
            return Outcome::default();
        }
        let decided;
        let decision = match self.usual(present, status, facts) {
            Some(usual) if usual.keeps() => return Outcome { action: None, ..usual.outcome },
            Some(usual) => usual,
            None => {
                decided = self.decide(headers, present, status, facts);
                &decided
            }
        };
        decision.apply(self.dialect, headers, present, status)
    }

    fn decide(&self, headers: &HeaderMap, present: CacheFields, status: StatusCode, facts: &Facts<'_>) -> Decision {
        // Shared caches store only responses to these two methods. So only these responses get lifetimes, and all
        // guards except `assignment` make only these responses private.
        let fetched = matches!(*facts.method, Method::GET | Method::HEAD);
        let origin = self.origin_fields(headers, present, status, facts);
        let origin_allows = allows_authorization(origin.obeyed());
        let origin = self.with_removed_lifetime(origin, headers, present);
        let (mut emitted, mut action) = self.apply_rule(origin, status, fetched);
        let mut guards = Guards::default();

        if status.is_server_error() {
            if !emitted.obeyed().is_unshared() {
                guards.insert(Guard::Error);
                action = Action::Guarded;
            }
            self.forbid_storing(&mut emitted);
        }

        let mut vary = Vary::default();
        let passed_field = self.dialect.passed_field().filter(|name| headers.contains_key(*name));
        if present.has(CacheField::Vary)
            && (passed_field.is_some() || emitted.each().any(|directives| !directives.is_unshared()))
        {
            vary = Vary::read(headers);
        }
        let allowed = self.allow_authorization || (origin_allows && action != Action::Overridden);
        // Returns the guards that fire. `open`: the response has neither no-store nor private. `stored`: shared caches
        // are allowed to store the response. `shared`: shared caches would serve the response without revalidation.
        // Some CDNs can be configured to store what HTTP forbids, so the guard `assignment` does not depend on the
        // method or the status.
        let unsafe_if = |open: bool, stored: bool, shared: bool| {
            Guards::of([
                (Guard::Assignment, facts.assigned && open),
                (Guard::Authorization, stored && facts.authorization && !allowed),
                (Guard::VaryStar, stored && vary.star),
                (Guard::SetCookie, stored && shared && present.has(CacheField::SetCookie)),
            ])
        };
        let unsafe_with = |directives: &CacheControl<'_>| {
            let stored = fetched && directives.is_storable(status);
            unsafe_if(!directives.is_unshared(), stored, is_shared(directives, status))
        };
        let obeyed = emitted.obeyed();
        let shared = fetched && obeyed.is_storable(status) && is_shared(obeyed, status);
        let mut unshared = obeyed.is_unshared();
        let (mut for_cdn, mut for_others) = (unsafe_with(obeyed), Guards::default());
        if emitted.targeted.is_some() {
            // A cache between this CDN and the client may read only Cache-Control.
            for_others = unsafe_with(&emitted.cache_control.directives);
        }
        let mut strip_cookies = false;
        if self.strip_cookies && (for_cdn.contains(Guard::SetCookie) || for_others.contains(Guard::SetCookie)) {
            for_cdn.remove(Guard::SetCookie);
            for_others.remove(Guard::SetCookie);
            strip_cookies = for_cdn.is_empty() && for_others.is_empty();
        }
        if !for_cdn.is_empty() || !for_others.is_empty() {
            emitted.cache_control.change(|directives| directives.private = true);
            if !for_cdn.is_empty() {
                unshared = true;
                emitted.targeted = None;
            }
            guards.insert_all(for_cdn);
            guards.insert_all(for_others);
            action = Action::Guarded;
        } else {
            guards.insert_all(Guards::of([
                (Guard::CookieStripped, strip_cookies),
                (Guard::VaryUserAgent, shared && vary.user_agent),
                (Guard::VaryCookie, shared && vary.cookie),
            ]));
            // If the request has Authorization, a shared cache needs a permission such as `public` to use the rule's
            // lifetime (RFC 9111 §3.5).
            let by_rule = matches!(action, Action::Defaulted | Action::Overridden);
            let lasting = fetched && obeyed.is_storable(status) && obeyed.max_age != Some(0);
            if facts.authorization && by_rule && lasting && !allows_authorization(obeyed) {
                let field = emitted.targeted.as_mut().unwrap_or(&mut emitted.cache_control);
                field.change(|directives| directives.public = true);
            }
        }

        // The passed field has another syntax. If Vary has very many names, `gzip` can replace the names with `*`.
        let is_usual = passed_field.is_none() && vary.members < MOST_VARY_MEMBERS;
        let grant = is_usual.then(|| self.grant(&emitted, status, vary));
        let vary = match &self.vary {
            Some(kept) if vary.members > 0 && !vary.star && !unshared => changes::reduce_vary(headers, kept),
            _ => Change::Keep,
        };
        let mut passed = Change::Keep;
        if let Some(name) = passed_field {
            // It is unknown how the CDN reads a passed field whose directives contradict each other. So the guards
            // treat the response as storable and shared, whatever the passed field contains.
            let mut forbidding = unsafe_if(true, fetched, true);
            if strip_cookies {
                forbidding.remove(Guard::SetCookie);
            }
            if status.is_server_error() {
                forbidding.insert(Guard::Error);
            }
            passed = self.change_passed(headers, name, forbidding);
            if self.passes_on() && !matches!(passed, Change::Keep) {
                guards.insert_all(forbidding);
                action = Action::Guarded;
            }
        }
        let (targeted, surrogate_control) = self.write_targeted(headers, present, emitted.targeted.as_ref());
        let is_present = present.has(CacheField::CacheControl);
        Decision {
            cache_control: changes::write(headers, &names::CACHE_CONTROL, is_present, Some(&emitted.cache_control)),
            targeted,
            surrogate_control,
            vary,
            passed,
            strip_cookies,
            outcome: Outcome { action: Some(action), guards, grant },
        }
    }

    /// Returns what the CDN is allowed to do with a response that gets these fields.
    fn grant(&self, emitted: &FieldPair<'_>, status: StatusCode, vary: Vary) -> Grant {
        let targeted = emitted.targeted.as_ref().map(|field| &field.directives);
        let targeted = targeted.filter(|directives| !directives.is_empty());
        match Grant::by(self.dialect, status, targeted, &emitted.cache_control.directives) {
            Grant::Lifetime(_) if vary.star => Grant::Forbidden,
            grant => grant,
        }
    }

    /// Adds no-store to both fields of a response.
    fn forbid_storing<'a>(&'a self, emitted: &mut FieldPair<'a>) {
        if !emitted.cache_control.directives.no_store {
            emitted.cache_control.change(|directives| directives.no_store = true);
        }
        emitted.targeted = self.no_store.targeted.as_ref().map(PreparedField::field);
    }

    /// Returns two sets of the origin's directives: for all caches, and for the pulling CDN.
    fn origin_fields<'a>(
        &self,
        headers: &'a HeaderMap,
        present: CacheFields,
        status: StatusCode,
        facts: &Facts<'_>,
    ) -> FieldPair<'a> {
        let mut all = origin_fields::cache_control(headers, present, status, facts.now);
        let mut targeted = None;
        if present.has(CacheField::Targeted) || present.has(CacheField::SurrogateControl) {
            let passed = origin_fields::passed(headers, self.dialect);
            if self.dialect.passed_field().is_some() && self.passes_on() {
                targeted = passed;
            } else {
                // Here the origin's passed field is removed, if the field is present. A prohibition in the field
                // becomes no-store in Cache-Control, so that the removal does not allow storing.
                all.no_store |= passed.is_some_and(|directives| directives.no_store);
                targeted = origin_fields::targeted(headers, self.dialect, status);
            }
        }
        if let Some(targeted) = &mut targeted {
            // no-transform is copied to Cache-Control, because the body is the same for every cache and because `gzip`
            // reads no-transform only in Cache-Control.
            all.no_transform |= targeted.no_transform;
            if !targeted.has_lifetime() && !targeted.is_restricted() {
                // With such a targeted field, some CDNs also read Cache-Control, and some do not. If both fields have
                // the same directives, all CDNs obey the same directives.
                targeted.max_age = all.s_maxage.or(all.max_age);
                targeted.no_store = all.no_store;
                targeted.private = all.private;
                targeted.no_cache = all.no_cache;
                targeted.take_conditions(&all);
            }
        }
        FieldPair { cache_control: Field::of_origin(all), targeted: targeted.map(Field::of_origin) }
    }

    /// Adds `s-maxage=0` to the origin's directives if a passed field with a lifetime of 0 is removed. This `s-maxage`
    /// is no permission to store responses to requests with Authorization.
    fn with_removed_lifetime<'a>(
        &self,
        mut origin: FieldPair<'a>,
        headers: &HeaderMap,
        present: CacheFields,
    ) -> FieldPair<'a> {
        if present.has(CacheField::Targeted) && !self.passes_on() {
            let passed = origin_fields::passed(headers, self.dialect);
            if passed.is_some_and(|directives| directives.max_age == Some(0)) {
                origin.cache_control.directives.s_maxage = Some(0);
            }
        }
        origin
    }

    /// Applies the class's rule to the origin's directives.
    fn apply_rule<'a>(&'a self, origin: FieldPair<'a>, status: StatusCode, fetched: bool) -> (FieldPair<'a>, Action) {
        let origin_decides = || origin.each().any(|directives| directives.has_lifetime() || directives.is_restricted());
        let rule = match self.mode {
            CacheMode::Never => Some((&self.no_store, Action::Forbidden)),
            CacheMode::Keep => None,
            CacheMode::Default if origin_decides() => None,
            CacheMode::Default => self.rule_for(status, fetched).map(|rule| (rule, Action::Defaulted)),
            CacheMode::Override => self.rule_for(status, fetched).map(|rule| (rule, Action::Overridden)),
        };
        let Some((rule, action)) = rule else {
            return (self.tidy(origin, status, fetched), Action::Tidied);
        };
        if origin.each().all(CacheControl::is_empty) {
            return (rule.fields(), action);
        }
        if action == Action::Defaulted {
            return (rule.complete(origin), action);
        }
        let mut emitted = rule.fields();
        // no-transform does not concern storing, so no rule removes it (RFC 9110 §7.7).
        if origin.cache_control.directives.no_transform {
            emitted.cache_control.change(|directives| directives.no_transform = true);
        }
        (emitted, action)
    }

    /// Returns the origin's directives in a form that this CDN obeys. Contradictions within one field are resolved.
    fn tidy<'a>(&'a self, origin: FieldPair<'a>, status: StatusCode, fetched: bool) -> FieldPair<'a> {
        let mut emitted = FieldPair {
            cache_control: Field::new(origin.cache_control.directives),
            targeted: origin.targeted.map(|field| Field::new(field.directives)),
        };
        if !self.dialect.ignores_no_cache() {
            return emitted;
        }
        // This CDN reads only lifetimes in its targeted field. So if that field has no-store or private, Cache-Control
        // gets `private`.
        let forbidden = emitted.targeted.as_ref().is_some_and(|field| field.directives.is_unshared());
        if forbidden && !emitted.cache_control.directives.is_unshared() {
            emitted.cache_control.change(|directives| directives.private = true);
        }
        // This CDN ignores no-cache, so it gets a lifetime of 0 in its targeted field.
        let all = &emitted.cache_control.directives;
        let revalidates = |directives: &CacheControl<'_>| directives.no_cache && !directives.is_unshared();
        let (never_fresh, public) = match emitted.targeted.as_ref().map(|field| &field.directives) {
            None => (revalidates(all) && fetched && all.is_storable(status), all.public),
            Some(targeted) => (revalidates(targeted), targeted.public),
        };
        if never_fresh {
            let targeted = emitted.targeted.insert(self.no_lifetime.field());
            if public {
                targeted.change(|directives| directives.public = true);
            }
        }
        emitted
    }

    /// Whether the mode forwards the dialect's passed field (Edge-Control). The other modes remove that field, because
    /// the field would override the rule.
    fn passes_on(&self) -> bool {
        matches!(self.mode, CacheMode::Keep | CacheMode::Default)
    }

    /// Returns the change of the passed field. `forbidding` contains the guards that forbid storing.
    fn change_passed(&self, headers: &HeaderMap, name: &HeaderName, forbidding: Guards) -> Change {
        if !self.passes_on() {
            Change::Remove
        } else if forbidding.is_empty() {
            Change::Keep
        } else {
            changes::remove_permissions(headers, name)
        }
    }

    /// Returns two changes: first of the targeted field, then of Surrogate-Control. If Surrogate-Control is the
    /// targeted field, the second change is `Keep`.
    fn write_targeted(
        &self,
        headers: &HeaderMap,
        present: CacheFields,
        targeted: Option<&Field<'_>>,
    ) -> (Change, Change) {
        let esi = present.has(CacheField::SurrogateControl).then_some(headers);
        match self.dialect.targeted_field() {
            Some(name) if *name == names::SURROGATE_CONTROL => {
                let change = match esi.and_then(changes::esi_content) {
                    Some(content) => changes::write_surrogate_control(headers, targeted, content),
                    None => changes::write(headers, name, esi.is_some(), targeted),
                };
                (change, Change::Keep)
            }
            field => {
                let is_present = present.has(CacheField::Targeted);
                let change = field.map_or(Change::Keep, |name| changes::write(headers, name, is_present, targeted));
                let content = esi.filter(|_| self.dialect.accepts_surrogate_control()).and_then(changes::esi_content);
                let surrogate_control = match content {
                    Some(content) => changes::write_surrogate_control(headers, None, content),
                    None if esi.is_some() => Change::Remove,
                    None => Change::Keep,
                };
                (change, surrogate_control)
            }
        }
    }

    fn rule_for(&self, status: StatusCode, fetched: bool) -> Option<&Rule> {
        match status.as_u16() {
            _ if !fetched => None,
            200 | 203 | 206 | 301 | 304 | 308 => self.rule.as_ref(),
            404 | 410 => Some(&self.error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
    use proptest::prelude::*;

    use super::changes::{self, Change};
    use super::{Facts, Prepared};
    use crate::cdn::dialect::Dialect;
    use crate::cdn::grant::Grant;
    use crate::edge::cache_control::outcome::{Action, Guard, Outcome};
    use crate::edge::request::class::{CacheMode, CachePolicy};
    use crate::wire::cache_control::CacheControl;
    use crate::wire::cache_fields::{TARGETED, edge_control};
    use crate::wire::directives::Directives;
    use crate::wire::names;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const MINUTE_LATER: &str = "Sun, 06 Nov 1994 08:50:37 GMT";

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)
    }

    /// Returns the field name for a short form in the tables. Some short forms also have a fixed value.
    fn field(short: &str) -> (HeaderName, Option<&'static str>) {
        let name = match short {
            "cc" => &names::CACHE_CONTROL,
            "pragma" => &names::PRAGMA,
            "expires" => &names::EXPIRES,
            "later" => return (names::EXPIRES.clone(), Some(MINUTE_LATER)),
            "date" => return (names::DATE.clone(), Some(DATE)),
            "cookie" => return (names::SET_COOKIE.clone(), Some("a=b")),
            "user" => return (names::COOKIE.clone(), Some("any value")),
            "vary" => &names::VARY,
            "age" => &names::AGE,
            "surrogate" => &names::SURROGATE_CONTROL,
            "cdn" => &names::CDN_CACHE_CONTROL,
            "cloudflare" => &names::CLOUDFLARE_CDN_CACHE_CONTROL,
            "netlify" => &names::NETLIFY_CDN_CACHE_CONTROL,
            "vercel" => &names::VERCEL_CDN_CACHE_CONTROL,
            "akamai" => &names::AKAMAI_CACHE_CONTROL,
            "edge" => &names::EDGE_CONTROL,
            "accel" => &names::X_ACCEL_EXPIRES,
            other => panic!("unknown short form of a field: {other}"),
        };
        (name.clone(), None)
    }

    /// Parses a head in short form, for example `cc: max-age=60 | cookie`.
    fn headers(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in text.split(" | ").filter(|line| !line.is_empty()) {
            let (short, value) = line.split_once(": ").unwrap_or((line, ""));
            let (name, fixed) = field(short);
            headers.append(name, HeaderValue::from_static(fixed.unwrap_or(value.to_owned().leak())));
        }
        headers
    }

    fn policy(text: &str) -> CachePolicy {
        let mut policy = CachePolicy::default();
        for setting in text.split(' ') {
            let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
            let seconds = value.parse().ok();
            match key {
                "keep" => policy.mode = CacheMode::Keep,
                "default" => policy.mode = CacheMode::Default,
                "override" => policy.mode = CacheMode::Override,
                "never" => policy.mode = CacheMode::Never,
                "ttl" => policy.ttl = seconds,
                "edge" => policy.edge_ttl = seconds,
                "swr" => policy.stale_while_revalidate = seconds,
                "sie" => policy.stale_if_error = seconds,
                "error" => policy.error_ttl = seconds.unwrap(),
                "immutable" => policy.immutable = true,
                "strip" => policy.strip_cookies = true,
                "allow" => policy.allow_authorization = true,
                "vary" => policy.vary = Some(value.split(',').map(str::to_owned).collect()),
                other => panic!("unknown key of the class: {other}"),
            }
        }
        policy
    }

    fn apply(dialect: Dialect, policy: &CachePolicy, request: &str, headers: &mut HeaderMap) -> Outcome {
        let mut parts = request.split(' ');
        let status = parts.next().and_then(|status| status.parse::<StatusCode>().ok()).unwrap();
        let mut method = Method::GET;
        let mut authorization = false;
        for part in parts {
            match part {
                "auth" => authorization = true,
                other => method = other.parse().unwrap(),
            }
        }
        let facts = Facts { method: &method, authorization, assigned: false, now };
        Prepared::new(policy, dialect).apply(headers, status, &facts)
    }

    fn shown(outcome: Outcome) -> String {
        let labels = outcome.action.map(Action::as_str).into_iter().chain(outcome.guards.iter().map(Guard::as_str));
        labels.collect::<Vec<_>>().join(" ")
    }

    /// One row of a table: the class; the status and the request; the origin's fields; the emitted fields; the action
    /// and the guards.
    type Row = (&'static str, &'static str, &'static str, &'static str, &'static str);

    fn check(rows: &[Row]) {
        check_in(Dialect::Generic, rows);
    }

    fn check_in(dialect: Dialect, rows: &[Row]) {
        for &(class, request, origin, wanted, outcome) in rows {
            let row = format!("{dialect:?} / {class} / {request} / {origin}");
            let mut response = headers(origin);
            let done = apply(dialect, &policy(class), request, &mut response);
            assert_eq!(response, headers(wanted), "{row}");
            assert_eq!(shown(done), outcome, "{row}");
            let again = apply(dialect, &policy(class), request, &mut response);
            assert_eq!(response, headers(wanted), "after the second call: {row}");
            assert_eq!(again.action, None, "after the second call: {row}");
        }
    }

    #[test]
    #[rustfmt::skip] // a table
    fn edge_control_when_akamai_pulls_then_is_forwarded_unless_rule_or_guard_forbids() {
        check_in(Dialect::Akamai, &[
            ("keep", "200", "edge: cache-maxage=1d", "edge: cache-maxage=1d", ""),
            ("keep", "200", "edge: cache-maxage=1d | edge: downstream-ttl=5m",
             "edge: cache-maxage=1d | edge: downstream-ttl=5m", ""),
            ("keep", "200", "cc: max-age=5 | edge: max-age=1d, !no-store",
             "cc: max-age=5 | edge: max-age=1d, !no-store", ""),
            ("keep", "200", "cc: private | edge: cache-maxage=1d", "cc: private | edge: cache-maxage=1d", ""),
            ("keep", "200 HEAD", "edge: cache-maxage=1d", "edge: cache-maxage=1d", ""),
            ("keep", "206", "edge: cache-maxage=1d", "edge: cache-maxage=1d", ""),
            ("keep", "304", "edge: cache-maxage=1d", "edge: cache-maxage=1d", ""),
            ("keep", "404", "edge: cache-maxage=1d", "edge: cache-maxage=1d", ""),
            ("keep", "200", "surrogate: max-age=9 | edge: cache-maxage=1d | akamai: max-age=9", "edge: cache-maxage=1d",
             "tidied"),
            ("keep", "200", "cc: max-age=9 | edge: no-store", "cc: max-age=9 | edge: no-store", ""),
            // The mode `default` adds the class's lifetime only if the origin sends neither a lifetime nor a
            // prohibition. `downstream-ttl` is neither.
            ("default ttl=60", "200", "edge: cache-maxage=1d", "edge: cache-maxage=1d", ""),
            ("default ttl=60", "200", "edge: no-store", "edge: no-store", ""),
            ("default ttl=60", "200", "edge: downstream-ttl=5m", "cc: max-age=60 | edge: downstream-ttl=5m",
             "defaulted"),
            ("default ttl=60", "304", "edge: cache-maxage=1d", "edge: cache-maxage=1d", ""),
            // Edge-Control is removed, because the field would override the rule.
            ("override ttl=60", "200", "edge: cache-maxage=1d", "cc: max-age=60", "overridden"),
            ("override ttl=60", "302", "edge: cache-maxage=1d", "", "tidied"),
            ("override ttl=60", "304", "edge: no-store | cc: max-age=5", "cc: max-age=60", "overridden"),
            // No rule applies to the next rows, so no-store, bypass-cache or a lifetime of 0 in the removed
            // Edge-Control moves to Cache-Control.
            ("override ttl=60", "302", "edge: no-store | cc: max-age=5", "cc: no-store", "tidied"),
            ("override ttl=60", "200 POST", "edge: bypass-cache", "cc: no-store", "tidied"),
            ("override", "200", "edge: no-store, max-age=1d", "cc: no-store", "tidied"),
            ("override ttl=60", "302", "edge: max-age=0 | cc: max-age=5", "cc: max-age=5, s-maxage=0", "tidied"),
            ("override", "200", "edge: cache-maxage=0s, max-age=1d", "cc: s-maxage=0", "tidied"),
            ("override", "200", "edge: max-age=0 | cc: max-age=5, s-maxage=9", "cc: max-age=5, s-maxage=0", "tidied"),
            ("override", "200", "edge: max-age=0 | cc: no-cache", "cc: no-cache", "tidied"),
            ("override", "200 auth", "edge: max-age=0 | cc: max-age=5", "cc: private", "guarded authorization"),
            // A rule applies to the next rows, so nothing moves.
            ("override ttl=60", "200", "edge: max-age=0", "cc: max-age=60", "overridden"),
            ("never", "200", "edge: max-age=0", "cc: no-store", "forbidden"),
            ("never", "200", "edge: cache-maxage=1d", "cc: no-store", "forbidden"),
            ("never", "304", "edge: cache-maxage=1d | cc: no-store", "cc: no-store", "forbidden"),
            // Edge-Control loses its permissions. With these permissions, Akamai would store a response that is private
            // in Cache-Control.
            ("keep", "200", "edge: cache-maxage=1d | cookie", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "200", "cc: private | edge: cache-maxage=1d | cookie", "cc: private | cookie",
             "guarded set_cookie"),
            ("keep", "304", "edge: cache-maxage=1d | cookie", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "200", "cc: private | edge: !no-store | cookie", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "200", "edge: no-store | cookie", "cc: private | edge: no-store | cookie", "guarded set_cookie"),
            ("keep strip", "200", "edge: cache-maxage=1d | cookie", "edge: cache-maxage=1d", "tidied cookie_stripped"),
            ("keep", "200 auth", "edge: cache-maxage=1d", "cc: private", "guarded authorization"),
            ("keep", "200", "edge: cache-maxage=1d | vary: *", "cc: private | vary: *", "guarded vary_star"),
            ("keep", "503", "edge: cache-maxage=1d", "cc: no-store", "guarded error"),
            // Prohibitions and `dca` stay in Edge-Control. Without a prohibition Akamai would use the lifetime of its
            // own configuration. Without `dca` Akamai would not process ESI.
            ("keep", "503", "edge: no-store", "cc: no-store | edge: no-store", "tidied"),
            ("keep", "503", "edge: no-store, max-age=1d", "cc: no-store | edge: no-store", "guarded error"),
            ("keep", "200", "edge: no-store, max-age=1d | cookie", "cc: private | edge: no-store | cookie",
             "guarded set_cookie"),
            ("keep", "200", "cc: private | edge: max-age=1d | edge: Bypass-Cache | cookie",
             "cc: private | edge: Bypass-Cache | cookie", "guarded set_cookie"),
            ("keep", "200", "cc: private | edge: no-store, !no-store | vary: *",
             "cc: private | edge: no-store | vary: *", "guarded vary_star"),
            ("keep", "200 auth", "cc: private | edge: no-store, max-age=9", "cc: private | edge: no-store",
             "guarded authorization"),
            ("keep", "200", "edge: dca=esi | cookie", "cc: private | edge: dca=esi | cookie", "guarded set_cookie"),
            ("default ttl=60", "200", "edge: dca=esi, max-age=1d | cookie", "cc: private | edge: dca=esi | cookie",
             "guarded set_cookie"),
            ("keep", "200", "cc: private | edge: cache-maxage=0s, max-age=1d | cookie",
             "cc: private | edge: cache-maxage=0s | cookie", "guarded set_cookie"),
            ("keep", "200", "cc: private | edge: new-thing=1, downstream-ttl=1d | cookie", "cc: private | cookie",
             "guarded set_cookie"),
            ("keep strip", "200", "edge: no-store, max-age=1d | cookie", "edge: no-store, max-age=1d",
             "tidied cookie_stripped"),
            ("keep", "200", "edge: no-store, max-age=1d", "edge: no-store, max-age=1d", ""),
        ]);
        for dialect in Dialect::ALL.into_iter().filter(|dialect| *dialect != Dialect::Akamai) {
            check_in(dialect, &[
                ("keep", "200", "cc: max-age=5 | edge: cache-maxage=1d", "cc: max-age=5", "tidied"),
                ("default ttl=60", "200", "edge: no-store", "cc: max-age=60", "defaulted"),
            ]);
        }
    }

    #[test]
    #[rustfmt::skip] // a table
    fn keep_mode_when_applied_then_keeps_the_meaning_of_the_origin_directives() {
        check(&[
            ("keep", "200", "", "", ""),
            ("keep", "200", "cc: max-age=60", "cc: max-age=60", ""),
            ("keep", "200", "cc: Max-Age=60,public", "cc: public, max-age=60", "tidied"),
            ("keep", "200", "cc: max-age=60 | cc: max-age=30", "cc: max-age=30", "tidied"),
            ("keep", "200", "cc: max-age=60 | cc: max-age=60", "cc: max-age=60", "tidied"),
            ("keep", "200", "cc: max-age=60, no-store", "cc: no-store", "tidied"),
            ("keep", "200", "cc: max-age=60 | cc: private", "cc: private", "tidied"),
            ("keep", "200", "cc: no-cache, max-age=60", "cc: no-cache", "tidied"),
            ("keep", "200", "cc: no-store", "cc: no-store", ""),
            ("keep", "200", "cc: private", "cc: private", ""),
            ("keep", "200", "cc: ,,;", "", "tidied"),
            ("keep", "200", "cc: ", "", "tidied"),
            ("keep", "200", "cc: max-age=x", "cc: max-age=0", "tidied"),
            ("keep", "200", "cc: max-age=60, community=UCI", "cc: max-age=60, community=UCI", ""),
            ("keep", "200", "cc: no-transform", "cc: no-transform", ""),
            ("keep", "200", "pragma: no-cache | cc: max-age=60", "cc: max-age=60", "tidied"),
            ("keep", "200", "pragma: x", "", "tidied"),
            ("keep", "200", "pragma: no-cache", "cc: no-cache", "tidied"),
            ("keep", "200", "pragma: no-cache | later | date", "cc: no-cache | date", "tidied"),
            ("keep", "200", "later | date", "cc: max-age=60 | date", "tidied"),
            ("keep", "200", "later", "cc: max-age=60", "tidied"),
            ("keep", "200", "later | date | age: 20", "cc: max-age=60 | date | age: 20", "tidied"),
            ("keep", "200", "expires: 0", "cc: max-age=0", "tidied"),
            ("keep", "200", "later | expires: 0 | date", "cc: max-age=0 | date", "tidied"),
            ("keep", "200", "later | date | cc: max-age=5", "cc: max-age=5 | date", "tidied"),
            ("keep", "200", "later | date | cc: s-maxage=5", "cc: max-age=60, s-maxage=5 | date", "tidied"),
            ("keep", "200", "later | date | cc: public", "cc: public, max-age=60 | date", "tidied"),
            ("keep", "200", "later | date | cc: no-store", "cc: no-store | date", "tidied"),
            ("keep", "200", "later | date | cc: private", "cc: private | date", "tidied"),
            ("keep", "302", "cc: max-age=9,public", "cc: public, max-age=9", "tidied"),
            ("keep", "302", "later | date", "cc: max-age=60 | date", "tidied"),
            ("keep", "404", "", "", ""),
            ("keep", "200 POST", "cc: private, max-age=9", "cc: private", "tidied"),
            ("keep ttl=60", "200", "", "", ""),
            ("keep", "200", "cc: max-age=9, private=\"Cookie\" | user", "cc: private | user", "tidied"),
            ("keep", "200", "cc: max-age=9, private=\"Cookie\"", "cc: max-age=9", "tidied"),
            ("keep", "304", "cc: max-age=9, private=\"Cookie\"", "cc: private", "tidied"),
            ("keep", "200", "cc: max-age=9, no-cache=\"Cookie\" | user", "cc: no-cache | user", "tidied"),
            ("keep", "200", "cc: max-age=9, no-cache=\"Set-Cookie\"", "cc: max-age=9", "tidied"),
            ("keep", "304", "cc: max-age=9, no-cache=\"Set-Cookie\"", "cc: max-age=9", "tidied"),
            ("keep", "100", "cc: max-age=9,public", "cc: max-age=9,public", ""),
        ]);
    }

    #[test]
    #[rustfmt::skip] // a table
    fn default_mode_when_origin_sends_no_lifetime_then_adds_the_class_lifetime() {
        check(&[
            ("default ttl=60", "200", "", "cc: max-age=60", "defaulted"),
            ("default ttl=60", "203", "", "cc: max-age=60", "defaulted"),
            ("default ttl=60", "206", "", "cc: max-age=60", "defaulted"),
            ("default ttl=60", "301", "", "cc: max-age=60", "defaulted"),
            ("default ttl=60", "304", "", "cc: max-age=60", "defaulted"),
            ("default ttl=60", "308", "", "cc: max-age=60", "defaulted"),
            ("default ttl=60", "200 HEAD", "", "cc: max-age=60", "defaulted"),
            ("default ttl=60", "200 POST", "", "", ""),
            ("default ttl=60", "201", "", "", ""),
            ("default ttl=60", "204", "", "", ""),
            ("default ttl=60", "302", "", "", ""),
            ("default ttl=60", "307", "", "", ""),
            ("default ttl=60", "403", "", "", ""),
            ("default ttl=60", "429", "", "", ""),
            ("default ttl=60 error=7", "404", "", "cc: max-age=7", "defaulted"),
            ("default ttl=60", "410", "", "cc: max-age=10", "defaulted"),
            ("default ttl=60 error=0", "404", "", "cc: max-age=0", "defaulted"),
            ("default", "404", "", "cc: max-age=10", "defaulted"),
            ("default ttl=60", "404", "cc: max-age=99", "cc: max-age=99", ""),
            ("default ttl=60 swr=5 sie=9 immutable", "404", "", "cc: max-age=10", "defaulted"),
            ("default", "200", "", "", ""),
            ("default swr=5", "200", "", "", ""),
            ("default ttl=60", "200", "cc: max-age=5", "cc: max-age=5", ""),
            ("default ttl=60", "200", "cc: max-age=0", "cc: max-age=0", ""),
            ("default ttl=60", "200", "cc: s-maxage=5", "cc: s-maxage=5", ""),
            ("default ttl=60 swr=5 immutable", "200", "cc: max-age=5", "cc: max-age=5", ""),
            ("default ttl=60", "200", "cc: no-store", "cc: no-store", ""),
            ("default ttl=60", "200", "cc: no-cache", "cc: no-cache", ""),
            ("default ttl=60", "200", "cc: private", "cc: private", ""),
            ("default ttl=60", "200", "cc: private, max-age=1", "cc: private", "tidied"),
            ("default ttl=9", "200", "later | date", "cc: max-age=60 | date", "tidied"),
            ("default ttl=9", "200", "expires: -1", "cc: max-age=0", "tidied"),
            ("default ttl=9", "200", "pragma: no-cache", "cc: no-cache", "tidied"),
            ("default ttl=60", "200", "cc: public", "cc: public, max-age=60", "defaulted"),
            ("default ttl=60", "200", "cc: must-revalidate", "cc: max-age=60, must-revalidate", "defaulted"),
            ("default ttl=60 swr=5", "200", "cc: must-revalidate", "cc: max-age=60, must-revalidate", "defaulted"),
            ("default ttl=60", "200", "cc: no-transform, x=y", "cc: max-age=60, no-transform, x=y", "defaulted"),
            ("default ttl=60 swr=5", "200", "cc: stale-while-revalidate=2", "cc: max-age=60, stale-while-revalidate=2",
             "defaulted"),
            ("default ttl=60", "200", "cc: private=\"X-Gone\"", "cc: max-age=60", "defaulted"),
            ("default edge=300", "200", "", "cc: max-age=0, s-maxage=300", "defaulted"),
            ("default ttl=60 edge=300", "200", "", "cc: max-age=60, s-maxage=300", "defaulted"),
        ]);
    }

    #[test]
    #[rustfmt::skip] // a table
    fn override_and_never_modes_when_origin_disagrees_then_replace_the_origin_directives() {
        check(&[
            ("override ttl=94670800", "200", "", "cc: max-age=94670800", "overridden"),
            ("override ttl=60", "200", "cc: max-age=60", "cc: max-age=60", ""),
            ("override ttl=60", "200", "cc: max-age=60 | pragma: x", "cc: max-age=60", "tidied"),
            ("override ttl=60", "200", "cc: private", "cc: max-age=60", "overridden"),
            ("override ttl=60", "200", "cc: no-store", "cc: max-age=60", "overridden"),
            ("override ttl=60", "200", "cc: no-cache | pragma: no-cache | expires: 0", "cc: max-age=60", "overridden"),
            ("override ttl=60", "200", "cc: no-store | cc: private", "cc: max-age=60", "overridden"),
            ("override ttl=60", "200", "cc: private=\"Cookie\" | user", "cc: max-age=60 | user", "overridden"),
            ("override ttl=60", "200", "cc: private, no-transform", "cc: max-age=60, no-transform", "overridden"),
            ("override ttl=0", "200", "cc: max-age=9", "cc: max-age=0", "overridden"),
            ("override ttl=60", "206", "cc: private", "cc: max-age=60", "overridden"),
            ("override ttl=60", "304", "cc: private", "cc: max-age=60", "overridden"),
            ("override ttl=60", "304", "", "cc: max-age=60", "overridden"),
            ("override ttl=60", "302", "cc: private", "cc: private", ""),
            ("override ttl=60", "302", "", "", ""),
            ("override ttl=60", "200 POST", "cc: private", "cc: private", ""),
            ("override ttl=60", "404", "cc: max-age=9999", "cc: max-age=10", "overridden"),
            ("override ttl=60", "404", "cc: no-store", "cc: max-age=10", "overridden"),
            ("override", "200", "cc: max-age=9,public", "cc: public, max-age=9", "tidied"),
            ("override ttl=60 edge=300", "200", "", "cc: max-age=60, s-maxage=300", "overridden"),
            ("override edge=300", "200", "cc: max-age=9", "cc: max-age=0, s-maxage=300", "overridden"),
            ("override edge=300 immutable", "200", "", "cc: max-age=0, s-maxage=300", "overridden"),
            (
                "override ttl=1 edge=2 swr=3 sie=4 immutable",
                "200",
                "cc: private",
                "cc: max-age=1, s-maxage=2, stale-while-revalidate=3, stale-if-error=4, immutable",
                "overridden",
            ),
            ("override ttl=9999999999", "200", "", "cc: max-age=2147483648", "overridden"),
            ("never", "200", "", "cc: no-store", "forbidden"),
            ("never", "200", "cc: max-age=60", "cc: no-store", "forbidden"),
            ("never", "200", "cc: private", "cc: no-store", "forbidden"),
            ("never", "200", "cc: no-store", "cc: no-store", ""),
            ("never", "304", "", "cc: no-store", "forbidden"),
            ("never", "302", "", "cc: no-store", "forbidden"),
            ("never", "404", "cc: max-age=1", "cc: no-store", "forbidden"),
            ("never", "200 POST", "", "cc: no-store", "forbidden"),
            ("never", "200", "cc: no-transform", "cc: no-store, no-transform", "forbidden"),
            ("never ttl=60", "200 auth", "cookie | vary: *", "cc: no-store | cookie | vary: *", "forbidden"),
        ]);
    }

    #[test]
    #[rustfmt::skip] // a table
    fn cookie_guard_when_response_is_shared_then_adds_private_or_removes_the_cookie() {
        check(&[
            ("keep", "200", "cookie", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "200", "cookie | cc: max-age=60", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "200", "cookie | cc: s-maxage=60, max-age=0", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "200", "cookie | later | date", "cc: private | cookie | date", "guarded set_cookie"),
            ("keep", "200", "cookie | cc: public, no-cache", "cc: private, no-cache | cookie", "guarded set_cookie"),
            ("keep", "200", "cookie | cc: public, max-age=0", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "200", "cookie | cc: max-age=0, stale-while-revalidate=9", "cc: private | cookie",
             "guarded set_cookie"),
            ("keep", "200", "cookie | cc: max-age=9, no-cache=\"Set-Cookie\"", "cc: private | cookie",
             "guarded set_cookie"),
            ("keep", "200", "cookie | cc: no-transform", "cc: private, no-transform | cookie", "guarded set_cookie"),
            ("keep", "302", "cookie", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "304", "cookie", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "200", "cookie | cc: private", "cc: private | cookie", ""),
            ("keep", "200", "cookie | cc: no-store", "cc: no-store | cookie", ""),
            ("keep", "200", "cookie | cc: no-cache", "cc: no-cache | cookie", ""),
            ("keep", "200", "cookie | cc: max-age=0", "cc: max-age=0 | cookie", ""),
            ("keep", "200", "cookie | cc: max-age=9, s-maxage=0", "cc: max-age=9, s-maxage=0 | cookie", ""),
            ("keep", "200", "cookie | expires: 0", "cc: max-age=0 | cookie", "tidied"),
            ("keep", "200 POST", "cookie", "cookie", ""),
            ("keep", "201", "cookie", "cookie", ""),
            ("keep", "201", "cookie | cc: max-age=9", "cc: private | cookie", "guarded set_cookie"),
            ("default ttl=60", "200", "cookie", "cc: private | cookie", "guarded set_cookie"),
            ("default ttl=60", "200", "cookie | cc: private", "cc: private | cookie", ""),
            ("default ttl=60", "404", "cookie", "cc: private | cookie", "guarded set_cookie"),
            ("override ttl=60", "200", "cookie | cc: max-age=9", "cc: private | cookie", "guarded set_cookie"),
            ("override ttl=60", "200", "cookie | cc: private", "cc: private | cookie", "set_cookie"),
            ("override ttl=0", "200", "cookie | cc: max-age=9", "cc: max-age=0 | cookie", "overridden"),
            ("keep strip", "200", "cookie", "", "tidied cookie_stripped"),
            ("keep strip", "200", "cookie | cc: max-age=9", "cc: max-age=9", "tidied cookie_stripped"),
            ("keep strip", "200", "cookie | cookie | cc: max-age=9, no-cache=\"set-cookie\"", "cc: max-age=9",
             "tidied cookie_stripped"),
            ("keep strip", "200", "cookie | cc: private", "cc: private | cookie", ""),
            ("override ttl=60 strip", "200", "cookie | cc: private", "cc: max-age=60", "overridden cookie_stripped"),
            ("override ttl=60 strip", "200 auth", "cookie", "cc: private | cookie", "guarded authorization"),
        ]);
    }

    #[test]
    #[rustfmt::skip] // a table
    fn authorization_guard_when_origin_does_not_allow_sharing_then_adds_private() {
        check(&[
            ("keep", "200 auth", "", "cc: private", "guarded authorization"),
            ("keep", "200 auth", "cc: max-age=60", "cc: private", "guarded authorization"),
            ("keep", "200 auth", "cc: max-age=0", "cc: private", "guarded authorization"),
            ("keep", "200 auth", "cc: no-cache", "cc: private, no-cache", "guarded authorization"),
            ("keep", "200 auth", "cc: no-cache, must-revalidate", "cc: private, no-cache, must-revalidate",
             "guarded authorization"),
            ("keep", "200 auth", "cc: public, max-age=60", "cc: public, max-age=60", ""),
            ("keep", "200 auth", "cc: public, no-cache", "cc: public, no-cache", ""),
            ("keep", "200 auth", "cc: s-maxage=60", "cc: s-maxage=60", ""),
            ("keep", "200 auth", "cc: max-age=60, must-revalidate", "cc: max-age=60, must-revalidate", ""),
            ("keep", "200 auth", "cc: max-age=60, proxy-revalidate", "cc: private", "guarded authorization"),
            ("keep", "200 auth", "cc: private", "cc: private", ""),
            ("keep", "200 auth", "cc: no-store", "cc: no-store", ""),
            ("keep", "200 auth POST", "", "", ""),
            ("keep", "401 auth", "", "", ""),
            ("keep allow", "200 auth", "cc: max-age=60", "cc: max-age=60", ""),
            ("default ttl=60", "200 auth", "", "cc: private", "guarded authorization"),
            ("default ttl=60 edge=90", "200 auth", "", "cc: private", "guarded authorization"),
            ("default ttl=60", "200 auth", "cc: public", "cc: public, max-age=60", "defaulted"),
            ("default ttl=60", "200 auth", "cc: s-maxage=3", "cc: s-maxage=3", ""),
            ("default ttl=60 allow", "200 auth", "", "cc: public, max-age=60", "defaulted"),
            ("override ttl=60", "200 auth", "cc: public", "cc: private", "guarded authorization"),
            ("override ttl=60 edge=90", "200 auth", "cc: s-maxage=3", "cc: private", "guarded authorization"),
            ("override ttl=60 allow", "200 auth", "cc: private", "cc: public, max-age=60", "overridden"),
            ("override ttl=0 allow", "200 auth", "", "cc: max-age=0", "overridden"),
            ("override ttl=60 allow", "200", "cc: private", "cc: max-age=60", "overridden"),
            ("override ttl=60 edge=90 allow", "200 auth", "", "cc: max-age=60, s-maxage=90", "overridden"),
            ("override ttl=60", "200 auth", "cookie", "cc: private | cookie", "guarded set_cookie authorization"),
        ]);
    }

    #[test]
    #[rustfmt::skip] // a table
    fn error_guard_when_status_is_5xx_then_sets_no_store() {
        check(&[
            ("keep", "500", "", "cc: no-store", "guarded error"),
            ("keep", "503", "cc: max-age=60 | age: 9 | later | date", "cc: no-store | date", "guarded error"),
            ("keep", "502", "cc: no-store | age: 9", "cc: no-store", "tidied"),
            ("keep", "502", "cc: private", "cc: no-store", "tidied"),
            ("keep", "500 POST", "", "cc: no-store", "guarded error"),
            ("keep", "500", "cookie | cc: public", "cc: no-store | cookie", "guarded error"),
            ("keep", "500", "cc: no-transform", "cc: no-store, no-transform", "guarded error"),
            ("default ttl=60", "501", "", "cc: no-store", "guarded error"),
            ("override ttl=60 allow", "504 auth", "cc: public", "cc: no-store", "guarded error"),
            ("override ttl=60", "599", "vary: *", "cc: no-store | vary: *", "guarded error"),
            ("never", "500", "age: 1", "cc: no-store", "forbidden"),
            ("keep vary=Accept", "500", "vary: Cookie", "cc: no-store | vary: Cookie", "guarded error"),
        ]);
    }

    #[test]
    #[rustfmt::skip] // a table
    fn vary_guards_when_vary_is_unsafe_then_add_private_or_only_report() {
        check(&[
            ("keep", "200", "vary: *", "cc: private | vary: *", "guarded vary_star"),
            ("keep", "200", "vary: *, accept | cc: max-age=9", "cc: private | vary: *, accept", "guarded vary_star"),
            ("keep", "200", "vary: accept | vary: * | cc: no-cache", "cc: private, no-cache | vary: accept | vary: *",
             "guarded vary_star"),
            ("keep vary=Accept", "200", "vary: *, cookie", "cc: private | vary: *, cookie", "guarded vary_star"),
            ("override ttl=60", "200", "vary: *", "cc: private | vary: *", "guarded vary_star"),
            ("keep", "200", "vary: * | cc: private", "cc: private | vary: *", ""),
            ("keep", "200 POST", "vary: *", "vary: *", ""),
            ("keep", "200", "vary: Accept-Encoding", "vary: Accept-Encoding", ""),
            ("keep", "200", "vary: user-agent", "vary: user-agent", "vary_user_agent"),
            ("override ttl=9", "200", "vary: Cookie,User-Agent", "cc: max-age=9 | vary: Cookie,User-Agent",
             "overridden vary_user_agent vary_cookie"),
            ("keep", "200", "vary: cookie | cc: private", "cc: private | vary: cookie", ""),
            ("keep", "200", "vary: cookie | cc: max-age=0", "cc: max-age=0 | vary: cookie", ""),
            ("keep", "200", "vary: cookie | cookie", "cc: private | vary: cookie | cookie", "guarded set_cookie"),
            ("keep vary=Accept-Encoding", "200", "vary: cookie, accept-encoding", "vary: Accept-Encoding",
             "tidied vary_cookie"),
            ("keep vary=Accept-Encoding", "200", "vary: origin", "", "tidied"),
            ("keep vary=Accept-Encoding", "200", "vary: origin | cc: private", "cc: private | vary: origin", ""),
            ("keep vary=Accept", "200", "vary: cookie | cookie", "cc: private | vary: cookie | cookie",
             "guarded set_cookie"),
            ("keep vary=A,B", "200", "vary: b, a", "vary: b, a", ""),
            ("keep vary=A,B", "200", "vary: b, c | vary: a, a", "vary: A, B", "tidied"),
            ("keep vary=A", "200", "", "", ""),
        ]);
    }

    #[test]
    #[rustfmt::skip] // a table
    fn targeted_fields_when_dialect_has_no_targeted_field_then_are_removed_except_esi_content() {
        check(&[
            ("keep", "200", "surrogate: max-age=60", "", "tidied"),
            ("keep", "200", "cdn: max-age=60 | cc: max-age=1", "cc: max-age=1", "tidied"),
            ("keep", "200", "cloudflare: max-age=60 | netlify: max-age=60 | vercel: x | akamai: x | edge: x | accel: 9",
             "", "tidied"),
            ("keep", "200", "surrogate: max-age=60, content=\"ESI/1.0\"", "surrogate: content=\"ESI/1.0\"", "tidied"),
            ("keep", "200", "surrogate: no-store | surrogate: content=ESI", "surrogate: content=\"ESI\"", "tidied"),
            ("keep", "200", "surrogate: content=\"ESI/1.0\"", "surrogate: content=\"ESI/1.0\"", ""),
            ("keep", "200", "surrogate: content=\"ESI/1.0", "", "tidied"),
            ("never", "200", "surrogate: content=\"a\", max-age=5", "cc: no-store | surrogate: content=\"a\"",
             "forbidden"),
            ("keep", "500", "cdn: max-age=60 | surrogate: max-age=5", "cc: no-store", "guarded error"),
        ]);
    }

    #[test]
    #[rustfmt::skip] // a table
    fn lifetimes_when_fastly_pulls_then_are_in_surrogate_control_or_cache_control() {
        check_in(Dialect::Fastly, &[
            ("override ttl=60", "200", "", "cc: max-age=60", "overridden"),
            ("override ttl=60 edge=300 swr=5 sie=9", "200", "",
             "cc: max-age=60, stale-while-revalidate=5, stale-if-error=9 | surrogate: max-age=300, \
             stale-while-revalidate=5, stale-if-error=9", "overridden"),
            ("override ttl=60 edge=300 immutable", "200", "cc: private",
             "cc: max-age=60, immutable | surrogate: max-age=300", "overridden"),
            ("override edge=300", "200", "", "cc: max-age=0 | surrogate: max-age=300", "overridden"),
            ("override ttl=60 edge=300", "200", "cc: max-age=60", "cc: max-age=60 | surrogate: max-age=300",
             "overridden"),
            ("override ttl=60", "200", "cc: max-age=60 | surrogate: max-age=9", "cc: max-age=60", "overridden"),
            ("override ttl=60 edge=300", "200", "surrogate: no-store", "cc: max-age=60 | surrogate: max-age=300",
             "overridden"),
            ("override ttl=60 edge=300", "200", "surrogate: content=\"ESI/1.0\"",
             "cc: max-age=60 | surrogate: max-age=300, content=\"ESI/1.0\"", "overridden"),
            ("override ttl=60 edge=300", "200", "surrogate: max-age=9, no-transform",
             "cc: max-age=60, no-transform | surrogate: max-age=300", "overridden"),
            ("override ttl=60 edge=300", "206", "", "cc: max-age=60 | surrogate: max-age=300", "overridden"),
            ("override ttl=60 edge=300", "304", "cc: no-cache", "cc: max-age=60 | surrogate: max-age=300",
             "overridden"),
            ("override ttl=60 edge=300", "404", "", "cc: max-age=10", "overridden"),
            ("override ttl=60 edge=300", "404", "surrogate: max-age=9", "cc: max-age=10", "overridden"),
            ("override ttl=60 edge=300", "302", "surrogate: max-age=9", "surrogate: max-age=9", ""),
            ("never", "200", "", "cc: no-store | surrogate: no-store", "forbidden"),
            ("never", "200", "cc: no-store", "cc: no-store | surrogate: no-store", "forbidden"),
            ("never", "200", "surrogate: max-age=9, content=\"a\"", "cc: no-store | surrogate: no-store, content=\"a\"",
             "forbidden"),
            ("keep", "500", "cc: no-store | surrogate: max-age=5", "cc: no-store | surrogate: no-store",
             "guarded error"),
            ("keep", "500", "surrogate: max-age=5 | age: 3", "cc: no-store | surrogate: no-store", "guarded error"),
            // Fastly ignores no-cache, so Fastly also gets a lifetime of 0 in Surrogate-Control.
            ("keep", "200", "cc: no-cache", "cc: no-cache | surrogate: max-age=0", "tidied"),
            ("keep", "200", "cc: no-cache, max-age=60", "cc: no-cache | surrogate: max-age=0", "tidied"),
            ("keep", "200", "pragma: no-cache", "cc: no-cache | surrogate: max-age=0", "tidied"),
            ("keep", "200", "cc: no-cache | surrogate: content=\"ESI/1.0\"",
             "cc: no-cache | surrogate: max-age=0, content=\"ESI/1.0\"", "tidied"),
            ("keep", "200", "cc: no-cache | surrogate: stale-if-error=9", "cc: no-cache | surrogate: max-age=0",
             "tidied"),
            ("keep", "200 auth", "cc: public, no-cache", "cc: public, no-cache | surrogate: public, max-age=0",
             "tidied"),
            ("keep", "200", "cc: no-cache | surrogate: max-age=60", "cc: no-cache | surrogate: max-age=60", ""),
            ("keep", "200", "cc: max-age=5 | surrogate: no-cache, max-age=60", "cc: max-age=5 | surrogate: max-age=0",
             "tidied"),
            ("default ttl=60 edge=300", "200", "cc: no-cache", "cc: no-cache | surrogate: max-age=0", "tidied"),
            ("keep", "200 POST", "cc: no-cache", "cc: no-cache", ""),
            ("keep", "429", "cc: no-cache", "cc: no-cache", ""),
            ("keep", "200", "cc: private, no-cache", "cc: private, no-cache", ""),
            ("keep", "200", "cc: no-store", "cc: no-store", ""),
            // In most of the next rows, the origin sends Surrogate-Control.
            ("keep", "200", "surrogate: max-age=60", "surrogate: max-age=60", ""),
            ("keep", "200", "surrogate: Max-Age=60 | surrogate: max-age=30", "surrogate: max-age=30", "tidied"),
            // Fastly reads prohibitions only in Cache-Control.
            ("keep", "200", "surrogate: max-age=60, no-store", "cc: private | surrogate: no-store", "tidied"),
            ("keep", "200", "cc: max-age=60 | surrogate: no-store", "cc: private | surrogate: no-store", "tidied"),
            ("keep", "200", "cc: no-cache | surrogate: private", "cc: private, no-cache | surrogate: private",
             "tidied"),
            ("keep", "200", "cc: no-store | surrogate: private", "cc: no-store | surrogate: private", ""),
            ("default ttl=60 edge=300", "404", "surrogate: private", "cc: private | surrogate: private", "tidied"),
            ("keep", "200", "cookie | cc: max-age=60 | surrogate: no-store",
             "cc: private | surrogate: no-store | cookie", "tidied"),
            ("keep", "200 auth", "cc: max-age=60 | surrogate: private", "cc: private | surrogate: private", "tidied"),
            ("keep", "200", "surrogate: s-maxage=60, max-age=9", "surrogate: max-age=9", "tidied"),
            ("keep", "200", "surrogate: max-age=60, Odd=1, even=1", "surrogate: max-age=60, even=1", "tidied"),
            ("keep", "200", "surrogate: max-age=60, content=\"ESI/1.0\"", "surrogate: max-age=60, content=\"ESI/1.0\"",
             ""),
            ("keep", "200", "surrogate: content=\"ESI/1.0\"", "surrogate: content=\"ESI/1.0\"", ""),
            ("keep", "200", "surrogate: ,;", "", "tidied"),
            ("keep", "200", "surrogate: max-age=60 | cdn: max-age=9 | cloudflare: max-age=9", "surrogate: max-age=60",
             "tidied"),
            ("default ttl=60 edge=300", "200", "surrogate: max-age=9", "surrogate: max-age=9", ""),
            ("default ttl=60 edge=300", "200", "cc: max-age=9", "cc: max-age=9", ""),
            ("default ttl=60 edge=300 swr=5", "200", "",
             "cc: max-age=60, stale-while-revalidate=5 | surrogate: max-age=300, stale-while-revalidate=5",
             "defaulted"),
            ("default ttl=60 edge=300 swr=5", "200", "cc: stale-while-revalidate=2",
             "cc: max-age=60, stale-while-revalidate=2 | surrogate: max-age=300, stale-while-revalidate=2",
             "defaulted"),
            ("default ttl=60 edge=300 swr=5", "200", "cc: must-revalidate",
             "cc: max-age=60, must-revalidate | surrogate: max-age=300, must-revalidate", "defaulted"),
            ("default ttl=60", "200", "surrogate: stale-if-error=9",
             "cc: max-age=60 | surrogate: max-age=60, stale-if-error=9", "defaulted"),
            ("default ttl=60 edge=300", "404", "", "cc: max-age=10", "defaulted"),
        ]);
    }

    #[test]
    #[rustfmt::skip] // a table
    fn guards_when_response_has_targeted_field_then_check_both_fields() {
        check_in(Dialect::Fastly, &[
            ("keep", "200", "cookie | surrogate: max-age=60 | cc: private", "cc: private | cookie",
             "guarded set_cookie"),
            ("keep", "200", "cookie | surrogate: max-age=60 | cc: no-store", "cc: no-store | cookie",
             "guarded set_cookie"),
            ("keep", "200", "cookie | surrogate: max-age=60, content=\"E\"",
             "cc: private | cookie | surrogate: content=\"E\"", "guarded set_cookie"),
            ("keep", "200", "cookie | surrogate: max-age=0 | cc: max-age=60",
             "cc: private | surrogate: max-age=0 | cookie", "guarded set_cookie"),
            ("keep", "200", "cookie | surrogate: stale-if-error=0 | cc: max-age=60", "cc: private | cookie",
             "guarded set_cookie"),
            ("keep", "200", "cookie | cc: no-cache", "cc: no-cache | cookie | surrogate: max-age=0", "tidied"),
            ("keep strip", "200", "cookie | surrogate: max-age=60 | cc: private", "cc: private | surrogate: max-age=60",
             "tidied cookie_stripped"),
            ("override ttl=60 edge=300", "200", "cookie", "cc: private | cookie", "guarded set_cookie"),
            ("override ttl=0 edge=300", "200", "cookie | cc: max-age=9", "cc: private | cookie", "guarded set_cookie"),
            ("override ttl=60 edge=0", "200", "cookie", "cc: private | surrogate: max-age=0 | cookie",
             "guarded set_cookie"),
            ("keep", "200", "vary: * | surrogate: max-age=60 | cc: private", "cc: private | vary: *",
             "guarded vary_star"),
            ("keep", "200", "vary: cookie | surrogate: max-age=60 | cc: private",
             "cc: private | surrogate: max-age=60 | vary: cookie", "vary_cookie"),
            ("keep vary=Accept", "200", "vary: cookie | surrogate: max-age=60 | cc: private",
             "cc: private | surrogate: max-age=60", "tidied vary_cookie"),
            ("keep", "200 auth", "surrogate: max-age=60 | cc: private", "cc: private", "guarded authorization"),
            ("keep", "200 auth", "surrogate: max-age=60 | cc: public", "cc: private", "guarded authorization"),
            ("keep", "200 auth", "surrogate: public, max-age=60 | cc: private",
             "surrogate: public, max-age=60 | cc: private", ""),
            ("override ttl=60 edge=300 allow", "200 auth", "", "cc: max-age=60 | surrogate: public, max-age=300",
             "overridden"),
            ("override ttl=60 allow", "200 auth", "", "cc: public, max-age=60", "overridden"),
            ("override ttl=60 edge=300", "200 auth", "cc: public", "cc: private", "guarded authorization"),
        ]);
        check_in(Dialect::Cloudflare, &[
            ("keep", "200", "cookie | cdn: max-age=60 | cc: private", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "200", "cookie | surrogate: max-age=60 | cc: private", "cc: private | cookie", "tidied"),
            // It is unknown whether Cloudflare also reads Cache-Control if its targeted field has neither a lifetime
            // nor a prohibition. So Cache-Control must not allow sharing either.
            ("keep", "200", "cookie | cloudflare: stale-if-error=0 | cc: max-age=60", "cc: private | cookie",
             "guarded set_cookie"),
            ("keep", "200", "cookie | cloudflare: stale-if-error=0", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "201", "cookie | cloudflare: a=b | cc: max-age=60", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "200", "cookie | cloudflare: no-store | cc: max-age=60",
             "cc: private | cloudflare: no-store | cookie", "guarded set_cookie"),
        ]);
    }

    #[test]
    #[rustfmt::skip] // a table
    fn targeted_directives_when_cloudflare_pulls_then_are_in_cloudflare_cdn_cache_control() {
        check_in(Dialect::Cloudflare, &[
            ("override ttl=60", "200", "", "cc: max-age=60", "overridden"),
            ("override ttl=60 edge=300 swr=5 sie=9", "200", "",
             "cc: max-age=60, stale-while-revalidate=5, stale-if-error=9 | cloudflare: max-age=300, \
             stale-while-revalidate=5, stale-if-error=9", "overridden"),
            ("override ttl=60 edge=300", "200", "surrogate: content=\"ESI/1.0\"",
             "cc: max-age=60 | cloudflare: max-age=300", "overridden"),
            ("keep", "200", "surrogate: content=\"ESI/1.0\" | cc: max-age=9", "cc: max-age=9", "tidied"),
            ("keep", "200", "cloudflare: max-age=60 | cdn: max-age=9", "cloudflare: max-age=60", "tidied"),
            ("keep", "200", "cdn: max-age=9 | cc: max-age=1", "cc: max-age=1 | cloudflare: max-age=9", "tidied"),
            ("keep", "200", "cloudflare: , | cdn: max-age=9", "cloudflare: max-age=9", "tidied"),
            ("keep", "200", "cc: no-cache", "cc: no-cache", ""),
            ("keep", "200", "cc: no-cache | cloudflare: max-age=60", "cc: no-cache | cloudflare: max-age=60", ""),
            ("keep", "200", "cloudflare: no-cache, max-age=60", "cloudflare: no-cache", "tidied"),
            ("keep", "200", "cloudflare: stale-if-error=9 | cc: max-age=60",
             "cloudflare: max-age=60, stale-if-error=9 | cc: max-age=60", "tidied"),
            ("keep", "200", "cloudflare: stale-if-error=9 | cc: private", "cloudflare: private | cc: private",
             "tidied"),
            ("default ttl=60 edge=300", "200", "cdn: max-age=9", "cloudflare: max-age=9", "tidied"),
            ("default ttl=60", "200", "cc: public, must-revalidate | cdn: stale-if-error=9",
             "cc: public, max-age=60, must-revalidate | cloudflare: public, max-age=60, must-revalidate", "defaulted"),
            ("override ttl=60 edge=300", "200", "cdn: max-age=9", "cc: max-age=60 | cloudflare: max-age=300",
             "overridden"),
            ("never", "404", "", "cc: no-store | cloudflare: no-store", "forbidden"),
            ("keep", "503", "cdn: max-age=9", "cc: no-store | cloudflare: no-store", "guarded error"),
        ]);
    }

    #[test]
    #[rustfmt::skip] // a table
    fn caching_fields_when_rfc9213_cdn_or_akamai_pulls_then_follow_the_dialect() {
        check_in(Dialect::Rfc9213, &[
            ("override ttl=60", "200", "", "cc: max-age=60", "overridden"),
            ("override ttl=60 edge=300 swr=5", "200", "",
             "cc: max-age=60, stale-while-revalidate=5 | cdn: max-age=300, stale-while-revalidate=5", "overridden"),
            ("keep", "200", "cdn: max-age=9 | cloudflare: max-age=1 | accel: 3", "cdn: max-age=9", "tidied"),
            ("keep", "200", "cdn: max-age=9 | surrogate: max-age=1, content=\"a\"",
             "cdn: max-age=9 | surrogate: content=\"a\"", "tidied"),
            ("keep", "200", "cc: no-cache", "cc: no-cache", ""),
            ("never", "200", "cdn: max-age=9", "cc: no-store | cdn: no-store", "forbidden"),
            ("keep", "200", "cookie | cdn: max-age=9 | cc: private", "cc: private | cookie", "guarded set_cookie"),
        ]);
        check_in(Dialect::Akamai, &[
            ("override ttl=60 edge=300", "200", "", "cc: max-age=60, s-maxage=300", "overridden"),
            ("keep", "200", "cdn: max-age=9 | edge: max-age=1 | akamai: max-age=2 | cc: max-age=3",
             "cc: max-age=3 | edge: max-age=1", "tidied"),
            ("never", "200", "edge: max-age=9", "cc: no-store", "forbidden"),
        ]);
    }

    fn any_policy() -> impl Strategy<Value = CachePolicy> {
        let mode =
            prop::sample::select(vec![CacheMode::Keep, CacheMode::Default, CacheMode::Override, CacheMode::Never]);
        let seconds = || prop::option::of(prop::sample::select(vec![0, 60, u64::MAX]));
        let vary =
            prop::option::of(prop::sample::subsequence(vec!["Accept-Encoding".to_owned(), "Cookie".to_owned()], 0..=2));
        ((mode, seconds(), seconds(), seconds(), seconds()), any::<(bool, bool, bool)>(), vary).prop_map(
            |((mode, ttl, edge_ttl, swr, sie), (immutable, strip_cookies, allow_authorization), vary)| CachePolicy {
                mode,
                ttl,
                edge_ttl,
                stale_while_revalidate: swr,
                stale_if_error: sie,
                immutable,
                strip_cookies,
                vary,
                error_ttl: 10,
                allow_authorization,
            },
        )
    }

    fn any_response() -> impl Strategy<Value = HeaderMap> {
        let line = prop_oneof![
            3 => prop::sample::select(vec![
                "cc: max-age=60", "cc: no-cache", "cc: private", "cc: no-store", "cc: public, s-maxage=5",
                "cc: max-age=0",
                "cc: no-cache=\"Set-Cookie\"", "cc: private=\"Pragma, Expires\", max-age=3", "cc: must-revalidate, \
                max-age=5",
                "cc: stale-if-error=9", "cc: no-transform, ext", "cc: ,", "pragma: no-cache", "later", "date",
                "expires: 0", "cookie",
                "vary: *", "vary: Cookie, Accept-Encoding", "vary: User-Agent", "age: 7", "surrogate: max-age=5",
                "surrogate: content=\"ESI/1.0\", max-age=3", "cdn: max-age=5", "accel: 5", "surrogate: no-cache",
                "surrogate: no-store",
                "surrogate: stale-if-error=9", "surrogate: s-maxage=4, Odd", "cdn: private, max-age=3",
                "cdn: stale-while-revalidate=2",
                "cdn: public, even=1", "cloudflare: max-age=7", "cloudflare: no-store",
                "cloudflare: no-cache=\"Vary\", no-transform",
                "edge: max-age=1d", "edge: no-store", "edge: !no-store", "edge: bypass-cache, cache-maxage=5m",
                "edge: dca=esi, max-age=0",
                "edge: downstream-ttl=1h", "edge: dca=esi",
            ])
            .prop_map(headers),
            1 => (
                prop::collection::vec(32_u8..=255, 0..40),
                prop::sample::select(vec!["cc", "surrogate", "cdn", "cloudflare", "edge"]),
            )
                .prop_map(|(bytes, short)| {
                    HeaderValue::from_bytes(&bytes).into_iter().map(|value| (field(short).0, value)).collect()
                }),
        ];
        prop::collection::vec(line, 0..6).prop_map(|lines| {
            let mut all = HeaderMap::new();
            for line in &lines {
                for (name, value) in line {
                    all.append(name.clone(), value.clone());
                }
            }
            all
        })
    }

    fn any_request() -> impl Strategy<Value = (StatusCode, Method, bool)> {
        let status = prop::sample::select(vec![200_u16, 201, 206, 301, 302, 304, 401, 404, 410, 429, 500, 503])
            .prop_map(|code| StatusCode::from_u16(code).unwrap());
        let method = prop::sample::select(vec![Method::GET, Method::GET, Method::HEAD, Method::POST]);
        (status, method, any::<bool>())
    }

    #[test]
    fn decision_when_prepared_then_equals_a_new_decision_for_every_usual_status() {
        for class in ["error=5", "ttl=60", "default ttl=60 edge=9", "override ttl=60 edge=9", "never", "keep"] {
            for dialect in Dialect::ALL {
                let prepared = Prepared::new(&policy(class), dialect);
                let unprepared = Prepared { usual: None, ..prepared.clone() };
                for status in (500..600).chain([200, 203, 304, 404]) {
                    let status = StatusCode::from_u16(status).unwrap();
                    let facts = Facts { method: &Method::GET, authorization: false, assigned: false, now };
                    let (mut one, mut other) = (headers("vary: Cookie"), headers("vary: Cookie"));
                    one.remove(&names::VARY);
                    other.remove(&names::VARY);
                    let outcomes =
                        (prepared.apply(&mut one, status, &facts), unprepared.apply(&mut other, status, &facts));
                    assert_eq!((outcomes.0, one), (outcomes.1, other), "{class}, {dialect:?}, {status}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn response_when_it_can_depend_on_an_arm_then_no_cdn_may_store_it(
            class in any_policy(),
            dialect in prop::sample::select(Dialect::ALL.to_vec()),
            origin in any_response(),
            (status, method, authorization) in any_request(),
        ) {
            let facts = Facts { method: &method, authorization, assigned: true, now };
            let mut response = origin.clone();
            Prepared::new(&class, dialect).apply(&mut response, status, &facts);
            let parsed = |name: &HeaderName| {
                CacheControl::parse(response.get_all(name).iter().map(HeaderValue::as_bytes))
            };
            prop_assert!(parsed(&names::CACHE_CONTROL).is_unshared(), "{:?}", response);
            if let Some(name) = dialect.targeted_field() {
                let mut directives = parsed(name);
                directives.extensions.retain(|extension| extension.name != "content");
                prop_assert!(directives.is_empty() || directives.is_unshared(), "{:?}", response);
            }
            if let Some(name) = dialect.passed_field() {
                prop_assert!(matches!(changes::remove_permissions(&response, name), Change::Keep), "{:?}", response);
            }
            let mut again = response.clone();
            Prepared::new(&class, dialect).apply(&mut again, status, &facts);
            prop_assert_eq!(again, response);
        }

        #[test]
        fn response_when_fields_are_arbitrary_then_is_guarded_and_unchanged_by_a_second_call(
            class in any_policy(),
            dialect in prop::sample::select(Dialect::ALL.to_vec()),
            origin in any_response(),
            (status, method, authorization) in any_request(),
        ) {
            let prepared = Prepared::new(&class, dialect);
            let facts = Facts { method: &method, authorization, assigned: false, now };
            let mut response = origin.clone();
            let outcome = prepared.apply(&mut response, status, &facts);

            prop_assert!(response.get_all(&names::CACHE_CONTROL).iter().count() <= 1);
            prop_assert!(!response.contains_key(&names::PRAGMA) && !response.contains_key(&names::EXPIRES));
            let passed = dialect.passed_field().filter(|_| matches!(class.mode, CacheMode::Keep | CacheMode::Default));
            for name in TARGETED.into_iter().chain([&names::SURROGATE_CONTROL]).filter(|name| passed != Some(*name)) {
                let wanted = usize::from(dialect.targeted_field() == Some(name));
                let esi = *name == names::SURROGATE_CONTROL && dialect.accepts_surrogate_control();
                let count = response.get_all(name).iter().count();
                prop_assert!(count <= wanted.max(usize::from(esi)), "{} lines of {}", count, name);
            }
            prop_assert_eq!(outcome.action.is_some(), response != origin);
            if let Some(grant) = outcome.grant {
                prop_assert_eq!(grant, Grant::of(dialect, status, &response), "{:?}", response);
            }

            let parsed = |name: &HeaderName| {
                let mut directives = CacheControl::parse(response.get(name).map(HeaderValue::as_bytes));
                directives.extensions.retain(|extension| extension.name != "content");
                directives
            };
            let for_all = parsed(&names::CACHE_CONTROL);
            let targeted = dialect.targeted_field().map(parsed).filter(|directives| !directives.is_empty());
            for directives in std::iter::once(&for_all).chain(&targeted) {
                prop_assert!(!(directives.is_restricted() && directives.has_lifetime()));
                prop_assert!(!(directives.is_restricted() && directives.stale_if_error.is_some()));
                prop_assert!(!(directives.is_restricted() && directives.stale_while_revalidate.is_some()));
            }
            // If the CDN obeys its targeted field, it does not read Cache-Control. So the targeted field must be
            // complete.
            let obeyed = targeted.clone().unwrap_or_else(|| for_all.clone());
            if !obeyed.has_lifetime() && !obeyed.is_restricted() {
                prop_assert!(!for_all.has_lifetime() && !for_all.is_restricted());
            }
            if dialect == Dialect::Fastly && fetched_of(&method) && status == StatusCode::OK {
                prop_assert!(!obeyed.no_cache || obeyed.is_unshared(), "Fastly ignores this no-cache");
            }
            if dialect == Dialect::Fastly && obeyed.is_unshared() {
                prop_assert!(for_all.is_unshared(), "Fastly ignores this prohibition in its targeted field");
            }

            let of_edge =
                |headers: &HeaderMap| headers.get_all(&names::EDGE_CONTROL).iter().cloned().collect::<Vec<_>>();
            let left = of_edge(&response);
            // Each directive is checked separately, because it is unknown how Akamai reads a field whose directives
            // contradict each other.
            let permits = left.iter().flat_map(|line| Directives::new(line.as_bytes())).any(|directive| {
                edge_control([directive.text]).is_some_and(|read| !read.no_store && read.max_age != Some(0))
            });
            if passed.is_some() && outcome.guards.is_empty() && !status.is_server_error() {
                prop_assert_eq!(&left, &of_edge(&origin), "Edge-Control must be unchanged");
            }
            let denied = response.get_all(&names::VARY).iter().any(|line| line == "*")
                || response.contains_key(&names::SET_COOKIE)
                || authorization && !class.allow_authorization;
            prop_assert!(!(permits && (status.is_server_error() || denied && fetched_of(&method))));
            let cookies = response.contains_key(&names::SET_COOKIE);
            let lasting = obeyed.s_maxage.or(obeyed.max_age).is_some_and(|seconds| seconds > 0);
            let fetched = fetched_of(&method);
            if status.is_server_error() {
                prop_assert!(for_all.no_store && obeyed.no_store && !response.contains_key(&names::AGE));
            }
            if class.mode == CacheMode::Never {
                prop_assert!(for_all.no_store && obeyed.no_store);
            }
            if fetched {
                prop_assert!(!(cookies && (lasting || obeyed.public)));
                let undecided = !obeyed.has_lifetime() && !obeyed.is_restricted();
                prop_assert!(!(cookies && status == StatusCode::OK && undecided));
                let star = response.get_all(&names::VARY).iter().any(|line| line == "*");
                prop_assert!(!(star && (lasting || obeyed.public)));
                // A cache between this CDN and the client may read only Cache-Control.
                let lifetime = for_all.s_maxage.or(for_all.max_age);
                let open = for_all.public || lifetime.is_some_and(|seconds| seconds > 0);
                prop_assert!(!((cookies || star) && open));
                let by_origin = obeyed.public || obeyed.s_maxage.is_some() || obeyed.must_revalidate;
                let allowed = class.allow_authorization || by_origin;
                prop_assert!(!(authorization && lasting && !allowed));
            }

            let once = response.clone();
            let again = prepared.apply(&mut response, status, &facts);
            prop_assert_eq!(response, once);
            prop_assert_eq!(again.action, None);
        }
    }

    fn fetched_of(method: &Method) -> bool {
        *method != Method::POST
    }
}
