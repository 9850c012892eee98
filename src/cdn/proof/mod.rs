//! The proofs that a pull comes from the CDN that the pull names.
//!
//! A check opens no socket and no file. [`Evidence`] contains the clock and all data of the request that a check needs.
//! Only the check of a G2O signature also depends on earlier requests, because each signature is accepted only once.

pub(crate) mod g2o;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::addresses::AddressList;
use crate::wire::certificate::Certificate;
use crate::wire::certificate_fields::{CertificateField, NoCertificate};
use crate::wire::names::{X_AKAMAI_G2O_AUTH_DATA, X_AKAMAI_G2O_AUTH_SIGN};
use crate::wire::secret::Secret;
use crate::wire::values::{Lines, only_line};

/// The result of checking the proofs of a request: the proof that succeeded, or the reason why a proof failed. The
/// access log writes this result in the field `proof`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// The request claims no configured provider, so no proof was checked.
    None,
    /// The provider is configured without proofs, so the claim was accepted without a check.
    Believed,
    /// The request contains a valid secret of the CDN.
    Secret,
    /// The request comes from an address of the CDN.
    Addresses,
    /// The connection has a client certificate of the CDN, or a trusted proxy reports this certificate.
    ClientCert,
    /// The request has a valid G2O signature of Akamai.
    G2o,
    /// The configuration requires all proofs of the provider, and all of them succeeded.
    All,
    /// No proof succeeded, or the configuration requires all proofs and a proof failed.
    Failed(Failure),
}

/// The reason why a proof failed. If several proofs failed, this is the reason of the first failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The request does not have the field of the secret.
    NoSecret,
    /// The field of the secret occurs more than once, or its value is not one of the configured secrets.
    WrongSecret,
    /// The CDN's address list does not contain the address from which the request came.
    WrongAddress,
    /// The connection has no client certificate, or no trusted proxy reports a certificate.
    NoCertificate,
    /// The client certificate does not belong to the CDN, or the field that reports the certificate cannot be used.
    WrongCertificate,
    /// One of the two G2O fields is missing, occurs more than once, or cannot be read.
    NoG2o,
    /// The configuration does not accept the G2O version, or has no key for the nonce.
    G2oKey,
    /// The signature does not match the request.
    G2oSignature,
    /// The time in the signature differs too much from this host's clock, or the store of accepted signatures has
    /// already discarded the signatures of that time.
    G2oTime,
    /// This signature was accepted before.
    G2oReplay,
    /// The store of accepted signatures is full. A replay of this signature could not be detected, so the proof fails.
    G2oFull,
}

impl Proof {
    /// Returns the value of `proof` in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Believed => "believed",
            Self::Secret => "secret",
            Self::Addresses => "addresses",
            Self::ClientCert => "client_cert",
            Self::G2o => "g2o",
            Self::All => "all",
            Self::Failed(failure) => failure.as_str(),
        }
    }
}

impl Failure {
    /// Returns the value of `proof` in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoSecret => "no_secret",
            Self::WrongSecret => "wrong_secret",
            Self::WrongAddress => "wrong_address",
            Self::NoCertificate => "no_certificate",
            Self::WrongCertificate => "wrong_certificate",
            Self::NoG2o => "no_g2o",
            Self::G2oKey => "g2o_key",
            Self::G2oSignature => "g2o_signature",
            Self::G2oTime => "g2o_time",
            Self::G2oReplay => "g2o_replay",
            Self::G2oFull => "g2o_full",
        }
    }
}

/// How many of a provider's proofs must succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Require {
    /// At least one proof.
    #[default]
    Any,
    /// Every configured proof.
    All,
}

/// A secret that the CDN sends in a header field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretField {
    /// The header field with the secret. edgeshim removes this field from every request.
    pub field: HeaderName,
    /// The valid secrets, at least one. While an operator replaces a secret, the old and the new secret are valid.
    pub values: Vec<Secret>,
}

/// A rule for the client certificates of the CDN. At least one of the two lists has an entry, or [`Proofs`] has the CAs
/// of the CDN.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CertificateRule {
    /// Host names in lower case. If the list has entries, the certificate must contain at least one of these names.
    /// `*.` before a name matches exactly one label.
    pub san: Vec<String>,
    /// The SHA-256 hashes of complete certificates in DER form. If the list has entries, the hash of the certificate
    /// must be in this list.
    pub sha256: Vec<[u8; 32]>,
    /// The field in which a trusted proxy reports the certificate. If `field` is set, the certificate of the connection
    /// is not read, because the connection comes from the proxy.
    pub field: Option<CertificateField>,
}

