//! The charts of a bundle's page, as SVG without a script. The numbers come from an admin listener, so any of them can
//! be missing or wrong.

use std::fmt::Write as _;

use serde_json::Value;

/// The largest number of lines in a chart. The style sheet has this number of colours.
pub(super) const MOST_LINES: usize = 8;
/// The largest number of points of a line.
const MOST_POINTS: usize = 1_000;
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 160.0;

/// The times of a history, in seconds of Unix time.
#[derive(Debug)]
pub(super) struct Axis {
    pub(super) times: Vec<f64>,
    pub(super) first: f64,
    pub(super) last: f64,
}

impl Axis {
    /// Returns the axis of a response of `/api/series`. `None`: the response has no list of times, the list is empty,
    /// or the last time is not later than the first time.
    pub(super) fn of(series: &Value) -> Option<Self> {
        let times = numbers(series.get("times")?)?;
        let times: Vec<f64> = times.into_iter().map(|time| time.unwrap_or(0.0)).collect();
        let (first, last) = (*times.first()?, *times.last()?);
        (last > first).then_some(Self { times, first, last })
    }

    /// Returns the horizontal place of a moment, or `None` if the moment is outside of the chart.
    fn x(&self, time: f64) -> Option<f64> {
        let x = (time - self.first) / (self.last - self.first) * WIDTH;
        (0.0..=WIDTH).contains(&x).then_some(x)
    }
}

/// Returns the first [`MOST_POINTS`] numbers of a JSON list. `None` in the result: the number is missing, negative or
/// not valid.
pub(super) fn numbers(list: &Value) -> Option<Vec<Option<f64>>> {
    let list = list.as_array()?.iter().take(MOST_POINTS);
    Some(list.map(|number| number.as_f64().filter(|number| number.is_finite() && *number >= 0.0)).collect())
}

/// The SVG of a chart, and the value at its upper edge.
#[derive(Debug)]
pub(super) struct Chart {
    pub(super) svg: String,
    pub(super) top: f64,
}

/// Returns a chart. `outages` are the starts and ends of outages. `marks` are the times of events. `None`: no line has
/// a number.
pub(super) fn chart(axis: &Axis, lines: &[Vec<Option<f64>>], outages: &[(f64, f64)], marks: &[f64]) -> Option<Chart> {
    let lines = || lines.iter().take(MOST_LINES);
    let most = lines().flatten().flatten().copied().fold(f64::NEG_INFINITY, f64::max);
    if !most.is_finite() {
        return None;
    }
    let top = rounded_up(most);
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" aria-hidden=\"true\">");
    for (began, ended) in outages {
        let (from, to) = (began.max(axis.first), ended.min(axis.last));
        if let (Some(from), Some(to)) = (axis.x(from), axis.x(to))
            && to >= from
        {
            let width = (to - from).max(1.0);
            let _ = write!(
                svg,
                "<rect class=\"outages\" x=\"{from:.1}\" y=\"0\" width=\"{width:.1}\" height=\"{HEIGHT}\"/>"
            );
        }
    }
    for part in [0.0, 0.5, 1.0] {
        let y = HEIGHT * part;
        let _ = write!(svg, "<line class=\"grid\" x1=\"0\" y1=\"{y}\" x2=\"{WIDTH}\" y2=\"{y}\"/>");
    }
    for x in marks.iter().filter_map(|time| axis.x(*time)) {
        let _ = write!(svg, "<line class=\"mark\" x1=\"{x:.1}\" y1=\"0\" x2=\"{x:.1}\" y2=\"{HEIGHT}\"/>");
    }
    for (number, line) in lines().enumerate() {
        let path = path(axis, line, top);
        if !path.is_empty() {
            let _ = write!(svg, "<path class=\"series c{number}\" d=\"{path}\"/>");
        }
    }
    svg.push_str("</svg>");
    Some(Chart { svg, top })
}

/// Returns the path of a line. An unknown number makes a gap.
fn path(axis: &Axis, line: &[Option<f64>], top: f64) -> String {
    let mut path = String::new();
    let mut is_open = false;
    for (time, value) in axis.times.iter().zip(line) {
        let (Some(x), Some(value)) = (axis.x(*time), value) else {
            is_open = false;
            continue;
        };
        let y = HEIGHT - (value / top).min(1.0) * HEIGHT;
        // A single number between two gaps would be invisible. So each part of the path begins with a line of length 0.
        let _ = if is_open { write!(path, "L{x:.1} {y:.1}") } else { write!(path, "M{x:.1} {y:.1}l0 0") };
        is_open = true;
    }
    path
}

/// Returns a round number that is at least `value`, for the upper edge of a chart.
fn rounded_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let unit = 10.0_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * unit).find(|top| *top >= value).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn chart_when_numbers_are_missing_then_line_has_a_gap_and_areas_and_marks_stay_inside() {
        let axis = Axis::of(&json!({ "times": [100, 110, 120, 130] })).unwrap();
        let lines = [vec![Some(0.0), Some(30.0), None, Some(15.0)]];
        let chart = chart(&axis, &lines, &[(105.0, 200.0)], &[110.0, 999.0]).unwrap();
        assert!((chart.top - 50.0).abs() < 1e-9, "{}", chart.top);
        assert!(chart.svg.contains("d=\"M0.0 160.0l0 0L200.0 64.0M600.0 112.0l0 0\""), "{}", chart.svg);
        assert!(chart.svg.contains("x=\"100.0\" y=\"0\" width=\"500.0\""), "{}", chart.svg);
        assert_eq!(chart.svg.matches("class=\"mark\"").count(), 1);
    }

    #[test]
    fn chart_when_values_are_hostile_then_is_absent_or_has_no_nan_and_no_inf() {
        for times in [json!(null), json!([]), json!([1]), json!([5, 5]), json!(["x", "<"]), json!({ "a": 1 })] {
            assert!(Axis::of(&json!({ "times": times })).is_none(), "{times}");
        }
        let axis = Axis::of(&json!({ "times": [0, 1e308] })).unwrap();
        assert!(chart(&axis, &[], &[], &[]).is_none());
        assert!(chart(&axis, &[vec![None, None]], &[], &[]).is_none());
        let list = numbers(&json!(["<script>", -1, 1e308, null])).unwrap();
        assert_eq!(list, [None, None, Some(1e308), None]);
        let chart = chart(&axis, &[list], &[(f64::NAN, 1.0)], &[f64::INFINITY]).unwrap();
        assert!(!chart.svg.contains("NaN") && !chart.svg.contains("inf"), "{}", chart.svg);
    }

    #[test]
    fn upper_edge_when_rounded_then_is_not_below_the_value() {
        for (value, top) in [(0.0, 1.0), (0.011, 0.02), (1.0, 1.0), (2.1, 5.0), (73.0, 100.0)] {
            assert!((rounded_up(value) - top).abs() < 1e-9, "{value}: {}", rounded_up(value));
        }
    }
}
