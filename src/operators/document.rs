//! HTML documents. Each document is one HTML file that contains its style and, if it has one, its script. The
//! Content-Security-Policy allows only this style and this script, by their hashes. The file `pages.css` has the
//! style that the documents have in common, except the log-in form, which has its own style.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderValue;
use sha2::{Digest as _, Sha256};

/// An HTML document and the value of its Content-Security-Policy.
#[derive(Debug)]
pub(crate) struct Document {
    pub html: Bytes,
    pub policy: HeaderValue,
}

impl Document {
    /// Makes a document. If its style has the comment `/* pages.css */`, the file `pages.css` replaces this comment.
    pub(crate) fn new(html: &str) -> Self {
        let html = html.replacen("/* pages.css */\n", include_str!("pages.css"), 1);
        let hash = |tag: &str| {
            inside(&html, tag).map_or("'none'".to_owned(), |inside| {
                format!("'sha256-{}'", STANDARD.encode(Sha256::digest(inside.as_bytes())))
            })
        };
        let policy = format!(
            "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; form-action 'self'; \
             base-uri 'none'; frame-ancestors 'none'",
            hash("script"),
            hash("style")
        );
        // A hash in base64 is visible ASCII, so this conversion does not fail.
        let policy = HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"));
        Self { policy, html: html.into() }
    }

    /// Returns the style of the document.
    pub(crate) fn style(&self) -> &str {
        let html = str::from_utf8(&self.html).unwrap_or_default();
        inside(html, "style").unwrap_or_default()
    }
}

/// Returns the content of the first element with this tag.
fn inside<'h>(html: &'h str, tag: &str) -> Option<&'h str> {
    let (_, rest) = html.split_once(&format!("<{tag}>"))?;
    Some(rest.split_once(&format!("</{tag}>"))?.0)
}

/// The log-in form of a listener.
#[derive(Debug)]
pub(crate) struct LogIn {
    pub first: Document,
    /// The form with the message that the token was wrong.
    pub again: Document,
}

impl LogIn {
    /// Returns the form of a listener. `key` is the configuration key of the listener's token.
    pub(crate) fn new(key: &str) -> Self {
        let form = include_str!("log_in.html").replace("<!-- key -->", key);
        let wrong = "<p role=\"alert\">This is not the token.</p>";
        Self { again: Document::new(&form.replace("<!-- alert -->", wrong)), first: Document::new(&form) }
    }
}

/// Checks the rules for documents, for the tests of each document.
#[cfg(test)]
pub(crate) fn check_document(document: &Document) {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&document.html).expect("a vector takes all bytes");
    let bytes = gzip.finish().expect("a vector takes all bytes").len();
    assert!(bytes < 60 * 1024, "{bytes} bytes");
    let html = str::from_utf8(&document.html).expect("the document is UTF-8");
    let namespace = "http://www.w3.org/2000/svg";
    let addresses = html.matches("http://").chain(html.matches("https://")).count();
    assert_eq!(addresses, html.matches(namespace).count(), "the document has a URL of another host");
    assert_eq!((html.matches("<style>").count(), html.matches(" style=").count()), (1, 0));
    assert!(!html.contains("pages.css"), "the shared style is missing");
    let scripts = html.matches("<script").count();
    assert!(scripts <= 1);
    let policy = document.policy.to_str().expect("the policy is visible ASCII");
    assert!(policy.contains("style-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(policy.contains("script-src 'sha256-"), scripts == 1, "{policy}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_in_form_when_token_was_wrong_then_differs_and_keeps_the_rules_for_documents() {
        let form = LogIn::new("admin.token");
        check_document(&form.first);
        check_document(&form.again);
        assert_ne!(form.first.html, form.again.html);
        let html = str::from_utf8(&form.first.html).unwrap();
        assert!(html.contains("<code>admin.token</code>") && !html.contains("This is not the token"));
    }
}
