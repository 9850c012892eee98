//! Checks the `[[class]]` blocks: their names, their patterns, and whether their cache keys fit together.

use std::collections::HashSet;

use super::file::Section;
use crate::edge::request::class::{CacheMode, CachePolicy, ClassRule};

/// The largest number of globs in one list. The number is limited, because each pull can be compared with all globs of
/// the list.
const MAX_GLOBS: usize = 1_000;

pub(super) fn check(classes: &[ClassRule], sections: Vec<Section<'_>>) {
    let mut taken = HashSet::new();
    for (class, mut section) in classes.iter().zip(sections) {
        if !section.has("name") {
            section.missing("name", "is missing; write a name for the metric label, for example name = \"image\"");
        // The comparison ignores case. For Prometheus, names that differ only in case are different label values, but
        // people confuse such names.
        } else if !section.is_bad("name") && !taken.insert(class.name.to_ascii_lowercase()) {
            section.reject("name", "is the name of an earlier class; write another name, or merge the two blocks");
        }
        for (key, globs) in [("path", &class.path), ("content_type", &class.content_type)] {
            if globs.len() > MAX_GLOBS {
                section.reject(key, format!("has {} globs; write at most {MAX_GLOBS}", globs.len()));
            }
        }
        let is_empty = |key, globs: &[String]| globs.is_empty() && !section.is_bad(key);
        if is_empty("path", &class.path) && is_empty("content_type", &class.content_type) {
            let message = "matches no response; write path = [\"*.png\"] or content_type = [\"image/*\"]; \
                           responses that match no class are in the class \"other\"";
            section.reject_block(message);
        }
        check_cache(&class.cache, &section.section("cache"));
    }
}

fn check_cache(policy: &CachePolicy, cache: &Section<'_>) {
    if cache.is_bad("mode") {
        return;
    }
    let ignored = match policy.mode {
        CacheMode::Keep if !cache.has("mode") => {
            "has no effect without a mode; write mode = \"override\" or \"default\""
        }
        CacheMode::Keep => {
            "has no effect in mode \"keep\", which keeps the origin's lifetimes; \
             write mode = \"override\" or \"default\""
        }
        CacheMode::Never => {
            "has no effect in mode \"never\", which writes no-store; remove the key, or write mode = \"override\""
        }
        CacheMode::Default | CacheMode::Override => {
            if !cache.has("ttl") && !cache.has("edge_ttl") {
                cache.reject("mode", "needs a lifetime; write ttl = \"7d\" or edge_ttl = \"30d\" in the same block");
            }
            return;
        }
    };
    for key in ["ttl", "edge_ttl", "stale_while_revalidate", "stale_if_error", "error_ttl"] {
        if !cache.is_bad(key) {
            cache.reject(key, ignored);
        }
    }
    if policy.immutable {
        cache.reject("immutable", ignored);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::parse;

    fn problems(cache: &str) -> String {
        let text = format!("[[class]]\nname = \"c\"\npath = [\"*.png\"]\ncache = {{ {cache} }}\n");
        parse(&text, "e.toml", Path::new(".")).map_or_else(|problems| problems.to_string(), |_| String::new())
    }

    #[test]
    fn cache_keys_when_mode_and_lifetimes_do_not_fit_then_are_rejected() {
        for (cache, remedy) in [
            ("mode = \"keep\", ttl = \"7d\"", "keeps the origin's lifetimes"),
            ("ttl = \"7d\"", "without a mode"),
            ("mode = \"never\", edge_ttl = \"7d\"", "no-store"),
            ("mode = \"never\", immutable = true", "no-store"),
            ("mode = \"override\"", "write ttl"),
            ("mode = \"default\", error_ttl = \"1s\"", "write ttl"),
            ("mode = \"overide\", ttl = \"7d\"", "did you mean \"override\""),
        ] {
            let problems = problems(cache);
            assert!(problems.contains(remedy), "{cache}: {problems}");
            assert_eq!(problems.lines().count(), 1, "{cache}: {problems}");
        }
    }

    #[test]
    fn cache_keys_when_mode_and_lifetimes_fit_then_are_accepted() {
        for cache in [
            "",
            "mode = \"keep\", strip_cookies = true, vary = []",
            "mode = \"never\"",
            "mode = \"override\", ttl = \"94670800s\", immutable = true, error_ttl = \"0s\"",
            "mode = \"default\", edge_ttl = \"1h\", stale_while_revalidate = \"60s\", stale_if_error = \"1d\", \
             vary = [\"Accept-Encoding\"]",
        ] {
            assert_eq!(problems(cache), "", "{cache}");
        }
    }
}
