//! Chooses the visitor's arm in each experiment (`[[experiment]]`) that applies to the request, and sends the arm to
//! the origin.
//!
//! **Place:** inside `verify`, because a signature of a CDN covers the target with the parameter that this layer
//! removes; outside of `pulls`, which stores URLs and must not store that parameter. Outside of `cache_control`, which
//! keeps responses that depend on an arm out of shared caches ([`Assigned`]).
//! **Reads:** the target, Referer, the class of the path, `Ctx::{provider, trail, refusal}`, and the fields with the
//! visitor's id and group. The layer removes each field whose name begins with X-Assign-, also without experiments,
//! and the parameters of overrides.
//! **Metrics:** `edgeshim_assignments_total`.
//! **Cost:** without experiments, one check of the set of field names. With experiments, also a search for overrides in
//! the query and in Referer, and at most one hash for each experiment that applies. **Can fail:** no.

pub(crate) mod arm_layout;
pub(crate) mod experiment;
pub(crate) mod experiment_keys;

use std::sync::Arc;

use http::header::Entry;
use http::{HeaderMap, HeaderName, Uri, request};
use metrics::Counter;

use self::experiment::{Experiment, Why};
use self::experiment_keys::{ExperimentSettings, NO_ARM};
use super::request::class::Classes;
use super::request::inspect::Inspect;
use super::request::{Assigned, Ctx, EdgeRequest};
use crate::cdn::known::Known;
use crate::ids::ClassId;
use crate::metrics::{Ledger, describe};
use crate::wire::names::{REFERER, is_assignment};
use crate::wire::query_parameters::{uri_without, url_without};

/// The largest number of experiments, which is the number of bits in [`Assigned::varies`].
pub(crate) const MAX_EXPERIMENTS: usize = 16;

/// Returns the parameters of the overrides of all experiments, also of experiments that are not enabled.
pub(crate) fn override_parameters(experiments: &[ExperimentSettings]) -> Vec<String> {
    experiments.iter().filter_map(|experiment| experiment.override_parameter.clone()).collect()
}

/// Gives visitors their arms.
#[derive(Debug)]
pub(crate) struct Assigner {
    experiments: Vec<Prepared>,
    /// The parameters of all overrides.
    parameters: Vec<String>,
    classes: Arc<Classes>,
    /// The configured providers, in the order of their ids.
    providers: Arc<[Known]>,
}

struct Prepared {
    experiment: Experiment,
    classes: Vec<ClassId>,
    /// The counter of each arm. The last counter is for requests without an arm. If the experiment is not enabled,
    /// the list is empty.
    counters: Vec<Counter>,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.experiment.fmt(f)
    }
}

/// For each experiment, the arm that a valid override selects.
type Forced = [Option<usize>; MAX_EXPERIMENTS];

/// The arm of one request in one experiment.
pub(crate) struct Decision<'a> {
    pub experiment: &'a Experiment,
    pub arm: Option<usize>,
    pub why: Why,
}

impl Decision<'_> {
    /// Returns the name of the arm, as in metrics.
    pub(crate) fn arm_name(&self) -> &'static str {
        self.arm.and_then(|arm| self.experiment.arms.get(arm)).map_or(NO_ARM, |arm| arm.name)
    }
}

impl Assigner {
    pub(crate) fn new(
        settings: Vec<ExperimentSettings>,
        classes: Arc<Classes>,
        providers: Arc<[Known]>,
        ledger: &Ledger,
    ) -> Self {
        let parameters = override_parameters(&settings);
        let prepare = |experiment: Experiment| {
            let arms = experiment.arms.iter().map(|arm| arm.name).chain([NO_ARM]);
            let counter = |arm| ledger.metrics().series(&describe::ASSIGNMENTS, &[experiment.name, arm]);
            Prepared {
                counters: if experiment.settings.enabled { arms.map(counter).collect() } else { Vec::new() },
                classes: experiment.settings.classes.iter().filter_map(|name| classes.named(name)).collect(),
                experiment,
            }
        };
        let experiments = settings.into_iter().filter_map(Experiment::new).map(prepare).collect();
        Self { experiments, parameters, classes, providers }
    }

    /// Returns the arms of a request in all experiments that apply to the request, with the positions of the
    /// experiments. An experiment applies if it is enabled and the response can be of one of the experiment's classes.
    fn decide<'s, 'r>(
        &'s self,
        forced: Forced,
        ctx: &'r Ctx,
        head: &'r request::Parts,
    ) -> impl Iterator<Item = (usize, Decision<'s>)> + use<'s, 'r> {
        let applies = move |prepared: &Prepared| {
            prepared.experiment.settings.enabled
                && self.classes.can_be_of(head.uri.path(), ctx.class, &prepared.classes)
        };
        self.experiments.iter().enumerate().filter(move |(_, prepared)| applies(prepared)).map(
            move |(position, Prepared { experiment, .. })| {
                let group = experiment.group(&head.headers, ctx.trail.peer_trusted);
                let forced = forced.get(position).copied().flatten();
                let (arm, why) = experiment.choose(forced, experiment.id(&head.headers), group);
                (position, Decision { experiment, arm, why })
            },
        )
    }

