//! The blocks of the file, one function each: which keys it has, of which kind, within which bounds, and what cannot
//! stand together.

use std::sync::Arc;
use std::time::Duration;

use super::classes;
use super::file::{Checked, Read, Section};
use super::later;
use super::net::{self, Claimed};
use super::providers;
use super::scalar::{duration, seconds, secret, size, size_text, timeout};
use super::settings::{Admin, Beacon, Gzip, Identity, Listen, OnDoubt, Origin, Rum, Server, Settings, Whoopsie};
use super::statuses::StatusSet;
use super::words::{has_meaning, header_name, label, locale, media_type, one_of, quote};
use crate::access_log::{AccessLogSettings, LogFormat, LogOutput};
use crate::intake::country::Countries;
use crate::pages::{PageFiles, PageFilesError};

/// The longest site name, in bytes; it stands in a heading.
const MAX_SITE_NAME_BYTES: usize = 200;
/// The most providers, classes or pages; each costs metric series and a look per request.
const MAX_BLOCKS: usize = 500;
const TEN_MILLION: i64 = 10_000_000;

/// Reads the whole file.
pub(super) fn settings(mut root: Section<'_>) -> Settings {
    let mut claimed = Claimed::default();
    let beacon = beacon(root.block("beacon"));
    let identity = identity(root.block("identity"));
    let server = server(root.block("server"), &mut claimed);
    let trusts_everybody = server.trusted_proxies.iter().any(|network| network.prefix_len() == 0);
    let settings = Settings {
        server,
        admin: admin(root.block("admin"), &mut claimed),
        origin: origin(root.block("origin")),
        providers: providers::providers(bounded(&mut root, "provider"), &identity.header, trusts_everybody),
        identity,
        classes: classes::classes(bounded(&mut root, "class")),
        gzip: gzip(root.block("gzip")),
        whoopsie: whoopsie(root.block("whoopsie")),
        rum: rum(root.block("rum"), &beacon),
        beacon,
        access_log: access_log(root.block("access_log")),
    };
    later::intake(&mut root);
    root.finish();
    settings
}

fn bounded<'f>(root: &mut Section<'f>, name: &'static str) -> Vec<Section<'f>> {
    let mut blocks = root.blocks(name);
    if blocks.len() > MAX_BLOCKS {
        root.reject(name, format!("stands there {} times; write at most {MAX_BLOCKS} blocks", blocks.len()));
        blocks.truncate(MAX_BLOCKS);
    }
    blocks
}

fn server(mut block: Section<'_>, claimed: &mut Claimed) -> Server {
    let default = Server::default();
    let folder = block.folder();
    let listen = block.read_list("listen", "\"127.0.0.1:8080\"", |text| {
        let listen = net::listen(text, folder)?;
        claimed.claim(&listen)?;
        Ok(listen)
    });
    let listen = match listen {
        Read::Good(listen) if listen.is_empty() => {
            block.reject("listen", "listens nowhere; write at least one address, for example [\"127.0.0.1:8080\"]");
            listen
        }
        Read::Absent => {
            // The defaults are taken too, so that the admin page cannot claim them; they come first and so cannot
            // fail.
            for listen in &default.listen {
                _ = claimed.claim(listen);
            }
            default.listen
        }
        other => other.or(default.listen),
    };
    let server = Server {
        listen,
        workers: block.integer("workers", 0..=512, default.workers),
        hosts: block.list("hosts", "\"www.example.com\"", default.hosts, net::host),
        trusted_proxies: block.list("trusted_proxies", "\"10.0.0.0/8\"", default.trusted_proxies, net::network),
        proxy_protocol: block.flag("proxy_protocol", default.proxy_protocol),
        max_connections: block.integer("max_connections", 1..=TEN_MILLION, default.max_connections),
        max_header_bytes: block.text("max_header_bytes", "\"64KiB\"", default.max_header_bytes, header_size),
        max_headers: block.integer("max_headers", 1..=1_000, default.max_headers),
        max_request_body: block.text("max_request_body", "\"0\"", default.max_request_body, |text| {
            size(text).map(|bytes| (bytes > 0).then_some(bytes))
        }),
        header_timeout: block.text("header_timeout", "\"10s\"", default.header_timeout, timeout),
        body_timeout: block.text("body_timeout", "\"60s\"", default.body_timeout, timeout),
        idle_timeout: block.text("idle_timeout", "\"75s\"", default.idle_timeout, timeout),
        drain_delay: block.text("drain_delay", "\"0s\"", default.drain_delay, duration),
        drain_timeout: block.text("drain_timeout", "\"30s\"", default.drain_timeout, timeout),
        max_hops: block.integer("max_hops", 1..=100, default.max_hops),
        tunnel_timeout: block.text("tunnel_timeout", "\"1h\"", default.tunnel_timeout, timeout),
    };
    later::server(&mut block);
    block.finish();
    server
}

