//! Scanning what is pending and what is applied as one.

use std::{ops::Bound, sync::PoisonError};

use bytes::Bytes;

use super::{
    super::{KeyRange, KeyValue, StateStore, StorageError},
    Shared,
};

type Stored<'a> = Box<dyn Iterator<Item = Result<KeyValue, StorageError>> + Send + 'a>;

/// Two ordered streams as one; a pending change hides the stored pair of its key.
///
/// Keys go over from one to the other meanwhile. None is missed: the stored stream is always
/// one that was opened after the last key had gone over that the pending ones no longer show.
pub(super) struct Scan<'a, S> {
    shared: &'a Shared<S>,
    /// What is left.
    range: KeyRange,
    reverse: bool,
    stored: Option<Stored<'a>>,
    /// The next pair of `stored`.
    next: Option<KeyValue>,
    generation: u64,
    done: bool,
}

impl<'a, S: StateStore> Scan<'a, S> {
    pub(super) fn new(shared: &'a Shared<S>, range: KeyRange, reverse: bool) -> Self {
        Self {
            shared,
            done: range.is_empty(),
            range,
            reverse,
            stored: None,
            next: None,
            generation: 0,
        }
    }

    /// The next pending change, and how many times keys have gone over.
    fn pending(&self) -> (Option<(Bytes, Option<Bytes>)>, u64) {
        let pending = &self.shared.pending;
        let pending = pending.read().unwrap_or_else(PoisonError::into_inner);
        let end = self.range.end.as_deref();
        let bounds = (
            Bound::Included(self.range.start.as_slice()),
            end.map_or(Bound::Unbounded, Bound::Excluded),
        );
        let mut keys = pending.keys.range::<[u8], _>(bounds);
        let found = if self.reverse {
            keys.next_back()
        } else {
            keys.next()
        };
        let found = found.map(|(key, (_, value))| (key.clone(), value.clone()));
        (found, pending.generation)
    }

    /// Moves the stored stream on to what is left of the range.
    fn seek(&mut self, generation: u64) -> Result<(), StorageError> {
        if self.stored.is_none() || self.generation != generation {
            let shared = self.shared;
            self.stored = Some(shared.inner.scan(self.range.clone(), self.reverse));
            self.generation = generation;
            self.next = None;
        }
        if self.next.as_ref().is_some_and(|(key, _)| self.is_left(key)) {
            return Ok(());
        }
        loop {
            self.next = self.stored.as_mut().and_then(Iterator::next).transpose()?;
            match &self.next {
                // It was pending when it was passed, and has gone over since.
                Some((key, _)) if !self.is_left(key) => {}
                _ => return Ok(()),
            }
        }
    }

    fn is_left(&self, key: &Bytes) -> bool {
        let end = self.range.end.as_deref();
        key.as_ref() >= self.range.start.as_slice() && end.is_none_or(|end| key.as_ref() < end)
    }

    fn pass(&mut self, key: &Bytes) {
        if self.reverse {
            self.range.end = Some(key.to_vec());
        } else {
            self.range.start.clear();
            self.range.start.extend_from_slice(key);
            self.range.start.push(0);
        }
        self.done = self.range.is_empty();
    }

    fn step(&mut self) -> Result<Option<KeyValue>, StorageError> {
        while !self.done {
            let (pending, generation) = self.pending();
            self.seek(generation)?;
            let take_pending = match (&pending, &self.next) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some((key, _)), Some((stored, _))) if self.reverse => key >= stored,
                (Some((key, _)), Some((stored, _))) => key <= stored,
            };
            if !take_pending {
                let pair = self.next.take();
                if let Some((key, _)) = &pair {
                    self.pass(key);
                }
                return Ok(pair);
            }
            if let Some((key, value)) = pending {
                self.pass(&key);
                if let Some(value) = value {
                    return Ok(Some((key, value)));
                }
            }
        }
        Ok(None)
    }
}

impl<S: StateStore> Iterator for Scan<'_, S> {
    type Item = Result<KeyValue, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let pair = self.step().transpose();
        self.done |= !matches!(pair, Some(Ok(_)));
        pair
    }
}
