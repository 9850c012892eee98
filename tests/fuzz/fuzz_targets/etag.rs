//! Fuzzes the functions that read entity tags and lists of entity tags, and that make tags weak or strong. Hostile
//! origins and clients can send such tags.
//!
//! The input is split at line feeds. Each line is read as one tag and as one list. Then all lines together are read as
//! the lines of one If-None-Match field.

#![no_main]

use edgeshim::internals::etag::{EntityTag, Listed, listed, strengthen, weaken};
use edgeshim::internals::names::IF_NONE_MATCH;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut headers = HeaderMap::new();
    let mut plain = Some(Vec::new());
    for line in data.split(|&b| b == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok()) {
        is_a_tag(&line);
        is_a_list(&line);
        plain = plain.zip(members(line.as_bytes())).map(|(before, these)| [before, these].concat());
        headers.append(IF_NONE_MATCH, line);
    }
    let found: Vec<Listed> = listed(&headers, &IF_NONE_MATCH).collect();
    let sound = !found.contains(&Listed::Malformed);
    assert_eq!(sound, plain.is_some(), "{headers:?}");
    if let Some(plain) = plain {
        let found: Vec<Option<(bool, Vec<u8>)>> = found.into_iter().map(pair).collect();
        assert_eq!(found, plain);
    }
});

fn is_a_tag(value: &HeaderValue) {
    let tag = EntityTag::parse(value.as_bytes());
    assert_eq!(tag.map(|tag| (tag.weak, tag.opaque.to_vec())), plain_tag(value.as_bytes().trim_ascii()));
    let weakened = weaken(value);
    let Some(tag) = tag else {
        assert_eq!(weakened, None);
        return;
    };
    assert_eq!(weakened.is_some(), !tag.weak);
    if let Some(weakened) = weakened {
        let weak = EntityTag::parse(weakened.as_bytes());
        assert_eq!(weak, Some(EntityTag { weak: true, ..tag }));
        assert_eq!(weaken(&weakened), None, "a weak tag must not be weakened again");
        assert_eq!(strengthen(&weakened, |opaque| opaque == tag.opaque), None, "the tag must stay weak");
        let strong = strengthen(&weakened, |_| false);
        assert_eq!(strong.as_ref().map(HeaderValue::as_bytes), Some(value.as_bytes().trim_ascii()));
    }
}

fn is_a_list(line: &HeaderValue) {
    let members = |line: &HeaderValue| {
        let headers = HeaderMap::from_iter([(IF_NONE_MATCH, line.clone())]);
        listed(&headers, &IF_NONE_MATCH).map(pair).collect::<Vec<_>>()
    };
    let before = members(line);
    // An arbitrary choice of the tags that stay weak: the tags of odd length.
    let stays_weak = |opaque: &[u8]| opaque.len() % 2 == 1;
    let wanted: Vec<_> = before
        .iter()
        .cloned()
        .map(|member| member.map(|(weak, opaque)| (weak && stays_weak(&opaque), opaque)))
        .collect();
    match strengthen(line, stays_weak) {
        Some(strong) => {
            assert!(wanted != before && wanted.iter().all(Option::is_some));
            assert_eq!(members(&strong), wanted);
            assert_eq!(strengthen(&strong, stays_weak), None, "a second call must change nothing");
        }
        None => assert!(wanted == before || before.contains(&None), "{line:?}"),
    }
}

/// Returns a tag as owned data, or `None` for `*` and for a malformed member.
fn pair(member: Listed) -> Option<(bool, Vec<u8>)> {
    match member {
        Listed::Tag(tag) => Some((tag.weak, tag.opaque.to_vec())),
        Listed::Any | Listed::Malformed => None,
    }
}

/// A second parser of lists. It splits the list at commas outside of quotes. Returns `None` if a member is neither a
/// tag nor `*`.
fn members(line: &[u8]) -> Option<Vec<Option<(bool, Vec<u8>)>>> {
    let mut quoted = false;
    let cut = |&byte: &u8| {
        quoted ^= byte == b'"';
        byte == b',' && !quoted
    };
    line.split(cut)
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
        .map(|member| if member == b"*" { Some(None) } else { plain_tag(member).map(Some) })
        .collect()
}

fn plain_tag(text: &[u8]) -> Option<(bool, Vec<u8>)> {
    let (weak, quoted) = text.strip_prefix(b"W/").map_or((false, text), |quoted| (true, quoted));
    let opaque = quoted.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    opaque.iter().all(|&byte| byte > b' ' && byte != b'"' && byte != 0x7f).then(|| (weak, opaque.to_vec()))
}