/// SHA-256 of the certificates of the CDN's CAs. The list can be replaced at any time.
#[derive(Debug)]
pub(crate) struct Authorities(ArcSwap<Vec<[u8; 32]>>);

impl Authorities {
    pub(crate) fn new(list: Vec<[u8; 32]>) -> Self {
        Self(ArcSwap::from_pointee(list))
    }

    /// Replaces the list. Each check uses either the complete old list or the complete new list.
    pub(crate) fn replace(&self, list: Vec<[u8; 32]>) {
        self.0.store(Arc::new(list));
    }

    /// Returns whether the chain of a certificate leads to one of the CAs.
    fn issued(&self, certificate: &Certificate) -> bool {
        let list = self.0.load();
        certificate.authorities.iter().any(|ca| list.contains(ca))
    }
}

/// The keys of Akamai's request signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct G2oKeys {
    /// The keys by nonce, at least one key. A nonce is the name of a key. A signed request contains the nonce of the
    /// key that signed the request.
    pub keys: BTreeMap<String, Secret>,
    /// The accepted G2O versions, at least one. Each version is a number from 1 to 5.
    pub versions: Vec<u8>,
}

/// The proofs of one provider, prepared for checks. At least one proof is configured.
#[derive(Debug)]
pub(crate) struct Proofs {
    /// How many of these proofs must succeed.
    pub require: Require,
    /// The secret that the CDN sends.
    pub secret: Option<SecretField>,
    pub addresses: Option<Arc<AddressList>>,
    pub client_cert: Option<CertificateRule>,
    /// The CAs of the CDN. If they are set, the chain of the client certificate must lead to one of them.
    pub authorities: Option<Arc<Authorities>>,
    pub g2o: Option<g2o::Verifier>,
}

/// The data of a request that a check needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Evidence<'a> {
    pub headers: &'a HeaderMap,
    /// The path of the request with its query, byte for byte as received.
    pub target: &'a str,
    /// The address of the CDN's server. Without a load balancer, this is the address that connected to edgeshim. With
    /// trusted load balancers, this is the address that connected to the outermost load balancer.
    pub address: IpAddr,
    /// The client certificate of the connection on which the request arrived.
    pub certificate: Option<&'a Certificate>,
    /// Whether the machine at the other end of the connection is a trusted proxy, so that its header fields are used.
    pub peer_trusted: bool,
    /// Returns the current time.
    pub now: fn() -> SystemTime,
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The proof that succeeded, or the reason why a proof failed.
    pub proof: Proof,
    /// The client's address, if a valid G2O signature contains the address.
    pub client: Option<IpAddr>,
}

