//! One experiment, prepared for requests: which arm a visitor gets, and why.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::arm_layout::{ArmLayout, per_cent, place};
use super::experiment_keys::ExperimentSettings;
use crate::ids::intern;
use crate::wire::names::{COOKIE, assignment};
use crate::wire::query_parameters;
use crate::wire::secret::Secret;

/// The reason why a visitor has an arm or has no arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// The query has the parameter of `override` with the secret.
    Override,
    /// `users` has the id.
    User,
    /// `groups` has the visitor's group.
    Group,
    /// The id has this place (see `arm_layout.rs`), and an arm owns the place.
    Share(u32),
    /// The id has this place, and no arm owns the place.
    Rest(u32),
    /// The request has no id.
    NoId,
}

impl Why {
    /// Returns the reason as a text for people.
    pub(crate) fn explanation(self) -> String {
        match self {
            Self::Override => "by the parameter of experiment.override".to_owned(),
            Self::User => "the id is in experiment.users".to_owned(),
            Self::Group => "the group is in experiment.groups.arms".to_owned(),
            Self::Share(place) => format!("the arm owns the place of the id ({} per cent)", per_cent(place)),
            Self::Rest(place) => format!("no arm owns the place of the id ({} per cent)", per_cent(place)),
            Self::NoId => "the request has no id".to_owned(),
        }
    }
}

/// An arm.
#[derive(Debug)]
pub(crate) struct Arm {
    pub name: &'static str,
    /// The value of the field for the origin.
    pub value: HeaderValue,
}

/// One experiment.
#[derive(Debug)]
pub(crate) struct Experiment {
    pub settings: ExperimentSettings,
    pub name: &'static str,
    /// The field for the origin.
    pub field: HeaderName,
    pub arms: Vec<Arm>,
    layout: ArmLayout,
}

impl Experiment {
    /// Prepares an experiment. Returns `None` if the name cannot be a part of a field name, or if an arm cannot be a
    /// field value. The check of the configuration rejects such names.
    pub(crate) fn new(settings: ExperimentSettings) -> Option<Self> {
        let arm = |name: &String| {
            let host = settings.hosts.get(name).map(|host| format!("; host={host}")).unwrap_or_default();
            Some(Arm { name: intern(name), value: HeaderValue::try_from(format!("{name}{host}")).ok()? })
        };
        Some(Self {
            name: intern(&settings.name),
            field: assignment(&settings.name)?,
            arms: settings.arms.keys().map(arm).collect::<Option<_>>()?,
            layout: ArmLayout::new(&settings.arms.values().copied().collect::<Vec<_>>()),
            settings,
        })
    }

    /// Returns the position of a visitor's arm and the reason. `forced` is the arm of a valid override.
    pub(crate) fn choose(
        &self,
        forced: Option<usize>,
        id: Option<&[u8]>,
        group: Option<&[u8]>,
    ) -> (Option<usize>, Why) {
        let listed = |arms: &BTreeMap<String, String>, key: Option<&[u8]>| {
            arms.get(str::from_utf8(key?).ok()?).and_then(|arm| self.position(arm.as_bytes()))
        };
        if forced.is_some() {
            return (forced, Why::Override);
        }
        if let Some(arm) = listed(&self.settings.users, id) {
            return (Some(arm), Why::User);
        }
        if let Some(arm) = listed(&self.settings.groups.arms, group) {
            return (Some(arm), Why::Group);
        }
        let Some(id) = id else { return (None, Why::NoId) };
        let place = place(self.name, id);
        match self.layout.arm(place) {
            Some(arm) => (Some(arm), Why::Share(place)),
            None => (None, Why::Rest(place)),
        }
    }

    /// Returns the visitor's id, if the request has an id that is not empty. A header field with several lines counts
    /// as absent.
    pub(crate) fn id<'h>(&self, headers: &'h HeaderMap) -> Option<&'h [u8]> {
        match (&self.settings.id.header, &self.settings.id.cookie) {
            (Some(header), _) => value(headers, header),
            (None, Some(name)) => cookie(headers, name.as_bytes()),
            (None, None) => None,
        }
    }

    /// Returns the visitor's group, if the request has a group and comes from a trusted proxy. A field with several
    /// lines counts as absent.
    pub(crate) fn group<'h>(&self, headers: &'h HeaderMap, peer_trusted: bool) -> Option<&'h [u8]> {
        let header = self.settings.groups.header.as_ref().filter(|_| peer_trusted)?;
        value(headers, header)
    }

    /// Returns the arm that the query of a target selects. The query must have the parameter of `override` exactly
    /// once, with the name of an arm, a dot and the secret.
    pub(crate) fn forced(&self, target: &str) -> Option<usize> {
        let (parameter, secret) = self.overriding()?;
        let mut values = query_parameters::values(target, parameter);
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let dot = value.iter().position(|&byte| byte == b'.')?;
        let (arm, given) = value.split_at(dot);
        let arm = self.position(arm);
        // The secret is compared even if there is no such arm. So the response time does not show which arms exist.
        if secret.matches(given.get(1..)?) { arm } else { None }
    }

    /// Returns the parameter and the secret of the override, if the experiment has an override.
    fn overriding(&self) -> Option<(&str, &Secret)> {
        self.settings.override_parameter.as_deref().zip(self.settings.override_secret.as_ref())
    }

    fn position(&self, arm: &[u8]) -> Option<usize> {
        self.arms.iter().position(|known| known.name.as_bytes().eq_ignore_ascii_case(arm))
    }
}

