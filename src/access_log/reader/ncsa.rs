//! Reads a line in the format combined or etsy, and returns the parts of the line that `explain ID` shows. Such a line
//! has no request id. But the target of a beacon has the id of the page that the browser displayed.

use memchr::memmem;

/// The text between the client's address and the time. A bracket is not enough to find the time, because a host can
/// contain a bracket.
const BEFORE_TIME: &[u8] = b" - - [";

/// The parts of a line. They are escaped as in the log, so they contain no quotes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NcsaLine<'l> {
    pub(crate) time: &'l [u8],
    pub(crate) target: &'l [u8],
    pub(crate) status: &'l [u8],
    pub(crate) provider: &'l [u8],
}

impl<'l> NcsaLine<'l> {
    /// Reads a line. `None`: the line is not of this format.
    pub(crate) fn read(line: &'l [u8]) -> Option<Self> {
        let mut quoted = line.split(|&byte| byte == b'"');
        let (before, request, numbers) = (quoted.next()?, quoted.next()?, quoted.next()?);
        let (_, time) = before.split_at_checked(memmem::find(before, BEFORE_TIME)? + BEFORE_TIME.len())?;
        let (time, _) = split_once(time, b']')?;
        let (_, target) = split_once(request, b' ')?;
        let (target, version) = split_once(target, b' ')?;
        let status = numbers.trim_ascii().split(|&byte| byte == b' ').next()?;
        // The texts of the fields Referer and User-Agent, and the space between them, come before the provider.
        let provider = quoted.nth(3)?.trim_ascii();
        let is_status = status.len() == 3 && status.iter().all(u8::is_ascii_digit);
        (is_status && version.starts_with(b"HTTP/") && quoted.next().is_none() && !provider.is_empty())
            .then_some(Self { time, target, status, provider })
    }
}

fn split_once(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let position = text.iter().position(|&byte| byte == at)?;
    Some((text.get(..position)?, text.get(position + 1..)?))
}

#[cfg(test)]
mod tests {
    use http::Uri;
    use proptest::prelude::*;

    use super::super::super::formats::{Formatter, LogFormat};
    use super::super::super::record::Record;
    use super::super::super::record::tests::{record, value};
    use super::*;

    #[test]
    fn line_when_written_in_format_combined_or_etsy_then_is_read() {
        for format in [LogFormat::Combined, LogFormat::Etsy] {
            let record = Record {
                target: Uri::from_static("/beacon.gif?id=r-1"),
                user_agent: value("a \"quoted\" [agent]"),
                ..record()
            };
            let mut line = Vec::new();
            Formatter::new(format).line(&record, &mut line);
            let line = line.trim_ascii_end();
            let expected = NcsaLine {
                time: b"22/Nov/2026:11:09:01 +0000",
                target: b"/beacon.gif?id=r-1",
                status: b"200",
                provider: b"fastly",
            };
            assert_eq!(NcsaLine::read(line), Some(expected), "{}", String::from_utf8_lossy(line));
        }
        let foreign = br#"10.0.0.1 - - [22/Nov/2026:11:09:01 +0000] "GET / HTTP/1.1" 200 5 "-" "curl""#;
        assert_eq!(NcsaLine::read(foreign), None, "edgeshim does not write a line without a provider");
    }

    proptest! {
        #[test]
        fn line_when_arbitrary_then_read_does_not_panic(line in "[\\[\\] \"/a0-9HTP.]{0,60}") {
            let _ = NcsaLine::read(line.as_bytes());
        }
    }
}
