//! A response that was read, and the errors in place of a response.

use std::io::Read as _;
use std::time::Duration;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::{HeaderMap, HeaderName, StatusCode};

use super::results::Verdict;
use crate::wire::cache_control::CacheControl;
use crate::wire::etag::EntityTag;
use crate::wire::json::is_active;
use crate::wire::names::{CACHE_CONTROL, CONTENT_ENCODING, ETAG};
use crate::wire::values::cut;

/// The largest number of bytes of a body that are stored.
pub(crate) const MOST_BODY_BYTES: usize = 8 * 1024 * 1024;
/// The largest number of bytes to which a body is inflated.
const MOST_INFLATED_BYTES: u64 = 4 * MOST_BODY_BYTES as u64;
/// The length to which a text from the network is cut before it is shown, in bytes.
const MOST_SHOWN_BYTES: usize = 160;

/// A response, as it was read.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub ending: Ending,
    /// The time from sending the request to the arrival of the response head.
    pub ttfb: Duration,
}

/// How a body ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The body is complete.
    Whole,
    /// The body is longer than [`MOST_BODY_BYTES`], so the rest was not stored.
    TooLarge,
    /// The body broke off. The text is the error.
    Cut(String),
    /// The body did not end in time.
    Late,
}

/// The result of a request.
pub(crate) type Outcome = Result<Recorded, Trouble>;

/// Why there is no response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The host name cannot be looked up.
    Name(String),
    /// The connection could not be made.
    Connect(String),
    /// The TLS handshake failed.
    Tls(String),
    /// The server does not use TLS.
    NoTls,
    /// The connection was closed without a response.
    Closed(String),
    /// The request is not valid, so it was not sent.
    Unsendable(String),
    /// What arrived is not HTTP/1.1.
    NotHttp(String),
    /// The response head is too large.
    HeadTooLarge,
    /// The named step took too long.
    Late(&'static str),
}

impl Trouble {
    /// Returns what was seen.
    pub(crate) fn seen(&self) -> String {
        match self {
            Self::Name(error) => format!("the name cannot be looked up: {}", shown(error.as_bytes())),
            Self::Connect(error) => format!("no connection: {}", shown(error.as_bytes())),
            Self::Tls(error) => format!("the TLS handshake failed: {}", shown(error.as_bytes())),
            Self::NoTls => "the TLS handshake failed: the server responds without TLS".to_owned(),
            Self::Closed(error) => format!("the connection ended without a response: {}", shown(error.as_bytes())),
            Self::Unsendable(error) => format!("the request cannot be sent: {}", shown(error.as_bytes())),
            Self::NotHttp(error) => format!("the response is not valid HTTP/1.1: {}", shown(error.as_bytes())),
            Self::HeadTooLarge => "the response head is larger than 128 KiB or has more than 256 fields".to_owned(),
            Self::Late(step) => format!("{step} took longer than --timeout"),
        }
    }

    /// Returns what to change.
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::Name(_) => "correct the host name, or name the edge with --connect-to HOST:PORT",
            Self::Connect(_) => "check the address and port of the edge, and whether a firewall is in the way",
            Self::Tls(_) => {
                "install a certificate for this host at the CDN; for an authority of your own, use --ca FILE; if the \
                 port has no TLS, write http:// in the URL"
            }
            Self::NoTls => "write http:// in the URL, or name the port with TLS (usually 443) in --connect-to",
            Self::Closed(_) => "see the log of the edge for the reason; if the port expects TLS, write https://",
            Self::Unsendable(_) => "correct the URL",
            Self::NotHttp(_) => "check that the port is that of an HTTP server; if it expects TLS, write https://",
            Self::HeadTooLarge => "remove header fields at the CDN or at the origin",
            Self::Late(_) => "find out what is slow at the edge or at the origin, or set a longer --timeout",
        }
    }

    /// Returns whether TLS is the cause.
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_) | Self::NoTls)
    }

    /// Returns the result of a check whose request got no response.
    pub(crate) fn verdict(&self) -> Verdict {
        Verdict::fail(self.seen(), "a response", self.remedy())
    }

    /// Returns the result of a check whose request got no response, although an earlier request to the same server got
    /// a response.
    pub(crate) fn later_verdict(&self) -> Verdict {
        let remedy = match self {
            Self::Late(_) | Self::HeadTooLarge | Self::Unsendable(_) => self.remedy(),
            _ => "find the reason in the log of the edge: an earlier request of the same kind got a response",
        };
        Verdict::fail(self.seen(), "a response, as for the first request", remedy)
    }
}

impl Recorded {
    /// Returns the value of a field as text. Several lines are joined with commas. The text is empty if the field is
    /// absent.
    pub(crate) fn text(&self, name: &HeaderName) -> String {
        let lines: Vec<_> = self.headers.get_all(name).iter().map(|line| shown(line.as_bytes())).collect();
        shown(lines.join(", ").as_bytes())
    }

    pub(crate) fn has(&self, name: &HeaderName) -> bool {
        self.headers.contains_key(name)
    }

