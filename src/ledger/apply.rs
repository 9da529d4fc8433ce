//! From frames to state: the one function that the committer, recovery, rebuild and the auditor share.
//!
//! It reads the frame, the state before it, and earlier entries; nothing else. So the same journal
//! gives the same state, always.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;

use super::{
    entry::StoredEntry,
    head::{EntryRef, Head},
    keys,
    merkle::{Hash, Tile, TileSource, Tree, leaf_hash},
    rules::{Revision, Rules},
    staged::{Staged, StateRead},
};
use crate::{
    proto::ledger::v1 as pb,
    storage::{Batch, Frame, FrameKind, LogStore, StateStore, StorageError},
    types::{LogIndex, LogNo},
};

/// The trees of all logs, as far as the state reflects them.
pub type Trees = BTreeMap<LogNo, Tree>;

/// Entries by their place: those stored, and those of the group that is being made.
pub struct Entries<'a> {
    log: &'a dyn LogStore,
    pending: BTreeMap<EntryRef, Bytes>,
}

impl<'a> Entries<'a> {
    /// Reads from a store; nothing pending.
    #[must_use]
    pub fn new(log: &'a dyn LogStore) -> Self {
        Self {
            log,
            pending: BTreeMap::new(),
        }
    }

    /// Adds one that is not stored yet.
    pub fn add(&mut self, at: EntryRef, bytes: Bytes) {
        self.pending.insert(at, bytes);
    }

    /// An entry that is known to be there.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] where it is not there or does not decode.
    pub fn get(&self, at: EntryRef) -> Result<StoredEntry, StorageError> {
        let bytes = match self.pending.get(&at) {
            Some(bytes) => Some(bytes.clone()),
            None => self.log.read(at.log, at.index)?,
        };
        let found = bytes.and_then(|bytes| StoredEntry::parse(at, bytes).ok());
        found.ok_or_else(|| StorageError::Corrupt {
            what: format!(
                "entry {} of log {} is missing or unreadable",
                at.index.0, at.log.0
            ),
        })
    }
}

/// Tiles as the state keeps them.
pub struct StateTiles<'a> {
    /// The state.
    pub state: &'a dyn StateRead,
    /// The log.
    pub log: LogNo,
}

impl TileSource for StateTiles<'_> {
    type Error = StorageError;

    fn tile(&self, level: u8, number: u64) -> Result<Vec<Hash>, StorageError> {
        let bytes = self.state.get(&keys::tile(self.log, level, number))?;
        let hashes: Option<Vec<Hash>> = bytes.map(|bytes| {
            bytes
                .chunks_exact(32)
                .filter_map(|hash| hash.try_into().ok())
                .collect()
        });
        hashes
            .filter(|hashes| hashes.len() == super::merkle::TILE_WIDTH)
            .ok_or_else(|| StorageError::Corrupt {
                what: format!("tile {level}/{number} of log {} is missing", self.log.0),
            })
    }
}

/// An entry, read and hashed once, wherever that is cheapest.
#[derive(Debug)]
pub struct Parsed {
    /// Its leaf hash.
    pub leaf: Hash,
    /// The entry with the head that it makes; `None` for bytes that this program does not understand.
    pub entry: Option<(StoredEntry, Head)>,
}

impl Parsed {
    /// Reads bytes.
    #[must_use]
    pub fn new(at: EntryRef, bytes: Bytes) -> Self {
        let leaf = leaf_hash(&bytes);
        let entry = StoredEntry::parse(at, bytes).ok();
        Self {
            leaf,
            entry: entry.map(|entry| {
                let head = entry.head();
                (entry, head)
            }),
        }
    }

    /// The standing head of the entry's record.
    ///
    /// # Errors
    /// As the state.
    pub fn before(&self, staged: &Staged<'_>) -> Result<Option<Head>, StorageError> {
        let Some((entry, _)) = &self.entry else {
            return Ok(None);
        };
        let held = staged.get(&keys::head(&entry.name))?;
        Ok(held.and_then(|bytes| Head::from_bytes(&bytes)))
    }
}

