//! Both stores in memory, for tests and for trying things out. Nothing survives the process.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use super::log::check_group;
use super::state::check_batch;
use super::{
    Batch, Frame, FrameKind, KeyRange, KeyValue, LogStore, Position, Scan, StateStore, StorageError,
};
use crate::types::{LogIndex, LogNo};

/// A [`LogStore`] in memory. A position is a number of frames.
#[derive(Debug, Default)]
pub struct MemoryLog {
    inner: RwLock<Frames>,
}

#[derive(Debug, Default)]
struct Frames {
    frames: Vec<Frame>,
    /// Where the entries of each log stand.
    logs: BTreeMap<LogNo, Vec<usize>>,
    bytes: u64,
}

impl MemoryLog {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn frames(&self) -> RwLockReadGuard<'_, Frames> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogStore for MemoryLog {
    fn append(&self, group: &[Frame]) -> Result<Position, StorageError> {
        let mut inner = self.inner.write().map_err(|_| StorageError::Poisoned)?;
        check_group(group, |log| {
            inner
                .logs
                .get(&log)
                .map_or(0, |entries| entries.len() as u64)
        })?;
        for frame in group {
            let at = inner.frames.len();
            if frame.kind == FrameKind::Entry {
                inner.logs.entry(frame.log).or_default().push(at);
            }
            inner.bytes += frame.payload.len() as u64;
            inner.frames.push(frame.clone());
        }
        Ok(Position(inner.frames.len() as u64))
    }

    fn size(&self, log: LogNo) -> u64 {
        self.frames()
            .logs
            .get(&log)
            .map_or(0, |entries| entries.len() as u64)
    }

    fn read(&self, log: LogNo, index: LogIndex) -> Result<Option<Bytes>, StorageError> {
        let inner = self.frames();
        let entry = || {
            let at = *inner.logs.get(&log)?.get(usize::try_from(index.0).ok()?)?;
            Some(inner.frames.get(at)?.payload.clone())
        };
        Ok(entry())
    }

    fn scan(&self, from: Position, max_bytes: usize) -> Result<Scan, StorageError> {
        let inner = self.frames();
        let rest = usize::try_from(from.0)
            .ok()
            .and_then(|from| inner.frames.get(from..));
        let Some(rest) = rest else {
            let what = format!(
                "position {} is behind the end {}",
                from.0,
                inner.frames.len()
            );
            return Err(StorageError::Corrupt { what });
        };
        let (mut scan, mut left) = (
            Scan {
                frames: Vec::new(),
                next: from,
            },
            max_bytes,
        );
        for frame in rest {
            if left == 0 && !scan.frames.is_empty() {
                break;
            }
            left = left.saturating_sub(frame.payload.len().max(1));
            scan.frames.push((scan.next, frame.clone()));
            scan.next.0 += 1;
        }
        Ok(scan)
    }

    fn end(&self) -> Position {
        Position(self.frames().frames.len() as u64)
    }

    fn settle(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn bytes_on_disk(&self) -> u64 {
        self.frames().bytes
    }
}

/// A [`StateStore`] in memory.
#[derive(Debug, Default)]
pub struct MemoryState {
    keys: RwLock<BTreeMap<Vec<u8>, Bytes>>,
}

impl MemoryState {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Vec<u8>, Bytes>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> Result<RwLockWriteGuard<'_, BTreeMap<Vec<u8>, Bytes>>, StorageError> {
        self.keys.write().map_err(|_| StorageError::Poisoned)
    }

    /// The next pair of a range, if any; one look-up, so that a scan holds no lock between pairs.
    fn next(&self, start: Bound<&[u8]>, end: Bound<&[u8]>, reverse: bool) -> Option<KeyValue> {
        let keys = self.read();
        let mut pairs = keys.range::<[u8], _>((start, end));
        let (key, value) = if reverse {
            pairs.next_back()
        } else {
            pairs.next()
        }?;
        Some((Bytes::copy_from_slice(key), value.clone()))
    }
}

impl StateStore for MemoryState {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self.read().get(key).cloned())
    }

    fn scan<'a>(
        &'a self,
        range: KeyRange,
        reverse: bool,
    ) -> Box<dyn Iterator<Item = Result<KeyValue, StorageError>> + Send + 'a> {
        let mut seen: Option<Bytes> = None;
        Box::new(std::iter::from_fn(move || {
            let (mut start, mut end) = (Bound::Included(range.start.as_slice()), Bound::Unbounded);
            if let Some(behind) = &range.end {
                end = Bound::Excluded(behind.as_slice());
            }
            if range.is_empty() {
                return None;
            }
            match &seen {
                Some(key) if reverse => end = Bound::Excluded(key),
                Some(key) => start = Bound::Excluded(key),
                None => {}
            }
            // The two would meet on one excluded key, which a map does not take, only here.
            if let (Bound::Excluded(start), Bound::Excluded(end)) = (start, end)
                && start >= end
            {
                return None;
            }
            let pair = self.next(start, end, reverse)?;
            seen = Some(pair.0.clone());
            Some(Ok(pair))
        }))
    }

    fn apply(&self, batch: Batch) -> Result<(), StorageError> {
        check_batch(&batch)?;
        let mut keys = self.write()?;
        for (key, value) in batch.changes {
            match value {
                Some(value) => keys.insert(key.to_vec(), value),
                None => keys.remove(key.as_ref()),
            };
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn bytes_on_disk(&self) -> u64 {
        self.read()
            .iter()
            .map(|(key, value)| (key.len() + value.len()) as u64)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::suite::{log_suite, state_suite};

    #[test]
    fn the_log_keeps_the_contract() {
        log_suite(|_| MemoryLog::new());
    }

    #[test]
    fn the_state_keeps_the_contract() {
        state_suite(|_| MemoryState::new());
    }
}
