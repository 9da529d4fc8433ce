//! The derived state in sled 0.34, kept at arm's length.
//!
//! sled's flush is no fsync, a flipped bit makes it panic or lose keys in silence, and pages that
//! were not synced before a power cut may be torn without being noticed. All it holds can be derived
//! from the journal, so the rule is: what is not known to be sound is set aside, and the node
//! rebuilds. A file `CONDITION` tells ([`condition`]):
//!
//! - Closed, with a checksum over the other files, and it matches: sound.
//! - Open, on the same boot of the machine: the process was killed. What it wrote is in the page
//!   cache, and sled keeps a prefix of the batches.
//! - Open, on another boot: a power cut or a reboot. Set aside, as is anything else.
//!
//! A key of sled's own costs 5 to 10 microseconds and some 200 bytes of memory. So many pairs share one
//! ([`blocks`]). sled's own atomic batches are half as slow again as single writes, take several times as
//! long where they are small, and hold up every reader. So a batch is written block by block, behind a
//! note of what it will be ([`redo`]): after a kill the note of the last one is carried out again.

mod block;
mod blocks;
mod condition;
mod open;
mod redo;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use self::blocks::{Blocks, Cursor};
use self::condition::Condition;
use super::durable::storage_error;
use super::state::check_batch;
use super::{Batch, KeyRange, KeyValue, StateStore, StorageError};

/// How long sled may hold its file after it was dropped.
const PATIENCE: Duration = Duration::from_secs(1);

/// How sled is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SledOptions {
    /// Bytes of pages that sled caches, as it counts them (on disk): it takes several times as many.
    pub cache_bytes: u64,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 64 * 1024 * 1024,
        }
    }
}

/// What was there when the store was opened. Whatever it says, the content reflects the log up to
/// the position that it holds, which may be the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// A store that was closed cleanly, or a new one.
    Clean,
    /// The last process was killed; a prefix of what it applied is there.
    AfterKill,
    /// What was there cannot be trusted: it was renamed, and the store is empty.
    SetAside {
        /// For the operator.
        why: String,
        /// Where it is now.
        to: PathBuf,
    },
}

/// Ordered keys in one sled tree. See [`StateStore`] for what it promises.
///
/// After any error but a refused batch, every call is refused as [`StorageError::Poisoned`].
#[derive(Debug)]
pub struct SledState {
    dir: PathBuf,
    /// `None` once it is closed.
    db: Option<Open>,
    /// Our own handle of sled's file, to sync it.
    file: File,
    is_poisoned: AtomicBool,
}

/// sled, and the pairs in it.
#[derive(Debug)]
struct Open {
    db: ::sled::Db,
    pairs: Blocks,
}

impl SledState {
    /// Opens the store in a folder of its own, creating it if need be.
    ///
    /// One process at a time: the journal's lock must be held before.
    ///
    /// # Errors
    /// [`StorageError::Full`] without space, [`StorageError::Failed`] if the folder cannot be used or
    /// another process has it open. A damaged store is no error.
    pub fn open(dir: &Path, options: SledOptions) -> Result<(Self, Opened), StorageError> {
        open::open(dir, options)
    }

    /// Makes all of it durable and closes, so that the next open need not doubt it. Dropping does the
    /// same and cannot tell of an error.
    ///
    /// # Errors
    /// As [`StateStore::sync`]. The next open then takes the process for killed.
    pub fn close(mut self) -> Result<(), StorageError> {
        self.close_in_place()
    }

    fn close_in_place(&mut self) -> Result<(), StorageError> {
        let Some(db) = self.db.take() else {
            return Ok(());
        };
        if self.is_poisoned.load(Ordering::Acquire) {
            // Whatever sled would do on its way out, it cannot be trusted with it.
            std::mem::forget(db);
            return Err(StorageError::Poisoned);
        }
        let doing = "closing the derived state";
        guarded(doing, move || {
            db.db.flush()?;
            drop(db);
            Ok(())
        })?;
        // sled's threads let go of the file some time after the drop; until then they may write.
        if !open::lock_in_time(&self.file) {
            let cause = "sled did not let go of its file".into();
            return Err(StorageError::Failed { doing, cause });
        }
        condition::sync_files(&self.dir)
            .and_then(|()| Condition::closed(&self.dir))
            .and_then(|closed| closed.store(&self.dir))
            .map_err(|e| storage_error(doing, &e))
    }

