//! Reads the `[provider.verify]` blocks: the proofs that a pull comes from the CDN that the pull names. One of these
//! proofs is G2O, Akamai's signature in request header fields. No message contains a secret.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::slice;

use http::HeaderName;
use serde_json::{Value, json};

use super::file::{Read, Section};
use super::settings::{AddressSource, Settings, Verify};
use crate::cdn::addresses::network;
use crate::cdn::preset::Preset;
use crate::cdn::proof::{CertificateRule, G2oKeys, Require, SecretField};
use crate::intake::ranges::Ranges;
use crate::intake::server_tls::{FOREIGN_CA, TYPED_PATH, TypedPath, authorities};
use crate::keys::grammar::{has_meaning, header_name, text_of};
use crate::keys::secrets::SECRET;
use crate::keys::urls::host_name;
use crate::keys::{Checked, Visitor as _, quote};
use crate::wire::certificate_fields::CertificateField;
use crate::wire::secret::Secret;
use crate::wire::{hex, names};

/// The largest number of secrets for one provider. The number is limited, because the secret in each pull is compared
/// with all secrets of the provider. A rotation needs only two secrets.
const MAX_SECRETS: usize = 16;
/// The length of the longest accepted G2O nonce, in bytes. In G2O, the nonce is the name of a key.
const MAX_NONCE_BYTES: usize = 64;
/// The default version of G2O, which uses HMAC-SHA256. The versions 1 to 4 use MD5 or SHA-1.
const G2O_VERSION: u8 = 5;

const REQUIRE: [(&str, Require); 2] = [("any", Require::Any), ("all", Require::All)];

/// The place of a secret: the header field that contains the secret, or the nonce that names the G2O key.
#[derive(PartialEq, Eq, Hash)]
enum Place {
    Field(HeaderName),
    Nonce(String),
}

/// The secrets of all providers that were read so far. Two providers must not have the same secret in the same place,
/// because a pull of one provider would then pass the proof of another provider.
#[derive(Default)]
pub(super) struct Secrets {
    /// The provider of each secret, as a position in `names`, counted from 1.
    taken: HashMap<(Place, String), usize>,
    names: Vec<String>,
}

impl Secrets {
    /// Starts the next provider. Secrets that are claimed after this call belong to that provider.
    pub(super) fn next_provider(&mut self, name: &str) {
        self.names.push(name.to_owned());
    }

    /// Records a secret for the latest provider. If an earlier provider has the same secret in the same place, returns
    /// the name of that provider as the error.
    fn claim(&mut self, place: Place, secret: &Secret) -> Result<(), String> {
        let latest = self.names.len();
        let owner = *self.taken.entry((place, secret.expose().to_owned())).or_insert(latest);
        if owner == latest {
            return Ok(());
        }
        match self.names.get(owner - 1) {
            Some(name) if !name.is_empty() => Err(quote(name)),
            _ => Err("an earlier provider".to_owned()),
        }
    }
}

/// The settings outside of the providers' blocks on which proofs depend.
pub(super) struct Surroundings {
    /// The identity header.
    identity: HeaderName,
    /// Whether `server.trusted_proxies` contains every IPv4 address or every IPv6 address. Then every client with such
    /// an address can claim any address, so an address proves nothing.
    trusts_all: bool,
    /// Whether `server.trusted_proxies` is empty.
    trusts_none: bool,
    /// SHA-256 of each CA of `server.tls.client_ca`. `None`: the key is not set. If the file is unusable, the list is
    /// empty.
    client_ca: Option<Vec<[u8; 32]>>,
}

impl Surroundings {
    pub(super) fn of(settings: &Settings) -> Self {
        let trusted = &settings.observe.trusted_proxies;
        let client_ca = settings.server.tls.as_ref().and_then(|tls| tls.files.client_ca.as_ref());
        Self {
            identity: settings.identity.header.clone(),
            trusts_all: trusted.iter().any(|network| network.prefix_len() == 0),
            trusts_none: trusted.is_empty(),
            client_ca: client_ca.map(|file| authorities(&file.path).unwrap_or_default()),
        }
    }
}

