//! Reads secrets: from the configuration itself, from an environment variable or from a file.

use std::env;
use std::io;
use std::path::Path;

use super::{Checked, Text, quote};
use crate::regular_file;
use crate::wire::secret::Secret;

/// The size of the largest secret that is read from a file, in bytes.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// The text form of a secret. An empty secret is rejected.
pub(crate) const SECRET: Text<Secret> = Text { example: "env:ADMIN_TOKEN", read: secret, write: |_| "***".to_owned() };

/// Reads a secret from an environment variable (`env:NAME`), from a file (`file:PATH`) or from the text itself.
fn secret(text: &str, folder: &Path) -> Checked<Secret> {
    let found = if let Some(name) = text.strip_prefix("env:") {
        env::var(name).map_err(|error| match error {
            env::VarError::NotPresent => {
                format!("names an environment variable that is not set; set {}, or name another variable", quote(name))
            }
            env::VarError::NotUnicode(_) => {
                "names an environment variable whose value is not UTF-8; set a value in ASCII".to_owned()
            }
        })?
    } else if let Some(path) = text.strip_prefix("file:") {
        secret_file(&folder.join(path))?
    } else {
        text.to_owned()
    };
    if found.is_empty() {
        return Err("is empty, or names an empty variable or file; write a secret that is not empty".to_owned());
    }
    // CDNs and clients send most secrets in a header field, so only visible ASCII is allowed.
    if !found.bytes().all(|b| b.is_ascii_graphic()) {
        let message = "contains a space, a control character or a character outside ASCII";
        return Err(format!("{message}; use visible ASCII without spaces, for example 64 hexadecimal digits"));
    }
    Ok(Secret::new(found))
}

fn secret_file(path: &Path) -> Checked<String> {
    let shown = quote(&path.display().to_string());
    let read = regular_file::read(path, MAX_SECRET_BYTES);
    let mut secret = read.and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other)).map_err(|error| {
        format!("cannot be read from {shown} ({error}); name a regular file that this user may read")
    })?;
    if secret.len() as u64 > MAX_SECRET_BYTES {
        return Err(format!(
            "names {shown}, which is longer than {MAX_SECRET_BYTES} bytes; name a file that contains one secret"
        ));
    }
    // Editors write a newline at the end of a file. This newline is not part of the secret.
    secret.truncate(secret.trim_end_matches(['\r', '\n']).len());
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_when_shown_then_is_hidden() {
        assert_eq!((SECRET.write)(&Secret::new("hunter2")), "***");
    }

    #[test]
    fn secret_when_source_is_unusable_then_rejected_otherwise_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert_eq!(secret("plain", folder), Ok(Secret::new("plain")));
        // cargo sets this variable for every test. Setting a variable in the test would need unsafe code.
        assert_eq!(secret("env:CARGO_PKG_NAME", folder), Ok(Secret::new("edgeshim")));
        assert!(secret("env:EDGESHIM_UNSET", folder).is_err_and(|message| message.contains("not set")));
        for bad in ["", "env:", "env:A=B", "env:\0", "file:", "file:no/such/file", "file:Cargo.toml", "two words"] {
            assert!(secret(bad, folder).is_err(), "{bad}");
        }
    }
}
