//! The addresses on which edgeshim listens.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::keys::urls::{is_port, socket_path};
use crate::keys::{Checked, Text};

/// An address on which edgeshim listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Listen {
    /// An IP address and a port. Port 0 means any free port.
    Tcp(SocketAddr),
    /// An IP address and a port at which connections begin with a TLS handshake.
    Tls(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) | Self::Tls(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Listen {
    /// Returns the name that an inherited socket for this address can have (`LISTEN_FDNAMES`).
    pub fn socket_name(&self) -> &'static str {
        match self {
            Self::Tls(_) => "https",
            Self::Tcp(_) | Self::Unix(_) => "http",
        }
    }

    /// Returns the same address without TLS.
    pub fn without_tls(&self) -> Self {
        match self {
            Self::Tls(address) => Self::Tcp(*address),
            plain => plain.clone(),
        }
    }
}

/// The text form of a listen address: `ADDRESS:PORT` or `unix:PATH`.
pub(crate) const LISTEN: Text<Listen> = Text { example: "127.0.0.1:8080", read: listen, write: Listen::to_string };

/// The text form of an address at which connections use TLS: `ADDRESS:PORT`.
pub(super) const TLS_LISTEN: Text<Listen> =
    Text { example: "127.0.0.1:8443", read: tls_listen, write: Listen::to_string };

/// The addresses of the listeners that were checked so far. No two listeners are allowed to have the same address or
/// overlapping addresses.
#[derive(Default)]
pub(super) struct Claimed {
    exact: HashSet<Listen>,
    /// One entry for each TCP address: whether the address is IPv6, and the port. `wildcards` has the same entries, but
    /// only for wildcard addresses such as 0.0.0.0.
    ports: HashSet<(bool, u16)>,
    wildcards: HashSet<(bool, u16)>,
}

impl Claimed {
    /// Records the address of a listener, or returns an error if an earlier listener has the same or an overlapping
    /// address. An address with port 0 overlaps no other address.
    pub(super) fn claim(&mut self, listen: &Listen) -> Checked<()> {
        if let Listen::Tcp(address) | Listen::Tls(address) = listen {
            if address.port() == 0 {
                return Ok(());
            }
            let port = (address.is_ipv6(), address.port());
            let overlaps =
                self.wildcards.contains(&port) || (address.ip().is_unspecified() && self.ports.contains(&port));
            if overlaps && !self.exact.contains(&listen.without_tls()) {
                let message = "overlaps the address of another listener, because one of the two is a wildcard address";
                return Err(format!("{message}; write another port, or remove one of the two addresses"));
            }
            self.ports.insert(port);
            if address.ip().is_unspecified() {
                self.wildcards.insert(port);
            }
        }
        if self.exact.insert(listen.without_tls()) {
            Ok(())
        } else {
            Err("is the address of another listener; write another address or port, or remove one of the two listeners"
                .to_owned())
        }
    }
}

/// Parses a listen address: `ADDRESS:PORT` or `unix:PATH`.
pub(super) fn listen(text: &str, folder: &Path) -> Checked<Listen> {
    if let Some(path) = text.strip_prefix("unix:") {
        return socket_path(path, folder).map(Listen::Unix);
    }
    if let Ok(address) = text.parse() {
        return Ok(Listen::Tcp(address));
    }
    let remedy = match text.rsplit_once(':') {
        Some(("" | "*", port)) if is_port(port) => format!("write \"0.0.0.0:{port}\" to listen on every IPv4 address"),
        Some(("localhost", port)) if is_port(port) => {
            format!("write \"127.0.0.1:{port}\", because a name can have several addresses")
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
    Err(format!("is not an address to listen on; {remedy}"))
}

/// Parses an address at which connections use TLS: `ADDRESS:PORT`.
fn tls_listen(text: &str, folder: &Path) -> Checked<Listen> {
    match listen(text, folder)? {
        Listen::Unix(_) => Err("is a unix socket, which needs no TLS; write it in server.listen, \
                                or write an address with a port, for example \"0.0.0.0:8443\""
            .to_owned()),
        Listen::Tcp(address) | Listen::Tls(address) => Ok(Listen::Tls(address)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn here() -> &'static Path {
        Path::new("/etc/edgeshim")
    }

    #[test]
    fn listen_address_when_invalid_then_is_rejected_with_a_remedy() {
        for good in ["127.0.0.1:8080", "0.0.0.0:0", "[::1]:80", "unix:/run/e.sock"] {
            assert_eq!(listen(good, here()).map(|l| l.to_string()).as_deref(), Ok(good));
        }
        assert_eq!(listen("unix:e.sock", here()), Ok(Listen::Unix("/etc/edgeshim/e.sock".into())));
        assert!(listen(&format!("unix:/{}", "a".repeat(106)), here()).is_ok());
        assert!(
            listen(&format!("unix:/{}", "a".repeat(107)), here()).is_err_and(|message| message.contains("108 bytes"))
        );
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
            assert!(listen(bad, here()).is_err_and(|message| message.contains(remedy)), "{bad}");
        }
    }

    #[test]
    fn listeners_when_addresses_overlap_then_are_rejected() {
        let mut claimed = Claimed::default();
        let mut claim = |text| claimed.claim(&listen(text, here()).expect("the address is valid"));
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

    proptest! {
        #[test]
        fn listen_address_when_text_is_arbitrary_then_parsing_does_not_panic(text in any::<String>()) {
            let _ = listen(&text, here());
        }

        #[test]
        fn listen_address_when_text_is_nearly_valid_then_parsing_does_not_panic(text in r"[a1:.\[\]@/]{0,20}") {
            let _ = listen(&text, here());
        }
    }
}
