//! The bytes of a segment file. All integers are little-endian; all checksums are CRC-32C.
//!
//! ```text
//! segment   header (40 bytes), then frames without gaps
//!
//! segment   0  "HEFUJRN1"
//! header    8  u32  format version, 1
//!          12  u32  checksum of the header without this field
//!          16  u64  journal id, drawn at random when the journal was created
//!          24  u64  number of the segment, from 1
//!          32  u64  position of its first frame
//!
//! frame     0  u32  checksum of bytes 4..36, seeded with the journal id
//! header    4  u32  checksum of the payload
//! (36)      8  u32  length of the payload
//!          12  u8   kind (FrameKind)
//!          13  u8   flags; bit 0: the last frame of its group
//!          14  u16  zero
//!          16  u32  log
//!          20  u64  index
//!          28  u64  number of the group, from 1
//! ```
//!
//! The header has a checksum of its own, so that a damaged payload can still be named and stepped
//! over. It is seeded, so that nobody can write an entry whose bytes pass for a frame.

use crate::storage::{Frame, FrameKind};
use crate::types::{LogIndex, LogNo};

pub(super) const SEGMENT_HEADER: usize = 40;
pub(super) const FRAME_HEADER: usize = 36;
const MAGIC: &[u8; 8] = b"HEFUJRN1";
const VERSION: u32 = 1;
const LAST: u8 = 1;

/// What tells one journal from another, and its frames from bytes that look like frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct JournalId(pub(super) u64);

impl JournalId {
    fn seed(self) -> u32 {
        crc32c::crc32c(&self.0.to_le_bytes())
    }
}

/// The head of a segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) journal: JournalId,
    pub(super) number: u64,
    /// The position of the first frame.
    pub(super) base: u64,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut bytes = [0; SEGMENT_HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.journal.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.number.to_le_bytes());
        bytes[32..].copy_from_slice(&self.base.to_le_bytes());
        let crc = Self::checksum(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; SEGMENT_HEADER]) -> Result<Self, Damage> {
        if &bytes[..8] != MAGIC {
            return Err(Damage::Foreign);
        }
        if u32_at(bytes, 12) != Self::checksum(bytes) {
            return Err(Damage::SegmentHeader);
        }
        match u32_at(bytes, 8) {
            VERSION => Ok(Self {
                journal: JournalId(u64_at(bytes, 16)),
                number: u64_at(bytes, 24),
                base: u64_at(bytes, 32),
            }),
            version => Err(Damage::Version(version)),
        }
    }

    fn checksum(bytes: &[u8; SEGMENT_HEADER]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
    }
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) payload_crc: u32,
    pub(super) len: u32,
    pub(super) kind: FrameKind,
    pub(super) is_last: bool,
    pub(super) log: LogNo,
    pub(super) index: LogIndex,
    pub(super) group: u64,
}

impl FrameHeader {
    /// The head of one frame of a group. The payload must be within [`Frame::MAX_BYTES`].
    pub(super) fn new(frame: &Frame, group: u64, is_last: bool) -> Self {
        Self {
            payload_crc: crc32c::crc32c(&frame.payload),
            len: frame.payload.len() as u32,
            kind: frame.kind,
            is_last,
            log: frame.log,
            index: frame.index,
            group,
        }
    }

    pub(super) fn encode(&self, journal: JournalId) -> [u8; FRAME_HEADER] {
        let mut bytes = [0; FRAME_HEADER];
        bytes[4..8].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12] = self.kind as u8;
        bytes[13] = if self.is_last { LAST } else { 0 };
        bytes[16..20].copy_from_slice(&self.log.0.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.index.0.to_le_bytes());
        bytes[28..].copy_from_slice(&self.group.to_le_bytes());
        let crc = crc32c::crc32c_append(journal.seed(), &bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; FRAME_HEADER], journal: JournalId) -> Result<Self, Damage> {
        if u32_at(bytes, 0) != crc32c::crc32c_append(journal.seed(), &bytes[4..]) {
            return Err(Damage::FrameHeader);
        }
        let kind = FrameKind::try_from(bytes[12]).map_err(|()| Damage::Meaning)?;
        let len = u32_at(bytes, 8);
        if len as usize > Frame::MAX_BYTES || bytes[13] > LAST || bytes[14..16] != [0, 0] {
            return Err(Damage::Meaning);
        }
        Ok(Self {
            payload_crc: u32_at(bytes, 4),
            len,
            kind,
            is_last: bytes[13] == LAST,
            log: LogNo(u32_at(bytes, 16)),
            index: LogIndex(u64_at(bytes, 20)),
            group: u64_at(bytes, 28),
        })
    }

    /// The bytes that the whole frame takes.
    pub(super) fn frame_len(&self) -> u64 {
        FRAME_HEADER as u64 + u64::from(self.len)
    }

    pub(super) fn check(&self, payload: &[u8]) -> Result<(), Damage> {
        if crc32c::crc32c(payload) == self.payload_crc {
            Ok(())
        } else {
            Err(Damage::Payload)
        }
    }
}

