//! What the cache policy did to a response, as counted in metrics and shown in logs.

use crate::ids::label;

label! {
    /// The change to a response's caching fields: label `action` of `edgeshim_cache_rewrites_total`.
    pub enum Action {
        /// The origin's directives, in one line with one meaning.
        Tidied = "tidied",
        /// A lifetime added to a response without one.
        Defaulted = "defaulted",
        /// The class's directives instead of the origin's.
        Overridden = "overridden",
        /// no-store, because the class's mode is `never`.
        Forbidden = "forbidden",
        /// A guard's directive instead of the rule's.
        Guarded = "guarded",
    }
}

label! {
    /// A check that keeps an unsafe response out of shared caches: label `guard` of `edgeshim_cache_guards_total`.
    pub enum Guard {
        /// Set-Cookie on a shared response: made private.
        SetCookie = "set_cookie",
        /// Set-Cookie on a shared response: Set-Cookie removed.
        CookieStripped = "cookie_stripped",
        /// Response to a request with Authorization: made private (RFC 9111 §3.5).
        Authorization = "authorization",
        /// A 5xx: made no-store.
        Error = "error",
        /// `Vary: *`: made private.
        VaryStar = "vary_star",
        /// Vary names User-Agent on a shared response: reported.
        VaryUserAgent = "vary_user_agent",
        /// Vary names Cookie on a shared response: reported.
        VaryCookie = "vary_cookie",
    }
}

/// A set of guards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Guards(u8);

// More guards than bits do not compile.
const _: () = assert!(Guard::ALL.len() <= 8);

impl Guards {
    /// The guards whose condition is true.
    pub(super) fn of(all: [(Guard, bool); 3]) -> Self {
        let mut guards = Self::default();
        for (guard, _) in all.into_iter().filter(|(_, fires)| *fires) {
            guards.insert(guard);
        }
        guards
    }

    pub(super) fn insert(&mut self, guard: Guard) {
        self.0 |= 1 << guard as u8;
    }

    pub(super) fn insert_all(&mut self, others: Self) {
        self.0 |= others.0;
    }

    pub(super) fn remove(&mut self, guard: Guard) {
        self.0 &= !(1 << guard as u8);
    }

    /// Whether `guard` fired.
    pub fn contains(self, guard: Guard) -> bool {
        self.0 & (1 << guard as u8) != 0
    }

    /// Whether no guard fired.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The guards that fired.
    pub fn iter(self) -> impl Iterator<Item = Guard> {
        Guard::ALL.into_iter().filter(move |&guard| self.contains(guard))
    }
}

/// The result for one response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// `None`: nothing was changed.
    pub action: Option<Action>,
    /// The guards that fired.
    pub guards: Guards,
}
