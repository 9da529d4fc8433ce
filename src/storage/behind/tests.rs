use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use super::*;
use crate::storage::{MemoryState, SledOptions, SledState, suite::state_suite};

const LIMIT: usize = 1 << 20;

/// A store that can be held up, that can fail, and that counts.
#[derive(Debug, Default)]
struct Gate {
    inner: MemoryState,
    shut: AtomicBool,
    broken: AtomicBool,
    applied: AtomicUsize,
}

impl StateStore for Arc<Gate> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.inner.get(key)
    }

    fn scan<'a>(
        &'a self,
        range: KeyRange,
        reverse: bool,
    ) -> Box<dyn Iterator<Item = Result<KeyValue, StorageError>> + Send + 'a> {
        self.inner.scan(range, reverse)
    }

    fn apply(&self, batch: Batch) -> Result<(), StorageError> {
        while self.shut.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(1));
        }
        if self.broken.load(Ordering::Acquire) {
            return Err(StorageError::Full { doing: "testing" });
        }
        self.applied.fetch_add(1, Ordering::AcqRel);
        self.inner.apply(batch)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.inner.sync()
    }

    fn bytes_on_disk(&self) -> u64 {
        self.inner.bytes_on_disk()
    }
}

fn one(key: &[u8], value: Option<&[u8]>) -> Batch {
    let mut batch = Batch::default();
    let (key, value) = (
        Bytes::copy_from_slice(key),
        value.map(Bytes::copy_from_slice),
    );
    batch.changes.insert(key, value);
    batch
}

fn all(state: &dyn StateStore, reverse: bool) -> Vec<(Bytes, Bytes)> {
    let pairs = state.scan(KeyRange::prefix(b""), reverse);
    pairs.map(Result::unwrap).collect()
}

#[test]
fn it_keeps_the_contract() {
    let over = |gate: &Arc<Gate>| Behind::new(gate.clone(), LIMIT).unwrap();
    state_suite(|_| over(&Arc::default()));
    // With everything pending, and with a store below that is as slow as the real one.
    state_suite(|_| {
        let gate = Arc::new(Gate::default());
        gate.shut.store(true, Ordering::Release);
        let opening = gate.clone();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(30));
            opening.shut.store(false, Ordering::Release);
        });
        over(&gate)
    });
    state_suite(|dir| {
        let (sled, _) = SledState::open(&dir.join("state"), SledOptions::default()).unwrap();
        Behind::new(sled, LIMIT).unwrap()
    });
}

#[test]
fn readers_see_what_is_pending() {
    let gate = Arc::new(Gate::default());
    let state = Behind::new(gate.clone(), LIMIT).unwrap();
    state.apply(one(b"a", Some(b"1"))).unwrap();
    state.apply(one(b"c", Some(b"3"))).unwrap();
    state.sync().unwrap();
    gate.shut.store(true, Ordering::Release);
    state.apply(one(b"a", None)).unwrap();
    state.apply(one(b"b", Some(b"2"))).unwrap();
    assert_eq!(gate.inner.get(b"b").unwrap(), None);
    assert_eq!(state.get(b"a").unwrap(), None);
    assert_eq!(state.get(b"b").unwrap().as_deref(), Some(&b"2"[..]));
    let pair = |key: &'static [u8], value: &'static [u8]| (key.into(), value.into());
    assert_eq!(all(&state, false), [pair(b"b", b"2"), pair(b"c", b"3")]);
    assert_eq!(all(&state, true), [pair(b"c", b"3"), pair(b"b", b"2")]);
    gate.shut.store(false, Ordering::Release);
    drop(state);
    assert_eq!(all(&gate, false), [pair(b"b", b"2"), pair(b"c", b"3")]);
}

#[test]
fn small_batches_are_applied_together_and_in_order() {
    let gate = Arc::new(Gate::default());
    gate.shut.store(true, Ordering::Release);
    let state = Behind::new(gate.clone(), LIMIT).unwrap();
    for i in 0..1_000_u32 {
        let mut batch = one(b"newest", Some(&i.to_be_bytes()));
        let key = i.to_be_bytes().to_vec();
        batch.put(key, Bytes::new());
        state.apply(batch).unwrap();
    }
    gate.shut.store(false, Ordering::Release);
    state.sync().unwrap();
    assert!(gate.applied.load(Ordering::Acquire) < 20);
    assert_eq!(all(&gate, false).len(), 1_001);
    let newest = gate.inner.get(b"newest").unwrap();
    assert_eq!(newest.as_deref(), Some(&999_u32.to_be_bytes()[..]));
}

#[test]
fn a_full_backlog_makes_batches_wait() {
    let gate = Arc::new(Gate::default());
    gate.shut.store(true, Ordering::Release);
    let state = Behind::new(gate.clone(), 10 * OVERHEAD).unwrap();
    let taken = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..100_u8 {
                state.apply(one(&[i], Some(b"x"))).unwrap();
                taken.fetch_add(1, Ordering::AcqRel);
            }
        });
        thread::sleep(Duration::from_millis(50));
        assert!(taken.load(Ordering::Acquire) <= 11);
        gate.shut.store(false, Ordering::Release);
    });
    state.sync().unwrap();
    assert_eq!(all(&gate, false).len(), 100);
}

#[test]
fn a_store_that_fails_is_told_of_once_and_then_poisoned() {
    let gate = Arc::new(Gate::default());
    let state = Behind::new(gate.clone(), LIMIT).unwrap();
    gate.broken.store(true, Ordering::Release);
    state.apply(one(b"a", Some(b"1"))).unwrap();
    assert!(matches!(state.sync(), Err(StorageError::Full { .. })));
    for _ in 0..2 {
        let refused = state.apply(one(b"b", Some(b"2")));
        assert!(matches!(refused, Err(StorageError::Poisoned)));
        assert!(matches!(state.sync(), Err(StorageError::Poisoned)));
    }
}

#[test]
fn a_failure_that_no_call_has_met_is_told_too() {
    let gate = Arc::new(Gate::default());
    let state = Behind::new(gate.clone(), LIMIT).unwrap();
    assert!(state.check().is_ok());
    gate.broken.store(true, Ordering::Release);
    state.apply(one(b"a", Some(b"1"))).unwrap();
    let queue = state
        .shared
        .wait(state.shared.queue(), |queue| !queue.failed);
    drop(queue);
    assert!(matches!(state.check(), Err(StorageError::Poisoned)));
    // What was pending is still to be read.
    assert_eq!(state.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
}

#[test]
fn scans_miss_nothing_while_keys_go_over() {
    let state = Behind::new(Arc::new(Gate::default()), LIMIT).unwrap();
    for i in 0..500_u32 {
        state.apply(one(&i.to_be_bytes(), Some(b"stays"))).unwrap();
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..2_000_u32 {
                let key = (round * 7 % 500).to_be_bytes();
                state.apply(one(&key, Some(b"again"))).unwrap();
                if round % 50 == 0 {
                    state.sync().unwrap();
                }
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            for reverse in [false, true] {
                let mut keys: Vec<_> = all(&state, reverse).into_iter().map(|p| p.0).collect();
                if reverse {
                    keys.reverse();
                }
                let expected = (0..500_u32).map(|i| Bytes::copy_from_slice(&i.to_be_bytes()));
                assert!(keys.into_iter().eq(expected));
            }
        }
    });
}
