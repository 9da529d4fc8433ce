//! What every store must do, whatever it is made of.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{
    Batch, Frame, FrameKind, KeyRange, LogStore, MAX_KEY_BYTES, MAX_VALUE_BYTES, Position,
    StateStore, StorageError,
};
use crate::types::{LogIndex, LogNo};

/// A frame; for an entry, the index must be the next one of its log.
pub(crate) fn frame(kind: FrameKind, log: u32, index: u64, payload: &[u8]) -> Frame {
    let payload = Bytes::copy_from_slice(payload);
    Frame {
        kind,
        log: LogNo(log),
        index: LogIndex(index),
        payload,
    }
}

/// An entry whose bytes tell its place.
pub(crate) fn entry(log: u32, index: u64) -> Frame {
    frame(
        FrameKind::Entry,
        log,
        index,
        format!("entry {index} of log {log}").as_bytes(),
    )
}

/// Groups of random frames of a few logs, in which entries continue their logs.
pub(crate) fn groups() -> impl Strategy<Value = Vec<Vec<Frame>>> {
    let payload = prop::collection::vec(any::<u8>(), 0..60);
    let frame = (1_u8..=7, 0_u32..4, payload);
    let groups = prop::collection::vec(prop::collection::vec(frame, 1..6), 0..12);
    groups.prop_map(|groups| {
        let mut sizes: BTreeMap<u32, u64> = BTreeMap::new();
        let mut number = |(kind, log, payload): (u8, u32, Vec<u8>)| {
            let kind = FrameKind::try_from(kind).unwrap();
            let size = sizes.entry(log).or_default();
            let frame = self::frame(kind, log, *size, &payload);
            *size += u64::from(kind == FrameKind::Entry);
            frame
        };
        let number_all = |group: Vec<_>| group.into_iter().map(&mut number).collect();
        groups.into_iter().map(number_all).collect()
    })
}

/// All frames, read in steps of `max_bytes`; checks that positions grow and fit together.
pub(crate) fn scan_all(log: &dyn LogStore, max_bytes: usize) -> Vec<(Position, Frame)> {
    let mut all: Vec<(Position, Frame)> = Vec::new();
    let mut from = Position(0);
    while from < log.end() {
        let scan = log.scan(from, max_bytes).unwrap();
        assert!(
            !scan.frames.is_empty(),
            "a scan before the end finds something"
        );
        assert_eq!(scan.frames[0].0, from);
        assert!(scan.next > from);
        all.extend(scan.frames);
        from = scan.next;
    }
    assert_eq!(from, log.end());
    assert!(all.is_sorted_by_key(|(position, _)| *position));
    all
}

/// Checks that a store holds these groups and nothing else.
pub(crate) fn assert_holds(log: &dyn LogStore, groups: &[Vec<Frame>]) {
    let frames: Vec<Frame> = groups.concat();
    let mut sizes: BTreeMap<LogNo, u64> = (0..5).map(|log| (LogNo(log), 0)).collect();
    for frame in frames.iter().filter(|frame| frame.kind == FrameKind::Entry) {
        assert_eq!(
            log.read(frame.log, frame.index).unwrap().as_ref(),
            Some(&frame.payload)
        );
        *sizes.entry(frame.log).or_default() += 1;
    }
    for (&no, &size) in &sizes {
        assert_eq!(log.size(no), size);
        assert_eq!(log.read(no, LogIndex(size)).unwrap(), None);
        assert_eq!(log.read(no, LogIndex(u64::MAX)).unwrap(), None);
    }
    for max_bytes in [0, 100, usize::MAX] {
        let scanned = scan_all(log, max_bytes);
        assert!(
            scanned.iter().map(|(_, frame)| frame).eq(&frames),
            "scan by {max_bytes}"
        );
        for (position, frame) in &scanned {
            assert_eq!(&log.scan(*position, 0).unwrap().frames[0].1, frame);
        }
    }
}

/// Runs all of it on stores that `open` makes, each in an empty folder.
pub(crate) fn log_suite<L: LogStore>(open: impl Fn(&Path) -> L) {
    let tests: [fn(&dyn LogStore); 5] = [
        starts_empty,
        refuses_without_poison,
        takes_the_largest_frame,
        scans_no_further_than_asked,
        readers_go_on_beside_the_writer,
    ];
    for test in tests {
        let dir = tempfile::tempdir().unwrap();
        test(&open(dir.path()));
    }
    appends_are_read_back(&open);
}

fn appends_are_read_back<L: LogStore>(open: &impl Fn(&Path) -> L) {
    let mut runner = TestRunner::new(Config::with_cases(24));
    let property = |groups: Vec<Vec<Frame>>| {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        for group in &groups {
            let position = log.append(group).unwrap();
            assert_eq!(position, log.end());
        }
        assert_holds(&log, &groups);
        Ok(())
    };
    runner.run(&groups(), property).unwrap();
}

