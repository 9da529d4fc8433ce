//! A state store that takes batches at once and applies them a little later.
//!
//! The state is derived, so nothing waits for it but its readers; and they see what is pending as
//! if it were applied. A thread of its own applies the batches in their order, several small ones
//! as one, so that the keys that change with every batch are written once for many. A kill
//! loses what is pending: as with any state store, a prefix of the batches is there, and the log has the rest.

mod scan;

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{Batch, KeyRange, KeyValue, StateStore, StorageError, state::check_batch};

/// Changes that are applied as one. The more, the fewer times each part of the store below is written.
const TOGETHER: usize = 8_192;
/// How long the first of a few changes waits for others.
const LINGER: Duration = Duration::from_millis(100);
/// What a pending change takes beside its bytes, roughly.
const OVERHEAD: usize = 200;

/// A [`StateStore`] whose batches are applied by a thread behind it. Dropping it applies the rest.
#[derive(Debug)]
pub struct Behind<S: StateStore> {
    shared: Arc<Shared<S>>,
    follower: Option<JoinHandle<()>>,
}

/// Changes as they wait.
type Changes = Vec<(Bytes, Option<Bytes>)>;

#[derive(Debug)]
struct Shared<S> {
    inner: S,
    limit: usize,
    queue: Mutex<Queue>,
    /// The queue has changed, either way.
    changed: Condvar,
    pending: RwLock<Pending>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(u64, Changes)>,
    /// Changes in `waiting`.
    changes: usize,
    /// Bytes of everything that is not applied.
    bytes: usize,
    /// The number of the newest batch.
    newest: u64,
    /// The follower has taken some and not applied them yet.
    busy: bool,
    /// Someone waits for the queue to be empty.
    hurried: usize,
    stopping: bool,
    failure: Option<StorageError>,
    failed: bool,
}

/// The newest change of every key that is not applied, with the number of its batch.
#[derive(Debug, Default)]
struct Pending {
    keys: BTreeMap<Bytes, (u64, Option<Bytes>)>,
    /// Grows whenever keys have gone over to the store below.
    generation: u64,
}

impl<S: StateStore> Behind<S> {
    /// Over a store; `limit` bytes may be pending, then batches wait.
    ///
    /// # Errors
    /// [`StorageError::Failed`] where the thread does not start.
    pub fn new(inner: S, limit: usize) -> Result<Self, StorageError> {
        let shared = Arc::new(Shared {
            inner,
            limit,
            queue: Mutex::default(),
            changed: Condvar::new(),
            pending: RwLock::default(),
        });
        let following = shared.clone();
        let follower = thread::Builder::new()
            .name("state".to_owned())
            .spawn(move || following.follow())
            .map_err(|e| StorageError::Failed {
                doing: "starting the thread behind the state",
                cause: e.to_string(),
            })?;
        Ok(Self {
            shared,
            follower: Some(follower),
        })
    }
}

