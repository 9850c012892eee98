//! What caches may do with one answer: the class's rule applied to the origin's words, and the guards that beat every rule.
//!
//! A plain decision on borrowed headers, for the `cache_control` layer. [`Prepared`] is built once from a class's [`CachePolicy`] and
//! a CDN's [`Dialect`], and applied to each of the class's answers to that CDN. Reads Cache-Control, Pragma, Expires, Date,
//! Set-Cookie, Vary and the fields that single CDNs obey; cost: one pass over the names, and one allocation where a line has to be
//! written that is not prepared. Applying it twice equals applying it once.
//!
//! An answer speaks to two audiences: to everybody in Cache-Control, and to the CDN that pulls in that CDN's own field, where its
//! dialect has one. The strictest reading is made within a field and never across the two: an origin that says `no-cache` to browsers
//! and `max-age=60` in the CDN's own field means both, and no directive of the one takes anything from the other, with two exceptions.
//! An own field that gives no lifetime and forbids nothing is completed from Cache-Control, since not every CDN stops reading there.
//! And what the own field of a CDN forbids that reads it for lifetimes alone, Cache-Control forbids too, or nothing would. What a guard
//! looks at are the words that this CDN acts on, the own field before Cache-Control; where it makes an answer private the own field
//! goes, since CDNs obey `private` only while nothing is said to them alone.
//!
//! Akamai's Edge-Control is read as such a field but never added: in the modes `keep` and `default` it is passed on as it came. Where a guard
//! or an error forbids storing, only the directives stay that cannot allow it. In `override` and `never` it is dropped; what it forbids is
//! then said in Cache-Control, for the statuses that have no rule.

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::cdn::dialect::Dialect;
use crate::edge::request::class::{CacheMode, CachePolicy};
use crate::ids::label;
use crate::wire::cache_control::{
    Argument, CacheControl, CacheField, Directives, Extension, TARGETED, edge_control, expires_lifetime,
};
use crate::wire::{names, vary};

/// Longest ESI `content` kept, in bytes.
const MAX_ESI_CONTENT: usize = 128;

label! {
    /// What was done to an answer's caching fields: label `action` of `edgeshim_cache_rewrites_total`.
    pub enum Action {
        /// The origin's words, in one line with one meaning.
        Tidied = "tidied",
        /// A lifetime given where the origin gave none.
        Defaulted = "defaulted",
        /// The origin's words replaced by the class's.
        Overridden = "overridden",
        /// no-store, because the class says `never`.
        Forbidden = "forbidden",
        /// A guard's word in place of the rule's.
        Guarded = "guarded",
    }
}

label! {
    /// What keeps something unsafe out of shared caches: label `guard` of `edgeshim_cache_guards_total`.
    pub enum Guard {
        /// Set-Cookie on something shared: made private.
        SetCookie = "set_cookie",
        /// Set-Cookie on something shared: taken off.
        CookieStripped = "cookie_stripped",
        /// The answer to a request with Authorization: made private (RFC 9111 §3.5).
        Authorization = "authorization",
        /// A 5xx: made no-store.
        Error = "error",
        /// `Vary: *`: made private.
        VaryStar = "vary_star",
        /// Vary names User-Agent on something shared: reported.
        VaryUserAgent = "vary_user_agent",
        /// Vary names Cookie on something shared: reported.
        VaryCookie = "vary_cookie",
    }
}

/// A set of guards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Guards(u8);

impl Guards {
    /// Those that hold.
    fn of(all: [(Guard, bool); 3]) -> Self {
        let mut guards = Self::default();
        for (guard, _) in all.into_iter().filter(|(_, holds)| *holds) {
            guards.insert(guard);
        }
        guards
    }

    fn insert(&mut self, guard: Guard) {
        self.0 |= 1 << guard as u8;
    }

    fn insert_all(&mut self, others: Self) {
        self.0 |= others.0;
    }

    fn remove(&mut self, guard: Guard) {
        self.0 &= !(1 << guard as u8);
    }

    /// Whether `guard` fired.
    pub fn contains(self, guard: Guard) -> bool {
        self.0 & (1 << guard as u8) != 0
    }

    /// Whether none fired.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that fired.
    pub fn iter(self) -> impl Iterator<Item = Guard> {
        Guard::ALL.into_iter().filter(move |&guard| self.contains(guard))
    }
}

/// What became of one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// What was changed; `None`: nothing.
    pub action: Option<Action>,
    /// The guards that fired.
    pub guards: Guards,
}

/// What has to be known about the request, and about the answer beside its head.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The request's method.
    pub method: &'a Method,
    /// Whether the request carried Authorization.
    pub authorization: bool,
    /// The clock, asked only where an answer has Expires and no Date.
    pub now: fn() -> SystemTime,
}

/// Directives and the line that they make.
#[derive(Debug, Clone)]
struct Line {
    words: CacheControl<'static>,
    value: Option<HeaderValue>,
}

impl Line {
    fn new(mut words: CacheControl<'static>) -> Self {
        words.settle();
        let value = words.settled_value();
        Self { words, value }
    }

    fn spoken(&self) -> Spoken<'_> {
        Spoken { words: self.words.clone(), ready: self.value.as_ref() }
    }
}

/// What is written in place of the origin's words.
#[derive(Debug, Clone)]
struct Rule {
    cache_control: Line,
    /// Into the CDN's own field.
    own: Option<Line>,
}

impl Rule {
    /// The same in Cache-Control as in any own field: nothing about lifetimes is said to the CDN alone.
    fn to_all(words: CacheControl<'static>) -> Self {
        Self { cache_control: Line::new(words), own: None }
    }

    fn told(&self) -> Told<'_> {
        Told { all: self.cache_control.spoken(), own: self.own.as_ref().map(Line::spoken) }
    }

    /// How long this CDN is to keep it.
    fn lifetime(&self) -> Option<u64> {
        let all = &self.cache_control.words;
        self.own.as_ref().and_then(|own| own.words.max_age).or(all.s_maxage).or(all.max_age)
    }
}

/// Words to one audience, and their line where it is prepared.
struct Spoken<'a> {
    words: CacheControl<'a>,
    ready: Option<&'a HeaderValue>,
}

impl<'a> Spoken<'a> {
    /// Words that are no prepared line, or no longer one.
    fn new(mut words: CacheControl<'a>) -> Self {
        words.settle();
        Self { words, ready: None }
    }

    fn change(&mut self, change: impl FnOnce(&mut CacheControl<'a>)) {
        change(&mut self.words);
        self.words.settle();
        self.ready = None;
    }
}

/// Words to both audiences.
struct Told<'a> {
    /// To everybody, in Cache-Control.
    all: Spoken<'a>,
    /// To the CDN that pulls, in its own field.
    own: Option<Spoken<'a>>,
}

impl<'a> Told<'a> {
    /// The words that the CDN acts on.
    fn heeded(&self) -> &CacheControl<'a> {
        self.own.as_ref().map_or(&self.all.words, |own| &own.words)
    }

    fn audiences(&self) -> impl Iterator<Item = &CacheControl<'a>> {
        std::iter::once(&self.all).chain(&self.own).map(|spoken| &spoken.words)
    }
}

/// One class's cache keys in one dialect, ready to be applied.
#[derive(Debug, Clone)]
pub struct Prepared {
    dialect: Dialect,
    mode: CacheMode,
    // For the statuses that a class's lifetime is for; none where the class has no lifetime to give.
    rule: Option<Rule>,
    // For 404 and 410.
    error: Rule,
    no_store: Rule,
    // What a CDN that acts on lifetimes alone is told in place of no-cache.
    no_lifetime: Line,
    strip_cookies: bool,
    allow_authorization: bool,
    vary: Option<Box<[Box<str>]>>,
}

/// A change to one field.
enum Change {
    Leave,
    Remove,
    Set(HeaderValue),
}

struct Decision {
    cache_control: Change,
    own: Change,
    surrogate_control: Change,
    vary: Change,
    strip_cookies: bool,
    /// To the field that this CDN obeys first and that is never added here.
    passed: Change,
    outcome: Outcome,
}

/// Which fields are there.
#[derive(Clone, Copy, Default)]
struct Seen(u16);

impl Seen {
    fn of(headers: &HeaderMap) -> Self {
        Self(headers.keys().filter_map(CacheField::of).fold(0, |seen, field| seen | 1 << field as u16))
    }

    fn has(self, field: CacheField) -> bool {
        self.0 & (1 << field as u16) != 0
    }
}

