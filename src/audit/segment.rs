//! Files of the trail: a header, then frames of length, CRC-32C, record and hash.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use prost::Message as _;

use super::{AuditError, Chained, Hash};
use crate::{proto::audit::v1::AuditRecord, storage::durable, types::sha256};

/// The first bytes of every file: what it is, and the version of this format.
const MAGIC: &[u8; 8] = b"hefuaud1";
/// Magic, first sequence, hash before.
const HEADER: usize = 8 + 8 + 32;
/// Length and CRC-32C of a record.
const PREFIX: usize = 4 + 4;
/// A record is small; a length beyond this is damage.
const MAX_RECORD: usize = 16 * 1024;

/// What a file begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// The sequence of its first record.
    pub first: u64,
    /// The chain's hash before it.
    pub before: Hash,
}

/// A file, read whole.
pub(super) struct Segment {
    pub header: Header,
    pub records: Vec<Chained>,
    /// Bytes up to the end of the last whole record.
    end: usize,
    /// What is wrong behind that end; `None` where nothing is there.
    torn: Option<String>,
}

/// The chain's rule.
pub(super) fn hash_after(before: &Hash, record: &[u8]) -> Hash {
    sha256(&[before, record])
}

/// A record as it lies in a file.
pub(super) fn frame(record: &[u8], hash: &Hash) -> Vec<u8> {
    let length = u32::try_from(record.len()).unwrap_or(u32::MAX);
    let mut frame = Vec::with_capacity(PREFIX + record.len() + hash.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&crc32c::crc32c(record).to_be_bytes());
    frame.extend_from_slice(record);
    frame.extend_from_slice(hash);
    frame
}

/// The file whose first record has that sequence.
pub(super) fn path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}.audit"))
}

/// First sequences of the files in a folder, oldest first.
pub(super) fn files(folder: &Path) -> Result<Vec<u64>, AuditError> {
    let failed = |cause: io::Error| AuditError::File {
        path: folder.to_owned(),
        cause,
    };
    let mut found = Vec::new();
    for item in fs::read_dir(folder).map_err(failed)? {
        let name = item.map_err(failed)?.file_name();
        let first = name.to_str().and_then(|name| name.strip_suffix(".audit"));
        found.extend(first.and_then(|first| first.parse::<u64>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

/// When the first record of a file was written; `None` where it has none.
pub(super) fn began(path: &Path) -> Result<Option<Timestamp>, AuditError> {
    use io::Read as _;
    let mut start = Vec::new();
    let failed = |cause| AuditError::File {
        path: path.to_owned(),
        cause,
    };
    let file = fs::File::open(path).map_err(failed)?;
    let limit = (HEADER + PREFIX + MAX_RECORD + 32) as u64;
    file.take(limit).read_to_end(&mut start).map_err(failed)?;
    let first = Segment::parse(path, &start, Some(0))?
        .records
        .into_iter()
        .next();
    let time = first.and_then(|first| first.record.time);
    Ok(time.and_then(|time| Timestamp::from_second(time.seconds).ok()))
}

impl Header {
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.first.to_be_bytes());
        bytes.extend_from_slice(&self.before);
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(MAGIC)?;
        let (first, rest) = rest.split_first_chunk::<8>()?;
        Some(Self {
            first: u64::from_be_bytes(*first),
            before: *rest.first_chunk::<32>()?,
        })
    }
}

impl Segment {
    /// Reads a file; its end may be torn, as while it is written.
    pub fn read(path: &Path) -> Result<Self, AuditError> {
        let bytes = fs::read(path).map_err(|cause| AuditError::File {
            path: path.to_owned(),
            cause,
        })?;
        Self::parse(path, &bytes, None)
    }

    /// Reads the last file, and cuts what a crash left of it. Records before `durable` cannot be what a
    /// crash has spoilt; those behind were not synced, and a power cut may have left anything there.
    pub fn recover(path: &Path, durable: u64) -> Result<Self, AuditError> {
        let bytes = fs::read(path).map_err(|cause| AuditError::File {
            path: path.to_owned(),
            cause,
        })?;
        let segment = Self::parse(path, &bytes, Some(durable))?;
        let next = segment.header.first + segment.records.len() as u64;
        if next < durable {
            return Err(AuditError::Damaged {
                path: path.to_owned(),
                what: format!("it ends before record {next}, and had {durable}"),
            });
        }
        if let Some(what) = &segment.torn {
            let file = path.display();
            tracing::warn!(%file, what, "the end of the audit trail is cut off");
            durable::truncate(path, segment.end as u64).map_err(|cause| AuditError::File {
                path: path.to_owned(),
                cause,
            })?;
        }
        Ok(segment)
    }

    /// What is wrong at the end.
    pub fn torn(&self) -> Option<&str> {
        self.torn.as_deref()
    }

    fn parse(path: &Path, bytes: &[u8], durable: Option<u64>) -> Result<Self, AuditError> {
        let damaged = |what: String| AuditError::Damaged {
            path: path.to_owned(),
            what,
        };
        let header = Header::parse(bytes).ok_or_else(|| damaged("its header is damaged".into()))?;
        let mut segment = Self {
            header,
            records: Vec::new(),
            end: HEADER,
            torn: None,
        };
        let mut hash = header.before;
        while segment.end < bytes.len() {
            let rest = bytes.get(segment.end..).unwrap_or_default();
            match one(rest, &hash) {
                Ok((chained, length)) => {
                    hash = chained.hash;
                    segment.records.push(chained);
                    segment.end += length;
                }
                Err(what) => {
                    let sequence = header.first + segment.records.len() as u64;
                    let what = format!("record {sequence}: {what}");
                    // Where it is not known what was synced, only the last record can be torn: with
                    // another one behind it, it was whole once.
                    if durable.map_or_else(|| followed(rest), |durable| sequence < durable) {
                        return Err(damaged(what));
                    }
                    segment.torn = Some(what);
                    break;
                }
            }
        }
        Ok(segment)
    }
}

/// The record at the start of `bytes`, and how long its frame is.
fn one(bytes: &[u8], before: &Hash) -> Result<(Chained, usize), &'static str> {
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or("it is cut")?;
    let (crc, rest) = rest.split_first_chunk::<4>().ok_or("it is cut")?;
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    if length > MAX_RECORD {
        return Err("its length is damaged");
    }
    let (record, rest) = rest.split_at_checked(length).ok_or("it is cut")?;
    let hash = *rest.first_chunk::<32>().ok_or("it is cut")?;
    if crc32c::crc32c(record) != u32::from_be_bytes(*crc) {
        return Err("its bytes are damaged");
    }
    if hash_after(before, record) != hash {
        return Err("it does not follow the record before it");
    }
    let decoded = AuditRecord::decode(record).map_err(|_| "it does not decode")?;
    let chained = Chained {
        bytes: record.to_vec(),
        record: decoded,
        hash,
    };
    Ok((chained, PREFIX + length + hash.len()))
}

/// Whether something is behind the frame at the start of `bytes`, by the length that it gives.
fn followed(bytes: &[u8]) -> bool {
    let length = bytes
        .first_chunk::<4>()
        .and_then(|length| usize::try_from(u32::from_be_bytes(*length)).ok());
    length.is_some_and(|length| bytes.len() > PREFIX + length.saturating_add(32))
}
