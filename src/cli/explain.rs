//! `edgeshim explain`: what becomes of one request and its answer, and why, by the same functions that serve.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, request};

use super::{ConfigArgument, USAGE, load};
use crate::cdn::dialect::Dialect;
use crate::config::{OnDoubt, Origin, Settings};
use crate::edge::cache_control::policy::{Facts, Prepared};
use crate::edge::gzip::policy::{Asked, Verdict, apply, decide};
use crate::edge::request::class::{CacheMode, CachePolicy, Classes};
use crate::ids::{ClassId, ProviderId};
use crate::runtime::gzip_settings;
use crate::wire::names::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};

#[derive(Debug, clap::Args)]
pub(super) struct ExplainArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The request's method.
    #[arg(long, default_value = "GET")]
    method: Method,
    /// The request's path.
    #[arg(long)]
    path: String,
    /// The X-CDN-Provider header's value; left out: the header is missing.
    #[arg(long)]
    provider: Option<String>,
    /// A further field of the request, `Name: value`; may be given again.
    #[arg(long, value_name = "FIELD", value_parser = field)]
    request_header: Vec<(HeaderName, HeaderValue)>,
    /// The origin's status.
    #[arg(long, default_value = "200")]
    status: StatusCode,
    /// A field of the origin's answer, `Name: value`; may be given again.
    #[arg(long, value_name = "FIELD", value_parser = field)]
    response_header: Vec<(HeaderName, HeaderValue)>,
}

fn field(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write it as 'Name: value'")?;
    let name =
        HeaderName::try_from(name.trim()).map_err(|_| "the name is no header name; write it as 'Name: value'")?;
    let value = HeaderValue::try_from(value.trim()).map_err(|_| "the value cannot stand in a header")?;
    Ok((name, value))
}

