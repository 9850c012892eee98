//! Adds up the lines of a log, and turns the sums into the counters that edgeshim must have after these requests.
//!
//! Lines with equal labels and an equal status share one cell. So the cost of a line is one lookup, and all counters
//! are calculated once, from the cells ([`Recount::counters`]).

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::entry::{Entry, Text, shown};
use super::stamp::Stamp;
use crate::fault::Cause;
use crate::ids::{PullKind, Reason};
use crate::metrics::describe::{self, Handle, Metric};
use crate::wire::decimal;

/// The largest number of cells, and the largest size of their keys in bytes. edgeshim has far fewer combinations of
/// labels, so a log that exceeds a limit is not from edgeshim.
const MOST_CELLS: usize = 100_000;
const MOST_KEY_BYTES: usize = 32 << 20;

/// The longest label that is shown, in characters.
const LONGEST_LABEL: usize = 100;

/// The number of parts of a cell's key.
const PARTS: usize = 9;

/// The sums of the lines that have equal labels and an equal status.
#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    lines: u64,
    bytes: u64,
    origin_bytes: u64,
    /// The lines with a response head of the origin.
    responses: u64,
}

/// The error that a log has more combinations of labels than edgeshim can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooManyLabels;

/// The sums of a log.
#[derive(Debug)]
pub(crate) struct Recount {
    /// Lines before this time do not count.
    from: Option<Stamp>,
    beacon_path: String,
    cells: HashMap<Vec<u8>, Cell>,
    key: Vec<u8>,
    key_bytes: usize,
    /// The lines that count.
    pub(crate) lines: u64,
    /// The lines before `from`.
    pub(crate) earlier_lines: u64,
    /// The lines of local endpoints (for example of beacons and load times) among the lines that count.
    pub(crate) local_lines: u64,
    pub(crate) beacons: u64,
    /// The first and the last time of the lines that count.
    pub(crate) span: Option<(Stamp, Stamp)>,
}

/// The name and the labels of a series, in the order in which the metric declares the labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) labels: Vec<(String, String)>,
}

/// Writes the series as the metrics page does, without characters that control a terminal.
impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for (position, (name, value)) in self.labels.iter().enumerate() {
            let start = if position == 0 { '{' } else { ',' };
            write!(f, "{start}{name}={:?}", shown(value, LONGEST_LABEL))?;
        }
        f.write_str(if self.labels.is_empty() { "" } else { "}" })
    }
}

/// Counters by series.
pub(crate) type Counters = BTreeMap<Series, u64>;

impl Recount {
    /// `beacon_path` is the value of `beacon.path`.
    pub(crate) fn new(from: Option<Stamp>, beacon_path: &str) -> Self {
        Self {
            from,
            beacon_path: beacon_path.to_owned(),
            cells: HashMap::new(),
            key: Vec::new(),
            key_bytes: 0,
            lines: 0,
            earlier_lines: 0,
            local_lines: 0,
            beacons: 0,
            span: None,
        }
    }

    /// Adds one line.
    pub(crate) fn add(&mut self, entry: &Entry<'_>) -> Result<(), TooManyLabels> {
        let time = Stamp::of_text(entry.time.raw());
        if time < self.from {
            self.earlier_lines += 1;
            return Ok(());
        }
        self.lines += 1;
        if let Some(time) = time {
            let (first, last) = self.span.unwrap_or((time, time));
            self.span = Some((first.min(time), last.max(time)));
        }
        if !entry.is_pull() {
            self.local_lines += 1;
            self.beacons += u64::from(self.is_beacon(entry));
            return Ok(());
        }
        let mut digits = [0; 20];
        let status = decimal::write(entry.status, &mut digits);
        self.key.clear();
        let texts = [
            entry.provider,
            entry.class,
            entry.why,
            entry.cause,
            entry.locale,
            entry.guard,
            entry.pull,
            entry.revalidated,
        ];
        for text in texts.map(Text::raw).into_iter().chain([status]) {
            self.key.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
            self.key.extend_from_slice(text);
        }
        let is_full = self.cells.len() >= MOST_CELLS || self.key_bytes + self.key.len() > MOST_KEY_BYTES;
        let cell = match self.cells.get_mut(&self.key) {
            Some(cell) => cell,
            None if is_full => return Err(TooManyLabels),
            None => {
                self.key_bytes += self.key.len();
                self.cells.entry(self.key.clone()).or_default()
            }
        };
        cell.lines += 1;
        cell.bytes = cell.bytes.saturating_add(entry.bytes);
        cell.origin_bytes = cell.origin_bytes.saturating_add(entry.origin_bytes);
        cell.responses += u64::from(entry.origin_ms.is_some());
        Ok(())
    }

