//! Fuzzes Akamai's G2O from hostile clients. A signature must never be valid, because the fuzzer does not know the key.
//!
//! The first line of the input is the signed header field, the second line is the signature, and the rest is the
//! request target.

#![no_main]

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use edgeshim::internals::names::{X_AKAMAI_G2O_AUTH_DATA, X_AKAMAI_G2O_AUTH_SIGN};
use edgeshim::internals::{G2oData as Data, G2oKeys, Replays, Secret, Verifier};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut lines = data.splitn(3, |&b| b == b'\n');
    let (signed, sign, target) = (lines.next(), lines.next(), lines.next());
    let Some(signed) = signed else { return };
    if let Some(read) = Data::parse(signed) {
        assert!(!read.nonce.is_empty() && read.client == read.client.to_canonical());
    }
    let (Ok(data), Ok(sign)) = (HeaderValue::from_bytes(signed), HeaderValue::from_bytes(sign.unwrap_or_default()))
    else {
        return;
    };
    let target = String::from_utf8_lossy(target.unwrap_or_default());
    let headers =
        HeaderMap::from_iter([(X_AKAMAI_G2O_AUTH_DATA.clone(), data), (X_AKAMAI_G2O_AUTH_SIGN.clone(), sign)]);
    let keys = G2oKeys { keys: [("n".to_owned(), Secret::new("unknown"))].into(), versions: vec![1, 2, 3, 4, 5] };
    let verifier = Verifier::new(&keys, Arc::new(Replays::new()));
    let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    assert!(verifier.check(&headers, &target, now).is_err());
});
