//! The pages as files that a CDN hosts. The CDN shows these pages if it cannot reach edgeshim.
//!
//! Where the template has a value of a request, the exported page has an expression that the CDN replaces with the
//! value (`Cdn`). If the CDN cannot fill in a value, the section for the value is left out. If the CDN cannot fill in
//! the time, the script in the page uses the clock of the visitor's browser. The export also contains the instructions
//! for operators: the `.md` files in this folder.

mod hosting;

use self::hosting::Hosting;
use super::locale_file::LocaleTexts;
use super::mistakes::PagesError;
use super::page_settings::PageSettings;
use super::parsed;

/// An exported file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exported {
    /// The path below the folder of the export, with `/` between names.
    pub path: String,
    pub text: String,
}

/// A CDN that hosts pages, and its expressions for the values of a request. An expression is empty if the CDN cannot
/// fill in the value.
struct Cdn {
    /// The name of the preset and of its folder. `static` is no preset and has no folder.
    preset: &'static str,
    instructions: &'static str,
    extension: &'static str,
    status: &'static str,
    id: &'static str,
    pop: &'static str,
    time: &'static str,
    time_rfc3339: &'static str,
    /// Writes the fixed text before, between and after the values in the syntax of the CDN.
    fixed: fn(&str) -> String,
    /// Completes the page after all its parts have been written.
    finish: fn(String) -> String,
}

/// A host that replaces no expressions. Its pages have no values of a request.
const STATIC: Cdn = Cdn {
    preset: "static",
    instructions: include_str!("README.md"),
    extension: "html",
    status: "",
    id: "",
    pop: "",
    time: "",
    time_rfc3339: "",
    fixed: str::to_owned,
    finish: std::convert::identity,
};

const CDNS: [Cdn; 4] = [
    Cdn {
        preset: "fastly",
        instructions: include_str!("fastly.md"),
        extension: "vcl",
        status: " obj.status ",
        // A client can send X-Request-Id with any content, such as HTML. So only a value with the form of an id is
        // shown.
        id: r#" if(req.http.X-Request-Id ~ "^[A-Za-z0-9._-]{1,128}$", req.http.X-Request-Id, req.xid) "#,
        pop: " server.identity ",
        time: r#" strftime({"%Y-%m-%d %H:%M:%S UTC"}, now) "#,
        time_rfc3339: r#" strftime({"%Y-%m-%dT%H:%M:%SZ"}, now) "#,
        fixed: long_string,
        finish: |page| format!("synthetic {page};\n"),
    },
    Cdn {
        preset: "cloudflare",
        instructions: include_str!("cloudflare.md"),
        id: "::RAY_ID::",
        // Cloudflare rejects a page for 5xx errors that does not contain this token.
        finish: |page| {
            let at = page.rfind("</body>").unwrap_or(page.len());
            let (before, after) = page.split_at_checked(at).unwrap_or((&page, ""));
            format!("{before}<div hidden>::CLOUDFLARE_ERROR_500S_BOX::</div>\n{after}")
        },
        ..STATIC
    },
    Cdn { preset: "cloudfront", instructions: include_str!("cloudfront.md"), ..STATIC },
    Cdn { preset: "akamai", instructions: include_str!("akamai.md"), ..STATIC },
];

/// Writes a text as one or more long strings of VCL. A long string ends at the first `"}` and has no escapes. So the
/// text is split inside each `"}`.
fn long_string(text: &str) -> String {
    format!("{{\"{}\"}}", text.replace("\"}", "\"\"} {\"}"))
}

