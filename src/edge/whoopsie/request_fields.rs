//! The parts of a request that a page needs.

use http::{HeaderName, HeaderValue, Method, request};

use crate::edge::request::Ctx;
use crate::wire::head_fields::Fields;
use crate::wire::host::host_field;
use crate::wire::names::{ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONTENT_TYPE, X_REQUEST_ID};
use crate::wire::quality::{Preference, accept_prefers, coding_acceptance};
use crate::wire::tokens;

/// The facts and fields of a request that are needed after the request was sent to the origin.
#[derive(Debug)]
pub(super) struct RequestFields {
    pub(super) ctx: Ctx,
    pub(super) is_head: bool,
    /// Whether the page is allowed to repeat the request automatically: the method is GET or HEAD.
    pub(super) is_repeatable: bool,
    pub(super) is_grpc: bool,
    accept: Option<HeaderValue>,
    accept_encoding: Option<HeaderValue>,
    pub(super) accept_language: Option<HeaderValue>,
    pub(super) host: Option<HeaderValue>,
    pub(super) id: Option<HeaderValue>,
}

impl RequestFields {
    pub(super) fn of(request: &request::Parts, ctx: Ctx) -> Self {
        let fields = ctx.fields(&request.headers);
        let content_type = fields.get(&CONTENT_TYPE);
        let mut kept = Self {
            ctx,
            is_head: request.method == Method::HEAD,
            is_repeatable: matches!(request.method, Method::GET | Method::HEAD),
            is_grpc: content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")),
            accept: None,
            accept_encoding: None,
            accept_language: None,
            host: host_field(&request.headers).cloned(),
            id: None,
        };
        // One pass over the names costs less than a look-up of each field.
        let mut has_several = false;
        for (name, value) in &request.headers {
            let kept = if *name == ACCEPT {
                &mut kept.accept
            } else if *name == ACCEPT_ENCODING {
                &mut kept.accept_encoding
            } else if *name == ACCEPT_LANGUAGE {
                &mut kept.accept_language
            } else if *name == X_REQUEST_ID {
                &mut kept.id
            } else {
                continue;
            };
            has_several |= kept.is_some();
            *kept = Some(value.clone());
        }
        if has_several {
            kept.accept = joined(fields, &ACCEPT);
            kept.accept_encoding = joined(fields, &ACCEPT_ENCODING);
            kept.accept_language = joined(fields, &ACCEPT_LANGUAGE);
        }
        kept
    }

    /// Returns the form of the body that Accept prefers.
    pub(super) fn prefers(&self) -> Preference {
        accept_prefers(self.accept.as_ref().map_or(b"", HeaderValue::as_bytes))
    }

    pub(super) fn accepts_gzip(&self) -> bool {
        let line = self.accept_encoding.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
        coding_acceptance(tokens::members_of_line(line)).gzip
    }
}

/// Returns a list field as one line.
fn joined(fields: Fields<'_>, name: &HeaderName) -> Option<HeaderValue> {
    let all: Vec<&[u8]> = fields.lines(name).map(HeaderValue::as_bytes).collect();
    if all.is_empty() {
        return None;
    }
    HeaderValue::from_bytes(&all.join(&b", "[..])).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::forwarded::{Peer, Scheme};

    #[test]
    fn list_field_when_sent_in_several_lines_then_is_joined_to_one_line() {
        let request = http::Request::builder().header(ACCEPT, "text/html").header(ACCEPT, "*/*;q=0.1");
        let (head, ()) = request.header(ACCEPT_LANGUAGE, "de").body(()).unwrap().into_parts();
        let peer = Peer::new([192, 0, 2, 1].into(), Scheme::Http);
        let kept = RequestFields::of(&head, Ctx::new(&peer, &head.headers, true));
        assert_eq!(kept.accept.unwrap(), "text/html, */*;q=0.1");
        assert_eq!(kept.accept_language.unwrap(), "de");
        assert_eq!(kept.accept_encoding, None);
    }
}
