//! The rules for the text of comments and documents.

use crate::source::{Breach, Source, is_word};

/// Texts that refer to something outside this repository.
const POINTERS: &[&str] = &["spec §", "spec.md", "house", "the contract §", "the model"];

/// The words of a paragraph, without comment markers. Each word has the number of its line.
type Paragraph<'a> = Vec<(usize, &'a str)>;

/// Splits a text into paragraphs. `unmark` removes the comment marker from a line. A line that is then empty ends a
/// paragraph.
fn paragraphs(text: &str, unmark: fn(&str) -> &str) -> Vec<Paragraph<'_>> {
    let mut paragraphs = vec![Paragraph::new()];
    for (index, line) in text.lines().enumerate() {
        let words: Paragraph<'_> = unmark(line).split_whitespace().map(|word| (index + 1, word)).collect();
        match paragraphs.last_mut() {
            Some(last) if !words.is_empty() => last.extend(words),
            _ => paragraphs.push(words),
        }
    }
    paragraphs
}

/// Removes the comment marker from a line, in any language of the repository.
fn any_line(line: &str) -> &str {
    line.trim_start().trim_start_matches(['/', '!', '#', '*'])
}

fn doc_comment(line: &str) -> &str {
    let line = line.trim_start();
    line.strip_prefix("//!").or_else(|| line.strip_prefix("///")).unwrap_or_default()
}

/// A text must not refer to anything outside this repository. Before each `§`, the same sentence must name an RFC.
pub(crate) fn pointers(source: &Source) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for paragraph in paragraphs(source.text, any_line) {
        let mut sentence = String::new();
        for (index, &(line, word)) in paragraph.iter().enumerate() {
            let known =
                sentence.split("RFC ").skip(1).any(|rest| rest.starts_with(|first: char| first.is_ascii_digit()));
            if word.contains('§') && !known {
                breaches.extend(source.breach_in(
                    line,
                    "the sentence names no RFC before the `§`",
                    "write, for example, `RFC 9110 §5.6`, or write the rule instead of the section",
                ));
            }
            let next = paragraph.get(index + 1).map_or("", |(_, word)| word);
            let pair = format!("{word} {next}").to_lowercase();
            for pointer in POINTERS.iter().filter(|pointer| starts_with_words(&pair, pointer)) {
                let what = format!("`{pointer}` points to something outside the repository");
                breaches.extend(source.breach_in(line, what, "write the fact, or remove the reference"));
            }
            sentence.push_str(word);
            sentence.push(' ');
            if word.ends_with(['.', '!', '?']) {
                sentence.clear();
            }
        }
    }
    breaches
}

/// Returns whether a text starts with a phrase. Ignores punctuation before the phrase. The end of the phrase must also
/// be the end of a word.
fn starts_with_words(text: &str, phrase: &str) -> bool {
    let text = text.trim_start_matches(|character: char| !is_word(character));
    text.strip_prefix(phrase).is_some_and(|rest| !phrase.ends_with(is_word) || !rest.starts_with(is_word))
}

/// Each paragraph of a doc comment must have an even number of backticks. Blocks of code are not checked.
pub(crate) fn backticks(source: &Source) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut in_code = false;
    for paragraph in paragraphs(source.text, doc_comment) {
        let mut count = 0;
        for (_, word) in &paragraph {
            if word.starts_with("```") {
                in_code = !in_code;
            } else if !in_code {
                count += word.matches('`').count();
            }
        }
        if count % 2 == 1 {
            let what = "the paragraph has an odd number of backticks";
            breaches.extend(source.breach_in(paragraph[0].0, what, "add the missing backtick"));
        }
    }
    breaches
}

/// A line must not be longer than 120 columns. rustfmt checks this limit only for code.
pub(crate) fn columns(source: &Source) -> Vec<Breach> {
    const MOST: usize = 120;
    let long = source.text.lines().enumerate().filter(|(_, line)| line.chars().count() > MOST);
    long.filter_map(|(index, line)| {
        let what = format!("the line has {} columns", line.chars().count());
        source.breach_in(index + 1, what, "wrap the line at 120 columns")
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::lines_of;

    #[test]
    fn reference_when_target_is_outside_the_repository_then_reported() {
        for text in [
            "// see spec §9",
            "//! As in spec.md.",
            "# the rule (house.md)",
            "/// The House has\n/// rules.",
            "x // what the\n/// model does",
            "the contract §2",
        ] {
            assert_eq!(lines_of(pointers, "src/ids.rs", text).first(), Some(&1), "{text}");
        }
        for text in ["// a warehouse", "// a specification", "// the models", "// the thread model", "// household"] {
            assert_eq!(lines_of(pointers, "src/ids.rs", text), [], "{text}");
        }
    }

    #[test]
    fn section_sign_when_sentence_names_no_rfc_before_the_sign_then_reported() {
        for text in ["// as §4 says", "// RFC 9110 says so.\n// See §4.", "// an RFC, §4", "// §4 of RFC 9110"] {
            assert_eq!(lines_of(pointers, "src/ids.rs", text).len(), 1, "{text}");
        }
        for text in ["// (RFC 9110 §4)", "//! RFC 9110\n//! §4, §5 and\n//! §6", "/// RFC\n/// 9110 §4. Done."] {
            assert_eq!(lines_of(pointers, "src/ids.rs", text), [], "{text}");
        }
    }

    #[test]
    fn paragraph_when_number_of_backticks_is_odd_then_reported() {
        for (text, line) in [("//! `a", 1), ("/// `a`\n///\n/// `b` and `c\nfn f() {}", 3), ("//! a`\n//!\n//! `b", 1)]
        {
            assert_eq!(lines_of(backticks, "src/ids.rs", text).first(), Some(&line), "{text}");
        }
        for text in ["//! `a\n//! b`", "/// ```text\n/// `\n///\n/// `\n/// ```\n/// `a`", "// `a", "let a = \"`\";"] {
            assert_eq!(lines_of(backticks, "src/ids.rs", text), [], "{text}");
        }
    }

    #[test]
    fn line_when_longer_than_120_columns_then_reported() {
        let line = |length: usize| format!("//! é{}", "a".repeat(length - 5));
        assert_eq!(lines_of(columns, "src/ids.rs", &format!("//! a\n{}", line(121))), [2]);
        assert_eq!(lines_of(columns, "src/ids.rs", &line(120)), []);
        assert_eq!(lines_of(columns, "src/ids.rs", &format!("// tidy: a sample\n{}", line(121))), []);
    }
}
