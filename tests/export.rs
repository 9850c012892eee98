//! Tests of `edgeshim whoopsie export`. The command writes the pages as files that need no server. The files for a CDN
//! contain the variables of this CDN.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use support::shim::{binary, repository, run};
use support::{TempDir, temp_dir};

const FOLDERS: [&str; 5] = ["", "akamai/", "cloudflare/", "cloudfront/", "fastly/"];

const CONFIG: &str = "[[provider]]\nname = \"edge1\"\npreset = \"fastly\"\n[[provider]]\nname = \"akamai\"\n\
                      [whoopsie]\n\
    default_locale = \"de\"\nsite_name = \"Shop & \\\"Söhne\\\"}\"\nstatus_url = \"https://status.example/?a=1&b=2\"\n\
    beacon_base = \"//beacon.example.com\"\nretry_after = \"45s\"\n";

/// Returns the tags of the built-in locales.
fn locales() -> Vec<String> {
    let entries = fs::read_dir(repository("config/locales")).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name in UTF-8"));
    let tags: Vec<_> = names.map(|name| name.strip_suffix(".toml").expect("a locale file").to_owned()).collect();
    assert!(tags.len() >= 16, "{tags:?}");
    tags
}

/// Returns the content of every file below a folder, by relative path.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path
                    .strip_prefix(folder)
                    .expect("a path below the folder")
                    .to_str()
                    .expect("a name in UTF-8")
                    .to_owned();
                found.insert(name, fs::read_to_string(&path).expect("a file in UTF-8"));
            }
        }
    }
    found
}

fn kind(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or_default()
}