    /// Returns the arms of a request for `explain`. `received` is the request as the layer got it.
    pub(crate) fn decisions(&self, ctx: &Ctx, received: &request::Parts) -> Vec<Decision<'_>> {
        self.decide(self.forced(&received.uri), ctx, received).map(|(_, decision)| decision).collect()
    }

    /// Returns the arm that the target selects in each experiment.
    fn forced(&self, uri: &Uri) -> Forced {
        let mut forced = [None; MAX_EXPERIMENTS];
        if let Some(target) = uri.path_and_query().filter(|target| target.query().is_some()) {
            for (forced, prepared) in forced.iter_mut().zip(&self.experiments) {
                *forced = prepared.experiment.forced(target.as_str());
            }
        }
        forced
    }

    /// Removes the parameters of overrides from the target and from Referer. A page that was requested with an override
    /// is the Referer of its images.
    fn remove_parameters(&self, head: &mut request::Parts) {
        if self.parameters.is_empty() {
            return;
        }
        if let Some(uri) = uri_without(&head.uri, &self.parameters) {
            head.uri = uri;
        }
        if let Entry::Occupied(mut lines) = head.headers.entry(REFERER) {
            for line in lines.iter_mut() {
                if let Some(referer) = url_without(line, &self.parameters) {
                    *line = referer;
                }
            }
        }
    }

    /// Returns whether a decision makes the response private, or makes it vary by the visitor's id.
    fn assigned(&self, decision: &Decision<'_>, position: usize, ctx: &Ctx) -> Assigned {
        let settings = &decision.experiment.settings;
        let known = ctx.provider.position().and_then(|position| self.providers.get(position));
        // An override is no reason for Vary, because a CDN can ignore the query. A field that a trusted proxy adds is
        // no reason, because the CDN does not see this field. A cookie is no reason, because a CDN would store a copy
        // for each visitor.
        let varies = settings.id.header.is_some()
            && settings.groups.header.is_none()
            && decision.why != Why::Override
            && !ctx.trail.peer_trusted
            && known.is_some_and(|known| known.preset.stores_by_vary);
        if varies {
            Assigned { is_private: false, varies: 1 << position }
        } else {
            Assigned { is_private: true, varies: 0 }
        }
    }
}

impl Inspect for Assigner {
    fn inspect(&self, request: &mut EdgeRequest) {
        let EdgeRequest { ctx, head, .. } = request;
        if ctx.names.can_have_assignment() {
            remove_forged(&mut head.headers);
        }
        if self.experiments.is_empty() {
            return;
        }
        let forced = self.forced(&head.uri);
        self.remove_parameters(head);
        if ctx.refusal.is_some() {
            return;
        }
        let mut all = Assigned::default();
        let mut fields: [Option<(usize, usize)>; MAX_EXPERIMENTS] = [None; MAX_EXPERIMENTS];
        for ((position, decision), field) in self.decide(forced, ctx, head).zip(&mut fields) {
            let assigned = self.assigned(&decision, position, ctx);
            all.is_private |= assigned.is_private;
            all.varies |= assigned.varies;
            let arms = decision.experiment.arms.len();
            let counters = self.experiments.get(position).map(|prepared| &prepared.counters);
            if let Some(counter) = counters.and_then(|counters| counters.get(decision.arm.unwrap_or(arms))) {
                counter.increment(1);
            }
            *field = decision.arm.map(|arm| (position, arm));
        }
        for (position, arm) in fields.into_iter().flatten() {
            if let Some(Prepared { experiment, .. }) = self.experiments.get(position)
                && let Some(arm) = experiment.arms.get(arm)
            {
                // A head has far fewer fields than a map can have, so this never fails.
                let _ = head.headers.try_insert(experiment.field.clone(), arm.value.clone());
                ctx.names.add(&experiment.field);
            }
        }
        ctx.assigned = all;
    }
}

/// Removes the fields in which a client claims an arm.
fn remove_forged(headers: &mut HeaderMap) {
    let is_forged = |name: &&HeaderName| is_assignment(name.as_str().as_bytes());
    let forged: Vec<HeaderName> = headers.keys().filter(is_forged).cloned().collect();
    for name in forged {
        headers.remove(name);
    }
}
