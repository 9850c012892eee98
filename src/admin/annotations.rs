//! The annotations: marks on the time axis of the admin page. They mark events, for example a deployment, the start of
//! edgeshim, or the start of an outage. Posted annotations and annotations that edgeshim makes itself have separate
//! lists, so that posted annotations never remove the mark of an outage. The last [`MOST`] annotations of each list
//! stay in memory, also after a configuration swap.
//!
//! **Metrics:** `edgeshim_annotations_total`.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use metrics::Counter;
use serde::Serialize;

use crate::clock;
use crate::ids::label;
use crate::metrics::{Metrics, describe};
use crate::wire::json::is_active;

/// The largest number of annotations in each of the two lists.
pub(super) const MOST: usize = 100;
/// The longest text of an annotation, in characters. The rest of a longer text is removed.
const MAX_CHARACTERS: usize = 200;

label! {
    /// The event that an annotation marks.
    pub(crate) enum Mark {
        /// An event that a person or a program has sent with `POST /annotations`.
        Note = "note",
        /// The start of the process.
        Start = "start",
        /// The start of the drain.
        Drain = "drain",
        /// A configuration swap.
        Reload = "reload",
        /// Certificates, keys or CAs of client certificates were read again after a change.
        Certificate = "certificate",
        /// A change of the CDNs' weights, announced with `POST /annotations`.
        Share = "share",
        /// An unannounced change of the CDNs' shares of the pulls.
        Shift = "shift",
        /// The start of an outage.
        Outage = "outage",
        /// The end of an outage.
        Recovery = "recovery",
    }
}

impl Mark {
    /// Returns whether the annotation was sent with `POST /annotations`.
    fn is_posted(self) -> bool {
        matches!(self, Self::Note | Self::Share)
    }

    /// Returns whether the event can be the cause of an outage. A shift of the shares is more often a result of an
    /// outage, because a failing CDN sends more or fewer pulls than before.
    fn can_be_cause(self) -> bool {
        !matches!(self, Self::Outage | Self::Recovery | Self::Shift)
    }
}

impl Serialize for Mark {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One annotation.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Annotation {
    pub id: u64,
    /// The moment, in seconds of Unix time.
    pub time: f64,
    pub kind: Mark,
    pub text: String,
}

/// The stored annotations.
#[derive(Debug)]
pub(super) struct Annotations {
    kept: Mutex<Kept>,
    total: Counter,
}

#[derive(Debug, Default)]
struct Kept {
    last_id: u64,
    posted: VecDeque<Annotation>,
    own: VecDeque<Annotation>,
}

impl Annotations {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self { kept: Mutex::default(), total: metrics.series(&describe::ANNOTATIONS, &[]) }
    }

    /// Adds an annotation. If its list is full, the annotation with the lowest id in this list is dropped.
    pub(super) fn add(&self, kind: Mark, text: &str, time: f64) -> Annotation {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last_id += 1;
        let annotation = Annotation { id: kept.last_id, time, kind, text: cleaned(text) };
        let list = if kind.is_posted() { &mut kept.posted } else { &mut kept.own };
        if list.len() >= MOST {
            list.pop_front();
        }
        list.push_back(annotation.clone());
        self.total.increment(1);
        annotation
    }

    /// Returns all annotations, in the order of their ids.
    pub(super) fn all(&self) -> Vec<Annotation> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = kept.posted.iter().chain(&kept.own).cloned().collect();
        all.sort_by_key(|one| one.id);
        all
    }

    /// Returns the newest annotation of the hour before `moment` whose event can be the cause of an outage.
    pub(super) fn before(&self, moment: f64) -> Option<Annotation> {
        let mut all = self.all();
        all.retain(|one| one.kind.can_be_cause() && one.time <= moment && one.time > moment - 3600.0);
        all.into_iter().max_by(|one, other| one.time.total_cmp(&other.time))
    }
}

/// Removes control characters, characters that change the writing direction, and whitespace at the ends. Cuts the text
/// to [`MAX_CHARACTERS`].
pub(super) fn cleaned(text: &str) -> String {
    let visible = |character: &char| !character.is_control() && !is_active(*character);
    let text: String = text.chars().filter(visible).collect();
    text.trim().chars().take(MAX_CHARACTERS).collect()
}

/// Returns the current time, in seconds of Unix time.
pub(super) fn now() -> f64 {
    clock::unix_time().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotation_text_when_cleaned_then_is_short_and_has_no_control_characters() {
        assert_eq!(cleaned(" deploy\r\n\x1b[2J\u{202e}1234\0 "), "deploy[2J1234");
        assert_eq!(cleaned(&"é".repeat(300)).chars().count(), MAX_CHARACTERS);
    }

    #[test]
    fn annotations_when_full_then_newest_are_kept_and_possible_cause_of_an_outage_is_found() {
        let annotations = Annotations::new(&Metrics::new().unwrap());
        for number in 0..250 {
            annotations.add(Mark::Note, &format!("deploy {number}"), f64::from(number));
        }
        let all = annotations.all();
        assert_eq!((all.len(), all[0].id, all[99].id), (MOST, 151, 250));
        annotations.add(Mark::Outage, "fastly", 200.5);
        annotations.add(Mark::Shift, "fastly", 200.6);
        assert_eq!(annotations.before(200.9).map(|found| found.text), Some("deploy 200".to_owned()));
        assert!(annotations.before(100.0).is_none() && annotations.before(9000.0).is_none());
    }

    #[test]
    fn marks_of_edgeshim_when_many_annotations_are_posted_then_are_kept() {
        let annotations = Annotations::new(&Metrics::new().unwrap());
        annotations.add(Mark::Start, "started", 1.0);
        annotations.add(Mark::Outage, "fastly", 2.0);
        for number in 0..250 {
            annotations.add(if number % 2 == 0 { Mark::Note } else { Mark::Share }, "posted", 3.0);
        }
        let all = annotations.all();
        let kinds: Vec<_> = all.iter().take(2).map(|one| one.kind).collect();
        assert_eq!((all.len(), kinds), (MOST + 2, vec![Mark::Start, Mark::Outage]));
        assert!(
            all.windows(2).all(|pair| pair[0].id < pair[1].id),
            "the annotations must be in the order of their ids"
        );
        for _ in 0..250 {
            annotations.add(Mark::Recovery, "fastly", 4.0);
        }
        assert_eq!(annotations.all().len(), 2 * MOST);
    }
}
