//! Addresses, hosts and URLs, checked as far as a text can be.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::file::Checked;
use super::settings::{Listen, Target};
use super::words::quote;
use crate::cdn::addresses::canonical;

/// The longest path of a unix socket, in bytes: `sun_path` on Linux holds 108 with its closing zero.
const MAX_SOCKET_PATH_BYTES: usize = 107;
/// RFC 1035 §2.3.4's limit on a host name, in bytes.
const MAX_HOST_BYTES: usize = 253;
/// The longest URL that is written into pages, in bytes.
const MAX_URL_BYTES: usize = 2_048;

/// The addresses claimed so far, so that no two listeners want the same one.
#[derive(Default)]
pub(super) struct Claimed {
    exact: HashSet<Listen>,
    /// Family (is it IPv6?) and port of every address, and of those that mean all addresses.
    ports: HashSet<(bool, u16)>,
    wildcards: HashSet<(bool, u16)>,
}

impl Claimed {
    /// Claims an address.
    pub(super) fn claim(&mut self, listen: &Listen) -> Checked<()> {
        if let Listen::Tcp(address) = listen {
            if address.port() == 0 {
                return Ok(());
            }
            let port = (address.is_ipv6(), address.port());
            let overlaps =
                self.wildcards.contains(&port) || (address.ip().is_unspecified() && self.ports.contains(&port));
            if overlaps && !self.exact.contains(listen) {
                let message = "overlaps an address listened on already, since one of them means every address";
                return Err(format!("{message}; write another port or drop one of the two"));
            }
            self.ports.insert(port);
            if address.ip().is_unspecified() {
                self.wildcards.insert(port);
            }
        }
        if self.exact.insert(listen.clone()) {
            Ok(())
        } else {
            Err("is listened on already; write another address or port, or drop one of the two".to_owned())
        }
    }
}

/// An address to listen on: `ADDRESS:PORT` or `unix:PATH`.
pub(super) fn listen(text: &str, folder: &Path) -> Checked<Listen> {
    if let Some(path) = text.strip_prefix("unix:") {
        return socket_path(path, folder).map(Listen::Unix);
    }
    if let Ok(address) = text.parse() {
        return Ok(Listen::Tcp(address));
    }
    let remedy = match text.rsplit_once(':') {
        Some(("" | "*", port)) if is_port(port) => format!("write \"0.0.0.0:{port}\" to mean every address"),
        Some(("localhost", port)) if is_port(port) => {
            format!("write \"127.0.0.1:{port}\", since a name can mean several")
        }
        _ if is_port(text) => format!("write \"127.0.0.1:{text}\""),
        _ => match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => format!("write \"{ip}:8080\""),
            Ok(IpAddr::V6(ip)) => format!("write \"[{ip}]:8080\""),
            Err(_) => "write ADDRESS:PORT or unix:PATH, \
                 for example \"127.0.0.1:8080\", \"[::1]:8080\" or \"unix:/run/edgeshim.sock\""
                .to_owned(),
        },
    };
    Err(format!("is no address to listen on; {remedy}"))
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

fn socket_path(path: &str, folder: &Path) -> Checked<PathBuf> {
    if path.is_empty() || path.contains(char::is_control) {
        return Err("names no unix socket; write unix:PATH, for example \"unix:/run/edgeshim.sock\"".to_owned());
    }
    let path = folder.join(path);
    let length = path.as_os_str().as_bytes().len();
    if length > MAX_SOCKET_PATH_BYTES {
        let message =
            format!("is a socket path of {length} bytes, and the system takes no more than {MAX_SOCKET_PATH_BYTES}");
        return Err(format!("{message}; write a shorter one, for example \"unix:/run/edgeshim.sock\""));
    }
    Ok(path)
}

/// A network, or one address as a network of itself. Bits below the prefix are dropped, as other proxies do, and IPv4 in IPv6 form is
/// IPv4, as every address is that is looked up.
pub(super) fn network(text: &str) -> Checked<IpNet> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(canonical(address.into()));
    }
    text.parse::<IpNet>().map(canonical).map_err(|_| {
        "is no network; write an address or a CIDR, for example \"10.0.0.0/8\" or \"2001:db8::/32\"".to_owned()
    })
}

