//! The ledger: entries in logs, hashed into trees, signed, and the state derived from them.
//!
//! [`Ledger`] is the handle. Writes go through one committer thread; reads see what it published.

mod apply;
pub mod audit;
mod committer;
pub mod custody;
mod decide;
pub mod entry;
pub mod head;
pub mod keys;
pub mod merkle;
pub mod note;
mod open;
pub mod rules;
pub mod staged;

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use prost::Message as _;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

pub use apply::Counts;
use apply::{Entries, Parsed, StateTiles};
use committer::Command;
use entry::StoredEntry;
use head::{EntryRef, Head};
use merkle::{Hash, ProofError, Tree};
use note::{NodeKey, Note, VerifierKey};
pub use open::{OpenError, Options};
use rules::Proposal;

use crate::{
    proto::ledger::v1 as pb,
    storage::{KeyRange, LogStore, Position, StateStore, StorageError},
    types::{AgencyId, LedgerTime, LogIndex, LogNo, RecordName, Refusal, RegisterId},
};

/// Commands that may wait for the committer; past it, submitters wait.
const QUEUE: usize = 1_024;

/// Whether the node takes entries in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intake {
    /// It does.
    Open,
    /// The disk is below its watermark; reads go on.
    Full,
    /// The parent holds more of this node's log than the node itself: signing would fork it.
    BehindParent(String),
    /// Storage failed; the node stops.
    Failed(String),
}

/// What a log looks like to readers, all of it durable.
#[derive(Debug, Clone)]
pub struct LogView {
    /// Its number here.
    pub log: LogNo,
    /// Its key; the key's name is the origin.
    pub key: VerifierKey,
    /// Its tree.
    pub tree: Tree,
    /// Its newest signed checkpoint: of this very size. Empty for a log from below that has none yet.
    pub note: String,
    /// Why it is quarantined.
    pub quarantined: Option<String>,
}

impl LogView {
    /// The log's origin.
    #[must_use]
    pub fn origin(&self) -> &str {
        self.key.name()
    }

    /// The node that is the log's origin: the middle part of it.
    #[must_use]
    pub fn node(&self) -> &str {
        self.origin().split('/').nth(1).unwrap_or_default()
    }
}

/// Everything that readers see, as of one group.
#[derive(Debug, Clone)]
pub struct Published {
    /// The end of the journal.
    pub end: Position,
    /// Every log.
    pub logs: BTreeMap<LogNo, Arc<LogView>>,
}

/// What became of a proposal that was not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// First revision.
    Created,
    /// A further revision.
    Revised,
    /// Nothing appended.
    Unchanged,
    /// Withdrawn.
    Withdrawn,
}

/// A proposal that was taken, or found so already.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// What became of it.
    pub outcome: Outcome,
    /// The head that stands now; in a dry run, the one that would.
    pub head: Head,
    /// Leaf hash of its entry; `None` in a dry run.
    pub leaf_hash: Option<Hash>,
    /// Why it was withdrawn.
    pub withdraw_reason: String,
    /// Who submitted the standing revision.
    pub submitter: String,
    /// Dependents that were withdrawn with it.
    pub cascaded: Vec<RecordName>,
}

impl Accepted {
    fn standing(outcome: Outcome, entry: &StoredEntry) -> Self {
        Self::of(outcome, entry, entry.head(), entry.leaf_hash())
    }

    fn of(outcome: Outcome, entry: &StoredEntry, head: Head, leaf: Hash) -> Self {
        Self {
            outcome,
            head,
            leaf_hash: Some(leaf),
            withdraw_reason: entry.message.withdraw_reason.clone(),
            submitter: entry.message.submitter.clone(),
            cascaded: Vec::new(),
        }
    }

    fn dry_run(entry: &pb::Entry, head: Option<&Head>, now: LedgerTime) -> Self {
        let withdrawn = entry.action() == pb::Action::Withdraw;
        let outcome = match (withdrawn, head) {
            (true, _) => Outcome::Withdrawn,
            (false, None) => Outcome::Created,
            (false, Some(_)) => Outcome::Revised,
        };
        Self {
            outcome,
            head: Head {
                entry: EntryRef {
                    log: LogNo::OWN,
                    index: LogIndex(0),
                },
                revision: u64::try_from(entry.revision).unwrap_or(0),
                withdrawn,
                created: head.map_or(now, |head| head.created),
                updated: now,
                hash: head::content_hash(&entry.record),
            },
            leaf_hash: None,
            withdraw_reason: entry.withdraw_reason.clone(),
            submitter: entry.submitter.clone(),
            cascaded: entry
                .cascaded
                .iter()
                .filter_map(|name| name.parse().ok())
                .collect(),
        }
    }
}

