//! What each CDN costs: from samples of traffic and prices to a bill, a forecast and warnings.
//!
//! `samples` adds up the lines of a file, in slots of 5 minutes of one `month`. `tariff` turns a quantity into an
//! amount of `money`. `forecast` fills the part of the month without samples. `bill` puts these parts together for one
//! CDN, and `crossing` compares the forecasts before and after a change of shares.
//!
//! All calculations use integers. No file of this folder uses a socket, and only `samples` reads a file.

pub(crate) mod bill;
pub(crate) mod crossing;
pub(crate) mod forecast;
pub(crate) mod money;
pub(crate) mod month;
pub(crate) mod samples;
pub(crate) mod tariff;
