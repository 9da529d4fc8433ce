//! Both stores in memory, for tests: the same contracts, nothing durable.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use bytes::Bytes;

use super::{
    Batch, Frame, FrameKind, KeyRange, KeyValue, LogStore, MAX_VALUE_BYTES, Position, Scan,
    StateStore, StorageError,
};
use crate::types::{LogIndex, LogNo};

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// A log in memory. A position is the number of frames before it.
#[derive(Debug, Default)]
pub struct MemoryLog(RwLock<Frames>);

#[derive(Debug, Default)]
struct Frames {
    frames: Vec<Frame>,
    logs: BTreeMap<LogNo, Vec<Bytes>>,
}

impl LogStore for MemoryLog {
    fn append(&self, group: &[Frame]) -> Result<Position, StorageError> {
        let mut held = write(&self.0);
        check_group(group, |log| held.logs.get(&log).map_or(0, Vec::len) as u64)?;
        for frame in group {
            if frame.kind == FrameKind::Entry {
                held.logs
                    .entry(frame.log)
                    .or_default()
                    .push(frame.payload.clone());
            }
            held.frames.push(frame.clone());
        }
        Ok(Position(held.frames.len() as u64))
    }

    fn size(&self, log: LogNo) -> u64 {
        read(&self.0).logs.get(&log).map_or(0, Vec::len) as u64
    }

    fn read(&self, log: LogNo, index: LogIndex) -> Result<Option<Bytes>, StorageError> {
        let held = read(&self.0);
        let entries = held.logs.get(&log);
        Ok(entries
            .and_then(|e| e.get(usize::try_from(index.0).ok()?))
            .cloned())
    }

    fn scan(&self, from: Position, max_bytes: usize) -> Result<Scan, StorageError> {
        let held = read(&self.0);
        let start = usize::try_from(from.0).unwrap_or(usize::MAX);
        let rest = held
            .frames
            .get(start..)
            .ok_or_else(|| StorageError::Corrupt {
                what: format!("position {} is not the start of a frame", from.0),
            })?;
        let (mut frames, mut bytes, mut next) = (Vec::new(), 0, from);
        for frame in rest {
            if bytes > 0 && bytes + frame.payload.len() > max_bytes {
                break;
            }
            bytes += frame.payload.len();
            frames.push((next, frame.clone()));
            next.0 += 1;
        }
        Ok(Scan { frames, next })
    }

    fn end(&self) -> Position {
        Position(read(&self.0).frames.len() as u64)
    }

    fn settle(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn bytes_on_disk(&self) -> u64 {
        0
    }
}

/// Refuses a group that no log store takes: empty, with a gap, or with a frame that is too large.
///
/// # Errors
/// [`StorageError::Failed`] says which.
pub(super) fn check_group(
    group: &[Frame],
    size: impl Fn(LogNo) -> u64,
) -> Result<(), StorageError> {
    let refuse = |cause: String| {
        Err(StorageError::Failed {
            doing: "checking a group",
            cause,
        })
    };
    if group.is_empty() {
        return refuse("it is empty".to_owned());
    }
    let mut sizes = BTreeMap::new();
    for frame in group {
        if frame.payload.len() > Frame::MAX_BYTES {
            return refuse(format!("a frame has {} bytes", frame.payload.len()));
        }
        if frame.kind == FrameKind::Entry {
            let next = sizes.entry(frame.log).or_insert_with(|| size(frame.log));
            if frame.index.0 != *next {
                let (log, index) = (frame.log.0, frame.index.0);
                return refuse(format!("log {log} goes on at {next}, not at {index}"));
            }
            *next += 1;
        }
    }
    Ok(())
}

/// A state in memory.
#[derive(Debug, Default)]
pub struct MemoryState(RwLock<BTreeMap<Vec<u8>, Bytes>>);

impl MemoryState {
    fn step(&self, range: &KeyRange, reverse: bool) -> Option<KeyValue> {
        let held = read(&self.0);
        let end = range.end.clone().map_or(Bound::Unbounded, Bound::Excluded);
        if range.end.as_ref().is_some_and(|end| *end <= range.start) {
            return None;
        }
        let mut pairs = held.range((Bound::Included(range.start.clone()), end));
        let pair = if reverse {
            pairs.next_back()
        } else {
            pairs.next()
        };
        pair.map(|(key, value)| (Bytes::copy_from_slice(key), value.clone()))
    }
}

impl StateStore for MemoryState {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(read(&self.0).get(key).cloned())
    }

    fn scan<'a>(
        &'a self,
        mut range: KeyRange,
        reverse: bool,
    ) -> Box<dyn Iterator<Item = Result<KeyValue, StorageError>> + Send + 'a> {
        Box::new(std::iter::from_fn(move || {
            let (key, value) = self.step(&range, reverse)?;
            if reverse {
                range.end = Some(key.to_vec());
            } else {
                range.start = [key.as_ref(), &[0]].concat();
            }
            Some(Ok((key, value)))
        }))
    }

    fn apply(&self, batch: Batch) -> Result<(), StorageError> {
        let too_long = batch
            .changes
            .values()
            .flatten()
            .any(|v| v.len() > MAX_VALUE_BYTES);
        if too_long {
            let cause = format!("a value is over {MAX_VALUE_BYTES} bytes");
            return Err(StorageError::Failed {
                doing: "applying a batch",
                cause,
            });
        }
        let mut held = write(&self.0);
        for (key, value) in batch.changes {
            match value {
                Some(value) => drop(held.insert(key, value.into())),
                None => drop(held.remove(&key)),
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn bytes_on_disk(&self) -> u64 {
        0
    }
}
