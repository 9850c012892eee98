//! `edgeshim explain`: what becomes of one request and its answer, and why, by the same functions that serve.
//!
//! Here a request goes through the stages of `edge/pipeline.rs` by their functions on heads, in the pipeline's order, without a socket or
//! a body. What each stage did to a head is seen by comparing (`journey`), and put into words by stage and field (`reasons`).

mod arguments;
mod journey;
mod reasons;
mod report;
mod words;

use std::borrow::Cow;
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, request, response};

pub(super) use self::arguments::ExplainArguments;
use self::arguments::Failed;
use self::journey::{Journey, Step};
use self::reasons::{Incoming, Inward, Outgoing, Outward};
use self::report::{Answer, Asked, Class, Client, Field, Provider, Report, Word};
use super::terminal::{USAGE, print};
use crate::cdn::dialect::Dialect;
use crate::cdn::known::Known;
use crate::config::Settings;
use crate::edge::cache_control::ProviderRules;
use crate::edge::cache_control::outcome::{Guard, Outcome};
use crate::edge::cache_control::policy::{Facts, Prepared};
use crate::edge::gzip;
use crate::edge::identify::{Identifier, Why};
use crate::edge::local::LocalParts;
use crate::edge::observe::ObserveParts;
use crate::edge::pipeline::{ForwardSettings, Parts};
use crate::edge::request::class::Classes;
use crate::edge::request::{Ctx, refusal};
use crate::edge::verify::Judge;
use crate::edge::whoopsie::WhoopsieLayer;
use crate::ids::{ClassId, Reason};
use crate::metrics::{Ledger, Metrics};
use crate::origin::forward;
use crate::runtime::Runtime;
use crate::wire::forwarded::{Peer, Scheme, Trail};
use crate::wire::head_tracker::{HeadTracker, Verdict};
use crate::wire::hops;
use crate::wire::names::{
    AUTHORIZATION, CONTENT_TYPE, PROXY_AUTHORIZATION, SERVER_TIMING, TRACEPARENT, TRANSFER_ENCODING, X_REQUEST_ID,
};
use crate::wire::values::content_length;

/// What stands in place of a secret.
const HIDDEN: &str = "***";

pub(super) fn explain(arguments: &ExplainArguments) -> ExitCode {
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
    let response = arguments.response()?;
    let metrics: &'static Metrics = Box::leak(Box::new(Metrics::new()?));
    let runtime = Runtime::build_still(settings, metrics)?;
    let mut explainer = Explainer::new(&runtime, arguments.peer, host_assumed);
    explainer.report.request = Asked { method: arguments.method.to_string(), path: arguments.path.clone() };
    if let Some(asked) = explainer.ask(request) {
        explainer.answer(asked, response);
    }
    Ok(explainer.report)
}

/// The stages, made of the configuration as they are for serving.
struct Stages<'a> {
    settings: &'a Settings,
    peer: Peer,
    host_assumed: bool,
    host_set: bool,
    observe: ObserveParts,
    identifier: Identifier,
    providers: Arc<[Known]>,
    local: LocalParts,
    judge: Judge,
    whoopsie: WhoopsieLayer,
    gzip: gzip::GzipSettings,
    classes: Arc<Classes>,
    provider_rules: Vec<ProviderRules>,
    forward: ForwardSettings,
    ledger: Arc<Ledger>,
}

/// One request on its way.
struct Explainer<'a> {
    report: Report,
    stages: Stages<'a>,
}

/// What is known of a request when the origin has it.
struct Sent {
    /// As the origin gets it.
    head: request::Parts,
    /// As it was before anything was done to it for the origin's sake: what pages are chosen by.
    visitors: request::Parts,
    ctx: Ctx,
    gzip: gzip::RequestFacts,
    /// The ids that were made for it.
    made: Vec<HeaderValue>,
}

