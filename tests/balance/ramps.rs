//! `edgeshim balance ramp`, with shims whose counters follow the weights in DNS.

use std::sync::atomic::{AtomicU16, Ordering};

use super::*;

/// What the shims report.
#[derive(Default)]
struct Traffic {
    /// The counters of each shim by provider: the pulls with 200, and the pulls with 503.
    counts: [BTreeMap<String, (u64, u64)>; 2],
    started: [u64; 2],
    /// The part of fastly's pulls that fail, and the smallest share of fastly at which they fail, both in per mille.
    failing: Option<(u64, u32)>,
    /// The part of the pulls of all other providers that fail, in per mille.
    others_failing: u64,
    /// What the shims report in addition to the pulls, for fastly and for each other provider. `None`: nothing.
    quality: Option<[Quality; 2]>,
    /// The beacons, the slow pulls and the requests at the edge of each shim, by provider.
    further: [BTreeMap<String, [u64; 3]>; 2],
    /// Whether the second shim answers with 500.
    is_broken: bool,
    /// Whether the second shim restarts before each look.
    restarts: bool,
    /// Whether all clients stay at akamai, whatever the weights are.
    is_stuck: bool,
    looks: usize,
    /// How many queries to Prometheus had an offset.
    offsets: usize,
    /// The bodies of the annotations that the shims got.
    annotations: Vec<String>,
}

/// The figures of a provider in addition to its 5xx.
#[derive(Clone, Copy)]
struct Quality {
    /// The beacons and the pulls that are slow, for 1,000 pulls.
    beacons: u64,
    slow: u64,
    /// The requests at the edge for one pull.
    edge: u64,
}

const GOOD: Quality = Quality { beacons: 0, slow: 10, edge: 10 };
const BAD: Quality = Quality { beacons: 200, slow: 200, edge: 2 };

/// One target with two providers, and two shims.
struct Stage {
    dns: Dns,
    traffic: Arc<Mutex<Traffic>>,
    _shims: Vec<Origin>,
    desk: Desk,
}

fn metrics(traffic: &mut Traffic, dns: &Mutex<Zone>, shim: usize) -> String {
    let weights = weights_of(&lock(dns), "www.example.com");
    traffic.looks += 1;
    if traffic.restarts && shim == 1 {
        traffic.started[1] += 1;
        traffic.counts[1].clear();
    }
    // Without any series of beacons by source, the ramp would assume that the shims count beacons by country.
    let beacons = "edgeshim_beacons_total{source=\"other\"} 0\n";
    let (failing, others, is_stuck) = (traffic.failing, traffic.others_failing, traffic.is_stuck);
    let mut text = format!("edgeshim_start_timestamp_seconds {}\n{beacons}", 1000 + traffic.started[shim]);
    for name in ["akamai", "fastly"] {
        let weight = match (is_stuck, name) {
            (true, "akamai") => 1000,
            (true, _) => 0,
            _ => weights.get(name).copied().unwrap_or(0),
        };
        // 10,000 pulls between two looks.
        let pulls = u64::from(weight) * 10;
        let part = match failing {
            Some((part, from)) if name == "fastly" && weight >= from => part,
            _ if name == "fastly" => 0,
            _ => others,
        };
        let counts = traffic.counts[shim].entry(name.to_owned()).or_default();
        counts.1 += pulls * part / 1000;
        counts.0 += pulls - pulls * part / 1000;
        for (code, count) in [(200, counts.0), (503, counts.1)] {
            let _ = writeln!(text, "edgeshim_pulls_total{{provider=\"{name}\",class=\"x\",code=\"{code}\"}} {count}");
        }
        if let Some([fastly, others]) = traffic.quality {
            let quality = if name == "fastly" { fastly } else { others };
            let further = traffic.further[shim].entry(name.to_owned()).or_default();
            further[0] += pulls * quality.beacons / 1000;
            further[1] += pulls * quality.slow / 1000;
            further[2] += pulls * quality.edge;
            text += &series_of(name, counts.0 + counts.1, *further);
        }
    }
    text
}

