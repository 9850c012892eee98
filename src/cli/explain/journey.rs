//! One head on its way through the stages: which line was there from the start, which stage set the others, and what took lines off.
//!
//! Stages are told nothing of this: each is run as it is, and the heads before and after it are compared.

use http::{HeaderMap, HeaderName, HeaderValue};

/// A line of the head, with the stage that set it, or took it off.
#[derive(Debug, Clone)]
pub(super) struct Step<S> {
    pub(super) name: HeaderName,
    pub(super) value: HeaderValue,
    /// Of a line that is there: none, it came so.
    pub(super) stage: Option<S>,
}

/// A head and its story so far.
#[derive(Debug)]
pub(super) struct Journey<S> {
    /// What is there, in the head's order.
    pub(super) there: Vec<Step<S>>,
    /// What came and is gone, in the order in which it went.
    pub(super) gone: Vec<Step<S>>,
}

impl<S: Copy> Journey<S> {
    /// A head as it came.
    pub(super) fn begin(head: &HeaderMap) -> Self {
        let came =
            |(name, value): (&HeaderName, &HeaderValue)| Step { name: name.clone(), value: value.clone(), stage: None };
        Self { there: head.iter().map(came).collect(), gone: Vec::new() }
    }

    /// The head as a stage has left it.
    pub(super) fn pass(&mut self, stage: S, head: &HeaderMap) {
        let mut before = std::mem::take(&mut self.there);
        for (name, value) in head {
            // Equal lines are told apart by their number alone.
            let same = before.iter().position(|step| step.name == name && step.value == value);
            self.there.push(match same {
                Some(at) => before.remove(at),
                None => Step { name: name.clone(), value: value.clone(), stage: Some(stage) },
            });
        }
        // What one stage set and another took off was never anybody's to miss.
        let came = before.into_iter().filter(|step| step.stage.is_none());
        self.gone.extend(came.map(|step| Step { stage: Some(stage), ..step }));
    }

    /// Whether a line of that name is there that came otherwise, or not at all.
    pub(super) fn has_set(&self, name: &HeaderName) -> bool {
        self.there.iter().any(|step| step.name == *name && step.stage.is_some())
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

    fn told(steps: &[Step<u8>]) -> Vec<(&str, &str, Option<u8>)> {
        steps.iter().map(|step| (step.name.as_str(), step.value.to_str().unwrap(), step.stage)).collect()
    }

    #[test]
    fn lines_when_stages_change_them_then_each_is_known_by_its_stage() {
        let mut journey = Journey::begin(&head(&[("via", "a"), ("etag", "x"), ("age", "1"), ("name", "n")]));
        journey.pass(1, &head(&[("via", "a"), ("etag", "y"), ("age", "1")]));
        journey.pass(2, &head(&[("via", "a"), ("via", "a"), ("etag", "z"), ("name", "n")]));
        assert_eq!(
            told(&journey.there),
            [("via", "a", None), ("via", "a", Some(2)), ("etag", "z", Some(2)), ("name", "n", Some(2))]
        );
        // The tag that the first stage wrote and the second replaced is not missed.
        assert_eq!(told(&journey.gone), [("etag", "x", Some(1)), ("name", "n", Some(1)), ("age", "1", Some(2))]);
    }
}
