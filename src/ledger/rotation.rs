//! Key changes: of the node's own log, of logs that came from below, of nodes above.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::oneshot;

use super::{
    Ledger, LogView, MirrorBatch, SubmitError,
    apply::StateTiles,
    committer::{Answer, Command, Committer, Group},
    decide::refuse_intake,
    entry::timestamp,
    key_change::{KeyChange, NewKey},
    key_history::{Authorisation, Believed, KeyHistory, Verdict},
    keys,
    merkle::{Hash, ProofError},
    note::{NodeKey, Note, VerifierKey},
    seeds::{self, SeedStore},
    staged::StateRead as _,
};
use crate::{
    proto::ledger::v1 as pb,
    storage::{FrameKind, KeyRange, StorageError},
    types::{LedgerTime, LogNo, Reason, Refusal},
};

/// What the committer is asked to do with keys.
pub(super) enum KeyCommand {
    /// Sign the own log with another key from now on; the size above which no older one is believed.
    Rotate(Arc<NodeKey>, Option<u64>, Reply<Result<KeyChange, Refusal>>),
    /// The own key is lost: go on with this one, from a size and root on that are not held here yet.
    Replace(
        Arc<NodeKey>,
        Option<(u64, Hash)>,
        Reply<Result<KeyChange, Refusal>>,
    ),
    /// Judge a key change of a log from below.
    Take(LogNo, Box<KeyChange>, Reply<Taken>),
    /// Keep an operator's word.
    Authorise(Box<Authorisation>, Reply<()>),
    /// Keep key changes of a node above, which were checked.
    Above(String, Vec<Believed>, Reply<()>),
}

type Reply<T> = oneshot::Sender<Result<T, SubmitError>>;

/// What became of a key change that was offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It stands.
    Believed,
    /// Only an operator of this node can say whether it is true.
    Unauthorised,
    /// It is no key change of this log.
    Invalid(&'static str),
    /// The log is quarantined, perhaps for it.
    Quarantined(String),
    /// No such log.
    Unknown,
}

impl Committer {
    pub(super) fn key_command(
        &mut self,
        command: KeyCommand,
        group: &mut Group<'_>,
    ) -> Result<(), StorageError> {
        match command {
            KeyCommand::Rotate(key, from, reply) => {
                let may = refuse_intake(&self.intake.borrow());
                let rotated = match may {
                    Ok(()) => self.rotate(&key, from, true, group)?,
                    Err(refusal) => Err(refusal),
                };
                group.answers.push(later(reply, rotated));
            }
            KeyCommand::Replace(key, at, reply) => {
                let rotated = match at {
                    Some((size, root)) => self.sign_with(&key, size, root, false, group)?,
                    None => self.rotate(&key, None, false, group)?,
                };
                group.answers.push(later(reply, rotated));
            }
            KeyCommand::Take(log, change, reply) => {
                let taken = self.take_key_change(log, &change, group)?;
                group.answers.push(later(reply, taken));
            }
            KeyCommand::Authorise(said, reply) => {
                let log = self.log_of(said.key.name(), group)?;
                let message = pb::KeyAuthorisation {
                    verifier_key: said.key.to_string(),
                    from_size: said.size,
                    authorised_by: said.by,
                    time: Some(timestamp(self.now())),
                };
                let payload = message.encode_to_vec().into();
                self.add(FrameKind::Authorisation, log, payload, group)?;
                group.answers.push(later(reply, ()));
            }
            KeyCommand::Above(node, changes, reply) => {
                self.keep_above(&node, &changes, group)?;
                group.answers.push(later(reply, ()));
            }
        }
        Ok(())
    }

    fn now(&self) -> LedgerTime {
        LedgerTime::from(self.clock.now())
    }

    /// The log of an origin; the own one, where it is not held.
    fn log_of(&self, origin: &str, group: &Group<'_>) -> Result<LogNo, StorageError> {
        let held = group.staged.get(&keys::origin(origin))?;
        let number = held.and_then(|bytes| bytes.as_ref().try_into().ok());
        Ok(number.map_or(LogNo::OWN, |number| LogNo(u32::from_be_bytes(number))))
    }

    /// The keys of a log, with those of this group.
    pub(super) fn key_history(&self, log: LogNo, group: &Group<'_>) -> Option<Arc<KeyHistory>> {
        let touched = group.touched.get(&log).and_then(|touch| touch.keys.clone());
        touched.or_else(|| {
            let published = self.published.borrow();
            published.logs.get(&log).map(|view| view.keys.clone())
        })
    }

