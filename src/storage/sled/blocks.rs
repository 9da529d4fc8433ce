//! Ordered pairs over sled, many in one of its values.
//!
//! sled takes 5 to 10 microseconds and some 200 bytes of memory for every key that it keeps, however
//! small. So neighbours share a [`block`]: the tree `blocks` maps the lower bound of each to its bytes, and
//! a batch touches every block once, however many of its changes fall in there. The
//! lower bound of the first one is empty. Values too long for a block lie in the tree `large`.

use std::ops::Bound;
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;

use super::block::{self, Change, Damaged, MAX_HERE, Value};
use super::redo;

const BLOCKS: &str = "blocks";
const LARGE: &str = "large";

/// A block's lower bound and its pairs.
type Step = (Vec<u8>, Vec<(Bytes, Bytes)>);

/// The pairs.
#[derive(Debug)]
pub(super) struct Blocks {
    blocks: ::sled::Tree,
    large: ::sled::Tree,
    redo: redo::Notes,
    /// Held while what one block holds becomes several, and while it is looked for.
    dividing: RwLock<()>,
}

/// One write to sled.
enum Op<'a> {
    Block(Vec<u8>, Vec<u8>),
    NoBlock(Vec<u8>),
    Large(&'a [u8], &'a [u8]),
    NotLarge(Bytes),
}

/// What is written for one block.
struct Write<'a> {
    lower: Vec<u8>,
    ops: Vec<Op<'a>>,
}

impl From<Damaged> for ::sled::Error {
    fn from(_: Damaged) -> Self {
        Self::Corruption { at: None, bt: () }
    }
}

impl Blocks {
    /// Opens the trees and carries out the last batch again.
    pub(super) fn open(db: &::sled::Db) -> ::sled::Result<Self> {
        let blocks = Self {
            blocks: db.open_tree(BLOCKS)?,
            large: db.open_tree(LARGE)?,
            redo: redo::Notes::open(db)?,
            dividing: RwLock::new(()),
        };
        if let Some(note) = blocks.redo.read()? {
            let writes = blocks.plan(&note.changes, &note.touched)?;
            writes
                .into_iter()
                .try_for_each(|write| blocks.carry_out(write))?;
            // Whether they had a long value before can no longer be told.
            let short = |(_, value): &&Change| value.as_ref().is_none_or(|v| v.len() <= MAX_HERE);
            for (key, _) in note.changes.iter().filter(short) {
                blocks.large.remove(key)?;
            }
        }
        Ok(blocks)
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &[u8]) -> ::sled::Result<Option<Bytes>> {
        let _still = self.dividing.read().unwrap_or_else(PoisonError::into_inner);
        let Some((_, block)) = self.floor(key)? else {
            return Ok(None);
        };
        match block::find(&block, key)? {
            None => Ok(None),
            Some(Value::Here(bytes)) => Ok(Some(Bytes::copy_from_slice(bytes))),
            Some(Value::Elsewhere) => self.elsewhere(key).map(Some),
        }
    }

    /// A value outside the blocks; the lock must be held.
    fn elsewhere(&self, key: &[u8]) -> ::sled::Result<Bytes> {
        let value = self.large.get(key)?.ok_or(Damaged)?;
        Ok(Bytes::copy_from_slice(&value))
    }

    /// The block in which a key lies, or would.
    fn floor(&self, key: &[u8]) -> ::sled::Result<Option<(::sled::IVec, ::sled::IVec)>> {
        self.blocks.range(..=key).next_back().transpose()
    }

    fn after(&self, lower: &[u8]) -> ::sled::Result<Option<(::sled::IVec, ::sled::IVec)>> {
        let behind = (Bound::Excluded(lower), Bound::Unbounded);
        self.blocks.range::<&[u8], _>(behind).next().transpose()
    }

    fn before(&self, key: &[u8]) -> ::sled::Result<Option<(::sled::IVec, ::sled::IVec)>> {
        self.blocks.range(..key).next_back().transpose()
    }

