//! Opening a ledger: bring the state up to the journal, check both against what was signed.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, thread, time::Instant};

use prost::Message as _;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Intake, Ledger, LogView, Published, QUEUE, SubmitError,
    apply::{Entries, Trees, apply, load_tree},
    committer::{Command, Committer, parse_note},
    entry::StoredEntry,
    head::EntryRef,
    keys,
    merkle::Tree,
    note::{Checkpoint, NodeKey, Note, NoteError, VerifierKey},
    rules::Rules,
    staged::Staged,
};
use crate::{
    proto::ledger::v1 as pb,
    storage::{
        Batch, KeyRange, LogStore, Position, SlotContent, SlotFile, StateStore, StorageError,
    },
    types::{Clock, LedgerTime, LogIndex, LogNo, NodeId, Origin, TrustDomain},
};

/// Payload bytes that recovery applies at a time.
const REPLAY_BYTES: usize = 1024 * 1024;

/// What a ledger is opened with.
pub struct Options {
    /// The truth.
    pub journal: Arc<dyn LogStore>,
    /// What is derived from it. Empty or behind is fine: it is brought up to date.
    pub state: Arc<dyn StateStore>,
    /// The registers.
    pub rules: Arc<dyn Rules>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The trust domain, the first part of every origin.
    pub trust_domain: TrustDomain,
    /// This node.
    pub node: NodeId,
    /// Seed of the signing key, 32 bytes.
    pub seed: [u8; 32],
    /// The incarnation for a log that does not exist yet; one that exists keeps its own.
    pub incarnation: u32,
    /// Where the newest signed checkpoint stands outside the journal; `None` in memory.
    pub head_file: Option<PathBuf>,
    /// Called with (done, of) positions while the state is brought up to date.
    pub progress: Option<Box<dyn Fn(Position, Position) + Send>>,
}

/// Why a ledger does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Storage.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The state is of another layout, was derived by a program that did not know a register of which there
    /// are entries, or claims a position that the journal does not have. The node sets it
    /// aside and derives it again.
    #[error("the derived state does not belong to this journal; derive it again: `hefu rebuild`")]
    StateAhead,
    /// The journal is shorter than, or differs from, what this node has signed.
    #[error(
        "the journal does not hold what this node has signed ({0}); restore the journal, never \
         start on it: the log would fork"
    )]
    NotAsSigned(String),
    /// The head file is damaged.
    #[error(
        "the head file is damaged, so what was signed last is not known; check with `hefu verify`, \
         then start anew with `hefu rebuild --forget-head`"
    )]
    HeadDamaged,
    /// The journal's log belongs to another key, node or trust domain.
    #[error("this data folder belongs to {0}")]
    AnotherNode(String),
    /// A log's registration does not parse.
    #[error("log {0} has no usable registration: {1}")]
    BadLog(u32, NoteError),
    /// The committer thread did not start.
    #[error("cannot start the committer: {0}")]
    Thread(std::io::Error),
}

impl Ledger {
    /// Opens a ledger and starts its committer in a thread of its own.
    ///
    /// # Errors
    /// [`OpenError`] says what to do.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        Self::open_behind(options, None).await
    }

    /// As [`Ledger::open`], for a node that has lost everything: a log that does not exist yet is known from
    /// its first moment on to be behind what this note says, which the node has signed, and nothing is taken in
    /// before that is here.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub async fn open_behind(options: Options, behind: Option<Note>) -> Result<Self, OpenError> {
        let opening = tokio::task::spawn_blocking(move || open_committer(options));
        let opened = opening
            .await
            .map_err(|e| OpenError::Thread(std::io::Error::other(e)))?;
        let (committer, new_log) = opened?;
        let (ledger, queue) = Self::over(&committer, false);
        let begun = match new_log {
            true => Some(ledger.begin(behind).await),
            false => None,
        };
        let thread = thread::Builder::new().name("committer".to_owned());
        thread
            .spawn(move || committer.run(queue))
            .map_err(OpenError::Thread)?;
        ledger.begun(begun).await
    }

    /// As [`Ledger::open`], with everything that it does as tasks of the caller's runtime, which must have
    /// one thread: for simulations, in which everything happens in one order.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub async fn open_in_turn(options: Options) -> Result<Self, OpenError> {
        let (committer, new_log) = open_committer(options)?;
        let (ledger, queue) = Self::over(&committer, true);
        let begun = match new_log {
            true => Some(ledger.begin(None).await),
            false => None,
        };
        tokio::spawn(committer.run_in_turn(queue));
        ledger.begun(begun).await
    }

    fn over(committer: &Committer, in_turn: bool) -> (Self, mpsc::Receiver<Command>) {
        let (commands, queue) = mpsc::channel(QUEUE);
        let ledger = Self {
            commands,
            journal: committer.journal.clone(),
            state: committer.state.clone(),
            published: committer.published.subscribe(),
            intake: committer.intake.clone(),
            key: committer.key.clone(),
            damage: Arc::default(),
            in_turn,
        };
        (ledger, queue)
    }

    /// Registers the own log, and what it is behind of, in the committer's first group: no crash comes
    /// between the two.
    async fn begin(&self, behind: Option<Note>) -> oneshot::Receiver<Result<LogNo, SubmitError>> {
        let (reply, registered) = oneshot::channel();
        let key = self.key.log_key().clone();
        let _ = self.commands.send(Command::Register(key, reply)).await;
        if let Some(note) = behind {
            let size = note.checkpoint().size;
            let reason = format!(
                "this node has lost its log, of which the parent holds {size} entries. It takes nothing in \
                 until it has recovered them: `hefu recover`"
            );
            let (reply, _) = oneshot::channel();
            let command = Command::Quarantine(LogNo::OWN, Box::new(note), reason, reply);
            let _ = self.commands.send(command).await;
        }
        registered
    }

    async fn begun(
        self,
        registered: Option<oneshot::Receiver<Result<LogNo, SubmitError>>>,
    ) -> Result<Self, OpenError> {
        if let Some(registered) = registered
            && !matches!(registered.await, Ok(Ok(_)))
        {
            return Err(StorageError::Poisoned.into());
        }
        Ok(self)
    }
}

