//! `edgeshim balance rollback` of some targets. The test with the acts of `watch` is beside the tests of `watch`.

use super::*;

/// Returns the weight of fastly.
fn weight(desk: &Desk, target: &str) -> u64 {
    let shown: Value = serde_json::from_str(&desk.fine(&["-t", target, "--json"])).expect("JSON");
    shown[target]["fastly"]["weight"].as_u64().expect("a weight")
}

#[test]
fn rollback_when_targets_are_named_then_undoes_only_their_changes() {
    let (_dns, desk) = started();
    desk.fine(&["--all", "-p", "fastly", "-w", "14", "--yes"]);
    desk.fine(&["-t", "images", "-p", "fastly", "-w", "13", "--yes"]);
    desk.fine(&["-t", "html", "-p", "fastly", "-w", "12", "--yes"]);
    let out = desk.fine(&["rollback", "2", "-t", "Images", "--yes"]);
    assert!(out.contains("Changes that are undone:\n") && !out.contains("Acts of watch"), "{out}");
    let undone: Vec<&str> = out.lines().filter(|line| line.ends_with(": done")).collect();
    assert!(undone[0].contains(" alice images: fastly weight 13: done"), "{out}");
    assert!(undone.len() == 2 && undone[1].contains(" alice html, images, static: fastly weight 14: done"), "{out}");
    assert_eq!(["html", "images", "static"].map(|target| weight(&desk, target)), [12, 15, 14]);
    desk.fails(1, &["rollback", "9", "-t", "static", "--yes"], &["the journal has 2 changes of static; "]);
    desk.fails(2, &["rollback", "-t", "statics"], &["there is no such target; write one of html, images, static"]);
    // Without -t, the last change is the rollback.
    desk.fine(&["rollback", "--yes"]);
    assert_eq!(["html", "images", "static"].map(|target| weight(&desk, target)), [12, 13, 14]);
}

#[test]
fn rollback_when_a_target_was_removed_from_the_file_then_message_says_what_to_write() {
    let (_dns, desk) = started();
    desk.fine(&["--all", "-p", "fastly", "-w", "14", "--yes"]);
    let config = std::fs::read_to_string(desk.dir.join("balance.toml")).unwrap();
    let (rest, _) = config.split_once("[[target]]\nname = \"static\"").expect("the last target");
    desk.dir.write("balance.toml", rest);
    let parts = [
        "the target static, which balance.toml no longer has",
        "write the target into balance.toml again",
        "with -t html -t images",
    ];
    desk.fails(1, &["rollback", "--yes"], &parts);
    desk.fine(&["rollback", "-t", "html", "-t", "images", "--yes"]);
    assert_eq!(["html", "images"].map(|target| weight(&desk, target)), [15, 15]);
}
