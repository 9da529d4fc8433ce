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
//! sled's own atomic batches are half as slow again as single writes, take several times as long where they
//! are small, and hold up every reader. So a batch is written key by key, behind a note of what it will be
//! ([`redo`]): after a kill the note of the last one is carried out again.

mod condition;
mod open;
mod redo;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use self::condition::Condition;
use super::durable::storage_error;
use super::state::check_batch;
use super::{Batch, KeyRange, KeyValue, StateStore, StorageError};

/// What is applied at once.
const PART: usize = 256;
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
    db: Option<::sled::Db>,
    /// Our own handle of sled's file, to sync it.
    file: File,
    is_poisoned: AtomicBool,
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
            db.flush()?;
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
        work: impl FnOnce(&::sled::Db) -> ::sled::Result<T>,
    ) -> Result<T, StorageError> {
        let db = self
            .db
            .as_ref()
            .filter(|_| !self.is_poisoned.load(Ordering::Acquire));
        let db = db.ok_or(StorageError::Poisoned)?;
        guarded(doing, || work(db)).inspect_err(|error| self.poison(error))
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
        let value = self.run("reading the derived state", |db| db.get(key))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan<'a>(
        &'a self,
        range: KeyRange,
        reverse: bool,
    ) -> Box<dyn Iterator<Item = Result<KeyValue, StorageError>> + Send + 'a> {
        const DOING: &str = "scanning the derived state";
        if range.is_empty() {
            return Box::new(std::iter::empty());
        }
        let end = range.end.map_or(Bound::Unbounded, Bound::Excluded);
        let bounds = (Bound::Included(range.start), end);
        let mut pairs = match self.run(DOING, |db| Ok(db.range(bounds))) {
            Ok(pairs) => pairs,
            Err(error) => return Box::new(std::iter::once(Err(error))),
        };
        let mut is_done = false;
        Box::new(std::iter::from_fn(move || {
            if is_done {
                return None;
            }
            let pair = self.run(DOING, |_| {
                if reverse {
                    pairs.next_back()
                } else {
                    pairs.next()
                }
                .transpose()
            });
            is_done = !matches!(pair, Ok(Some(_)));
            let bytes = |(key, value): (::sled::IVec, ::sled::IVec)| {
                (Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value))
            };
            pair.map(|pair| pair.map(bytes)).transpose()
        }))
    }

    fn apply(&self, batch: Batch) -> Result<(), StorageError> {
        check_batch(&batch)?;
        for part in parts(batch) {
            self.run("writing the derived state", |db| redo::write(db, &part))?;
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.run("syncing the derived state", |db| {
            db.flush()?;
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

/// A key and its new value, or none.
type Change = (Vec<u8>, Option<Vec<u8>>);

/// What is applied at once, the highest keys first.
fn parts(batch: Batch) -> Vec<Vec<Change>> {
    let mut changes: Vec<_> = batch.changes.into_iter().collect();
    let mut parts = Vec::with_capacity(changes.len().div_ceil(PART));
    while !changes.is_empty() {
        parts.push(changes.split_off(changes.len().saturating_sub(PART)));
    }
    parts
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
