//! Input other than pulls: beacons, RUM, and files that the configuration names.

pub(crate) mod beacon;
pub(crate) mod country;
mod followed;
pub(crate) mod form;
pub(crate) mod posted;
pub(crate) mod ranges;
pub(crate) mod rum;
