//! Finds the lines that belong to one request id. First the bytes of the id are searched in whole blocks, so that lines
//! without these bytes are not parsed. Then each line with these bytes is parsed, because the bytes can be anywhere in
//! a line, for example in a User-Agent or inside a longer id.

use memchr::memmem::Finder;
use memchr::{memchr, memrchr};

use super::entry::Entry;
use super::ncsa::NcsaLine;

/// A line that concerns the request id.
#[derive(Debug)]
pub(crate) enum Found<'l> {
    /// The request with this id.
    Request(Entry<'l>),
    /// A line of a local endpoint, usually of a beacon. The query has this id as a parameter. A beacon shows that a
    /// browser displayed the page with this id.
    Beacon(Entry<'l>),
    /// A beacon in the format combined or etsy.
    NcsaBeacon(NcsaLine<'l>),
    /// Any other line in the format combined or etsy that contains the bytes of the id.
    OtherFormat,
    /// A line that contains the bytes of the id, but cannot be read.
    Unreadable(&'static str),
}

/// A search for one request id.
pub(crate) struct IdSearch {
    id: Vec<u8>,
    finder: Finder<'static>,
}

impl IdSearch {
    /// `id` must be a valid request id, which JSON and the formats combined and etsy write without escapes.
    pub(crate) fn new(id: &str) -> Self {
        Self { id: id.as_bytes().to_vec(), finder: Finder::new(id.as_bytes()).into_owned() }
    }

    /// Calls `found` with each line in `lines` that concerns the id. `lines` consists of complete lines.
    pub(crate) fn search<'l>(&self, lines: &'l [u8], mut found: impl FnMut(&'l [u8], Found<'l>)) {
        let mut rest = lines;
        while let Some(at) = self.finder.find(rest) {
            let (before, after) = rest.split_at(at);
            let start = memrchr(b'\n', before).map_or(0, |newline| newline + 1);
            let end = at + memchr(b'\n', after).unwrap_or(after.len());
            let line = rest.get(start..end).unwrap_or_default();
            if let Some(one) = self.judge(line) {
                found(line, one);
            }
            rest = rest.get(end..).unwrap_or_default();
        }
    }

    /// Returns how a line concerns the id. `None`: the line does not concern the id.
    fn judge<'l>(&self, line: &'l [u8]) -> Option<Found<'l>> {
        match Entry::read(line) {
            Ok(entry) if entry.id.decoded().as_bytes() == self.id => Some(Found::Request(entry)),
            Ok(entry) if !entry.is_pull() && self.is_named_by(entry.path.decoded().as_bytes()) => {
                Some(Found::Beacon(entry))
            }
            Ok(_) => None,
            Err(why) => Some(match NcsaLine::read(line) {
                Some(beacon) if self.is_named_by(beacon.target) && has_source(beacon.target) => {
                    Found::NcsaBeacon(beacon)
                }
                Some(_) => Found::OtherFormat,
                None => Found::Unreadable(why),
            }),
        }
    }

    /// Returns whether the query of a target has the parameter `id` with the searched id.
    fn is_named_by(&self, target: &[u8]) -> bool {
        parameters(target).any(|pair| pair.strip_prefix(b"id=") == Some(&self.id))
    }
}

/// Returns whether the query of a target has a parameter with the source of a beacon. In the formats combined and etsy,
/// only this parameter distinguishes beacons from pulls.
fn has_source(target: &[u8]) -> bool {
    parameters(target).any(|pair| pair.starts_with(b"source=") || pair.starts_with(b"beacon_source="))
}

fn parameters(target: &[u8]) -> impl Iterator<Item = &[u8]> {
    target.splitn(2, |&byte| byte == b'?').skip(1).flat_map(|query| query.split(|&byte| byte == b'&'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = concat!(
        r#"{"time":"2026-11-28T12:30:00.000Z","id":"r-1","provider":"fastly","class":"html","status":200,"#,
        r#""bytes":1,"origin_bytes":1,"path":"/","user_agent":""}"#,
        "\n"
    );

    fn found(id: &str, log: &str) -> Vec<String> {
        let mut all = Vec::new();
        IdSearch::new(id).search(log.as_bytes(), |line, found| {
            let kind = match found {
                Found::Request(_) => "request",
                Found::Beacon(_) => "beacon",
                Found::NcsaBeacon(_) => "ncsa beacon",
                Found::OtherFormat => "other format",
                Found::Unreadable(_) => "unreadable",
            };
            assert!(!line.contains(&b'\n'));
            all.push(kind.to_owned());
        });
        all
    }

    #[test]
    fn id_when_in_the_key_id_then_is_found_but_elsewhere_is_not_found() {
        let longer = LINE.replace("r-1", "r-12");
        let agent = LINE.replace("r-1", "x").replace(r#""user_agent":"""#, r#""user_agent":"r-1 \"id\":\"r-1\"""#);
        let path = LINE.replace("r-1", "x").replace(r#""path":"/""#, r#""path":"/?id=r-1""#);
        let log = [&longer, LINE, &agent, &path, LINE].concat();
        assert_eq!(found("r-1", &log), ["request", "request"]);
        assert_eq!(found("r-12", &log), ["request"]);
        assert!(found("r-2", &log).is_empty());
    }

    #[test]
    fn beacon_when_target_has_the_id_as_parameter_then_is_found() {
        let beacon = LINE.replace("r-1", "x").replace(r#""class":"html""#, r#""class":"""#);
        let with = |target: &str| beacon.replace(r#""path":"/""#, &format!(r#""path":"/b.gif?{target}""#));
        assert_eq!(found("r-1", &with("source=fastly&id=r-1")), ["beacon"]);
        for other in ["id=r-12", "xid=r-1", "ID=r-1", "x=id=r-1", "a=r-1"] {
            assert!(found("r-1", &with(other)).is_empty(), "{other}");
        }
        let ncsa = concat!(
            "192.0.2.1 - - [28/Nov/2026:12:30:00 +0000] ",
            "\"GET /b.gif?source=a&id=r-1 HTTP/1.1\" 200 43 \"-\" \"-\" none\n"
        );
        assert_eq!(found("r-1", ncsa), ["ncsa beacon"]);
        assert_eq!(found("r-1", &ncsa.replace("&id=r-1", "&x=r-1")), ["other format"]);
        assert_eq!(found("r-1", &ncsa.replace("source", "x")), ["other format"]);
        assert_eq!(found("r-1", "r-1\n{\"id\":\"r-1\"}\n"), ["unreadable", "unreadable"]);
    }
}
