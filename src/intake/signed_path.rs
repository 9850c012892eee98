//! The signed paths that `edgeshim smoke` requests through a CDN. The responses of edgeshim report what arrived.
//!
//! A path is `/.edgeshim/smoke/TASK/TIME/NONCE/MAC`. TIME is in seconds since 1970. NONCE makes each path unique, so
//! that no cache has a response to the path yet. MAC is the HMAC-SHA256 of the path before `/MAC`, in hexadecimal
//! digits. Its key is `smoke.token`, so the token itself is never sent. Everything is in the path, because a CDN can
//! remove a query or a header field.
//!
//! The response is a report ([`super::echo_report`]) that is signed with the same token and NONCE. So an edge can
//! neither forge a report nor send the report of one request as the response to another request.
//!
//! edgeshim stores no used paths. A path is valid for [`WINDOW_SECONDS`] before and after its TIME. Within this time,
//! anybody who sees a path can send the path again. The response then shows only how that new request arrived.

use std::fmt;
use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac};
use sha2::Sha256;

use crate::wire::decimal;
use crate::wire::secret::Secret;

/// The part that all paths begin with.
pub(crate) const PREFIX: &str = "/.edgeshim/smoke/";
/// The largest accepted difference between TIME and this host's clock, in seconds. TIME can be before or after the
/// clock.
pub(crate) const WINDOW_SECONDS: u64 = 60;
/// The number of seconds after TIME in which the task `error` leads to a 503. After that, the task leads to a 200.
pub(crate) const ERROR_SECONDS: u64 = 2;
/// The longest lifetime that the task `cache` can request, in seconds.
pub(crate) const MOST_CACHE_SECONDS: u64 = 60;
/// The allowed lengths of NONCE, in characters.
const NONCE_LENGTHS: std::ops::RangeInclusive<usize> = 16..=64;

/// The kind of response to a signed path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// A 200 that no cache is allowed to store.
    Echo,
    /// A 503 for [`ERROR_SECONDS`], then a 200. No cache is allowed to store either response.
    Error,
    /// A 200 with a cookie, with the Cache-Control that the guard for cookies writes.
    Cookie,
    /// A 200 that caches may store for this number of seconds.
    Cache(u64),
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Echo => f.write_str("echo"),
            Self::Error => f.write_str("error"),
            Self::Cookie => f.write_str("cookie"),
            Self::Cache(seconds) => write!(f, "cache-{seconds}"),
        }
    }
}

impl Task {
    fn read(text: &str) -> Option<Self> {
        match text {
            "echo" => Some(Self::Echo),
            "error" => Some(Self::Error),
            "cookie" => Some(Self::Cookie),
            _ => {
                let seconds = decimal::read(text.strip_prefix("cache-")?.as_bytes())?;
                (seconds <= MOST_CACHE_SECONDS).then_some(Self::Cache(seconds))
            }
        }
    }
}

/// The parts of a valid path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signed {
    pub task: Task,
    /// The time of the signature, in seconds since 1970.
    pub signed_at_seconds: u64,
}

/// Returns the signed path for a task.
pub(crate) fn sign(token: &Secret, task: Task, now_seconds: u64, nonce: &str) -> String {
    let mut path = format!("{PREFIX}{task}/{now_seconds}/{nonce}");
    let mac = keyed(token).chain_update(&path).finalize().into_bytes();
    path.push('/');
    push_hex(&mut path, &mac);
    path
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
}

/// Returns the parts of a path if its MAC is right, its parts are valid, and its time is inside the window. The
/// comparison of the MAC takes constant time.
pub(crate) fn verify(token: &Secret, path: &str, now_seconds: u64) -> Option<Signed> {
    let (signed, mac) = path.rsplit_once('/')?;
    let mut parts = signed.strip_prefix(PREFIX)?.split('/');
    let (task, time, nonce) = (parts.next()?, parts.next()?, parts.next()?);
    let is_nonce = NONCE_LENGTHS.contains(&nonce.len()) && nonce.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if parts.next().is_some() || !is_nonce {
        return None;
    }
    keyed(token).chain_update(signed).verify_slice(&hex(mac)?).ok()?;
    let signed_at_seconds = decimal::read(time.as_bytes())?;
    let task = Task::read(task)?;
    (signed_at_seconds.abs_diff(now_seconds) <= WINDOW_SECONDS).then_some(Signed { task, signed_at_seconds })
}

