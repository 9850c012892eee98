//! The checks that need edgeshim at the origin and `--token`: error-not-cached, loop, provider, forwarded-address, and
//! the part of cookies that uses signed paths. These checks read the reports in the responses of edgeshim to signed
//! paths.

use std::net::IpAddr;
use std::time::Duration;

use crate::intake::echo_report::EchoReport;
use crate::smoke::recorded::{Outcome, Recorded, shown};
use crate::smoke::results::Verdict;
use crate::wire::forwarded::entry_address;
use crate::wire::hops::PSEUDONYM;
use crate::wire::names::SET_COOKIE;
use crate::wire::tokens::{of_line, with_parameters};

/// The reason of checks that are skipped without a token.
pub(crate) const NO_TOKEN: &str = "needs edgeshim with smoke.token at the origin, and --token here";
/// The client address that smoke sends, as if smoke were a proxy. It is reserved for documentation (RFC 5737), so no
/// client has this address.
pub(crate) const FORGED: &str = "203.0.113.99";
/// The longest time from the end of a failure until the edge must respond with success again.
pub(crate) const MOST_RECOVERY: Duration = Duration::from_secs(2);

/// Describes why a signed path led to no report.
pub(crate) fn no_echo(outcome: &Outcome) -> Verdict {
    match outcome {
        Err(trouble) => trouble.later_verdict(),
        Ok(response) if response.decoded().is_ok_and(|body| EchoReport::is_similar(&body)) => Verdict::fail(
            "a report that edgeshim did not sign for this request",
            "a report with a valid signature (its keys nonce and mac)",
            "check that the CDN sends the responses of edgeshim unchanged, and that its cache key has the complete \
             path; if edgeshim at the origin is older than this program, install the same version",
        ),
        Ok(response) => Verdict::fail(
            format!("the status {} for a signed path, and no report of edgeshim", response.status.as_u16()),
            "a report of edgeshim",
            "check that smoke.token of edgeshim equals --token, that the clocks differ by less than a minute, and that \
             the CDN forwards paths below /.edgeshim/ to edgeshim",
        ),
    }
}

/// Whether edgeshim recognises the CDN. `expected` is the provider that `--provider` names.
pub(crate) fn provider(echo: &EchoReport, expected: Option<&str>) -> Verdict {
    let (found, proof) = (shown(echo.provider.as_bytes()), shown(echo.proof.as_bytes()));
    let is_expected = expected.is_none_or(|expected| echo.provider.eq_ignore_ascii_case(expected));
    let seen = format!("edgeshim sees the provider {found}, proof: {proof}");
    let wanted = format!("the provider {}", expected.unwrap_or("that is configured"));
    match echo.provider.as_str() {
        "none" => Verdict::fail(seen, wanted, "let the CDN send X-CDN-Provider with its name"),
        "other" => Verdict::fail(
            seen,
            wanted,
            "add a [[provider]] with this name to edgeshim, or correct X-CDN-Provider; if another CDN is in between, \
             let the nearest CDN send its own name",
        ),
        "unverified" => {
            Verdict::fail(seen, wanted, "let the CDN send the proof of [provider.verify], such as its secret")
        }
        _ if !is_expected => {
            Verdict::fail(seen, wanted, "correct X-CDN-Provider at the CDN, or write the right --provider")
        }
        _ => Verdict::pass(format!("edgeshim sees {found}, proof: {proof}")),
    }
}

/// Whether edgeshim gets the client's address. `ours` is the local address of the connection to the edge. The request
/// had the address [`FORGED`] in X-Forwarded-For, and in the CDN's own field if the CDN has such a field.
pub(crate) fn forwarded_address(echo: &EchoReport, ours: Option<IpAddr>) -> Verdict {
    let ours_text = ours.map_or_else(|| "the address of this host".to_owned(), |ours| ours.to_string());
    let client = shown(echo.client.as_bytes());
    if echo.client == FORGED {
        return Verdict::fail(
            format!("edgeshim uses the forged client address {FORGED}"),
            ours_text,
            "let the CDN overwrite its field with the client's address, and list only your own proxies in \
             server.trusted_proxies",
        );
    }
    let compared = |address: Option<IpAddr>| match (address.map(|address| address.to_canonical()), ours) {
        (Some(address), Some(ours)) if address == ours.to_canonical() => Some(""),
        (_, ours) if ours.is_none_or(is_behind_nat) => {
            Some(" (this host is behind NAT or a tunnel, so the address cannot be compared)")
        }
        _ => None,
    };
    if echo.client_proven {
        if let Some(note) = compared(client.parse().ok()) {
            return Verdict::pass(format!("edgeshim sees {client}, and ignores a forged address{note}"));
        }
        return Verdict::fail(
            format!("edgeshim sees the client {client}"),
            ours_text,
            "let the CDN send the address of the client that connects to it, in the field of its preset",
        );
    }
    let last = of_line(echo.x_forwarded_for.as_bytes()).last().and_then(entry_address);
    match last {
        None => Verdict::fail(
            "no client address arrives: X-Forwarded-For is missing or not valid",
            format!("X-Forwarded-For that ends with {ours_text}"),
            "let the CDN append the client's address to X-Forwarded-For",
        ),
        Some(address) if address.to_string() == FORGED => Verdict::fail(
            format!("X-Forwarded-For ends with the forged address {FORGED}"),
            format!("X-Forwarded-For that ends with {ours_text}"),
            "let the CDN append the client's address to X-Forwarded-For, after what the client sent",
        ),
        Some(address) => match compared(Some(address)) {
            Some(note) => Verdict::pass(format!(
                "X-Forwarded-For ends with {address}{note}; edgeshim does not use this field, because this provider \
                 gave no proof"
            )),
            None => Verdict::fail(
                format!("X-Forwarded-For ends with {address}"),
                format!("X-Forwarded-For that ends with {ours_text}"),
                "let the CDN append to X-Forwarded-For the address of the client that connects to it",
            ),
        },
    }
}

