//! CDNs' address lists, from files that may be replaced at any time.
//!
//! A list is plain lines, or the JSON that a CDN publishes, told apart by what is in it. It is taken whole or not at all: what has one
//! entry that is no network may be cut or of another kind altogether, and then the one before stays in force and the log says so once.
//! Files are looked at every second; a look-up meanwhile sees the old addresses or the new ones and takes no lock.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;
use metrics::Gauge;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use super::followed::{Content, Followed, ReadError, follow};
use crate::cdn::addresses::{AddressList, AddressSet, canonical};
use crate::metrics::{Metrics, describe};

/// The largest file that is read, in bytes. The largest list there is, Azure's, has some 5 MB.
const MOST_BYTES: u64 = 64 * 1024 * 1024;
/// The most networks in one file. CDNs have some hundreds, those that list single machines some thousands.
const MOST_NETWORKS: usize = 200_000;
/// What AWS calls the machines of its CDN, and those of them that pull.
const AWS_SERVICES: [&str; 2] = ["CLOUDFRONT", "CLOUDFRONT_ORIGIN_FACING"];
/// What Azure calls the machines that pull for its CDN.
const AZURE_TAG: &str = "AzureFrontDoor.Backend";

/// Why a list cannot be used; reads on from the file's name.
#[derive(Debug)]
pub struct RangesError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: RangesFault,
}

impl fmt::Display for RangesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)
    }
}

impl std::error::Error for RangesError {}

/// What can be wrong with a list. What stands in it is not told: it may be the wrong file, and a secret one.
#[derive(Debug)]
pub enum RangesFault {
    /// It is not there, or not for this user.
    Read(io::Error),
    /// It is longer than 64 MiB.
    TooLarge,
    /// It begins like JSON and is none.
    Json {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// It is JSON, but no list that is known.
    Shape,
    /// Something in it is no network.
    NoNetwork(Place),
    /// A network of all addresses is in it.
    Everything(Place),
    /// Nothing is in it.
    Empty,
    /// It is AWS' list without the services that count.
    NoService,
    /// It is Azure's list without the tag that counts.
    NoTag,
    /// More than 200,000 networks are in it.
    TooMany,
}

/// Where in a list something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A line, from 1.
    Line(usize),
    /// An entry of a JSON array, by the array's name and from 1.
    Entry(&'static str, usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Entry("", entry) => write!(f, "entry {entry}"),
            Self::Entry(array, entry) => write!(f, "entry {entry} of {array:?}"),
        }
    }
}

impl fmt::Display for RangesFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(
                f,
                "cannot be read ({error}); name a file that exists and that this user may read, for example \
                 \"file:ranges/fastly.json\""
            ),
            Self::TooLarge => write!(
                f,
                "is longer than {} MiB; name the list of one CDN, which is a tenth of that at most",
                MOST_BYTES >> 20
            ),
            Self::Json { line, column } => write!(
                f,
                "begins like JSON and is none (line {line}, column {column}); fetch it again, or write one network a line"
            ),
            Self::Shape => f.write_str(
                "is JSON, but no address list that is known; fetch the CDN's own list, of Fastly, Cloudflare, AWS, Azure, \
                 Google, bunny.net, KeyCDN, CDN77, Gcore or Imperva, or write one network a line",
            ),
            Self::NoNetwork(place) => write!(
                f,
                "has something in {place} that is no network; write one like \"192.0.2.0/24\" or \"2001:db8::/32\", or an \
                 address"
            ),
            Self::Everything(place) => write!(
                f,
                "has the network of all addresses in {place}, by which everybody would be the CDN; write the CDN's own \
                 networks"
            ),
            Self::Empty => f.write_str("has no networks in it; fetch the CDN's list again, or write one network a line"),
            Self::NoService => {
                let [cloudfront, origin_facing] = AWS_SERVICES;
                write!(
                    f,
                    "has no networks of AWS' services {cloudfront} and {origin_facing} in it, and no others count; fetch AWS' \
                     whole ip-ranges.json"
                )
            }
            Self::NoTag => write!(
                f,
                "has no networks of Azure's service tag {AZURE_TAG} in it, and no others count; fetch Azure's whole list of \
                 service tags"
            ),
            Self::TooMany => {
                write!(f, "has more than {MOST_NETWORKS} networks in it; name the list of one CDN, which has far fewer")
            }
        }
    }
}

impl From<ReadError> for RangesFault {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => Self::Read(error),
            ReadError::TooLarge => Self::TooLarge,
        }
    }
}

