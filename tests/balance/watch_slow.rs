//! `edgeshim balance watch` while a DNS service or a shim is slow: the probes and the acts of other targets go on.

use super::*;

/// How long a test waits for several acts.
const LONG: std::time::Duration = PATIENCE.saturating_mul(4);

/// One target for each service. The first target has the name `a` and the node a.example.com, the second target has the
/// name `b` and the node b.example.com. The provider fastly of each target has the probe. The time limit of a call of a
/// service is ten minutes.
fn desk_of_targets(services: &[&Dns], edge: &Edge) -> Desk {
    let mut config = KEYS.to_owned();
    for (name, dns) in ["a", "b"].iter().zip(services) {
        let service = dns.service(name).replace("timeout = \"10s\"", "timeout = \"10m\"");
        let probe = edge.probe();
        write!(
            config,
            "{service}[[target]]\nname = \"{name}\"\ndns = [\"{name}\"]\nzone = \"example.com\"\n\
             nodes = [\"{name}.example.com\"]\n[target.providers]\nakamai = {{ cname = \"a.akamai.example\" }}\n\
             fastly = {{ cname = \"f.fastly.example\"{probe} }}\n"
        )
        .unwrap();
    }
    let desk = Desk::new(&config);
    desk.fine(&["init", "--all", "--yes"]);
    desk
}

fn has_fastly(dns: &Dns, target: &str) -> bool {
    weights(dns, &format!("{target}.example.com")).contains_key("f")
}

#[test]
fn act_when_dns_service_hangs_in_the_write_then_probes_go_on_and_a_signal_waits_for_the_act() {
    let (dns, edge) = (Dns::start(), Edge::start());
    let desk = desk_of(&dns, &[("fastly", edge.probe())], "");
    let path = desk.dir.join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(LONG)).expect("a time limit");
    let (arrived, go_on) = (Gate::default(), Gate::default());
    dns.plant(0, Plant::Wait(Arc::new(arrived.clone()), Arc::new(go_on.clone())));
    let watch = Watch::spawn(desk.command(&["watch"]).env("NOTIFY_SOCKET", &path));
    edge.set(503);
    arrived.wait();
    edge.wait_probes(5);
    signal(&watch.child, "TERM");
    let mut message = [0; 200];
    while !message.starts_with(b"STOPPING=1\n") {
        socket.recv(&mut message).expect("a message");
    }
    assert!(is_served(&dns, "f"), "the write has not gone on");
    go_on.open();
    let text = watch.stop();
    assert!(
        text.contains("html: fastly is away now") && text.contains("stopped; html: away: fastly (obey)\n"),
        "{text}"
    );
    let result = "done, not checked: www.example.com at pdns: a signal has ended the lookups";
    assert_eq!(desk.journal().last().unwrap()["result"], result);
}

#[test]
fn act_when_dns_service_of_another_target_hangs_then_is_made() {
    let (slow, fine, edge) = (Dns::start(), Dns::start(), Edge::start());
    let desk = desk_of_targets(&[&slow, &fine], &edge);
    slow.zone().always = Some(Plant::Hang);
    let watch = Watch::start(&desk);
    edge.set(503);
    watch.wait("b: fastly is away now");
    edge.set(200);
    watch.wait("b: fastly is back");
    let text = watch.stop();
    assert!(text.contains("stopped; a: the weights have not been read\n"), "{text}");
    assert!(has_fastly(&slow, "a") && has_fastly(&fine, "b"));
}

