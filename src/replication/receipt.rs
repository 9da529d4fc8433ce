//! Cosignatures that come from above: what makes one worth keeping.

use super::Board;
use crate::{
    ledger::{
        LogView,
        entry::timestamp,
        note::{Checkpoint, Note, VerifierKey},
    },
    proto::ledger::v1 as pb,
    types::NodeId,
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

/// The key under which a node cosigns: named after it, and the one that it has used before.
///
/// # Errors
/// What does not fit.
pub(super) fn cosigner(board: &Board, node: &str, key: &str) -> Result<VerifierKey, String> {
    let id: NodeId = node
        .parse()
        .map_err(|e| format!("the cosigner's node: {e}"))?;
    let parsed: VerifierKey = key.parse().map_err(|e| format!("the key of {id}: {e}"))?;
    let name = format!("{}/{id}", board.own().domain());
    if parsed.name() != name {
        return Err(format!("the key of {id} has the name {}", parsed.name()));
    }
    let receipts = board.receipts();
    let receipts = receipts.borrow();
    let known = receipts.iter().find(|((_, n), _)| n == node);
    match known {
        Some((_, known)) if known.verifier_key != key => Err(format!(
            "{id} cosigns with another key than before; if it was renewed, an operator must say so"
        )),
        _ => Ok(parsed),
    }
}

/// Reads a cosigned note: it must bear the signature of the log's origin, and that of the cosigner.
///
/// # Errors
/// What does not fit.
pub(super) fn read(
    view: &LogView,
    node: &str,
    key: &VerifierKey,
    note: &str,
) -> Result<Receipt, String> {
    let parsed: Note = note.parse().map_err(|e| format!("a cosigned note: {e}"))?;
    let signed = parsed
        .verify_log(&view.key)
        .map_err(|e| format!("a cosigned note: {e}"))?;
    let size = i64::try_from(signed.size).map_err(|_| "a cosigned note is too large".to_owned())?;
    let time = parsed
        .verify_cosignature(key)
        .map_err(|e| format!("a cosigned note: {e}"))?;
    let cosignature = pb::Cosignature {
        node: node.to_owned(),
        size,
        time: Some(timestamp(time)),
        note: note.to_owned(),
        verifier_key: key.to_string(),
        inclusion: Vec::new(),
        carried_time: None,
    };
    Ok(Receipt {
        note: parsed,
        cosignature,
    })
}
