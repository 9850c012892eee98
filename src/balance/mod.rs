//! How many clients each CDN gets: the weights of the CDNs in DNS.
//!
//! `edgeshim balance` is a process of its own with a file of its own (`balance.toml`), so that `edgeshim run` never
//! has the keys of DNS services. The modes and weights that apply are data in the records of the DNS services. The
//! journal is only a record: who made a change and why, and the shares before and after the change.
//!
//! A change goes through these files: `balance_file` reads `balance.toml`, `dns` reads the records of the services,
//! `plan` computes the new records, `refuse` lists the reasons not to write them, and `tables` shows the plan.
//! `transaction` writes the records and reads them again to check them. If a write or a check fails, `transaction`
//! restores the earlier records. `journal` stores the result, and `announce` sends the change to the shims (the
//! edgeshim processes that serve requests). `change` has the steps from the reading of the records to the announcement.
//!
//! `share`, `grid` and `runs` have the arithmetic. `plan`, `refuse` and the arithmetic use neither sockets nor files.
//!
//! `figure_source` reads the counters of all shims, from the shims or from Prometheus. `figures` has the growth of the
//! counters between two readings, and `observed_shares` has the shares that follow from this growth.
//!
//! `cost` computes what the CDNs bill, `price_keys` reads the prices of the CDNs, `plan_cost` warns about the cost of a
//! plan, `cost_tables` shows bills, and `edge_counters` reads the traffic at the edges from the shims.
//!
//! `watch` makes changes when the probes of an edge fail or succeed again. `ramp` makes several changes, and reads the
//! counters of the shims between two changes. `undo` computes the shares to which a rollback returns. `page` is the
//! page of `edgeshim balance serve`.

pub(crate) mod announce;
pub(crate) mod api_call;
pub(crate) mod asked_values;
pub(crate) mod balance_file;
mod base_url;
pub(crate) mod change;
pub(crate) mod cost;
pub(crate) mod cost_tables;
mod dns;
pub(crate) mod edge_counters;
pub(crate) mod figure_source;
pub(crate) mod figures;
mod grid;
pub(crate) mod journal;
mod node;
pub(crate) mod observed_shares;
pub(crate) mod page;
mod page_keys;
pub(crate) mod plan;
pub(crate) mod plan_cost;
mod price_keys;
pub(crate) mod ramp;
pub(crate) mod ramp_keys;
pub(crate) mod refuse;
mod runs;
pub(crate) mod share;
pub(crate) mod side_by_side;
pub(crate) mod standing;
pub(crate) mod tables;
pub(crate) mod transaction;
pub(crate) mod undo;
pub(crate) mod watch;
mod watch_keys;