/// Reads `[provider.verify]`. Returns `None` if the file has no such block.
pub(super) fn verify(mut block: Section<'_>, surroundings: &Surroundings, secrets: &mut Secrets) -> Option<Verify> {
    let mut require = Require::default();
    block.choice("require", &REQUIRE, &mut require);
    let secret = secret_field(block.section("secret"), &surroundings.identity, secrets);
    let addresses = addresses(&mut block, surroundings.trusts_all);
    let client_cert = client_cert(block.section("client_cert"), surroundings);
    let g2o = g2o(block.section("g2o"), secrets);
    if let (true, Read::Absent, Read::Absent, Read::Absent, Read::Absent) =
        (block.is_present(), &secret, &addresses, &client_cert, &g2o)
    {
        let message = "has no proof; write a proof, for example \
                       secret = { header = \"X-Origin-Secret\", values = [\"env:ORIGIN_SECRET\"] } or \
                       addresses = [\"151.101.0.0/16\"], or remove the block to accept the provider without a proof";
        block.reject_block(message);
    }
    let (client_cert, client_cert_ca) = client_cert.good().unzip();
    let verify = Verify {
        require,
        secret: secret.good(),
        addresses: addresses.or(Vec::new()),
        client_cert,
        client_cert_ca: client_cert_ca.flatten(),
        g2o: g2o.good(),
    };
    block.is_present().then_some(verify)
}

/// Returns the proofs in the form that `/config` shows. Proofs that are not configured are left out.
pub(super) fn json(proofs: &Verify) -> Value {
    let mut keys = json!({ "require": text_of(&proofs.require, &REQUIRE) });
    if let Some(secret) = &proofs.secret {
        let values: Vec<_> = secret.values.iter().map(SECRET.write).collect();
        keys["secret"] = json!({ "header": secret.field.as_str(), "values": values });
    }
    if !proofs.addresses.is_empty() {
        let typed = |source: &AddressSource| match source {
            AddressSource::Network(network) => network.to_string(),
            AddressSource::File(path) => format!("file:{}", path.display()),
        };
        keys["addresses"] = proofs.addresses.iter().map(typed).collect();
    }
    if let Some(rule) = &proofs.client_cert {
        let sha256 = rule.sha256.iter().map(|sha256| hex::text(sha256)).collect::<Vec<_>>();
        let field = rule.field.map_or("", |field| field.name().as_str());
        let ca = proofs.client_cert_ca.as_ref().map_or("", |ca| &ca.typed);
        keys["client_cert"] = json!({ "san": rule.san, "sha256": sha256, "ca": ca, "field": field });
    }
    if let Some(g2o) = &proofs.g2o {
        let hidden: BTreeMap<_, _> = g2o.keys.iter().map(|(nonce, key)| (nonce, (SECRET.write)(key))).collect();
        keys["g2o"] = json!({ "keys": hidden, "versions": g2o.versions });
    }
    keys
}

fn secret_field(mut block: Section<'_>, identity: &HeaderName, secrets: &mut Secrets) -> Read<SecretField> {
    const HEADER: &str = "\"X-Origin-Secret\"";
    const VALUE: &str = "\"env:ORIGIN_SECRET\"";
    if let Some(unread) = block.unread() {
        return unread;
    }
    let folder = block.folder();
    let field = block.read("header", HEADER, |text| {
        // The message does not show the value, because the value can be a secret in the wrong place.
        let Ok(name) = header_name(text) else {
            return Err(format!(
                "is not a header field name; write the field that the CDN is configured to add, for example {HEADER}"
            ));
        };
        let message = if name == *identity || name.as_str().replace('_', "-") == names::X_CDN_PROVIDER.as_str() {
            "names the provider, and a provider's name is not secret"
        } else if has_meaning(&name) {
            "has another purpose, but edgeshim removes the field of a secret from every request"
        } else if Preset::all().iter().any(|preset| preset.is_public_field(&name)) {
            "contains a client's address or a point of presence, and the access log shows both"
        } else {
            return Ok(name);
        };
        let remedy = format!("write a field that only your CDNs set, for example {HEADER}");
        Err(format!("names a field ({}) that {message}; {remedy}", quote(text)))
    });
    let values = block.read_list("values", VALUE, |text| {
        let secret = some_secret(text, folder, VALUE)?;
        if let Read::Good(field) = &field {
            secrets
                .claim(Place::Field(field.clone()), &secret)
                .map_err(|owner| format!("is also the secret of {owner}; each CDN needs a different secret"))?;
        }
        Ok(secret)
    });
    if let Read::Absent = field {
        block.missing("header", format!("is missing; write header = {HEADER}, the field that contains the secret"));
    }
    match &values {
        Read::Absent => block.missing("values", format!("is missing; write values = [{VALUE}]")),
        Read::Good(values) if values.is_empty() => {
            block.reject("values", format!("is empty; write values = [{VALUE}]"));
        }
        Read::Good(values) if values.len() > MAX_SECRETS => {
            let message = format!("has {} secrets; write at most {MAX_SECRETS}", values.len());
            block.reject("values", format!("{message}; a rotation needs two"));
        }
        Read::Good(_) | Read::Bad => {}
    }
    match (field, values) {
        (Read::Good(field), Read::Good(values)) => Read::Good(SecretField { field, values }),
        _ => Read::Bad,
    }
}