fn open_committer(options: Options) -> Result<(Committer, bool), OpenError> {
    let (journal, state) = (options.journal.clone(), options.state.clone());
    let trees = catch_up(&options)?;
    let published = published(journal.as_ref(), state.as_ref(), &trees)?;
    let own = published.logs.get(&LogNo::OWN);
    let origin = match own {
        Some(view) => view.origin().to_owned(),
        None => {
            let (domain, node) = (&options.trust_domain, &options.node);
            format!("{domain}/{node}/{:08x}", options.incarnation)
        }
    };
    let cosigner = format!("{}/{}", options.trust_domain, options.node);
    let key = NodeKey::new(&options.seed, &origin, &cosigner);
    let ours = origin.parse::<Origin>().is_ok_and(|origin| {
        origin.node() == &options.node && origin.domain() == &options.trust_domain
    });
    if !ours || own.is_some_and(|view| view.key != *key.log_key()) {
        return Err(OpenError::AnotherNode(origin));
    }
    let mut published = published;
    if let Some(view) = published.logs.get_mut(&LogNo::OWN) {
        let view = Arc::make_mut(view);
        let (size, root) = (view.tree.size(), view.tree.root());
        view.note = key.sign(&Checkpoint { origin, size, root });
    }
    let head_file = options
        .head_file
        .as_deref()
        .map(|path| check_head(path, &key, &published, state.as_ref()))
        .transpose()?;
    let last_time = last_time(journal.as_ref())?;
    let intake = match published.logs.get(&LogNo::OWN) {
        Some(own) => intake(own, state.as_ref())?,
        None => Intake::Open,
    };
    let new_log = !published.logs.contains_key(&LogNo::OWN);
    let committer = Committer {
        journal,
        state,
        rules: options.rules,
        clock: options.clock,
        key: Arc::new(key),
        trees,
        last_time,
        head_file,
        synced: Instant::now(),
        published: watch::Sender::new(Arc::new(published)),
        intake: Arc::new(watch::Sender::new(intake)),
    };
    Ok((committer, new_log))
}

/// Applies what the journal has and the state has not.
fn catch_up(options: &Options) -> Result<Trees, OpenError> {
    let (journal, state) = (options.journal.as_ref(), options.state.as_ref());
    if !check_format(state)? || !check_registers(state, options.rules.as_ref())? {
        return Err(OpenError::StateAhead);
    }
    let Some(mut at) = applied(journal, state)? else {
        return Err(OpenError::StateAhead);
    };
    let end = journal.end();
    let mut trees = Trees::new();
    for pair in state.scan(KeyRange::prefix(keys::LOGS), false) {
        let (key, _) = pair?;
        if let Some(log) = key.get(1..).and_then(|n| n.try_into().ok()) {
            let log = LogNo(u32::from_be_bytes(log));
            trees.insert(log, load_tree(log, journal, state)?);
        }
    }
    while at < end {
        at = replay(journal, state, options.rules.as_ref(), at, end, &mut trees)?;
        if let Some(progress) = &options.progress {
            progress(at, end);
        }
    }
    Ok(trees)
}