/// The answer to a group of proposals: durable.
#[derive(Debug)]
pub struct Submitted {
    /// One result for each proposal, in order.
    pub results: Vec<Result<Accepted, Refusal>>,
    /// A signed checkpoint of the own log that covers them all.
    pub checkpoint: String,
    /// The journal's end behind them.
    pub end: Position,
}

/// Proposals that are under way. Dropping it does not call them back.
#[derive(Debug)]
pub struct Submitting(oneshot::Receiver<Result<Submitted, SubmitError>>);

impl Future for Submitting {
    type Output = Result<Submitted, SubmitError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = Pin::new(&mut self.0).poll(cx);
        answer.map(|answer| answer.unwrap_or(Err(SubmitError::Stopped)))
    }
}

/// Entries of another log, to be verified and stored.
#[derive(Debug, Clone)]
pub struct MirrorBatch {
    /// The log.
    pub log: LogNo,
    /// Index of the first entry.
    pub start: u64,
    /// Exact entry bytes.
    pub entries: Vec<Bytes>,
    /// The origin's checkpoint of size start + entries; its signature was verified.
    pub note: Note,
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mirrored {
    /// Verified, durable, cosigned: the note with this node's cosignature.
    Cosigned {
        /// The log's size now.
        size: u64,
        /// The cosigned note.
        note: String,
    },
    /// It does not start where the log ends: here.
    Elsewhere(u64),
    /// The log is quarantined, perhaps for this batch.
    Quarantined(String),
    /// The disk is below its watermark, or storage failed.
    NoSpace,
    /// No such log; or the own one, while nothing of it is missing.
    Unknown,
    /// Entries of the own log that do not hash to the root that this node has signed. Nothing was stored.
    NotAsSigned,
    /// Entries of the own log that a later version of this program has written. Nothing was stored.
    Unreadable,
}

/// The committer gave no answer: retry with the same request_id once the node is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The node stopped, or is stopping.
    #[error("the node has stopped taking entries")]
    Stopped,
}

/// The ledger of a node. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    commands: mpsc::Sender<Command>,
    journal: Arc<dyn LogStore>,
    state: Arc<dyn StateStore>,
    published: watch::Receiver<Arc<Published>>,
    intake: Arc<watch::Sender<Intake>>,
    key: Arc<NodeKey>,
    damage: Arc<Mutex<BTreeSet<String>>>,
    /// Whether everything happens in the runtime's one thread.
    in_turn: bool,
}

/// Damaged places that a node remembers; `hefu verify` finds all of them.
const MAX_DAMAGE: usize = 100;

impl Ledger {
    /// Submits proposals: one result for each, all durable when this returns.
    ///
    /// # Errors
    /// [`SubmitError::Stopped`]; whether they were taken is then known after a restart, by retry.
    pub async fn submit(&self, proposals: Vec<Proposal>) -> Result<Submitted, SubmitError> {
        self.enqueue(proposals).await?.await
    }

