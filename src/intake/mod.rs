//! What comes in beside pulls.

pub mod beacon;
pub mod country;
pub mod form;
pub mod posted;
pub mod rum;
