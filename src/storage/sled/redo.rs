//! Batches that are whole after a kill, without sled's own.
//!
//! sled keeps a prefix of the writes. The note is written first, in a tree of its own, then the keys: so
//! where the note of a batch is kept, all batches before it are whole, and writing its keys again makes
//! it whole as well. It says what the keys become, not how they change, so again is as good as once.

/// The tree that holds the note.
const TREE: &str = "redo";
/// Its only key.
const KEY: &[u8] = b"last";
/// The length that says that the key is removed.
const REMOVED: u16 = u16::MAX;

/// Bytes of the longest note. sled puts a node of more than 131,052 bytes into a file that it neither
/// syncs nor frees; this is what sixteen of the largest values take, the most that it has in one node.
const MAX_NOTE: usize = 64 * 1024;

/// A key and what becomes of it.
pub(super) type Change = (Vec<u8>, Option<Vec<u8>>);

/// Writes the note of a batch, then its keys; or both at once by sled's own means, where that is too long.
pub(super) fn write(db: &::sled::Db, batch: &[Change]) -> ::sled::Result<()> {
    let (tree, note) = (db.open_tree(TREE)?, encode(batch));
    if note.len() <= MAX_NOTE {
        tree.insert(KEY, note)?;
        return carry_out(db, batch);
    }
    // The last batch is whole; carried out again behind this one, its note would take it back.
    tree.remove(KEY)?;
    let mut changes = ::sled::Batch::default();
    for (key, value) in batch {
        match value {
            Some(value) => changes.insert(key.as_slice(), value.as_slice()),
            None => changes.remove(key.as_slice()),
        }
    }
    db.apply_batch(changes)
}

/// Carries out the last batch again, after a start.
pub(super) fn again(db: &::sled::Db) -> ::sled::Result<()> {
    let Some(note) = db.open_tree(TREE)?.get(KEY)? else {
        return Ok(());
    };
    let corrupt = ::sled::Error::Corruption { at: None, bt: () };
    carry_out(db, &decode(&note).ok_or(corrupt)?)
}

fn carry_out(db: &::sled::Db, batch: &[Change]) -> ::sled::Result<()> {
    for (key, value) in batch {
        match value {
            Some(value) => db.insert(key, value.as_slice())?,
            None => db.remove(key)?,
        };
    }
    Ok(())
}

fn encode(batch: &[Change]) -> Vec<u8> {
    let mut note = Vec::with_capacity(64 * batch.len());
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap_or(REMOVED - 1);
    for (key, value) in batch {
        note.extend_from_slice(&length(key).to_be_bytes());
        note.extend_from_slice(key);
        let value_length = value.as_ref().map_or(REMOVED, |value| length(value));
        note.extend_from_slice(&value_length.to_be_bytes());
        note.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    note
}

fn decode(mut note: &[u8]) -> Option<Vec<Change>> {
    let mut batch = Vec::new();
    while !note.is_empty() {
        let (length, rest) = note.split_first_chunk::<2>()?;
        let (key, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (value, rest) = match u16::from_be_bytes(*length) {
            REMOVED => (None, rest),
            length => {
                let (value, rest) = rest.split_at_checked(length.into())?;
                (Some(value.to_vec()), rest)
            }
        };
        batch.push((key.to_vec(), value));
        note = rest;
    }
    Some(batch)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_long_batch_is_not_taken_back_and_makes_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let db = ::sled::open(dir.path()).unwrap();
        let long = |value: u8| -> Vec<Change> {
            let keys = 0..256_u16;
            keys.map(|key| (key.to_be_bytes().to_vec(), Some(vec![value; 4_000])))
                .collect()
        };
        write(&db, &long(1)[..2]).unwrap();
        write(&db, &long(2)).unwrap();
        again(&db).unwrap();
        assert!(db.iter().all(|pair| pair.unwrap().1[0] == 2));
        write(&db, &[(vec![0, 1], None)]).unwrap();
        db.insert([0, 1], "half done").unwrap();
        again(&db).unwrap();
        assert_eq!(db.len(), 255);
        db.flush().unwrap();
        let blobs = std::fs::read_dir(dir.path().join("blobs")).unwrap();
        assert_eq!(blobs.count(), 0);
    }

    proptest! {
        #[test]
        fn a_note_says_what_the_batch_was(
            batch in proptest::collection::vec(
                (
                    proptest::collection::vec(any::<u8>(), 0..20),
                    proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
                ),
                0..10,
            ),
        ) {
            prop_assert_eq!(decode(&encode(&batch)), Some(batch));
        }

        #[test]
        fn other_bytes_never_panic(note in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode(&note);
        }
    }
}
