//! The report about a request to a signed path. edgeshim writes the report, and `edgeshim smoke` reads the report.
//!
//! A report is a JSON object. Its last key is `mac`, an HMAC-SHA256 that is made with the key `smoke.token`. The MAC
//! covers the text `report`, the NONCE of the signed path, and the bytes of the body before `,"mac"`. So a report of
//! a server without this key, of another request, or with a changed value is not valid.

use serde::{Deserialize, Serialize};

use super::signed_path::{is_report_mac, report_mac};
use crate::wire::secret::Secret;

/// The longest report that is read, in bytes. edgeshim writes less than 10 KiB.
const MOST_BYTES: usize = 16 * 1024;
/// The text between the signed part of a report and its MAC, and the text after the MAC.
const BEFORE_MAC: &str = ",\"mac\":\"";
const AFTER_MAC: &str = "\"}";

/// A report. No value in it can be a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct EchoReport {
    /// The version of edgeshim.
    pub edgeshim: String,
    /// The NONCE of the signed path.
    pub nonce: String,
    pub task: String,
    /// An id that differs for each response.
    pub id: String,
    /// The label of the provider.
    pub provider: String,
    /// The text of the request's [`Proof`](crate::cdn::proof::Proof).
    pub proof: String,
    /// The provider's point of presence. Empty if it is not known.
    pub pop: String,
    /// The address of the client, and whether a proven CDN reported it.
    pub client: String,
    pub client_proven: bool,
    /// The address of the other end of the connection.
    pub peer: String,
    /// The version of HTTP.
    pub version: String,
    pub method: String,
    /// The next eight texts are values of header fields of the request. Long values are truncated.
    pub host: String,
    pub via: String,
    pub cdn_loop: String,
    pub x_forwarded_for: String,
    pub x_forwarded_proto: String,
    pub forwarded: String,
    pub accept_encoding: String,
    pub request_id: String,
    /// The clock of edgeshim's host, in milliseconds since 1970.
    pub now_ms: u64,
}

impl EchoReport {
    /// Writes the report as JSON with its MAC.
    pub(crate) fn write(&self, token: &Secret) -> Vec<u8> {
        // A struct of texts and numbers can always be written.
        let mut json = serde_json::to_string(self).unwrap_or_default();
        json.truncate(json.trim_end_matches('}').len());
        let mac = report_mac(token, &self.nonce, json.as_bytes());
        (json + BEFORE_MAC + &mac + AFTER_MAC + "\n").into_bytes()
    }

    /// Reads the report that responds to the path with this NONCE. Returns `None` if a body is no report, or if the
    /// report was made with another token, for another path, or was changed.
    pub(crate) fn read(body: &[u8], token: &Secret, nonce: &str) -> Option<Self> {
        let text = std::str::from_utf8(body.get(..body.len().min(MOST_BYTES))?).ok()?.trim_ascii();
        let (signed, mac) = text.strip_suffix(AFTER_MAC)?.rsplit_once(BEFORE_MAC)?;
        if !is_report_mac(token, nonce, signed.as_bytes(), mac) {
            return None;
        }
        let report: Self = serde_json::from_str(text).ok()?;
        (report.nonce == nonce && !report.id.is_empty()).then_some(report)
    }

    /// Returns whether a body looks like a report, whatever its MAC is.
    pub(crate) fn is_similar(body: &[u8]) -> bool {
        let body = body.get(..body.len().min(MOST_BYTES)).unwrap_or_default();
        serde_json::from_slice::<Self>(body).is_ok_and(|report| !report.edgeshim.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: &str = "0123456789abcdef";

    fn token() -> Secret {
        Secret::new("a-token-for-this-test")
    }

    fn report() -> EchoReport {
        EchoReport {
            edgeshim: "0.1.0".to_owned(),
            nonce: NONCE.to_owned(),
            id: "1".to_owned(),
            via: "1.1 \"x\"\u{1b},\"mac\":\"}}".to_owned(),
            now_ms: 7,
            ..EchoReport::default()
        }
    }

    #[test]
    fn report_when_written_and_read_then_is_unchanged() {
        let body = report().write(&token());
        assert!(serde_json::from_slice::<serde_json::Value>(&body).is_ok_and(|json| json["mac"].is_string()));
        assert_eq!(EchoReport::read(&body, &token(), NONCE), Some(report()));
        for other in ["", "{}", "<html>", "[]", "{\"id\":7}", "{\"edgeshim\":\"\",\"id\":\"1\"}", ",\"mac\":\"\"}"] {
            assert_eq!(EchoReport::read(other.as_bytes(), &token(), NONCE), None, "{other}");
            assert!(!EchoReport::is_similar(other.as_bytes()), "{other}");
        }
        assert_eq!(EchoReport::read(&vec![b' '; 2 * MOST_BYTES], &token(), NONCE), None);
    }

    #[test]
    fn report_when_changed_unsigned_or_of_another_request_then_rejected() {
        let body = report().write(&token());
        assert_eq!(EchoReport::read(&body, &Secret::new("another-token-for-this"), NONCE), None);
        assert_eq!(EchoReport::read(&body, &token(), "0123456789abcdee"), None);
        let changed = String::from_utf8(body.clone()).unwrap().replace("\"now_ms\":7", "\"now_ms\":8");
        assert_eq!(EchoReport::read(changed.as_bytes(), &token(), NONCE), None);
        let unsigned = serde_json::to_vec(&report()).unwrap();
        assert_eq!(EchoReport::read(&unsigned, &token(), NONCE), None);
        assert!(EchoReport::is_similar(&unsigned) && EchoReport::is_similar(&body));
        // The MAC covers the nonce of the path and not only the nonce in the report.
        let other = EchoReport { nonce: "fedcba9876543210".to_owned(), ..report() };
        assert_eq!(EchoReport::read(&other.write(&token()), &token(), NONCE), None);
    }
}
