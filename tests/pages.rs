//! Tests of an operator's own page files (`whoopsie.pages`): which built-in files the operator's files replace, when
//! edgeshim reads the operator's files, and which problems `check` and `run` report.

mod support;

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use support::shim::{repository, run};
use support::{Response, Shim, TempDir, raw, temp_dir};

const TEMPLATE: &str = "<!doctype html>\n\
    <html lang=\"{{language}}\" dir=\"{{direction}}\"><title>{{text.heading}}</title>\n\
    <p>Ours: {{text.retry}} {{id}}</p>\n<img src=\"{{beacon_base}}{{beacon_path}}?source={{provider}}\" alt=\"\">\n\
    </html>\n";

/// Returns the text of a built-in locale file. Replaces the first text of each pair in `changes` by the second text.
fn locale(tag: &str, changes: &[(&str, &str)]) -> String {
    let path = repository(&format!("config/locales/{tag}.toml"));
    let mut text = std::fs::read_to_string(path).expect("a built-in locale file");
    for (from, to) in changes {
        assert!(text.contains(from), "the built-in locale file {tag}.toml does not contain {from:?}");
        text = text.replacen(from, to, 1);
    }
    text
}

/// Starts a shim with an unreachable origin and with the page files in the folder `own` of `dir`.
fn shim(dir: TempDir) -> Shim {
    // The listener is dropped at once, so the origin's port has no listener during the test.
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port").local_addr().expect("an address");
    Shim::start_in(dir, Shim::config(gone).with("[whoopsie]\npages = \"own\""))
}

fn page(shim: &Shim, language: &str) -> Response {
    let response = raw::fetch(shim.addr, "/", &[("Accept", "text/html"), ("Accept-Language", language)]);
    assert_eq!(response.status, 502);
    response
}

#[test]
fn own_locale_files_when_only_some_exist_then_built_in_files_supply_the_others() {
    let dir = temp_dir();
    // The folder has a changed German text, a language that is not built in, and files that edgeshim must ignore.
    let czech = [
        ("\"en\"", "\"cs\""),
        ("heading = \"Something", "heading = \"Něco"),
        ("one = \"Trying", "few = \"{n}\"\none = \"Trying"),
    ];
    let czech = locale("en", &czech)
        .replace("[minutes]", "[minutes]\nfew = \"{n}\"")
        .replace("[waiting]", "[waiting]\nfew = \"{n}\"");
    dir.write("own/locales/cs.toml", czech);
    dir.write("own/locales/DE.toml", locale("de", &[("\"de\"", "\"DE\""), ("retry = \"", "retry = \"Bitte ")]));
    dir.write("own/locales/.hidden", "");
    dir.write("own/README", "");
    let shim = shim(dir);
    // The shim reads the files once. Later changes of the files have no effect.
    std::fs::remove_dir_all(shim.dir.join("own")).expect("the folder is removed");
    for (accept_language, language, part) in [
        ("cs-CZ", "cs", ">Něco went wrong"),
        ("de", "DE", ">Bitte "),
        ("fr", "fr", "data-text=\"heading\""),
        ("xx", "en", ">Try again</a>"),
    ] {
        let response = page(&shim, accept_language);
        assert_eq!(response.field("content-language"), Some(language));
        let text = response.text();
        assert!(
            text.contains(part) && text.contains(&format!("<html lang=\"{language}\"")),
            "{accept_language}: {text}"
        );
        assert!(text.contains("\n\"cs\":[") && text.contains("\n\"DE\":[") && !text.contains("\n\"de\":["), "{text}");
    }
    shim.wait_metrics(|metrics| metrics.sum("edgeshim_whoopsies_total", &[("locale", "cs")]) > 0.5);
}

