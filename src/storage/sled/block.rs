//! A block: neighbouring pairs in one value of sled's.
//!
//! ```text
//! per pair, in key order: varint shared, varint rest, varint length + 1, key bytes, value bytes
//! ```
//!
//! `shared` is how many bytes its key has in common with the key before, `rest` how many follow here. A
//! length of 0 says that the value is too long for a block and lies elsewhere.

use std::ops::Range;

use bytes::Bytes;

/// Bytes at which a block is divided. Large blocks mean few of them, and more bytes written for each change.
pub(super) const BLOCK: usize = 2_000;
/// The longest value in a block.
pub(super) const MAX_HERE: usize = 600;

/// A key and what becomes of it.
pub(super) type Change = (Bytes, Option<Bytes>);

/// The bytes are no block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Damaged;

/// A value in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// These bytes.
    Here(&'a [u8]),
    /// Under its key, outside the blocks.
    Elsewhere,
}

/// Reads pairs one by one; the key of the last one is kept, because the next builds on it.
struct Reader<'a> {
    block: &'a [u8],
    at: usize,
    key: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn new(block: &'a [u8]) -> Self {
        Self {
            block,
            at: 0,
            key: Vec::with_capacity(128),
        }
    }

    fn next(&mut self) -> Result<Option<Option<Range<usize>>>, Damaged> {
        if self.at >= self.block.len() {
            return Ok(None);
        }
        let (shared, rest, length) = (self.varint()?, self.varint()?, self.varint()?);
        if shared > self.key.len() {
            return Err(Damaged);
        }
        self.key.truncate(shared);
        let end = self.at.checked_add(rest).ok_or(Damaged)?;
        let rest = self.block.get(self.at..end).ok_or(Damaged)?;
        self.key.extend_from_slice(rest);
        self.at = end;
        let Some(length) = length.checked_sub(1) else {
            return Ok(Some(None));
        };
        let start = self.at;
        self.at = start.checked_add(length).ok_or(Damaged)?;
        if self.at > self.block.len() {
            return Err(Damaged);
        }
        Ok(Some(Some(start..self.at)))
    }

    fn varint(&mut self) -> Result<usize, Damaged> {
        let (mut value, mut shift) = (0, 0);
        while shift < 28 {
            let byte = *self.block.get(self.at).ok_or(Damaged)?;
            self.at += 1;
            value |= usize::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
            shift += 7;
        }
        Err(Damaged)
    }
}

fn put_varint(mut value: usize, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// The value of a key.
pub(super) fn find<'a>(block: &'a [u8], key: &[u8]) -> Result<Option<Value<'a>>, Damaged> {
    let mut reader = Reader::new(block);
    while let Some(value) = reader.next()? {
        match reader.key.as_slice().cmp(key) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => return Ok(Some(here(block, value))),
            std::cmp::Ordering::Greater => return Ok(None),
        }
    }
    Ok(None)
}

fn here(block: &[u8], value: Option<Range<usize>>) -> Value<'_> {
    // The reader has checked the range.
    value.map_or(Value::Elsewhere, |range| {
        Value::Here(block.get(range).unwrap_or_default())
    })
}

/// A pair as a scan takes it; no value where that lies elsewhere.
pub(super) type Pair = (Bytes, Option<Bytes>);

/// All pairs, in order: their bytes lie together.
pub(super) fn pairs(block: &[u8]) -> Result<Vec<Pair>, Damaged> {
    let mut reader = Reader::new(block);
    let (mut keys, mut spans) = (Vec::with_capacity(2 * block.len()), Vec::new());
    while let Some(value) = reader.next()? {
        let start = keys.len();
        keys.extend_from_slice(&reader.key);
        spans.push((start..keys.len(), value));
    }
    let (keys, block) = (Bytes::from(keys), Bytes::copy_from_slice(block));
    let pair = |(key, value): (Range<usize>, Option<Range<usize>>)| {
        (keys.slice(key), value.map(|value| block.slice(value)))
    };
    Ok(spans.into_iter().map(pair).collect())
}

