//! Reads access logs of edgeshim in the format json. In the formats combined and etsy, the reader finds only beacons.
//! [`explain ID`](crate::cli), `verify-log` and `bundle` use this reader. The writer of the format is
//! [`formats`](super::formats), and a test reads what the writer writes.
//!
//! - [`blocks`] reads a file, a compressed file or standard input in blocks of complete lines.
//! - [`json_object`] splits a line into keys and values, and [`entry`] gives the values their types.
//! - [`ncsa`] reads lines in the formats combined and etsy. Such lines have no key for the request id. Only the target
//!   of a beacon contains an id: the id of the request that got the page with the beacon.
//! - [`id_search`] finds the lines of one request id.
//! - [`recount`] adds up the lines, and calculates the values that edgeshim's counters must have after these requests.
//! - [`stamp`] is the time of a line.
//!
//! A log can be hostile or damaged: clients choose many of its texts, and a person can name any file. So memory is
//! bounded, an unreadable line does not stop the reader, and texts are shown without control characters.

pub(crate) mod blocks;
pub(crate) mod entry;
pub(crate) mod id_search;
mod json_object;
pub(crate) mod ncsa;
pub(crate) mod recount;
pub(crate) mod stamp;

use memchr::memmem;

use self::entry::Entry;
use self::id_search::{Found, IdSearch};
use crate::wire::trace_context::valid_request_id;

/// Counts the requests in a log that have the id `id`. Returns two numbers: the number that the search finds, and the
/// number after a read of every line. `None`: the id is not valid. The fuzz target uses this function.
pub fn outcome(log: &[u8], id: &str) -> Option<[usize; 2]> {
    if !valid_request_id(id.as_bytes()) {
        return None;
    }
    let mut found = 0;
    IdSearch::new(id).search(log, |_, one| found += usize::from(matches!(one, Found::Request(_))));
    let has_id = |line: &&[u8]| {
        let is_of_id = Entry::read(line).is_ok_and(|entry| entry.id.decoded() == id);
        // The search looks for the bytes of the id, so it does not find an id that is written with escapes.
        is_of_id && memmem::find(line, id.as_bytes()).is_some()
    };
    Some([found, log.split(|&byte| byte == b'\n').filter(has_id).count()])
}
