//! Fuzzes the reader of the configuration file. Each input leads to settings or to a list of problems. Each line of the
//! list starts with the name of the file.

#![no_main]

use std::path::Path;

use edgeshim::internals::config::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(problems) = parse(text, "edgeshim.toml", Path::new("/nonexistent")) {
        assert!(problems.len() > 0);
        for line in problems.to_string().lines() {
            assert!(line.starts_with("edgeshim.toml"), "{line}");
        }
    }
});