impl<'a> Explainer<'a> {
    fn new(runtime: &'a Runtime, peer: IpAddr, host_assumed: bool) -> Self {
        let parts = runtime.parts();
        let forward = ForwardSettings::new(&parts);
        let Parts {
            observe,
            identify,
            local,
            verify,
            providers,
            whoopsie,
            pages,
            gzip,
            classes,
            provider_rules,
            host,
            ledger,
            ..
        } = parts;
        let (classes, ledger) = (Arc::new(classes), Arc::new(ledger));
        let stages = Stages {
            settings: runtime.settings(),
            peer: Peer::new(peer, Scheme::Http),
            host_assumed,
            host_set: host.is_some(),
            observe,
            providers: Arc::clone(&providers),
            identifier: Identifier::new(identify, Arc::clone(&providers)),
            local,
            judge: Judge::new(verify, providers),
            whoopsie: WhoopsieLayer::new(whoopsie, pages, Arc::clone(&classes), Arc::clone(&ledger)),
            gzip,
            classes,
            provider_rules,
            forward,
            ledger,
        };
        Self { report: Report::default(), stages }
    }

    /// The request's way to the origin; none: it is answered before.
    fn ask(&mut self, mut head: request::Parts) -> Option<Sent> {
        let Self { report, stages } = self;
        let peer = &stages.peer;
        let mut ctx = Ctx::new(Trail { client: peer.address(), proven: false, kept: 0, peer_trusted: false });
        ctx.takes_trailers = hops::wants_trailers(&head.headers);
        if !is_sound(&head) {
            ctx.refusal = Some(Reason::Malformed);
        }
        let mut journey = Journey::begin(&head.headers);
        if let Some(status) = stages.observe.flaw(&head, &ctx) {
            self.refuse(Reason::Malformed, &ctx, Some(status));
            return None;
        }
        stages.observe.look(&stages.classes, peer.address(), &mut head, &mut ctx);
        journey.pass(Inward::Observe, &head.headers);
        let is_id = |step: &&Step<Inward>| [&X_REQUEST_ID, &TRACEPARENT].contains(&&step.name);
        let made = journey.there.iter().filter(is_id).filter(|step| step.stage.is_some());
        let made: Vec<_> = made.map(|step| step.value.clone()).collect();

        let came = head.headers.clone();
        let (why, claimed) = stages.identifier.admit(&mut head.headers, &mut ctx);
        journey.pass(Inward::Identify, &head.headers);
        let claims = ctx.provider.position().and_then(|position| stages.providers.get(position));
        let why = stages.why(why, claimed.as_ref(), &came);
        if let Some(endpoint) = stages.local.endpoint(head.uri.path()) {
            report.provider = Some(Provider { label: stages.ledger.provider(ctx.provider), why });
            report.answer = Some(Answer { status: None, reason: words::local(endpoint).to_owned() });
            return None;
        }
        stages.judge.judge(&mut head, &mut ctx, peer);
        journey.pass(Inward::Verify, &head.headers);
        report.provider = Some(stages.provider(&ctx, claims, why));
        let address = peer.address();
        report.proof = Some(Word { word: ctx.proof.as_str(), why: words::proof(ctx.proof, claims) });
        report.client = Some(Client {
            address: ctx.trail.client.to_string(),
            proven: ctx.trail.proven,
            why: words::client(&ctx, claims, address),
        });
        report.pull = Some(words::pull(ctx.kind));
        report.pull_sign = words::pull_sign(ctx.kind, claims, &came);
        report.pop = Some(ctx.pop.as_str().to_owned());
        if let Some(reason) = ctx.refusal {
            let rule = stages.classes.rule(ctx.class);
            report.class = Some(Class { name: rule.name.clone(), why: words::class(ctx.class, rule) });
            self.refuse(reason, &ctx, None);
            return None;
        }

        let visitors = head.clone();
        let gzip = gzip::RequestFacts::of(&stages.gzip, &head, ctx.dialect);
        if stages.gzip.enabled {
            // No weak tag of the origin's is remembered yet.
            gzip::prepare(gzip, &mut head.headers, |_| None);
        }
        journey.pass(Inward::Gzip, &head.headers);
        let bodiless = has_no_body(&head.headers);
        stages.forward.write(&mut head, &ctx, peer, bodiless);
        journey.pass(Inward::Forward, &head.headers);

        let incoming = Incoming {
            trail: ctx.trail,
            identity: &stages.settings.identity.header,
            host_assumed: stages.host_assumed,
            host_set: stages.host_set,
        };
        let field = |step: &Step<Inward>, reason| stages.field(&step.name, &step.value, &made, reason);
        let there = journey.there.iter().map(|step| field(step, incoming.there(&step.name, step.stage)));
        report.to_origin = there.collect();
        let gone = journey.gone.iter().map(|step| field(step, incoming.gone(&step.name, step.stage, &journey)));
        report.not_to_origin = gone.collect();
        Some(Sent { head, visitors, ctx, gzip, made })
    }

