//! Reads the `[[provider]]` blocks, except for `[provider.verify]`, which `provider_proofs` reads.

use std::collections::{BTreeMap, HashSet};

use http::HeaderName;
use serde_json::{Map, Value, json};

use super::file::{Read, Section};
use super::provider_proofs::{self, Secrets, Surroundings, verify};
use super::settings::Provider;
use crate::cdn::preset::logs::{LogField, LogPlace};
use crate::cdn::preset::{NAMES, Preset};
use crate::keys::grammar::{closest, has_meaning, header_name, label};
use crate::keys::secrets::SECRET;
use crate::keys::{Checked, Visitor as _, quote};
use crate::wire::names::X_CDN_PROVIDER;

/// The length of the longest accepted name of a field in a CDN's log, in bytes.
const MAX_MEMBER_BYTES: usize = 256;

/// Reads every provider.
pub(super) fn providers(blocks: Vec<Section<'_>>, surroundings: &Surroundings) -> Vec<Provider> {
    const EXAMPLE: &str = "\"fastly\"";
    let mut taken = HashSet::new();
    let mut secrets = Secrets::default();
    let mut providers = Vec::with_capacity(blocks.len());
    for mut block in blocks {
        let name = block.read("name", EXAMPLE, |text| {
            let name = label(text, &["none", "other", "unverified"], EXAMPLE)?;
            if !taken.insert(name.clone()) {
                return Err(
                    "is the name of an earlier provider; write another name, or merge the two blocks".to_owned()
                );
            }
            Ok(name)
        });
        if let Read::Absent = name {
            block.missing(
                "name",
                format!(
                    "is missing; write the name that the CDN sends in the identity header, for example name = {EXAMPLE}"
                ),
            );
        }
        let name = name.or(String::new());
        let preset = match block.read("preset", EXAMPLE, preset) {
            Read::Absent => Some(Preset::named(&name).map_or("generic", |preset| preset.name)),
            typed => typed.good(),
        };
        let tag_header = block.read("tag_header", "\"Cache-Tag\"", |text| tag_header(text, preset)).or(None);
        let mut edge_log_token = None;
        block.nonempty("edge_log_token", &SECRET, &mut edge_log_token);
        let edge_log_fields = block
            .read_mixed_map(
                "edge_log_fields",
                "status = \"sc-status\"",
                log_field,
                log_member,
                (1..=1000, LogPlace::Column),
            )
            .or(BTreeMap::new());
        let edge_log_fields =
            edge_log_fields.into_iter().filter_map(|(name, place)| Some((field(&name)?, place))).collect();
        let edge_log_sampling = block.read_integer("edge_log_sampling", 1..=1_000_000).or(1);
        secrets.next_provider(&name);
        let verify = verify(block.section("verify"), surroundings, &mut secrets);
        providers.push(Provider {
            name,
            preset: preset.unwrap_or("generic"),
            tag_header,
            edge_log_token,
            edge_log_fields,
            edge_log_sampling,
            verify,
        });
    }
    providers
}

/// Returns a provider in the form that `/config` shows.
pub(super) fn json(provider: &Provider) -> Value {
    let mut keys = json!({
        "name": provider.name,
        "preset": provider.preset,
        "tag_header": provider.tag_header.as_ref().map_or("", HeaderName::as_str),
        "edge_log_token": provider.edge_log_token.as_ref().map(SECRET.write).unwrap_or_default(),
        "edge_log_fields": provider.edge_log_fields.iter().map(shown_place).collect::<Map<_, _>>(),
        "edge_log_sampling": provider.edge_log_sampling,
    });
    if let Some(proofs) = &provider.verify {
        keys["verify"] = provider_proofs::json(proofs);
    }
    keys
}

fn preset(text: &str) -> Checked<&'static str> {
    Preset::named(text).map(|preset| preset.name).ok_or_else(|| {
        let hint = closest(text, &NAMES).map(|meant| format!(" (did you mean {}?)", quote(meant))).unwrap_or_default();
        format!("is not a preset{hint}; write one of {}", NAMES.join(", "))
    })
}

fn field(name: &str) -> Option<LogField> {
    LogField::NAMES.into_iter().find(|(known, _)| *known == name).map(|(_, field)| field)
}

