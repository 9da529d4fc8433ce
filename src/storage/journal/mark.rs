//! `mark`: how far the journal and its indexes were known to be whole and on the disk.
//!
//! It shortens the next start to what came after it, and gives the journal a floor: nothing before
//! it can be the trace of a crash.
//!
//! ```text
//!  0  "HEFUMRK1"
//!  8  u32  checksum of everything behind this field
//! 12  u64  journal id
//! 20  u64  position
//! 28  u64  number of the last group before it
//! 36  then per log, ascending: u32 log, u64 entries, u32 checksum over their index records
//! ```

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::format::JournalId;
use crate::storage::durable::{self, Access};
use crate::types::LogNo;

const MAGIC: &[u8; 8] = b"HEFUMRK1";
const HEAD: usize = 36;
const PER_LOG: usize = 16;

/// How far the index of one log was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogMark {
    pub(super) entries: u64,
    /// Over the records of these entries.
    pub(super) crc: u32,
}

/// How far everything was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) journal: JournalId,
    pub(super) position: u64,
    pub(super) group: u64,
    pub(super) logs: BTreeMap<LogNo, LogMark>,
}

impl Mark {
    /// Reads the mark; `None` if there is none or it is damaged, which costs time only.
    pub(super) fn load(dir: &Path) -> io::Result<Option<Self>> {
        let path = dir.join("mark");
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Self::decode(&bytes).or_else(|| {
                tracing::warn!(file = %path.display(), "the journal's mark is damaged: ignored");
                None
            })),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(durable::at(&path, e)),
        }
    }

    pub(super) fn store(&self, dir: &Path) -> io::Result<()> {
        durable::replace(&dir.join("mark"), &self.encode(), Access::Owner)
    }

    fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(HEAD + self.logs.len() * PER_LOG);
        body.extend_from_slice(&self.journal.0.to_le_bytes());
        body.extend_from_slice(&self.position.to_le_bytes());
        body.extend_from_slice(&self.group.to_le_bytes());
        for (log, mark) in &self.logs {
            body.extend_from_slice(&log.0.to_le_bytes());
            body.extend_from_slice(&mark.entries.to_le_bytes());
            body.extend_from_slice(&mark.crc.to_le_bytes());
        }
        [
            MAGIC.as_slice(),
            &crc32c::crc32c(&body).to_le_bytes(),
            &body,
        ]
        .concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (crc, body) = bytes.strip_prefix(MAGIC)?.split_first_chunk()?;
        if u32::from_le_bytes(*crc) != crc32c::crc32c(body) {
            return None;
        }
        let (journal, body) = body.split_first_chunk()?;
        let (position, body) = body.split_first_chunk()?;
        let (group, body) = body.split_first_chunk()?;
        let (logs, rest) = body.as_chunks::<PER_LOG>();
        rest.is_empty().then(|| Self {
            journal: JournalId(u64::from_le_bytes(*journal)),
            position: u64::from_le_bytes(*position),
            group: u64::from_le_bytes(*group),
            logs: logs.iter().map(|bytes| decode_log(*bytes)).collect(),
        })
    }
}

fn decode_log(bytes: [u8; PER_LOG]) -> (LogNo, LogMark) {
    let number = u128::from_le_bytes(bytes);
    let mark = LogMark {
        entries: (number >> 32) as u64,
        crc: (number >> 96) as u32,
    };
    (LogNo(number as u32), mark)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mark() -> Mark {
        let logs = [
            (LogNo(0), LogMark { entries: 5, crc: 1 }),
            (
                LogNo(9),
                LogMark {
                    entries: u64::MAX,
                    crc: u32::MAX,
                },
            ),
        ];
        Mark {
            journal: JournalId(7),
            position: 1_000,
            group: 3,
            logs: logs.into(),
        }
    }

    proptest! {
        #[test]
        fn a_mark_reads_back(
            journal: u64, position: u64, group: u64,
            logs: std::collections::BTreeMap<u32, (u64, u32)>,
        ) {
            let logs = logs
                .into_iter()
                .map(|(log, (entries, crc))| (LogNo(log), LogMark { entries, crc }))
                .collect();
            let mark = Mark { journal: JournalId(journal), position, group, logs };
            prop_assert_eq!(Mark::decode(&mark.encode()), Some(mark));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let bytes = mark().encode();
        for bit in 0..bytes.len() * 8 {
            let mut bent = bytes.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Mark::decode(&bent), None, "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert_eq!(Mark::decode(&bytes[..len]), None, "{len} bytes");
        }
    }
}
