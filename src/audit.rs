//! The audit trail: who did what, when, with what result. Append-only, hash-chained, kept for a set
//! time, without anything of what records say.
//!
//! A record is written to its file before the call is answered, so a killed process loses none; files
//! are synced every second, so a power cut may lose the last second of reads and refusals. What
//! was taken in stands in the ledger by then, with its submitter. A trail that cannot be written stops the
//! node: nothing is done that is not recorded.

mod account;
mod flood;
mod segment;
#[cfg(test)]
mod tests;
mod verify;

use std::{
    fs::File,
    io::{self, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use prost::Message as _;
use tokio::sync::watch;

pub use self::{
    account::{Account, Incoming, Rows},
    verify::{Checked, verify, verify_chain},
};
use self::{
    flood::Flood,
    segment::{Header, Segment, hash_after},
};
use crate::{
    proto::audit::v1::AuditRecord,
    storage::{SlotContent, SlotFile, StorageError, durable},
    types::Clock,
};

/// A hash of the chain.
pub type Hash = [u8; 32];

/// Bytes at which a file ends, also when its day does not: it is read as a whole.
const FILE_BYTES: u64 = 16 * 1024 * 1024;
/// Longest text of a field, in bytes; callers choose some of them.
const MAX_TEXT: usize = 300;
/// Shortest time that a trail may be kept, in days: six months. Source: Cybersecurity Law of the PRC, article 21 (3).
pub const MIN_KEEP_DAYS: u32 = 183;

/// Why the trail is not opened, written or read.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A file.
    #[error("audit trail, {}: {cause}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A file is not what was written.
    #[error("audit trail, {}: {what}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What and where.
        what: String,
    },
    /// The file that says how far the trail is durable.
    #[error("audit trail, mark: {0}")]
    Mark(StorageError),
    /// It failed before; the node is stopping.
    #[error("the audit trail failed before")]
    Failed,
}

/// Where the trail stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The sequence of the next record.
    pub size: u64,
    /// The oldest that is kept.
    pub oldest: u64,
    /// The chain's hash after the newest.
    pub hash: Hash,
}

/// A record with its place in the chain.
#[derive(Debug, Clone, PartialEq)]
pub struct Chained {
    /// Its exact bytes.
    pub bytes: Vec<u8>,
    /// What they say.
    pub record: AuditRecord,
    /// The hash after it.
    pub hash: Hash,
}

/// The trail of a node.
#[derive(Clone)]
pub struct Trail {
    writer: Arc<Mutex<Writer>>,
    /// How far the trail is known to be durable, and the hash there.
    mark: Arc<Mutex<SlotFile>>,
    clock: Arc<dyn Clock>,
    failed: watch::Sender<bool>,
}

struct Writer {
    folder: PathBuf,
    keep: Duration,
    file: File,
    path: PathBuf,
    bytes: u64,
    day: i64,
    /// First sequences of the files, oldest first.
    files: Vec<u64>,
    next: u64,
    hash: Hash,
    flood: Flood,
    dirty: bool,
}

