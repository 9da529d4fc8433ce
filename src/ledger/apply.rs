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
    types::{LogIndex, LogNo, Origin},
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
    /// Its index keys, where they are worked out.
    pub keys: Option<Vec<Bytes>>,
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
            keys: None,
        }
    }

    /// Works out its index keys too.
    #[must_use]
    pub fn indexed(mut self, rules: &dyn Rules) -> Self {
        let entry = self.entry.as_ref();
        self.keys = entry.and_then(|(e, _)| rules.index_keys(&e.name, &e.message.record));
        self
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
            staged.put(keys::log(frame.log), frame.payload.clone());
            trees.entry(frame.log).or_default();
        }
        FrameKind::Checkpoint => {
            staged.put(keys::newest_checkpoint(frame.log), frame.payload.clone());
            staged.put(
                keys::checkpoint(frame.log, frame.index.0),
                frame.payload.clone(),
            );
        }
        FrameKind::Cosignature => apply_cosignature(frame, staged)?,
        FrameKind::Evidence => apply_evidence(frame, staged)?,
        FrameKind::Resolution => staged.put(keys::resolution(frame.log), frame.payload.clone()),
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
        Some((entry, head)) if continues(before.as_ref(), entry, staged)? => {
            let keys = parsed.keys.as_deref();
            apply_revision((entry, head, keys), before, rules, entries, staged)?;
        }
        _ => count_unindexed(log, staged)?,
    }
    Ok(())
}

fn put_tile(staged: &mut Staged<'_>, log: LogNo, tile: &Tile) {
    staged.put(
        keys::tile(log, tile.level, tile.number),
        tile.hashes.concat(),
    );
}

/// Evidence is numbered as it comes.
fn apply_evidence(frame: &Frame, staged: &mut Staged<'_>) -> Result<(), StorageError> {
    let decode = |bytes: Bytes| pb::Evidence::decode(bytes).unwrap_or_default();
    let newest = staged.get(&keys::evidence(frame.log))?.map(decode);
    let number = newest.map_or(0, |newest| newest.number) + 1;
    let evidence = pb::Evidence {
        number,
        ..decode(frame.payload.clone())
    };
    let (bytes, number) = (evidence.encode_to_vec(), u64::try_from(number).unwrap_or(0));
    staged.put(keys::evidence_number(frame.log, number), bytes.clone());
    staged.put(keys::evidence(frame.log), bytes);
    Ok(())
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
        staged.put(first, frame.payload.clone());
    }
    let key = keys::cosignature(frame.log, &new.node);
    let held = staged
        .get(&key)?
        .and_then(|bytes| pb::Cosignature::decode(bytes).ok());
    if held.is_none_or(|held| held.size <= new.size) {
        staged.put(key, frame.payload.clone());
    }
    Ok(())
}

fn apply_revision(
    (entry, head, keys): (&StoredEntry, &Head, Option<&[Bytes]>),
    before: Option<Head>,
    rules: &dyn Rules,
    entries: &Entries<'_>,
    staged: &mut Staged<'_>,
) -> Result<(), StorageError> {
    let log = entry.at.log;
    staged.put(keys::head(&entry.name), head.to_bytes());
    if log == LogNo::OWN {
        remember_request(entry, staged);
    }
    count(before.as_ref(), entry, staged)?;
    if !rules.knows(entry.name.register()) {
        return count_unindexed(log, staged);
    }
    let previous = before.map(|head| entries.get(head.entry)).transpose()?;
    let previous = previous.as_ref().map(revision);
    let mut batch = Batch::default();
    let after = Revision {
        keys,
        ..revision(entry)
    };
    rules.index(&entry.name, previous, after, &mut batch);
    rules.count(&entry.name, previous, after, staged, &mut batch)?;
    staged.extend(batch);
    Ok(())
}

fn revision(entry: &StoredEntry) -> Revision<'_> {
    Revision {
        record: &entry.message.record,
        withdrawn: entry.withdrawn(),
        time: entry.time,
        created: entry.created,
        keys: None,
    }
}

/// Only the node on which a record was created writes its revisions, one after the other in one log; a newer log of
/// that node takes the record over, with a first revision of its own. What does not continue the record, as a
/// dishonest node may send, is carried as bytes and changes nothing.
fn continues(
    before: Option<&Head>,
    entry: &StoredEntry,
    staged: &Staged<'_>,
) -> Result<bool, StorageError> {
    let begins = entry.revision() == 1 && entry.message.previous.is_none();
    match before {
        None => Ok(begins),
        Some(head) if head.entry.log != entry.at.log => {
            Ok(begins && succeeds(head.entry.log, entry.at.log, staged)?)
        }
        Some(head) => Ok(entry.message.previous == Some(head.entry.index.0)
            && entry.revision() == head.revision + 1
            && entry.created == head.created),
    }
}

/// Whether two logs are of one node, and the second is the newer one.
fn succeeds(former: LogNo, log: LogNo, staged: &Staged<'_>) -> Result<bool, StorageError> {
    let origin = |log| -> Result<Option<Origin>, StorageError> {
        let bytes = staged.get(&keys::log(log))?;
        let log = bytes.and_then(|bytes| pb::Log::decode(bytes).ok());
        Ok(log.and_then(|log| log.origin.parse().ok()))
    };
    let (Some(former), Some(newer)) = (origin(former)?, origin(log)?) else {
        return Ok(false);
    };
    let same = former.domain() == newer.domain() && former.node() == newer.node();
    Ok(same && newer.incarnation() > former.incarnation())
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
    let register = entry.name.register();
    if let Some(head) = before {
        let key = keys::count(register, head.entry.log);
        let mut counts = Counts::from_bytes(staged.get(&key)?.as_deref());
        match head.withdrawn {
            true => counts.withdrawn = counts.withdrawn.saturating_sub(1),
            false => counts.live = counts.live.saturating_sub(1),
        }
        staged.put(key, counts.to_bytes());
    }
    let key = keys::count(register, entry.at.log);
    let mut counts = Counts::from_bytes(staged.get(&key)?.as_deref());
    match entry.withdrawn() {
        true => counts.withdrawn += 1,
        false => counts.live += 1,
    }
    staged.put(key, counts.to_bytes());
    Ok(())
}

fn count_unindexed(log: LogNo, staged: &mut Staged<'_>) -> Result<(), StorageError> {
    let key = keys::unindexed(log);
    let held = staged.get(&key)?;
    let count = held.and_then(|bytes| Some(u64::from_be_bytes(bytes.as_ref().try_into().ok()?)));
    staged.put(key, (count.unwrap_or(0) + 1).to_be_bytes().to_vec());
    Ok(())
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
    let bytes = state.get(&keys::size(log))?;
    Ok(bytes
        .and_then(|b| Some(u64::from_be_bytes(b.as_ref().try_into().ok()?)))
        .unwrap_or(0))
}
