//! The logs that CDNs push. A CDN sends its log lines in batches. Each batch is the body of one request to edgeshim.
//! This module reads a batch and adds up the requests, bytes and results that its lines report.
//!
//! A batch is a sequence of lines, a JSON array, or an envelope of Amazon Firehose. The body can be compressed with
//! gzip. The batch is read in pieces, as the pieces arrive, so even a large batch needs little memory. The sums are
//! added to the metrics only after the last byte of the batch has been read. So either all lines of a batch are
//! counted, or none.

mod background;
mod batch;
mod envelope;
mod gunzip;
mod line;
mod permits;
mod receiver;
mod split;
mod time;

use std::sync::Arc;

use bytes::Bytes;

use crate::cdn::preset::Preset;

pub(crate) use self::batch::{Batch, BatchCoding, BatchError, BatchForm, Sums};
pub(crate) use self::permits::Intake;
pub(crate) use self::receiver::Reader;

/// Reads a batch whose body arrives in pieces of `size` bytes. Returns the sums as text, or `None` if the batch is
/// refused. The property test and the fuzz target use this function.
pub fn outcome(preset: &str, body: &[u8], size: usize, is_firehose: bool, clock: fn() -> i64) -> Option<String> {
    const MAX_BYTES: u64 = 64 * 1024;
    let form = Arc::new(BatchForm::new(Preset::named(preset)?.logs.clone(), 1, MAX_BYTES));
    let mut batch = Batch::new(&form, BatchCoding::ByContent, is_firehose, clock);
    for piece in body.chunks(size.max(1)) {
        let mut piece = Bytes::copy_from_slice(piece);
        while batch.step(&mut piece).ok()? > 0 {}
    }
    batch.finish().ok().map(|sums| format!("{sums:?}"))
}
