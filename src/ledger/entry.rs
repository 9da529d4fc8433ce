//! Entries: exact bytes, and what is in them.

use bytes::Bytes;
use prost::Message as _;

use super::{
    head::{EntryRef, Head, content_hash},
    merkle::{Hash, leaf_hash},
};
use crate::{
    proto::ledger::v1::{self as pb, Action},
    types::{LedgerTime, RecordName},
};

/// The format of the entry message that this program writes.
pub const FORMAT: u32 = 1;

/// An entry as stored: the bytes are what is hashed, the rest is read out of them.
#[derive(Debug, Clone)]
pub struct StoredEntry {
    /// Where it lies.
    pub at: EntryRef,
    /// Its exact bytes.
    pub bytes: Bytes,
    /// The message in them.
    pub message: pb::Entry,
    /// The record that it changes.
    pub name: RecordName,
    /// Its ledger time.
    pub time: LedgerTime,
    /// Ledger time of the record's first revision.
    pub created: LedgerTime,
}

/// Why bytes are not an entry that this program understands. They are carried all the same.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EntryError {
    /// The bytes are no entry message.
    #[error("the bytes are no entry")]
    Undecodable,
    /// A later format.
    #[error("its format {0} is not known")]
    Format(u32),
    /// A field breaks its rule.
    #[error("its {0} is not valid")]
    Field(&'static str),
}

impl StoredEntry {
    /// Reads an entry.
    ///
    /// # Errors
    /// [`EntryError`]: the bytes may come from another node, of another version.
    pub fn parse(at: EntryRef, bytes: Bytes) -> Result<Self, EntryError> {
        let message = pb::Entry::decode(bytes.clone()).map_err(|_| EntryError::Undecodable)?;
        if message.format != FORMAT {
            return Err(EntryError::Format(message.format));
        }
        let name = message
            .name
            .parse()
            .map_err(|_| EntryError::Field("name"))?;
        let time = ledger_time(message.time.as_ref()).ok_or(EntryError::Field("time"))?;
        let created =
            ledger_time(message.create_time.as_ref()).ok_or(EntryError::Field("create_time"))?;
        if message.revision < 1 {
            return Err(EntryError::Field("revision"));
        }
        if !matches!(message.action(), Action::Submit | Action::Withdraw) {
            return Err(EntryError::Field("action"));
        }
        Ok(Self {
            at,
            bytes,
            message,
            name,
            time,
            created,
        })
    }

    /// Whether it withdrew the record.
    #[must_use]
    pub fn withdrawn(&self) -> bool {
        self.message.action() == Action::Withdraw
    }

    /// Its leaf hash.
    #[must_use]
    pub fn leaf_hash(&self) -> Hash {
        leaf_hash(&self.bytes)
    }

    /// The revision's number, from 1.
    #[must_use]
    pub fn revision(&self) -> u64 {
        u64::try_from(self.message.revision).unwrap_or(0)
    }

    /// The head that the record has once this is its standing revision.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head_with(content_hash(&self.message.record))
    }

    /// As [`StoredEntry::head`], where the hash of the record is known.
    #[must_use]
    pub fn head_with(&self, hash: Hash) -> Head {
        Head {
            entry: self.at,
            revision: self.revision(),
            withdrawn: self.withdrawn(),
            created: self.created,
            updated: self.time,
            hash,
        }
    }
}

/// A ledger time from its message.
#[must_use]
pub fn ledger_time(time: Option<&prost_types::Timestamp>) -> Option<LedgerTime> {
    let time = time?;
    if !(0..1_000_000_000).contains(&time.nanos) {
        return None;
    }
    let micros = time
        .seconds
        .checked_mul(1_000_000)?
        .checked_add(i64::from(time.nanos / 1_000))?;
    LedgerTime::from_micros(micros).ok()
}

/// A ledger time as its message.
#[must_use]
pub fn timestamp(time: LedgerTime) -> prost_types::Timestamp {
    let micros = time.as_micros();
    prost_types::Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1_000).unwrap_or(0),
    }
}
