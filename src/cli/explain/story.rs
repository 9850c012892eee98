//! The texts about one request that was found in an access log: a paragraph for the support team, and all values.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::access_log::reader::entry::{Entry, Text, shown, shown_pairs};
use crate::fault::{Cause, Fault};
use crate::ids::{ProviderId, PullReason, Reason};

/// The longest value that is shown, in characters.
const LONGEST: usize = 2_048;

/// A request that was found in a log.
pub(super) struct Told {
    pub(super) time: String,
    log: String,
    summary: String,
    /// What the operator can do, if the request failed.
    advice: Option<String>,
    /// All keys and values of the line, as texts for people.
    pairs: Vec<(String, String)>,
    /// The line as JSON, for programs.
    line: Value,
}

/// A request for the beacon of the page that has the searched id.
pub(super) struct Beacon {
    pub(super) time: String,
    /// The address of the client. Empty if the format of the log does not contain this address.
    pub(super) client: String,
}

impl Told {
    /// `log` is the name of the log, and `entry` has been read from `line`.
    pub(super) fn new(log: &str, line: &[u8], entry: &Entry<'_>) -> Self {
        Self {
            time: entry.time.shown(40),
            log: log.to_owned(),
            summary: summary(entry),
            advice: advice(entry),
            pairs: shown_pairs(line, LONGEST),
            // edgeshim writes only UTF-8. In a line of another program, each invalid byte is replaced.
            line: serde_json::from_str(&String::from_utf8_lossy(line)).unwrap_or(Value::Null),
        }
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("{}\n\n", self.summary);
        for (name, value) in &self.pairs {
            let _ = writeln!(text, "{name:<14}{value}");
        }
        let _ = writeln!(text, "{:<14}{}", "log", self.log);
        if let Some(advice) = &self.advice {
            let _ = writeln!(text, "\nTo do: {advice}.");
        }
        text
    }

    pub(super) fn json(&self) -> Value {
        json!({ "summary": self.summary, "advice": self.advice, "log": self.log, "line": self.line })
    }
}

/// Returns a paragraph about a request.
fn summary(entry: &Entry<'_>) -> String {
    let text = |text: Text<'_>| text.shown(LONGEST);
    let time = text(entry.time).replacen('T', " ", 1).replacen('Z', " UTC", 1);
    let pop = text(entry.pop);
    let pop = if pop.is_empty() { pop } else { format!(" (point of presence {pop})") };
    let mut story = format!("At {time}, {}{pop} requested {}", sender(entry), text(entry.method));
    let _ = write!(story, " {}{}", text(entry.host), text(entry.path));
    if !entry.client.is_empty() {
        let _ = write!(story, " for the client {}", text(entry.client));
    }
    story.push_str(". ");
    story.push_str(&outcome(entry));
    if let Some(total) = entry.total_ms {
        let _ = write!(story, " The request took {} ms.", String::from_utf8_lossy(total));
    }
    let why = entry.why.decoded();
    if let Some(reason) = PullReason::ALL.into_iter().find(|reason| reason.as_str() == why) {
        let _ = write!(story, " {}", pull_reason(reason));
    }
    if !entry.guard.is_empty() {
        let _ = write!(story, " The guard {} applied to the response.", text(entry.guard));
    }
    story
}

fn sender(entry: &Entry<'_>) -> String {
    let provider = entry.provider.shown(100);
    let claimed = || shown(&format!("{:?}", entry.claimed.decoded()), 100);
    match ProviderId::RESERVED.iter().position(|reserved| *reserved == provider) {
        Some(0) => "a sender that is no known CDN".to_owned(),
        Some(1) => "a CDN that is not configured or cannot be identified".to_owned(),
        Some(_) => format!("a sender that claimed to be {} without a valid proof", claimed()),
        None => provider,
    }
}

