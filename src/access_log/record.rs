//! The values of one access log line, before they are formatted.

use std::net::IpAddr;
use std::time::SystemTime;

use http::{HeaderValue, Method, Uri, Version};

use crate::cdn::preset::Pop;
use crate::ids::PullKind;

/// Values from the network are cut to this many bytes before they are escaped.
pub(super) const TEXT_BYTES: usize = 256;
/// The same for the request target, which is more useful when complete.
pub(super) const TARGET_BYTES: usize = 2_048;

/// All values of a line. Clones of `HeaderValue` and `Uri` only raise a reference count and labels live as long as
/// the process, so making a record copies and formats no text.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// When the request's head was complete.
    pub(crate) time: SystemTime,
    /// The request id, as the origin and the page show it.
    pub(crate) id: HeaderValue,
    /// The provider's label.
    pub(crate) provider: &'static str,
    /// The identity header as received.
    pub(crate) claimed: Option<HeaderValue>,
    /// Which proof succeeded, or why none did; "" where none is required.
    pub(crate) proof: &'static str,
    /// The provider's point of presence.
    pub(crate) pop: Pop,
    /// The kind of pull, as far as its CDN reports it.
    pub(crate) kind: PullKind,
    /// The trusted client address; none on a unix socket.
    pub(crate) client: Option<IpAddr>,
    /// X-Forwarded-For as received. It is untrusted; only the etsy format writes it.
    pub(crate) client_chain: Option<HeaderValue>,
    /// The request's method.
    pub(crate) method: Method,
    /// The Host field as received; none: the target's authority is used (HTTP/2).
    pub(crate) host: Option<HeaderValue>,
    /// The request's target; path and query are written.
    pub(crate) target: Uri,
    /// The request's HTTP version.
    pub(crate) version: Version,
    /// The class' label; none for a local endpoint, which is no pull.
    pub(crate) class: Option<&'static str>,
    /// The status sent, or 499.
    pub(crate) status: u16,
    /// Body bytes sent to the client.
    pub(crate) bytes: u64,
    /// The origin's status, where it responded.
    pub(crate) origin_status: Option<u16>,
    /// Body bytes read from the origin.
    pub(crate) origin_bytes: u64,
    /// Microseconds until the origin's response head, where one arrived.
    pub(crate) origin_us: Option<u32>,
    /// Microseconds from the request's head to the last byte sent.
    pub(crate) total_us: u64,
    /// The response's content coding, applied here or by the origin; "" for none.
    pub(crate) encoding: &'static str,
    /// The guard that changed caching; "" for none.
    pub(crate) guard: &'static str,
    /// The cause of a fault or refusal; "" for none.
    pub(crate) cause: &'static str,
    /// The whoopsie's locale; "" where no page was sent.
    pub(crate) locale: &'static str,
    /// The Referer field as received.
    pub(crate) referer: Option<HeaderValue>,
    /// The User-Agent field as received.
    pub(crate) user_agent: Option<HeaderValue>,
}

impl Record {
    /// Replaces every handle by a copy of the part that will be written, so that the record no longer keeps a
    /// connection's read buffer alive. It costs an allocation for each field, so it is for a backlog only.
    pub(super) fn detach(&mut self) {
        if self.host.is_none()
            && let Some(authority) = self.target.authority()
        {
            self.host = HeaderValue::from_str(cut_str(authority.as_str(), TEXT_BYTES)).ok();
        }
        if let Ok(copy) = Uri::try_from(cut_str(self.target(), TARGET_BYTES)) {
            self.target = copy;
        }
        let optional =
            [&mut self.claimed, &mut self.client_chain, &mut self.host, &mut self.referer, &mut self.user_agent];
        for value in optional.into_iter().flatten().chain([&mut self.id]) {
            // One byte more than is written, so that the formatter can still detect that the last address of the chain
            // may be cut.
            let bytes = value.as_bytes();
            if let Ok(copy) = HeaderValue::from_bytes(bytes.get(..=TEXT_BYTES).unwrap_or(bytes)) {
                *value = copy;
            }
        }
    }

    pub(super) fn host(&self) -> &[u8] {
        match (&self.host, self.target.authority()) {
            (Some(host), _) => host.as_bytes(),
            (None, Some(authority)) => authority.as_str().as_bytes(),
            (None, None) => b"",
        }
    }

    /// Path and query; the authority where the target has neither (CONNECT).
    pub(super) fn target(&self) -> &str {
        match (self.target.path_and_query(), self.target.authority()) {
            (Some(path), _) => path.as_str(),
            (None, Some(authority)) => authority.as_str(),
            (None, None) => "",
        }
    }
}

pub(super) fn cut_str(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    /// 2026-11-22T11:09:01.042Z.
    const NOW: Duration = Duration::from_millis(1_795_345_741_042);

    pub(in super::super) fn value(text: &str) -> Option<HeaderValue> {
        HeaderValue::from_str(text).ok()
    }

    /// A pull with a complete response.
    pub(in super::super) fn record() -> Record {
        Record {
            time: UNIX_EPOCH + NOW,
            id: HeaderValue::from_static("r-1"),
            provider: "fastly",
            claimed: value("Fastly"),
            proof: "secret",
            pop: Pop::new(b"FRA"),
            kind: PullKind::Edge,
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
    fn record_when_measured_then_small() {
        assert!(size_of::<Record>() <= 600, "{}", size_of::<Record>());
    }
}