impl Trail {
    /// Opens the trail in a folder, which is made where there is none. A record that a crash has cut is
    /// cut off.
    ///
    /// # Errors
    /// [`AuditError`]; damage before the end is not repaired.
    pub fn open(folder: &Path, keep_days: u32, clock: Arc<dyn Clock>) -> Result<Self, AuditError> {
        let failed = |cause| AuditError::File {
            path: folder.to_owned(),
            cause,
        };
        durable::create_dir_all(folder, durable::Access::Owner).map_err(failed)?;
        let (mark, durable) = mark(folder)?;
        let mut files = segment::files(folder)?;
        let now = clock.now();
        let keep = Duration::from_secs(86_400 * u64::from(keep_days.max(MIN_KEEP_DAYS)));
        let writer = match files.last() {
            Some(first) => Writer::resume(folder, keep, files.clone(), *first, durable.0)?,
            None => {
                files.push(0);
                Writer::begin(folder, keep, files, 0, [0; 32], now)?
            }
        };
        Ok(Self {
            writer: Arc::new(Mutex::new(writer)),
            mark: Arc::new(Mutex::new(mark)),
            clock,
            failed: watch::Sender::new(false),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells when the trail cannot be written any more.
    #[must_use]
    pub fn failing(&self) -> watch::Receiver<bool> {
        self.failed.subscribe()
    }

    /// Writes one record; its sequence and time are set here. A refusal that many like it came before
    /// within the second is counted instead.
    ///
    /// # Errors
    /// [`AuditError`]: then what it is about must not be answered.
    pub fn write(&self, record: AuditRecord) -> Result<(), AuditError> {
        let mut writer = self.lock();
        if writer.flood.folds(&record) {
            return Ok(());
        }
        self.settle(writer.append(record, self.clock.now()))
    }

    /// Writes what happened to the node itself.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn event(&self, text: impl Into<String>) -> Result<(), AuditError> {
        self.write(AuditRecord {
            event: text.into(),
            ..AuditRecord::default()
        })
    }

    fn settle(&self, written: Result<(), AuditError>) -> Result<(), AuditError> {
        if let Err(error) = &written {
            tracing::error!(%error, "the audit trail cannot be written");
            self.failed.send_replace(true);
        }
        if *self.failed.borrow() {
            return written.and(Err(AuditError::Failed));
        }
        written
    }

    /// Writes the counts of floods that are over, makes everything durable, and drops files that are
    /// older than what is kept. To be called every second, off the threads that serve.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn sync(&self) -> Result<(), AuditError> {
        let now = self.clock.now();
        let unsynced = {
            let mut writer = self.lock();
            let folded = writer.flood.end();
            for record in folded {
                self.settle(writer.append(record, now))?;
            }
            let unsynced = std::mem::take(&mut writer.dirty).then(|| {
                let reached = (writer.next, writer.hash);
                (writer.file.try_clone(), writer.path.clone(), reached)
            });
            self.settle(writer.prune(now))?;
            unsynced
        };
        let Some((file, path, (next, hash))) = unsynced else {
            return Ok(());
        };
        let synced = file.and_then(|file| file.sync_data());
        self.settle(synced.map_err(|cause| AuditError::File { path, cause }))?;
        let value = [next.to_be_bytes().as_slice(), &hash].concat();
        let mut mark = self.mark.lock().unwrap_or_else(PoisonError::into_inner);
        let marked = mark.write(&value).and_then(|()| mark.sync());
        self.settle(marked.map_err(AuditError::Mark))
    }

    /// Where it stands.
    #[must_use]
    pub fn head(&self) -> Head {
        let writer = self.lock();
        Head {
            size: writer.next,
            oldest: writer.files.first().copied().unwrap_or(0),
            hash: writer.hash,
        }
    }

    /// How long records are kept.
    #[must_use]
    pub fn kept(&self) -> Duration {
        self.lock().keep
    }

    /// The records of the file that holds `sequence`, and the hash before the first of them; `None` past
    /// the end. One that is no longer kept gives the oldest file. A file has 16 MiB at most.
    ///
    /// # Errors
    /// [`AuditError::Damaged`] names the place.
    pub fn file_of(&self, sequence: u64) -> Result<Option<(Hash, Vec<Chained>)>, AuditError> {
        let (folder, first, size) = {
            let writer = self.lock();
            let after = writer.files.partition_point(|first| *first <= sequence);
            let first = writer.files.get(after.saturating_sub(1)).copied();
            (writer.folder.clone(), first, writer.next)
        };
        let Some(first) = first.filter(|_| sequence < size) else {
            return Ok(None);
        };
        let mut segment = Segment::read(&segment::path(&folder, first))?;
        // What was written since is for the next call: the head says how far this one goes.
        let held = usize::try_from(size.saturating_sub(first)).unwrap_or(usize::MAX);
        segment.records.truncate(held);
        Ok(Some((segment.header.before, segment.records)))
    }
}

impl Writer {
    fn begin(
        folder: &Path,
        keep: Duration,
        files: Vec<u64>,
        next: u64,
        hash: Hash,
        now: Timestamp,
    ) -> Result<Self, AuditError> {
        let path = segment::path(folder, next);
        let header = Header {
            first: next,
            before: hash,
        };
        let failed = |cause| AuditError::File {
            path: path.clone(),
            cause,
        };
        // Whole before it has its name: a file without its header would be damage.
        durable::replace(&path, &header.to_bytes(), durable::Access::Owner).map_err(failed)?;
        let mut file = durable::open_or_create(&path).map_err(failed)?;
        let bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self {
            folder: folder.to_owned(),
            keep,
            file,
            path,
            bytes,
            day: day(now),
            files,
            next,
            hash,
            flood: Flood::default(),
            dirty: false,
        })
    }