    /// Returns whether a line of a local endpoint is the line of a beacon that edgeshim has counted.
    fn is_beacon(&self, entry: &Entry<'_>) -> bool {
        let target = entry.path.decoded();
        let path = target.split('?').next().unwrap_or_default();
        path == self.beacon_path && matches!(entry.method.raw(), b"GET" | b"HEAD")
    }

    /// Returns the counters that edgeshim must have. A counter that is missing is 0.
    pub(crate) fn counters(&self) -> Counters {
        let mut counters = Counters::new();
        for (key, cell) in &self.cells {
            let parts = parts(key);
            let [provider, class, why, cause, locale, guard, pull, revalidated, status] =
                parts.each_ref().map(|part| &**part);
            let mut add = |metric: &Counted, values: &[&str], count: u64| {
                let counter = counters.entry(metric.series(values)).or_default();
                *counter = counter.saturating_add(count);
            };
            // edgeshim_pulls_total has only statuses in this range.
            if (100..=599).contains(&status.parse().unwrap_or(0)) {
                add(&PULLS, &[provider, class, status], cell.lines);
            }
            add(&PULL_BYTES, &[provider, class], cell.bytes);
            add(&PULL_SECONDS, &[provider, class], cell.lines);
            add(&PULL_REASONS, &[provider, why], cell.lines);
            add(&ORIGIN_BYTES, &[class], cell.origin_bytes);
            add(&ORIGIN_SECONDS, &[class], cell.responses);
            if !revalidated.is_empty() {
                add(&REVALIDATIONS, &[provider, class, revalidated], cell.lines);
            }
            if !locale.is_empty() {
                add(&WHOOPSIES, &[provider, locale, if cause.is_empty() { ORIGIN_5XX } else { cause }], cell.lines);
            }
            if let Some(reason) = refusal(cause, status) {
                add(&REFUSED, &[provider, reason], cell.lines);
            }
            if let Some((_, metric)) = KINDS.into_iter().find(|(kind, _)| kind.as_str() == pull) {
                add(metric, &[], cell.lines);
            }
            if Cause::ALL.into_iter().any(|known| known.as_str() == cause && !known.is_client_error()) {
                add(&ORIGIN_FAULTS, &[cause], cell.lines);
            }
            if !guard.is_empty() {
                add(&CACHE_GUARDS, &[guard], cell.lines);
            }
        }
        counters.insert(BEACONS.series(&[]), self.beacons);
        counters
    }
}

/// How exactly a counter can be calculated from the lines of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exactness {
    /// The counter and the line are written at the same moment, at the end of a request.
    AtEnd,
    /// The counter is increased before the end of the request. So it can already include requests in flight, which have
    /// no line yet.
    Early,
    /// The log does not contain everything that the counter counts.
    Approximate,
}

/// A metric that can be counted from a log.
#[derive(Debug)]
pub(crate) struct Counted {
    name: &'static str,
    labels: &'static [&'static str],
    /// The end of the series' name, after the name of the metric. For a histogram, it is `_count`, because a log shows
    /// only how many values the histogram has. For a counter, it is empty.
    ending: &'static str,
    pub(crate) exactness: Exactness,
}

impl Counted {
    const fn new<H: Handle>(metric: &Metric<H>, exactness: Exactness) -> Self {
        Self { name: metric.name(), labels: metric.labels(), ending: "", exactness }
    }

    const fn count_of<H: Handle>(metric: &Metric<H>, exactness: Exactness) -> Self {
        Self { name: metric.name(), labels: metric.labels(), ending: "_count", exactness }
    }

    /// Returns the name of the series.
    pub(crate) fn name(&self) -> String {
        format!("{}{}", self.name, self.ending)
    }

    /// Returns the labels of a series in [`Recount::counters`]. `labels` are the labels of the same series on the
    /// metrics page. `None`: the log has no lines for this series. A request has no line if the request was refused
    /// before its head was complete and valid. All beacons are counted in one sum without labels, because their source
    /// and country depend on the configuration.
    pub(crate) fn counted_labels(&self, labels: Vec<(String, String)>) -> Option<Vec<(String, String)>> {
        const WITHOUT_LINE: [Reason; 3] = [Reason::Malformed, Reason::HeaderTimeout, Reason::Flood];
        if self.labels.is_empty() {
            return Some(Vec::new());
        }
        let is_without_line = |(name, value): &(String, String)| {
            name == "reason" && WITHOUT_LINE.iter().any(|reason| reason.as_str() == value)
        };
        (self.name != REFUSED.name || !labels.iter().any(is_without_line)).then_some(labels)
    }

    fn series(&self, values: &[&str]) -> Series {
        let pairs = self.labels.iter().zip(values);
        let labels = pairs.map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect();
        Series { name: self.name(), labels }
    }
}

