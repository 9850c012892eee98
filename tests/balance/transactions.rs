//! Changes that fail at a write. Most tests make one change of three targets, each with two nodes at two services. This
//! change has six writes.

use super::*;

const CHANGE: [&str; 5] = ["--all", "-p", "fastly", "-w", "5"];
const NODES: [&str; 6] = ["a0", "a1", "b0", "b1", "c0", "c1"];
const OLD: &str = "akamai obey 15, edgecast obey 15, fastly obey 15";
const NEW: &str = "akamai obey 15, edgecast obey 15, fastly obey 5";

/// Two services, in the order in which each target is written.
struct Stage {
    services: [Dns; 2],
    desk: Desk,
    before: [BTreeMap<(String, String), Value>; 2],
}

impl Stage {
    fn new() -> Self {
        let services = [Dns::start(), Dns::start()];
        let mut config = services[0].service("first") + &services[1].service("second");
        for nodes in NODES.chunks(2) {
            let list = format!("\"{}.example.com\", \"{}.example.com\"", nodes[0], nodes[1]);
            config += &target(&nodes[0][..1], "\"first\", \"second\"", &list);
        }
        let desk = Desk::new(&config);
        desk.hurry();
        desk.fine(&["init", "--all", "--yes"]);
        let before = [services[0].contents(), services[1].contents()];
        Self { services, desk, before }
    }

    fn contents(&self) -> [BTreeMap<(String, String), Value>; 2] {
        [self.services[0].contents(), self.services[1].contents()]
    }

    /// Plants a failure at the write with this number. The writes alternate between the services.
    fn plant(&self, write: usize, plant: Plant) {
        self.services[write % 2].plant(write / 2, plant);
    }

    fn forget_plants(&self) {
        self.services.iter().for_each(|dns| dns.zone().plants.clear());
    }

    fn change(&self) -> Ended {
        self.desk.run(&[&CHANGE[..], &["--yes"]].concat())
    }

    fn result(&self) -> String {
        self.desk.journal().pop().expect("a change")["result"].as_str().expect("a text").to_owned()
    }
}

/// Each kind of failure, with its name and a part of its message. With the failure `cut`, the write is made, but the
/// response is missing.
fn failures() -> Vec<(&'static str, Plant, &'static str)> {
    vec![
        ("401", Plant::Status(401), "the API rejects the key (401)"),
        ("409", Plant::Status(409), "the API rejects the record (409"),
        ("422", Plant::Status(422), "the API rejects the record (422"),
        ("429", Plant::Status(429), "too many requests (429"),
        ("500", Plant::Status(500), "the API failed (500"),
        ("hang", Plant::Hang, "no complete response within 1000 ms"),
        ("cut", Plant::WriteAndCut, "no valid response"),
    ]
}

#[test]
fn write_when_failing_at_any_place_then_all_nodes_are_put_back() {
    let stage = Stage::new();
    let mut changes = 1;
    for write in 0..6 {
        for (name, plant, part) in failures() {
            stage.plant(write, plant);
            let ended = stage.change();
            let service = ["first: ", "second: "][write % 2];
            let is_told = [service, part, "all nodes are as before"].iter().all(|part| ended.err.contains(part));
            assert!(ended.code == 1 && is_told && !ended.err.contains("NOT"), "{name} at write {write}: {ended:?}");
            assert!(stage.contents() == stage.before, "{name} at write {write} left a difference");
            assert!(stage.result().starts_with(&format!("put back: {service}")), "{}", stage.result());
            changes += 1;
        }
    }
    assert_eq!(stage.desk.journal().len(), changes, "each failed change has one line with its result");
    let patches = stage.services.each_ref().map(Dns::patches);
    stage.desk.fine(&["--all", "-p", "fastly", "-w", "15", "--yes"]);
    assert_eq!(stage.services.each_ref().map(Dns::patches), patches, "nothing is left to write");
    assert_eq!(stage.desk.journal().len(), changes, "a change that changes nothing has no line");
    assert_eq!(stage.change().code, 0);
    stage.desk.fine(&["status"]);
}

