//! The address of the origin or of its stand-in, as it is written in the configuration.

use std::fmt;
use std::path::{Path, PathBuf};

use http::HeaderValue;

use crate::keys::urls::{host_and_port, socket_path, strip_scheme};
use crate::keys::{Checked, Text};

/// Whether an upstream is the origin or its stand-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Origin,
    /// The static mirror. Its connections and faults are not counted as those of the origin.
    StandIn,
}

impl Role {
    /// Returns the name that messages use.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::StandIn => "stand-in",
        }
    }
}

/// The place where the origin or the stand-in listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// A TCP port.
    Tcp {
        /// A host name or an IP address, in lower case. An IPv6 address has no brackets.
        host: String,
        /// The port, which is never 0.
        port: u16,
        /// Whether connections use TLS.
        tls: bool,
    },
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl Target {
    /// The format of the keys `origin.url` and `origin.stand_in`.
    pub(super) const TEXT: Text<Self> = Text { example: "http://127.0.0.1:3000", read: target, write: Self::url };

    /// Returns the value as a text that [`target`] parses to the same value. The text of a TCP port always has the
    /// port.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Tcp { tls, .. } => format!("{}://{self}", if *tls { "https" } else { "http" }),
            Self::Unix(_) => self.to_string(),
        }
    }
}

impl Target {
    /// Returns the Host for requests to this target, without the scheme's default port. `None` for a unix socket.
    pub(super) fn host_field(&self) -> Option<HeaderValue> {
        let Self::Tcp { port, tls, .. } = self else { return None };
        let authority = self.to_string();
        let default = if *tls { ":443" } else { ":80" };
        let text = if *port == 443 || *port == 80 { authority.strip_suffix(default) } else { None };
        HeaderValue::from_str(text.unwrap_or(&authority)).ok()
    }
}

/// Writes the host and port, or the socket as `unix:PATH`.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Parses `http://HOST[:PORT]`, `https://HOST[:PORT]` or `unix:PATH`.
fn target(text: &str, folder: &Path) -> Checked<Target> {
    const REMEDY: &str =
        "write http://HOST:PORT, https://HOST:PORT or unix:PATH, for example \"http://127.0.0.1:3000\"";
    if let Some(path) = text.strip_prefix("unix:") {
        return socket_path(path, folder).map(Target::Unix);
    }
    let (rest, tls) = match (strip_scheme(text, "http://"), strip_scheme(text, "https://")) {
        (Some(rest), _) => (rest, false),
        (None, Some(rest)) => (rest, true),
        (None, None) => return Err(format!("is not the URL of an origin; {REMEDY}")),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains('@') {
        return Err(format!("has a user name, which edgeshim would not send to the origin; {REMEDY}"));
    }
    if authority.contains(['/', '?', '#']) {
        return Err(format!(
            "has a path, a query or a fragment, but the origin gets the path and query of each request; {REMEDY}"
        ));
    }
    let Some((host, port)) = host_and_port(authority) else {
        return Err(format!("has no valid host and port; {REMEDY}"));
    };
    // In a URL an IPv6 address has brackets. The stored host has no brackets.
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok(Target::Tcp { host, port: port.unwrap_or(if tls { 443 } else { 80 }), tls })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn here() -> &'static Path {
        Path::new("/etc/edgeshim")
    }

    #[test]
    fn origin_url_when_http_https_or_unix_then_parsed_and_other_urls_are_rejected() {
        let tcp = |host: &str, port| Ok(Target::Tcp { host: host.to_owned(), port, tls: false });
        let tls = |host: &str, port| Ok(Target::Tcp { host: host.to_owned(), port, tls: true });
        assert_eq!(target("https://App.internal", here()), tls("app.internal", 443));
        assert_eq!(target("HTTPS://[::1]:8443/", here()), tls("::1", 8443));
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
            "https://u:p@a",
            "https://",
            "http://a:0",
            "http://a:",
            "http://a b",
        ] {
            assert!(target(bad, here()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn origin_url_when_text_is_arbitrary_then_no_panic_and_the_written_target_parses_to_itself(
            text in any::<String>(),
            near in r"[a1:.\[\]@/]{0,20}",
        ) {
            for text in [format!("http://{text}"), format!("http://{near}"), text] {
                if let Ok(target) = super::target(&text, here()) {
                    prop_assert_eq!(super::target(&target.url(), here()), Ok(target));
                }
            }
        }
    }
}
