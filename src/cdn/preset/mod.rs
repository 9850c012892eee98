//! The presets: what is known about each CDN, for example the signals in its pulls, its proofs, and the header fields
//! that it reads.
//!
//! The presets are data in `config/presets/*.toml`. Each fact in these files has a source and the date on which the
//! source was read. `tests/identity.rs` checks the presets with the request heads in `tests/golden/heads/`.

pub(crate) mod edge_fields;
pub(crate) mod logs;
mod matcher;
mod read;

use std::net::IpAddr;
use std::sync::LazyLock;

use http::{HeaderMap, HeaderName};

use self::edge_fields::EdgeFields;
use self::logs::LogForm;
pub(crate) use self::matcher::{Field, Matcher, Test};
pub(in crate::cdn) use self::matcher::{MOST_HOPS, hops, is_named, is_via};
use super::dialect::Dialect;
use super::limits::HeadLimits;
use super::tags::TagRule;
use crate::ids::PullKind;
use crate::wire::forwarded::{Trail, client_of_cdn, entry_address};
use crate::wire::head_fields::Fields;
use crate::wire::values::only_line;

/// The names and contents of the files `config/presets/*.toml`, sorted by the key `order` in each file.
/// `config/build.rs` writes this list.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/presets.rs"));

/// The names of all presets, in the order of `FILES`.
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
    presets.map(|preset| preset.expect("every file in config/presets must be valid")).collect()
});

/// What is known about one CDN.
#[derive(Debug)]
pub(crate) struct Preset {
    /// The name of the preset, as written in the key `preset` of a `[[provider]]`.
    pub name: &'static str,
    /// The name of the CDN for people. This name appears in messages and reports.
    pub title: String,
    /// The day on which the service of the CDN ended. `None`: the CDN is still in service.
    pub ended: Option<String>,
    /// The signals by which a pull of the CDN is recognised. One signal is enough.
    pub signals: Vec<Matcher>,
    /// The header field in which the CDN sends its client's address.
    pub client: Option<ClientField>,
    /// The header field in which the CDN sends its point of presence.
    pub pop: Option<PopField>,
    /// The header field with a request id. The CDN sends the same id again when it retries a request.
    pub request_id: Option<HeaderName>,
    /// The tests for health checks. A pull that passes one of them is a health check.
    pub probes: Vec<Matcher>,
    /// The tests for pulls through a shield. A pull that passes one of them came through a shield, which is a server of
    /// the CDN that pulls for the CDN's other servers.
    pub shields: Vec<Matcher>,
    /// The kinds of proof that the CDN can give, the best kind first. The texts are the names of the keys in
    /// `[provider.verify]`.
    pub proofs: Vec<String>,
    /// The header fields in which the CDN reads lifetimes.
    pub dialect: Dialect,
    /// Whether the CDN stores a response with any Vary, and obeys that Vary.
    pub stores_by_vary: bool,
    /// The CDN's targeted field for lifetimes (RFC 9213), if edgeshim writes that field.
    pub targeted_field: Option<Field>,
    /// The header field from which the CDN reads cache tags.
    tags: TagField,
    /// Whether the CDN requests bodies in br from an origin.
    pub br: Br,
    /// The largest response head that the CDN accepts.
    pub limits: HeadLimits,
    /// The form of the log lines that the CDN pushes.
    pub logs: LogForm,
    /// The header fields in which the CDN reports how it served a response.
    pub edge: EdgeFields,
    /// All facts in the preset's file, to be shown to people.
    pub facts: Vec<Fact>,
}

/// Whether a CDN requests bodies in br from an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Br {
    /// The preset does not say whether the CDN requests br.
    Unknown,
    /// The CDN always requests br.
    Yes,
    /// The CDN requests br if the operator configures the CDN to do so.
    Configured,
    /// The CDN cannot use br from an origin, so it gets no br.
    No,
}

impl Br {
    /// Returns a text for people.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "not known",
            Self::Yes => "yes",
            Self::Configured => "if enabled",
            Self::No => "no",
        }
    }
}

/// The header field in which a CDN sends the address of its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientField {
    field: HeaderName,
    form: ClientForm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientForm {
    /// The field contains one address.
    Address,
    /// The field is X-Forwarded-For. The CDN adds `nodes` addresses of its own servers after the client's address.
    List { nodes: usize },
}

/// The header field in which a CDN sends its point of presence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PopField {
    field: HeaderName,
    form: PopForm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PopForm {
    /// The complete value of the field.
    Whole,
    /// The part of the value after the last dash.
    AfterDash,
    /// The point of presence in Fastly-FF that is nearest to the client.
    FastlyFf,
}

impl PopField {
    /// Returns the name of the field.
    pub(crate) fn name(&self) -> &HeaderName {
        &self.field
    }

    /// Returns the part of the field's value that is the point of presence. The result is empty if there is no such
    /// part.
    fn part<'a>(&self, line: &'a [u8]) -> &'a [u8] {
        match self.form {
            PopForm::Whole => line,
            PopForm::AfterDash => {
                line.rsplit(|&byte| byte == b'-').next().filter(|end| end.len() < line.len()).unwrap_or_default()
            }
            PopForm::FastlyFf => matcher::fastly_pop(line).unwrap_or_default(),
        }
    }
}

/// The header field from which a CDN reads cache tags.
#[derive(Debug, Clone, PartialEq, Eq)]
enum TagField {
    /// The preset does not say from which field the CDN reads cache tags.
    Unknown,
    /// The CDN has no cache tags.
    None,
    /// The CDN always reads this field.
    Fixed(Field, TagForm),
    /// The CDN reads a field that the operator chooses.
    Configured(TagForm),
}

