//! URLs and addresses on the command line.

use std::fmt;

use http::uri::PathAndQuery;

use crate::keys::urls::{host_and_port, strip_scheme};

/// The host and port of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// The host. An IPv6 address has brackets.
    pub host: String,
    pub port: u16,
}

impl Server {
    /// Reads `HOST:PORT`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if let Some((host, Some(port))) = host_and_port(text) {
            return Ok(Self { host, port });
        }
        let shown = without_user(text);
        Err(format!("{shown:?} is not a host and a port; write for example edge.example.net:443"))
    }

    /// Returns the host without brackets.
    pub(crate) fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }
}

/// Returns a URL, or a host and a port, with `***` in place of the user name and the password.
fn without_user(text: &str) -> String {
    let start = text.find("://").map_or(0, |at| at + 3);
    match (text.get(..start), text.rfind('@').filter(|at| *at >= start)) {
        (Some(scheme), Some(at)) => format!("{scheme}***{}", text.get(at..).unwrap_or_default()),
        _ => text.to_owned(),
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    /// The URL as it was written.
    pub text: String,
    pub is_https: bool,
    pub server: Server,
    /// The value of Host. It has no port if the port is the default port of the scheme.
    pub authority: String,
    /// The path with its query. Empty if the URL has no path.
    pub path: String,
}

impl Url {
    /// Reads a URL that begins with `https://` or `http://`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        const REMEDY: &str = "write a URL such as https://www.example.com/logo.png";
        // The part before `@` is not shown, because it can be a password.
        let shown = without_user(text);
        let wrong = |why: &str| format!("{shown:?} {why}; {REMEDY}");
        let (is_https, rest) = match (strip_scheme(text, "https://"), strip_scheme(text, "http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(wrong("does not begin with https:// or http://")),
        };
        let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        if authority.contains('@') {
            return Err(wrong("has a user name or a password, which smoke does not send"));
        }
        let Some((host, port)) = host_and_port(authority) else { return Err(wrong("has no valid host")) };
        if path.contains('#') {
            return Err(wrong("has a fragment (#), which is not sent"));
        }
        if !path.is_empty() && (!path.starts_with('/') || path.parse::<PathAndQuery>().is_err()) {
            return Err(wrong("has no valid path"));
        }
        let standard = if is_https { 443 } else { 80 };
        let authority = match port.filter(|port| *port != standard) {
            Some(port) => format!("{host}:{port}"),
            None => host.clone(),
        };
        let server = Server { host, port: port.unwrap_or(standard) };
        Ok(Self { text: text.to_owned(), is_https, server, authority, path: path.to_owned() })
    }

    /// Returns the path with its query: `/` if the URL has no path.
    pub(crate) fn target(&self) -> &str {
        if self.path.is_empty() { "/" } else { &self.path }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_when_valid_then_is_split() {
        let url = Url::parse("HTTPS://Img.Example.com/a%20b.jpg?x=1").unwrap();
        assert_eq!((url.is_https, url.server.port, url.authority.as_str()), (true, 443, "img.example.com"));
        assert_eq!(url.target(), "/a%20b.jpg?x=1");
        let url = Url::parse("http://[::1]:8080").unwrap();
        assert_eq!((url.authority.as_str(), url.server.bare_host(), url.target()), ("[::1]:8080", "::1", "/"));
        assert_eq!(Url::parse("http://a.test:80/").unwrap().authority, "a.test");
    }

    #[test]
    fn error_when_url_or_server_has_a_password_then_does_not_show_the_password() {
        for bad in
            ["http://joe:pass word@a.test/", "joe:pass word@a.test", "https://joe:pass word@", "ftp://pass word@a"]
        {
            let url = Url::parse(bad).unwrap_err();
            let server = Server::parse(bad).unwrap_err();
            assert!(!url.contains("pass word") && url.contains("***@"), "{url}");
            assert!(!server.contains("pass word") && server.contains("***@"), "{server}");
        }
    }

    #[test]
    fn url_or_server_when_invalid_then_the_error_says_what_to_write() {
        for bad in [
            "",
            "a.test/x",
            "ftp://a.test/",
            "http://",
            "http://a b/",
            "http://u@a.test/",
            "http://a.test/#x",
            "http://a.test?x",
        ] {
            assert!(Url::parse(bad).is_err_and(|error| error.contains("https://www.example.com")), "{bad}");
        }
        for bad in ["", "a.test", "a.test:0", ":80", "a.test:99999", "http://a.test:80"] {
            assert!(Server::parse(bad).is_err_and(|error| error.contains(":443")), "{bad}");
        }
    }
}