#[test]
fn act_when_edge_is_up_again_before_the_write_then_is_not_made() {
    let (one, other, edge) = (Dns::start(), Dns::start(), Edge::start());
    let desk = desk_of_targets(&[&one, &other], &edge);
    let (arrived, go_on) = (Gate::default(), Gate::default());
    for dns in [&one, &other] {
        dns.plant(0, Plant::Wait(Arc::new(arrived.clone()), Arc::new(go_on.clone())));
    }
    edge.set(503);
    let watch = Watch::start(&desk);
    arrived.wait();
    // The other target has read its nodes twice, and waits for its turn.
    let is_waiting = |dns: &Dns, before: usize| dns.api.count() >= before + 2;
    let (of_one, of_other) = (one.patches(), other.patches());
    assert!(of_one + of_other == 3, "two first weights and one act, but {of_one} and {of_other}");
    let waiting = if of_one == 1 { &one } else { &other };
    // `init` has sent GET, GET, PATCH, GET.
    assert!(wait_until(LONG, || is_waiting(waiting, 4)), "{}", waiting.api.count());
    edge.set(200);
    watch.wait("fastly is up: ");
    edge.wait_probes(2);
    go_on.open();
    watch.wait("fastly is back");
    edge.wait_probes(3);
    let text = watch.stop();
    assert_eq!((waiting.patches(), text.matches("is away now").count()), (1, 1), "{text}");
    assert!(text.contains("stopped; no provider is away\n"), "{text}");
}

#[test]
fn act_when_shims_do_not_answer_then_next_act_does_not_wait() {
    let (dns, edge) = (Dns::start(), Edge::start());
    let shim = Origin::start(origin::silent());
    let desk = desk_of(&dns, &[("fastly", edge.probe())], "");
    let config = std::fs::read_to_string(desk.dir.join("balance.toml")).unwrap();
    desk.dir.write("balance.toml", format!("shims = [\"{}\"]\n{config}", shim.url()));
    let watch = Watch::start(&desk);
    let is_late = |acts: usize| {
        let (status, part) = if acts % 2 == 1 { (503, "is away now") } else { (200, "is back") };
        edge.set(status);
        let made = || watch.text().matches(&format!("html: fastly {part}")).count() == acts.div_ceil(2);
        assert!(wait_until(LONG, made), "{acts}: {}", watch.text());
        // If this act had waited for the announcement of the previous act, each earlier announcement would have begun.
        shim.count() + 1 < acts
    };
    // Each announcement takes 3 seconds, so some of these acts are made before the previous act is announced.
    let acts = (1..9).find(|&acts| is_late(acts)).expect("an act that does not wait");
    let text = watch.stop();
    assert_eq!(text.matches(" is made, but not announced: ").count(), acts, "{text}");
    assert!(text.contains(" is made, but not announced: the watch ends"), "{text}");
}

#[test]
fn act_when_route_53_is_never_in_sync_then_next_act_does_not_wait_and_a_signal_ends_the_wait() {
    let (state, _api, desk) = with_aws();
    let state = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let edge = Edge::start();
    let config = std::fs::read_to_string(desk.dir.join("balance.toml")).unwrap();
    let probe = format!("\"f.fastly.example\"{}", edge.probe());
    desk.dir.write("balance.toml", format!("{}{KEYS}", config.replace("\"f.fastly.example\"", &probe)));
    state().is_never_in_sync = true;
    let watch = Watch::start(&desk);
    edge.set(503);
    watch.wait("images: fastly is away now");
    assert!(wait_until(PATIENCE, || state().looks > 2), "the watch asks Route 53 for the change");
    edge.set(200);
    watch.wait("images: fastly is back");
    // A person can make a change meanwhile. The signal ends the wait, and the change stays.
    let looks = state().looks;
    let change = ["-t", "images", "-p", "akamai", "-w", "14", "--yes"];
    let person = desk.command(&change).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a process");
    let is_written =
        || desk.lines().last().is_some_and(|line| line["action"] == "weight 14" && line["result"] == "done");
    assert!(wait_until(LONG, is_written), "{:?}", desk.lines());
    assert!(wait_until(LONG, || state().looks > looks));
    signal(&person, "INT");
    let ended = ended(person);
    let part = "perhaps not all DNS servers of aws have them yet: a signal has ended the wait";
    assert!(ended.code == 0 && ended.out.contains("Done (") && ended.err.contains(part), "{ended:?}");
    let text = watch.stop();
    assert!(text.matches(part).count() == 1 && text.contains("stopped; no provider is away\n"), "{text}");
    let results: Vec<_> = desk.journal().iter().map(|line| line["result"].clone()).collect();
    assert_eq!(results, vec!["done"; 4], "a change is done when it is written and read back");
}
