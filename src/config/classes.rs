//! The `[[class]]` blocks: where each applies, and which cache keys make sense together.

use std::collections::HashSet;

use super::file::{Read, Section};
use super::scalar::seconds;
use super::words::{header_name, label, media_type, one_of, path_glob};
use crate::edge::request::class::{CacheMode, CachePolicy, ClassRule, WhoopsieMode};

/// The most globs in one list: all of them may be tried for each request.
const MAX_GLOBS: usize = 1_000;

/// Reads every class, in the order of matching.
pub(super) fn classes(blocks: Vec<Section<'_>>) -> Vec<ClassRule> {
    const EXAMPLE: &str = "\"image\"";
    let mut taken = HashSet::new();
    let mut classes = Vec::with_capacity(blocks.len());
    for mut block in blocks {
        let name = block.read("name", EXAMPLE, |text| {
            // Names that differ in case alone are two to Prometheus and one to the eye.
            if !taken.insert(label(text, &["other"], EXAMPLE)?) {
                return Err("is a name that an earlier class has; write another, or merge the two blocks".to_owned());
            }
            Ok(text.to_owned())
        });
        if let Read::Absent = name {
            block.missing("name", format!("is missing; write name = {EXAMPLE}, which becomes the metric label"));
        }
        let path = block.read_list("path", "\"*.png\"", path_glob);
        let content_type = block.read_list("content_type", "\"image/*\"", media_type);
        for (key, list) in [("path", &path), ("content_type", &content_type)] {
            if let Read::Good(globs) = list
                && globs.len() > MAX_GLOBS
            {
                block.reject(key, format!("has {} globs; write at most {MAX_GLOBS}", globs.len()));
            }
        }
        let says_nothing = |list: &Read<Vec<String>>| match list {
            Read::Absent => true,
            Read::Good(list) => list.is_empty(),
            Read::Bad => false,
        };
        if says_nothing(&path) && says_nothing(&content_type) {
            let message = "applies to nothing; write path = [\"*.png\"] or content_type = [\"image/*\"]; \
                           what no class matches is class \"other\" anyway";
            block.reject_block(message);
        }
        let modes = [("auto", WhoopsieMode::Auto), ("always", WhoopsieMode::Always), ("never", WhoopsieMode::Never)];
        let rule = ClassRule {
            name: name.or(String::new()),
            path: path.or(Vec::new()),
            content_type: content_type.or(Vec::new()),
            cache: cache(block.block("cache")),
            gzip: block.flag("gzip", true),
            whoopsie: block.text("whoopsie", "\"auto\"", WhoopsieMode::Auto, |text| one_of(text, &modes)),
            admission: block.flag("admission", true),
        };
        block.finish();
        classes.push(rule);
    }
    classes
}

/// The words for the modes.
pub(super) const MODES: [(&str, CacheMode); 4] = [
    ("keep", CacheMode::Keep),
    ("default", CacheMode::Default),
    ("override", CacheMode::Override),
    ("never", CacheMode::Never),
];