/// One provider's addresses, from its networks and its files together.
#[derive(Debug)]
pub(crate) struct Ranges {
    list: Arc<AddressList>,
    sources: Sources,
}

#[derive(Debug)]
struct Sources {
    networks: Vec<IpNet>,
    files: Vec<ListFile>,
}

#[derive(Debug)]
struct ListFile {
    followed: Followed,
    good: Good,
}

/// What was read last and could be used.
#[derive(Debug)]
struct Good {
    networks: Vec<IpNet>,
    written: SystemTime,
}

impl Ranges {
    /// Reads a provider's files, of which every byte is taken to be possibly wrong.
    ///
    /// # Errors
    /// The first file that cannot be used, and why.
    pub(crate) fn open(paths: &[PathBuf], networks: &[IpNet]) -> Result<Self, RangesError> {
        let open = |path: &PathBuf| ListFile::open(path).map_err(|fault| RangesError { path: path.clone(), fault });
        let sources = Sources { networks: networks.to_vec(), files: paths.iter().map(open).collect::<Result<_, _>>()? };
        Ok(Self { list: Arc::new(AddressList::new(sources.set(), sources.as_of())), sources })
    }

    /// The list as it was read, for a look that lasts no longer than that.
    pub(crate) fn list(self) -> Arc<AddressList> {
        self.list
    }

    /// Follows the files' changes, on a thread that ends some seconds after the last use of the list. Without files there is none.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(crate) fn follow(self, provider: &'static str, metrics: &Metrics) -> io::Result<Arc<AddressList>> {
        let Self { list, mut sources } = self;
        if !sources.files.is_empty() {
            let age = metrics.series(&describe::RANGES_AGE, &[provider]);
            // So that it is there from the start.
            tell_age(&list, &age);
            follow("ranges", &list, move |list| {
                for error in sources.look(list) {
                    let path = error.path.display();
                    tracing::warn!(
                        "provider.verify.addresses of {provider}: {path} {error}; the list read before stays in force"
                    );
                }
                tell_age(list, &age);
            })?;
        }
        Ok(list)
    }
}

impl Sources {
    /// Takes in the files that have become others, and gives those that cannot be used.
    fn look(&mut self, list: &AddressList) -> Vec<RangesError> {
        let (mut errors, mut changed) = (Vec::new(), false);
        for file in &mut self.files {
            let Some(read) = file.followed.news(MOST_BYTES) else { continue };
            match read.map_err(RangesFault::from).and_then(|content| Good::new(&content)) {
                Ok(good) => {
                    file.good = good;
                    changed = true;
                }
                Err(fault) => errors.push(RangesError { path: file.followed.path().to_owned(), fault }),
            }
        }
        if changed {
            list.replace(self.set(), self.as_of());
        }
        errors
    }

    fn set(&self) -> AddressSet {
        let read = self.files.iter().flat_map(|file| &file.good.networks);
        AddressSet::new(self.networks.iter().chain(read).copied())
    }

    fn as_of(&self) -> Option<SystemTime> {
        self.files.iter().map(|file| file.good.written).min()
    }
}

impl ListFile {
    fn open(path: &Path) -> Result<Self, RangesFault> {
        let (followed, content) = Followed::open(path, MOST_BYTES)?;
        Ok(Self { followed, good: Good::new(&content)? })
    }
}

impl Good {
    fn new(content: &Content) -> Result<Self, RangesFault> {
        Ok(Self { networks: parse(&content.bytes)?, written: content.written })
    }
}

/// A file of the future is as if written now.
fn tell_age(list: &AddressList, age: &Gauge) {
    if let Some(as_of) = list.as_of() {
        age.set(SystemTime::now().duration_since(as_of).unwrap_or_default().as_secs_f64());
    }
}

/// Reads a list: at least one network, none of all addresses.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<Vec<IpNet>, RangesFault> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    match bytes.trim_ascii_start().first() {
        Some(b'{') => json::<Document>(bytes)?.networks(),
        Some(b'[') => gathered([("", Some(json(bytes)?))], RangesFault::Empty),
        _ => lines(bytes),
    }
}

