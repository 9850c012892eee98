//! Turns errors of TLS into faults. The message of a fault contains the problem and, if it is known, the remedy.

use std::error::Error;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, InvalidMessage};

use super::target::Role;
use crate::fault::{Cause, Fault};
use crate::keys::quote;

/// The largest number of names of the server's certificate in a message.
const MOST_NAMES: usize = 3;

/// The server of a TLS connection, for messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Server {
    pub role: Role,
    /// Whether edgeshim has a client certificate for the server.
    pub has_certificate: bool,
}

/// Returns the fault for the TLS error in a chain of errors, or `None` if no error of TLS is in the chain.
pub(super) fn fault_in(error: &(dyn Error + 'static), server: Server) -> Option<Fault> {
    error_in(error).map(|error| fault_of(error, server))
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

pub(super) fn fault_of(error: &rustls::Error, server: Server) -> Fault {
    let name = server.role.name();
    match error {
        rustls::Error::InvalidCertificate(error) => {
            Fault::from_error(Cause::TlsCertificate, certificate(error, server.role))
        }
        rustls::Error::AlertReceived(alert) => Fault::from_error(Cause::TlsAlert, alert_text(*alert, server)),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Fault::from_error(
            Cause::TlsProtocol,
            format!(
                "the {name} does not speak TLS on this port: if it speaks plain HTTP there, write http:// in {}",
                url_key(server.role)
            ),
        ),
        rustls::Error::PeerIncompatible(error) => Fault::from_error(
            Cause::TlsProtocol,
            format!(
                "the {name} and edgeshim have no TLS version or cipher suite in common ({error:?}): edgeshim \
                     needs TLS 1.2 with ECDHE, or TLS 1.3"
            ),
        ),
        error => Fault::from_error(Cause::TlsProtocol, format!("the {name} broke the TLS protocol ({error})")),
    }
}

/// Returns the key with the URL of the server.
fn url_key(role: Role) -> &'static str {
    match role {
        Role::Origin => "origin.url",
        Role::StandIn => "origin.stand_in",
    }
}

/// Returns the key with the name that the server's certificate must have. The stand-in has only its URL.
fn name_key(role: Role) -> &'static str {
    match role {
        Role::Origin => "origin.tls.server_name",
        Role::StandIn => "the URL in origin.stand_in",
    }
}

fn certificate(error: &CertificateError, role: Role) -> String {
    let (server, key) = (role.name(), name_key(role));
    match error {
        CertificateError::ExpiredContext { time, not_after } => format!(
            "the {server}'s certificate expired {} ago: renew the certificate at the {server}",
            span(*time, *not_after)
        ),
        CertificateError::Expired => {
            format!("the {server}'s certificate has expired: renew the certificate at the {server}")
        }
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "the {server}'s certificate becomes valid in {}: check the clocks of both machines",
            span(*not_before, *time)
        ),
        CertificateError::NotValidYet => {
            format!("the {server}'s certificate is not valid yet: check the clocks of both machines")
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names: Vec<String> = presented.iter().take(MOST_NAMES).map(|name| bare_name(name)).collect();
            let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
            format!(
                "the {server}'s certificate is not for {} (it is for {names}): write a name of the certificate in \
                 {key}, or install another certificate at the {server}",
                quote(&expected.to_str()),
            )
        }
        CertificateError::NotValidForName => {
            format!("the {server}'s certificate is for another name: write a name of the certificate in {key}")
        }
        CertificateError::UnknownIssuer => format!(
            "no trusted authority issued the {server}'s certificate: in origin.tls.ca, write the path of a PEM file \
             with the authority, and configure the {server} to send the intermediate certificates"
        ),
        error => {
            format!("the {server}'s certificate is not valid ({error}): replace the certificate at the {server}")
        }
    }
}