#[test]
fn write_when_response_has_retry_after_then_is_repeated_or_all_nodes_are_put_back() {
    let stage = Stage::new();
    for write in 0..6 {
        // The call is repeated three times.
        for repeat in 0..4 {
            stage.services[write % 2].plant(write / 2 + repeat, Plant::Later("0"));
        }
        let ended = stage.change();
        assert!(ended.code == 1 && ended.err.contains("too many requests (429"), "write {write}: {ended:?}");
        assert!(ended.err.contains("all nodes are as before"), "write {write}: {ended:?}");
        assert!(stage.contents() == stage.before, "write {write} left a difference");
    }
    for write in 0..6 {
        stage.services[write % 2].plant(write / 2 * 2, Plant::Later("0"));
    }
    let ended = stage.change();
    assert!(ended.code == 0 && ended.err.is_empty(), "{ended:?}");
}

#[test]
fn change_when_signal_arrives_during_retry_after_then_ends_at_once_and_nothing_is_written() {
    let (dns, desk) = started();
    let before = dns.contents();
    dns.plant(0, Plant::Later("55"));
    let patches = dns.patches();
    let mut command = desk.command(&["-t", "images", "-p", "fastly", "-w", "5", "--yes"]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a process");
    assert!(wait_until(PATIENCE, || dns.patches() > patches), "no write has arrived");
    let asked = Instant::now();
    signal(&child, "INT");
    let ended = ended(child);
    assert!(asked.elapsed() < Duration::from_secs(40), "the signal has not ended the wait");
    assert_eq!(ended.code, 1, "{ended:?}");
    for part in ["a signal has ended the wait for which the API asked (Retry-After)", "all nodes are as before"] {
        assert!(ended.err.contains(part), "no {part:?}: {ended:?}");
    }
    assert!(dns.contents() == before && dns.patches() == patches + 1);
}

#[test]
fn put_back_when_failing_too_then_the_exact_difference_is_printed() {
    let stage = Stage::new();
    for write in 0..6 {
        for (name, plant, _) in failures() {
            let made = write + usize::from(name == "cut");
            if made == 0 {
                continue;
            }
            stage.plant(write, plant.clone());
            // All later writes fail, so nothing can be put back. A hang lasts a second, so the later writes hang only
            // in one case.
            let is_other = name == "cut" || (name == "hang" && write > 1);
            for later in write + 1..write + 13 {
                stage.plant(later, if is_other { Plant::Status(500) } else { plant.clone() });
            }
            let ended = stage.change();
            stage.forget_plants();
            assert!(ended.code == 1 && ended.err.contains("NOT all nodes could be put back:"), "{name}: {ended:?}");
            let told = ended.err.lines().filter_map(|line| line.strip_prefix("edgeshim balance: "));
            let mut told: Vec<&str> = told.filter(|line| line.contains("; now ")).collect();
            told.sort_unstable();
            let mut different = Vec::new();
            let contents = stage.contents();
            for (service, (now, before)) in ["first", "second"].iter().zip(contents.iter().zip(&stage.before)) {
                for (node, _) in now.keys().filter(|key| now[*key] != before[*key]) {
                    let node = node.trim_end_matches('.');
                    different.push(format!("{node} at {service}: had {OLD}; now has {NEW}"));
                }
            }
            different.sort();
            assert_eq!(different.len(), made * 2, "{name} at write {write}: each write has two nodes");
            assert_eq!(told, different, "{name} at write {write}");
            let result = stage.result();
            assert!(result.starts_with("split: ") && different.iter().all(|line| result.contains(line)), "{result}");
            // The services work again, and the old weights are set.
            let back = ["--all", "-p", "fastly", "-w", "15", "--yes", "--force", "mended"];
            assert_eq!(stage.desk.run(&back).code, 0);
            assert!(stage.contents() == stage.before, "{name} at write {write}");
        }
    }
}

#[test]
fn node_when_another_person_changes_it_during_a_change_then_keeps_the_other_record() {
    for (status, part) in [
        (204, "img1.example.com at pdns has another record (CNAME \"emergency.example.\") after the write"),
        (422, "the API rejects the record (422"),
        (500, "the API failed (500"),
        (429, "pdns: someone has changed the records while the API asked to wait (Retry-After)"),
        (503, "pdns: someone has changed the records while the API asked to wait (Retry-After)"),
    ] {
        let (dns, desk) = started();
        let before = dns.contents();
        dns.plant(0, Plant::Other(status));
        let difference = format!(
            "img1.example.com at pdns: had {OLD}; now has another record (CNAME \"emergency.example.\"), which this \
             change did not write, so it stays"
        );
        let parts = [part, "NOT all nodes could be put back:", &difference];
        let err = desk.fails(1, &["-t", "images", "-p", "fastly", "-w", "5", "--yes"], &parts);
        assert!(!err.contains("img0.example.com at pdns: had"), "{status}: {err}");
        let after = dns.contents();
        assert!(after.contains_key(&("img1.example.com.".to_owned(), "CNAME".to_owned())), "{status}: {after:?}");
        assert!(!after.contains_key(&("img1.example.com.".to_owned(), "LUA".to_owned())), "{status}: {after:?}");
        let other = ("img0.example.com.".to_owned(), "LUA".to_owned());
        assert_eq!(after[&other], before[&other], "{status}");
        let journal = desk.journal();
        assert!(journal.last().unwrap()["result"].as_str().unwrap().starts_with("split: "), "{status}: {journal:?}");
    }
}

#[test]
fn nodes_when_services_fail_after_a_write_without_response_then_are_reported_as_unknown() {
    let stage = Stage::new();
    let (arrived, go_on) = (Gate::default(), Gate::default());
    stage.plant(1, Plant::Wait(Arc::new(arrived.clone()), Arc::new(go_on.clone())));
    let change = [&CHANGE[..], &["--yes"]].concat();
    let mut command = stage.desk.command(&change);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a process");
    arrived.wait();
    stage.services.iter().for_each(|dns| dns.zone().always = Some(Plant::Status(500)));
    let ended = ended(child);
    go_on.open();
    assert_eq!(ended.code, 1, "{ended:?}");
    for place in ["a0.example.com at first", "a1.example.com at first", "a0.example.com at second"] {
        let part = format!("{place}: had {OLD}; now is not known (");
        assert!(ended.err.contains(&part), "no {part:?} in {}", ended.err);
    }
    assert!(!ended.err.contains("b0.example.com"), "{}", ended.err);
}

#[test]
fn write_when_failing_after_route_53_has_changed_then_route_53_is_put_back_or_the_difference_is_printed() {
    let (state, _api, aws) = start_aws();
    let state = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let dns = Dns::start();
    let node = "\"www.example.com\"";
    let desk = Desk::new(&(aws + &dns.service("pdns") + &target("html", "\"aws\", \"pdns\"", node)));
    desk.hurry();
    desk.fine(&["init", "-t", "html", "--yes"]);
    let (sets, contents) = (state().sets.clone(), dns.contents());
    let change = ["-t", "html", "-p", "fastly", "-w", "5", "--yes"];
    for (name, plant, part) in failures() {
        dns.plant(0, plant);
        desk.fails(1, &change, &["pdns: ", part, "all nodes are as before"]);
        assert!(state().sets == sets && dns.contents() == contents, "{name} left a difference");
    }
    dns.plant(0, Plant::Status(500));
    let posts = state().posts;
    state().denied_from = Some(posts + 2);
    let difference = format!("www.example.com at aws: had {OLD}; now has {NEW}");
    desk.fails(1, &change, &["pdns: the API failed (500", "NOT all nodes could be put back:", &difference]);
    assert_eq!((state().posts, dns.contents()), (posts + 3, contents), "the put-back is tried twice");
    state().denied_from = None;
    let back = ["-t", "html", "-p", "fastly", "-w", "15", "--yes", "--force", "mended"];
    assert_eq!(desk.run(&back).code, 0);
    assert_eq!(state().sets, sets);
}
