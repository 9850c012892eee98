//! The page of a bundle: one HTML file that a person opens from the disk. It has no script and loads nothing. Texts
//! can come from logs or from an admin listener, so all texts are escaped.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::archive::Item;
use super::charts::{Axis, MOST_LINES, chart, numbers};
use super::collected::Collected;
use super::log_window::LogWindow;
use crate::access_log::reader::entry::shown;
use crate::access_log::reader::recount::Counters;
use crate::admin;

/// The largest numbers of rows in the tables of the page. The files of the bundle can have more rows.
const MOST_FAILURES: usize = 200;
const MOST_COUNTS: usize = 100;
const MOST_ROWS: usize = 50;
/// The longest text of a cell, in characters.
const LONGEST: usize = 300;

/// A cell with more bytes than this has a long text.
const LONG: usize = 24;

/// The styles in addition to those of the operators' page.
const STYLE: &str = "
.plot svg { width: 100%; height: 100% }
.plot .series, .plot .mark, .plot .grid { vector-effect: non-scaling-stroke }
.plot .series { stroke-linecap: round }
.ends { display: flex; justify-content: space-between; color: var(--soft); font-size: .75rem }
.c0 { stroke: var(--c0) } .c1 { stroke: var(--c1) } .c2 { stroke: var(--c2) } .c3 { stroke: var(--c3) }
.c4 { stroke: var(--c4) } .c5 { stroke: var(--c5) } .c6 { stroke: var(--c6) } .c7 { stroke: var(--c7) }
.c1, .c5 { stroke-dasharray: 7 3 } .c2, .c6 { stroke-dasharray: 2 3 } .c3, .c7 { stroke-dasharray: 10 3 2 3 }
.key { vertical-align: middle; overflow: visible }
.names { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: 0 0 .75rem; padding: 0; list-style: none }
.names li { display: block; border: 0; padding: 0 }
th.left { text-align: left }
td.text { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 8rem }
footer p { margin: 0 }
@media (max-width: 760px) {
  td.long { grid-column: 1 / -1 }
  .names { gap: .25rem .75rem }
}
";

/// What the page shows in addition to the parts of the bundle.
pub(super) struct About<'a> {
    pub(super) made: &'a str,
    pub(super) from: &'a str,
    /// The start of the window, in seconds of Unix time.
    pub(super) from_seconds: f64,
    pub(super) admin: &'a str,
    pub(super) problems: &'a [String],
}

/// Returns the page. `items` are the files that the page lists.
pub(super) fn page(about: &About<'_>, collected: &Collected, log: Option<&LogWindow>, items: &[Item]) -> String {
    let style = format!("{}{STYLE}", admin::style());
    let hash = STANDARD.encode(Sha256::digest(style.as_bytes()));
    let mut page = Html::default();
    page.raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    page.raw("<meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"referrer\" content=\"no-referrer\">\n");
    page.raw("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-");
    page.raw(&hash);
    page.raw("'; img-src data:; base-uri 'none'; form-action 'none'\">\n<link rel=\"icon\" href=\"data:,\">\n<title>");
    page.text(&format!("edgeshim, incident until {}", about.made));
    page.raw("</title>\n<style>");
    page.raw(&style);
    page.raw("</style>\n</head>\n<body>\n<header><h1>edgeshim <small>");
    page.text(about.admin);
    page.raw("</small></h1><span class=\"soft\">");
    page.text(&format!("{} to {}", about.from, about.made));
    page.raw("</span></header>\n<main>\n");
    state(&mut page, about, collected);
    providers(&mut page, collected);
    history(&mut page, about, collected);
    if let Some(log) = log {
        counts(&mut page, &log.counters, log.lines.added);
    }
    events(&mut page, about, collected);
    if let Some(log) = log {
        failures(&mut page, log);
    }
    top_urls(&mut page, collected);
    files(&mut page, items);
    page.raw("</main>\n<footer class=\"soft\"><p>");
    page.text(&format!("Made by edgeshim {} at {}.", env!("CARGO_PKG_VERSION"), about.made));
    page.raw("</p></footer>\n</body>\n</html>\n");
    page.0
}

