//! The one writer of a node: drains what waits, decides, makes one group durable, applies it, signs,
//! answers.
//!
//! What a crash leaves, step by step: before the append, nothing; after it, entries that are durable,
//! not yet in the state and acknowledged to nobody: the next start applies them, a retry with the
//! same request_id finds them; after the apply, the same. Refusals wait for the same append, because they
//! were computed from state that was not yet durable.

mod mirror;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Accepted, Intake, LogView, MirrorBatch, Mirrored, Outcome, Published, SubmitError, Submitted,
    apply::{Entries, Parsed, Trees, apply, apply_entry},
    decide::{check_preconditions, is_so_already, new_entry, outcome_of, refuse_intake},
    entry::StoredEntry,
    head::{EntryRef, Head, content_hash},
    keys,
    merkle::{Hash, Tree, leaf_hash},
    note::{Checkpoint, NodeKey, Note, VerifierKey},
    open::apply_up_to,
    rules::{Change, Intent, JudgeError, Proposal, Rules},
    staged::{Staged, StateRead},
};
use crate::{
    proto::ledger::v1 as pb,
    storage::{Frame, FrameKind, LogStore, Position, SlotFile, StateStore, StorageError},
    types::{Clock, LedgerTime, LogIndex, LogNo, Reason, RecordName, Refusal},
};

/// Proposals that one group takes at most, roughly: it ends behind the command that reaches it.
const GROUP_PROPOSALS: usize = 2_048;
/// Bytes that one group takes at most, roughly.
const GROUP_BYTES: usize = 8 * 1024 * 1024;
/// Dependents that one withdrawal may cascade to.
const MAX_CASCADE: usize = 1_000;
/// How often the head file is made durable while entries come in.
const HEAD_SYNC: Duration = Duration::from_secs(2);

/// What is worked out of a proposal before it waits for the committer, whose time is what is scarce.
#[derive(Debug, Default)]
pub(super) struct Ready {
    hash: Option<Hash>,
    keys: Option<Vec<Bytes>>,
}

impl Ready {
    pub(super) fn of(proposal: &Proposal, rules: &dyn Rules) -> Self {
        let Intent::Submit(record) = &proposal.intent else {
            return Self::default();
        };
        Self {
            hash: Some(content_hash(record)),
            keys: rules.index_keys(&proposal.name, record),
        }
    }

    fn head(&self, made: &StoredEntry) -> Head {
        match self.hash {
            Some(hash) => made.head_with(hash),
            None => made.head(),
        }
    }
}

/// What the committer is asked to do.
pub(super) enum Command {
    Submit(
        Vec<(Proposal, Ready)>,
        oneshot::Sender<Result<Submitted, SubmitError>>,
    ),
    Mirror(
        MirrorBatch,
        Vec<Parsed>,
        oneshot::Sender<Result<Mirrored, SubmitError>>,
    ),
    Register(VerifierKey, oneshot::Sender<Result<LogNo, SubmitError>>),
    Cosignature(
        LogNo,
        pb::Cosignature,
        oneshot::Sender<Result<(), SubmitError>>,
    ),
    Quarantine(
        LogNo,
        Box<Note>,
        String,
        oneshot::Sender<Result<(), SubmitError>>,
    ),
    Resolve(
        LogNo,
        Box<pb::Resolution>,
        oneshot::Sender<Result<bool, SubmitError>>,
    ),
    Stop(oneshot::Sender<()>),
}

pub(super) struct Committer {
    pub journal: Arc<dyn LogStore>,
    pub state: Arc<dyn StateStore>,
    pub rules: Arc<dyn Rules>,
    pub clock: Arc<dyn Clock>,
    pub key: Arc<NodeKey>,
    pub trees: Trees,
    pub last_time: LedgerTime,
    pub head_file: Option<SlotFile>,
    /// When the head file was made durable last.
    pub synced: Instant,
    pub published: watch::Sender<Arc<Published>>,
    pub intake: Arc<watch::Sender<Intake>>,
}

