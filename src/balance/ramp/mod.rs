//! The guarded ramp: it raises the share of one provider step by step, and goes back if a guard is broken.
//!
//! `figure_source` reads the counters of all shims, from the shims or from Prometheus. `figures` turns two looks into
//! the differences between them. `guards` compares the differences of the provider with those of the others. `progress`
//! decides after each look what to do next, and `journal_of_ramps` finds in the journal where a ramp stopped. Except
//! `figure_source`, these files use no socket and no clock. The command (`cli/balance/run_ramp.rs`) has the loop.

pub(crate) mod figure_source;
pub(crate) mod figures;
pub(crate) mod guards;
pub(crate) mod journal_of_ramps;
pub(crate) mod progress;
pub(crate) mod timetable;
