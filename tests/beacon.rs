//! Tests of the country of a beacon. They check which client address decides the country, when the country file is read
//! again, what happens if the file is invalid, and how the log shows values from browsers.
//! `tests/ledger.rs` checks the sources of beacons, and beacons while the origin is unreachable.

mod support;

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use edgeshim::internals::{Countries, Country, CountryError};
use proptest::prelude::*;
use support::origin::ClosedPort;
use support::raw::fetch;
use support::shim::{Config, run};
use support::{Metrics, Shim, TempDir, mmdb, temp_dir};

const GIF: &str = "/status/images/beacon.gif";
const NETWORKS: [(&str, &str); 5] = [
    ("192.0.2.0/24", "DE"),
    ("198.51.100.0/24", "US"),
    ("198.51.100.128/25", "CA"),
    ("2001:db8::/32", "JP"),
    ("203.0.113.0/24", "ZZ"),
];

/// Makes a configuration that trusts this test as a proxy and reads the country file `geo.mmdb`.
fn config() -> Config {
    Shim::config(ClosedPort::new().addr).with(
        "[server]\ntrusted_proxies = [\"127.0.0.1/32\"]\n[beacon]\ncountry_database = \"geo.mmdb\"\n\
         [[provider]]\nname = \"fastly\"\n[[provider]]\nname = \"akamai\"",
    )
}

fn folder(file: impl AsRef<[u8]>) -> TempDir {
    let folder = temp_dir();
    folder.write("geo.mmdb", file);
    folder
}

fn send(shim: &Shim, source: &str, client: &str) {
    let response = fetch(shim.addr, &format!("{GIF}?source={source}"), &[("X-Forwarded-For", client)]);
    assert_eq!((response.status, response.field("cache-control")), (200, Some("no-store")));
}

fn beacons(metrics: &Metrics, source: &str, country: &str) -> f64 {
    metrics.sum("edgeshim_beacons_total", &[("source", source), ("country", country)])
}

/// Replaces the country file: writes a new file and renames it, as download tools do.
fn replace(shim: &Shim, file: &[u8]) {
    let new = shim.dir.write("geo.new", file);
    fs::rename(new, shim.dir.join("geo.mmdb")).expect("a renamed file");
}

#[test]
fn beacons_when_country_file_is_configured_then_counted_by_country_of_the_client() {
    let shim = Shim::start_in(folder(mmdb::countries(&NETWORKS)), config());
    let start = shim.metrics();
    for source in ["fastly", "akamai", "other"] {
        assert!(start.has("edgeshim_beacons_total", &[("source", source), ("country", "other")]), "{}", start.text);
    }
    for (source, client, country) in [
        ("fastly", "192.0.2.7", "DE"),
        ("fastly", "198.51.100.127", "US"),
        ("fastly", "198.51.100.128", "CA"),
        ("akamai", "2001:db8::1", "JP"),
        ("akamai", "[2001:db8:ffff::1]:443", "JP"),
        ("akamai", "::ffff:192.0.2.9", "DE"),
        // Only the last address is trusted, because the trusted proxy has added it.
        ("akamai", "192.0.2.7, 198.51.100.1", "US"),
        // The label is `other` for a code that is not in ISO 3166, for an address that is not in the file, and for a
        // field value that is not an address.
        ("fastly", "203.0.113.9", "other"),
        ("fastly", "10.0.0.1", "other"),
        ("fastly", "2001:db9::1", "other"),
        ("fastly", "unknown", "other"),
        ("unheard-of", "192.0.2.7", "DE"),
    ] {
        let counted = if source == "unheard-of" { "other" } else { source };
        let before = beacons(&shim.metrics(), counted, country);
        send(&shim, source, client);
        let metrics = shim.metrics();
        assert!(
            (beacons(&metrics, counted, country) - before - 1.0).abs() < 0.1,
            "{source} {client}: {}",
            metrics.text
        );
    }
    let metrics = shim.metrics();
    assert!((metrics.sum("edgeshim_beacons_total", &[]) - 12.0).abs() < 0.1, "{}", metrics.text);
    assert!(!metrics.text.contains("ZZ"), "{}", metrics.text);
}

#[test]
fn country_when_peer_is_not_a_trusted_proxy_then_is_the_country_of_the_peer() {
    let networks = [("127.0.0.0/8", "FR"), ("192.0.2.0/24", "DE")];
    let untrusted = config().with("[server]\ntrusted_proxies = []");
    let shim = Shim::start_in(folder(mmdb::countries(&networks)), untrusted);
    send(&shim, "fastly", "192.0.2.7");
    assert!((beacons(&shim.metrics(), "fastly", "FR") - 1.0).abs() < 0.1);
}

