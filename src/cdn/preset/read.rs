//! Reads the file of a preset. An unknown key is an error, because it would have no effect. The tables in [`PROSE`] may
//! have any keys.

use std::fmt::Write as _;

use toml::{Table, Value};

use super::edge_fields::EdgeFields;
use super::logs::{LogField, LogForm, LogPlace};
use super::{Br, ClientField, ClientForm, Fact, Field, Matcher, PopField, PopForm, Preset, TagField, TagForm, Test};
use crate::cdn::dialect::Dialect;
use crate::cdn::limits::HeadLimits;
use crate::ids::EdgeResult;
use crate::wire::names::{
    CDN_CACHE_CONTROL, CLOUDFLARE_CDN_CACHE_CONTROL, EDGE_CONTROL, SURROGATE_CONTROL, X_FORWARDED_FOR,
};

/// A message that describes an error in a preset's file.
type Flaw = String;

/// The tables whose keys are only shown to people. No code uses the values in these tables.
const PROSE: [&str; 2] = ["addresses", "statistics"];

/// Reads the file of one preset.
pub(super) fn preset(name: &'static str, file: &str) -> Result<Preset, Flaw> {
    let mut root =
        Reader { place: name.to_owned(), table: file.parse::<Table>().map_err(|error| format!("{name}: {error}"))? };
    if root.text("name")? != name {
        return Err(format!(
            "{name}: the value of the key `name` must be {name:?}, which is the name of the file without `.toml`"
        ));
    }
    let title = root.text("title")?;
    let ended = root.optional_text("ended")?;
    // `config/build.rs` sorts the files by this key.
    root.number::<u32>("order")?.ok_or_else(|| root.flaw("order is missing"))?;
    let mut facts =
        Facts { sources: root.table("sources")?.map(|sources| sources.table).unwrap_or_default(), list: Vec::new() };

    let mut signals = matchers("signal", &mut root, &mut facts)?;
    let client = root.table("client")?.map(|table| client(table, &mut facts)).transpose()?;
    let pop = root.table("pop")?.map(|table| pop(table, &mut facts)).transpose()?;
    let request_id = match root.table("request_id")? {
        Some(mut table) => {
            facts.take("request_id", &mut table)?;
            let field = table.field("field")?;
            table.end()?;
            Some(field.name)
        }
        None => None,
    };
    let probes = matchers("probe", &mut root, &mut facts)?;
    let shields = matchers("shield", &mut root, &mut facts)?;
    // A field that marks a health check is also a signal of the CDN.
    signals.extend(probes.iter().cloned());
    let mut proofs = Vec::new();
    for mut table in root.tables("proof")? {
        facts.take("proof", &mut table)?;
        let kind = table.text("kind")?;
        if !["secret", "addresses", "client_cert", "g2o"].contains(&kind.as_str()) {
            return Err(table.flaw(&format!("there is no proof {kind}: write secret, addresses, client_cert or g2o")));
        }
        table.end()?;
        proofs.push(kind);
    }
    let edge = root.table("edge")?.map_or(Ok(EdgeFields::default()), |table| edge(table, &mut facts))?;
    for kind in PROSE {
        if let Some(mut table) = root.table(kind)? {
            facts.take(kind, &mut table)?;
        }
    }
    let (coded_only, stores_by_vary) = match root.table("vary")? {
        Some(mut table) => {
            facts.take("vary", &mut table)?;
            let rule = table.text("rule")?;
            table.end()?;
            match rule.as_str() {
                "any" => (false, true),
                "accept_encoding_only" => (false, false),
                "coded_only" => (true, false),
                _ => {
                    let rules = "any, accept_encoding_only or coded_only";
                    return Err(format!("{name}: vary: there is no rule {rule}: write {rules}"));
                }
            }
        }
        None => (false, false),
    };
    let (dialect, targeted_field) = dialect(root.table("dialect")?, coded_only, &mut facts)?;
    let tags = root.table("tags")?.map_or(Ok(TagField::Unknown), |table| tags(table, &mut facts))?;
    let br = root.table("br")?.map_or(Ok(Br::Unknown), |table| br(table, &mut facts))?;
    let limits = root.table("limits")?.map_or(Ok(HeadLimits::default()), |table| limits(table, &mut facts))?;
    let logs = root.table("logs")?.map_or(Ok(LogForm::default()), |table| logs(table, &mut facts))?;
    root.end()?;
    Ok(Preset {
        name,
        title,
        ended,
        signals,
        client,
        pop,
        request_id,
        probes,
        shields,
        proofs,
        dialect,
        stores_by_vary,
        targeted_field,
        tags,
        br,
        limits,
        logs,
        edge,
        facts: facts.list,
    })
}

