//! Values that are typed as texts with a grammar of their own: durations, sizes, secrets.

use std::env;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::file::Checked;
use super::words::quote;
use crate::wire::secret::Secret;

/// The longest duration that stands anywhere, in seconds: ten years of 365 days.
const MAX_DURATION_SECONDS: u64 = 10 * 365 * 86_400;
/// The largest secret that is read from a file, in bytes.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

/// A secret typed as it is, or named by `env:NAME` or `file:PATH`; none where the text is empty.
pub(super) fn secret(text: &str, folder: &Path) -> Checked<Option<Secret>> {
    let found = if let Some(name) = text.strip_prefix("env:") {
        // `var` itself never panics on odd names, but says "not found" for them, which is what they are.
        env::var(name).map_err(|error| match error {
            env::VarError::NotPresent => {
                format!("names an environment variable that is not set; set {} or name another", quote(name))
            }
            env::VarError::NotUnicode(_) => {
                "names an environment variable that is no UTF-8; set it to plain text".to_owned()
            }
        })?
    } else if let Some(path) = text.strip_prefix("file:") {
        secret_file(&folder.join(path))?
    } else if text.is_empty() {
        return Ok(None);
    } else {
        text.to_owned()
    };
    if found.is_empty() {
        return Err("names something empty; put the secret there, or name another place".to_owned());
    }
    // It travels in a header field, where nothing else can stand.
    if !found.bytes().all(|b| b.is_ascii_graphic()) {
        let message = "holds a secret with characters that no header field carries as they are";
        return Err(format!("{message}; use visible ASCII without spaces, for example 64 hexadecimal digits"));
    }
    Ok(Some(Secret::new(found)))
}

fn secret_file(path: &Path) -> Checked<String> {
    let mut secret = String::new();
    let shown = quote(&path.display().to_string());
    File::open(path).and_then(|file| file.take(MAX_SECRET_BYTES + 1).read_to_string(&mut secret)).map_err(|error| {
        format!("cannot be read from {shown} ({error}); name a file that exists and that this user may read")
    })?;
    if secret.len() as u64 > MAX_SECRET_BYTES {
        return Err(format!(
            "names {shown}, which is longer than {MAX_SECRET_BYTES} bytes; name the file of one secret"
        ));
    }
    // Editors end a file with a newline that nobody means as a part of the secret.
    secret.truncate(secret.trim_end_matches(['\r', '\n']).len());
    Ok(secret)
}

/// A duration: a whole number and one unit.
pub(super) fn duration(text: &str) -> Checked<Duration> {
    const REMEDY: &str = "write a whole number and a unit out of ms, s, m, h, d, for example";
    let (digits, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    if digits.is_empty() {
        return Err(format!("is no duration; {REMEDY} \"10s\""));
    }
    let milliseconds_each: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" => {
            return Err(format!("is a duration without a unit; {REMEDY} {}", quote(&format!("{digits}s"))));
        }
        _ => return Err(format!("is no duration; {REMEDY} \"10s\"")),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|count| count.checked_mul(milliseconds_each))
        .filter(|&milliseconds| milliseconds <= MAX_DURATION_SECONDS * 1_000)
        .map(Duration::from_millis)
        .ok_or_else(|| "is longer than ten years; write at most \"3650d\"".to_owned())
}

/// A duration above zero: a time limit of nothing would refuse everybody.
pub(super) fn timeout(text: &str) -> Checked<Duration> {
    let duration = duration(text)?;
    if duration.is_zero() {
        return Err("is no time at all, so that everything would fail; write a duration above 0, for example \"30s\""
            .to_owned());
    }
    Ok(duration)
}

/// A duration in whole seconds, since that is all that Cache-Control and Retry-After can say.
pub(super) fn seconds(text: &str) -> Checked<u64> {
    let duration = duration(text)?;
    if duration.subsec_nanos() != 0 {
        return Err(format!(
            "has a part of a second, which no header field can say; write \"{}s\"",
            duration.as_secs() + 1
        ));
    }
    Ok(duration.as_secs())
}

/// The shortest way to type a duration.
pub(super) fn duration_text(duration: Duration) -> String {
    let (seconds, milliseconds) = (duration.as_secs(), duration.as_millis());
    match seconds {
        _ if duration.subsec_millis() != 0 => format!("{milliseconds}ms"),
        0 => "0s".to_owned(),
        // Seconds stay seconds up to an hour and where nothing larger divides them evenly: "75s", not "1m15s".
        _ if seconds.is_multiple_of(86_400) => format!("{}d", seconds / 86_400),
        _ if seconds.is_multiple_of(3_600) => format!("{}h", seconds / 3_600),
        _ => format!("{seconds}s"),
    }
}

