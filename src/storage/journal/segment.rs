//! Segment files: their names, their heads, and the chain that they form.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::defect::Defect;
use super::format::{Damage, JournalId, SEGMENT_HEADER, SegmentHeader};
use crate::storage::StorageError;
use crate::storage::durable::{self, Access, storage_error};

const OPENING: &str = "opening the journal";

/// A segment file that was found, its head read.
#[derive(Debug, Clone)]
pub(super) struct SegmentFile {
    pub(super) path: PathBuf,
    pub(super) header: SegmentHeader,
    /// Bytes behind the head.
    pub(super) len: u64,
}

impl SegmentFile {
    /// The position behind its last byte.
    pub(super) fn end(&self) -> u64 {
        self.header.base.saturating_add(self.len)
    }

    /// Where a byte of the file stands in the journal.
    pub(super) fn position(&self, offset: u64) -> u64 {
        self.header
            .base
            .saturating_add(offset.saturating_sub(SEGMENT_HEADER as u64))
    }

    pub(super) fn open(&self) -> Result<File, StorageError> {
        open(&self.path)
    }

    fn read(path: PathBuf) -> Result<Self, StorageError> {
        let file = open(&path)?;
        let io = |e| storage_error(OPENING, &durable::at(&path, e));
        let len = file.metadata().map_err(io)?.len();
        let Some(len) = len.checked_sub(SEGMENT_HEADER as u64) else {
            return Err(Defect::new(&path, 0, Damage::SegmentHeader).into());
        };
        let mut bytes = [0; SEGMENT_HEADER];
        file.read_exact_at(&mut bytes, 0).map_err(io)?;
        match SegmentHeader::decode(&bytes) {
            Ok(header) => Ok(Self { path, header, len }),
            Err(damage) => Err(Defect::new(&path, 0, damage).into()),
        }
    }
}

/// Opens a segment file to read it.
pub(super) fn open(path: &Path) -> Result<File, StorageError> {
    File::open(path).map_err(|e| storage_error(OPENING, &durable::at(path, e)))
}

pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.seg"))
}

/// Creates a segment that holds its head only, durably. The name appears with the whole head or not
/// at all, so a bad head is never the trace of a crash.
pub(super) fn create(dir: &Path, header: &SegmentHeader) -> Result<File, StorageError> {
    const DOING: &str = "starting a journal segment";
    let path = path(dir, header.number);
    let io = |e| storage_error(DOING, &e);
    if path.exists() {
        let cause = format!("{} is there already", path.display());
        return Err(StorageError::Failed {
            doing: DOING,
            cause,
        });
    }
    durable::replace(&path, &header.encode(), Access::Owner).map_err(io)?;
    durable::open_or_create(&path).map_err(io)
}

/// The numbers of the segment files in a folder, ascending. Other files are not looked at, but one
/// that ends in `.seg` and is not named by a number is an error.
fn numbers(dir: &Path) -> Result<Vec<u64>, StorageError> {
    let io = |e| storage_error(OPENING, &durable::at(dir, e));
    let mut numbers = Vec::new();
    for found in std::fs::read_dir(dir).map_err(io)? {
        let path = found.map_err(io)?.path();
        if path.extension().is_none_or(|extension| extension != "seg") {
            continue;
        }
        let number = path
            .file_stem()
            .and_then(|stem| stem.to_str()?.parse().ok());
        match number.filter(|n| self::path(dir, *n) == path) {
            Some(number) => numbers.push(number),
            None => return Err(Defect::new(&path, 0, Damage::Foreign).into()),
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The segments of a journal in order. Empty if there are none.
///
/// # Errors
/// `Corrupt` if one is missing, cut short (all but the last have a known length), of another
/// journal, or no segment.
pub(super) fn list(dir: &Path) -> Result<Vec<SegmentFile>, StorageError> {
    let mut segments: Vec<SegmentFile> = Vec::new();
    for (due, number) in (1..).zip(numbers(dir)?) {
        if number != due {
            let what = format!(
                "{} is missing; {number:08}.seg is there",
                path(dir, due).display()
            );
            return Err(StorageError::Corrupt { what });
        }
        let segment = SegmentFile::read(path(dir, number))?;
        let before = segments.last().map(|s| (s.header.journal, s.end()));
        check_link(before, number, &segment)?;
        segments.push(segment);
    }
    Ok(segments)
}

fn check_link(
    before: Option<(JournalId, u64)>,
    number: u64,
    segment: &SegmentFile,
) -> Result<(), StorageError> {
    let (journal, base) = before.unwrap_or((segment.header.journal, 0));
    let file = segment.path.display();
    let header = &segment.header;
    let what = if header.number != number {
        format!("{file} is segment {} under another name", header.number)
    } else if header.journal != journal {
        format!("{file} belongs to another journal")
    } else if header.base != base {
        format!(
            "{file} begins at position {}; the segment before it ends at {base}",
            header.base
        )
    } else {
        return Ok(());
    };
    Err(StorageError::Corrupt { what })
}
