//! Doubles that fail on purpose, in the two ways in which an append can fail.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use super::{Frame, LogStore, Position, Scan, StorageError};
use crate::types::{LogIndex, LogNo};

/// How an append fails. The caller is told the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing of the group is there.
    NotPersisted,
    /// The group is there, and after a restart it is read.
    PersistedButFailed,
}

/// A log that fails when it is told to, and is poisoned from then on.
#[derive(Debug)]
pub(crate) struct FaultyLog<L> {
    inner: L,
    next: Mutex<Option<Fault>>,
    is_poisoned: AtomicBool,
}

impl<L: LogStore> FaultyLog<L> {
    pub(crate) fn new(inner: L) -> Self {
        Self {
            inner,
            next: Mutex::new(None),
            is_poisoned: AtomicBool::new(false),
        }
    }

    /// The next append fails.
    pub(crate) fn fail_next(&self, fault: Fault) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
    }

    /// What a restart finds.
    pub(crate) fn restart(self) -> Self {
        Self::new(self.inner)
    }

    fn alive(&self) -> Result<(), StorageError> {
        match self.is_poisoned.load(Ordering::Acquire) {
            true => Err(StorageError::Poisoned),
            false => Ok(()),
        }
    }
}

impl<L: LogStore> LogStore for FaultyLog<L> {
    fn append(&self, group: &[Frame]) -> Result<Position, StorageError> {
        self.alive()?;
        let Some(fault) = self
            .next
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        else {
            return self.inner.append(group);
        };
        self.is_poisoned.store(true, Ordering::Release);
        if fault == Fault::PersistedButFailed {
            self.inner.append(group)?;
        }
        Err(StorageError::Failed {
            doing: "appending",
            cause: "on purpose".into(),
        })
    }

    fn size(&self, log: LogNo) -> u64 {
        self.inner.size(log)
    }

    fn read(&self, log: LogNo, index: LogIndex) -> Result<Option<Bytes>, StorageError> {
        self.inner.read(log, index)
    }

    fn scan(&self, from: Position, max_bytes: usize) -> Result<Scan, StorageError> {
        self.inner.scan(from, max_bytes)
    }

    fn end(&self) -> Position {
        self.inner.end()
    }

    fn settle(&self) -> Result<(), StorageError> {
        self.alive()?;
        self.inner.settle()
    }

    fn bytes_on_disk(&self) -> u64 {
        self.inner.bytes_on_disk()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::suite::{assert_holds, entry, log_suite};
    use crate::storage::{Journal, JournalOptions, MemoryLog};

    fn fails_and_stays_poisoned<L: LogStore>(inner: L, fault: Fault) {
        let log = FaultyLog::new(inner);
        log.append(&[entry(0, 0)]).unwrap();
        log.fail_next(fault);
        assert!(matches!(
            log.append(&[entry(0, 1)]),
            Err(StorageError::Failed { .. })
        ));
        for _ in 0..2 {
            assert!(matches!(
                log.append(&[entry(0, 1)]),
                Err(StorageError::Poisoned)
            ));
            assert!(matches!(log.settle(), Err(StorageError::Poisoned)));
        }
        assert_eq!(
            log.read(LogNo(0), LogIndex(0)).unwrap(),
            Some(entry(0, 0).payload)
        );
        let log = log.restart();
        match fault {
            Fault::NotPersisted => assert_holds(&log, &[vec![entry(0, 0)]]),
            Fault::PersistedButFailed => {
                assert_holds(&log, &[vec![entry(0, 0)], vec![entry(0, 1)]])
            }
        }
        log.append(&[entry(0, log.size(LogNo(0)))]).unwrap();
    }

    #[test]
    fn callers_see_poison_after_either_fault() {
        for fault in [Fault::NotPersisted, Fault::PersistedButFailed] {
            fails_and_stays_poisoned(MemoryLog::new(), fault);
            let dir = tempfile::tempdir().unwrap();
            let journal = Journal::open(dir.path(), JournalOptions::default()).unwrap();
            fails_and_stays_poisoned(journal, fault);
        }
    }

    #[test]
    fn without_a_fault_it_keeps_the_contract() {
        log_suite(|_| FaultyLog::new(MemoryLog::new()));
    }
}