/// One network a line; what follows a `#` is a comment.
fn lines(bytes: &[u8]) -> Result<Vec<IpNet>, RangesFault> {
    let mut found = Found::default();
    for line in bytes.split(|&byte| byte == b'\n') {
        let entry = line.split(|&byte| byte == b'#').next().unwrap_or_default().trim_ascii();
        if entry.is_empty() {
            found.pass_over();
        } else {
            found.take(network(entry));
        }
    }
    match found.fault {
        Some((line, wrong)) => Err(wrong.at(Place::Line(line))),
        None if found.networks.is_empty() => Err(RangesFault::Empty),
        None => Ok(found.networks),
    }
}

fn json<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, RangesFault> {
    // Its own words are left out, for they may quote the file.
    serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        Category::Data => RangesFault::Shape,
        Category::Io | Category::Syntax | Category::Eof => {
            RangesFault::Json { line: error.line(), column: error.column() }
        }
    })
}

/// A network, or one address. What is below the mask does not count.
fn network(entry: &[u8]) -> Option<IpNet> {
    let entry = std::str::from_utf8(entry).ok()?;
    let network = entry.parse::<IpAddr>().map(IpNet::from).or_else(|_| entry.parse::<IpNet>());
    network.ok().map(canonical)
}

/// The networks of one array, or of all lines, up to the first that cannot be used.
#[derive(Default)]
struct Found {
    networks: Vec<IpNet>,
    entries: usize,
    fault: Option<(usize, Wrong)>,
}

/// What can be wrong with one entry.
#[derive(Clone, Copy)]
enum Wrong {
    NoNetwork,
    Everything,
    OneTooMany,
}

impl Wrong {
    fn at(self, place: Place) -> RangesFault {
        match self {
            Self::NoNetwork => RangesFault::NoNetwork(place),
            Self::Everything => RangesFault::Everything(place),
            Self::OneTooMany => RangesFault::TooMany,
        }
    }
}

impl Found {
    /// Takes an entry in; none is what is no network.
    fn take(&mut self, network: Option<IpNet>) {
        self.pass_over();
        let wrong = match network {
            _ if self.fault.is_some() => return,
            None => Wrong::NoNetwork,
            Some(network) if network.prefix_len() == 0 => Wrong::Everything,
            Some(_) if self.networks.len() == MOST_NETWORKS => Wrong::OneTooMany,
            Some(network) => return self.networks.push(network),
        };
        self.fault = Some((self.entries, wrong));
    }

    /// An entry that does not count.
    fn pass_over(&mut self) {
        self.entries += 1;
    }
}

/// The networks of some arrays, each with its name; `none` where there are none.
fn gathered(
    arrays: impl IntoIterator<Item = (&'static str, Option<Found>)>,
    none: RangesFault,
) -> Result<Vec<IpNet>, RangesFault> {
    let mut all = Vec::new();
    for (array, found) in arrays {
        let Some(mut found) = found else { continue };
        if let Some((entry, wrong)) = found.fault {
            return Err(wrong.at(Place::Entry(array, entry)));
        }
        all.append(&mut found.networks);
        if all.len() > MOST_NETWORKS {
            return Err(RangesFault::TooMany);
        }
    }
    if all.is_empty() { Err(none) } else { Ok(all) }
}

/// Every CDN's list that is an object. Which it is, its keys tell.
#[derive(Deserialize)]
struct Document {
    /// Fastly, Gcore.
    addresses: Option<Found>,
    /// Fastly.
    ipv6_addresses: Option<Found>,
    /// Gcore.
    addresses_v6: Option<Found>,
    /// AWS, Google, `KeyCDN`, CDN77.
    prefixes: Option<Prefixes>,
    /// AWS.
    ipv6_prefixes: Option<Prefixes>,
    /// Azure.
    values: Option<Tags>,
    /// Cloudflare.
    result: Option<Cloudflare>,
    /// Imperva.
    #[serde(rename = "ipRanges")]
    ip_ranges: Option<Found>,
    /// Imperva.
    #[serde(rename = "ipv6Ranges")]
    ipv6_ranges: Option<Found>,
}

#[derive(Deserialize)]
struct Cloudflare {
    ipv4_cidrs: Option<Found>,
    ipv6_cidrs: Option<Found>,
}

impl Document {
    fn networks(self) -> Result<Vec<IpNet>, RangesFault> {
        let kinds = [
            self.addresses.is_some(),
            self.prefixes.is_some(),
            self.values.is_some(),
            self.result.is_some(),
            self.ip_ranges.is_some(),
        ];
        if kinds.into_iter().filter(|&is_it| is_it).count() != 1 {
            return Err(RangesFault::Shape);
        }
        let (prefixes, ipv6_prefixes) = (self.prefixes.unwrap_or_default(), self.ipv6_prefixes.unwrap_or_default());
        let none = match &self.values {
            Some(_) => RangesFault::NoTag,
            None if prefixes.by_service || ipv6_prefixes.by_service => RangesFault::NoService,
            None => RangesFault::Empty,
        };
        let (cloudflare_v4, cloudflare_v6) = self.result.map_or((None, None), |of| (of.ipv4_cidrs, of.ipv6_cidrs));
        let arrays = [
            ("addresses", self.addresses),
            ("ipv6_addresses", self.ipv6_addresses),
            ("addresses_v6", self.addresses_v6),
            ("prefixes", Some(prefixes.found)),
            ("ipv6_prefixes", Some(ipv6_prefixes.found)),
            ("ipv4_cidrs", cloudflare_v4),
            ("ipv6_cidrs", cloudflare_v6),
            ("ipRanges", self.ip_ranges),
            ("ipv6Ranges", self.ipv6_ranges),
        ];
        let tags = self.values.into_iter().flat_map(|tags| tags.found);
        gathered(arrays.into_iter().chain(tags.map(|found| ("addressPrefixes", Some(found)))), none)
    }
}

impl<'de> Deserialize<'de> for Found {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut found = Self::default();
        each(deserializer, |text: String| found.take(network(text.as_bytes())))?;
        Ok(found)
    }
}