fn starts_empty(log: &dyn LogStore) {
    assert_holds(log, &[]);
    assert_eq!(log.end(), Position(0));
    assert!(matches!(
        log.scan(Position(1), 10),
        Err(StorageError::Corrupt { .. })
    ));
    log.settle().unwrap();
}

fn refuses_without_poison(log: &dyn LogStore) {
    log.append(&[entry(1, 0)]).unwrap();
    let big = vec![0; Frame::MAX_BYTES + 1];
    let bad: [&[Frame]; 6] = [
        &[],
        &[entry(1, 0)],
        &[entry(1, 2)],
        &[entry(2, 1)],
        &[entry(1, 1), entry(1, 1)],
        &[entry(1, 1), frame(FrameKind::Evidence, 1, 0, &big)],
    ];
    for group in bad {
        assert!(
            matches!(log.append(group), Err(StorageError::Failed { .. })),
            "{}",
            group.len()
        );
    }
    log.append(&[entry(1, 1), entry(1, 2)]).unwrap();
    assert_holds(log, &[vec![entry(1, 0)], vec![entry(1, 1), entry(1, 2)]]);
}

fn takes_the_largest_frame(log: &dyn LogStore) {
    let big = frame(FrameKind::Entry, 0, 0, &vec![7; Frame::MAX_BYTES]);
    log.append(&[big.clone(), entry(0, 1)]).unwrap();
    assert_eq!(log.read(LogNo(0), LogIndex(0)).unwrap(), Some(big.payload));
    assert_eq!(log.scan(Position(0), 1).unwrap().frames.len(), 1);
    assert!(log.bytes_on_disk() > Frame::MAX_BYTES as u64);
}

fn scans_no_further_than_asked(log: &dyn LogStore) {
    let group: Vec<Frame> = (0..100)
        .map(|i| frame(FrameKind::Entry, 0, i, &[1; 100]))
        .collect();
    log.append(&group).unwrap();
    assert_eq!(log.scan(Position(0), 1_000).unwrap().frames.len(), 10);
    assert_eq!(log.scan(Position(0), 0).unwrap().frames.len(), 1);
    let end = log.end();
    assert_eq!(log.scan(end, 10).unwrap().frames, []);
    assert_eq!(log.scan(end, 10).unwrap().next, end);
    assert!(log.scan(Position(end.0 + 1), 10).is_err());
}

fn readers_go_on_beside_the_writer(log: &dyn LogStore) {
    let is_done = AtomicBool::new(false);
    let read = || {
        let mut rounds = 0;
        while !is_done.load(Ordering::Acquire) || rounds == 0 {
            let size = log.size(LogNo(0));
            if let Some(last) = size.checked_sub(1) {
                let bytes = log.read(LogNo(0), LogIndex(last)).unwrap().unwrap();
                assert_eq!(bytes, entry(0, last).payload);
            }
            let scanned = scan_all_to(log, log.end());
            assert!(
                scanned
                    .iter()
                    .enumerate()
                    .all(|(i, frame)| *frame == entry(0, i as u64))
            );
            rounds += 1;
        }
    };
    std::thread::scope(|scope| {
        let readers = [scope.spawn(read), scope.spawn(read)];
        for i in 0..200 {
            log.append(&[entry(0, 2 * i), entry(0, 2 * i + 1)]).unwrap();
        }
        is_done.store(true, Ordering::Release);
        for reader in readers {
            reader.join().unwrap();
        }
    });
}

fn scan_all_to(log: &dyn LogStore, end: Position) -> Vec<Frame> {
    let (mut frames, mut from) = (Vec::new(), Position(0));
    while from < end {
        let scan = log.scan(from, 500).unwrap();
        frames.extend(scan.frames.into_iter().map(|(_, frame)| frame));
        from = scan.next;
    }
    frames
}

type Change = (Vec<u8>, Option<Vec<u8>>);

fn batches() -> impl Strategy<Value = Vec<Vec<Change>>> {
    let key = prop::collection::vec(prop::sample::select(vec![0_u8, b'!', b'a', 255]), 0..5);
    let value = prop::option::weighted(0.7, prop::collection::vec(any::<u8>(), 0..40));
    prop::collection::vec(prop::collection::vec((key, value), 0..40), 0..10)
}

fn batch(changes: impl IntoIterator<Item = Change>) -> Batch {
    Batch {
        changes: changes
            .into_iter()
            .map(|(key, value)| (key.into(), value.map(Bytes::from)))
            .collect(),
    }
}

fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Change {
    (key.into(), Some(value.into()))
}

/// All pairs of a range.
pub(crate) fn pairs(
    state: &dyn StateStore,
    range: KeyRange,
    reverse: bool,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let pairs = state.scan(range, reverse).map(Result::unwrap);
    pairs
        .map(|(key, value)| (key.to_vec(), value.to_vec()))
        .collect()
}

