//! Opening a journal: what was acknowledged is there, or the journal does not open.
//!
//! A crash can leave a torn last group, which was never acknowledged: it is cut off. A frame that is
//! not whole anywhere else, or that has a later group behind it, or that lies before the mark, was
//! acknowledged and is damaged: the journal refuses to open and says where.
//!
//! One case looks the same from both sides: damage within the very last group, behind the mark. It
//! is cut off too; the signed checkpoint that covers it then tells the ledger that entries are gone.
//! Cut bytes are kept beside the journal, in `cut-<position>`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::defect::Defect;
use super::format::{Damage, FrameHeader, JournalId, SEGMENT_HEADER, SegmentHeader};
use super::index::{Indexes, Record};
use super::mark::Mark;
use super::segment::{self, SegmentFile};
use super::sequence::Sequence;
use super::walk::{Step, Walk};
use crate::storage::durable::{self, Access, storage_error};
use crate::storage::{FrameKind, StorageError};
use crate::types::LogNo;

const DOING: &str = "opening the journal";
/// Index records are written in batches of about this many.
const RECORDS_AT_ONCE: usize = 64 * 1024;

/// A journal that is fit to be appended to.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) journal: JournalId,
    pub(super) segments: Vec<SegmentFile>,
    /// The head of the last of them.
    pub(super) last: SegmentHeader,
    pub(super) indexes: Indexes,
    /// The last group.
    pub(super) group: u64,
    pub(super) end: u64,
    /// From where it had to be read.
    pub(super) read_from: u64,
}

/// Brings the folder into a state that can be appended to.
pub(super) fn recover(dir: &Path) -> Result<Recovered, StorageError> {
    let mut segments = segment::list(dir)?;
    let mark = Mark::load(dir).map_err(io_error)?;
    let Some(last) = segments.last() else {
        return start(dir, mark.is_some());
    };
    let (header, journal) = (last.header, last.header.journal);
    let mark = mark.filter(|mark| mark.journal == journal);
    let floor = mark.as_ref().map_or(0, |mark| mark.position);
    if last.end() < floor {
        let what = format!(
            "{} ends at position {}; {floor} was durable",
            last.path.display(),
            last.end()
        );
        return Err(StorageError::Corrupt { what });
    }
    let (indexes, read_from, sequence) = begin(dir, mark)?;
    let mut scan = Scan {
        journal,
        floor,
        end: read_from,
        sequence,
        indexes,
        open: Vec::new(),
        whole: BTreeMap::new(),
        waiting: 0,
    };
    let count = segments.len();
    for (number, segment) in segments.iter().enumerate() {
        if segment.end() > scan.end {
            scan.segment(segment, number + 1 == count)?;
        }
    }
    scan.write_indexes()?;
    if let Some(last) = segments.last_mut() {
        cut(dir, last, scan.end)?;
    }
    let (group, end) = (scan.sequence.due_group() - 1, scan.end);
    Ok(Recovered {
        journal,
        segments,
        last: header,
        indexes: scan.indexes,
        group,
        end,
        read_from,
    })
}

/// The first start of all.
fn start(dir: &Path, has_mark: bool) -> Result<Recovered, StorageError> {
    if has_mark {
        let what = format!(
            "{}: the segments are gone, the mark is there",
            dir.display()
        );
        return Err(StorageError::Corrupt { what });
    }
    let random = getrandom::u64().map_err(|e| io_error(io::Error::other(e.to_string())))?;
    let header = SegmentHeader {
        journal: JournalId(random),
        number: 1,
        base: 0,
    };
    segment::create(dir, &header)?;
    Ok(Recovered {
        journal: header.journal,
        segments: vec![SegmentFile {
            path: segment::path(dir, 1),
            header,
            len: 0,
        }],
        last: header,
        indexes: Indexes::empty(dir).map_err(io_error)?,
        group: 0,
        end: 0,
        read_from: 0,
    })
}

/// From where to read, and what is known there.
fn begin(dir: &Path, mark: Option<Mark>) -> Result<(Indexes, u64, Sequence), StorageError> {
    if let Some(mark) = mark {
        if let Some(indexes) = Indexes::load(dir, &mark.logs).map_err(io_error)? {
            let due = mark
                .logs
                .iter()
                .map(|(log, mark)| (*log, mark.entries))
                .collect();
            return Ok((indexes, mark.position, Sequence::behind(mark.group, due)));
        }
        tracing::warn!(dir = %dir.display(), "the journal's index is damaged: rebuilding it");
    }
    Ok((
        Indexes::empty(dir).map_err(io_error)?,
        0,
        Sequence::default(),
    ))
}