/// A function that checks one kind of proof and stores nothing. It returns `None` if this kind is not configured.
type Stateless = fn(&Proofs, &Evidence<'_>) -> Option<Result<Proof, Failure>>;
const STATELESS: [Stateless; 3] = [Proofs::secret, Proofs::address, Proofs::certificate];

impl Proofs {
    /// Returns the names of the header fields that contain a secret or a signature.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &HeaderName> {
        let signed = self.g2o.as_ref().map(|_| [&X_AKAMAI_G2O_AUTH_DATA, &X_AKAMAI_G2O_AUTH_SIGN]);
        self.secret.iter().map(|secret| &secret.field).chain(signed.into_iter().flatten())
    }

    /// Returns whether a header field reports the client certificate of the CDN.
    pub(crate) fn reads_certificate_field(&self) -> bool {
        self.client_cert.as_ref().is_some_and(|rule| rule.field.is_some())
    }

    pub(crate) fn check(&self, evidence: &Evidence<'_>) -> Verdict {
        match self.require {
            Require::Any => self.any(evidence),
            Require::All => self.all(evidence),
        }
    }

    /// Checks one proof after the other until a proof succeeds. If the request has a G2O signature, G2O is checked
    /// first, because G2O also proves the client's address.
    fn any(&self, evidence: &Evidence<'_>) -> Verdict {
        let signed = g2o::has_fields(evidence.headers);
        let mut failed = None;
        if signed && let Some(g2o) = &self.g2o {
            match g2o.check(evidence.headers, evidence.target, (evidence.now)()) {
                Ok(client) => return Verdict { proof: Proof::G2o, client: Some(client) },
                Err(failure) => failed = Some(failure),
            }
        }
        for proof in STATELESS {
            match proof(self, evidence) {
                Some(Ok(proof)) => return Verdict { proof, client: None },
                Some(Err(failure)) => failed = failed.or(Some(failure)),
                None => {}
            }
        }
        if !signed && self.g2o.is_some() {
            failed = failed.or(Some(Failure::NoG2o));
        }
        // If no proof were configured, the check would fail. The configuration does not allow this case.
        Verdict { proof: Proof::Failed(failed.unwrap_or(Failure::NoSecret)), client: None }
    }

    /// Checks one proof after the other until a proof fails. G2O is checked last, because each signature is accepted
    /// only once. So a request that fails another proof does not use up its signature.
    fn all(&self, evidence: &Evidence<'_>) -> Verdict {
        let mut proof = Proof::Failed(Failure::NoSecret);
        for plain in STATELESS {
            match plain(self, evidence) {
                Some(Ok(_)) => proof = Proof::All,
                Some(Err(failure)) => return Verdict { proof: Proof::Failed(failure), client: None },
                None => {}
            }
        }
        match self.g2o.as_ref().map(|g2o| g2o.check(evidence.headers, evidence.target, (evidence.now)())) {
            Some(Ok(client)) => Verdict { proof: Proof::All, client: Some(client) },
            Some(Err(failure)) => Verdict { proof: Proof::Failed(failure), client: None },
            None => Verdict { proof, client: None },
        }
    }

    fn secret(&self, evidence: &Evidence<'_>) -> Option<Result<Proof, Failure>> {
        let secret = self.secret.as_ref()?;
        Some(match only_line(evidence.headers, &secret.field).map(HeaderValue::as_bytes) {
            Err(Lines::None) => Err(Failure::NoSecret),
            Err(Lines::Several) => Err(Failure::WrongSecret),
            Ok(given) => {
                // All secrets are compared, so that the duration of the comparison does not reveal which secret
                // matches.
                let right = secret.values.iter().fold(false, |right, value| value.matches(given) | right);
                if right { Ok(Proof::Secret) } else { Err(Failure::WrongSecret) }
            }
        })
    }

    fn address(&self, evidence: &Evidence<'_>) -> Option<Result<Proof, Failure>> {
        let listed = self.addresses.as_ref()?.contains(evidence.address);
        Some(if listed { Ok(Proof::Addresses) } else { Err(Failure::WrongAddress) })
    }

    fn certificate(&self, evidence: &Evidence<'_>) -> Option<Result<Proof, Failure>> {
        let rule = self.client_cert.as_ref()?;
        let reported;
        let certificate = match rule.field {
            None => evidence.certificate,
            Some(_) if !evidence.peer_trusted => None,
            Some(field) => match field.read(evidence.headers, (evidence.now)()) {
                Ok(certificate) => {
                    reported = certificate;
                    Some(&reported)
                }
                Err(NoCertificate::Absent) => None,
                Err(NoCertificate::Unusable) => return Some(Err(Failure::WrongCertificate)),
            },
        };
        Some(match certificate {
            None => Err(Failure::NoCertificate),
            Some(certificate) if rule.admits(certificate, self.authorities.as_deref()) => Ok(Proof::ClientCert),
            Some(_) => Err(Failure::WrongCertificate),
        })
    }
}

impl CertificateRule {
    /// Returns whether a certificate belongs to the CDN. The certificate must match each list that has entries. If the
    /// CAs of the CDN are set (`authorities`), its chain must also lead to one of these CAs.
    fn admits(&self, certificate: &Certificate, authorities: Option<&Authorities>) -> bool {
        let named = |san: &String| certificate.names.iter().any(|name| covers(san, name));
        let is_empty = self.san.is_empty() && self.sha256.is_empty() && authorities.is_none();
        !is_empty
            && (self.san.is_empty() || self.san.iter().any(named))
            && (self.sha256.is_empty() || self.sha256.contains(&certificate.sha256))
            && authorities.is_none_or(|authorities| authorities.issued(certificate))
    }
}

