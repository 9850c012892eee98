//! The presets: what is known about each CDN, such as the signals in its pulls, its proofs, and the header fields that
//! it expects.
//!
//! The knowledge is data in `config/presets/*.toml`. Each fact has its source and the date on which that was read.
//! `tests/golden/heads/` checks the presets with real request heads.

mod matcher;
mod read;

use std::net::IpAddr;
use std::sync::LazyLock;

use http::{HeaderMap, HeaderName};

pub(crate) use self::matcher::{Field, Matcher, Test};
pub(in crate::cdn) use self::matcher::{MOST_HOPS, hops, is_named, is_via};
use super::dialect::Dialect;
use super::limits::HeadLimits;
use super::tags::TagRule;
use crate::ids::PullKind;
use crate::wire::forwarded::{Trail, client_of_cdn, entry_address};

/// The names and contents of `config/presets/*.toml`, by their key `order`. `config/build.rs` writes this list.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/presets.rs"));

/// Their names, in the same order.
pub const NAMES: [&str; FILES.len()] = {
    let mut names = [""; FILES.len()];
    let mut at = 0;
    while at < FILES.len() {
        names[at] = FILES[at].0;
        at += 1;
    }
    names
};

static ALL: LazyLock<Vec<Preset>> = LazyLock::new(|| {
    let presets = FILES.iter().map(|(name, file)| read::preset(name, file));
    presets.map(|preset| preset.expect("the files are part of the program, and a test reads them")).collect()
});

/// One CDN.
#[derive(Debug)]
pub(crate) struct Preset {
    /// The name in `[[provider]] preset`.
    pub name: &'static str,
    /// The name of the CDN, for people.
    pub title: String,
    /// The day on which its service ended, if it did.
    pub ended: Option<String>,
    /// Signals in its pulls. One is enough.
    pub signals: Vec<Matcher>,
    /// The header field with its client's address.
    pub client: Option<ClientField>,
    /// The header field with its point of presence.
    pub pop: Option<PopField>,
    /// The header field with a request id that a retry repeats.
    pub request_id: Option<HeaderName>,
    /// A health check has one of these.
    pub probes: Vec<Matcher>,
    /// A pull through a shield has one of these.
    pub shields: Vec<Matcher>,
    /// The proofs that it offers, best first, as keys of the configuration.
    pub proofs: Vec<String>,
    /// How it expects its lifetimes.
    pub dialect: Dialect,
    /// Its targeted field (RFC 9213) for lifetimes, if the shim writes it.
    pub targeted_field: Option<Field>,
    /// The header field from which it reads cache tags.
    tags: TagField,
    /// The largest response head that it accepts.
    pub limits: HeadLimits,
    /// All facts of the file, for people.
    pub facts: Vec<Fact>,
}

/// The header field with the address of a CDN's client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientField {
    field: HeaderName,
    form: ClientForm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientForm {
    /// One address.
    Address,
    /// A list as in X-Forwarded-For, with this number of addresses of the CDN at its end.
    List { nodes: usize },
}

/// The header field with a CDN's point of presence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PopField {
    field: HeaderName,
    form: PopForm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PopForm {
    Whole,
    AfterDash,
    FastlyFf,
}

/// The header field from which a CDN reads cache tags.
#[derive(Debug, Clone, PartialEq, Eq)]
enum TagField {
    /// Unknown.
    Unknown,
    /// The CDN has no cache tags.
    None,
    /// Always this field.
    Fixed(Field, TagForm),
    /// A field that the operator names.
    Configured(TagForm),
}

/// The format of tags in their field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TagForm {
    delimiter: u8,
    max_tags: Option<usize>,
    max_tag_bytes: Option<usize>,
    max_bytes: Option<usize>,
    case_sensitive: bool,
}

impl TagForm {
    /// The assumed format of a field that only the operator knows.
    const PLAIN: Self =
        Self { delimiter: b',', max_tags: None, max_tag_bytes: None, max_bytes: None, case_sensitive: true };

    fn in_field(self, name: HeaderName, limits: HeadLimits) -> TagRule {
        let Self { delimiter, max_tags, max_tag_bytes, max_bytes, case_sensitive } = self;
        // A line that is longer than the CDN accepts would lose all its tags.
        let max_bytes = max_bytes.into_iter().chain(limits.value_bytes(&name)).min();
        TagRule::Field { name, delimiter, max_tags, max_tag_bytes, max_bytes, case_sensitive }
    }
}

/// One fact of a preset's file, with its source.
#[derive(Debug)]
pub(crate) struct Fact {
    pub table: String,
    /// `key value` for each key.
    pub text: String,
    /// Where it is documented, or why it is unproved, and the date.
    pub source: String,
}

/// The name of a point of presence: a few letters or digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pop {
    length: u8,
    bytes: [u8; Pop::MOST_BYTES],
}

