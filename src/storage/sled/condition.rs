//! `CONDITION`: one line that says whether the folder beside it can be trusted.
//!
//! `closed <checksum>`, `open <boot id>`, or `damaged <why>`. It is replaced durably before sled
//! writes its first byte and after it wrote its last.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::Opened;
use crate::storage::durable::{self, Access};

const NAME: &str = "CONDITION";

/// What the last process that used the folder said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    /// Closed; the checksum is over all other files.
    Closed(u32),
    /// In use on the boot of the machine that has this id; empty if that is not known.
    Open(String),
    /// Found to be damaged.
    Damaged(String),
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(checksum) => write!(f, "closed {checksum:08x}"),
            Self::Open(boot) => write!(f, "open {boot}"),
            Self::Damaged(why) => write!(f, "damaged {why}"),
        }
    }
}

impl Condition {
    /// The condition of a folder that nobody writes to.
    pub(super) fn closed(dir: &Path) -> io::Result<Self> {
        checksum(dir).map(Self::Closed)
    }

    pub(super) fn store(&self, dir: &Path) -> io::Result<()> {
        durable::replace(&dir.join(NAME), self.to_string().as_bytes(), Access::Owner)
    }
}

/// Whether what is in the folder can be trusted; the inner `Err` says why not.
pub(super) fn judge(dir: &Path, boot: &str) -> io::Result<Result<Opened, String>> {
    let path = dir.join(NAME);
    let said = match std::fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == ErrorKind::NotFound && is_empty(dir)? => {
            return Ok(Ok(Opened::Clean));
        }
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Err(format!("no {NAME} file"))),
        Err(e) => return Err(durable::at(&path, e)),
    };
    Ok(match said.split_once(' ') {
        Some(("open", last)) if !boot.is_empty() && last == boot => Ok(Opened::AfterKill),
        Some(("open", _)) => Err("the machine stopped while it was open".into()),
        Some(("closed", _)) if said == Condition::closed(dir)?.to_string() => Ok(Opened::Clean),
        Some(("closed", _)) => Err("its files are not those that were closed".into()),
        _ => Err(said),
    })
}

/// Syncs every file of the store, and their names.
pub(super) fn sync_files(dir: &Path) -> io::Result<()> {
    for path in files(dir)? {
        File::open(&path)
            .and_then(|file| file.sync_all())
            .map_err(|e| durable::at(&path, e))?;
    }
    durable::sync_dir(dir)
}

/// The files in a folder, in the order of their names.
pub(super) fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for found in std::fs::read_dir(dir).map_err(|e| durable::at(dir, e))? {
        let found = found?;
        if found.file_type()?.is_file() {
            files.push(found.path());
        }
    }
    files.sort();
    Ok(files)
}

fn is_empty(dir: &Path) -> io::Result<bool> {
    match std::fs::read_dir(dir) {
        Ok(mut found) => Ok(found.next().is_none()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(true),
        Err(e) => Err(durable::at(dir, e)),
    }
}

/// CRC-32C over the name, the length and the bytes of each file.
fn checksum(dir: &Path) -> io::Result<u32> {
    let (mut crc, mut chunk) = (0, vec![0; 1024 * 1024]);
    for path in files(dir)? {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        if name.starts_with(NAME.as_bytes()) {
            continue;
        }
        let mut file = File::open(&path)?;
        crc = crc32c::crc32c_append(crc, name);
        crc = crc32c::crc32c_append(crc, &file.metadata()?.len().to_le_bytes());
        loop {
            let len = file.read(&mut chunk).map_err(|e| durable::at(&path, e))?;
            let Some(read) = chunk.get(..len).filter(|read| !read.is_empty()) else {
                break;
            };
            crc = crc32c::crc32c_append(crc, read);
        }
    }
    Ok(crc)
}
