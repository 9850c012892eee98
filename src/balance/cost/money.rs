//! Amounts of money and prices, in millionths of the currency. The currency has no name: all prices of a file are in
//! one currency.

use std::fmt;

use crate::keys::{Checked, Text};

/// The number of millionths in one unit of the currency.
const MILLION: u128 = 1_000_000;
/// The largest price, in units of the currency. With the limits of `samples`, no product of a price and a quantity
/// overflows 128 bits.
const MAX_PRICE: u64 = 1_000_000;

/// A price: the millionths for one unit of what is sold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Price(pub u64);

/// An amount that must be paid, in millionths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Money(pub u128);

/// A price in a file, with at most six decimals.
pub(crate) const PRICE: Text<Price> =
    Text { example: "0.085", read: |text, _| price(text), write: ToString::to_string };

/// Reads the digits of a price.
fn price(text: &str) -> Checked<Price> {
    if text.starts_with('-') {
        return Err("is negative; write a price of 0 or more, for example 0.085".to_owned());
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_number(whole) || !is_number(fraction) {
        return Err("is not a price; write digits with at most one point, for example 0.085".to_owned());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 6 {
        return Err("has more than six decimals; write a price with at most six, for example 0.000123".to_owned());
    }
    let millionths =
        whole.parse::<u64>().ok().filter(|whole| *whole <= MAX_PRICE).zip(format!("{fraction:0<6}").parse().ok());
    millionths
        .map(|(whole, rest): (u64, u64)| whole * 1_000_000 + rest)
        .filter(|millionths| *millionths <= MAX_PRICE * 1_000_000)
        .map(Price)
        .ok_or_else(|| format!("is too large; write a price of at most {MAX_PRICE}"))
}

/// Writes the price without zeros at the end.
impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl Price {
    /// Returns what `quantity` costs, if `unit` costs this price. The amount is rounded once, half up, to a millionth.
    pub(crate) fn of(self, quantity: u128, unit: u128) -> Money {
        Money(rounded(quantity.saturating_mul(self.0.into()), unit))
    }
}

/// Divides and rounds half up.
pub(crate) fn rounded(dividend: u128, divisor: u128) -> u128 {
    dividend.saturating_add(divisor / 2).checked_div(divisor).unwrap_or(0)
}

impl std::ops::Add for Money {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl std::iter::Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::default(), |sum, amount| sum + amount)
    }
}

/// Writes the amount with two decimals, rounded half up.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hundredths = rounded(self.0, MILLION / 100);
        f.pad(&format!("{}.{:02}", hundredths / 100, hundredths % 100))
    }
}

impl Money {
    /// Writes the exact amount, with six decimals.
    pub(crate) fn exact(self) -> String {
        format!("{}.{:06}", self.0 / MILLION, self.0 % MILLION)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn price_when_negative_or_not_a_number_or_with_seven_decimals_then_is_rejected() {
        for (text, millionths) in [
            ("0", 0),
            ("0.085", 85_000),
            ("12", 12_000_000),
            ("+1.500000000", 1_500_000),
            ("0.000001", 1),
            ("1.", 1_000_000),
        ] {
            assert_eq!(price(text), Ok(Price(millionths)), "{text}");
        }
        for (text, part) in [
            ("-0.1", "is negative"),
            ("-0", "is negative"),
            ("0.0000001", "more than six decimals"),
            ("1e3", "is not a price"),
            ("nan", "is not a price"),
            ("inf", "is not a price"),
            ("", "is not a price"),
            (".5", "is not a price"),
            ("1.2.3", "is not a price"),
            ("1000000.000001", "is too large"),
            ("99999999999999999999999", "is too large"),
        ] {
            assert!(price(text).is_err_and(|message| message.contains(part)), "{text}");
        }
    }

    #[test]
    fn amount_when_halfway_between_two_millionths_then_is_rounded_up() {
        // At 0.5 for each GB, 3 bytes cost 3 * 500,000 / 10^9 = 0.0015 millionths, and 10^6 bytes cost 500 millionths.
        assert_eq!(Price(500_000).of(3, 1_000_000_000), Money(0));
        assert_eq!(Price(500_000).of(1_000_000, 1_000_000_000), Money(500));
        assert_eq!(Price(1).of(500_000_000, 1_000_000_000), Money(1));
        assert_eq!(Price(1).of(499_999_999, 1_000_000_000), Money(0));
        assert_eq!(Money(1_234_565_000).to_string(), "1234.57");
        assert_eq!(Money(4_999).to_string(), "0.00");
        assert_eq!(Money(1_234_565_001).exact(), "1234.565001");
    }

    proptest! {
        #[test]
        fn price_when_written_then_read_back_as_the_same_price(millionths in 0..=MAX_PRICE * 1_000_000) {
            prop_assert_eq!(price(&Price(millionths).to_string()), Ok(Price(millionths)));
        }

        #[test]
        fn price_when_text_is_arbitrary_then_is_read_without_panic(text in "[0-9.+e-]{0,40}|.{0,20}") {
            let _ = price(&text);
        }
    }
}