/// Applies one stretch of the journal, and returns where it ended.
///
/// # Errors
/// As the stores.
pub(super) fn replay(
    journal: &dyn LogStore,
    state: &dyn StateStore,
    rules: &dyn Rules,
    from: Position,
    until: Position,
    trees: &mut Trees,
) -> Result<Position, StorageError> {
    let scan = journal.scan(from, REPLAY_BYTES)?;
    let (entries, mut staged) = (Entries::new(journal), Staged::new(state));
    let mut next = scan.next;
    for (position, frame) in &scan.frames {
        if *position >= until {
            next = until;
            break;
        }
        apply(frame, rules, &entries, trees, &mut staged)?;
    }
    let chunks = staged.into_chunks();
    let last = chunks.len().saturating_sub(1);
    for (at, mut chunk) in chunks.into_iter().enumerate() {
        let behind = usize::try_from(chunk.frames).unwrap_or(usize::MAX);
        let position = match scan.frames.get(behind) {
            Some((position, _)) if at < last => *position,
            _ => next,
        };
        let applied = Applied {
            position,
            frames: 0,
        };
        chunk
            .batch
            .changes
            .insert(keys::APPLIED.to_vec(), Some(applied.to_bytes()));
        state.apply(chunk.batch)?;
    }
    Ok(next)
}

/// What a state reflects: everything before a position, and so many frames behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Applied {
    pub position: Position,
    pub frames: u32,
}

impl Applied {
    pub fn to_bytes(self) -> Vec<u8> {
        [
            &self.position.0.to_be_bytes()[..],
            &self.frames.to_be_bytes(),
        ]
        .concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (position, frames) = bytes.split_first_chunk::<8>()?;
        let position = Position(u64::from_be_bytes(*position));
        Some(Self {
            position,
            frames: u32::from_be_bytes(frames.try_into().ok()?),
        })
    }

    /// Where the first frame lies that is not reflected; `None` where the journal is shorter.
    fn resolve(self, journal: &dyn LogStore) -> Result<Option<Position>, StorageError> {
        let (mut at, mut left) = (
            self.position,
            usize::try_from(self.frames).unwrap_or(usize::MAX),
        );
        if at > journal.end() {
            return Ok(None);
        }
        while left > 0 && at < journal.end() {
            let scan = journal.scan(at, REPLAY_BYTES)?;
            match scan.frames.get(left) {
                Some((position, _)) => return Ok(Some(*position)),
                None => left -= scan.frames.len(),
            }
            at = scan.next;
        }
        Ok((left == 0).then_some(at))
    }
}

/// Marks an empty state with the layout's version; `false` for a state of another one.
///
/// # Errors
/// As the store.
pub(super) fn check_format(state: &dyn StateStore) -> Result<bool, StorageError> {
    let format = keys::FORMAT.to_be_bytes();
    if let Some(held) = state.get(keys::FORMAT_KEY)? {
        return Ok(held.as_ref() == format);
    }
    let mut batch = Batch::default();
    batch
        .changes
        .insert(keys::FORMAT_KEY.to_vec(), Some(format.to_vec()));
    state.apply(batch)?;
    Ok(true)
}

/// Notes in a state which registers were known when it was derived; `false` where it must be derived again,
/// for it may have left entries aside that can be indexed now, or have indexed what cannot be read any more.
///
/// # Errors
/// As the store.
pub(super) fn check_registers(
    state: &dyn StateStore,
    rules: &dyn Rules,
) -> Result<bool, StorageError> {
    let known = rules.registers();
    let held = state.get(keys::REGISTERS_KEY)?.unwrap_or_default();
    let held = String::from_utf8_lossy(&held);
    if held.lines().eq(known.iter().copied()) {
        return Ok(true);
    }
    let mut aside = state.scan(KeyRange::prefix(keys::UNINDEXED), false);
    if aside.next().transpose()?.is_some() || held.lines().any(|id| !known.contains(&id)) {
        return Ok(false);
    }
    let mut batch = Batch::default();
    let names = known.join("\n").into_bytes();
    batch
        .changes
        .insert(keys::REGISTERS_KEY.to_vec(), Some(names));
    state.apply(batch)?;
    Ok(true)
}

/// Where the first frame lies that a state does not reflect; `None` for a state of another journal.
pub(super) fn applied(
    journal: &dyn LogStore,
    state: &dyn StateStore,
) -> Result<Option<Position>, StorageError> {
    let bytes = state.get(keys::APPLIED)?;
    let applied = bytes
        .and_then(|bytes| Applied::from_bytes(&bytes))
        .unwrap_or_default();
    applied.resolve(journal)
}

