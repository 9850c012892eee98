//! What a CDN takes of an answer's head.

/// How much of a head a CDN takes; none: it is not known to have such a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeadLimits {
    /// Field lines.
    pub lines: Option<u16>,
    /// Bytes of the whole head.
    pub bytes: Option<u32>,
    /// Bytes of one field.
    pub field_bytes: Option<u32>,
}