/// Runs all of it on stores that `open` makes, each in an empty folder.
pub(crate) fn state_suite<S: StateStore>(open: impl Fn(&Path) -> S) {
    let tests: [fn(&dyn StateStore); 3] = [
        refuses_large_values,
        applies_large_batches,
        scans_lazily_while_it_changes,
    ];
    for test in tests {
        let dir = tempfile::tempdir().unwrap();
        test(&open(dir.path()));
    }
    behaves_like_a_map(&open);
}

fn behaves_like_a_map<S: StateStore>(open: &impl Fn(&Path) -> S) {
    let bound = prop::collection::vec(prop::sample::select(vec![0_u8, b'!', b'a', 255]), 0..5);
    let input = (batches(), bound.clone(), prop::option::of(bound));
    let mut runner = TestRunner::new(Config::with_cases(24));
    let property = |(batches, start, end): (Vec<Vec<Change>>, Vec<u8>, Option<Vec<u8>>)| {
        let dir = tempfile::tempdir().unwrap();
        let (state, mut model) = (open(dir.path()), BTreeMap::new());
        for changes in batches {
            let batch = batch(changes);
            for (key, value) in batch.changes.clone() {
                match value {
                    Some(value) => model.insert(key.to_vec(), value.to_vec()),
                    None => model.remove(key.as_ref()),
                };
            }
            state.apply(batch).unwrap();
        }
        let all = KeyRange {
            start: Vec::new(),
            end: None,
        };
        for range in [all, KeyRange::prefix(&start), KeyRange { start, end }] {
            let is_in = |key: &Vec<u8>| {
                *key >= range.start && range.end.as_ref().is_none_or(|end| key < end)
            };
            let mut expected: Vec<_> = model
                .clone()
                .into_iter()
                .filter(|(key, _)| is_in(key))
                .collect();
            prop_assert_eq!(&pairs(&state, range.clone(), false), &expected);
            expected.reverse();
            prop_assert_eq!(&pairs(&state, range.clone(), true), &expected);
        }
        for (key, value) in &model {
            let found = state.get(key).unwrap();
            prop_assert_eq!(found.as_deref(), Some(value.as_slice()));
        }
        prop_assert_eq!(state.get(b"not there").unwrap(), None);
        state.sync().unwrap();
        Ok(())
    };
    runner.run(&input, property).unwrap();
}

fn refuses_large_values(state: &dyn StateStore) {
    let fits = batch([put(vec![b'k'; MAX_KEY_BYTES], vec![1; MAX_VALUE_BYTES])]);
    state.apply(fits).unwrap();
    let value = batch([put("a", "1"), put("b", vec![1; MAX_VALUE_BYTES + 1])]);
    let key = batch([put("a", "1"), put(vec![b'k'; MAX_KEY_BYTES + 1], "1")]);
    for bad in [value, key] {
        assert!(matches!(state.apply(bad), Err(StorageError::Failed { .. })));
    }
    assert_eq!(state.get(b"a").unwrap(), None);
    state.apply(batch([put("a", "2")])).unwrap();
    assert_eq!(state.get(b"a").unwrap().as_deref(), Some(b"2".as_slice()));
}

fn applies_large_batches(state: &dyn StateStore) {
    let key = |i: u32| i.to_be_bytes().to_vec();
    state
        .apply(batch((0..1_000).map(|i| put(key(i), "old"))))
        .unwrap();
    state
        .apply(batch(
            (0..1_000).map(|i| (key(i), (i % 2 == 0).then(|| b"new".to_vec()))),
        ))
        .unwrap();
    let all = pairs(state, KeyRange::prefix(&[]), false);
    assert_eq!(all.len(), 500);
    assert!(all.iter().all(|(_, value)| value == b"new"));
    state.sync().unwrap();
    assert!(state.bytes_on_disk() > 0);
}

fn scans_lazily_while_it_changes(state: &dyn StateStore) {
    state
        .apply(batch((0..100_u8).map(|i| put([i], [i]))))
        .unwrap();
    for reverse in [false, true] {
        let mut seen = Vec::new();
        for (i, pair) in state.scan(KeyRange::prefix(&[]), reverse).enumerate() {
            seen.push(pair.unwrap().0[0]);
            // What was passed, and what was there and stays, must not come again or go missing.
            state
                .apply(batch([put([seen[i]], "again"), put([seen[i], 1], "more")]))
                .unwrap();
            state.apply(batch([(vec![seen[i], 1], None)])).unwrap();
        }
        seen.retain(|key| *key < 100);
        let mut expected: Vec<u8> = (0..100).collect();
        if reverse {
            expected.reverse();
        }
        seen.dedup();
        assert_eq!(seen, expected);
    }
}
