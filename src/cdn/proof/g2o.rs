//! Akamai's G2O ("ghost to origin") signatures. The edge signs the target and time of a request and the client's
//! address.
//!
//! The data field contains six members: version, the edge's address, the client's address, the time, an id, and a
//! nonce. The nonce names the key that signed the request. The sign field contains a keyed hash in base64. The hash
//! covers the data field as sent, followed by the path with its query. The versions differ only in the way in which the
//! hash is computed from the key and this data.
//!
//! This code computes the hash in the same way as these public verifiers, which were read in November 2026:
//! ynohat/akamai-g2o, and modules for nginx, Lua and C#. All these verifiers agree. The samples in ynohat/akamai-g2o
//! come from Akamai's own tool.
//!
//! Each signature is accepted only once: see [`Replays`].

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac};
use http::HeaderMap;
use md5::{Digest as _, Md5};
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use super::{Failure, G2oKeys};
use crate::wire::decimal;
use crate::wire::names::{X_AKAMAI_G2O_AUTH_DATA, X_AKAMAI_G2O_AUTH_SIGN};
use crate::wire::secret::Secret;
use crate::wire::values::only_line;

/// The largest accepted difference between the time in a signature and this host's clock. The time in the signature can
/// be before or after the clock.
const WINDOW_SECONDS: u64 = 30;
/// The longest data field that is read, in bytes. Real data fields have about 70 bytes.
const MOST_DATA_BYTES: usize = 1024;
/// The longest sign field that is decoded, in bytes. The longest hash, SHA-256, has 44 characters in base64.
const MOST_SIGN_BYTES: usize = 64;
/// The number of bytes to which [`MOST_SIGN_BYTES`] characters decode.
const MOST_DECODED_BYTES: usize = MOST_SIGN_BYTES / 4 * 3;

/// Returns whether a request has at least one of the two G2O fields.
pub(crate) fn has_fields(headers: &HeaderMap) -> bool {
    headers.contains_key(&X_AKAMAI_G2O_AUTH_DATA) || headers.contains_key(&X_AKAMAI_G2O_AUTH_SIGN)
}

/// A checker of G2O signatures. It contains the prepared keys. All verifiers share one store of accepted signatures.
pub struct Verifier {
    /// The keys by nonce. Each key is prepared for each accepted version.
    signers: BTreeMap<String, Vec<(u8, Signer)>>,
    replays: Arc<Replays>,
}

impl Verifier {
    /// Prepares each key for each accepted version.
    pub fn new(keys: &G2oKeys, replays: Arc<Replays>) -> Self {
        let signers = |key: &Secret| {
            let accepted = keys.versions.iter();
            accepted.filter_map(|&version| Some((version, Signer::new(version, key)?))).collect()
        };
        Self { signers: keys.keys.iter().map(|(nonce, key)| (nonce.clone(), signers(key))).collect(), replays }
    }

    /// Checks the signature of a request and returns the client's address that the edge signed. `target` is the path
    /// with its query, as received.
    ///
    /// # Errors
    /// The error is the first failure. The parts are checked in this order: the fields, the key, the signature, the
    /// time, the replay.
    pub fn check(&self, headers: &HeaderMap, target: &str, now: SystemTime) -> Result<IpAddr, Failure> {
        let line = only_line(headers, &X_AKAMAI_G2O_AUTH_DATA).map_err(|_| Failure::NoG2o)?.as_bytes();
        let sign = only_line(headers, &X_AKAMAI_G2O_AUTH_SIGN).map_err(|_| Failure::NoG2o)?.as_bytes();
        let data = Data::parse(line).ok_or(Failure::NoG2o)?;
        let mut buffer = [0; MOST_DECODED_BYTES];
        let given = decoded(sign, &mut buffer).ok_or(Failure::NoG2o)?;

        let accepted = self.signers.get(data.nonce).ok_or(Failure::G2oKey)?;
        let signer = accepted.iter().find(|(version, _)| *version == data.version).ok_or(Failure::G2oKey)?;
        let expected = signer.1.sign(line, target.as_bytes());
        if !bool::from(expected.as_ref().ct_eq(given)) {
            return Err(Failure::G2oSignature);
        }
        let now_seconds = now.duration_since(UNIX_EPOCH).map_err(|_| Failure::G2oTime)?.as_secs();
        if now_seconds.abs_diff(data.signed_at_seconds) > WINDOW_SECONDS {
            return Err(Failure::G2oTime);
        }
        self.replays.admit(expected.prefix(), data.signed_at_seconds)?;
        Ok(data.client)
    }
}

