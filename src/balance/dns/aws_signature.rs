//! Signatures of requests to AWS, version 4 (AWS4-HMAC-SHA256).
//!
//! The signature is an HMAC that covers the method, the path, the query, two header fields, a digest of the body, the
//! region and the service. The key of this HMAC is derived from the secret by a chain of HMACs. If the secret or a
//! signed part differs, the signature differs.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

/// The ASCII characters that are encoded in a query: all except the unreserved characters of RFC 3986 §2.3.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const RESERVED_IN_PATH: &AsciiSet = &RESERVED.remove(b'/');

/// The access key that signs, and the region and the service in the signature.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signer<'k> {
    pub key: &'k str,
    pub secret: &'k str,
    pub region: &'k str,
    pub service: &'k str,
}

/// The parts of a request that are signed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signed<'r> {
    pub method: &'r str,
    /// The value of the header field Host.
    pub host: &'r str,
    /// The path as the request line has it.
    pub path: &'r str,
    /// The query from [`query`].
    pub query: &'r str,
    /// The value of the header field X-Amz-Date, from [`timestamp`].
    pub date: &'r str,
    pub body: &'r [u8],
}

impl Signer<'_> {
    /// Returns the value of the header field Authorization. The request must also have the header fields Host and
    /// X-Amz-Date.
    pub(super) fn authorization(self, request: Signed<'_>) -> String {
        let day = request.date.get(..8).unwrap_or_default();
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let signed = "host;x-amz-date";
        let canonical = format!(
            "{}\n{}\n{}\nhost:{}\nx-amz-date:{}\n\n{signed}\n{}",
            request.method,
            // For all services except S3, AWS signs the path after it has been encoded once more.
            utf8_percent_encode(request.path, RESERVED_IN_PATH),
            request.query,
            request.host,
            request.date,
            hex(&Sha256::digest(request.body)),
        );
        let text =
            format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", request.date, hex(&Sha256::digest(canonical.as_bytes())));
        let secret = format!("AWS4{}", self.secret);
        let key = [day, self.region, self.service, "aws4_request"]
            .iter()
            .fold(secret.into_bytes(), |key, part| mac(&key, part.as_bytes()));
        let signature = hex(&mac(&key, text.as_bytes()));
        format!("AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}", self.key)
    }
}

fn mac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let Ok(mut hmac) = Hmac::<Sha256>::new_from_slice(key) else { unreachable!("HMAC accepts a key of any length") };
    hmac.update(data);
    hmac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Writes a query in the order and form that the signature needs.
pub(super) fn query(pairs: &[(&str, &str)]) -> String {
    let encoded = |text| utf8_percent_encode(text, RESERVED).to_string();
    let mut pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
    pairs.sort();
    pairs.join("&")
}

/// Writes a time as 20150830T123600Z.
pub(super) fn timestamp(time: OffsetDateTime) -> String {
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", time.hour(), time.minute(), time.second())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key, secret, region and service of AWS' test suite for signatures of version 4.
    const SUITE: Signer<'_> = Signer {
        key: "AKIDEXAMPLE",
        secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
        region: "us-east-1",
        service: "service",
    };

    const REQUEST: Signed<'_> = Signed {
        method: "GET",
        host: "example.amazonaws.com",
        path: "/",
        query: "",
        date: "20150830T123600Z",
        body: b"",
    };

    #[test]
    fn signature_when_request_is_of_the_test_suite_then_equals_the_expected_signature() {
        let sorted = query(&[("Param2", "value2"), ("Param1", "value1")]);
        assert_eq!(sorted, "Param1=value1&Param2=value2");
        let utf8 = query(&[("ሴ", "bar")]);
        for (name, request, signature) in [
            ("get-vanilla", REQUEST, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            (
                "get-vanilla-query-order-key-case",
                Signed { query: &sorted, ..REQUEST },
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            (
                "get-vanilla-utf8-query",
                Signed { query: &utf8, ..REQUEST },
                "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04",
            ),
            (
                "post-vanilla",
                Signed { method: "POST", ..REQUEST },
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
        ] {
            let expected = format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                 SignedHeaders=host;x-amz-date, Signature={signature}"
            );
            assert_eq!(SUITE.authorization(request), expected, "{name}");
        }
    }

    #[test]
    fn signature_when_any_signed_part_differs_then_differs() {
        let usual = SUITE.authorization(REQUEST);
        for request in [
            Signed { method: "POST", ..REQUEST },
            Signed { host: "example.amazonaws.com:443", ..REQUEST },
            Signed { path: "/a", ..REQUEST },
            Signed { query: "a=b", ..REQUEST },
            Signed { date: "20150830T123601Z", ..REQUEST },
            Signed { body: b" ", ..REQUEST },
        ] {
            assert_ne!(SUITE.authorization(request), usual, "{request:?}");
        }
        assert_ne!(Signer { secret: "x", ..SUITE }.authorization(REQUEST), usual);
    }

    #[test]
    fn timestamp_when_written_then_has_no_hyphens_and_no_colons() {
        let time = OffsetDateTime::from_unix_timestamp(1_440_938_160).expect("a time");
        assert_eq!(timestamp(time), "20150830T123600Z");
    }
}
