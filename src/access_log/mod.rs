//! The access log: one line for each request, formatted and written by a thread of its own.
//!
//! `observe` begins a [`Line`], `pulls` or `local` completes it when the response has ended. [`record`] holds the
//! values, [`formats`] makes lines of them, [`writer`] is the queue and its thread, [`output`] the file or standard
//! output.

mod formats;
mod output;
mod record;
mod writer;

pub use self::formats::LogFormat;
pub use self::output::LogOutput;
pub(crate) use self::record::Record;
pub(crate) use self::writer::{AccessLog, AccessLogSettings, Line};
