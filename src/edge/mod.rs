//! The layers that a request passes. Each layer has its own file or folder. Only `pipeline` defines their order.

pub(crate) mod admission;
pub(crate) mod assign;
pub(crate) mod cache_control;
pub(crate) mod gzip;
pub(crate) mod identify;
pub(crate) mod leaf;
pub(crate) mod local;
pub(crate) mod observe;
pub(crate) mod pipeline;
pub(crate) mod pulls;
pub(crate) mod recorder;
pub(crate) mod request;
pub(crate) mod verify;
pub(crate) mod whoopsie;
