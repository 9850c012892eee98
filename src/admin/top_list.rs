//! The top list as JSON: the URLs that are pulled most.

use serde_json::{Value, json};

use crate::edge::request::top::Tops;

/// The largest number of URLs in the list.
const LENGTH: usize = 100;

/// Returns the list. For each URL, `error` is the largest number of pulls that can be missing in `pulls`.
pub(super) fn json(tops: &Tops) -> Value {
    let (urls, error) = tops.top(LENGTH);
    let list: Vec<_> = urls
        .into_iter()
        .map(|top| {
            json!({
                "url": top.url,
                "pulls": top.pulls,
                "bytes": top.bytes,
                "providers": top.providers,
                "early": top.early,
                "queries": top.queries,
                "error": error,
            })
        })
        .collect();
    json!(list)
}
