//! The Merkle tree of a log: RFC 6962 hashing, RFC 9162 proofs, tiles of 64 hashes.
//!
//! A [`Tree`] is O(log n) in memory: for every level of tiles, the hashes of the tile that is not
//! yet full. Full tiles go out through [`Tree::push`] and come back through [`TileSource`].

use crate::types::sha256;

/// A SHA-256 hash: 32 bytes.
pub type Hash = [u8; 32];

/// Hashes in a full tile: 2^[`TILE_HEIGHT`].
pub const TILE_WIDTH: usize = 1 << TILE_HEIGHT;
/// Levels of the tree that a tile spans.
pub const TILE_HEIGHT: u32 = 6;

/// RFC 6962 section 2.1: SHA-256(0x00 || entry).
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Hash {
    sha256(&[&[0], entry])
}

/// RFC 6962 section 2.1: SHA-256(0x01 || left || right).
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut both = [1; 65];
    let (_, halves) = both.split_at_mut(1);
    for (to, from) in halves.iter_mut().zip(left.iter().chain(right)) {
        *to = *from;
    }
    sha256(&[&both])
}

/// RFC 6962 section 2.1: the root of a tree without entries.
#[must_use]
pub fn empty_root() -> Hash {
    sha256(&[])
}

/// A full tile: its level (0 holds leaf hashes), its number in the level, and its hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tile {
    /// The level: a hash at level L covers 64^L entries.
    pub level: u8,
    /// The tile's number in its level, from 0.
    pub number: u64,
    /// [`TILE_WIDTH`] hashes.
    pub hashes: Vec<Hash>,
}

/// Where full tiles are kept.
pub trait TileSource {
    /// What reading may fail with.
    type Error;
    /// The hashes of a full tile.
    ///
    /// # Errors
    /// Whatever the source says; a full tile that is not there is one.
    fn tile(&self, level: u8, number: u64) -> Result<Vec<Hash>, Self::Error>;
}

/// A tree of some size, able to grow and, with its tiles, to prove.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    /// For each level, the hashes of the tile that is not full: fewer than [`TILE_WIDTH`].
    partial: Vec<Vec<Hash>>,
    /// Roots of the perfect subtrees that make up the tree, left to right, with their heights.
    range: Vec<(u32, Hash)>,
}

impl Tree {
    /// A tree of `size` entries, from its full tiles and the hashes of its last, partial tile.
    ///
    /// # Errors
    /// As [`TileSource::tile`].
    pub fn load<S: TileSource>(size: u64, last: Vec<Hash>, tiles: &S) -> Result<Self, S::Error> {
        if size == 0 {
            return Ok(Self::default());
        }
        let mut tree = Self {
            size,
            partial: vec![last],
            range: Vec::new(),
        };
        let (mut full, mut level) = (size >> TILE_HEIGHT, 0u8);
        while full > 0 {
            let first = full & !(TILE_WIDTH as u64 - 1);
            let roots = (first..full).map(|number| Ok(perfect_root(&tiles.tile(level, number)?)));
            tree.partial.push(roots.collect::<Result<_, S::Error>>()?);
            full >>= TILE_HEIGHT;
            level += 1;
        }
        for (level, hashes) in tree.partial.iter().enumerate().rev() {
            let height = TILE_HEIGHT * u32::try_from(level).unwrap_or(u32::MAX);
            for hash in hashes {
                push_range(&mut tree.range, height, *hash);
            }
        }
        Ok(tree)
    }

    /// The number of entries.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf hash; tiles that it makes full are handed to `full`, lowest level first.
    pub fn push(&mut self, leaf: Hash, mut full: impl FnMut(Tile)) {
        push_range(&mut self.range, 0, leaf);
        let (mut hash, mut number) = (leaf, self.size);
        self.size += 1;
        for level in 0u8.. {
            let at = usize::from(level);
            if self.partial.len() == at {
                self.partial.push(Vec::new());
            }
            let Some(hashes) = self.partial.get_mut(at) else {
                return;
            };
            hashes.push(hash);
            if hashes.len() < TILE_WIDTH {
                return;
            }
            let hashes = std::mem::take(hashes);
            hash = perfect_root(&hashes);
            number >>= TILE_HEIGHT;
            full(Tile {
                level,
                number,
                hashes,
            });
        }
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut subtrees = self.range.iter().rev().map(|(_, hash)| *hash);
        let Some(last) = subtrees.next() else {
            return empty_root();
        };
        subtrees.fold(last, |right, left| node_hash(&left, &right))
    }