#[test]
fn country_file_when_replaced_then_new_file_is_used_if_valid() {
    let shim = Shim::start_in(folder(mmdb::countries(&[("192.0.2.0/24", "DE")])), config());
    let from = |country: &'static str| {
        let mut sent = 0;
        let metrics = shim.wait_metrics(|metrics| {
            if beacons(metrics, "fastly", country) > 0.0 {
                return true;
            }
            sent += 1;
            send(&shim, "fastly", "192.0.2.7");
            false
        });
        assert!(sent > 0 && metrics.has("edgeshim_beacons_total", &[("country", country)]));
    };
    from("DE");
    replace(&shim, &mmdb::countries(&[("192.0.2.0/24", "AT")]));
    from("AT");
    let good = mmdb::countries(&[("192.0.2.0/24", "CH")]);
    for (broken, message) in [
        (&good[..good.len() / 2], "is not in the MaxMind format"),
        (b"", "is not in the MaxMind format"),
        (&mmdb::systems(&["192.0.2.0/24"]), "has no countries"),
    ] {
        let before = beacons(&shim.metrics(), "fastly", "AT");
        replace(&shim, broken);
        shim.wait_stderr(message);
        send(&shim, "fastly", "192.0.2.7");
        assert!((beacons(&shim.metrics(), "fastly", "AT") - before - 1.0).abs() < 0.1, "{message}");
    }
    fs::remove_file(shim.dir.join("geo.mmdb")).expect("a country file");
    shim.wait_stderr("cannot be read");
    replace(&shim, &good);
    from("CH");
    assert!(shim.stderr().contains("the previous file stays in use"), "{}", shim.stderr());
}

#[test]
fn country_file_when_only_its_ctime_shows_the_change_then_read_again() {
    let shim = Shim::start_in(folder(mmdb::countries(&[("192.0.2.0/24", "DE")])), config());
    let path = shim.dir.join("geo.mmdb");
    let written = fs::metadata(&path).and_then(|file| file.modified()).expect("a modification time");
    // The test writes new content and keeps the inode, the length and the modification time, as
    // `rsync --inplace --times` does.
    fs::write(&path, mmdb::countries(&[("192.0.2.0/24", "AT")])).expect("a writable file");
    fs::File::options()
        .write(true)
        .open(&path)
        .and_then(|file| file.set_modified(written))
        .expect("the old modification time");
    shim.wait_metrics(|metrics| {
        send(&shim, "fastly", "192.0.2.7");
        beacons(metrics, "fastly", "AT") > 0.0
    });
}

#[test]
fn country_file_when_unusable_then_check_reports_the_reason_and_what_to_write() {
    let folder = temp_dir();
    fs::create_dir(folder.join("folder.mmdb")).expect("a folder");
    folder.write("text.mmdb", "no such thing");
    folder.write("systems.mmdb", mmdb::systems(&["192.0.2.0/24"]));
    folder.write("good.mmdb", mmdb::countries(&NETWORKS));
    for (file, message) in [
        ("missing.mmdb", "cannot be read"),
        ("folder.mmdb", "it is not a regular file"),
        ("text.mmdb", "is not in the MaxMind format"),
        ("systems.mmdb", "has no countries"),
    ] {
        // The configuration has a second mistake, and `check` must report both mistakes.
        let text = format!("[beacon]\ncountry_database = \"{file}\"\npath = \"beacon.gif\"\n");
        let config = folder.write("edgeshim.toml", text);
        let (code, stdout, _) = run(&["check", "--config", config.to_str().expect("a path in UTF-8")]);
        assert_eq!(code, 1, "{stdout}");
        let line = stdout
            .lines()
            .find(|line| line.contains("beacon.country_database: "))
            .unwrap_or_else(|| panic!("check does not report beacon.country_database: {stdout}"));
        assert!(line.contains(file) && line.contains(message) && line.contains("; name "), "{line}");
        assert!(stdout.contains("beacon.path: ") && stdout.contains("2 problems"), "{stdout}");
        assert_eq!(run(&["run", "--config", config.to_str().expect("a path in UTF-8")]).0, 2);
    }
    let config = folder.write("edgeshim.toml", "[beacon]\ncountry_database = \"good.mmdb\"\n");
    let (code, stdout, _) = run(&["check", "--config", config.to_str().expect("a path in UTF-8")]);
    assert_eq!(code, 0, "{stdout}");
}