/// Shows only the nonces. A nonce is not secret, because every signed request contains a nonce.
impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("nonces", &self.signers.keys()).finish_non_exhaustive()
    }
}

/// The members of the data field that edgeshim uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Data<'a> {
    /// The G2O version, which selects the hash function.
    pub version: u8,
    pub client: IpAddr,
    /// The time of the signature, in seconds since 1970.
    pub signed_at_seconds: u64,
    /// The name of the key with which the edge signed the request.
    pub nonce: &'a str,
}

impl<'a> Data<'a> {
    /// Reads a data field. Returns `None` if the field is too long or does not have exactly six valid members.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        if line.len() > MOST_DATA_BYTES {
            return None;
        }
        let mut members = std::str::from_utf8(line).ok()?.split(',').map(str::trim_ascii);
        let [version, edge, client, time, id, nonce] = std::array::from_fn(|_| members.next().unwrap_or_default());
        if members.next().is_some() || edge.is_empty() || id.is_empty() || nonce.is_empty() {
            return None;
        }
        Some(Self {
            version: decimal::read(version.as_bytes())?.try_into().ok()?,
            client: client.parse::<IpAddr>().ok()?.to_canonical(),
            signed_at_seconds: decimal::read(time.as_bytes())?,
            nonce,
        })
    }
}

fn decoded<'a>(sign: &[u8], buffer: &'a mut [u8; MOST_DECODED_BYTES]) -> Option<&'a [u8]> {
    if sign.is_empty() || sign.len() > MOST_SIGN_BYTES {
        return None;
    }
    let length = STANDARD.decode_slice(sign, buffer).ok()?;
    buffer.get(..length)
}

/// One key, prepared for one G2O version.
enum Signer {
    /// Version 1: the MD5 of key + signed data.
    Md5(Secret),
    /// Version 2: the MD5 of key + digest of version 1.
    Md5Twice(Secret),
    /// Version 3.
    HmacMd5(Hmac<Md5>),
    /// Version 4.
    HmacSha1(Hmac<Sha1>),
    /// Version 5.
    HmacSha256(Hmac<Sha256>),
}

impl Signer {
    fn new(version: u8, key: &Secret) -> Option<Self> {
        // `new_from_slice` never fails here, because HMAC accepts keys of any length.
        let bytes = key.expose().as_bytes();
        match version {
            1 => Some(Self::Md5(key.clone())),
            2 => Some(Self::Md5Twice(key.clone())),
            3 => Hmac::new_from_slice(bytes).ok().map(Self::HmacMd5),
            4 => Hmac::new_from_slice(bytes).ok().map(Self::HmacSha1),
            5 => Hmac::new_from_slice(bytes).ok().map(Self::HmacSha256),
            _ => None,
        }
    }

    fn sign(&self, data: &[u8], target: &[u8]) -> Signature {
        match self {
            Self::Md5(key) => Signature::new(md5([key.expose().as_bytes(), data, target])),
            Self::Md5Twice(key) => {
                let key = key.expose().as_bytes();
                Signature::new(md5([key, md5([key, data, target]).as_ref()]))
            }
            Self::HmacMd5(key) => hmac(key, data, target),
            Self::HmacSha1(key) => hmac(key, data, target),
            Self::HmacSha256(key) => hmac(key, data, target),
        }
    }
}

fn hmac(key: &(impl Mac + Clone), data: &[u8], target: &[u8]) -> Signature {
    Signature::new(key.clone().chain_update(data).chain_update(target).finalize().into_bytes())
}

fn md5<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> impl AsRef<[u8]> {
    parts.into_iter().fold(Md5::new(), Md5::chain_update).finalize()
}

/// The bytes of a signature: 16, 20 or 32 bytes, depending on the hash function.
struct Signature {
    bytes: [u8; 32],
    length: usize,
}

impl Signature {
    fn new(digest: impl AsRef<[u8]>) -> Self {
        let digest = digest.as_ref();
        let mut bytes = [0; 32];
        let length = digest.len().min(bytes.len());
        bytes[..length].copy_from_slice(&digest[..length]);
        Self { bytes, length }
    }

    /// Returns the 16 bytes that the store of accepted signatures keeps: a complete MD5, or the first 16 bytes of a
    /// longer hash. These bytes are enough to distinguish signatures.
    fn prefix(&self) -> [u8; 16] {
        std::array::from_fn(|position| self.bytes[position])
    }
}