/// Returns the value of a field that has exactly one line, if the value is not empty.
fn value<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let mut lines = headers.get_all(name).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    Some(line.as_bytes().trim_ascii()).filter(|value| !value.is_empty())
}

/// Returns the value of the first cookie with this name, if the value is not empty. HTTP/2 allows several Cookie lines.
fn cookie<'h>(headers: &'h HeaderMap, name: &[u8]) -> Option<&'h [u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b';'));
    let mut values = pairs.filter_map(|pair| {
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        let (found, value) = pair.split_at(equals);
        (found.trim_ascii() == name).then(|| value.get(1..).unwrap_or_default().trim_ascii())
    });
    values.next().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::arm_layout::{PLACES, Share};
    use super::super::experiment_keys::{Groups, IdSource};
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn experiment() -> Experiment {
        Experiment::new(ExperimentSettings {
            name: "cdn".to_owned(),
            arms: [("a".to_owned(), Share(PLACES)), ("b".to_owned(), Share(0))].into(),
            id: IdSource { cookie: Some("uaid".to_owned()), header: None },
            users: map(&[("4711", "b")]),
            groups: Groups { header: Some("x-group".parse().unwrap()), arms: map(&[("staff", "b")]) },
            override_parameter: Some("o".to_owned()),
            override_secret: Some(Secret::new("s.1&")),
            hosts: map(&[("b", "b.test")]),
            ..ExperimentSettings::default()
        })
        .unwrap()
    }

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let line = |&(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        lines.iter().map(line).collect::<Vec<(_, HeaderValue)>>().into_iter().collect()
    }

    #[test]
    fn arm_when_override_matches_then_is_from_override_else_is_from_user_or_group_or_share() {
        let experiment = experiment();
        let (user, staff) = (Some(&b"4711"[..]), Some(&b"staff"[..]));
        assert_eq!(experiment.choose(Some(0), user, staff), (Some(0), Why::Override));
        assert_eq!(experiment.choose(None, user, None), (Some(1), Why::User));
        assert_eq!(experiment.choose(None, Some(b"1"), staff), (Some(1), Why::Group));
        assert_eq!(experiment.choose(None, None, staff), (Some(1), Why::Group));
        assert!(matches!(experiment.choose(None, Some(b"1"), Some(b"other")), (Some(0), Why::Share(_))));
        assert_eq!(experiment.choose(None, None, None), (None, Why::NoId));
        assert_eq!(experiment.arms.iter().map(|arm| &arm.value).collect::<Vec<_>>(), ["a", "b; host=b.test"]);
    }

    #[test]
    fn override_when_arm_or_secret_is_wrong_or_parameter_repeats_then_selects_no_arm() {
        let experiment = experiment();
        assert_eq!(experiment.forced("/?x=1&o=B.s.1%26"), Some(1));
        assert_eq!(experiment.forced("/?%6f=a.%73.1%26"), Some(0));
        for wrong in ["/", "/?o", "/?o=a", "/?o=a.", "/?o=a.s.1", "/?o=c.s.1%26", "/?o=a.s.1&", "/?O=a.s.1%26"] {
            assert_eq!(experiment.forced(wrong), None, "{wrong}");
        }
        assert_eq!(experiment.forced("/?o=a.s.1%26&o=a.s.1%26"), None);
    }

    #[test]
    fn id_when_cookie_repeats_or_has_another_line_then_first_value_is_used() {
        let experiment = experiment();
        for (lines, id) in [
            (&[("cookie", "a=1; uaid=7; uaid=8")][..], Some(&b"7"[..])),
            (&[("cookie", "a=1"), ("cookie", "uaid=x=y")], Some(b"x=y")),
            (&[("cookie", "uaid=; uaid=8")], None),
            (&[("cookie", "xuaid=1; UAID=2; uaid")], None),
            (&[], None),
        ] {
            assert_eq!(experiment.id(&headers(lines)), id, "{lines:?}");
        }
    }

    #[test]
    fn group_when_peer_is_not_trusted_or_field_repeats_then_is_ignored() {
        let experiment = experiment();
        let one = headers(&[("x-group", " staff ")]);
        assert_eq!(experiment.group(&one, true), Some(&b"staff"[..]));
        assert_eq!(experiment.group(&one, false), None);
        assert_eq!(experiment.group(&headers(&[("x-group", "staff"), ("x-group", "staff")]), true), None);
    }
}
