//! Where bytes live: a journal that is the truth, and ordered keys that are derived from it.
//!
//! Two small traits keep the engines out of everything above. [`LogStore`] appends groups of frames
//! and reads them back; [`StateStore`] answers queries. Nothing of an engine leaks through them: an
//! error says what a caller can do about it ([`StorageError`]), never what the engine called it.

mod behind;
pub mod durable;
#[cfg(test)]
pub(crate) mod faulty;
mod journal;
mod log;
mod memory;
mod sled;
mod slot;
mod state;
#[cfg(test)]
pub(crate) mod suite;

pub use behind::Behind;
pub use journal::{Audit, AuditWalk, Damage, Defect, Finding, Journal, JournalOptions};
pub use log::{Frame, FrameKind, LogStore, Position, Scan};
pub use memory::{MemoryLog, MemoryState};
pub use sled::{Opened, SledOptions, SledState};
pub use slot::{SlotContent, SlotFile};
pub use state::{Batch, KeyRange, KeyValue, MAX_KEY_BYTES, MAX_VALUE_BYTES, StateStore};

/// Why storage could not do what it was asked to.
///
/// Every variant but [`StorageError::Full`] before an append poisons the node: it stops answering,
/// reports itself unhealthy and exits. An fsync that failed is never retried.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// No space is left. Nothing of the group was acknowledged.
    #[error("no space left while {doing}")]
    Full {
        /// What was being done.
        doing: &'static str,
    },
    /// Stored bytes are not what was written: a flipped bit, a cut file, a foreign file.
    #[error("damaged: {what}")]
    Corrupt {
        /// Names the file, the offset, and the log and index where they are known.
        what: String,
    },
    /// The operating system or the engine refused; the handle must not be used again.
    #[error("storage failed while {doing}: {cause}")]
    Failed {
        /// What was being done.
        doing: &'static str,
        /// The cause, for the operator's log only; never sent to a caller.
        cause: String,
    },
    /// Another process has it open.
    #[error("another process holds {0}")]
    InUse(String),
    /// An earlier failure poisoned this store.
    #[error("storage was stopped by an earlier failure")]
    Poisoned,
}