/// Networks that are texts (`KeyCDN`) or stand in objects: of CDN77, of Google, of AWS.
#[derive(Default)]
struct Prefixes {
    found: Found,
    /// Whether they are AWS', of which some services count.
    by_service: bool,
}

#[derive(Deserialize)]
struct Prefix {
    #[serde(rename = "prefix")]
    of_cdn77: Option<String>,
    #[serde(rename = "ipv4Prefix", alias = "ipv6Prefix")]
    of_google: Option<String>,
    #[serde(rename = "ip_prefix", alias = "ipv6_prefix")]
    of_aws: Option<String>,
    service: Option<String>,
}

impl<'de> Deserialize<'de> for Prefixes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut prefixes = Self::default();
        each(deserializer, |prefix| prefixes.take(prefix))?;
        Ok(prefixes)
    }
}

impl Prefixes {
    fn take(&mut self, entry: TextOr<Prefix>) {
        let (text, counts) = match entry {
            TextOr::Text(text) => (Some(text), true),
            TextOr::Object(object) => match object.of_aws {
                Some(text) => {
                    self.by_service = true;
                    let counts = object.service.is_some_and(|service| AWS_SERVICES.contains(&service.as_str()));
                    (Some(text), counts)
                }
                None => (object.of_cdn77.or(object.of_google), true),
            },
        };
        if counts {
            self.found.take(text.and_then(|text| network(text.as_bytes())));
        } else {
            self.found.pass_over();
        }
    }
}

/// Azure's service tags: the networks of those that count.
#[derive(Default)]
struct Tags {
    found: Vec<Found>,
}

#[derive(Deserialize)]
struct Tag {
    name: Option<String>,
    properties: Option<Properties>,
}

#[derive(Deserialize)]
struct Properties {
    #[serde(rename = "addressPrefixes")]
    prefixes: Option<Found>,
}

impl<'de> Deserialize<'de> for Tags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut tags = Self::default();
        each(deserializer, |tag: Tag| {
            if tag.name.as_deref() == Some(AZURE_TAG)
                && let Some(found) = tag.properties.and_then(|properties| properties.prefixes)
            {
                tags.found.push(found);
            }
        })?;
        Ok(tags)
    }
}

/// A text, or an object; serde's own way to read either keeps all of it in memory first.
enum TextOr<T> {
    Text(String),
    Object(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for TextOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = TextOr<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an object")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<TextOr<T>, E> {
                Ok(TextOr::Text(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TextOr<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(TextOr::Object)
            }
        }
        deserializer.deserialize_any(Either(PhantomData))
    }
}

