//! Fuzzes the reader of access logs. The search for an id must find the same requests as a reading of every line.
//!
//! Each `@` of the input becomes the start of a line with the id. So the fuzzer need not guess this text.

#![no_main]

use edgeshim::internals::access_log_outcome;
use libfuzzer_sys::fuzz_target;

const ID: &str = "made-1";
const START: &str = concat!(
    r#"{"time":"2026-11-28T12:30:00.000Z","provider":"fastly","class":"html","status":200,"bytes":1,"#,
    r#""origin_bytes":1,"id":"made-1""#
);

fuzz_target!(|data: &[u8]| {
    let log = data.split(|&byte| byte == b'@').collect::<Vec<_>>().join(START.as_bytes());
    let Some([found, read]) = access_log_outcome(&log, ID) else { panic!("the id is valid") };
    assert_eq!(found, read);
});