    fn root_of(
        &self,
        log: LogNo,
        size: u64,
        group: &Group<'_>,
    ) -> Result<Option<Hash>, StorageError> {
        let Some(tree) = self.trees.get(&log).filter(|tree| tree.size() >= size) else {
            return Ok(None);
        };
        let state = &group.staged;
        match tree.root_at(size, &StateTiles { state, log }) {
            Ok(root) => Ok(Some(root)),
            Err(ProofError::OutOfRange) => Ok(None),
            Err(ProofError::Source(error)) => Err(error),
        }
    }

    /// Signs with a new key from the log's end on, or from a size before where the old key is no longer believed for what
    /// it has signed since.
    fn rotate(
        &mut self,
        key: &Arc<NodeKey>,
        from: Option<u64>,
        old_is_here: bool,
        group: &mut Group<'_>,
    ) -> Result<Result<KeyChange, Refusal>, StorageError> {
        let held = self.trees.get(&LogNo::OWN).map_or(0, |tree| tree.size());
        let size = from.unwrap_or(held);
        match self.root_of(LogNo::OWN, size, group)? {
            Some(root) => self.sign_with(key, size, root, old_is_here, group),
            None => {
                let refusal = Refusal::new(Reason::IndexOutOfRange);
                let en = format!("the log has {held} entries, not {size}");
                Ok(Err(refusal.because(en, format!("日志只有 {held} 条"))))
            }
        }
    }

    /// From the end of this group on everything is signed with the new key.
    fn sign_with(
        &mut self,
        key: &Arc<NodeKey>,
        size: u64,
        root: Hash,
        old_is_here: bool,
        group: &mut Group<'_>,
    ) -> Result<Result<KeyChange, Refusal>, StorageError> {
        let Some(history) = self.key_history(LogNo::OWN, group) else {
            return Ok(Err(Refusal::new(Reason::LogNotFound)));
        };
        let statement = NewKey {
            old: history.current(),
            new: key,
            size,
            root,
            time: self.change_time(),
        };
        let signed = statement.sign(old_is_here.then_some(self.key.as_ref()));
        let Ok(change) = signed else {
            return Ok(Err(Refusal::new(Reason::Internal)));
        };
        // The old key alone vouches for a change that takes nothing back. Otherwise the node itself says so.
        let held = self.trees.get(&LogNo::OWN).map_or(0, |tree| tree.size());
        let authorised_by = match old_is_here && size == held {
            true => String::new(),
            false => {
                let name = key.cosigner_key().name();
                format!("spiffe://{}", name.replacen('/', "/node/", 1))
            }
        };
        let believed = Believed {
            change: change.clone(),
            authorised_by,
        };
        self.believe(LogNo::OWN, &history, believed, group)?;
        self.key = key.clone();
        let id = change.new_key().id();
        tracing::info!(id, size, "the log is signed with a new key");
        Ok(Ok(change))
    }

    /// Now, and never before a cosignature that the old key has given.
    fn change_time(&self) -> LedgerTime {
        let published = self.published.borrow();
        let cosigned = published.logs.values().filter_map(|view| {
            let note: Note = view.note.parse().ok()?;
            note.verify_cosignature(self.key.cosigner_key()).ok()
        });
        cosigned.max().unwrap_or(self.now()).max(self.now())
    }

    fn believe(
        &mut self,
        log: LogNo,
        history: &KeyHistory,
        believed: Believed,
        group: &mut Group<'_>,
    ) -> Result<(), StorageError> {
        let message = believed.to_message(self.now(), "");
        let payload: Bytes = message.encode_to_vec().into();
        self.add(FrameKind::KeyChange, log, payload, group)?;
        let mut history = history.clone();
        history.push(believed);
        group.touched.entry(log).or_default().keys = Some(Arc::new(history));
        Ok(())
    }

    /// Adds the key changes of a log that is registered in this very group: they are taken as they are told.
    pub(super) fn believe_told(
        &mut self,
        log: LogNo,
        told: &KeyHistory,
        group: &mut Group<'_>,
    ) -> Result<(), StorageError> {
        for believed in told.changes() {
            let Some(history) = self.key_history(log, group) else {
                continue;
            };
            let authorised_by = match believed.change.is_signed_by_old() {
                true => String::new(),
                false => super::key_history::FIRST_SIGHT.to_owned(),
            };
            let change = believed.change.clone();
            let believed = Believed {
                change,
                authorised_by,
            };
            self.believe(log, &history, believed, group)?;
        }
        Ok(())
    }

