//! Decides from the directives of a response whether shared caches are allowed to store and serve the response.

use http::{HeaderMap, StatusCode};

use crate::wire::cache_control::{CacheControl, is_stored_by_default};
use crate::wire::{names, vary};

/// Whether the origin allows shared caches to store the response to a request with Authorization (RFC 9111 §3.5).
///
/// If the response has no-cache, only `public` counts as permission. The first reason: to forbid storing, origins often
/// write `no-cache, must-revalidate`, but Fastly stores such a response. The second reason: little is lost if the guard
/// adds `private`, because a shared cache would have to revalidate such a response before each use.
pub(super) fn allows_authorization(directives: &CacheControl<'_>) -> bool {
    !directives.is_unshared()
        && (directives.public || !directives.no_cache && (directives.s_maxage.is_some() || directives.must_revalidate))
}

/// Whether shared caches would serve the response without revalidation. The result is false if the response has
/// no-store or private. Otherwise the result is true in three cases. First: the response has a lifetime or a stale
/// window above 0 for shared caches. Second: the response is `public`. Third: the response has no lifetime and no
/// no-cache, and caches store its status by default.
pub(super) fn is_shared(directives: &CacheControl<'_>, status: StatusCode) -> bool {
    if directives.is_unshared() {
        return false;
    }
    let windows = [directives.stale_while_revalidate, directives.stale_if_error];
    if directives.public || windows.into_iter().flatten().any(|seconds| seconds > 0) {
        return true;
    }
    match directives.s_maxage.or(directives.max_age) {
        Some(seconds) => seconds > 0,
        None => !directives.no_cache && is_stored_by_default(status),
    }
}

/// The members of Vary that guards check.
#[derive(Clone, Copy, Default)]
pub(super) struct Vary {
    /// The number of members.
    pub(super) members: usize,
    pub(super) star: bool,
    pub(super) user_agent: bool,
    pub(super) cookie: bool,
}

impl Vary {
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let mut vary = Self::default();
        for member in vary::names(headers) {
            vary.members += 1;
            vary.star |= member == b"*";
            vary.user_agent |= member.eq_ignore_ascii_case(names::USER_AGENT.as_str().as_bytes());
            vary.cookie |= member.eq_ignore_ascii_case(names::COOKIE.as_str().as_bytes());
        }
        vary
    }
}
