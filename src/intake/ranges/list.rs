//! Reads one address list. The list is either plain lines or the JSON that a CDN publishes. The first character that is
//! not whitespace decides which of these formats is read.
//!
//! If an entry that edgeshim uses is invalid, the whole list is rejected, because the file could be truncated or could
//! be the wrong file.

use std::fmt;
use std::marker::PhantomData;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;

use super::entries::{AWS_SERVICES, AZURE_TAG, Found, ListError, Place, all_networks, network};

/// Reads a list. The result has at least one network, and no network that contains all addresses.
///
/// # Errors
/// The list cannot be used. Only one error is returned, even if the list has several errors.
pub fn parse(bytes: &[u8]) -> Result<Vec<IpNet>, ListError> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    match bytes.trim_ascii_start().first() {
        Some(b'{') => json::<Document>(bytes)?.networks(),
        Some(b'[') => all_networks([("", Some(json(bytes)?))], ListError::Empty),
        _ => lines(bytes),
    }
}

/// Reads a list of plain lines, with one network on each line. A `#` begins a comment.
fn lines(bytes: &[u8]) -> Result<Vec<IpNet>, ListError> {
    let mut found = Found::default();
    for line in bytes.split(|&byte| byte == b'\n') {
        let entry = line.split(|&byte| byte == b'#').next().unwrap_or_default().trim_ascii();
        if entry.is_empty() {
            found.skip();
        } else {
            found.take(network(entry));
        }
    }
    match found.error {
        Some((line, wrong)) => Err(wrong.at(Place::Line(line))),
        None if found.networks.is_empty() => Err(ListError::Empty),
        None => Ok(found.networks),
    }
}

fn json<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, ListError> {
    // The message of serde is not used, because it can quote the file.
    serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        Category::Data => ListError::Shape,
        Category::Io | Category::Syntax | Category::Eof => {
            ListError::Json { line: error.line(), column: error.column() }
        }
    })
}

/// A list of any CDN, in the form of a JSON object. The keys of the object show which CDN published the list.
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
    fn networks(self) -> Result<Vec<IpNet>, ListError> {
        let kinds = [
            self.addresses.is_some(),
            self.prefixes.is_some(),
            self.values.is_some(),
            self.result.is_some(),
            self.ip_ranges.is_some(),
        ];
        if kinds.into_iter().filter(|&is_it| is_it).count() != 1 {
            return Err(ListError::Shape);
        }
        let (prefixes, ipv6_prefixes) = (self.prefixes.unwrap_or_default(), self.ipv6_prefixes.unwrap_or_default());
        let none = match &self.values {
            Some(_) => ListError::NoTag,
            None if prefixes.by_service || ipv6_prefixes.by_service => ListError::NoService,
            None => ListError::Empty,
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
        all_networks(arrays.into_iter().chain(tags.map(|found| ("addressPrefixes", Some(found)))), none)
    }
}

impl<'de> Deserialize<'de> for Found {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut found = Self::default();
        each(deserializer, |text: String| found.take(network(text.as_bytes())))?;
        Ok(found)
    }
}

/// An array of networks, which are strings (`KeyCDN`) or objects (CDN77, Google, AWS).
#[derive(Default)]
struct Prefixes {
    found: Found,
    /// Whether the networks are from AWS. In a list from AWS, only the networks of some services are used.
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
            self.found.skip();
        }
    }
}

/// The networks of the one Azure service tag that is used.
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

/// A string or an object. An untagged enum of serde is not used here, because serde would first copy the whole value
/// into memory.
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