/// What a block becomes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Merged {
    /// The blocks that take its place: each with its first key. None where no pair is left.
    pub(super) blocks: Vec<(Vec<u8>, Vec<u8>)>,
    /// Keys whose values lie elsewhere no more.
    pub(super) no_longer_elsewhere: Vec<Bytes>,
}

/// A block with changes. Pairs from `until` on belong to the next block and are dropped: a kill in the
/// middle of a division leaves them.
pub(super) fn merge(
    block: &[u8],
    until: Option<&[u8]>,
    changes: &[Change],
) -> Result<Merged, Damaged> {
    let mut reader = Reader::new(block);
    let (mut keys, mut spans) = (Vec::with_capacity(2 * block.len()), Vec::new());
    while let Some(value) = reader.next()? {
        if until.is_some_and(|until| reader.key.as_slice() >= until) {
            break;
        }
        let start = keys.len();
        keys.extend_from_slice(&reader.key);
        spans.push((start..keys.len(), value));
    }
    let mut merged = Merged::default();
    let mut kept: Vec<(&[u8], Value<'_>)> = Vec::with_capacity(spans.len() + changes.len());
    let mut old = spans
        .into_iter()
        .map(|(key, value)| (keys.get(key).unwrap_or_default(), here(block, value)))
        .peekable();
    let last_old = old.clone().last().map(|(key, _)| key);
    for (key, value) in changes {
        while let Some(pair) = old.next_if(|(held, _)| *held < key.as_ref()) {
            kept.push(pair);
        }
        let replaced = old.next_if(|(held, _)| *held == key.as_ref());
        let new = value.as_ref().map(|value| match value.len() > MAX_HERE {
            true => Value::Elsewhere,
            false => Value::Here(value),
        });
        if replaced.is_some_and(|(_, value)| value == Value::Elsewhere)
            && new != Some(Value::Elsewhere)
        {
            merged.no_longer_elsewhere.push(key.clone());
        }
        kept.extend(new.map(|value| (key.as_ref(), value)));
    }
    kept.extend(old);
    let first_new = changes.first().map(|(key, _)| key.as_ref());
    let appended = last_old.is_some() && first_new > last_old;
    merged.blocks = divide(&kept, appended);
    Ok(merged)
}

/// What a pair takes behind a key.
fn cost(before: &[u8], (key, value): &(&[u8], Value<'_>)) -> usize {
    let value = match value {
        Value::Here(bytes) => bytes.len(),
        Value::Elsewhere => 0,
    };
    5 + key.len() - shared(before, key) + value
}

fn shared(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

/// Writes pairs as one block, or as several: full ones where keys only grow, else ones of equal size
/// with room for more.
fn divide(pairs: &[(&[u8], Value<'_>)], appended: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (mut total, mut before): (usize, &[u8]) = (0, &[]);
    for pair in pairs {
        total += cost(before, pair);
        before = pair.0;
    }
    let limit = match total {
        0..=BLOCK => usize::MAX,
        _ if appended => BLOCK,
        _ => total / total.div_ceil(BLOCK * 2 / 3) + 1,
    };
    let mut blocks: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut before: &[u8] = &[];
    for pair in pairs {
        let full = blocks
            .last()
            .is_none_or(|(_, block)| block.len() + cost(before, pair) > limit);
        if full {
            before = &[];
            blocks.push((pair.0.to_vec(), Vec::with_capacity(BLOCK)));
        }
        if let Some((_, block)) = blocks.last_mut() {
            write(before, pair, block);
        }
        before = pair.0;
    }
    blocks
}

fn write(before: &[u8], (key, value): &(&[u8], Value<'_>), block: &mut Vec<u8>) {
    let shared = shared(before, key);
    put_varint(shared, block);
    put_varint(key.len() - shared, block);
    let (length, value): (usize, &[u8]) = match value {
        Value::Here(bytes) => (bytes.len() + 1, bytes),
        Value::Elsewhere => (0, &[]),
    };
    put_varint(length, block);
    block.extend_from_slice(key.get(shared..).unwrap_or_default());
    block.extend_from_slice(value);
}
