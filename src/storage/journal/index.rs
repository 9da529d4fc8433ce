//! Where each entry of a log lies: one derived file per log, `index/<log in hex>.idx`.
//!
//! A record is 16 bytes: u64 position of the frame, u32 length and u32 checksum of its payload. The
//! files are not synced with each group. [`super::mark`] remembers how far they were, and what the
//! checksum over their records was; what is behind that is written again at open.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::mark::LogMark;
use crate::storage::durable::{self, Access};
use crate::types::{LogIndex, LogNo};

pub(super) const RECORD: usize = 16;

/// Where one entry lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) position: u64,
    pub(super) len: u32,
    pub(super) payload_crc: u32,
}

impl Record {
    fn encode(self) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        bytes[..8].copy_from_slice(&self.position.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: [u8; RECORD]) -> Self {
        let number = u128::from_le_bytes(bytes);
        Self {
            position: number as u64,
            len: (number >> 64) as u32,
            payload_crc: (number >> 96) as u32,
        }
    }
}

/// The index of one log. The journal's writer alone appends; anyone may read.
#[derive(Debug)]
pub(super) struct LogIndexFile {
    path: PathBuf,
    file: File,
    entries: AtomicU64,
    crc: AtomicU32,
    is_dirty: AtomicBool,
}

impl LogIndexFile {
    fn create(dir: &Path, log: LogNo) -> io::Result<Self> {
        Self::open(dir, log, LogMark { entries: 0, crc: 0 })
    }

    /// Opens a file and drops whatever is behind the mark.
    fn open(dir: &Path, log: LogNo, mark: LogMark) -> io::Result<Self> {
        let path = path(dir, log);
        let file = durable::open_or_create(&path)?;
        file.set_len(mark.entries * RECORD as u64)
            .map_err(|e| durable::at(&path, e))?;
        Ok(Self {
            path,
            file,
            entries: AtomicU64::new(mark.entries),
            crc: AtomicU32::new(mark.crc),
            is_dirty: AtomicBool::new(false),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn entries(&self) -> u64 {
        self.entries.load(Ordering::Acquire)
    }

    /// The record of an entry; `None` past the end.
    pub(super) fn get(&self, index: LogIndex) -> io::Result<Option<Record>> {
        if index.0 >= self.entries() {
            return Ok(None);
        }
        read_record(&self.file, index)
            .map(Some)
            .map_err(|e| durable::at(&self.path, e))
    }

    fn append(&self, records: &[Record]) -> io::Result<()> {
        let bytes: Vec<u8> = records.iter().flat_map(|record| record.encode()).collect();
        let entries = self.entries();
        self.is_dirty.store(true, Ordering::Relaxed);
        self.file
            .write_all_at(&bytes, entries * RECORD as u64)
            .map_err(|e| durable::at(&self.path, e))?;
        self.crc.store(
            crc32c::crc32c_append(self.crc.load(Ordering::Relaxed), &bytes),
            Ordering::Relaxed,
        );
        self.entries
            .store(entries + records.len() as u64, Ordering::Release);
        Ok(())
    }

    fn settle(&self) -> io::Result<LogMark> {
        if self.is_dirty.swap(false, Ordering::Relaxed) {
            self.file
                .sync_data()
                .map_err(|e| durable::at(&self.path, e))?;
        }
        Ok(LogMark {
            entries: self.entries(),
            crc: self.crc.load(Ordering::Relaxed),
        })
    }
}

/// The indexes of all logs.
#[derive(Debug)]
pub(super) struct Indexes {
    dir: PathBuf,
    logs: RwLock<BTreeMap<LogNo, Arc<LogIndexFile>>>,
}

impl Indexes {
    /// Starts without any; files that are there are overwritten as their logs turn up.
    pub(super) fn empty(journal: &Path) -> io::Result<Self> {
        let dir = journal.join("index");
        durable::create_dir_all(&dir, Access::Owner)?;
        Ok(Self {
            dir,
            logs: RwLock::default(),
        })
    }

    /// Starts with what the mark vouches for. `None` if the files do not bear it out.
    pub(super) fn load(
        journal: &Path,
        marks: &BTreeMap<LogNo, LogMark>,
    ) -> io::Result<Option<Self>> {
        let indexes = Self::empty(journal)?;
        let mut logs = BTreeMap::new();
        for (&log, &mark) in marks {
            if checksum(&path(&indexes.dir, log), mark.entries)? != Some(mark.crc) {
                return Ok(None);
            }
            logs.insert(log, Arc::new(LogIndexFile::open(&indexes.dir, log, mark)?));
        }
        Ok(Some(Self {
            logs: RwLock::new(logs),
            ..indexes
        }))
    }

    pub(super) fn get(&self, log: LogNo) -> Option<Arc<LogIndexFile>> {
        self.logs
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&log)
            .cloned()
    }

    pub(super) fn entries(&self, log: LogNo) -> u64 {
        self.get(log).map_or(0, |index| index.entries())
    }

    /// Appends the records of a log's next entries.
    pub(super) fn append(&self, log: LogNo, records: &[Record]) -> io::Result<()> {
        if let Some(index) = self.get(log) {
            return index.append(records);
        }
        let index = Arc::new(LogIndexFile::create(&self.dir, log)?);
        index.append(records)?;
        self.logs
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(log, index);
        Ok(())
    }

    /// Makes all of it durable and says how far it goes.
    pub(super) fn settle(&self) -> io::Result<BTreeMap<LogNo, LogMark>> {
        let logs = self
            .logs
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        logs.iter()
            .map(|(log, index)| Ok((*log, index.settle()?)))
            .collect()
    }

    pub(super) fn bytes(&self) -> u64 {
        let logs = self.logs.read().unwrap_or_else(PoisonError::into_inner);
        logs.values()
            .map(|index| index.entries() * RECORD as u64)
            .sum()
    }
}

pub(super) fn path(dir: &Path, log: LogNo) -> PathBuf {
    dir.join(format!("{:08x}.idx", log.0))
}

pub(super) fn read_record(file: &File, index: LogIndex) -> io::Result<Record> {
    let mut bytes = [0; RECORD];
    file.read_exact_at(&mut bytes, index.0.saturating_mul(RECORD as u64))?;
    Ok(Record::decode(bytes))
}

/// The checksum over the first records of a file; `None` if it has fewer.
fn checksum(path: &Path, entries: u64) -> io::Result<Option<u32>> {
    const CHUNK: u64 = 1024 * 1024;
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(durable::at(path, e)),
    };
    let end = entries.saturating_mul(RECORD as u64);
    if file.metadata().map_err(|e| durable::at(path, e))?.len() < end {
        return Ok(None);
    }
    let (mut offset, mut crc, mut chunk) = (0, 0, vec![0; CHUNK.min(end) as usize]);
    while offset < end {
        chunk.truncate((end - offset).min(CHUNK) as usize);
        file.read_exact_at(&mut chunk, offset)
            .map_err(|e| durable::at(path, e))?;
        crc = crc32c::crc32c_append(crc, &chunk);
        offset += chunk.len() as u64;
    }
    Ok(Some(crc))
}