/// Returns the NONCE of a signed path. Does not check the path.
pub(crate) fn nonce(path: &str) -> &str {
    path.rsplit('/').nth(1).unwrap_or_default()
}

/// Returns the MAC of a report that responds to the path with this NONCE, in hexadecimal digits. The MAC of a path
/// covers a text that begins with `/`, so no MAC of a path is valid for a report.
pub(super) fn report_mac(token: &Secret, nonce: &str, report: &[u8]) -> String {
    let mac = keyed(token).chain_update("report").chain_update(nonce).chain_update(report).finalize().into_bytes();
    let mut text = String::new();
    push_hex(&mut text, &mac);
    text
}

/// Returns whether the MAC of a report is right. The comparison takes constant time.
pub(super) fn is_report_mac(token: &Secret, nonce: &str, report: &[u8], mac: &str) -> bool {
    let keyed = keyed(token).chain_update("report").chain_update(nonce).chain_update(report);
    hex(mac).is_some_and(|mac| keyed.verify_slice(&mac).is_ok())
}

fn keyed(token: &Secret) -> Hmac<Sha256> {
    Hmac::new_from_slice(token.expose().as_bytes()).expect("HMAC accepts keys of any length")
}

/// Reads 64 hexadecimal digits in lower case.
fn hex(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_790_000_000;
    const NONCE: &str = "0123456789abcdef";

    fn token() -> Secret {
        Secret::new("a-token-for-this-test")
    }

    #[test]
    fn path_when_signed_with_the_token_then_valid_only_inside_the_window() {
        for task in [Task::Echo, Task::Error, Task::Cookie, Task::Cache(3)] {
            let path = sign(&token(), task, NOW, NONCE);
            for now in [NOW - WINDOW_SECONDS, NOW, NOW + WINDOW_SECONDS] {
                assert_eq!(verify(&token(), &path, now), Some(Signed { task, signed_at_seconds: NOW }), "{path}");
            }
            for now in [NOW - WINDOW_SECONDS - 1, NOW + WINDOW_SECONDS + 1, 0, u64::MAX] {
                assert_eq!(verify(&token(), &path, now), None, "{path} at {now}");
            }
        }
    }

    #[test]
    fn mac_when_written_then_equals_the_mac_that_another_program_computed() {
        // printf '%s' '/.edgeshim/smoke/echo/1790000000/0123456789abcdef' |
        //   openssl dgst -sha256 -hmac a-token-for-this-test
        let path = sign(&token(), Task::Echo, NOW, NONCE);
        assert_eq!(
            path,
            "/.edgeshim/smoke/echo/1790000000/0123456789abcdef/\
             c0f7dcc5ea01fbe75890f2007c943db03198f8596126349cf5d6d2405cd4d2b5"
        );
    }

    #[test]
    fn path_when_any_part_differs_then_invalid() {
        let path = sign(&token(), Task::Echo, NOW, NONCE);
        assert_eq!(verify(&Secret::new("another-token-for-this"), &path, NOW), None);
        for at in 0..path.len() {
            let mut other = path.clone().into_bytes();
            other[at] = if other[at] == b'0' { b'1' } else { b'0' };
            let other = String::from_utf8(other).unwrap();
            assert_eq!(verify(&token(), &other, NOW), None, "{other}");
        }
        for bad in
            ["", "/", PREFIX, "/.edgeshim/smoke", &path[..path.len() - 1], &format!("{path}0"), &format!("{path}/")]
        {
            assert_eq!(verify(&token(), bad, NOW), None, "{bad}");
        }
        assert_eq!(verify(&token(), &path.to_ascii_uppercase(), NOW), None);
    }

    proptest::proptest! {
        #[test]
        fn path_when_arbitrary_then_invalid(path in "(/\\.edgeshim/smoke/)?[ -~\u{80}-\u{2ff}]{0,120}", now: u64) {
            proptest::prop_assert_eq!(verify(&token(), &path, now), None);
        }
    }

    #[test]
    fn path_when_signed_but_with_an_invalid_task_or_nonce_then_invalid() {
        for (task, nonce) in [(Task::Cache(61), NONCE), (Task::Echo, "short"), (Task::Echo, "0123456789abcde/f")] {
            let path = sign(&token(), task, NOW, nonce);
            assert_eq!(verify(&token(), &path, NOW), None, "{path}");
        }
    }
}
