//! A disk that outlives its node: a journal that is torn when it is told to, and a derived state of which
//! a crash takes away what was not synced.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use bytes::Bytes;
use hefu::{
    storage::{
        Batch, Frame, KeyRange, KeyValue, LogStore, MemoryLog, MemoryState, Position, Scan,
        StateStore, StorageError,
    },
    types::{LogIndex, LogNo, ManualClock},
};

use crate::random::Random;

/// Changes of the derived state that are not synced yet, each with what it replaced.
type Undo = Arc<Mutex<Vec<Batch>>>;

/// What survives a crash of a node.
#[derive(Clone)]
pub struct Disk {
    journal: Arc<MemoryLog>,
    state: Arc<MemoryState>,
    undo: Undo,
    /// Where each group ends.
    groups: Arc<Mutex<Vec<Position>>>,
    /// Whether appends are called durable that are not. For controls: no honest disk does.
    lies: bool,
    /// The node's clock.
    pub clock: Arc<ManualClock>,
}

/// One run of a node on a disk: its handles die with it.
pub struct Life {
    dead: AtomicBool,
    /// Appends until one is torn.
    appends: AtomicU64,
    /// Whether the torn one is there after the restart.
    keeps: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk {
    /// An empty one.
    #[must_use]
    pub fn new(lies: bool) -> Self {
        let now = "2026-11-23T08:00:00Z".parse().unwrap();
        Self {
            journal: Arc::default(),
            state: Arc::default(),
            undo: Undo::default(),
            groups: Arc::default(),
            lies,
            clock: Arc::new(ManualClock::new(now)),
        }
    }

    /// Handles for one run of the node.
    #[must_use]
    pub fn mount(&self) -> (Arc<Life>, Arc<dyn LogStore>, Arc<dyn StateStore>) {
        let life = Arc::new(Life {
            dead: AtomicBool::new(false),
            appends: AtomicU64::new(u64::MAX),
            keeps: AtomicBool::new(false),
        });
        let (disk, journal_life) = (self.clone(), life.clone());
        let state = State {
            disk: self.clone(),
            life: life.clone(),
        };
        let journal = Log {
            disk,
            life: journal_life,
        };
        (life, Arc::new(journal), Arc::new(state))
    }

    /// What a crash takes away: some of the derived state that was not synced; of a disk that lies, the last
    /// groups too.
    pub fn crash(&mut self, random: &mut Random) {
        let mut undo = lock(&self.undo);
        let lost = random.below(undo.len() as u64 + 1);
        for _ in 0..lost {
            if let Some(back) = undo.pop() {
                self.state.apply(back).unwrap();
            }
        }
        undo.clear();
        drop(undo);
        if self.lies && random.percent(50) {
            self.lose_groups(1 + random.below(3));
        }
    }

    /// Everything that is derived, with its keys; what it says about how far it reaches aside.
    #[must_use]
    pub fn derived(&self) -> Vec<KeyValue> {
        let all = KeyRange {
            start: b"!b".to_vec(),
            end: None,
        };
        self.state.scan(all, false).map(Result::unwrap).collect()
    }

    /// The same journal, with nothing derived from it yet.
    #[must_use]
    pub fn underived(&self) -> Self {
        Self {
            state: Arc::default(),
            undo: Undo::default(),
            ..self.clone()
        }
    }

    fn lose_groups(&mut self, count: u64) {
        let mut groups = lock(&self.groups);
        for _ in 0..count {
            groups.pop();
        }
        let end = groups.last().copied().unwrap_or_default();
        let frames = self.journal.scan(Position(0), usize::MAX).unwrap().frames;
        let kept = frames.into_iter().filter(|(at, _)| *at < end);
        let kept: Vec<Frame> = kept.map(|(_, frame)| frame).collect();
        let journal = MemoryLog::new();
        if !kept.is_empty() {
            journal.append(&kept).unwrap();
        }
        drop(groups);
        // The derived state is of no use any more: a real node would derive it again.
        (self.journal, self.state) = (Arc::new(journal), Arc::default());
    }
}

impl Life {
    /// It is over: nothing that its handles are asked reaches the disk any more.
    pub fn end(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    /// An append to come is torn, and is there after the restart, or not.
    pub fn tear(&self, after: u64, keeps: bool) {
        self.keeps.store(keeps, Ordering::Relaxed);
        self.appends.store(after, Ordering::Relaxed);
    }

    fn alive(&self) -> Result<(), StorageError> {
        match self.dead.load(Ordering::Relaxed) {
            true => Err(StorageError::Poisoned),
            false => Ok(()),
        }
    }
}

struct Log {
    disk: Disk,
    life: Arc<Life>,
}

impl Log {
    fn write(&self, group: &[Frame]) -> Result<Position, StorageError> {
        let end = self.disk.journal.append(group)?;
        lock(&self.disk.groups).push(end);
        Ok(end)
    }
}

impl LogStore for Log {
    fn append(&self, group: &[Frame]) -> Result<Position, StorageError> {
        self.life.alive()?;
        let left = self.life.appends.load(Ordering::Relaxed);
        if left == 0 {
            self.life.end();
            if self.life.keeps.load(Ordering::Relaxed) {
                self.write(group)?;
            }
            return Err(StorageError::Failed {
                doing: "appending",
                cause: "the power is gone".to_owned(),
            });
        }
        self.life
            .appends
            .store(left.saturating_sub(1), Ordering::Relaxed);
        self.write(group)
    }

    fn size(&self, log: LogNo) -> u64 {
        self.disk.journal.size(log)
    }

    fn read(&self, log: LogNo, index: LogIndex) -> Result<Option<Bytes>, StorageError> {
        self.disk.journal.read(log, index)
    }

    fn scan(&self, from: Position, max_bytes: usize) -> Result<Scan, StorageError> {
        self.disk.journal.scan(from, max_bytes)
    }

    fn end(&self) -> Position {
        self.disk.journal.end()
    }

    fn settle(&self) -> Result<(), StorageError> {
        self.life.alive()
    }

    fn bytes_on_disk(&self) -> u64 {
        self.disk.journal.bytes_on_disk()
    }
}

struct State {
    disk: Disk,
    life: Arc<Life>,
}

impl StateStore for State {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.disk.state.get(key)
    }

    fn scan<'a>(
        &'a self,
        range: KeyRange,
        reverse: bool,
    ) -> Box<dyn Iterator<Item = Result<KeyValue, StorageError>> + Send + 'a> {
        self.disk.state.scan(range, reverse)
    }

    fn apply(&self, batch: Batch) -> Result<(), StorageError> {
        self.life.alive()?;
        let mut back = Batch::default();
        for key in batch.changes.keys() {
            let held = self.disk.state.get(key)?;
            back.changes.insert(key.clone(), held);
        }
        lock(&self.disk.undo).push(back);
        self.disk.state.apply(batch)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.life.alive()?;
        lock(&self.disk.undo).clear();
        Ok(())
    }

    fn bytes_on_disk(&self) -> u64 {
        self.disk.state.bytes_on_disk()
    }
}
