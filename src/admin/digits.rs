//! Rounds the numbers of the page, so that the JSON of a long series is smaller.

/// Rounds a number to four significant digits. NaN and an infinite number become 0, and so does a number between about
/// -1e-305 and 1e-305.
pub(super) fn digits(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    #[allow(clippy::cast_possible_truncation, reason = "the exponent of a finite f64 fits in an i32")]
    let scale = 10f64.powi(3 - value.abs().log10().floor() as i32);
    if scale.is_finite() { (value * scale).round() / scale } else { 0.0 }
}

/// Rounds a time to milliseconds.
pub(super) fn round(time: f64) -> f64 {
    (time * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_when_rounded_then_has_four_significant_digits() {
        for (value, wanted) in [(0.123_456, 0.1235), (1_234_567.0, 1_235_000.0), (0.0, 0.0), (f64::NAN, 0.0)] {
            assert!((digits(value) - wanted).abs() < 1e-9, "{value}");
        }
        assert!(digits(1e-320).abs() < 1e-300);
    }
}
