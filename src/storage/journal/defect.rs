//! Damage, and where it lies.

use std::fmt;
use std::path::{Path, PathBuf};

use super::format::{Damage, FrameHeader};
use crate::storage::StorageError;
use crate::types::{LogIndex, LogNo};

/// One place where stored bytes are not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect {
    /// The file.
    pub file: PathBuf,
    /// The byte of the file at which the damaged frame or record begins.
    pub offset: u64,
    /// The log and the index that it belongs to, where they can still be told.
    pub entry: Option<(LogNo, LogIndex)>,
    /// What is wrong.
    pub damage: Damage,
}

impl Defect {
    pub(super) fn new(file: &Path, offset: u64, damage: Damage) -> Self {
        Self {
            file: file.to_path_buf(),
            offset,
            entry: None,
            damage,
        }
    }

    pub(super) fn of(self, header: Option<FrameHeader>) -> Self {
        Self {
            entry: header.map(|h| (h.log, h.index)),
            ..self
        }
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.file.display(), self.offset)?;
        if let Some((log, index)) = self.entry {
            write!(f, " (log {}, index {})", log.0, index.0)?;
        }
        write!(f, ": {}", self.damage)
    }
}

impl From<Defect> for StorageError {
    fn from(defect: Defect) -> Self {
        Self::Corrupt {
            what: defect.to_string(),
        }
    }
}