fn matchers(kind: &str, root: &mut Reader, facts: &mut Facts) -> Result<Vec<Matcher>, Flaw> {
    let read = |mut table: Reader| {
        facts.take(kind, &mut table)?;
        table.matcher()
    };
    root.tables(kind)?.into_iter().map(read).collect()
}

fn client(mut table: Reader, facts: &mut Facts) -> Result<ClientField, Flaw> {
    facts.take("client", &mut table)?;
    let field = table.field("field")?.name;
    let form = match table.text("form")?.as_str() {
        "address" => ClientForm::Address,
        "list" if field == X_FORWARDED_FOR => ClientForm::List { nodes: 0 },
        "list_but_last" if field == X_FORWARDED_FOR => ClientForm::List { nodes: 1 },
        other => {
            let forms = "address (for X-Forwarded-For also list or list_but_last)";
            return Err(table.flaw(&format!("this client field cannot have the form {other}: write {forms}")));
        }
    };
    // The key `anonymised` is only shown to people.
    table.flag("anonymised")?;
    table.end()?;
    Ok(ClientField { field, form })
}

fn pop(mut table: Reader, facts: &mut Facts) -> Result<PopField, Flaw> {
    facts.take("pop", &mut table)?;
    let field = table.field("field")?.name;
    let form = table.text("form")?;
    let form = pop_form(&table, &form)?;
    table.end()?;
    Ok(PopField { field, form })
}

fn pop_form(table: &Reader, form: &str) -> Result<PopForm, Flaw> {
    match form {
        "whole" => Ok(PopForm::Whole),
        "after_dash" => Ok(PopForm::AfterDash),
        "fastly_ff" => Ok(PopForm::FastlyFf),
        other => {
            let forms = "whole, after_dash or fastly_ff";
            Err(table.flaw(&format!("a point of presence cannot have the form {other}: write {forms}")))
        }
    }
}

fn edge(mut table: Reader, facts: &mut Facts) -> Result<EdgeFields, Flaw> {
    facts.take("edge", &mut table)?;
    let status = table.field("status")?.name;
    let (hit, miss) = (table.list("hit")?, table.list("miss")?);
    let pop = match table.optional_field("pop")? {
        None => None,
        Some(field) => {
            let form = table.optional_text("pop_form")?.unwrap_or_else(|| "whole".to_owned());
            Some(PopField { field: field.name, form: pop_form(&table, &form)? })
        }
    };
    let ask = match table.optional_field("ask")? {
        None => None,
        Some(field) => match table.text("ask_value")?.try_into() {
            Ok(value) => Some((field.name, value)),
            Err(_) => return Err(table.flaw("ask_value must be the value of a header field")),
        },
    };
    table.end()?;
    Ok(EdgeFields { status: Some(status), hit, miss, pop, ask })
}

fn dialect(table: Option<Reader>, coded_only: bool, facts: &mut Facts) -> Result<(Dialect, Option<Field>), Flaw> {
    let Some(mut table) = table else {
        return if coded_only {
            Err("vary: the rule coded_only needs Edge-Control in the table dialect; add the table dialect".to_owned())
        } else {
            Ok((Dialect::Generic, None))
        };
    };
    facts.take("dialect", &mut table)?;
    let (field, lifetimes_alone, passed_on) =
        (table.field("field")?, table.flag("lifetimes_alone")?, table.flag("passed_on")?);
    let dialect = if field.name == SURROGATE_CONTROL && lifetimes_alone && !passed_on {
        Dialect::Fastly
    } else if field.name == CLOUDFLARE_CDN_CACHE_CONTROL && !lifetimes_alone && !passed_on {
        Dialect::Cloudflare
    } else if field.name == CDN_CACHE_CONTROL && !lifetimes_alone && !passed_on {
        Dialect::Rfc9213
    } else if field.name == EDGE_CONTROL && !lifetimes_alone && passed_on {
        Dialect::Akamai
    } else {
        return Err(table.flaw("no dialect has this combination of the keys field, lifetimes_alone and passed_on"));
    };
    table.end()?;
    if coded_only == (dialect == Dialect::Akamai) {
        // edgeshim passes a field with `passed_on` to the CDN, but writes no lifetimes into it.
        Ok((dialect, Some(field).filter(|_| !passed_on)))
    } else {
        Err(table.flaw("the field Edge-Control and the vary rule coded_only must be used together"))
    }
}

