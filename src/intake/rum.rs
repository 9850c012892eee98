//! Real user monitoring (RUM): reads the load time of a page from a request of a script. The format is that of
//! boomerang and similar scripts.
//!
//! The parameter `t_done` is the load time in milliseconds, and `h.pg` or `page` is the name of the page. The other
//! parameters of boomerang are ignored. The response contains no part of the request, so that a client cannot make this
//! host return a text that the client chose.

use http::StatusCode;

use super::form;
use super::posted::Unread;
use crate::ids::{PageId, label};
use crate::wire::media_types::essence;

/// The longest body that is read, in bytes. The longest body that boomerang sends has half of this length.
pub(crate) const MAX_BODY_BYTES: usize = 16 * 1024;
/// The longest load time that is counted, in milliseconds. A longer time probably comes from a computer that slept
/// while the page loaded.
const MAX_MILLIS: f64 = 600_000.0;
/// The longest number that is read, in bytes. Browsers write up to 17 digits and a decimal point.
const MAX_NUMBER_BYTES: usize = 24;

label! {
    /// The reason why a load time was rejected: the label `reason` of `edgeshim_rum_rejected_total`.
    pub(crate) enum RumReason {
        /// The request has no load time.
        Missing = "missing",
        /// The load time is not a number, or is out of range.
        Number = "number",
        /// The body is not a form.
        MediaType = "media_type",
        /// The body is too long.
        TooLarge = "too_large",
        /// The body did not arrive in time.
        Late = "late",
        /// The body was truncated.
        Cut = "cut",
        /// The method is neither GET nor POST.
        Method = "method",
    }
}

/// One load of a page.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// The load time in seconds.
    pub seconds: f64,
    /// The page that was loaded.
    pub page: PageId,
}

/// Reads the sample from the body. A parameter that is missing in the body is read from the query. `pages` are the
/// configured pages.
pub(crate) fn sample(body: &[u8], query: &str, pages: &[String]) -> Result<Sample, RumReason> {
    let value = |name| form::value(body, name).or_else(|| form::value(query.as_bytes(), name));
    let millis = millis(value("t_done").ok_or(RumReason::Missing)?).ok_or(RumReason::Number)?;
    let page = value("h.pg").or_else(|| value("page"));
    let position = page.and_then(|page| pages.iter().position(|known| page.is(known)));
    Ok(Sample { seconds: millis / 1000.0, page: position.map_or(PageId::OTHER, PageId::configured) })
}

/// Reads a number of milliseconds: digits, and optionally a point and more digits. Signs, exponents and words such as
/// `inf` are not allowed.
fn millis(value: form::Value<'_>) -> Option<f64> {
    let mut text = [0; MAX_NUMBER_BYTES];
    let mut length = 0;
    for byte in value.bytes() {
        *text.get_mut(length)? = byte;
        length += 1;
    }
    let text = str::from_utf8(text.get(..length)?).ok()?;
    let (whole, rest) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(rest) {
        return None;
    }
    text.parse().ok().filter(|millis| *millis <= MAX_MILLIS)
}

/// Returns whether a body with this Content-Type is read as a form. Boomerang posts application/x-www-form-urlencoded,
/// and `navigator.sendBeacon` sends a string as text/plain. A body without a Content-Type is accepted too.
pub(crate) fn is_form(content_type: Option<&[u8]>) -> bool {
    let Some(content_type) = content_type else { return true };
    let essence = essence(content_type);
    [&b"application/x-www-form-urlencoded"[..], b"text/plain"].iter().any(|form| essence.eq_ignore_ascii_case(form))
}

/// Returns the status and the message of the response to a rejected load time.
pub(crate) fn rejection(reason: RumReason) -> (StatusCode, &'static str) {
    match reason {
        RumReason::Missing => {
            (StatusCode::BAD_REQUEST, "t_done is missing: send the load time in milliseconds, such as t_done=1234\n")
        }
        RumReason::Number => (
            StatusCode::BAD_REQUEST,
            "t_done is not a load time: send milliseconds from 0 to 600000, such as t_done=1234 or t_done=1234.5\n",
        ),
        RumReason::MediaType => (
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "this body is not a form: send a form with the type application/x-www-form-urlencoded or text/plain\n",
        ),
        RumReason::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "this body is longer than 16 KiB\n"),
        RumReason::Late => (StatusCode::REQUEST_TIMEOUT, "this body did not arrive in time\n"),
        RumReason::Cut => (StatusCode::BAD_REQUEST, "this body was truncated\n"),
        RumReason::Method => (StatusCode::METHOD_NOT_ALLOWED, "send GET or POST\n"),
    }
}

