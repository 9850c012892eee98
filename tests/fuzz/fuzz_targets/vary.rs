//! Fuzzes the merge of Accept-Encoding into Vary, with Vary from hostile origins. The result is one line, which is `*`
//! or has each name once. A second merge changes nothing.
//!
//! The input is split into field lines at line feeds.

#![no_main]

use std::collections::BTreeSet;

use edgeshim::internals::merge_accept_encoding;
use edgeshim::internals::names::VARY;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

/// If Vary has this number of names or more, the merge may replace Vary by `*`.
const MANY: usize = 64;

fuzz_target!(|data: &[u8]| {
    let mut headers = HeaderMap::new();
    for line in data.split(|&b| b == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok()) {
        headers.append(VARY, line);
    }
    let mut wanted: BTreeSet<Vec<u8>> = names(&headers).into_iter().collect();
    wanted.insert(b"accept-encoding".to_vec());

    merge_accept_encoding(&mut headers);
    let once = headers.clone();
    merge_accept_encoding(&mut headers);
    assert_eq!(once, headers, "the second merge changes the header");

    let after = names(&headers);
    assert_eq!(headers.get_all(VARY).iter().count(), 1);
    if after == [b"*"] {
        assert!(wanted.contains(&b"*"[..]) || wanted.len() >= MANY, "{} names became `*`", wanted.len());
    } else {
        assert_eq!(after.iter().collect::<BTreeSet<_>>().len(), after.len(), "a name appears twice");
        assert_eq!(after.into_iter().collect::<BTreeSet<_>>(), wanted);
    }
});

/// Returns the names in Vary, in lower case.
fn names(headers: &HeaderMap) -> Vec<Vec<u8>> {
    let lines = headers.get_all(VARY).iter().flat_map(|line| line.as_bytes().split(|&b| b == b','));
    lines.map(|name| name.trim_ascii().to_ascii_lowercase()).filter(|name| !name.is_empty()).collect()
}
