//! The list of all problems of a configuration. Each problem includes what to write instead.

use std::fmt;

/// One problem of a configuration, which is shown as `key: value message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The name of another file that has the problem, with control characters escaped. `None`: the problem is in the
    /// configuration file itself.
    pub file: Option<String>,
    /// The complete path of the key, for example `class[0].cache.ttl`. Empty if the problem has no key, for example
    /// because the file cannot be read.
    pub key: String,
    /// The line in the file, counted from 1.
    pub line: Option<usize>,
    /// The column in characters, counted from 1. Only problems with text that is not UTF-8 or not TOML have a column.
    pub column: Option<usize>,
    /// The value, shortened and with control characters escaped. The text is `***` if the value can be a secret. Empty
    /// if there is no value, for example because the key is missing.
    pub value: String,
    /// What is wrong, and what to write instead. The message continues a sentence that begins with the value.
    pub message: String,
}

impl Problem {
    /// Creates a problem that has no key. The caller can add a line and a column.
    pub(super) fn of_file(value: impl Into<String>, message: impl Into<String>) -> Self {
        Self { file: None, key: String::new(), line: None, column: None, value: value.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        if !self.value.is_empty() {
            write!(f, "{} ", self.value)?;
        }
        f.write_str(&self.message)
    }
}

/// All problems of one configuration. Problems of the configuration file come first, in the order of its lines.
/// Problems of other files, for example of a template for pages, follow. The list is never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems {
    file: String,
    list: Vec<Problem>,
}

impl Problems {
    pub(super) fn new(file: &str, mut list: Vec<Problem>) -> Self {
        // The sort is stable, so the problems of other files keep their order.
        list.sort_by_key(|problem| match problem.file {
            Some(_) => (true, usize::MAX, None),
            None => (false, problem.line.unwrap_or(usize::MAX), problem.column),
        });
        Self { file: file.to_owned(), list }
    }

    pub(super) fn one(file: &str, problem: Problem) -> Self {
        Self::new(file, vec![problem])
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }
}

/// Writes one line for each problem. The line starts with the file and, if it is known, the line number, so that
/// editors can jump to the problem.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            f.write_str(problem.file.as_ref().unwrap_or(&self.file))?;
            if let Some(line) = problem.line {
                write!(f, ":{line}")?;
                if let Some(column) = problem.column {
                    write!(f, ":{column}")?;
                }
            }
            write!(f, ": {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Returns the line and the column, both counted from 1, of the character that follows `text`.
pub(super) fn position(text: &[u8]) -> (usize, usize) {
    let start = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let line = text.split(|&byte| byte == b'\n').count();
    // In UTF-8, each character has exactly one byte that is not a continuation byte.
    let column = text.get(start..).unwrap_or_default().iter().filter(|&&byte| byte & 0xC0 != 0x80).count() + 1;
    (line, column)
}

/// Creates the problem of a text that is not TOML.
pub(super) fn syntax(text: &str, error: &toml::de::Error) -> Problem {
    let span = error.span().unwrap_or_default();
    let (line, column) = position(text.as_bytes().get(..span.start).unwrap_or_default());
    // The message does not include the text itself, because the text can be part of a secret.
    let message = error.message().replace('\n', ", ");
    let remedy = "write key = value, put texts in double quotes, and write each key and each [block] only once";
    let message = format!("{message}: this is not TOML; {remedy}");
    let mut problem = Problem::of_file("", message);
    problem.line = Some(line);
    problem.column = Some(column);
    problem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_when_text_is_not_ascii_then_counts_characters() {
        assert_eq!(position(b""), (1, 1));
        assert_eq!(position("a\nüb".as_bytes()), (2, 3));
    }

    #[test]
    fn problems_when_displayed_then_are_sorted_by_line() {
        let problem = |line, key: &str| Problem {
            file: None,
            key: key.to_owned(),
            line,
            column: None,
            value: "7".to_owned(),
            message: "is odd; write 8".to_owned(),
        };
        let problems = Problems::new("e.toml", vec![problem(None, "c"), problem(Some(9), "b"), problem(Some(2), "a")]);
        assert_eq!(
            problems.to_string(),
            "e.toml:2: a: 7 is odd; write 8\ne.toml:9: b: 7 is odd; write 8\ne.toml: c: 7 is odd; write 8"
        );
    }
}