    fn resume(
        folder: &Path,
        keep: Duration,
        files: Vec<u64>,
        first: u64,
        durable: u64,
    ) -> Result<Self, AuditError> {
        let path = segment::path(folder, first);
        let segment = Segment::recover(&path, durable)?;
        let failed = |cause| AuditError::File {
            path: path.clone(),
            cause,
        };
        let mut file = durable::open_or_create(&path).map_err(failed)?;
        let bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let last = segment.records.last();
        let time = last.and_then(|last| last.record.time.as_ref());
        Ok(Self {
            folder: folder.to_owned(),
            keep,
            file,
            bytes,
            day: time.map_or(i64::MIN, |time| time.seconds.div_euclid(86_400)),
            files,
            next: segment.header.first + segment.records.len() as u64,
            hash: last.map_or(segment.header.before, |last| last.hash),
            flood: Flood::default(),
            dirty: false,
            path,
        })
    }

    fn append(&mut self, mut record: AuditRecord, now: Timestamp) -> Result<(), AuditError> {
        let filled = self.bytes >= FILE_BYTES || self.day != day(now);
        if filled && self.files.last() != Some(&self.next) {
            self.file.sync_data().map_err(|cause| self.failed(cause))?;
            let mut files = std::mem::take(&mut self.files);
            files.push(self.next);
            let flood = std::mem::take(&mut self.flood);
            let (folder, keep) = (self.folder.clone(), self.keep);
            *self = Self::begin(&folder, keep, files, self.next, self.hash, now)?;
            self.flood = flood;
        }
        self.day = day(now);
        record.sequence = i64::try_from(self.next).unwrap_or(i64::MAX);
        record.time = Some(prost_types::Timestamp {
            seconds: now.as_second(),
            nanos: now.subsec_nanosecond(),
        });
        for text in [&mut record.resource, &mut record.method, &mut record.event] {
            shorten(text);
        }
        let bytes = record.encode_to_vec();
        let hash = hash_after(&self.hash, &bytes);
        let frame = segment::frame(&bytes, &hash);
        self.file
            .write_all(&frame)
            .map_err(|cause| self.failed(cause))?;
        self.bytes += frame.len() as u64;
        (self.next, self.hash, self.dirty) = (self.next + 1, hash, true);
        Ok(())
    }

    /// Drops whole files whose every record is older than what is kept.
    fn prune(&mut self, now: Timestamp) -> Result<(), AuditError> {
        while let [oldest, next, ..] = self.files.as_slice() {
            let (oldest, next) = (*oldest, *next);
            let ended = segment::began(&segment::path(&self.folder, next))?;
            let limit = now.checked_sub(self.keep).unwrap_or(Timestamp::MIN);
            if ended.is_none_or(|ended| ended > limit) {
                return Ok(());
            }
            let path = segment::path(&self.folder, oldest);
            durable::remove(&path).map_err(|cause| self.failed(cause))?;
            self.files.remove(0);
        }
        Ok(())
    }

    fn failed(&self, cause: io::Error) -> AuditError {
        AuditError::File {
            path: self.path.clone(),
            cause,
        }
    }
}

/// The mark of a folder: the sequence up to which everything is durable, and the hash there.
fn mark(folder: &Path) -> Result<(SlotFile, (u64, Hash)), AuditError> {
    let (file, content) = SlotFile::open(&folder.join("mark")).map_err(AuditError::Mark)?;
    let damaged = |what: &str| AuditError::Damaged {
        path: folder.join("mark"),
        what: what.to_owned(),
    };
    let value = match content {
        SlotContent::Blank => return Ok((file, (0, [0; 32]))),
        SlotContent::Value(value) => value,
        SlotContent::Damaged => return Err(damaged("it is damaged")),
    };
    let parsed = value.split_first_chunk::<8>().and_then(|(next, hash)| {
        let hash: Hash = hash.try_into().ok()?;
        Some((u64::from_be_bytes(*next), hash))
    });
    let durable = parsed.ok_or_else(|| damaged("it has another length"))?;
    Ok((file, durable))
}

/// Days since 1970 in UTC.
fn day(now: Timestamp) -> i64 {
    now.as_second().div_euclid(86_400)
}

/// Cuts a text at a character.
fn shorten(text: &mut String) {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
    }
}
