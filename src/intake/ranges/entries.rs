//! The entries of an address list, collected up to the first that cannot be used, and the errors of lists.

use std::fmt;
use std::io;

use ipnet::IpNet;

use crate::cdn::addresses;
use crate::intake::followed::ReadError;

/// The largest file that is read, in bytes. The largest known list, of Azure, has some 5 MB.
pub(super) const MOST_BYTES: u64 = 64 * 1024 * 1024;
/// The largest number of networks in one file. CDNs have some hundreds; those that list single machines have some
/// thousands.
pub(super) const MOST_NETWORKS: usize = 200_000;
/// The AWS services whose machines are the CDN: all of them, and those that pull.
pub(super) const AWS_SERVICES: [&str; 2] = ["CLOUDFRONT", "CLOUDFRONT_ORIGIN_FACING"];
/// The Azure service tag of the machines that pull for the CDN.
pub(super) const AZURE_TAG: &str = "AzureFrontDoor.Backend";

/// Why a list cannot be used. The messages never quote the file: it may be a wrong file that contains secrets.
#[derive(Debug)]
pub enum ListError {
    /// The file is missing, or this user may not read it.
    Read(io::Error),
    /// It is longer than 64 MiB.
    TooLarge,
    /// It begins like JSON but is not JSON.
    Json {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// It is JSON, but not a known list.
    Shape,
    /// An entry is not a network.
    NoNetwork(Place),
    /// An entry is the network of all addresses.
    Everything(Place),
    /// It has no entries.
    Empty,
    /// It is the list of AWS without the services of its CDN.
    NoService,
    /// It is the list of Azure without the tag of its CDN.
    NoTag,
    /// It has more than 200,000 networks.
    TooMany,
}

/// A position in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A line, from 1.
    Line(usize),
    /// An entry of a JSON array: the array's name, and the position from 1.
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

impl fmt::Display for ListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => write!(
                f,
                "cannot be read ({error}); name a file that exists and that this user may read, for example \
                 \"file:ranges/fastly.json\""
            ),
            Self::TooLarge => write!(
                f,
                "is longer than {} MiB; name the list of one CDN, which is at most a tenth of that",
                MOST_BYTES >> 20
            ),
            Self::Json { line, column } => write!(
                f,
                "begins like JSON but is not valid JSON (line {line}, column {column}); download it again, or write \
                 one network per line"
            ),
            Self::Shape => f.write_str(
                "is JSON, but not a known address list; download the list of the CDN itself (Fastly, Cloudflare, AWS, \
                 Azure, Google, bunny.net, KeyCDN, CDN77, Gcore or Imperva), or write one network per line",
            ),
            Self::NoNetwork(place) => write!(
                f,
                "has no network in {place}; write one such as \"192.0.2.0/24\" or \"2001:db8::/32\", or an address"
            ),
            Self::Everything(place) => write!(
                f,
                "has the network of all addresses in {place}, which would prove every client to be the CDN; write the \
                 networks of the CDN"
            ),
            Self::Empty => {
                f.write_str("has no networks; download the list of the CDN again, or write one network per line")
            }
            Self::NoService => {
                let [cloudfront, origin_facing] = AWS_SERVICES;
                write!(
                    f,
                    "has no networks of the AWS services {cloudfront} and {origin_facing}, and only those count; \
                     download the whole ip-ranges.json of AWS"
                )
            }
            Self::NoTag => write!(
                f,
                "has no networks of the Azure service tag {AZURE_TAG}, and only those count; download the whole list \
                 of service tags"
            ),
            Self::TooMany => {
                write!(f, "has more than {MOST_NETWORKS} networks; name the list of one CDN, which has far fewer")
            }
        }
    }
}

impl From<ReadError> for ListError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => Self::Read(error),
            ReadError::TooLarge => Self::TooLarge,
        }
    }
}

/// A network, or one address.
pub(super) fn network(entry: &[u8]) -> Option<IpNet> {
    addresses::network(std::str::from_utf8(entry).ok()?).ok()
}

/// The networks of one array or of all lines, up to the first error.
#[derive(Default)]
pub(super) struct Found {
    pub(super) networks: Vec<IpNet>,
    entries: usize,
    pub(super) error: Option<(usize, Wrong)>,
}

/// Why an entry cannot be used.
#[derive(Clone, Copy)]
pub(super) enum Wrong {
    NoNetwork,
    Everything,
    OneTooMany,
}

impl Wrong {
    pub(super) fn at(self, place: Place) -> ListError {
        match self {
            Self::NoNetwork => ListError::NoNetwork(place),
            Self::Everything => ListError::Everything(place),
            Self::OneTooMany => ListError::TooMany,
        }
    }
}

impl Found {
    /// Adds an entry. None: it is not a network.
    pub(super) fn take(&mut self, network: Option<IpNet>) {
        self.skip();
        let wrong = match network {
            _ if self.error.is_some() => return,
            None => Wrong::NoNetwork,
            Some(network) if network.prefix_len() == 0 => Wrong::Everything,
            Some(_) if self.networks.len() == MOST_NETWORKS => Wrong::OneTooMany,
            Some(network) => return self.networks.push(network),
        };
        self.error = Some((self.entries, wrong));
    }

    /// Skips an entry.
    pub(super) fn skip(&mut self) {
        self.entries += 1;
    }
}

/// The networks of all arrays, each with its name. `none` is the error if there are none.
pub(super) fn all_networks(
    arrays: impl IntoIterator<Item = (&'static str, Option<Found>)>,
    none: ListError,
) -> Result<Vec<IpNet>, ListError> {
    let mut all = Vec::new();
    for (array, found) in arrays {
        let Some(mut found) = found else { continue };
        if let Some((entry, wrong)) = found.error {
            return Err(wrong.at(Place::Entry(array, entry)));
        }
        all.append(&mut found.networks);
        if all.len() > MOST_NETWORKS {
            return Err(ListError::TooMany);
        }
    }
    if all.is_empty() { Err(none) } else { Ok(all) }
}
