//! The guarded ramp: it raises the share of one provider step by step, and goes back if a guard is broken.
//!
//! `guards` compares the growth of the provider's counters with the growth of the others' counters. `progress` decides
//! after each look what to do next, and `journal_of_ramps` finds in the journal where a ramp stopped. These files use
//! no socket and no clock. The command (`cli/balance/run_ramp.rs`) has the loop.

pub(crate) mod guards;
pub(crate) mod journal_of_ramps;
pub(crate) mod progress;
pub(crate) mod timetable;
