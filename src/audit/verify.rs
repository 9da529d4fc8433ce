//! Checking a trail: every record, every link, from the oldest that is kept to the newest.

use std::path::Path;

use super::{
    AuditError, Hash,
    segment::{self, Segment, hash_after},
};

/// What was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checked {
    /// Records.
    pub records: u64,
    /// The sequence of the first.
    pub oldest: u64,
    /// The hash after the last.
    pub hash: Hash,
}

/// Checks the trail in a folder whose node is stopped. A record that is cut at the very end is damage too:
/// where a crash has cut it, the next start of the node cuts it off.
///
/// # Errors
/// [`AuditError::Damaged`] names the file and the record.
pub fn verify(folder: &Path) -> Result<Checked, AuditError> {
    let files = segment::files(folder)?;
    let (_, (durable, marked)) = super::mark(folder)?;
    let mut checked = Checked::default();
    let mut chain: Option<(u64, Hash)> = None;
    for first in &files {
        let path = segment::path(folder, *first);
        let segment = Segment::read(&path)?;
        let damaged = |what: String| AuditError::Damaged {
            path: path.clone(),
            what,
        };
        let header = segment.header;
        if header.first != *first {
            return Err(damaged("its name is not that of its header".to_owned()));
        }
        match chain {
            None => checked.oldest = header.first,
            Some((next, _)) if next != header.first => {
                return Err(damaged(format!("record {next} is missing before it")));
            }
            Some((_, hash)) if hash != header.before => {
                return Err(damaged("it does not follow the file before it".to_owned()));
            }
            Some(_) => {}
        }
        if let Some(what) = segment.torn() {
            return Err(damaged(what.to_owned()));
        }
        for (sequence, chained) in (header.first..).zip(&segment.records) {
            if u64::try_from(chained.record.sequence) != Ok(sequence) {
                return Err(damaged(format!("record {sequence} is out of its place")));
            }
            if sequence + 1 == durable && chained.hash != marked {
                return Err(damaged(format!(
                    "record {sequence} is not the one that was marked"
                )));
            }
        }
        let count = segment.records.len() as u64;
        checked.records += count;
        checked.hash = segment
            .records
            .last()
            .map_or(header.before, |last| last.hash);
        chain = Some((header.first + count, checked.hash));
    }
    match chain {
        Some((next, _)) if next < durable => Err(AuditError::Damaged {
            path: folder.to_owned(),
            what: format!("records from {next} to {durable} are missing at the end"),
        }),
        None if durable > 0 => Err(AuditError::Damaged {
            path: folder.to_owned(),
            what: "its files are missing".to_owned(),
        }),
        _ => Ok(checked),
    }
}

/// Checks records that were exported: each must follow the one before it. Returns the hash after the
/// last.
///
/// # Errors
/// The place, from 0, of the first that does not.
pub fn verify_chain<'a>(
    before: Hash,
    records: impl IntoIterator<Item = (&'a [u8], Hash)>,
) -> Result<Hash, usize> {
    let mut hash = before;
    for (at, (bytes, claimed)) in records.into_iter().enumerate() {
        hash = hash_after(&hash, bytes);
        if hash != claimed {
            return Err(at);
        }
    }
    Ok(hash)
}