    pub(crate) fn cache_control(&self) -> CacheControl<'_> {
        CacheControl::parse(self.headers.get_all(&CACHE_CONTROL).iter().map(http::HeaderValue::as_bytes))
    }

    /// Returns the coding of the body. `None`: the body has no coding.
    pub(crate) fn coding(&self) -> Option<String> {
        let coding = self.text(&CONTENT_ENCODING).to_ascii_lowercase();
        (!coding.is_empty() && coding != "identity").then_some(coding)
    }

    /// Returns the body without its coding, or why this is not possible.
    pub(crate) fn decoded(&self) -> Result<Bytes, String> {
        match &self.ending {
            Ending::Whole => {}
            Ending::TooLarge => return Err(TOO_LARGE.to_owned()),
            Ending::Cut(why) => return Err(format!("the body broke off after {} bytes: {why}", self.body.len())),
            Ending::Late => return Err(format!("the body did not end in time, after {} bytes", self.body.len())),
        }
        match self.coding().as_deref() {
            None => Ok(self.body.clone()),
            Some("gzip" | "x-gzip") => {
                let mut plain = Vec::new();
                let decoder = MultiGzDecoder::new(self.body.as_ref());
                match decoder.take(MOST_INFLATED_BYTES + 1).read_to_end(&mut plain) {
                    Err(error) => Err(format!("the gzip of the body is damaged: {error}")),
                    Ok(_) if plain.len() as u64 > MOST_INFLATED_BYTES => Err(TOO_LARGE.to_owned()),
                    Ok(_) => Ok(plain.into()),
                }
            }
            Some(coding) => Err(format!("the body has the coding {coding}, which the request does not accept")),
        }
    }

    /// Returns whether the body is too large to be compared.
    pub(crate) fn is_too_large(&self) -> bool {
        self.ending == Ending::TooLarge
    }
}

/// The error of [`Recorded::decoded`] if the body is too large to be compared.
pub(crate) const TOO_LARGE: &str = "the body is too large to be compared";

/// Returns whether two responses have the same version of the content, as far as their entity tags show. If a response
/// has no valid tag, the tags show no difference.
pub(crate) fn is_same_version(one: &Recorded, other: &Recorded) -> bool {
    let tag = |recorded: &Recorded| {
        let value = recorded.headers.get(&ETAG)?;
        let tag = EntityTag::parse(value.as_bytes())?;
        // Some servers mark the tag of a compressed body with a suffix.
        let opaque = tag.opaque;
        let plain = [&b"-gzip"[..], b";gzip", b"-gz"].iter().find_map(|suffix| opaque.strip_suffix(*suffix));
        Some(plain.unwrap_or(opaque).to_vec())
    };
    match (tag(one), tag(other)) {
        (Some(one), Some(other)) => one == other,
        _ => true,
    }
}

/// Returns the name of a field as people write it, for example `Cache-Control`.
pub(crate) fn spelled(name: &HeaderName) -> String {
    if *name == ETAG {
        return "ETag".to_owned();
    }
    let word = |word: &str| {
        let (first, rest) = word.split_at_checked(1).unwrap_or((word, ""));
        first.to_ascii_uppercase() + rest
    };
    name.as_str().split('-').map(word).collect::<Vec<_>>().join("-")
}

/// Returns a text that is safe to print: cut, and with `?` in place of characters that control a terminal or an editor,
/// and of bytes that are not UTF-8.
pub(crate) fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let clean = |character: char| {
        if character.is_control() || is_active(character) || character == '\u{FFFD}' { '?' } else { character }
    };
    let short = cut(&text, MOST_SHOWN_BYTES);
    let more = if short.len() < text.len() { "…" } else { "" };
    short.chars().map(clean).chain(more.chars()).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns a complete response.
    pub(crate) fn response(status: u16, fields: &[(&str, &str)], body: &[u8]) -> Recorded {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        Recorded {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: Bytes::copy_from_slice(body),
            ending: Ending::Whole,
            ttfb: Duration::from_millis(10),
        }
    }

    pub(crate) fn gzip(body: &[u8]) -> Vec<u8> {
        use std::io::Write as _;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn text_when_it_has_control_characters_or_is_long_then_is_safe_to_print() {
        assert_eq!(shown(b"a\x1b[2J\r\nb\xff\xe2\x80\xae"), "a?[2J??b??");
        let long = shown(&[b'a'; 1000]);
        assert!(long.chars().count() <= MOST_SHOWN_BYTES + 1 && long.ends_with('…'), "{long}");
    }

    #[test]
    fn body_when_gzip_is_damaged_or_a_bomb_then_is_an_error() {
        let fields = [("Content-Encoding", "gzip")];
        let good = gzip(b"hello");
        assert_eq!(response(200, &fields, &good).decoded().unwrap(), "hello");
        assert!(response(200, &fields, &good[..good.len() - 3]).decoded().unwrap_err().contains("damaged"));
        let bomb = gzip(&vec![0; usize::try_from(MOST_INFLATED_BYTES).unwrap() + 1]);
        assert_eq!(response(200, &fields, &bomb).decoded().unwrap_err(), TOO_LARGE);
        assert!(response(200, &[("Content-Encoding", "br")], b"x").decoded().unwrap_err().contains("br"));
    }

    #[test]
    fn version_when_tags_differ_only_in_weakness_or_suffix_then_is_the_same() {
        let with = |tag| response(200, &[("ETag", tag)], b"");
        for (one, other, same) in
            [("\"a\"", "W/\"a\"", true), ("\"a-gzip\"", "\"a\"", true), ("\"a\"", "\"b\"", false), ("a", "\"b\"", true)]
        {
            assert_eq!(is_same_version(&with(one), &with(other)), same, "{one} {other}");
        }
    }
}
