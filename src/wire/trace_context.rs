//! Request ids and traceparent (W3C Trace Context, level 1): checks of received ids, and new ids.

use std::ops::Range;

use bytes::Bytes;
use http::HeaderValue;

use super::hex;

/// The length of a traceparent, in bytes: `00-`, 32 hex digits, `-`, 16 hex digits, `-` and 2 hex digits.
const TRACEPARENT_LENGTH: usize = 55;
/// The positions of the trace id and of the parent id in a traceparent.
const TRACE: Range<usize> = 3..35;
const PARENT: Range<usize> = 36..52;

/// Returns whether a request id from a peer can be used. The id must have 1 to 128 characters of `[A-Za-z0-9._-]`.
pub(crate) fn valid_request_id(id: &[u8]) -> bool {
    (1..=128).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Returns whether a traceparent is valid and can be forwarded.
///
/// A value of version 00 is exactly `00-trace-parent-flags` in lower-case hex. In any version, the trace id and the
/// parent id must not be all zeros. A value of a later version can have more text after another dash. Version ff is
/// invalid.
pub(crate) fn valid_traceparent(value: &[u8]) -> bool {
    let Some((head, rest)) = value.split_first_chunk::<TRACEPARENT_LENGTH>() else { return false };
    // These loops have a fixed length and no early end, so the compiler can check many bytes at once.
    let hex = |part: &[u8]| part.iter().fold(true, |all, byte| all & matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let nonzero = |part: &[u8]| part.iter().fold(0, |any, byte| any | (byte ^ b'0')) != 0;
    let dashes = [head[TRACE.start - 1], head[TRACE.end], head[PARENT.end]];
    let [version, trace, parent, flags] = [0..TRACE.start - 1, TRACE, PARENT, PARENT.end + 1..TRACEPARENT_LENGTH];
    dashes == [b'-'; 3]
        && hex(&head[version.clone()])
        && hex(&head[trace.clone()])
        && hex(&head[parent.clone()])
        && hex(&head[flags])
        && nonzero(&head[trace])
        && nonzero(&head[parent])
        && match &head[version] {
            b"00" => rest.is_empty(),
            b"ff" => false,
            _ => matches!(rest, [] | [b'-', ..]),
        }
}

/// Makes a request id and a traceparent from 24 random bytes. The request id has 32 hex digits, which are also the
/// trace id of the traceparent.
///
/// The flags of the traceparent are 01: the trace is sampled. Without this flag, a tracer at the origin that follows
/// the received flags would record nothing.
///
/// The two values share one buffer, so the function allocates once.
pub(crate) fn make_ids(random: [u8; 24]) -> (HeaderValue, HeaderValue) {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
    let (trace, parent) = random.split_at(16);
    if let Some(digits) = text.get_mut(TRACE) {
        write_hex(digits, trace);
    }
    if let Some(digits) = text.get_mut(PARENT) {
        write_hex(digits, parent);
    }
    // `from_owner` makes one allocation for the text and its reference count. `Bytes` from a Vec would allocate again
    // at the first clone or slice.
    let block = Bytes::from_owner(text);
    let id = HeaderValue::from_maybe_shared(block.slice(TRACE));
    let traceparent = HeaderValue::from_maybe_shared(block);
    // A text of hex digits and dashes is always a valid value.
    match (id, traceparent) {
        (Ok(id), Ok(traceparent)) => (id, traceparent),
        _ => (HeaderValue::from_static("0"), HeaderValue::from_static("0")),
    }
}

/// Writes `bytes`, whose number is a multiple of 4, in lower-case hex. If all bytes are 0, the last digit becomes 1,
/// because an id of zeros is invalid.
fn write_hex(text: &mut [u8], bytes: &[u8]) {
    let mut all = 0;
    for (digits, four) in text.as_chunks_mut().0.iter_mut().zip(bytes.as_chunks().0) {
        let four = u32::from_be_bytes(*four);
        *digits = hex::eight_digits(four);
        all |= four;
    }
    if all == 0
        && let Some(last) = text.last_mut()
    {
        *last = b'1';
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn request_id_when_too_long_or_with_invalid_characters_then_rejected() {
        for id in ["a", "A-b_c.9", "4bf92f3577b34da6a3ce929d0e0e4736"] {
            assert!(valid_request_id(id.as_bytes()), "{id}");
        }
        assert!(valid_request_id(&[b'x'; 128]));
        assert!(!valid_request_id(&[b'x'; 129]));
        for id in ["", "a b", "a\"", "\u{e4}", "a/b", "a,b", "a\n"] {
            assert!(!valid_request_id(id.as_bytes()), "{id}");
        }
    }

    #[test]
    fn traceparent_when_malformed_then_rejected() {
        for good in [
            GOOD.to_owned(),
            GOOD.replacen("00", "01", 1),
            GOOD.replacen("00", "cc", 1) + "-what-ever",
            GOOD.replace("-01", "-ff"),
        ] {
            assert!(valid_traceparent(good.as_bytes()), "{good}");
        }
        for bad in [
            String::new(),
            GOOD.to_ascii_uppercase(),
            GOOD.to_owned() + "-x",
            GOOD.to_owned() + "0",
            GOOD[..54].to_owned(),
            GOOD.replacen("00", "ff", 1),
            GOOD.replacen("00", "01", 1) + "x",
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GOOD.replace("4bf9", "4bg9"),
            GOOD.replace('-', "_"),
            GOOD.replace("4736-00f0", "473-600f0"),
        ] {
            assert!(!valid_traceparent(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn ids_when_random_bytes_are_zeros_then_last_digits_are_1() {
        let (id, traceparent) = make_ids([0; 24]);
        assert_eq!(id, format!("{}1", "0".repeat(31)));
        assert_eq!(traceparent, format!("00-{}1-{}1-01", "0".repeat(31), "0".repeat(15)));
    }

    proptest! {
        #[test]
        fn request_id_when_made_then_is_valid_and_equals_the_trace_id(random in any::<[u8; 24]>()) {
            let (id, traceparent) = make_ids(random);
            prop_assert!(valid_request_id(id.as_bytes()) && id.len() == 32);
            prop_assert!(valid_traceparent(traceparent.as_bytes()));
            prop_assert_eq!(id.as_bytes(), &traceparent.as_bytes()[3..35]);
            let wanted = random.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
            if random[..16].iter().any(|&byte| byte != 0) {
                prop_assert_eq!(id.to_str().unwrap(), &wanted[..32]);
            }
        }

        #[test]
        fn ids_when_bytes_are_arbitrary_then_validation_does_not_panic(
            value in prop::collection::vec(any::<u8>(), 0..70)
        ) {
            let _ = (valid_request_id(&value), valid_traceparent(&value));
        }
    }
}
