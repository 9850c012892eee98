//! The page at `/` and the log-in form. Each of them is one HTML file that contains its style and, if it has a
//! script, its script. The Content-Security-Policy allows only this style and this script, by their hashes.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderValue;
use sha2::{Digest as _, Sha256};

/// An HTML document and the value of its Content-Security-Policy.
#[derive(Debug)]
pub(super) struct Document {
    pub html: Bytes,
    pub policy: HeaderValue,
}

pub(super) static PAGE: LazyLock<Document> = LazyLock::new(|| Document::new(include_str!("page.html")));
pub(super) static LOG_IN: LazyLock<Document> = LazyLock::new(|| Document::new(include_str!("log_in.html")));
/// The log-in form with the message that the token was wrong.
pub(super) static LOG_IN_AGAIN: LazyLock<Document> = LazyLock::new(|| {
    let wrong = "<p role=\"alert\">This is not the token.</p>";
    Document::new(include_str!("log_in.html").replace("<!-- alert -->", wrong))
});

/// Returns the style sheet of the page, which the page of a bundle uses too.
pub(crate) fn style() -> &'static str {
    let inside = include_str!("page.html").split_once("<style>").and_then(|(_, rest)| rest.split_once("</style>"));
    inside.map_or("", |(style, _)| style)
}

impl Document {
    fn new(html: impl Into<String>) -> Self {
        let html = html.into();
        let hash = |tag: &str| {
            let inside =
                html.split_once(&format!("<{tag}>")).and_then(|(_, rest)| rest.split_once(&format!("</{tag}>")));
            inside.map_or("'none'".to_owned(), |(inside, _)| {
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
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    #[test]
    fn document_when_compressed_then_is_below_60_kib_and_has_no_urls_of_other_hosts() {
        for document in [&*PAGE, &*LOG_IN, &*LOG_IN_AGAIN] {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
            gzip.write_all(&document.html).unwrap();
            let bytes = gzip.finish().unwrap().len();
            assert!(bytes < 60 * 1024, "{bytes} bytes");
            let html = str::from_utf8(&document.html).unwrap();
            let namespace = "http://www.w3.org/2000/svg";
            let addresses = html.matches("http://").chain(html.matches("https://")).count();
            assert_eq!(addresses, html.matches(namespace).count(), "the document has a URL of another host");
            assert_eq!((html.matches("<style>").count(), html.matches(" style=").count()), (1, 0));
            assert!(html.matches("<script").count() <= 1);
        }
        let policy = PAGE.policy.to_str().unwrap();
        assert!(policy.contains("script-src 'sha256-") && policy.contains("style-src 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe"));
        assert_ne!(LOG_IN.html, LOG_IN_AGAIN.html);
    }
}
