//! The names of the header fields that the code reads or writes. Names that only a preset or the configuration contains
//! are not in this file.
//!
//! If the crate `http` has a constant for a name, this file re-exports the constant, because `http` compares such names
//! as small integers. Exception: `CDN_CACHE_CONTROL` is a static, because other statics refer to it. The other names
//! are statics, because a constant would be copied at each use. A test in `tests/tidy/` checks that outside of `wire`,
//! only tests access a field by a name that is written as text.

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

/// RFC 8586: the CDNs that a request has passed.
pub static CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");
/// The addresses of the client and of the proxies after the client, in the order of the hops.
pub static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// RFC 9440: the certificate with which a client has connected to a machine that ends TLS.
pub static CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
/// The same information as in `CLIENT_CERT`, in the form that Envoy writes.
pub static X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// An id for the request. All hops use the same id.
pub static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// W3C Trace Context.
pub static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The default name of the identity header, in which a CDN sends its configured provider name. edgeshim sends the
/// provider to the origin in this field, even if another name is configured for the identity header.
pub static X_CDN_PROVIDER: HeaderName = HeaderName::from_static("x-cdn-provider");
/// RFC 9209: how an intermediary handled a response, for example why it generated the response itself.
pub static PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
/// A field that some old browsers send to proxies in place of `Connection`; hop-by-hop.
pub static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// The parameters of keep-alive in HTTP/1.0; hop-by-hop.
pub static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// Amazon Firehose: the token that Firehose sends with each batch.
pub static X_AMZ_FIREHOSE_ACCESS_KEY: HeaderName = HeaderName::from_static("x-amz-firehose-access-key");
/// Amazon Firehose: the id of a batch, which is the same when the batch is sent again.
pub static X_AMZ_FIREHOSE_REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-firehose-request-id");
/// PowerDNS: the key of its HTTP API.
pub static X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// AWS: the time at which a request was signed.
pub static X_AMZ_DATE: HeaderName = HeaderName::from_static("x-amz-date");
/// RFC 1864: a digest of the body.
pub static CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
/// RFC 3230: a digest of the representation.
pub static DIGEST: HeaderName = HeaderName::from_static("digest");
/// RFC 9530: a digest of the representation.
pub static REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
/// RFC 9530: a digest of the content.
pub static CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
/// Fetch Metadata: whether a page of the same site caused a browser's request.
pub static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// nginx: with the value `no`, a proxy does not buffer the response.
pub static X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// How a cache served a response. Each cache product uses its own values.
pub static X_CACHE: HeaderName = HeaderName::from_static("x-cache");
/// Varnish: the number of the request, and after a hit the number of the request that filled the cache.
pub static X_VARNISH: HeaderName = HeaderName::from_static("x-varnish");
/// RFC 7540: the settings in an upgrade to h2c; hop-by-hop and obsolete.
pub static HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
/// Edge Architecture Specification: Cache-Control for CDNs and other surrogates. Fastly reads its lifetimes from this
/// field.
pub static SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");
/// Cache tags of Fastly, separated by spaces.
pub static SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");
/// Cache tags of Cloudflare, Google and `KeyCDN`, separated by commas.
pub static CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");
/// Cache tags of Akamai, separated by commas, in one line.
pub static EDGE_CACHE_TAG: HeaderName = HeaderName::from_static("edge-cache-tag");
/// Cache tags of bunny.net, separated by commas.
pub static CDN_TAG: HeaderName = HeaderName::from_static("cdn-tag");
/// Cache tags of Netlify, separated by commas.
pub static NETLIFY_CACHE_TAG: HeaderName = HeaderName::from_static("netlify-cache-tag");
/// RFC 9213: Cache-Control for all CDNs.
pub static CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
/// Like CDN-Cache-Control, but only for Cloudflare.
pub static CLOUDFLARE_CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cloudflare-cdn-cache-control");
/// Cache-Control for Akamai, in Akamai's own syntax.
pub static EDGE_CONTROL: HeaderName = HeaderName::from_static("edge-control");
pub static SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
pub static GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
/// gRPC: the status of a call. The head contains this field only if the response has no body.
pub static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// RFC 9218: the priority of a response.
pub static PRIORITY: HeaderName = HeaderName::from_static("priority");
pub static NETLIFY_CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("netlify-cdn-cache-control");
pub static VERCEL_CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("vercel-cdn-cache-control");
pub static AKAMAI_CACHE_CONTROL: HeaderName = HeaderName::from_static("akamai-cache-control");
/// A lifetime that nginx and `KeyCDN` use in place of the lifetime in Cache-Control.
pub static X_ACCEL_EXPIRES: HeaderName = HeaderName::from_static("x-accel-expires");
/// Akamai's G2O: the signed data about a request. X-Akamai-G2O-Auth-Sign contains the signature.
pub static X_AKAMAI_G2O_AUTH_DATA: HeaderName = HeaderName::from_static("x-akamai-g2o-auth-data");
pub static X_AKAMAI_G2O_AUTH_SIGN: HeaderName = HeaderName::from_static("x-akamai-g2o-auth-sign");
/// RFC 9110 §11.6.3: data about a successful authentication.
pub static AUTHENTICATION_INFO: HeaderName = HeaderName::from_static("authentication-info");
pub static PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");
pub static CROSS_ORIGIN_OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
pub static CROSS_ORIGIN_EMBEDDER_POLICY: HeaderName = HeaderName::from_static("cross-origin-embedder-policy");
pub static CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
pub static TIMING_ALLOW_ORIGIN: HeaderName = HeaderName::from_static("timing-allow-origin");
pub static CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");
pub static REPORTING_ENDPOINTS: HeaderName = HeaderName::from_static("reporting-endpoints");
pub static REPORT_TO: HeaderName = HeaderName::from_static("report-to");
/// Network Error Logging.
pub static NEL: HeaderName = HeaderName::from_static("nel");

/// Returns whether the field belongs to CORS. CORS fields define what pages of other sites are allowed to do with a
/// response.
pub fn is_cross_origin(name: &HeaderName) -> bool {
    name.as_str().starts_with("access-control-")
}

/// The beginning of the names of the fields in which the origin gets the arms of experiments. The experiment's name
/// follows.
pub(crate) const ASSIGNMENT: &str = "x-assign-";

/// Returns the field in which the origin gets the arm of the experiment `experiment`.
pub(crate) fn assignment(experiment: &str) -> Option<HeaderName> {
    HeaderName::try_from(format!("{ASSIGNMENT}{experiment}")).ok()
}

/// Returns whether a name is the name of a field with an arm. The case of the letters does not matter. `_` counts as
/// `-`, because an origin with CGI or a similar interface treats both as the same character (RFC 3875 §4.1.18).
pub(crate) fn is_assignment(name: &[u8]) -> bool {
    let same = |(&ours, &theirs): (&u8, &u8)| theirs.eq_ignore_ascii_case(&ours) || (ours == b'-' && theirs == b'_');
    name.len() >= ASSIGNMENT.len() && ASSIGNMENT.as_bytes().iter().zip(name).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_name_when_prefix_is_spelt_with_underscores_or_in_upper_case_then_is_an_assignment() {
        for (name, expected) in [
            ("x-assign-cdn", true),
            ("X-Assign-", true),
            ("x_assign_cdn", true),
            ("x-assign_a", true),
            ("x-assign", false),
            ("x-assigned-a", false),
            ("", false),
        ] {
            assert_eq!(is_assignment(name.as_bytes()), expected, "{name}");
        }
        assert_eq!(assignment("cdn_1").unwrap(), "x-assign-cdn_1");
    }
}