fn is_behind_nat(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_private() || address.is_loopback() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local(),
    }
}

/// Whether edgeshim would notice a loop, and whether the request reached edgeshim only once. `mark` is the member that
/// smoke wrote into CDN-Loop.
pub(crate) fn no_loop(echo: &EchoReport, mark: &str) -> Verdict {
    let in_loop = |name: &str| {
        let name = name.as_bytes();
        of_line(echo.cdn_loop.as_bytes()).any(|member| with_parameters(member).0.eq_ignore_ascii_case(name))
    };
    // A member of Via is a protocol, a name and a comment (RFC 9110 §7.6.3).
    let in_via = |member: &[u8]| {
        let mut words = member.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        words.nth(1).is_some_and(|name| name.eq_ignore_ascii_case(PSEUDONYM.as_bytes()))
    };
    if in_loop(PSEUDONYM) || of_line(echo.via.as_bytes()).any(in_via) {
        let (cdn_loop, via) = (shown(echo.cdn_loop.as_bytes()), shown(echo.via.as_bytes()));
        return Verdict::fail(
            format!("the request had passed edgeshim before (CDN-Loop: {cdn_loop}; Via: {via})"),
            "one pass",
            "correct the origin at the CDN, and origin.url of edgeshim: origin.url must not lead back to a CDN",
        );
    }
    if !in_loop(mark) {
        return Verdict::fail(
            format!("the edge removes CDN-Loop of the request (CDN-Loop: {})", shown(echo.cdn_loop.as_bytes())),
            format!("CDN-Loop with {mark}"),
            "remove the rule at the CDN that drops CDN-Loop (RFC 8586): edgeshim needs CDN-Loop to stop loops",
        );
    }
    Verdict::pass("one pass, and CDN-Loop arrives, so edgeshim would stop a loop")
}

/// Whether the second client gets a response of its own, and not the response that sets the cookie of the first client.
pub(crate) fn cookie(first: (&Recorded, &EchoReport), second: (&Recorded, &EchoReport)) -> Verdict {
    if first.1.id == second.1.id {
        return Verdict::fail(
            "two clients got the same response, which sets a cookie and has Cache-Control: private",
            "a response of its own for each client",
            "remove the rule at the CDN that stores responses with Set-Cookie, or overrides Cache-Control: private",
        );
    }
    if first.0.has(&SET_COOKIE) {
        Verdict::pass("each client gets a cookie of its own")
    } else {
        Verdict::pass("the edge removes cookies, and stores no response that had one")
    }
}

/// What was seen after a forced 503.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recovery {
    /// The status of the first response.
    pub first: u16,
    /// The time from the end of the failure at edgeshim to the first report of edgeshim with success. `None`: no such
    /// report arrived.
    pub after: Option<Duration>,
    /// The status of the last response.
    pub last: u16,
    /// The time for which smoke waited for a success.
    pub limit: Duration,
}

