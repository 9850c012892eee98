//! Checks that the documents are correct. The tests run the commands in the documents and compare the output, and check
//! the configurations. `tests/real/documents` does the same for files of other programs. The tests also check that
//! every path, metric, configuration key, cause and layer in a document exists in the repository or the binary.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by a panic

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use edgeshim::internals::config::Settings;
use edgeshim::internals::{Cause, Description, Guard, Kind, METRICS, Reason};
use regex::Regex;
use support::shim::{binary, repository, run};
use support::{PATIENCE, TempDir, raw, temp_dir, wait_until};

/// The longest time until the demo prints a line. The time is long, because many tests run at the same time on few
/// cores.
const START: Duration = Duration::from_secs(30);
/// A line in a document that replaces a line of output, because this line of output differs each time.
const VARIES: &str = "…";
/// A line in a document before a block that must equal the output byte for byte.
const EXACT: &str = "<!-- byte for byte -->";

const README: &str = "README.md";
const ARCHITECTURE: &str = "src/ARCHITECTURE.md";
const RUNBOOK: &str = "deploy/RUNBOOK.md";
const CHANGELOG: &str = "deploy/CHANGELOG.md";
const EXPLAIN: &str = "deploy/EXPLAIN.md";
const CONTRIBUTING: &str = "CONTRIBUTING.md";
const SECURITY: &str = "SECURITY.md";
const SMOKE: &str = "deploy/SMOKE.md";
const BENCHES: &str = "benches/README.md";
/// A line in a document before a block that needs other programs than curl.
const ELSEWHERE: &str = "<!-- tests/real/documents runs this block -->";
/// The first line of a block of commands that no test runs. The reason follows.
const NOT_RUN: &str = "# not run: ";

/// Returns the paths of all documents.
fn documents() -> Vec<String> {
    let fixed =
        [README, ARCHITECTURE, RUNBOOK, CHANGELOG, EXPLAIN, CONTRIBUTING, SECURITY, SMOKE, BENCHES].map(str::to_owned);
    let mut pages = Vec::new();
    for entry in std::fs::read_dir(repository("deploy/docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
            pages.push(format!("deploy/docs/{name}"));
        }
    }
    pages.sort();
    assert!(pages.len() >= 5, "deploy/docs has only the pages {pages:?}");
    fixed.into_iter().chain(pages).collect()
}

/// Returns the paths of the documents for operators. Each block of these documents is checked.
fn operators_documents() -> Vec<String> {
    let mut documents = documents();
    documents.retain(|document| document == README || document.starts_with("deploy/"));
    documents.extend(["deploy/SECURITY.md".to_owned(), "deploy/staging/README.md".to_owned()]);
    documents
}

// ---- reading documents ----------------------------------------------------------------------------------------------

fn text(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("cannot read {path}: {error}"))
}

/// A fenced code block in a document.
struct Block {
    language: String,
    exact: bool,
    /// The file name in the text before the block: "as `edgeshim.toml`:".
    file: Option<String>,
    lines: Vec<String>,
}

fn blocks(markdown: &str) -> Vec<Block> {
    let named = Regex::new(r"`([\w-]+\.toml)`").unwrap();
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    let mut before = "";
    let mut file = None;
    for line in markdown.lines() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some(language)) => {
                let (exact, language) = (before == EXACT, if before == ELSEWHERE { "elsewhere" } else { language });
                open = Some(Block { language: language.into(), exact, file: file.take(), lines: Vec::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.lines.push(line.to_owned()),
            (None, None) => file = named.captures_iter(line).last().map(|found| found[1].to_owned()).or(file),
        }
        before = line;
    }
    assert!(open.is_none(), "the last code block is not closed");
    blocks
}

/// Returns the text outside of fenced blocks.
fn prose(markdown: &str) -> String {
    let mut inside = false;
    let mut prose = String::new();
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if !inside {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    prose
}

/// Returns the texts between backticks, outside of fenced blocks.
fn spans(markdown: &str) -> Vec<String> {
    let spans = Regex::new("`([^`\n]+)`").unwrap();
    spans.captures_iter(&prose(markdown)).map(|found| found[1].to_owned()).collect()
}

/// Returns the rows of the table whose head begins with these cells.
fn table(markdown: &str, head: &[&str]) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    let mut lines =
        markdown.lines().skip_while(|line| !line.starts_with('|') || !cells(line).starts_with(&owned(head)));
    assert!(lines.next().is_some(), "the document has no table whose head begins with {head:?}");
    lines.skip(1).take_while(|line| line.starts_with('|')).map(cells).collect()
}

fn owned(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|&argument| argument.to_owned()).collect()
}

// ---- the demo -------------------------------------------------------------------------------------------------------