pub(super) fn explain(arguments: &ExplainArguments) -> ExitCode {
    let settings = match load(arguments.config.file().as_deref()) {
        Ok(settings) => settings,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(USAGE);
        }
    };
    match lines(arguments, &settings) {
        Ok(lines) => {
            for (what, text) in lines {
                println!("{what:<10}{text}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("edgeshim explain: {error}");
            ExitCode::from(USAGE)
        }
    }
}

type Lines = Vec<(&'static str, String)>;

fn lines(arguments: &ExplainArguments, settings: &Settings) -> Result<Lines, Box<dyn std::error::Error>> {
    let path = Some(arguments.path.as_str()).filter(|path| path.starts_with('/') || *path == "*");
    let uri = path.and_then(|path| path.parse::<http::Uri>().ok());
    let uri = uri.ok_or("--path: write a path such as /images/logo.png")?;
    let mut request = http::Request::builder().method(&arguments.method).uri(uri);
    for (name, value) in &arguments.request_header {
        request = request.header(name, value);
    }
    let (request, ()) = request.body(())?.into_parts();
    let mut response = http::Response::builder().status(arguments.status);
    for (name, value) in &arguments.response_header {
        response = response.header(name, value);
    }
    let (mut response, ()) = response.body(())?.into_parts();

    let mut lines: Lines = vec![("request", format!("{} {}", arguments.method, arguments.path))];
    let (provider, refused) = provider(arguments, settings);
    lines.push(("provider", provider));
    if refused {
        lines.push(("answer", "403: identity.unknown is \"reject\"".to_owned()));
        return Ok(lines);
    }
    let classes = Classes::new(settings.classes.clone())?;
    let class = class(&classes, &request, &response.headers, &mut lines);
    let rule = classes.rule(class);
    lines.push(("rule", describe(&rule.cache)));
    if settings.origin.max_in_flight > 0 {
        // The answer's type is not known yet when a request comes to the line.
        let admission = classes.rule(classes.of_request(request.uri.path())).admission;
        lines.push(("admission", self::admission(&settings.origin, admission)));
    }
    let origin = response.headers.clone();
    let facts = Facts {
        method: &arguments.method,
        authorization: request.headers.contains_key(AUTHORIZATION),
        fault: false,
        now: SystemTime::now,
    };
    let outcome = Prepared::new(&rule.cache, Dialect::Generic).apply(&mut response.headers, response.status, &facts);
    let guards: Vec<_> = outcome.guards.iter().map(super::super::edge::cache_control::policy::Guard::as_str).collect();
    lines.push(("guards", if guards.is_empty() { "none".to_owned() } else { guards.join(", ") }));
    let action = outcome.action.map_or("nothing to change", |action| action.as_str());
    lines.push(("caching", action.to_owned()));
    lines.push(("gzip", gzip(settings, rule.gzip, &request, &mut response)));
    if settings.whoopsie.statuses.contains(arguments.status.as_u16()) {
        lines.push(("page", "the whoopsie page takes this answer's place; its fields are the page's own".to_owned()));
    }
    fields(&origin, &response.headers, &mut lines);
    Ok(lines)
}

fn provider(arguments: &ExplainArguments, settings: &Settings) -> (String, bool) {
    let reject = settings.identity.unknown == OnDoubt::Reject;
    let Some(name) = &arguments.provider else {
        return (format!("{} (no {} header)", ProviderId::RESERVED[0], settings.identity.header), reject);
    };
    match settings.providers.iter().find(|known| known.name.eq_ignore_ascii_case(name)) {
        Some(known) => (format!("{} (configured, believed by name)", known.name), false),
        None => (format!("{} (no [[provider]] is named {name:?})", ProviderId::RESERVED[1]), reject),
    }
}

fn class(classes: &Classes, request: &request::Parts, headers: &HeaderMap, lines: &mut Lines) -> ClassId {
    let path = request.uri.path();
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let class = if classes.ask_for_type() { classes.of_answer(path, content_type) } else { classes.of_request(path) };
    let rule = classes.rule(class);
    let why = match (class, rule.path.is_empty(), rule.content_type.is_empty()) {
        (ClassId::OTHER, ..) => "no [[class]] matches",
        (_, false, true) => "the first whose path matches",
        (_, true, _) => "the first whose content_type matches",
        (_, false, false) => "the first whose path and content_type match",
    };
    lines.push(("class", format!("{} ({why})", rule.name)));
    class
}

fn describe(cache: &CachePolicy) -> String {
    let mut text = match cache.mode {
        CacheMode::Keep => "keep: the origin's words, tidied".to_owned(),
        CacheMode::Default => "default: a lifetime where the origin gave none".to_owned(),
        CacheMode::Override => "override: a lifetime whatever the origin said".to_owned(),
        CacheMode::Never => "never: no-store".to_owned(),
    };
    for (name, seconds) in [
        ("ttl", cache.ttl),
        ("edge_ttl", cache.edge_ttl),
        ("stale_while_revalidate", cache.stale_while_revalidate),
        ("stale_if_error", cache.stale_if_error),
    ] {
        if let Some(seconds) = seconds {
            let _ = write!(text, ", {name} {seconds} s");
        }
    }
    text
}

fn admission(origin: &Origin, holds: bool) -> String {
    if !holds {
        return "exempt: it neither counts nor waits (class.admission)".to_owned();
    }
    let Origin { max_in_flight, max_waiting, .. } = origin;
    format!("at most {max_in_flight} at the origin at once, {max_waiting} more in line, then 503")
}

fn gzip(
    settings: &Settings,
    class_allows: bool,
    request: &request::Parts,
    response: &mut http::response::Parts,
) -> String {
    if !settings.gzip.enabled {
        return "off (gzip.enabled)".to_owned();
    }
    if !class_allows {
        return "off for this class".to_owned();
    }
    let gzip = gzip_settings(settings);
    let length = response.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let verdict = decide(&gzip, Asked::of(&gzip, request), response, length);
    apply(verdict, response);
    match verdict {
        Verdict::Leave(why) => format!("left alone: {}", why.explanation()),
        Verdict::Vary(why) => {
            format!("left alone: {}; Vary says that another request may get another coding", why.explanation())
        }
        Verdict::NotModified { weak: true } => "a 304 for what went out compressed".to_owned(),
        Verdict::NotModified { weak: false } => "a 304; Vary as the 200 would have it".to_owned(),
        Verdict::Compress => "compressed".to_owned(),
        Verdict::Inflate => "the origin's gzip is undone".to_owned(),
    }
}

/// The fields that go out, and what became of the origin's.
fn fields(origin: &HeaderMap, sent: &HeaderMap, lines: &mut Lines) {
    for name in sent.keys() {
        for value in sent.get_all(name) {
            let same = origin.get_all(name).iter().any(|old| old == value);
            let mark = if same { "" } else { "   <- ours" };
            lines.push(("out", format!("{name}: {}{mark}", value.to_str().unwrap_or("(not text)"))));
        }
    }
    for name in origin.keys().filter(|name| !sent.contains_key(*name)) {
        lines.push(("dropped", name.to_string()));
    }
}
