//! Changes of single header fields. A change is first decided and later applied. A field that already has the right
//! value is not written again.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::field_pair::Field;
use crate::wire::cache_fields::edge_control;
use crate::wire::directives::{Argument, Directives};
use crate::wire::{names, vary};

/// The longest argument of the directive `content` that edgeshim forwards, in bytes. This directive is for ESI (Edge
/// Side Includes).
const MAX_ESI_CONTENT: usize = 128;

/// A change of one field.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Keep,
    Remove,
    Set(HeaderValue),
}

impl Change {
    /// Applies the change, and returns whether the head has changed.
    pub(super) fn apply(&self, headers: &mut HeaderMap, name: &HeaderName) -> bool {
        match self {
            Self::Keep => false,
            Self::Remove => headers.remove(name).is_some(),
            Self::Set(value) => {
                headers.insert(name, value.clone());
                true
            }
        }
    }
}

/// Returns the change after which the header field `name` has the directives of `field`. `is_present`: whether the
/// origin sent that header field. If there are no directives, the change removes the header field.
pub(super) fn write(headers: &HeaderMap, name: &HeaderName, is_present: bool, field: Option<&Field<'_>>) -> Change {
    let mut lines = is_present.then(|| headers.get_all(name).iter());
    let line = lines.as_mut().and_then(Iterator::next);
    let change = field.and_then(|field| {
        if let Some(line) = line
            && lines.is_some_and(|mut lines| lines.next().is_none())
            && !line.is_empty()
            && field.directives.is_written_as(line.as_bytes())
        {
            return Some(Change::Keep);
        }
        field.value().map(Change::Set)
    });
    change.unwrap_or(if line.is_some() { Change::Remove } else { Change::Keep })
}

/// Returns the change that removes from Vary all members that are not in `kept`. If a member is removed, the remaining
/// members are written in the order of `kept`.
pub(super) fn reduce_vary(headers: &HeaderMap, kept: &[Box<str>]) -> Change {
    if vary::names(headers).all(|member| kept.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(member))) {
        return Change::Keep;
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

/// Returns the argument of the directive `content` in Surrogate-Control, if the argument is short, needs no escapes and
/// has no comma. ESI processors read this directive.
pub(super) fn esi_content(headers: &HeaderMap) -> Option<&[u8]> {
    let lines = headers.get_all(&names::SURROGATE_CONTROL);
    lines.iter().flat_map(|line| Directives::new(line.as_bytes())).find_map(|directive| {
        let (Argument::Token(text) | Argument::Quoted(text)) = directive.argument else {
            return None;
        };
        let is_plain = text.len() <= MAX_ESI_CONTENT
            && text.iter().all(|&b| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\\' | b','));
        (directive.name.eq_ignore_ascii_case(b"content") && is_plain).then_some(text)
    })
}

/// Returns the change after which Surrogate-Control has the directive `content` (for ESI) with this argument. If
/// Surrogate-Control is the CDN's targeted field, Surrogate-Control also has the directives of `targeted`.
pub(super) fn write_surrogate_control(headers: &HeaderMap, targeted: Option<&Field<'_>>, content: &[u8]) -> Change {
    let value = targeted.and_then(Field::value);
    let (directives, comma) = value.as_ref().map_or((&b""[..], &b""[..]), |value| (value.as_bytes(), b", "));
    let line = [directives, comma, b"content=\"", content, b"\""].concat();
    let mut lines = headers.get_all(&names::SURROGATE_CONTROL).iter();
    if lines.next().is_some_and(|only| only.as_bytes() == line) && lines.next().is_none() {
        return Change::Keep;
    }
    HeaderValue::try_from(line).map_or(Change::Remove, Change::Set)
}

/// Returns the change that removes every directive of Edge-Control that can allow storing. Unknown directives are
/// removed too. Prohibitions, lifetimes of 0 and `dca` (for ESI) stay.
pub(super) fn remove_permissions(headers: &HeaderMap, edge_control_name: &HeaderName) -> Change {
    let (mut kept, mut all_kept) = (Vec::new(), true);
    for directive in headers.get_all(edge_control_name).iter().flat_map(|line| Directives::new(line.as_bytes())) {
        let keeps = match edge_control([directive.text]) {
            Some(read) => read.no_store || read.max_age == Some(0),
            None => directive.name.eq_ignore_ascii_case(b"dca"),
        };
        if keeps {
            kept.push(directive.text);
        }
        all_kept &= keeps;
    }
    if all_kept {
        return Change::Keep;
    }
    Some(kept.join(&b", "[..]))
        .filter(|line| !line.is_empty())
        .and_then(|line| HeaderValue::try_from(line).ok())
        .map_or(Change::Remove, Change::Set)
}
