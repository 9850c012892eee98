//! Tests of the command line. They check exit codes and output, the help of every command, and the demo from start to
//! SIGTERM. They also compare `explain` with real responses.

mod support;

use edgeshim::internals::PRESET_NAMES;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use support::presets::presets;
use support::shim::{binary, repository, run};
use support::{After, Metrics, Origin, Shim, TempDir, raw, temp_dir, wait_until};

const COMMANDS: [&str; 12] = [
    "run",
    "check",
    "demo",
    "explain",
    "smoke",
    "verify-log",
    "bundle",
    "providers",
    "whoopsie",
    "balance",
    "assign",
    "completions",
];

/// Runs the binary in a folder. Returns the exit code, stdout and stderr.
fn run_in(dir: &TempDir, arguments: &[&str]) -> (i32, String, String) {
    let output = binary().args(arguments).current_dir(&**dir).output().expect("the edgeshim binary starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

// ---- check and run --------------------------------------------------------------------------------------------------

#[test]
fn check_when_file_is_valid_or_absent_then_exits_with_0() {
    let reference = repository("config/edgeshim.toml");
    let (code, out, err) = run(&["check", "--config", reference.to_str().expect("a path in UTF-8")]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.trim_end().ends_with("edgeshim.toml: fine"), "{out}");
    let model = repository("config/etsy.toml");
    assert_eq!(run(&["check", "--config", model.to_str().expect("a path in UTF-8")]).0, 0);

    let dir = temp_dir();
    let (code, out, _) = run_in(&dir, &["check"]);
    assert_eq!((code, out.trim_end()), (0, "the defaults: fine"), "check did not use the defaults without a file");
    dir.write("edgeshim.toml", "[server]\nidle_timeout = \"never\"\n");
    let (code, out, _) = run_in(&dir, &["check"]);
    assert_eq!(code, 1, "check did not read ./edgeshim.toml: {out}");
    assert!(out.contains("edgeshim.toml:2: server.idle_timeout: \"never\""), "{out}");
}

#[test]
fn output_when_disk_is_full_then_exits_with_2_and_when_pipe_is_closed_then_exits_with_0() {
    for arguments in [&["check"][..], &["providers"], &["completions", "bash"], &["explain", "--path", "/a.png"]] {
        let dir = temp_dir();
        let full = File::options().write(true).open("/dev/full").expect("/dev/full opens");
        let output = binary().args(arguments).current_dir(&*dir).stdout(full).output().expect("the binary starts");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {err}");
        assert!(err.contains("cannot write to standard output: No space left on device"), "{arguments:?}: {err}");

        let (reader, writer) = std::io::pipe().expect("a pipe opens");
        drop(reader);
        let output = binary().args(arguments).current_dir(&*dir).stdout(writer).output().expect("the binary starts");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*err), (Some(0), ""), "{arguments:?}");
    }
}

/// A configuration with many mistakes. The message about a mistake must contain the line, the key, the value, and what
/// to write instead.
const WRONG: &str = r#"[server]
listen = ["127.0.0.1"]
idle_timeout = "75"
max_headers = 0
colour = "blue"
[origin]
url = "ftp://x"
retries = "many"
[identity]
unknown = "ignore"
[[provider]]
name = "none"
[[provider]]
name = "fastly"
preset = "fastlee"
[[class]]
name = "a"
path = ["["]
cache = { mode = "sometimes", ttl = "3 years" }
[gzip]
level = 12
[whoopsie]
default_locale = "xx"
retry_after = 30
[access_log]
format = "xml"
[colours]
"#;

/// The line, the key and the value of each mistake in `WRONG`, and a part of what to write instead. The unknown block
/// is not in this list.
const WRONG_LINES: [(usize, &str, &str, &str); 16] = [
    (2, "server.listen[0]", "\"127.0.0.1\"", "write \"127.0.0.1:8080\""),
    (3, "server.idle_timeout", "\"75\"", "\"75s\""),
    (4, "server.max_headers", "0", "1"),
    (5, "server.colour", "\"blue\"", "listen"),
    (7, "origin.url", "\"ftp://x\"", "http://"),
    (8, "origin.retries", "\"many\"", "write"),
    (10, "identity.unknown", "\"ignore\"", "\"reject\""),
    (12, "provider[0].name", "\"none\"", "write another"),
    (15, "provider[1].preset", "\"fastlee\"", "\"fastly\""),
    (18, "class[0].path[0]", "\"[\"", "write"),
    (19, "class[0].cache.mode", "\"sometimes\"", "\"override\""),
    (19, "class[0].cache.ttl", "\"3 years\"", "write"),
    (21, "gzip.level", "12", "9"),
    (23, "whoopsie.default_locale", "\"xx\"", "en"),
    (24, "whoopsie.retry_after", "30", "\"30s\""),
    (26, "access_log.format", "\"xml\"", "\"json\""),
];