#[test]
fn own_template_when_folder_has_no_locale_files_then_built_in_texts_are_used() {
    let dir = temp_dir();
    dir.write("own/pages/whoopsie.html", TEMPLATE);
    let shim = shim(dir);
    let text = page(&shim, "de").text();
    assert!(
        text.contains("<html lang=\"de\" dir=\"ltr\"><title>") && text.contains("<p>Ours: Erneut versuchen "),
        "{text}"
    );
    assert!(text.contains("?source=none\""), "{text}");
}

#[test]
fn default_locale_when_only_the_folder_has_the_locale_then_accepted() {
    let dir = temp_dir();
    let own = locale("de", &[("\"de\"", "\"de-CH\"")]);
    dir.write("own/locales/de-CH.toml", own);
    let configuration = "[whoopsie]\ndefault_locale = \"de-CH\"\npages = \"own\"\n";
    let file = dir.write("edgeshim.toml", configuration);
    let file = file.to_str().expect("a path in UTF-8");
    assert_eq!(run(&["check", "--config", file]).0, 0);
    dir.write("edgeshim.toml", configuration.replace("de-CH", "de-AT"));
    let (code, out, _) = run(&["check", "--config", file]);
    assert!(code == 1 && out.contains("is a language without pages") && out.contains("\"de-CH\""), "{out}");
}

#[test]
fn own_files_when_many_have_mistakes_then_each_mistake_is_reported_with_the_file() {
    let dir = temp_dir();
    let template = TEMPLATE
        .replace("{{text.retry}}", "{{text.retri}}")
        .replace("</html>", "{{#status_url}}\n<script>var id = '{{id}}'</script>\n</html>");
    dir.write("own/pages/whoopsie.html", template);
    dir.write("own/locales/de.toml", locale("de", &[("retry = ", "retyr = ")]));
    dir.write("own/locales/pl.toml", locale("pl", &[("[minutes]\none = ", "[minutes]\ntwo = \"{n}\"\none = ")]));
    dir.write("own/locales/sv.toml", locale("sv", &[("[minutes]\none = ", "[minutes]\n# one = ")]));
    dir.write("own/locales/en_GB.toml", locale("en", &[("\"en\"", "\"en_GB\"")]));
    dir.write("own/locales/he.toml", locale("he", &[("\"rtl\"", "\"right\"")]));
    dir.write("own/locales/fr.toml", locale("fr", &[]));
    dir.write("own/locales/FR.toml", locale("fr", &[("\"fr\"", "\"FR\"")]));
    dir.write("own/locales/it.toml", b"# Italian\n# Citt\xe0\n");
    dir.write("own/locales/es.toml", "language = \"es\"\ndirection = = \"ltr\"\n");
    dir.write("own/locales/nl.toml", format!("# {}\n", "x".repeat(40_000)));
    dir.write("own/locales/ja.toml/file", "");
    dir.write("own/locales/de.tml", "");
    let line = |name: &str, part: &str| {
        let text = std::fs::read_to_string(dir.join("own").join(name)).expect(name);
        text.lines().position(|line| line.contains(part)).map(|at| at + 1).expect(part)
    };
    let expected = [
        ("pages/whoopsie.html", Some(3), "unknown placeholder `{{text.retri}}`"),
        ("pages/whoopsie.html", Some(5), "write `{{/status_url}}`"),
        ("pages/whoopsie.html", Some(6), "`{{id}}` inside <script>"),
        ("locales/de.tml", None, "such as de.toml"),
        ("locales/de.toml", Some(1), "`retry` is missing; write retry = "),
        ("locales/de.toml", Some(line("locales/de.toml", "retyr")), "`retyr` is not a key"),
        ("locales/en_GB.toml", Some(line("locales/en_GB.toml", "language = ")), "write a BCP 47 tag"),
        ("locales/es.toml", Some(2), "this is not TOML"),
        ("locales/fr.toml", Some(1), "has the same language as FR.toml"),
        ("locales/he.toml", Some(line("locales/he.toml", "direction")), "write `ltr` or `rtl`"),
        ("locales/it.toml", Some(2), "save the file as UTF-8 text"),
        ("locales/ja.toml", None, "cannot be read (it is not a regular file, but a folder)"),
        ("locales/nl.toml", Some(1), "is longer than 32768 bytes"),
        ("locales/pl.toml", Some(line("locales/pl.toml", "two = ")), "use only `one`, `few`, `many`"),
        ("locales/sv.toml", Some(line("locales/sv.toml", "[minutes]")), "`minutes.one` is missing"),
    ];
    let file = dir.write("edgeshim.toml", "[whoopsie]\npages = \"own\"\nretry_after = 30\n");
    let (code, out, _) = run(&["check", "--config", file.to_str().expect("a path in UTF-8")]);
    assert_eq!(code, 1, "{out}");
    let reported: Vec<&str> = out.lines().collect();
    assert_eq!(reported.len(), expected.len() + 2, "{out}");
    assert!(
        reported[0].contains("edgeshim.toml:3: whoopsie.retry_after: "),
        "the problem of the configuration file must be the first problem: {out}"
    );
    assert!(reported[reported.len() - 1].ends_with(&format!(": {} problems", expected.len() + 1)), "{out}");
    for ((name, line, message), reported) in expected.into_iter().zip(&reported[1..]) {
        let place = dir.join("own").join(name).display().to_string();
        let place = line.map_or_else(|| format!("{place}: "), |line| format!("{place}:{line}: "));
        assert!(reported.starts_with(&place), "the problem {reported:?} does not start with {place:?}");
        assert!(reported.contains(message), "the problem {reported:?} does not contain {message:?}");
    }
    let (code, _, err) = run(&["run", "--config", file.to_str().expect("a path in UTF-8")]);
    assert_eq!((code, err.trim_end()), (2, reported[..reported.len() - 1].join("\n").as_str()));
}