fn alert_text(alert: AlertDescription, Server { role, has_certificate }: Server) -> String {
    let (name, server) = (format!("{alert:?}"), role.name());
    // edgeshim has a client certificate only for the origin.
    let remedy = match role {
        Role::Origin => "write origin.tls.certificate and origin.tls.key",
        Role::StandIn => "configure the stand-in to require none, because edgeshim sends none to the stand-in",
    };
    match alert {
        AlertDescription::CertificateRequired => {
            format!("the {server} requires a client certificate ({name}): {remedy}")
        }
        AlertDescription::HandshakeFailure | AlertDescription::BadCertificate if !has_certificate => format!(
            "the {server} ended the handshake ({name}): if the {server} requires a client certificate, {remedy}"
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
                "the {server} refuses the client certificate ({name}): check origin.tls.certificate, its dates, and \
                 the authorities that the {server} accepts"
            )
        }
        AlertDescription::UnrecognisedName => {
            format!("the {server} does not know the server name ({name}): write another name in {}", name_key(role))
        }
        AlertDescription::ProtocolVersion => {
            format!("the {server} speaks neither TLS 1.2 nor TLS 1.3 ({name}): update the {server}")
        }
        AlertDescription::NoApplicationProtocol => match role {
            Role::Origin => {
                format!("the origin accepts none of the offered protocols ({name}): check origin.http2")
            }
            Role::StandIn => format!("the stand-in does not accept HTTP/1.1 ({name}): allow HTTP/1.1 at the stand-in"),
        },
        _ => format!("the {server} ended the TLS connection with the alert {name}: see the {server}'s log"),
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
            let server = Server { role: Role::Origin, has_certificate };
            let fault = fault_in(&error, server).expect("a fault of TLS");
            assert_eq!(fault.cause(), cause);
            assert!(fault.to_string().contains(words), "{fault}");
        }
        let server = Server { role: Role::Origin, has_certificate: false };
        assert!(fault_in(&std::io::Error::other("a reset"), server).is_none());
    }

    #[test]
    fn tls_error_when_of_the_stand_in_then_message_names_only_keys_of_the_stand_in() {
        use rustls::Error::{AlertReceived, InvalidCertificate};

        let server = Server { role: Role::StandIn, has_certificate: false };
        for (error, words) in [
            (InvalidCertificate(CertificateError::NotValidForName), "write a name of the certificate in the URL in"),
            (InvalidCertificate(CertificateError::UnknownIssuer), "in origin.tls.ca, write the path"),
            (InvalidCertificate(CertificateError::Expired), "renew the certificate at the stand-in"),
            (AlertReceived(AlertDescription::CertificateRequired), "configure the stand-in to require none"),
            (AlertReceived(AlertDescription::HandshakeFailure), "configure the stand-in to require none"),
            (AlertReceived(AlertDescription::NoApplicationProtocol), "allow HTTP/1.1 at the stand-in"),
            (AlertReceived(AlertDescription::UnrecognisedName), "write another name in the URL in origin.stand_in"),
            (rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType), "write http:// in origin.stand_in"),
            (rustls::Error::DecryptError, "the stand-in broke the TLS protocol"),
        ] {
            let text = fault_of(&error, server).to_string();
            assert!(text.contains(words) && text.contains("the stand-in"), "{text}");
            for wrong in ["the origin", "origin.url", "origin.http2", "tls.server_name", "tls.certificate"] {
                assert!(!text.contains(wrong), "{wrong}: {text}");
            }
        }
    }

    #[test]
    fn certificate_names_when_hostile_then_escaped_and_bounded() {
        let hostile = format!("DnsName(\"a\u{1b}[31m{}\")", "b".repeat(500));
        let error = CertificateError::NotValidForNameContext {
            expected: rustls::pki_types::ServerName::try_from("a.test").unwrap(),
            presented: vec![hostile; 40],
        };
        let text = certificate(&error, Role::Origin);
        assert!(text.len() < 700 && !text.contains('\u{1b}'), "{text}");
    }
}
