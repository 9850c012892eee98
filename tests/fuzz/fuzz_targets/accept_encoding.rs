//! Fuzzes Accept-Encoding from hostile clients. The result must equal the result of a second parser, which is simple,
//! slow and independent.
//!
//! The input is split into field lines at line feeds.

#![no_main]

use edgeshim::internals::names::ACCEPT_ENCODING;
use edgeshim::internals::{Coding, gzip_acceptance};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let lines: Vec<HeaderValue> =
        data.split(|&b| b == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok()).collect();
    let found = acceptance(lines.iter().cloned());
    assert_eq!(found, acceptance(lines.iter().rev().cloned()), "the order of the lines changes the result");
    let capitals = lines.iter().filter_map(|line| HeaderValue::from_bytes(&line.as_bytes().to_ascii_uppercase()).ok());
    assert_eq!(found, acceptance(capitals), "the case of letters changes the result");
    // The second parser does not support quotes.
    if !lines.iter().any(|line| line.as_bytes().contains(&b'"')) {
        assert_eq!(found == Coding::Gzip, takes_gzip(&lines));
    }
});

fn acceptance(lines: impl Iterator<Item = HeaderValue>) -> Coding {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(ACCEPT_ENCODING, line);
    }
    gzip_acceptance(&headers)
}

/// The second parser. Returns true if gzip is accepted and the weight of identity is not above the weight of gzip.
fn takes_gzip(lines: &[HeaderValue]) -> bool {
    let text: Vec<String> = lines.iter().map(|line| line.as_bytes().iter().map(|&b| char::from(b)).collect()).collect();
    let members: Vec<(String, f64)> = text.iter().flat_map(|line| line.split(',')).filter_map(member).collect();
    let lowest = |names: &[&str]| {
        members
            .iter()
            .filter(|(coding, _)| names.contains(&coding.as_str()))
            .map(|(_, weight)| *weight)
            .reduce(f64::min)
    };
    let any = lowest(&["*"]).unwrap_or(0.0);
    let gzip = lowest(&["gzip", "x-gzip"]).unwrap_or(any);
    gzip > 0.0 && gzip >= lowest(&["identity"]).unwrap_or(any)
}

/// Returns the coding in lower case, and its weight. Returns `None` if the weight is malformed.
fn member(text: &str) -> Option<(String, f64)> {
    let mut parts = text.split(';').map(|part| part.trim_matches([' ', '\t']));
    let coding = parts.next()?.to_ascii_lowercase();
    for part in parts {
        let (name, rest) = part.split_at(part.find([' ', '\t', '=']).unwrap_or(part.len()));
        if name.eq_ignore_ascii_case("q") {
            return Some((coding, weight(rest.strip_prefix('=')?)?));
        }
    }
    Some((coding, 1.0))
}

fn weight(text: &str) -> Option<f64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = decimals.len() <= 3 && decimals.chars().all(|c| c.is_ascii_digit());
    let zeros = decimals.chars().all(|c| c == '0');
    match whole {
        "" if digits && !decimals.is_empty() => format!("0.{decimals}0").parse().ok(),
        "0" if digits => format!("0.{decimals}0").parse().ok(),
        "1" if digits && zeros => Some(1.0),
        _ => None,
    }
}