/// Exports the pages into the folder `out`, with a configuration and further arguments. Returns the exit code and
/// stderr.
fn export(dir: &TempDir, config: &str, more: &[&str]) -> (i32, String) {
    dir.write("edgeshim.toml", config);
    let output = binary().args(["whoopsie", "export", "--out", "out"]).args(more).current_dir(&**dir).output();
    let output = output.expect("the edgeshim binary starts");
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn exported(config: &str) -> BTreeMap<String, String> {
    let dir = temp_dir();
    assert_eq!(export(&dir, config, &[]).0, 0);
    files(&dir.join("out"))
}

#[test]
fn export_when_complete_then_every_folder_has_a_readme_and_pages_in_every_language() {
    let files = exported(CONFIG);
    let locales = locales();
    for folder in FOLDERS {
        assert!(files[&format!("{folder}README.md")].starts_with("# "), "{folder}");
        let extension = if folder == "fastly/" { "vcl" } else { "html" };
        for page in ["whoopsie", "wait"] {
            for place in locales.iter().map(|locale| format!("{locale}/")).chain([String::new()]) {
                let name = format!("{folder}{place}{page}.{extension}");
                let text = files.get(&name).unwrap_or_else(|| panic!("the export has no file {name}"));
                let language = if place.is_empty() { "de" } else { place.trim_end_matches('/') };
                assert!(text.contains(&format!("<html lang=\"{language}\" dir=")), "{name}");
                // A file in the folder of a language has the texts of this language. The other files have the texts of
                // all languages.
                let inside = locales.iter().filter(|locale| text.contains(&format!("\n\"{locale}\":["))).count();
                assert_eq!(inside, if place.is_empty() { locales.len() } else { 1 }, "{name}");
            }
        }
    }
    assert_eq!(files.len(), FOLDERS.len() * (1 + 2 * (1 + locales.len())));
}

#[test]
fn pages_when_exported_then_need_no_server() {
    for (name, text) in exported(CONFIG).iter().filter(|(name, _)| kind(name) == "html") {
        assert!(text.starts_with("<!doctype html>") && text.ends_with("</html>\n"), "{name}");
        assert!(!text.contains("{{") && !text.contains("}}\n"), "{name}: a placeholder remains");
        assert_eq!(text.matches(" src=").count(), 1, "{name}: the page must load only the beacon");
        let reason = if name.ends_with("wait.html") { "overload" } else { "edge" };
        let source =
            name.split('/').next().filter(|first| FOLDERS.contains(&format!("{first}/").as_str())).unwrap_or("static");
        let id = if source == "cloudflare" { "::RAY_ID::" } else { "" };
        let beacon = format!(
            "src=\"//beacon.example.com/status/images/beacon.gif?source={source}&amp;\
             server_identity=&amp;reason={reason}&amp;id={id}\""
        );
        assert!(text.contains(&beacon), "{name} does not contain {beacon}");
        // The paragraph with the id `line` contains the known values. The script adds the visitor's time.
        let id = if id.is_empty() { String::new() } else { format!("<bdi>{id}</bdi>&nbsp;· ") };
        let line = format!("<p id=\"line\" dir=\"ltr\">{id}<span id=\"now\"></span><bdi>{source}</bdi></p>");
        assert!(
            text.contains(&line) && text.contains("at('now').textContent = new Date()"),
            "{name} has no time, or not {line}"
        );
        assert!(
            !text.contains("<time") && text.contains("data-seconds=\"45\"") && !text.contains("id=\"waiting\""),
            "{name}"
        );
        assert!(text.contains("Shop &amp; &quot;Söhne&quot;}") && text.contains("?a=1&amp;b=2"), "{name}");
        let (_, words) = text.split_once("id=\"words\">").expect(name);
        let words: serde_json::Value = serde_json::from_str(words.split_once("</script>").expect(name).0).expect(name);
        assert!(words[0].as_array().is_some_and(|keys| keys.len() > 10), "{name}");
        assert_eq!(
            name.starts_with("cloudflare/"),
            text.contains("<div hidden>::CLOUDFLARE_ERROR_500S_BOX::</div>\n</body>")
        );
    }
}

#[test]
fn fastly_page_when_read_as_vcl_then_has_only_strings_and_known_expressions() {
    let files = exported(CONFIG);
    let mut read = 0;
    for (name, text) in files.iter().filter(|(name, _)| kind(name) == "vcl") {
        let mut rest = text.strip_prefix("synthetic ").and_then(|text| text.strip_suffix(";\n")).expect(name);
        let mut page = String::new();
        // In VCL, a long string ends at the first `"}` and has no escapes. The test compares calls of strftime() and
        // if() with the complete text, because the arguments contain strings too.
        while !rest.is_empty() {
            rest = rest.trim_start();
            if let Some(string) = rest.strip_prefix("{\"") {
                let (text, after) = string.split_once("\"}").expect(name);
                page.push_str(text);
                rest = after;
                continue;
            }
            let known = [
                "obj.status",
                "server.identity",
                "strftime({\"%Y-%m-%d %H:%M:%S UTC\"}, now)",
                "strftime({\"%Y-%m-%dT%H:%M:%SZ\"}, now)",
                "if(req.http.X-Request-Id ~ \"^[A-Za-z0-9._-]{1,128}$\", req.http.X-Request-Id, req.xid)",
            ];
            let variable = known.into_iter().find(|variable| rest.starts_with(variable));
            let variable = variable
                .unwrap_or_else(|| panic!("{name}: not a known expression: {}", rest.get(..80).unwrap_or(rest)));
            page.push_str(variable.split('(').next().unwrap_or_default());
            rest = &rest[variable.len()..];
        }
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n") && !page.contains("{{"), "{name}");
        assert!(page.contains("?source=edge1&amp;server_identity=server.identity&amp;reason="), "{name}");
        assert!(
            page.contains(
                "<bdi>if</bdi>&nbsp;· <time datetime=\"strftime\">strftime</time>&nbsp;· \
                 <bdi>edge1 server.identity</bdi>&nbsp;· <bdi>obj.status</bdi></p>"
            ),
            "{name}"
        );
        assert!(!page.contains("id=\"now\"") && !page.contains("'now'"), "{name}");
        read += 1;
    }
    assert_eq!(read, 2 * (1 + locales().len()));
}

#[test]
fn page_template_when_configured_then_exported() {
    let dir = temp_dir();
    let template = "<html lang=\"{{language}}\" dir=\"{{direction}}\">{{#time}}{{time}}{{/time}}Ours {{id}}<img \
                    src=\"{{beacon_path}}\">";
    dir.write("own/pages/whoopsie.html", template);
    assert_eq!(export(&dir, "[whoopsie]\npages = \"own\"\n", &[]).0, 0);
    let files = files(&dir.join("out"));
    assert_eq!(files["fr/wait.html"], "<html lang=\"fr\" dir=\"ltr\">Ours <img src=\"/status/images/beacon.gif\">");
    // Cloudflare's token is also added to a page without `</body>`.
    assert!(
        files["cloudflare/whoopsie.html"].contains("Ours ::RAY_ID::<img src=")
            && files["cloudflare/whoopsie.html"].contains("500S_BOX")
    );
}

#[test]
fn output_folder_when_not_empty_then_export_requires_force() {
    let dir = temp_dir();
    dir.write("out/whoopsie.html", "mine");
    dir.write("out/other", "mine");
    let (code, err) = export(&dir, CONFIG, &[]);
    assert!(code == 2 && err.contains("out is not empty") && err.contains("--force"), "{code} {err}");
    assert_eq!(files(&dir.join("out")).len(), 2);
    assert_eq!(export(&dir, CONFIG, &["--force"]).0, 0);
    let all = files(&dir.join("out"));
    assert!(all["other"] == "mine" && all["whoopsie.html"].starts_with("<!doctype html>"));
    assert_eq!(all.len(), 1 + FOLDERS.len() * (1 + 2 * (1 + locales().len())), "temporary files remain");

    // `--force` is not necessary for an empty folder.
    let dir = temp_dir();
    fs::create_dir(dir.join("out")).expect("a folder");
    assert_eq!(export(&dir, CONFIG, &[]).0, 0);
}

#[test]
fn output_path_when_a_file_then_export_exits_with_2() {
    let dir = temp_dir();
    dir.write("out", "a file");
    let (code, err) = export(&dir, CONFIG, &[]);
    assert!(code == 2 && err.contains("out cannot be written") && err.contains("name a folder"), "{code} {err}");
    assert_eq!(fs::read_to_string(dir.join("out")).expect("still a file"), "a file");
    assert_eq!(run(&["whoopsie", "export"]).0, 2, "the export runs without --out");
    assert_eq!(run(&["whoopsie"]).0, 2);
}

#[test]
fn config_when_invalid_then_export_exits_with_2_and_writes_nothing() {
    let dir = temp_dir();
    let (code, err) = export(&dir, "[whoopsie]\npages = \"nowhere\"\n", &[]);
    assert!(code == 2 && err.contains("edgeshim.toml:2: whoopsie.pages"), "{code} {err}");
    assert!(!dir.join("out").exists());
}

#[test]
fn beacon_base_when_host_is_missing_then_export_prints_a_warning() {
    let dir = temp_dir();
    let (code, err) = export(&dir, "", &[]);
    assert!(
        code == 0 && err.starts_with("warning: whoopsie.beacon_base is \"\"") && err.contains("beacon.example.com"),
        "{err}"
    );
    let (_, err) = export(&dir, CONFIG, &["--force"]);
    assert_eq!(err, "");
}
