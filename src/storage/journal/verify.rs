//! The auditor's look at a journal: every frame from the first, every defect by name.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::defect::Defect;
use super::format::{Damage, FrameHeader, SEGMENT_HEADER};
use super::index::{self, RECORD, Record};
use super::mark::Mark;
use super::segment::{self, SegmentFile};
use super::sequence::Sequence;
use super::walk::{Step, Walk};
use crate::storage::durable::storage_error;
use crate::storage::{Frame, FrameKind, Position, StorageError};
use crate::types::LogNo;

/// A journal as it lay on the disk when it was looked at. Nothing is locked and nothing changed.
#[derive(Debug)]
pub struct Audit {
    dir: PathBuf,
    segments: Vec<SegmentFile>,
    mark: Option<Mark>,
}

/// What the auditor finds, in the order in which it lies on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A whole frame of a whole group.
    Frame(Position, Frame),
    /// Damage. The walk goes on behind it.
    Defect(Defect),
    /// The end of the journal is a group that is not whole: one that a node is just writing, or one
    /// that a crash tore and the next start will cut off. It was never acknowledged.
    Tail {
        /// The last segment.
        file: PathBuf,
        /// The byte at which the group begins.
        offset: u64,
        /// Its bytes.
        bytes: u64,
    },
}

impl Audit {
    pub(super) fn open(dir: &Path) -> Result<Self, StorageError> {
        const DOING: &str = "auditing the journal";
        // The mark first: a node that is running may append behind it meanwhile.
        let mark = Mark::load(dir).map_err(|e| storage_error(DOING, &e))?;
        let segments = segment::list(dir)?;
        let Some(first) = segments.first() else {
            let cause = format!("there is no journal in {}", dir.display());
            return Err(StorageError::Failed {
                doing: DOING,
                cause,
            });
        };
        let journal = first.header.journal;
        let mark = mark.filter(|mark| mark.journal == journal);
        Ok(Self {
            dir: dir.to_path_buf(),
            segments,
            mark,
        })
    }

    /// Walks every frame of every segment, and checks the indexes against them as far as they are
    /// settled.
    #[must_use]
    pub fn walk(&self) -> AuditWalk<'_> {
        AuditWalk {
            audit: self,
            next_segment: 0,
            at: None,
            sequence: Sequence::default(),
            is_lost: false,
            whole_end: 0,
            group: Vec::new(),
            found: VecDeque::new(),
            indexes: BTreeMap::new(),
            is_done: false,
        }
    }

    fn floor(&self) -> u64 {
        self.mark.as_ref().map_or(0, |mark| mark.position)
    }
}

/// Iterates over the [`Finding`]s of an [`Audit`].
#[derive(Debug)]
pub struct AuditWalk<'a> {
    audit: &'a Audit,
    next_segment: usize,
    at: Option<(&'a SegmentFile, Walk)>,
    sequence: Sequence,
    /// Behind bytes that tell nothing, any group may go on.
    is_lost: bool,
    whole_end: u64,
    /// The frames of the group that is being read.
    group: Vec<Finding>,
    found: VecDeque<Finding>,
    indexes: BTreeMap<LogNo, Option<File>>,
    is_done: bool,
}

impl Iterator for AuditWalk<'_> {
    type Item = Finding;

    fn next(&mut self) -> Option<Finding> {
        while self.found.is_empty() && !self.is_done {
            match self.at.take() {
                Some((segment, walk)) => self.advance(segment, walk),
                None => self.enter_segment(),
            }
        }
        self.found.pop_front()
    }
}

impl<'a> AuditWalk<'a> {
    fn enter_segment(&mut self) {
        let Some(segment) = self.audit.segments.get(self.next_segment) else {
            self.is_done = true;
            return self.check_length();
        };
        self.next_segment += 1;
        match File::open(&segment.path) {
            Err(error) => self.unreadable(segment, 0, &error),
            Ok(file) => {
                let head = SEGMENT_HEADER as u64;
                let journal = segment.header.journal;
                let walk = Walk::new(Arc::new(file), journal, head, head + segment.len);
                self.at = Some((segment, walk));
            }
        }
    }

    fn advance(&mut self, segment: &'a SegmentFile, mut walk: Walk) {
        let offset = walk.offset();
        let defect = |damage| Defect::new(&segment.path, offset, damage);
        match walk.step() {
            Err(error) => self.unreadable(segment, offset, &error),
            Ok(Some(Step::Frame(header, payload))) => {
                let FrameHeader {
                    kind, log, index, ..
                } = header;
                let frame = Frame {
                    kind,
                    log,
                    index,
                    payload,
                };
                self.frame(segment, offset, header, frame);
                self.at = Some((segment, walk));
            }
            Ok(Some(Step::Damaged(damage, header))) => {
                self.damaged(segment, walk, defect(damage).of(header), header);
            }
            Ok(None) if self.sequence.is_open() && !self.is_lost => {
                self.damaged(segment, walk, defect(Damage::OpenGroup), None);
            }
            Ok(None) => {}
        }
    }