impl Prepared {
    /// Prepares what `policy` says in `dialect`. Without `ttl` and `edge_ttl` the modes `default` and `override` have nothing to
    /// put in place of the origin's words on an answer that is no 404 or 410, and tidy it.
    pub fn new(policy: &CachePolicy, dialect: Dialect) -> Self {
        let windows = CacheControl {
            stale_while_revalidate: policy.stale_while_revalidate,
            stale_if_error: policy.stale_if_error,
            ..CacheControl::default()
        };
        let rule = dialect.lifetimes(policy.ttl, policy.edge_ttl).map(|lifetimes| Rule {
            cache_control: Line::new(CacheControl {
                max_age: Some(lifetimes.max_age),
                s_maxage: lifetimes.s_maxage,
                // Immutable is said of a fresh answer (RFC 8246 §2); beside max-age=0 it is noise.
                immutable: policy.immutable && lifetimes.max_age > 0,
                ..windows.clone()
            }),
            own: lifetimes.own.map(|seconds| Line::new(CacheControl { max_age: Some(seconds), ..windows.clone() })),
        });
        let no_store = CacheControl { no_store: true, ..CacheControl::default() };
        Self {
            dialect,
            mode: policy.mode,
            rule,
            error: Rule::to_all(CacheControl { max_age: Some(policy.error_ttl), ..CacheControl::default() }),
            no_store: Rule {
                own: dialect.own_field().map(|_| Line::new(no_store.clone())),
                cache_control: Line::new(no_store),
            },
            no_lifetime: Line::new(CacheControl { max_age: Some(0), ..CacheControl::default() }),
            strip_cookies: policy.strip_cookies,
            allow_authorization: policy.allow_authorization,
            vary: policy.vary.as_ref().map(|kept| kept.iter().map(|name| name.as_str().into()).collect()),
        }
    }

    /// Decides on an answer and changes its head: one Cache-Control line or none, no Pragma, no Expires, and of the fields that some
    /// CDN would obey before Cache-Control only the provider's own, where there is something to say in it. Interim answers (1xx) are
    /// left alone.
    pub fn apply(&self, headers: &mut HeaderMap, status: StatusCode, facts: &Facts<'_>) -> Outcome {
        if status.is_informational() {
            return Outcome::default();
        }
        let seen = Seen::of(headers);
        let Decision { cache_control, own, surrogate_control, vary, strip_cookies, passed, mut outcome } =
            self.decide(headers, seen, status, facts);
        let own_field = self.dialect.own_field();
        let mut changed = change(headers, &names::CACHE_CONTROL, cache_control);
        if let Some(name) = own_field {
            changed |= change(headers, name, own);
            for read in self.dialect.reads().iter().filter(|read| seen.has(CacheField::Targeted) && **read != name) {
                changed |= headers.remove(*read).is_some();
            }
        }
        let passed_field = self.dialect.passed_field();
        if let Some(name) = passed_field.filter(|_| seen.has(CacheField::Targeted)) {
            changed |= change(headers, name, passed);
        }
        if !changed {
            // The rule and the origin agree: what else goes is tidying.
            outcome.action = Some(Action::Tidied);
        }
        for (field, name) in [(CacheField::Pragma, &names::PRAGMA), (CacheField::Expires, &names::EXPIRES)] {
            if seen.has(field) {
                changed |= headers.remove(name).is_some();
            }
        }
        if seen.has(CacheField::Targeted) {
            for name in TARGETED.into_iter().filter(|name| own_field != Some(name) && passed_field != Some(name)) {
                changed |= headers.remove(name).is_some();
            }
        }
        changed |= change(headers, &names::SURROGATE_CONTROL, surrogate_control);
        changed |= change(headers, &names::VARY, vary);
        if strip_cookies {
            changed |= headers.remove(&names::SET_COOKIE).is_some();
        }
        if status.is_server_error() && seen.has(CacheField::Age) {
            changed |= headers.remove(&names::AGE).is_some();
        }
        if !changed {
            outcome.action = None;
        }
        outcome
    }

