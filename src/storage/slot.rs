//! A small value in a file of its own, replaced in place: two slots, written in turn, so that a torn
//! write leaves the one before.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt as _,
    path::Path,
};

use super::StorageError;

/// Bytes that a slot takes in the file.
const SLOT_BYTES: usize = 4_096;
/// Sequence number, length, checksum.
const HEADER_BYTES: usize = 16;

/// A file of two slots. The newest sound one counts.
#[derive(Debug)]
pub struct SlotFile {
    file: File,
    sequence: u64,
}

/// What a slot file held when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotContent {
    /// Nothing was written to it yet.
    Blank,
    /// The newest value.
    Value(Vec<u8>),
    /// Something is there, and it is sound in neither slot.
    Damaged,
}

impl SlotFile {
    /// The longest value, in bytes.
    pub const MAX_BYTES: usize = SLOT_BYTES - HEADER_BYTES;

    /// Opens the file, or creates it blank and durable.
    ///
    /// # Errors
    /// [`StorageError::Failed`] with the operating system's word.
    pub fn open(path: &Path) -> Result<(Self, SlotContent), StorageError> {
        let failed = |e: std::io::Error| StorageError::Failed {
            doing: "opening the head file",
            cause: format!("{}: {e}", path.display()),
        };
        let new = !path.exists();
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false);
        let file = file.open(path).map_err(failed)?;
        if new {
            file.set_len(2 * SLOT_BYTES as u64).map_err(failed)?;
            file.sync_all().map_err(failed)?;
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))
                .and_then(|d| d.sync_all())
                .map_err(failed)?;
        }
        let mut bytes = vec![0; 2 * SLOT_BYTES];
        let length = file
            .metadata()
            .map_err(failed)?
            .len()
            .min(bytes.len() as u64);
        bytes.truncate(usize::try_from(length).unwrap_or(0));
        file.read_exact_at(&mut bytes, 0).map_err(failed)?;
        let newest = bytes
            .chunks(SLOT_BYTES)
            .filter_map(parse)
            .max_by_key(|(at, _)| *at);
        let content = match newest {
            Some((_, value)) => SlotContent::Value(value.to_vec()),
            None if bytes.iter().all(|b| *b == 0) => SlotContent::Blank,
            None => SlotContent::Damaged,
        };
        Ok((
            Self {
                file,
                sequence: newest.map_or(0, |(at, _)| at),
            },
            content,
        ))
    }

    /// Writes a value into the older slot.
    ///
    /// # Durability
    /// It survives a kill of the process at once, and a power cut after [`SlotFile::sync`].
    ///
    /// # Errors
    /// [`StorageError::Failed`]; a value over [`SlotFile::MAX_BYTES`] is refused.
    pub fn write(&mut self, value: &[u8]) -> Result<(), StorageError> {
        let failed = |cause: String| StorageError::Failed {
            doing: "writing the head",
            cause,
        };
        if value.len() > Self::MAX_BYTES {
            return Err(failed("the value is too long".to_owned()));
        }
        self.sequence += 1;
        let mut slot = self.sequence.to_le_bytes().to_vec();
        slot.extend_from_slice(&u32::try_from(value.len()).unwrap_or(0).to_le_bytes());
        slot.extend_from_slice(&checksum(self.sequence, value).to_le_bytes());
        slot.extend_from_slice(value);
        let offset = (self.sequence % 2) * SLOT_BYTES as u64;
        self.file
            .write_all_at(&slot, offset)
            .map_err(|e| failed(e.to_string()))
    }

    /// Makes what was written survive a power cut.
    ///
    /// # Errors
    /// [`StorageError::Failed`].
    pub fn sync(&self) -> Result<(), StorageError> {
        let failed = |e: std::io::Error| StorageError::Failed {
            doing: "making the head durable",
            cause: e.to_string(),
        };
        self.file.sync_data().map_err(failed)
    }
}

fn checksum(sequence: u64, value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&sequence.to_le_bytes()), value)
}

fn parse(slot: &[u8]) -> Option<(u64, &[u8])> {
    let (sequence, rest) = slot.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let sequence = u64::from_le_bytes(*sequence);
    let value = rest.get(..usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    let sound = sequence > 0 && u32::from_le_bytes(*sum) == checksum(sequence, value);
    sound.then_some((sequence, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_sound_slot_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("head");
        let (mut file, content) = SlotFile::open(&path).unwrap();
        assert_eq!(content, SlotContent::Blank);
        for value in [b"one".as_slice(), b"two", b"three"] {
            file.write(value).unwrap();
            let (_, content) = SlotFile::open(&path).unwrap();
            assert_eq!(content, SlotContent::Value(value.to_vec()));
        }
        file.sync().unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(5).position(|w| w == b"three").unwrap();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(
            SlotFile::open(&path).unwrap().1,
            SlotContent::Value(b"two".to_vec())
        );
        let at = bytes.windows(3).position(|w| w == b"two").unwrap();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(SlotFile::open(&path).unwrap().1, SlotContent::Damaged);
        assert!(file.write(&[0; SlotFile::MAX_BYTES + 1]).is_err());
    }
}
