//! Logs that CDNs push: reads a batch of log lines and sums what the lines report.
//!
//! A batch is a sequence of lines, a JSON array, or an envelope of Amazon Firehose. Its body can have gzip. The batch
//! is read in pieces as they arrive, so its size does not matter for the memory. The sums are added to the metrics only
//! after the whole batch was read, so that a batch counts as a whole or not at all.

mod batch;
mod envelope;
mod line;
mod permits;
mod split;
mod time;

pub(crate) use self::batch::{Batch, BatchCoding, BatchError, BatchForm, Sums};
pub(crate) use self::permits::{Intake, Permit};