/// A host name, an IPv4 address, or an IPv6 address in brackets; in lower case.
pub(super) fn host_name(text: &str) -> Option<String> {
    if let Some(inner) = text.strip_prefix('[') {
        return inner.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(|ip| format!("[{ip}]"));
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    // The root's own dot at the end is fine.
    let bare = text.strip_suffix('.').unwrap_or(text);
    let last_is_number = bare.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    let fine = bare.len() <= MAX_HOST_BYTES
        && bare.split('.').all(label)
        && (!last_is_number || bare.parse::<Ipv4Addr>().is_ok());
    fine.then(|| text.to_ascii_lowercase())
}

/// A host and perhaps a port, apart.
fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
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

/// A value of Host: a name and perhaps a port, in lower case.
pub(super) fn host(text: &str) -> Checked<String> {
    if text.contains('*') {
        return Err(
            "has a wildcard, which Host values here cannot have; write each name, for example \"www.example.com\""
                .to_owned(),
        );
    }
    match host_and_port(text) {
        Some((host, Some(port))) => Ok(format!("{host}:{port}")),
        Some((host, None)) => Ok(host),
        None => Err("is no host; write a name and perhaps a port, for example \"www.example.com\"".to_owned()),
    }
}

/// Where the origin is: `http://HOST[:PORT]` or `unix:PATH`.
pub(super) fn target(text: &str, folder: &Path) -> Checked<Target> {
    const REMEDY: &str =
        "write http://HOST:PORT or unix:PATH, for example \"http://127.0.0.1:3000\" or \"unix:/run/app.sock\"";
    if let Some(path) = text.strip_prefix("unix:") {
        return socket_path(path, folder).map(Target::Unix);
    }
    let Some(rest) = strip_scheme(text, "http://") else {
        return Err(format!("is no origin; {REMEDY}"));
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains('@') {
        return Err(format!("has a user in it, which is not sent anywhere; {REMEDY}"));
    }
    if authority.contains(['/', '?', '#']) {
        return Err(format!("has a path, but requests keep their own; {REMEDY}"));
    }
    let Some((host, port)) = host_and_port(authority) else {
        return Err(format!("has no valid host and port; {REMEDY}"));
    };
    // Brackets belong to the URL, not to the address that is connected to.
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok(Target::Tcp { host, port: port.unwrap_or(80) })
}

/// What follows the scheme, whatever its case.
pub(super) fn strip_scheme<'t>(text: &'t str, scheme: &str) -> Option<&'t str> {
    let start = text.get(..scheme.len())?;
    if start.eq_ignore_ascii_case(scheme) { text.get(scheme.len()..) } else { None }
}

