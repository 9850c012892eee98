//! The LUA record of a node: PowerDNS runs a small program in the record to compute the answer to each client.
//!
//! The content is a type and a program in quotes:
//!
//! ```text
//! CNAME "--[[STATE]]pickwhashed({{143,'a.example.'},{857,'b.example.'}})"
//! ```
//!
//! STATE is JSON in base64: the mode and the weight of each provider, the flags of providers that are away, and the
//! weights in DNS. For Lua, STATE is a comment. If no provider is served, the program returns an empty list, so the
//! answer has no CNAME.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::balance::balance_file::TargetKeys;
use crate::balance::node::{Holding, Record};
use crate::balance::runs::Run;
use crate::balance::share::Shares;

/// The version of the JSON in the record.
const VERSION: u64 = 1;

/// Writes the content of the record.
pub(super) fn content(target: &TargetKeys, record: &Record) -> String {
    let state = json!({ "v": VERSION, "providers": record.shares.to_json(), "weights": record.weights });
    let state = STANDARD.encode(state.to_string());
    if record.weights.is_empty() {
        return format!("CNAME \";--[[{state}]] return {{}}\"");
    }
    let mut list = String::new();
    for (name, weight) in &record.weights {
        let cname = target.providers.get(name).map_or("", |provider| provider.cname.as_str());
        let comma = if list.is_empty() { "" } else { "," };
        // Writing to a String does not fail.
        let _ = write!(list, "{comma}{{{weight},'{cname}.'}}");
    }
    format!("CNAME \"--[[{state}]]pickwhashed({{{list}}})\"")
}

/// Reads the content of a record.
pub(super) fn holding(target: &TargetKeys, text: &str) -> Holding {
    let Some(record) = record(text) else {
        return Holding::Foreign("a LUA record without edgeshim's data".to_owned());
    };
    // If balance.toml no longer has a served provider, the provider's CNAME is unknown, so no comparison is possible.
    // `refuse` reports this provider by its name.
    let known = |run: &Run| target.providers.contains_key(&run.0);
    if record.weights.iter().all(known) && content(target, &record) != text {
        return Holding::Edited(
            record,
            "the program in the record does not match the record's data or balance.toml".to_owned(),
        );
    }
    Holding::Ours(record)
}

fn record(text: &str) -> Option<Record> {
    let (_, rest) = text.split_once("--[[")?;
    let (state, _) = rest.split_once("]]")?;
    let state: Value = serde_json::from_slice(&STANDARD.decode(state).ok()?).ok()?;
    if state.get("v")?.as_u64()? != VERSION {
        return None;
    }
    let weights: Vec<Run> = serde_json::from_value(state.get("weights")?.clone()).ok()?;
    let shares = Shares::from_json(state.get("providers")?)?;
    weights.iter().all(|run| shares.0.contains_key(&run.0)).then_some(Record { shares, weights })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::balance::balance_file::ProviderKeys;
    use crate::balance::dns::sample_target as target;
    use crate::balance::share::{Mode, Share};

    fn sample() -> Record {
        let share = |weight| Share::new(Mode::Obey, weight);
        Record {
            shares: Shares(BTreeMap::from([("a".to_owned(), share(1)), ("b".to_owned(), share(6))])),
            weights: vec![("a".to_owned(), 143), ("b".to_owned(), 857)],
        }
    }

    #[test]
    fn content_when_read_back_then_is_the_same_record() {
        let text = content(&target(), &sample());
        assert!(text.starts_with("CNAME \"--[["), "{text}");
        assert!(text.ends_with("]]pickwhashed({{143,'a.example.net.'},{857,'b.example.net.'}})\""), "{text}");
        assert_eq!(holding(&target(), &text), Holding::Ours(sample()));
        let nobody = Record { weights: Vec::new(), ..sample() };
        let text = content(&target(), &nobody);
        assert!(text.ends_with("]] return {}\""), "{text}");
        assert_eq!(holding(&target(), &text), Holding::Ours(nobody));
    }

    #[test]
    fn content_when_program_does_not_match_data_or_balance_toml_then_is_edited() {
        let text = content(&target(), &sample()).replace("{143,", "{144,");
        assert!(matches!(holding(&target(), &text), Holding::Edited(..)));
        let mut moved = target();
        moved
            .providers
            .insert("a".to_owned(), ProviderKeys { cname: "new.example.net".to_owned(), ..ProviderKeys::default() });
        assert!(matches!(holding(&moved, &content(&target(), &sample())), Holding::Edited(..)));
    }

    #[test]
    fn content_when_data_of_edgeshim_is_missing_or_invalid_then_is_foreign() {
        let data = |json: &str| format!("CNAME \"--[[{}]]pickwhashed({{}})\"", STANDARD.encode(json));
        for text in [
            "CNAME \"pickrandom({'a.'})\"".to_owned(),
            "CNAME \"--[[!]]x\"".to_owned(),
            "CNAME \"--[[".to_owned(),
            String::new(),
            data("{}"),
            data(r#"{"v":2,"providers":{},"weights":[]}"#),
            data(r#"{"v":1,"providers":{},"weights":[["a"]]}"#),
            data(r#"{"v":1,"providers":{"a":1},"weights":[]}"#),
            data(r#"{"v":1,"providers":{},"weights":[["a",1000]]}"#),
        ] {
            assert!(matches!(holding(&target(), &text), Holding::Foreign(_)), "{text}");
        }
    }

    proptest! {
        #[test]
        fn content_when_arbitrary_then_is_read_without_panic(text in ".*", json in ".*") {
            let _ = holding(&target(), &text);
            let _ = holding(&target(), &format!("CNAME \"--[[{}]]", STANDARD.encode(json)));
        }
    }
}