    fn frame(&mut self, segment: &SegmentFile, offset: u64, header: FrameHeader, frame: Frame) {
        if std::mem::take(&mut self.is_lost) {
            self.sequence.resume(header.group);
        }
        if let Err(damage) = self.sequence.take(&header) {
            let defect = Defect::new(&segment.path, offset, damage).of(Some(header));
            self.defect(defect);
            self.sequence.accept(&header);
        }
        let position = segment.position(offset);
        self.check_index(&header, position);
        self.group.push(Finding::Frame(Position(position), frame));
        if header.is_last {
            self.found.extend(self.group.drain(..));
            self.whole_end = position.saturating_add(header.frame_len());
        }
    }

    /// Names damage and finds the place to go on, unless it is the torn tail.
    fn damaged(
        &mut self,
        segment: &'a SegmentFile,
        mut walk: Walk,
        defect: Defect,
        header: Option<FrameHeader>,
    ) {
        match self.is_torn(walk.clone(), defect.damage) {
            Err(error) => return self.unreadable(segment, walk.offset(), &error),
            Ok(true) => return self.tail(segment),
            Ok(false) => {}
        }
        let (offset, damage) = (defect.offset, defect.damage);
        self.defect(defect);
        if let Some(header) = header.filter(|_| damage == Damage::Payload) {
            self.sequence.accept(&header);
            walk.jump(offset.saturating_add(header.frame_len()));
            self.at = Some((segment, walk));
            return;
        }
        self.is_lost = true;
        match walk.find_group_above(self.sequence.due_group().saturating_sub(1)) {
            Err(error) => self.unreadable(segment, offset, &error),
            Ok(true) => self.at = Some((segment, walk)),
            Ok(false) => {}
        }
    }

    /// The same rule as at open.
    fn is_torn(&self, mut walk: Walk, damage: Damage) -> io::Result<bool> {
        let is_last = self.next_segment == self.audit.segments.len();
        let can_be = is_last && self.whole_end >= self.audit.floor() && damage != Damage::Meaning;
        Ok(can_be && !walk.find_group_above(self.sequence.due_group())?)
    }

    fn tail(&mut self, segment: &SegmentFile) {
        self.group.clear();
        let offset = SEGMENT_HEADER as u64 + self.whole_end.saturating_sub(segment.header.base);
        let bytes = segment
            .end()
            .saturating_sub(self.whole_end.max(segment.header.base));
        self.found.push_back(Finding::Tail {
            file: segment.path.clone(),
            offset,
            bytes,
        });
    }

    fn defect(&mut self, defect: Defect) {
        self.found.extend(self.group.drain(..));
        self.found.push_back(Finding::Defect(defect));
    }

    /// Gives up on a segment.
    fn unreadable(&mut self, segment: &SegmentFile, offset: u64, error: &io::Error) {
        self.is_lost = true;
        self.defect(Defect::new(
            &segment.path,
            offset,
            Damage::Unreadable(error.kind()),
        ));
    }

    fn check_length(&mut self) {
        let Some(last) = self.audit.segments.last() else {
            return;
        };
        if last.end() < self.audit.floor() {
            let offset = SEGMENT_HEADER as u64 + last.len;
            self.defect(Defect::new(&last.path, offset, Damage::Shorter));
        }
    }

    fn check_index(&mut self, header: &FrameHeader, position: u64) {
        let settled = self
            .audit
            .mark
            .as_ref()
            .and_then(|mark| mark.logs.get(&header.log));
        let is_settled = settled.is_some_and(|mark| header.index.0 < mark.entries);
        if header.kind != FrameKind::Entry || !is_settled {
            return;
        }
        let path = index::path(&self.audit.dir.join("index"), header.log);
        let file = self
            .indexes
            .entry(header.log)
            .or_insert_with(|| File::open(&path).ok());
        let record = Record {
            position,
            len: header.len,
            payload_crc: header.payload_crc,
        };
        let found = file
            .as_ref()
            .and_then(|file| index::read_record(file, header.index).ok());
        if found != Some(record) {
            let offset = header.index.0.saturating_mul(RECORD as u64);
            let defect = Defect::new(&path, offset, Damage::Index).of(Some(*header));
            self.group.push(Finding::Defect(defect));
        }
    }
}