fn tags(mut table: Reader, facts: &mut Facts) -> Result<TagField, Flaw> {
    facts.take("tags", &mut table)?;
    let (named_by_operator, dropped) = (table.flag("named_by_operator")?, table.flag("dropped")?);
    if dropped {
        table.end()?;
        return Ok(TagField::None);
    }
    let name = if named_by_operator { None } else { Some(table.field("field")?) };
    let &[delimiter @ (b' ' | b',')] = table.text("delimiter")?.as_bytes() else {
        return Err(table.flaw("delimiter must be \" \" or \",\""));
    };
    let form = TagForm {
        delimiter,
        max_tags: table.number("max_tags")?,
        max_tag_bytes: table.number("max_tag_bytes")?,
        max_bytes: table.number("max_bytes")?,
        case_sensitive: table.flag("case_sensitive")?,
    };
    table.end()?;
    Ok(name.map_or(TagField::Configured(form), |name| TagField::Fixed(name, form)))
}

fn limits(mut table: Reader, facts: &mut Facts) -> Result<HeadLimits, Flaw> {
    facts.take("limits", &mut table)?;
    let limits = HeadLimits {
        lines: table.number("lines")?,
        bytes: table.number("bytes")?,
        field_bytes: table.number("field_bytes")?,
    };
    table.end()?;
    Ok(limits)
}

fn br(mut table: Reader, facts: &mut Facts) -> Result<Br, Flaw> {
    facts.take("br", &mut table)?;
    let asked = table.text("asked")?;
    let br = match asked.as_str() {
        "always" => Br::Yes,
        "if_enabled" => Br::Configured,
        "never" => Br::No,
        _ => return Err(table.flaw(&format!("asked must be always, if_enabled or never, and not {asked}"))),
    };
    table.end()?;
    Ok(br)
}

fn logs(mut table: Reader, facts: &mut Facts) -> Result<LogForm, Flaw> {
    facts.take("logs", &mut table)?;
    let columns = table.list("columns")?;
    let separator = match table.optional_text("separator")?.as_deref() {
        None => '\t',
        Some("|") => '|',
        Some(_) => return Err(table.flaw("separator must be \"|\"; for a tab, remove the key separator")),
    };
    let mut places = Vec::new();
    for (key, field) in LogField::NAMES.into_iter().chain([("sender", LogField::Sender)]) {
        let Some(name) = table.optional_text(key)? else { continue };
        let column = columns.iter().position(|column| *column == name);
        if let Some(number) = column.and_then(|position| u16::try_from(position + 1).ok()) {
            places.push((field, LogPlace::Column(number)));
        }
        places.push((field, LogPlace::Member(name)));
    }
    let mut results = Vec::new();
    let meanings = [
        ("hit", EdgeResult::Hit),
        ("miss", EdgeResult::Miss),
        ("pass", EdgeResult::Pass),
        ("error", EdgeResult::Error),
    ];
    for (key, result) in meanings {
        results.extend(table.list(key)?.into_iter().map(|text| (text, result)));
    }
    let absent = match table.optional_text("absent")? {
        None => None,
        Some(text) => match meanings.into_iter().find(|(key, _)| *key == text) {
            Some((_, result)) => Some(result),
            None => return Err(table.flaw("absent must be \"hit\", \"miss\", \"pass\" or \"error\"")),
        },
    };
    let clients = table.list("clients")?;
    table.end()?;
    Ok(LogForm { separator, places, results, absent, clients })
}

/// The facts that have been read so far, and the table `[sources]`, to which the facts refer.
struct Facts {
    sources: Table,
    list: Vec<Fact>,
}

