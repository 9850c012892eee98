//! Says which CDN pulls, by the identity header.
//!
//! **Place:** inside `observe`, which has judged the head; outside of all that is done per provider.
//! **Reads:** the identity header (`identity.header`), which leaves the request here: the origin gets one of our own making.
//! **Metrics:** none; `pulls` counts under what is decided here. **Cost:** one look-up in a short list. **Can fail:** no.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::GetAll;
use http::{HeaderName, HeaderValue};
use tower::{Layer, Service};

use super::request::EdgeRequest;
use crate::ids::ProviderId;
use crate::metrics::Reason;

/// What `identify` needs to know.
#[derive(Debug, Clone)]
pub struct IdentifySettings {
    /// The identity header's name.
    pub header: HeaderName,
    /// Configured providers, in the order of their ids.
    pub providers: Vec<String>,
    /// Refuse pulls without a configured provider.
    pub reject_unknown: bool,
}

impl IdentifySettings {
    /// The provider that the lines of the identity header name. Equal lines are one; two that differ are `other`.
    fn provider(&self, lines: &GetAll<'_, HeaderValue>) -> ProviderId {
        let mut lines = lines.iter();
        let Some(first) = lines.next() else { return ProviderId::NONE };
        let name = first.as_bytes().trim_ascii();
        if lines.any(|other| !other.as_bytes().trim_ascii().eq_ignore_ascii_case(name)) {
            return ProviderId::OTHER;
        }
        self.providers
            .iter()
            .position(|known| known.as_bytes().eq_ignore_ascii_case(name))
            .map_or(ProviderId::OTHER, ProviderId::configured)
    }
}

/// Puts [`Identify`] around a service.
#[derive(Debug, Clone)]
pub struct IdentifyLayer {
    settings: Arc<IdentifySettings>,
}

impl IdentifyLayer {
    /// Decides by `settings`.
    #[must_use]
    pub fn new(settings: IdentifySettings) -> Self {
        Self { settings: Arc::new(settings) }
    }
}

impl<S> Layer<S> for IdentifyLayer {
    type Service = Identify<S>;

    fn layer(&self, inner: S) -> Identify<S> {
        Identify { inner, settings: Arc::clone(&self.settings) }
    }
}

/// See the head of this file.
#[derive(Debug, Clone)]
pub struct Identify<S> {
    inner: S,
    settings: Arc<IdentifySettings>,
}

impl<S: Service<Box<EdgeRequest>>> Service<Box<EdgeRequest>> for Identify<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Box<EdgeRequest>) -> S::Future {
        let settings = &*self.settings;
        let provider = settings.provider(&request.head.headers.get_all(&settings.header));
        let claimed = request.head.headers.remove(&settings.header);
        if let Some(line) = &mut request.line {
            line.record.claimed = claimed;
        }
        request.ctx.provider = provider;
        if settings.reject_unknown && provider.position().is_none() && request.ctx.refusal.is_none() {
            request.ctx.refusal = Some(Reason::UnknownProvider);
        }
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    fn provider(lines: &[&str]) -> ProviderId {
        let settings = IdentifySettings {
            header: crate::wire::names::X_CDN_PROVIDER.clone(),
            providers: vec!["fastly".to_owned(), "akamai".to_owned()],
            reject_unknown: false,
        };
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&settings.header, HeaderValue::from_str(line).unwrap());
        }
        settings.provider(&headers.get_all(&settings.header))
    }

    #[test]
    fn a_name_is_known_in_any_case_and_anything_else_is_other() {
        assert_eq!(provider(&[]), ProviderId::NONE);
        assert_eq!(provider(&["FastLY"]), ProviderId::configured(0));
        assert_eq!(provider(&["akamai", "Akamai"]), ProviderId::configured(1));
        assert_eq!(provider(&["akamai", "fastly"]), ProviderId::OTHER);
        for forged in ["", "none", "other", "unverified", "fastly, akamai", "fastlyy", "x"] {
            assert_eq!(provider(&[forged]), ProviderId::OTHER, "{forged}");
        }
    }
}