    /// The root that the tree would have with these leaves added.
    #[must_use]
    pub fn root_with(&self, leaves: &[Hash]) -> Hash {
        let mut grown = Self {
            size: self.size,
            partial: Vec::new(),
            range: self.range.clone(),
        };
        for leaf in leaves {
            push_range(&mut grown.range, 0, *leaf);
        }
        grown.root()
    }

    /// The root of the first `size` entries.
    ///
    /// # Errors
    /// [`ProofError::OutOfRange`], or what the tiles say.
    pub fn root_at<S: TileSource>(
        &self,
        size: u64,
        tiles: &S,
    ) -> Result<Hash, ProofError<S::Error>> {
        self.within(size)?;
        if size == 0 {
            return Ok(empty_root());
        }
        self.span(0, size, tiles)
    }

    /// The leaf hash of an entry.
    ///
    /// # Errors
    /// [`ProofError::OutOfRange`], or what the tiles say.
    pub fn leaf<S: TileSource>(&self, index: u64, tiles: &S) -> Result<Hash, ProofError<S::Error>> {
        if index >= self.size {
            return Err(ProofError::OutOfRange);
        }
        self.hash_at(0, index, tiles)
    }

    /// RFC 9162 section 2.1.3.1: the path of an entry in the tree of the first `size` entries.
    ///
    /// # Errors
    /// [`ProofError::OutOfRange`], or what the tiles say.
    pub fn inclusion<S: TileSource>(
        &self,
        index: u64,
        size: u64,
        tiles: &S,
    ) -> Result<Vec<Hash>, ProofError<S::Error>> {
        self.within(size)?;
        if index >= size {
            return Err(ProofError::OutOfRange);
        }
        let (mut start, mut end, mut path) = (0, size, Vec::new());
        while end - start > 1 {
            let middle = start + split(end - start);
            if index < middle {
                path.push(self.span(middle, end, tiles)?);
                end = middle;
            } else {
                path.push(self.span(start, middle, tiles)?);
                start = middle;
            }
        }
        path.reverse();
        Ok(path)
    }

    /// RFC 9162 section 2.1.4.1: the proof that the first `old` entries begin the first `new` ones.
    ///
    /// # Errors
    /// [`ProofError::OutOfRange`], or what the tiles say.
    pub fn consistency<S: TileSource>(
        &self,
        old: u64,
        new: u64,
        tiles: &S,
    ) -> Result<Vec<Hash>, ProofError<S::Error>> {
        self.within(new)?;
        if old > new {
            return Err(ProofError::OutOfRange);
        }
        let mut path = Vec::new();
        if old == 0 || old == new {
            return Ok(path);
        }
        let (mut start, mut end) = (0, new);
        while old != end {
            let middle = start + split(end - start);
            if old <= middle {
                path.push(self.span(middle, end, tiles)?);
                end = middle;
            } else {
                path.push(self.span(start, middle, tiles)?);
                start = middle;
            }
        }
        if start != 0 {
            path.push(self.span(start, end, tiles)?);
        }
        path.reverse();
        Ok(path)
    }

    fn within<E>(&self, size: u64) -> Result<(), ProofError<E>> {
        if size > self.size {
            Err(ProofError::OutOfRange)
        } else {
            Ok(())
        }
    }

    /// The root of entries `start..end`, where `start` is a multiple of a power of two not below
    /// the span: what RFC 6962 calls MTH(D\[start:end\]).
    fn span<S: TileSource>(
        &self,
        start: u64,
        end: u64,
        tiles: &S,
    ) -> Result<Hash, ProofError<S::Error>> {
        let width = end - start;
        if width.is_power_of_two() {
            let height = width.trailing_zeros();
            return self.perfect(height, start >> height, tiles);
        }
        let middle = start + split(width);
        Ok(node_hash(
            &self.span(start, middle, tiles)?,
            &self.span(middle, end, tiles)?,
        ))
    }