/// One group in the making.
struct Group<'a> {
    frames: Vec<Frame>,
    entries: Entries<'a>,
    staged: Staged<'a>,
    touched: BTreeMap<LogNo, Touch>,
    answers: Vec<Answer>,
    proposals: usize,
    bytes: usize,
}

/// What the group changed of a log's view, beside its tree.
#[derive(Default)]
struct Touch {
    registered: Option<VerifierKey>,
    note: Option<String>,
    /// Why it is quarantined now, and why closed.
    standing: Option<(Option<String>, Option<String>)>,
}

enum Answer {
    Submit(
        oneshot::Sender<Result<Submitted, SubmitError>>,
        Vec<Result<Accepted, Refusal>>,
    ),
    Mirror(oneshot::Sender<Result<Mirrored, SubmitError>>, Mirrored),
    Register(oneshot::Sender<Result<LogNo, SubmitError>>, LogNo),
    Done(oneshot::Sender<Result<(), SubmitError>>),
    Resolve(oneshot::Sender<Result<bool, SubmitError>>, bool),
}

impl Committer {
    /// Runs in a thread of its own until told to stop, until every handle is gone, or until storage fails.
    pub(super) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(first) = commands.blocking_recv() {
            self = match self.turn(first, &mut commands) {
                Some(goes_on) => goes_on,
                None => return,
            };
        }
        let _ = self.settle();
    }

    /// As [`Committer::run`], as one task among others: what a simulation does, it does in one order.
    pub(super) async fn run_in_turn(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(first) = commands.recv().await {
            self = match self.turn(first, &mut commands) {
                Some(goes_on) => goes_on,
                None => return,
            };
        }
        let _ = self.settle();
    }

    /// One group; `None` where it was the last.
    fn turn(mut self, first: Command, commands: &mut mpsc::Receiver<Command>) -> Option<Self> {
        match self.commit(first, commands) {
            Ok(None) => {}
            Ok(Some(stopped)) => {
                let _ = self.settle();
                // The stores are let go first: whoever waits may open them again.
                drop(self);
                let _ = stopped.send(());
                return None;
            }
            Err(error) => {
                self.fail(&error);
                return None;
            }
        }
        if self.synced.elapsed() >= HEAD_SYNC {
            if let Err(error) = self.head_file.as_ref().map_or(Ok(()), SlotFile::sync) {
                self.fail(&error);
                return None;
            }
            self.synced = Instant::now();
        }
        Some(self)
    }

    /// Makes everything that shortens the next start durable; losing it loses nothing.
    fn settle(&self) -> Result<(), StorageError> {
        self.head_file.as_ref().map_or(Ok(()), SlotFile::sync)?;
        self.journal.settle()?;
        self.state.sync()
    }

    /// Storage failed: nothing is answered as done any more, and the node is told to stop. Whoever waits
    /// learns of it when what it waits on is dropped.
    fn fail(&self, error: &StorageError) {
        tracing::error!(%error, "storage failed; the node stops");
        self.intake.send_replace(Intake::Failed(error.to_string()));
    }

    /// One group, from the first waiting command to the answers.
    fn commit(
        &mut self,
        first: Command,
        commands: &mut mpsc::Receiver<Command>,
    ) -> Result<Option<oneshot::Sender<()>>, StorageError> {
        let (journal, state) = (self.journal.clone(), self.state.clone());
        let mut group = Group {
            frames: Vec::new(),
            entries: Entries::new(journal.as_ref()),
            staged: Staged::new(state.as_ref()),
            touched: BTreeMap::new(),
            answers: Vec::new(),
            proposals: 0,
            bytes: 0,
        };
        let (mut next, mut stop) = (Some(first), None);
        while let Some(command) = next.take() {
            if let Command::Stop(stopped) = command {
                stop = Some(stopped);
                break;
            }
            self.decide(command, &mut group)?;
            if group.proposals < GROUP_PROPOSALS && group.bytes < GROUP_BYTES {
                next = commands.try_recv().ok();
            }
        }
        let Group {
            frames,
            staged,
            touched,
            answers,
            ..
        } = group;
        if !frames.is_empty() {
            let end = journal.append(&frames)?;
            apply_up_to(end, staged, state.as_ref())?;
            self.publish(end, touched)?;
        }
        let published = self.published.borrow().clone();
        for answer in answers {
            respond(answer, &published);
        }
        Ok(stop)
    }

    fn decide(&mut self, command: Command, group: &mut Group<'_>) -> Result<(), StorageError> {
        match command {
            Command::Submit(proposals, reply) => {
                let mut results = Vec::with_capacity(proposals.len());
                group.proposals += proposals.len();
                for (proposal, ready) in proposals {
                    results.push(self.decide_one(&proposal, ready, group)?);
                }
                group.answers.push(Answer::Submit(reply, results));
            }
            Command::Mirror(batch, parsed, reply) => {
                let mirrored = self.mirror(&batch, &parsed, group)?;
                group.answers.push(Answer::Mirror(reply, mirrored));
            }
            Command::Register(key, reply) => {
                let log = self.register(key, group)?;
                group.answers.push(Answer::Register(reply, log));
            }
            Command::Cosignature(log, cosignature, reply) => {
                let payload = cosignature.encode_to_vec().into();
                self.add(FrameKind::Cosignature, log, payload, group)?;
                group.answers.push(Answer::Done(reply));
            }
            Command::Quarantine(log, offered, reason, reply) => {
                self.contradicted(log, &offered, &reason, group)?;
                group.answers.push(Answer::Done(reply));
            }
            Command::Resolve(log, resolution, reply) => {
                let resolved = self.resolve(log, *resolution, group)?;
                group.answers.push(Answer::Resolve(reply, resolved));
            }
            Command::Stop(_) => {}
        }
        Ok(())
    }

    /// Decides one proposal. A damaged entry under it refuses it alone; any other storage error is
    /// the node's.
    fn decide_one(
        &mut self,
        proposal: &Proposal,
        ready: Ready,
        group: &mut Group<'_>,
    ) -> Result<Result<Accepted, Refusal>, StorageError> {
        match self.propose(proposal, ready, group) {
            Ok(accepted) => Ok(Ok(accepted)),
            Err(JudgeError::Refused(refusal)) => Ok(Err(*refusal)),
            Err(JudgeError::Storage(StorageError::Corrupt { what })) => {
                tracing::error!(%what, "damaged bytes are not served");
                Ok(Err(Refusal::new(Reason::DataDamaged)))
            }
            Err(JudgeError::Storage(error)) => Err(error),
        }
    }

    fn propose(
        &mut self,
        proposal: &Proposal,
        ready: Ready,
        group: &mut Group<'_>,
    ) -> Result<Accepted, JudgeError> {
        if let Some(answer) = replay(proposal, group)? {
            return Ok(answer);
        }
        refuse_intake(&self.intake.borrow())?;
        let head = group.staged.get(&keys::head(&proposal.name))?;
        let head = head.and_then(|bytes| Head::from_bytes(&bytes));
        check_preconditions(proposal, head.as_ref())?;
        let standing = head.map(|head| group.entries.get(head.entry)).transpose()?;
        if let (Some(head), Some(standing)) = (&head, &standing)
            && is_so_already(&proposal.intent, head)
        {
            return Ok(Accepted::standing(Outcome::Unchanged, standing));
        }
        let now = self.last_time.max(LedgerTime::from(self.clock.now()));
        let change = Change {
            name: &proposal.name,
            standing: standing
                .as_ref()
                .map(|e| (&e.message.record, e.withdrawn())),
            intent: &proposal.intent,
            now,
        };
        let judged = self.rules.judge(&group.staged, &change)?;
        if judged.cascade.len() > MAX_CASCADE {
            return Err(Refusal::new(Reason::LiveDependents).into());
        }
        let entry = new_entry(
            proposal,
            head.as_ref(),
            &judged.record,
            &judged.cascade,
            now,
        );
        if proposal.validate_only {
            return Ok(Accepted::dry_run(&entry, head.as_ref(), now));
        }
        for dependent in &judged.cascade {
            self.cascade(dependent, proposal, group)?;
        }
        self.last_time = now;
        let size = self.trees.get(&LogNo::OWN).map_or(0, Tree::size);
        let at = EntryRef {
            log: LogNo::OWN,
            index: LogIndex(size),
        };
        let bytes = Bytes::from(entry.encode_to_vec());
        let leaf = leaf_hash(&bytes);
        let stored = StoredEntry {
            at,
            bytes: bytes.clone(),
            message: entry,
            name: proposal.name.clone(),
            time: now,
            created: head.map_or(now, |head| head.created),
        };
        let made = ready.head(&stored);
        let mut accepted = Accepted::of(outcome_of(&stored), &stored, made, leaf);
        accepted.cascaded = judged.cascade;
        let parsed = Parsed {
            leaf,
            entry: Some((stored, made)),
            keys: ready.keys,
        };
        self.add_entry(at, bytes, &parsed, head, group)?;
        Ok(accepted)
    }

    fn cascade(
        &mut self,
        dependent: &RecordName,
        cause: &Proposal,
        group: &mut Group<'_>,
    ) -> Result<(), JudgeError> {
        let reason = format!("withdrawn with {}", cause.name);
        let proposal = Proposal {
            name: dependent.clone(),
            intent: Intent::Withdraw {
                reason,
                cascade: true,
            },
            submitter: cause.submitter.clone(),
            request: None,
            etag: None,
            validate_only: false,
        };
        self.propose(&proposal, Ready::default(), group).map(|_| ())
    }

    /// Adds a frame that is no entry to the group and applies it to the state as it will be.
    fn add(
        &mut self,
        kind: FrameKind,
        log: LogNo,
        payload: Bytes,
        group: &mut Group<'_>,
    ) -> Result<(), StorageError> {
        let index = LogIndex(self.trees.get(&log).map_or(0, super::merkle::Tree::size));
        group.bytes += payload.len();
        let frame = Frame {
            kind,
            log,
            index,
            payload,
        };
        apply(
            &frame,
            self.rules.as_ref(),
            &group.entries,
            &mut self.trees,
            &mut group.staged,
        )?;
        group.touched.entry(log).or_default();
        group.frames.push(frame);
        Ok(())
    }

    /// Adds an entry to the group and applies it to the state as it will be.
    fn add_entry(
        &mut self,
        at: EntryRef,
        bytes: Bytes,
        parsed: &Parsed,
        before: Option<Head>,
        group: &mut Group<'_>,
    ) -> Result<(), StorageError> {
        let EntryRef { log, index } = at;
        apply_entry(
            log,
            parsed,
            before,
            self.rules.as_ref(),
            &group.entries,
            &mut self.trees,
            &mut group.staged,
        )?;
        group.bytes += bytes.len();
        group.entries.add(at, bytes.clone());
        group.touched.entry(log).or_default();
        group.frames.push(Frame {
            kind: FrameKind::Entry,
            log,
            index,
            payload: bytes,
        });
        Ok(())
    }

    fn register(&mut self, key: VerifierKey, group: &mut Group<'_>) -> Result<LogNo, StorageError> {
        if let Some(known) = group.staged.get(&keys::origin(key.name()))?
            && let Ok(number) = known.as_ref().try_into()
        {
            return Ok(LogNo(u32::from_be_bytes(number)));
        }
        let next = self.trees.keys().next_back().map_or(0, |last| last.0 + 1);
        let log = pb::Log {
            origin: key.name().to_owned(),
            verifier_key: key.to_string(),
            own: next == 0,
            ..pb::Log::default()
        };
        self.add(
            FrameKind::Log,
            LogNo(next),
            log.encode_to_vec().into(),
            group,
        )?;
        group.touched.entry(LogNo(next)).or_default().registered = Some(key);
        Ok(LogNo(next))
    }

    /// Signs the own log's new head, keeps it outside the journal, and lets readers see the group.
    fn publish(
        &mut self,
        end: Position,
        touched: BTreeMap<LogNo, Touch>,
    ) -> Result<(), StorageError> {
        let mut next = Published::clone(&self.published.borrow());
        next.end = end;
        for (log, touch) in touched {
            let Some(tree) = self.trees.get(&log).cloned() else {
                continue;
            };
            let held = next.logs.get(&log).cloned();
            let Some(key) = touch
                .registered
                .or_else(|| held.as_ref().map(|view| view.key.clone()))
            else {
                continue;
            };
            let note = if log == LogNo::OWN {
                self.key.sign(&Checkpoint {
                    origin: key.name().to_owned(),
                    size: tree.size(),
                    root: tree.root(),
                })
            } else {
                let held_note = held.as_ref().map(|view| view.note.clone());
                touch.note.or(held_note).unwrap_or_default()
            };
            let standing = || {
                held.as_ref()
                    .map(|view| (view.quarantined.clone(), view.closed.clone()))
            };
            let (quarantined, closed) = touch.standing.or_else(standing).unwrap_or_default();
            next.logs.insert(
                log,
                Arc::new(LogView {
                    log,
                    key,
                    tree,
                    note,
                    quarantined,
                    closed,
                }),
            );
        }
        if let (Some(file), Some(own)) = (&mut self.head_file, next.logs.get(&LogNo::OWN)) {
            file.write(&super::head_bytes(end, &own.note))?;
        }
        self.published.send_replace(Arc::new(next));
        Ok(())
    }
}