/// An HTML text.
#[derive(Default)]
struct Html(String);

impl Html {
    /// Appends markup.
    fn raw(&mut self, markup: &str) {
        self.0.push_str(markup);
    }

    /// Appends a text, escaped, without control characters and cut to [`LONGEST`].
    fn text(&mut self, text: &str) {
        for character in shown(text, LONGEST).chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                other => self.0.push(other),
            }
        }
    }

    fn begin(&mut self, id: &str, title: &str, note: &str) {
        let _ = write!(self.0, "<section aria-labelledby=\"{id}\">\n<h2 id=\"{id}\">");
        self.text(title);
        self.raw(" <small>");
        self.text(note);
        self.raw("</small></h2>\n");
    }

    fn end(&mut self) {
        self.raw("</section>\n");
    }

    fn empty(&mut self, text: &str) {
        self.raw("<p class=\"empty\">");
        self.text(text);
        self.raw("</p>\n");
    }

    /// Appends a table. The first cell of a row is its heading. Columns whose name begins with `<` contain texts.
    fn table(&mut self, columns: &[&str], rows: &[Vec<String>]) {
        self.raw("<div class=\"wide\" tabindex=\"0\"><table><thead><tr>");
        for column in columns {
            self.raw(if column.starts_with('<') { "<th scope=\"col\" class=\"left\">" } else { "<th scope=\"col\">" });
            self.text(column.trim_start_matches('<'));
            self.raw("</th>");
        }
        self.raw("</tr></thead><tbody>\n");
        for row in rows {
            self.raw("<tr>");
            for (position, (cell, column)) in row.iter().zip(columns).enumerate() {
                let is_text = column.starts_with('<');
                if position == 0 {
                    self.raw("<th scope=\"row\">");
                    self.text(cell);
                    self.raw("</th>");
                    continue;
                }
                // On a phone, a long text has a row of its own.
                let class = match (is_text, cell.len() > LONG) {
                    (true, true) => "text long",
                    (true, false) => "text",
                    (false, _) => "number",
                };
                let _ = write!(self.0, "<td class=\"{class}\" data-label=\"");
                self.text(column.trim_start_matches('<'));
                self.raw("\">");
                self.text(if cell.is_empty() { "–" } else { cell });
                self.raw("</td>");
            }
            self.raw("</tr>\n");
        }
        self.raw("</tbody></table></div>\n");
    }
}

fn state(page: &mut Html, about: &About<'_>, collected: &Collected) {
    let outages = outages(collected);
    let in_window: Vec<_> = outages.iter().filter(|outage| outage.ended > about.from_seconds).collect();
    let is_known = collected.summary.is_some();
    let class = if !in_window.is_empty() {
        "bad"
    } else if is_known {
        ""
    } else {
        "idle"
    };
    let _ = write!(page.0, "<section id=\"state\" class=\"{class}\" aria-label=\"State\">\n<p class=\"headline\">");
    page.text(&match (is_known, in_window.len()) {
        (false, _) => "The outages are not known, because the admin listener did not report them".to_owned(),
        (true, 0) => "No outage in this window".to_owned(),
        (true, 1) => "1 outage in this window".to_owned(),
        (true, count) => format!("{count} outages in this window"),
    });
    page.raw("</p>\n<ul>\n");
    for outage in in_window {
        page.raw("<li>");
        let until = if outage.is_open { "now".to_owned() } else { clock(outage.ended) };
        page.text(&format!(
            "{} from {} to {until}, at most {} of the pulls failed",
            outage.subject,
            clock(outage.began),
            percent(outage.worst)
        ));
        page.raw("</li>\n");
    }
    for problem in about.problems {
        page.raw("<li><strong>Missing:</strong> ");
        page.text(problem);
        page.raw("</li>\n");
    }
    page.raw("</ul>\n");
    page.end();
}