/// Whether the edge responds with success within [`MOST_RECOVERY`] after the origin does.
pub(crate) fn error_not_cached(recovery: &Recovery) -> Verdict {
    let Recovery { first, after, last, limit } = recovery;
    if *first < 500 {
        return Verdict::skip(format!("the forced 503 did not arrive: the edge sent {first}"));
    }
    if let Some(after) = after.filter(|after| *after <= MOST_RECOVERY) {
        return Verdict::pass(format!("{first}, then success {:.1} s after the origin recovered", after.as_secs_f64()));
    }
    let time = after.map_or_else(
        || format!("more than {:.0} s", limit.as_secs_f64()),
        |after| format!("{:.1} s", after.as_secs_f64()),
    );
    Verdict::fail(
        if *last < 300 && after.is_none() {
            format!("after {first}, the edge sent {last} with a page that is not from edgeshim, for {time}")
        } else {
            format!("the edge still sent {first} for {time} after the origin had recovered")
        },
        format!("the report of edgeshim with success within {} s", MOST_RECOVERY.as_secs()),
        "set the time for which the CDN stores errors to 0 (error caching, negative caching): the 503 had no-store",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smoke::recorded::tests::response;

    fn echo() -> EchoReport {
        EchoReport {
            id: "1".to_owned(),
            provider: "fastly".to_owned(),
            proof: "secret".to_owned(),
            client: "198.51.100.7".to_owned(),
            client_proven: true,
            cdn_loop: "smoke-1, Fastly".to_owned(),
            ..EchoReport::default()
        }
    }

    #[test]
    fn provider_when_it_is_not_the_named_one_then_fails() {
        let word =
            |name: &str, expected| provider(&EchoReport { provider: name.to_owned(), ..echo() }, expected).word();
        assert_eq!(word("fastly", Some("Fastly")), "pass");
        assert_eq!(word("fastly", None), "pass");
        assert_eq!(word("akamai", Some("fastly")), "fail");
        for bad in ["none", "other", "unverified"] {
            assert_eq!(word(bad, None), "fail", "{bad}");
        }
    }

    #[test]
    fn address_when_forged_missing_or_of_another_host_then_fails() {
        let ours = Some("198.51.100.7".parse().unwrap());
        assert_eq!(forwarded_address(&echo(), ours).word(), "pass");
        assert_eq!(forwarded_address(&echo(), Some("10.0.0.1".parse().unwrap())).word(), "pass");
        assert_eq!(forwarded_address(&echo(), Some("198.51.100.8".parse().unwrap())).word(), "fail");
        assert_eq!(forwarded_address(&EchoReport { client: FORGED.to_owned(), ..echo() }, ours).word(), "fail");
        let unproven = |chain: &str| EchoReport { client_proven: false, x_forwarded_for: chain.to_owned(), ..echo() };
        assert_eq!(forwarded_address(&unproven("203.0.113.99, 198.51.100.7"), ours).word(), "pass");
        assert_eq!(forwarded_address(&unproven("8.8.8.8"), ours).word(), "fail");
        assert_eq!(forwarded_address(&unproven("8.8.8.8"), Some("10.0.0.1".parse().unwrap())).word(), "pass");
        assert_eq!(forwarded_address(&unproven("::ffff:198.51.100.7"), ours).word(), "pass");
        assert_eq!(forwarded_address(&unproven("203.0.113.99"), ours).word(), "fail");
        assert_eq!(forwarded_address(&unproven(""), ours).word(), "fail");
    }

    #[test]
    fn loop_when_edgeshim_was_passed_or_cdn_loop_is_lost_then_fails() {
        let with =
            |cdn_loop: &str, via: &str| EchoReport { cdn_loop: cdn_loop.to_owned(), via: via.to_owned(), ..echo() };
        assert_eq!(no_loop(&echo(), "smoke-1").word(), "pass");
        assert_eq!(no_loop(&with("Fastly", ""), "smoke-1").word(), "fail");
        assert_eq!(no_loop(&with("smoke-1, Fastly, edgeshim, Fastly", ""), "smoke-1").word(), "fail");
        assert_eq!(no_loop(&with("smoke-1", "1.1 edgeshim, 1.1 varnish"), "smoke-1").word(), "fail");
        assert_eq!(no_loop(&with("smoke-1", "1.1 a, HTTP/2.0  EdgeShim (x)"), "smoke-1").word(), "fail");
        assert_eq!(no_loop(&with("smoke-1, EdgeShim; v=1", ""), "smoke-1").word(), "fail");
        // Other names that contain the name of edgeshim are no loop, and another member is not the mark of smoke.
        for via in ["1.1 pop7.edgeshim-cdn.example", "1.1 varnish (edgeshim)", "1.1 edgeshim-2"] {
            assert_eq!(no_loop(&with("smoke-1, edgeshim-cdn", via), "smoke-1").word(), "pass", "{via}");
        }
        assert_eq!(no_loop(&with("smoke-12", ""), "smoke-1").word(), "fail");
    }

    #[test]
    fn cookie_when_two_clients_get_the_same_response_then_fails() {
        let with = response(200, &[("Set-Cookie", "a=1")], b"");
        let other = EchoReport { id: "2".to_owned(), ..echo() };
        assert_eq!(cookie((&with, &echo()), (&with, &echo())).word(), "fail");
        assert_eq!(cookie((&with, &echo()), (&with, &other)).word(), "pass");
    }

    #[test]
    fn error_when_it_lasts_longer_than_at_the_origin_then_fails() {
        let word = |first, after: Option<u64>| {
            let after = after.map(Duration::from_millis);
            error_not_cached(&Recovery { first, after, last: 503, limit: Duration::from_secs(15) }).word()
        };
        assert_eq!(word(503, Some(300)), "pass");
        assert_eq!(word(503, Some(2_100)), "fail");
        assert_eq!(word(502, None), "fail");
        assert_eq!(word(200, Some(0)), "skip");
    }
}
