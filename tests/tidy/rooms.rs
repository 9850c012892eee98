//! The rules for rooms: which other rooms and which crates a room is allowed to use, and the order of the modules in
//! `lib.rs`.

use crate::paths::{Named, named};
use crate::source::{Breach, Source, is_word, words};

/// The rooms by floor, with the top floor first. A floor is a row in the table of rooms in `src/ARCHITECTURE.md`. The
/// last two rows of the table are one floor. A room is allowed to import only from rooms on lower floors.
const FLOORS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["serve", "admin", "smoke", "balance"],
    &["operators"],
    &["runtime"],
    &["config"],
    &["edge"],
    &["origin", "intake", "access_log"],
    &["cdn", "pages"],
    &["metrics"],
    &["keys"],
    &["fault", "ids", "wire", "clock", "regular_file"],
];

/// The required order of the `mod` lines in `lib.rs`. `clock` and `regular_file` are not in this list: they are
/// allowed anywhere among the other rooms of their floor.
const READING_ORDER: &[&str] = &[
    "cli",
    "serve",
    "admin",
    "smoke",
    "balance",
    "operators",
    "runtime",
    "config",
    "edge",
    "origin",
    "intake",
    "access_log",
    "cdn",
    "pages",
    "metrics",
    "keys",
    "fault",
    "ids",
    "wire",
];

/// `balance` is a command of its own. It calls the APIs of DNS services, so it needs tokio for the connections and
/// serde for the JSON.
const SERDE_ROOMS: &[&str] = &["config", "intake", "admin", "balance", "cli"];
const TOKIO_ROOMS: &[&str] = &["serve", "origin", "admin", "smoke", "balance", "operators", "cli"];

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&room))
}

/// A room must import only from rooms on lower floors. A layer must not import another layer.
pub(crate) fn stairs(source: &Source) -> Vec<Breach> {
    let room = source.room();
    if room == "lib" {
        return Vec::new();
    }
    let Some(own) = floor(room) else {
        let what = format!("`{room}` is not a known room");
        return source
            .breach_of_file(what, "move the file into a room, or add the room to FLOORS in tests/tidy/rooms.rs");
    };
    let layer = source.module.get(1).filter(|_| room == "edge").map(String::as_str);
    let mut breaches = Vec::new();
    for Named { at, segments, .. } in named(source) {
        let Some(other) = segments.first() else { continue };
        let breach = match floor(other) {
            None => source.breach(
                at,
                format!("`crate::{other}` is not a room"),
                "import the item from the room that defines it, not from the root of the crate",
            ),
            Some(_) if other == room => layer.and_then(|layer| layers(source, layer, at, &segments)),
            Some(floor) if floor > own => None,
            Some(floor) => {
                let why = if floor == own {
                    "rooms on one floor must not import each other"
                } else {
                    "a room may import only from lower rooms"
                };
                source.breach(
                    at,
                    format!("`{room}` imports `{}`: {why}", segments.join("::")),
                    "move the shared item to a lower room, or let a higher room pass the item as an argument",
                )
            }
        };
        breaches.extend(breach);
    }
    breaches
}

fn layers(source: &Source, layer: &str, at: usize, segments: &[String]) -> Option<Breach> {
    let other = segments.get(1)?;
    if layer == "pipeline" || other == layer || (other == "request" && layer != "request") {
        return None;
    }
    source.breach(
        at,
        format!("edge::{layer} imports edge::{other}: inside `edge`, a layer may import only `request`"),
        "move the shared item to edge::request or a lower room; only edge::pipeline may import layers",
    )
}

/// Only the listed rooms are allowed to use serde and tokio.
pub(crate) fn crates(source: &Source) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let rules = [
        ("serde", SERDE_ROOMS, "convert the data to a plain type in one of these rooms"),
        ("serde_json", SERDE_ROOMS, "convert the data to a plain type in one of these rooms"),
        ("tokio", TOKIO_ROOMS, "let the caller pass the socket, timer or task as a type parameter or a future"),
    ];
    for (name, rooms, instead) in rules {
        if rooms.contains(&source.room()) {
            continue;
        }
        for at in words(&source.code, name) {
            let rest = &source.code[at + name.len()..];
            let before = source.code[..at].trim_end();
            let used = rest.starts_with("::")
                || before.ends_with("use")
                || before.ends_with("use ::")
                || before.ends_with("#[");
            if used && !before.ends_with("crate::") {
                let what = format!(
                    "`{}` uses {name}, but only these rooms may use {name}: {}",
                    source.room(),
                    rooms.join(", ")
                );
                breaches.extend(source.breach(at, what, instead));
            }
        }
    }
    breaches
}