/// The series of one provider in addition to its pulls. A slow pull takes less than 1 s, and each other pull takes less
/// than 0.1 s.
fn series_of(name: &str, pulls: u64, [beacons, slow, edge]: [u64; 3]) -> String {
    let mut text = format!(
        "edgeshim_beacons_total{{source=\"{name}\"}} {beacons}\n\
         edgeshim_edge_requests_total{{provider=\"{name}\",result=\"hit\"}} {edge}\n"
    );
    for (bound, count) in [("0.1", pulls - slow), ("1", pulls), ("+Inf", pulls)] {
        let labels = format!("provider=\"{name}\",class=\"x\",le=\"{bound}\"");
        let _ = writeln!(text, "edgeshim_pull_seconds_bucket{{{labels}}} {count}");
    }
    text
}

/// Returns the sum of the weights of each provider in a record.
fn weights_of(zone: &Zone, node: &str) -> BTreeMap<String, u32> {
    let rrset = zone.rrsets.get(&(format!("{node}."), "LUA".to_owned()));
    let content = rrset.and_then(|rrset| rrset["records"][0]["content"].as_str()).unwrap_or_default();
    let mut found = BTreeMap::new();
    // Entries have the form {10,'name'}.
    for part in content.split('{').filter_map(|part| part.split_once(",'")) {
        let (Ok(weight), Some((cname, _))) = (part.0.trim().parse::<u32>(), part.1.split_once('\'')) else { continue };
        let name = cname.split('.').nth(1).unwrap_or_default();
        *found.entry(name.to_owned()).or_default() += weight;
    }
    found
}

const TARGET: &str = "[[target]]\nname = \"html\"\ndns = [\"pdns\"]\nzone = \"example.com\"\n\
                      nodes = [\"www.example.com\"]\nproviders = { akamai = { cname = \"a.akamai.example\" }, \
                      fastly = { cname = \"f.fastly.example\" } }\n";

impl Stage {
    /// Starts two shims and a DNS service. At the start, akamai has all traffic.
    fn new(ramp: &str) -> Self {
        let dns = Dns::start();
        let traffic = Arc::new(Mutex::new(Traffic::default()));
        let shim = |number: usize| {
            let (traffic, zone) = (Arc::clone(&traffic), Arc::clone(&dns.zone));
            Origin::start(move |request, conn| {
                let mut traffic = traffic.lock().unwrap_or_else(PoisonError::into_inner);
                if request.method == "POST" {
                    traffic.annotations.push(String::from_utf8_lossy(&request.body).into_owned());
                    return respond(request, conn, 201, &[], b"{}");
                }
                if traffic.is_broken && number == 1 {
                    return respond(request, conn, 500, &[], b"");
                }
                let text = metrics(&mut traffic, &zone, number);
                respond(request, conn, 200, &[], text.as_bytes())
            })
        };
        let shims = vec![shim(0), shim(1)];
        let desk = Desk::new(&format!(
            "shims = [\"http://{}\", \"http://{}\"]\n[ramp]\nevery = \"50ms\"\nsoak = \"150ms\"\narrive = \
             \"20s\"\n{ramp}\n{}{TARGET}",
            shims[0].addr,
            shims[1].addr,
            dns.service("pdns"),
        ));
        dns.put("www.example.com.", "CNAME", "a.akamai.example.");
        desk.fine(&["init", "-t", "html", "--yes"]);
        Self { dns, traffic, _shims: shims, desk }
    }