struct Outage {
    subject: String,
    began: f64,
    ended: f64,
    is_open: bool,
    worst: Option<f64>,
}

fn outages(collected: &Collected) -> Vec<Outage> {
    let list = collected.summary.as_ref().and_then(|summary| summary.get("outages")?.as_array());
    let outage = |outage: &Value| {
        let ended = outage.get("ended").and_then(Value::as_f64);
        Some(Outage {
            subject: outage.get("subject")?.as_str()?.to_owned(),
            began: outage.get("began")?.as_f64()?,
            ended: ended.unwrap_or(f64::MAX),
            is_open: ended.is_none(),
            worst: outage.get("worst").and_then(Value::as_f64),
        })
    };
    list.into_iter().flatten().take(MOST_ROWS).filter_map(outage).collect()
}

/// Unites periods that overlap, so that the areas of a chart do not overlap.
fn united(mut times: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    times.sort_by(|one, other| one.0.total_cmp(&other.0));
    let mut united: Vec<(f64, f64)> = Vec::new();
    for (began, ended) in times {
        match united.last_mut() {
            Some(last) if began <= last.1 => last.1 = last.1.max(ended),
            _ => united.push((began, ended)),
        }
    }
    united
}

fn providers(page: &mut Html, collected: &Collected) {
    let Some(summary) = &collected.summary else { return };
    page.begin("providers", "Providers", "the last 30 seconds before the bundle");
    let columns = ["provider", "pulls/s", "share", "5xx", "304", "offload", "p50", "p95", "p99"];
    let rows = rows(summary.get("providers"), |row| {
        let number = |key: &str| row.get(key).and_then(Value::as_f64);
        vec![
            row.get("name").and_then(Value::as_str).unwrap_or_default().to_owned(),
            plain(number("pulls")),
            percent(number("share")),
            percent(number("errors")),
            percent(number("not_modified")),
            percent(number("offload_requests")),
            seconds(number("p50")),
            seconds(number("p95")),
            seconds(number("p99")),
        ]
    });
    if rows.is_empty() {
        page.empty("No provider had pulls.");
    } else {
        page.table(&columns, &rows);
    }
    page.end();
}

/// The lines of a chart. A number that is not known is `None`.
type Lines = Vec<Vec<Option<f64>>>;

/// A function that writes a number as a text, with a unit if the number has one.
type Unit = fn(Option<f64>) -> String;

fn history(page: &mut Html, about: &About<'_>, collected: &Collected) {
    let Some((range, series)) = range(&collected.series, about.from_seconds) else { return };
    page.begin(
        "history",
        "History",
        &format!("the last {range}; dashed vertical lines are events, red areas are outages"),
    );
    let axis = Axis::of(series);
    let all = series.get("providers").and_then(Value::as_object);
    let (Some(axis), Some(all)) = (axis, all) else {
        page.empty("The history is empty.");
        page.end();
        return;
    };
    let names: Vec<&String> = all.keys().take(MOST_LINES).collect();
    page.raw("<ul class=\"names\">");
    for (number, name) in names.iter().enumerate() {
        let _ = write!(
            page.0,
            "<li><svg class=\"key\" viewBox=\"0 0 22 6\" aria-hidden=\"true\">\
             <line class=\"c{number}\" x1=\"0\" y1=\"3\" x2=\"22\" y2=\"3\"/></svg>"
        );
        page.text(name);
        page.raw("</li>");
    }
    page.raw("</ul>\n<div id=\"charts\">\n");
    let outages = united(outages(collected).iter().map(|outage| (outage.began, outage.ended)).collect());
    let marks: Vec<f64> = annotations(collected).iter().map(|(time, ..)| *time).collect();
    let of = |key: &str| -> Lines {
        names.iter().map(|name| all[*name].get(key).and_then(numbers).unwrap_or_default()).collect()
    };
    let faults = series.get("origin").and_then(|origin| numbers(origin.get("faults")?)).unwrap_or_default();
    let charts: [(&str, Lines, Unit); 5] = [
        ("Pulls per second", of("pulls"), plain),
        ("5xx, share of pulls", of("errors"), percent),
        ("p95 of the response time", of("p95"), seconds),
        ("Faults of the origin per second", vec![faults], plain),
        ("Offload, share of requests", of("offload_requests"), percent),
    ];
    for (title, lines, unit) in charts {
        page.raw("<div class=\"chart\"><div class=\"top\"><h3>");
        page.text(title);
        page.raw("</h3>");
        match chart(&axis, &lines, &outages, &marks) {
            Some(chart) => {
                page.raw("<span class=\"soft\">upper edge ");
                page.text(&unit(Some(chart.top)));
                page.raw("</span></div><div class=\"plot\">");
                page.raw(&chart.svg);
                page.raw("</div>");
            }
            None => page.raw("</div><p class=\"empty\">Not known.</p>"),
        }
        page.raw("<div class=\"ends\"><span>");
        page.text(&clock(axis.first));
        page.raw("</span><span>");
        page.text(&clock(axis.last));
        page.raw("</span></div></div>\n");
    }
    page.raw("</div>\n");
    page.end();
}

