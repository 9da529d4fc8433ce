//! Batches that are whole after a kill, without sled's own.
//!
//! sled keeps a prefix of the writes. The note is written first, in trees of its own, then the blocks: so
//! where the note of a batch is kept, all batches before it are whole, and carrying it out again makes
//! it whole as well. It says what the keys become, not how they change, so again is as good as once.
//!
//! A note has its beginning under `last`, which names how many more pieces it has. Where there are
//! any, `last` is removed before they are written: it never speaks of pieces of two notes.

use bytes::Bytes;

use super::block::{Change, Damaged};

/// The tree of the beginning.
const TREE: &str = "redo";
/// Its only key.
const KEY: &[u8] = b"last";
/// The tree of the other pieces, by number.
const MORE: &str = "redo more";
/// Bytes of a piece. sled puts a node of more than 131,052 bytes into a file that it neither syncs nor
/// frees; with sixteen such pieces a node stays far from that.
const PIECE: usize = 4_000;
/// The length that says that the key is removed.
const REMOVED: u16 = u16::MAX;
/// The length that says that a block begins with that key, whether or not anything in it changes.
const TOUCHED: u16 = u16::MAX - 1;

/// Where notes are kept.
#[derive(Debug)]
pub(super) struct Notes {
    last: ::sled::Tree,
    more: ::sled::Tree,
}

/// What a batch does.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Note {
    /// Its changes, in key order.
    pub(super) changes: Vec<Change>,
    /// The lower bounds of the blocks that it rewrites, in order.
    pub(super) touched: Vec<Vec<u8>>,
}

impl Notes {
    pub(super) fn open(db: &::sled::Db) -> ::sled::Result<Self> {
        Ok(Self {
            last: db.open_tree(TREE)?,
            more: db.open_tree(MORE)?,
        })
    }

    /// Writes the note of a batch.
    pub(super) fn write<'a>(
        &self,
        changes: &[Change],
        touched: impl Iterator<Item = &'a [u8]>,
    ) -> ::sled::Result<()> {
        let note = encode(changes, touched);
        let mut pieces = note.chunks(PIECE);
        let beginning = pieces.next().unwrap_or_default();
        let more = u32::try_from(pieces.len()).map_err(|_| Damaged)?;
        if more > 0 {
            self.last.remove(KEY)?;
        }
        for (number, piece) in (0_u32..).zip(pieces) {
            self.more.insert(number.to_be_bytes(), piece)?;
        }
        self.last
            .insert(KEY, [&more.to_be_bytes(), beginning].concat())?;
        Ok(())
    }

    /// The note of the last batch, where there is one.
    pub(super) fn read(&self) -> ::sled::Result<Option<Note>> {
        let Some(last) = self.last.get(KEY)? else {
            return Ok(None);
        };
        let (more, beginning) = last.split_first_chunk::<4>().ok_or(Damaged)?;
        let mut note = beginning.to_vec();
        for number in 0..u32::from_be_bytes(*more) {
            let piece = self.more.get(number.to_be_bytes())?.ok_or(Damaged)?;
            note.extend_from_slice(&piece);
        }
        Ok(Some(decode(&note).ok_or(Damaged)?))
    }
}

fn encode<'a>(changes: &[Change], touched: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut note = Vec::with_capacity(100 * changes.len());
    for lower in touched {
        put(&mut note, lower, TOUCHED, &[]);
    }
    for (key, value) in changes {
        let mark = value.as_ref().map_or(REMOVED, |value| length(value));
        put(&mut note, key, mark, value.as_deref().unwrap_or_default());
    }
    note
}

/// Both are far shorter: the contract of the store sees to it.
fn length(bytes: &[u8]) -> u16 {
    u16::try_from(bytes.len()).unwrap_or(TOUCHED - 1)
}

fn put(note: &mut Vec<u8>, key: &[u8], mark: u16, value: &[u8]) {
    note.extend_from_slice(&length(key).to_be_bytes());
    note.extend_from_slice(key);
    note.extend_from_slice(&mark.to_be_bytes());
    note.extend_from_slice(value);
}

fn decode(mut bytes: &[u8]) -> Option<Note> {
    let mut note = Note::default();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (key, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        let (mark, mut rest) = rest.split_first_chunk::<2>()?;
        match u16::from_be_bytes(*mark) {
            TOUCHED => note.touched.push(key.to_vec()),
            REMOVED => note.changes.push((Bytes::copy_from_slice(key), None)),
            length => {
                let value;
                (value, rest) = rest.split_at_checked(length.into())?;
                let value = Bytes::copy_from_slice(value);
                note.changes
                    .push((Bytes::copy_from_slice(key), Some(value)));
            }
        }
        bytes = rest;
    }
    Some(note)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_long_note_makes_no_file_and_is_replaced_by_a_short_one() {
        let dir = tempfile::tempdir().unwrap();
        let db = ::sled::open(dir.path()).unwrap();
        let notes = Notes::open(&db).unwrap();
        let long: Vec<Change> = (0..2_560_u16)
            .map(|key| {
                (
                    key.to_be_bytes().to_vec().into(),
                    Some(vec![7; 4_000].into()),
                )
            })
            .collect();
        for changes in [&long, &long[..2], &[]] {
            let touched = [&b""[..], b"somewhere"];
            notes.write(changes, touched.into_iter()).unwrap();
            let note = notes.read().unwrap().unwrap();
            assert!(note.changes == changes);
            assert_eq!(note.touched, touched);
        }
        db.flush().unwrap();
        let blobs = std::fs::read_dir(dir.path().join("blobs")).unwrap();
        assert_eq!(blobs.count(), 0);
    }

    proptest! {
        #[test]
        fn a_note_says_what_the_batch_was(
            changes in proptest::collection::vec(
                (
                    proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from),
                    proptest::option::of(
                        proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from),
                    ),
                ),
                0..10,
            ),
            touched in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..3),
        ) {
            let bytes = encode(&changes, touched.iter().map(Vec::as_slice));
            prop_assert_eq!(decode(&bytes), Some(Note { changes, touched }));
        }

        #[test]
        fn other_bytes_never_panic(note in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode(&note);
        }
    }
}