/// A size in bytes: a whole number and a unit, or `0`.
pub(super) fn size(text: &str) -> Checked<u64> {
    const REMEDY: &str = "write a whole number and a unit out of B, KiB, MiB, GiB, for example";
    let (digits, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    if digits.is_empty() {
        return Err(format!("is no size; {REMEDY} \"64KiB\""));
    }
    let count = digits.parse::<u64>();
    let bytes_each: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "" if count == Ok(0) => 1,
        "" => return Err(format!("is a size without a unit; {REMEDY} \"{digits}B\"")),
        _ => {
            let meant = match unit.to_ascii_lowercase().as_str() {
                "b" => "B",
                "k" | "kb" | "kib" => "KiB",
                "m" | "mb" | "mib" => "MiB",
                "g" | "gb" | "gib" => "GiB",
                _ => return Err(format!("is no size; {REMEDY} \"64KiB\"")),
            };
            return Err(format!("has a unit that not everybody reads alike; write \"{digits}{meant}\""));
        }
    };
    count
        .ok()
        .and_then(|count| count.checked_mul(bytes_each))
        // TOML's and JSON's numbers end here, and no disk is larger.
        .filter(|&bytes| i64::try_from(bytes).is_ok())
        .ok_or_else(|| "is more bytes than can be counted; write at most \"1000000GiB\"".to_owned())
}

/// The shortest way to type a size.
pub(super) fn size_text(bytes: u64) -> String {
    match bytes {
        0 => "0".to_owned(),
        _ if bytes.is_multiple_of(1 << 30) => format!("{}GiB", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
        _ => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_one_number_and_one_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("5m"), Ok(Duration::from_mins(5)));
        assert_eq!(duration("2h"), Ok(Duration::from_hours(2)));
        assert_eq!(duration("7d"), Ok(Duration::from_hours(7 * 24)));
        assert_eq!(duration("94670800s"), Ok(Duration::from_secs(94_670_800)));
        for bad in
            ["", "s", "10", "1m30s", "-1s", "1.5s", " 1s", "1 s", "10 parsecs", "3651d", "99999999999999999999s", "１s"]
        {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(duration("10").is_err_and(|said| said.ends_with("\"10s\"")));
        assert!(timeout("0ms").is_err());
        assert!(seconds("1500ms").is_err_and(|said| said.contains("\"2s\"")));
        assert_eq!(seconds("2000ms"), Ok(2));
    }

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("100MiB"), Ok(104_857_600));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("512B"), Ok(512));
        assert_eq!(size("0"), Ok(0));
        for bad in ["", "KiB", "64", "64KB", "64kib", "1TiB", "-1B", "1.5MiB", "64 KiB", "99999999999GiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert!(size("64kb").is_err_and(|said| said.contains("\"64KiB\"")));
    }

    #[test]
    fn secrets_are_written_as_stars() {
        let secret = Secret::new("hunter2");
        assert_eq!(serde_json::to_string(&secret).ok().as_deref(), Some("\"***\""));
    }

    #[test]
    fn secrets_come_from_the_environment_or_a_file() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert_eq!(secret("", folder), Ok(None));
        assert_eq!(secret("plain", folder), Ok(Some(Secret::new("plain"))));
        // Set by cargo for every test; setting one here would need unsafe code.
        assert_eq!(secret("env:CARGO_PKG_NAME", folder), Ok(Some(Secret::new("edgeshim"))));
        assert!(secret("env:EDGESHIM_UNSET", folder).is_err_and(|said| said.contains("not set")));
        for bad in ["env:", "env:A=B", "env:\0", "file:", "file:no/such/file", "file:Cargo.toml", "two words"] {
            assert!(secret(bad, folder).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged_without_panic(text in any::<String>()) {
            let _ = (duration(&text), timeout(&text), seconds(&text), size(&text));
        }

        #[test]
        fn durations_and_sizes_are_shown_as_they_can_be_typed(
            milliseconds in 0..MAX_DURATION_SECONDS * 1_000,
            bytes in 0..u64::MAX >> 1,
        ) {
            let value = Duration::from_millis(milliseconds);
            prop_assert_eq!(duration(&duration_text(value)), Ok(value));
            prop_assert_eq!(size(&size_text(bytes)), Ok(bytes));
        }
    }
}
