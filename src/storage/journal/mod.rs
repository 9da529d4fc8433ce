//! The journal: the truth, as files that a person can read.
//!
//! ```text
//! journal/lock            held by the process that writes
//! journal/00000001.seg    frames in order of arrival (format.rs); a new file every 64 MiB
//! journal/mark            how far everything was whole (mark.rs)
//! journal/index/*.idx     where each entry lies; derived (index.rs)
//! ```
//!
//! A position counts the bytes of all frames before it, without the heads of segments. A group is
//! one write and one `fdatasync`, and never spans two segments.

mod defect;
mod format;
mod index;
mod mark;
mod recover;
mod segment;
mod sequence;
mod verify;
mod walk;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;

pub use self::defect::Defect;
pub use self::format::Damage;
pub use self::verify::{Audit, AuditWalk, Finding};

use self::format::{FRAME_HEADER, FrameHeader, JournalId, SEGMENT_HEADER};
use self::index::{Indexes, Record};
use self::walk::{Step, Walk};
use self::writer::Writer;
use super::durable::{self, Access, storage_error};
use super::{Frame, FrameKind, LogStore, Position, Scan, StorageError};
use crate::types::{LogIndex, LogNo};

/// Old segments are opened when they are read; this many stay open.
const OPEN_FILES: usize = 64;

/// How a journal is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalOptions {
    /// A segment that would grow over this many bytes is followed by a new one. A larger group has
    /// a segment of its own.
    pub segment_bytes: u64,
    /// The journal settles by itself after this many appended bytes; the next start reads at most
    /// about as many.
    pub settle_bytes: u64,
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 * 1024 * 1024,
            settle_bytes: 16 * 1024 * 1024,
        }
    }
}

/// An append-only log of frames in segment files. See [`LogStore`] for what it promises.
///
/// After a failed append, reads go on with what was acknowledged.
#[derive(Debug)]
pub struct Journal {
    shared: Arc<Shared>,
    writer: Mutex<Writer>,
    _lock: File,
}

/// What readers see. Only the writer changes it.
#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    journal: JournalId,
    /// Behind the last acknowledged group.
    end: AtomicU64,
    segments: RwLock<Vec<Piece>>,
    files: Mutex<BTreeMap<u64, Arc<File>>>,
    indexes: Indexes,
}

/// A segment as readers see it.
#[derive(Debug, Clone, Copy)]
struct Piece {
    number: u64,
    base: u64,
    /// Behind it, for all but the last.
    end: Option<u64>,
}

impl Journal {
    /// Opens the journal in a folder, creating both if they are not there, and waits for nothing: a
    /// torn last group is cut off, indexes are brought up to date.
    ///
    /// # Errors
    /// [`StorageError::InUse`] if another process has it open; [`StorageError::Corrupt`] names the
    /// place at which acknowledged bytes are damaged or gone; else as the operating system says.
    pub fn open(dir: &Path, options: JournalOptions) -> Result<Self, StorageError> {
        let io = |e| storage_error("opening the journal", &e);
        durable::create_dir_all(dir, Access::Owner).map_err(io)?;
        let lock = lock(dir)?;
        let recovered = recover::recover(dir)?;
        let segments = recovered.segments.iter().map(|s| Piece {
            number: s.header.number,
            base: s.header.base,
            end: (s.header != recovered.last).then(|| s.end()),
        });
        let shared = Arc::new(Shared {
            dir: dir.to_path_buf(),
            journal: recovered.journal,
            end: AtomicU64::new(recovered.end),
            segments: RwLock::new(segments.collect()),
            files: Mutex::default(),
            indexes: recovered.indexes,
        });
        let unsettled = recovered.end - recovered.read_from;
        let writer = Writer::new(
            shared.clone(),
            options,
            recovered.last,
            recovered.group,
            unsettled,
        )?;
        Ok(Self {
            shared,
            writer: Mutex::new(writer),
            _lock: lock,
        })
    }

