//! How many clients each CDN gets: the weights of the CDNs in DNS.
//!
//! `edgeshim balance` is a process of its own with a file of its own (`balance.toml`), so that `run` never has the keys
//! of DNS services. The DNS service holds the truth: the modes and weights are data in its records. The journal says
//! who changed what and why.
//!
//! A change goes through these files: `balance_file` reads the keys, `dns` reads what the services have, `plan`
//! computes what to write, `refuse` says what speaks against it, `tables` shows it, and `transaction` writes it and
//! reads it back, or puts everything back. `journal` notes the result, and `announce` sends the change to the shims.
//! `change` has the steps from the first reading to the announcement. `observed_shares` asks the shims for the observed
//! shares. `share`, `grid` and `runs` have the arithmetic. `plan`, `refuse` and the arithmetic use neither sockets nor
//! files.
//!
//! `cost` computes what the CDNs bill, `price_keys` reads their prices, `plan_cost` warns about the cost of a plan,
//! `cost_tables` shows bills, and `edge_counters` asks the shims for the traffic at the edges. `watch` asks for changes
//! when a probe of an edge fails. `ramp` makes several changes, and reads the figures of the shims between them. `page`
//! is the page of `edgeshim balance serve`.

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
mod side_by_side;
pub(crate) mod standing;
pub(crate) mod tables;
pub(crate) mod transaction;
pub(crate) mod watch;
mod watch_keys;
