//! Checks of hosts, links and paths. A check reads only the text. The host or the file need not exist.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::{Checked, Text, quote};

/// The longest path of a unix socket, in bytes. On Linux `sun_path` has 108 bytes, and the last is a zero byte.
const MAX_SOCKET_PATH_BYTES: usize = 107;
/// The longest host name (RFC 1035 §2.3.4), in bytes.
const MAX_HOST_BYTES: usize = 253;
/// The longest accepted link on a whoopsie page, and the longest accepted path of a local endpoint, in bytes. A local
/// endpoint is a path to which edgeshim responds itself, for example the path of the beacon.
const MAX_URL_BYTES: usize = 2_048;

/// A value of the Host field.
pub(crate) const HOST: Text<String> =
    Text { example: "www.example.com", read: |text, _| host(text), write: String::clone };

/// A link on a whoopsie page. An empty text is allowed.
pub(crate) const LINK: Text<String> =
    Text { example: "https://www.example.com/help", read: |text, _| link(text), write: String::clone };

/// A URL to which a path is appended. An empty text is allowed.
pub(crate) const LINK_BASE: Text<String> =
    Text { example: "//beacon.example.com", read: |text, _| link_base(text), write: String::clone };

pub(crate) fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

pub(crate) fn socket_path(path: &str, folder: &Path) -> Checked<PathBuf> {
    if path.is_empty() || path.contains(char::is_control) {
        return Err("names no unix socket; write unix:PATH, for example \"unix:/run/edgeshim.sock\"".to_owned());
    }
    let path = folder.join(path);
    let length = path.as_os_str().as_bytes().len();
    if length > MAX_SOCKET_PATH_BYTES {
        let message =
            format!("is a socket path of {length} bytes, and the system allows at most {MAX_SOCKET_PATH_BYTES}");
        return Err(format!("{message}; write a shorter path, for example \"unix:/run/edgeshim.sock\""));
    }
    Ok(path)
}

/// Checks a host name, an IPv4 address or an IPv6 address in brackets. Returns the text in lower case, with an IPv6
/// address in its shortest form, or `None` if the text is not valid.
pub(crate) fn host_name(text: &str) -> Option<String> {
    if let Some(inner) = text.strip_prefix('[') {
        return inner.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(|ip| format!("[{ip}]"));
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    // A dot at the end, which marks the DNS root, is allowed.
    let bare = text.strip_suffix('.').unwrap_or(text);
    let last_is_number = bare.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    let fine = bare.len() <= MAX_HOST_BYTES
        && bare.split('.').all(label)
        && (!last_is_number || bare.parse::<Ipv4Addr>().is_ok());
    fine.then(|| text.to_ascii_lowercase())
}

/// Splits a text into a host and an optional port. Returns `None` if the text is not valid.
pub(crate) fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    let colon = text.rfind(':').filter(|&at| !text.get(at..).unwrap_or_default().contains(']'));
    let (host, port) = match colon {
        Some(at) => (text.get(..at)?, Some(text.get(at + 1..)?)),
        None => (text, None),
    };
    let port = match port {
        Some(port) if is_port(port) => Some(port.parse().ok().filter(|&port| port != 0)?),
        Some(_) => return None,
        None => None,
    };
    Some((host_name(host)?, port))
}

/// Checks a value of the Host field, which is a host and an optional port. Returns the value in lower case.
pub(crate) fn host(text: &str) -> Checked<String> {
    if text.contains('*') {
        return Err(
            "has a wildcard, which is not allowed here; write each name, for example \"www.example.com\"".to_owned()
        );
    }
    match host_and_port(text) {
        Some((host, Some(port))) => Ok(format!("{host}:{port}")),
        Some((host, None)) => Ok(host),
        None => Err("is not a host; write a name with an optional port, for example \"www.example.com\"".to_owned()),
    }
}

/// Returns the text after `scheme`, or `None` if the text does not start with `scheme`. The comparison ignores case.
pub(crate) fn strip_scheme<'t>(text: &'t str, scheme: &str) -> Option<&'t str> {
    let start = text.get(..scheme.len())?;
    if start.eq_ignore_ascii_case(scheme) { text.get(scheme.len()..) } else { None }
}

