//! The metrics of `gzip`, except for the metric of the ripener.

use std::sync::Arc;

use metrics::Counter;

use super::decide::Skip;
use super::twins::Found;
use crate::ids::ClassId;
use crate::metrics::{Ledger, Table, describe};

#[derive(Debug)]
pub(super) struct Counts {
    pub(super) ledger: Arc<Ledger>,
    pub(super) skipped: Table<Skip, Counter>,
    pub(super) twins: Table<Found, Counter>,
    pub(super) input_bytes: Table<ClassId, Counter>,
    pub(super) output_bytes: Table<ClassId, Counter>,
}

impl Counts {
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        Self {
            skipped: ledger.table(&describe::GZIP_SKIPPED),
            twins: ledger.table(&describe::GZIP_TWINS),
            input_bytes: ledger.table(&describe::GZIP_INPUT_BYTES),
            output_bytes: ledger.table(&describe::GZIP_OUTPUT_BYTES),
            ledger,
        }
    }

    /// Counts the bytes of a body before and after compression.
    pub(super) fn compressed(&self, class: ClassId, input: u64, output: u64) {
        self.input_bytes.get(class).increment(input);
        self.output_bytes.get(class).increment(output);
    }
}