impl Facts {
    /// Removes the keys `source` and `note` from a table. Stores a fact with the source to which the key `source`
    /// refers, the note, and all other keys with their values. The other keys stay in the table.
    fn take(&mut self, kind: &str, table: &mut Reader) -> Result<(), Flaw> {
        let key = table.text("source")?;
        let note = table.optional_text("note")?;
        let mut source = Reader {
            place: format!("{} source {key}", table.place),
            table: match self.sources.get(&key) {
                Some(Value::Table(source)) => source.clone(),
                _ => return Err(table.flaw(&format!("the table [sources] has no source {key}"))),
            },
        };
        let (at, unproved, read) =
            (source.optional_text("at")?, source.optional_text("unproved")?, source.text("read")?);
        source.end()?;
        let place = match (at, unproved) {
            (Some(at), None) => at,
            (None, Some(why)) => format!("unproved: {why}"),
            _ => return Err(source.flaw("the source must have either the key `at` or the key `unproved`")),
        };
        let mut text = String::new();
        for (key, value) in &table.table {
            let value = value.as_str().map_or_else(
                || value.to_string(),
                |text| if text == " " { "space".to_owned() } else { text.to_owned() },
            );
            let _ = write!(text, "{}{key} {value}", if text.is_empty() { "" } else { ", " });
        }
        if let Some(note) = note {
            let _ = write!(text, " ({note})");
        }
        self.list.push(Fact { table: kind.to_owned(), text, source: format!("{place}, {read}") });
        Ok(())
    }
}

/// A table of the file. Reading a key removes the key from the table. After all known keys have been read, a key that
/// is left is unknown.
struct Reader {
    place: String,
    table: Table,
}

impl Reader {
    fn flaw(&self, what: &str) -> Flaw {
        format!("{}: {what}", self.place)
    }

    fn optional_text(&mut self, key: &str) -> Result<Option<String>, Flaw> {
        match self.table.remove(key) {
            None => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
            Some(_) => Err(self.flaw(&format!("{key} must be a string that is not empty"))),
        }
    }

    fn text(&mut self, key: &str) -> Result<String, Flaw> {
        self.optional_text(key)?.ok_or_else(|| self.flaw(&format!("{key} is missing")))
    }

    /// Reads a list of texts. If the key is missing, the list is empty.
    fn list(&mut self, key: &str) -> Result<Vec<String>, Flaw> {
        let texts = match self.table.remove(key) {
            None => Some(Vec::new()),
            Some(Value::Array(list)) => list.into_iter().map(|value| value.as_str().map(str::to_owned)).collect(),
            Some(_) => None,
        };
        texts.ok_or_else(|| self.flaw(&format!("{key} must be a list of strings")))
    }

    fn flag(&mut self, key: &str) -> Result<bool, Flaw> {
        match self.table.remove(key) {
            None => Ok(false),
            Some(Value::Boolean(flag)) => Ok(flag),
            Some(_) => Err(self.flaw(&format!("{key} must be true or false"))),
        }
    }

    fn number<T: TryFrom<i64>>(&mut self, key: &str) -> Result<Option<T>, Flaw> {
        match self.table.remove(key) {
            None => Ok(None),
            Some(Value::Integer(number)) => match T::try_from(number) {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(self.flaw(&format!("{key} is out of range"))),
            },
            Some(_) => Err(self.flaw(&format!("{key} must be an integer"))),
        }
    }

    fn field(&mut self, key: &str) -> Result<Field, Flaw> {
        self.optional_field(key)?.ok_or_else(|| self.flaw(&format!("{key} is missing")))
    }

    fn optional_field(&mut self, key: &str) -> Result<Option<Field>, Flaw> {
        let Some(spelled) = self.optional_text(key)? else { return Ok(None) };
        match spelled.parse() {
            Ok(name) => Ok(Some(Field { name, spelled })),
            Err(_) => Err(self.flaw(&format!("{key} must be the name of a header field"))),
        }
    }

    /// Reads a field and its test. Any other key in the table is an error.
    fn matcher(mut self) -> Result<Matcher, Flaw> {
        let field = self.field("field")?;
        let test = if let Some(name) = self.optional_text("member")? {
            Test::Member(name)
        } else if let Some(value) = self.optional_text("value")? {
            Test::Value(value)
        } else if let Some(start) = self.optional_text("starts")? {
            Test::Starts(start)
        } else if let Some(least) = self.number("at_least")? {
            Test::AtLeast(least)
        } else if let Some(least) = self.number("pops")? {
            Test::Pops(least)
        } else {
            Test::Present
        };
        self.end()?;
        Ok(Matcher { field, test })
    }