fn some_secret(text: &str, folder: &Path, example: &str) -> Checked<Secret> {
    if text.is_empty() {
        return Err(format!("is empty; write a secret or a reference, for example {example}"));
    }
    (SECRET.read)(text, folder)
}

/// Reads the addresses from which the provider pulls. `trusts_all` has the same meaning as in [`Surroundings`].
fn addresses(block: &mut Section<'_>, trusts_all: bool) -> Read<Vec<AddressSource>> {
    const EXAMPLE: &str = "\"151.101.0.0/16\"";
    let folder = block.folder();
    let addresses = block.read_list("addresses", EXAMPLE, |text| {
        if let Some(path) = text.strip_prefix("file:") {
            return address_file(path, folder).map(AddressSource::File);
        }
        let network = network(text).map_err(|_| {
            format!("is neither a network nor a file; write an address, a CIDR such as {EXAMPLE}, or file:PATH")
        })?;
        if network.prefix_len() == 0 {
            return Err(format!(
                "contains every address and proves nothing; \
                 write the networks that the CDN pulls from, for example {EXAMPLE}"
            ));
        }
        Ok(AddressSource::Network(network))
    });
    if let Read::Good(list) = &addresses
        && list.is_empty()
    {
        let message = "is empty, so the list can prove nothing";
        block.reject("addresses", format!("{message}; write networks, for example {EXAMPLE}, or remove the key"));
    } else if let (Read::Good(_), true) = (&addresses, trusts_all) {
        let message = "proves nothing while server.trusted_proxies contains every address, \
                       because then every client can claim any address; \
                       in server.trusted_proxies, write only the networks of your own balancers";
        block.reject("addresses", message);
    }
    addresses
}

/// Checks a file that contains a list of networks. The runtime reads the file again when the runtime is built. The
/// check here ensures that a problem of the file is reported together with the other problems of the configuration.
fn address_file(path: &str, folder: &Path) -> Checked<PathBuf> {
    if path.is_empty() {
        return Err("names no file; write file:PATH, for example \"file:ranges/fastly.json\"".to_owned());
    }
    let path = folder.join(path);
    Ranges::open(slice::from_ref(&path), &[]).map_err(|error| error.to_string())?;
    Ok(path)
}

/// Reads the rule for client certificates, and the path of the file with its CAs.
fn client_cert(mut block: Section<'_>, surroundings: &Surroundings) -> Read<(CertificateRule, Option<TypedPath>)> {
    if let Some(unread) = block.unread() {
        return unread;
    }
    let folder = block.folder();
    let san = block.read_list("san", "\"*.cdn.example\"", certificate_name);
    let sha256 = block.read_list("sha256", "\"9f86d081…\"", fingerprint);
    let ca = block.read("ca", "\"tls/cdn-ca.pem\"", |text| {
        let file = (TYPED_PATH.read)(text, folder)?;
        if text.is_empty() {
            return Ok(None);
        }
        check_authorities(&file.path, surroundings)?;
        Ok(Some(file))
    });
    let field = block.read("field", "\"Client-Cert\"", |text| certificate_field(text, surroundings));
    let (Some(san), Some(sha256), Some(ca), Some(field)) =
        (san.unless_bad(Vec::new), sha256.unless_bad(Vec::new), ca.unless_bad(|| None), field.unless_bad(|| None))
    else {
        return Read::Bad;
    };
    let rule = CertificateRule { san, sha256, field };
    if rule.san.is_empty() && rule.sha256.is_empty() && ca.is_none() {
        block.reject_block(
            "names no certificate; write san = [\"*.cdn.example\"], \
             or sha256 = [\"…\"] with the fingerprint of the certificate",
        );
    } else if rule.field.is_some() && ca.is_some() {
        block.reject(
            "ca",
            "cannot be checked, because edgeshim reads no certificate chain from a header field; remove `ca`, and let \
             the machine that ends TLS check the CA, or remove `field`",
        );
    } else if rule.field.is_none() && surroundings.client_ca.is_none() {
        block.reject_block(
            "needs server.tls.client_ca, because edgeshim asks for a client certificate only with this key; \
             write client_ca = \"tls/client-ca.pem\" in [server.tls], or write field = \"Client-Cert\" \
             if a trusted proxy ends TLS",
        );
    }
    Read::Good((rule, ca))
}

