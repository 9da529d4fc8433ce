//! Batches: cutting one out of a log that is held here, and reading one that came.

use std::sync::Arc;

use bytes::Bytes;

use super::{MAX_BATCH_BYTES, MAX_BATCH_ENTRIES, root_at};
use crate::{
    ledger::{Ledger, LogView, keys, merkle::leaf_hash, note::Checkpoint, note::Note},
    proto::replication::v1 as pb,
    storage::{KeyRange, StorageError},
    types::{LogIndex, LogNo, Reason, Refusal},
};

/// A batch that is ready to go, and what it must be cosigned as.
pub(super) struct Outgoing {
    pub checkpoint: Checkpoint,
    pub bytes: usize,
    pub message: pb::Batch,
}

/// Cuts the next batch of a log from `start` on, as large as the limits and `max_bytes` allow. `None` where there is
/// nothing, or no checkpoint yet, to send.
///
/// # Errors
/// Where an entry or a tile cannot be read.
pub(super) fn cut(
    ledger: &Ledger,
    view: &Arc<LogView>,
    start: u64,
    max_bytes: usize,
) -> Result<Option<Outgoing>, StorageError> {
    let mut entries = read(ledger, view, start, view.tree.size(), max_bytes)?;
    if entries.is_empty() {
        return Ok(None);
    }
    let reach = start + entries.len() as u64;
    let (note, checkpoint) = if view.log == LogNo::OWN {
        own_checkpoint(ledger, view, reach)?
    } else {
        let Some(note) = checkpoint_within(ledger, view, start, reach)? else {
            return Ok(None);
        };
        (note.to_string(), note.checkpoint().clone())
    };
    // No checkpoint was received within reach: the batch is as long as the one that came.
    if checkpoint.size > reach {
        entries.extend(read_all(ledger, view, reach, checkpoint.size)?);
    }
    entries.truncate(usize::try_from(checkpoint.size - start).unwrap_or(usize::MAX));
    let message = pb::Batch {
        origin: view.origin().to_owned(),
        start,
        checkpoint: note,
        entries,
    };
    Ok(Some(Outgoing {
        bytes: size_of_entries(&message.entries),
        checkpoint,
        message,
    }))
}

/// The own log is signed at any size that was published.
pub(super) fn own_checkpoint(
    ledger: &Ledger,
    view: &LogView,
    size: u64,
) -> Result<(String, Checkpoint), StorageError> {
    let checkpoint = Checkpoint {
        origin: view.origin().to_owned(),
        size,
        root: root_at(ledger, view, size)?,
    };
    // The key of this very view: another one may have come into force that the parent was not told of yet.
    let signer = view.signer.clone().unwrap_or_else(|| ledger.key());
    Ok((signer.sign(&checkpoint), checkpoint))
}

/// The newest checkpoint behind `start` and within `reach`; the first one behind it where there is none.
fn checkpoint_within(
    ledger: &Ledger,
    view: &LogView,
    start: u64,
    reach: u64,
) -> Result<Option<Note>, StorageError> {
    let range = KeyRange {
        start: keys::checkpoint(view.log, start + 1),
        end: Some(keys::checkpoint(view.log, reach + 1)),
    };
    match ledger.believed_checkpoint(view, range, true)? {
        Some(note) => Ok(Some(note)),
        None => ledger.checkpoint_from(view, start + 1),
    }
}

/// Entries from `start` on until `end` or a limit; at least one where there is one.
fn read(
    ledger: &Ledger,
    view: &LogView,
    start: u64,
    end: u64,
    max_bytes: usize,
) -> Result<Vec<Bytes>, StorageError> {
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for index in (start..end).take(MAX_BATCH_ENTRIES) {
        let entry = read_one(ledger, view, index)?;
        bytes += entry.len();
        if bytes > max_bytes && !entries.is_empty() {
            break;
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn read_all(
    ledger: &Ledger,
    view: &LogView,
    start: u64,
    end: u64,
) -> Result<Vec<Bytes>, StorageError> {
    (start..end)
        .map(|index| read_one(ledger, view, index))
        .collect()
}

fn read_one(ledger: &Ledger, view: &LogView, index: u64) -> Result<Bytes, StorageError> {
    let entry = ledger.journal().read(view.log, LogIndex(index))?;
    entry.ok_or_else(|| StorageError::Corrupt {
        what: format!("entry {index} of {} is missing", view.origin()),
    })
}

fn size_of_entries(entries: &[Bytes]) -> usize {
    entries.iter().map(Bytes::len).sum()
}

/// Whether a batch that came keeps to the limits, and ends at the checkpoint that it bears.
///
/// # Errors
/// [`Reason::RequestMalformed`], [`Reason::MessageTooLarge`], [`Reason::CheckpointInvalid`].
pub(super) fn check(batch: &pb::Batch, checkpoint: &Checkpoint) -> Result<(), Refusal> {
    let count = batch.entries.len();
    if count == 0 {
        let refusal = Refusal::new(Reason::RequestMalformed);
        return Err(refusal.because("a batch has no entries", "批次中没有条目"));
    }
    let too_long = count > 1 && size_of_entries(&batch.entries) > MAX_BATCH_BYTES;
    if count > MAX_BATCH_ENTRIES || too_long {
        let en = format!("a batch has at most {MAX_BATCH_ENTRIES} entries and 2 MiB");
        return Err(Refusal::new(Reason::MessageTooLarge).because(en, "批次超过条数或字节上限"));
    }
    if batch.start.checked_add(count as u64) != Some(checkpoint.size) {
        let en = format!(
            "{count} entries from {} on do not end at size {}",
            batch.start, checkpoint.size
        );
        return Err(Refusal::new(Reason::CheckpointInvalid).because(en, "条目数与检查点大小不符"));
    }
    Ok(())
}

/// Whether a batch that starts where `view` ends hashes to the root that its checkpoint names.
pub(super) fn hashes_to(view: &LogView, batch: &pb::Batch, checkpoint: &Checkpoint) -> bool {
    let leaves: Vec<_> = batch.entries.iter().map(|entry| leaf_hash(entry)).collect();
    view.tree.root_with(&leaves) == checkpoint.root
}