    /// The next block of a scan, by its lower bound, with its pairs in order.
    pub(super) fn step(&self, from: &Cursor, reverse: bool) -> ::sled::Result<Option<Step>> {
        let _still = self.dividing.read().unwrap_or_else(PoisonError::into_inner);
        let found = match (from, reverse) {
            (Cursor::At(key), false) => self.floor(key)?,
            (Cursor::End, _) => self.blocks.iter().next_back().transpose()?,
            (Cursor::Passed(lower), false) => self.after(lower)?,
            (Cursor::At(key), true) | (Cursor::Passed(key), true) => self.before(key)?,
        };
        let Some((lower, block)) = found else {
            return Ok(None);
        };
        let mut pairs = Vec::new();
        for (key, value) in block::pairs(&block)? {
            let value = match value {
                Some(value) => value,
                None => self.elsewhere(&key)?,
            };
            pairs.push((key, value));
        }
        Ok(Some((lower.to_vec(), pairs)))
    }

    /// Applies changes, which are in key order: all of them or none, whatever happens.
    pub(super) fn apply(&self, changes: &[Change]) -> ::sled::Result<()> {
        self.begin(changes)?
            .into_iter()
            .try_for_each(|write| self.carry_out(write))
    }

    /// Notes what is going to be done.
    fn begin<'a>(&self, changes: &'a [Change]) -> ::sled::Result<Vec<Write<'a>>> {
        let writes = self.plan(changes, &[])?;
        let touched = writes.iter().map(|write| write.lower.as_slice());
        self.redo.write(changes, touched)?;
        Ok(writes)
    }

    /// What changes make of the blocks; of the `touched` ones too, where none of them falls.
    fn plan<'a>(
        &self,
        changes: &'a [Change],
        touched: &[Vec<u8>],
    ) -> ::sled::Result<Vec<Write<'a>>> {
        let (mut writes, mut rest, mut touched) = (Vec::new(), changes, touched.iter().peekable());
        loop {
            let first = rest.first().map(|(key, _)| key.as_ref());
            let Some(key) = first
                .into_iter()
                .chain(touched.peek().map(|key| key.as_slice()))
                .min()
            else {
                return Ok(writes);
            };
            let found = self.floor(key)?;
            let (lower, block) = found.unwrap_or_default();
            let next = self.after(&lower)?.map(|(next, _)| next);
            let until = next.as_deref();
            let within = |key: &[u8]| until.is_none_or(|until| key < until);
            let (mine, others) = rest.split_at(rest.partition_point(|(key, _)| within(key)));
            while touched.next_if(|key| within(key)).is_some() {}
            rest = others;
            let merged = block::merge(&block, until, mine)?;
            let lower = lower.to_vec();
            writes.push(Write {
                ops: ops(&lower, merged, mine),
                lower,
            });
        }
    }

    fn carry_out(&self, write: Write<'_>) -> ::sled::Result<()> {
        let _alone = (write.ops.len() > 1).then(|| {
            let lock = self.dividing.write();
            lock.unwrap_or_else(PoisonError::into_inner)
        });
        write.ops.into_iter().try_for_each(|op| self.write(op))
    }

    fn write(&self, op: Op<'_>) -> ::sled::Result<()> {
        match op {
            Op::Block(lower, bytes) => self.blocks.insert(lower, bytes)?,
            Op::NoBlock(lower) => self.blocks.remove(lower)?,
            Op::Large(key, value) => self.large.insert(key, value)?,
            Op::NotLarge(key) => self.large.remove(key)?,
        };
        Ok(())
    }
}

/// The last block comes first: a kill in between leaves pairs twice, and none missing.
fn ops<'a>(lower: &[u8], merged: block::Merged, changes: &'a [Change]) -> Vec<Op<'a>> {
    let long = |(key, value): &'a Change| {
        let value = value.as_deref().filter(|value| value.len() > MAX_HERE);
        value.map(|value| Op::Large(key, value))
    };
    let mut ops: Vec<_> = changes.iter().filter_map(long).collect();
    let mut blocks = merged.blocks.into_iter();
    let first = blocks.next().map(|(_, bytes)| bytes);
    ops.extend(blocks.rev().map(|(lower, bytes)| Op::Block(lower, bytes)));
    ops.push(match first {
        Some(bytes) => Op::Block(lower.to_vec(), bytes),
        // The first block stays: every key has one that it falls in.
        None if lower.is_empty() => Op::Block(Vec::new(), Vec::new()),
        None => Op::NoBlock(lower.to_vec()),
    });
    ops.extend(merged.no_longer_elsewhere.into_iter().map(Op::NotLarge));
    ops
}

/// Where a scan stands.
#[derive(Debug, Clone)]
pub(super) enum Cursor {
    /// Before it has begun: forward from this key on, in reverse from before it.
    At(Vec<u8>),
    /// In reverse from the last key.
    End,
    /// It has taken the block with this lower bound.
    Passed(Vec<u8>),
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Model = BTreeMap<Vec<u8>, Vec<u8>>;