/// A running demo. The process is killed when this value is dropped.
struct Demo {
    child: Child,
    shim: SocketAddr,
    admin: SocketAddr,
    stdout: Receiver<String>,
}

impl Demo {
    fn start(more: &[&str]) -> Self {
        let mut command = binary();
        command.args(["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).args(more);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the demo starts");
        let stdout = lines(child.stdout.take().unwrap());
        let stderr = lines(child.stderr.take().unwrap());
        let mut demo = Self { child, shim: nowhere(), admin: nowhere(), stdout };
        demo.shim = address(&stderr, "listening on http://");
        demo.admin = address(&stderr, "admin on http://");
        demo
    }

    /// Replaces the ports in a command of the README by the ports of this demo.
    fn here(&self, command: &str) -> String {
        command.replace("127.0.0.1:8080", &self.shim.to_string()).replace("127.0.0.1:9900", &self.admin.to_string())
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn nowhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Returns the lines of a stream. A thread reads the stream, so that a full pipe does not stop the demo.
fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            // If the receiver was dropped, the thread still empties the pipe.
            let _ = sender.send(line);
        }
    });
    receiver
}

/// Waits for a line that contains `part`, and returns this line.
fn wait_line(lines: &Receiver<String>, part: &str) -> String {
    let end = Instant::now() + START;
    let mut seen = Vec::new();
    while let Ok(line) = lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
        if line.contains(part) {
            return line;
        }
        seen.push(line);
    }
    panic!("no line contains {part:?}; the lines are:\n{}", seen.join("\n"));
}

fn address(lines: &Receiver<String>, prefix: &str) -> SocketAddr {
    let line = wait_line(lines, prefix);
    let text = line.split_once(prefix).unwrap().1.trim();
    text.parse().unwrap_or_else(|error| panic!("{text:?} in the line {line:?} is not an address: {error}"))
}

// ---- commands and their output --------------------------------------------------------------------------------------

/// A command in a document, and the output that the document shows below the command.
struct Shown {
    command: String,
    output: Vec<String>,
    exact: bool,
}

fn shown(document: &str) -> Vec<Shown> {
    let mut all: Vec<Shown> = Vec::new();
    for block in blocks(&text(document)).into_iter().filter(|block| block.language == "console") {
        let from = all.len();
        for line in block.lines {
            if let Some(shown) = all[from..].last_mut().filter(|shown| shown.command.ends_with('\\')) {
                shown.command = format!("{}\n{line}", shown.command);
            } else if let Some(command) = line.strip_prefix("$ ") {
                all.push(Shown { command: command.into(), output: Vec::new(), exact: block.exact });
            } else {
                assert!(all.len() > from, "{document}: a console block must begin with a command, not with {line:?}");
                all.last_mut().unwrap().output.push(line);
            }
        }
        assert!(all.len() > from, "{document}: a console block contains no command");
    }
    all
}

impl Shown {
    /// Compares the shown output with the real output. If the outputs differ, returns an error that contains both.
    fn compare(&self, output: &str) -> Result<(), String> {
        let shown = self.output.join("\n");
        let same = if self.exact {
            // In Markdown, the last line of a block always ends with a newline, so a newline at the end of the output
            // is ignored.
            output.strip_suffix('\n').unwrap_or(output) == shown
        } else {
            let lines: Vec<&str> = output.trim_end().lines().map(str::trim_end).collect();
            let mut pairs = lines.iter().zip(&self.output);
            lines.len() == self.output.len() && pairs.all(|(line, shown)| shown == VARIES || line == shown)
        };
        if same {
            Ok(())
        } else {
            Err(format!("$ {}\nthe document shows:\n{shown}\n\nthe output is:\n{output}\n", self.command))
        }
    }
}

/// Runs a command line with `sh` in this folder. `PATH` contains the binary under test. Returns stdout, and whether the
/// command succeeded.
fn by_shell(line: &str, folder: &Path) -> (String, bool) {
    let program = Path::new(env!("CARGO_BIN_EXE_edgeshim")).parent().unwrap().to_path_buf();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(program).chain(std::env::split_paths(&path))).unwrap();
    let output = Command::new("sh")
        .args(["-c", line])
        .current_dir(folder)
        .env_clear()
        .env("PATH", path)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .expect("sh runs");
    (String::from_utf8(output.stdout).expect("output in UTF-8"), output.status.success())
}