fn header_size(text: &str) -> Checked<usize> {
    const BOUNDS: std::ops::RangeInclusive<u64> = 4 * 1024..=1024 * 1024;
    let bytes = size(text)?;
    usize::try_from(bytes).ok().filter(|_| BOUNDS.contains(&bytes)).ok_or_else(|| {
        let (low, high) = (size_text(*BOUNDS.start()), size_text(*BOUNDS.end()));
        format!("is out of range; write a size from \"{low}\" to \"{high}\"")
    })
}

fn admin(mut block: Section<'_>, claimed: &mut Claimed) -> Admin {
    let default = Admin::default();
    let folder = block.folder();
    let listen = block.read("listen", "\"127.0.0.1:9900\"", |text| {
        let listen = net::listen(text, folder)?;
        claimed.claim(&listen)?;
        Ok(listen)
    });
    if let Read::Absent = listen
        && let Err(said) = claimed.claim(&default.listen)
    {
        block.missing(
            "listen",
            format!("is missing, so that it is {}, which {said}", quote(&default.listen.to_string())),
        );
    }
    let token = block.read("token", "\"env:ADMIN_TOKEN\"", |text| secret(text, folder));
    if let (Read::Good(Listen::Tcp(address)), Read::Absent | Read::Good(None)) = (&listen, &token)
        && !address.ip().to_canonical().is_loopback()
    {
        let message = "is open to the network without a token; write token = \"env:ADMIN_TOKEN\" beside it, \
                       or listen on 127.0.0.1";
        block.reject("listen", message);
    }
    block.finish();
    Admin { listen: listen.or(default.listen), token: token.or(None) }
}

fn origin(mut block: Section<'_>) -> Origin {
    let default = Origin::default();
    let folder = block.folder();
    let max_in_flight = block.read_integer("max_in_flight", 0..=TEN_MILLION);
    let max_waiting = block.integer("max_waiting", 0..=TEN_MILLION, default.max_waiting);
    if max_waiting > 0 && matches!(max_in_flight, Read::Absent | Read::Good(0)) {
        let message = "has requests wait for a place where there is no end of places; \
                       write max_in_flight = 100 beside it, as many as the origin bears at once, or max_waiting = 0";
        block.reject("max_waiting", message);
    }
    let origin = Origin {
        target: block.text("url", "\"http://127.0.0.1:3000\"", default.target, |text| {
            later::origin_url(text)?;
            net::target(text, folder)
        }),
        http2: block.flag("http2", default.http2),
        connect_timeout: block.text("connect_timeout", "\"2s\"", default.connect_timeout, timeout),
        response_timeout: block.text("response_timeout", "\"30s\"", default.response_timeout, timeout),
        idle_timeout: block.text("idle_timeout", "\"30s\"", default.idle_timeout, timeout),
        max_idle: block.integer("max_idle", 0..=1_000_000, default.max_idle),
        retries: block.integer("retries", 0..=10, default.retries),
        max_in_flight: max_in_flight.or(default.max_in_flight),
        max_waiting,
        host: block.text("host", "\"www.example.com\"", default.host, |text| {
            if text.is_empty() { Ok(None) } else { net::host(text).map(Some) }
        }),
        preserve_header_case: block.flag("preserve_header_case", default.preserve_header_case),
    };
    later::origin(&mut block);
    block.finish();
    origin
}

