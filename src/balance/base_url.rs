//! The URL of an HTTP API. The path of each request is appended to this URL.

use std::fmt;

use crate::keys::urls::{host_and_port, strip_scheme};
use crate::keys::{Checked, Text};

/// A URL without query and fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BaseUrl {
    pub tls: bool,
    /// A host name or an IP address. An IPv6 address has no brackets.
    pub host: String,
    pub port: u16,
    /// The path without its final slashes. Empty, or begins with a slash.
    pub path: String,
}

pub(crate) const BASE_URL: Text<BaseUrl> =
    Text { example: "http://127.0.0.1:8081", read: |text, _| base_url(text), write: ToString::to_string };

impl BaseUrl {
    /// Returns the value of the header field Host. The usual port of the scheme is left out, as in browsers, because
    /// services compare the value with their own names.
    pub(crate) fn host_field(&self) -> String {
        let authority = self.authority();
        let usual = if self.tls { ":443" } else { ":80" };
        authority.strip_suffix(usual).unwrap_or(&authority).to_owned()
    }

    /// Returns the host and the port.
    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.path)
    }
}

fn base_url(text: &str) -> Checked<BaseUrl> {
    const REMEDY: &str = "write http://HOST:PORT or https://HOST:PORT, for example \"http://127.0.0.1:8081\"";
    let (rest, tls) = match (strip_scheme(text, "http://"), strip_scheme(text, "https://")) {
        (Some(rest), _) => (rest, false),
        (None, Some(rest)) => (rest, true),
        (None, None) => return Err(format!("is not a URL that starts with http:// or https://; {REMEDY}")),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if authority.contains('@') {
        return Err(format!("has a user name, which is not sent; put the secret into its own key, and {REMEDY}"));
    }
    let visible = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&b));
    if text.contains(['?', '#']) || !visible(path) {
        return Err(format!("has a query, a fragment or a character that a path must not have; {REMEDY}"));
    }
    let Some((host, port)) = host_and_port(authority) else {
        return Err(format!("has no valid host and port; {REMEDY}"));
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let path = path.trim_end_matches('/').to_owned();
    Ok(BaseUrl { tls, host, port: port.unwrap_or(if tls { 443 } else { 80 }), path })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn base_url_when_valid_then_is_written_with_port_and_without_final_slash() {
        for (text, written) in [
            ("http://127.0.0.1:8081", "http://127.0.0.1:8081"),
            ("HTTPS://Dns.example/api/", "https://dns.example:443/api"),
            ("http://[::1]:1/", "http://[::1]:1"),
        ] {
            assert_eq!(base_url(text).map(|url| url.to_string()).as_deref(), Ok(written), "{text}");
        }
        for (text, host) in [("https://a:443", "a"), ("https://a:80", "a:80"), ("http://[::80]", "[::80]")] {
            assert_eq!(base_url(text).map(|url| url.host_field()).as_deref(), Ok(host), "{text}");
        }
        for bad in ["", "dns.example", "ftp://a", "http://", "http://u@h", "http://h/?a", "http://h/#a", "http://h/ x"]
        {
            assert!(base_url(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn base_url_when_text_is_arbitrary_then_read_without_panic(text in "(https?://)?.{0,40}") {
            if let Ok(url) = base_url(&text) {
                prop_assert_eq!(base_url(&url.to_string()), Ok(url));
            }
        }
    }
}
