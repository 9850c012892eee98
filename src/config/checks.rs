//! Checks whether the values of different keys fit together, after `reader` has read these keys.

use std::sync::Arc;

use super::file::Section;
use super::listeners::{Claimed, Listen, listen};
use super::reader::MAX_BLOCKS;
use super::settings::Settings;
use super::tls_block;
use crate::keys::grammar::LOCALE;
use crate::keys::quote;
use crate::pages::{PageFiles, PageFilesError};

/// Reports values that do not fit together, and reads the folder that `whoopsie.pages` names.
pub(super) fn check(settings: &mut Settings, root: &mut Section<'_>) {
    listeners(settings, root);
    origin(settings, &mut root.section("origin"));
    pages(settings, &root.section("whoopsie"));
    let rum = root.section("rum");
    if settings.rum.path.as_deref() == Some(&settings.beacon.path) && !rum.is_bad("path") {
        rum.reject("path", "is the path of the beacon; write another path, for example \"/status/rum\"");
    }
    if settings.rum.pages.len() > MAX_BLOCKS {
        rum.reject("pages", format!("has too many entries; write at most {MAX_BLOCKS}"));
    }
}

/// Checks that the server has an address, and that no two listeners have the same address or overlapping addresses.
/// Also checks `[server.tls]`, and that an admin listener that is open to the network has a token.
fn listeners(settings: &Settings, root: &mut Section<'_>) {
    let (server, admin) = (root.section("server"), root.section("admin"));
    let mut claimed = Claimed::default();
    if server.has("listen") {
        for (entry, text) in server.texts("listen") {
            if let Ok(address) = listen(text, server.folder())
                && let Err(message) = claimed.claim(&address)
            {
                server.reject_entry("listen", entry, message);
            }
        }
        if settings.server.listen.is_empty() && !server.has("tls") {
            server.reject("listen", "is empty; write at least one address, for example [\"127.0.0.1:8080\"]");
        }
    } else {
        for address in &settings.server.listen {
            _ = claimed.claim(address);
        }
    }
    if let Some(tls) = &settings.server.tls {
        tls_block::check(tls, &mut root.section("server").section("tls"), &mut claimed);
    }
    if admin.is_bad("listen") {
        return;
    }
    let address = &settings.admin.listen;
    let is_open = matches!(address, Listen::Tcp(address) if !address.ip().to_canonical().is_loopback());
    if let Err(message) = claimed.claim(address) {
        if admin.has("listen") {
            admin.reject("listen", message);
        } else {
            admin.missing("listen", format!("is missing, and the default {} {message}", quote(&address.to_string())));
        }
    } else if is_open && settings.admin.token.is_none() && !admin.is_bad("token") {
        let message = "is reachable from the network without a token; write token = \"env:ADMIN_TOKEN\" in [admin], \
                       or listen on 127.0.0.1";
        admin.reject("listen", message);
    }
}

/// Checks the limits of the origin, and reads the files of `[origin.tls]`.
fn origin(settings: &Settings, origin: &mut Section<'_>) {
    let limits = settings.admission;
    if limits.max_waiting > 0 && limits.max_in_flight == 0 && !origin.is_bad("max_in_flight") {
        let message = "lets requests wait, but without max_in_flight no request has to wait; \
                       write max_in_flight = 100 (the number of requests that the origin can serve at the same time), \
                       or write max_waiting = 0";
        origin.reject("max_waiting", message);
    }
    let tls = origin.section("tls");
    if origin.is_bad("url") || origin.is_bad("stand_in") {
        return;
    }
    for problem in settings.origin.tls_problems() {
        let block = if problem.is_in_tls() { &tls } else { &*origin };
        if block.is_bad(problem.key) {
            continue;
        }
        if block.has(problem.key) {
            block.reject(problem.key, problem.message);
        } else {
            block.missing(problem.key, problem.message);
        }
    }
}

/// Reads the folder that `whoopsie.pages` names, and reports all problems of the files in the folder. If there are no
/// problems, checks that there are pages for each configured language.
fn pages(settings: &mut Settings, whoopsie: &Section<'_>) {
    let pages = &mut settings.pages;
    if whoopsie.is_bad("pages") {
        return;
    }
    if !pages.folder.as_os_str().is_empty() {
        match PageFiles::read(&pages.folder) {
            Ok(files) => pages.files = Arc::new(files),
            Err(PageFilesError::Folder(message)) => return whoopsie.reject("pages", message),
            Err(PageFilesError::Files(problems)) => {
                for problem in problems {
                    whoopsie.reject_file(problem.file, problem.line, problem.message);
                }
                return;
            }
        }
    }
    let is_known = |locale: &str| pages.files.tags().any(|known| known.eq_ignore_ascii_case(locale));
    let known = pages.files.tags().map(quote).collect::<Vec<_>>().join(", ");
    let message = format!("is a language without pages; write one of {known}");
    if !is_known(&pages.default_locale) && !whoopsie.is_bad("default_locale") {
        whoopsie.reject("default_locale", message.clone());
    }
    for (entry, text) in whoopsie.texts("hosts") {
        if (LOCALE.read)(text, whoopsie.folder()).is_ok_and(|locale| !is_known(&locale)) {
            whoopsie.reject_entry("hosts", entry, message.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::parse;

    #[test]
    fn whoopsie_hosts_when_several_entries_are_wrong_then_all_wrong_entries_are_reported() {
        let text = "[whoopsie.hosts]\na = \"yy\"\nb = 1\nC = \"xx\"\nd = \"de\"\n";
        let problems = parse(text, "e.toml", Path::new(".")).expect_err("three entries are wrong").to_string();
        for (problem, place) in
            problems.lines().zip(["2: whoopsie.hosts.\"a\"", "3: whoopsie.hosts.\"b\"", "4: whoopsie.hosts.\"C\""])
        {
            assert!(problem.starts_with(&format!("e.toml:{place}: ")), "{problems}");
        }
        assert_eq!(problems.lines().count(), 3, "{problems}");
    }

    #[test]
    fn identity_header_when_field_has_another_purpose_then_is_rejected() {
        for taken in ["X-Akamai-G2O-Auth-Data", "X-Akamai-G2O-Auth-Sign", "If-Match", "Cookie"] {
            let text = format!("[identity]\nheader = \"{taken}\"\n");
            let problems = parse(&text, "e.toml", Path::new(".")).expect_err(taken).to_string();
            assert!(
                problems.lines().count() == 1 && problems.contains("write a field that only the CDNs set"),
                "{taken}: {problems}"
            );
        }
    }
}