/// A link that goes into pages: empty, or `http://`, `https://` or `//` and what may follow.
pub(super) fn link(text: &str) -> Checked<String> {
    const REMEDY: &str =
        "write one that starts with https://, http:// or //, for example \"https://status.example.com/\"";
    if text.is_empty() {
        return Ok(String::new());
    }
    let rest =
        strip_scheme(text, "https://").or_else(|| strip_scheme(text, "http://")).or_else(|| text.strip_prefix("//"));
    let Some(rest) = rest else {
        return Err(format!("is no link that a page may carry; {REMEDY}"));
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    // RFC 3986 §2 leaves these out; with them the text could end the attribute that it stands in.
    let unsafe_byte = |b: u8| !b.is_ascii_graphic() || b"\"'<>\\^`{|}".contains(&b);
    if text.len() > MAX_URL_BYTES || text.bytes().any(unsafe_byte) || host_and_port(authority).is_none() {
        return Err(format!("is no valid URL; {REMEDY}"));
    }
    Ok(text.to_owned())
}

/// The place that the beacon's path is appended to: a link without query or fragment, and without a slash at its end.
pub(super) fn link_base(text: &str) -> Checked<String> {
    let link = link(text)?;
    if link.contains(['?', '#']) {
        return Err(
            "has a query or fragment, but a path is appended to it; write for example \"//beacon.example.com\""
                .to_owned(),
        );
    }
    Ok(link.trim_end_matches('/').to_owned())
}

/// The path of a local endpoint.
pub(super) fn local_path(text: &str, example: &str) -> Checked<String> {
    let unsafe_byte = |b: u8| !b.is_ascii_graphic() || b"\"'<>\\^`{|}?#%".contains(&b);
    if !text.starts_with('/') || text.starts_with("//") || text.len() > MAX_URL_BYTES || text.bytes().any(unsafe_byte) {
        return Err(format!(
            "is no path; write one that starts with one \"/\" and has no query, for example {}",
            quote(example)
        ));
    }
    if text == "/" {
        return Err(format!(
            "is the whole site's own path; write one that nothing else has, for example {}",
            quote(example)
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn here() -> &'static Path {
        Path::new("/etc/edgeshim")
    }

    #[test]
    fn listen_addresses_are_addresses_or_sockets() {
        for good in ["127.0.0.1:8080", "0.0.0.0:0", "[::1]:80", "unix:/run/e.sock"] {
            assert_eq!(listen(good, here()).map(|l| l.to_string()).as_deref(), Ok(good));
        }
        assert_eq!(listen("unix:e.sock", here()), Ok(Listen::Unix("/etc/edgeshim/e.sock".into())));
        assert!(listen(&format!("unix:/{}", "a".repeat(106)), here()).is_ok());
        assert!(listen(&format!("unix:/{}", "a".repeat(107)), here()).is_err_and(|said| said.contains("108 bytes")));
        for (bad, remedy) in [
            (":8080", "\"0.0.0.0:8080\""),
            ("*:80", "\"0.0.0.0:80\""),
            ("localhost:80", "\"127.0.0.1:80\""),
            ("8080", "\"127.0.0.1:8080\""),
            ("::1", "\"[::1]:8080\""),
            ("10.0.0.1", "\"10.0.0.1:8080\""),
            ("127.0.0.1:65536", "ADDRESS:PORT"),
            ("unix:", "unix:PATH"),
            ("unix:\0", "unix:PATH"),
        ] {
            assert!(listen(bad, here()).is_err_and(|said| said.contains(remedy)), "{bad}");
        }
    }

    #[test]
    fn no_two_listeners_want_one_address() {
        let mut claimed = Claimed::default();
        let mut claim = |text| claimed.claim(&listen(text, here()).expect("valid"));
        assert!(claim("127.0.0.1:80").is_ok());
        assert!(claim("127.0.0.2:80").is_ok());
        assert!(claim("127.0.0.1:80").is_err());
        assert!(claim("0.0.0.0:80").is_err());
        assert!(claim("0.0.0.0:81").is_ok());
        assert!(claim("127.0.0.1:81").is_err());
        assert!(claim("[::]:80").is_ok());
        assert!(claim("127.0.0.1:0").is_ok());
        assert!(claim("127.0.0.1:0").is_ok());
        assert!(claim("unix:/a").is_ok());
        assert!(claim("unix:/a").is_err());
    }

    #[test]
    fn networks_take_bare_addresses() {
        for (typed, read) in [
            ("10.0.0.1", "10.0.0.1/32"),
            ("::1", "::1/128"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
        ] {
            assert_eq!(network(typed).map(|n| n.to_string()).as_deref(), Ok(read));
        }
        for bad in ["", "10.0.0.0/33", "10.0.0", "fe80::/129", "host/8"] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn origins_are_http_or_sockets() {
        let tcp = |host: &str, port| Ok(Target::Tcp { host: host.to_owned(), port });
        assert_eq!(target("http://127.0.0.1:3000", here()), tcp("127.0.0.1", 3000));
        assert_eq!(target("HTTP://App.internal/", here()), tcp("app.internal", 80));
        assert_eq!(target("http://[::1]:3000", here()), tcp("::1", 3000));
        assert_eq!(target("unix:/run/app.sock", here()), Ok(Target::Unix("/run/app.sock".into())));
        for bad in [
            "",
            "ftp://a",
            "127.0.0.1:3000",
            "http://",
            "http://a/b",
            "http://a?b",
            "http://u:p@a",
            "http://a:0",
            "http://a:",
            "http://a b",
        ] {
            assert!(target(bad, here()).is_err(), "{bad}");
        }
    }

    #[test]
    fn links_are_web_links() {
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
    fn hosts_are_names_with_a_port_at_most() {
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
    fn local_paths_are_plain() {
        assert!(local_path("/status/images/beacon.gif", "/b").is_ok());
        for bad in ["", "/", "b", "//b", "/b?c", "/b c", "/%62"] {
            assert!(local_path(bad, "/b").is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged_without_panic(text in any::<String>()) {
            let _ = (listen(&text, here()), network(&text), host(&text), target(&text, here()));
            let _ = (link_base(&text), local_path(&text, "/b"));
            let _ = target(&format!("http://{text}"), here());
        }

        #[test]
        fn near_hosts_are_judged_without_panic(text in r"[a1:.\[\]@/]{0,20}") {
            let _ = (listen(&text, here()), host(&text));
            let _ = (target(&format!("http://{text}"), here()), link(&format!("//{text}")));
        }
    }
}