fn cache(mut block: Section<'_>) -> CachePolicy {
    let keep = CachePolicy::keep();
    let mode = block.read("mode", "\"override\"", |text| one_of(text, &MODES));
    let ttl = block.read("ttl", "\"7d\"", seconds);
    let edge_ttl = block.read("edge_ttl", "\"30d\"", seconds);
    let stale_while_revalidate = block.read("stale_while_revalidate", "\"60s\"", seconds);
    let stale_if_error = block.read("stale_if_error", "\"1d\"", seconds);
    let error_ttl = block.read("error_ttl", "\"10s\"", seconds);
    let immutable = block.flag("immutable", keep.immutable);
    let strip_cookies = block.flag("strip_cookies", keep.strip_cookies);
    let allow_authorization = block.flag("allow_authorization", keep.allow_authorization);
    let vary = block.read_list("vary", "\"Accept-Encoding\"", |text| {
        if text == "*" {
            return Err(
                "would make every answer private; write the names of request fields, for example \"Accept-Encoding\""
                    .to_owned(),
            );
        }
        header_name(text).map(|_| text.to_owned())
    });

    // A mode that is wrong has been told; nothing more can be said about what stands beside it.
    let known_mode = match mode {
        Read::Absent => Some(CacheMode::Keep),
        Read::Good(mode) => Some(mode),
        Read::Bad => None,
    };
    let times = [
        ("ttl", &ttl),
        ("edge_ttl", &edge_ttl),
        ("stale_while_revalidate", &stale_while_revalidate),
        ("stale_if_error", &stale_if_error),
        ("error_ttl", &error_ttl),
    ];
    let in_vain = match known_mode {
        Some(CacheMode::Keep) if matches!(mode, Read::Absent) => {
            Some("does nothing without a mode; write mode = \"override\" or \"default\"")
        }
        Some(CacheMode::Keep) => Some(
            "does nothing in mode \"keep\", which only tidies what the origin said; \
             write mode = \"override\" or \"default\"",
        ),
        Some(CacheMode::Never) => {
            Some("does nothing in mode \"never\", which is no-store; take it out, or write mode = \"override\"")
        }
        Some(CacheMode::Default | CacheMode::Override) | None => None,
    };
    if let Some(said) = in_vain {
        for (key, time) in times {
            if let Read::Good(_) = time {
                block.reject(key, said);
            }
        }
        if immutable {
            block.reject("immutable", said);
        }
    } else if known_mode.is_some() && matches!((&ttl, &edge_ttl), (Read::Absent, Read::Absent)) {
        block.reject("mode", "has no lifetime to give; write ttl = \"7d\" or edge_ttl = \"30d\" beside it");
    }
    block.finish();

    CachePolicy {
        mode: known_mode.unwrap_or(keep.mode),
        ttl: ttl.good(),
        edge_ttl: edge_ttl.good(),
        stale_while_revalidate: stale_while_revalidate.good(),
        stale_if_error: stale_if_error.good(),
        immutable,
        strip_cookies,
        vary: vary.good(),
        error_ttl: error_ttl.or(keep.error_ttl),
        allow_authorization,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::parse;

    fn told(cache: &str) -> String {
        let text = format!("[[class]]\nname = \"c\"\npath = [\"*.png\"]\ncache = {{ {cache} }}\n");
        parse(&text, "e.toml", Path::new(".")).map_or_else(|problems| problems.to_string(), |_| String::new())
    }

    #[test]
    fn lifetime_where_none_is_given_out_is_told() {
        for (cache, remedy) in [
            ("mode = \"keep\", ttl = \"7d\"", "only tidies"),
            ("ttl = \"7d\"", "without a mode"),
            ("mode = \"never\", edge_ttl = \"7d\"", "no-store"),
            ("mode = \"never\", immutable = true", "no-store"),
            ("mode = \"override\"", "write ttl"),
            ("mode = \"default\", error_ttl = \"1s\"", "write ttl"),
            ("mode = \"overide\", ttl = \"7d\"", "did you mean \"override\""),
        ] {
            let told = told(cache);
            assert!(told.contains(remedy), "{cache}: {told}");
            assert_eq!(told.lines().count(), 1, "{cache}: {told}");
        }
    }

    #[test]
    fn whole_policies_pass() {
        for cache in [
            "",
            "mode = \"keep\", strip_cookies = true, vary = []",
            "mode = \"never\"",
            "mode = \"override\", ttl = \"94670800s\", immutable = true, error_ttl = \"0s\"",
            "mode = \"default\", edge_ttl = \"1h\", stale_while_revalidate = \"60s\", stale_if_error = \"1d\", \
             vary = [\"Accept-Encoding\"]",
        ] {
            assert_eq!(told(cache), "", "{cache}");
        }
    }
}
