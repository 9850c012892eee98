//! The header fields in which a machine that ends TLS reports the certificate of its client: Client-Cert (RFC 9440) and
//! X-Forwarded-Client-Cert, in the form that Envoy writes.
//!
//! edgeshim uses these fields only if a trusted proxy sent them. The proxy has checked the chain, so this code does not
//! check the chain. If the field contains the certificate, this code checks the dates of the certificate and, in
//! X-Forwarded-Client-Cert, compares the certificate with the hash in the field.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::certificate::{Certificate, Facts, fingerprint};
use super::names::{CLIENT_CERT, X_FORWARDED_CLIENT_CERT};
use super::values::{Lines, only_line};

/// A header field that reports a client certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateField {
    /// Client-Cert (RFC 9440).
    ClientCert,
    /// X-Forwarded-Client-Cert. Only its last element is used, because each proxy appends an element.
    XForwardedClientCert,
}

/// The reason why a field reports no usable certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoCertificate {
    /// The field is absent.
    Absent,
    /// The field is malformed, contains neither a certificate nor a hash, or contains a hash that does not match its
    /// certificate. Also used if the certificate is expired or not valid yet.
    Unusable,
}

impl CertificateField {
    pub(crate) const ALL: [Self; 2] = [Self::ClientCert, Self::XForwardedClientCert];

    /// Returns the name of the field.
    pub(crate) fn name(self) -> &'static HeaderName {
        match self {
            Self::ClientCert => &CLIENT_CERT,
            Self::XForwardedClientCert => &X_FORWARDED_CLIENT_CERT,
        }
    }

    /// Reads the certificate that the field reports.
    pub(crate) fn read(self, headers: &HeaderMap, now: SystemTime) -> Result<Certificate, NoCertificate> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        match self {
            Self::ClientCert => client_cert(headers, now),
            Self::XForwardedClientCert => {
                let line = headers.get_all(self.name()).iter().next_back().ok_or(NoCertificate::Absent)?;
                line.to_str().ok().and_then(|line| last_element(line, now)).ok_or(NoCertificate::Unusable)
            }
        }
    }
}

/// Reads Client-Cert: a structured field with one byte sequence, the certificate (DER).
fn client_cert(headers: &HeaderMap, now: i64) -> Result<Certificate, NoCertificate> {
    let line = match only_line(headers, &CLIENT_CERT) {
        Ok(line) => line.as_bytes(),
        Err(Lines::None) => return Err(NoCertificate::Absent),
        Err(Lines::Several) => return Err(NoCertificate::Unusable),
    };
    let encoded = line.strip_prefix(b":").and_then(|line| line.strip_suffix(b":"));
    let der = encoded.and_then(|encoded| STANDARD.decode(encoded).ok());
    der.and_then(|der| of_der(&der, now)).ok_or(NoCertificate::Unusable)
}

fn of_der(der: &[u8], now: i64) -> Option<Certificate> {
    let facts = Facts::read(der).filter(|facts| facts.is_valid_at(now))?;
    Some(Certificate { names: facts.names, sha256: fingerprint(der), authorities: Vec::new() })
}

/// Reads the last element of X-Forwarded-Client-Cert. An element is a list of `name=value`, separated by `;`. A value
/// can be in double quotes. In a quoted value, `\` makes the next character literal. Elements are separated by `,`.
fn last_element(line: &str, now: i64) -> Option<Certificate> {
    let mut element = Element::default();
    let mut rest = line;
    loop {
        let (name, after) = rest.split_once('=')?;
        let (value, after) = value(after)?;
        element.add(name.trim(), value)?;
        match after.trim_start().split_at_checked(1) {
            None => return element.certificate(now),
            Some((";", after)) => rest = after,
            Some((",", after)) => (element, rest) = (Element::default(), after),
            Some(_) => return None,
        }
    }
}

/// Returns the value at the start of a text, and the rest of the text. Returns `None` if a quoted value has no closing
/// quote, or if an unquoted value contains a quote.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find([';', ',']).unwrap_or(text.len()));
        return (!value.contains('"')).then(|| (value.trim_end().to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, quoted.get(at + 1..)?)),
            '\\' => value.push(characters.next()?.1),
            _ => value.push(character),
        }
    }
    None
}

/// The parts of one element that edgeshim uses.
#[derive(Default)]
struct Element {
    names: Vec<String>,
    sha256: Option<[u8; 32]>,
    certificate: Option<CertificateDer<'static>>,
}

impl Element {
    /// Stores one part. Returns `None` if the value of `hash` or `cert` has the wrong form, or if one of these two
    /// names occurs twice.
    fn add(&mut self, name: &str, value: String) -> Option<()> {
        if name.eq_ignore_ascii_case("dns") {
            self.names.push(value);
        } else if name.eq_ignore_ascii_case("hash") {
            if self.sha256.replace(sha256(&value)?).is_some() {
                return None;
            }
        } else if name.eq_ignore_ascii_case("cert") {
            let pem: Vec<u8> = percent_decode_str(&value).collect();
            if self.certificate.replace(CertificateDer::from_pem_slice(&pem).ok()?).is_some() {
                return None;
            }
        }
        Some(())
    }

    fn certificate(self, now: i64) -> Option<Certificate> {
        let read = match &self.certificate {
            Some(der) => Some(of_der(der, now)?),
            None => None,
        };
        let sha256 = read.as_ref().map(|read| read.sha256);
        if let (Some(read), Some(told)) = (sha256, self.sha256)
            && read != told
        {
            return None;
        }
        let names = if self.names.is_empty() { read.map_or_else(Vec::new, |read| read.names) } else { self.names };
        Some(Certificate { names, sha256: sha256.or(self.sha256)?, authorities: Vec::new() })
    }
}

