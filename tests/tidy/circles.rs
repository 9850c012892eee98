//! Modules must not import each other in a circle.
//!
//! The rule compares siblings at each level of the tree. Siblings are the files and folders in one folder. A folder
//! includes everything below it. If a file imports an item from a module that itself gets the item by a `use`, the
//! import counts as an import of the file that declares the item. A parent and its children are allowed to use each
//! other.

use std::collections::BTreeMap;

use crate::paths::{Named, imported, named};
use crate::source::{Breach, Source};

/// An import of the sibling `to` by the sibling `from`. The first such import is in the source with the index `file`,
/// at the offset `at`.
struct Import {
    parent: Vec<String>,
    from: String,
    to: String,
    file: usize,
    at: usize,
}

/// For each import that is part of a circle, finds the shortest circle with this import. Returns one breach for each
/// set of siblings that form one of these circles. The place of the breach is the first import. A longer circle through
/// the same imports gets no breach, and a circle whose first import has a waiver gets no breach.
pub(crate) fn circles(sources: &[Source]) -> Vec<Breach> {
    let exports = exports(sources);
    let mut levels: BTreeMap<Vec<String>, Vec<Import>> = BTreeMap::new();
    for (file, source) in sources.iter().enumerate() {
        for Named { at, segments, .. } in named(source) {
            let target = declared_in(sources, &exports, &segments);
            let shared = target.iter().zip(&source.module).take_while(|(a, b)| a == b).count();
            let (Some(from), Some(to)) = (source.module.get(shared), target.get(shared)) else { continue };
            let parent = target[..shared].to_vec();
            let import = Import { parent: parent.clone(), from: from.clone(), to: to.clone(), file, at };
            let imports = levels.entry(parent).or_default();
            if !imports.iter().any(|known| known.from == import.from && known.to == import.to) {
                imports.push(import);
            }
        }
    }
    let mut breaches = Vec::new();
    for imports in levels.values() {
        let mut reported: Vec<Vec<&str>> = Vec::new();
        for import in imports {
            let Some(path) = path(imports, &import.to, &import.from) else { continue };
            let mut members = path.clone();
            members.sort_unstable();
            if reported.contains(&members) {
                continue;
            }
            reported.push(members);
            let circle = format!("{} -> {}", import.from, path.join(" -> "));
            let parent = import.parent.join("::");
            breaches.extend(sources[import.file].breach(
                import.at,
                format!("a circle of imports in `{parent}`: {circle}"),
                "move the shared item to a separate file, or to a file that imports no file of the circle",
            ));
        }
    }
    breaches
}

/// Returns the shortest path of imports from one sibling to another sibling. The path includes both siblings.
fn path<'a>(imports: &'a [Import], from: &'a str, to: &str) -> Option<Vec<&'a str>> {
    let mut paths = vec![vec![from]];
    let mut seen = vec![from];
    let mut next = 0;
    while let Some(path) = paths.get(next).cloned() {
        next += 1;
        let last = *path.last()?;
        if last == to {
            return Some(path);
        }
        for import in imports.iter().filter(|import| import.from == last) {
            if !seen.contains(&import.to.as_str()) {
                seen.push(&import.to);
                let mut longer = path.clone();
                longer.push(&import.to);
                paths.push(longer);
            }
        }
    }
    None
}

/// The names that modules get by a `use`, public or private. The key is the module and the name. The value is the path
/// of the item.
type Exports = BTreeMap<(Vec<String>, String), Vec<String>>;

fn exports(sources: &[Source]) -> Exports {
    let mut exports = Exports::new();
    for source in sources {
        for Named { segments, name, .. } in imported(source) {
            exports.insert((source.module.clone(), name), segments);
        }
    }
    exports
}

/// Follows the `use` of other modules. Returns the module that declares the item at a path.
fn declared_in(sources: &[Source], exports: &Exports, segments: &[String]) -> Vec<String> {
    let mut segments = segments.to_vec();
    // Each step follows one `use`. The limit of eight steps ends the loop if the names form a circle.
    for _ in 0..8 {
        let known = |length: usize| sources.iter().any(|source| source.module == segments[..length]);
        let length = (0..=segments.len()).rev().find(|length| known(*length)).unwrap_or_default();
        let module = segments[..length].to_vec();
        let Some(name) = segments.get(length) else { return module };
        match exports.get(&(module.clone(), name.clone())) {
            Some(behind) if !behind.starts_with(&segments[..=length]) => {
                segments = behind.iter().chain(&segments[length + 1..]).cloned().collect();
            }
            _ => return module,
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the breaches in a tree of files. Each breach is one text: the path, the line and the circle.
    fn breaches(files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<Source> = files.iter().map(|(path, text)| Source::new(path, text)).collect();
        let short = |breach: Breach| format!("{}:{} {}", breach.path, breach.line, breach.what);
        circles(&sources).into_iter().map(short).collect()
    }

    #[test]
    fn siblings_when_importing_each_other_then_circle_is_reported() {
        let parent = ("src/origin/mod.rs", "mod connect; mod pool; pub(crate) use pool::{Key, Pool as Shared};");
        let pool = ("src/origin/pool.rs", "\nuse super::connect::Connector;");
        for back in [
            "use super::pool::Key;",
            "use super::Key;",
            "use crate::origin::{Shared};",
            "fn f(k: &super::pool::Key) {}",
        ] {
            let found = breaches(&[parent, ("src/origin/connect.rs", back), pool]);
            assert_eq!(
                found,
                ["src/origin/connect.rs:1 a circle of imports in `origin`: connect -> pool -> connect"],
                "{back}"
            );
        }
        let waiver = "use super::pool::Key; // tidy: one protocol in two halves";
        assert!(breaches(&[parent, ("src/origin/connect.rs", waiver), pool]).is_empty());
    }

    #[test]
    fn three_siblings_when_imports_form_a_circle_then_circle_is_reported_once() {
        let found = breaches(&[
            ("src/config/mod.rs", ""),
            ("src/config/file.rs", "use super::shown::a;"),
            ("src/config/shown.rs", "use super::words::b;"),
            ("src/config/words.rs", "use super::file::c;"),
        ]);
        assert_eq!(found, ["src/config/file.rs:1 a circle of imports in `config`: file -> shown -> words -> file"]);
    }

    #[test]
    fn folders_when_importing_each_other_then_circle_is_reported() {
        let found = breaches(&[
            ("src/cdn/mod.rs", ""),
            ("src/cdn/preset/mod.rs", "use super::proof;"),
            ("src/cdn/proof/mod.rs", ""),
            ("src/cdn/proof/token.rs", "use crate::cdn::preset::Preset;"),
        ]);
        assert_eq!(found, ["src/cdn/preset/mod.rs:1 a circle of imports in `cdn`: preset -> proof -> preset"]);
    }

    #[test]
    fn siblings_when_imports_form_no_circle_then_nothing_is_reported() {
        let found = breaches(&[
            ("src/origin/mod.rs", "mod connect; mod pool; pub(crate) use pool::Pool; struct Own;"),
            (
                "src/origin/connect.rs",
                "use super::Own; use crate::fault::Fault; #[cfg(test)] mod tests { use super::super::pool; }",
            ),
            ("src/origin/pool.rs", "use super::{Own, connect}; use super::connect::Connector;"),
            ("src/fault.rs", ""),
        ]);
        assert!(found.is_empty(), "{found:?}");
    }
}
