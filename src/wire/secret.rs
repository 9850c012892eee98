//! A secret that travels in a header field, and how it is compared.

use std::fmt;

use subtle::{Choice, ConstantTimeEq as _};

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
        let ours = self.0.as_bytes();
        // Eight bytes at a time: byte by byte it would be the dearest part of a pull's proof.
        let words = ours.chunks(8).map(word).zip(given.chunks(8).map(word));
        let equal = words.fold(Choice::from(1), |equal, (ours, theirs)| equal & ours.ct_eq(&theirs));
        ours.len() == given.len() && equal.into()
    }
}

/// Up to eight bytes as one number.
fn word(bytes: &[u8]) -> u64 {
    if let Ok(whole) = bytes.try_into() {
        return u64::from_le_bytes(whole);
    }
    let mut word = [0; 8];
    for (to, from) in word.iter_mut().zip(bytes) {
        *to = *from;
    }
    u64::from_le_bytes(word)
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
        for bad in [&b""[..], b"hunter", b"hunter22", b"hunter3", b"hunter2\0"] {
            assert!(!secret.matches(bad));
        }
        let long = Secret::new("0123456789abcdefg");
        assert!(long.matches(b"0123456789abcdefg"));
        for at in 0..17 {
            let mut near = *b"0123456789abcdefg";
            near[at] ^= 1;
            assert!(!long.matches(&near) && !long.matches(&near[..at]), "{at}");
        }
    }
}
