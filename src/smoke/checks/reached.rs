//! The checks of the first response: reach, tls, pop, and the signs of a loop.

use std::time::Duration;

use http::StatusCode;

use crate::smoke::recorded::{Outcome, Recorded, shown, spelled};
use crate::smoke::results::Verdict;
use crate::wire::names::{LOCATION, PROXY_STATUS, SERVER};
use crate::wire::tokens::{members, with_parameters};

/// The smallest number of days for which a certificate must still be valid. Certificates are usually renewed earlier,
/// so a shorter time shows that the renewal does not work.
const LEAST_VALID_DAYS: u64 = 7;

/// Whether the edge responds with success. If only TLS fails, or if the request is in a loop, this check passes, and
/// the check `tls` or `loop` fails. `edge` is the host and port of the edge.
pub(crate) fn reach(first: &Outcome, edge: &str) -> Verdict {
    let response = match first {
        Ok(response) => response,
        Err(trouble) if trouble.is_tls() => return Verdict::pass(format!("connected to {edge}")),
        Err(trouble) => return trouble.verdict(),
    };
    if response.status.is_success() {
        let server = match response.text(&SERVER) {
            server if server.is_empty() => String::new(),
            server => format!(", Server: {server}"),
        };
        return Verdict::pass(format!("{edge} responds with {}{server}", response.status.as_u16()));
    }
    if is_loop(response) {
        return Verdict::pass(format!("{edge} responds with {}", response.status.as_u16()));
    }
    Verdict::fail(describe_status(response), "a response with success, such as 200", remedy_of_status(response.status))
}

fn describe_status(response: &Recorded) -> String {
    let mut text = format!("the status {}", response.status.as_u16());
    for field in [&LOCATION, &PROXY_STATUS] {
        if response.has(field) {
            text = format!("{text}, {}: {}", spelled(field), response.text(field));
        }
    }
    text
}

fn remedy_of_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        300..=399 => "write the URL to which the edge redirects",
        401 | 403 => {
            "write a URL that needs no login; if edgeshim refuses the CDN, let the CDN send its name and secret, and \
             see edgeshim_refused_total"
        }
        404 | 410 => {
            "write the URL of an object that exists; if it exists at the origin, correct the CDN's origin path"
        }
        421 => "add the Host that the CDN sends to server.hosts of edgeshim, or let the CDN forward another Host",
        429 => "wait, or raise the limit of requests at the CDN",
        500.. => "find out from the CDN whether it reaches the origin, then see the log of edgeshim and of the origin",
        _ => "write the URL of an object that every client may get",
    }
}

/// Returns whether a response shows that the request was in a loop.
pub(crate) fn is_loop(response: &Recorded) -> bool {
    let names_loop = |member: &[u8]| {
        with_parameters(member).1.any(|parameter| parameter.eq_ignore_ascii_case(b"error=proxy_loop_detected"))
    };
    response.status == StatusCode::LOOP_DETECTED || members(&response.headers, &PROXY_STATUS).any(names_loop)
}

/// The result of the check `loop` if the first response shows a loop.
pub(crate) fn looped(response: &Recorded) -> Verdict {
    Verdict::fail(
        format!("{}: the request came back to a server that had forwarded it", describe_status(response)),
        "a response of the origin",
        "set edgeshim as the origin at the CDN, and check that origin.url of edgeshim does not lead to the CDN",
    )
}

/// What is known about a TLS connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFacts {
    /// The version of TLS, for example `TLSv1_3`.
    pub version: String,
    /// The time until the certificate expires. `None`: the certificate cannot be read.
    pub expires_in: Option<Duration>,
}

/// Whether the edge has a valid certificate. `is_checked` is false if the certificate was not checked (`--insecure`).
pub(crate) fn tls(is_https: bool, is_checked: bool, facts: Option<&TlsFacts>, first: &Outcome) -> Verdict {
    if !is_https {
        return Verdict::skip("the URL begins with http://");
    }
    if let Err(trouble) = first
        && trouble.is_tls()
    {
        return trouble.verdict();
    }
    let Some(facts) = facts else { return Verdict::skip("there is no connection") };
    if !is_checked {
        return Verdict::skip(format!("{}, but with --insecure the certificate is not checked", facts.version));
    }
    let days = facts.expires_in.map(|left| left.as_secs() / 86_400);
    match days {
        Some(days) if days < LEAST_VALID_DAYS => Verdict::fail(
            format!("the certificate expires in {days} days"),
            format!("a certificate that is valid for at least {LEAST_VALID_DAYS} more days"),
            "renew the certificate at the CDN",
        ),
        Some(days) => Verdict::pass(format!("{}, valid for {days} more days", shown(facts.version.as_bytes()))),
        None => Verdict::pass(facts.version.clone()),
    }
}

/// Whether the edge names its point of presence. `field` is the field in which this CDN names it.
pub(crate) fn pop(found: Option<&str>, field: Option<&str>) -> Verdict {
    match (found, field) {
        (Some(pop), _) => Verdict::pass(shown(pop.as_bytes())),
        (None, Some(field)) => Verdict::skip(format!("the response has no {field}")),
        (None, None) => Verdict::skip("it is not known in which field this provider names its point of presence"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smoke::recorded::Trouble;
    use crate::smoke::recorded::tests::response;

    #[test]
    fn reach_when_status_is_no_success_then_fails_with_the_remedy_for_the_status() {
        for (status, remedy) in
            [(301, "redirects"), (403, "secret"), (404, "exists"), (421, "server.hosts"), (502, "reaches")]
        {
            let Verdict::Fail(flaw) = reach(&Ok(response(status, &[], b"")), "a:1") else { panic!("{status}") };
            assert!(flaw.seen.contains(&status.to_string()) && flaw.remedy.contains(remedy), "{flaw:?}");
        }
        assert_eq!(reach(&Ok(response(200, &[], b"")), "a:1").word(), "pass");
        assert_eq!(reach(&Err(Trouble::Connect("refused".to_owned())), "a:1").word(), "fail");
    }

    #[test]
    fn loop_when_status_is_508_or_proxy_status_names_a_loop_then_is_detected_and_reach_passes() {
        for fields in [(508, None), (502, Some(("Proxy-Status", "edge; error=proxy_loop_detected")))] {
            let looped = response(fields.0, fields.1.as_slice(), b"");
            assert!(is_loop(&looped));
            assert_eq!(reach(&Ok(looped), "a:1").word(), "pass");
        }
        assert!(!is_loop(&response(502, &[("Proxy-Status", "edge; error=connection_refused")], b"")));
    }

    #[test]
    fn tls_when_certificate_expires_soon_then_fails() {
        let fine = Ok(response(200, &[], b""));
        let facts = |days: u64| TlsFacts {
            version: "TLSv1_3".to_owned(),
            expires_in: Some(Duration::from_secs(86_400 * days)),
        };
        assert_eq!(tls(true, true, Some(&facts(6)), &fine).word(), "fail");
        assert_eq!(tls(true, true, Some(&facts(8)), &fine).word(), "pass");
        assert_eq!(tls(true, false, Some(&facts(8)), &fine).word(), "skip");
        assert_eq!(tls(false, true, None, &fine).word(), "skip");
        assert_eq!(tls(true, true, None, &Err(Trouble::Tls("x".to_owned()))).word(), "fail");
    }
}