/// Checks the file with the CAs of one provider. Each CA must also be in `server.tls.client_ca`, because the handshake
/// refuses the certificates of other CAs.
fn check_authorities(path: &Path, surroundings: &Surroundings) -> Checked<()> {
    let own = authorities(path)?;
    match &surroundings.client_ca {
        Some(accepted) if !accepted.is_empty() && own.iter().any(|ca| !accepted.contains(ca)) => {
            Err(FOREIGN_CA.to_owned())
        }
        _ => Ok(()),
    }
}

/// Reads the name of the field in which a trusted proxy reports the client certificate.
fn certificate_field(text: &str, surroundings: &Surroundings) -> Checked<Option<CertificateField>> {
    if text.is_empty() {
        return Ok(None);
    }
    let known = CertificateField::ALL.into_iter().find(|field| field.name().as_str().eq_ignore_ascii_case(text));
    let field = known.ok_or(
        "is not a field that edgeshim can read; write \"Client-Cert\" (RFC 9440) or \"X-Forwarded-Client-Cert\" \
         (Envoy)",
    )?;
    if surroundings.trusts_all || surroundings.trusts_none {
        let extent = if surroundings.trusts_all { "contains every address" } else { "is empty" };
        return Err(format!(
            "proves nothing while server.trusted_proxies {extent}; \
             in server.trusted_proxies, write the networks of the machines that end TLS"
        ));
    }
    Ok(Some(field))
}

/// Checks a host name in a certificate (the key `san`), and returns the name in lower case. The first label can be `*`.
fn certificate_name(text: &str) -> Checked<String> {
    let bare = text.strip_prefix("*.").unwrap_or(text);
    host_name(bare)
        // A DNS name in a certificate is not an IP address and has no final dot.
        .filter(|host| !host.starts_with('[') && !host.ends_with('.') && host.parse::<Ipv4Addr>().is_err())
        .map(|host| if bare.len() == text.len() { host } else { format!("*.{host}") })
        .ok_or_else(|| {
            "is not a host name of a certificate; write a host name without a port, for example \"*.cdn.example\", \
             where \"*\" matches any one label"
                .to_owned()
        })
}

/// Parses the SHA-256 fingerprint of a certificate: 64 hexadecimal digits. Colons between the bytes, as openssl prints
/// them, are optional.
fn fingerprint(text: &str) -> Checked<[u8; 32]> {
    const MESSAGE: &str = "is not a SHA-256 fingerprint; write 64 hexadecimal digits, with or without colons; \
                           \"openssl x509 -noout -fingerprint -sha256\" prints the digits after the \"=\"";
    let mut digits = Vec::with_capacity(64);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b':' if text.len() == 95 && at % 3 == 2 => {}
            _ => digits.push(byte),
        }
    }
    let mut fingerprint = [0; 32];
    if digits.len() != 64 {
        return Err(MESSAGE.to_owned());
    }
    for (byte, pair) in fingerprint.iter_mut().zip(digits.chunks_exact(2)) {
        for &digit in pair {
            let value = char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
            *byte = (*byte << 4) | value.ok_or(MESSAGE)?;
        }
    }
    Ok(fingerprint)
}

