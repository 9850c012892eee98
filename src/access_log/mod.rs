//! The access log: one line for each request with a valid head. A separate thread formats and writes the lines.
//!
//! The layer `observe` begins a [`Line`]. The layer `pulls` or `local` completes the line when the response has ended.
//! [`record`] contains the values of a line. [`formats`] turns these values into text. [`writer`] contains the queue
//! and the thread that empties the queue. [`output`] writes to a file or to standard output.
//! [`reader`] reads logs, for the commands that examine a log.

mod formats;
mod output;
pub(crate) mod reader;
mod record;
mod writer;

pub use self::formats::LogFormat;
pub use self::output::LogOutput;
pub(crate) use self::record::Record;
pub(crate) use self::writer::{AccessLog, AccessLogSettings, Line, Logs, OpenError};
