//! The results of `smoke` for people.

use std::fmt::Write as _;

use crate::smoke::{Card, Flaw, Report, Row, Verdict, millis};

/// The width at which texts are wrapped.
const COLUMNS: usize = 110;
/// The column in which the texts begin.
const TEXT_COLUMN: usize = 27;

/// How words are coloured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint {
    pub is_on: bool,
}

impl Paint {
    fn word(self, verdict: &str) -> String {
        let (shown, colour) = match verdict {
            "pass" => ("pass", "32"),
            "fail" => ("FAIL", "1;31"),
            _ => ("skip", "33"),
        };
        self.coloured(shown, colour)
    }

    fn coloured(self, text: &str, colour: &str) -> String {
        if self.is_on { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Returns the results of all checked URLs, the score cards and the sums. If there are several URLs, one line for each
/// URL comes before the sums.
pub(super) fn table(reports: &[Report], cards: &[Card], seconds: f64, paint: Paint) -> String {
    let mut text = String::new();
    for report in reports {
        text += &one(report, paint);
    }
    for card in cards {
        text += &score_card(card, paint);
    }
    if reports.len() > 1 {
        text += &overview(reports, paint);
    }
    let sum = |word| reports.iter().map(|report| report.count(word)).sum::<usize>();
    text + &format!("{} passed, {} failed, {} skipped in {seconds:.1} s\n", sum("pass"), sum("fail"), sum("skip"))
}

fn title(report: &Report) -> String {
    match &report.provider {
        Some(provider) => format!("{}  {provider} at {}", report.url, report.edge),
        None => format!("{}  at {}", report.url, report.edge),
    }
}

// Errors of `writeln!` are ignored in this file, because writing to a `String` cannot fail.
fn one(report: &Report, paint: Paint) -> String {
    let mut text = format!("{}\n\n", paint.coloured(&title(report), "1"));
    // Several checks that were skipped for one reason share a row, which comes last.
    let mut shared: Vec<(&str, Vec<&str>)> = Vec::new();
    for (check, verdict) in &report.verdicts {
        let name = check.name();
        let word = paint.word(verdict.word());
        match verdict {
            Verdict::Pass(what) => text += &row(&word, name, what),
            Verdict::Skip(reason) if report.verdicts.iter().filter(|(_, other)| other == verdict).count() > 1 => {
                match shared.iter_mut().find(|(known, _)| known == reason) {
                    Some((_, names)) => names.push(name),
                    None => shared.push((reason, vec![name])),
                }
            }
            Verdict::Skip(reason) => text += &row(&word, name, reason),
            Verdict::Fail(flaw) => {
                let Flaw { seen, expected, remedy } = &**flaw;
                text += &row(&word, name, seen);
                text += &row("    ", "  expected", expected);
                text += &row("    ", "  change", remedy);
            }
        }
    }
    for (reason, names) in shared {
        let count = format!("{} checks", names.len());
        text += &row(&paint.word("skip"), &count, &format!("{reason}: {}", names.join(", ")));
    }
    if let Some(time) = report.ttfb {
        let _ = writeln!(text, "\n  time to the first byte: {} ms (median)", millis(time));
    }
    text + "\n"
}

fn row(word: &str, name: &str, what: &str) -> String {
    let mut lines = wrapped(what, COLUMNS - TEXT_COLUMN).into_iter();
    let mut text = format!("  {word}  {name:<width$}{}\n", lines.next().unwrap_or_default(), width = TEXT_COLUMN - 8);
    for line in lines {
        let _ = writeln!(text, "{:TEXT_COLUMN$}{line}", "");
    }
    text
}

/// Splits a text into lines of at most `width` characters. A word with more characters has its own line.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last().map_or(0, |line| line.chars().count());
        if line > 0 && line + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else if let Some(last) = lines.last_mut() {
            if line > 0 {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines
}

fn score_card(card: &Card, paint: Paint) -> String {
    let Card { url, candidate, incumbent, rows } = card;
    let heading = format!("Score card: {candidate} against {incumbent}, {url}");
    let mut text = format!("{}\n\n", paint.coloured(&heading, "1"));
    let _ = writeln!(text, "  {:<6}{:<25}{candidate:>16}{incumbent:>16}{:>16}", "", "", "difference");
    for Row { name, candidate, incumbent, difference, passed } in rows {
        let word = passed.map_or_else(|| "    ".to_owned(), |passed| paint.word(if passed { "pass" } else { "fail" }));
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "not measured".to_owned());
        let (candidate, incumbent) = (value(candidate), value(incumbent));
        let _ = writeln!(text, "  {word}  {name:<25}{candidate:>16}{incumbent:>16}{difference:>16}");
    }
    text + "\n"
}

fn overview(reports: &[Report], paint: Paint) -> String {
    let mut text = String::new();
    for report in reports {
        let failed: Vec<_> = report.failed().collect();
        let word = if failed.is_empty() { "pass" } else { "fail" };
        let names = if failed.is_empty() { String::new() } else { format!(": {}", failed.join(", ")) };
        let _ = writeln!(text, "  {}  {}{names}", paint.word(word), title(report));
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_when_long_then_is_wrapped_at_words() {
        assert_eq!(wrapped("a bc def", 4), ["a bc", "def"]);
        assert_eq!(wrapped("abcdefgh i", 4), ["abcdefgh", "i"]);
        assert_eq!(wrapped("", 4), [""]);
    }
}
