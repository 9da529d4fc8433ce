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

/// Changes at which a chunk is closed: with one more frame it stays what a store applies at once.
const CHUNK: usize = 200;

/// Changes that belong together: a store that has them reflects whole frames.
#[derive(Debug, Default)]
pub struct Chunk {
    /// Frames reflected from the first staged one on, once this chunk is applied.
    pub frames: u32,
    /// The changes.
    pub batch: Batch,
}

/// Pending changes over a store: all of them to read, and in chunks to apply.
///
/// A kill may come between two applications. Chunks end where frames end, so that the state always
/// reflects whole frames, and recovery goes on with the next.
pub struct Staged<'a> {
    store: &'a dyn StateStore,
    pending: Batch,
    chunks: Vec<Chunk>,
    open: Batch,
    frames: u32,
}

impl<'a> Staged<'a> {
    /// Nothing pending yet.
    #[must_use]
    pub fn new(store: &'a dyn StateStore) -> Self {
        let (pending, open) = (Batch::default(), Batch::default());
        Self {
            store,
            pending,
            chunks: Vec::new(),
            open,
            frames: 0,
        }
    }

    /// Sets a key.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.change(key, Some(value));
    }

    /// Adds changes.
    pub fn extend(&mut self, batch: Batch) {
        for (key, value) in batch.changes {
            self.change(key, value);
        }
    }

    fn change(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.open.changes.insert(key.clone(), value.clone());
        self.pending.changes.insert(key, value);
    }

    /// A frame is reflected whole.
    pub fn end_frame(&mut self) {
        self.frames += 1;
        if self.open.changes.len() >= CHUNK {
            let batch = std::mem::take(&mut self.open);
            self.chunks.push(Chunk {
                frames: self.frames,
                batch,
            });
        }
    }

    /// The pending changes, in the order in which they must be applied.
    #[must_use]
    pub fn into_chunks(mut self) -> Vec<Chunk> {
        self.chunks.push(Chunk {
            frames: self.frames,
            batch: self.open,
        });
        self.chunks
    }
}

impl StateRead for Staged<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        match self.pending.changes.get(key) {
            Some(pending) => Ok(pending.as_ref().map(|value| Bytes::copy_from_slice(value))),
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
