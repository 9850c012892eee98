//! A reader of the Prometheus text format.

use std::fmt::Write as _;

/// One line of a scrape.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// The name, with its suffix `_bucket`, `_sum` or `_count` if there is one.
    pub name: String,
    /// The names and unescaped values of the labels, in the order of the line.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: f64,
}

/// One scrape.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Every series, in the order of the text.
    pub series: Vec<Series>,
    /// The complete text of the scrape.
    pub text: String,
}

impl Metrics {
    /// Parses a scrape. Panics if a line is malformed.
    pub fn parse(text: &str) -> Self {
        let series = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| series(line).unwrap_or_else(|| panic!("not a line of the Prometheus text format: {line:?}")))
            .collect();
        Self { series, text: text.to_owned() }
    }

    /// Returns every series of a metric that has these labels. A series can have more labels.
    pub fn matching<'a>(&'a self, name: &'a str, labels: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = &'a Series> {
        self.series.iter().filter(move |series| {
            series.name == name
                && labels.iter().all(|(label, value)| series.labels.iter().any(|(l, v)| l == label && v == value))
        })
    }

    /// Returns the value of the only series that matches. Panics if no series or several series match.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let mut found = self.matching(name, labels);
        match (found.next(), found.next()) {
            (Some(series), None) => series.value,
            (none, _) => {
                let mut near = String::new();
                for series in self.series.iter().filter(|series| series.name == name) {
                    let _ = writeln!(near, "  {:?} = {}", series.labels, series.value);
                }
                let what = if none.is_none() { "no series" } else { "several series" };
                panic!("{what} of {name} with {labels:?}; all series of {name}:\n{near}")
            }
        }
    }

    /// Returns the sum of the series that match, or 0 if no series matches.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|series| series.value).sum()
    }

    /// Returns the sum of the series that match. Panics if the sum is not a whole number.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        whole(self.sum(name, labels))
    }

    /// Returns whether at least one series matches.
    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.matching(name, labels).next().is_some()
    }

    /// Returns the number of series.
    pub fn series_count(&self) -> usize {
        self.series.len()
    }
}

/// Returns the value of a counter as an integer. Panics if the value is not a whole number.
pub fn whole(value: f64) -> u64 {
    // The sum of no series is -0.0, and adding 0.0 makes it 0.0.
    format!("{}", value + 0.0).parse().unwrap_or_else(|_| panic!("{value} is not a whole number"))
}

fn series(line: &str) -> Option<Series> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.push((label.to_owned(), value));
            rest = after;
        }
    }
    let number = rest.split_ascii_whitespace().next()?;
    let value = match number {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        other => other.parse().ok()?,
    };
    let named =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':');
    named.then(|| Series { name: name.to_owned(), labels, value })
}

/// Splits a text at the closing quote. Returns the unescaped text before the quote, and the text after the quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}