impl TryFrom<u8> for FrameKind {
    type Error = ();

    fn try_from(number: u8) -> Result<Self, ()> {
        [
            Self::Entry,
            Self::Log,
            Self::Checkpoint,
            Self::Cosignature,
            Self::Evidence,
            Self::Resolution,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == number)
        .ok_or(())
    }
}

/// What can be wrong with stored bytes, each in the words that an operator reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The magic is missing.
    #[error("not a hefu journal segment")]
    Foreign,
    /// Written by another version of the format.
    #[error("journal format version {0} is not known to this program (it reads version 1)")]
    Version(u32),
    /// The checksum of a segment's header does not match.
    #[error("the segment header does not match its checksum")]
    SegmentHeader,
    /// The checksum of a frame's header does not match.
    #[error("the frame header does not match its checksum")]
    FrameHeader,
    /// The checksum matches and the content makes no sense to this version.
    #[error("the frame header has a kind, flag or length that is not known")]
    Meaning,
    /// The checksum of a payload does not match.
    #[error("the payload does not match its checksum")]
    Payload,
    /// The file ends within a frame.
    #[error("the file ends within a frame")]
    Short,
    /// The file ends within a group.
    #[error("the file ends within a group")]
    OpenGroup,
    /// The numbers of groups do not follow each other.
    #[error("the frame belongs to a group that is not due here")]
    Group,
    /// The indexes of a log's entries do not follow each other.
    #[error("the entry does not continue its log")]
    Gap,
    /// The segments end before the position that the mark says was durable.
    #[error("the journal ends before what was durable")]
    Shorter,
    /// The operating system cannot read it.
    #[error("it cannot be read: {0}")]
    Unreadable(std::io::ErrorKind),
    /// An index record names another place than the one where the entry lies.
    #[error("the index points elsewhere")]
    Index,
}

#[expect(
    clippy::indexing_slicing,
    reason = "callers pass headers of a fixed length"
)]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    const ID: JournalId = JournalId(0x1234_5678_9abc_def0);

    proptest! {
        #[test]
        fn a_frame_header_reads_back(
            kind in prop_oneof![1_u8..=5, Just(10)], log: u32, index: u64, group: u64, is_last: bool,
            payload in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let frame = Frame {
                kind: FrameKind::try_from(kind).unwrap(),
                log: LogNo(log),
                index: LogIndex(index),
                payload: Bytes::from(payload),
            };
            let header = FrameHeader::new(&frame, group, is_last);
            prop_assert_eq!(FrameHeader::decode(&header.encode(ID), ID), Ok(header));
            prop_assert_eq!(header.check(&frame.payload), Ok(()));
        }

        #[test]
        fn a_segment_header_reads_back(journal: u64, number: u64, base: u64) {
            let header = SegmentHeader { journal: JournalId(journal), number, base };
            prop_assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
        }
    }

    fn header() -> FrameHeader {
        let payload = Bytes::from_static(b"payload");
        let frame = Frame {
            kind: FrameKind::Entry,
            log: LogNo(7),
            index: LogIndex(9),
            payload,
        };
        FrameHeader::new(&frame, 3, true)
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_seen() {
        let bytes = header().encode(ID);
        for bit in 0..bytes.len() * 8 {
            let mut bent = bytes;
            bent[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                FrameHeader::decode(&bent, ID),
                Err(Damage::FrameHeader),
                "bit {bit}"
            );
        }
        let segment = SegmentHeader {
            journal: ID,
            number: 1,
            base: 0,
        }
        .encode();
        for bit in 0..segment.len() * 8 {
            let mut bent = segment;
            bent[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&bent).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_frame_of_another_journal_is_no_frame() {
        let bytes = header().encode(JournalId(1));
        assert_eq!(FrameHeader::decode(&bytes, ID), Err(Damage::FrameHeader));
    }

    #[test]
    fn zeros_are_no_frame() {
        assert!(FrameHeader::decode(&[0; FRAME_HEADER], JournalId(0)).is_err());
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut bytes = SegmentHeader {
            journal: ID,
            number: 1,
            base: 0,
        }
        .encode();
        bytes[8] = 2;
        let crc = SegmentHeader::checksum(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes), Err(Damage::Version(2)));
    }
}
