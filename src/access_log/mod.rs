//! The access log: one line for each request. A separate thread formats and writes the lines.
//!
//! `observe` begins a [`Line`]. `pulls` or `local` completes the line when the response has ended. [`record`] has the
//! values of a line. [`formats`] turns these values into text. [`writer`] has the queue and its thread. [`output`] is
//! the file or standard output.

mod formats;
mod output;
mod record;
mod writer;

pub use self::formats::LogFormat;
pub use self::output::LogOutput;
pub(crate) use self::record::Record;
pub(crate) use self::writer::{AccessLog, AccessLogSettings, Line};
