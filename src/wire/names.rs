//! Every header field name the product reads or writes, spelt once.
//!
//! Names that `http` knows are re-exported, so that a comparison stays a comparison of two small integers; the rest are
//! statics (never `const`: a constant would be built anew wherever it is used). House rule: a field name in quotes
//! anywhere outside `wire` is a bug.

use http::HeaderName;

pub use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, ACCEPT_RANGES, AGE, ALLOW, ALT_SVC, AUTHORIZATION, CACHE_CONTROL,
    CACHE_STATUS, CONNECTION, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH,
    CONTENT_LOCATION, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY_REPORT_ONLY, CONTENT_TYPE,
    COOKIE, DATE, ETAG, EXPECT, EXPIRES, FORWARDED, HOST, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE, LAST_MODIFIED, LINK, LOCATION, MAX_FORWARDS, ORIGIN, PRAGMA, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, RANGE, REFERER, REFERRER_POLICY, REFRESH, RETRY_AFTER, SERVER, SET_COOKIE,
    STRICT_TRANSPORT_SECURITY, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT, VARY, VIA, WARNING,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};

/// RFC 8586: the chain of CDNs a request has passed.
pub static CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");
/// The client's address and those of the proxies between, nearest last.
pub static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The scheme the client used.
pub static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The host the client asked for.
pub static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// One id for a request on every machine it passes.
pub static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C Trace Context: trace id and parent span.
pub static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// W3C Trace Context: vendors' own data.
pub static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The identity field's default name, and the name under which the origin learns the provider.
pub static X_CDN_PROVIDER: HeaderName = HeaderName::from_static("x-cdn-provider");
/// RFC 9209: why an intermediary answered itself.
pub static PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
/// An old browser's `Connection` for proxies; hop-by-hop.
pub static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// HTTP/1.0's keep-alive parameters; hop-by-hop.
pub static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// RFC 1864's digest of the body, gone stale when its bytes change.
pub static CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
/// RFC 3230's digest of the representation.
pub static DIGEST: HeaderName = HeaderName::from_static("digest");
/// RFC 9530's digest of the representation.
pub static REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
/// RFC 9530's digest of the content as sent.
pub static CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
/// nginx's switch: `no` asks proxies not to hold back bytes.
pub static X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// RFC 7540's upgrade settings; hop-by-hop and obsolete.
pub static HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
/// Edge Architecture's Cache-Control for surrogates, Fastly's dialect.
pub static SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");
/// Fastly's cache tags, separated by spaces.
pub static SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");
/// Cache tags of Cloudflare, Google and `KeyCDN`, separated by commas.
pub static CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");
/// Akamai's cache tags, separated by commas, in one line.
pub static EDGE_CACHE_TAG: HeaderName = HeaderName::from_static("edge-cache-tag");
/// bunny.net's cache tags.
pub static CDN_TAG: HeaderName = HeaderName::from_static("cdn-tag");
/// Netlify's cache tags, separated by commas.
pub static NETLIFY_CACHE_TAG: HeaderName = HeaderName::from_static("netlify-cache-tag");
/// RFC 9213: Cache-Control for CDNs only.
pub static CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
/// Cloudflare's own targeted Cache-Control.
pub static CLOUDFLARE_CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cloudflare-cdn-cache-control");
/// Akamai's own targeted Cache-Control.
pub static EDGE_CONTROL: HeaderName = HeaderName::from_static("edge-control");
/// W3C Server Timing.
pub static SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// gRPC's coding of each message.
pub static GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
/// gRPC's outcome, in the head of a trailers-only answer.
pub static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// RFC 9218: the client's wish for order among answers.
pub static PRIORITY: HeaderName = HeaderName::from_static("priority");
/// RFC 9213's field for Netlify alone.
pub static NETLIFY_CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("netlify-cdn-cache-control");
/// RFC 9213's field for Vercel alone.
pub static VERCEL_CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("vercel-cdn-cache-control");
/// RFC 9213's field for Akamai alone.
pub static AKAMAI_CACHE_CONTROL: HeaderName = HeaderName::from_static("akamai-cache-control");
/// A lifetime that nginx and `KeyCDN` put before Cache-Control.
pub static X_ACCEL_EXPIRES: HeaderName = HeaderName::from_static("x-accel-expires");
/// Akamai's G2O: what the edge says of a request, by whom it is signed and when.
pub static X_AKAMAI_G2O_AUTH_DATA: HeaderName = HeaderName::from_static("x-akamai-g2o-auth-data");
/// Akamai's G2O: the signature.
pub static X_AKAMAI_G2O_AUTH_SIGN: HeaderName = HeaderName::from_static("x-akamai-g2o-auth-sign");
/// What an answer says about the authentication that went before it (RFC 9110 §11.6.3).
pub static AUTHENTICATION_INFO: HeaderName = HeaderName::from_static("authentication-info");
/// What a page may use of the browser.
pub static PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");
/// Which windows a page shares its process with.
pub static CROSS_ORIGIN_OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
/// What a page may embed.
pub static CROSS_ORIGIN_EMBEDDER_POLICY: HeaderName = HeaderName::from_static("cross-origin-embedder-policy");
/// Who may embed an answer.
pub static CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
/// Who may read an answer's timings.
pub static TIMING_ALLOW_ORIGIN: HeaderName = HeaderName::from_static("timing-allow-origin");
/// What a browser is to forget.
pub static CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");
/// Where a browser sends its reports.
pub static REPORTING_ENDPOINTS: HeaderName = HeaderName::from_static("reporting-endpoints");
/// The older form of it.
pub static REPORT_TO: HeaderName = HeaderName::from_static("report-to");
/// Which failures of the network a browser reports.
pub static NEL: HeaderName = HeaderName::from_static("nel");

/// Whether a field tells a browser what pages of other sites may do with an answer (CORS).
pub fn is_cross_origin(name: &HeaderName) -> bool {
    name.as_str().starts_with("access-control-")
}