/// Returns what happened to the request.
fn outcome(entry: &Entry<'_>) -> String {
    let Entry { status, bytes, origin_status, .. } = entry;
    let cause = entry.cause.decoded();
    if !entry.is_pull() {
        return format!("edgeshim responded itself with status {status}, because the path is a local endpoint.");
    }
    if let Some(reason) = Reason::ALL.into_iter().find(|reason| reason.as_str() == cause) {
        return format!(
            "edgeshim refused the request with status {status} ({}): {}.",
            reason.as_str(),
            refused(reason)
        );
    }
    let origin = match (origin_status, entry.origin_ms) {
        (Some(origin), Some(millis)) => {
            format!("The origin responded with {origin} after {} ms.", String::from_utf8_lossy(millis))
        }
        (Some(origin), None) => format!("The origin responded with {origin}."),
        (None, _) => "The origin sent no response.".to_owned(),
    };
    let fault = Cause::ALL.into_iter().find(|known| known.as_str() == cause).map(failed).unwrap_or_default();
    let sent = if *status == 499 {
        "The client disconnected, or the drain ended, before the response was complete".to_owned()
    } else if !entry.locale.is_empty() {
        let locale = entry.locale.shown(20);
        format!("edgeshim sent status {status} and the whoopsie page in the language {locale}")
    } else if *status == 200
        && (!fault.is_empty() || origin_status.is_some_and(|origin| origin >= 500))
        && cause != "cut"
    {
        "edgeshim sent the response of the stand-in with status 200".to_owned()
    } else {
        format!("edgeshim sent status {status}")
    };
    format!("{origin}{fault} {sent}, with {bytes} bytes of body.")
}

/// Returns a sentence about a fault.
fn failed(cause: Cause) -> &'static str {
    match cause {
        Cause::Refused => " The origin refused the connection (refused).",
        Cause::ConnectTimeout => " The connection to the origin took too long (connect_timeout).",
        Cause::Unreachable => " The origin was unreachable (unreachable).",
        Cause::TlsCertificate => " The certificate of the origin was not valid (tls_certificate).",
        Cause::TlsAlert => " The origin ended the TLS connection with an alert (tls_alert).",
        Cause::TlsProtocol => " TLS with the origin failed (tls_protocol).",
        Cause::Reset => " The origin reset the connection before it responded (reset).",
        Cause::Closed => " The origin closed the connection before it responded (closed).",
        Cause::Timeout => " The response head of the origin did not arrive in time (timeout).",
        Cause::BrokenHead => " The response head of the origin was invalid or too large (broken_head).",
        Cause::Cut => " The response body of the origin broke off (cut).",
        Cause::Stalled => " The response body of the origin made no progress (stalled).",
        Cause::UploadStalled => " The origin stopped reading the request body (upload_stalled).",
        Cause::Overload => " edgeshim shed the request, because the origin had too many requests (overload).",
        Cause::RequestStalled => " The request body of the client made no progress (request_stalled).",
        Cause::RequestTooLarge => " The request body was longer than server.max_request_body (request_too_large).",
        Cause::RequestCut => " The request body of the client broke off (request_cut).",
    }
}

/// Returns the reason of a refusal, as the end of a sentence.
fn refused(reason: Reason) -> &'static str {
    match reason {
        Reason::Malformed => "the request head was ambiguous or broken",
        Reason::HeaderTimeout => "the request head did not arrive in time",
        Reason::Flood => "the connection was flooded",
        Reason::UnknownProvider => "the request came from no configured CDN, and identity.unknown is \"reject\"",
        Reason::Unverified => "the CDN was not proved, and identity.unverified is \"reject\"",
        Reason::Host => "the Host is not in server.hosts",
        Reason::Loop => "the request had already passed through edgeshim as often as server.max_hops allows",
        Reason::Method => "the method is CONNECT",
        Reason::BodyTooLarge => "the request body was longer than server.max_request_body",
    }
}

/// Returns a sentence about the reason of a pull.
fn pull_reason(reason: PullReason) -> &'static str {
    match reason {
        PullReason::Uncacheable => "The response was not cacheable.",
        PullReason::Slice => "The CDN requested a range.",
        PullReason::Revalidation => "The CDN checked whether its stored response is still valid.",
        PullReason::Early => "The CDN got this object before, and its lifetime had not ended.",
        PullReason::Expired => "The lifetime of the CDN's stored response had ended.",
        PullReason::Variant => "The CDN had this path with another query.",
        PullReason::Elsewhere => "Another CDN had this object.",
        PullReason::First => "No CDN had this object.",
    }
}