    /// The root of a perfect subtree: `number` counts subtrees of that height from the left.
    fn perfect<S: TileSource>(
        &self,
        height: u32,
        number: u64,
        tiles: &S,
    ) -> Result<Hash, ProofError<S::Error>> {
        let (level, within) = (height / TILE_HEIGHT, height % TILE_HEIGHT);
        let level = u8::try_from(level).map_err(|_| ProofError::OutOfRange)?;
        if within == 0 {
            return self.hash_at(level, number, tiles);
        }
        let first = number << within;
        let hashes = self.tile_hashes(level, first >> TILE_HEIGHT, tiles)?;
        let offset = usize::try_from(first).unwrap_or(usize::MAX) % TILE_WIDTH;
        let hashes = hashes
            .get(offset..offset + (1 << within))
            .ok_or(ProofError::OutOfRange)?;
        Ok(perfect_root(hashes))
    }

    fn hash_at<S: TileSource>(
        &self,
        level: u8,
        position: u64,
        tiles: &S,
    ) -> Result<Hash, ProofError<S::Error>> {
        let hashes = self.tile_hashes(level, position >> TILE_HEIGHT, tiles)?;
        let offset = usize::try_from(position % TILE_WIDTH as u64).unwrap_or(usize::MAX);
        hashes.get(offset).copied().ok_or(ProofError::OutOfRange)
    }

    fn tile_hashes<S: TileSource>(
        &self,
        level: u8,
        number: u64,
        tiles: &S,
    ) -> Result<std::borrow::Cow<'_, [Hash]>, ProofError<S::Error>> {
        let full = u32::from(level + 1)
            .checked_mul(TILE_HEIGHT)
            .and_then(|shift| self.size.checked_shr(shift))
            .unwrap_or(0);
        if number < full {
            return Ok(tiles
                .tile(level, number)
                .map_err(ProofError::Source)?
                .into());
        }
        let hashes = self
            .partial
            .get(usize::from(level))
            .ok_or(ProofError::OutOfRange)?;
        Ok(hashes.as_slice().into())
    }
}

/// Why a proof cannot be given.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProofError<E> {
    /// The index or size is beyond the tree.
    #[error("beyond the tree")]
    OutOfRange,
    /// The tiles could not be read.
    #[error("{0}")]
    Source(E),
}

/// The largest power of two below `width`, which is at least 2.
fn split(width: u64) -> u64 {
    1 << (63 - (width - 1).leading_zeros())
}

/// Adds a perfect subtree at the right edge, joining equals.
fn push_range(range: &mut Vec<(u32, Hash)>, mut height: u32, mut hash: Hash) {
    while let Some((_, left)) = range.pop_if(|(left, _)| *left == height) {
        hash = node_hash(&left, &hash);
        height += 1;
    }
    range.push((height, hash));
}

/// The root over a power of two of hashes.
fn perfect_root(hashes: &[Hash]) -> Hash {
    match hashes {
        [] => empty_root(),
        [one] => *one,
        _ => {
            let (left, right) = hashes.split_at(hashes.len() / 2);
            node_hash(&perfect_root(left), &perfect_root(right))
        }
    }
}