fn g2o(mut block: Section<'_>, secrets: &mut Secrets) -> Read<G2oKeys> {
    const KEYS: &str = "nonce1 = \"env:G2O_KEY\"";
    if let Some(unread) = block.unread() {
        return unread;
    }
    let folder = block.folder();
    let keys = block.read_map("keys", KEYS, nonce, |text| some_secret(text, folder, "\"env:G2O_KEY\""));
    let versions = match block.read_integers("versions", 1..=5) {
        Read::Absent => Read::Good(vec![G2O_VERSION]),
        Read::Good(mut versions) => {
            if versions.is_empty() {
                block.reject(
                    "versions",
                    format!("is empty, so no signature is valid; write versions = [{G2O_VERSION}]"),
                );
            }
            versions.sort_unstable();
            versions.dedup();
            Read::Good(versions)
        }
        Read::Bad => Read::Bad,
    };
    match &keys {
        Read::Absent => {
            block.missing(
                "keys",
                format!("is missing; write keys = {{ {KEYS} }}, with a nonce as the name of each key"),
            );
        }
        Read::Good(keys) if keys.is_empty() => block.reject("keys", format!("is empty; write keys = {{ {KEYS} }}")),
        Read::Good(keys) => {
            for (nonce, key) in keys {
                if let Err(owner) = secrets.claim(Place::Nonce(nonce.clone()), key) {
                    let nonce = quote(nonce);
                    let message =
                        format!("has for the nonce {nonce} a key that is also a key of {owner}; write another key");
                    block.reject("keys", message);
                }
            }
        }
        Read::Bad => {}
    }
    match (keys, versions) {
        (Read::Good(keys), Read::Good(versions)) => Read::Good(G2oKeys { keys, versions }),
        _ => Read::Bad,
    }
}