impl AsRef<[u8]> for Signature {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The largest number of signatures that are stored for one span of [`SPAN_SECONDS`]. This number is enough for about
/// 16,000 pulls per second.
const MOST_STORED: usize = 1 << 20;
/// The length of a span. Time is divided into spans, and each signature is stored under the span of its time. A span is
/// longer than the window of accepted times, which reaches from [`WINDOW_SECONDS`] before now to [`WINDOW_SECONDS`]
/// after now. So the window never overlaps more than two consecutive spans.
const SPAN_SECONDS: u64 = 64;
const _: () = assert!(SPAN_SECONDS > 2 * WINDOW_SECONDS + 1, "the window must overlap at most two spans");

/// The store of accepted signatures. A signature stays in the store at least as long as its time is inside the window.
///
/// The span of a signature depends on the time in the signature, not on the time of its arrival. The store has two
/// sets: one for the latest even span, one for the latest odd span. The first signature of a newer even span replaces
/// the even set, and the first signature of a newer odd span replaces the odd set. From then on, signatures of the
/// replaced span are rejected. So an old signature is not accepted again, even if the clock is set back. All workers
/// and all configurations share one store. The lock of the store is held for one lookup and one insertion, and once per
/// span also for the creation of a set.
#[derive(Default)]
pub struct Replays {
    generations: Mutex<[Generation; 2]>,
}

#[derive(Default)]
struct Generation {
    /// The number of the span of this set. Span 0 begins in 1970. The number only increases.
    span: u64,
    seen: HashSet<[u8; 16]>,
}

impl Replays {
    /// Returns an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stores a valid signature. Returns an error if the signature was stored before, if its span is too old, or if the
    /// store is full.
    fn admit(&self, signature: [u8; 16], signed_at_seconds: u64) -> Result<(), Failure> {
        self.admit_of(MOST_STORED, signature, signed_at_seconds)
    }

    fn admit_of(&self, most: usize, signature: [u8; 16], signed_at_seconds: u64) -> Result<(), Failure> {
        let span = signed_at_seconds / SPAN_SECONDS;
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = &mut generations[usize::from(span % 2 == 1)];
        let mut dropped = HashSet::new();
        if generation.span < span {
            // The new set gets room for as many signatures as the old set had. So under constant load the new set
            // seldom has to grow.
            let seen = HashSet::with_capacity(generation.seen.len());
            dropped = std::mem::replace(generation, Generation { span, seen }).seen;
        }
        let admitted = if generation.span > span {
            Err(Failure::G2oTime)
        } else if generation.seen.contains(&signature) {
            Err(Failure::G2oReplay)
        } else if generation.seen.len() >= most {
            Err(Failure::G2oFull)
        } else {
            generation.seen.insert(signature);
            Ok(())
        };
        // The old set is freed after the lock is released, because freeing takes time and other workers need the lock.
        drop(generations);
        drop(dropped);
        admitted
    }
}

impl fmt::Debug for Replays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replays").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "the key of the edge";
    const TARGET: &str = "/shop/caf%C3%A9?a=1&b=%2F";
    const REST: &str = "192.0.2.1, 2001:db8::7, 1700000000, 13459971.1599924223, 117542";
    const SIGNED_AT: u64 = 1_700_000_000;
    const SIGNATURES: [&str; 5] = [
        "V+ntLalY2uOT5OZbqzPQmQ==",
        "bng73p2uIvlCg6hDQkbtSA==",
        "f9qURHYgEbnodaJvFXAuow==",
        "dXNnm9XHs3ilyK3U0/WpJoS8n3w=",
        "oOUyR6K1hS9XxxbxHwAaFF8nblYT5e9t5IvsTkiqyv8=",
    ];

    fn keys(nonce: &str, key: &str) -> G2oKeys {
        G2oKeys { keys: [(nonce.to_owned(), Secret::new(key))].into(), versions: vec![1, 2, 3, 4, 5] }
    }

    fn verifier() -> Verifier {
        Verifier::new(&keys("117542", KEY), Arc::default())
    }

