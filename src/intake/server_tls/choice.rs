//! Chooses the certificate for a handshake: by the host name that the client asks for (SNI), then by the signatures
//! that the client can check.

use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::pair::Pair;

/// All certificates of `[server.tls]`, in the order of the configuration.
#[derive(Debug)]
pub(super) struct Choice {
    pairs: Vec<Arc<Pair>>,
}

impl Choice {
    pub(super) fn new(pairs: impl Iterator<Item = Arc<Pair>>) -> Self {
        Self { pairs: pairs.collect() }
    }

    /// Chooses the pair for a name. The candidates are the pairs whose certificate has exactly this name. If there is
    /// no such pair, the candidates are the pairs whose certificate has a name with `*` that matches. If there is no
    /// such pair either, all pairs are candidates. Returns the first candidate whose key the client accepts. If the
    /// client accepts no candidate's key, returns the first candidate.
    fn choose(&self, name: Option<&str>, accepts: impl Fn(&Pair) -> bool) -> Option<&Arc<Pair>> {
        // rustls has checked that the name is a host name. `resolve` has converted the name to lower case.
        let parent = name.and_then(|name| Some(name.split_once('.')?.1));
        let exact = |pair: &&Arc<Pair>| pair.names.iter().any(|known| Some(known.as_str()) == name);
        let wildcard =
            |pair: &&Arc<Pair>| pair.names.iter().any(|known| parent.is_some() && known.strip_prefix("*.") == parent);
        let among = |matches: &dyn Fn(&&Arc<Pair>) -> bool| {
            let mut found = self.pairs.iter().filter(matches);
            let first = found.next()?;
            if accepts(first) { Some(first) } else { found.find(|pair| accepts(pair)).or(Some(first)) }
        };
        among(&exact).or_else(|| among(&wildcard)).or_else(|| among(&|_| true))
    }
}

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let chosen = self.choose(name.as_deref(), |pair| pair.certified.key.choose_scheme(schemes).is_some());
        chosen.map(|pair| Arc::clone(&pair.certified))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn choice(names: &[&[&str]]) -> Choice {
        let pair = |names: &&[&str]| {
            let key = KeyPair::generate().unwrap();
            let names = names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
            let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
            Arc::new(Pair::new(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap())
        };
        Choice::new(names.iter().map(pair))
    }

    #[test]
    fn certificate_when_chosen_then_exact_name_precedes_wildcard_and_first_is_default() {
        let choice = choice(&[
            &["first.example"],
            &["*.shop.example", "shop.example"],
            &["img.shop.example"],
            &["Upper.example"],
        ]);
        for (name, number) in [
            (None, 0),
            (Some("first.example"), 0),
            (Some("other.example"), 0),
            (Some("shop.example"), 1),
            (Some("www.shop.example"), 1),
            (Some("img.shop.example"), 2),
            (Some("a.b.shop.example"), 0),
            (Some("upper.example"), 3),
            (Some("localhost"), 0),
            (Some(""), 0),
        ] {
            let chosen = choice.choose(name, |_| true).unwrap();
            assert!(Arc::ptr_eq(chosen, &choice.pairs[number]), "{name:?}");
        }
    }

    #[test]
    fn certificate_when_client_cannot_check_signature_then_next_match_is_chosen() {
        let choice = choice(&[&["a.example"], &["a.example"], &["b.example"]]);
        let second = choice.pairs[1].clone();
        let chosen = choice.choose(Some("a.example"), |pair| std::ptr::eq(pair, &raw const *second)).unwrap();
        assert!(Arc::ptr_eq(chosen, &second));
        let none = choice.choose(Some("a.example"), |_| false).unwrap();
        assert!(Arc::ptr_eq(none, &choice.pairs[0]));
    }
}
