//! What comes in beside pulls.

pub mod beacon;