const PULLS: Counted = Counted::new(&describe::PULLS, Exactness::AtEnd);
const PULL_BYTES: Counted = Counted::new(&describe::PULL_BYTES, Exactness::AtEnd);
const PULL_SECONDS: Counted = Counted::count_of(&describe::PULL_SECONDS, Exactness::AtEnd);
const PULL_REASONS: Counted = Counted::new(&describe::PULL_REASONS, Exactness::AtEnd);
const ORIGIN_BYTES: Counted = Counted::new(&describe::ORIGIN_BYTES, Exactness::AtEnd);
const ORIGIN_SECONDS: Counted = Counted::count_of(&describe::ORIGIN_SECONDS, Exactness::Early);
const REVALIDATIONS: Counted = Counted::new(&describe::REVALIDATIONS, Exactness::Early);
const WHOOPSIES: Counted = Counted::new(&describe::WHOOPSIES, Exactness::Early);
const REFUSED: Counted = Counted::new(&describe::REFUSED, Exactness::Early);
const SHIELD_PULLS: Counted = Counted::new(&describe::SHIELD_PULLS, Exactness::Early);
const PROBE_PULLS: Counted = Counted::new(&describe::PROBE_PULLS, Exactness::Early);
const RETRY_PULLS: Counted = Counted::new(&describe::RETRY_PULLS, Exactness::Early);
const BEACONS: Counted = Counted { labels: &[], ..Counted::new(&describe::BEACONS, Exactness::AtEnd) };
/// A line has at most one fault, but a request can have two faults. After a fault of the origin, the body of the
/// stand-in can fail too. A body that a page has replaced can also fail while its rest is read.
const ORIGIN_FAULTS: Counted = Counted::new(&describe::ORIGIN_FAULTS, Exactness::Approximate);
/// A line has only the first guard that applied.
const CACHE_GUARDS: Counted = Counted::new(&describe::CACHE_GUARDS, Exactness::Approximate);

const KINDS: [(PullKind, &Counted); 3] =
    [(PullKind::Shield, &SHIELD_PULLS), (PullKind::Probe, &PROBE_PULLS), (PullKind::Retry, &RETRY_PULLS)];

/// All metrics that can be counted from a log.
pub(crate) const COUNTED: [&Counted; 15] = [
    &PULLS,
    &PULL_BYTES,
    &PULL_SECONDS,
    &PULL_REASONS,
    &REVALIDATIONS,
    &WHOOPSIES,
    &REFUSED,
    &SHIELD_PULLS,
    &PROBE_PULLS,
    &RETRY_PULLS,
    &ORIGIN_BYTES,
    &ORIGIN_SECONDS,
    &BEACONS,
    &ORIGIN_FAULTS,
    &CACHE_GUARDS,
];

/// The cause of a page that replaces a 5xx of the origin.
const ORIGIN_5XX: &str = "origin_5xx";

/// Returns the reason of the refusal that a line reports, as the label of the counter.
fn refusal(cause: &str, status: &str) -> Option<&'static str> {
    // If a request has no Content-Length, edgeshim finds only while the body arrives that the body is too long. Then
    // the line has the name of the fault, and not the name of the refusal.
    if cause == Cause::RequestTooLarge.as_str() && status == "413" {
        return Some(Reason::BodyTooLarge.as_str());
    }
    Reason::ALL.into_iter().map(Reason::as_str).find(|reason| *reason == cause)
}

