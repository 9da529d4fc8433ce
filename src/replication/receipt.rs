//! Cosignatures that come from above: what makes one worth keeping.

use super::keys::Cosigner;
use crate::{
    ledger::{
        LogView,
        entry::timestamp,
        note::{Checkpoint, Note},
    },
    proto::ledger::v1 as pb,
};

/// A cosignature whose signatures are right. Whether its root is ours is another question.
pub(super) struct Receipt {
    pub note: Note,
    pub cosignature: pb::Cosignature,
}

impl Receipt {
    pub fn checkpoint(&self) -> &Checkpoint {
        self.note.checkpoint()
    }
}

/// Reads a cosigned note: it must bear the signature of the log's origin, and that of the cosigner.
///
/// # Errors
/// What does not fit.
pub(super) fn read(
    view: &LogView,
    node: &str,
    cosigner: &Cosigner,
    note: &str,
) -> Result<Receipt, String> {
    let parsed: Note = note.parse().map_err(|e| format!("a cosigned note: {e}"))?;
    // One that was replaced since was in force when this was cosigned.
    view.keys
        .signer(&parsed)
        .map_err(|e| format!("a cosigned note: {e}"))?;
    let size = i64::try_from(parsed.checkpoint().size)
        .map_err(|_| "a cosigned note is too large".to_owned())?;
    let (key, time) = cosigner
        .verify(&parsed)
        .map_err(|e| format!("a cosigned note: {e}"))?;
    let cosignature = pb::Cosignature {
        node: node.to_owned(),
        size,
        time: Some(timestamp(time)),
        note: note.to_owned(),
        verifier_key: key.to_string(),
        inclusion: Vec::new(),
        carried_time: None,
        key_changes: Vec::new(),
    };
    Ok(Receipt {
        note: parsed,
        cosignature,
    })
}
