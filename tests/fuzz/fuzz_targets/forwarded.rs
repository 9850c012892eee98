//! Fuzzes the forwarding fields of hostile and of trusted peers. After the rewrite, the last address of X-Forwarded-For
//! is the peer. The fields from a peer that is not trusted have no effect.
//!
//! The first byte of the input selects which addresses are trusted. The rest is split into fields at line feeds.

#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use edgeshim::internals::forwarded::{Peer, Scheme, client_from_xff, write};
use edgeshim::internals::names::{FORWARDED, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fuzz_target!(|data: &[u8]| {
    let Some((&choice, bytes)) = data.split_first() else { return };
    let mut headers = HeaderMap::new();
    let names = [&X_FORWARDED_FOR, &X_FORWARDED_PROTO, &X_FORWARDED_HOST, &FORWARDED];
    for (line, name) in bytes.split(|&byte| byte == b'\n').zip(names.into_iter().cycle()) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(name.clone(), value);
        }
    }
    let trusts_peer = choice & 1 == 1;
    let trusted = |address: IpAddr| {
        if address == PEER { trusts_peer } else { choice & 2 == 2 && address.is_ipv4() }
    };
    let trail = client_from_xff(&headers, PEER, trusted);
    write(&mut headers, &Peer::new(PEER, Scheme::Http), trail);

    let lines: Vec<_> = headers.get_all(&X_FORWARDED_FOR).iter().map(|line| line.to_str().expect("ASCII")).collect();
    let [line] = lines[..] else { panic!("{} lines of X-Forwarded-For", lines.len()) };
    let entries: Vec<_> = line.split(", ").collect();
    assert_eq!(entries.last(), Some(&"192.0.2.1"), "{line}");
    assert!(entries.iter().all(|entry| entry.parse::<IpAddr>().is_ok()), "{line}");
    assert_eq!(entries.first().and_then(|entry| entry.parse().ok()), Some(trail.client), "{line}");
    assert_eq!(headers.get_all(&FORWARDED).iter().count(), 1);
    if !trusts_peer {
        assert_eq!(line, "192.0.2.1");
        assert_eq!(headers.get(&X_FORWARDED_PROTO).map(HeaderValue::as_bytes), Some(&b"http"[..]));
        assert!(!headers.contains_key(&X_FORWARDED_HOST), "there is no Host from which the field could come");
    }
});