    /// What is said to a request that goes no further.
    fn refuse(&mut self, reason: Reason, ctx: &Ctx, status: Option<StatusCode>) {
        let Self { report, stages } = self;
        let mut head = refusal(reason, ctx.dialect);
        head.status = status.unwrap_or(head.status);
        let reason = words::refusal(reason, head.status).to_owned();
        report.answer = Some(Answer { status: Some(head.status.as_u16()), reason });
        let mut journey = Journey::begin(&HeaderMap::new());
        journey.pass(Outward::Refusal, &head.headers);
        let outgoing = Outgoing::new(stages.ledger.provider(ctx.provider), ctx.dialect);
        stages.tell(report, &journey, &outgoing, &[]);
    }

    /// The answer's way to the CDN.
    fn answer(&mut self, sent: Sent, response: Response<()>) {
        let Self { report, stages } = self;
        let Sent { head: request, visitors, ctx, gzip: asked, made } = sent;
        let mut journey = Journey::begin(response.headers());
        let mut outgoing = Outgoing::new(stages.ledger.provider(ctx.provider), ctx.dialect);
        let mut head = match hop(&request, response) {
            Ok(head) => head,
            Err(fault) => {
                let page = stages.whoopsie.for_fault(&visitors, ctx, &fault);
                journey.pass(Outward::Page, &page.headers);
                let rule = stages.classes.rule(ctx.class);
                report.class = Some(Class { name: rule.name.clone(), why: words::class(ctx.class, rule) });
                report.guards = Some(vec![Guard::Error.as_str()]);
                report.page =
                    Some(format!("{}, since the origin's answer cannot be used: {fault}", words::page(&page)));
                stages.tell(report, &journey, &outgoing, &made);
                return;
            }
        };
        journey.pass(Outward::Hop, &head.headers);
        stages.forward.tell_timing(&mut head.headers, ctx.provider, 0);
        journey.pass(Outward::Timing, &head.headers);

        let class = stages.class(ctx.class, request.uri.path(), &head.headers);
        let rule = stages.classes.rule(class);
        report.class = Some(Class { name: rule.name.clone(), why: words::class(class, rule) });
        report.rule = Some(words::rule(&rule.cache));
        let settings = stages.settings;
        if settings.admission.max_in_flight > 0 {
            // The answer's type is not known yet when a request comes to the line.
            report.admission = Some(words::admission(settings.admission, stages.classes.rule(ctx.class).admission));
        }

        outgoing.is_error = head.status.is_server_error();
        outgoing.mode = rule.cache.mode;
        outgoing.has_edge_ttl = rule.cache.edge_ttl.is_some();
        outgoing.said_own = ctx.dialect.reads().iter().any(|name| head.headers.contains_key(*name));
        let facts = Facts {
            method: &request.method,
            authorization: request.headers.contains_key(AUTHORIZATION),
            now: SystemTime::now,
        };
        outgoing.outcome = Prepared::new(&rule.cache, ctx.dialect).apply(&mut head.headers, head.status, &facts);
        journey.pass(Outward::Caching, &head.headers);
        let Outcome { action, guards } = outgoing.outcome;
        report.guards = Some(guards.iter().map(Guard::as_str).collect());
        report.caching = Some(action.map_or("nothing to change", |action| action.as_str()));
        if let Some(rules) = stages.provider_rules.get(ctx.provider.index()).filter(|_| !head.status.is_informational())
        {
            outgoing.tags = rules.tags.clone();
            outgoing.tags_cut = rules.tags.translate(&mut head.headers);
            journey.pass(Outward::Tags, &head.headers);
            rules.limits.cut(&mut head.headers);
            journey.pass(Outward::Limits, &head.headers);
        }

        let length = content_length(&head.headers).unwrap_or_default();
        let verdict = if rule.gzip {
            gzip::decide(&stages.gzip, asked, &head, length, None)
        } else {
            gzip::Verdict::Leave(gzip::Skip::Off)
        };
        gzip::apply(verdict, &mut head);
        journey.pass(Outward::Gzip, &head.headers);
        report.gzip = Some(words::gzip(verdict, stages.gzip.enabled));
        if ctx.dialect == Dialect::Akamai {
            gzip::vary_for_akamai(asked, &mut head);
            journey.pass(Outward::AkamaisVary, &head.headers);
        }
        if let Some(page) = stages.whoopsie.in_place_of(&visitors, ctx, &head, class) {
            // What stages before have set goes with the answer; a page says its own, be it in the same words.
            journey.there.retain(|step| step.stage.is_none());
            journey.pass(Outward::Page, &page.headers);
            report.page = Some(format!("{} takes this answer's place", words::page(&page)));
        }
        stages.tell(report, &journey, &outgoing, &made);
    }
}

