//! The layers a request goes through, one file each; `pipeline` alone knows their order.

pub mod admission;
pub mod cache_control;
pub mod gzip;
pub mod identify;
pub mod local;
pub mod observe;
pub mod pipeline;
pub mod pulls;
pub mod request;
pub mod verify;
pub mod whoopsie;
