//! Reading the frames of one segment file one after the other.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

use super::format::{Damage, FRAME_HEADER, FrameHeader, JournalId};
use crate::storage::FrameKind;

/// Read ahead in pieces of this size: large enough that small entries cost no system call each.
const CHUNK: u64 = 256 * 1024;

/// What lies at an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// A whole frame.
    Frame(FrameHeader, Bytes),
    /// Something else. The head is given where it is whole; then only the payload is bad.
    Damaged(Damage, Option<FrameHeader>),
}

/// A cursor over the frames between two offsets of a file.
#[derive(Debug, Clone)]
pub(super) struct Walk {
    file: Arc<File>,
    journal: JournalId,
    offset: u64,
    end: u64,
    chunk: Bytes,
    chunk_offset: u64,
    chunk_size: u64,
}

impl Walk {
    pub(super) fn new(file: Arc<File>, journal: JournalId, offset: u64, end: u64) -> Self {
        let (chunk, chunk_offset) = (Bytes::new(), offset);
        Self {
            file,
            journal,
            offset,
            end,
            chunk,
            chunk_offset,
            chunk_size: CHUNK,
        }
    }

    /// Reads ahead by about `bytes` only, for a caller that wants no more.
    pub(super) fn expecting(mut self, bytes: usize) -> Self {
        self.chunk_size = (bytes as u64)
            .saturating_add(FRAME_HEADER as u64)
            .clamp(4096, CHUNK);
        self
    }

    /// The offset of the next step.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Goes on elsewhere: behind a damaged frame.
    pub(super) fn jump(&mut self, offset: u64) {
        self.offset = offset.min(self.end);
    }

    /// What lies at the offset; `None` at the end. Moves behind a whole frame, stays at anything else.
    pub(super) fn step(&mut self) -> io::Result<Option<Step>> {
        if self.offset >= self.end {
            return Ok(None);
        }
        let Some(header) = self.header()? else {
            return Ok(Some(Step::Damaged(Damage::Short, None)));
        };
        let header = match FrameHeader::decode(&header, self.journal) {
            Ok(header) => header,
            Err(damage) => return Ok(Some(Step::Damaged(damage, None))),
        };
        let Some(frame) = self.peek(header.frame_len())? else {
            return Ok(Some(Step::Damaged(Damage::Short, Some(header))));
        };
        let payload = frame.slice(FRAME_HEADER..);
        if let Err(damage) = header.check(&payload) {
            return Ok(Some(Step::Damaged(damage, Some(header))));
        }
        self.offset += header.frame_len();
        Ok(Some(Step::Frame(header, payload)))
    }

    /// Moves byte by byte to the next whole frame head of a group above `group`, or to the end, and
    /// says whether there is one.
    ///
    /// Groups are made durable one by one, so such a head proves that what lies before it was once
    /// whole. Heads are seeded: no payload can pass for one.
    pub(super) fn find_group_above(&mut self, group: u64) -> io::Result<bool> {
        let room = self.end.saturating_sub(self.offset) / FRAME_HEADER as u64;
        let plausible = group.saturating_add(1)..=group.saturating_add(room).saturating_add(1);
        while self.offset < self.end {
            self.offset += 1;
            let Some(bytes) = self.header()? else {
                self.offset = self.end;
                break;
            };
            // Kind, flags and the zero field: this alone rules out nearly every place.
            if FrameKind::try_from(bytes[12]).is_err()
                || bytes[13] > 1
                || bytes[14] != 0
                || bytes[15] != 0
            {
                continue;
            }
            if FrameHeader::decode(&bytes, self.journal)
                .is_ok_and(|header| plausible.contains(&header.group))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn header(&mut self) -> io::Result<Option<[u8; FRAME_HEADER]>> {
        let bytes = self.peek(FRAME_HEADER as u64)?;
        Ok(bytes.and_then(|bytes| bytes.as_ref().try_into().ok()))
    }

    /// The next `len` bytes, if the end is not before them.
    fn peek(&mut self, len: u64) -> io::Result<Option<Bytes>> {
        let left = self.end.saturating_sub(self.offset);
        if len > left {
            return Ok(None);
        }
        let skip = self.offset.saturating_sub(self.chunk_offset);
        if self.offset < self.chunk_offset || skip + len > self.chunk.len() as u64 {
            let mut chunk = vec![0; len.max(self.chunk_size).min(left) as usize];
            self.file.read_exact_at(&mut chunk, self.offset)?;
            self.chunk = chunk.into();
            self.chunk_offset = self.offset;
        }
        let start = (self.offset - self.chunk_offset) as usize;
        Ok(Some(self.chunk.slice(start..start + len as usize)))
    }
}
