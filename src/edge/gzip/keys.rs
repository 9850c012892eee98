//! The keys of `[gzip]`.

use crate::keys::grammar::MEDIA_TYPE;
use crate::keys::quantities::SIZE;
use crate::keys::{Keys, Visitor};
use crate::wire::media_types::MediaTypes;

/// The settings in `[gzip]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GzipSettings {
    /// If false, nothing is compressed or inflated, and no Vary is added.
    pub enabled: bool,
    /// The compression level of zlib, from 1 to 9.
    pub level: u32,
    /// The length of the shortest body that is compressed, in bytes. This limit does not apply to a body without a
    /// declared length if the body arrives slowly, or if each piece of the body must be sent at once.
    pub min_bytes: u64,
    /// The size of the store of twins, in bytes. If it is 0, no twin is stored.
    pub twins_bytes: u64,
    /// Whether a thread in the background makes twins ripe (`ripener.rs`).
    pub ripen: bool,
    /// Whether to inflate the origin's gzip if the request does not accept gzip.
    pub inflate: bool,
    /// The media types of bodies that are compressed.
    pub types: MediaTypes,
}

/// The default of `gzip.types`: types that compress well and that browsers and CDNs request. Audio, video, woff and
/// most images are compressed already, so they are not in this list.
const TYPES: [&str; 23] = [
    "text/*",
    "application/json",
    "application/*+json",
    "application/javascript",
    "application/x-javascript",
    "application/ecmascript",
    "application/xml",
    "application/*+xml",
    "application/graphql",
    "application/manifest+json",
    "application/x-ndjson",
    "application/wasm",
    "application/vnd.ms-fontobject",
    "application/vnd.apple.mpegurl",
    "application/x-mpegurl",
    "application/x-font-ttf",
    "font/ttf",
    "font/otf",
    "font/collection",
    "image/svg+xml",
    "image/x-icon",
    "image/vnd.microsoft.icon",
    "image/bmp",
];

impl Default for GzipSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            level: 5,
            min_bytes: 256,
            twins_bytes: 64 * 1024 * 1024,
            ripen: true,
            inflate: false,
            types: MediaTypes::new(TYPES),
        }
    }
}

impl Keys for GzipSettings {
    fn keys<V: Visitor>(&mut self, v: &mut V) {
        v.flag("enabled", &mut self.enabled);
        v.integer("level", 1..=9, &mut self.level);
        v.integer("min_bytes", 0..=1024 * 1024 * 1024, &mut self.min_bytes);
        v.text("twins", &SIZE, &mut self.twins_bytes);
        v.flag("ripen", &mut self.ripen);
        v.flag("inflate", &mut self.inflate);
        let mut types = self.types.texts();
        v.list("types", &MEDIA_TYPE, &mut types);
        self.types = MediaTypes::new(types.iter().map(String::as_str));
    }
}