/// Checks a link on a whoopsie page. A link is empty, or starts with `https://`, `http://` or `//` and a valid host.
pub(crate) fn link(text: &str) -> Checked<String> {
    const REMEDY: &str =
        "write a URL that starts with https://, http:// or //, for example \"https://status.example.com/\"";
    if text.is_empty() {
        return Ok(String::new());
    }
    let rest =
        strip_scheme(text, "https://").or_else(|| strip_scheme(text, "http://")).or_else(|| text.strip_prefix("//"));
    let Some(rest) = rest else {
        return Err(format!("is not a link; {REMEDY}"));
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    // These bytes, except `'`, are not allowed in URLs (RFC 3986 §2). Quotes could end the HTML attribute that contains
    // the link.
    let unsafe_byte = |b: u8| !b.is_ascii_graphic() || b"\"'<>\\^`{|}".contains(&b);
    if text.len() > MAX_URL_BYTES || text.bytes().any(unsafe_byte) || host_and_port(authority).is_none() {
        return Err(format!("is not a valid URL; {REMEDY}"));
    }
    Ok(text.to_owned())
}

/// Checks a link that must not have a query or a fragment. Returns the link without its final slashes.
pub(crate) fn link_base(text: &str) -> Checked<String> {
    let link = link(text)?;
    if link.contains(['?', '#']) {
        return Err("has a query or a fragment, but edgeshim appends a path; write a URL without query and fragment, \
             for example \"//beacon.example.com\""
            .to_owned());
    }
    Ok(link.trim_end_matches('/').to_owned())
}

/// Checks the path of a local endpoint.
pub(crate) fn local_path(text: &str, example: &str) -> Checked<String> {
    let unsafe_byte = |b: u8| !b.is_ascii_graphic() || b"\"'<>\\^`{|}?#%".contains(&b);
    if !text.starts_with('/') || text.starts_with("//") || text.len() > MAX_URL_BYTES || text.bytes().any(unsafe_byte) {
        return Err(format!(
            "is not a path; write a path that starts with one \"/\" and has no query, for example {}",
            quote(example)
        ));
    }
    if text == "/" {
        return Err(format!(
            "is the path of the home page; write a path that the site does not use, for example {}",
            quote(example)
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn link_when_not_a_valid_web_url_then_rejected() {
        for good in ["", "https://status.example.com/", "HTTP://a", "//a:81/b?c=d#e"] {
            assert!(link(good).is_ok(), "{good}");
        }
        for bad in [
            "javascript:alert(1)",
            "/status",
            "https://",
            "https:///x",
            "https://a b",
            "https://a/\"onload",
            "data:x",
            "//u@h",
        ] {
            assert!(link(bad).is_err(), "{bad}");
        }
        assert_eq!(link_base("//beacon.example.com/").as_deref(), Ok("//beacon.example.com"));
        assert!(link_base("//a/?b").is_err());
    }

    #[test]
    fn host_when_not_a_valid_host_with_an_optional_port_then_rejected() {
        for good in ["www.example.com", "localhost", "a_b.example:81", "[::1]:80", "10.0.0.1", "example.com."] {
            assert!(host(good).is_ok(), "{good}");
        }
        for bad in
            ["", "*.example.com", "http://a", "a b", "::1", "a:b", "a..b", "1.2.3.4.5", "[::1", "a/b", "ü.example"]
        {
            assert!(host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn local_path_when_root_or_invalid_then_rejected() {
        assert!(local_path("/status/images/beacon.gif", "/b").is_ok());
        for bad in ["", "/", "b", "//b", "/b?c", "/b c", "/%62"] {
            assert!(local_path(bad, "/b").is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn hosts_links_and_paths_when_text_is_arbitrary_then_read_without_panic(text in any::<String>()) {
            let _ = (host(&text), link_base(&text), local_path(&text, "/b"), socket_path(&text, Path::new("/etc")));
        }

        #[test]
        fn host_when_text_is_nearly_valid_then_read_without_panic(text in r"[a1:.\[\]@/]{0,20}") {
            let _ = (host(&text), link(&format!("//{text}")));
        }
    }
}