/// Returns the most detailed history that contains the whole window. If no history contains the whole window, returns
/// the most detailed of the histories that begin earliest.
fn range<'s>(all: &'s [(&'static str, Value)], from_seconds: f64) -> Option<&'s (&'static str, Value)> {
    // A history that contains the window can begin up to one coarse sample after the start of the window.
    const TOLERANCE_SECONDS: f64 = 15.0;
    let first = |(_, series): &(&str, Value)| Axis::of(series).map_or(f64::INFINITY, |axis| axis.first);
    let earliest = all.iter().map(first).fold(f64::INFINITY, f64::min);
    let wanted = earliest.max(from_seconds) + TOLERANCE_SECONDS;
    all.iter().find(|one| first(one) <= wanted).or(all.last())
}

fn counts(page: &mut Html, counters: &Counters, lines: u64) {
    page.begin("counts", "Pulls in the access log", &format!("{lines} lines in this window"));
    let mut rows: Vec<_> = counters.iter().filter(|(series, _)| series.name == "edgeshim_pulls_total").collect();
    rows.sort_by(|one, other| other.1.cmp(one.1));
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .take(MOST_COUNTS)
        .map(|(series, count)| {
            let values = series.labels.iter().map(|(_, value)| value.clone());
            values.chain([count.to_string()]).collect()
        })
        .collect();
    if rows.is_empty() {
        page.empty("The log has no pulls in this window.");
    } else {
        page.table(&["provider", "<class", "status", "pulls"], &rows);
    }
    page.end();
}

/// Returns the time, the kind and the text of each annotation, the newest first. At most 1000 annotations are read.
fn annotations(collected: &Collected) -> Vec<(f64, String, String)> {
    let list = collected.annotations.as_ref().and_then(|all| all.get("annotations")?.as_array());
    let text = |one: &Value, key: &str| one.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let annotation = |one: &Value| Some((one.get("time")?.as_f64()?, text(one, "kind"), text(one, "text")));
    let mut all: Vec<_> = list.into_iter().flatten().take(1_000).filter_map(annotation).collect();
    all.sort_by(|one, other| other.0.total_cmp(&one.0));
    all
}

fn events(page: &mut Html, about: &About<'_>, collected: &Collected) {
    if collected.annotations.is_none() {
        return;
    }
    page.begin("events", "Events", "in this window, the newest first; times are UTC");
    let all = annotations(collected);
    let rows: Vec<_> = all
        .into_iter()
        .filter(|(time, ..)| *time >= about.from_seconds)
        .take(MOST_FAILURES)
        .map(|(time, kind, text)| vec![clock(time), kind, text])
        .collect();
    if rows.is_empty() {
        page.empty("There is no event in this window.");
    } else {
        page.table(&["time", "<kind", "<text"], &rows);
    }
    page.end();
}

fn failures(page: &mut Html, log: &LogWindow) {
    let count = log.failures.added;
    page.begin("failures", "Faults, refusals and 5xx", &format!("the newest of {count} lines; times are UTC"));
    let columns = ["time", "provider", "<class", "status", "<cause", "origin", "ms", "<path", "<id"];
    let rows: Vec<Vec<String>> = log
        .failures
        .kept()
        .rev()
        .take(MOST_FAILURES)
        .filter_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let text = |key: &str| match line.get(key) {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Number(number)) => number.to_string(),
                _ => String::new(),
            };
            let time = text("time");
            let time = time.get(11..19).unwrap_or_default().to_owned();
            let path = format!("{}{}", text("host"), text("path"));
            let numbers = [text("status"), text("cause"), text("origin_status"), text("total_ms")];
            let [status, cause, origin, total] = numbers;
            Some(vec![time, text("provider"), text("class"), status, cause, origin, total, path, text("id")])
        })
        .collect();
    if rows.is_empty() {
        page.empty("The log has no such line in this window.");
    } else {
        page.table(&columns, &rows);
    }
    page.end();
}