/// Applies one frame: stages what it changes, and grows its log's tree.
///
/// # Errors
/// [`StorageError`] where an earlier entry or the state cannot be read.
pub fn apply(
    frame: &Frame,
    rules: &dyn Rules,
    entries: &Entries<'_>,
    trees: &mut Trees,
    staged: &mut Staged<'_>,
) -> Result<(), StorageError> {
    match frame.kind {
        FrameKind::Log => {
            if let Ok(log) = pb::Log::decode(frame.payload.clone()) {
                staged.put(
                    keys::origin(&log.origin),
                    frame.log.0.to_be_bytes().to_vec(),
                );
            }
            staged.put(keys::log(frame.log), frame.payload.to_vec());
            trees.entry(frame.log).or_default();
        }
        FrameKind::Checkpoint => {
            staged.put(keys::newest_checkpoint(frame.log), frame.payload.to_vec());
            staged.put(
                keys::checkpoint(frame.log, frame.index.0),
                frame.payload.to_vec(),
            );
        }
        FrameKind::Cosignature => apply_cosignature(frame, staged)?,
        FrameKind::Evidence => staged.put(keys::evidence(frame.log), frame.payload.to_vec()),
        FrameKind::Entry => {
            let at = EntryRef {
                log: frame.log,
                index: frame.index,
            };
            let parsed = Parsed::new(at, frame.payload.clone());
            let before = parsed.before(staged)?;
            return apply_entry(frame.log, &parsed, before, rules, entries, trees, staged);
        }
    }
    staged.end_frame();
    Ok(())
}

/// Applies an entry: stages what it changes, and grows its log's tree. `before` is its [`Parsed::before`].
///
/// # Errors
/// As [`apply`].
pub fn apply_entry(
    log: LogNo,
    parsed: &Parsed,
    before: Option<Head>,
    rules: &dyn Rules,
    entries: &Entries<'_>,
    trees: &mut Trees,
    staged: &mut Staged<'_>,
) -> Result<(), StorageError> {
    let tree = trees.entry(log).or_default();
    tree.push(parsed.leaf, |tile| put_tile(staged, log, &tile));
    staged.put(keys::size(log), tree.size().to_be_bytes().to_vec());
    match &parsed.entry {
        Some((entry, head)) if continues(before.as_ref(), entry) => {
            apply_revision(entry, head, before, rules, entries, staged)?;
        }
        _ => count_unindexed(log, staged)?,
    }
    staged.end_frame();
    Ok(())
}

fn put_tile(staged: &mut Staged<'_>, log: LogNo, tile: &Tile) {
    staged.put(
        keys::tile(log, tile.level, tile.number),
        tile.hashes.concat(),
    );
}

/// A node's newest cosignature stays; an older one that arrives late does not replace it. Of each size the
/// first one stays: it says since when what it covers is held.
fn apply_cosignature(frame: &Frame, staged: &mut Staged<'_>) -> Result<(), StorageError> {
    let Ok(new) = pb::Cosignature::decode(frame.payload.clone()) else {
        return Ok(());
    };
    let size = u64::try_from(new.size).unwrap_or(0);
    let first = keys::receipt(frame.log, &new.node, size);
    if staged.get(&first)?.is_none() {
        staged.put(first, frame.payload.to_vec());
    }
    let key = keys::cosignature(frame.log, &new.node);
    let held = staged
        .get(&key)?
        .and_then(|bytes| pb::Cosignature::decode(bytes).ok());
    if held.is_none_or(|held| held.size <= new.size) {
        staged.put(key, frame.payload.to_vec());
    }
    Ok(())
}

fn apply_revision(
    entry: &StoredEntry,
    head: &Head,
    before: Option<Head>,
    rules: &dyn Rules,
    entries: &Entries<'_>,
    staged: &mut Staged<'_>,
) -> Result<(), StorageError> {
    let log = entry.at.log;
    staged.put(keys::head(&entry.name), head.to_bytes());
    if log == LogNo::OWN {
        remember_request(entry, staged);
        count_stored(entry, staged)?;
    }
    count(before.as_ref(), entry, staged)?;
    if !rules.knows(entry.name.register()) {
        return count_unindexed(log, staged);
    }
    let previous = before.map(|head| entries.get(head.entry)).transpose()?;
    let previous = previous.as_ref().map(revision);
    let mut batch = Batch::default();
    rules.index(&entry.name, previous, revision(entry), &mut batch);
    rules.count(&entry.name, previous, revision(entry), staged, &mut batch)?;
    staged.extend(batch);
    Ok(())
}

fn revision(entry: &StoredEntry) -> Revision<'_> {
    Revision {
        record: &entry.message.record,
        withdrawn: entry.withdrawn(),
        time: entry.time,
        created: entry.created,
    }
}