impl<S> Shared<S> {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &self,
        queue: MutexGuard<'a, Queue>,
        during: impl FnMut(&mut Queue) -> bool,
    ) -> MutexGuard<'a, Queue> {
        self.changed
            .wait_while(queue, during)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: StateStore> Shared<S> {
    /// Applies what waits until told to stop, or until the store below fails.
    fn follow(&self) {
        while let Some(batches) = self.take() {
            let last = batches.last().map_or(0, |(number, _)| *number);
            let bytes = batches.iter().map(|(_, changes)| size(changes)).sum();
            let mut merged = Batch::default();
            let changes = batches.iter().flat_map(|(_, changes)| changes);
            merged.changes.extend(changes.cloned());
            let applied = self.inner.apply(merged);
            if applied.is_ok() {
                self.forget(&batches, last);
            }
            let mut queue = self.queue();
            queue.busy = false;
            queue.bytes = queue.bytes.saturating_sub(bytes);
            queue.failed = applied.is_err();
            queue.failure = applied.err();
            self.changed.notify_all();
            if queue.failed {
                return;
            }
        }
    }

    /// As many batches as are applied as one; `None` at the end.
    fn take(&self) -> Option<Vec<(u64, Changes)>> {
        let mut queue = self.queue();
        queue = self.wait(queue, |queue| queue.waiting.is_empty() && !queue.stopping);
        let until = Instant::now() + LINGER;
        while queue.changes < TOGETHER && queue.hurried == 0 && !queue.stopping {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut taken = Vec::new();
        let mut count = 0;
        while let Some((_, changes)) = queue.waiting.front() {
            count += changes.len();
            if !taken.is_empty() && count > TOGETHER {
                break;
            }
            queue.changes -= changes.len();
            taken.extend(queue.waiting.pop_front());
        }
        queue.busy = !taken.is_empty();
        queue.busy.then_some(taken)
    }

    /// The store below has these now.
    fn forget(&self, batches: &[(u64, Changes)], last: u64) {
        let mut pending = self.pending.write().unwrap_or_else(PoisonError::into_inner);
        for (key, _) in batches.iter().flat_map(|(_, changes)| changes) {
            if pending
                .keys
                .get(key)
                .is_some_and(|(number, _)| *number <= last)
            {
                pending.keys.remove(key);
            }
        }
        pending.generation += 1;
    }

    /// Waits until nothing is pending.
    fn drain(&self) -> Result<(), StorageError> {
        let mut queue = self.queue();
        queue.hurried += 1;
        self.changed.notify_all();
        let pending =
            |queue: &mut Queue| !queue.failed && (queue.busy || !queue.waiting.is_empty());
        queue = self.wait(queue, pending);
        queue.hurried -= 1;
        failure(&mut queue)
    }
}

/// The error of the store below, the first time; then that it is poisoned.
fn failure(queue: &mut Queue) -> Result<(), StorageError> {
    match (queue.failed, queue.failure.take()) {
        (false, _) => Ok(()),
        (true, error) => Err(error.unwrap_or(StorageError::Poisoned)),
    }
}

fn size(changes: &Changes) -> usize {
    changes
        .iter()
        .map(|(key, value)| OVERHEAD + key.len() + value.as_ref().map_or(0, Bytes::len))
        .sum()
}

impl<S: StateStore> StateStore for Behind<S> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let pending = &self.shared.pending;
        let held = pending.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, value)) = held.keys.get(key) {
            return Ok(value.clone());
        }
        drop(held);
        self.shared.inner.get(key)
    }

    fn scan<'a>(
        &'a self,
        range: KeyRange,
        reverse: bool,
    ) -> Box<dyn Iterator<Item = Result<KeyValue, StorageError>> + Send + 'a> {
        Box::new(scan::Scan::new(&self.shared, range, reverse))
    }

    fn apply(&self, batch: Batch) -> Result<(), StorageError> {
        check_batch(&batch)?;
        let changes: Changes = batch.changes.into_iter().collect();
        let shared = &self.shared;
        let full = |queue: &mut Queue| !queue.failed && queue.bytes > shared.limit;
        let mut queue = shared.wait(shared.queue(), full);
        failure(&mut queue)?;
        queue.newest += 1;
        let number = queue.newest;
        let pending = &shared.pending;
        let mut held = pending.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in &changes {
            held.keys.insert(key.clone(), (number, value.clone()));
        }
        drop(held);
        queue.bytes += size(&changes);
        // The follower is woken by the first of some changes, and by enough of them.
        let before = mem::replace(&mut queue.changes, 0);
        queue.changes = before + changes.len();
        if before == 0 || (before < TOGETHER && queue.changes >= TOGETHER) {
            shared.changed.notify_all();
        }
        queue.waiting.push_back((number, changes));
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.shared.drain()?;
        self.shared.inner.sync()
    }

    fn check(&self) -> Result<(), StorageError> {
        match self.shared.queue().failed {
            true => Err(StorageError::Poisoned),
            false => Ok(()),
        }
    }

    fn bytes_on_disk(&self) -> u64 {
        self.shared.inner.bytes_on_disk()
    }
}

impl<S: StateStore> Drop for Behind<S> {
    fn drop(&mut self) {
        self.shared.queue().stopping = true;
        self.shared.changed.notify_all();
        if let Some(follower) = self.follower.take() {
            // It ends when nothing waits; a panic of it has been printed.
            let _ = follower.join();
        }
    }
}

#[cfg(test)]
mod tests;
