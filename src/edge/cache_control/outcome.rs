//! The result of the cache policy for a response. Metrics count the result and logs show it.

use crate::cdn::grant::Grant;
use crate::ids::label;

label! {
    /// The change to a response's caching fields: label `action` of `edgeshim_cache_rewrites_total`.
    pub enum Action {
        /// No rule or guard changed the directives, but caching fields were rewritten or removed.
        Tidied = "tidied",
        /// The class's lifetime was added to a response without a lifetime.
        Defaulted = "defaulted",
        /// The class's directives replaced the origin's directives.
        Overridden = "overridden",
        /// no-store was set, because the class's mode is `never`.
        Forbidden = "forbidden",
        /// A guard changed the directives.
        Guarded = "guarded",
    }
}

label! {
    /// A check for unsafe responses: label `guard` of `edgeshim_cache_guards_total`. The guard keeps an unsafe response
    /// out of shared caches, removes its cookies, or only reports the response. A "shared response" is a response that
    /// shared caches would store and serve without revalidation.
    pub enum Guard {
        /// A shared response has Set-Cookie. The response is made private.
        SetCookie = "set_cookie",
        /// A shared response has Set-Cookie. Set-Cookie is removed.
        CookieStripped = "cookie_stripped",
        /// The request has Authorization, shared caches can store the response, and there is no permission for storing
        /// it (RFC 9111 §3.5). The class's `allow_authorization` is a permission. A directive of the origin such as
        /// `public` is also a permission, unless the class's rule replaces the directives. The response is made
        /// private.
        Authorization = "authorization",
        /// The status is 5xx, and the response has neither no-store nor private. The response gets no-store. A fault
        /// counts under this guard too, unless the client caused the fault.
        Error = "error",
        /// A response that shared caches can store has `Vary: *`. The response is made private.
        VaryStar = "vary_star",
        /// A shared response has User-Agent in Vary. The response is only reported.
        VaryUserAgent = "vary_user_agent",
        /// A shared response has Cookie in Vary. The response is only reported.
        VaryCookie = "vary_cookie",
        /// The response can depend on the arm of an experiment, and has neither no-store nor private. The response is
        /// made private.
        Assignment = "assignment",
    }
}

/// A set of guards that fired. A guard fires if its condition is true for the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Guards(u8);

// The build fails if there are more guards than bits in `Guards`.
const _: () = assert!(Guard::ALL.len() <= 8);

impl Guards {
    /// Returns the guards whose condition is true.
    pub(super) fn of<const N: usize>(all: [(Guard, bool); N]) -> Self {
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
    /// The change, or `None` if the response was not changed.
    pub action: Option<Action>,
    /// The guards that fired.
    pub guards: Guards,
    /// What the CDN is allowed to do with the response. `None` if `pulls` must read the grant from the head.
    pub(crate) grant: Option<Grant>,
}