fn log_field(name: &str) -> Checked<String> {
    let names = LogField::NAMES.map(|(name, _)| name);
    field(name).map(|_| name.to_owned()).ok_or_else(|| {
        let hint = closest(name, &names).map(|meant| format!(" (did you mean {}?)", quote(meant))).unwrap_or_default();
        format!("is not a log field that edgeshim reads{hint}; write one of {}", names.join(", "))
    })
}

fn log_member(text: &str) -> Checked<LogPlace> {
    if text.is_empty() || text.len() > MAX_MEMBER_BYTES {
        return Err(format!(
            "is not a field name; write the name in the CDN's log, of 1 to {MAX_MEMBER_BYTES} bytes, \
             or the number of a column"
        ));
    }
    Ok(LogPlace::Member(text.to_owned()))
}

fn shown_place((field, place): (&LogField, &LogPlace)) -> (String, Value) {
    let name = LogField::NAMES.into_iter().find(|(_, known)| known == field).map_or("", |(name, _)| name);
    let place = match place {
        LogPlace::Member(name) => json!(name),
        LogPlace::Column(number) => json!(number),
    };
    (name.to_owned(), place)
}

/// Checks the value of `tag_header`. If the key `preset` is wrong, `preset` is `None`, and the rules of the preset are
/// not checked.
fn tag_header(text: &str, preset: Option<&str>) -> Checked<Option<HeaderName>> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Some(refusal) = preset.and_then(Preset::named).and_then(Preset::refuses_tag_header) {
        return Err(format!("{refusal}; remove the key"));
    }
    let name = header_name(text).map_err(
        |_| "is not a header field name; write the field that the CDN is configured to read, for example \"Cache-Tag\"",
    )?;
    if has_meaning(&name) || name == X_CDN_PROVIDER {
        return Err(
            "is a field that has another purpose; write the field in which the CDN is configured to read tags, \
             for example \"Cache-Tag\""
                .to_owned(),
        );
    }
    Ok(Some(name))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{Settings, parse};

    fn read(text: &str) -> Result<Settings, String> {
        parse(text, "e.toml", Path::new(".")).map_err(|problems| problems.to_string())
    }

    fn problems(text: &str) -> Vec<String> {
        read(text).map_or_else(|message| message.lines().map(str::to_owned).collect(), |_| Vec::new())
    }

    #[test]
    fn tag_header_when_forbidden_by_preset_or_invalid_then_is_rejected() {
        for preset in ["cloudfront", "imperva", "cdn77", "gcore", "edgecast", "rfc9213", "generic"] {
            let settings = read(&format!("[[provider]]\nname = \"{preset}\"\ntag_header = \"X-Tags\"\n"))
                .expect("the configuration is valid");
            assert_eq!(settings.providers[0].tag_header.as_ref().map(HeaderName::as_str), Some("x-tags"));
        }
        for (preset, remedy) in [
            ("fastly", "only from Surrogate-Key"),
            ("cloudflare", "only from Cache-Tag"),
            ("google", "only from Cache-Tag"),
            ("keycdn", "only from Cache-Tag"),
            ("akamai", "only from Edge-Cache-Tag"),
            ("bunny", "only from CDN-Tag"),
            ("azure", "has no cache tags"),
        ] {
            let block = format!("[[provider]]\nname = \"mine\"\npreset = \"{preset}\"\n");
            let message = problems(&format!("{block}tag_header = \"X-Tags\"\n"));
            assert!(
                message.len() == 1 && message[0].contains(remedy) && message[0].contains("remove the key"),
                "{preset}: {message:?}"
            );
            assert_eq!(problems(&format!("{block}tag_header = \"\"\n")), [""; 0]);
        }
        for bad in [
            "X Tags",
            "Cache-Control",
            "Content-Length",
            "Set-Cookie",
            "Surrogate-Control",
            "X-Akamai-G2O-Auth-Data",
            "X-CDN-Provider",
        ] {
            let message = problems(&format!("[[provider]]\nname = \"mine\"\ntag_header = \"{bad}\"\n"));
            assert!(message.len() == 1 && message[0].contains("for example \"Cache-Tag\""), "{bad}: {message:?}");
        }
    }

    proptest! {
        #[test]
        fn preset_and_tag_header_when_text_is_arbitrary_then_parsing_does_not_panic(text in any::<String>()) {
            let _ = (preset(&text), tag_header(&text, None), tag_header(&text, Some("imperva")));
        }
    }
}