#[derive(Debug)]
struct Scan {
    journal: JournalId,
    /// Whatever ends before this was acknowledged.
    floor: u64,
    /// Behind the last whole group.
    end: u64,
    sequence: Sequence,
    indexes: Indexes,
    /// Of the group that is being read.
    open: Vec<(LogNo, Record)>,
    /// Of whole groups, not yet written.
    whole: BTreeMap<LogNo, Vec<Record>>,
    waiting: usize,
}

impl Scan {
    fn segment(&mut self, segment: &SegmentFile, is_last: bool) -> Result<(), StorageError> {
        let file = Arc::new(segment.open()?);
        let head = SEGMENT_HEADER as u64;
        let offset = head + self.end.saturating_sub(segment.header.base);
        let mut walk = Walk::new(file.clone(), self.journal, offset, head + segment.len);
        loop {
            let offset = walk.offset();
            let defect = |damage| Defect::new(&segment.path, offset, damage);
            match walk
                .step()
                .map_err(|e| io_error(durable::at(&segment.path, e)))?
            {
                Some(Step::Frame(header, _)) => {
                    let taken = self.sequence.take(&header);
                    taken.map_err(|damage| defect(damage).of(Some(header)))?;
                    self.keep(&header, segment.position(offset))?;
                }
                Some(Step::Damaged(damage, header)) => {
                    return self.judge(&mut walk, defect(damage).of(header), is_last);
                }
                None if self.sequence.is_open() => {
                    return self.judge(&mut walk, defect(Damage::OpenGroup), is_last);
                }
                None => return Ok(()),
            }
        }
    }

    fn keep(&mut self, header: &FrameHeader, position: u64) -> Result<(), StorageError> {
        if header.kind == FrameKind::Entry {
            let record = Record {
                position,
                len: header.len,
                payload_crc: header.payload_crc,
            };
            self.open.push((header.log, record));
        }
        if header.is_last {
            self.end = position.saturating_add(header.frame_len());
            self.waiting += self.open.len();
            for (log, record) in self.open.drain(..) {
                self.whole.entry(log).or_default().push(record);
            }
        }
        if self.waiting >= RECORDS_AT_ONCE {
            self.write_indexes()
        } else {
            Ok(())
        }
    }

    fn write_indexes(&mut self) -> Result<(), StorageError> {
        self.waiting = 0;
        for (log, records) in std::mem::take(&mut self.whole) {
            self.indexes.append(log, &records).map_err(io_error)?;
        }
        Ok(())
    }

    /// Tells a torn tail, which is `Ok` and ends the scan, from damage.
    fn judge(&self, walk: &mut Walk, defect: Defect, is_last: bool) -> Result<(), StorageError> {
        // A head whose checksum holds was written as it is: no crash makes nonsense of it.
        let cannot_be_torn = !is_last || self.end < self.floor || defect.damage == Damage::Meaning;
        let group = self.sequence.due_group();
        if cannot_be_torn
            || walk
                .find_group_above(group)
                .map_err(|e| io_error(durable::at(&defect.file, e)))?
        {
            return Err(defect.into());
        }
        tracing::warn!(%defect, "the journal's last group is torn, and was never acknowledged");
        Ok(())
    }
}

/// Cuts the last segment behind the last whole group, if there is anything.
fn cut(dir: &Path, last: &mut SegmentFile, end: u64) -> Result<(), StorageError> {
    let len = end.saturating_sub(last.header.base);
    if len >= last.len {
        return Ok(());
    }
    let bytes = last.len - len;
    let aside = dir.join(format!("cut-{end}"));
    if let Err(error) = copy_tail(&last.path, SEGMENT_HEADER as u64 + len, &aside) {
        tracing::warn!(%error, "cannot keep a copy of the torn tail");
    }
    durable::truncate(&last.path, SEGMENT_HEADER as u64 + len).map_err(io_error)?;
    tracing::warn!(
        file = %last.path.display(), position = end, bytes, "cut the journal's torn tail"
    );
    last.len = len;
    Ok(())
}

fn copy_tail(segment: &PathBuf, offset: u64, aside: &Path) -> io::Result<()> {
    let mut bytes = std::fs::read(segment)?;
    bytes.drain(..(offset as usize).min(bytes.len()));
    durable::replace(aside, &bytes, Access::Owner)
}

fn io_error(error: io::Error) -> StorageError {
    storage_error(DOING, &error)
}