fn top_urls(page: &mut Html, collected: &Collected) {
    let Some(top) = &collected.top else { return };
    page.begin("top", "Top URLs", "most pulls, approximate");
    let rows = rows(Some(top), |row| {
        let number = |key: &str| row.get(key).map(ToString::to_string).unwrap_or_default();
        let url = row.get("url").and_then(Value::as_str).unwrap_or_default().to_owned();
        vec![number("pulls"), number("providers"), number("early"), number("bytes"), url]
    });
    if rows.is_empty() {
        page.empty("No URL was pulled.");
    } else {
        page.table(&["pulls", "providers", "early", "bytes", "<URL"], &rows);
    }
    page.end();
}

fn files(page: &mut Html, items: &[Item]) {
    page.begin("files", "Files", "of this bundle");
    page.raw("<ul class=\"links\">\n");
    for item in items {
        // The names are constants, so they are safe as URLs.
        let _ = write!(page.0, "<li><a href=\"{0}\">{0}</a> <span class=\"soft\">", item.name);
        page.text(&format!("{}, {} bytes", item.what, item.content.len()));
        page.raw("</span></li>\n");
    }
    page.raw("</ul>\n");
    page.end();
}

/// Returns a row for each object in a list, for at most [`MOST_ROWS`] objects.
fn rows(list: Option<&Value>, row: impl Fn(&Value) -> Vec<String>) -> Vec<Vec<String>> {
    list.and_then(Value::as_array).into_iter().flatten().take(MOST_ROWS).map(row).collect()
}

fn plain(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") })
}

fn percent(value: Option<f64>) -> String {
    value.map_or(String::new(), |value| format!("{:.1} %", value * 100.0))
}

fn seconds(value: Option<f64>) -> String {
    value.map_or(
        String::new(),
        |value| if value < 1.0 { format!("{:.0} ms", value * 1e3) } else { format!("{value:.2} s") },
    )
}

