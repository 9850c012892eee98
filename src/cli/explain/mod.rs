//! `edgeshim explain`: shows what happens to one request and its response, and why.
//!
//! The request goes through the same layers as in `run`, to an origin that responds with the given head ([`scripted`]).
//! A recorder between the layers saves the heads, and [`trace`] compares the heads. [`reasons`] has the texts for the
//! fields that a layer changed. [`decisions`] has the texts for the decisions of the layers. If there is no text for a
//! change, the name of the layer is shown as the reason.
//!
//! With a request id, `explain` shows what access logs contain about the request ([`logged`], [`story`]).

mod arguments;
mod decisions;
mod logged;
mod reasons;
mod report;
mod scripted;
mod story;
mod trace;

use std::borrow::Cow;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderValue, response};

pub(super) use self::arguments::ExplainArguments;
use self::arguments::Failed;
use self::reasons::{Incoming, LEAF, Outgoing};
use self::report::{Answer, Asked, Assignment, Class, Client, Field, Provider, Report, Word};
use self::scripted::Run;
use self::trace::{Step, Trace};
use super::terminal::{USAGE, print};
use crate::cdn::known;
use crate::cdn::tags::TagRule;
use crate::config::Settings;
use crate::edge::assign::{Assigner, Decision};
use crate::edge::cache_control::outcome::Guard;
use crate::edge::cache_control::policy::{Facts, Prepared};
use crate::edge::gzip;
use crate::edge::identify::Identifier;
use crate::edge::pipeline::Parts;
use crate::edge::recorder::Passed;
use crate::edge::request::Ctx;
use crate::ids::{ProviderId, Reason};
use crate::metrics::Metrics;
use crate::runtime::Runtime;
use crate::wire::forwarded::{Peer, Scheme};
use crate::wire::head_fields::Names;
use crate::wire::names::{AUTHORIZATION, PROXY_AUTHORIZATION, REFERER, SERVER_TIMING, TRACEPARENT, X_REQUEST_ID};
use crate::wire::query_parameters;
use crate::wire::values::content_length;

/// The text that is shown in place of a secret.
const HIDDEN: &str = "***";

pub(super) fn explain(arguments: &ExplainArguments) -> ExitCode {
    if let Some(id) = &arguments.id {
        return logged::explain_logged(id, &arguments.log, arguments.json);
    }
    let settings = match arguments.config.load_or_print() {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let written = report(arguments, settings).and_then(|report| {
        Ok(if arguments.json { serde_json::to_string_pretty(&report)? + "\n" } else { report.to_string() })
    });
    match written {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("edgeshim explain: {error}");
            ExitCode::from(USAGE)
        }
    }
}

fn report(arguments: &ExplainArguments, settings: Settings) -> Result<Report, Failed> {
    let (request, host_assumed) = arguments.request(&settings)?;
    let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new()?));
    let runtime = Runtime::build_still(settings, metrics)?;
    let peer = Arc::new(Peer::new(arguments.peer, Scheme::Http));
    let path = request.uri.path().to_owned();
    let run = Run::new(&runtime, &peer, request, arguments.response()?)?;
    let explainer = Explainer { runtime: &runtime, parts: runtime.parts(), run, peer, host_assumed };
    let mut report = Report {
        request: Asked { method: arguments.method.to_string(), path: arguments.path.clone().unwrap_or_default() },
        ..Report::default()
    };
    if let Some(path) = query_parameters::without(&report.request.path, explainer.parameters()) {
        report.request.path = path;
    }
    explainer.explain(&path, &mut report);
    Ok(report)
}

/// One request that went through the layers, and the parts from which the layers were built.
struct Explainer<'a> {
    runtime: &'a Runtime,
    parts: Parts,
    run: Run,
    peer: Arc<Peer>,
    host_assumed: bool,
}

