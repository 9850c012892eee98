//! The report about a request to a signed path. The shim writes the report, and `edgeshim smoke` reads the report.

use serde::{Deserialize, Serialize};

/// The longest report that is read, in bytes. The shim writes at most about 4 KiB.
const MOST_BYTES: usize = 16 * 1024;

/// A report. No value in it can be a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct EchoReport {
    /// The version of the shim.
    pub edgeshim: String,
    pub task: String,
    /// An id that differs for each response.
    pub id: String,
    /// The label of the provider.
    pub provider: String,
    /// The proof that succeeded, or why a proof failed.
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
    /// Header fields of the request. Each value is cut.
    pub host: String,
    pub via: String,
    pub cdn_loop: String,
    pub x_forwarded_for: String,
    pub x_forwarded_proto: String,
    pub forwarded: String,
    pub accept_encoding: String,
    pub request_id: String,
    /// The clock of the shim, in milliseconds since 1970.
    pub now_ms: u64,
}

impl EchoReport {
    /// Writes the report as JSON.
    pub(crate) fn write(&self) -> Vec<u8> {
        // A struct of texts and numbers can always be written.
        let mut json = serde_json::to_vec(self).unwrap_or_default();
        json.push(b'\n');
        json
    }

    /// Reads a report. Returns `None` if a body is no report.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let report: Self = serde_json::from_slice(body.get(..body.len().min(MOST_BYTES))?).ok()?;
        // JSON of another server has none of the keys.
        (!report.edgeshim.is_empty() && !report.id.is_empty()).then_some(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_when_written_and_read_then_is_unchanged() {
        let report = EchoReport {
            edgeshim: "0.1.0".to_owned(),
            id: "1".to_owned(),
            via: "1.1 \"x\"\u{1b}".to_owned(),
            now_ms: 7,
            ..EchoReport::default()
        };
        assert_eq!(EchoReport::read(&report.write()), Some(report));
        for other in ["", "{}", "<html>", "[]", "{\"id\":7}", "{\"edgeshim\":\"\",\"id\":\"1\"}"] {
            assert_eq!(EchoReport::read(other.as_bytes()), None, "{other}");
        }
        assert_eq!(EchoReport::read(&vec![b' '; 2 * MOST_BYTES]), None);
    }
}
