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
    key_change::KeyChange,
    key_history::KeyHistory,
    keys,
    merkle::{Hash, Tree},
    note::{Checkpoint, NodeKey, Note, NoteError, VerifierKey},
    rotation::{KeyCommand, load_history},
    rules::Rules,
    seeds::{self, SeedStore, Step},
    staged::Staged,
};
use crate::{
    proto::ledger::v1 as pb,
    storage::{
        Batch, KeyRange, LogStore, Position, SlotContent, SlotFile, StateStore, StorageError,
    },
    types::{Clock, LedgerTime, LogIndex, LogNo, NodeId, Origin, Refusal, TrustDomain},
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
    /// Where the seed of the signing key is kept; one is made for a log that does not exist yet.
    pub seeds: Arc<dyn SeedStore>,
    /// The seed of the log's key is lost: go on with a new one, which an operator of each node above must
    /// authorise.
    pub key_is_lost: bool,
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
    /// The state is of another layout, or claims a position that the journal does not have. The node sets it
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
    /// The seed of the key in force is not there.
    #[error(
        "the log {origin} is signed with key {id}, whose seed is not in log.key; put it there from a backup, \
         or, where it is lost, go on with a new one: `hefu key replace`"
    )]
    KeyMissing {
        /// The log.
        origin: String,
        /// The id of its key in force.
        id: String,
    },
    /// The journal's log belongs to another node or trust domain.
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
    /// its first moment on to be behind what was held of it elsewhere, and nothing is taken in before that is here.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub async fn open_behind(options: Options, lost: Option<Lost>) -> Result<Self, OpenError> {
        let opening = tokio::task::spawn_blocking(move || open_committer(options, lost));
        let opened = opening
            .await
            .map_err(|e| OpenError::Thread(std::io::Error::other(e)))?;
        let (committer, begin) = opened?;
        let (ledger, queue) = Self::over(&committer, begin.seeds.clone(), false);
        let begun = ledger.begin(begin).await;
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
        let (committer, begin) = open_committer(options, None)?;
        let (ledger, queue) = Self::over(&committer, begin.seeds.clone(), true);
        let begun = ledger.begin(begin).await;
        tokio::spawn(committer.run_in_turn(queue));
        ledger.begun(begun).await
    }

    fn over(
        committer: &Committer,
        seeds: Arc<dyn SeedStore>,
        in_turn: bool,
    ) -> (Self, mpsc::Receiver<Command>) {
        let (commands, queue) = mpsc::channel(QUEUE);
        let ledger = Self {
            commands,
            journal: committer.journal.clone(),
            state: committer.state.clone(),
            published: committer.published.subscribe(),
            intake: committer.intake.clone(),
            rules: committer.rules.clone(),
            seeds,
            rotating: Arc::default(),
            damage: Arc::default(),
            in_turn,
        };
        (ledger, queue)
    }

    /// Asks for what a ledger has to do first, before its committer runs: all of it is one group, and no crash comes
    /// between.
    async fn begin(&self, begin: Begin) -> Begun {
        let mut begun = Begun::default();
        if let Some(keys) = begin.register {
            let (reply, registered) = oneshot::channel();
            let _ = self.commands.send(Command::Register(keys, reply)).await;
            begun.registered = Some(registered);
        }
        if let Some(note) = begin.behind {
            let size = note.checkpoint().size;
            let reason = format!(
                "this node has lost its log, of which the parent holds {size} entries. It takes nothing in \
                 until it has recovered them: `hefu recover`"
            );
            let (reply, _) = oneshot::channel();
            let command = Command::Quarantine(LogNo::OWN, Box::new(note), reason, reply);
            let _ = self.commands.send(command).await;
        }
        if let Some((key, at)) = begin.replace {
            let (reply, replaced) = oneshot::channel();
            let command = Command::Key(KeyCommand::Replace(key, at, reply));
            let _ = self.commands.send(command).await;
            begun.replaced = Some(replaced);
        }
        begun
    }

    async fn begun(self, begun: Begun) -> Result<Self, OpenError> {
        if let Some(registered) = begun.registered
            && !matches!(registered.await, Ok(Ok(_)))
        {
            return Err(StorageError::Poisoned.into());
        }
        if let Some(replaced) = begun.replaced {
            if !matches!(replaced.await, Ok(Ok(Ok(_)))) {
                return Err(StorageError::Poisoned.into());
            }
            self.seeds.promote()?;
        }
        Ok(self)
    }
}

/// What was held elsewhere of the log of a node that has lost everything.
#[derive(Debug, Clone)]
pub struct Lost {
    /// Its keys.
    pub keys: KeyHistory,
    /// Its newest checkpoint; `None` for an empty log.
    pub note: Option<Note>,
}

/// What is done first.
struct Begin {
    register: Option<KeyHistory>,
    behind: Option<Note>,
    /// A new key in the place of one that is lost.
    replace: Option<Replacement>,
    seeds: Arc<dyn SeedStore>,
}

/// A new key, and the size and root from which it holds where those are not here.
type Replacement = (Arc<NodeKey>, Option<(u64, Hash)>);

/// The answers to it.
#[derive(Default)]
struct Begun {
    registered: Option<oneshot::Receiver<Result<LogNo, SubmitError>>>,
    replaced: Option<oneshot::Receiver<Result<Result<KeyChange, Refusal>, SubmitError>>>,
}