impl Explainer<'_> {
    fn explain(&self, path: &str, report: &mut Report) {
        self.provider(report);
        if self.passed("verify").is_some() {
            let rule = self.parts.classes.rule(self.run.facts.class);
            report.class = Some(Class { name: rule.name.clone(), why: decisions::class(self.run.facts.class, rule) });
        }
        self.assignments(report);
        let ids = self.sent(report);
        let responder = self.responder();
        if let (Some("local"), Some(endpoint)) = (responder, self.parts.local.endpoint(path)) {
            // No status is reported, because the status depends on the content of the request.
            report.answer = Some(Answer { status: None, reason: decisions::local(endpoint).to_owned() });
            return;
        }
        if let Some(layer) = responder {
            let status = self.run.head.status;
            // If there is no context, the first layer has refused the request. The first layer itself refuses only
            // malformed heads.
            let refusal = self.ctx().map_or(Some(Reason::Malformed), |ctx| ctx.refusal);
            let reason = refusal
                .map_or_else(|| format!("{layer} responds"), |reason| decisions::refusal(reason, status).to_owned());
            report.answer = Some(Answer { status: Some(status.as_u16()), reason });
        }
        let outgoing = self.decided(report);
        self.response(report, &outgoing, &ids);
    }

    /// Returns the layer that responded without calling the next layer. `None`: the origin got the request.
    fn responder(&self) -> Option<&'static str> {
        self.run.recording.layers.get(self.run.recording.requests.len()).copied()
    }

    /// Returns the context of the last request that a layer passed on. `None`: the first layer refused the request.
    fn ctx(&self) -> Option<&Ctx> {
        self.run.recording.requests.last().map(|passed| &passed.ctx)
    }

    fn provider_label(&self) -> &'static str {
        self.runtime.ledger().provider(self.ctx().map_or(ProviderId::NONE, |ctx| ctx.provider))
    }

    /// Returns the request as `layer` passed it on.
    fn passed(&self, layer: &str) -> Option<&Passed> {
        self.run.recording.requests.iter().find(|passed| passed.layer == layer)
    }

    /// Returns the request as `layer` got it. `None`: `layer` is the first layer or did not get the request.
    fn request_to(&self, layer: &str) -> Option<&Passed> {
        let position = self.run.recording.layers.iter().position(|name| *name == layer)?;
        self.run.recording.requests.get(position.checked_sub(1)?)
    }

    /// Returns the response, or the failure, as `layer` got it from the next layer.
    fn response_to(&self, layer: &str) -> Option<Result<&response::Parts, &str>> {
        let returned = self.run.recording.responses.iter().find(|returned| returned.layer == layer)?;
        Some(returned.outcome.as_ref().map_err(String::as_str))
    }

    fn provider(&self, report: &mut Report) {
        let (Some(received), Some(identified)) = (self.request_to("identify"), self.passed("identify")) else { return };
        let received = &received.head.headers;
        let Parts { identify, providers, .. } = &self.parts;
        let claims = identified.ctx.provider.position().and_then(|position| providers.get(position));
        let (_, why) = Identifier::new(identify.clone(), Arc::clone(providers)).identify(received);
        let claimed = received.get(&identify.header);
        let why = decisions::identity(why, &identify.header, claimed, received, identify.recognise);
        let label = self.provider_label();
        let Some(Passed { ctx, .. }) = self.passed("verify") else {
            report.provider = Some(Provider { label, why });
            return;
        };
        let why = match claims {
            Some(known) if ctx.provider.position().is_none() => {
                format!("{why}; the proof of {} fails", known.name)
            }
            _ => why,
        };
        report.provider = Some(Provider { label, why });
        report.proof = Some(Word { word: ctx.proof.as_str(), why: decisions::proof(ctx.proof, claims) });
        report.client = Some(Client {
            address: ctx.trail.client.to_string(),
            proven: ctx.trail.proven,
            why: decisions::client(ctx, claims, self.peer.address()),
        });
        report.pull = Some(decisions::pull(ctx.kind));
        report.pull_sign = decisions::pull_sign(ctx.kind, claims, received);
        report.pop = Some(ctx.pop.as_str().to_owned());
    }

    /// Reports the arms of the visitor. An experiment that does not apply to the request is not reported.
    fn assignments(&self, report: &mut Report) {
        let Some(Passed { ctx, head, .. }) = self.request_to("assign") else { return };
        let Parts { experiments, classes, providers, .. } = &self.parts;
        let (classes, providers) = (Arc::new(classes.clone()), Arc::clone(providers));
        let assigner = Assigner::new(experiments.clone(), classes, providers, self.runtime.ledger());
        let assignment = |decision: Decision<'_>| Assignment {
            experiment: decision.experiment.name,
            arm: decision.arm_name(),
            why: decision.why.explanation(),
        };
        report.assignments = assigner.decisions(ctx, head).into_iter().map(assignment).collect();
    }

    /// Returns the names of the query parameters that contain secrets. These parameters are removed from the target.
    fn parameters(&self) -> &[String] {
        &self.parts.observe.hidden_parameters
    }

    /// Reports the fields that the origin got and the fields that the layers removed. Returns the values of
    /// X-Request-Id and traceparent that edgeshim generated for this request.
    fn sent(&self, report: &mut Report) -> Vec<HeaderValue> {
        let (Some(sent), Some(ctx)) = (&self.run.sent, self.ctx()) else { return Vec::new() };
        let mut trace = Trace::begin(&self.run.received);
        for passed in &self.run.recording.requests {
            let mut fields = passed.head.headers.clone();
            if passed.layer != "observe" {
                // No layer below `identify` reads the identity header, and the leaf replaces or removes it. The report
                // shows the removal or the replacement as a change by `identify`.
                fields.remove(&self.parts.identify.header);
            }
            trace.pass(passed.layer, &fields);
        }
        trace.pass(LEAF, &sent.headers);
        let is_id = |step: &&Step| [&X_REQUEST_ID, &TRACEPARENT].contains(&&step.name) && step.layer.is_some();
        let ids: Vec<_> = trace.there.iter().filter(is_id).map(|step| step.value.clone()).collect();
        let incoming = Incoming {
            trail: ctx.trail,
            identity: &self.parts.identify.header,
            host_assumed: self.host_assumed,
            host_set: self.parts.leaf.host.is_some(),
        };
        let field = |step: &Step, reason| self.field(step, &ids, reason);
        let there = trace.there.iter().map(|step| field(step, incoming.there(&step.name, step.layer)));
        report.to_origin = there.collect();
        let gone = trace.gone.iter().map(|step| field(step, incoming.gone(&step.name, step.layer, &trace)));
        report.not_to_origin = gone.collect();
        ids
    }

    /// Reports what the layers decided about the origin's response.
    fn decided(&self, report: &mut Report) -> Outgoing<'_> {
        let mut outgoing = Outgoing::new(self.provider_label(), self.ctx().map(|ctx| ctx.dialect));
        let Some(response) = self.response_to("cache_control") else { return outgoing };
        let Ok(head) = response else {
            report.guards = Some(vec![Guard::Error.as_str()]);
            return outgoing;
        };
        let (Some(request), Some(ctx)) = (self.request_to("cache_control"), self.ctx()) else { return outgoing };
        let rule = self.parts.classes.rule(self.run.facts.class);
        report.rule = Some(decisions::rule(&rule.cache));
        let limits = self.runtime.settings().admission;
        if limits.max_in_flight > 0 {
            // `admission` uses the class of the path, because the type of the response is unknown when the request
            // arrives at that layer.
            report.admission = Some(decisions::admission(limits, self.parts.classes.rule(ctx.class).admission));
        }
        outgoing.is_error = head.status.is_server_error();
        outgoing.mode = rule.cache.mode;
        outgoing.varies_by_id = ctx.assigned.varies != 0;
        outgoing.has_edge_ttl = rule.cache.edge_ttl.is_some();
        outgoing.has_targeted = ctx.dialect.reads().iter().any(|name| head.headers.contains_key(*name));
        let facts = Facts {
            method: &request.head.method,
            authorization: request.head.headers.contains_key(AUTHORIZATION),
            assigned: ctx.assigned.is_private,
            now: SystemTime::now,
        };
        let mut headers = head.headers.clone();
        outgoing.outcome = Prepared::new(&rule.cache, ctx.dialect).apply(&mut headers, head.status, &facts);
        report.guards = Some(outgoing.outcome.guards.iter().map(Guard::as_str).collect());
        report.caching = Some(outgoing.outcome.action.map_or("nothing to change", |action| action.as_str()));
        if let Some(rules) =
            self.parts.provider_rules.get(ctx.provider.index()).filter(|_| !head.status.is_informational())
        {
            outgoing.tags = rules.tags.clone();
            let mut filter = Names::of(&headers);
            outgoing.tags_cut = rules.tags.translate(&mut headers, &mut filter);
            outgoing.has_tags = matches!(&rules.tags, TagRule::Field { name, .. } if headers.contains_key(name));
        }
        if let (Some(Ok(head)), Some(request)) = (self.response_to("gzip"), self.request_to("gzip")) {
            let names = Names::of(&request.head.headers);
            let (dialect, takes_br) = (ctx.dialect, ctx.takes_br);
            let request_facts = gzip::RequestFacts::of(&self.parts.gzip, &request.head, names, dialect, takes_br);
            let length = content_length(&head.headers).ok().flatten();
            let verdict = if rule.gzip {
                gzip::decide(&self.parts.gzip, request_facts, head, Names::of(&head.headers), length, None)
            } else {
                gzip::Verdict::Leave(gzip::Skip::Off)
            };
            report.gzip = Some(decisions::gzip(verdict, self.parts.gzip.enabled, request_facts.wants_br()));
        }
        outgoing
    }

    /// Reports the fields that the CDN gets and the fields that the layers removed from the response.
    fn response(&self, report: &mut Report, outgoing: &Outgoing<'_>, ids: &[HeaderValue]) {
        let mut below = self.responder().unwrap_or(LEAF);
        let mut trace = match below {
            LEAF => Trace::begin(&self.run.origin),
            _ => Trace::begin(&HeaderMap::new()),
        };
        let mut pass = |layer, head: &response::Parts| {
            if layer == "whoopsie"
                && let Some(page) = self.page(head)
            {
                trace.forget_set();
                report.page = Some(page);
            }
            trace.pass(layer, &head.headers);
        };
        for returned in &self.run.recording.responses {
            if let Ok(head) = &returned.outcome {
                pass(below, head);
            }
            below = returned.layer;
        }
        pass(below, &self.run.head);
        let field = |step: &Step, reason| {
            let mut field = self.field(step, ids, reason);
            if step.layer.is_some() && step.name == SERVER_TIMING {
                "(made for each response)".clone_into(&mut field.value);
            }
            field
        };
        report.to_cdn = trace.there.iter().map(|step| field(step, outgoing.there(&step.name, step.layer))).collect();
        let gone = trace.gone.iter().map(|step| field(step, outgoing.gone(&step.name, step.layer, &trace)));
        report.not_to_cdn = gone.collect();
    }

    /// Returns a description of the page that `whoopsie` sent in place of the origin's response. `None`: there was no
    /// page.
    fn page(&self, head: &response::Parts) -> Option<String> {
        match self.response_to("whoopsie")? {
            Err(fault) => {
                Some(format!("{}, because the origin's response cannot be used: {fault}", decisions::page(head)))
            }
            Ok(origin) if origin.headers != head.headers => {
                Some(format!("the origin's response is replaced by {}", decisions::page(head)))
            }
            Ok(_) => None,
        }
    }

    /// Returns a field line of the report. Secrets and the generated `ids` are replaced by other texts.
    fn field(&self, Step { name, value, .. }: &Step, ids: &[HeaderValue], reason: Cow<'static, str>) -> Field {
        let mut confidential = known::confidential(&self.parts.providers);
        let value = if [&AUTHORIZATION, &PROXY_AUTHORIZATION].contains(&name) || confidential.any(|field| field == name)
        {
            HIDDEN.to_owned()
        } else if ids.contains(value) {
            "(made for each request)".to_owned()
        } else {
            let text = String::from_utf8_lossy(value.as_bytes()).replace(char::is_control, "\u{fffd}");
            // A Referer can have the secret of an override.
            if *name == REFERER { query_parameters::without(&text, self.parameters()).unwrap_or(text) } else { text }
        };
        Field { name: name.to_string(), value, reason: reason.into_owned() }
    }
}
