//! The form of the log lines that a CDN pushes: the places of the fields in a line, and the texts that mean a hit, a
//! miss or another result.

use std::collections::BTreeMap;

use crate::ids::EdgeResult;

/// A field of a log line that edgeshim reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogField {
    /// The time of the request.
    Time,
    Url,
    /// The status of the response to the client.
    Status,
    /// The number of bytes that were sent to the client.
    Bytes,
    /// How the CDN served the request.
    Result,
    Host,
    /// The CDN's id of the request.
    Id,
    /// Who sent the request: a client, or the CDN itself. Only a preset can name this field.
    Sender,
}

impl LogField {
    /// The fields that an operator can name, each with its key. A preset has these keys in the table `[logs]`, and the
    /// operator writes them in `edge_log_fields`.
    pub(crate) const NAMES: [(&'static str, Self); 7] = [
        ("time", Self::Time),
        ("url", Self::Url),
        ("status", Self::Status),
        ("bytes", Self::Bytes),
        ("result", Self::Result),
        ("host", Self::Host),
        ("id", Self::Id),
    ];
}

/// The place of a field in a log line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPlace {
    /// The name of a JSON member. The names of nested members are joined with `.`, for example `httpRequest.status`.
    Member(String),
    /// The number of a column. The first column has the number 1.
    Column(u16),
}

/// The fields for which the operator has configured another place than the preset (`edge_log_fields`).
pub(crate) type RenamedFields = BTreeMap<LogField, LogPlace>;

/// The form of a CDN's log lines. A line is a JSON object, or columns with a separator between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogForm {
    /// The character between two columns.
    pub separator: char,
    /// The places of the fields. A field can have two places: a member for JSON lines, and a column for lines with
    /// columns.
    pub places: Vec<(LogField, LogPlace)>,
    /// The texts in the field `result`, each with its meaning. Texts are compared without regard to case.
    pub results: Vec<(String, EdgeResult)>,
    /// The meaning of a line without the field `result`. `None`: the meaning is unknown.
    pub absent: Option<EdgeResult>,
    /// The texts in the field `sender` that mean a client. Other texts mean the CDN itself: a hop to a shield, a health
    /// check, a subrequest. If the field is absent, the sender is a client.
    pub clients: Vec<String>,
}

impl Default for LogForm {
    /// Returns the form for a CDN whose preset has no table `[logs]`. The JSON member of each field has the name of the
    /// field's key.
    fn default() -> Self {
        let results = [
            ("hit", EdgeResult::Hit),
            ("miss", EdgeResult::Miss),
            ("pass", EdgeResult::Pass),
            ("error", EdgeResult::Error),
        ];
        Self {
            separator: '\t',
            places: LogField::NAMES.map(|(name, field)| (field, LogPlace::Member(name.to_owned()))).to_vec(),
            results: results.map(|(text, result)| (text.to_owned(), result)).to_vec(),
            absent: None,
            clients: Vec::new(),
        }
    }
}

impl LogForm {
    /// Returns the same form with other places for the fields in `renamed`. A new member replaces only the old member
    /// of the field, and a new column replaces only the old column.
    pub(crate) fn renamed(&self, renamed: &RenamedFields) -> Self {
        let mut form = self.clone();
        for (field, place) in renamed {
            let is_column = |place: &LogPlace| matches!(place, LogPlace::Column(_));
            form.places.retain(|(known, old)| known != field || is_column(old) != is_column(place));
            form.places.push((*field, place.clone()));
        }
        form
    }

    /// Returns the name of the member of a JSON line that contains a field.
    pub(crate) fn member(&self, field: LogField) -> Option<&str> {
        self.places.iter().find_map(|(known, place)| match place {
            LogPlace::Member(name) if *known == field => Some(name.as_str()),
            _ => None,
        })
    }

    /// Returns the position of the column that contains a field, counted from 0.
    pub(crate) fn column(&self, field: LogField) -> Option<usize> {
        self.places.iter().find_map(|(known, place)| match place {
            LogPlace::Column(number) if *known == field => usize::from(*number).checked_sub(1),
            _ => None,
        })
    }

    /// Returns whether a text in the field `sender` means a client.
    pub(crate) fn is_client(&self, text: &str) -> bool {
        self.clients.iter().any(|known| known.eq_ignore_ascii_case(text))
    }

    /// Returns the meaning of a text in the field `result`. If the preset does not list the text, the part before the
    /// first `-` decides. For example, `HIT-STALE` is a hit.
    pub(crate) fn result(&self, text: &str) -> EdgeResult {
        let meaning = |text: &str| {
            let found = self.results.iter().find(|(known, _)| known.eq_ignore_ascii_case(text));
            found.map(|(_, result)| *result)
        };
        meaning(text)
            .or_else(|| text.split_once('-').and_then(|(start, _)| meaning(start)))
            .unwrap_or(EdgeResult::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdn::preset::Preset;

    fn form(preset: &str) -> LogForm {
        Preset::named(preset).expect("the preset must exist").logs.clone()
    }

    #[test]
    fn result_text_when_read_then_has_the_meaning_that_the_preset_defines() {
        for (preset, text, result) in [
            ("fastly", "HIT", EdgeResult::Hit),
            ("fastly", "HIT-STALE-CLUSTER", EdgeResult::Hit),
            ("fastly", "MISS-WAIT", EdgeResult::Miss),
            ("fastly", "PASS", EdgeResult::Pass),
            ("fastly", "HITPASS", EdgeResult::Pass),
            ("fastly", "ERROR-LOSTHDR", EdgeResult::Error),
            ("fastly", "", EdgeResult::Other),
            ("cloudflare", "hit", EdgeResult::Hit),
            ("cloudflare", "expired", EdgeResult::Miss),
            ("cloudflare", "dynamic", EdgeResult::Pass),
            ("cloudflare", "unknown", EdgeResult::Other),
            ("akamai", "1", EdgeResult::Hit),
            ("akamai", "0", EdgeResult::Miss),
            ("cloudfront", "RefreshHit", EdgeResult::Hit),
            ("cloudfront", "LimitExceeded", EdgeResult::Error),
            ("cloudfront", "Redirect", EdgeResult::Other),
            ("bunny", "HIT", EdgeResult::Hit),
            ("google", "true", EdgeResult::Hit),
            ("generic", "miss", EdgeResult::Miss),
        ] {
            assert_eq!(form(preset).result(text), result, "{preset} {text}");
        }
    }

    #[test]
    fn log_form_when_fields_are_renamed_then_has_the_new_places() {
        let renamed = RenamedFields::from([
            (LogField::Status, LogPlace::Member("code".to_owned())),
            (LogField::Bytes, LogPlace::Column(2)),
        ]);
        let form = form("cloudfront").renamed(&renamed);
        assert_eq!((form.member(LogField::Status), form.column(LogField::Status)), (Some("code"), Some(3)));
        assert_eq!((form.member(LogField::Bytes), form.column(LogField::Bytes)), (Some("sc-bytes"), Some(1)));
    }
}
