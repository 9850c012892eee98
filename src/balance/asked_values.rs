//! Reads the values of a requested change, from the command line or from the page.

use super::share::{Mode, PERMILLE, WEIGHTS};

pub(crate) fn weight(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|weight| WEIGHTS.contains(weight)).ok_or_else(|| {
        format!(
            "write a whole number from {} to {}; the share 0 % (--pct 0) takes all traffic away, and the mode no \
             (-m no) switches the provider off",
            WEIGHTS.start(),
            WEIGHTS.end()
        )
    })
}

pub(crate) fn mode(text: &str) -> Result<Mode, String> {
    Mode::named(text).ok_or_else(|| {
        let names: Vec<&str> = Mode::NAMES.iter().map(|(name, _)| *name).collect();
        format!("write one of {}", names.join(", "))
    })
}

/// Reads a percentage in steps of 0.1. Returns thousandths.
pub(crate) fn permille(text: &str) -> Result<u32, String> {
    let digits = |text: &str| !text.is_empty() && text.len() <= 3 && text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let tenths = match decimals.trim_end_matches('0') {
        "" if !decimals.is_empty() => "0",
        tenths => tenths,
    };
    if digits(whole) && tenths.len() > 1 && tenths.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("the smallest step is 0.1 %; write a number with at most one decimal".to_owned());
    }
    let parsed = whole.parse::<u32>().ok().zip(tenths.parse::<u32>().ok()).filter(|_| digits(whole) && digits(tenths));
    parsed
        .map(|(whole, tenths)| whole * 10 + tenths)
        .filter(|permille| *permille <= PERMILLE)
        .ok_or_else(|| "write a percentage from 0 to 100, for example 5 or 0.5".to_owned())
}

pub(crate) fn reason(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("write the reason, for example 'fastly is down'".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentage_when_out_of_range_or_finer_than_a_tenth_then_is_rejected() {
        for (text, permille_) in
            [("0", 0), ("1", 10), ("100", 1000), ("12.5", 125), ("0.1", 1), ("33.30", 333), ("7.00", 70)]
        {
            assert_eq!(permille(text), Ok(permille_), "{text}");
        }
        for bad in
            ["", "101", "100.1", "-1", "5x", "5 %", "1e2", ".5", "5.", "0.05", "12.34", "9999999999", "NaN", "+5"]
        {
            assert!(permille(bad).is_err(), "{bad}");
        }
        assert!(permille("0.05").is_err_and(|message| message.contains("0.1 %")));
    }

    #[test]
    fn weight_when_not_from_1_to_15_then_is_rejected() {
        assert_eq!((weight("1"), weight("15")), (Ok(1), Ok(15)));
        for bad in ["0", "16", "5x", "", "-1", "1.5"] {
            assert!(weight(bad).is_err(), "{bad}");
        }
    }
}