#[test]
fn beacons_when_sources_are_invented_then_number_of_series_and_memory_are_bounded() {
    let shim = Shim::start_in(folder(mmdb::countries(&NETWORKS)), config());
    let flood = |from: u32| {
        let mut client = support::Raw::connect(shim.addr);
        for chunk in 0..100 {
            let mut sent = String::new();
            for n in (0..100).map(|place| from + chunk * 100 + place) {
                let client = std::net::Ipv4Addr::from(n.wrapping_mul(429_497));
                let _ = write!(
                    sent,
                    "GET {GIF}?source=s{n}&server_identity=p{n}&country=C{n}&id={n} HTTP/1.1\r\nHost: h{n}.test\r\n\
                     X-Forwarded-For: {client}\r\nX-CDN-Provider: c{n}\r\n\r\n"
                );
            }
            client.send(&sent);
            for _ in 0..100 {
                assert_eq!(client.response().expect("a response").status, 200);
            }
        }
    };
    // One beacon per network creates the series of all countries in the file.
    for (network, _) in NETWORKS {
        send(&shim, "x", network.split_once('/').expect("a network").0);
    }
    flood(0);
    let (before, rss) = (shim.metrics(), shim.rss_kib());
    flood(10_000);
    let after = shim.metrics();
    assert_eq!(after.series_count(), before.series_count(), "{}", after.text);
    assert!((after.sum("edgeshim_beacons_total", &[("source", "other")]) - 20_005.0).abs() < 0.1);
    let grown = shim.rss_kib().saturating_sub(rss);
    assert!(grown < 4 << 10, "the memory has grown by {grown} KiB from {rss} KiB");
}

#[test]
fn logged_values_when_long_or_with_quotes_then_cut_or_escaped() {
    let shim = Shim::start(Shim::config(ClosedPort::new().addr).with("[access_log]\noutput = \"file:access.log\""));
    let long = "x".repeat(5000);
    let target = format!("{GIF}?source=fastly&server_identity={long}&reason=%22%0a&id=r-7");
    fetch(shim.addr, &target, &[("Referer", &long), ("User-Agent", "a\"\tb")]);
    shim.wait_metrics(|metrics| metrics.sum("edgeshim_beacons_total", &[]) > 0.0);
    let file = shim.dir.join("access.log");
    assert!(support::wait_until(support::PATIENCE, || fs::read_to_string(&file).is_ok_and(|log| log.ends_with('\n'))));
    let text = fs::read_to_string(&file).expect("a log");
    let line: serde_json::Value = serde_json::from_str(&text).expect("one line of JSON");
    let kept = "x".repeat(256);
    assert_eq!(line["path"], format!("{GIF}?source=fastly&server_identity={kept}&reason=%22%0a&id=r-7"));
    assert_eq!((&line["referer"], &line["user_agent"]), (&kept.into(), &"a\"\tb".into()));
}

fn open(file: &[u8]) -> Result<Countries, CountryError> {
    let folder = temp_dir();
    Countries::open(&folder.write("geo.mmdb", file))
}

#[test]
fn country_when_address_is_ipv4_mapped_then_equals_country_of_the_ipv4_address() {
    let countries = open(&mmdb::countries(&NETWORKS)).expect("a country file");
    for (address, country) in [("192.0.2.1", "DE"), ("::ffff:192.0.2.1", "DE"), ("::", "other"), ("2001:db8::", "JP")] {
        assert_eq!(countries.of(address.parse().expect("an address")).as_str(), country, "{address}");
    }
}

#[test]
fn country_file_when_path_is_a_device_or_folder_then_rejected() {
    for path in ["/dev/zero", "/dev/null", "/proc/self"] {
        assert!(matches!(Countries::open(Path::new(path)), Err(CountryError::Read(_))), "{path}");
    }
}

proptest! {
    #[test]
    fn country_file_when_damaged_then_open_and_lookup_do_not_panic(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        cut in any::<prop::sample::Index>(),
        whole in any::<bool>(),
        address in any::<u128>(),
    ) {
        let mut file = mmdb::countries(&NETWORKS);
        for (place, byte) in flips {
            let place = place.index(file.len());
            file[place] = byte;
        }
        if !whole {
            file.truncate(cut.index(file.len()));
        }
        if let Ok(countries) = open(&file) {
            let address = IpAddr::from(address.to_be_bytes());
            for address in [address, IpAddr::from([192, 0, 2, 1]), IpAddr::from([198, 51, 100, 200])] {
                prop_assert!(countries.of(address).index() < Country::COUNT);
            }
        }
    }
}
