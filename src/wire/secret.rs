//! A secret that travels in a header field, and how it is compared.

use std::fmt;

use subtle::ConstantTimeEq as _;

/// Something that is in no log, message or page: it shows as `***`.
///
/// Two are compared with `==` only to find out whether a reload changed anything; what a client sent goes through
/// [`Secret::matches`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself; to be handed to what needs it and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `given` is the secret, in a time that depends on the lengths alone.
    pub fn matches(&self, given: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(given).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn secrets_show_as_stars_and_compare_whole() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), "***");
        assert!(secret.matches(b"hunter2"));
        for bad in [&b""[..], b"hunter", b"hunter22", b"hunter3"] {
            assert!(!secret.matches(bad));
        }
    }
}
