//! The state as it will be: what is stored, with the pending changes of a group on top.

use std::{collections::BTreeMap, iter::Peekable};

use bytes::Bytes;

use crate::storage::{Batch, KeyRange, KeyValue, StateStore, StorageError};

/// Reading the state.
pub trait StateRead {
    /// The value of a key.
    ///
    /// # Errors
    /// As [`StateStore::get`].
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError>;

    /// The pairs of a range in key order, lazily.
    fn scan(
        &self,
        range: KeyRange,
    ) -> Box<dyn Iterator<Item = Result<KeyValue, StorageError>> + '_>;
}

impl<S: StateStore + ?Sized> StateRead for &S {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        StateStore::get(*self, key)
    }

    fn scan(
        &self,
        range: KeyRange,
    ) -> Box<dyn Iterator<Item = Result<KeyValue, StorageError>> + '_> {
        StateStore::scan(*self, range, false)
    }
}

/// Pending changes over a store: to read, and to apply as one.
pub struct Staged<'a> {
    store: &'a dyn StateStore,
    pending: Batch,
}

impl<'a> Staged<'a> {
    /// Nothing pending yet.
    #[must_use]
    pub fn new(store: &'a dyn StateStore) -> Self {
        let pending = Batch::default();
        Self { store, pending }
    }

    /// Sets a key.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.pending.put(key, value);
    }

    /// Adds changes.
    pub fn extend(&mut self, batch: Batch) {
        self.pending.changes.extend(batch.changes);
    }

    /// The pending changes.
    #[must_use]
    pub fn into_batch(self) -> Batch {
        self.pending
    }
}

impl StateRead for Staged<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        match self.pending.changes.get(key) {
            Some(pending) => Ok(pending.clone()),
            None => self.store.get(key),
        }
    }

    fn scan(
        &self,
        range: KeyRange,
    ) -> Box<dyn Iterator<Item = Result<KeyValue, StorageError>> + '_> {
        let pending = pending_in(&self.pending.changes, &range);
        let stored = self.store.scan(range, false).peekable();
        Box::new(Merged {
            stored,
            pending: pending.peekable(),
        })
    }
}

type Pending<'a> = Box<dyn Iterator<Item = (&'a Bytes, &'a Option<Bytes>)> + 'a>;

fn pending_in<'a>(changes: &'a BTreeMap<Bytes, Option<Bytes>>, range: &KeyRange) -> Pending<'a> {
    let end = range.end.clone();
    let within = move |key: &Bytes| end.as_ref().is_none_or(|end| key.as_ref() < end.as_slice());
    Box::new(
        changes
            .range(Bytes::copy_from_slice(&range.start)..)
            .take_while(move |(key, _)| within(key)),
    )
}

/// Two ordered streams as one; a pending change hides the stored pair of its key.
struct Merged<'a> {
    stored: Peekable<Box<dyn Iterator<Item = Result<KeyValue, StorageError>> + Send + 'a>>,
    pending: Peekable<Pending<'a>>,
}

impl Iterator for Merged<'_> {
    type Item = Result<KeyValue, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let stored = match self.stored.peek() {
                Some(Ok((key, _))) => Some(key),
                Some(Err(_)) => return self.stored.next(),
                None => None,
            };
            let take_pending = match (stored, self.pending.peek()) {
                (_, None) => return self.stored.next(),
                (None, Some(_)) => true,
                (Some(stored), Some((pending, _))) => {
                    if stored == *pending {
                        self.stored.next();
                        true
                    } else {
                        *pending < stored
                    }
                }
            };
            if !take_pending {
                return self.stored.next();
            }
            if let Some((key, Some(value))) = self.pending.next() {
                return Some(Ok((key.clone(), value.clone())));
            }
        }
    }
}
