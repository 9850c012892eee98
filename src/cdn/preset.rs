//! The CDNs that can be named in a configuration, and how each shows itself in a pull.

/// One CDN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// The name in `[[provider]] preset`.
    pub name: &'static str,
    /// Whose it is.
    pub title: &'static str,
    /// What its pulls carry, by its own documentation.
    pub sign: &'static str,
}

/// Every preset, in the order in which they are listed.
pub const PRESETS: [Preset; 14] = [
    Preset { name: "fastly", title: "Fastly", sign: "Fastly-FF, CDN-Loop: Fastly" },
    Preset { name: "cloudflare", title: "Cloudflare", sign: "CF-Ray, CDN-Loop: cloudflare" },
    Preset { name: "cloudfront", title: "Amazon CloudFront", sign: "X-Amz-Cf-Id, User-Agent: Amazon CloudFront" },
    Preset { name: "akamai", title: "Akamai", sign: "X-Akamai-CONFIG-LOG-DETAIL" },
    Preset { name: "google", title: "Google Cloud CDN", sign: "Via: 1.1 google" },
    Preset { name: "azure", title: "Azure Front Door", sign: "X-Azure-FDID, Via: 1.1 Azure" },
    Preset { name: "bunny", title: "bunny.net", sign: "Via: BunnyCDN, CDN-PullZoneId" },
    Preset { name: "keycdn", title: "KeyCDN", sign: "X-Pull" },
    Preset { name: "cdn77", title: "CDN77", sign: "Via: cdn77" },
    Preset { name: "gcore", title: "Gcore", sign: "a request header that you set" },
    Preset { name: "imperva", title: "Imperva", sign: "a request header that you set" },
    Preset { name: "edgecast", title: "EdgeCast (ended in January 2025)", sign: "Via: HTTP/1.1 ECS" },
    Preset {
        name: "rfc9213",
        title: "a cache that reads CDN-Cache-Control (RFC 9213)",
        sign: "a request header that you set",
    },
    Preset { name: "generic", title: "any shared cache (RFC 9111)", sign: "a request header that you set" },
];
