//! The contract of the derived state: ordered keys, small values, atomic batches.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::StorageError;

/// The largest value that a state store takes. sled is not crash-safe above 4,000 bytes.
pub const MAX_VALUE_BYTES: usize = 4_000;

/// Changes that are applied together: a key to its new value, or to `None` to remove it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// The changes in key order.
    pub changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

/// A half-open range of keys: `start` is in it, `end` is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key.
    pub start: Vec<u8>,
    /// The key behind the last; `None` for no end.
    pub end: Option<Vec<u8>>,
}

impl KeyRange {
    /// All keys that begin with `prefix`.
    #[must_use]
    pub fn prefix(prefix: &[u8]) -> Self {
        let mut end = prefix.to_vec();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                return Self {
                    start: prefix.to_vec(),
                    end: Some(end),
                };
            }
        }
        Self {
            start: prefix.to_vec(),
            end: None,
        }
    }
}

/// A pair that a scan yields.
pub type KeyValue = (Bytes, Bytes);

/// Ordered keys with small values, all of it derivable from the log.
pub trait StateStore: Send + Sync + 'static {
    /// The value of a key.
    ///
    /// # Errors
    /// [`StorageError::Failed`], [`StorageError::Corrupt`], [`StorageError::Poisoned`].
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError>;

    /// The pairs of a range in key order, or in reverse. Lazy: a caller that stops early pays for
    /// what it took.
    fn scan<'a>(
        &'a self,
        range: KeyRange,
        reverse: bool,
    ) -> Box<dyn Iterator<Item = Result<KeyValue, StorageError>> + Send + 'a>;

    /// Applies a batch: readers see all of it or none.
    ///
    /// # Durability
    /// After a kill of the process, a prefix of the applied batches is there. Only
    /// [`StateStore::sync`] makes them survive a power cut.
    ///
    /// # Errors
    /// As [`StateStore::get`], and [`StorageError::Full`]. A value over [`MAX_VALUE_BYTES`] is
    /// refused as `Failed`, without being written.
    fn apply(&self, batch: Batch) -> Result<(), StorageError>;

    /// Makes everything applied so far survive a power cut.
    ///
    /// # Errors
    /// As [`StateStore::apply`].
    fn sync(&self) -> Result<(), StorageError>;

    /// Bytes that the store takes on disk.
    fn bytes_on_disk(&self) -> u64;
}