/// Passes each element of an array to `take`, so that only one element at a time is in memory.
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
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::super::entries::MOST_NETWORKS;
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
    fn text_list_when_written_by_hand_then_networks_are_read() {
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
    fn text_list_when_a_line_is_not_a_network_then_error_has_the_line_number_and_not_the_text() {
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
                refused(&text, &format!("has no network in line {number}; write a network such"));
                assert!(!read(&text).unwrap_err().contains("hunter2"));
            }
        }
        assert!(matches!(parse(b"192.0.2.0/24\n\xff\xfe\n"), Err(ListError::NoNetwork(Place::Line(2)))));
        assert!(matches!(parse(b"\xff\xfe1\0"), Err(ListError::NoNetwork(Place::Line(1)))));
        refused("<!DOCTYPE html>", "has no network in line 1");
    }

    #[test]
    fn list_when_empty_or_too_long_or_with_all_addresses_then_rejected() {
        for empty in ["", "\n", "# nothing\n\r\n", "\u{feff}", "[]", "{\"addresses\": []}", "{\"prefixes\": []}"] {
            refused(empty, "has no networks;");
        }
        for (everything, place) in [
            ("192.0.2.0/24\n0.0.0.0/0", "line 2"),
            ("::/0", "line 1"),
            ("1.2.3.4/0", "line 1"),
            ("::ffff:0:0/96", "line 1"),
            ("[\"192.0.2.1\", \"::/0\"]", "entry 2"),
            ("{\"addresses\":[\"192.0.2.1\"],\"ipv6_addresses\":[\"::/0\"]}", "entry 1 of \"ipv6_addresses\""),
        ] {
            refused(everything, &format!("has a network in {place} that contains all addresses, so every"));
        }
        let most = "192.0.2.1\n".repeat(MOST_NETWORKS);
        assert_eq!(parse(most.as_bytes()).unwrap().len(), MOST_NETWORKS);
        refused(&(most + "192.0.2.1"), "has more than 200000 networks;");
        let half = format!("[{}\"192.0.2.1\"]", "\"192.0.2.1\",".repeat(MOST_NETWORKS / 2));
        refused(&format!("{{\"addresses\":{half},\"ipv6_addresses\":{half}}}"), "has more than 200000 networks");
    }

    #[test]
    fn json_list_when_from_fastly_gcore_or_imperva_then_is_read() {
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
    fn json_list_when_from_aws_then_only_cloudfront_networks_are_used() {
        let list = r#"{
            "syncToken": "1700000000", "createDate": "2023-11-14-22-13-20",
            "prefixes": [
                {"ip_prefix": "3.2.34.0/26", "region": "af-south-1", "service": "AMAZON", "network_border_group": "x"},
                {"ip_prefix": "120.52.22.96/27", "region": "GLOBAL", "service": "CLOUDFRONT", "network": "G"},
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
            "has no networks of the AWS services CLOUDFRONT and CLOUDFRONT_",
        );
        refused(&list.replace("\"service\"", "\"servicio\""), "has no networks of the AWS services");
        refused(
            &list.replace("13.124.199.0/24", "13.124.199.0/44"),
            "has no network in entry 3 of \"prefixes\"; write a network such",
        );
        refused(
            &list.replace("2600:9000::/28", ""),
            "has no network in entry 2 of \"ipv6_prefixes\"; write a network such",
        );
    }

    #[test]
    fn json_list_when_from_azure_then_only_networks_of_the_backend_tag_are_used() {
        let list = r#"{"changeNumber": 300, "cloud": "Public", "values": [
            {"name": "AzureCloud", "id": "AzureCloud", "properties": {"addressPrefixes": ["10.0.0.0/8", "junk"]}},
            {"name": "AzureFrontDoor.Frontend", "properties": {"addressPrefixes": ["192.0.2.0/24"]}},
            {"name": "AzureFrontDoor.Backend", "id": "AzureFrontDoor.Backend", "properties": {
                "changeNumber": 30, "region": "", "platform": "Azure", "systemService": "AzureFrontDoor",
                "addressPrefixes": ["4.150.240.8/29", "2603:1030:20e::/48"], "networkFeatures": null}}
        ]}"#;
        holds(list, &["4.150.240.8/29", "2603:1030:20e::/48"]);
        refused(&list.replace("AzureFrontDoor.Backend", "AzureFrontDoor"), "has no networks of the Azure service tag");
        refused(
            &list.replace("4.150.240.8", "4.150.240"),
            "has no network in entry 1 of \"addressPrefixes\"; write a network such",
        );
        refused(r#"{"values": []}"#, "has no networks of the Azure service tag AzureFrontDoor.Backend");
        refused(r#"{"values": [{}, {"name": "AzureFrontDoor.Backend"}]}"#, "has no networks of the Azure service tag");
    }

    #[test]
    fn json_list_when_from_cloudflare_google_bunny_keycdn_or_cdn77_then_is_read() {
        holds(
            r#"{"result":{"ipv4_cidrs":["173.245.48.0/20"],"ipv6_cidrs":["2400:cb00::/32"],"etag":"38f7"},
                "success":true,"errors":[],"messages":[]}"#,
            &["173.245.48.0/20", "2400:cb00::/32"],
        );
        refused(r#"{"result":null,"success":false,"errors":[{"code":1}]}"#, "is JSON, but not a known");
        holds(
            r#"{"syncToken":"1","prefixes":[{"ipv4Prefix":"34.1.208.0/20","service":"Google Cloud"},
                {"ipv6Prefix":"2600:1900::/35"}]}"#,
            &["34.1.208.0/20", "2600:1900::/35"],
        );
        holds(" [\"89.187.188.227\",\r\n\"2400:52e0::1\"]\n", &["89.187.188.227/32", "2400:52e0::1/128"]);
        holds(r#"{"prefixes":["185.172.148.96/27","2a03:b600::/32"]}"#, &["185.172.148.96/27", "2a03:b600::/32"]);
        holds(r#"{"updated_at":"x","prefixes":[{"prefix":"5.188.120.0/24"}]}"#, &["5.188.120.0/24"]);
        refused(r#"["192.0.2.1","x"]"#, "has no network in entry 2; write a network such");
        refused(
            r#"{"prefixes":[{"ipv4Prefix":"34.1.208.0/20"},{}]}"#,
            "has no network in entry 2 of \"prefixes\"; write a network such",
        );
    }

    #[test]
    fn json_list_when_truncated_or_in_unknown_format_then_rejected() {
        let list = r#"{"addresses":["23.235.32.0/20"],"ipv6_addresses":["2a04:4e40::/32"]}"#;
        for end in 1..list.len() {
            refused(&list[..end], "begins like JSON but is not valid JSON (line 1, column");
        }
        refused("[\n\"192.0.2.1\",\n]", "begins like JSON but is not valid JSON (line 3, column 1)");
        refused("[\"192.0.2.1\"] x", "begins like JSON but is not valid JSON");
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
            refused(other, "is JSON, but not a known address list");
        }
        // The value of the unused key `a` is nested very deeply. Reading this value must not overflow the stack.
        let deep = format!(r#"{{"a":{}{},"addresses":["192.0.2.1"]}}"#, "[".repeat(10_000), "]".repeat(10_000));
        let _ = read(&deep);
    }

    proptest! {
        #[test]
        fn list_when_arbitrary_bytes_then_parse_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn list_when_similar_to_json_then_parse_does_not_panic(
            text in "[\\[{]([\\[{\\]},:\"]|\"addresses\":|\"prefixes\":|\"ip_prefix\":|\"values\":|\"result\":|\"::/1\"\
                     |null|1){0,24}",
        ) {
            let _ = parse(text.as_bytes());
        }

        #[test]
        fn list_when_written_as_lines_or_json_then_parsed_to_the_same_networks(
            networks in prop::collection::vec((any::<u128>(), any::<u32>(), 1_u8..=32), 1..20),
        ) {
            let v6 = networks.iter().map(|&(bits, _, prefix)| IpNet::new(Ipv6Addr::from(bits).into(), prefix));
            let v4 = networks.iter().map(|&(_, bits, prefix)| IpNet::new(Ipv4Addr::from(bits).into(), prefix));
            let written: Vec<_> = v6.chain(v4).map(|network| network.unwrap().trunc()).collect();
            let texts: Vec<_> = written.iter().map(ToString::to_string).collect();
            prop_assert_eq!(&parse(texts.join("\n").as_bytes()).unwrap(), &written);
            prop_assert_eq!(&parse(serde_json::to_vec(&texts).unwrap().as_slice()).unwrap(), &written);
        }
    }
}