impl Begin {
    fn new(
        seeds: Arc<dyn SeedStore>,
        step: Step,
        key: &Arc<NodeKey>,
        held: Option<&KeyHistory>,
        lost: Option<Lost>,
    ) -> Self {
        let is_new = held.is_none();
        let (told, note) = match lost.filter(|_| is_new) {
            Some(lost) => (lost.keys, lost.note),
            None => (KeyHistory::new(key.log_key().clone()), None),
        };
        let at = note.as_ref().map(Note::checkpoint);
        let at = at.map(|checkpoint| (checkpoint.size, checkpoint.root));
        Self {
            register: is_new.then_some(told),
            replace: (step == Step::Replace).then(|| (key.clone(), at)),
            behind: note,
            seeds,
        }
    }
}

fn open_committer(options: Options, lost: Option<Lost>) -> Result<(Committer, Begin), OpenError> {
    let (journal, state) = (options.journal.clone(), options.state.clone());
    let trees = catch_up(&options)?;
    let mut logs = views(state.as_ref(), &trees)?;
    let own = logs.get(&LogNo::OWN).map(|view| view.keys.clone());
    let origin = match &own {
        Some(keys) => keys.origin().to_owned(),
        None => {
            let (domain, node) = (&options.trust_domain, &options.node);
            format!("{domain}/{node}/{:08x}", options.incarnation)
        }
    };
    let ours = origin.parse::<Origin>().is_ok_and(|origin| {
        origin.node() == &options.node && origin.domain() == &options.trust_domain
    });
    if !ours {
        return Err(OpenError::AnotherNode(origin));
    }
    let cosigner = format!("{}/{}", options.trust_domain, options.node);
    let names = (origin.as_str(), cosigner.as_str());
    let told = lost.as_ref().map(|lost| &lost.keys);
    let known = own.as_deref().or(told);
    let (key, step) = seeds::choose(options.seeds.as_ref(), known, names, options.key_is_lost)?;
    let key = Arc::new(key);
    if let Some(view) = logs.get_mut(&LogNo::OWN) {
        let view = Arc::make_mut(view);
        let (size, root) = (view.tree.size(), view.tree.root());
        view.note = key.sign(&Checkpoint { origin, size, root });
        view.signer = Some(key.clone());
    }
    let published = Published {
        end: journal.end(),
        key: key.clone(),
        logs,
    };
    let head_file = options
        .head_file
        .as_deref()
        .map(|path| check_head(path, &published, state.as_ref()))
        .transpose()?;
    let last_time = last_time(journal.as_ref())?;
    let intake = match published.logs.get(&LogNo::OWN) {
        Some(own) => intake(own, state.as_ref())?,
        None => Intake::Open,
    };
    let begin = Begin::new(options.seeds, step, &key, own.as_deref(), lost);
    let committer = Committer {
        journal,
        state,
        rules: options.rules,
        clock: options.clock,
        key,
        trees,
        last_time,
        head_file,
        synced: Instant::now(),
        published: watch::Sender::new(Arc::new(published)),
        intake: Arc::new(watch::Sender::new(intake)),
    };
    Ok((committer, begin))
}

/// Applies what the journal has and the state has not.
fn catch_up(options: &Options) -> Result<Trees, OpenError> {
    let (journal, state) = (options.journal.as_ref(), options.state.as_ref());
    if !check_format(state)? {
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
    apply_up_to(next, staged, state)?;
    Ok(next)
}

/// Applies what is staged, with the position that the state then reflects.
///
/// # Errors
/// As [`StateStore::apply`].
pub(super) fn apply_up_to(
    position: Position,
    staged: Staged<'_>,
    state: &dyn StateStore,
) -> Result<(), StorageError> {
    let mut batch = staged.into_batch();
    batch.put(keys::APPLIED, position.0.to_be_bytes().to_vec());
    state.apply(batch)
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
    batch.put(keys::FORMAT_KEY, format.to_vec());
    state.apply(batch)?;
    Ok(true)
}

/// Where the first frame lies that a state does not reflect; `None` for a state of another journal.
pub(super) fn applied(
    journal: &dyn LogStore,
    state: &dyn StateStore,
) -> Result<Option<Position>, StorageError> {
    let bytes = state.get(keys::APPLIED)?;
    let applied = bytes.map(|bytes| Some(u64::from_be_bytes(bytes.as_ref().try_into().ok()?)));
    let applied = applied.unwrap_or(Some(0)).map(Position);
    Ok(applied.filter(|applied| *applied <= journal.end()))
}

fn views(
    state: &dyn StateStore,
    trees: &Trees,
) -> Result<BTreeMap<LogNo, Arc<LogView>>, OpenError> {
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
            keys: Arc::new(load_history(*log, key, state)?),
            signer: None,
            tree: Tree::clone(tree),
            note: note.unwrap_or_default(),
            quarantined: evidence
                .filter(|_| *log != LogNo::OWN)
                .map(|evidence| evidence.reason),
        };
        logs.insert(*log, Arc::new(view));
    }
    Ok(logs)
}

/// The journal must hold what the head file says was signed: a shorter or other one would fork the log.
fn check_head(
    path: &std::path::Path,
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
    let view = published.logs.get(&LogNo::OWN);
    // Which of the log's keys it was does not matter: a kill may have come just after a rotation.
    let signed = view.and_then(|view| view.keys.signer(&note).ok());
    if view.is_some() && signed.is_none() {
        return Err(OpenError::AnotherNode(note.checkpoint().origin.clone()));
    }
    let signed = note.checkpoint();
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
pub(super) fn intake(own: &LogView, state: &dyn StateStore) -> Result<Intake, StorageError> {
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