#[test]
fn check_when_file_has_many_problems_then_exits_with_1_and_reports_every_problem() {
    let dir = temp_dir();
    dir.write("bad.toml", WRONG);
    let (code, out, err) = run_in(&dir, &["check", "--config", "bad.toml"]);
    assert_eq!((code, err.as_str()), (1, ""), "{out}");
    for (line, key, value, instead) in WRONG_LINES {
        let start = format!("bad.toml:{line}: {key}: {value} ");
        let reported = out.lines().find(|reported| reported.starts_with(&start));
        let reported = reported.unwrap_or_else(|| panic!("no line begins with {start:?}:\n{out}"));
        assert!(reported[start.len()..].contains(instead), "{reported}");
    }
    assert!(out.contains("colours"), "check does not report the unknown block [colours]:\n{out}");
    let problems = out.lines().count() - 1;
    assert_eq!(problems, WRONG_LINES.len() + 1, "{out}");
    assert_eq!(out.lines().last(), Some(&*format!("bad.toml: {problems} problems")));

    let (code, out, err) = run_in(&dir, &["run", "--config", "bad.toml"]);
    assert_eq!((code, out.as_str()), (2, ""), "{err}");
    for (line, key, ..) in WRONG_LINES {
        assert!(err.contains(&format!("bad.toml:{line}: {key}: ")), "run does not report {key}:\n{err}");
    }
}

#[test]
fn check_when_several_hosts_occur_twice_then_reports_each_host() {
    let dir = temp_dir();
    let hosts = ["a.test", "b.test", "A.test:80", "c.test", "b.test:8080"].map(|host| format!("{host:?} = \"de\"\n"));
    dir.write("twice.toml", format!("[whoopsie.hosts]\n{}", hosts.concat()));
    let (code, out, _) = run_in(&dir, &["check", "--config", "twice.toml"]);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!((code, lines.len(), lines.last()), (1, 3, Some(&"twice.toml: 2 problems")), "{out}");
    for (line, host) in lines.iter().zip(["a.test", "b.test"]) {
        assert!(line.starts_with(&format!("twice.toml: whoopsie.hosts: \"{host}\" occurs more than once")), "{out}");
    }
    let (code, _, err) = run_in(&dir, &["run", "--config", "twice.toml"]);
    assert!(code == 2 && err.contains("\"a.test\"") && err.contains("\"b.test\""), "{code} {err}");
}

#[test]
fn check_when_file_is_missing_or_broken_then_exits_with_1_and_run_exits_with_2() {
    let dir = temp_dir();
    dir.write("broken.toml", "[server]\nlisten = [\n");
    dir.write("latin.toml", b"# caf\xe9\n");
    for (file, part) in [("absent.toml", "absent.toml"), ("broken.toml", "broken.toml:"), ("latin.toml", "latin.toml")]
    {
        let (code, out, _) = run_in(&dir, &["check", "--config", file]);
        assert!(code == 1 && out.contains(part), "{file}: {code} {out}");
        assert!(out.trim_end().ends_with(&format!("{file}: 1 problem")), "{out}");
        for command in [&["run"][..], &["explain", "--path", "/"]] {
            let mut arguments = command.to_vec();
            arguments.extend(["--config", file]);
            let (code, out, err) = run_in(&dir, &arguments);
            assert!(code == 2 && out.is_empty() && err.contains(part), "{arguments:?}: {code} {err}");
        }
    }
}