/// Returns the time of day in UTC. For a time outside of the years 1970 to 9999, returns `an unknown time`.
fn clock(unix_seconds: f64) -> String {
    if !(0.0..253_402_300_800.0).contains(&unix_seconds) {
        return "an unknown time".to_owned();
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
    let seconds = unix_seconds as u64 % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn about(problems: &[String]) -> About<'_> {
        About {
            made: "2026-11-28T12:30:00.000Z",
            from: "2026-11-28T11:30:00.000Z",
            from_seconds: 1000.0,
            admin: "http://a",
            problems,
        }
    }

    #[test]
    fn page_when_all_texts_are_hostile_then_contains_no_foreign_markup() {
        let evil = "</style><script>alert(1)</script>\"'\u{1b}\u{202e}";
        let collected = Collected {
            summary: Some(json!({
                "providers": [{ "name": evil, "pulls": evil, "p95": 0.5 }, evil],
                "outages": [{ "subject": evil, "began": 1005, "ended": null, "worst": 0.5 }, { "subject": 1 }],
            })),
            series: vec![(
                "1h",
                json!({ "times": [1000, 1010, 1020], "providers": { evil: { "pulls": [1, 2, evil], "errors": evil } },
                        "origin": { "faults": [0, 1, 2] } }),
            )],
            top: Some(json!([{ "url": evil, "pulls": evil }])),
            annotations: Some(json!({ "annotations": [{ "time": 1010, "kind": evil, "text": evil }] })),
            ..Collected::default()
        };
        let problems = [evil.to_owned()];
        let items = [Item { name: "metrics.txt".to_owned(), what: "the metrics", content: Vec::new() }];
        let html = page(&about(&problems), &collected, None, &items);
        assert!(!html.contains("<script") && !html.contains('\u{1b}') && !html.contains('\u{202e}'), "{html}");
        assert_eq!((html.matches("<style>").count(), html.matches("</style>").count()), (1, 1));
        assert_eq!((html.matches(" style=").count(), html.matches("http-equiv").count()), (0, 1));
        assert!(html.contains("1 outage in this window") && html.contains("<path class=\"series c0\""), "{html}");
        let style = html.split_once("<style>").unwrap().1.split_once("</style>").unwrap().0;
        let hash = STANDARD.encode(Sha256::digest(style.as_bytes()));
        assert!(
            html.contains(&format!("style-src 'sha256-{hash}'")),
            "the policy does not allow the style of the page"
        );
    }

    #[test]
    fn page_when_nothing_could_be_collected_then_names_what_is_missing() {
        let problems = ["/metrics: no connection".to_owned()];
        let html = page(&about(&problems), &Collected::default(), None, &[]);
        assert!(html.contains("The outages are not known") && html.contains("/metrics: no connection"), "{html}");
        assert!(!html.contains("Providers"), "{html}");
    }

    #[test]
    fn history_when_several_ranges_contain_the_window_then_the_most_detailed_is_shown() {
        let at = |first: u32| json!({ "times": [first, 5000] });
        let chosen = |firsts: [u32; 3], from| {
            let all: Vec<_> = ["2m", "15m", "1h"].into_iter().zip(firsts.map(at)).collect();
            range(&all, from).map(|(name, _)| *name)
        };
        assert_eq!(chosen([4880, 4100, 1400], 4885.0), Some("2m"));
        assert_eq!(chosen([4880, 4100, 1400], 4200.0), Some("15m"));
        assert_eq!(chosen([4880, 4100, 1400], 100.0), Some("1h"));
        assert_eq!(chosen([4950, 4950, 4950], 1400.0), Some("2m"), "the process is younger than the window");
        assert!(range(&[], 0.0).is_none());
    }

    #[test]
    fn outages_when_overlapping_then_are_one_area() {
        assert_eq!(united(vec![(5.0, 7.0), (1.0, 3.0), (2.0, 4.0), (7.0, 8.0)]), [(1.0, 4.0), (5.0, 8.0)]);
    }

    #[test]
    fn value_when_shown_then_number_is_rounded_and_a_time_is_the_time_of_day() {
        assert_eq!((plain(Some(0.5)), plain(Some(1234.5)), plain(None)), ("0.50".into(), "1234".into(), String::new()));
        assert_eq!(
            (percent(Some(0.123)), seconds(Some(0.05)), seconds(Some(2.0))),
            ("12.3 %".into(), "50 ms".into(), "2.00 s".into())
        );
        assert_eq!((clock(1_795_345_741.5), clock(-1.0)), ("11:09:01".into(), "an unknown time".into()));
        assert_eq!(clock(f64::MAX), clock(f64::NAN));
    }
}
