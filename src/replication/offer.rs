//! A log that a child offers.

use super::{MAX_KEY_CHANGES, signed_checkpoint};
use crate::{
    ledger::{
        key_history::KeyHistory,
        note::{KeyUse, Note, VerifierKey},
    },
    proto::replication::v1 as pb,
    types::{Origin, Reason, Refusal, TrustDomain},
};

/// A log that is offered, as far as it can be checked alone.
pub(super) struct Offered {
    pub origin: Origin,
    pub keys: KeyHistory,
    pub note: Option<Note>,
}

impl Offered {
    pub fn parse(offer: &pb::LogOffer, domain: &TrustDomain) -> Result<Self, Refusal> {
        let invalid = |en: String| {
            Refusal::new(Reason::CheckpointInvalid).because(en, "日志的来源或密钥无效")
        };
        let origin: Origin = offer.origin.parse().map_err(|e| invalid(format!("{e}")))?;
        if origin.domain() != domain {
            return Err(invalid(format!(
                "the log belongs to the trust domain {}",
                origin.domain()
            )));
        }
        let key: VerifierKey = offer
            .verifier_key
            .parse()
            .map_err(|e| invalid(format!("{e}")))?;
        if key.purpose() != KeyUse::Log || key.name() != origin.as_str() {
            return Err(invalid(
                "the key is not a log key of that origin".to_owned(),
            ));
        }
        if offer.key_changes.len() > MAX_KEY_CHANGES {
            return Err(invalid("its key was changed too often".to_owned()));
        }
        let keys = KeyHistory::told(key, &offer.key_changes);
        let keys = keys.map_err(|e| invalid(format!("{e}")))?;
        let note = match offer.checkpoint.as_str() {
            "" => None,
            text => Some(signed_checkpoint(text, &keys)?),
        };
        Ok(Self { origin, keys, note })
    }
}