    fn table(&mut self, key: &str) -> Result<Option<Self>, Flaw> {
        match self.table.remove(key) {
            None => Ok(None),
            Some(Value::Table(table)) => Ok(Some(Self { place: format!("{}: {key}", self.place), table })),
            Some(_) => Err(self.flaw(&format!("{key} must be a table"))),
        }
    }

    fn tables(&mut self, key: &str) -> Result<Vec<Self>, Flaw> {
        let list = match self.table.remove(key) {
            None => Vec::new(),
            Some(Value::Array(list)) => list,
            Some(_) => return Err(self.flaw(&format!("{key} must be a list of tables"))),
        };
        let place = |at| format!("{}: {key} {}", self.place, at + 1);
        list.into_iter()
            .enumerate()
            .map(|(at, value)| match value {
                Value::Table(table) => Ok(Self { place: place(at), table }),
                _ => Err(format!("{} must be a table", place(at))),
            })
            .collect()
    }

    fn end(&self) -> Result<(), Flaw> {
        match self.table.keys().next() {
            None => Ok(()),
            Some(key) => Err(self.flaw(&format!("unknown key {key}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCES: &str = "[sources]\na = { at = \"https://cdn.example/docs\", read = \"2026-11-22\" }\n\
                           b = { unproved = \"from memory\", read = \"2026-11-22\" }\n";

    fn read(text: &str) -> Result<Preset, Flaw> {
        preset("x", &format!("name = \"x\"\ntitle = \"X\"\norder = 1\n{text}\n{SOURCES}"))
    }

    #[test]
    fn facts_when_file_is_read_then_each_fact_contains_the_source() {
        let preset = read(
            "[[signal]]\nfield = \"X-Sign\"\nsource = \"a\"\n\
             [client]\nfield = \"X-Client\"\nform = \"address\"\nnote = \"as the client sent it\"\nsource = \"b\"\n",
        )
        .unwrap();
        let lines: Vec<_> =
            preset.facts.iter().map(|fact| format!("{} {} [{}]", fact.table, fact.text, fact.source)).collect();
        assert_eq!(
            lines,
            [
                "signal field X-Sign [https://cdn.example/docs, 2026-11-22]",
                "client field X-Client, form address (as the client sent it) [unproved: from memory, 2026-11-22]",
            ]
        );
    }

    #[test]
    fn preset_files_when_listed_then_values_of_the_key_order_increase() {
        let orders = super::super::FILES.iter().map(|(name, file)| {
            let table: Table = file.parse().unwrap();
            table["order"].as_integer().unwrap_or_else(|| panic!("{name}: order must be an integer"))
        });
        assert!(orders.is_sorted_by(|one, next| one < next), "two files have the same order, or FILES is not sorted");
    }

    #[test]
    fn preset_file_when_invalid_then_rejected() {
        for (text, message) in [
            ("[[signal]]\nfield = \"X\"\n", "source is missing"),
            ("[[signal]]\nfield = \"X\"\nsource = \"c\"\n", "has no source c"),
            ("[[signal]]\nfield = \"X\"\nvalue = \"\"\nsource = \"a\"\n", "value must be a string that is not empty"),
            ("[[signal]]\nfield = \"X Y\"\nsource = \"a\"\n", "must be the name of a header field"),
            ("[[signal]]\nfield = \"X\"\nmember = \"y\"\nvalue = \"y\"\nsource = \"a\"\n", "unknown key value"),
            ("[client]\nfield = \"X\"\nform = \"list\"\nsource = \"a\"\n", "cannot have the form list"),
            ("[dialect]\nfield = \"Edge-Control\"\nsource = \"a\"\n", "no dialect has this combination"),
            ("[dialect]\nfield = \"Edge-Control\"\npassed_on = true\nsource = \"a\"\n", "must be used together"),
            ("[dialect]\nfield = \"CDN-Cache-Control\"\npassed_on = true\nsource = \"a\"\n", "no dialect has this"),
            ("[vary]\nrule = \"coded_only\"\nsource = \"a\"\n", "add the table dialect"),
            ("[limits]\nlines = 70000\nsource = \"a\"\n", "out of range"),
            ("[[proof]]\nkind = \"word\"\nsource = \"a\"\n", "no proof word"),
            ("[[surprise]]\n", "unknown key surprise"),
        ] {
            let flaw = read(text).err().unwrap_or_default();
            assert!(flaw.contains(message), "{text}: {flaw}");
        }
    }
}
