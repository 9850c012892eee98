//! Collects the entries of an address list, up to the first invalid entry. Also defines the errors of a list.

use std::fmt;
use std::io;

use ipnet::IpNet;

use crate::cdn::addresses;
use crate::intake::followed::ReadError;

/// The largest file that is read, in bytes. The largest known list is that of Azure, with some 5 MB.
pub(super) const MOST_BYTES: u64 = 64 * 1024 * 1024;
/// The largest number of networks in one file. The lists of most CDNs have some hundreds of networks. Lists whose
/// entries are single machines have some thousands of entries.
pub(super) const MOST_NETWORKS: usize = 200_000;
/// The AWS services whose networks are used. The first service has all machines of CloudFront. The second service has
/// only the machines of CloudFront that send pulls.
pub(super) const AWS_SERVICES: [&str; 2] = ["CLOUDFRONT", "CLOUDFRONT_ORIGIN_FACING"];
/// The Azure service tag for the machines of Azure Front Door that send pulls. Only the networks of this tag are used.
pub(super) const AZURE_TAG: &str = "AzureFrontDoor.Backend";

/// The reason why a list cannot be used. The messages never quote the file, because the operator could have configured
/// the wrong file, and that file could contain secrets.
#[derive(Debug)]
pub enum ListError {
    /// The file is missing, is not a regular file, or is not readable for the user of this process.
    Read(io::Error),
    /// The file is longer than 64 MiB.
    TooLarge,
    /// The file begins like JSON but is not valid JSON.
    Json {
        /// The line of the error. The first line is 1.
        line: usize,
        /// The column of the error. The first column is 1.
        column: usize,
    },
    /// The file is JSON, but it is not a list in a known format.
    Shape,
    /// The entry at this place is not a network.
    NoNetwork(Place),
    /// The entry at this place is a network that contains all addresses.
    Everything(Place),
    /// The list has no networks.
    Empty,
    /// The list is from AWS, but contains no network of the services in `AWS_SERVICES`.
    NoService,
    /// The list is from Azure, but contains no network of the tag `AZURE_TAG`.
    NoTag,
    /// The list has more than 200,000 networks.
    TooMany,
}

/// The position of an entry in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The number of a line. The first line is 1.
    Line(usize),
    /// An entry of a JSON array: the name of the array, and the number of the entry. The first entry is 1.
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
                "cannot be read ({error}); name a file that this user may read, for example \
                 \"file:ranges/fastly.json\""
            ),
            Self::TooLarge => write!(
                f,
                "is longer than {} MiB; name the list of one CDN, which is at most a tenth of that size",
                MOST_BYTES >> 20
            ),
            Self::Json { line, column } => write!(
                f,
                "begins like JSON but is not valid JSON (line {line}, column {column}); download the file again, or \
                 write one network per line"
            ),
            Self::Shape => f.write_str(
                "is JSON, but not a known address list; download the list that the CDN publishes (Fastly, Cloudflare, \
                 AWS, Azure, Google, bunny.net, KeyCDN, CDN77, Gcore or Imperva), or write one network per line",
            ),
            Self::NoNetwork(place) => write!(
                f,
                "has no network in {place}; write a network such as \"192.0.2.0/24\" or \"2001:db8::/32\", or an \
                 address"
            ),
            Self::Everything(place) => write!(
                f,
                "has a network in {place} that contains all addresses, so every client would count as the CDN; write \
                 only the networks of the CDN"
            ),
            Self::Empty => {
                f.write_str("has no networks; download the list of the CDN again, or write one network per line")
            }
            Self::NoService => {
                let [cloudfront, origin_facing] = AWS_SERVICES;
                write!(
                    f,
                    "has no networks of the AWS services {cloudfront} and {origin_facing}, and edgeshim uses no other \
                     networks of AWS; download the complete ip-ranges.json of AWS"
                )
            }
            Self::NoTag => write!(
                f,
                "has no networks of the Azure service tag {AZURE_TAG}, and edgeshim uses no other networks of Azure; \
                 download the complete list of service tags"
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

/// Reads a network. A single address becomes a network that contains only this address.
pub(super) fn network(entry: &[u8]) -> Option<IpNet> {
    addresses::network(std::str::from_utf8(entry).ok()?).ok()
}

/// The networks of one JSON array, or of all lines of a text file, up to the first error.
#[derive(Default)]
pub(super) struct Found {
    pub(super) networks: Vec<IpNet>,
    entries: usize,
    pub(super) error: Option<(usize, Wrong)>,
}

/// The reason why an entry cannot be used.
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
    /// Adds an entry. `None` stands for an entry that is not a network.
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

    /// Counts an entry without using its network, so that the positions in messages stay correct.
    pub(super) fn skip(&mut self) {
        self.entries += 1;
    }
}

/// Returns the networks of all arrays of a JSON list. Each array has a name for messages. `none` is the error that is
/// returned if the arrays contain no network.
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