/// Checks a nonce, which is the name of a G2O key. A nonce must not contain a comma, because commas separate the fields
/// in the data of G2O.
fn nonce(text: &str) -> Checked<String> {
    let fine = (1..=MAX_NONCE_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b',');
    if fine {
        return Ok(text.to_owned());
    }
    let allowed = format!("1 to {MAX_NONCE_BYTES} visible ASCII characters without comma and space");
    Err(format!("is not a nonce; write {allowed}, for example nonce1 = \"env:G2O_KEY\""))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{Settings, parse};

    fn read(text: &str) -> Result<Settings, String> {
        parse(text, "e.toml", Path::new(env!("CARGO_MANIFEST_DIR"))).map_err(|problems| problems.to_string())
    }

    fn problems(text: &str) -> Vec<String> {
        read(text).map_or_else(|message| message.lines().map(str::to_owned).collect(), |_| Vec::new())
    }

    /// Returns a `[[provider]]` block with the lines `verify` in its `[provider.verify]`.
    fn verified(name: &str, verify: &str) -> String {
        format!("[[provider]]\nname = \"{name}\"\n[provider.verify]\n{verify}\n")
    }

    fn proofs(verify: &str) -> Verify {
        let settings = read(&verified("fastly", verify)).unwrap_or_else(|message| panic!("{verify}: {message}"));
        settings.providers[0].verify.clone().expect("the provider has a [provider.verify] block")
    }

    #[test]
    fn verify_block_when_proof_is_missing_or_empty_then_is_rejected_with_a_remedy() {
        for (verify, key, remedy) in [
            ("", "verify", "or remove the block"),
            ("require = \"all\"", "verify", "or remove the block"),
            ("addresses = []", "verify.addresses", "or remove the key"),
            (
                "secret = {}\naddresses = [\"192.0.2.0/24\"]",
                "verify.secret.header",
                "write header = \"X-Origin-Secret\"",
            ),
            ("secret = { values = [\"s\"] }", "verify.secret.header", "write header = \"X-Origin-Secret\""),
            ("secret = { header = \"X-S\" }", "verify.secret.values", "write values = [\"env:ORIGIN_SECRET\"]"),
            ("secret = { header = \"X-S\", values = [] }", "verify.secret.values", "write values = ["),
            (
                "secret = { header = \"X-S\", values = [\"\"] }",
                "verify.secret.values[0]",
                "for example \"env:ORIGIN_SECRET\"",
            ),
            ("client_cert = {}", "verify.client_cert", "write san = [\"*.cdn.example\"]"),
            ("client_cert = { san = [], sha256 = [] }", "verify.client_cert", "write san = [\"*.cdn.example\"]"),
            ("g2o = {}", "verify.g2o.keys", "write keys = { nonce1 = \"env:G2O_KEY\" }"),
            ("g2o = { keys = {}, versions = [5] }", "verify.g2o.keys", "write keys = { nonce1 = \"env:G2O_KEY\" }"),
            ("g2o = { keys = { n = \"\" } }", "verify.g2o.keys.\"n\"", "for example \"env:G2O_KEY\""),
            ("g2o = { keys = { n = \"k\" }, versions = [] }", "verify.g2o.versions", "write versions = [5]"),
        ] {
            let problems = problems(&verified("fastly", verify));
            let (problems, more) = problems.split_first().unwrap_or_else(|| panic!("{verify} was accepted"));
            assert!(
                problems.contains(&format!(" provider[0].{key}: ")) && problems.contains(remedy),
                "{verify}: {problems}"
            );
            // An empty `secret` block has two problems, because two keys are missing.
            assert_eq!(more.len(), usize::from(verify.starts_with("secret = {}")), "{verify}: {more:?}");
        }
    }

    #[test]
    fn proofs_when_valid_then_settings_have_the_configured_values() {
        let verify = proofs(
            "require = \"all\"\n\
             secret = { header = \"X-Pull\", values = [\"KeyCDN\", \"env:CARGO_PKG_NAME\"] }\n\
             addresses = [\"192.0.2.7/24\", \"2001:db8::1\"]\n\
             g2o = { keys = { \"n-1\" = \"k1\", N2 = \"k2\" }, versions = [5, 3, 5] }",
        );
        assert_eq!(verify.require, Require::All);
        assert_eq!(
            verify.secret,
            Some(SecretField {
                field: HeaderName::try_from("x-pull").expect("the field name is valid"),
                values: vec![Secret::new("KeyCDN"), Secret::new("edgeshim")],
            })
        );
        assert_eq!(
            verify.addresses,
            [
                AddressSource::Network("192.0.2.0/24".parse().expect("the network is valid")),
                AddressSource::Network("2001:db8::1/128".parse().expect("the network is valid")),
            ]
        );
        let g2o = verify.g2o.expect("the settings have G2O keys");
        assert_eq!(g2o.keys.keys().collect::<Vec<_>>(), ["N2", "n-1"]);
        assert_eq!(g2o.versions, [3, 5]);

        let verify = proofs("g2o = { keys = { n = \"k\" } }");
        assert_eq!((verify.require, verify.secret, verify.addresses.len()), (Require::Any, None, 0));
        assert_eq!(verify.g2o.map(|g2o| g2o.versions), Some(vec![5]), "weak versions must not be accepted by default");
        assert_eq!(
            read("[[provider]]\nname = \"fastly\"\n").map(|settings| settings.providers[0].verify.clone()),
            Ok(None)
        );
    }

    #[test]
    fn secret_field_when_field_has_another_purpose_then_is_rejected() {
        let with = |field: &str, before: &str| {
            problems(&format!(
                "{before}{}",
                verified("mine", &format!("secret = {{ header = \"{field}\", values = [\"s\"] }}"))
            ))
        };
        for free in ["X-Origin-Secret", "X-Azure-FDID", "X-Pull", "x", "Pull-Key"] {
            assert_eq!(with(free, ""), [""; 0], "{free}");
        }
        for taken in [
            "Host",
            "connection",
            "Transfer-Encoding",
            "Content-Length",
            "Content-Type",
            "Authorization",
            "Proxy-Authorization",
            "COOKIE",
            "Via",
            "CDN-Loop",
            "Forwarded",
            "X-Forwarded-For",
            "X-Forwarded-Port",
            "Accept",
            "Accept-Encoding",
            "Range",
            "If-Range",
            "If-None-Match",
            "User-Agent",
            "Sec-WebSocket-Key",
            "X-Request-Id",
            "X-CDN-Provider",
            "X-Akamai-G2O-Auth-Data",
            "CDN-ServerZone",
            "True-Client-IP",
            "X-Akamai-G2O-Auth-Sign",
        ] {
            let problems = with(taken, "");
            assert!(problems.len() == 1 && problems[0].contains(&format!("({taken:?})")), "{taken}: {problems:?}");
            assert!(problems[0].contains("write a field that only your CDNs set"), "{problems:?}");
        }
        let problems = with("X-Who", "[identity]\nheader = \"x-who\"\n");
        assert!(problems.len() == 1 && problems[0].contains("names the provider"), "{problems:?}");
        // The configured identity header is rejected even if `[identity]` is later in the file than the provider.
        let text = verified("mine", "secret = { header = \"X-Who\", values = [\"s\"] }");
        assert_eq!(self::problems(&format!("{text}[identity]\nheader = \"X-WHO\"\n")).len(), 1);
    }

    #[test]
    fn providers_when_secrets_are_equal_then_are_rejected_and_secret_is_not_shown() {
        let fields = |first: &str, second: &str| {
            let of = |name, header: &str| {
                verified(name, &format!("secret = {{ header = \"{header}\", values = [\"new\", \"hunter2\"] }}"))
            };
            problems(&(of("one", first) + &of("two", second).replace("new", "newer")))
        };
        let message = fields("X-S", "x-s");
        assert_eq!(message.len(), 1, "{message:?}");
        assert!(
            message[0].contains(
                "provider[1].verify.secret.values[1]: *** is also the secret of \"one\"; \
                 each CDN needs a different secret"
            ),
            "{message:?}"
        );
        assert_eq!(fields("X-S", "X-T"), [""; 0], "secrets in different fields may be equal");
        // One provider is allowed to list a secret twice.
        assert_eq!(problems(&verified("one", "secret = { header = \"X-S\", values = [\"a\", \"a\"] }")), [""; 0]);

        let keys = |nonce: &str| {
            problems(
                &(verified("one", "g2o = { keys = { n = \"hunter2\" } }")
                    + &verified("two", &format!("g2o = {{ keys = {{ {nonce} = \"hunter2\" }} }}"))),
            )
        };
        let message = keys("n");
        assert!(message.len() == 1 && message[0].contains("a key that is also a key of \"one\""), "{message:?}");
        assert_eq!(keys("m"), [""; 0]);
    }

    #[test]
    fn secret_when_in_the_wrong_place_then_is_not_shown_in_messages() {
        for wrong in [
            "secret = \"hunter2\"",
            "secret = { header = \"X-S: hunter2\", values = [\"s\"] }",
            "secret = { header = [\"hunter2\"], values = [\"s\"] }",
            "secret = { header = \"X-S\", values = \"hunter2\" }",
            "secret = { header = \"X-S\", values = [\"hunter 2\"] }",
            "secret = { header = \"X-S\", values = [[\"hunter2\"]] }",
            "secret = { header = \"X-S\", value = \"hunter2\", values = [\"s\"] }",
            "secret = { header = \"X-S\", vals = [\"hunter2\"], values = [\"s\"] }",
            "values = [\"s\"]\nvalue = \"hunter2\"",
            "header = \"hunter2\"",
            "g2o = \"hunter2\"",
            "g2o = { nonce1 = \"hunter2\" }",
            "g2o = { keys = \"hunter2\" }",
            "g2o = { keys = [\"hunter2\"] }",
            "g2o = { keys = { n = \"hunter 2\" } }",
            "g2o = { keys = { n = [\"hunter2\"] } }",
            "g2o = { keys = { \"hunter,2\" = \"n\" } }",
            "g2o = { keys = { \"hunter 2\" = 1 } }",
            "g2o = { keys = { n = \"k\" }, key = \"hunter2\" }",
            "client_cert = \"hunter2\"",
        ] {
            let problems = problems(&verified("fastly", wrong));
            assert!(!problems.is_empty(), "{wrong}");
            assert!(!problems.concat().contains("hunter"), "{wrong}: {problems:?}");
        }
        assert!(!problems("[[provider]]\nname = \"a\"\nverify = \"hunter2\"").concat().contains("hunter"));
    }

    #[test]
    fn addresses_when_all_addresses_are_trusted_proxies_then_are_rejected() {
        for (trusted, fine) in [("0.0.0.0/0", false), ("::/0", false), ("10.0.0.0/8", true)] {
            let block = verified("fastly", "addresses = [\"192.0.2.0/24\"]");
            let message = problems(&format!("[server]\ntrusted_proxies = [\"{trusted}\"]\n{block}"));
            assert_eq!(message.is_empty(), fine, "{message:?}");
            assert!(fine || message[0].contains("your own balancers"), "{message:?}");
        }
    }

    #[test]
    fn address_when_not_a_usable_network_or_file_then_is_rejected() {
        for (address, remedy) in [
            ("0.0.0.0/0", "proves nothing; write the networks"),
            ("::/0", "proves nothing; write the networks"),
            ("::ffff:0:0/96", "proves nothing; write the networks"),
            ("ranges/fastly.json", "or file:PATH"),
            ("10.0.0.0/33", "or file:PATH"),
            ("file:", "for example \"file:ranges/fastly.json\""),
            ("file:no/such/list", "name a file that this user may read"),
            // The content of a file that is not a list can be a secret, so no message shows that content.
            ("file:src/main.rs", "has no network in line"),
            ("file:src", "is not a regular file"),
            ("file:/dev/zero", "is not a regular file"),
        ] {
            let problems = problems(&verified("fastly", &format!("addresses = [\"192.0.2.0/24\", \"{address}\"]")));
            assert!(problems.len() == 1 && problems[0].contains(remedy), "{address}: {problems:?}");
            assert!(problems[0].contains(&format!("provider[0].verify.addresses[1]: \"{address}\" ")), "{problems:?}");
        }
    }

    #[test]
    fn client_cert_values_when_invalid_then_are_rejected_and_a_valid_block_needs_client_ca() {
        for (typed, name) in [
            ("CDN.Example", "cdn.example"),
            ("*.Cdn.example", "*.cdn.example"),
            ("*.internal", "*.internal"),
            ("pop-1", "pop-1"),
        ] {
            assert_eq!(certificate_name(typed).as_deref(), Ok(name));
        }
        for bad in [
            "",
            "*",
            "*.",
            "*.*.example",
            "a.*.example",
            "cdn.example:443",
            "192.0.2.1",
            "[::1]",
            "cdn.example.",
            "a b",
        ] {
            assert!(certificate_name(bad).is_err(), "{bad}");
        }
        let plain = "0123456789abcdef".repeat(4);
        let colons = plain
            .to_uppercase()
            .as_bytes()
            .chunks(2)
            .map(|pair| String::from_utf8_lossy(pair))
            .collect::<Vec<_>>()
            .join(":");
        let read = fingerprint(&plain).expect("the fingerprint is valid");
        assert_eq!(read[..4], [0x01, 0x23, 0x45, 0x67]);
        assert_eq!(fingerprint(&colons), Ok(read));
        for bad in [
            String::new(),
            plain[1..].to_owned(),
            format!("{plain}0"),
            plain.replace('f', "g"),
            colons.replacen(':', "", 1),
            colons.replacen("01:2", "0:12", 1),
            format!("sha256 Fingerprint={colons}"),
            "é".repeat(32),
        ] {
            assert!(fingerprint(&bad).is_err(), "{bad}");
        }

        // A valid `client_cert` block is rejected because `server.tls.client_ca` is missing. For an invalid block, only
        // the mistakes in the block are reported.
        let message = problems(&verified(
            "fastly",
            &format!("client_cert = {{ san = [\"*.cdn.example\"], sha256 = [\"{colons}\"] }}"),
        ));
        assert!(
            message.len() == 1
                && message[0].contains("server.tls.client_ca")
                && message[0].contains("or write field = "),
            "{message:?}"
        );
        let message = problems(&verified("fastly", "client_cert = { san = [\"*.cdn.example:1\"], sha256 = [\"0\"] }"));
        assert!(
            message.len() == 2 && message.iter().all(|message| !message.contains("server.tls.client_ca")),
            "{message:?}"
        );
    }

    #[test]
    fn nonce_when_length_or_characters_are_wrong_then_is_rejected() {
        for good in ["1", "nonce1", "~!a", &"n".repeat(64)] {
            assert_eq!(nonce(good).as_deref(), Ok(good));
        }
        for bad in ["", "a b", "a,b", "é", "a\n", &"n".repeat(65)] {
            assert!(nonce(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_when_more_than_16_then_are_rejected() {
        let values = |count: usize| {
            let values = (0..count).map(|n| format!("\"s{n}\"")).collect::<Vec<_>>().join(", ");
            problems(&verified("fastly", &format!("secret = {{ header = \"X-S\", values = [{values}] }}")))
        };
        assert_eq!(values(MAX_SECRETS), [""; 0]);
        assert!(values(MAX_SECRETS + 1).first().is_some_and(|message| message.contains("write at most 16")));
    }

    proptest! {
        #[test]
        fn verify_keys_when_text_is_arbitrary_then_messages_have_no_control_characters(text in any::<String>()) {
            let _ = (certificate_name(&text), fingerprint(&text), nonce(&text));
            let quoted = toml::Value::String(text.clone()).to_string();
            for verify in [
                format!("require = {quoted}"),
                format!("secret = {{ header = {quoted}, values = [{quoted}] }}"),
                format!("addresses = [{quoted}]"),
                format!("client_cert = {{ san = [{quoted}], sha256 = [{quoted}] }}"),
                format!("g2o = {{ keys = {{ n = {quoted} }} }}"),
            ] {
                for message in problems(&verified("fastly", &verify)) {
                    prop_assert!(!message.contains(char::is_control), "{}", message);
                }
            }
        }

        #[test]
        fn fingerprint_when_accepted_then_has_64_or_95_ascii_characters(text in "[0-9a-fA-F:é]{60,100}") {
            if fingerprint(&text).is_ok() {
                prop_assert!(text.is_ascii() && (text.len() == 64 || text.len() == 95));
            }
        }
    }
}