#[test]
fn run_when_port_is_taken_then_exits_with_2_and_names_the_address() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = holder.local_addr().expect("the address of the listener").to_string();
    let other = Origin::start(support::origin::echo());
    let serving = Shim::start(Shim::config(other.addr));
    for taken in [taken, serving.addr.to_string(), serving.admin.to_string()] {
        for (key, free) in [("server", "admin"), ("admin", "server")] {
            let list = |address: &str, key: &str| {
                if key == "server" { format!("[\"{address}\"]") } else { format!("\"{address}\"") }
            };
            let dir = temp_dir();
            let config =
                format!("[{key}]\nlisten = {}\n[{free}]\nlisten = {}\n", list(&taken, key), list("127.0.0.1:0", free));
            // The test does not use `run_in`, which would wait forever if two listeners could share the port.
            match Shim::try_start_in(dir, config) {
                Ok(_) => panic!("the shim started with {key}.listen = {taken}, but this address is in use"),
                Err((status, err)) => {
                    assert_eq!(status.and_then(|status| status.code()), Some(2), "{err}");
                    assert!(err.contains(&taken), "{err}");
                }
            }
        }
    }
}

#[test]
fn command_line_when_invalid_then_exits_with_2_and_prints_nothing_on_stdout() {
    for arguments in [
        &[][..],
        &["frobnicate"],
        &["check", "--colour"],
        &["check", "edgeshim.toml"],
        &["run", "--config"],
        &["explain"],
        &["explain", "--path", "/", "--status", "99"],
        &["explain", "--path", "/", "--response-header", "no colon"],
        &["explain", "--path", "/", "--response-header", "b d: x"],
        &["explain", "--path", "with space"],
        &["explain", "--path", "no-slash.png"],
        &["explain", "--path", "/", "--peer", "nowhere"],
        &["explain", "--path", "/", "--provider", "two\nlines"],
        &["explain", "--path", "/", "--request-header", "no colon"],
        &["completions"],
        &["completions", "tcsh"],
        &["demo", "--listen", "nowhere"],
        &["demo", "--visitors", "0"],
        &["demo", "--incident"],
        &["smoke"],
        &["smoke", "www.example.com"],
    ] {
        let (code, out, err) = run(arguments);
        assert!(code == 2 && out.is_empty() && !err.is_empty(), "{arguments:?}: {code}\n{out}\n{err}");
    }
}

// ---- help, version, lists -------------------------------------------------------------------------------------------

