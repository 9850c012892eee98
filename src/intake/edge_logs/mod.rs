//! The logs that CDNs push. A CDN sends its log lines in batches. Each batch is the body of one request to edgeshim.
//! This module reads a batch and adds up the requests, bytes and results that its lines report.
//!
//! A batch is a sequence of lines, a JSON array, or an envelope of Amazon Firehose. The body can be compressed with
//! gzip. The batch is read in pieces, as the pieces arrive, so even a large batch needs little memory. The sums are
//! added to the metrics only after the last byte of the batch has been read. So either all lines of a batch are
//! counted, or none.

mod batch;
mod envelope;
mod line;
mod permits;
mod split;
mod time;

pub(crate) use self::batch::{Batch, BatchCoding, BatchError, BatchForm, Sums};
pub(crate) use self::permits::{Intake, Permit};
