//! What comes in beside pulls.

pub mod beacon;
pub mod country;
mod followed;
pub mod form;
pub mod posted;
pub mod ranges;
pub mod rum;
