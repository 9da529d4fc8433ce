//! The contract of the derived state: ordered keys, small values, atomic batches.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::StorageError;

/// The largest value that a state store takes: what the embedded engine keeps across a power cut.
pub const MAX_VALUE_BYTES: usize = 4_000;

/// The longest key that a state store takes.
pub const MAX_KEY_BYTES: usize = 1_000;

/// Changes that are applied together: a key to its new value, or to `None` to remove it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// The changes in key order.
    pub changes: BTreeMap<Bytes, Option<Bytes>>,
}

impl Batch {
    /// Sets a key.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.changes.insert(key.into(), Some(value.into()));
    }

    /// Removes a key.
    pub fn remove(&mut self, key: impl Into<Bytes>) {
        self.changes.insert(key.into(), None);
    }
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

    /// Whether no key can be in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
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
    /// what it took. Each key comes at most once; a pair that is changed meanwhile comes in its old
    /// or in its new state.
    fn scan<'a>(
        &'a self,
        range: KeyRange,
        reverse: bool,
    ) -> Box<dyn Iterator<Item = Result<KeyValue, StorageError>> + Send + 'a>;

    /// Applies a batch. After a kill all of it is there or nothing. A reader meanwhile may see some of
    /// the changes.
    ///
    /// # Durability
    /// After a kill of the process, a prefix of the applied batches is there. Only
    /// [`StateStore::sync`] makes them survive a power cut.
    ///
    /// # Errors
    /// As [`StateStore::get`], and [`StorageError::Full`]. A value over [`MAX_VALUE_BYTES`] or a key
    /// over [`MAX_KEY_BYTES`] is refused as `Failed`, without anything being written.
    fn apply(&self, batch: Batch) -> Result<(), StorageError>;

    /// Makes everything applied so far survive a power cut.
    ///
    /// # Errors
    /// As [`StateStore::apply`].
    fn sync(&self) -> Result<(), StorageError>;

    /// Tells of a failure that no call has met: of a store that goes on by itself.
    ///
    /// # Errors
    /// [`StorageError::Poisoned`].
    fn check(&self) -> Result<(), StorageError> {
        Ok(())
    }

    /// Bytes that the store takes on disk.
    fn bytes_on_disk(&self) -> u64;
}

/// Refuses what no store may be given.
pub(super) fn check_batch(batch: &Batch) -> Result<(), StorageError> {
    let refuse = |cause| {
        Err(StorageError::Failed {
            doing: "applying a batch",
            cause,
        })
    };
    for (key, value) in &batch.changes {
        if key.len() > MAX_KEY_BYTES {
            return refuse(format!("a key has {} bytes", key.len()));
        }
        if let Some(value) = value.as_ref().filter(|value| value.len() > MAX_VALUE_BYTES) {
            return refuse(format!("a value has {} bytes", value.len()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_prefix_range_holds_exactly_the_keys_with_the_prefix(
            prefix in proptest::collection::vec(prop_oneof![Just(0_u8), Just(254), Just(255)], 0..4),
            key in proptest::collection::vec(prop_oneof![Just(0_u8), Just(254), Just(255)], 0..6),
        ) {
            let range = KeyRange::prefix(&prefix);
            let is_in = key >= range.start && range.end.as_ref().is_none_or(|end| key < *end);
            prop_assert_eq!(is_in, key.starts_with(&prefix));
        }
    }
}