/// Hands over each element of an array, so that no more than one of them is in memory.
fn each<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D, take: impl FnMut(T)) -> Result<(), D::Error> {
    struct Each<T, F>(F, PhantomData<T>);
    impl<'de, T: Deserialize<'de>, F: FnMut(T)> Visitor<'de> for Each<T, F> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<(), A::Error> {
            while let Some(element) = elements.next_element()? {
                self.0(element);
            }
            Ok(())
        }
    }
    deserializer.deserialize_seq(Each(take, PhantomData))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::super::followed::tests::Folder;
    use super::*;

    fn read(text: &str) -> Result<Vec<String>, String> {
        parse(text.as_bytes())
            .map(|networks| networks.iter().map(ToString::to_string).collect())
            .map_err(|fault| fault.to_string())
    }

    #[track_caller]
    fn holds(text: &str, networks: &[&str]) {
        assert_eq!(read(text).as_deref(), Ok(&networks.iter().map(|&text| text.to_owned()).collect::<Vec<_>>()[..]));
    }

    #[track_caller]
    fn refused(text: &str, begin: &str) {
        let fault = read(text).expect_err(text);
        assert!(fault.starts_with(begin) && fault.contains("; "), "{text}: {fault}");
    }

    #[test]
    fn plain_lines_when_written_as_people_do_then_read() {
        holds("192.0.2.0/24\n2001:db8::/32\n", &["192.0.2.0/24", "2001:db8::/32"]);
        holds("192.0.2.0/24", &["192.0.2.0/24"]);
        holds(
            "\u{feff}# ours\r\n\r\n  192.0.2.0/24\t# the old ones\r\n192.0.2.7\r\n",
            &["192.0.2.0/24", "192.0.2.7/32"],
        );
        holds("2001:db8::1\n192.0.2.9/24", &["2001:db8::1/128", "192.0.2.0/24"]);
        holds("::ffff:192.0.2.0/120\n::ffff:192.0.2.1", &["192.0.2.0/24", "192.0.2.1/32"]);
    }

    #[test]
    fn plain_lines_when_one_is_no_network_then_it_is_named_and_nothing_of_it_told() {
        for line in [
            "hunter2",
            "192.0.2.0/33",
            "192.0.2",
            "192.0.2.0/24,",
            "192.0.2.0 - 192.0.2.9",
            "300.0.0.0/8",
            "::/129",
            "*",
        ] {
            for (text, number) in [(format!("{line}\n192.0.2.0/24"), 1), (format!("192.0.2.0/24\n\n# x\n{line}"), 4)] {
                refused(&text, &format!("has something in line {number} that is no network; write one like"));
                assert!(!read(&text).unwrap_err().contains("hunter2"));
            }
        }
        assert!(matches!(parse(b"192.0.2.0/24\n\xff\xfe\n"), Err(RangesFault::NoNetwork(Place::Line(2)))));
        assert!(matches!(parse(b"\xff\xfe1\0"), Err(RangesFault::NoNetwork(Place::Line(1)))));
        refused("<!DOCTYPE html>", "has something in line 1");
    }

    #[test]
    fn list_when_it_is_empty_or_holds_everything_or_too_much_then_refused() {
        for empty in ["", "\n", "# nothing\n\r\n", "\u{feff}", "[]", "{\"addresses\": []}", "{\"prefixes\": []}"] {
            refused(empty, "has no networks in it");
        }
        for (everything, place) in [
            ("192.0.2.0/24\n0.0.0.0/0", "line 2"),
            ("::/0", "line 1"),
            ("1.2.3.4/0", "line 1"),
            ("::ffff:0:0/96", "line 1"),
            ("[\"192.0.2.1\", \"::/0\"]", "entry 2"),
            ("{\"addresses\":[\"192.0.2.1\"],\"ipv6_addresses\":[\"::/0\"]}", "entry 1 of \"ipv6_addresses\""),
        ] {
            refused(everything, &format!("has the network of all addresses in {place}, by which"));
        }
        let most = "192.0.2.1\n".repeat(MOST_NETWORKS);
        assert_eq!(parse(most.as_bytes()).unwrap().len(), MOST_NETWORKS);
        refused(&(most + "192.0.2.1"), "has more than 200000 networks in it");
        let half = format!("[{}\"192.0.2.1\"]", "\"192.0.2.1\",".repeat(MOST_NETWORKS / 2));
        refused(&format!("{{\"addresses\":{half},\"ipv6_addresses\":{half}}}"), "has more than 200000 networks");
    }

    #[test]
    fn json_of_fastly_gcore_and_imperva_then_read() {
        holds(
            r#"{"addresses":["23.235.32.0/20","43.249.72.0/22"],"ipv6_addresses":["2a04:4e40::/32"]}"#,
            &["23.235.32.0/20", "43.249.72.0/22", "2a04:4e40::/32"],
        );
        holds(
            r#"{"addresses":["192.0.2.1/32"],"addresses_v6":["2001:db8::1/128"]}"#,
            &["192.0.2.1/32", "2001:db8::1/128"],
        );
        holds(r#"{"addresses":["23.235.32.0\/20"],"ipv6_addresses":null}"#, &["23.235.32.0/20"]);
        holds(
            r#"{"ipRanges":["199.83.128.0/21"],"ipv6Ranges":["2a02:e980::/29"],"res":0,"res_message":"OK"}"#,
            &["199.83.128.0/21", "2a02:e980::/29"],
        );
    }

    #[test]
    fn json_of_aws_then_only_the_cdn_s_services_count() {
        let list = r#"{
            "syncToken": "1700000000", "createDate": "2023-11-14-22-13-20",
            "prefixes": [
                {"ip_prefix": "3.2.34.0/26", "region": "af-south-1", "service": "AMAZON", "network_border_group": "x"},
                {"ip_prefix": "120.52.22.96/27", "region": "GLOBAL", "service": "CLOUDFRONT", "network_border_group": "GLOBAL"},
                {"ip_prefix": "13.124.199.0/24", "region": "GLOBAL", "service": "CLOUDFRONT_ORIGIN_FACING"},
                {"ip_prefix": "0.0.0.0/0", "service": "EC2"}
            ],
            "ipv6_prefixes": [
                {"ipv6_prefix": "2600:1f14::/36", "service": "EC2"},
                {"ipv6_prefix": "2600:9000::/28", "service": "CLOUDFRONT"}
            ]
        }"#;
        holds(list, &["120.52.22.96/27", "13.124.199.0/24", "2600:9000::/28"]);
        refused(
            &list.replace("CLOUDFRONT", "cloudfront"),
            "has no networks of AWS' services CLOUDFRONT and CLOUDFRONT_",
        );
        refused(&list.replace("\"service\"", "\"servicio\""), "has no networks of AWS' services");
        refused(&list.replace("13.124.199.0/24", "13.124.199.0/44"), "has something in entry 3 of \"prefixes\" that");
        refused(&list.replace("2600:9000::/28", ""), "has something in entry 2 of \"ipv6_prefixes\" that");
    }

    #[test]
    fn json_of_azure_then_only_the_backend_s_tag_counts() {
        let list = r#"{"changeNumber": 300, "cloud": "Public", "values": [
            {"name": "AzureCloud", "id": "AzureCloud", "properties": {"addressPrefixes": ["10.0.0.0/8", "junk"]}},
            {"name": "AzureFrontDoor.Frontend", "properties": {"addressPrefixes": ["192.0.2.0/24"]}},
            {"name": "AzureFrontDoor.Backend", "id": "AzureFrontDoor.Backend", "properties": {
                "changeNumber": 30, "region": "", "platform": "Azure", "systemService": "AzureFrontDoor",
                "addressPrefixes": ["4.150.240.8/29", "2603:1030:20e::/48"], "networkFeatures": null}}
        ]}"#;
        holds(list, &["4.150.240.8/29", "2603:1030:20e::/48"]);
        refused(&list.replace("AzureFrontDoor.Backend", "AzureFrontDoor"), "has no networks of Azure's service tag");
        refused(&list.replace("4.150.240.8", "4.150.240"), "has something in entry 1 of \"addressPrefixes\" that");
        refused(r#"{"values": []}"#, "has no networks of Azure's service tag AzureFrontDoor.Backend");
        refused(r#"{"values": [{}, {"name": "AzureFrontDoor.Backend"}]}"#, "has no networks of Azure's service tag");
    }

    #[test]
    fn json_of_cloudflare_google_bunny_keycdn_and_cdn77_then_read() {
        holds(
            r#"{"result":{"ipv4_cidrs":["173.245.48.0/20"],"ipv6_cidrs":["2400:cb00::/32"],"etag":"38f7"},"success":true,"errors":[],"messages":[]}"#,
            &["173.245.48.0/20", "2400:cb00::/32"],
        );
        refused(r#"{"result":null,"success":false,"errors":[{"code":1}]}"#, "is JSON, but no address list");
        holds(
            r#"{"syncToken":"1","prefixes":[{"ipv4Prefix":"34.1.208.0/20","service":"Google Cloud"},{"ipv6Prefix":"2600:1900::/35"}]}"#,
            &["34.1.208.0/20", "2600:1900::/35"],
        );
        holds(" [\"89.187.188.227\",\r\n\"2400:52e0::1\"]\n", &["89.187.188.227/32", "2400:52e0::1/128"]);
        holds(r#"{"prefixes":["185.172.148.96/27","2a03:b600::/32"]}"#, &["185.172.148.96/27", "2a03:b600::/32"]);
        holds(r#"{"updated_at":"x","prefixes":[{"prefix":"5.188.120.0/24"}]}"#, &["5.188.120.0/24"]);
        refused(r#"["192.0.2.1","x"]"#, "has something in entry 2 that is no network");
        refused(r#"{"prefixes":[{"ipv4Prefix":"34.1.208.0/20"},{}]}"#, "has something in entry 2 of \"prefixes\" that");
    }

    #[test]
    fn json_when_cut_or_of_another_kind_then_refused() {
        let list = r#"{"addresses":["23.235.32.0/20"],"ipv6_addresses":["2a04:4e40::/32"]}"#;
        for end in 1..list.len() {
            refused(&list[..end], "begins like JSON and is none (line 1, column");
        }
        refused("[\n\"192.0.2.1\",\n]", "begins like JSON and is none (line 3, column 1)");
        refused("[\"192.0.2.1\"] x", "begins like JSON and is none");
        for other in [
            "{}",
            "[1]",
            "[[\"192.0.2.1\"]]",
            "[{\"ip\":\"192.0.2.1\"}]",
            r#"{"addresses":"192.0.2.0/24"}"#,
            r#"{"addresses":["192.0.2.1"],"addresses":["192.0.2.2"]}"#,
            r#"{"ipv6_addresses":["2001:db8::1"]}"#,
            r#"{"addresses":["192.0.2.1"],"prefixes":["192.0.2.2"]}"#,
            r#"{"result":["192.0.2.1"]}"#,
            r#"{"values":[{"name":5}]}"#,
            r#"{"prefixes":[{"ip_prefix":"192.0.2.0/24","ipv6_prefix":"2001:db8::/32"}]}"#,
            r#"{"networks":["192.0.2.0/24"]}"#,
        ] {
            refused(other, "is JSON, but no address list that is known");
        }
        // As deep as it likes, where nobody reads it.
        let deep = format!(r#"{{"a":{}{},"addresses":["192.0.2.1"]}}"#, "[".repeat(10_000), "]".repeat(10_000));
        let _ = read(&deep);
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn told(errors: &[RangesError]) -> Vec<String> {
        errors.iter().map(|error| format!("{} {error}", error.path.file_name().unwrap().display())).collect()
    }

    #[test]
    fn list_when_a_file_changes_then_it_follows_and_what_is_broken_changes_nothing() {
        let folder = Folder::new("ranges");
        let (one, two) = (folder.replace("one", "192.0.2.0/24"), folder.replace("two", "[\"198.51.100.0/24\"]"));
        let paths = [one.clone(), two];
        let Ranges { list, mut sources } = Ranges::open(&paths, &["203.0.113.0/24".parse().unwrap()]).unwrap();
        let all = ["192.0.2.1", "198.51.100.1", "203.0.113.1"];
        assert!(all.iter().all(|address| list.contains(ip(address))));

        // The first look sees that something has changed, the second that it is over.
        let mut two_looks = |list: &AddressList| {
            assert_eq!(told(&sources.look(list)), [""; 0]);
            let errors = told(&sources.look(list));
            assert_eq!(told(&sources.look(list)), [""; 0], "said once");
            errors
        };
        assert_eq!(two_looks(&list), [""; 0]);

        folder.replace("one", "192.0.2.128/25");
        assert_eq!(two_looks(&list), [""; 0]);
        assert!(!list.contains(ip("192.0.2.1")) && list.contains(ip("192.0.2.129")));
        assert!(list.contains(ip("198.51.100.1")) && list.contains(ip("203.0.113.1")));

        let breaks: [(&dyn Fn(), &str); 5] = [
            (&|| drop(folder.replace("one", "192.0.2.0/24\nhtml")), "one has something in line 2 that is no network"),
            (&|| fs::write(&one, "").unwrap(), "one has no networks in it"),
            (&|| fs::remove_file(&one).unwrap(), "one cannot be read"),
            (&|| fs::create_dir(&one).unwrap(), "one cannot be read (it is no plain file)"),
            (&|| fs::remove_dir(&one).unwrap(), "one cannot be read"),
        ];
        let as_of = list.as_of();
        for (breaking, said) in breaks {
            breaking();
            let errors = two_looks(&list);
            assert!(errors.len() == 1 && errors[0].starts_with(said), "{said}: {errors:?}");
            assert!(list.contains(ip("192.0.2.129")) && !list.contains(ip("192.0.2.1")), "{said}");
            assert_eq!(list.as_of(), as_of, "{said}");
        }
        // The other file goes on meanwhile, beside what was good of this one.
        folder.replace("two", "{\"addresses\":[\"198.51.100.77\"]}");
        assert_eq!(two_looks(&list), [""; 0]);
        assert!(list.contains(ip("192.0.2.129")) && list.contains(ip("198.51.100.77")));
        assert!(!list.contains(ip("198.51.100.1")));

        folder.replace("one", "192.0.2.0/30");
        assert_eq!(two_looks(&list), [""; 0]);
        assert!(list.contains(ip("192.0.2.1")) && !list.contains(ip("192.0.2.129")));
    }

    #[test]
    fn list_when_opened_with_a_bad_file_then_it_is_named() {
        let folder = Folder::new("opened");
        let good = folder.replace("good", "192.0.2.0/24");
        let bad = folder.replace("bad", "192.0.2.0/24\n::/0");
        let error = Ranges::open(&[good.clone(), bad.clone()], &[]).unwrap_err();
        assert_eq!(error.path, bad);
        assert!(error.to_string().starts_with("has the network of all addresses in line 2"), "{error}");
        let missing = Ranges::open(&[folder.0.join("missing"), good], &[]).unwrap_err();
        assert!(missing.to_string().starts_with("cannot be read ("), "{missing}");
        let large = folder.0.join("large");
        fs::File::create(&large).and_then(|file| file.set_len(MOST_BYTES + 1)).unwrap();
        let error = Ranges::open(&[large], &[]).unwrap_err();
        assert!(error.to_string().starts_with("is longer than 64 MiB"), "{error}");
    }

    #[test]
    fn age_is_that_of_the_oldest_file_and_there_only_where_there_are_files() {
        let folder = Folder::new("age");
        let paths = [folder.replace("old", "192.0.2.0/24"), folder.replace("young", "198.51.100.0/24")];
        let hour = std::time::Duration::from_hours(1);
        let old = SystemTime::now() - hour;
        fs::File::options().write(true).open(&paths[0]).and_then(|file| file.set_modified(old)).unwrap();
        let metrics = Metrics::new().unwrap();
        let list = Ranges::open(&paths, &[]).unwrap().follow("fastly", &metrics).unwrap();
        assert_eq!(list.as_of(), fs::metadata(&paths[0]).unwrap().modified().ok());
        let fixed = Ranges::open(&[], &["192.0.2.0/24".parse().unwrap()]).unwrap().follow("akamai", &metrics).unwrap();
        assert!(fixed.contains(ip("192.0.2.1")) && fixed.as_of().is_none());
        assert_eq!(Arc::weak_count(&fixed), 0, "nobody follows it");

        let text = metrics.render();
        let (_, age) = text.split_once("edgeshim_ranges_age_seconds{provider=\"fastly\"} ").unwrap();
        let age: f64 = age.lines().next().unwrap().parse().unwrap();
        assert!((3600.0..7200.0).contains(&age), "{age}");
        assert!(!text.contains("provider=\"akamai\""));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_json_is_read_without_a_panic(
            text in "[\\[{]([\\[{\\]},:\"]|\"addresses\":|\"prefixes\":|\"ip_prefix\":|\"values\":|\"result\":|\"::/1\"|null|1){0,24}",
        ) {
            let _ = parse(text.as_bytes());
        }

        #[test]
        fn what_is_written_is_what_is_read(networks in prop::collection::vec((any::<u128>(), any::<u32>(), 1_u8..=32), 1..20)) {
            let v6 = networks.iter().map(|&(bits, _, prefix)| IpNet::new(std::net::Ipv6Addr::from(bits).into(), prefix));
            let v4 = networks.iter().map(|&(_, bits, prefix)| IpNet::new(std::net::Ipv4Addr::from(bits).into(), prefix));
            let written: Vec<_> = v6.chain(v4).map(|network| network.unwrap().trunc()).collect();
            let texts: Vec<_> = written.iter().map(ToString::to_string).collect();
            prop_assert_eq!(&parse(texts.join("\n").as_bytes()).unwrap(), &written);
            prop_assert_eq!(&parse(serde_json::to_vec(&texts).unwrap().as_slice()).unwrap(), &written);
        }
    }
}
