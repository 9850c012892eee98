//! Preferences with weights: Accept-Encoding and Accept (RFC 9110 §12.4.2, RFC 9110 §12.5). `pages/locale.rs` reads
//! Accept-Language, and takes only the parser of weights from this file.
//!
//! A weight is between 0 and 1 and has at most three decimals. Some clients write `.5`, which is read as `0.5`. A
//! member with a malformed weight is ignored, because a wrong guess could turn a refusal (weight 0) into a preference.
//! Weights are stored as integers, in thousandths. Each function makes one pass over the field and allocates nothing.

use http::header::HeaderMap;

use super::names::ACCEPT_ENCODING;
use super::tokens::{self, Members};

/// The largest weight, in thousandths. A member without a weight has this weight.
const MOST_WEIGHT: u16 = 1000;

/// A content coding of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// The body is not compressed.
    Identity,
    /// The body is compressed with gzip.
    Gzip,
}

/// The form of an error body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preference {
    /// An HTML page, for a person.
    Html,
    /// `application/problem+json`, for a program.
    Json,
    /// No body, for an image, a style sheet, a font or a player.
    Nothing,
}

/// The codings that a request prefers to a body without a coding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Acceptance {
    /// Whether the weight of gzip is above 0 and at least the weight of identity.
    pub(crate) gzip: bool,
    /// Whether the weight of br is above 0 and at least the weights of gzip and of identity.
    pub(crate) br: bool,
}

/// Returns the coding that Accept-Encoding prefers: gzip or identity. See `coding_acceptance`.
pub fn gzip_acceptance(headers: &HeaderMap) -> Coding {
    if coding_acceptance(tokens::members(headers, &ACCEPT_ENCODING)).gzip { Coding::Gzip } else { Coding::Identity }
}

/// Returns the codings that Accept-Encoding prefers to identity (RFC 9110 §12.5.3). `members` are the members of the
/// field.
///
/// A coding that is not named has the weight of `*`, or 0 if `*` is not named either. If the field is absent, no coding
/// is preferred, because a CDN that accepts gzip sends the field. If a coding is named twice, the lower weight is used.
/// For gzip and br, this choice is safe, because every client can read a body without a coding.
pub(crate) fn coding_acceptance(members: Members<'_>) -> Acceptance {
    let (mut gzip, mut br, mut identity, mut any) = (None, None, None, None);
    for member in members {
        let (coding, weight) = weighed(member);
        let slot = if coding.eq_ignore_ascii_case(b"gzip") || coding.eq_ignore_ascii_case(b"x-gzip") {
            &mut gzip
        } else if coding.eq_ignore_ascii_case(b"br") {
            &mut br
        } else if coding.eq_ignore_ascii_case(b"identity") {
            &mut identity
        } else if coding == b"*" {
            &mut any
        } else {
            continue;
        };
        if let Some(weight) = weight {
            *slot = Some(slot.map_or(weight, |known: u16| known.min(weight)));
        }
    }
    let [gzip, br, identity] = [gzip, br, identity].map(|weight| weight.or(any).unwrap_or(0));
    Acceptance { gzip: gzip > 0 && gzip >= identity, br: br > 0 && br >= gzip && br >= identity }
}

/// Returns the form of an error body that the client can use. `accept` is the complete Accept, as one line. `accept` is
/// empty if the field is missing.
///
/// Almost every Accept of a browser ends with `*/*`, so only the *named* types show whether the browser loads a page or
/// an image. A type that is not named has the weight of the wildcard that covers the type, or 0 if no wildcard covers
/// the type. HTML means `text/html` and `application/xhtml+xml`. The first rule that applies decides:
///
/// 1. HTML, if the field is missing or no member can be read.
/// 2. JSON, if `application/json` or any `+json` type is named with a weight above 0, and that weight is higher than
///    the weight of HTML. An equal weight is enough if HTML is not named (axios sends
///    `application/json, text/plain, */*`).
/// 3. HTML, if HTML is named with a weight above 0.
/// 4. Nothing, if HTML, JSON and all named types have the weight 0, or if a named type other than HTML and JSON has a
///    weight above 0 and at least the weight of HTML.
/// 5. HTML, if HTML has at least the weight of JSON. Otherwise JSON.
pub(crate) fn accept_prefers(accept: &[u8]) -> Preference {
    let mut named = Named::default();
    for member in tokens::members_of_line(accept) {
        if let (range, Some(weight)) = weighed(member) {
            named.note(range, weight);
        }
        if named.html == Some(MOST_WEIGHT) {
            // No other member can have a higher weight, so rule 3 decides. Browsers name HTML first.
            break;
        }
    }
    named.decide()
}