/// Whether a head's framing can be read in one way only, by what watches each connection.
fn is_sound(head: &request::Parts) -> bool {
    let mut tracker = HeadTracker::new();
    tracker.feed(format!("{} {} HTTP/1.1\r\n", head.method, head.uri).as_bytes());
    for (name, value) in &head.headers {
        tracker.feed(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    tracker.feed(b"\r\n");
    tracker.take_verdict() == Verdict::Clear
}

/// The origin's answer as it comes off its connection.
fn hop(request: &request::Parts, mut response: Response<()>) -> Result<response::Parts, crate::fault::Fault> {
    let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS && forward::asks_upgrade(request);
    if !upgraded {
        forward::check_answer(&mut response)?;
    }
    let (mut head, ()) = response.into_parts();
    if !upgraded {
        forward::tidy_answer(&mut head, request.method == Method::HEAD);
    }
    Ok(head)
}

/// Whether no body follows a request's head.
fn has_no_body(headers: &HeaderMap) -> bool {
    !headers.contains_key(TRANSFER_ENCODING) && content_length(headers).unwrap_or_default().unwrap_or(0) == 0
}

impl Stages<'_> {
    /// A line for people: no secret, and nothing that is another one each time.
    fn field(&self, name: &HeaderName, value: &HeaderValue, made: &[HeaderValue], reason: Cow<'static, str>) -> Field {
        let secret = [&AUTHORIZATION, &PROXY_AUTHORIZATION].contains(&name) || self.judge.confidential().contains(name);
        let text = if secret {
            HIDDEN.to_owned()
        } else if made.contains(value) {
            "(made for each request)".to_owned()
        } else {
            String::from_utf8_lossy(value.as_bytes()).replace(char::is_control, "\u{fffd}")
        };
        Field { name: name.to_string(), value: text, reason: reason.into_owned() }
    }

    fn tell(&self, report: &mut Report, journey: &Journey<Outward>, outgoing: &Outgoing<'_>, made: &[HeaderValue]) {
        let field = |step: &Step<Outward>, reason| {
            let mut field = self.field(&step.name, &step.value, made, reason);
            if step.stage.is_some() && step.name == SERVER_TIMING {
                "(made for each answer)".clone_into(&mut field.value);
            }
            field
        };
        let there = journey.there.iter().map(|step| field(step, outgoing.there(&step.name, step.stage)));
        report.to_cdn = there.collect();
        let gone = journey.gone.iter().map(|step| field(step, outgoing.gone(&step.name, step.stage, journey)));
        report.not_to_cdn = gone.collect();
    }

    fn why(&self, why: Why, claimed: Option<&HeaderValue>, came: &HeaderMap) -> String {
        let identity = &self.settings.identity;
        words::identity(why, &identity.header, claimed, came, identity.recognise)
    }

    fn provider(&self, ctx: &Ctx, claims: Option<&Known>, why: String) -> Provider {
        let label = self.ledger.provider(ctx.provider);
        let why = match claims {
            Some(known) if ctx.provider.position().is_none() => {
                format!("claims to be {}, and proves nothing: {why}", known.name)
            }
            _ => why,
        };
        Provider { label, why }
    }

    fn class(&self, by_path: ClassId, path: &str, headers: &HeaderMap) -> ClassId {
        if !self.classes.ask_for_type() {
            return by_path;
        }
        self.classes.of_answer(path, headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes))
    }
}
