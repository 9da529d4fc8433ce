//! Replication: the logs of a node travel to its parent, which trusts nothing that it can check.
//!
//! A child dials ([`Uplink`]), says which logs it carries, and sends each from where the parent
//! stands with it. The parent ([`Mirror`]) verifies every batch against the checkpoint that the
//! log's origin signed, stores both, and cosigns; the child keeps the cosignature, and passes those of
//! nodes further up down to its own children. Logs are independent: one that is refused stops nothing.
//! Where the parent holds more of a log than the child, as after a restore, the child asks for the rest, and
//! verifies it in the same way.
//! [`Board`] says how each of them stands. Nothing here knows a register, or gRPC.

mod batch;
mod board;
pub mod courier;
mod inflow;
mod lane;
mod mirror;
mod offer;
mod outflow;
mod receipt;
mod recover;
mod session;
mod status;
mod uplink;

use std::fmt;

use futures::{future::BoxFuture, stream::BoxStream};
use tokio::sync::mpsc;

pub use board::Board;
pub use mirror::{Admission, Answers, Mirror};
pub use recover::{Held, HeldLog, held};
pub use status::{ChildStatus, LinkState, UplinkStatus};
pub use uplink::{Synced, SyncedLog, Uplink, UplinkOptions};

use crate::{
    ledger::{
        Ledger, LogView,
        merkle::ProofError,
        note::{Checkpoint, MAX_FOREIGN_NOTE_BYTES, Note, VerifierKey},
    },
    proto::replication::v1 as pb,
    storage::StorageError,
    types::{Reason, Refusal},
};

/// The protocol versions that this program speaks.
pub const VERSIONS: Versions = Versions { min: 1, max: 1 };
/// Entries of a batch, at most.
pub const MAX_BATCH_ENTRIES: usize = 1_024;
/// Bytes of a batch's entries, at most; a single entry may be larger.
pub const MAX_BATCH_BYTES: usize = 2 * 1024 * 1024;
/// Bytes of a message, at most: the largest request that the gateway takes, and what an entry adds.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024 + 64 * 1024;
/// Logs that a node holds at most: a bound on what a hostile child can make it register.
pub const MAX_LOGS: usize = 10_000;

/// A range of protocol versions. Both sides of a connection speak the highest that both know; what a version
/// does not have is not sent in it, and fields and messages that one side does not know it ignores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The lowest.
    pub min: u32,
    /// The highest.
    pub max: u32,
}

impl Versions {
    /// The version that both sides speak; `None` where there is none.
    fn common(self, other: Self) -> Option<u32> {
        let highest = self.max.min(other.max);
        (highest >= self.min.max(other.min)).then_some(highest)
    }

    fn has(self, version: u32) -> bool {
        (self.min..=self.max).contains(&version)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

/// A connection to the parent: messages up, messages down. Dropping it ends it.
pub struct Link {
    /// To the parent. A small buffer: what waits here waits in memory.
    pub up: mpsc::Sender<pb::ReplicateRequest>,
    /// From the parent.
    pub down: BoxStream<'static, Result<pb::ReplicateResponse, LinkError>>,
}

/// Dials the parent. The caller has made sure that whoever answers is the parent.
pub trait Connector: Send + Sync + 'static {
    /// A new connection.
    ///
    /// # Errors
    /// [`LinkError::Unreachable`], [`LinkError::Refused`].
    fn connect(&self) -> BoxFuture<'_, Result<Link, LinkError>>;
}

/// Why a connection to the parent ended, or there is none. The text is shown as the state's reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// It did not come about. The text says why, and where to.
    #[error("{0}")]
    Unreachable(String),
    /// The parent ended it and said why.
    #[error("the parent refused: {0}")]
    Refused(String),
    /// It broke.
    #[error("the connection to the parent broke: {0}")]
    Broken(String),
    /// It ended without a word.
    #[error("the connection to the parent ended")]
    Ended,
    /// The parent owes an answer.
    #[error("the parent does not answer")]
    Silent,
    /// The parent is not the one that this node knows, or does not speak the protocol.
    #[error("the parent breaks the protocol: {0}")]
    Protocol(String),
    /// This node's own stored bytes cannot be read.
    #[error("what is stored here cannot be read: {0}")]
    Storage(String),
    /// This node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// How a signed checkpoint stands to what is held of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agreement {
    /// It is of more entries than are held: nothing can be said yet.
    Beyond,
    /// Its root is the root of what is held.
    Agrees,
    /// Its root is another one.
    Contradicts,
}

fn agreement(
    ledger: &Ledger,
    view: &LogView,
    checkpoint: &Checkpoint,
) -> Result<Agreement, StorageError> {
    if checkpoint.size > view.tree.size() {
        return Ok(Agreement::Beyond);
    }
    Ok(
        if root_at(ledger, view, checkpoint.size)? == checkpoint.root {
            Agreement::Agrees
        } else {
            Agreement::Contradicts
        },
    )
}

fn root_at(
    ledger: &Ledger,
    view: &LogView,
    size: u64,
) -> Result<crate::ledger::merkle::Hash, StorageError> {
    ledger.root_at(view, size).map_err(|error| match error {
        ProofError::Source(error) => error,
        ProofError::OutOfRange => StorageError::Corrupt {
            what: format!("{} has no root of size {size}", view.origin()),
        },
    })
}

/// A checkpoint that bears its log's signature.
fn signed_checkpoint(text: &str, key: &VerifierKey) -> Result<Note, Refusal> {
    let invalid = |en: String, zh: &str| Refusal::new(Reason::CheckpointInvalid).because(en, zh);
    if text.len() > MAX_FOREIGN_NOTE_BYTES {
        let en = format!("it has more than {MAX_FOREIGN_NOTE_BYTES} bytes");
        return Err(invalid(en, "检查点过长"));
    }
    let note: Note = text
        .parse()
        .map_err(|e| invalid(format!("{e}"), "检查点格式不对"))?;
    note.verify_log(key)
        .map_err(|e| invalid(format!("{e}"), "检查点没有该日志的有效签名"))?;
    Ok(note)
}

#[cfg(test)]
mod tests;
