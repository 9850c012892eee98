//! The record sets of Route 53: a weighted CNAME for each provider of a node.
//!
//! The identifier of a weighted record has the provider, its mode and its weight, for example
//! `edgeshim fastly obey 15`. If `watch` has taken the provider away, ` away` follows. The element `Weight` has the
//! weight in DNS, which is 0 for a provider that is not served.

use std::collections::BTreeMap;

use super::xml_tree::Element;
use crate::balance::balance_file::TargetKeys;
use crate::balance::node::{Holding, Record};
use crate::balance::share::{Mode, Share, Shares};
use crate::keys::grammar::label;
use crate::keys::quote;

/// The first word of the identifiers of edgeshim.
const OWNER: &str = "edgeshim";
/// The largest weight that is accepted in an identifier.
const MAX_WEIGHT: u32 = 1_000_000;

/// The parts of a record set that edgeshim reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RecordSet {
    /// The name in lower case, without the final dot.
    name: String,
    pub kind: String,
    pub identifier: Option<String>,
    weight: Option<u32>,
    ttl: Option<u64>,
    /// The values in lower case, without their final dots.
    values: Vec<String>,
    /// The names of the elements that are not read, for example `HealthCheckId` or `AliasTarget`.
    others: Vec<String>,
}

fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

impl RecordSet {
    pub(super) fn read(element: &Element) -> Self {
        const KNOWN: [&str; 6] = ["Name", "Type", "SetIdentifier", "Weight", "TTL", "ResourceRecords"];
        let text = |name| element.text_of(name).unwrap_or_default();
        let records = element.child("ResourceRecords").map(|records| records.children.as_slice()).unwrap_or_default();
        let others = element.children.iter().map(|child| child.name.as_str()).filter(|name| !KNOWN.contains(name));
        Self {
            name: plain(text("Name")),
            kind: text("Type").to_owned(),
            identifier: element.text_of("SetIdentifier").map(str::to_owned),
            weight: text("Weight").parse().ok(),
            ttl: text("TTL").parse().ok(),
            values: records.iter().filter_map(|record| record.text_of("Value")).map(plain).collect(),
            others: others.map(str::to_owned).collect(),
        }
    }

    /// Returns whether the record set is under this name.
    pub(super) fn is_of(&self, node: &str) -> bool {
        self.name == node
    }

    fn describe(&self) -> String {
        let value = self.values.first().map(|value| format!(" {}", quote(value))).unwrap_or_default();
        let others = self.others.iter().map(|name| format!(" with {}", quote(name))).collect::<Vec<_>>().concat();
        format!("{}{value}{others}", quote(&self.kind).trim_matches('"'))
    }
}

/// Returns the record sets for a node, one for each provider.
pub(super) fn elements(target: &TargetKeys, node: &str, record: &Record) -> Vec<Element> {
    let weight_in_dns = |provider: &String| record.weights.iter().find(|run| run.0 == *provider).map_or(0, |run| run.1);
    let element = |(provider, share): (&String, &Share)| {
        let cname = target.providers.get(provider).map_or("", |keys| keys.cname.as_str());
        let value = Element::new("ResourceRecord", vec![Element::with_text("Value", format!("{cname}."))]);
        let children = vec![
            Element::with_text("Name", format!("{node}.")),
            Element::with_text("Type", "CNAME"),
            Element::with_text("SetIdentifier", identifier(provider, *share)),
            Element::with_text("Weight", weight_in_dns(provider).to_string()),
            Element::with_text("TTL", target.ttl.as_secs().to_string()),
            Element::new("ResourceRecords", vec![value]),
        ];
        Element::new("ResourceRecordSet", children)
    };
    record.shares.0.iter().map(element).collect()
}

fn identifier(provider: &str, share: Share) -> String {
    let away = if share.away { " away" } else { "" };
    format!("{OWNER} {provider} {} {}{away}", share.mode.name(), share.weight)
}

