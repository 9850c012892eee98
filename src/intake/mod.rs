//! Input that is not a pull: beacons, load times (RUM), and the files of addresses and countries that the configuration
//! names.

pub(crate) mod beacon;
pub(crate) mod country;
mod followed;
pub(crate) mod form;
pub(crate) mod posted;
pub(crate) mod ranges;
pub(crate) mod rum;
