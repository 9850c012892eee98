//! The decisions of the checks. Each function looks at recorded responses and returns the result of one check. No
//! function sends anything.

pub(crate) mod caching;
pub(crate) mod forms;
pub(crate) mod reached;
pub(crate) mod shim;
pub(crate) mod timing;
pub(crate) mod validation;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::caching::{Lifetimes, Repeated};
    use super::validation::Variants;
    use super::{caching, forms, reached, shim, validation};
    use crate::cdn::preset::Preset;
    use crate::intake::echo_report::EchoReport;
    use crate::smoke::cache_result::served;
    use crate::smoke::recorded::Recorded;
    use crate::smoke::recorded::tests::response;
    use crate::smoke::results::Verdict;

    /// Generates a field that the checks read. The value is arbitrary, or is one that an edge sends.
    fn field() -> impl Strategy<Value = (&'static str, String)> {
        let names = [
            "Cache-Control",
            "Age",
            "ETag",
            "Last-Modified",
            "Vary",
            "Content-Encoding",
            "Content-Range",
            "Content-Type",
            "Content-Length",
            "Cache-Status",
            "X-Cache",
            "X-Varnish",
            "Set-Cookie",
            "Location",
            "Proxy-Status",
            "Server",
            "Surrogate-Control",
            "X-Served-By",
        ];
        let values = prop_oneof![
            "[ -~]{0,40}",
            "[\u{80}-\u{2ff}\u{202a}-\u{202e}]{0,20}",
            prop::sample::select(vec!["gzip", "max-age=60", "\"a\"", "*", "HIT", "1 2", "a; hit", "bytes 0-1/4"])
                .prop_map(str::to_owned),
        ];
        (prop::sample::select(names.to_vec()), values)
    }

    fn recorded() -> impl Strategy<Value = Recorded> {
        let status = prop::sample::select(vec![200, 204, 206, 301, 304, 404, 500, 508]);
        let fields = proptest::collection::vec(field(), 0..8);
        let body = proptest::collection::vec(any::<u8>(), 0..400);
        (status, fields, body).prop_map(|(status, fields, body)| {
            let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            response(status, &fields, &body)
        })
    }

    fn texts(verdict: Verdict) -> Vec<String> {
        match verdict {
            Verdict::Pass(text) | Verdict::Skip(text) => vec![text],
            Verdict::Fail(flaw) => vec![flaw.seen, flaw.expected, flaw.remedy],
        }
    }

    proptest! {
        #[test]
        fn text_of_a_verdict_when_responses_are_arbitrary_then_is_short_and_safe_to_print(
            one in recorded(),
            other in recorded(),
            words in proptest::collection::vec(any::<String>(), 5),
        ) {
            let edge = &Preset::named("fastly").unwrap().edge;
            let (first, last) = (served(&one, edge), served(&other, edge));
            let repeated = Repeated {
                first: &one,
                first_served: first.as_ref(),
                last: &other,
                last_served: last.as_ref(),
                requests: 2,
                failure: None,
                kept_signed: None,
            };
            let lifetimes =
                Lifetimes { edge: &one, origin: Some(&other), kept: None, has_token: true };
            let echo = EchoReport {
                provider: words[0].clone(),
                proof: words[1].clone(),
                client: words[2].clone(),
                cdn_loop: words[3].clone(),
                x_forwarded_for: words[4].clone(),
                ..EchoReport::default()
            };
            let verdicts = [
                reached::reach(&Ok(one.clone()), "a:1"),
                reached::looped(&one),
                reached::pop(edge.pop(&one.headers).as_deref(), None),
                caching::miss_then_hit(&repeated),
                caching::ttl(&lifetimes),
                caching::cookies(&[(&one, first.as_ref()), (&other, last.as_ref())], None, false),
                forms::gzip(&one, Some(&other), Some(&other)),
                forms::identity(&one, Some(&other)),
                forms::range(&one, &other, (1, 2)),
                forms::head(&one, &other),
                validation::validators(&one, Some(&other)),
                validation::revalidate(&one, &other, &words[0]),
                validation::vary(&Variants { edge: &one, others: &[], failure: None }),
                shim::provider(&echo, None),
                shim::forwarded_address(&echo, None),
                shim::no_loop(&echo, "smoke-1"),
                shim::no_echo(&Ok(other.clone())),
            ];
            for text in verdicts.into_iter().flat_map(texts) {
                let changes_direction = ['\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}'];
                prop_assert!(!text.contains(char::is_control) && !text.contains(changes_direction), "{text:?}");
                prop_assert!(text.len() < 1500, "{text:?}");
            }
        }
    }
}
