//! Secrets in header fields.

use std::fmt;

use subtle::{Choice, ConstantTimeEq as _};

/// A secret. Its `Debug` form is `***`, so that no log contains the secret.
///
/// `==` is only for the comparison of two configured secrets. Use [`Secret::matches`] to compare a secret with input
/// from a peer, because `==` does not take constant time.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// Returns the secret as plain text.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns whether `given` is the secret. The time depends only on the lengths of `given` and of the secret.
    pub fn matches(&self, given: &[u8]) -> bool {
        let ours = self.0.as_bytes();
        // Eight bytes are compared at a time, because a comparison byte by byte would be the slowest part of a proof.
        let words = ours.chunks(8).map(word).zip(given.chunks(8).map(word));
        let equal = words.fold(Choice::from(1), |equal, (ours, theirs)| equal & ours.ct_eq(&theirs));
        ours.len() == given.len() && equal.into()
    }
}

/// Reads up to eight bytes as one number.
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
    fn secret_when_formatted_for_debugging_then_hidden() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "***");
    }

    #[test]
    fn secret_when_input_differs_in_length_or_in_any_byte_then_does_not_match() {
        let secret = Secret::new("hunter2");
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