/// Returns what the operator can do.
fn advice(entry: &Entry<'_>) -> Option<String> {
    let cause = entry.cause.decoded();
    if let Some(cause) = Cause::ALL.into_iter().find(|known| known.as_str() == cause) {
        return Some(Fault::new(cause).remedy().to_owned());
    }
    let is_of_origin = entry.is_pull() && entry.origin_status.is_some_and(|status| status >= 500);
    is_of_origin.then(|| "search the log of the origin for this id, which the origin got as X-Request-Id".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(more: &str) -> String {
        let base = concat!(
            r#"{"time":"2026-11-28T12:30:00.042Z","id":"r-1","provider":"fastly","claimed":"fastly","proof":"secret","#,
            r#""pop":"FRA","client":"203.0.113.9","method":"GET","host":"www.test","path":"/a?b=1","class":"html","#,
            r#""status":200,"bytes":10,"origin_status":200,"origin_ms":7.005,"origin_bytes":20,"total_ms":9.125,"#,
            r#""guard":"","cause":"","locale":"","why":"first"}"#
        );
        let mut fields: serde_json::Map<_, _> = serde_json::from_str(base).unwrap();
        fields.extend(serde_json::from_str::<serde_json::Map<_, _>>(more).unwrap());
        let line = serde_json::to_string(&fields).unwrap();
        Told::new("access.log", line.as_bytes(), &Entry::read(line.as_bytes()).unwrap()).text()
    }

    #[test]
    fn story_when_pull_succeeded_then_names_sender_request_and_result() {
        let text = told("{}");
        let expected = "At 2026-11-28 12:30:00.042 UTC, fastly (point of presence FRA) requested GET www.test/a?b=1 \
                        for the client 203.0.113.9. The origin responded with 200 after 7.005 ms. edgeshim sent status \
                        200, with 10 bytes of body. The request took 9.125 ms. No CDN had this object.\n";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("\nproof         secret\n") && text.ends_with("log           access.log\n"), "{text}");
    }

    #[test]
    fn story_when_request_failed_or_is_unusual_then_explains_the_outcome() {
        for (more, parts) in [
            (
                r#"{"status":504,"cause":"timeout","locale":"fr","origin_status":null,"origin_ms":null}"#,
                &[
                    "no response. The response head",
                    "(timeout)",
                    "page in the language fr",
                    "To do: the origin is slow",
                ][..],
            ),
            (
                r#"{"status":503,"locale":"de","origin_status":503}"#,
                &["responded with 503", "sent status 503 and the whoopsie page", "To do: search the log of the origin"],
            ),
            (
                r#"{"status":403,"cause":"unverified","provider":"unverified","origin_status":null}"#,
                &["claimed to be \"fastly\" without a valid proof", "refused the request with status 403", "reject"],
            ),
            (r#"{"status":499,"origin_status":null,"origin_ms":null}"#, &["The client disconnected"]),
            (r#"{"cause":"cut"}"#, &["broke off (cut)", "sent status 200"]),
            (r#"{"cause":"refused","origin_status":null}"#, &["response of the stand-in"]),
            (r#"{"class":"","provider":"none"}"#, &["no known CDN", "a local endpoint"]),
            (r#"{"provider":"other","guard":"set_cookie"}"#, &["not configured", "The guard set_cookie applied"]),
        ] {
            let text = told(more);
            for part in parts {
                assert!(text.contains(part), "{part:?} is missing in\n{text}");
            }
        }
    }

    #[test]
    fn story_when_values_are_hostile_then_contains_no_control_characters() {
        let hostile = concat!(
            r#"{"user_agent":"\u001b[2J\u009b31m\u202e","path":"/\u0007","claimed":"\u001b","provider":"unverified","#,
            r#""x\u001b":"y"}"#
        );
        let text = told(hostile);
        assert!(!text.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}'), "{text:?}");
    }
}