    /// Looks at a journal without changing or locking anything, also while a node has it open.
    ///
    /// # Errors
    /// [`StorageError::Failed`] if there is no journal; [`StorageError::Corrupt`] if a segment is
    /// missing, foreign or of another journal, so that there is no order to read in.
    pub fn read_only(dir: &Path) -> Result<Audit, StorageError> {
        Audit::open(dir)
    }

    /// Settles and closes. Dropping does the same and cannot tell of an error.
    ///
    /// # Errors
    /// As [`LogStore::settle`].
    pub fn close(self) -> Result<(), StorageError> {
        self.settle()
    }

    fn writer<T>(
        &self,
        work: impl FnOnce(&mut Writer) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        // A panic within the writer leaves it as unusable as an error.
        work(&mut *self.writer.lock().map_err(|_| StorageError::Poisoned)?)
    }
}

impl LogStore for Journal {
    fn append(&self, group: &[Frame]) -> Result<Position, StorageError> {
        self.writer(|writer| writer.append(group))
    }

    fn size(&self, log: LogNo) -> u64 {
        self.shared.indexes.entries(log)
    }

    fn read(&self, log: LogNo, index: LogIndex) -> Result<Option<Bytes>, StorageError> {
        self.shared.read(log, index)
    }

    fn scan(&self, from: Position, max_bytes: usize) -> Result<Scan, StorageError> {
        self.shared.scan(from, max_bytes)
    }

    fn end(&self) -> Position {
        self.shared.end()
    }

    fn settle(&self) -> Result<(), StorageError> {
        self.writer(Writer::settle)
    }

    fn bytes_on_disk(&self) -> u64 {
        let segments = self
            .shared
            .segments
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len();
        self.shared.end().0 + (segments * SEGMENT_HEADER) as u64 + self.shared.indexes.bytes()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        match self.settle() {
            Ok(()) | Err(StorageError::Poisoned) => {}
            Err(error) => tracing::error!(%error, "closing the journal"),
        }
    }
}

impl Shared {
    fn end(&self) -> Position {
        Position(self.end.load(Ordering::Acquire))
    }

    fn read(&self, log: LogNo, index: LogIndex) -> Result<Option<Bytes>, StorageError> {
        let Some(logs) = self.indexes.get(log) else {
            return Ok(None);
        };
        let bad = |why: &str| StorageError::Corrupt {
            what: format!("log {}, index {}: {why}", log.0, index.0),
        };
        let io = |e: std::io::Error| match e.kind() {
            ErrorKind::UnexpectedEof => bad(&e.to_string()),
            _ => storage_error("reading the journal", &e),
        };
        let Some(record) = logs.get(index).map_err(io)? else {
            return Ok(None);
        };
        let is_within = record.len <= MAX_LEN && record.position < self.end().0;
        let Some(piece) = self.piece(record.position).filter(|_| is_within) else {
            return Err(bad(&format!(
                "{}: {}",
                logs.path().display(),
                Damage::Index
            )));
        };
        let file = self.file(piece.number).map_err(io)?;
        let offset = offset(&piece, record.position);
        let path = segment::path(&self.dir, piece.number);
        let mut bytes = vec![0; FRAME_HEADER + record.len as usize];
        file.read_exact_at(&mut bytes, offset)
            .map_err(|e| io(durable::at(&path, e)))?;
        match check(&bytes, self.journal, &record, (log, index)) {
            Ok(()) => Ok(Some(Bytes::from(bytes).slice(FRAME_HEADER..))),
            Err(damage) => {
                let file = if damage == Damage::Index {
                    logs.path()
                } else {
                    &path
                };
                let entry = Some((log, index));
                Err(Defect {
                    file: file.to_path_buf(),
                    offset,
                    entry,
                    damage,
                }
                .into())
            }
        }
    }