/// Returns a set of static pages and a set of pages for each CDN. Each set has the error page, the wait page and
/// instructions. Each page exists once with all languages, and once for each single language. `source` returns the
/// beacon's `source` for a preset. `retry_after` is the countdown to the reload, in seconds.
///
/// # Errors
/// The template or a locale file has mistakes, there are too many locales, or the default locale is unknown.
pub(crate) fn export(
    settings: &PageSettings,
    retry_after: u64,
    source: impl Fn(&str) -> String,
) -> Result<Vec<Exported>, PagesError> {
    let (template, locales) = parsed(settings.files.template(), settings.files.all())?;
    let default = locales.iter().find(|texts| texts.language.eq_ignore_ascii_case(&settings.default_locale));
    let default = default.ok_or_else(|| PagesError::UnknownLocale {
        key: "whoopsie.default_locale".to_owned(),
        value: settings.default_locale.clone(),
        known: settings.files.tags().collect::<Vec<_>>().join(", "),
    })?;
    let retry_after = retry_after.to_string();
    let mut files = Vec::new();
    for cdn in std::iter::once(&STATIC).chain(&CDNS) {
        let folder = if cdn.preset == STATIC.preset { String::new() } else { format!("{}/", cdn.preset) };
        let provider = source(cdn.preset);
        files.push(Exported { path: format!("{folder}README.md"), text: cdn.instructions.to_owned() });
        for (name, cause, is_wait) in [("whoopsie", "edge", false), ("wait", "overload", true)] {
            let hosting = Hosting {
                provider: &provider,
                cause,
                retry_after: &retry_after,
                is_wait,
                status: cdn.status,
                id: cdn.id,
                pop: cdn.pop,
                time: cdn.time,
                time_rfc3339: cdn.time_rfc3339,
                fixed: cdn.fixed,
            };
            let mut add = |folder: &str, texts: &LocaleTexts, all: &[LocaleTexts]| {
                let text = (cdn.finish)(hosting::page(&template, texts, all, settings, &hosting));
                files.push(Exported { path: format!("{folder}{name}.{}", cdn.extension), text });
            };
            add(&folder, default, &locales);
            for texts in &locales {
                add(&format!("{folder}{}/", texts.language), texts, std::slice::from_ref(texts));
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the text of concatenated long strings of VCL. The code between two strings is shown as `[CODE]`.
    fn compiled(vcl: &str) -> String {
        let fastly = &CDNS[0];
        let all = [fastly.time_rfc3339, fastly.time, fastly.status, fastly.id, fastly.pop];
        let mut out = String::new();
        let mut rest = vcl;
        while !rest.is_empty() {
            if let Some(code) = all.into_iter().find(|code| rest.starts_with(code)) {
                out.extend(["[", code.trim(), "]"]);
                rest = &rest[code.len()..];
            } else {
                let start = rest.trim_start().strip_prefix("{\"");
                let start = start.unwrap_or_else(|| panic!("neither an expression nor a long string: {rest}"));
                let (text, after) = start.split_once("\"}").unwrap();
                out += text;
                rest = after;
            }
        }
        out
    }

    #[test]
    fn long_string_when_compiled_then_equals_the_original_text() {
        for text in
            ["", "plain", "a\"}b", "\"}", "{\"a\":{\"b\":\"c\"}}", "\"\"}}\"}\"", "ends in \"", "} begins", "\"}\"}\"}"]
        {
            assert_eq!(compiled(&long_string(text)), text, "{}", long_string(text));
        }
    }

    #[test]
    fn fastly_page_when_exported_then_contains_vcl_expressions_for_values() {
        let settings = PageSettings { default_locale: "de".to_owned(), ..PageSettings::default() };
        let files = export(&settings, 30, |preset| format!("my-{preset}")).unwrap();
        let file = |path: &str| files.iter().find(|file| file.path == path).unwrap().text.as_str();
        let vcl = file("fastly/whoopsie.vcl").strip_prefix("synthetic ").unwrap().strip_suffix(";\n").unwrap();
        let page = compiled(vcl);
        assert!(page.starts_with("<!doctype html>\n<html lang=\"de\" dir=\"ltr\">") && page.ends_with("</html>\n"));
        assert!(
            page.contains(
                "?source=my-fastly&amp;server_identity=[server.identity]&amp;reason=edge&amp;id=[if(req.http"
            )
        );
        assert!(page.contains("<bdi>[obj.status]</bdi>") && !page.contains("id=\"now\""));
        assert!(file("whoopsie.html").contains("?source=my-static&amp;server_identity=&amp;reason=edge&amp;id=\""));
    }
}
