//! Input that is not a pull: beacons, load times (RUM), the logs that CDNs push, the signed paths of `edgeshim smoke`,
//! the configured address lists and country files, the files of `[server.tls]`, and the CAs of providers.

pub(crate) mod beacon;
pub(crate) mod country;
pub(crate) mod echo_report;
pub(crate) mod edge_logs;
mod followed;
pub(crate) mod form;
pub(crate) mod posted;
pub(crate) mod ranges;
pub(crate) mod rum;
pub(crate) mod server_tls;
pub(crate) mod signed_path;