    fn decide(&self, headers: &HeaderMap, seen: Seen, status: StatusCode, facts: &Facts<'_>) -> Decision {
        // Only what these methods fetch is kept under a rule; shared caches answer nothing else from their store.
        let fetched = matches!(*facts.method, Method::GET | Method::HEAD);
        let said = self.said(headers, seen, status, facts);
        let origin_allows = allows_authorization(said.heeded());
        let (mut told, mut action) = self.ruled(said, status, fetched);
        let mut guards = Guards::default();

        if status.is_server_error() {
            if !told.heeded().is_unshared() {
                guards.insert(Guard::Error);
                action = Action::Guarded;
            }
            if !told.all.words.no_store {
                told.all.change(|words| words.no_store = true);
            }
            told.own = self.no_store.own.as_ref().map(Line::spoken);
        }

        let mut vary = Vary::default();
        let passed_field = self.dialect.passed_field().filter(|name| headers.contains_key(*name));
        if seen.has(CacheField::Vary) && (passed_field.is_some() || told.audiences().any(|words| !words.is_unshared()))
        {
            vary = Vary::read(headers);
        }
        let allowed = self.allow_authorization || (origin_allows && action != Action::Overridden);
        let unsafe_where = |storable: bool, shared: bool| {
            let kept = fetched && storable;
            Guards::of([
                (Guard::Authorization, kept && facts.authorization && !allowed),
                (Guard::VaryStar, kept && vary.star),
                (Guard::SetCookie, kept && shared && seen.has(CacheField::SetCookie)),
            ])
        };
        let unsafe_for = |words: &CacheControl<'_>| unsafe_where(is_storable(words, status), is_shared(words, status));
        let heeded = told.heeded();
        let shared = fetched && is_storable(heeded, status) && is_shared(heeded, status);
        let mut unshared = heeded.is_unshared();
        let (mut for_cdn, mut for_others) = (unsafe_for(heeded), Guards::default());
        if told.own.is_some() {
            // Behind this CDN there may be a cache that knows Cache-Control alone.
            for_others = unsafe_for(&told.all.words);
        }
        let mut strip_cookies = false;
        if self.strip_cookies && (for_cdn.contains(Guard::SetCookie) || for_others.contains(Guard::SetCookie)) {
            for_cdn.remove(Guard::SetCookie);
            for_others.remove(Guard::SetCookie);
            strip_cookies = for_cdn.is_empty() && for_others.is_empty();
        }
        if !for_cdn.is_empty() || !for_others.is_empty() {
            told.all.change(|words| words.private = true);
            if !for_cdn.is_empty() {
                unshared = true;
                told.own = None;
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
            // §3.5: without this a shared cache must not use the lifetime that the rule gives.
            let given = matches!(action, Action::Defaulted | Action::Overridden);
            let lasting = fetched && is_storable(heeded, status) && heeded.max_age != Some(0);
            if facts.authorization && given && lasting && !allows_authorization(heeded) {
                told.own.as_mut().unwrap_or(&mut told.all).change(|words| words.public = true);
            }
        }

        let vary = match &self.vary {
            Some(kept) if vary.named && !vary.star && !unshared => reduced_vary(headers, kept),
            _ => Change::Leave,
        };
        let mut passed = Change::Leave;
        if let Some(name) = passed_field {
            // How the CDN reads a field that contradicts itself is unknown, so this does not depend on how it is read here.
            let mut forbidding = unsafe_where(true, true);
            if strip_cookies {
                forbidding.remove(Guard::SetCookie);
            }
            if status.is_server_error() {
                forbidding.insert(Guard::Error);
            }
            if !self.passes_own_field() {
                passed = Change::Remove;
            } else if !forbidding.is_empty() {
                passed = without_permissions(headers, name);
                if !matches!(passed, Change::Leave) {
                    guards.insert_all(forbidding);
                    action = Action::Guarded;
                }
            }
        }
        let (own, surrogate_control) = self.own_changes(headers, seen, told.own.as_ref());
        let there = seen.has(CacheField::CacheControl);
        Decision {
            cache_control: line_change(headers, &names::CACHE_CONTROL, there, Some(&told.all)),
            own,
            surrogate_control,
            vary,
            strip_cookies,
            passed,
            outcome: Outcome { action: Some(action), guards },
        }
    }

    /// What the origin said to both audiences.
    fn said<'a>(&self, headers: &'a HeaderMap, seen: Seen, status: StatusCode, facts: &Facts<'_>) -> Told<'a> {
        let mut all = said(headers, seen, status, facts);
        let mut own = self.own_said(headers, seen, status);
        if let Some(name) = self.dialect.passed_field().filter(|_| !self.passes_own_field()) {
            // The field is dropped, and no rule may stand in for what it forbids.
            let words = edge_control(headers.get_all(name).iter().map(HeaderValue::as_bytes));
            all.no_store |= words.is_some_and(|words| words.no_store);
        }
        if let Some(own) = &mut own {
            // It is about the bytes, which are the same for everybody, and `gzip` looks for it in Cache-Control.
            all.no_transform |= own.no_transform;
            if !own.has_lifetime() && !own.is_restricted() {
                // One CDN looks for what is missing there in Cache-Control, another does not: said in both, both read the same.
                own.max_age = all.s_maxage.or(all.max_age);
                own.no_store = all.no_store;
                own.private = all.private;
                own.no_cache = all.no_cache;
                own.take_conditions(&all);
            }
        }
        let spoken = |words| Spoken { words, ready: None };
        Told { all: spoken(all), own: own.map(spoken) }
    }

    /// What the origin said to this CDN alone; a field that says nothing is none (RFC 9213 §2.1).
    fn own_said<'a>(&self, headers: &'a HeaderMap, seen: Seen, status: StatusCode) -> Option<CacheControl<'a>> {
        if !seen.has(CacheField::Targeted) && !seen.has(CacheField::SurrogateControl) {
            return None;
        }
        if let Some(name) = self.dialect.passed_field().filter(|_| self.passes_own_field()) {
            return edge_control(headers.get_all(name).iter().map(HeaderValue::as_bytes));
        }
        self.dialect.reads().iter().find_map(|name| {
            let lines = headers.get_all(*name).iter().map(HeaderValue::as_bytes);
            let mut words = CacheControl::parse(lines);
            words.extensions.retain(stays_in_own_field);
            resolve_field_lists(&mut words, headers, status);
            if self.dialect.acts_on_lifetimes_alone() {
                // It looks for no other lifetime in its own field.
                words.max_age = words.s_maxage.take().into_iter().chain(words.max_age).min();
            }
            (!words.is_empty()).then_some(words)
        })
    }

    /// What the class's rule makes of the origin's words: settled directives, their lines where they are prepared, and the action.
    fn ruled<'a>(&'a self, said: Told<'a>, status: StatusCode, fetched: bool) -> (Told<'a>, Action) {
        let given = || said.audiences().any(|words| words.has_lifetime() || words.is_restricted());
        let rule = match self.mode {
            CacheMode::Never => Some((&self.no_store, Action::Forbidden)),
            CacheMode::Keep => None,
            CacheMode::Default if given() => None,
            CacheMode::Default => self.rule_for(status, fetched).map(|rule| (rule, Action::Defaulted)),
            CacheMode::Override => self.rule_for(status, fetched).map(|rule| (rule, Action::Overridden)),
        };
        let Some((rule, action)) = rule else {
            return (self.tidied(said, status, fetched), Action::Tidied);
        };
        if said.audiences().all(CacheControl::is_empty) {
            return (rule.told(), action);
        }
        if action == Action::Defaulted {
            return (defaulted(said, rule), action);
        }
        let mut told = rule.told();
        // no-transform is about the bytes and not about who keeps them: no rule takes it away (RFC 9110 §7.7).
        if said.all.words.no_transform {
            told.all.change(|words| words.no_transform = true);
        }
        (told, action)
    }

    /// The origin's own words, settled within each field, and in those that this CDN acts on.
    fn tidied<'a>(&'a self, said: Told<'a>, status: StatusCode, fetched: bool) -> Told<'a> {
        let mut told = Told { all: Spoken::new(said.all.words), own: said.own.map(|own| Spoken::new(own.words)) };
        if !self.dialect.acts_on_lifetimes_alone() {
            return told;
        }
        // What it must not keep says so where it looks for it: its own field it reads for lifetimes.
        let forbidden = told.own.as_ref().is_some_and(|own| own.words.is_unshared());
        if forbidden && !told.all.words.is_unshared() {
            told.all.change(|words| words.private = true);
        }
        // What is only to be asked for again gets a lifetime that is over.
        let all = &told.all.words;
        let revalidated = all.no_cache && !all.is_unshared();
        let (never_fresh, public) = match told.own.as_ref().map(|own| &own.words) {
            None => (revalidated && fetched && is_storable(all, status), all.public),
            Some(own) => (own.no_cache && !own.is_unshared(), own.public),
        };
        if never_fresh {
            let own = told.own.insert(self.no_lifetime.spoken());
            if public {
                own.change(|words| words.public = true);
            }
        }
        told
    }

    /// Whether the origin may speak to this CDN in a field that is not written here: in the modes that replace its words it would beat them.
    fn passes_own_field(&self) -> bool {
        matches!(self.mode, CacheMode::Keep | CacheMode::Default)
    }

    /// What becomes of the CDN's own field, and of Surrogate-Control where that is another.
    fn own_changes(&self, headers: &HeaderMap, seen: Seen, own: Option<&Spoken<'_>>) -> (Change, Change) {
        let esi = seen.has(CacheField::SurrogateControl).then_some(headers);
        match self.dialect.own_field() {
            Some(name) if *name == names::SURROGATE_CONTROL => {
                let there = esi.is_some();
                let own = match (own, esi.and_then(esi_content)) {
                    (own, Some(content)) => surrogate_control_change(headers, own, content),
                    (own, None) => line_change(headers, name, there, own),
                };
                (own, Change::Leave)
            }
            own_field => {
                let own = own_field
                    .map_or(Change::Leave, |name| line_change(headers, name, seen.has(CacheField::Targeted), own));
                let content = esi.filter(|_| self.dialect.bears_surrogate_control()).and_then(esi_content);
                let surrogate_control = match content {
                    Some(content) => surrogate_control_change(headers, None, content),
                    None if esi.is_some() => Change::Remove,
                    None => Change::Leave,
                };
                (own, surrogate_control)
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

/// A rule's lifetime for an answer of which the origin said something, but no lifetime.
fn defaulted<'a>(said: Told<'a>, rule: &Rule) -> Told<'a> {
    let Told { all: Spoken { words: mut all, .. }, own: own_said } = said;
    let words = &rule.cache_control.words;
    all.max_age = words.max_age;
    all.s_maxage = words.s_maxage;
    all.stale_while_revalidate = all.stale_while_revalidate.or(words.stale_while_revalidate);
    all.stale_if_error = all.stale_if_error.or(words.stale_if_error);
    all.immutable |= words.immutable;
    let own = (own_said.is_some() || rule.own.is_some()).then(|| {
        // Who reads its own field reads nothing else: what the origin said to all caches has to stand there too.
        let mut own = own_said.map(|own| own.words).unwrap_or_default();
        own.max_age = rule.lifetime();
        own.take_conditions(&all);
        Spoken::new(own)
    });
    Told { all: Spoken::new(all), own }
}

/// Whether a directive that nobody here knows may stand in an own field: `content` is treated apart, and one that cannot stand in a
/// dictionary (RFC 8941 §3.2) would make a strict reader ignore all of it.
fn stays_in_own_field(extension: &Extension<'_>) -> bool {
    let name = extension.name.as_bytes();
    let small =
        |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'.' | b'*');
    let value = match extension.argument.map(str::as_bytes) {
        None | Some([b'"' | b'*' | b'a'..=b'z' | b'A'..=b'Z', ..]) => true,
        Some(text) => text.len() <= 15 && text.iter().all(u8::is_ascii_digit),
    };
    name != b"content"
        && value
        && name.first().is_some_and(|first| first.is_ascii_lowercase() || *first == b'*')
        && name.iter().all(small)
}

/// What the origin said to everybody, Pragma and Expires read into it.
fn said<'a>(headers: &'a HeaderMap, seen: Seen, status: StatusCode, facts: &Facts<'_>) -> CacheControl<'a> {
    let mut said = CacheControl::default();
    if seen.has(CacheField::CacheControl) {
        said = CacheControl::parse(headers.get_all(&names::CACHE_CONTROL).iter().map(HeaderValue::as_bytes));
        resolve_field_lists(&mut said, headers, status);
    }
    // Beside Cache-Control a response's Pragma means nothing (RFC 9111 §5.4). Alone it is the old way to say no-cache, which some
    // caches still obey: it goes, so its word has to stay.
    if seen.has(CacheField::Pragma) && said.is_empty() {
        let lines = headers.get_all(&names::PRAGMA).iter();
        said.no_cache = CacheControl::parse(lines.map(HeaderValue::as_bytes)).no_cache;
    }
    if seen.has(CacheField::Expires) && said.max_age.is_none() && !said.is_restricted() {
        // As max-age it means the same to every cache, also to those that count Expires from their own clock instead of Date,
        // and Age shortens both alike.
        let lines = headers.get_all(&names::EXPIRES).iter().map(HeaderValue::as_bytes);
        said.max_age = expires_lifetime(lines, headers.get(&names::DATE).map(HeaderValue::as_bytes), facts.now);
    }
    said
}

