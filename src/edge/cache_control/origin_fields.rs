//! The origin's directives, read from Cache-Control, Pragma, Expires and the fields of the pulling CDN's dialect.

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::cdn::dialect::Dialect;
use crate::wire::cache_control::{CacheControl, Extension};
use crate::wire::cache_fields::{CacheField, CacheFields, edge_control, expires_lifetime};
use crate::wire::names;

pub(super) fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).iter().map(HeaderValue::as_bytes)
}

/// Returns the directives for all caches, which come from Cache-Control, Pragma and Expires.
pub(super) fn cache_control(
    headers: &HeaderMap,
    present: CacheFields,
    status: StatusCode,
    now: fn() -> SystemTime,
) -> CacheControl<'_> {
    let mut directives = CacheControl::default();
    if present.has(CacheField::CacheControl) {
        directives = CacheControl::parse(values(headers, &names::CACHE_CONTROL));
        resolve_field_lists(&mut directives, headers, status);
    }
    // In a response with Cache-Control, Pragma has no meaning (RFC 9111 §5.4). Without Cache-Control, Pragma is an old
    // way to set no-cache, which some caches still obey. `decision.rs` removes Pragma, so the no-cache of Pragma moves
    // to Cache-Control. A Cache-Control without directives counts as absent here, also if only its field lists were
    // removed.
    if present.has(CacheField::Pragma) && directives.is_empty() {
        directives.no_cache = CacheControl::parse(values(headers, &names::PRAGMA)).no_cache;
    }
    if present.has(CacheField::Expires) && directives.max_age.is_none() && !directives.is_restricted() {
        // Expires becomes max-age, because all caches read max-age in the same way. Some caches compare Expires with
        // their own clock instead of Date.
        let date = headers.get(&names::DATE).map(HeaderValue::as_bytes);
        directives.max_age = expires_lifetime(values(headers, &names::EXPIRES), date, now);
    }
    directives
}

/// Returns the directives in the targeted field that CDNs of this dialect obey before Cache-Control. If the response
/// has several such fields, the first name in [`Dialect::reads`] counts. An empty field counts as absent (RFC 9213
/// §2.1).
pub(super) fn targeted(headers: &HeaderMap, dialect: Dialect, status: StatusCode) -> Option<CacheControl<'_>> {
    dialect.reads().iter().find_map(|name| {
        let mut directives = CacheControl::parse(values(headers, name));
        directives.extensions.retain(fits_targeted_field);
        resolve_field_lists(&mut directives, headers, status);
        if dialect.ignores_no_cache() {
            // A CDN that ignores no-cache also does not read s-maxage in its targeted field. So the shorter of s-maxage
            // and max-age becomes max-age.
            directives.max_age = directives.s_maxage.take().into_iter().chain(directives.max_age).min();
        }
        (!directives.is_empty()).then_some(directives)
    })
}

/// Returns the directives in the dialect's passed field (Edge-Control), which edgeshim forwards but never adds.
pub(super) fn passed(headers: &HeaderMap, dialect: Dialect) -> Option<CacheControl<'static>> {
    edge_control(values(headers, dialect.passed_field()?))
}

/// Whether an unknown directive can stay in a targeted field. A directive that is not a valid dictionary member (RFC
/// 8941 §3.2) would make a strict parser ignore the whole field. `changes::esi_content` handles the directive
/// `content`.
fn fits_targeted_field(extension: &Extension<'_>) -> bool {
    let name = extension.name.as_bytes();
    let is_key_byte =
        |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'.' | b'*');
    let is_value = match extension.argument.map(str::as_bytes) {
        None | Some([b'"' | b'*' | b'a'..=b'z' | b'A'..=b'Z', ..]) => true,
        Some(text) => text.len() <= 15 && text.iter().all(u8::is_ascii_digit),
    };
    name != b"content"
        && is_value
        && name.first().is_some_and(|first| first.is_ascii_lowercase() || *first == b'*')
        && name.iter().all(is_key_byte)
}

/// Replaces `no-cache="…"` and `private="…"`, because caches read these forms in different ways.
///
/// Some caches obey these directives only without a list of fields. Other caches ignore the directives and obey only
/// lifetimes. If the response has a field of the list, the list is removed and the directive stays. RFC 9111 §5.2.2.4
/// allows this. If the response has no field of the list, the complete directive is removed. A 304 does not show the
/// fields of the stored response. So in a 304 every list counts as if the response had the listed fields. Exception:
/// Set-Cookie in a list is ignored here, because the Set-Cookie guard handles that field. Without this exception every
/// 304 with such a list would get no-cache or private.
fn resolve_field_lists(directives: &mut CacheControl<'_>, headers: &HeaderMap, status: StatusCode) {
    let applies = |fields: &[&str]| {
        fields
            .iter()
            .filter(|field| !field.eq_ignore_ascii_case(names::SET_COOKIE.as_str()))
            .any(|field| status == StatusCode::NOT_MODIFIED || headers.contains_key(*field))
    };
    if applies(&directives.no_cache_fields) {
        directives.no_cache = true;
    }
    if applies(&directives.private_fields) {
        directives.private = true;
    }
    directives.drop_field_lists();
}