    fn scan(&self, from: Position, max_bytes: usize) -> Result<Scan, StorageError> {
        let end = self.end();
        let mut scan = Scan {
            frames: Vec::new(),
            next: from,
        };
        let mut left = max_bytes;
        while scan.next < end && (left > 0 || scan.frames.is_empty()) {
            let piece = self.piece(scan.next.0).ok_or_else(|| past_end(from, end))?;
            self.scan_piece(&piece, end, &mut left, &mut scan)?;
        }
        if scan.next > end {
            Err(past_end(from, end))
        } else {
            Ok(scan)
        }
    }

    /// Adds the frames of one segment.
    fn scan_piece(
        &self,
        piece: &Piece,
        end: Position,
        left: &mut usize,
        scan: &mut Scan,
    ) -> Result<(), StorageError> {
        let path = segment::path(&self.dir, piece.number);
        let io = |e| storage_error("reading the journal", &durable::at(&path, e));
        let file = self.file(piece.number).map_err(io)?;
        let end = piece.end.unwrap_or(end.0).min(end.0);
        let start = offset(piece, scan.next.0);
        let mut walk = Walk::new(file, self.journal, start, offset(piece, end)).expecting(*left);
        while *left > 0 || scan.frames.is_empty() {
            let offset = walk.offset();
            match walk.step().map_err(io)? {
                None => break,
                Some(Step::Damaged(damage, header)) => {
                    return Err(Defect::new(&path, offset, damage).of(header).into());
                }
                Some(Step::Frame(header, payload)) => {
                    *left = left.saturating_sub(payload.len().max(1));
                    let FrameHeader {
                        kind, log, index, ..
                    } = header;
                    scan.frames.push((
                        scan.next,
                        Frame {
                            kind,
                            log,
                            index,
                            payload,
                        },
                    ));
                    scan.next.0 += header.frame_len();
                }
            }
        }
        Ok(())
    }

    /// The segment that holds a position before the end.
    fn piece(&self, position: u64) -> Option<Piece> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let behind = segments.partition_point(|piece| piece.base <= position);
        segments.get(behind.checked_sub(1)?).copied()
    }

    fn file(&self, number: u64) -> std::io::Result<Arc<File>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(&number) {
            return Ok(file.clone());
        }
        let file = Arc::new(File::open(segment::path(&self.dir, number))?);
        if files.len() >= OPEN_FILES {
            files.pop_first();
        }
        files.insert(number, file.clone());
        Ok(file)
    }
}

const MAX_LEN: u32 = Frame::MAX_BYTES as u32;

fn offset(piece: &Piece, position: u64) -> u64 {
    SEGMENT_HEADER as u64 + position.saturating_sub(piece.base)
}

fn past_end(from: Position, end: Position) -> StorageError {
    StorageError::Corrupt {
        what: format!("position {} is behind the end {}", from.0, end.0),
    }
}

/// Checks that a frame is whole and is the entry that was asked for.
fn check(
    frame: &[u8],
    journal: JournalId,
    record: &Record,
    entry: (LogNo, LogIndex),
) -> Result<(), Damage> {
    let (head, payload) = frame.split_first_chunk().ok_or(Damage::Short)?;
    let header = FrameHeader::decode(head, journal)?;
    let is_it = header.kind == FrameKind::Entry
        && (header.log, header.index) == entry
        && header.len == record.len
        && header.payload_crc == record.payload_crc;
    if is_it {
        header.check(payload)
    } else {
        Err(Damage::Index)
    }
}

/// Takes the journal for this process.
fn lock(dir: &Path) -> Result<File, StorageError> {
    const DOING: &str = "locking the journal";
    let path = dir.join("lock");
    let lock = durable::open_or_create(&path).map_err(|e| storage_error(DOING, &e))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StorageError::InUse(path.display().to_string())),
        Err(TryLockError::Error(e)) => Err(storage_error(DOING, &durable::at(&path, e))),
    }
}