/// Gives `no-cache="…"` and `private="…"` one meaning.
///
/// Caches disagree about field lists: some look for the bare word, some act on lifetimes alone. A list that names a field of this
/// answer is therefore read as the unqualified directive, which RFC 9111 §5.2.2.4 allows, and one that names none of them says
/// nothing about it. Set-Cookie in a list (an idiom of one CDN) is the Set-Cookie guard's business, or the lifetime beside it would
/// be lost on every answer without a cookie. A 304 does not show which fields the stored answer has: there any list counts.
fn resolve_field_lists(said: &mut CacheControl<'_>, headers: &HeaderMap, status: StatusCode) {
    let binds = |fields: &[&str]| {
        fields
            .iter()
            .filter(|field| !field.eq_ignore_ascii_case(names::SET_COOKIE.as_str()))
            .any(|field| status == StatusCode::NOT_MODIFIED || headers.contains_key(*field))
    };
    if binds(said.no_cache_fields()) {
        said.no_cache = true;
    }
    if binds(said.private_fields()) {
        said.private = true;
    }
    said.drop_field_lists();
}

/// RFC 9111 §3.5: the words by which an origin lets shared caches use the answer to a request with Authorization.
///
/// Beside no-cache only `public` is taken as one: `no-cache, must-revalidate` is the idiom for "do not keep this", Fastly keeps a
/// no-cache all the same, and private costs such an answer nothing.
fn allows_authorization(words: &CacheControl<'_>) -> bool {
    !words.is_unshared() && (words.public || !words.no_cache && (words.s_maxage.is_some() || words.must_revalidate))
}

/// Whether some shared cache may store it, be it only to ask again before each use.
fn is_storable(words: &CacheControl<'_>, status: StatusCode) -> bool {
    !words.is_unshared() && (words.has_lifetime() || words.public || is_kept_unasked(status))
}

/// Whether shared caches would serve it to others without asking: it has a lifetime or a stale window there, claims to be public,
/// or says nothing at all about itself. max-age=0 and no-cache alone are no such wish.
fn is_shared(words: &CacheControl<'_>, status: StatusCode) -> bool {
    if words.is_unshared() {
        return false;
    }
    let windows = [words.stale_while_revalidate, words.stale_if_error];
    if words.public || windows.into_iter().flatten().any(|seconds| seconds > 0) {
        return true;
    }
    match words.s_maxage.or(words.max_age) {
        Some(seconds) => seconds > 0,
        None => !words.no_cache && is_kept_unasked(status),
    }
}

/// Statuses that are kept without a lifetime: those of RFC 9110 §15.1, and what one or the other CDN adds on its own (302, 303,
/// 307 and the client errors for which two of them have a default lifetime).
fn is_kept_unasked(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200 | 203 | 204 | 206 | 300..=304 | 307 | 308 | 400 | 403 | 404 | 405 | 410 | 414 | 416 | 421 | 451
    )
}

/// What Vary names, as far as a guard looks at it.
#[derive(Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one name; they are independent")]
struct Vary {
    named: bool,
    star: bool,
    user_agent: bool,
    cookie: bool,
}

impl Vary {
    fn read(headers: &HeaderMap) -> Self {
        let mut vary = Self::default();
        for member in vary::names(headers) {
            vary.named = true;
            vary.star |= member == b"*";
            vary.user_agent |= member.eq_ignore_ascii_case(names::USER_AGENT.as_str().as_bytes());
            vary.cookie |= member.eq_ignore_ascii_case(names::COOKIE.as_str().as_bytes());
        }
        vary
    }
}

/// Vary with only those of its members that are in `kept`, in the order of `kept`.
fn reduced_vary(headers: &HeaderMap, kept: &[Box<str>]) -> Change {
    if vary::names(headers).all(|member| kept.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(member))) {
        return Change::Leave;
    }
    let mut line = String::new();
    for name in kept {
        if vary::names(headers).any(|member| name.as_bytes().eq_ignore_ascii_case(member)) {
            if !line.is_empty() {
                line.push_str(", ");
            }
            line.push_str(name);
        }
    }
    match HeaderValue::try_from(line) {
        Ok(value) if !value.is_empty() => Change::Set(value),
        _ => Change::Remove,
    }
}

/// What becomes of one audience's field; `there` says whether the origin sent it.
fn line_change(headers: &HeaderMap, name: &HeaderName, there: bool, spoken: Option<&Spoken<'_>>) -> Change {
    let mut lines = headers.get_all(name).iter();
    let line = if there { lines.next() } else { None };
    let value = spoken.and_then(|Spoken { words, ready }| {
        if let Some(line) = line
            && lines.next().is_none()
            && !line.is_empty()
            && words.is_written_as(line.as_bytes())
        {
            return Some(Change::Leave);
        }
        ready.cloned().or_else(|| words.settled_value()).map(Change::Set)
    });
    value.unwrap_or(if line.is_some() { Change::Remove } else { Change::Leave })
}

