//! What the state keeps of a record: where its standing revision lies, and what is asked often.

use crate::types::{LedgerTime, LogIndex, LogNo, sha256};

/// Where an entry lies on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryRef {
    /// The log.
    pub log: LogNo,
    /// The index in it.
    pub index: LogIndex,
}

/// The head of a record: 73 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The entry of the standing revision.
    pub entry: EntryRef,
    /// Its number, from 1.
    pub revision: u64,
    /// Whether it withdrew the record.
    pub withdrawn: bool,
    /// Ledger time of the first revision.
    pub created: LedgerTime,
    /// Ledger time of the standing one.
    pub updated: LedgerTime,
    /// SHA-256 of the record's bytes: tells unchanged from revised.
    pub hash: [u8; 32],
}

impl Head {
    /// The etag of the standing revision.
    #[must_use]
    pub fn etag(&self) -> String {
        etag(self.revision, &self.hash)
    }

    /// As stored.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(69);
        bytes.extend_from_slice(&self.entry.log.0.to_be_bytes());
        bytes.extend_from_slice(&self.entry.index.0.to_be_bytes());
        bytes.extend_from_slice(&self.revision.to_be_bytes());
        bytes.push(u8::from(self.withdrawn));
        bytes.extend_from_slice(&self.created.as_micros().to_be_bytes());
        bytes.extend_from_slice(&self.updated.as_micros().to_be_bytes());
        bytes.extend_from_slice(&self.hash);
        bytes
    }

    /// From what was stored; `None` for anything else.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (log, rest) = bytes.split_first_chunk::<4>()?;
        let (index, rest) = rest.split_first_chunk::<8>()?;
        let (revision, rest) = rest.split_first_chunk::<8>()?;
        let (withdrawn, rest) = rest.split_first()?;
        let (created, rest) = rest.split_first_chunk::<8>()?;
        let (updated, rest) = rest.split_first_chunk::<8>()?;
        Some(Self {
            entry: EntryRef {
                log: LogNo(u32::from_be_bytes(*log)),
                index: LogIndex(u64::from_be_bytes(*index)),
            },
            revision: u64::from_be_bytes(*revision),
            withdrawn: *withdrawn != 0,
            created: LedgerTime::from_micros(i64::from_be_bytes(*created)).ok()?,
            updated: LedgerTime::from_micros(i64::from_be_bytes(*updated)).ok()?,
            hash: rest.try_into().ok()?,
        })
    }
}

/// The etag of a revision: its number and the first half of its content's hash.
#[must_use]
pub fn etag(revision: u64, hash: &[u8; 32]) -> String {
    use std::fmt::Write as _;
    let mut etag = format!("{revision}-");
    for byte in hash.iter().take(16) {
        let _ = write!(etag, "{byte:02x}");
    }
    etag
}

/// SHA-256 of a record's bytes.
#[must_use]
pub fn content_hash(record: &[u8]) -> [u8; 32] {
    sha256(&[record])
}
