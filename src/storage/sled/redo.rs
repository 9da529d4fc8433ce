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

/// A key and what becomes of it.
pub(super) type Change = (Vec<u8>, Option<Vec<u8>>);

/// Writes the note of a batch, then its keys.
pub(super) fn write(db: &::sled::Db, batch: &[Change]) -> ::sled::Result<()> {
    db.open_tree(TREE)?.insert(KEY, encode(batch))?;
    carry_out(db, batch)
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