/// Returns whether a name in a certificate matches a name in the rule. A name such as `*.cdn.example` in the rule
/// matches every name that has exactly one label in the place of `*`.
fn covers(san: &str, name: &str) -> bool {
    match san.strip_prefix("*.") {
        None => name.eq_ignore_ascii_case(san),
        Some(parent) => {
            name.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(parent))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::{Duration, UNIX_EPOCH};

    use http::HeaderValue;
    use proptest::prelude::*;

    use super::super::addresses::AddressSet;
    use super::*;
    use crate::wire::names::{X_AKAMAI_G2O_AUTH_DATA, X_AKAMAI_G2O_AUTH_SIGN};

    const SIGNED: (&str, &str) =
        ("5, 192.0.2.1, 198.51.100.7, 1700000000, 1.2, n", "PMmU+vCKzc4hOb7M27SI2qtBjd8zeocVjfL5gtv7x/A=");
    const CLIENT: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)));

    fn field() -> HeaderName {
        HeaderName::from_static("x-the-secret")
    }

    fn secret() -> SecretField {
        SecretField { field: field(), values: vec![Secret::new("new one"), Secret::new("old one")] }
    }

    fn addresses() -> Arc<AddressList> {
        Arc::new(AddressList::new(AddressSet::new(["192.0.2.0/24".parse().unwrap()]), None))
    }

    fn rule(san: &[&str], sha256: &[u8]) -> CertificateRule {
        CertificateRule {
            san: san.iter().map(|&name| name.to_owned()).collect(),
            sha256: sha256.iter().map(|&byte| [byte; 32]).collect(),
            ..CertificateRule::default()
        }
    }

    fn certificate(names: &[&str], sha256: u8) -> Certificate {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        Certificate { names, sha256: [sha256; 32], authorities: Vec::new() }
    }

    fn signatures() -> g2o::Verifier {
        let keys = G2oKeys { keys: [("n".to_owned(), Secret::new("k".repeat(100)))].into(), versions: vec![5] };
        g2o::Verifier::new(&keys, Arc::default())
    }

    /// Returns a provider's proofs with one proof of every kind.
    fn proofs(require: Require) -> Proofs {
        Proofs {
            require,
            secret: Some(secret()),
            addresses: Some(addresses()),
            client_cert: Some(rule(&["edge.example"], &[])),
            authorities: None,
            g2o: Some(signatures()),
        }
    }

    /// Checks a request. The four flags select which proofs the request contains: secret, address, certificate, G2O.
    fn checked(proofs: &Proofs, [by_secret, by_address, by_certificate, by_g2o]: [bool; 4]) -> Verdict {
        let mut headers = HeaderMap::new();
        if by_secret {
            headers.append(field(), HeaderValue::from_static("old one"));
        }
        if by_g2o {
            headers.append(&X_AKAMAI_G2O_AUTH_DATA, HeaderValue::from_static(SIGNED.0));
            headers.append(&X_AKAMAI_G2O_AUTH_SIGN, HeaderValue::from_static(SIGNED.1));
        }
        let shown = certificate(&["edge.example"], 0);
        proofs.check(&Evidence {
            headers: &headers,
            target: "/",
            address: if by_address { "192.0.2.1" } else { "203.0.113.1" }.parse().unwrap(),
            peer_trusted: false,
            certificate: by_certificate.then_some(&shown),
            now: || UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        })
    }

    fn without_client(proof: Proof) -> Verdict {
        Verdict { proof, client: None }
    }

    #[test]
    fn require_any_when_one_proof_succeeds_then_verdict_names_the_proof() {
        let any = || proofs(Require::Any);
        assert_eq!(checked(&any(), [true, false, false, false]), without_client(Proof::Secret));
        assert_eq!(checked(&any(), [false, true, false, false]), without_client(Proof::Addresses));
        assert_eq!(checked(&any(), [false, false, true, false]), without_client(Proof::ClientCert));
        for others in [false, true] {
            let verdict = checked(&any(), [others, others, others, true]);
            assert_eq!(verdict, Verdict { proof: Proof::G2o, client: CLIENT });
        }
        assert_eq!(checked(&any(), [false; 4]), without_client(Proof::Failed(Failure::NoSecret)));
    }

    #[test]
    fn require_any_when_signature_is_replayed_then_another_proof_can_succeed() {
        let any = proofs(Require::Any);
        assert_eq!(checked(&any, [false, false, false, true]).client, CLIENT);
        assert_eq!(checked(&any, [false, false, false, true]), without_client(Proof::Failed(Failure::G2oReplay)));
        assert_eq!(checked(&any, [false, true, false, true]), without_client(Proof::Addresses));
    }

    #[test]
    fn require_all_when_a_proof_fails_then_reports_failure_and_keeps_signature_usable() {
        let all = proofs(Require::All);
        for (held, failure) in [
            ([false, true, true, true], Failure::NoSecret),
            ([true, false, true, true], Failure::WrongAddress),
            ([true, true, false, true], Failure::NoCertificate),
            ([true, true, true, false], Failure::NoG2o),
        ] {
            assert_eq!(checked(&all, held), without_client(Proof::Failed(failure)), "{held:?}");
        }
        assert_eq!(checked(&all, [true; 4]), Verdict { proof: Proof::All, client: CLIENT });
        assert_eq!(checked(&all, [true; 4]), without_client(Proof::Failed(Failure::G2oReplay)));
    }

    #[test]
    fn proof_when_no_other_proof_is_configured_then_decides_the_verdict() {
        for require in [Require::Any, Require::All] {
            let none = || Proofs { secret: None, addresses: None, client_cert: None, g2o: None, ..proofs(require) };
            let cases = [
                (Proofs { secret: Some(secret()), ..none() }, Proof::Secret, Failure::NoSecret),
                (Proofs { addresses: Some(addresses()), ..none() }, Proof::Addresses, Failure::WrongAddress),
                (
                    Proofs { client_cert: Some(rule(&["edge.example"], &[])), ..none() },
                    Proof::ClientCert,
                    Failure::NoCertificate,
                ),
                (Proofs { g2o: Some(signatures()), ..none() }, Proof::G2o, Failure::NoG2o),
            ];
            for (position, (only, proof, failure)) in cases.into_iter().enumerate() {
                let proof = if require == Require::All { Proof::All } else { proof };
                let only_it: [bool; 4] = std::array::from_fn(|at| at == position);
                assert_eq!(checked(&only, only_it.map(|held| !held)).proof, Proof::Failed(failure));
                assert_eq!(checked(&only, only_it).proof, proof);
            }
        }
    }

    #[test]
    fn secret_field_when_line_is_missing_wrong_or_repeated_then_fails() {
        let only = Proofs { addresses: None, client_cert: None, g2o: None, ..proofs(Require::Any) };
        let checked = |lines: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(field(), HeaderValue::from_bytes(line).unwrap());
            }
            let address = IpAddr::from([203, 0, 113, 1]);
            only.check(&Evidence {
                headers: &headers,
                target: "/",
                address,
                certificate: None,
                peer_trusted: false,
                now: || UNIX_EPOCH,
            })
            .proof
        };
        for right in ["new one", "old one"] {
            assert_eq!(checked(&[right.as_bytes()]), Proof::Secret);
        }
        assert_eq!(checked(&[]), Proof::Failed(Failure::NoSecret));
        for wrong in [
            &[&b""[..]][..],
            &[b"new on"],
            &[b"new ones"],
            &[b"New one"],
            &[b"new one, old one"],
            &[b"\xff\xfe"],
            &[b"new one", b"new one"],
            &[b"new one", b"old one"],
            &[b"new one", b""],
        ] {
            assert_eq!(checked(wrong), Proof::Failed(Failure::WrongSecret), "{wrong:?}");
        }
    }

    #[test]
    fn certificate_when_each_configured_list_matches_then_admitted() {
        for (san, sha256, names, hash, admits) in [
            (&["edge.example"][..], &[][..], &["edge.example"][..], 1, true),
            (&["edge.example"], &[], &["other.example", "EDGE.Example"], 1, true),
            (&["edge.example"], &[], &["a.edge.example", "edge.example.org", "xedge.example"], 1, false),
            (&["a.example", "b.example"], &[], &["b.example"], 1, true),
            (&["*.fastly.example"], &[], &["pop.fastly.example"], 1, true),
            (&["*.fastly.example"], &[], &["POP.Fastly.EXAMPLE"], 1, true),
            (&["*.fastly.example"], &[], &["fastly.example"], 1, false),
            (&["*.fastly.example"], &[], &["a.b.fastly.example"], 1, false),
            (&["*.fastly.example"], &[], &[".fastly.example", "xfastly.example"], 1, false),
            (&["edge.example"], &[], &[], 1, false),
            (&[], &[7, 8], &[], 8, true),
            (&[], &[7, 8], &["edge.example"], 9, false),
            (&["edge.example"], &[7], &["edge.example"], 7, true),
            (&["edge.example"], &[7], &["edge.example"], 8, false),
            (&["edge.example"], &[7], &["other.example"], 7, false),
            (&[], &[], &["edge.example"], 1, false),
        ] {
            assert_eq!(
                rule(san, sha256).admits(&certificate(names, hash), None),
                admits,
                "{san:?} {sha256:?} {names:?} {hash}"
            );
        }
        let only = Proofs { secret: None, addresses: None, g2o: None, ..proofs(Require::Any) };
        let shown = certificate(&["other.example"], 1);
        let headers = HeaderMap::new();
        let address = IpAddr::from([203, 0, 113, 1]);
        let evidence = Evidence {
            headers: &headers,
            target: "/",
            address,
            certificate: Some(&shown),
            peer_trusted: false,
            now: || UNIX_EPOCH,
        };
        assert_eq!(only.check(&evidence), without_client(Proof::Failed(Failure::WrongCertificate)));
    }

    #[test]
    fn certificate_when_rule_names_cas_then_chain_must_lead_to_one_of_these_cas() {
        let (rule, cas) = (rule(&["edge.example"], &[]), Authorities::new(vec![[1; 32], [2; 32]]));
        for (authorities, admits) in [(&[1][..], true), (&[3, 2], true), (&[3], false), (&[], false)] {
            let authorities = authorities.iter().map(|&byte| [byte; 32]).collect();
            let certificate = Certificate { authorities, ..certificate(&["edge.example"], 1) };
            assert_eq!(rule.admits(&certificate, Some(&cas)), admits, "{certificate:?}");
        }
        let only_ca = CertificateRule::default();
        let issued_by = |ca: u8| Certificate { authorities: vec![[ca; 32]], ..certificate(&[], 1) };
        assert!(only_ca.admits(&issued_by(1), Some(&cas)));
        assert!(!only_ca.admits(&certificate(&[], 1), Some(&cas)));
        cas.replace(vec![[3; 32]]);
        assert!(!only_ca.admits(&issued_by(1), Some(&cas)) && only_ca.admits(&issued_by(3), Some(&cas)));
    }

    #[test]
    fn certificate_field_when_peer_is_not_trusted_then_is_ignored() {
        let field = CertificateField::XForwardedClientCert;
        let only = Proofs {
            secret: None,
            addresses: None,
            g2o: None,
            client_cert: Some(CertificateRule { field: Some(field), ..rule(&["edge.example"], &[]) }),
            authorities: None,
            require: Require::Any,
        };
        let of_connection = certificate(&["edge.example"], 1);
        let checked = |value: &str, peer_trusted| {
            let headers: HeaderMap =
                (!value.is_empty()).then(|| (field.name().clone(), value.parse().unwrap())).into_iter().collect();
            let address = IpAddr::from([203, 0, 113, 1]);
            let certificate = Some(&of_connection);
            only.check(&Evidence {
                headers: &headers,
                target: "/",
                address,
                certificate,
                peer_trusted,
                now: || UNIX_EPOCH,
            })
            .proof
        };
        let hash = "0".repeat(64);
        let right = format!("Hash={hash};DNS=edge.example");
        assert_eq!(checked(&right, true), Proof::ClientCert);
        assert_eq!(checked(&right, false), Proof::Failed(Failure::NoCertificate));
        // If the rule has a field, the certificate of the connection is not read, because it belongs to the proxy.
        assert_eq!(checked("", true), Proof::Failed(Failure::NoCertificate));
        let foreign = format!("Hash={hash};DNS=other.example");
        assert_eq!(checked(&foreign, true), Proof::Failed(Failure::WrongCertificate));
        assert_eq!(checked("Hash=1", true), Proof::Failed(Failure::WrongCertificate));
    }

    proptest! {
        #[test]
        fn secret_when_value_is_arbitrary_then_only_an_equal_text_succeeds(given in "(new|old| |one|N|\\PC){0,4}") {
            let Ok(value) = HeaderValue::from_str(&given) else { return Ok(()) };
            let only = Proofs { addresses: None, client_cert: None, g2o: None, ..proofs(Require::All) };
            let headers = HeaderMap::from_iter([(field(), value)]);
            let address = IpAddr::from([203, 0, 113, 1]);
            let now = || UNIX_EPOCH;
            let (certificate, peer_trusted) = (None, false);
            let evidence = Evidence { headers: &headers, target: "/", address, certificate, peer_trusted, now };
            prop_assert_eq!(only.check(&evidence).proof == Proof::All, given == "new one" || given == "old one");
        }
    }
}