/// What Surrogate-Control asks of an ESI processor.
fn esi_content(headers: &HeaderMap) -> Option<&[u8]> {
    let lines = headers.get_all(&names::SURROGATE_CONTROL);
    lines.iter().flat_map(|line| Directives::new(line.as_bytes())).find_map(|directive| {
        let (Argument::Token(text) | Argument::Quoted(text)) = directive.argument else {
            return None;
        };
        let plain = text.len() <= MAX_ESI_CONTENT
            && text.iter().all(|&b| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\\' | b','));
        (directive.name.eq_ignore_ascii_case(b"content") && plain).then_some(text)
    })
}

/// What of Edge-Control cannot allow storing: prohibitions, lifetimes of 0 and what it asks of ESI (`dca`). Everything else is left out,
/// unknown directives too.
fn without_permissions(headers: &HeaderMap, name: &HeaderName) -> Change {
    let (mut kept, mut all_kept) = (Vec::new(), true);
    for directive in headers.get_all(name).iter().flat_map(|line| Directives::new(line.as_bytes())) {
        let keeps = match edge_control([directive.text]) {
            Some(words) => words.no_store || words.max_age == Some(0),
            None => directive.name.eq_ignore_ascii_case(b"dca"),
        };
        if keeps {
            kept.push(directive.text);
        }
        all_kept &= keeps;
    }
    if all_kept {
        return Change::Leave;
    }
    Some(kept.join(&b", "[..]))
        .filter(|line| !line.is_empty())
        .and_then(|line| HeaderValue::try_from(line).ok())
        .map_or(Change::Remove, Change::Set)
}

/// Surrogate-Control with its ESI `content`, behind the words to the CDN whose own field it is.
fn surrogate_control_change(headers: &HeaderMap, own: Option<&Spoken<'_>>, content: &[u8]) -> Change {
    let value = own.and_then(|own| own.words.settled_value());
    let (words, comma) = value.as_ref().map_or((&b""[..], &b""[..]), |value| (value.as_bytes(), b", "));
    let line = [words, comma, b"content=\"", content, b"\""].concat();
    let mut lines = headers.get_all(&names::SURROGATE_CONTROL).iter();
    if lines.next().is_some_and(|only| only.as_bytes() == line) && lines.next().is_none() {
        return Change::Leave;
    }
    HeaderValue::try_from(line).map_or(Change::Remove, Change::Set)
}

/// Carries a change out; whether there was one.
fn change(headers: &mut HeaderMap, name: &HeaderName, change: Change) -> bool {
    match change {
        Change::Leave => false,
        Change::Remove => headers.remove(name).is_some(),
        Change::Set(value) => {
            headers.insert(name, value);
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
    use proptest::prelude::*;

    use super::{Action, Facts, Guard, Outcome, Prepared};
    use crate::cdn::dialect::Dialect;
    use crate::edge::request::class::{CacheMode, CachePolicy};
    use crate::wire::cache_control::{CacheControl, Directives, TARGETED, edge_control};
    use crate::wire::names;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const MINUTE_LATER: &str = "Sun, 06 Nov 1994 08:50:37 GMT";

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)
    }

    /// Short forms for the tables.
    fn field(short: &str) -> (HeaderName, Option<&'static str>) {
        let name = match short {
            "cc" => &names::CACHE_CONTROL,
            "pragma" => &names::PRAGMA,
            "expires" => &names::EXPIRES,
            "later" => return (names::EXPIRES.clone(), Some(MINUTE_LATER)),
            "date" => return (names::DATE.clone(), Some(DATE)),
            "cookie" => return (names::SET_COOKIE.clone(), Some("a=b")),
            "user" => return (names::COOKIE.clone(), Some("a field of the answer")),
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
            other => panic!("no short form {other}"),
        };
        (name.clone(), None)
    }

    /// `cc: max-age=60 | cookie` and the like.
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
        let mut policy = CachePolicy::keep();
        for word in text.split(' ') {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
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
                other => panic!("no key {other}"),
            }
        }
        policy
    }

    fn apply(dialect: Dialect, policy: &CachePolicy, asked: &str, headers: &mut HeaderMap) -> Outcome {
        let mut words = asked.split(' ');
        let status = words.next().and_then(|status| status.parse::<StatusCode>().ok()).unwrap();
        let mut method = Method::GET;
        let mut authorization = false;
        for word in words {
            match word {
                "auth" => authorization = true,
                other => method = other.parse().unwrap(),
            }
        }
        let facts = Facts { method: &method, authorization, now };
        Prepared::new(policy, dialect).apply(headers, status, &facts)
    }

    fn shown(outcome: Outcome) -> String {
        let labels = outcome.action.map(Action::as_str).into_iter().chain(outcome.guards.iter().map(Guard::as_str));
        labels.collect::<Vec<_>>().join(" ")
    }

    /// Class, request and status, what the origin sends, what goes out, action and guards.
    type Row = (&'static str, &'static str, &'static str, &'static str, &'static str);

    fn check(rows: &[Row]) {
        check_in(Dialect::Generic, rows);
    }

    fn check_in(dialect: Dialect, rows: &[Row]) {
        for &(class, asked, origin, wanted, outcome) in rows {
            let row = format!("{dialect:?} / {class} / {asked} / {origin}");
            let mut answer = headers(origin);
            let done = apply(dialect, &policy(class), asked, &mut answer);
            assert_eq!(answer, headers(wanted), "{row}");
            assert_eq!(shown(done), outcome, "{row}");
            let again = apply(dialect, &policy(class), asked, &mut answer);
            assert_eq!(answer, headers(wanted), "twice: {row}");
            assert_eq!(again.action, None, "twice: {row}");
        }
    }

    #[test]
    #[rustfmt::skip] // One row a line.
    fn edge_control_when_akamai_pulls_then_goes_on_where_no_rule_or_guard_forbids() {
        check_in(Dialect::Akamai, &[
            ("keep", "200", "edge: cache-maxage=1d", "edge: cache-maxage=1d", ""),
            ("keep", "200", "edge: cache-maxage=1d | edge: downstream-ttl=5m", "edge: cache-maxage=1d | edge: downstream-ttl=5m", ""),
            ("keep", "200", "cc: max-age=5 | edge: max-age=1d, !no-store", "cc: max-age=5 | edge: max-age=1d, !no-store", ""),
            ("keep", "200", "cc: private | edge: cache-maxage=1d", "cc: private | edge: cache-maxage=1d", ""),
            ("keep", "200 HEAD", "edge: cache-maxage=1d", "edge: cache-maxage=1d", ""),
            ("keep", "206", "edge: cache-maxage=1d", "edge: cache-maxage=1d", ""),
            ("keep", "304", "edge: cache-maxage=1d", "edge: cache-maxage=1d", ""),
            ("keep", "404", "edge: cache-maxage=1d", "edge: cache-maxage=1d", ""),
            ("keep", "200", "surrogate: max-age=9 | edge: cache-maxage=1d | akamai: max-age=9", "edge: cache-maxage=1d", "tidied"),
            ("keep", "200", "cc: max-age=9 | edge: no-store", "cc: max-age=9 | edge: no-store", ""),
            // The class's lifetime is for a response that has none; Akamai has been given one here.
            ("default ttl=60", "200", "edge: cache-maxage=1d", "edge: cache-maxage=1d", ""),
            ("default ttl=60", "200", "edge: no-store", "edge: no-store", ""),
            ("default ttl=60", "200", "edge: downstream-ttl=5m", "cc: max-age=60 | edge: downstream-ttl=5m", "defaulted"),
            ("default ttl=60", "304", "edge: cache-maxage=1d", "edge: cache-maxage=1d", ""),
            // It would beat the rule.
            ("override ttl=60", "200", "edge: cache-maxage=1d", "cc: max-age=60", "overridden"),
            ("override ttl=60", "302", "edge: cache-maxage=1d", "", "tidied"),
            ("override ttl=60", "304", "edge: no-store | cc: max-age=5", "cc: max-age=60", "overridden"),
            // No rule for this status: what the dropped field forbids stays forbidden.
            ("override ttl=60", "302", "edge: no-store | cc: max-age=5", "cc: no-store", "tidied"),
            ("override ttl=60", "200 POST", "edge: bypass-cache", "cc: no-store", "tidied"),
            ("override", "200", "edge: no-store, max-age=1d", "cc: no-store", "tidied"),
            ("never", "200", "edge: cache-maxage=1d", "cc: no-store", "forbidden"),
            ("never", "304", "edge: cache-maxage=1d | cc: no-store", "cc: no-store", "forbidden"),
            // It would beat the guard: Akamai would keep what Cache-Control calls private.
            ("keep", "200", "edge: cache-maxage=1d | cookie", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "200", "cc: private | edge: cache-maxage=1d | cookie", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "304", "edge: cache-maxage=1d | cookie", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "200", "cc: private | edge: !no-store | cookie", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "200", "edge: no-store | cookie", "cc: private | edge: no-store | cookie", "guarded set_cookie"),
            ("keep strip", "200", "edge: cache-maxage=1d | cookie", "edge: cache-maxage=1d", "tidied cookie_stripped"),
            ("keep", "200 auth", "edge: cache-maxage=1d", "cc: private", "guarded authorization"),
            ("keep", "200", "edge: cache-maxage=1d | vary: *", "cc: private | vary: *", "guarded vary_star"),
            ("keep", "503", "edge: cache-maxage=1d", "cc: no-store", "guarded error"),
            // What cannot allow storing stays: without a prohibition the property's own lifetime would count, without dca no ESI is read.
            ("keep", "503", "edge: no-store", "cc: no-store | edge: no-store", "tidied"),
            ("keep", "503", "edge: no-store, max-age=1d", "cc: no-store | edge: no-store", "guarded error"),
            ("keep", "200", "edge: no-store, max-age=1d | cookie", "cc: private | edge: no-store | cookie", "guarded set_cookie"),
            ("keep", "200", "cc: private | edge: max-age=1d | edge: Bypass-Cache | cookie", "cc: private | edge: Bypass-Cache | cookie", "guarded set_cookie"),
            ("keep", "200", "cc: private | edge: no-store, !no-store | vary: *", "cc: private | edge: no-store | vary: *", "guarded vary_star"),
            ("keep", "200 auth", "cc: private | edge: no-store, max-age=9", "cc: private | edge: no-store", "guarded authorization"),
            ("keep", "200", "edge: dca=esi | cookie", "cc: private | edge: dca=esi | cookie", "guarded set_cookie"),
            ("default ttl=60", "200", "edge: dca=esi, max-age=1d | cookie", "cc: private | edge: dca=esi | cookie", "guarded set_cookie"),
            ("keep", "200", "cc: private | edge: cache-maxage=0s, max-age=1d | cookie", "cc: private | edge: cache-maxage=0s | cookie", "guarded set_cookie"),
            ("keep", "200", "cc: private | edge: new-thing=1, downstream-ttl=1d | cookie", "cc: private | cookie", "guarded set_cookie"),
            ("keep strip", "200", "edge: no-store, max-age=1d | cookie", "edge: no-store, max-age=1d", "tidied cookie_stripped"),
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
    #[rustfmt::skip] // One row a line.
    fn keep_when_it_only_tidies() {
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
    #[rustfmt::skip] // One row a line.
    fn default_when_the_origin_gave_a_lifetime_or_none() {
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
            ("default ttl=60 swr=5", "200", "cc: stale-while-revalidate=2", "cc: max-age=60, stale-while-revalidate=2", "defaulted"),
            ("default ttl=60", "200", "cc: private=\"X-Gone\"", "cc: max-age=60", "defaulted"),
            ("default edge=300", "200", "", "cc: max-age=0, s-maxage=300", "defaulted"),
            ("default ttl=60 edge=300", "200", "", "cc: max-age=60, s-maxage=300", "defaulted"),
        ]);
    }

    #[test]
    #[rustfmt::skip] // One row a line.
    fn override_and_never_when_the_origin_disagrees() {
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
    #[rustfmt::skip] // One row a line.
    fn cookie_guard_when_the_answer_would_be_shared() {
        check(&[
            ("keep", "200", "cookie", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "200", "cookie | cc: max-age=60", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "200", "cookie | cc: s-maxage=60, max-age=0", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "200", "cookie | later | date", "cc: private | cookie | date", "guarded set_cookie"),
            ("keep", "200", "cookie | cc: public, no-cache", "cc: private, no-cache | cookie", "guarded set_cookie"),
            ("keep", "200", "cookie | cc: public, max-age=0", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "200", "cookie | cc: max-age=0, stale-while-revalidate=9", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "200", "cookie | cc: max-age=9, no-cache=\"Set-Cookie\"", "cc: private | cookie", "guarded set_cookie"),
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
            ("keep strip", "200", "cookie | cookie | cc: max-age=9, no-cache=\"set-cookie\"", "cc: max-age=9", "tidied cookie_stripped"),
            ("keep strip", "200", "cookie | cc: private", "cc: private | cookie", ""),
            ("override ttl=60 strip", "200", "cookie | cc: private", "cc: max-age=60", "overridden cookie_stripped"),
            ("override ttl=60 strip", "200 auth", "cookie", "cc: private | cookie", "guarded authorization"),
        ]);
    }

    #[test]
    #[rustfmt::skip] // One row a line.
    fn authorization_guard_when_the_origin_allows_or_not() {
        check(&[
            ("keep", "200 auth", "", "cc: private", "guarded authorization"),
            ("keep", "200 auth", "cc: max-age=60", "cc: private", "guarded authorization"),
            ("keep", "200 auth", "cc: max-age=0", "cc: private", "guarded authorization"),
            ("keep", "200 auth", "cc: no-cache", "cc: private, no-cache", "guarded authorization"),
            ("keep", "200 auth", "cc: no-cache, must-revalidate", "cc: private, no-cache, must-revalidate", "guarded authorization"),
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
    #[rustfmt::skip] // One row a line.
    fn error_guard_when_the_origin_fails() {
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
    #[rustfmt::skip] // One row a line.
    fn vary_guards_when_the_answer_varies() {
        check(&[
            ("keep", "200", "vary: *", "cc: private | vary: *", "guarded vary_star"),
            ("keep", "200", "vary: *, accept | cc: max-age=9", "cc: private | vary: *, accept", "guarded vary_star"),
            ("keep", "200", "vary: accept | vary: * | cc: no-cache", "cc: private, no-cache | vary: accept | vary: *", "guarded vary_star"),
            ("keep vary=Accept", "200", "vary: *, cookie", "cc: private | vary: *, cookie", "guarded vary_star"),
            ("override ttl=60", "200", "vary: *", "cc: private | vary: *", "guarded vary_star"),
            ("keep", "200", "vary: * | cc: private", "cc: private | vary: *", ""),
            ("keep", "200 POST", "vary: *", "vary: *", ""),
            ("keep", "200", "vary: Accept-Encoding", "vary: Accept-Encoding", ""),
            ("keep", "200", "vary: user-agent", "vary: user-agent", "vary_user_agent"),
            ("override ttl=9", "200", "vary: Cookie,User-Agent", "cc: max-age=9 | vary: Cookie,User-Agent", "overridden vary_user_agent vary_cookie"),
            ("keep", "200", "vary: cookie | cc: private", "cc: private | vary: cookie", ""),
            ("keep", "200", "vary: cookie | cc: max-age=0", "cc: max-age=0 | vary: cookie", ""),
            ("keep", "200", "vary: cookie | cookie", "cc: private | vary: cookie | cookie", "guarded set_cookie"),
            ("keep vary=Accept-Encoding", "200", "vary: cookie, accept-encoding", "vary: Accept-Encoding", "tidied vary_cookie"),
            ("keep vary=Accept-Encoding", "200", "vary: origin", "", "tidied"),
            ("keep vary=Accept-Encoding", "200", "vary: origin | cc: private", "cc: private | vary: origin", ""),
            ("keep vary=Accept", "200", "vary: cookie | cookie", "cc: private | vary: cookie | cookie", "guarded set_cookie"),
            ("keep vary=A,B", "200", "vary: b, a", "vary: b, a", ""),
            ("keep vary=A,B", "200", "vary: b, c | vary: a, a", "vary: A, B", "tidied"),
            ("keep vary=A", "200", "", "", ""),
        ]);
    }

    #[test]
    #[rustfmt::skip] // One row a line.
    fn targeted_fields_when_the_origin_sends_them() {
        check(&[
            ("keep", "200", "surrogate: max-age=60", "", "tidied"),
            ("keep", "200", "cdn: max-age=60 | cc: max-age=1", "cc: max-age=1", "tidied"),
            ("keep", "200", "cloudflare: max-age=60 | netlify: max-age=60 | vercel: x | akamai: x | edge: x | accel: 9", "", "tidied"),
            ("keep", "200", "surrogate: max-age=60, content=\"ESI/1.0\"", "surrogate: content=\"ESI/1.0\"", "tidied"),
            ("keep", "200", "surrogate: no-store | surrogate: content=ESI", "surrogate: content=\"ESI\"", "tidied"),
            ("keep", "200", "surrogate: content=\"ESI/1.0\"", "surrogate: content=\"ESI/1.0\"", ""),
            ("keep", "200", "surrogate: content=\"ESI/1.0", "", "tidied"),
            ("never", "200", "surrogate: content=\"a\", max-age=5", "cc: no-store | surrogate: content=\"a\"", "forbidden"),
            ("keep", "500", "cdn: max-age=60 | surrogate: max-age=5", "cc: no-store", "guarded error"),
        ]);
    }

    #[test]
    #[rustfmt::skip] // One row a line.
    fn fastly_when_it_gets_its_own_field() {
        check_in(Dialect::Fastly, &[
            ("override ttl=60", "200", "", "cc: max-age=60", "overridden"),
            ("override ttl=60 edge=300 swr=5 sie=9", "200", "", "cc: max-age=60, stale-while-revalidate=5, stale-if-error=9 | surrogate: max-age=300, stale-while-revalidate=5, stale-if-error=9", "overridden"),
            ("override ttl=60 edge=300 immutable", "200", "cc: private", "cc: max-age=60, immutable | surrogate: max-age=300", "overridden"),
            ("override edge=300", "200", "", "cc: max-age=0 | surrogate: max-age=300", "overridden"),
            ("override ttl=60 edge=300", "200", "cc: max-age=60", "cc: max-age=60 | surrogate: max-age=300", "overridden"),
            ("override ttl=60", "200", "cc: max-age=60 | surrogate: max-age=9", "cc: max-age=60", "overridden"),
            ("override ttl=60 edge=300", "200", "surrogate: no-store", "cc: max-age=60 | surrogate: max-age=300", "overridden"),
            ("override ttl=60 edge=300", "200", "surrogate: content=\"ESI/1.0\"", "cc: max-age=60 | surrogate: max-age=300, content=\"ESI/1.0\"", "overridden"),
            ("override ttl=60 edge=300", "200", "surrogate: max-age=9, no-transform", "cc: max-age=60, no-transform | surrogate: max-age=300", "overridden"),
            ("override ttl=60 edge=300", "206", "", "cc: max-age=60 | surrogate: max-age=300", "overridden"),
            ("override ttl=60 edge=300", "304", "cc: no-cache", "cc: max-age=60 | surrogate: max-age=300", "overridden"),
            ("override ttl=60 edge=300", "404", "", "cc: max-age=10", "overridden"),
            ("override ttl=60 edge=300", "404", "surrogate: max-age=9", "cc: max-age=10", "overridden"),
            ("override ttl=60 edge=300", "302", "surrogate: max-age=9", "surrogate: max-age=9", ""),
            ("never", "200", "", "cc: no-store | surrogate: no-store", "forbidden"),
            ("never", "200", "cc: no-store", "cc: no-store | surrogate: no-store", "forbidden"),
            ("never", "200", "surrogate: max-age=9, content=\"a\"", "cc: no-store | surrogate: no-store, content=\"a\"", "forbidden"),
            ("keep", "500", "cc: no-store | surrogate: max-age=5", "cc: no-store | surrogate: no-store", "guarded error"),
            ("keep", "500", "surrogate: max-age=5 | age: 3", "cc: no-store | surrogate: no-store", "guarded error"),
            // Its lifetime counts beside no-cache: what is only to be asked for again gets one of 0.
            ("keep", "200", "cc: no-cache", "cc: no-cache | surrogate: max-age=0", "tidied"),
            ("keep", "200", "cc: no-cache, max-age=60", "cc: no-cache | surrogate: max-age=0", "tidied"),
            ("keep", "200", "pragma: no-cache", "cc: no-cache | surrogate: max-age=0", "tidied"),
            ("keep", "200", "cc: no-cache | surrogate: content=\"ESI/1.0\"", "cc: no-cache | surrogate: max-age=0, content=\"ESI/1.0\"", "tidied"),
            ("keep", "200", "cc: no-cache | surrogate: stale-if-error=9", "cc: no-cache | surrogate: max-age=0", "tidied"),
            ("keep", "200 auth", "cc: public, no-cache", "cc: public, no-cache | surrogate: public, max-age=0", "tidied"),
            ("keep", "200", "cc: no-cache | surrogate: max-age=60", "cc: no-cache | surrogate: max-age=60", ""),
            ("keep", "200", "cc: max-age=5 | surrogate: no-cache, max-age=60", "cc: max-age=5 | surrogate: max-age=0", "tidied"),
            ("default ttl=60 edge=300", "200", "cc: no-cache", "cc: no-cache | surrogate: max-age=0", "tidied"),
            ("keep", "200 POST", "cc: no-cache", "cc: no-cache", ""),
            ("keep", "429", "cc: no-cache", "cc: no-cache", ""),
            ("keep", "200", "cc: private, no-cache", "cc: private, no-cache", ""),
            ("keep", "200", "cc: no-store", "cc: no-store", ""),
            // The origin's own words to it.
            ("keep", "200", "surrogate: max-age=60", "surrogate: max-age=60", ""),
            ("keep", "200", "surrogate: Max-Age=60 | surrogate: max-age=30", "surrogate: max-age=30", "tidied"),
            // It looks for a prohibition in Cache-Control alone.
            ("keep", "200", "surrogate: max-age=60, no-store", "cc: private | surrogate: no-store", "tidied"),
            ("keep", "200", "cc: max-age=60 | surrogate: no-store", "cc: private | surrogate: no-store", "tidied"),
            ("keep", "200", "cc: no-cache | surrogate: private", "cc: private, no-cache | surrogate: private", "tidied"),
            ("keep", "200", "cc: no-store | surrogate: private", "cc: no-store | surrogate: private", ""),
            ("default ttl=60 edge=300", "404", "surrogate: private", "cc: private | surrogate: private", "tidied"),
            ("keep", "200", "cookie | cc: max-age=60 | surrogate: no-store", "cc: private | surrogate: no-store | cookie", "tidied"),
            ("keep", "200 auth", "cc: max-age=60 | surrogate: private", "cc: private | surrogate: private", "tidied"),
            ("keep", "200", "surrogate: s-maxage=60, max-age=9", "surrogate: max-age=9", "tidied"),
            ("keep", "200", "surrogate: max-age=60, Odd=1, even=1", "surrogate: max-age=60, even=1", "tidied"),
            ("keep", "200", "surrogate: max-age=60, content=\"ESI/1.0\"", "surrogate: max-age=60, content=\"ESI/1.0\"", ""),
            ("keep", "200", "surrogate: content=\"ESI/1.0\"", "surrogate: content=\"ESI/1.0\"", ""),
            ("keep", "200", "surrogate: ,;", "", "tidied"),
            ("keep", "200", "surrogate: max-age=60 | cdn: max-age=9 | cloudflare: max-age=9", "surrogate: max-age=60", "tidied"),
            ("default ttl=60 edge=300", "200", "surrogate: max-age=9", "surrogate: max-age=9", ""),
            ("default ttl=60 edge=300", "200", "cc: max-age=9", "cc: max-age=9", ""),
            ("default ttl=60 edge=300 swr=5", "200", "", "cc: max-age=60, stale-while-revalidate=5 | surrogate: max-age=300, stale-while-revalidate=5", "defaulted"),
            ("default ttl=60 edge=300 swr=5", "200", "cc: stale-while-revalidate=2", "cc: max-age=60, stale-while-revalidate=2 | surrogate: max-age=300, stale-while-revalidate=2", "defaulted"),
            ("default ttl=60 edge=300 swr=5", "200", "cc: must-revalidate", "cc: max-age=60, must-revalidate | surrogate: max-age=300, must-revalidate", "defaulted"),
            ("default ttl=60", "200", "surrogate: stale-if-error=9", "cc: max-age=60 | surrogate: max-age=60, stale-if-error=9", "defaulted"),
            ("default ttl=60 edge=300", "404", "", "cc: max-age=10", "defaulted"),
        ]);
    }

    #[test]
    #[rustfmt::skip] // One row a line.
    fn guards_when_the_cdn_acts_on_its_own_field() {
        check_in(Dialect::Fastly, &[
            ("keep", "200", "cookie | surrogate: max-age=60 | cc: private", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "200", "cookie | surrogate: max-age=60 | cc: no-store", "cc: no-store | cookie", "guarded set_cookie"),
            ("keep", "200", "cookie | surrogate: max-age=60, content=\"E\"", "cc: private | cookie | surrogate: content=\"E\"", "guarded set_cookie"),
            ("keep", "200", "cookie | surrogate: max-age=0 | cc: max-age=60", "cc: private | surrogate: max-age=0 | cookie", "guarded set_cookie"),
            ("keep", "200", "cookie | surrogate: stale-if-error=0 | cc: max-age=60", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "200", "cookie | cc: no-cache", "cc: no-cache | cookie | surrogate: max-age=0", "tidied"),
            ("keep strip", "200", "cookie | surrogate: max-age=60 | cc: private", "cc: private | surrogate: max-age=60", "tidied cookie_stripped"),
            ("override ttl=60 edge=300", "200", "cookie", "cc: private | cookie", "guarded set_cookie"),
            ("override ttl=0 edge=300", "200", "cookie | cc: max-age=9", "cc: private | cookie", "guarded set_cookie"),
            ("override ttl=60 edge=0", "200", "cookie", "cc: private | surrogate: max-age=0 | cookie", "guarded set_cookie"),
            ("keep", "200", "vary: * | surrogate: max-age=60 | cc: private", "cc: private | vary: *", "guarded vary_star"),
            ("keep", "200", "vary: cookie | surrogate: max-age=60 | cc: private", "cc: private | surrogate: max-age=60 | vary: cookie", "vary_cookie"),
            ("keep vary=Accept", "200", "vary: cookie | surrogate: max-age=60 | cc: private", "cc: private | surrogate: max-age=60", "tidied vary_cookie"),
            ("keep", "200 auth", "surrogate: max-age=60 | cc: private", "cc: private", "guarded authorization"),
            ("keep", "200 auth", "surrogate: max-age=60 | cc: public", "cc: private", "guarded authorization"),
            ("keep", "200 auth", "surrogate: public, max-age=60 | cc: private", "surrogate: public, max-age=60 | cc: private", ""),
            ("override ttl=60 edge=300 allow", "200 auth", "", "cc: max-age=60 | surrogate: public, max-age=300", "overridden"),
            ("override ttl=60 allow", "200 auth", "", "cc: public, max-age=60", "overridden"),
            ("override ttl=60 edge=300", "200 auth", "cc: public", "cc: private", "guarded authorization"),
        ]);
        check_in(Dialect::Cloudflare, &[
            ("keep", "200", "cookie | cdn: max-age=60 | cc: private", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "200", "cookie | surrogate: max-age=60 | cc: private", "cc: private | cookie", "tidied"),
            // What its own field does not say it may or may not look for in Cache-Control.
            ("keep", "200", "cookie | cloudflare: stale-if-error=0 | cc: max-age=60", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "200", "cookie | cloudflare: stale-if-error=0", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "201", "cookie | cloudflare: a=b | cc: max-age=60", "cc: private | cookie", "guarded set_cookie"),
            ("keep", "200", "cookie | cloudflare: no-store | cc: max-age=60", "cc: private | cloudflare: no-store | cookie", "guarded set_cookie"),
        ]);
    }

    #[test]
    #[rustfmt::skip] // One row a line.
    fn cloudflare_when_it_gets_its_own_field() {
        check_in(Dialect::Cloudflare, &[
            ("override ttl=60", "200", "", "cc: max-age=60", "overridden"),
            ("override ttl=60 edge=300 swr=5 sie=9", "200", "", "cc: max-age=60, stale-while-revalidate=5, stale-if-error=9 | cloudflare: max-age=300, stale-while-revalidate=5, stale-if-error=9", "overridden"),
            ("override ttl=60 edge=300", "200", "surrogate: content=\"ESI/1.0\"", "cc: max-age=60 | cloudflare: max-age=300", "overridden"),
            ("keep", "200", "surrogate: content=\"ESI/1.0\" | cc: max-age=9", "cc: max-age=9", "tidied"),
            ("keep", "200", "cloudflare: max-age=60 | cdn: max-age=9", "cloudflare: max-age=60", "tidied"),
            ("keep", "200", "cdn: max-age=9 | cc: max-age=1", "cc: max-age=1 | cloudflare: max-age=9", "tidied"),
            ("keep", "200", "cloudflare: , | cdn: max-age=9", "cloudflare: max-age=9", "tidied"),
            ("keep", "200", "cc: no-cache", "cc: no-cache", ""),
            ("keep", "200", "cc: no-cache | cloudflare: max-age=60", "cc: no-cache | cloudflare: max-age=60", ""),
            ("keep", "200", "cloudflare: no-cache, max-age=60", "cloudflare: no-cache", "tidied"),
            ("keep", "200", "cloudflare: stale-if-error=9 | cc: max-age=60", "cloudflare: max-age=60, stale-if-error=9 | cc: max-age=60", "tidied"),
            ("keep", "200", "cloudflare: stale-if-error=9 | cc: private", "cloudflare: private | cc: private", "tidied"),
            ("default ttl=60 edge=300", "200", "cdn: max-age=9", "cloudflare: max-age=9", "tidied"),
            ("default ttl=60", "200", "cc: public, must-revalidate | cdn: stale-if-error=9", "cc: public, max-age=60, must-revalidate | cloudflare: public, max-age=60, must-revalidate", "defaulted"),
            ("override ttl=60 edge=300", "200", "cdn: max-age=9", "cc: max-age=60 | cloudflare: max-age=300", "overridden"),
            ("never", "404", "", "cc: no-store | cloudflare: no-store", "forbidden"),
            ("keep", "503", "cdn: max-age=9", "cc: no-store | cloudflare: no-store", "guarded error"),
        ]);
    }

    #[test]
    #[rustfmt::skip] // One row a line.
    fn rfc9213_and_akamai_when_they_get_their_words() {
        check_in(Dialect::Rfc9213, &[
            ("override ttl=60", "200", "", "cc: max-age=60", "overridden"),
            ("override ttl=60 edge=300 swr=5", "200", "", "cc: max-age=60, stale-while-revalidate=5 | cdn: max-age=300, stale-while-revalidate=5", "overridden"),
            ("keep", "200", "cdn: max-age=9 | cloudflare: max-age=1 | accel: 3", "cdn: max-age=9", "tidied"),
            ("keep", "200", "cdn: max-age=9 | surrogate: max-age=1, content=\"a\"", "cdn: max-age=9 | surrogate: content=\"a\"", "tidied"),
            ("keep", "200", "cc: no-cache", "cc: no-cache", ""),
            ("never", "200", "cdn: max-age=9", "cc: no-store | cdn: no-store", "forbidden"),
            ("keep", "200", "cookie | cdn: max-age=9 | cc: private", "cc: private | cookie", "guarded set_cookie"),
        ]);
        check_in(Dialect::Akamai, &[
            ("override ttl=60 edge=300", "200", "", "cc: max-age=60, s-maxage=300", "overridden"),
            ("keep", "200", "cdn: max-age=9 | edge: max-age=1 | akamai: max-age=2 | cc: max-age=3", "cc: max-age=3 | edge: max-age=1", "tidied"),
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

    fn any_answer() -> impl Strategy<Value = HeaderMap> {
        let line = prop_oneof![
            3 => prop::sample::select(vec![
                "cc: max-age=60", "cc: no-cache", "cc: private", "cc: no-store", "cc: public, s-maxage=5", "cc: max-age=0",
                "cc: no-cache=\"Set-Cookie\"", "cc: private=\"Pragma, Expires\", max-age=3", "cc: must-revalidate, max-age=5",
                "cc: stale-if-error=9", "cc: no-transform, ext", "cc: ,", "pragma: no-cache", "later", "date", "expires: 0", "cookie",
                "vary: *", "vary: Cookie, Accept-Encoding", "vary: User-Agent", "age: 7", "surrogate: max-age=5",
                "surrogate: content=\"ESI/1.0\", max-age=3", "cdn: max-age=5", "accel: 5", "surrogate: no-cache", "surrogate: no-store",
                "surrogate: stale-if-error=9", "surrogate: s-maxage=4, Odd", "cdn: private, max-age=3", "cdn: stale-while-revalidate=2",
                "cdn: public, even=1", "cloudflare: max-age=7", "cloudflare: no-store", "cloudflare: no-cache=\"Vary\", no-transform",
                "edge: max-age=1d", "edge: no-store", "edge: !no-store", "edge: bypass-cache, cache-maxage=5m", "edge: dca=esi, max-age=0",
                "edge: downstream-ttl=1h", "edge: dca=esi",
            ])
            .prop_map(headers),
            1 => (prop::collection::vec(32_u8..=255, 0..40), prop::sample::select(vec!["cc", "surrogate", "cdn", "cloudflare", "edge"]))
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

    fn any_asked() -> impl Strategy<Value = (StatusCode, Method, bool)> {
        let status = prop::sample::select(vec![200_u16, 201, 206, 301, 302, 304, 401, 404, 410, 429, 500, 503])
            .prop_map(|code| StatusCode::from_u16(code).unwrap());
        let method = prop::sample::select(vec![Method::GET, Method::GET, Method::HEAD, Method::POST]);
        (status, method, any::<bool>())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn answer_is_safe_and_settled_whatever_was_said(
            class in any_policy(),
            dialect in prop::sample::select(Dialect::ALL.to_vec()),
            origin in any_answer(),
            (status, method, authorization) in any_asked(),
        ) {
            let prepared = Prepared::new(&class, dialect);
            let facts = Facts { method: &method, authorization, now };
            let mut answer = origin.clone();
            let outcome = prepared.apply(&mut answer, status, &facts);

            prop_assert!(answer.get_all(&names::CACHE_CONTROL).iter().count() <= 1);
            prop_assert!(!answer.contains_key(&names::PRAGMA) && !answer.contains_key(&names::EXPIRES));
            let passed = dialect.passed_field().filter(|_| matches!(class.mode, CacheMode::Keep | CacheMode::Default));
            for name in TARGETED.into_iter().chain([&names::SURROGATE_CONTROL]).filter(|name| passed != Some(*name)) {
                let wanted = usize::from(dialect.own_field() == Some(name));
                let esi = *name == names::SURROGATE_CONTROL && dialect.bears_surrogate_control();
                prop_assert!(answer.get_all(name).iter().count() <= wanted.max(usize::from(esi)), "{}", name);
            }
            prop_assert_eq!(outcome.action.is_some(), answer != origin);

            let parsed = |name: &HeaderName| {
                let mut words = CacheControl::parse(answer.get(name).map(HeaderValue::as_bytes));
                words.extensions.retain(|extension| extension.name != "content");
                words
            };
            let everybodys = parsed(&names::CACHE_CONTROL);
            let own = dialect.own_field().map(parsed).filter(|words| !words.is_empty());
            for words in std::iter::once(&everybodys).chain(&own) {
                prop_assert!(!(words.is_restricted() && words.has_lifetime()));
                prop_assert!(!(words.is_restricted() && (words.stale_if_error.is_some() || words.stale_while_revalidate.is_some())));
            }
            // What this CDN acts on: its own field, where that leaves nothing to be looked for in Cache-Control.
            let words = own.clone().unwrap_or_else(|| everybodys.clone());
            if !words.has_lifetime() && !words.is_restricted() {
                prop_assert!(!everybodys.has_lifetime() && !everybodys.is_restricted());
            }
            if dialect == Dialect::Fastly && fetched_of(&method) && status == StatusCode::OK {
                prop_assert!(!words.no_cache || words.is_unshared(), "it does not know no-cache");
            }
            if dialect == Dialect::Fastly && words.is_unshared() {
                prop_assert!(everybodys.is_unshared(), "it looks for no prohibition in its own field");
            }

            let of_edge = |headers: &HeaderMap| headers.get_all(&names::EDGE_CONTROL).iter().cloned().collect::<Vec<_>>();
            let left = of_edge(&answer);
            // Read one by one: how Akamai reads a field that contradicts itself is unknown.
            let permits = left.iter().flat_map(|line| Directives::new(line.as_bytes())).any(|directive| {
                edge_control([directive.text]).is_some_and(|words| !words.no_store && words.max_age != Some(0))
            });
            if passed.is_some() && outcome.guards.is_empty() && !status.is_server_error() {
                prop_assert_eq!(&left, &of_edge(&origin), "as sent");
            }
            let denied = answer.get_all(&names::VARY).iter().any(|line| line == "*")
                || answer.contains_key(&names::SET_COOKIE)
                || authorization && !class.allow_authorization;
            prop_assert!(!(permits && (status.is_server_error() || denied && fetched_of(&method))));
            let cookies = answer.contains_key(&names::SET_COOKIE);
            let lasting = words.s_maxage.or(words.max_age).is_some_and(|seconds| seconds > 0);
            let fetched = fetched_of(&method);
            if status.is_server_error() {
                prop_assert!(everybodys.no_store && words.no_store && !answer.contains_key(&names::AGE));
            }
            if class.mode == CacheMode::Never {
                prop_assert!(everybodys.no_store && words.no_store);
            }
            if fetched {
                prop_assert!(!(cookies && (lasting || words.public)));
                let unsaid = !words.has_lifetime() && !words.is_restricted();
                prop_assert!(!(cookies && status == StatusCode::OK && unsaid));
                let star = answer.get_all(&names::VARY).iter().any(|line| line == "*");
                prop_assert!(!(star && (lasting || words.public)));
                // Behind this CDN there may be a cache that knows Cache-Control alone.
                let open = everybodys.public || everybodys.s_maxage.or(everybodys.max_age).is_some_and(|seconds| seconds > 0);
                prop_assert!(!((cookies || star) && open));
                let allowed = class.allow_authorization || words.public || words.s_maxage.is_some() || words.must_revalidate;
                prop_assert!(!(authorization && lasting && !allowed));
            }

            let once = answer.clone();
            let again = prepared.apply(&mut answer, status, &facts);
            prop_assert_eq!(answer, once);
            prop_assert_eq!(again.action, None);
        }
    }

    fn fetched_of(method: &Method) -> bool {
        *method != Method::POST
    }
}
