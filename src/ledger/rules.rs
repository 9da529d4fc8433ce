//! What the ledger asks of registers: judge a change, index a record. Both are pure.

use bytes::Bytes;

use super::staged::StateRead;
use crate::{
    storage::{Batch, StorageError},
    types::{LedgerTime, RecordName, Refusal, RegisterId, RequestId},
};

/// What a proposal wants done to its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    /// Let this be the record: its exact bytes.
    Submit(Bytes),
    /// Withdraw the record.
    Withdraw {
        /// Why, for the entry.
        reason: String,
        /// Withdraw live dependents too, instead of being refused for them.
        cascade: bool,
    },
}

/// A change that someone asks for: validated as far as that goes without the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The record.
    pub name: RecordName,
    /// What to do.
    pub intent: Intent,
    /// SPIFFE ID of the submitter.
    pub submitter: String,
    /// The request's id and the SHA-256 of its content: a retry gets the first answer.
    pub request: Option<(RequestId, [u8; 32])>,
    /// The etag that the standing revision must have; `None` takes whatever stands.
    pub etag: Option<String>,
    /// Check everything, write nothing.
    pub validate_only: bool,
}

/// A change that the ledger is about to make, as a register sees it.
#[derive(Debug)]
pub struct Change<'a> {
    /// The record.
    pub name: &'a RecordName,
    /// The bytes of its standing revision, and whether that one withdrew it. `None` for a new one.
    pub standing: Option<(&'a Bytes, bool)>,
    /// What to do.
    pub intent: &'a Intent,
    /// The ledger time that the entry would have.
    pub now: LedgerTime,
}

/// A register's yes to a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The bytes that the entry records. For a submission, exactly those submitted; for a withdrawal,
    /// the standing ones followed by the fields that it sets.
    pub record: Bytes,
    /// Dependents to withdraw in the same group, before this change.
    pub cascade: Vec<RecordName>,
}

/// Why a change is not made.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// It breaks a rule: the caller's fault.
    #[error("refused")]
    Refused(Box<Refusal>),
    /// The state could not be read: the node's fault.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<Refusal> for JudgeError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

/// One revision of a record, for indexing.
#[derive(Debug, Clone, Copy)]
pub struct Revision<'a> {
    /// Its bytes.
    pub record: &'a [u8],
    /// Whether it withdrew the record.
    pub withdrawn: bool,
    /// Ledger time of its entry.
    pub time: LedgerTime,
    /// Ledger time of the record's first one.
    pub created: LedgerTime,
}

/// The registers of a node, as the ledger sees them.
///
/// Both functions depend on their arguments alone: no clock, no configuration that may change. So
/// the same entries give the same state on every node, and again after a rebuild.
pub trait Rules: Send + Sync + 'static {
    /// Whether this node knows the register. Entries of one that it does not know are carried, counted, and
    /// not indexed.
    fn knows(&self, register: &RegisterId) -> bool;

    /// The registers that this node knows, in order: a state that was derived without one of them, and has
    /// entries that it did not index, is derived again.
    fn registers(&self) -> Vec<&str> {
        Vec::new()
    }

    /// Judges a change against the state, pending changes of the same group included.
    ///
    /// # Errors
    /// [`JudgeError::Refused`] with the rule that it breaks.
    fn judge(&self, state: &dyn StateRead, change: &Change<'_>) -> Result<Judgement, JudgeError>;

    /// Writes the index changes that take a record from one revision to the next. Must not fail: bytes
    /// that do not decode, as a foreign node may have sent, index nothing.
    fn index(
        &self,
        name: &RecordName,
        before: Option<Revision<'_>>,
        after: Revision<'_>,
        batch: &mut Batch,
    );

    /// Writes what counters change with it, given the state before, pending changes included.
    ///
    /// # Errors
    /// As the state.
    fn count(
        &self,
        _name: &RecordName,
        _before: Option<Revision<'_>>,
        _after: Revision<'_>,
        _state: &dyn StateRead,
        _batch: &mut Batch,
    ) -> Result<(), StorageError> {
        Ok(())
    }
}