/// The format in which a CDN reads its field of cache tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TagForm {
    delimiter: u8,
    max_tags: Option<usize>,
    max_tag_bytes: Option<usize>,
    max_bytes: Option<usize>,
    case_sensitive: bool,
}

impl TagForm {
    /// The format that is assumed if the preset does not describe the field of cache tags.
    const PLAIN: Self =
        Self { delimiter: b',', max_tags: None, max_tag_bytes: None, max_bytes: None, case_sensitive: true };

    fn in_field(self, name: HeaderName, limits: HeadLimits) -> TagRule {
        let Self { delimiter, max_tags, max_tag_bytes, max_bytes, case_sensitive } = self;
        // If the line of tags were longer than the CDN accepts, edgeshim would remove the line, and all tags would be
        // lost. So the CDN's limit for one line also limits the tags.
        let max_bytes = max_bytes.into_iter().chain(limits.value_bytes(&name)).min();
        TagRule::Field { name, delimiter, max_tags, max_tag_bytes, max_bytes, case_sensitive }
    }
}

/// One fact in the file of a preset, with its source.
#[derive(Debug)]
pub(crate) struct Fact {
    pub table: String,
    /// The keys of the table with their values, for example `field CF-Ray`. The note follows in brackets, if there is
    /// one.
    pub text: String,
    /// The URL of the documentation, or why the fact is not proved. The text ends with the date on which the source was
    /// read.
    pub source: String,
}

/// The name of a point of presence: at most 15 letters, digits, `-` and `_`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pop {
    length: u8,
    bytes: [u8; Pop::MOST_BYTES],
}

impl Pop {
    const MOST_BYTES: usize = 15;

    /// Reads a name. The result is empty if the name is too long or has other characters than letters, digits, `-` and
    /// `_`.
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

    /// Returns the name. The text is empty if the name is unknown.
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.length)).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl Preset {
    /// Returns all presets, in the order of [`NAMES`].
    pub(crate) fn all() -> &'static [Self] {
        &ALL
    }

    /// Returns the preset with this name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        Self::all().iter().find(|preset| preset.name == name)
    }

    /// Returns whether a request has at least one signal of this CDN.
    pub(crate) fn has_signal_in(&self, fields: Fields<'_>) -> bool {
        self.signals.iter().any(|signal| signal.holds(fields))
    }

    /// Returns whether this preset has signals by which pulls can be recognised.
    pub(crate) fn has_signals(&self) -> bool {
        !self.signals.is_empty()
    }

    /// Returns the rule for cache tags in responses to this CDN. `named` is the field that the operator has configured
    /// with the key `tag_header`. The rule ignores `named` if the CDN reads a fixed field or has no cache tags.
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

    /// Returns a text for people: the name of the field from which the CDN reads cache tags, or why the field has no
    /// fixed name.
    pub(crate) fn tag_field_name(&self) -> &str {
        match &self.tags {
            TagField::Unknown => "not known",
            TagField::None => "no field",
            TagField::Fixed(field, _) => &field.spelled,
            TagField::Configured(_) => "tag_header",
        }
    }

    /// Returns why `tag_header` is not allowed for this CDN. The text is the rest of a sentence that begins with
    /// `tag_header`. Returns `None` if `tag_header` is allowed.
    pub(crate) fn refuses_tag_header(&self) -> Option<String> {
        match &self.tags {
            TagField::Fixed(field, _) => {
                Some(format!("has no effect: {} reads its tags only from {field}", self.title))
            }
            TagField::None => Some(format!("has no effect: {} has no cache tags", self.title)),
            TagField::Configured(_) | TagField::Unknown => None,
        }
    }

    /// Returns whether `field` is the field in which this CDN sends the client's address or its point of presence. The
    /// value of such a field is not a secret.
    pub(crate) fn is_public_field(&self, field: &HeaderName) -> bool {
        let (client, pop) = (self.client.as_ref(), self.pop.as_ref());
        client.is_some_and(|client| client.field == *field) || pop.is_some_and(|pop| pop.field == *field)
    }

    /// Returns the kind of a pull: a health check, a pull through a shield, or any other pull.
    pub(crate) fn kind<'a>(&self, fields: impl Into<Fields<'a>>) -> PullKind {
        let fields = fields.into();
        let has = |matchers: &[Matcher]| matchers.iter().any(|matcher| matcher.holds(fields));
        if has(&self.probes) {
            PullKind::Probe
        } else if has(&self.shields) {
            PullKind::Shield
        } else {
            PullKind::Edge
        }
    }

    /// Returns the client's address that this CDN reports. The caller must use the address only after a proof
    /// succeeded. `is_node` returns whether an address belongs to the CDN.
    pub(crate) fn client(&self, headers: &HeaderMap, trail: Trail, is_node: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let client = self.client.as_ref()?;
        match client.form {
            ClientForm::Address => {
                only_line(headers, &client.field).ok().and_then(|line| entry_address(line.as_bytes()))
            }
            ClientForm::List { nodes } => client_of_cdn(headers, trail, nodes, is_node),
        }
    }

    /// Returns the name of the field in which this CDN sends its client's address.
    pub(crate) fn client_field(&self) -> Option<&HeaderName> {
        self.client.as_ref().map(|client| &client.field)
    }

    /// Returns the point of presence that a request of this CDN names. The result is empty if the request does not name
    /// a valid point of presence.
    pub(crate) fn pop<'a>(&self, fields: impl Into<Fields<'a>>) -> Pop {
        let fields = fields.into();
        let Some((pop, line)) = self.pop.as_ref().and_then(|pop| Some((pop, fields.get(&pop.field)?.as_bytes())))
        else {
            return Pop::default();
        };
        Pop::new(pop.part(line))
    }
}