    fn take_key_change(
        &mut self,
        log: LogNo,
        change: &KeyChange,
        group: &mut Group<'_>,
    ) -> Result<Taken, StorageError> {
        let held = self.published.borrow().logs.get(&log).cloned();
        if let Some(reason) = held.as_ref().and_then(|view| view.quarantined.clone()) {
            return Ok(Taken::Quarantined(reason));
        }
        let (Some(history), Some(tree)) = (self.key_history(log, group), self.trees.get(&log))
        else {
            return Ok(Taken::Unknown);
        };
        let size = tree.size();
        let root = self.root_of(log, change.size(), group)?;
        let said = group.staged.get(&keys::authorisation(history.origin()))?;
        let said = said.and_then(|bytes| pb::KeyAuthorisation::decode(bytes).ok());
        let said = said.as_ref().and_then(Authorisation::of);
        Ok(
            match history.judge(change, size, root.as_ref(), said.as_ref()) {
                Verdict::Known => Taken::Believed,
                Verdict::Believed(believed) => {
                    self.believe(log, &history, *believed, group)?;
                    Taken::Believed
                }
                Verdict::Unauthorised => Taken::Unauthorised,
                Verdict::Invalid(why) => Taken::Invalid(why),
                Verdict::Contradicts(reason) => {
                    self.quarantine(log, change, held.as_deref(), &reason, group)?;
                    Taken::Quarantined(reason)
                }
            },
        )
    }

    /// Whether a batch leads past the size of a key change to another root than that names, or bears a signature that
    /// a key change of the meantime has taken the belief from.
    pub(super) fn breaks_key_change(
        &self,
        batch: &MirrorBatch,
        leaves: &[Hash],
        group: &Group<'_>,
    ) -> Option<Broken> {
        let history = self.key_history(batch.log, group)?;
        if history.changes().is_empty() {
            return None;
        }
        if let Err(error) = history.verify(&batch.note) {
            return Some(Broken::Unbelieved(error.to_string()));
        }
        let tree = self.trees.get(&batch.log)?;
        let mut changes = history.changes().iter().map(|believed| &believed.change);
        let broken = changes.find(|change| {
            let before = change.size().checked_sub(batch.start).filter(|n| *n > 0);
            let before = before.and_then(|n| leaves.get(..usize::try_from(n).ok()?));
            before.is_some_and(|leaves| tree.root_with(leaves) != *change.root())
        })?;
        let size = broken.size();
        let reason = format!("its key change and its entries have two roots of size {size}");
        Some(Broken::Contradicts(reason))
    }

    /// Key changes of a node above, as far as they are new.
    fn keep_above(
        &mut self,
        node: &str,
        changes: &[Believed],
        group: &mut Group<'_>,
    ) -> Result<(), StorageError> {
        for believed in changes {
            let range = KeyRange::prefix(&keys::cosigner_changes(node));
            let kept: Vec<_> = group.staged.scan(range).collect::<Result<_, _>>()?;
            let note = believed.change.note();
            let known = kept.iter().any(|(_, kept)| {
                pb::KeyChange::decode(kept.clone()).is_ok_and(|kept| kept.note == note)
            });
            if !known {
                let message = believed.to_message(self.now(), node);
                let payload = message.encode_to_vec().into();
                self.add(FrameKind::KeyChange, LogNo::OWN, payload, group)?;
            }
        }
        Ok(())
    }
}

/// How a batch does not fit the keys of its log.
pub(super) enum Broken {
    /// Its checkpoint is not believed any more.
    Unbelieved(String),
    /// Its log contradicts itself.
    Contradicts(String),
}

fn later<T: Send + 'static>(reply: Reply<T>, value: T) -> Answer {
    Answer::Later(Box::new(move || {
        let _ = reply.send(Ok(value));
    }))
}

impl Ledger {
    /// Signs the own log with a new key from now on. `from` is the size above which no older key is believed any
    /// more, where one of them was compromised; `None` takes nothing back.
    ///
    /// The new seed is durable before its key is used; the old one is destroyed.
    ///
    /// # Errors
    /// [`Reason::IndexOutOfRange`] for a size that the log does not have, the refusals of intake, and
    /// [`Reason::StorageFailed`] where the new seed cannot be kept.
    pub async fn rotate(&self, from: Option<u64>) -> Result<KeyChange, Refusal> {
        let _one_at_a_time = self.rotating.lock().await;
        let failed = |error: StorageError| {
            tracing::error!(%error, "the seed of a new key cannot be kept");
            Refusal::new(Reason::StorageFailed)
        };
        let held = self.key();
        let seed = seeds::random().map_err(failed)?;
        self.on_seeds(move |seeds| seeds.stage(&seed))
            .await
            .map_err(failed)?;
        let key = NodeKey::new(&seed, held.log_key().name(), held.cosigner_key().name());
        let rotate = |reply| Command::Key(KeyCommand::Rotate(Arc::new(key), from, reply));
        let asked = self.ask(rotate).await;
        // Whether it was committed the next start finds out; until then both seeds stay.
        let rotated = asked.map_err(|_| Refusal::new(Reason::StorageFailed))?;
        let kept = match &rotated {
            Ok(_) => self.on_seeds(SeedStore::promote).await,
            Err(_) => self.on_seeds(SeedStore::discard).await,
        };
        kept.map_err(failed)?;
        rotated
    }

