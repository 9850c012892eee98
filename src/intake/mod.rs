//! Input that is not a pull: beacons, load times (RUM), and the address lists and country files that are configured.

pub(crate) mod beacon;
pub(crate) mod country;
pub(crate) mod edge_logs;
mod followed;
pub(crate) mod form;
pub(crate) mod posted;
pub(crate) mod ranges;
pub(crate) mod rum;