/// Only the room `metrics` is allowed to call the macros of the crate `metrics`, because each call of a macro hashes a
/// key and takes a lock. Any room is allowed to use handles.
pub(crate) fn metrics(source: &Source) -> Vec<Breach> {
    const MACROS: &[&str] =
        &["counter", "gauge", "histogram", "describe_counter", "describe_gauge", "describe_histogram"];
    if source.room() == "metrics" {
        return Vec::new();
    }
    let code = &source.code;
    let called = |name: &'static str| words(code, name).filter(move |at| code[at + name.len()..].starts_with('!'));
    let mut found: Vec<usize> = MACROS.iter().flat_map(|name| called(name)).collect();
    found.sort_unstable();
    let instead = "create the handle once in `metrics`, and use the handle";
    found
        .into_iter()
        .filter_map(|at| source.breach(at, "a metrics macro is called outside of the room `metrics`", instead))
        .collect()
}

/// The `mod` lines of `lib.rs` must follow [`READING_ORDER`].
pub(crate) fn order(source: &Source) -> Vec<Breach> {
    if source.path != "src/lib.rs" {
        return Vec::new();
    }
    let mut breaches = Vec::new();
    let mut last: Option<(usize, usize, String)> = None;
    for at in words(&source.code, "mod") {
        let name = source.code[at + 3..].trim_start();
        let (name, rest) = name.split_at(name.find(|character| !is_word(character)).unwrap_or(name.len()));
        // A module whose body is in `lib.rs` is not a room.
        if rest.starts_with(" {") || source.code[..at].matches('{').count() > source.code[..at].matches('}').count() {
            continue;
        }
        let Some(floor) = floor(name) else {
            let what = format!("`mod {name}` is not a known room");
            breaches.extend(source.breach(
                at,
                what,
                "move the module into a room, or add the room to FLOORS and READING_ORDER",
            ));
            continue;
        };
        // A room that is not in the list gets the position of the previous module. So only its floor is checked.
        let place = READING_ORDER.iter().position(|room| *room == name);
        let place = place.unwrap_or_else(|| last.as_ref().map_or(0, |(_, place, _)| *place));
        if let Some((last_floor, last_place, before)) = &last
            && (floor < *last_floor || place < *last_place)
        {
            let what = format!("`mod {name}` comes after `mod {before}`");
            breaches.extend(source.breach(at, what, format!("use this order: {}", READING_ORDER.join(", "))));
        }
        last = Some((floor, place, name.to_owned()));
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::lines_of;

    #[test]
    fn room_when_unknown_or_importing_from_a_room_that_is_not_lower_then_reported() {
        let up = [
            ("src/wire/vary.rs", "use crate::edge::request::Ctx;"),
            ("src/edge/mod.rs", "use crate::config::Settings;"),
            ("src/origin/pool.rs", "fn f() { crate::intake::beacon(); }"),
            ("src/cdn/mod.rs", "use crate::{\n    wire,\n    pages::locale,\n};"),
            ("src/ids.rs", "use crate::clock::Clock;"),
            ("src/runtime.rs", "use super::serve::Listener;"),
            ("src/edge/gzip/policy.rs", "use super::super::super::config;"),
            ("src/metrics/mod.rs", "use crate::{fault::Fault, ids::{Class, Provider}, cdn};"),
            ("src/serve/conn.rs", "use crate::Error;"),
            ("src/attic/mod.rs", ""),
        ];
        for (path, text) in up {
            assert_eq!(lines_of(stairs, path, text).len(), 1, "{path}: {text}");
        }
        let text = "use crate::{\n    wire,\n    pages::locale,\n};";
        assert_eq!(lines_of(stairs, "src/cdn/mod.rs", text), [3], "the breach must be in the line of `pages::locale`");
    }

    #[test]
    fn room_when_importing_only_from_lower_rooms_then_nothing_is_reported() {
        let down = [
            ("src/config/settings.rs", "use crate::edge::gzip::Settings;"),
            ("src/main.rs", "fn main() { edgeshim::cli::run() }"),
            ("src/serve/mod.rs", "use crate::{runtime::Runtime, config::Settings as S, wire::*};"),
            ("src/origin/mod.rs", "use crate::origin::pool; use super::fault; pub(crate) fn f() {}"),
            ("src/edge/mod.rs", "pub(in crate::edge) mod request; // use crate::config;\n"),
            ("src/wire/mod.rs", "const A: &str = \"use crate::edge\"; const B: &str = r#\"crate::cli\"#;"),
            (
                "src/wire/mod.rs",
                "fn f<'a>(x: &'a str) -> char { '\\'' }\n#[cfg(test)]\nmod tests { use crate::config::X; }",
            ),
            ("src/wire/mod.rs", "// tidy: a type of the root, since the macro needs it\nuse crate::Error;"),
            ("src/lib.rs", "pub mod cli;"),
        ];
        for (path, text) in down {
            assert_eq!(lines_of(stairs, path, text), [], "{path}: {text}");
        }
    }

    #[test]
    fn layer_when_importing_another_layer_then_reported() {
        for text in [
            "use crate::edge::whoopsie::Page;",
            "use super::whoopsie::Page;",
            "use crate::edge::{request::Ctx, whoopsie};",
        ] {
            assert_eq!(lines_of(stairs, "src/edge/gzip.rs", text), [1], "{text}");
        }
        assert_eq!(lines_of(stairs, "src/edge/gzip/body.rs", "use super::super::pulls;"), [1]);
        assert_eq!(lines_of(stairs, "src/edge/request.rs", "use super::gzip;"), [1]);
        assert_eq!(lines_of(stairs, "src/edge/gzip.rs", "use crate::edge::pipeline;"), [1]);
        let fine = [
            ("src/edge/pipeline.rs", "use super::{gzip, whoopsie};"),
            ("src/edge/mod.rs", "pub use self::gzip::X; use crate::edge::gzip;"),
            ("src/edge/gzip/body.rs", "use super::policy; use crate::edge::{gzip::Level, request::Ctx};"),
            ("src/edge/request/class.rs", "use super::Ctx; use crate::edge::request::Method;"),
        ];
        for (path, text) in fine {
            assert_eq!(lines_of(stairs, path, text), [], "{path}: {text}");
        }
    }

    #[test]
    fn serde_or_tokio_when_used_in_a_room_without_permission_then_reported() {
        for text in
            ["use serde::Deserialize;", "#[serde(default)]", "let x = serde_json::from_str(a);", "use ::serde::de;"]
        {
            assert_eq!(lines_of(crates, "src/edge/gzip.rs", text), [1], "{text}");
            assert_eq!(lines_of(crates, "src/config/file.rs", text), [], "{text}");
        }
        for text in ["use tokio::time::sleep;", "#[tokio::main]", "tokio::spawn(f);"] {
            assert_eq!(lines_of(crates, "src/config/file.rs", text), [1], "{text}");
            assert_eq!(lines_of(crates, "src/origin/pool.rs", text), [], "{text}");
        }
        let tests = "fn f() {}\n#[cfg(test)]\nmod tests {\n    use tokio::time;\n}\n";
        assert_eq!(lines_of(crates, "src/wire/mod.rs", tests), []);
        assert_eq!(lines_of(crates, "src/wire/mod.rs", "// tokio::spawn\nlet tokio_like = \"tokio::\";"), []);
    }

    #[test]
    fn metrics_macro_when_called_outside_room_metrics_then_reported() {
        for text in [
            "metrics::counter!(\"a\")",
            "counter!(\"a\")",
            "let h = ::metrics::histogram!(\"a\");",
            "describe_gauge!(a)",
        ] {
            assert_eq!(lines_of(metrics, "src/edge/pulls.rs", text), [1], "{text}");
            assert_eq!(lines_of(metrics, "src/metrics/mod.rs", text), [], "{text}");
        }
        for text in
            ["use metrics::Counter;", "let counter = 1;", "my_counter!(a)", "// counter!(\"a\")", "counter != a"]
        {
            assert_eq!(lines_of(metrics, "src/edge/pulls.rs", text), [], "{text}");
        }
    }

    #[test]
    fn mod_line_when_out_of_order_or_unknown_then_reported() {
        assert_eq!(lines_of(order, "src/lib.rs", "pub mod edge;\npub mod config;\n"), [2]);
        assert_eq!(lines_of(order, "src/lib.rs", "pub mod admin;\npub mod serve;\n"), [2]);
        assert_eq!(lines_of(order, "src/lib.rs", "pub mod wire;\npub mod attic;\n"), [2]);
        assert_eq!(lines_of(order, "src/lib.rs", "mod clock;\npub mod metrics;\n"), [2]);
        let right = "mod cli;\nmod serve;\nmod admin;\npub mod edge;\nmod fault;\nmod clock;\nmod ids;\nmod wire;\n";
        assert_eq!(lines_of(order, "src/lib.rs", right), []);
        assert_eq!(lines_of(order, "src/lib.rs", "mod wire;\nmod internals {\n    mod attic;\n}\n"), []);
    }
}
