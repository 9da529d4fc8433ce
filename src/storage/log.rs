//! The contract of the log: frames appended in groups, in one order, for ever.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::StorageError;
use crate::types::{LogIndex, LogNo};

/// A place in the node's journal: every frame lies at one, in the order of arrival.
///
/// Positions only grow. Their distance means nothing to a caller; only order does. 0 is the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

/// What a frame holds. The numbers are on disk and stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// An entry of a log: bytes that are hashed and never re-encoded.
    Entry = 1,
    /// Registers a log under its number: origin and key.
    Log = 2,
    /// A signed checkpoint that was received for a log.
    Checkpoint = 3,
    /// A cosignature on a log's checkpoint.
    Cosignature = 4,
    /// Contradicting statements, kept as received.
    Evidence = 5,
    /// An operator's decision about evidence.
    Resolution = 10,
}

/// One frame of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it holds.
    pub kind: FrameKind,
    /// The log that it belongs to.
    pub log: LogNo,
    /// For an entry, its index in the log; for other kinds, the log's size when it was written.
    pub index: LogIndex,
    /// The bytes, opaque to storage. At most [`Frame::MAX_BYTES`].
    pub payload: Bytes,
}

impl Frame {
    /// The largest payload: 16 MiB.
    pub const MAX_BYTES: usize = 16 * 1024 * 1024;
}

/// What [`LogStore::scan`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Whole frames in order, each with the position at which it starts.
    pub frames: Vec<(Position, Frame)>,
    /// Where to go on; equal to [`LogStore::end`] when all was read.
    pub next: Position,
}

/// An append-only store of frames, many logs in one order of arrival.
pub trait LogStore: Send + Sync + 'static {
    /// Appends a group, all of it or none, and returns the position behind it.
    ///
    /// Entries of a log must continue it without a gap: index = [`LogStore::size`], then + 1 each.
    ///
    /// # Durability
    /// When this returns `Ok` the group survives a power cut. When it returns an error the group may
    /// or may not be there after a restart, and the store takes no more appends.
    ///
    /// # Errors
    /// [`StorageError::Full`], [`StorageError::Failed`], [`StorageError::Poisoned`]. A group that is
    /// empty, has a gap, or has a frame over [`Frame::MAX_BYTES`] is refused as `Failed` without
    /// being written and without poisoning.
    fn append(&self, group: &[Frame]) -> Result<Position, StorageError>;

    /// The number of entries that `log` has; 0 for a log that is not known.
    fn size(&self, log: LogNo) -> u64;

    /// The bytes of one entry, checked against their checksum; `None` past the end.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] names the log and the index.
    fn read(&self, log: LogNo, index: LogIndex) -> Result<Option<Bytes>, StorageError>;

    /// Whole frames from `from` on, of all kinds, up to about `max_bytes` of payload but at least one
    /// where there is one.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] where a frame is damaged or `from` is not the start of a frame.
    fn scan(&self, from: Position, max_bytes: usize) -> Result<Scan, StorageError>;

    /// The position behind the last group.
    fn end(&self) -> Position;

    /// Makes whatever shortens the next start durable (for a journal: its index). Losing it costs
    /// time at start, never content.
    ///
    /// # Errors
    /// As [`LogStore::append`].
    fn settle(&self) -> Result<(), StorageError>;

    /// Bytes that the store takes on disk.
    fn bytes_on_disk(&self) -> u64;
}

/// Refuses what must not be written at all. `size` tells how many entries a log has.
pub(super) fn check_group(
    group: &[Frame],
    size: impl Fn(LogNo) -> u64,
) -> Result<(), StorageError> {
    let refuse = |cause: String| {
        Err(StorageError::Failed {
            doing: "appending",
            cause,
        })
    };
    if group.is_empty() {
        return refuse("the group is empty".into());
    }
    let mut due: BTreeMap<LogNo, u64> = BTreeMap::new();
    for Frame {
        kind,
        log,
        index,
        payload,
    } in group
    {
        if payload.len() > Frame::MAX_BYTES {
            return refuse(format!(
                "a frame of log {} has {} bytes",
                log.0,
                payload.len()
            ));
        }
        if *kind != FrameKind::Entry {
            continue;
        }
        let due = due.entry(*log).or_insert_with(|| size(*log));
        if *due != index.0 {
            return refuse(format!(
                "log {} has {due} entries; got index {}",
                log.0, index.0
            ));
        }
        *due += 1;
    }
    Ok(())
}
