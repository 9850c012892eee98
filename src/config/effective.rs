//! Shows the effective configuration as JSON, for `/config` of the admin listener. The JSON has the same structure as
//! the file, and secrets are hidden.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde_json::{Map, Value, json};

use super::settings::Settings;
use crate::edge::request::class::CacheMode;
use crate::keys::grammar::text_of;
use crate::keys::{Keys, Text, Visitor};

/// The keys of one block, with their values.
#[derive(Default)]
struct Shown(Map<String, Value>);

impl Shown {
    fn insert(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }
}

/// This visitor records the values and does not change them.
impl Visitor for Shown {
    fn flag(&mut self, name: &'static str, value: &mut bool) {
        self.insert(name, *value);
    }

    fn integer<T>(&mut self, name: &'static str, _: RangeInclusive<i64>, value: &mut T)
    where
        T: Copy + TryFrom<i64> + TryInto<i64>,
    {
        self.insert(name, (*value).try_into().unwrap_or(i64::MAX));
    }

    fn number<T>(&mut self, name: &'static str, text: &Text<T>, value: &mut Option<T>) {
        self.optional(name, text, value);
    }

    fn integers<T>(&mut self, name: &'static str, _: RangeInclusive<i64>, values: &mut Vec<T>)
    where
        T: Copy + TryFrom<i64> + TryInto<i64>,
    {
        self.insert(name, values.iter().map(|&value| value.try_into().unwrap_or(i64::MAX)).collect::<Vec<_>>());
    }

    fn choice<T: Copy + PartialEq>(&mut self, name: &'static str, choices: &[(&'static str, T)], value: &mut T) {
        self.insert(name, text_of(value, choices));
    }

    fn text<T>(&mut self, name: &'static str, text: &Text<T>, value: &mut T) {
        self.insert(name, (text.write)(value));
    }

    fn nonempty<T>(&mut self, name: &'static str, text: &Text<T>, value: &mut Option<T>) {
        self.insert(name, value.as_ref().map(text.write).unwrap_or_default());
    }

    fn optional<T>(&mut self, name: &'static str, text: &Text<T>, value: &mut Option<T>) {
        if let Some(value) = value {
            self.text(name, text, value);
        }
    }

    fn list<T>(&mut self, name: &'static str, text: &Text<T>, values: &mut Vec<T>) {
        self.insert(name, values.iter().map(text.write).collect::<Vec<_>>());
    }

    fn optional_list<T>(&mut self, name: &'static str, text: &Text<T>, values: &mut Option<Vec<T>>) {
        if let Some(values) = values {
            self.list(name, text, values);
        }
    }

    fn map(
        &mut self,
        name: &'static str,
        _: &str,
        _: (&Text<String>, &Text<String>),
        values: &mut BTreeMap<String, String>,
    ) {
        self.insert(name, json!(values));
    }

    fn numbers<T>(
        &mut self,
        name: &'static str,
        _: &str,
        _: &Text<String>,
        number: &Text<T>,
        values: &mut BTreeMap<String, T>,
    ) {
        let number = |value| (number.write)(value).parse::<f64>().map_or(Value::Null, Value::from);
        self.insert(name, values.iter().map(|(name, value)| (name.clone(), number(value))).collect::<Map<_, _>>());
    }

    fn named_blocks<T: Keys>(
        &mut self,
        name: &'static str,
        _: &str,
        _: &Text<String>,
        values: &mut BTreeMap<String, T>,
    ) {
        let blocks: Map<_, _> = values.iter_mut().map(|(name, value)| (name.clone(), shown(value))).collect();
        self.insert(name, blocks);
    }

    fn block(&mut self, name: &'static str, keys: impl FnOnce(&mut Self)) {
        let mut block = Self::default();
        keys(&mut block);
        self.insert(name, block.0);
    }

    fn optional_block<T: Keys>(&mut self, name: &'static str, value: &mut Option<T>) {
        if let Some(value) = value {
            self.insert(name, shown(value));
        }
    }

    fn blocks<T: Keys>(&mut self, name: &'static str, values: &mut Vec<T>) {
        self.insert(name, values.iter_mut().map(shown).collect::<Vec<_>>());
    }
}

fn shown(keys: &mut impl Keys) -> Value {
    let mut shown = Shown::default();
    keys.keys(&mut shown);
    shown.0.into()
}

impl Settings {
    /// Returns all settings that are in effect. The JSON has the structure of the file, and shows secrets as `***`.
    pub fn effective_json(&self) -> Value {
        let mut whole = shown(&mut self.clone());
        for (index, class) in self.classes.iter().enumerate() {
            // The settings have values for `error_ttl` and `immutable` in every mode. But in the modes `keep` and
            // `never`, these values have no effect, so the keys are not shown.
            if let CacheMode::Keep | CacheMode::Never = class.cache.mode
                && let Some(cache) = whole["class"][index]["cache"].as_object_mut()
            {
                cache.retain(|key, _| key != "error_ttl" && key != "immutable");
            }
        }
        whole["provider"] = self.providers.iter().map(super::provider_blocks::json).collect();
        whole
    }
}
