//! Turns errors of TLS into faults. The message of a fault contains the problem and, if it is known, the remedy.

use std::error::Error;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, InvalidMessage};

use crate::fault::{Cause, Fault};
use crate::keys::quote;

/// The largest number of names of the origin's certificate in a message.
const MOST_NAMES: usize = 3;

/// Returns the fault for the TLS error in a chain of errors, or `None` if no error of TLS is in the chain.
/// `has_certificate` is true if edgeshim has a client certificate for the origin.
pub(super) fn fault_in(error: &(dyn Error + 'static), has_certificate: bool) -> Option<Fault> {
    error_in(error).map(|error| fault_of(error, has_certificate))
}

/// Returns the error of TLS in a chain of errors.
pub(super) fn error_in<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(error);
        }
        // The `source` of an `io::Error` is the source of its inner error, not the inner error.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

pub(super) fn fault_of(error: &rustls::Error, has_certificate: bool) -> Fault {
    match error {
        rustls::Error::InvalidCertificate(error) => Fault::from_error(Cause::TlsCertificate, certificate(error)),
        rustls::Error::AlertReceived(alert) => Fault::from_error(Cause::TlsAlert, alert_text(*alert, has_certificate)),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Fault::from_error(
            Cause::TlsProtocol,
            "the origin does not speak TLS on this port: if it speaks plain HTTP there, write http:// in origin.url \
             (for the stand-in, in origin.stand_in)",
        ),
        rustls::Error::PeerIncompatible(error) => Fault::from_error(
            Cause::TlsProtocol,
            format!(
                "the origin and edgeshim have no TLS version or cipher suite in common ({error:?}): edgeshim \
                     needs TLS 1.2 with ECDHE, or TLS 1.3"
            ),
        ),
        error => Fault::from_error(Cause::TlsProtocol, format!("the origin broke the TLS protocol ({error})")),
    }
}

fn certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::ExpiredContext { time, not_after } => format!(
            "the origin's certificate expired {} ago: renew the certificate at the origin",
            span(*time, *not_after)
        ),
        CertificateError::Expired => {
            "the origin's certificate has expired: renew the certificate at the origin".to_owned()
        }
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "the origin's certificate becomes valid in {}: check the clocks of both machines",
            span(*not_before, *time)
        ),
        CertificateError::NotValidYet => {
            "the origin's certificate is not valid yet: check the clocks of both machines".to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names: Vec<String> = presented.iter().take(MOST_NAMES).map(|name| bare_name(name)).collect();
            let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
            format!(
                "the origin's certificate is not for {} (it is for {names}): write a name of the certificate in \
                 origin.tls.server_name, or install another certificate at the origin",
                quote(&expected.to_str()),
            )
        }
        CertificateError::NotValidForName => {
            "the origin's certificate is for another name: write a name of the certificate in origin.tls.server_name"
                .to_owned()
        }
        CertificateError::UnknownIssuer => "no trusted authority issued the origin's certificate: in origin.tls.ca, \
                                            write the path of a PEM file with the authority, and configure the origin \
                                            to send the intermediate certificates"
            .to_owned(),
        error => format!("the origin's certificate is not valid ({error}): replace the certificate at the origin"),
    }
}

fn alert_text(alert: AlertDescription, has_certificate: bool) -> String {
    let name = format!("{alert:?}");
    match alert {
        AlertDescription::CertificateRequired => format!(
            "the origin requires a client certificate ({name}): write origin.tls.certificate and origin.tls.key"
        ),
        AlertDescription::HandshakeFailure | AlertDescription::BadCertificate if !has_certificate => format!(
            "the origin ended the handshake ({name}): if the origin requires a client certificate, write \
             origin.tls.certificate and origin.tls.key"
        ),
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError
            if has_certificate =>
        {
            format!(
                "the origin refuses the client certificate ({name}): check origin.tls.certificate, its dates, and the \
                 authorities that the origin accepts"
            )
        }
        AlertDescription::UnrecognisedName => {
            format!("the origin does not know the server name ({name}): write another name in origin.tls.server_name")
        }
        AlertDescription::ProtocolVersion => {
            format!("the origin speaks neither TLS 1.2 nor TLS 1.3 ({name}): update the origin")
        }
        AlertDescription::NoApplicationProtocol => {
            format!("the origin accepts none of the offered protocols ({name}): check origin.http2")
        }
        _ => format!("the origin ended the TLS connection with the alert {name}: see the origin's log"),
    }
}

/// Returns the quoted name from rustls's text for a name of a certificate. For `DnsName("a.test")`, returns `"a.test"`.
fn bare_name(text: &str) -> String {
    quote(text.split('"').nth(1).unwrap_or(text))
}

/// Returns the time between two moments as text, for example `9 days`.
fn span(late: UnixTime, early: UnixTime) -> String {
    let elapsed = Duration::from_secs(late.as_secs().saturating_sub(early.as_secs()));
    let (count, unit) = match elapsed.as_secs() {
        seconds @ 0..120 => (seconds, "second"),
        seconds @ 120..7_200 => (seconds / 60, "minute"),
        seconds @ 7_200..172_800 => (seconds / 3_600, "hour"),
        seconds => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_error_when_inside_an_io_error_then_becomes_a_fault_and_another_io_error_does_not() {
        for (error, has_certificate, cause, words) in [
            (
                rustls::Error::InvalidCertificate(CertificateError::ExpiredContext {
                    time: UnixTime::since_unix_epoch(Duration::from_hours(240)),
                    not_after: UnixTime::since_unix_epoch(Duration::from_hours(24)),
                }),
                false,
                Cause::TlsCertificate,
                "expired 9 days ago",
            ),
            (
                rustls::Error::AlertReceived(AlertDescription::CertificateRequired),
                false,
                Cause::TlsAlert,
                "write origin.tls.certificate",
            ),
            (
                rustls::Error::AlertReceived(AlertDescription::UnknownCA),
                true,
                Cause::TlsAlert,
                "refuses the client certificate",
            ),
            (
                rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType),
                false,
                Cause::TlsProtocol,
                "write http:// in origin.url",
            ),
        ] {
            let error = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
            let fault = fault_in(&error, has_certificate).expect("a fault of TLS");
            assert_eq!(fault.cause(), cause);
            assert!(fault.to_string().contains(words), "{fault}");
        }
        assert!(fault_in(&std::io::Error::other("a reset"), false).is_none());
    }

    #[test]
    fn certificate_names_when_hostile_then_escaped_and_bounded() {
        let hostile = format!("DnsName(\"a\u{1b}[31m{}\")", "b".repeat(500));
        let text = certificate(&CertificateError::NotValidForNameContext {
            expected: rustls::pki_types::ServerName::try_from("a.test").unwrap(),
            presented: vec![hostile; 40],
        });
        assert!(text.len() < 700 && !text.contains('\u{1b}'), "{text}");
    }
}
