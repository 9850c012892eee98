//! Announces a change to the shims, which mark the change on their admin pages. A failed announcement causes a warning,
//! and the change stays.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::api_call::Caller;
use super::balance_file::BalanceFile;
use super::base_url::BaseUrl;
use super::journal::Entry;
use super::share::Shares;
use super::side_by_side::all;
use crate::wire::names::AUTHORIZATION;

/// The time limit of an announcement to one shim.
const LIMIT: Duration = Duration::from_secs(3);

/// Posts an annotation to all shims at the same time. Returns a warning for each failure.
pub(crate) async fn announce(file: &BalanceFile, caller: &Caller, entry: &Entry) -> Vec<String> {
    let fields = token_field(file);
    let text = text(entry);
    let plain = json!({ "text": text }).to_string();
    let with_share = share(entry).map(|share| json!({ "text": text, "share": share }).to_string());
    let posts = file.shims.iter().map(|shim| post(caller, shim, &fields, with_share.as_deref(), &plain));
    let failed = all(posts.collect()).await.into_iter().filter_map(Result::err);
    failed.map(|reason| format!("the change is made, but not announced: {reason}")).collect()
}

/// Posts an annotation to a shim, within `LIMIT`.
async fn post(
    caller: &Caller,
    shim: &BaseUrl,
    fields: &HeaderMap,
    with_share: Option<&str>,
    plain: &str,
) -> Result<(), String> {
    let started = Instant::now();
    let post = async |body: &str| {
        let left = LIMIT.saturating_sub(started.elapsed());
        caller.call_once(shim, (Method::POST, "/annotations"), fields, body.as_bytes(), left).await
    };
    let mut reply = post(with_share.unwrap_or(plain)).await?;
    // If a shim does not have a provider of the shares, the shim responds with 400. Then only the text is sent.
    if with_share.is_some() && reply.status == 400 {
        reply = post(plain).await?;
    }
    match reply.status {
        200..300 => Ok(()),
        401 => Err(format!("{shim} needs the right shims_token (401)")),
        status => Err(format!("{shim} did not accept the annotation ({status})")),
    }
}

/// Returns the header field with the token of the shims, if a token is configured.
pub(super) fn token_field(file: &BalanceFile) -> HeaderMap {
    let mut fields = HeaderMap::new();
    if let Some(token) = &file.shims_token
        && let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
    {
        value.set_sensitive(true);
        fields.insert(AUTHORIZATION, value);
    }
    fields
}

fn text(entry: &Entry) -> String {
    let targets: Vec<&str> = entry.to.keys().map(String::as_str).collect();
    let provider = entry.provider.as_ref().map(|provider| format!("{provider} ")).unwrap_or_default();
    let why = entry.why.as_ref().or(entry.force.as_ref()).map(|why| format!(": {why}")).unwrap_or_default();
    format!("balance {}: {provider}{} by {}{why}", targets.join(", "), entry.action, entry.who)
}

/// Returns the shares for the shims, in per cent. Returns `None` if the targets have different shares, if there are
/// fewer than two providers, or if no provider is served.
fn share(entry: &Entry) -> Option<Value> {
    let percents = |shares: &Shares| -> BTreeMap<String, u32> {
        let served = shares.served();
        let weights: Vec<u64> = served.values().map(|&weight| weight.into()).collect();
        let mut parts: BTreeMap<String, u32> = shares.0.keys().map(|name| (name.clone(), 0)).collect();
        parts.extend(served.into_keys().map(str::to_owned).zip(super::share::apportion(10_000, &weights)));
        parts
    };
    let mut all = entry.to.values().map(percents);
    let first = all.next()?;
    let is_useful = first.len() >= 2 && first.values().any(|&part| part > 0);
    if !is_useful || all.any(|other| other != first) {
        return None;
    }
    let number = |(name, part): (String, u32)| (name, json!(f64::from(part) / 100.0));
    Some(first.into_iter().map(number).collect::<serde_json::Map<_, _>>().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::share::{Mode, Share};

    #[test]
    fn annotation_when_targets_have_equal_shares_then_has_the_shares_and_otherwise_not() {
        let shares = |a: u32| {
            let share = |weight| Share::new(Mode::Obey, weight);
            Shares(BTreeMap::from([
                ("a".to_owned(), share(a)),
                ("b".to_owned(), share(3)),
                ("c".to_owned(), Share::new(Mode::No, 15)),
            ]))
        };
        let mut entry = Entry {
            time: String::new(),
            id: String::new(),
            who: "alice".to_owned(),
            action: "weight 1".to_owned(),
            provider: Some("a".to_owned()),
            from: BTreeMap::new(),
            to: BTreeMap::from([("html".to_owned(), shares(1)), ("images".to_owned(), shares(1))]),
            why: Some("test".to_owned()),
            force: None,
            result: String::new(),
        };
        assert_eq!(text(&entry), "balance html, images: a weight 1 by alice: test");
        assert_eq!(share(&entry), Some(json!({ "a": 25.0, "b": 75.0, "c": 0.0 })));
        entry.to.insert("static".to_owned(), shares(2));
        assert_eq!(share(&entry), None, "the targets have different shares");
    }
}