fn identity(mut block: Section<'_>) -> Identity {
    const WORDS: [(&str, OnDoubt); 2] = [("count", OnDoubt::Count), ("reject", OnDoubt::Reject)];
    let default = Identity::default();
    let identity = Identity {
        header: block.text("header", "\"X-CDN-Provider\"", default.header, |text| {
            let name = header_name(text)?;
            // A provider's name in one of these would break the message or be dropped with it.
            if has_meaning(&name) {
                return Err("is a field with a meaning of its own; write one that only the CDNs set, \
                     for example \"X-CDN-Provider\""
                    .to_owned());
            }
            Ok(name)
        }),
        recognise: block.flag("recognise", default.recognise),
        unknown: block.text("unknown", "\"count\"", default.unknown, |text| one_of(text, &WORDS)),
        unverified: block.text("unverified", "\"count\"", default.unverified, |text| one_of(text, &WORDS)),
    };
    block.finish();
    identity
}

fn gzip(mut block: Section<'_>) -> Gzip {
    let default = Gzip::default();
    let gzip = Gzip {
        enabled: block.flag("enabled", default.enabled),
        level: block.integer("level", 1..=9, default.level),
        min_bytes: block.integer("min_bytes", 0..=1024 * 1024 * 1024, default.min_bytes),
        twins_bytes: block.text("twins", "\"64MiB\"", default.twins_bytes, size),
        inflate: block.flag("inflate", default.inflate),
        types: block.list("types", "\"text/*\"", default.types, media_type),
    };
    block.finish();
    gzip
}

fn whoopsie(mut block: Section<'_>) -> Whoopsie {
    let default = Whoopsie::default();
    let statuses = block.read_list("statuses", "\"5xx\"", |text| {
        let mut set = StatusSet::default();
        set.add(text).map(|()| set)
    });
    let pages = own_pages(&mut block).map(Arc::new);
    let whoopsie = Whoopsie {
        statuses: match statuses {
            Read::Good(sets) => sets.into_iter().fold(StatusSet::default(), StatusSet::union),
            Read::Absent | Read::Bad => default.statuses,
        },
        pages: pages.clone().unwrap_or_default(),
        default_locale: block
            .text("default_locale", "\"en\"", default.default_locale, |text| known_locale(text, pages.as_deref())),
        hosts: block
            .map("hosts", "\"www.example.de\" = \"de\"", net::host, |text| known_locale(text, pages.as_deref())),
        site_name: block.text("site_name", "\"This site\"", default.site_name, |text| {
            if text.trim().is_empty() || text.len() > MAX_SITE_NAME_BYTES || text.contains(char::is_control) {
                return Err(format!(
                    "is no name for a heading; write 1 to {MAX_SITE_NAME_BYTES} bytes of visible text, \
                     for example \"This site\""
                ));
            }
            Ok(text.to_owned())
        }),
        status_url: block.text("status_url", "\"https://status.example.com/\"", default.status_url, net::link),
        support_url: block.text("support_url", "\"https://www.example.com/help\"", default.support_url, net::link),
        beacon_base: block.text("beacon_base", "\"//beacon.example.com\"", default.beacon_base, net::link_base),
        retry_after: block.text("retry_after", "\"30s\"", default.retry_after, |text| {
            timeout(text)?;
            seconds(text).map(Duration::from_secs)
        }),
    };
    block.finish();
    whoopsie
}

/// The folder of pages, read, with all that is wrong in it; none where it cannot be used.
fn own_pages(block: &mut Section<'_>) -> Option<PageFiles> {
    let folder = block.folder();
    let mut problems = Vec::new();
    let pages = block.read("pages", "\"pages\"", |text| {
        if text.is_empty() {
            return Ok(Some(PageFiles::default()));
        }
        match PageFiles::read(&folder.join(text)) {
            Ok(pages) => Ok(Some(pages)),
            Err(PageFilesError::Folder(message)) => Err(message),
            Err(PageFilesError::Files(found)) => {
                problems = found;
                Ok(None)
            }
        }
    });
    for problem in problems {
        block.reject_file(problem.file, problem.line, problem.message);
    }
    match pages {
        Read::Absent => Some(PageFiles::default()),
        Read::Bad => None,
        Read::Good(pages) => pages,
    }
}