/// RFC 9162 section 2.1.3.2: whether `path` leads from a leaf to the root of a tree of `size`.
#[must_use]
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, path: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut node, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// RFC 9162 section 2.1.4.2: whether `path` shows that the tree of `old_size` begins that of
/// `new_size`.
#[must_use]
pub fn verify_consistency(
    old_size: u64,
    old_root: &Hash,
    new_size: u64,
    new_root: &Hash,
    path: &[Hash],
) -> bool {
    if old_size > new_size {
        return false;
    }
    if old_size == new_size {
        return path.is_empty() && old_root == new_root;
    }
    if old_size == 0 {
        return path.is_empty() && *old_root == empty_root();
    }
    let mut path = path.iter();
    let first = if old_size.is_power_of_two() {
        Some(old_root)
    } else {
        path.next()
    };
    let Some(first) = first else { return false };
    let (mut node, mut last) = (old_size - 1, new_size - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let (mut old, mut new) = (*first, *first);
    for hash in path {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            old = node_hash(hash, &old);
            new = node_hash(hash, &new);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new = node_hash(&new, hash);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && old == *old_root && new == *new_root
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, convert::Infallible};

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Tiles(HashMap<(u8, u64), Vec<Hash>>);

    impl TileSource for Tiles {
        type Error = Infallible;
        fn tile(&self, level: u8, number: u64) -> Result<Vec<Hash>, Infallible> {
            Ok(self.0[&(level, number)].clone())
        }
    }

    /// RFC 6962 section 2.1, word for word.
    fn reference(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [one] => *one,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node_hash(&reference(left), &reference(right))
            }
        }
    }

    fn grown(size: u64) -> (Tree, Tiles, Vec<Hash>) {
        let (mut tree, mut tiles, mut leaves) = (Tree::default(), Tiles::default(), Vec::new());
        for index in 0..size {
            let leaf = leaf_hash(&index.to_be_bytes());
            leaves.push(leaf);
            tree.push(leaf, |tile| {
                tiles.0.insert((tile.level, tile.number), tile.hashes);
            });
        }
        (tree, tiles, leaves)
    }

    #[test]
    fn known_roots() {
        // The test vectors of the Certificate Transparency reference implementation.
        let entries: [&[u8]; 4] = [b"", b"\x00", b"\x10", b"\x20\x21"];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ];
        let mut tree = Tree::default();
        for (entry, root) in entries.iter().zip(roots) {
            tree.push(leaf_hash(entry), |_| ());
            let hex: String = tree.root().iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hex, root);
        }
    }

    #[test]
    fn large_tree_has_tiles_of_two_levels() {
        let (tree, tiles, leaves) = grown(4_096 + 64 + 3);
        assert!(tiles.0.contains_key(&(1, 0)));
        assert_eq!(tree.root(), reference(&leaves));
        let last = leaves[leaves.len() / 64 * 64..].to_vec();
        assert_eq!(Tree::load(tree.size(), last, &tiles).unwrap(), tree);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn roots_and_proofs_agree_with_the_rfc(size in 1u64..700, a in any::<u64>(), b in any::<u64>()) {
            let (tree, tiles, leaves) = grown(size);
            prop_assert_eq!(tree.root(), reference(&leaves));
            let at = 1 + a % size;
            let root = tree.root_at(at, &tiles).unwrap();
            prop_assert_eq!(root, reference(&leaves[..at as usize]));
            let index = b % at;
            let path = tree.inclusion(index, at, &tiles).unwrap();
            let leaf = tree.leaf(index, &tiles).unwrap();
            prop_assert!(verify_inclusion(&leaf, index, at, &path, &root));
            prop_assert!(!verify_inclusion(&leaf, (index + 1) % at, at, &path, &root) || at == 1);
            let proof = tree.consistency(at, size, &tiles).unwrap();
            prop_assert!(verify_consistency(at, &root, size, &tree.root(), &proof));
            for cut in 0..path.len() {
                let mut short = path.clone();
                short.remove(cut);
                prop_assert!(!verify_inclusion(&leaf, index, at, &short, &root));
            }
            for cut in 0..proof.len() {
                let mut short = proof.clone();
                short.remove(cut);
                prop_assert!(!verify_consistency(at, &root, size, &tree.root(), &short));
            }
            if at < size {
                prop_assert!(!verify_consistency(at, &leaf_hash(b"x"), size, &tree.root(), &proof));
                prop_assert_eq!(tree.root_at(at, &tiles).unwrap(), {
                    let (prefix, _, _) = grown(at);
                    prefix.root()
                });
            }
        }

        #[test]
        fn a_loaded_tree_grows_like_the_one_it_came_from(size in 0u64..300, more in 0u64..200) {
            let (tree, tiles, leaves) = grown(size);
            let last = leaves[leaves.len() / 64 * 64..].to_vec();
            let mut loaded = Tree::load(size, last, &tiles).unwrap();
            prop_assert_eq!(&loaded, &tree);
            let (whole, _, all) = grown(size + more);
            prop_assert_eq!(tree.root_with(&all[leaves.len()..]), whole.root());
            for leaf in &all[leaves.len()..] {
                loaded.push(*leaf, |_| ());
            }
            prop_assert_eq!(loaded.root(), whole.root());
        }
    }
}