/// Reads an identifier that [`identifier`] wrote. Returns the provider and its share.
fn share_of(set: &RecordSet) -> Option<(String, Share)> {
    let words: Vec<&str> = set.identifier.as_deref()?.split(' ').collect();
    let (provider, mode, weight, away) = match words.as_slice() {
        [OWNER, provider, mode, weight] => (*provider, mode, weight, false),
        [OWNER, provider, mode, weight, "away"] => (*provider, mode, weight, true),
        _ => return None,
    };
    let share = Share { mode: Mode::named(mode)?, weight: weight.parse().ok()?, away };
    // Messages show the names of providers, so a name from DNS must have only the characters of a label.
    let is_valid = label(provider, &[], "").as_deref() == Ok(provider) && share.weight <= MAX_WEIGHT;
    is_valid.then(|| (provider.to_owned(), share))
}

/// Reads the record sets under the name of a node.
pub(super) fn holding(target: &TargetKeys, sets: &[RecordSet]) -> Holding {
    let list = |sets: &[&RecordSet]| sets.iter().map(|set| set.describe()).collect::<Vec<_>>().join(", ");
    let foreign = || Holding::Foreign(format!("another record ({})", list(&sets.iter().collect::<Vec<_>>())));
    let ours: Vec<(&RecordSet, String, Share)> =
        sets.iter().filter_map(|set| share_of(set).map(|(provider, share)| (set, provider, share))).collect();
    if ours.is_empty() {
        return match sets {
            [] => Holding::Nothing,
            [RecordSet { kind, identifier: None, values, others, .. }] if kind == "CNAME" && others.is_empty() => {
                match values.as_slice() {
                    [cname] => {
                        target.provider_of(cname).map_or_else(foreign, |provider| Holding::Cname(provider.to_owned()))
                    }
                    _ => foreign(),
                }
            }
            _ => foreign(),
        };
    }
    let mut shares = BTreeMap::new();
    let mut wrong = None;
    for (set, provider, share) in &ours {
        if shares.insert(provider.clone(), *share).is_some() {
            wrong = Some(format!("{provider} has two records"));
        }
        let cname = target.providers.get(provider).map(|keys| keys.cname.as_str());
        if set.kind != "CNAME" || set.weight.is_none() || !set.others.is_empty() {
            wrong = Some(format!(
                "the record of {provider} is not the weighted CNAME that edgeshim writes ({})",
                set.describe()
            ));
        } else if set.ttl != Some(target.ttl.as_secs()) {
            wrong = Some(format!("the TTL of {provider} is not {} s, the ttl in balance.toml", target.ttl.as_secs()));
        // If balance.toml no longer has the provider, and the provider is served, `refuse` reports the provider by its
        // name.
        } else if cname.is_some_and(|cname| set.values != [cname]) {
            wrong = Some(format!("the record of {provider} is {}, not the cname in balance.toml", set.describe()));
        }
    }
    let beside: Vec<&RecordSet> = sets.iter().filter(|set| share_of(set).is_none()).collect();
    if !beside.is_empty() {
        wrong = Some(format!(
            "the name also has records that edgeshim did not write ({}); a change deletes them",
            list(&beside)
        ));
    }
    let weight = |(set, provider, _): &(&RecordSet, String, Share)| {
        set.weight.filter(|weight| *weight > 0).map(|weight| (provider.clone(), weight))
    };
    let mut weights: Vec<_> = ours.iter().filter_map(weight).collect();
    weights.sort();
    let record = Record { shares: Shares(shares), weights };
    match wrong {
        Some(what) => Holding::Edited(record, what),
        None => Holding::Ours(record),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::balance::dns::sample_target as target;

    fn sample() -> Record {
        let shares = [("a", Share::new(Mode::Obey, 5)), ("b", Share { mode: Mode::Remove, weight: 15, away: true })];
        Record {
            shares: Shares(shares.map(|(name, share)| (name.to_owned(), share)).into()),
            weights: vec![("a".to_owned(), 1)],
        }
    }

    fn sets(elements: &[Element]) -> Vec<RecordSet> {
        elements.iter().map(RecordSet::read).collect()
    }

    /// Returns the sample's record sets after the text of one element of the first record set was replaced.
    fn changed(name: &str, text: &str) -> Vec<RecordSet> {
        let mut all = elements(&target(), "img.example.com", &sample());
        let child = all[0].children.iter_mut().find(|child| child.name == name);
        text.clone_into(&mut child.expect("a child").text);
        sets(&all)
    }

    #[test]
    fn record_sets_when_read_back_then_are_the_same_record() {
        let elements = elements(&target(), "img.example.com", &sample());
        assert_eq!(
            elements[0].to_string(),
            "<ResourceRecordSet><Name>img.example.com.</Name><Type>CNAME</Type>\
             <SetIdentifier>edgeshim a obey 5</SetIdentifier><Weight>1</Weight><TTL>60</TTL><ResourceRecords>\
             <ResourceRecord><Value>a.example.net.</Value></ResourceRecord></ResourceRecords></ResourceRecordSet>"
        );
        let sets = sets(&elements);
        assert_eq!(sets[1].identifier.as_deref(), Some("edgeshim b remove 15 away"));
        assert!(sets[0].is_of("img.example.com") && !sets[0].is_of("img0.example.com"));
        assert_eq!(holding(&target(), &sets), Holding::Ours(sample()));
        assert_eq!(holding(&target(), &[]), Holding::Nothing);
    }

    #[test]
    fn record_sets_when_changed_by_hand_then_are_edited() {
        for (name, text, part) in [
            ("TTL", "61", "the TTL of a is not 60 s"),
            ("Type", "A", "is not the weighted CNAME that edgeshim writes (A \"a.example.net\")"),
            ("Weight", "x", "is not the weighted CNAME that edgeshim writes"),
            ("SetIdentifier", "edgeshim b obey 5", "b has two records"),
            ("SetIdentifier", "of another program", "records that edgeshim did not write (CNAME \"a.example.net\")"),
        ] {
            let Holding::Edited(_, what) = holding(&target(), &changed(name, text)) else { panic!("{name}") };
            assert!(what.contains(part), "{name}: {what}");
        }
        let mut more = elements(&target(), "img.example.com", &sample());
        more[1].children.push(Element::with_text("HealthCheckId", "x"));
        let Holding::Edited(_, what) = holding(&target(), &sets(&more)) else { panic!("edited") };
        assert!(what.contains("with \"HealthCheckId\""), "{what}");
        let mut moved = target();
        moved.providers.get_mut("a").expect("a").cname = "new.example.net".to_owned();
        let old = sets(&elements(&target(), "img.example.com", &sample()));
        let Holding::Edited(_, what) = holding(&moved, &old) else { panic!("edited") };
        assert!(what.contains("CNAME \"a.example.net\", not the cname in balance.toml"), "{what}");
    }

    #[test]
    fn record_sets_when_not_written_by_edgeshim_then_are_known_cname_or_foreign() {
        let set = |kind: &str, value: &str, more: Vec<Element>| {
            let value = Element::new("ResourceRecord", vec![Element::with_text("Value", value)]);
            let records = Element::new("ResourceRecords", vec![value]);
            let children = vec![Element::with_text("Type", kind), records];
            RecordSet::read(&Element::new("ResourceRecordSet", [children, more].concat()))
        };
        assert_eq!(holding(&target(), &[set("CNAME", "B.example.net.", vec![])]), Holding::Cname("b".to_owned()));
        let weighted = vec![Element::with_text("SetIdentifier", "edgeshim b maybe 5")];
        for set in [
            set("CNAME", "c.example.net.", vec![]),
            set("A", "192.0.2.1", vec![]),
            set("CNAME", "b.example.net.", weighted),
            set("CNAME", "b.example.net.", vec![Element::with_text("AliasTarget", "x")]),
        ] {
            assert!(matches!(holding(&target(), std::slice::from_ref(&set)), Holding::Foreign(_)), "{set:?}");
        }
    }

    proptest! {
        #[test]
        fn identifier_when_arbitrary_then_is_read_without_panic(text in "(edgeshim )?[ -~é]{0,40}") {
            let element = Element::new("ResourceRecordSet", vec![Element::with_text("SetIdentifier", text)]);
            let set = RecordSet::read(&element);
            if let Some((provider, share)) = share_of(&set) {
                prop_assert!(identifier(&provider, share).len() <= 128);
            }
            let _ = holding(&target(), &[set]);
        }
    }
}