    /// As [`Ledger::submit`], in two steps: proposals are decided in the order in which this returns, and
    /// are durable when the result is there.
    ///
    /// # Errors
    /// [`SubmitError::Stopped`].
    pub async fn enqueue(&self, proposals: Vec<Proposal>) -> Result<Submitting, SubmitError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Submit(proposals, reply);
        let sent = self.commands.send(command).await;
        sent.map_err(|_| SubmitError::Stopped)?;
        Ok(Submitting(answer))
    }

    /// Verifies and stores a batch of another log; or of the own one, while the parent holds more of it.
    ///
    /// # Errors
    /// [`SubmitError::Stopped`].
    pub async fn mirror(&self, batch: MirrorBatch) -> Result<Mirrored, SubmitError> {
        // Reading and hashing needs nothing of the committer, whose time is what is scarce.
        let entries = batch.entries.iter().zip(batch.start..);
        let parsed = entries.map(|(bytes, index)| {
            let (log, index) = (batch.log, LogIndex(index));
            Parsed::new(EntryRef { log, index }, bytes.clone())
        });
        let parsed = parsed.collect();
        self.ask(|reply| Command::Mirror(batch, parsed, reply))
            .await
    }

    /// The number of the log of this key, registered now if it is new.
    ///
    /// # Errors
    /// [`SubmitError::Stopped`].
    pub async fn register(&self, key: VerifierKey) -> Result<LogNo, SubmitError> {
        self.ask(|reply| Command::Register(key, reply)).await
    }

    /// Keeps another node's cosignature, which was verified.
    ///
    /// # Errors
    /// [`SubmitError::Stopped`].
    pub async fn keep_cosignature(
        &self,
        log: LogNo,
        cosignature: pb::Cosignature,
    ) -> Result<(), SubmitError> {
        self.ask(|reply| Command::Cosignature(log, cosignature, reply))
            .await
    }

    /// Keeps a checkpoint that contradicts what is held, and takes nothing more of that log. Of the own log
    /// it is one that this node has signed and does not hold: it takes nothing in, over restarts, until it
    /// holds that again.
    ///
    /// # Errors
    /// [`SubmitError::Stopped`].
    pub async fn quarantine(
        &self,
        log: LogNo,
        offered: Note,
        reason: String,
    ) -> Result<(), SubmitError> {
        self.ask(|reply| Command::Quarantine(log, Box::new(offered), reason, reply))
            .await
    }

    /// Finishes what waits, makes everything durable, and ends the committer.
    pub async fn stop(&self) {
        let (reply, stopped) = oneshot::channel();
        if self.commands.send(Command::Stop(reply)).await.is_ok() {
            let _ = stopped.await;
        }
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, SubmitError>>) -> Command,
    ) -> Result<T, SubmitError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(command(reply))
            .await
            .map_err(|_| SubmitError::Stopped)?;
        answer.await.unwrap_or(Err(SubmitError::Stopped))
    }

    /// Does what reads much on a thread of its own; in its turn where the ledger was opened so.
    pub fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        match self.in_turn {
            true => tokio::spawn(async move { read() }),
            false => tokio::task::spawn_blocking(read),
        }
    }

    /// Whether the node takes entries in; follow it for the truth about health.
    #[must_use]
    pub fn intake(&self) -> watch::Receiver<Intake> {
        self.intake.subscribe()
    }

    /// Opens or closes intake. A failure stays.
    pub fn set_intake(&self, intake: Intake) {
        self.intake.send_if_modified(|held| {
            let change = !matches!(held, Intake::Failed(_)) && *held != intake;
            if change {
                *held = intake;
            }
            change
        });
    }

    /// Opens intake that was closed because the parent held more, unless what it has shown is still not here.
    /// To be called when the parent has said that it holds no more than this node.
    ///
    /// # Errors
    /// As [`StateStore::get`].
    pub fn caught_up(&self) -> Result<(), StorageError> {
        let behind = matches!(*self.intake.borrow(), Intake::BehindParent(_));
        if let Some(own) = self.log("").filter(|_| behind) {
            self.set_intake(open::intake(&own, self.state.as_ref())?);
        }
        Ok(())
    }

    /// Closes intake for good where the derived state has failed behind the committer, which meets
    /// that only with the next group.
    pub fn check_state(&self) {
        if let Err(error) = self.state.check() {
            self.set_intake(Intake::Failed(error.to_string()));
        }
    }

    /// What readers see now.
    #[must_use]
    pub fn published(&self) -> Arc<Published> {
        self.published.borrow().clone()
    }

    /// Follows what readers see: changes with every group.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Arc<Published>> {
        self.published.clone()
    }

    /// The node's signing key.
    #[must_use]
    pub fn key(&self) -> &NodeKey {
        &self.key
    }

    /// The derived state, to read.
    #[must_use]
    pub fn state(&self) -> &dyn StateStore {
        self.state.as_ref()
    }

    /// The journal, to read.
    #[must_use]
    pub fn journal(&self) -> &dyn LogStore {
        self.journal.as_ref()
    }

    /// A log by its origin; the empty origin is the node's own.
    #[must_use]
    pub fn log(&self, origin: &str) -> Option<Arc<LogView>> {
        let published = self.published();
        if origin.is_empty() {
            return published.logs.get(&LogNo::OWN).cloned();
        }
        published
            .logs
            .values()
            .find(|view| view.origin() == origin)
            .cloned()
    }

    /// The head of a record.
    ///
    /// # Errors
    /// As [`StateStore::get`].
    pub fn head(&self, name: &RecordName) -> Result<Option<Head>, StorageError> {
        Ok(self
            .state
            .get(&keys::head(name))?
            .and_then(|bytes| Head::from_bytes(&bytes)))
    }

    /// An entry that is known to be there.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] names it where it is damaged.
    pub fn entry(&self, at: EntryRef) -> Result<StoredEntry, StorageError> {
        let found = Entries::new(self.journal.as_ref()).get(at);
        if let Err(StorageError::Corrupt { what }) = &found {
            let mut damage = self.damage.lock().unwrap_or_else(PoisonError::into_inner);
            if damage.len() < MAX_DAMAGE {
                damage.insert(what.clone());
            }
        }
        found
    }

    /// Damage that was met since the start, by name.
    #[must_use]
    pub fn damage(&self) -> Vec<String> {
        let damage = self.damage.lock().unwrap_or_else(PoisonError::into_inner);
        damage.iter().cloned().collect()
    }

    /// The leaf hash of an entry.
    ///
    /// # Errors
    /// [`ProofError`].
    pub fn leaf(&self, view: &LogView, index: u64) -> Result<Hash, ProofError<StorageError>> {
        view.tree
            .leaf(index, &self.tiles(&self.state.as_ref(), view.log))
    }

    /// The root of a log's first `size` entries.
    ///
    /// # Errors
    /// [`ProofError`].
    pub fn root_at(&self, view: &LogView, size: u64) -> Result<Hash, ProofError<StorageError>> {
        view.tree
            .root_at(size, &self.tiles(&self.state.as_ref(), view.log))
    }

    /// RFC 9162 inclusion proof.
    ///
    /// # Errors
    /// [`ProofError`].
    pub fn inclusion(
        &self,
        view: &LogView,
        index: u64,
        size: u64,
    ) -> Result<Vec<Hash>, ProofError<StorageError>> {
        view.tree
            .inclusion(index, size, &self.tiles(&self.state.as_ref(), view.log))
    }

    /// RFC 9162 consistency proof.
    ///
    /// # Errors
    /// [`ProofError`].
    pub fn consistency(
        &self,
        view: &LogView,
        old: u64,
        new: u64,
    ) -> Result<Vec<Hash>, ProofError<StorageError>> {
        view.tree
            .consistency(old, new, &self.tiles(&self.state.as_ref(), view.log))
    }

    fn tiles<'a>(&self, state: &'a &'a dyn StateStore, log: LogNo) -> StateTiles<'a> {
        StateTiles { state, log }
    }

    /// The checkpoint that was received for a log at the first size not below `size`: where a relayed batch
    /// may end.
    ///
    /// # Errors
    /// As [`StateStore::get`].
    pub fn checkpoint_from(&self, log: LogNo, size: u64) -> Result<Option<Note>, StorageError> {
        let prefix = keys::checkpoint(log, size);
        let end = KeyRange::prefix(&keys::checkpoints(log)).end;
        let found = self
            .state
            .scan(KeyRange { start: prefix, end }, false)
            .next();
        Ok(found
            .transpose()?
            .and_then(|(_, note)| committer::parse_note(&note)))
    }

    /// Other nodes' newest cosignatures of a log.
    ///
    /// # Errors
    /// As [`StateStore::get`].
    pub fn cosignatures(&self, log: LogNo) -> Result<Vec<pb::Cosignature>, StorageError> {
        let found = self
            .state
            .scan(KeyRange::prefix(&keys::cosignatures(log)), false);
        found
            .map(|pair| pair.map(|(_, v)| pb::Cosignature::decode(v).unwrap_or_default()))
            .collect()
    }

    /// For every other node that has cosigned an entry of a log: its first cosignature that covers it.
    ///
    /// # Errors
    /// As [`StateStore::get`].
    pub fn receipts(
        &self,
        log: LogNo,
        index: LogIndex,
    ) -> Result<Vec<pb::Cosignature>, StorageError> {
        let mut first = Vec::new();
        for newest in self.cosignatures(log)? {
            let start = keys::receipt(log, &newest.node, index.0.saturating_add(1));
            let end = KeyRange::prefix(&keys::receipts(log, &newest.node)).end;
            let found = self.state.scan(KeyRange { start, end }, false).next();
            if let Some((_, bytes)) = found.transpose()? {
                first.push(pb::Cosignature::decode(bytes).unwrap_or_default());
            }
        }
        Ok(first)
    }

    /// Records of every register and log.
    ///
    /// # Errors
    /// As [`StateStore::get`].
    pub fn counts(&self) -> Result<Vec<(RegisterId, LogNo, Counts)>, StorageError> {
        let mut counts = Vec::new();
        for pair in self.state.scan(KeyRange::prefix(keys::COUNTS), false) {
            let (key, value) = pair?;
            if let Some((register, log)) = keys::of_count(&key) {
                counts.push((register, log, Counts::from_bytes(Some(&value))));
            }
        }
        Ok(counts)
    }

    /// Entries of a log that are carried and not indexed: of registers not known here, or not in order.
    ///
    /// # Errors
    /// As [`StateStore::get`].
    pub fn unindexed(&self, log: LogNo) -> Result<u64, StorageError> {
        Ok(apply::number(self.state.get(&keys::unindexed(log))?))
    }

    /// Bytes of an agency's entries in the own log.
    ///
    /// # Errors
    /// As [`StateStore::get`].
    pub fn stored(&self, agency: &AgencyId) -> Result<u64, StorageError> {
        Ok(apply::number(self.state.get(&keys::stored(agency))?))
    }
}

/// The head file: the journal's end, and the newest signed checkpoint.
fn head_bytes(end: Position, note: &str) -> Vec<u8> {
    [&end.0.to_be_bytes(), note.as_bytes()].concat()
}

#[cfg(test)]
mod tests;
