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

/// Pending changes over a store.
pub struct Staged<'a> {
    store: &'a dyn StateStore,
    batch: Batch,
}

impl<'a> Staged<'a> {
    /// Nothing pending yet.
    #[must_use]
    pub fn new(store: &'a dyn StateStore) -> Self {
        Self {
            store,
            batch: Batch::default(),
        }
    }

    /// The pending changes, to add to.
    pub fn batch(&mut self) -> &mut Batch {
        &mut self.batch
    }

    /// The pending changes, to apply.
    #[must_use]
    pub fn into_batch(self) -> Batch {
        self.batch
    }

    /// Sets a key.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.batch.changes.insert(key, Some(value));
    }
}

impl StateRead for Staged<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        match self.batch.changes.get(key) {
            Some(pending) => Ok(pending.as_ref().map(|value| Bytes::copy_from_slice(value))),
            None => self.store.get(key),
        }
    }

    fn scan(
        &self,
        range: KeyRange,
    ) -> Box<dyn Iterator<Item = Result<KeyValue, StorageError>> + '_> {
        let pending = pending_in(&self.batch.changes, &range);
        let stored = self.store.scan(range, false).peekable();
        Box::new(Merged {
            stored,
            pending: pending.peekable(),
        })
    }
}

type Pending<'a> = Box<dyn Iterator<Item = (&'a Vec<u8>, &'a Option<Vec<u8>>)> + 'a>;

fn pending_in<'a>(
    changes: &'a BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    range: &KeyRange,
) -> Pending<'a> {
    let end = range.end.clone();
    let within = move |key: &Vec<u8>| end.as_ref().is_none_or(|end| key < end);
    Box::new(
        changes
            .range(range.start.clone()..)
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
                    if stored.as_ref() == pending.as_slice() {
                        self.stored.next();
                        true
                    } else {
                        pending.as_slice() < stored.as_ref()
                    }
                }
            };
            if !take_pending {
                return self.stored.next();
            }
            if let Some((key, Some(value))) = self.pending.next() {
                return Some(Ok((
                    Bytes::copy_from_slice(key),
                    Bytes::copy_from_slice(value),
                )));
            }
        }
    }
}