    async fn on_seeds(
        &self,
        work: impl FnOnce(&dyn SeedStore) -> Result<(), StorageError> + Send + 'static,
    ) -> Result<(), StorageError> {
        let seeds = self.seeds.clone();
        let done = self.reading(move || work(seeds.as_ref())).await;
        done.unwrap_or(Err(StorageError::Poisoned))
    }

    /// Judges a key change of a log from below, and keeps it where it is believed.
    ///
    /// # Errors
    /// [`SubmitError::Stopped`].
    pub async fn take_key_change(
        &self,
        log: LogNo,
        change: KeyChange,
    ) -> Result<Taken, SubmitError> {
        let change = Box::new(change);
        self.ask(|reply| Command::Key(KeyCommand::Take(log, change, reply)))
            .await
    }

    /// Keeps an operator's word that a key holds.
    ///
    /// # Errors
    /// [`SubmitError::Stopped`].
    pub async fn authorise(&self, said: Authorisation) -> Result<(), SubmitError> {
        self.ask(|reply| Command::Key(KeyCommand::Authorise(Box::new(said), reply)))
            .await
    }

    /// Keeps key changes of a node above, which were checked.
    ///
    /// # Errors
    /// [`SubmitError::Stopped`].
    pub async fn keep_key_changes(
        &self,
        node: String,
        changes: Vec<Believed>,
    ) -> Result<(), SubmitError> {
        self.ask(|reply| Command::Key(KeyCommand::Above(node, changes, reply)))
            .await
    }

    /// The first believed checkpoint behind an entry of a log from below, with this node's cosignature: when it was made,
    /// and with which of the node's keys.
    ///
    /// # Errors
    /// As the state.
    pub fn cosigned_here(
        &self,
        view: &LogView,
        index: u64,
    ) -> Result<Option<(LedgerTime, VerifierKey, Note)>, StorageError> {
        let (Some(note), Some(own)) = (self.checkpoint_from(view, index + 1)?, self.log("")) else {
            return Ok(None);
        };
        let keys = own.keys.periods();
        let mut keys = keys.iter().map(|period| period.key.as_cosigner());
        let cosigned = keys.find_map(|key| Some((note.verify_cosignature(&key).ok()?, key)));
        Ok(cosigned.map(|(time, key)| (time, key, note)))
    }

    /// The key changes of a node above, oldest first.
    ///
    /// # Errors
    /// As the state.
    pub fn key_changes_above(&self, node: &str) -> Result<Vec<Believed>, StorageError> {
        let range = KeyRange::prefix(&keys::cosigner_changes(node));
        let mut changes = Vec::new();
        for pair in self.state.scan(range, false) {
            changes.extend(believed(&pair?.1));
        }
        Ok(changes)
    }

    /// What an operator said last of the key of an origin.
    ///
    /// # Errors
    /// As the state.
    pub fn authorisation(&self, origin: &str) -> Result<Option<Authorisation>, StorageError> {
        let said = self.state.get(&keys::authorisation(origin))?;
        let said = said.and_then(|bytes| pb::KeyAuthorisation::decode(bytes).ok());
        Ok(said.as_ref().and_then(Authorisation::of))
    }
}

/// A key change as the state keeps it; `None` for anything else.
pub(super) fn believed(bytes: &Bytes) -> Option<Believed> {
    let kept = pb::KeyChange::decode(bytes.clone()).ok()?;
    Believed::of(&kept).ok()
}

/// The keys of a log: those of its registration and of the state.
pub(super) fn load_history(
    log: LogNo,
    first: VerifierKey,
    state: &dyn crate::storage::StateStore,
) -> Result<KeyHistory, StorageError> {
    let mut history = KeyHistory::new(first);
    for pair in state.scan(KeyRange::prefix(&keys::key_changes(log)), false) {
        match believed(&pair?.1) {
            Some(believed) => history.push(believed),
            None => {
                let what = format!("a key change of log {} is unreadable", log.0);
                return Err(StorageError::Corrupt { what });
            }
        }
    }
    Ok(history)
}
