//! What a configuration needs from outside itself: address lists, the country file.

use std::sync::Arc;

use super::BuildError;
use crate::cdn::addresses::AddressList;
use crate::cdn::known::Known;
use crate::cdn::preset::Preset;
use crate::cdn::proof::Proofs;
use crate::cdn::proof::g2o::{Replays, Verifier};
use crate::config::{AddressSource, Provider, Settings, Verify};
use crate::ids::intern;
use crate::intake::country::{Countries, CountryError};
use crate::intake::ranges::{Ranges, RangesError};

/// The configured providers with their presets and proofs.
pub(super) fn known_providers(
    settings: &Settings,
    replays: &Arc<Replays>,
    list: impl Fn(Ranges, &'static str) -> Result<Arc<AddressList>, BuildError>,
) -> Result<Arc<[Known]>, BuildError> {
    let known = |provider: &Provider| {
        let preset = Preset::named(&provider.preset)
            .ok_or_else(|| BuildError::Value(format!("there is no preset {:?}", provider.preset)))?;
        let addresses = |sources: &[AddressSource]| {
            let ranges = open_ranges(sources).map_err(BuildError::Ranges)?;
            list(ranges, intern(&provider.name))
        };
        let proofs = |verify: &Verify| {
            Ok(Proofs {
                require: verify.require,
                secret: verify.secret.clone(),
                addresses: if verify.addresses.is_empty() { None } else { Some(addresses(&verify.addresses)?) },
                client_cert: verify.client_cert.clone(),
                g2o: verify.g2o.as_ref().map(|keys| Verifier::new(keys, Arc::clone(replays))),
            })
        };
        let proofs = provider.verify.as_ref().map(proofs).transpose()?;
        Ok(Known { name: provider.name.clone(), preset, proofs })
    };
    settings.providers.iter().map(known).collect()
}

/// The networks that a provider pulls from.
fn open_ranges(sources: &[AddressSource]) -> Result<Ranges, RangesError> {
    let (mut networks, mut files) = (Vec::new(), Vec::new());
    for source in sources {
        match source {
            AddressSource::Network(network) => networks.push(*network),
            AddressSource::File(path) => files.push(path.clone()),
        }
    }
    Ranges::open(&files, &networks)
}

/// The country file, which is followed from now on.
pub(super) fn open_countries(settings: &Settings) -> Result<Option<Arc<Countries>>, CountryError> {
    let Some(path) = &settings.beacon.country_database else { return Ok(None) };
    let countries = Arc::new(Countries::open(path)?);
    countries.watch().map_err(CountryError::Read)?;
    Ok(Some(countries))
}