/// A language that there are pages in; the pages would refuse another too, but only after everything else is right. Where the pages
/// cannot be read, any.
fn known_locale(text: &str, pages: Option<&PageFiles>) -> Checked<String> {
    let tag = locale(text)?;
    let Some(pages) = pages else { return Ok(tag) };
    if pages.tags().any(|known| known.eq_ignore_ascii_case(&tag)) {
        return Ok(tag);
    }
    let all = pages.tags().map(quote).collect::<Vec<_>>().join(", ");
    Err(format!("is no language that there are pages in; write one of {all}"))
}

fn beacon(mut block: Section<'_>) -> Beacon {
    let default = Beacon::default();
    let example = default.path.clone();
    let folder = block.folder();
    let beacon = Beacon {
        path: block.text("path", &quote(&example), default.path, |text| net::local_path(text, &example)),
        sources: block
            .list("sources", "\"my-other-page\"", default.sources, |text| label(text, &["other"], "\"my-other-page\"")),
        country_database: block.text("country_database", "\"GeoLite2-Country.mmdb\"", None, |text| {
            if text.is_empty() {
                return Ok(None);
            }
            let path = folder.join(text);
            // Read here and again when the runtime is built, so that its problems stand among the others.
            Countries::open(&path).map(|_| Some(path)).map_err(|error| error.to_string())
        }),
    };
    block.finish();
    beacon
}

fn rum(mut block: Section<'_>, beacon: &Beacon) -> Rum {
    const EXAMPLE: &str = "/status/rum";
    let default = Rum::default();
    let rum = Rum {
        path: block.text("path", "\"/status/rum\"", default.path, |text| {
            if text.is_empty() {
                return Ok(None);
            }
            let path = net::local_path(text, EXAMPLE)?;
            if path == beacon.path {
                return Err(format!("is the beacon's own path; write another, for example {}", quote(EXAMPLE)));
            }
            Ok(Some(path))
        }),
        pages: block.list("pages", "\"home\"", default.pages, |text| label(text, &["other"], "\"home\"")),
    };
    if rum.pages.len() > MAX_BLOCKS {
        block.reject("pages", format!("has too many entries; write at most {MAX_BLOCKS}, of your key pages"));
    }
    block.finish();
    rum
}

fn access_log(mut block: Section<'_>) -> AccessLogSettings {
    let default = AccessLogSettings::default();
    let folder = block.folder();
    let access_log = AccessLogSettings {
        output: block.text("output", "\"stdout\"", default.output, |text| match text {
            "off" => Ok(LogOutput::Off),
            "stdout" => Ok(LogOutput::Stdout),
            _ => match text.strip_prefix("file:") {
                Some(path) if !path.is_empty() && !path.ends_with('/') && !path.contains(char::is_control) => {
                    Ok(LogOutput::File(folder.join(path)))
                }
                _ => Err(
                    "is no place for a log; write \"off\", \"stdout\" or file:PATH, for example \"file:access.log\""
                        .to_owned(),
                ),
            },
        }),
        format: block.text("format", "\"json\"", default.format, |text| {
            one_of(text, &[("json", LogFormat::Json), ("combined", LogFormat::Combined), ("etsy", LogFormat::Etsy)])
        }),
    };
    block.finish();
    access_log
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::parse;

    #[test]
    fn identity_field_is_none_with_a_meaning() {
        for taken in ["X-Akamai-G2O-Auth-Data", "X-Akamai-G2O-Auth-Sign", "If-Match", "Cookie"] {
            let text = format!("[identity]\nheader = \"{taken}\"\n");
            let told = parse(&text, "e.toml", Path::new(".")).expect_err(taken).to_string();
            assert!(told.lines().count() == 1 && told.contains("write one that only the CDNs set"), "{taken}: {told}");
        }
    }
}