    fn content(blocks: &Blocks, reverse: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
        let (mut all, mut at) = (Vec::new(), Cursor::End);
        if !reverse {
            at = Cursor::At(Vec::new());
        }
        while let Some((lower, pairs)) = blocks.step(&at, reverse).unwrap() {
            let mut pairs: Vec<_> = pairs.iter().map(|p| (p.0.to_vec(), p.1.to_vec())).collect();
            assert!(pairs.iter().all(|(key, _)| *key >= lower));
            if reverse {
                pairs.reverse();
            }
            all.extend(pairs);
            at = Cursor::Passed(lower);
        }
        all
    }

    fn change(model: &mut Model, changes: &[Change]) {
        for (key, value) in changes {
            let key = key.to_vec();
            match value {
                Some(value) => model.insert(key, value.to_vec()),
                None => model.remove(&key),
            };
        }
    }

    /// Batches of changes in key order, some of them of values that no block takes.
    fn batches() -> impl Strategy<Value = Vec<(Vec<Change>, usize)>> {
        let key = (0_u32..600, any::<bool>())
            .prop_map(|(n, long)| format!("{}{n:04}", if long { "a long key " } else { "k" }));
        let value = prop::option::weighted(
            0.7,
            (
                any::<u8>(),
                prop_oneof![9 => 0_usize..90, 1 => 500..4_000_usize],
            )
                .prop_map(|(byte, length)| Bytes::from(vec![byte; length])),
        );
        let batch = prop::collection::btree_map(key.prop_map(Bytes::from), value, 1..200)
            .prop_map(|changes| changes.into_iter().collect());
        prop::collection::vec((batch, 0_usize..40), 1..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// A kill may come after any write; what was begun is whole after the next start.
        #[test]
        fn whatever_interrupts_a_batch_it_is_whole_after_the_next_start(batches in batches()) {
            let dir = tempfile::tempdir().unwrap();
            let db = ::sled::open(dir.path()).unwrap();
            let mut model = Model::new();
            for (changes, done) in batches {
                let blocks = Blocks::open(&db).unwrap();
                let ops = blocks.begin(&changes).unwrap().into_iter().flat_map(|write| write.ops);
                for op in ops.take(done) {
                    blocks.write(op).unwrap();
                }
                drop(blocks);
                change(&mut model, &changes);
                let blocks = Blocks::open(&db).unwrap();
                let mut due: Vec<_> = model.clone().into_iter().collect();
                prop_assert!(content(&blocks, false) == due);
                due.reverse();
                prop_assert!(content(&blocks, true) == due);
                for (key, _) in changes {
                    let found = blocks.get(&key).unwrap();
                    prop_assert_eq!(found.as_deref(), model.get(key.as_ref()).map(Vec::as_slice));
                }
                let long = model.values().filter(|value| value.len() > MAX_HERE).count();
                prop_assert_eq!(blocks.large.len(), long);
            }
        }
    }

    #[test]
    fn keys_that_grow_fill_their_blocks_and_others_leave_room() {
        let dir = tempfile::tempdir().unwrap();
        let db = ::sled::open(dir.path()).unwrap();
        let blocks = Blocks::open(&db).unwrap();
        let pair = |n: u32| (n.to_be_bytes().to_vec().into(), Some(vec![7; 40].into()));
        let fill = || {
            let total: usize = blocks
                .blocks
                .iter()
                .values()
                .map(|b| b.unwrap().len())
                .sum();
            total / blocks.blocks.len()
        };
        for n in 0..5_000 {
            blocks.apply(&[pair(2 * n)]).unwrap();
        }
        assert!(fill() > block::BLOCK * 9 / 10, "{}", fill());
        for n in 0..5_000 {
            blocks.apply(&[pair(2 * (n * 7 % 5_000) + 1)]).unwrap();
        }
        assert!(fill() > block::BLOCK / 2, "{}", fill());
        let numbers = (0..10_000_u32).map(|n| n.to_be_bytes().to_vec());
        assert!(
            content(&blocks, false)
                .into_iter()
                .map(|pair| pair.0)
                .eq(numbers)
        );
        for n in 0..10_000_u32 {
            blocks
                .apply(&[(n.to_be_bytes().to_vec().into(), None)])
                .unwrap();
        }
        assert_eq!(blocks.blocks.len(), 1);
    }
}
