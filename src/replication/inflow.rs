//! A batch on its way in: verified against the checkpoint that its log's origin signed, stored,
//! cosigned. A parent takes them from below, a child takes from above what it has lost.

use std::sync::Arc;

use super::{
    Agreement, agreement,
    batch::{check, hashes_to},
    signed_checkpoint,
};
use crate::{
    ledger::{Intake, Ledger, LogView, MirrorBatch, Mirrored, SubmitError, note::Note},
    proto::replication::v1 as pb,
    storage::StorageError,
    types::{LogNo, NodeId, Reason, Refusal},
};

/// What goes wrong with a message.
pub(super) enum Fault {
    /// This log or batch is refused; the others go on.
    Log(Refusal),
    /// The batch starts elsewhere than where the log ends: here.
    Elsewhere(u64),
    /// The session ends.
    Session(Refusal),
}

impl From<SubmitError> for Fault {
    fn from(_: SubmitError) -> Self {
        Self::Session(Reason::ShuttingDown.into())
    }
}

impl From<StorageError> for Fault {
    fn from(error: StorageError) -> Self {
        tracing::error!(%error, "replication cannot read what is stored");
        Self::Session(Reason::DataDamaged.into())
    }
}

pub(super) fn malformed(en: &str) -> Refusal {
    Refusal::new(Reason::RequestMalformed).because(en, "不符合复制协议")
}

pub(super) fn forked(reason: &str) -> Refusal {
    Refusal::new(Reason::LogForked).because(reason, "已保留证据，请联系上级运维人员")
}

fn closed(reason: &str) -> Refusal {
    let (en, zh) = (
        format!("an operator has closed this log: {reason}"),
        "运维人员已关闭此日志，请以新的日志继续",
    );
    Refusal::new(Reason::LogClosed).because(en, zh)
}

/// Whether a log is taken at all: one that is quarantined or closed is not.
pub(super) fn takes(view: &LogView) -> Result<(), Fault> {
    match (&view.closed, &view.quarantined) {
        (Some(reason), _) => Err(Fault::Log(closed(reason))),
        (None, Some(reason)) => Err(Fault::Log(forked(reason))),
        (None, None) => Ok(()),
    }
}

/// Compares what a log's origin has signed with what is held. What contradicts it is kept.
pub(super) async fn compare(ledger: &Ledger, view: &LogView, note: Note) -> Result<(), Fault> {
    if agreement(ledger, view, note.checkpoint())? != Agreement::Contradicts {
        return Ok(());
    }
    let reason = format!(
        "its origin has signed two roots of size {}",
        note.checkpoint().size
    );
    ledger.quarantine(view.log, note, reason.clone()).await?;
    Err(Fault::Log(forked(&reason)))
}

/// Checks a batch as far as that goes without storing it: its limits, its signature, its place. What came
/// by way of another node (`relayed`) must hash to the signed root, or it is refused without being held
/// against the origin: entries bear no signature.
pub(super) async fn verify(
    ledger: &Ledger,
    view: &Arc<LogView>,
    batch: &pb::Batch,
    relayed: bool,
) -> Result<Note, Fault> {
    takes(view)?;
    let note = signed_checkpoint(&batch.checkpoint, &view.key).map_err(Fault::Log)?;
    check(batch, note.checkpoint()).map_err(Fault::Log)?;
    if view.log != LogNo::OWN {
        compare(ledger, view, note.clone()).await?;
    }
    if batch.start != view.tree.size() {
        return Err(Fault::Elsewhere(view.tree.size()));
    }
    if relayed && !hashes_to(view, batch, note.checkpoint()) {
        return Err(Fault::Log(spoilt()));
    }
    Ok(note)
}

fn spoilt() -> Refusal {
    Refusal::new(Reason::CheckpointInvalid).because(
        "the entries do not hash to the signed root; they were changed on their way",
        "条目与签名的根不符，在转送途中被改动",
    )
}

/// Stores a batch that was checked.
pub(super) async fn store(
    ledger: &Ledger,
    own: &NodeId,
    view: &LogView,
    batch: pb::Batch,
    note: Note,
) -> Result<pb::Cosigned, Fault> {
    let stored = ledger
        .mirror(MirrorBatch {
            log: view.log,
            start: batch.start,
            entries: batch.entries,
            note,
        })
        .await?;
    let (size, note) = stored_as(ledger, stored)?;
    Ok(pb::Cosigned {
        origin: batch.origin,
        size,
        note,
        verifier_key: ledger.key().cosigner_key().to_string(),
        node: own.to_string(),
    })
}

fn stored_as(ledger: &Ledger, mirrored: Mirrored) -> Result<(u64, String), Fault> {
    match mirrored {
        Mirrored::Cosigned { size, note } => Ok((size, note)),
        Mirrored::Elsewhere(size) => Err(Fault::Elsewhere(size)),
        Mirrored::Quarantined(reason) => Err(Fault::Log(forked(&reason))),
        Mirrored::Closed(reason) => Err(Fault::Log(closed(&reason))),
        Mirrored::Unknown => Err(Fault::Log(Reason::LogNotFound.into())),
        Mirrored::NotAsSigned => Err(Fault::Log(spoilt())),
        Mirrored::Unreadable => Err(Fault::Log(malformed(
            "entries of this node's own log are of a later version of hefu; run that version",
        ))),
        Mirrored::NoSpace => {
            let failed = matches!(*ledger.intake().borrow(), Intake::Failed(_));
            let reason = if failed {
                Reason::StorageFailed
            } else {
                Reason::StorageFull
            };
            Err(Fault::Session(reason.into()))
        }
    }
}