    fn traffic(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the share of fastly in DNS, in per mille.
    fn share(&self) -> u32 {
        weights_of(&self.dns.zone(), "www.example.com").get("fastly").copied().unwrap_or(0)
    }

    fn ramp(&self, arguments: &[&str]) -> Ended {
        let all: Vec<&str> = ["ramp", "-t", "html", "-p", "fastly", "--yes"].iter().chain(arguments).copied().collect();
        self.desk.run(&all)
    }

    /// Returns the shares of fastly that the journal has, one for each change after `init`.
    fn shares_in_journal(&self) -> Vec<u64> {
        let of = |entry: &Value| entry["to"]["html"]["fastly"]["weight"].as_u64().expect("a weight");
        self.desk.journal().iter().skip(1).map(of).collect()
    }
}

const STEPS: &str = "steps = [1, 5, 10, 25, 50]\nguard = { errors = 0.01 }";

#[test]
fn ramp_when_guards_hold_then_makes_all_steps_and_shows_the_convergence() {
    let stage = Stage::new(STEPS);
    let ended = stage.ramp(&["--why", "new CDN"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{}", ended.out);
    assert_eq!(stage.shares_in_journal(), [10, 50, 100, 250, 500]);
    let last = stage.desk.journal().pop().expect("a line");
    assert_eq!(
        (&last["action"], &last["why"], &last["who"]),
        (&json!("ramp to 50 %: 50 %"), &json!("new CDN"), &json!("alice"))
    );
    for part in ["fastly from 0 % to 50 %", "Guards: errors 0.01.", "(others 0.0 %)", "t50 ", "Done: fastly has 50 %"] {
        assert!(ended.out.contains(part), "no {part:?} in {}", ended.out);
    }
    let again = stage.ramp(&[]);
    assert!(again.code == 0 && again.out.contains("Nothing to do"), "{again:?}");
    assert!(stage.traffic().annotations.iter().any(|text| text.contains("ramp to 50 %: 25 %")));
}

#[test]
fn ramp_when_errors_rise_at_a_step_then_start_weights_are_back_and_journal_has_the_figures() {
    let stage = Stage::new(STEPS);
    stage.traffic().failing = Some((100, 100));
    let ended = stage.ramp(&["--why", "new CDN"]);
    assert_eq!(ended.code, 3, "{ended:?}");
    assert_eq!((stage.share(), stage.shares_in_journal()), (0, vec![10, 50, 100, 0]));
    let last = stage.desk.journal().pop().expect("a line");
    assert_eq!((&last["action"], &last["result"]), (&json!("ramp to 50 %: put back"), &json!("done")));
    let why = last["why"].as_str().expect("a reason");
    assert!(
        why.starts_with("breach at 10 %: errors 10.0 % of ")
            && why.ends_with("(others 0.0 %), and errors = 0.01 (new CDN)"),
        "{why}"
    );
    assert!(ended.err.contains("the weights are back"), "{ended:?}");

    // The errors have ended, and the ramp begins again.
    stage.traffic().failing = None;
    let ended = stage.ramp(&["--resume"]);
    assert!(ended.code == 0 && stage.share() == 500, "{ended:?}");
}

#[test]
fn ramp_when_another_provider_is_away_then_share_among_the_served_providers_arrives() {
    let stage = Stage::new(STEPS);
    stage.desk.fine(&["-t", "html", "-p", "fastly", "--pct", "10", "--yes"]);
    // In the journal, akamai was away before this change. The rollback writes the mark into DNS.
    let mut lines = stage.desk.lines();
    for line in lines.iter_mut().rev().take(2) {
        let akamai = json!({ "mode": "obey", "weight": 900, "away": true });
        line["from"]["html"] = json!({ "akamai": akamai, "fastly": { "mode": "obey", "weight": 100 } });
    }
    stage.desk.dir.write("balance.jsonl", lines.iter().map(Value::to_string).collect::<Vec<_>>().join("\n"));
    stage.desk.fine(&["rollback", "--yes"]);
    let shown = stage.desk.fine(&["-t", "html", "--show"]);
    assert!(shown.contains("obey, away") && shown.contains("100.0 %"), "{shown}");
    let ended = stage.ramp(&["--to", "25"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.out.contains("observed 100.0 %"), "{ended:?}");
}

#[test]
fn ramp_when_on_breach_is_previous_then_goes_back_one_step() {
    let stage = Stage::new(&format!("{STEPS}\non_breach = \"previous\""));
    stage.traffic().failing = Some((100, 100));
    let ended = stage.ramp(&[]);
    assert_eq!((ended.code, stage.share()), (3, 50), "{ended:?}");
}

#[test]
fn ramp_when_all_providers_fail_then_goes_on() {
    let stage = Stage::new(STEPS);
    stage.traffic().failing = Some((100, 0));
    stage.traffic().others_failing = 100;
    let ended = stage.ramp(&["--to", "5"]);
    assert_eq!((ended.code, stage.share()), (0, 50), "{ended:?}");
}

/// The guards that do not read the 5xx. The second text is the beginning of the figures in the reason if fastly is
/// `BAD`.
const FURTHER_GUARDS: [(&str, &str); 3] = [
    ("beacons_per_minute = 50.0", "beacons "),
    ("p95_ratio = 1.2", "p95 of the pull time "),
    ("offload_drop = 0.1", "offload 50.0 % (others 90.0 %)"),
];

fn stage_with(guard: &str, quality: Option<[Quality; 2]>) -> Stage {
    let stage = Stage::new(&format!("steps = [10]\nguard = {{ {guard} }}"));
    stage.traffic().quality = quality;
    stage
}

#[test]
fn guard_when_only_the_new_provider_is_bad_then_weights_are_back_and_journal_has_the_figures() {
    for (guard, figures) in FURTHER_GUARDS {
        let stage = stage_with(guard, Some([BAD, GOOD]));
        let ended = stage.ramp(&[]);
        assert_eq!((ended.code, stage.share()), (3, 0), "{guard}: {ended:?}");
        assert_eq!(stage.shares_in_journal(), [100, 0], "{guard}");
        let last = stage.desk.journal().pop().expect("a line");
        let why = last["why"].as_str().expect("a reason");
        let parts = [&format!("breach at 10 %: {figures}"), "(others ", guard.trim_end_matches(".0")];
        assert!(parts.iter().all(|part| why.contains(part)), "{why}");
    }
}

#[test]
fn guard_when_all_providers_are_equally_bad_then_ramp_goes_on() {
    for (guard, _) in FURTHER_GUARDS {
        let stage = stage_with(guard, Some([BAD, BAD]));
        let ended = stage.ramp(&[]);
        assert_eq!((ended.code, stage.share()), (0, 100), "{guard}: {ended:?}");
    }
}

#[test]
fn guard_when_it_has_no_figures_then_ramp_holds_and_stops_with_1() {
    for (guard, _) in FURTHER_GUARDS {
        let stage = stage_with(guard, None);
        let ended = stage.ramp(&[]);
        assert_eq!((ended.code, stage.share()), (1, 100), "{guard}: {ended:?}");
        let name = guard.split_once(' ').expect("a name").0;
        for part in [&format!("the guard {name} has had no figures for "), "remove the guard from [ramp]"] {
            assert!(ended.err.contains(part), "no {part:?} in {ended:?}");
        }
        assert!(ended.err.contains("stopped after step 1; fastly has 10 %"), "{ended:?}");
    }
}

#[test]
fn put_back_when_dns_service_fails_first_then_is_tried_again() {
    let stage = Stage::new(STEPS);
    stage.traffic().failing = Some((100, 100));
    // The first three writes are the steps.
    for attempt in 3..28 {
        stage.dns.plant(attempt, Plant::Status(500));
    }
    let ended = stage.ramp(&[]);
    assert_eq!((ended.code, stage.share()), (3, 0), "{ended:?}");
    assert_eq!(ended.err.matches("not put back, tried again").count(), 50, "two lines for each attempt: {ended:?}");
}

#[test]
fn put_back_when_dns_service_fails_until_a_signal_then_ends_with_a_warning() {
    let stage = Stage::new(STEPS);
    let child = soaking(&stage);
    let patches = stage.dns.patches();
    stage.dns.zone().always = Some(Plant::Status(500));
    let requests = stage.dns.api.count();
    stage.traffic().failing = Some((200, 0));
    assert!(wait_until(PATIENCE, || stage.dns.api.count() > requests + 3), "the put-back is tried several times");
    signal(&child, "INT");
    let ended = ended(child);
    assert_eq!((ended.code, stage.share(), stage.dns.patches()), (1, 10, patches), "{ended:?}");
    assert!(ended.err.contains("THE WEIGHTS ARE NOT BACK") && ended.err.contains("rollback 1 -t html"), "{ended:?}");
}

#[test]
fn ramp_when_a_shim_is_missing_or_restarts_then_holds_and_stops_with_1() {
    let stage = Stage::new(STEPS);
    for restarts in [true, false] {
        stage.traffic().restarts = restarts;
        stage.traffic().is_broken = !restarts;
        let ended = stage.ramp(&[]);
        assert_eq!(ended.code, 1, "{ended:?}");
        if restarts {
            assert!(ended.err.contains("no figures for") && ended.err.contains("was restarted"), "{ended:?}");
            assert!(ended.err.contains("stopped after step 1; fastly has 1 %") && stage.share() == 10, "{ended:?}");
        } else {
            assert!(ended.err.contains("nothing was changed: http://") && stage.share() == 10, "{ended:?}");
        }
    }
    stage.traffic().is_broken = false;
    let ended = stage.ramp(&["--resume", "--to", "5"]);
    assert!(ended.code == 0 && ended.out.contains("Step 1 at 1 % goes on"), "{ended:?}");
    assert_eq!(stage.shares_in_journal(), [10, 50]);
}

#[test]
fn ramp_when_share_does_not_arrive_then_stops_with_1_and_weights_stay() {
    let stage = Stage::new("steps = [10]\nguard = { errors = 0.01 }");
    let config = std::fs::read_to_string(stage.desk.dir.join("balance.toml")).expect("the configuration");
    stage.desk.dir.write("balance.toml", config.replace("arrive = \"20s\"", "arrive = \"200ms\""));
    stage.traffic().is_stuck = true;
    let ended = stage.ramp(&[]);
    assert_eq!((ended.code, stage.share()), (1, 100), "{ended:?}");
    assert!(ended.err.contains("the observed share of fastly is 0.0 %, and 10 % was wanted"), "{ended:?}");
    assert!(ended.err.contains("--resume") && ended.err.contains("rollback 1"), "{ended:?}");
}

#[test]
fn ramp_when_watch_takes_its_provider_away_during_a_step_then_says_so() {
    let stage = Stage::new(STEPS);
    let status = Arc::new(AtomicU16::new(200));
    let shared = Arc::clone(&status);
    let edge = Origin::start(move |request, conn| respond(request, conn, shared.load(Ordering::SeqCst), &[], b"pong"));
    let config = std::fs::read_to_string(stage.desk.dir.join("balance.toml")).expect("the configuration");
    let cname = "cname = \"f.fastly.example\"";
    // The share does not arrive, so the ramp stops 15 seconds after the step.
    let config = config.replace("arrive = \"20s\"", "arrive = \"15s\"");
    let config = config.replace(cname, &format!("{cname}, probe = \"{}/ping\"", edge.url()));
    let watch = "[watch]\nevery = \"100ms\"\ntimeout = \"10s\"\ndown_after = 2\nup_after = 3\n";
    stage.desk.dir.write("balance.toml", format!("{config}{watch}"));
    stage.traffic().is_stuck = true;
    let mut watch = stage.desk.command(&["watch"]);
    let mut watch = watch.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a watch");
    let mut ramp = stage.desk.command(&["ramp", "-t", "html", "-p", "fastly", "--yes"]);
    let piped = ramp.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ramp = piped.spawn().expect("the edgeshim binary starts");
    assert!(wait_until(PATIENCE, || stage.share() > 0));
    status.store(503, Ordering::SeqCst);
    let is_away = wait_until(PATIENCE * 2, || stage.share() == 0);
    let ended = ended(ramp);
    watch.kill().expect("the watch ends");
    watch.wait().expect("the watch ends");
    assert!(is_away, "{ended:?}");
    assert_eq!(ended.code, 1, "{ended:?}");
    let text = "html: watch has taken fastly away during this step, because its probe failed";
    assert!(ended.err.contains(text) && ended.err.contains("it has not arrived within 15 s"), "{ended:?}");
}

/// Starts a ramp that stays in its first step, and waits until the ramp has looked a few times.
fn soaking(stage: &Stage) -> Child {
    let config = std::fs::read_to_string(stage.desk.dir.join("balance.toml")).expect("the configuration");
    stage.desk.dir.write("balance.toml", config.replace("soak = \"150ms\"", "soak = \"1h\""));
    let mut command = stage.desk.command(&["ramp", "-t", "html", "-p", "fastly", "--yes"]);
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = piped.spawn().expect("the edgeshim binary starts");
    let looks = stage.traffic().looks;
    assert!(wait_until(PATIENCE, || stage.share() > 0 && stage.traffic().looks > looks + 8));
    child
}

#[test]
fn step_when_another_change_is_in_progress_then_waits_for_its_end() {
    let stage = Stage::new(STEPS);
    let path = stage.desk.dir.join("balance.jsonl.lock");
    let other = std::fs::OpenOptions::new().append(true).open(path).expect("the lock file");
    other.lock().expect("nobody else has the lock");
    let mut command = stage.desk.command(&["ramp", "-t", "html", "-p", "fastly", "--to", "5", "--yes"]);
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().expect("the edgeshim binary starts");
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().expect("standard error")).read_line(&mut line).expect("UTF-8");
    assert!(line.contains("the step to 1 % waits: another change is in progress"), "{line}");
    drop(other);
    let ended = ended(child);
    assert_eq!((ended.code, stage.share()), (0, 50), "{ended:?}");
}

#[test]
fn ramp_when_interrupted_in_the_soak_then_reports_its_state() {
    let stage = Stage::new(STEPS);
    let child = soaking(&stage);
    signal(&child, "INT");
    let ended = ended(child);
    assert_eq!((ended.code, stage.share()), (1, 10), "{ended:?}");
    assert!(ended.err.contains("stopped after step 1; fastly has 1 %"), "{ended:?}");
}

#[test]
fn put_back_when_someone_else_has_changed_the_weights_then_their_weights_stay() {
    let stage = Stage::new(STEPS);
    let child = soaking(&stage);
    stage.desk.fine(&["-t", "html", "-p", "fastly", "--pct", "12", "--yes"]);
    stage.traffic().failing = Some((200, 0));
    let ended = ended(child);
    assert_eq!((ended.code, stage.share()), (1, 120), "{ended:?}");
    assert!(ended.err.contains("someone else has changed the weights"), "{ended:?}");
    let resumed = stage.ramp(&["--resume"]);
    assert!(resumed.code == 1 && resumed.err.contains("there is nothing to resume"), "{resumed:?}");
}

#[test]
fn dry_run_when_asked_then_prints_the_timetable_and_writes_nothing() {
    let stage = Stage::new(STEPS);
    let patches = stage.dns.patches();
    let out = stage.desk.fine(&["ramp", "-t", "html", "-p", "fastly", "--to", "30", "--dry-run"]);
    for part in ["not before", "5     30 %", "Dry run: nothing was written."] {
        assert!(out.contains(part), "no {part:?} in {out}");
    }
    assert_eq!(stage.dns.patches(), patches);
}

#[test]
fn ramp_when_its_end_crosses_a_commit_then_warns_before_the_question() {
    let stage = Stage::new(STEPS);
    let config = std::fs::read_to_string(stage.desk.dir.join("balance.toml")).expect("the configuration");
    stage.desk.dir.write("balance.toml", format!("samples = \"traffic\"\n{config}{}", fastly_price("200GB")));
    stage.desk.dir.write("traffic", samples_of_this_month(&["akamai"]));
    let ramp = |end| stage.desk.run(&["ramp", "-t", "html", "-p", "fastly", "--to", end, "--dry-run"]);
    // akamai has all traffic, 806 to 893 GB in a month of 28 to 31 days. 10 % are at most 90 GB, 50 % at least 400 GB.
    let ended = ramp("10");
    assert!(ended.code == 0 && !ended.err.contains("warning"), "{ended:?}");
    let ended = ramp("50");
    assert!(ended.code == 0 && ended.err.contains("warning: fastly: this change moves the forecast of "), "{ended:?}");
    assert!(ended.err.contains("above the commit of 200 GB; the forecast of its bill changes from "), "{ended:?}");
}

#[test]
fn ramp_when_it_is_not_possible_then_is_refused_and_nothing_is_written() {
    let stage = Stage::new(STEPS);
    stage.desk.fails(2, &["ramp", "-t", "html", "-p", "edgecast"], &["no such provider"]);
    stage.desk.fails(2, &["ramp", "-t", "html", "-p", "fastly", "--to", "101"], &["--to"]);
    stage.desk.fails(2, &["ramp", "-p", "fastly"], &["-t TARGET"]);
    stage.desk.fails(1, &["ramp", "-t", "html", "-p", "fastly", "--resume"], &["nothing to resume"]);
    stage.desk.fails(1, &["ramp", "-t", "html", "-p", "akamai", "--to", "50"], &["100 % already", "--pct 50"]);
    stage.desk.fails(1, &["ramp", "-t", "html", "-p", "fastly"], &["the input ended without an answer"]);
    stage.desk.fine(&["-t", "html", "-p", "fastly", "-m", "no", "--yes"]);
    stage.desk.fails(1, &["ramp", "-t", "html", "-p", "fastly"], &["mode no", "-m obey --pct 0"]);
    // Without [ramp], a file with a small max_step is valid. But a ramp with the default steps is refused.
    let text = format!("max_step = 20\nprometheus = \"http://127.0.0.1:1\"\n{}{TARGET}", stage.dns.service("pdns"));
    stage.desk.dir.write("balance.toml", text);
    stage.desk.fine(&["-t", "html", "-p", "fastly", "-m", "obey", "--pct", "0", "--yes"]);
    stage.desk.fails(1, &["ramp", "-t", "html", "-p", "fastly"], &["from 25 % to 50 % is larger than max_step"]);
    let (_dns, desk) = started();
    desk.fails(2, &["ramp", "-t", "html", "-p", "fastly"], &["prometheus"]);
}

#[test]
fn ramp_when_prometheus_has_the_counters_then_uses_only_these_counters() {
    let stage = Stage::new(STEPS);
    let (traffic, zone) = (Arc::clone(&stage.traffic), Arc::clone(&stage.dns.zone));
    let prometheus = Origin::start(move |request, conn| {
        assert!(request.target.starts_with("/api/v1/query?query=sum%20by"), "{}", request.target);
        let mut traffic = traffic.lock().unwrap_or_else(PoisonError::into_inner);
        // --show asks for the counters of a minute ago first.
        if request.target.contains("offset") {
            traffic.offsets += 1;
        }
        let text = metrics(&mut traffic, &zone, 0);
        let series = |line: &str| {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let mut metric = json!({ "__name__": name, "job": "edgeshim", "instance": "shim-1:9900" });
            for (key, text) in labels.trim_end_matches('}').split(',').filter_map(|label| label.split_once('=')) {
                metric[key] = text.trim_matches('"').into();
            }
            json!({ "metric": metric, "value": [1, value] })
        };
        let result: Vec<Value> = text.lines().map(series).collect();
        let body = json!({ "status": "success", "data": { "resultType": "vector", "result": result } });
        respond(request, conn, 200, &[], body.to_string().as_bytes())
    });
    let config = std::fs::read_to_string(stage.desk.dir.join("balance.toml")).expect("the configuration");
    stage.desk.dir.write("balance.toml", format!("prometheus = \"http://{}\"\n{config}", prometheus.addr));
    // If the ramp used the counters of the shims, the broken shim would stop the ramp.
    stage.traffic().is_broken = true;
    let ended = stage.ramp(&["--to", "5"]);
    assert_eq!((ended.code, stage.share()), (0, 50), "{ended:?}");
    let shown: Value = serde_json::from_str(&stage.desk.fine(&["-t", "html", "--json"])).expect("JSON");
    assert_eq!((&shown["html"]["fastly"]["observed"], stage.traffic().offsets), (&json!(5.0), 1), "{shown}");
    drop(prometheus);
    let ended = stage.desk.run(&["-t", "html", "--json"]);
    assert!(
        ended.code == 0 && ended.err.contains("warning: the observed shares are not known: a minute ago"),
        "{ended:?}"
    );
}