    /// Runs an operation of sled. Any error, and any panic, is the last.
    fn run<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Open) -> ::sled::Result<T>,
    ) -> Result<T, StorageError> {
        let open = self.alive()?;
        guarded(doing, || work(open)).inspect_err(|error| self.poison(error))
    }

    fn alive(&self) -> Result<&Open, StorageError> {
        let open = self
            .db
            .as_ref()
            .filter(|_| !self.is_poisoned.load(Ordering::Acquire));
        open.ok_or(StorageError::Poisoned)
    }

    fn poison(&self, error: &StorageError) {
        if self.is_poisoned.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::error!(%error, "the derived state is closed to further use");
        if let StorageError::Corrupt { what } = error
            && let Err(error) = Condition::Damaged(what.clone()).store(&self.dir)
        {
            tracing::error!(%error, "cannot mark the derived state as damaged");
        }
    }
}

impl StateStore for SledState {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.run("reading the derived state", |open| open.pairs.get(key))
    }

    fn scan<'a>(
        &'a self,
        range: KeyRange,
        reverse: bool,
    ) -> Box<dyn Iterator<Item = Result<KeyValue, StorageError>> + Send + 'a> {
        let at = match (reverse, &range.end) {
            (false, _) => Cursor::At(range.start.clone()),
            (true, Some(end)) => Cursor::At(end.clone()),
            (true, None) => Cursor::End,
        };
        Box::new(Scan {
            store: self,
            is_done: range.is_empty(),
            left: range,
            reverse,
            at,
            ready: VecDeque::new(),
        })
    }

    fn apply(&self, batch: Batch) -> Result<(), StorageError> {
        check_batch(&batch)?;
        let changes: Vec<_> = batch.changes.into_iter().collect();
        self.run("writing the derived state", |open| {
            open.pairs.apply(&changes)
        })
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.run("syncing the derived state", |open| {
            open.db.flush()?;
            Ok(self.file.sync_data()?)
        })
    }

    fn bytes_on_disk(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }
}

impl Drop for SledState {
    fn drop(&mut self) {
        match self.close_in_place() {
            Ok(()) | Err(StorageError::Poisoned) => {}
            Err(error) => tracing::error!(%error, "closing the derived state"),
        }
    }
}

/// A scan, a block at a time.
struct Scan<'a> {
    store: &'a SledState,
    /// What is left of the range.
    left: KeyRange,
    reverse: bool,
    at: Cursor,
    ready: VecDeque<KeyValue>,
    is_done: bool,
}

impl Scan<'_> {
    fn step(&mut self) -> Result<Option<KeyValue>, StorageError> {
        while !self.is_done {
            self.store.alive()?;
            let next = match self.reverse {
                true => self.ready.pop_back(),
                false => self.ready.pop_front(),
            };
            if let Some((key, value)) = next {
                // A block that was divided meanwhile shows pairs again that were passed.
                if self.take(&key) {
                    return Ok(Some((key, value)));
                }
                continue;
            }
            let doing = "scanning the derived state";
            let found = self
                .store
                .run(doing, |open| open.pairs.step(&self.at, self.reverse))?;
            let Some((lower, pairs)) = found else {
                return Ok(None);
            };
            self.ready = pairs.into();
            let end = self.left.end.as_ref();
            self.is_done = !self.reverse && end.is_some_and(|end| lower >= *end);
            self.at = Cursor::Passed(lower);
        }
        Ok(None)
    }

    /// Whether a key is left, which it is no more then.
    fn take(&mut self, key: &Bytes) -> bool {
        let end = self.left.end.as_deref();
        let (early, late) = (
            key.as_ref() < self.left.start.as_slice(),
            end.is_some_and(|end| key.as_ref() >= end),
        );
        if early || late {
            self.is_done |= if self.reverse { early } else { late };
            return false;
        }
        match self.reverse {
            true => self.left.end = Some(key.to_vec()),
            false => {
                self.left.start.clear();
                self.left.start.extend_from_slice(key);
                self.left.start.push(0);
            }
        }
        true
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<KeyValue, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let pair = self.step().transpose();
        self.is_done |= !matches!(pair, Some(Ok(_)));
        pair
    }
}

/// Runs sled and turns its errors and its panics into ours.
fn guarded<T>(
    doing: &'static str,
    work: impl FnOnce() -> ::sled::Result<T>,
) -> Result<T, StorageError> {
    match caught(doing, work)? {
        Ok(value) => Ok(value),
        Err(::sled::Error::Io(error)) => Err(storage_error(doing, &error)),
        Err(error @ ::sled::Error::Unsupported(_)) => Err(StorageError::Failed {
            doing,
            cause: error.to_string(),
        }),
        Err(error) => Err(StorageError::Corrupt {
            what: format!("{doing}: {error}"),
        }),
    }
}

/// Runs sled; a panic is damage. The panic hook has printed it by then.
fn caught<T>(doing: &'static str, work: impl FnOnce() -> T) -> Result<T, StorageError> {
    // Unwind safe: after a panic nothing touches the engine again.
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let what = format!(
            "{doing}: sled panicked: {}",
            text.unwrap_or("without a word")
        );
        StorageError::Corrupt { what }
    })
}