/// Splits the key of a cell into its texts.
fn parts(key: &[u8]) -> [String; PARTS] {
    let mut rest = key;
    std::array::from_fn(|_| {
        let (length, after) = rest.split_first_chunk().unwrap_or((&[0; 4], rest));
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let (text, after) = after.split_at_checked(length).unwrap_or((after, &[]));
        rest = after;
        Text::of_raw(text).decoded().into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: &str = "2026-11-28T12:00:00.000Z";

    /// Returns a line. The keys of `more` replace those of the base.
    fn line(more: &str) -> String {
        let base = concat!(
            r#"{"time":"2026-11-28T12:30:00.000Z","id":"r-1","provider":"fastly","class":"html","status":200,"#,
            r#""bytes":10,"origin_bytes":20,"origin_status":200,"origin_ms":1.000,"method":"GET","path":"/","#,
            r#""cause":"","locale":"","guard":"","why":"first"}"#
        );
        let mut object: serde_json::Map<_, _> = serde_json::from_str(base).unwrap();
        object.extend(serde_json::from_str::<serde_json::Map<_, _>>(&format!("{{{more}}}")).unwrap());
        serde_json::to_string(&object).unwrap()
    }

    fn recount(lines: &[&str]) -> Recount {
        let mut recount = Recount::new(Stamp::of_text(FROM.as_bytes()), "/b.gif");
        for more in lines {
            let line = line(more);
            recount.add(&Entry::read(line.as_bytes()).unwrap()).unwrap();
        }
        recount
    }

    /// Returns the counters as lines of text.
    fn shown(recount: &Recount) -> Vec<String> {
        let label = |(name, value): &(String, String)| format!("{name}={value}");
        let labels = |series: &Series| series.labels.iter().map(label).collect::<Vec<_>>().join(",");
        let counters = recount.counters();
        counters.iter().map(|(series, count)| format!("{}{{{}}} {count}", series.name, labels(series))).collect()
    }

    #[test]
    fn counters_when_lines_are_of_every_kind_then_each_line_counts_in_the_right_series() {
        let counted = recount(&[
            "",
            r#""status":304,"bytes":0,"revalidated":"not_modified","why":"revalidation","pull":"retry""#,
            r#""status":503,"locale":"fr","origin_status":503,"why":"uncacheable""#,
            r#""status":502,"locale":"en","cause":"reset","origin_ms":null,"provider":"none""#,
            r#""status":403,"cause":"unverified","provider":"unverified","origin_ms":null,"origin_bytes":0"#,
            r#""status":413,"cause":"request_too_large","origin_ms":null"#,
            r#""status":200,"guard":"set_cookie","cause":"cut""#,
            r#""class":"","path":"/b.gif?source=fastly""#,
            r#""class":"","path":"/b.gif?source=fastly","method":"POST","status":405"#,
            r#""class":"","path":"/rum","cause":"method""#,
            r#""time":"2026-11-28T11:59:59.999Z""#,
        ]);
        assert_eq!((counted.lines, counted.earlier_lines, counted.local_lines, counted.beacons), (10, 1, 3, 1));
        let shown = shown(&counted);
        for expected in [
            "edgeshim_pulls_total{provider=fastly,class=html,code=200} 2",
            "edgeshim_pulls_total{provider=none,class=html,code=502} 1",
            "edgeshim_pull_bytes_total{provider=fastly,class=html} 40",
            "edgeshim_pull_seconds_count{provider=fastly,class=html} 5",
            "edgeshim_origin_bytes_total{class=html} 120",
            "edgeshim_origin_seconds_count{class=html} 4",
            "edgeshim_pull_reasons_total{provider=fastly,reason=revalidation} 1",
            "edgeshim_revalidations_total{provider=fastly,class=html,result=not_modified} 1",
            "edgeshim_retry_pulls_total{} 1",
            "edgeshim_whoopsies_total{provider=fastly,locale=fr,cause=origin_5xx} 1",
            "edgeshim_whoopsies_total{provider=none,locale=en,cause=reset} 1",
            "edgeshim_refused_total{provider=unverified,reason=unverified} 1",
            "edgeshim_refused_total{provider=fastly,reason=body_too_large} 1",
            "edgeshim_origin_faults_total{cause=cut} 1",
            "edgeshim_cache_guards_total{guard=set_cookie} 1",
            "edgeshim_beacons_total{} 1",
        ] {
            assert!(shown.iter().any(|line| line == expected), "{expected} is missing in {shown:#?}");
        }
        assert!(!shown.iter().any(|line| line.contains("=request_too_large")), "a failure of the client is no fault");
        assert!(!shown.iter().any(|line| line.contains("=method")), "a line of a local endpoint is not a refused pull");
    }

    #[test]
    fn label_when_escaped_or_hostile_then_stays_one_label() {
        let counted = recount(&[r#""provider":"a\"\\\u001b","class":"é,x""#]);
        let counters = counted.counters();
        let series = counters.keys().find(|series| series.name == "edgeshim_pull_bytes_total").unwrap();
        let values: Vec<_> = series.labels.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(values, ["a\"\\\u{1b}", "é,x"]);
    }

    #[test]
    fn log_when_labels_never_repeat_then_is_rejected_before_memory_grows() {
        for (label, most) in [("p".to_owned(), MOST_CELLS), ("p".repeat(100_000), 400)] {
            let mut recount = Recount::new(None, "/b.gif");
            let failed = (0..=most).find_map(|number| {
                let start =
                    format!("{{\"time\":\"{FROM}\",\"id\":\"1\",\"provider\":\"{label}{number}\",\"class\":\"c\",");
                let line = start + "\"status\":200,\"bytes\":0,\"origin_bytes\":0}";
                recount.add(&Entry::read(line.as_bytes()).unwrap()).err()
            });
            assert_eq!(failed, Some(TooManyLabels), "{} bytes", label.len());
        }
    }
}