/// Only the log on which a record was created writes its revisions, one after the other. What does not
/// continue the record, as a dishonest node may send, is carried as bytes and changes nothing.
fn continues(before: Option<&Head>, entry: &StoredEntry) -> bool {
    match before {
        None => entry.revision() == 1 && entry.message.previous.is_none(),
        Some(head) => {
            head.entry.log == entry.at.log
                && entry.message.previous == Some(head.entry.index.0)
                && entry.revision() == head.revision + 1
                && entry.created == head.created
        }
    }
}

fn remember_request(entry: &StoredEntry, staged: &mut Staged<'_>) {
    let Ok(id) = entry.message.request_id.parse() else {
        return;
    };
    let mut value = entry.at.log.0.to_be_bytes().to_vec();
    value.extend_from_slice(&entry.at.index.0.to_be_bytes());
    value.extend_from_slice(&entry.message.request_hash);
    staged.put(keys::request(&entry.message.submitter, &id), value);
}

fn count(
    before: Option<&Head>,
    entry: &StoredEntry,
    staged: &mut Staged<'_>,
) -> Result<(), StorageError> {
    let key = keys::count(entry.name.register(), entry.at.log);
    let mut counts = Counts::from_bytes(staged.get(&key)?.as_deref());
    match before.map(|head| head.withdrawn) {
        Some(true) => counts.withdrawn = counts.withdrawn.saturating_sub(1),
        Some(false) => counts.live = counts.live.saturating_sub(1),
        None => {}
    }
    if entry.withdrawn() {
        counts.withdrawn += 1;
    } else {
        counts.live += 1;
    }
    staged.put(key, counts.to_bytes());
    Ok(())
}

fn count_unindexed(log: LogNo, staged: &mut Staged<'_>) -> Result<(), StorageError> {
    add(keys::unindexed(log), 1, staged)
}

/// What an agency has stored in the own log, which its quota bounds.
fn count_stored(entry: &StoredEntry, staged: &mut Staged<'_>) -> Result<(), StorageError> {
    let bytes = entry.bytes.len() as u64;
    add(keys::stored(entry.name.agency()), bytes, staged)
}

fn add(key: Vec<u8>, more: u64, staged: &mut Staged<'_>) -> Result<(), StorageError> {
    let held = number(staged.get(&key)?);
    staged.put(key, held.saturating_add(more).to_be_bytes().to_vec());
    Ok(())
}

/// A stored number; nothing stored is 0.
pub(super) fn number(bytes: Option<Bytes>) -> u64 {
    bytes
        .and_then(|bytes| Some(u64::from_be_bytes(bytes.as_ref().try_into().ok()?)))
        .unwrap_or(0)
}

/// Records of one register in one log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Not withdrawn.
    pub live: u64,
    /// Withdrawn.
    pub withdrawn: u64,
}

impl Counts {
    /// From what was stored; nothing stored is no record.
    #[must_use]
    pub fn from_bytes(bytes: Option<&[u8]>) -> Self {
        let read = |bytes: &[u8]| {
            let (live, withdrawn) = bytes.split_first_chunk::<8>()?;
            let withdrawn = u64::from_be_bytes(withdrawn.try_into().ok()?);
            Some(Self {
                live: u64::from_be_bytes(*live),
                withdrawn,
            })
        };
        bytes.and_then(read).unwrap_or_default()
    }

    fn to_bytes(self) -> Vec<u8> {
        [self.live.to_be_bytes(), self.withdrawn.to_be_bytes()].concat()
    }
}

/// The tree of a log as the state reflects it.
///
/// # Errors
/// [`StorageError::Corrupt`] where tiles or entries that it needs are missing.
pub fn load_tree(
    log: LogNo,
    journal: &dyn LogStore,
    state: &dyn StateStore,
) -> Result<Tree, StorageError> {
    let size = stored_size(log, state)?;
    let first = size & !(super::merkle::TILE_WIDTH as u64 - 1);
    let last = (first..size).map(|index| match journal.read(log, LogIndex(index))? {
        Some(bytes) => Ok(leaf_hash(&bytes)),
        None => Err(StorageError::Corrupt {
            what: format!("entry {index} of log {} is missing", log.0),
        }),
    });
    Tree::load(
        size,
        last.collect::<Result<_, _>>()?,
        &StateTiles { state: &state, log },
    )
}

/// Entries of a log that the state reflects.
///
/// # Errors
/// As [`StateStore::get`].
pub fn stored_size(log: LogNo, state: &dyn StateStore) -> Result<u64, StorageError> {
    Ok(number(state.get(&keys::size(log))?))
}