fn sha256(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        for &digit in pair {
            *byte = (*byte << 4) | u8::try_from(char::from(digit).to_digit(16)?).ok()?;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair};

    use super::super::hex;
    use super::*;

    const NOW: Duration = Duration::from_secs(1_600_000_000);

    fn certificate(first_year: i32) -> (Vec<u8>, String) {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new(["edge.example".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(first_year, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(first_year + 1, 1, 1);
        let certificate = parameters.self_signed(&key).unwrap();
        (certificate.der().to_vec(), utf8_percent_encode(&certificate.pem(), NON_ALPHANUMERIC).to_string())
    }

    fn read(field: CertificateField, lines: &[&str]) -> Result<Certificate, NoCertificate> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(field.name(), HeaderValue::from_str(line).unwrap());
        }
        field.read(&headers, UNIX_EPOCH + NOW)
    }

    #[test]
    fn client_cert_when_valid_then_names_and_hash_of_certificate_are_read() {
        let (der, _) = certificate(2020);
        let line = format!(":{}:", STANDARD.encode(&der));
        let found = read(CertificateField::ClientCert, &[&line]).unwrap();
        assert_eq!(found.names, ["edge.example"]);
        assert_eq!((found.sha256, found.authorities), (fingerprint(&der), Vec::new()));
    }

    #[test]
    fn client_cert_when_malformed_repeated_or_not_valid_now_then_is_unusable() {
        let valid = format!(":{}:", STANDARD.encode(certificate(2020).0));
        let expired = format!(":{}:", STANDARD.encode(certificate(2018).0));
        let future = format!(":{}:", STANDARD.encode(certificate(2021).0));
        for lines in [
            &[&valid[1..]][..],
            &[&valid[..valid.len() - 1]],
            &["::"],
            &[":%%:"],
            &[":AAAA:"],
            &[&valid, &valid],
            &[&expired],
            &[&future],
            &[""],
        ] {
            assert_eq!(read(CertificateField::ClientCert, lines), Err(NoCertificate::Unusable), "{lines:?}");
        }
        assert_eq!(read(CertificateField::ClientCert, &[]), Err(NoCertificate::Absent));
    }

    #[test]
    fn x_forwarded_client_cert_when_valid_then_last_element_is_read() {
        let (der, pem) = certificate(2020);
        let hash = hex::text(&fingerprint(&der));
        let other = "0".repeat(64);
        for (line, names) in [
            (format!("Hash={hash};DNS=a.example;DNS=b.example"), &["a.example", "b.example"][..]),
            (format!("By=spiffe://x;hash={hash};Subject=\"CN=a, \\\"b\\\"\";URI=;dns=a.example"), &["a.example"]),
            (format!("Hash={hash};Cert=\"{pem}\""), &["edge.example"]),
            (format!("Cert=\"{pem}\";DNS=a.example"), &["a.example"]),
            (format!("Hash={other};DNS=evil.example,Hash={hash};DNS=a.example"), &["a.example"]),
            (format!("Hash={hash}"), &[]),
        ] {
            let found = read(CertificateField::XForwardedClientCert, &[&line]).unwrap();
            assert_eq!(found.names, names, "{line}");
            assert_eq!(found.sha256, fingerprint(&der), "{line}");
        }
        let last = format!("Hash={hash};DNS=a.example");
        let forged = format!("Hash={other};DNS=evil.example");
        let found = read(CertificateField::XForwardedClientCert, &[&forged, &last]).unwrap();
        assert_eq!(found.names, ["a.example"]);
    }

    #[test]
    fn x_forwarded_client_cert_when_malformed_contradictory_or_expired_then_is_unusable() {
        let (der, pem) = certificate(2020);
        let (_, expired) = certificate(2018);
        let (hash, other) = (hex::text(&fingerprint(&der)), "0".repeat(64));
        for line in [
            String::new(),
            "DNS=a.example".to_owned(),
            format!("Hash={hash}0;DNS=a.example"),
            format!("Hash={};DNS=a.example", hash.replacen(|_: char| true, "x", 1)),
            format!("Hash={hash};Hash={other}"),
            format!("Hash={other};Cert=\"{pem}\""),
            format!("Cert=\"{expired}\""),
            format!("Hash={hash};Subject=\"open"),
            format!("Hash={hash};Subject=\"a\"b"),
            format!("Hash={hash},"),
            // An attack: the client sent `A="`. This quoted string ends inside the element that the proxy appended.
            format!("A=\",Hash={hash};Subject=\"CN=a\";DNS=a.example"),
        ] {
            let found = read(CertificateField::XForwardedClientCert, &[&line]);
            assert_eq!(found, Err(NoCertificate::Unusable), "{line}");
        }
        assert_eq!(read(CertificateField::XForwardedClientCert, &[]), Err(NoCertificate::Absent));
    }

    proptest! {
        #[test]
        fn certificate_fields_when_text_is_arbitrary_then_reading_does_not_panic(
            text in "[ -~]{0,60}", near in "(Hash|DNS|Cert)=[\"\\\\;,=a%0-9]{0,30}",
        ) {
            for field in CertificateField::ALL {
                let _ = (read(field, &[&text]), read(field, &[&near]));
            }
        }
    }
}
