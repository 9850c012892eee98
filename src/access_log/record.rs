//! The values of one access log line, before they are formatted.

use std::net::IpAddr;
use std::time::SystemTime;

use http::{HeaderValue, Method, Uri, Version};

use crate::cdn::preset::Pop;
use crate::ids::PullKind;
use crate::wire::values;

/// The length, in bytes, to which a value from the network is cut before it is escaped.
pub(super) const TEXT_BYTES: usize = 256;
/// The length, in bytes, to which the request target is cut. This length is larger than [`TEXT_BYTES`], because a
/// target that is cut is of little use.
pub(super) const TARGET_BYTES: usize = 2_048;

/// All values of a log line. The creation of a record copies and formats no text, because a clone of a `HeaderValue` or
/// `Uri` only increments a reference count, and labels are `'static`.
///
/// Some values are absent for a request to a local endpoint. A local endpoint is a path to which the layer `local`
/// responds, for example the path of the beacon. A request to such a path is not a pull.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// The time at which the request's head was complete.
    pub(crate) time: SystemTime,
    /// The request id. The origin and the whoopsie page get the same id.
    pub(crate) id: HeaderValue,
    /// The provider's label.
    pub(crate) provider: &'static str,
    /// The identity header as received.
    pub(crate) claimed: Option<HeaderValue>,
    /// The text of the request's [`Proof`](crate::cdn::proof::Proof). "" for a request to a local endpoint.
    pub(crate) proof: &'static str,
    /// The provider's point of presence. Empty if the request does not contain the point of presence, or if the proof
    /// failed.
    pub(crate) pop: Pop,
    /// The kind of pull. `Unknown` if the provider is unknown, or for a request to a local endpoint.
    pub(crate) kind: PullKind,
    /// The label `result` under which the pull counts in `edgeshim_revalidations_total`. "" if it does not count there.
    pub(crate) revalidated: &'static str,
    /// Why the provider pulled. `None` for a request to a local endpoint.
    pub(crate) why: Option<&'static str>,
    /// The client's address: the address that a CDN with a valid proof or a trusted proxy reported, or else the peer's
    /// address. If `server.proxy_protocol` is on, the peer's address is the address in the PROXY header.
    pub(crate) client: Option<IpAddr>,
    /// The X-Forwarded-For field as received, which is untrusted. Only the etsy format writes the addresses in it.
    pub(crate) client_chain: Option<HeaderValue>,
    /// The request's method.
    pub(crate) method: Method,
    /// The host of the request. `None` if an HTTP/1.0 request has no host.
    pub(crate) host: Option<HeaderValue>,
    /// The request's target without the parameters that contain secrets. The log line contains its path and query.
    pub(crate) target: Uri,
    /// The request's HTTP version.
    pub(crate) version: Version,
    /// The class's label. `None` for a request to a local endpoint.
    pub(crate) class: Option<&'static str>,
    /// The status sent to the client, or 499 if the client disconnected or the drain ended before the response was
    /// complete.
    pub(crate) status: u16,
    /// The number of body bytes that were sent to the client.
    pub(crate) bytes: u64,
    /// The status of the origin's response. `None` if the origin did not respond.
    pub(crate) origin_status: Option<u16>,
    /// The number of body bytes that were read from the origin.
    pub(crate) origin_bytes: u64,
    /// The microseconds from sending the request to the origin until the response head arrived. `None` if no response
    /// head arrived.
    pub(crate) origin_us: Option<u32>,
    /// The microseconds from the arrival of the request's head to the end of the response.
    pub(crate) total_us: u64,
    /// The response's content coding, applied by edgeshim or by the origin. `identity` if there is no coding, "" for a
    /// request to a local endpoint.
    pub(crate) encoding: &'static str,
    /// The first guard that applied. "" if no guard applied.
    pub(crate) guard: &'static str,
    /// The cause of a fault or of a refusal. "" if the request had neither.
    pub(crate) cause: &'static str,
    /// The locale of the whoopsie page. "" if no page was sent.
    pub(crate) locale: &'static str,
    /// The Referer field without the parameters that contain secrets.
    pub(crate) referer: Option<HeaderValue>,
    /// The User-Agent field as received.
    pub(crate) user_agent: Option<HeaderValue>,
}

impl Record {
    /// Replaces each value that shares a connection's read buffer by a copy of the part that will be written. So the
    /// record no longer keeps the read buffer in memory. Each copy costs an allocation. So this function is called only
    /// while many records wait for the writer.
    pub(super) fn detach(&mut self) {
        if let Ok(copy) = Uri::try_from(values::cut(self.target(), TARGET_BYTES)) {
            self.target = copy;
        }
        let optional =
            [&mut self.claimed, &mut self.client_chain, &mut self.host, &mut self.referer, &mut self.user_agent];
        for value in optional.into_iter().flatten().chain([&mut self.id]) {
            // The copy has one byte more than the formatter writes. So the formatter still sees that it cuts
            // `client_chain`, and leaves out the last address, which can be incomplete.
            let bytes = value.as_bytes();
            if let Ok(copy) = HeaderValue::from_bytes(bytes.get(..=TEXT_BYTES).unwrap_or(bytes)) {
                *value = copy;
            }
        }
    }

    pub(super) fn host(&self) -> &[u8] {
        self.host.as_ref().map(HeaderValue::as_bytes).unwrap_or_default()
    }

    /// Returns the path and the query of the target. The target of a CONNECT request has only an authority, so this
    /// function then returns the authority.
    pub(super) fn target(&self) -> &str {
        match (self.target.path_and_query(), self.target.authority()) {
            (Some(path), _) => path.as_str(),
            (None, Some(authority)) => authority.as_str(),
            (None, None) => "",
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    /// The time 2026-11-22T11:09:01.042Z, since 1970.
    const NOW: Duration = Duration::from_millis(1_795_345_741_042);

    pub(in super::super) fn value(text: &str) -> Option<HeaderValue> {
        HeaderValue::from_str(text).ok()
    }

    /// The record of a pull with a complete response.
    pub(in super::super) fn record() -> Record {
        Record {
            time: UNIX_EPOCH + NOW,
            id: HeaderValue::from_static("r-1"),
            provider: "fastly",
            claimed: value("Fastly"),
            proof: "secret",
            pop: Pop::new(b"FRA"),
            kind: PullKind::Edge,
            revalidated: "",
            why: None,
            client: Some(IpAddr::from([203, 0, 113, 9])),
            client_chain: value("203.0.113.9, 151.101.1.1"),
            method: Method::GET,
            host: value("img.example.com"),
            target: Uri::from_static("/a.png?v=1"),
            version: Version::HTTP_11,
            class: Some("image"),
            status: 200,
            bytes: 1234,
            origin_status: Some(200),
            origin_bytes: 4321,
            origin_us: Some(7_005),
            total_us: 12_345,
            encoding: "gzip",
            guard: "",
            cause: "",
            locale: "",
            referer: value("https://example.com/"),
            user_agent: value("curl/8"),
        }
    }

    #[test]
    fn record_when_measured_then_has_at_most_600_bytes() {
        assert!(size_of::<Record>() <= 600, "{}", size_of::<Record>());
    }
}