fn has_program(name: &str) -> bool {
    Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

#[test]
fn readme_curl_commands_when_run_then_print_the_shown_output() {
    if !has_program("curl") {
        eprintln!("curl is not installed: the curl commands in the README were not run");
        return;
    }
    let shown: Vec<Shown> = shown(README).into_iter().filter(|shown| shown.command.starts_with("curl ")).collect();
    assert!(shown.len() >= 5, "the README has only {} curl commands", shown.len());
    let demo = Demo::start(&[]);
    let folder = temp_dir();
    for shown in shown {
        let command = demo.here(&shown.command);
        assert!(command != shown.command, "the command must contain 127.0.0.1:8080 or 127.0.0.1:9900: {command}");
        let mut result = Ok(());
        if shown.command.contains("/metrics") {
            // The demo counts a pull after it has sent the response. So an earlier curl command can end before its pull
            // is counted.
            wait_until(PATIENCE, || {
                result = shown.compare(&by_shell(&command, &folder).0);
                result.is_ok()
            });
        } else {
            result = shown.compare(&by_shell(&command, &folder).0);
        }
        result.unwrap_or_else(|difference| panic!("{difference}"));
    }
}

#[test]
fn edgeshim_commands_in_documents_when_run_then_print_the_shown_output() {
    let command = Regex::new(r"^([A-Z_]+=\S+ )*edgeshim (\w+) ").unwrap();
    let mut ran = Vec::new();
    for document in operators_documents() {
        let folder = temp_dir();
        folder.write("etsy.toml", text("config/etsy.toml"));
        for block in blocks(&text(&document)).into_iter().filter(|block| block.language == "toml") {
            if let Some(file) = block.file {
                folder.write(&file, block.lines.join("\n"));
            }
        }
        for shown in shown(&document).into_iter().filter(|shown| !shown.command.starts_with("curl ")) {
            let found = command.captures(&shown.command);
            let found = found.unwrap_or_else(|| panic!("{document}: the test cannot run {}", shown.command));
            let (output, success) = by_shell(&shown.command, &folder);
            assert!(success, "{document}: the command failed: {}", shown.command);
            shown.compare(&output).unwrap_or_else(|difference| panic!("{document}: {difference}"));
            ran.push((found[2].to_owned(), shown.exact));
        }
    }
    assert!(ran.iter().filter(|(name, _)| name == "check").count() >= 3, "{ran:?}");
    assert!(ran.iter().filter(|(name, exact)| name == "explain" && *exact).count() >= 3, "{ran:?}");
}

#[test]
fn configuration_when_in_a_document_then_check_accepts_the_configuration() {
    let secret = Regex::new(r#""env:(\w+)""#).unwrap();
    let mut checked = 0;
    for document in operators_documents() {
        for block in blocks(&text(&document)).into_iter().filter(|block| block.language == "toml") {
            let configuration = block.lines.join("\n");
            let folder = temp_dir();
            let path = folder.write("block.toml", &configuration);
            let names =
                secret.captures_iter(&configuration).map(|found| (found[1].to_owned(), "a-secret-of-some-length"));
            let output = binary().arg("check").arg("--config").arg(path).envs(names).output().expect("edgeshim runs");
            let problems = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{document}:\n{configuration}\n{problems}");
            checked += 1;
        }
    }
    assert!(checked >= 9, "this test finds only {checked} configurations");
    let readme = blocks(&text(README)).into_iter().find(|block| block.language == "toml").unwrap();
    assert_eq!(readme.lines.len(), 10, "the configuration in the README must have ten lines");
}

#[test]
fn code_block_when_in_a_page_for_operators_then_a_test_checks_the_language() {
    let elsewhere = text("tests/real/documents");
    let program = Regex::new(r"^\s*(\$|curl|edgeshim|kubectl|systemctl) ").unwrap();
    let demo = Demo::start(&[]);
    for document in operators_documents() {
        for block in blocks(&text(&document)) {
            match block.language.as_str() {
                // Other tests in this file check these languages.
                "console" | "toml" => {}
                "sh" => check_commands(&document, &block.lines, &demo),
                "text" => {
                    let command = block.lines.iter().find(|line| program.is_match(line));
                    assert!(command.is_none(), "{document}: write ```sh before this command: {command:?}");
                }
                "elsewhere" => assert!(elsewhere.contains(&document[document.rfind('/').unwrap() + 1..])),
                language => {
                    let is_known = elsewhere.contains(&format!("\"{language}\": "));
                    assert!(is_known, "{document}: tests/real/documents does not check blocks of {language:?}");
                }
            }
        }
    }
    // In the README, the commands of the first minutes are indented. The tests of the demo and tests/run run them.
    let readme = prose(&text(README));
    let indented: Vec<&str> = readme.lines().filter(|line| line.starts_with("    ")).map(str::trim).collect();
    assert_eq!(indented, ["PATH=\"$PWD/target/release:$PATH\"", "cargo run --release -- demo --traffic"]);
}

#[test]
fn commands_when_in_a_page_about_balance_then_run_or_name_the_reason() {
    let demo = Demo::start(&[]);
    let links = Regex::new(r"\]\(([^)#]+)\)").unwrap();
    let mut checked = 0;
    for entry in std::fs::read_dir(repository("deploy/balance")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if Path::new(&name).extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let document = format!("deploy/balance/{name}");
        for block in blocks(&text(&document)).iter().filter(|block| block.language == "sh") {
            check_commands(&document, &block.lines, &demo);
            checked += 1;
        }
        for found in links.captures_iter(&prose(&text(&document))).filter(|found| !found[1].contains("://")) {
            let path = repository("deploy/balance").join(&found[1]);
            assert!(path.exists(), "{document}: there is no {}", &found[1]);
        }
    }
    assert!(checked >= 10, "this test finds only {checked} blocks of commands");
}

/// Runs the commands of a block against the demo. If the block says why it is not run, only checks its syntax. A block
/// that names the example program for the weights gets a copy of the program.
fn check_commands(document: &str, lines: &[String], demo: &Demo) {
    let folder = temp_dir();
    if lines.iter().any(|line| line.contains("./weights-in-a-file")) {
        std::fs::copy(repository("deploy/balance/weights-in-a-file"), folder.join("weights-in-a-file")).unwrap();
    }
    let script = folder.write("block.sh", demo.here(&lines.join("\n")));
    if let Some(reason) = lines[0].strip_prefix(NOT_RUN) {
        assert!(reason.len() > 10, "{document}: the reason {reason:?} is too short");
        let (_, is_valid) = by_shell(&format!("sh -n {}", script.display()), &folder);
        assert!(is_valid, "{document}: these commands have a syntax error:\n{}", lines.join("\n"));
        return;
    }
    let programs = ["curl", "openssl"].into_iter().filter(|program| lines.iter().any(|line| line.starts_with(program)));
    for program in programs {
        if !has_program(program) {
            eprintln!("{program} is not installed: a block of commands in {document} was not run");
            return;
        }
    }
    let (output, success) = by_shell(&format!("sh -eu {}", script.display()), &folder);
    assert!(success, "{document}: the commands failed:\n{}\n{output}", lines.join("\n"));
    let is_refused = Regex::new(r#""status":[45]\d\d"#).unwrap();
    assert!(!is_refused.is_match(&output), "{document}: {output}");
}

#[test]
fn exact_block_when_in_a_document_then_omits_no_line() {
    for document in [README, EXPLAIN] {
        let all = blocks(&text(document));
        assert!(all.iter().any(|block| block.exact), "{document} has no block after `{EXACT}`");
        let marks = text(document).lines().filter(|line| *line == EXACT).count();
        let exact = all.iter().filter(|block| block.exact).count();
        assert_eq!(marks, exact, "{document}: a block must follow each line `{EXACT}`");
        for block in all {
            let varies = block.lines.iter().any(|line| line.contains(VARIES));
            assert!(
                !block.exact || (block.language == "console" && !varies),
                "{document}: a block after `{EXACT}` must be a console block without `{VARIES}`"
            );
        }
    }
}

#[test]
fn shown_output_when_different_from_real_output_then_comparison_fails() {
    let shown = |output: &[&str], exact| Shown { command: "x".into(), output: owned(output), exact };
    assert!(shown(&["a", VARIES], false).compare("a\r\nb\r\n\r\n").is_ok());
    assert!(shown(&["a", VARIES], false).compare("a\n").is_err());
    assert!(shown(&["a", VARIES], false).compare("a\nb\nc\n").is_err());
    assert!(shown(&["a", "b"], false).compare("a\nc\n").is_err());
    assert!(shown(&["a", "b"], true).compare("a\nb\n").is_ok());
    assert!(shown(&["a", "b"], true).compare("a\nb").is_ok());
    assert!(shown(&["a", "b"], true).compare("a\nb \n").is_err());
    assert!(shown(&["a", "b"], true).compare("a\r\nb\n").is_err());
    assert!(shown(&[VARIES], true).compare("a\n").is_err());
}

#[test]
fn demo_url_when_printed_then_exists() {
    let demo = Demo::start(&[]);
    let url = Regex::new(r"curl .*http://([0-9.:]+)(/[^ ']*)").unwrap();
    let mut followed = 0;
    let mut lost = Vec::new();
    loop {
        let line = demo.stdout.recv_timeout(START).expect("more lines, up to a line with Ctrl-C");
        if line.contains("Ctrl-C") {
            break;
        }
        let Some(found) = url.captures(&line) else { continue };
        followed += 1;
        let response = raw::fetch(found[1].parse().unwrap(), &found[2], &[]);
        if response.status == 404 || response.status == 421 {
            lost.push(format!("the status is {}: {line}", response.status));
        }
    }
    assert!(followed >= 4, "the demo prints only {followed} curl commands");
    assert!(lost.is_empty(), "{}", lost.join("\n"));
}

#[test]
fn demo_when_started_with_traffic_then_prints_the_offload_of_each_cdn() {
    let demo = Demo::start(&["--traffic"]);
    for provider in ["fastly", "cloudflare", "akamai"] {
        let line = wait_line(&demo.stdout, "pulled");
        assert!(line.starts_with(provider), "this line must begin with {provider}: {line}");
    }
}

// ---- names in documents ---------------------------------------------------------------------------------------------

/// Returns whether a path exists, relative to the document or to the root of the repository.
fn exists(document: &str, path: &str) -> bool {
    let folder = repository(document).parent().unwrap().to_path_buf();
    folder.join(path).exists() || repository(path).exists()
}

#[test]
fn link_when_in_a_document_then_target_exists() {
    let link = Regex::new(r"\]\(([^)]+)\)").unwrap();
    for document in &documents() {
        let markdown = text(document);
        let anchors: Vec<String> = prose(&markdown)
            .lines()
            .filter(|line| line.starts_with('#'))
            .map(|line| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-"))
            .collect();
        for found in link.captures_iter(&prose(&markdown)) {
            let target = &found[1];
            if let Some(anchor) = target.strip_prefix('#') {
                assert!(anchors.iter().any(|known| known == anchor), "{document} links to a missing heading: {target}");
            } else {
                assert!(!target.contains("://"), "{document} links outside the repository: {target}");
                let folder = repository(document).parent().unwrap().to_path_buf();
                assert!(folder.join(target).exists(), "{document} links to a missing file: {target}");
            }
        }
    }
}

#[test]
fn path_when_named_in_a_document_then_exists() {
    let folders = Regex::new(r"^(\.ci|benches|config|deploy|src|tests)/[\w./-]*$").unwrap();
    let files = Regex::new(r"^[\w-]+(/[\w-]+)*\.(rs|md|html|service)$").unwrap();
    for document in &documents() {
        let markdown = text(document);
        let mut named = 0;
        for span in spans(&markdown) {
            let path = span.split(' ').next().unwrap();
            // The document tells the reader to create this file, so the file need not exist.
            let is_new = document == CONTRIBUTING
                && path.split(['/', '.']).any(|part| ["NAME", "TAG", "example", "methods"].contains(&part));
            if is_new {
                continue;
            }
            if folders.is_match(path) || files.is_match(path) {
                assert!(exists(document, path), "{document} names a missing path: {path}");
                named += 1;
            }
        }
        assert!(
            named > 0 || document.starts_with("deploy/") || document == SECURITY,
            "this test finds no path in {document}; correct the pattern in the test"
        );
    }
}

#[test]
fn metric_when_named_in_a_document_then_exists_and_runbook_names_every_metric() {
    let is_real = |name: &str| {
        METRICS.iter().any(|metric| {
            let rest = name.strip_prefix(metric.name);
            let of_histogram = matches!(rest, Some("_bucket" | "_sum" | "_count")) && metric.kind == Kind::Histogram;
            rest == Some("") || of_histogram
        })
    };
    let metric = Regex::new(r"\bedgeshim_[a-z_]+").unwrap();
    for document in &documents() {
        for found in metric.find_iter(&text(document)) {
            assert!(is_real(found.as_str()), "{document} names a metric that does not exist: {}", found.as_str());
        }
    }
    let runbook = text(RUNBOOK);
    for Description { name, .. } in METRICS {
        assert!(
            metric.find_iter(&runbook).any(|found| found.as_str().starts_with(name)),
            "{RUNBOOK} does not contain the metric {name}"
        );
    }
}

#[test]
fn key_when_named_in_a_document_then_exists() {
    let reference: String = text("config/edgeshim.toml")
        .lines()
        .map(|line| line.strip_prefix("#: ").unwrap_or(line))
        .fold(String::new(), |all, line| all + line + "\n");
    let reference: toml::Table = reference.parse().expect("valid TOML when the examples are uncommented");
    let blocks: Vec<&str> = reference.keys().map(String::as_str).collect();
    let key = Regex::new(&format!(r"^\[?((?:{})(?:\.[a-z0-9_]+)*)\]?(?: = .*)?$", blocks.join("|"))).unwrap();
    let mut named = 0;
    for document in &documents() {
        for span in spans(&text(document)) {
            let Some(found) = key.captures(&span) else { continue };
            // A single word without brackets is ignored, because it can be a layer or a room. A file name is not a key.
            let is_file = Path::new(&span).extension().is_some_and(|extension| extension == "rs");
            if (!span.contains('.') && !span.starts_with('[')) || is_file {
                continue;
            }
            assert!(
                has_key(&toml::Value::Table(reference.clone()), &found[1]),
                "{document} names an unknown key: {span}"
            );
            named += 1;
        }
    }
    assert!(named > 30, "this test finds only {named} keys in the documents; correct the pattern in the test");
    assert!(!has_key(&toml::Value::Table(reference), "server.max_connection"));
}

fn has_key(value: &toml::Value, path: &str) -> bool {
    if let Some(entries) = value.as_array() {
        return entries.iter().any(|entry| has_key(entry, path));
    }
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    match (value.get(first), rest) {
        (Some(inner), Some(rest)) => has_key(inner, rest),
        (Some(_), None) => true,
        (None, _) => false,
    }
}

// ---- complete lists -------------------------------------------------------------------------------------------------

#[test]
fn runbook_when_compared_with_source_then_lists_all_fault_causes_reasons_and_guards() {
    let runbook = text(RUNBOOK);
    let causes: Vec<Vec<String>> = Cause::ALL
        .into_iter()
        .filter(|cause| !cause.is_client_error())
        .map(|cause| owned(&[cause.as_str(), &cause.status().as_u16().to_string(), cause.proxy_status()]))
        .collect();
    let rows = table(&runbook, &["cause", "status", "Proxy-Status"]);
    assert_eq!(rows.iter().map(|row| row[..3].to_vec()).collect::<Vec<_>>(), causes);
    let reasons = table(&runbook, &["reason", "status", "key"]);
    let names: Vec<&str> = reasons.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(names, Reason::ALL.map(Reason::as_str));
    let guards = table(&runbook, &["guard", "what it did"]);
    let names: Vec<&str> = guards.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(names, Guard::ALL.map(Guard::as_str));
    // The runbook must explain each status of a fault or a refusal.
    let statuses = table(&runbook, &["status", "meaning"]);
    let explained: BTreeSet<&str> = statuses.iter().map(|row| row[0].as_str()).collect();
    for row in rows.iter().chain(&reasons) {
        // After a flood, the connection is closed without a response.
        for status in row[1].split(", ").filter(|status| *status != "none") {
            assert!(explained.contains(status), "{RUNBOOK} does not explain the status {status}");
        }
    }
}

#[test]
fn architecture_when_compared_with_source_then_has_all_rooms_and_the_order_of_layers() {
    let architecture = text(ARCHITECTURE);
    let list = Regex::new(r"(?m)^            \.layer\(\$wrap!\(([a-z_]+),").unwrap();
    let pipeline = text("src/edge/pipeline.rs");
    let layers: Vec<&str> = list.captures_iter(&pipeline).map(|found| found.get(1).unwrap().as_str()).collect();
    let rows = table(&architecture, &["layer", "on the way in"]);
    // A new layer does not need a row, but the rows must have the order of the layers.
    assert!(rows.len() >= 9, "the table of layers has only {} rows", rows.len());
    let mut rest = layers.iter();
    for row in &rows {
        assert!(
            rest.any(|layer| *layer == row[0]),
            "the row `{}` names an unknown layer or is in the wrong place; the layers are, in order, {layers:?}",
            row[0]
        );
    }
    let stairs = blocks(&architecture).into_iter().next().expect("the stairs");
    let mut rooms: BTreeSet<String> = BTreeSet::new();
    for line in stairs.lines {
        // The first 26 columns contain only names of rooms.
        let names = line.get(..26).unwrap_or(&line).to_owned();
        rooms.extend(names.split_ascii_whitespace().map(str::to_owned));
    }
    let module = Regex::new(r"(?m)^mod ([a-z_]+);").unwrap();
    let library = text("src/lib.rs");
    let mut expected: BTreeSet<String> = module.captures_iter(&library).map(|found| found[1].to_owned()).collect();
    expected.insert("main".to_owned());
    assert_eq!(rooms, expected);
    for block in blocks(&architecture) {
        assert_eq!(block.language, "text", "the language must be `text`, so that rustdoc does not compile the block");
    }
}

#[test]
fn command_when_named_in_a_document_then_exists_or_is_listed_for_later() {
    let later = text(README).lines().find(|line| line.starts_with("| Operation")).unwrap().to_owned();
    let later = spans(later.trim_matches('|').rsplit('|').next().unwrap());
    let command = Regex::new(r"^edgeshim ([a-z][a-z-]+)\b").unwrap();
    let mut named = BTreeSet::new();
    for document in documents() {
        let found = spans(&text(&document)).into_iter().filter_map(|span| Some(command.captures(&span)?[1].to_owned()));
        named.extend(found.map(|command| (command, document.clone())));
    }
    assert!(named.len() > 10, "this test finds only these commands: {named:?}");
    for (command, document) in named {
        let exists = run(&[&command, "--help"]).0 == 0 || later.contains(&command);
        assert!(exists, "{document} names a command that does not exist: edgeshim {command}");
    }
}

#[test]
fn readme_commands_when_listed_for_this_release_then_exist_and_later_commands_do_not() {
    let readme = text(README);
    let row = prose(&readme)
        .lines()
        .find(|line| line.starts_with("| Operation"))
        .expect("a row of a table that begins with Operation")
        .to_owned();
    let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
    let (today, later) = (spans(cells[1]), spans(cells[2]));
    assert!(today.len() >= 6, "{today:?}");
    for command in today {
        assert_eq!(run(&[&command, "--help"]).0, 0, "{command}");
    }
    for command in later {
        let arguments: Vec<&str> = command.split(' ').collect();
        assert_eq!(run(&arguments).0, 2, "{command} exists; move {command} to the column of this release");
    }
    let help = run(&["demo", "--help"]).1;
    for option in ["--traffic", "--incident", "--listen", "--admin", "127.0.0.1:8080", "127.0.0.1:9900"] {
        assert!(help.contains(option) && readme.contains(option), "the help or the README does not contain {option}");
    }
    assert!(readme.lines().count() <= 200, "the README has more than 200 lines");
}

#[test]
fn version_when_named_in_a_file_then_equals_the_version_in_cargo_toml() {
    let manifest: toml::Table = text("Cargo.toml").parse().expect("valid TOML");
    let package = |key: &str| manifest["package"][key].as_str().unwrap().to_owned();
    let changelog = text(CHANGELOG);
    // A section of unreleased changes can precede the section of the newest release.
    let mut sections = changelog.lines().filter_map(|line| line.strip_prefix("## "));
    let newest = sections.find(|section| *section != "Unreleased").expect("a section of a release");
    let (version, date) = newest.split_once(", ").expect("a heading of the form VERSION, DATE");
    assert_eq!(version, package("version"));
    assert!(Regex::new(r"^20\d\d-\d\d-\d\d$").unwrap().is_match(date), "{date}");
    assert!(text(README).contains(&format!("in {version} |")), "no table in the README names the release {version}");
    assert!(text(README).contains(&format!("Rust {} or newer", package("rust-version"))));
    assert!(text("deploy/docker/Dockerfile").contains(&format!("FROM rust:{}-", package("rust-version"))));
    let workflow = text(".github/workflows/ci.yml");
    let toolchain = format!("{}.0", package("rust-version"));
    assert!(workflow.contains(&format!("container: rust:{toolchain}-")), "the CI image is not for Rust {toolchain}");
    assert!(workflow.contains(&format!("RUSTUP_TOOLCHAIN: {toolchain}\n")), "CI does not use Rust {toolchain}");
}

#[test]
fn contributing_code_block_when_first_line_is_a_path_then_lines_are_in_this_file() {
    let mut shown = 0;
    for block in blocks(&text(CONTRIBUTING)) {
        let Some((first, lines)) = block.lines.split_first() else { continue };
        let first = first.trim_start();
        let Some(path) = first.strip_prefix("// ").or_else(|| first.strip_prefix("# ")) else { continue };
        // If the reader must create the file, a note follows the path.
        if path.contains(' ') {
            continue;
        }
        let file = text(path);
        let known: BTreeSet<&str> = file.lines().map(str::trim).collect();
        for line in lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty() && *line != VARIES) {
            assert!(known.contains(line), "{path} does not have the line {line:?}");
        }
        shown += 1;
    }
    assert!(shown >= 5, "this test finds only {shown} code blocks that start with a path");
}

// ---- deploy ---------------------------------------------------------------------------------------------------------

/// Returns the arguments of each instruction with this name in a Dockerfile.
fn instructions<'t>(dockerfile: &'t str, name: &'t str) -> impl Iterator<Item = Vec<&'t str>> {
    dockerfile
        .lines()
        .filter_map(move |line| line.strip_prefix(name)?.strip_prefix(' '))
        .map(|rest| rest.split_ascii_whitespace().collect())
}

#[test]
fn dockerfile_when_checked_then_copies_all_files_that_the_build_needs() {
    let dockerfile = text("deploy/docker/Dockerfile");
    let mut copied = Vec::new();
    let mut targets = Vec::new();
    for arguments in instructions(&dockerfile, "COPY") {
        let (target, sources) = arguments.split_last().expect("the arguments of COPY");
        targets.push((*target).to_owned());
        if let Some((_, rest)) = sources.split_first().filter(|(first, _)| first.starts_with("--from=")) {
            assert_eq!(rest, ["/build/target/release/edgeshim"], "the image must copy the binary that cargo builds");
            continue;
        }
        for source in sources {
            assert!(repository(source).exists(), "the Dockerfile copies {source}, which does not exist");
            copied.push((*source).to_owned());
        }
    }
    // The Dockerfile must copy the sources and all files that the sources include.
    assert!(copied.iter().any(|path| path == "src"), "the Dockerfile does not copy `src`, but only {copied:?}");
    let include = Regex::new(r#"include_(?:str|bytes)!\(\s*"([^"]+)""#).unwrap();
    let mut included = 0;
    for file in sources(&repository("src")) {
        let source = std::fs::read_to_string(&file).unwrap();
        for found in include.captures_iter(&source) {
            let path = file.parent().unwrap().join(&found[1]).canonicalize().expect(&found[1]);
            let inside = copied.iter().any(|copy| path.starts_with(repository(copy).canonicalize().unwrap()));
            assert!(inside, "the Dockerfile does not copy {}", path.display());
            included += 1;
        }
    }
    assert!(included > 15, "this test finds only {included} included files; correct the pattern in the test");
    // The Dockerfile must also copy the folder of the build script, because the script reads files in this folder.
    let manifest: toml::Table = text("Cargo.toml").parse().expect("valid TOML");
    let script = manifest["package"]["build"].as_str().expect("the path of the build script");
    assert!(copied.iter().any(|copy| Path::new(script).starts_with(copy)), "the Dockerfile does not copy {script}");
    let command = instructions(&dockerfile, "CMD").next().expect("an instruction CMD").concat();
    let command: Vec<String> = serde_json::from_str(&command).expect("a JSON array after CMD");
    assert_eq!(command[..2], ["run", "--config"]);
    assert!(targets.contains(&command[2]), "the Dockerfile copies no file to {}", command[2]);
    let entry: Vec<String> =
        serde_json::from_str(&instructions(&dockerfile, "ENTRYPOINT").next().unwrap().concat()).unwrap();
    assert!(targets.contains(&entry[0]), "the Dockerfile copies no file to {}", entry[0]);
    let user = instructions(&dockerfile, "USER").last().expect("an instruction USER").concat();
    assert!(user != "root" && !user.starts_with('0'), "the image must not run as root; the user is {user}");
}

fn sources(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// Returns the systemd unit. The paths in the unit are replaced by the path of the binary under test and the path of a
/// copy of the reference configuration.
fn unit_here(folder: &TempDir) -> String {
    let configuration = folder.write("edgeshim.toml", text("config/edgeshim.toml"));
    text("deploy/systemd/edgeshim.service")
        .replace("/usr/local/bin/edgeshim", env!("CARGO_BIN_EXE_edgeshim"))
        .replace("/etc/edgeshim/edgeshim.toml", &configuration.display().to_string())
}

#[test]
fn systemd_unit_when_checked_then_commands_run_and_stop_timeout_covers_the_drain() {
    let folder = temp_dir();
    let unit = unit_here(&folder);
    let value = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("the unit has no {key}")).to_owned()
    };
    let (output, success) = by_shell(&value("ExecStartPre"), &folder);
    assert!(success, "ExecStartPre: {output}");
    let start = value("ExecStart");
    let arguments: Vec<&str> = start.split(' ').collect();
    assert_eq!(arguments[..3], [env!("CARGO_BIN_EXE_edgeshim"), "run", "--config"]);
    assert_eq!(arguments.len(), 4, "{start}");
    assert_eq!(run(&["run", "--help"]).0, 0);
    let seconds: u64 = value("TimeoutStopSec").trim_end_matches('s').parse().expect("a number of seconds");
    let server = Settings::default().server;
    assert!(
        Duration::from_secs(seconds) > server.drain_delay + server.drain_timeout,
        "TimeoutStopSec must be longer than the sum of `drain_delay` and `drain_timeout`"
    );
    let install = Regex::new(r"(?m)^#\s+install .*\b(deploy/\S+) ").unwrap();
    for found in install.captures_iter(&unit) {
        assert!(repository(&found[1]).exists(), "the unit names a missing file: {}", &found[1]);
    }
}

#[test]
fn systemd_units_when_verified_by_systemd_then_cause_no_warning() {
    if !has_program("systemd-analyze") {
        eprintln!("systemd-analyze is not installed: the unit was not verified");
        return;
    }
    let folder = temp_dir();
    let service = folder.write("edgeshim.service", unit_here(&folder));
    let socket = folder.write("edgeshim.socket", text("deploy/systemd/edgeshim.socket"));
    let watch = text("deploy/systemd/edgeshim-balance-watch.service")
        .replace("/usr/local/bin/edgeshim", env!("CARGO_BIN_EXE_edgeshim"));
    let watch = folder.write("edgeshim-balance-watch.service", watch);
    let output = Command::new("systemd-analyze")
        .arg("verify")
        .args([service, socket, watch])
        .output()
        .expect("systemd-analyze runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    // systemd before version 253 does not know notify-reload, and uses the line above it.
    let is_known = |line: &str| line.ends_with("Failed to parse service type, ignoring: notify-reload");
    let ours: Vec<&str> = stderr.lines().filter(|line| line.contains("edgeshim") && !is_known(line)).collect();
    assert!(ours.is_empty(), "{stderr}");
}
