//! The one writer of a journal.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::format::{FrameHeader, JournalId, SEGMENT_HEADER, SegmentHeader};
use super::index::Record;
use super::mark::Mark;
use super::{JournalOptions, Piece, Shared, segment};
use crate::storage::durable::{self, storage_error};
use crate::storage::log::check_group;
use crate::storage::{Frame, FrameKind, Position, StorageError};
use crate::types::LogNo;

const DOING: &str = "appending to the journal";

/// The state behind [`super::Journal`]'s lock.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    options: JournalOptions,
    pub(super) file: File,
    segment: SegmentHeader,
    group: u64,
    /// Bytes since the last mark.
    unsettled: u64,
    is_poisoned: bool,
    buffer: Vec<u8>,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        options: JournalOptions,
        segment: SegmentHeader,
        group: u64,
        unsettled: u64,
    ) -> Result<Self, StorageError> {
        let path = segment::path(&shared.dir, segment.number);
        let file = durable::open_or_create(&path).map_err(|e| storage_error(DOING, &e))?;
        let (is_poisoned, buffer) = (false, Vec::new());
        Ok(Self {
            shared,
            options,
            file,
            segment,
            group,
            unsettled,
            is_poisoned,
            buffer,
        })
    }

    pub(super) fn append(&mut self, group: &[Frame]) -> Result<Position, StorageError> {
        self.alive()?;
        check_group(group, |log| self.shared.indexes.entries(log))?;
        let written = self.write(group);
        self.is_poisoned |= written.is_err();
        written
    }

    /// Makes the indexes durable, then says so in the mark.
    pub(super) fn settle(&mut self) -> Result<(), StorageError> {
        self.alive()?;
        if self.unsettled == 0 {
            return Ok(());
        }
        let mark = self.shared.indexes.settle().and_then(|logs| {
            let position = self.end();
            Mark {
                journal: self.segment.journal,
                position,
                group: self.group,
                logs,
            }
            .store(&self.shared.dir)
        });
        self.is_poisoned |= mark.is_err();
        mark.map_err(|e| storage_error("settling the journal", &e))?;
        self.unsettled = 0;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn poison(&mut self) {
        self.is_poisoned = true;
    }

    fn alive(&self) -> Result<(), StorageError> {
        if self.is_poisoned {
            Err(StorageError::Poisoned)
        } else {
            Ok(())
        }
    }

    fn end(&self) -> u64 {
        self.shared.end().0
    }

    /// One write, one fdatasync; then, in this order, the new end and the indexes. A crash before
    /// the sync is done leaves a torn tail or an unacknowledged group, one after it leaves indexes
    /// that are short: recovery mends both.
    fn write(&mut self, group: &[Frame]) -> Result<Position, StorageError> {
        let io = |e| storage_error(DOING, &e);
        let (mut buffer, start) = (std::mem::take(&mut self.buffer), self.end());
        let records = encode(
            group,
            start,
            self.group + 1,
            self.segment.journal,
            &mut buffer,
        );
        let len = buffer.len() as u64;
        let filled = start - self.segment.base;
        if filled > 0 && filled + len > self.options.segment_bytes {
            self.roll(start)?;
        }
        let offset = SEGMENT_HEADER as u64 + start - self.segment.base;
        self.file
            .write_all_at(&buffer, offset)
            .and_then(|()| self.file.sync_data())
            .map_err(io)?;
        self.shared.end.store(start + len, Ordering::Release);
        for (log, records) in records {
            self.shared.indexes.append(log, &records).map_err(io)?;
        }
        self.group += 1;
        self.buffer = buffer;
        self.unsettled += len;
        if self.unsettled >= self.options.settle_bytes {
            self.settle()?;
        }
        Ok(Position(start + len))
    }

    /// Starts the next segment.
    fn roll(&mut self, base: u64) -> Result<(), StorageError> {
        let header = SegmentHeader {
            number: self.segment.number + 1,
            base,
            ..self.segment
        };
        self.file = segment::create(&self.shared.dir, &header)?;
        self.segment = header;
        let mut segments = self
            .shared
            .segments
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = segments.last_mut() {
            last.end = Some(base);
        }
        segments.push(Piece {
            number: header.number,
            base,
            end: None,
        });
        Ok(())
    }
}

/// Writes a group's bytes to the buffer and returns where its entries will lie.
fn encode(
    group: &[Frame],
    start: u64,
    number: u64,
    journal: JournalId,
    buffer: &mut Vec<u8>,
) -> BTreeMap<LogNo, Vec<Record>> {
    /// A buffer that one large group made larger is not kept.
    const KEEP: usize = 4 * 1024 * 1024;
    buffer.clear();
    buffer.shrink_to(KEEP);
    let mut records: BTreeMap<LogNo, Vec<Record>> = BTreeMap::new();
    for (i, frame) in group.iter().enumerate() {
        let header = FrameHeader::new(frame, number, i + 1 == group.len());
        if frame.kind == FrameKind::Entry {
            let position = start + buffer.len() as u64;
            let (len, payload_crc) = (header.len, header.payload_crc);
            records.entry(frame.log).or_default().push(Record {
                position,
                len,
                payload_crc,
            });
        }
        buffer.extend_from_slice(&header.encode(journal));
        buffer.extend_from_slice(&frame.payload);
    }
    records
}
