//! Vary from hostile origins: one line, every name kept once, twice is once.
//!
//! The first byte chooses what is added; the rest is split into field lines at line feeds.

#![no_main]

use std::collections::BTreeSet;

use edgeshim::wire::names::VARY;
use edgeshim::wire::vary;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

/// From so many names on, Vary may become `*`.
const MANY: usize = 64;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, rest)) = data.split_first() else { return };
    let extra: &[&str] =
        [&[][..], &["Accept-Encoding"], &["Origin"], &["Accept-Encoding", "origin"]][usize::from(choice & 3)];
    let mut headers = HeaderMap::new();
    for line in rest.split(|&b| b == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok()) {
        headers.append(VARY, line);
    }
    let before = names(&headers);
    assert_eq!(vary::is_any(&headers), before.iter().any(|name| name == b"*"));
    let mut wanted: BTreeSet<Vec<u8>> = before.into_iter().collect();
    wanted.extend(extra.iter().map(|name| name.to_ascii_lowercase().into_bytes()));

    vary::merge(&mut headers, extra);
    let once = headers.clone();
    vary::merge(&mut headers, extra);
    assert_eq!(once, headers, "twice is once");

    let after = names(&headers);
    assert_eq!(headers.get_all(VARY).iter().count(), usize::from(!after.is_empty()));
    if vary::is_any(&headers) {
        assert_eq!(after, [b"*"]);
        assert!(wanted.contains(&b"*"[..]) || wanted.len() >= MANY, "{} names", wanted.len());
    } else {
        assert_eq!(after.iter().collect::<BTreeSet<_>>().len(), after.len(), "a name stands there twice");
        assert_eq!(after.into_iter().collect::<BTreeSet<_>>(), wanted);
        assert!(extra.iter().all(|name| vary::contains(&headers, name)));
    }

    vary::merge_accept_encoding(&mut headers);
    assert!(vary::is_any(&headers) || vary::contains(&headers, "accept-encoding"));
    assert_eq!(headers.get_all(VARY).iter().count(), 1);
});

/// What Vary names, in small letters.
fn names(headers: &HeaderMap) -> Vec<Vec<u8>> {
    let lines = headers.get_all(VARY).iter().flat_map(|line| line.as_bytes().split(|&b| b == b','));
    lines.map(|name| name.trim_ascii().to_ascii_lowercase()).filter(|name| !name.is_empty()).collect()
}