impl Drop for Committer {
    /// A panic in the committer must not look like a node that is merely idle.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.intake
                .send_replace(Intake::Failed("the committer panicked".to_owned()));
        }
    }
}

/// The first answer of a request that was made before; `None` for a new request.
fn replay(proposal: &Proposal, group: &Group<'_>) -> Result<Option<Accepted>, JudgeError> {
    let Some((id, hash)) = &proposal.request else {
        return Ok(None);
    };
    let Some(stored) = group.staged.get(&keys::request(&proposal.submitter, id))? else {
        return Ok(None);
    };
    let at = stored.split_first_chunk::<4>().and_then(|(log, rest)| {
        let (index, stored_hash) = rest.split_first_chunk::<8>()?;
        let index = LogIndex(u64::from_be_bytes(*index));
        let log = LogNo(u32::from_be_bytes(*log));
        Some((EntryRef { log, index }, stored_hash == hash))
    });
    match at {
        Some((at, true)) => {
            let entry = group.entries.get(at)?;
            let mut accepted = Accepted::standing(outcome_of(&entry), &entry);
            let names = entry.message.cascaded.iter();
            accepted.cascaded = names.filter_map(|name| name.parse().ok()).collect();
            Ok(Some(accepted))
        }
        _ => Err(Refusal::new(Reason::RequestIdReused).into()),
    }
}

fn respond(answer: Answer, published: &Published) {
    match answer {
        Answer::Submit(reply, results) => {
            let own = published.logs.get(&LogNo::OWN);
            let submitted = Submitted {
                results,
                checkpoint: own.map(|view| view.note.clone()).unwrap_or_default(),
                end: published.end,
            };
            let _ = reply.send(Ok(submitted));
        }
        Answer::Mirror(reply, mirrored) => {
            let _ = reply.send(Ok(mirrored));
        }
        Answer::Register(reply, log) => {
            let _ = reply.send(Ok(log));
        }
        Answer::Done(reply) => {
            let _ = reply.send(Ok(()));
        }
        Answer::Resolve(reply, resolved) => {
            let _ = reply.send(Ok(resolved));
        }
    }
}

/// The newest note of a log that came from elsewhere, if it is one.
pub(super) fn parse_note(bytes: &[u8]) -> Option<Note> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}