/// Runs `check` with this value of `whoopsie.pages`. Checks that there is exactly one problem, and returns the output.
fn reported(dir: &TempDir, folder: &str) -> String {
    let file = dir.write("edgeshim.toml", format!("[whoopsie]\npages = {folder:?}\n"));
    let (code, out, _) = run(&["check", "--config", file.to_str().expect("a path in UTF-8")]);
    assert_eq!(code, 1, "{out}");
    assert!(out.trim_end().ends_with(": 1 problem"), "{out}");
    out
}

#[test]
fn pages_folder_when_unreadable_or_empty_then_problem_names_the_key() {
    let dir = temp_dir();
    dir.write("empty/locales/.keep", "");
    dir.write("file", "");
    for (folder, expected) in
        [("nowhere", "cannot be read as a folder"), ("file", "cannot be read as a folder"), ("empty", "has no pages")]
    {
        let out = reported(&dir, folder);
        let place = format!("edgeshim.toml:2: whoopsie.pages: {folder:?} {expected}");
        assert!(out.contains(&place) && out.contains("pages/whoopsie.html"), "{out}");
    }
}

#[test]
fn own_template_when_required_placeholder_is_missing_then_rejected() {
    for (part, example) in [
        (" lang=\"{{language}}\"", "<html lang="),
        (" dir=\"{{direction}}\"", "dir=\"{{direction}}\""),
        ("{{beacon_path}}", "<img src=\"{{beacon_base}}{{beacon_path}}"),
    ] {
        let dir = temp_dir();
        dir.write("own/pages/whoopsie.html", TEMPLATE.replace(part, ""));
        let out = reported(&dir, "own");
        assert!(out.contains("whoopsie.html:1: a required placeholder is missing") && out.contains(example), "{out}");
    }
}

#[test]
fn built_in_files_when_configured_as_own_files_then_accepted() {
    let dir = temp_dir();
    let folder = repository("config");
    let file = dir.write("edgeshim.toml", format!("[whoopsie]\npages = {:?}\n", Path::new(&folder)));
    assert_eq!(run(&["check", "--config", file.to_str().expect("a path in UTF-8")]).0, 0);
}
