//! The ramp: it raises the share of one provider step by step, and puts the weights back if a limit in `[ramp] guard`
//! is broken. In this folder, a guard is such a limit, and not a rule for responses.
//!
//! `guards` compares the growth of the provider's counters with the growth of the other providers' counters. `progress`
//! decides after each look at the counters what to do next. `journal_of_ramps` finds in the journal where a ramp
//! stopped. `timetable` writes when each step can begin. These files use no socket and no clock. The command
//! (`cli/balance/run_ramp.rs`) has the loop.

pub(crate) mod guards;
pub(crate) mod journal_of_ramps;
pub(crate) mod progress;
pub(crate) mod timetable;