/// The highest weight in Accept for each kind of media range.
#[derive(Default)]
struct Named {
    html: Option<u16>,
    json: Option<u16>,
    other: Option<u16>,
    any_text: Option<u16>,
    any_application: Option<u16>,
    any: Option<u16>,
}

impl Named {
    fn note(&mut self, range: &[u8], weight: u16) {
        let is = |name: &str| range.eq_ignore_ascii_case(name.as_bytes());
        let slot = if is("*/*") {
            &mut self.any
        } else if is("text/*") {
            &mut self.any_text
        } else if is("application/*") {
            &mut self.any_application
        } else if is("text/html") || is("application/xhtml+xml") {
            &mut self.html
        } else if is("application/json")
            || range.last_chunk::<5>().is_some_and(|end| end.eq_ignore_ascii_case(b"+json"))
        {
            &mut self.json
        } else if range.contains(&b'/') {
            &mut self.other
        } else {
            return;
        };
        *slot = Some(slot.map_or(weight, |known| known.max(weight)));
    }

    fn decide(&self) -> Preference {
        let html = self.html.or(self.any_text).or(self.any);
        let json = self.json.or(self.any_application).or(self.any);
        let Some(best) = html.max(json).max(self.other) else {
            // Accept is missing, empty or malformed.
            return Preference::Html;
        };
        let html_weight = html.unwrap_or(0);
        if let Some(json) = self.json.filter(|&json| json > 0)
            && (json > html_weight || (self.html.is_none() && json == html_weight))
        {
            return Preference::Json;
        }
        if self.html.is_some_and(|html| html > 0) {
            return Preference::Html;
        }
        if best == 0 || self.other.is_some_and(|other| other > 0 && other >= html_weight) {
            return Preference::Nothing;
        }
        if html_weight > 0 && html_weight >= json.unwrap_or(0) { Preference::Html } else { Preference::Json }
    }
}

/// Returns the value of a member without its parameters, and the weight of the member in thousandths. A member without
/// a weight has the weight 1000. A malformed weight is returned as `None`.
fn weighed(member: &[u8]) -> (&[u8], Option<u16>) {
    let (value, parameters) = tokens::with_parameters(member);
    let mut weight = Some(MOST_WEIGHT);
    for parameter in parameters {
        weight = match parameter {
            [b'q' | b'Q', b'=', digits @ ..] => thousandths(digits),
            [b'q' | b'Q'] | [b'q' | b'Q', b' ' | b'\t', ..] => None,
            _ => continue,
        };
        break;
    }
    (value, weight)
}