impl From<Unread> for RumReason {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::TooLarge => Self::TooLarge,
            Unread::Late => Self::Late,
            Unread::Cut => Self::Cut,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pages() -> [String; 2] {
        ["home".to_owned(), "listing".to_owned()]
    }

    #[test]
    fn sample_when_in_body_or_query_then_load_time_and_page_are_read() {
        for (body, query, seconds, page) in [
            ("t_done=1234", "", 1.234, None),
            ("", "t_done=1234.5&h.pg=home", 1.2345, Some(0)),
            ("t_done=0&page=Listing", "", 0.0, Some(1)),
            ("v=1.737.60&t_done=300&h.pg=listing&page=home&u=https%3A%2F%2Fa.test%2F", "", 0.3, Some(1)),
            ("t_done=300", "page=home&t_done=1", 0.3, Some(0)),
            ("t_done=600000&h.pg=unheard-of&page=home", "", 600.0, None),
            ("T_DONE=%33%30%30", "", 0.3, None),
            ("t_done=300&t_done=x", "", 0.3, None),
        ] {
            let page = page.map_or(PageId::OTHER, PageId::configured);
            assert_eq!(sample(body.as_bytes(), query, &pages()), Ok(Sample { seconds, page }), "{body} {query}");
        }
    }

    #[test]
    fn sample_when_load_time_is_missing_or_invalid_then_rejected() {
        for query in ["", "t_done", "x=1", "t_don=1", "t_done1"] {
            assert_eq!(sample(b"", query, &pages()), Err(RumReason::Missing), "{query}");
        }
        for number in [
            "",
            "-1",
            "+1",
            "%2B1",
            "1e3",
            "NaN",
            "inf",
            "infinity",
            "1.",
            ".5",
            "1.2.3",
            "1,5",
            "0x10",
            "12 ",
            " 12",
            "600000.1",
            "600001",
            "99999999999999999999999999",
            "1%00",
            "%ff",
            "١٢",
            "a",
        ] {
            assert_eq!(sample(b"", &format!("t_done={number}"), &pages()), Err(RumReason::Number), "{number}");
        }
    }

    #[test]
    fn content_type_when_sent_by_browsers_for_forms_then_accepted_else_rejected() {
        for form in
            ["application/x-www-form-urlencoded", "Text/Plain;charset=UTF-8", "application/x-www-form-urlencoded ; a=b"]
        {
            assert!(is_form(Some(form.as_bytes())), "{form}");
        }
        assert!(is_form(None));
        for other in ["application/json", "multipart/form-data; boundary=x", "text/plainx", "", ";", "text/html"] {
            assert!(!is_form(Some(other.as_bytes())), "{other}");
        }
    }

    proptest! {
        #[test]
        fn sample_when_body_is_arbitrary_bytes_then_does_not_panic(
            body in proptest::collection::vec(any::<u8>(), 0..8192),
            query in "[ -~]{0,200}",
        ) {
            let _ = sample(&body, &query, &pages());
        }

        #[test]
        fn t_done_when_arbitrary_text_then_is_in_range_or_rejected(text in ".{0,40}") {
            if let Ok(sample) = sample(format!("t_done={text}").as_bytes(), "", &pages()) {
                prop_assert!((0.0..=600.0).contains(&sample.seconds), "a load time of {} s", sample.seconds);
            }
        }

        #[test]
        fn load_time_when_written_as_decimal_then_parsed_to_the_same_number(
            millis in 0_u32..=600_000,
            part in 0_u32..1000,
        ) {
            prop_assume!(millis < 600_000 || part == 0);
            let read = sample(format!("t_done={millis}.{part:03}").as_bytes(), "", &pages());
            let seconds = (f64::from(millis) + f64::from(part) / 1000.0) / 1000.0;
            prop_assert!(read.is_ok_and(|sample| (sample.seconds - seconds).abs() < 1e-9));
        }
    }
}