#[test]
fn help_when_requested_then_has_an_example_for_every_command() {
    let (code, out, err) = run(&["--help"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let listed: Vec<_> = out
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_ascii_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    for command in COMMANDS {
        assert!(listed.contains(&command), "the help does not list {command}: {listed:?}");
    }
    assert!(out.contains("Examples:\n  edgeshim "), "{out}");
    for command in listed {
        let (code, out, err) = run(&[command, "--help"]);
        assert_eq!((code, err.as_str()), (0, ""), "{command}");
        assert!(out.contains(&format!("Usage: edgeshim {command}")), "{out}");
        assert!(
            out.contains("Example") && out.contains(&format!("\n  edgeshim {command}")),
            "the help of {command} has no example:\n{out}"
        );
    }
}

#[test]
fn help_examples_when_run_in_a_shell_then_succeed() {
    // The help must not wrap an example, because a shell would run the wrapped lines as two commands.
    let dir = temp_dir();
    let experiment = "name = \"cdn\"\narms = { a = 1 }\nid = { cookie = \"uaid\" }\nclasses = [\"other\"]\n";
    dir.write("edgeshim.toml", format!("[[experiment]]\n{experiment}"));
    // The examples read these logs, and ask an admin listener at the default address.
    let line = concat!(
        r#"{"time":"2026-11-28T12:30:00.000Z","id":"0193a1b2c3","provider":"fastly","class":"html","status":200,"#,
        r#""bytes":1,"origin_bytes":1}"#,
        "\n"
    );
    for name in ["access.log", "access.log.1", "access.log.1.gz", "access.log.2.gz"] {
        dir.write(name, line);
    }
    let shim = Shim::start(Shim::config(support::origin::ClosedPort::new().addr));
    let mut tried = 0;
    for command in COMMANDS {
        let (_, out, _) = run(&[command, "--help"]);
        let (_, examples) = out.rsplit_once("Example").expect("an example");
        for example in examples.lines().skip(1).filter(|line| !line.trim().is_empty()) {
            let arguments = example.trim().strip_prefix("edgeshim ");
            let arguments =
                arguments.unwrap_or_else(|| panic!("the help of {command} wraps an example before {example:?}"));
            if ["run", "demo", "smoke", "balance"].contains(&command) {
                // `run` and `demo` run until a signal arrives, `smoke` needs a server, and `balance` needs a DNS
                // service. So other tests check these commands.
                continue;
            }
            let arguments = arguments.split(" > ").next().unwrap_or_default();
            let arguments = arguments.replace("127.0.0.1:9900", &shim.admin.to_string());
            let line = format!("{} {arguments}", env!("CARGO_BIN_EXE_edgeshim"));
            let output = Command::new("sh").arg("-c").arg(&line).current_dir(&*dir).output().expect("a shell");
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
            tried += 1;
        }
    }
    assert!(tried >= 4, "the test ran only {tried} examples");
}

#[test]
fn version_when_requested_then_names_the_version_of_the_crate_and_a_commit() {
    for flag in ["--version", "-V"] {
        let (code, out, err) = run(&[flag]);
        assert_eq!((code, err.as_str()), (0, ""));
        let commit = out.trim_end().strip_prefix(concat!("edgeshim ", env!("CARGO_PKG_VERSION"), " (commit "));
        let commit = commit.and_then(|rest| rest.strip_suffix(')')).unwrap_or_else(|| panic!("no commit in {out:?}"));
        let is_hash = commit.len() == 12 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(commit == "unknown" || is_hash, "{commit:?} is neither `unknown` nor 12 digits of a commit");
    }
}

#[test]
fn man_pages_when_written_then_describe_every_command_with_an_example() {
    let dir = temp_dir();
    let (code, out, err) = run_in(&dir, &["man", "--out", "new/pages"]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", ""));
    let page = |name: &str| {
        let path = dir.join("new/pages").join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    assert!(page("edgeshim.1").contains("edgeshim demo \\-\\-traffic"), "{}", page("edgeshim.1"));
    for name in COMMANDS {
        let text = page(&format!("edgeshim-{name}.1"));
        assert!(text.contains(".SH SYNOPSIS") && text.contains("Example"), "the page of {name}:\n{text}");
    }
    dir.write("file", "");
    let (code, out, err) = run_in(&dir, &["man", "--out", "file"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("cannot write the pages into file: "), "{err}");
}

#[test]
fn provider_list_when_printed_then_contains_every_preset_once() {
    let (code, out, err) = run(&["providers"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let first: Vec<_> = out.lines().filter_map(|line| line.split_ascii_whitespace().next()).collect();
    let mut blocks = String::new();
    let presets: Vec<_> = presets().into_iter().map(|preset| preset.name).collect();
    assert!(presets.len() >= 14, "{presets:?}");
    let mut built_in: Vec<_> = PRESET_NAMES.into();
    built_in.sort_unstable();
    assert_eq!(built_in, presets);
    for preset in &presets {
        assert_eq!(first.iter().filter(|name| **name == preset).count(), 1, "{preset}:\n{out}");
        let _ = writeln!(blocks, "[[provider]]\nname = \"my-{preset}\"\npreset = \"{preset}\"");
    }
    // Each listed name is a valid value of `preset` in a configuration.
    let dir = temp_dir();
    dir.write("edgeshim.toml", &blocks);
    let (code, out, _) = run_in(&dir, &["check"]);
    assert_eq!(code, 0, "{out}");
}

#[test]
fn provider_when_shown_then_every_fact_has_a_source_with_a_date() {
    let (code, out, err) = run(&["providers", "Fastly"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("signal      field Fastly-FF\n            https://www.fastly.com/"), "{out}");
    let facts: Vec<_> = out.split("\n\n").skip(1).collect();
    assert!(facts.len() > 10, "{out}");
    for fact in facts {
        let source = fact.lines().nth(1).unwrap_or_else(|| panic!("the fact has no source: {fact}"));
        assert!(source.contains(", 2026-") || source.ends_with(", 2026"), "the source has no date: {fact}");
    }
    let (code, out, err) = run(&["providers", "fasty"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("\"fasty\"") && err.contains("fastly, cloudflare"), "{err}");
}

#[test]
fn completions_when_written_then_contain_every_command_and_have_valid_syntax() {
    let dir = temp_dir();
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, err) = run(&["completions", shell]);
        assert_eq!((code, err.as_str()), (0, ""), "{shell}");
        for name in COMMANDS.into_iter().chain(["config", "traffic", "response-header"]) {
            assert!(out.contains(name), "the completions for {shell} do not contain {name}");
        }
        let file = dir.write(shell, &out);
        // If the shell is installed, the test runs the shell to check the syntax.
        let parsed = Command::new(shell).arg("-n").arg(file).stdin(Stdio::null()).output();
        if let Ok(output) = parsed {
            assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

// ---- explain --------------------------------------------------------------------------------------------------------

const CLASSES: &str = r#"
[[provider]]
name = "fastly"
[[class]]
name = "image"
path = ["*.gif", "*.png"]
cache = { mode = "override", ttl = "94670800s" }
gzip = false
[[class]]
name = "api"
path = ["/api/*"]
cache = { mode = "default", ttl = "2s", edge_ttl = "5s", stale_if_error = "1m" }
[[class]]
name = "secret"
path = ["/account/*"]
cache = { mode = "never" }
[[class]]
name = "html"
content_type = ["text/html"]
cache = { mode = "override", ttl = "10s", strip_cookies = true, vary = ["Accept-Encoding"] }
"#;

/// Returns the lines of `explain` that begin with the heading `what`, without the heading.
fn section<'a>(out: &'a str, what: &str) -> Vec<&'a str> {
    out.lines().filter_map(|line| line.strip_prefix(what)).filter(|rest| rest.starts_with(' ')).map(str::trim).collect()
}

/// Returns the header fields in the lines that begin with the heading `what`. Each header field has a reason.
fn fields_in_section<'a>(out: &'a str, what: &str) -> Vec<(&'a str, &'a str)> {
    let lines = section(out, what).into_iter();
    lines.map(|line| line.rsplit_once(" <- ").expect("a reason")).map(|(field, why)| (field.trim_end(), why)).collect()
}

#[test]
fn explain_when_run_then_reports_class_rule_guards_and_fields() {
    let dir = temp_dir();
    dir.write("edgeshim.toml", CLASSES);
    let explain = |arguments: &[&str]| {
        let mut all = vec!["explain"];
        all.extend_from_slice(arguments);
        let (code, out, err) = run_in(&dir, &all);
        assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}: {out}");
        out
    };
    let out = explain(&["--path", "/a/logo.PNG", "--provider", "Fastly"]);
    assert_eq!(section(&out, "request"), ["GET /a/logo.PNG"]);
    assert!(section(&out, "provider")[0].starts_with("fastly "), "{out}");
    assert!(section(&out, "class")[0].starts_with("image "), "{out}");
    assert!(section(&out, "rule")[0].starts_with("override") && section(&out, "rule")[0].contains("94670800"), "{out}");
    assert_eq!((section(&out, "guards"), section(&out, "caching")), (vec!["none"], vec!["overridden"]), "{out}");
    assert!(section(&out, "out").iter().any(|line| line.starts_with("cache-control: max-age=94670800")), "{out}");

    let out = explain(&["--path", "/a.png", "--response-header", "Set-Cookie: a=1"]);
    assert!(section(&out, "provider")[0].starts_with("none "), "{out}");
    assert_eq!(section(&out, "guards"), ["set_cookie"], "{out}");
    assert!(section(&out, "out").iter().any(|line| line.starts_with("cache-control: private")), "{out}");

    let out = explain(&["--path", "/x", "--provider", "bunny", "--response-header", "Cache-Control: max-age=60"]);
    assert!(section(&out, "provider")[0].starts_with("other "), "{out}");
    assert!(section(&out, "class")[0].starts_with("other "), "{out}");
    assert!(
        fields_in_section(&out, "out").contains(&("cache-control: max-age=60", "as sent")),
        "the origin's directive was changed: {out}"
    );

    let out = explain(&["--path", "/account/x", "--method", "POST"]);
    assert_eq!(section(&out, "request"), ["POST /account/x"]);
    assert!(section(&out, "out").iter().any(|line| line.starts_with("cache-control: no-store")), "{out}");

    let out = explain(&["--path", "/x", "--status", "503", "--response-header", "Content-Type: text/html"]);
    assert!(section(&out, "page")[0].contains("page"), "{out}");
    assert!(section(&out, "class")[0].starts_with("html "), "{out}");

    // The output has a section about the queue only if a limit is configured.
    assert!(section(&out, "admission").is_empty(), "{out}");
    let limited = "[origin]\nmax_in_flight = 16\nmax_waiting = 200\n\
        [[class]]\nname = \"health\"\npath = [\"/health\"]\nadmission = false\n";
    dir.write("limited.toml", limited);
    let out = explain(&["--config", "limited.toml", "--path", "/x"]);
    assert!(section(&out, "admission")[0].starts_with("at most 16 ") && out.contains("200 more in the queue"), "{out}");
    let out = explain(&["--config", "limited.toml", "--path", "/health"]);
    assert!(section(&out, "admission")[0].starts_with("exempt"), "{out}");

    // The file that `--config` names rejects unknown providers and has another identity header.
    let other = "[identity]\nheader = \"X-Pulled-By\"\nunknown = \"reject\"\n[[provider]]\nname = \"akamai\"\n";
    dir.write("other.toml", other);
    let out = explain(&["--config", "other.toml", "--path", "/x", "--provider", "fastly"]);
    assert!(section(&out, "answer")[0].starts_with("403"), "{out}");
    let out = explain(&["--config", "other.toml", "--path", "/x"]);
    assert!(section(&out, "answer")[0].starts_with("403"), "{out}");
    assert!(out.to_ascii_lowercase().contains("x-pulled-by"), "the output does not name the identity header: {out}");
    let out = explain(&["--config", "other.toml", "--path", "/x", "--provider", "akamai"]);
    assert!(section(&out, "answer").is_empty() && section(&out, "provider")[0].starts_with("akamai "), "{out}");
}

#[test]
fn explain_when_same_request_is_sent_to_a_shim_then_reports_the_fields_of_the_response() {
    let origin = Origin::start(|request, conn| {
        let status = request.field("x-status").unwrap_or("200");
        let sent: Vec<_> = request.fields_named("x-say").iter().map(|field| format!("{field}\r\n")).collect();
        let body = if status == "304" || request.method == "HEAD" { String::new() } else { "a".repeat(1000) };
        let head = format!("HTTP/1.1 {status} X\r\n{}\r\n{body}", sent.concat());
        if conn.write_all(head.as_bytes()).is_ok() { After::Keep } else { After::Close }
    });
    let shim = Shim::start(Shim::config(origin.addr).with(CLASSES));
    let dir = temp_dir();
    dir.write("edgeshim.toml", CLASSES);
    let length = "Content-Length: 1000";
    for (method, path, status, request_fields, response_fields) in [
        ("GET", "/a.png", "200", &[][..], &["Content-Type: image/png", "Cache-Control: private", "Expires: 0"][..]),
        ("GET", "/a.png", "404", &[], &["Content-Type: text/html"]),
        ("GET", "/api/x", "200", &["Accept-Encoding: gzip"], &["Content-Type: application/json", "ETag: \"a\""]),
        ("GET", "/api/x", "200", &["Authorization: Basic YTpi"], &["Content-Type: application/json"]),
        ("HEAD", "/api/x", "200", &["Accept-Encoding: gzip"], &["Content-Type: application/json", "ETag: \"a\""]),
        (
            "GET",
            "/x",
            "200",
            &["Accept-Encoding: gzip;q=0"],
            &["Content-Type: text/html", "Vary: Cookie", "Set-Cookie: a=1"],
        ),
        ("GET", "/x", "200", &["Accept-Encoding: gzip"], &["Content-Type: text/html", "Accept-Ranges: bytes"]),
        ("GET", "/x", "200", &[], &["Content-Type: text/plain", "Vary: *", "Cache-Control: max-age=9"]),
        (
            "GET",
            "/account/x",
            "200",
            &[],
            &["Cache-Control: public, max-age=60", "Pragma: x", "Surrogate-Control: max-age=1"],
        ),
        (
            "GET",
            "/x",
            "304",
            &["If-None-Match: W/\"a\"", "Accept-Encoding: gzip"],
            &["ETag: \"a\"", "Cache-Control: max-age=5"],
        ),
    ] {
        let mut arguments = vec!["explain", "--method", method, "--path", path, "--status", status];
        let mut fields = vec![("X-Status", status)];
        for field in request_fields {
            arguments.extend(["--request-header", field]);
            fields.push(field.split_once(": ").expect("a field"));
        }
        for field in response_fields.iter().copied().chain((status != "304").then_some(length)) {
            arguments.extend(["--response-header", field]);
            fields.push(("X-Say", field));
        }
        let (code, out, err) = run_in(&dir, &arguments);
        assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}");
        let mut explained: Vec<_> =
            fields_in_section(&out, "out").iter().map(|(field, _)| (*field).to_owned()).collect();
        explained.sort();
        let response = raw::exchange(shim.addr, raw::request(method, path, &fields, b""));
        let mut sent: Vec<_> =
            response.fields.iter().map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase())).collect();
        // `explain` does not report these fields, because they depend on the connection and the time. `explain` does
        // not compress bodies, so the length of a compressed body is not reported either.
        sent.retain(|line| !["date:", "connection:", "transfer-encoding:"].iter().any(|own| line.starts_with(own)));
        if sent.iter().any(|line| line == "content-encoding: gzip") {
            sent.retain(|line| !line.starts_with("content-length:"));
        }
        sent.sort();
        assert_eq!(explained, sent, "{arguments:?}\n{out}");
    }
}

// ---- demo -----------------------------------------------------------------------------------------------------------

/// A running demo. The process is killed when this value is dropped.
struct Demo {
    child: Child,
    out: Arc<Mutex<String>>,
    err: Arc<Mutex<String>>,
}

fn collect(stream: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let filled = Arc::clone(&text);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut text = filled.lock().unwrap_or_else(PoisonError::into_inner);
            text.push_str(&line);
            text.push('\n');
        }
    });
    text
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let mut command = binary();
        command.arg("demo").args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the edgeshim binary starts");
        let out = collect(child.stdout.take().expect("a pipe"));
        let err = collect(child.stderr.take().expect("a pipe"));
        Self { child, out, err }
    }

    fn out(&self) -> String {
        self.out.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn err(&self) -> String {
        self.err.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the address after `prefix` on stderr.
    fn address(&self, prefix: &str) -> SocketAddr {
        let mut found = None;
        wait_until(Duration::from_secs(20), || {
            let text = self.err();
            let after = text.lines().find_map(|line| line.split_once(prefix).map(|(_, rest)| rest.to_owned()));
            found = after.and_then(|rest| rest.trim().trim_start_matches("http://").trim_end_matches('/').parse().ok());
            found.is_some()
        });
        found.unwrap_or_else(|| panic!("stderr has no address after {prefix:?}:\n{}", self.err()))
    }

    /// Sends SIGTERM and returns the exit code.
    fn end(&mut self) -> Option<i32> {
        let kill = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", self.child.id())).status();
        assert!(kill.is_ok_and(|status| status.success()));
        let mut status = None;
        wait_until(Duration::from_secs(20), || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        });
        status.unwrap_or_else(|| panic!("the demo did not exit after SIGTERM:\n{}", self.err())).code()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn demo_when_traffic_is_on_then_counts_pulls_of_every_cdn_and_exits_on_sigterm() {
    let mut demo = Demo::start(&["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--traffic", "--incident"]);
    let (site, admin) = (demo.address("listening on "), demo.address("admin on "));
    let announced = || demo.out().contains("The site will fail from second 30 to second 60.");
    assert!(wait_until(Duration::from_secs(10), announced), "no hints:\n{}", demo.out());
    assert!(demo.out().contains("Ctrl-C"), "{}", demo.out());

    // Each printed curl command has the real ports of the demo, and its request gets the expected status.
    let hints = demo.out();
    let line = regex::Regex::new(r"curl .*?'?http://([^/\s']+)(/[^\s']*)'?(.*)").expect("a pattern");
    let field = regex::Regex::new("-H '([^:']+): ([^']+)'").expect("a pattern");
    let mut tried = 0;
    for hint in line.captures_iter(&hints) {
        let addr: SocketAddr = hint[1].parse().unwrap_or_else(|_| panic!("{:?} is not an address", &hint[1]));
        assert!(addr == site || addr == admin, "the address in {} is neither {site} nor {admin}", &hint[0]);
        let pairs: Vec<_> =
            field.captures_iter(&hint[3]).map(|pair| (pair[1].to_owned(), pair[2].to_owned())).collect();
        let fields: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let response = raw::fetch(addr, &hint[2], &fields);
        let wanted = if hint[2].contains("status=503") { 503 } else { 200 };
        assert_eq!(response.status, wanted, "{}", &hint[0]);
        if wanted == 503 {
            assert_eq!(response.field("content-language"), Some("fr"), "{}", &hint[0]);
        }
        tried += 1;
    }
    assert!(tried >= 4, "the demo prints only {tried} curl commands:\n{hints}");
    assert!(hints.contains(&site.to_string()) && hints.contains(&admin.to_string()), "{hints}");

    let mut last = Metrics::default();
    let mut first = None;
    let moving = wait_until(Duration::from_secs(10), || {
        last = Metrics::parse(&raw::fetch(admin, "/metrics", &[]).text());
        let pulls =
            ["fastly", "cloudflare", "akamai"].map(|cdn| last.sum("edgeshim_pulls_total", &[("provider", cdn)]));
        let first = first.get_or_insert(pulls);
        pulls.iter().zip(first.iter()).all(|(now, then)| now > then)
    });
    assert!(moving, "the pulls of a CDN do not increase; the last metrics:\n{}", last.text);

    // The CDNs push their logs, so that all figures of the edge are known.
    let known = wait_until(Duration::from_secs(10), || {
        last = Metrics::parse(&raw::fetch(admin, "/metrics", &[]).text());
        ["fastly", "cloudflare", "akamai"].iter().all(|cdn| {
            let has = |name| last.matching(name, &[("provider", cdn)]).count() > 0;
            has("edgeshim_offload_ratio")
                && has("edgeshim_edge_log_lag_seconds")
                && last.sum("edgeshim_edge_requests_total", &[("provider", cdn)]) > 0.0
        })
    });
    assert!(known, "a CDN pushes no log; the last scrape:\n{}", last.text);
    assert!(last.sum("edgeshim_edge_log_batches_total", &[("result", "token")]) < 1.0, "{}", last.text);
    assert!(!demo.err().contains("panicked"), "{}", demo.err());
    assert_eq!(demo.end(), Some(0), "{}", demo.err());
}

#[test]
fn demo_when_traffic_is_off_then_counts_only_pulls_of_clients_and_exits_on_sigterm() {
    let mut demo = Demo::start(&["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let (site, admin) = (demo.address("listening on "), demo.address("admin on "));
    let pulls =
        || Metrics::parse(&raw::fetch(admin, "/metrics", &[]).text()).sum("edgeshim_pulls_total", &[]).to_string();
    assert_eq!(pulls(), "0");
    let response = raw::fetch(site, "/", &[("X-CDN-Provider", "fastly"), ("Accept-Encoding", "gzip")]);
    assert_eq!((response.status, response.field("content-encoding")), (200, Some("gzip")));
    assert!(wait_until(Duration::from_secs(5), || pulls() == "1"), "{}", pulls());
    assert_eq!(demo.end(), Some(0), "{}", demo.err());
}

#[test]
fn demo_when_address_is_taken_or_not_on_loopback_then_exits_with_2_and_reports_why() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = holder.local_addr().expect("the address of the listener").to_string();
    for (listen, admin, part) in [
        (taken.as_str(), "127.0.0.1:0", taken.as_str()),
        ("127.0.0.1:0", taken.as_str(), taken.as_str()),
        ("0.0.0.0:0", "127.0.0.1:0", "127.0.0.1"),
    ] {
        let mut demo = Demo::start(&["--listen", listen, "--admin", admin]);
        let mut status = None;
        wait_until(Duration::from_secs(20), || {
            status = demo.child.try_wait().ok().flatten();
            status.is_some()
        });
        let code =
            status.unwrap_or_else(|| panic!("the demo did not exit with --listen {listen} --admin {admin}")).code();
        assert!(wait_until(Duration::from_secs(5), || demo.err().contains(part)), "{}", demo.err());
        assert_eq!(code, Some(2), "{}", demo.err());
    }
}