    fn headers(data: &str, sign: &str) -> HeaderMap {
        [
            (X_AKAMAI_G2O_AUTH_DATA.clone(), HeaderValue::from_str(data).unwrap()),
            (X_AKAMAI_G2O_AUTH_SIGN.clone(), HeaderValue::from_str(sign).unwrap()),
        ]
        .into_iter()
        .collect()
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Signs a data field as the edge does in version 5.
    fn signed(data: &str) -> HeaderMap {
        let signer = Signer::new(5, &Secret::new(KEY)).unwrap();
        headers(data, &STANDARD.encode(signer.sign(data.as_bytes(), TARGET.as_bytes())))
    }

    fn check(headers: &HeaderMap) -> Result<IpAddr, Failure> {
        verifier().check(headers, TARGET, at(SIGNED_AT))
    }

    #[test]
    fn signature_when_valid_then_client_address_is_returned_in_every_version() {
        for (version, sign) in (1..).zip(SIGNATURES) {
            let headers = headers(&format!("{version}, {REST}"), sign);
            assert_eq!(check(&headers), Ok("2001:db8::7".parse().unwrap()), "version {version}");
        }
        let long = Verifier::new(&keys("n", &"k".repeat(100)), Arc::default());
        let data = "5, 192.0.2.1, 198.51.100.7, 1700000000, 1.2, n";
        let headers = headers(data, "PMmU+vCKzc4hOb7M27SI2qtBjd8zeocVjfL5gtv7x/A=");
        assert_eq!(long.check(&headers, "/", at(SIGNED_AT)), Ok("198.51.100.7".parse().unwrap()));
    }

    #[test]
    fn signature_when_any_signed_part_differs_then_fails() {
        for (version, sign) in (1..).zip(SIGNATURES) {
            let data = format!("{version}, {REST}");
            for other in [
                data.replace("2001:db8::7", "2001:db8::8"),
                data.replace("192.0.2.1", "192.0.2.2"),
                data.replace("1700000000", "1700000001"),
                data.replace("13459971", "13459972"),
                data.replace(", ", ","),
            ] {
                assert_eq!(check(&headers(&other, sign)), Err(Failure::G2oSignature), "{other}");
            }
            for target in ["/shop/caf%c3%a9?a=1&b=%2F", "/shop/caf%C3%A9", "/shop/caf%C3%A9?a=1&b=%2F&c", ""] {
                let found = verifier().check(&headers(&data, sign), target, at(SIGNED_AT));
                assert_eq!(found, Err(Failure::G2oSignature), "{target}");
            }
            let others = Verifier::new(&keys("117542", "another key"), Arc::default());
            assert_eq!(others.check(&headers(&data, sign), TARGET, at(SIGNED_AT)), Err(Failure::G2oSignature));
            for other in SIGNATURES.into_iter().filter(|&other| other != sign) {
                assert_eq!(check(&headers(&data, other)), Err(Failure::G2oSignature), "{other} for version {version}");
            }
            // The first 8 characters of the signature are valid base64, but only a part of the signature.
            assert_eq!(check(&headers(&data, &sign[..8])), Err(Failure::G2oSignature));
        }
    }

    #[test]
    fn signature_when_nonce_or_version_is_unknown_then_failure_is_g2o_key() {
        for data in [
            "5, 192.0.2.1, 2001:db8::7, 1700000000, 1.2, 117543".to_owned(),
            format!("6, {REST}"),
            format!("0, {REST}"),
            format!("255, {REST}"),
        ] {
            assert_eq!(check(&signed(&data)), Err(Failure::G2oKey), "{data}");
        }
        let only_five = G2oKeys { versions: vec![5], ..keys("117542", KEY) };
        let only_five = Verifier::new(&only_five, Arc::default());
        for (version, sign) in (1..=4).zip(SIGNATURES) {
            let headers = headers(&format!("{version}, {REST}"), sign);
            assert_eq!(only_five.check(&headers, TARGET, at(SIGNED_AT)), Err(Failure::G2oKey), "version {version}");
        }
        assert!(only_five.check(&headers(&format!("5, {REST}"), SIGNATURES[4]), TARGET, at(SIGNED_AT)).is_ok());
    }

    #[test]
    fn g2o_fields_when_invalid_missing_or_repeated_then_failure_is_no_g2o() {
        let good = format!("5, {REST}");
        assert!(check(&signed(&good)).is_ok());
        for data in [
            "",
            ",,,,,",
            "5",
            "5, 192.0.2.1, 2001:db8::7, 1700000000, 1.2",
            "5, 192.0.2.1, 2001:db8::7, 1700000000, 1.2, 117542, more",
            "5, 192.0.2.1, 2001:db8::7, 1700000000, 1.2, ",
            "5, 192.0.2.1, 2001:db8::7, 1700000000, , 117542",
            "5, , 2001:db8::7, 1700000000, 1.2, 117542",
            "five, 192.0.2.1, 2001:db8::7, 1700000000, 1.2, 117542",
            "-5, 192.0.2.1, 2001:db8::7, 1700000000, 1.2, 117542",
            "+5, 192.0.2.1, 2001:db8::7, 1700000000, 1.2, 117542",
            "256, 192.0.2.1, 2001:db8::7, 1700000000, 1.2, 117542",
            "5, 192.0.2.1, no-address, 1700000000, 1.2, 117542",
            "5, 192.0.2.1, 192.0.2.7:80, 1700000000, 1.2, 117542",
            "5, 192.0.2.1, 192.0.2.7/32, 1700000000, 1.2, 117542",
            "5, 192.0.2.1, 2001:db8::7, +1700000000, 1.2, 117542",
            "5, 192.0.2.1, 2001:db8::7, 1700000000.0, 1.2, 117542",
            "5, 192.0.2.1, 2001:db8::7, 0x6553f100, 1.2, 117542",
            "5, 192.0.2.1, 2001:db8::7, 99999999999999999999, 1.2, 117542",
        ] {
            assert_eq!(check(&signed(data)), Err(Failure::NoG2o), "{data}");
        }
        let long = format!("5, 192.0.2.1, 2001:db8::7, 1700000000, {}, 117542", "1".repeat(MOST_DATA_BYTES));
        assert_eq!(check(&signed(&long)), Err(Failure::NoG2o));
        for sign in ["", "=", "not base64!", "oOUyR6K1hS9XxxbxHwAaFF8nblYT5e9t5IvsTkiqyv8", &"A".repeat(68)] {
            assert_eq!(check(&headers(&good, sign)), Err(Failure::NoG2o), "{sign}");
        }
        for name in [&X_AKAMAI_G2O_AUTH_DATA, &X_AKAMAI_G2O_AUTH_SIGN] {
            let mut missing = signed(&good);
            let value = missing.remove(name).unwrap();
            assert_eq!(check(&missing), Err(Failure::NoG2o));
            assert!(has_fields(&missing));
            missing.append(name, value.clone());
            missing.append(name, value);
            assert_eq!(check(&missing), Err(Failure::NoG2o));
        }
        assert!(!has_fields(&HeaderMap::new()));
    }

    #[test]
    fn client_address_when_ipv4_mapped_then_returned_as_ipv4() {
        let data = "5, 192.0.2.1, ::ffff:192.0.2.7, 1700000000, 1.2, 117542";
        assert_eq!(check(&signed(data)), Ok("192.0.2.7".parse().unwrap()));
    }

    #[test]
    fn signature_when_time_is_outside_the_window_then_fails() {
        let headers = signed(&format!("5, {REST}"));
        for (now, holds) in [
            (SIGNED_AT - 31, false),
            (SIGNED_AT - 30, true),
            (SIGNED_AT, true),
            (SIGNED_AT + 30, true),
            (SIGNED_AT + 31, false),
            (0, false),
        ] {
            let found = verifier().check(&headers, TARGET, at(now));
            assert_eq!(found.is_ok(), holds, "{now}");
            assert!(holds || found == Err(Failure::G2oTime));
        }
        let almost = at(SIGNED_AT + 31) - Duration::from_nanos(1);
        assert!(verifier().check(&headers, TARGET, almost).is_ok(), "times must be compared in whole seconds");
        let before_all = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(verifier().check(&headers, TARGET, before_all), Err(Failure::G2oTime));
        let end_of_time = format!("5, 192.0.2.1, 2001:db8::7, {}, 1.2, 117542", u64::MAX);
        assert_eq!(check(&signed(&end_of_time)), Err(Failure::G2oTime));
    }

    #[test]
    fn signature_when_sent_again_then_rejected_at_every_clock_time() {
        let verifier = verifier();
        let headers = signed(&format!("5, {REST}"));
        // A check that fails does not use up the signature.
        assert_eq!(verifier.check(&headers, TARGET, at(SIGNED_AT - 40)), Err(Failure::G2oTime));
        assert_eq!(verifier.check(&headers, "/elsewhere", at(SIGNED_AT)), Err(Failure::G2oSignature));
        assert!(verifier.check(&headers, TARGET, at(SIGNED_AT)).is_ok());
        for now in [SIGNED_AT, SIGNED_AT + 30, SIGNED_AT - 30, SIGNED_AT + 1] {
            assert_eq!(verifier.check(&headers, TARGET, at(now)), Err(Failure::G2oReplay), "{now}");
        }
        // Later signatures remove this signature from the store. The signature is still rejected, even if the clock is
        // set back, because the span of the signature is too old.
        for later in [60, 120, 180, 240] {
            let time = SIGNED_AT + later;
            let data = format!("5, 192.0.2.1, 2001:db8::7, {time}, 1.2, 117542");
            assert!(verifier.check(&signed(&data), TARGET, at(time)).is_ok(), "{later}");
        }
        assert_eq!(verifier.check(&headers, TARGET, at(SIGNED_AT)), Err(Failure::G2oTime));
        let another = signed("5, 192.0.2.1, 2001:db8::7, 1700000240, 1.3, 117542");
        assert!(verifier.check(&another, TARGET, at(SIGNED_AT + 240)).is_ok());
    }

    #[test]
    fn replay_when_store_is_shared_then_detected_by_every_verifier() {
        let replays = Arc::new(Replays::new());
        let before = Verifier::new(&keys("117542", KEY), Arc::clone(&replays));
        let reloaded = Verifier::new(&keys("117542", KEY), replays);
        let headers = signed(&format!("5, {REST}"));
        assert!(before.check(&headers, TARGET, at(SIGNED_AT)).is_ok());
        assert_eq!(reloaded.check(&headers, TARGET, at(SIGNED_AT)), Err(Failure::G2oReplay));
    }

    #[test]
    fn store_when_full_then_rejects_new_signatures_of_the_same_span() {
        let replays = Replays::new();
        let signature = |number: u8| [number; 16];
        let start = 10 * SPAN_SECONDS;
        for number in 0..4 {
            assert_eq!(replays.admit_of(4, signature(number), start), Ok(()));
        }
        assert_eq!(replays.admit_of(4, signature(4), start), Err(Failure::G2oFull));
        assert_eq!(replays.admit_of(4, signature(0), start), Err(Failure::G2oReplay));
        // The signatures of the next span are stored in the other set, so no signature of this span is removed.
        assert_eq!(replays.admit_of(4, signature(4), start + SPAN_SECONDS), Ok(()));
        assert_eq!(replays.admit_of(4, signature(3), start + SPAN_SECONDS - 1), Err(Failure::G2oReplay));
        assert_eq!(replays.admit_of(4, signature(4), start + 2 * SPAN_SECONDS), Ok(()));
        assert_eq!(replays.admit_of(4, signature(9), start), Err(Failure::G2oTime));
        assert_eq!(replays.admit_of(4, signature(4), start + SPAN_SECONDS), Err(Failure::G2oReplay));
    }

    #[test]
    fn verifier_and_keys_when_debug_formatted_then_keys_are_hidden() {
        let shown = format!("{:?} {:?}", verifier(), keys("117542", KEY));
        assert!(shown.contains("117542") && !shown.contains(KEY), "{shown}");
    }

    proptest! {
        #[test]
        fn g2o_fields_when_bytes_are_arbitrary_then_check_fails_without_panic(
            data in prop::collection::vec(any::<u8>(), 0..200),
            sign in "[A-Za-z0-9+/=]{0,70}",
        ) {
            let _ = Data::parse(&data);
            if let (Ok(data), Ok(sign)) = (HeaderValue::from_bytes(&data), HeaderValue::from_str(&sign)) {
                let (name, name_of_sign) = (X_AKAMAI_G2O_AUTH_DATA.clone(), X_AKAMAI_G2O_AUTH_SIGN.clone());
                let headers = HeaderMap::from_iter([(name, data), (name_of_sign, sign)]);
                prop_assert!(check(&headers).is_err());
            }
        }

        #[test]
        fn signature_when_made_without_the_key_then_fails(
            sign in any::<[u8; 32]>(),
            length in 0_usize..=32,
            version in 1_u8..=5,
        ) {
            let headers = headers(&format!("{version}, {REST}"), &STANDARD.encode(&sign[..length]));
            prop_assert!(check(&headers).is_err());
        }

        #[test]
        fn signature_when_signing_times_have_any_order_then_admitted_at_most_once(
            steps in prop::collection::vec((0_u8..6, 0_u64..400), 1..200),
        ) {
            let replays = Replays::new();
            let mut admitted = HashSet::new();
            for (number, time) in steps {
                // The signature contains the time, so one number with two times makes two signatures.
                let mut signature = [number; 16];
                signature[..8].copy_from_slice(&time.to_be_bytes());
                if replays.admit(signature, time).is_ok() {
                    prop_assert!(admitted.insert(signature), "{} at {}", number, time);
                }
            }
        }
    }
}
