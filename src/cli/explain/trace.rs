//! Follows one head through the layers: which field lines were present from the start, which layer set the other lines,
//! and which layer removed lines.
//!
//! Layers do not report their changes. So this module compares the heads before and after each layer.

use http::{HeaderMap, HeaderName, HeaderValue};

/// A field line, with the layer that set or removed the line.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) name: HeaderName,
    pub(super) value: HeaderValue,
    /// The layer that set or removed the line. `None`: the line was received and is still present.
    pub(super) layer: Option<&'static str>,
}

/// One head with all changes that were recorded so far.
#[derive(Debug)]
pub(super) struct Trace {
    /// The lines that are present, in the head's order.
    pub(super) there: Vec<Step>,
    /// The received lines that were removed, in the order of their removal.
    pub(super) gone: Vec<Step>,
}

impl Trace {
    /// Begins the trace with the received head.
    pub(super) fn begin(head: &HeaderMap) -> Self {
        let received =
            |(name, value): (&HeaderName, &HeaderValue)| Step { name: name.clone(), value: value.clone(), layer: None };
        Self { there: head.iter().map(received).collect(), gone: Vec::new() }
    }

    /// Compares the head before `layer` with the head after `layer`, and records the changes that `layer` made.
    pub(super) fn pass(&mut self, layer: &'static str, head: &HeaderMap) {
        let mut before = std::mem::take(&mut self.there);
        for (name, value) in head {
            // Equal lines are interchangeable, so it does not matter which of two equal lines is found.
            let same = before.iter().position(|step| step.name == name && step.value == value);
            self.there.push(match same {
                Some(at) => before.remove(at),
                None => Step { name: name.clone(), value: value.clone(), layer: Some(layer) },
            });
        }
        // If one layer added a line and a later layer removed it, the line is not reported.
        let received = before.into_iter().filter(|step| step.layer.is_none());
        self.gone.extend(received.map(|step| Step { layer: Some(layer), ..step }));
    }

    /// Forgets the lines that layers have set. `explain` calls this function when the head of the whoopsie page
    /// replaces the head of the response. If a line of the page's head is equal to a forgotten line, `whoopsie` is
    /// reported as the layer that set the line.
    pub(super) fn forget_set(&mut self) {
        self.there.retain(|step| step.layer.is_none());
    }

    /// Whether the head has a line with this name.
    pub(super) fn has(&self, name: &HeaderName) -> bool {
        self.there.iter().any(|step| step.name == *name)
    }

    /// Whether the head has a line with this name that a layer set.
    pub(super) fn has_set(&self, name: &HeaderName) -> bool {
        self.there.iter().any(|step| step.name == *name && step.layer.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let line = |&(name, value): &(&'static str, &'static str)| {
            (name.parse::<HeaderName>().unwrap(), HeaderValue::from_static(value))
        };
        lines.iter().map(line).collect()
    }

    fn shown(steps: &[Step]) -> Vec<(&str, &str, Option<&str>)> {
        steps.iter().map(|step| (step.name.as_str(), step.value.to_str().unwrap(), step.layer)).collect()
    }

    #[test]
    fn field_line_when_set_or_removed_then_is_recorded_with_the_layer() {
        let mut trace = Trace::begin(&head(&[("via", "a"), ("etag", "x"), ("age", "1"), ("name", "n")]));
        trace.pass("one", &head(&[("via", "a"), ("etag", "y"), ("age", "1")]));
        trace.pass("two", &head(&[("via", "a"), ("via", "a"), ("etag", "z"), ("name", "n")]));
        assert_eq!(
            shown(&trace.there),
            [("via", "a", None), ("via", "a", Some("two")), ("etag", "z", Some("two")), ("name", "n", Some("two"))]
        );
        // The entity tag of the first layer is not reported, because the second layer replaced it.
        assert_eq!(
            shown(&trace.gone),
            [("etag", "x", Some("one")), ("name", "n", Some("one")), ("age", "1", Some("two"))]
        );
    }
}