/// Reads a `qvalue` (RFC 9110 §12.4.2) and returns the number in thousandths. A `qvalue` is 0 or 1, then optionally a
/// point and up to three digits. After a 1 these digits must be zeros. The 0 can be missing if digits follow the point.
pub(crate) fn thousandths(digits: &[u8]) -> Option<u16> {
    let (whole, decimals) = match digits {
        [b'.', decimals @ ..] if (1..=3).contains(&decimals.len()) => (&b'0', decimals),
        [whole] | [whole, b'.'] => (whole, &[][..]),
        [whole, b'.', decimals @ ..] if decimals.len() <= 3 => (whole, decimals),
        _ => return None,
    };
    let mut sum = match whole {
        b'0' => 0,
        b'1' => 1000,
        _ => return None,
    };
    let mut unit = 100;
    for digit in decimals {
        if !digit.is_ascii_digit() {
            return None;
        }
        sum += u16::from(digit - b'0') * unit;
        unit /= 10;
    }
    (sum <= 1000).then_some(sum)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn preference(accept: &str) -> Preference {
        accept_prefers(accept.as_bytes())
    }

    fn coding(lines: &[&str]) -> Coding {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(ACCEPT_ENCODING, HeaderValue::from_str(line).unwrap());
        }
        gzip_acceptance(&headers)
    }

    #[test]
    fn coding_when_gzip_is_preferred_then_is_gzip() {
        for lines in [
            &["gzip"][..],
            &["GZIP"],
            &["x-gzip"],
            &["*"],
            &["gzip, deflate, br"],
            &["br", "gzip"],
            &["br;q=1.0, gzip;q=0.8, *;q=0.1"],
            &["gzip;q=0.001"],
            &["gzip;q=0.5,identity;q=0.5"],
            &["identity;q=0, gzip;q=0.2"],
            &["identity;q=0, *"],
            &["gzip;q=1.000 , *;q=0"],
            &["gzip ; q=0.5"],
            &["deflate;q=\",\", gzip"],
        ] {
            assert_eq!(coding(lines), Coding::Gzip, "{lines:?}");
        }
    }

    #[test]
    fn coding_when_gzip_is_not_preferred_then_is_identity() {
        for lines in [
            &[][..],
            &[""],
            &["identity"],
            &["br"],
            &["gzip;q=0"],
            &["gzip;q=0.000"],
            &["gzip;q=0, *"],
            &["*;q=0"],
            &["identity;q=0"],
            &["identity;q=0.6, gzip;q=0.5"],
            &["gzip;q=0.3, *;q=0.5"],
            &["gzip;q=2"],
            &["gzip;q=0.1234"],
            &["gzip;q=-1"],
            &["gzip;q=1.001"],
            &["gzip;q="],
            &["gzip;q =1"],
            &["gzip;q\t=1"],
            &["gzip", "gzip;q=0"],
            &["gzipped"],
        ] {
            assert_eq!(coding(lines), Coding::Identity, "{lines:?}");
        }
    }

    #[test]
    fn preference_when_accept_favours_html_or_is_unclear_then_is_html() {
        for accept in [
            // pages in Chrome, Firefox and Safari
            "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,\
            application/signed-exchange;v=b3;q=0.7",
            "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/png,image/svg+xml,\
            */*;q=0.8",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            // curl, fetch(), a script
            "*/*",
            // old Internet Explorer, lynx, Java
            "text/html, application/xhtml+xml, */*",
            "text/html, text/plain, text/sgml, text/css, application/xhtml+xml, */*;q=0.01",
            "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2",
            // jQuery for HTML, Turbo
            "text/html, */*; q=0.01",
            "text/vnd.turbo-stream.html, text/html, application/xhtml+xml",
            // other values, some of them malformed
            "text/*",
            "TEXT/HTML",
            "text/html, application/json",
            "application/json;q=0.5, text/html",
            "application/json;q=0.5, */*",
            "image/webp, text/html;q=0.1",
            "",
            "junk",
            "text/html;q=7",
        ] {
            assert_eq!(preference(accept), Preference::Html, "{accept}");
        }
    }

    #[test]
    fn preference_when_accept_favours_json_then_is_json() {
        for accept in [
            "application/json",
            "application/problem+json",
            "application/vnd.github+json",
            "application/json, text/plain, */*",
            "application/json, text/javascript, */*; q=0.01",
            "text/html;q=0.5, application/json",
            "application/problem+json, text/html;q=0.9",
            "application/*",
            "text/html;q=0, */*",
        ] {
            assert_eq!(preference(accept), Preference::Json, "{accept}");
        }
    }

    #[test]
    fn preference_when_accept_favours_neither_html_nor_json_then_is_nothing() {
        for accept in [
            // images in Chrome, Firefox, new and old Safari
            "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8",
            "image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5",
            "image/webp,image/avif,image/jxl,image/heic,image/heic-sequence,video/*;q=0.8,image/png,image/svg+xml,\
            image/*;q=0.8,*/*;q=0.5",
            "image/png,image/svg+xml,image/*;q=0.8,video/*;q=0.8,*/*;q=0.5",
            "image/avif,image/webp,*/*;q=0.8",
            "image/webp,*/*",
            "image/*",
            // style sheets, video, audio, fonts, event streams
            "text/css,*/*;q=0.1",
            "video/webm,video/ogg,video/*;q=0.9,application/ogg;q=0.7,audio/*;q=0.6,*/*;q=0.5",
            "audio/webm,audio/ogg,audio/wav,audio/*;q=0.9,application/ogg;q=0.7,video/*;q=0.6,*/*;q=0.5",
            "application/font-woff2;q=1.0,application/font-woff;q=0.9,*/*;q=0.8",
            "font/*",
            "text/event-stream",
            // no type is acceptable
            "*/*;q=0",
        ] {
            assert_eq!(preference(accept), Preference::Nothing, "{accept}");
        }
    }

    #[test]
    fn qvalue_when_valid_then_is_read_and_when_malformed_then_is_rejected() {
        for (text, wanted) in [
            ("0", 0),
            ("1", 1000),
            ("0.", 0),
            ("1.", 1000),
            ("0.5", 500),
            ("0.05", 50),
            ("0.123", 123),
            ("1.000", 1000),
            (".5", 500),
            (".05", 50),
            (".123", 123),
            (".0", 0),
            (".000", 0),
        ] {
            assert_eq!(thousandths(text.as_bytes()), Some(wanted), "{text}");
        }
        for text in ["", ".", ".1234", ".x", "..5", "2", "1.1", "0.1234", "0,5", "+1", "1e0", "00", "0.x", "0..1"] {
            assert_eq!(thousandths(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn qvalue_when_three_decimals_are_present_then_thousandths_are_exact(weight in 0_u16..=1000) {
            let text = format!("{}.{:03}", weight / 1000, weight % 1000);
            prop_assert_eq!(thousandths(text.as_bytes()), Some(weight));
            if weight < 1000 {
                prop_assert_eq!(thousandths(&text.as_bytes()[1..]), Some(weight), "the leading zero is missing");
            }
        }

        #[test]
        fn preferences_when_text_is_arbitrary_then_reading_does_not_panic(text in "[ -~]{0,80}") {
            let line = text.as_bytes();
            let _ = (accept_prefers(line), coding_acceptance(tokens::members_of_line(line)));
        }

        #[test]
        fn coding_when_named_several_times_then_lowest_weight_is_used(
            members in prop::collection::vec(
                ("gzip|GZip|x-gzip|identity|\\*|br", prop::option::of(0_u16..=1000), "[ \t]{0,2}"),
                0..6,
            ),
            cut in 0_usize..6,
        ) {
            let text: Vec<_> = members
                .iter()
                .map(|(coding, weight, space)| match weight {
                    Some(weight) => format!("{space}{coding}{space};{space}q={}.{:03}", weight / 1000, weight % 1000),
                    None => format!("{coding}{space}"),
                })
                .collect();
            let lowest = |names: &[&str]| {
                let is_named = |coding: &str| names.contains(&coding.to_ascii_lowercase().as_str());
                let named = members.iter().filter(|(coding, _, _)| is_named(coding));
                named.map(|(_, weight, _)| weight.unwrap_or(1000)).min()
            };
            let any = lowest(&["*"]).unwrap_or(0);
            let gzip = lowest(&["gzip", "x-gzip"]).unwrap_or(any);
            let identity = lowest(&["identity"]).unwrap_or(any);
            let br = lowest(&["br"]).unwrap_or(any);
            let wanted = Acceptance { gzip: gzip > 0 && gzip >= identity, br: br > 0 && br >= gzip.max(identity) };
            // The result must not depend on the number of lines or their order.
            let (first, second) = text.split_at(cut.min(text.len()));
            for lines in [
                vec![text.join(",")],
                vec![first.join(","), second.join(",")],
                vec![second.join(" , "), first.join(",")],
            ] {
                let headers: HeaderMap =
                    lines.iter().map(|line| (ACCEPT_ENCODING, HeaderValue::from_str(line).unwrap())).collect();
                let members = tokens::members(&headers, &ACCEPT_ENCODING);
                prop_assert_eq!(coding_acceptance(members), wanted, "{:?}", lines);
            }
        }
    }
}
