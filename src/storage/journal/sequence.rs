//! What must follow what: groups are numbered without a gap, and so are the entries of each log.

use std::collections::BTreeMap;

use super::format::{Damage, FrameHeader};
use crate::storage::FrameKind;
use crate::types::LogNo;

/// The frames seen so far, as far as the next one depends on them.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    /// The group of the last frame.
    group: u64,
    /// Whether that group has frames to come.
    is_open: bool,
    due: BTreeMap<LogNo, u64>,
}

impl Sequence {
    /// Starts behind a whole group, with the number of entries that each log has.
    pub(super) fn behind(group: u64, due: BTreeMap<LogNo, u64>) -> Self {
        Self {
            group,
            is_open: false,
            due,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// The group that the next frame must belong to.
    pub(super) fn due_group(&self) -> u64 {
        if self.is_open {
            self.group
        } else {
            self.group.saturating_add(1)
        }
    }

    /// Takes the next frame. One that is not due changes nothing.
    pub(super) fn take(&mut self, header: &FrameHeader) -> Result<(), Damage> {
        if header.group != self.due_group() {
            return Err(Damage::Group);
        }
        if header.kind == FrameKind::Entry {
            let due = self.due.entry(header.log).or_default();
            if header.index.0 != *due {
                return Err(Damage::Gap);
            }
            *due += 1;
        }
        self.group = header.group;
        self.is_open = !header.is_last;
        Ok(())
    }

    /// Goes on behind a frame that is not whole, or not due, to look for further damage.
    pub(super) fn accept(&mut self, header: &FrameHeader) {
        if header.kind == FrameKind::Entry {
            self.due
                .insert(header.log, header.index.0.saturating_add(1));
        }
        self.group = header.group;
        self.is_open = !header.is_last;
    }

    /// Expects the next frame to be of this group, after bytes that tell nothing.
    pub(super) fn resume(&mut self, group: u64) {
        self.group = group;
        self.is_open = true;
    }
}