impl Pop {
    const MOST_BYTES: usize = 15;

    /// Reads a name. Empty: it is too long, or has other characters than letters, digits, `-` and `_`.
    pub fn new(text: &[u8]) -> Self {
        let text = text.trim_ascii();
        let mut pop = Self::default();
        if text.iter().all(|&byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && let Some(bytes) = pop.bytes.get_mut(..text.len())
        {
            bytes.copy_from_slice(text);
            pop.length = u8::try_from(text.len()).unwrap_or(0);
        }
        pop
    }

    /// The name; empty if unknown.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl Preset {
    /// Every preset, in the order of [`NAMES`].
    pub(crate) fn all() -> &'static [Self] {
        &ALL
    }

    /// The preset of that name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        Self::all().iter().find(|preset| preset.name == name)
    }

    /// Whether a request has one of its signals.
    pub(crate) fn has_signal_in(&self, headers: &HeaderMap) -> bool {
        self.signals.iter().any(|signal| signal.holds(headers))
    }

    /// Whether its pulls can be recognised by signals.
    pub(crate) fn has_signals(&self) -> bool {
        !self.signals.is_empty()
    }

    /// The treatment of cache tags. `named` is the operator's `tag_header`, which counts if the CDN has no fixed field.
    pub(crate) fn tags(&self, named: Option<&HeaderName>) -> TagRule {
        match (&self.tags, named) {
            (TagField::None, _) => TagRule::Dropped,
            (TagField::Fixed(Field { name, .. }, form), _) | (TagField::Configured(form), Some(name)) => {
                form.in_field(name.clone(), self.limits)
            }
            (TagField::Unknown, Some(name)) => TagForm::PLAIN.in_field(name.clone(), self.limits),
            (TagField::Configured(_) | TagField::Unknown, None) => TagRule::Unchanged,
        }
    }

    /// The field of cache tags, for people.
    pub(crate) fn tag_field_name(&self) -> &str {
        match &self.tags {
            TagField::Unknown => "not known",
            TagField::None => "no field",
            TagField::Fixed(field, _) => &field.spelled,
            TagField::Configured(_) => "tag_header",
        }
    }

    /// Why `tag_header` is not allowed for it, as the rest of a sentence. None: it is allowed.
    pub(crate) fn refuses_tag_header(&self) -> Option<String> {
        match &self.tags {
            TagField::Fixed(field, _) => {
                Some(format!("has no effect: {} reads its tags only from {field}", self.title))
            }
            TagField::None => Some(format!("has no effect: {} has no cache tags", self.title)),
            TagField::Configured(_) | TagField::Unknown => None,
        }
    }

    /// Whether a field contains the client's address or the point of presence, which are public.
    pub(crate) fn is_public_field(&self, field: &HeaderName) -> bool {
        let (client, pop) = (self.client.as_ref(), self.pop.as_ref());
        client.is_some_and(|client| client.field == *field) || pop.is_some_and(|pop| pop.field == *field)
    }

    /// The kind of a pull.
    pub(crate) fn kind(&self, headers: &HeaderMap) -> PullKind {
        let has = |matchers: &[Matcher]| matchers.iter().any(|matcher| matcher.holds(headers));
        if has(&self.probes) {
            PullKind::Probe
        } else if has(&self.shields) {
            PullKind::Shield
        } else {
            PullKind::Edge
        }
    }

    /// The client's address as this CDN reports it. Only valid after a proof. `is_node` recognises the CDN's own
    /// machines.
    pub(crate) fn client(&self, headers: &HeaderMap, trail: Trail, is_node: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let client = self.client.as_ref()?;
        match client.form {
            ClientForm::Address => {
                let mut lines = headers.get_all(&client.field).iter();
                match (lines.next(), lines.next()) {
                    (Some(line), None) => entry_address(line.as_bytes()),
                    _ => None,
                }
            }
            ClientForm::List { nodes } => client_of_cdn(headers, trail, nodes, is_node),
        }
    }

    /// The field with its client's address.
    pub(crate) fn client_field(&self) -> Option<&HeaderName> {
        self.client.as_ref().map(|client| &client.field)
    }

    /// The point of presence that a request names; empty if it names none.
    pub(crate) fn pop(&self, headers: &HeaderMap) -> Pop {
        let Some((pop, line)) = self.pop.as_ref().and_then(|pop| Some((pop, headers.get(&pop.field)?.as_bytes())))
        else {
            return Pop::default();
        };
        Pop::new(match pop.form {
            PopForm::Whole => line,
            PopForm::AfterDash => {
                line.rsplit(|&byte| byte == b'-').next().filter(|end| end.len() < line.len()).unwrap_or_default()
            }
            PopForm::FastlyFf => matcher::fastly_pop(line).unwrap_or_default(),
        })
    }
}
