//! What we know about each CDN: how its pulls look, what proves them, and in which words it wants its answers.
//!
//! The knowledge is data, `config/presets/*.toml`, each fact with its source and the date on which that was read; here are its types
//! and the one list of presets. What a preset says is tried on real request heads in `tests/golden/heads/`.

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
    /// Whose it is.
    pub title: String,
    /// The day on which its service ended, where it has.
    pub ended: Option<String>,
    /// What its pulls carry; any one is enough.
    pub signals: Vec<Matcher>,
    /// Where it says its visitor's address.
    pub client: Option<ClientField>,
    /// Where it says from which point of presence it pulls.
    pub pop: Option<PopField>,
    /// The field of an id that is the same when a pull is tried again.
    pub request_id: Option<HeaderName>,
    /// A health check has one of these.
    pub probes: Vec<Matcher>,
    /// A pull through a shield has one of these.
    pub shields: Vec<Matcher>,
    /// The proofs that it offers, the best first, by the names of the configuration's keys.
    pub proofs: Vec<String>,
    /// In which words it is told its lifetimes.
    pub dialect: Dialect,
    /// The field of its own in which it is told them, as it spells it.
    pub own_field: Option<Field>,
    /// Where it reads cache tags.
    tags: TagField,
    /// What it takes of an answer's head.
    pub limits: HeadLimits,
    /// All that the file says, for people.
    pub facts: Vec<Fact>,
}

/// Where a CDN says its visitor's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientField {
    field: HeaderName,
    form: ClientForm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientForm {
    /// One address.
    Address,
    /// X-Forwarded-For's own form, with as many of the CDN's own addresses at its end.
    List { own: usize },
}

/// Where a CDN says its point of presence.
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

/// Where a CDN reads cache tags.
#[derive(Debug, Clone, PartialEq, Eq)]
enum TagField {
    /// Nothing is known of it.
    Unknown,
    /// Nowhere.
    None,
    /// In this field and no other.
    Own(Field, TagForm),
    /// In a field that its customer names.
    Operators(TagForm),
}

/// How tags stand in their field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TagForm {
    delimiter: u8,
    max_tags: Option<usize>,
    max_tag_bytes: Option<usize>,
    max_bytes: Option<usize>,
    case_sensitive: bool,
}

impl TagForm {
    /// What is assumed of a field that only the operator knows.
    const PLAIN: Self =
        Self { delimiter: b',', max_tags: None, max_tag_bytes: None, max_bytes: None, case_sensitive: true };

    fn in_field(self, name: HeaderName, limits: HeadLimits) -> TagRule {
        let Self { delimiter, max_tags, max_tag_bytes, max_bytes, case_sensitive } = self;
        // A line that is longer than the CDN takes would fall with every tag in it.
        let max_bytes = max_bytes.into_iter().chain(limits.value_bytes(&name)).min();
        TagRule::Field { name, delimiter, max_tags, max_tag_bytes, max_bytes, case_sensitive }
    }
}

/// One line of a preset's file: a fact, and who says so.
#[derive(Debug)]
pub(crate) struct Fact {
    /// The table that it stands in.
    pub table: String,
    /// `key value` for each of its keys.
    pub text: String,
    /// Where it is documented, or why it is unproved, and when that was read.
    pub source: String,
}

/// A point of presence, as short as they are: a few letters or digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pop {
    length: u8,
    bytes: [u8; Pop::MOST_BYTES],
}

impl Pop {
    /// The longest that is read, in bytes.
    const MOST_BYTES: usize = 15;

    /// Reads one. A longer one, or one of other characters than letters, digits, `-` and `_`, is none.
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

    /// As it is shown; empty where it is not known.
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

    /// Whether the request carries one of its signals.
    pub(crate) fn shows_itself(&self, headers: &HeaderMap) -> bool {
        self.signals.iter().any(|signal| signal.holds(headers))
    }

    /// Whether its pulls can be told by what they carry.
    pub(crate) fn is_recognisable(&self) -> bool {
        !self.signals.is_empty()
    }

    /// Where it reads cache tags. `named` is the operator's `tag_header`, which counts where the CDN has no field of its own.
    pub(crate) fn tags(&self, named: Option<&HeaderName>) -> TagRule {
        match (&self.tags, named) {
            (TagField::None, _) => TagRule::Dropped,
            (TagField::Own(Field { name, .. }, form), _) | (TagField::Operators(form), Some(name)) => {
                form.in_field(name.clone(), self.limits)
            }
            (TagField::Unknown, Some(name)) => TagForm::PLAIN.in_field(name.clone(), self.limits),
            (TagField::Operators(_) | TagField::Unknown, None) => TagRule::Unchanged,
        }
    }

    /// Where it reads cache tags, in words.
    pub(crate) fn tag_place(&self) -> &str {
        match &self.tags {
            TagField::Unknown => "not known",
            TagField::None => "no field",
            TagField::Own(field, _) => &field.spelled,
            TagField::Operators(_) => "tag_header",
        }
    }

    /// Why a `tag_header` makes no sense for it, as a sentence goes on; none where it does.
    pub(crate) fn refuses_tag_header(&self) -> Option<String> {
        match &self.tags {
            TagField::Own(field, _) => {
                Some(format!("is not asked for: {} reads its tags from {field} alone", self.title))
            }
            TagField::None => Some(format!("is not asked for: {} has no cache tags", self.title)),
            TagField::Operators(_) | TagField::Unknown => None,
        }
    }

    /// Whether a field tells the visitor's address, or the point of presence, which is shown to everybody.
    pub(crate) fn tells_in(&self, field: &HeaderName) -> bool {
        let (client, pop) = (self.client.as_ref(), self.pop.as_ref());
        client.is_some_and(|client| client.field == *field) || pop.is_some_and(|pop| pop.field == *field)
    }

    /// What sort of pull this is.
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

    /// The visitor's address as this CDN says it, to be asked after proof only. `is_node`: the CDN's own machines.
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
            ClientForm::List { own } => client_of_cdn(headers, trail, own, is_node),
        }
    }

    /// The field in which it says its visitor's address.
    pub(crate) fn client_field(&self) -> Option<&HeaderName> {
        self.client.as_ref().map(|client| &client.field)
    }

    /// The point of presence that it names; empty where it does not.
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
