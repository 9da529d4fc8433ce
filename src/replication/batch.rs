//! Cutting a log into batches, each ending at a size that its origin has signed.

use bytes::Bytes;

use crate::{
    ledger::{Ledger, LogView, merkle::ProofError, note::Checkpoint},
    proto::replication::v1::Batch,
    storage::StorageError,
    types::{LogIndex, LogNo},
};

/// Entries of a batch at most.
pub const MAX_ENTRIES: usize = 1_024;
/// Bytes of a batch's entries at which it ends.
pub const MAX_BYTES: usize = 2 * 1024 * 1024;

/// The batch of a log that starts at `start`; `None` where nothing can be sent yet.
///
/// Of the own log any size can be signed. A log from below can only end where its origin has signed: at
/// the checkpoints that came with it.
///
/// # Errors
/// As the stores.
pub fn cut(ledger: &Ledger, view: &LogView, start: u64) -> Result<Option<Batch>, StorageError> {
    let size = view.tree.size();
    if start >= size {
        return Ok(None);
    }
    let (end, note) = if view.log == LogNo::OWN {
        (size.min(start + MAX_ENTRIES as u64), None)
    } else {
        match ledger.checkpoint_from(view.log, start + 1)? {
            Some(note) if note.checkpoint().size <= size => {
                (note.checkpoint().size, Some(note.to_string()))
            }
            _ => return Ok(None),
        }
    };
    let entries = read(ledger, view.log, start, end, note.is_none())?;
    let end = start + entries.len() as u64;
    let checkpoint = match note {
        Some(note) => note,
        None if end == size => view.note.clone(),
        None => sign(ledger, view, end)?,
    };
    Ok(Some(Batch {
        origin: view.origin().to_owned(),
        start,
        entries,
        checkpoint,
    }))
}

fn sign(ledger: &Ledger, view: &LogView, size: u64) -> Result<String, StorageError> {
    let root = ledger.root_at(view, size).map_err(|error| match error {
        ProofError::Source(error) => error,
        ProofError::OutOfRange => StorageError::Corrupt {
            what: format!("no root at {size}"),
        },
    })?;
    Ok(ledger.key().sign(&Checkpoint {
        origin: view.origin().to_owned(),
        size,
        root,
    }))
}

fn read(
    ledger: &Ledger,
    log: LogNo,
    start: u64,
    end: u64,
    may_cut: bool,
) -> Result<Vec<Bytes>, StorageError> {
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for index in start..end {
        let entry = ledger.journal().read(log, LogIndex(index))?;
        let entry = entry.ok_or_else(|| StorageError::Corrupt {
            what: format!("entry {index} of log {log} is missing"),
        })?;
        bytes += entry.len();
        entries.push(entry);
        if may_cut && bytes >= MAX_BYTES {
            break;
        }
    }
    Ok(entries)
}