fn published(
    journal: &dyn LogStore,
    state: &dyn StateStore,
    trees: &Trees,
) -> Result<Published, OpenError> {
    let mut logs = BTreeMap::new();
    for (log, tree) in trees {
        let registration = state.get(&keys::log(*log))?.unwrap_or_default();
        let registration = pb::Log::decode(registration).unwrap_or_default();
        let key: VerifierKey = registration
            .verifier_key
            .parse()
            .map_err(|e| OpenError::BadLog(log.0, e))?;
        let note = state.get(&keys::newest_checkpoint(*log))?;
        let note = note
            .as_deref()
            .and_then(parse_note)
            .map(|note| note.to_string());
        let evidence = state.get(&keys::evidence(*log))?;
        let evidence = evidence.and_then(|bytes| pb::Evidence::decode(bytes).ok());
        let view = LogView {
            log: *log,
            key,
            tree: Tree::clone(tree),
            note: note.unwrap_or_default(),
            quarantined: evidence
                .filter(|_| *log != LogNo::OWN)
                .map(|evidence| evidence.reason),
        };
        logs.insert(*log, Arc::new(view));
    }
    Ok(Published {
        end: journal.end(),
        logs,
    })
}

/// The journal must hold what the head file says was signed: a shorter or other one would fork the log.
fn check_head(
    path: &std::path::Path,
    key: &NodeKey,
    published: &Published,
    state: &dyn StateStore,
) -> Result<SlotFile, OpenError> {
    let (file, content) = SlotFile::open(path)?;
    let value = match content {
        SlotContent::Blank => return Ok(file),
        SlotContent::Damaged => return Err(OpenError::HeadDamaged),
        SlotContent::Value(value) => value,
    };
    let (end, note) = value
        .split_first_chunk::<8>()
        .ok_or(OpenError::HeadDamaged)?;
    let note = parse_note(note).ok_or(OpenError::HeadDamaged)?;
    let signed = note
        .verify_log(key.log_key())
        .map_err(|_| OpenError::AnotherNode(note.checkpoint().origin.clone()))?;
    let end = Position(u64::from_be_bytes(*end));
    if published.end < end {
        let (held, signed) = (published.end.0, end.0);
        return Err(OpenError::NotAsSigned(format!(
            "it ends at {held}, it ended at {signed}"
        )));
    }
    let tiles = super::apply::StateTiles {
        state: &state,
        log: LogNo::OWN,
    };
    let view = published.logs.get(&LogNo::OWN);
    let root = view.and_then(|view| view.tree.root_at(signed.size, &tiles).ok());
    if root != Some(signed.root) {
        let size = signed.size;
        return Err(OpenError::NotAsSigned(format!(
            "another root at size {size}"
        )));
    }
    Ok(file)
}

/// A node to which its parent has shown more of its own log, under its own signature, than it holds takes
/// nothing in until it holds that, whatever comes between.
fn intake(own: &LogView, state: &dyn StateStore) -> Result<Intake, StorageError> {
    let Some(bytes) = state.get(&keys::evidence(LogNo::OWN))? else {
        return Ok(Intake::Open);
    };
    let evidence = pb::Evidence::decode(bytes).unwrap_or_default();
    let shown: Option<Note> = evidence.offered.parse().ok();
    let tiles = super::apply::StateTiles {
        state: &state,
        log: LogNo::OWN,
    };
    let held = shown.is_none_or(|note| {
        let shown = note.checkpoint();
        own.tree.root_at(shown.size, &tiles).ok() == Some(shown.root)
    });
    Ok(match held {
        true => Intake::Open,
        false => Intake::BehindParent(evidence.reason),
    })
}

/// The time of the own log's last entry: the next one is not before it.
fn last_time(journal: &dyn LogStore) -> Result<LedgerTime, StorageError> {
    let Some(last) = journal.size(LogNo::OWN).checked_sub(1) else {
        return Ok(LedgerTime::from(jiff::Timestamp::UNIX_EPOCH));
    };
    let at = EntryRef {
        log: LogNo::OWN,
        index: LogIndex(last),
    };
    let bytes = journal.read(at.log, at.index)?;
    let entry = bytes.and_then(|bytes| StoredEntry::parse(at, bytes).ok());
    entry
        .map(|entry| entry.time)
        .ok_or_else(|| StorageError::Corrupt {
            what: format!("entry {last} of the own log is unreadable"),
        })
}
