//! Tests of what only sled can get wrong.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::storage::suite::{pairs, state_suite};

const BOOT: &str = "11111111-2222-3333-4444-555555555555";

fn open(dir: &Path) -> (SledState, Opened) {
    open::open_on(dir, SledOptions::default(), BOOT).unwrap()
}

fn batch(keys: impl IntoIterator<Item = u32>) -> Batch {
    let change = |i: u32| {
        (
            format!("key {i:05}").into(),
            Some(format!("value {i}").into()),
        )
    };
    Batch {
        changes: keys.into_iter().map(change).collect(),
    }
}

fn content(state: &SledState) -> BTreeMap<Vec<u8>, Vec<u8>> {
    pairs(state, KeyRange::prefix(b""), false)
        .into_iter()
        .collect()
}

fn expected(keys: impl IntoIterator<Item = u32>) -> BTreeMap<Vec<u8>, Vec<u8>> {
    batch(keys)
        .changes
        .into_iter()
        .map(|(key, value)| (key.to_vec(), value.unwrap().to_vec()))
        .collect()
}

/// The folder as a kill at this moment would leave it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in condition::files(from).unwrap() {
        std::fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

/// A store of 300 keys that was closed.
fn closed(dir: &Path) {
    let (state, _) = open(dir);
    for i in 0..30 {
        state.apply(batch(10 * i..10 * i + 10)).unwrap();
    }
    state.close().unwrap();
}

fn set_aside(opened: &Opened) -> &str {
    match opened {
        Opened::SetAside { why, to } => {
            assert!(to.is_dir());
            why
        }
        other => panic!("expected it to be set aside, got {other:?}"),
    }
}

#[test]
fn it_keeps_the_contract() {
    state_suite(|dir| SledState::open(dir, SledOptions::default()).unwrap().0);
}

#[test]
fn what_was_closed_is_there() {
    let dir = tempfile::tempdir().unwrap();
    closed(dir.path());
    let (state, opened) = open(dir.path());
    assert_eq!(opened, Opened::Clean);
    assert_eq!(content(&state), expected(0..300));
    drop(state);
    assert_eq!(open(dir.path()).1, Opened::Clean);
}

#[test]
fn a_kill_leaves_a_prefix_of_the_batches_and_all_that_was_synced() {
    let dir = tempfile::tempdir().unwrap();
    let (state, opened) = open(&dir.path().join("state"));
    assert_eq!(opened, Opened::Clean);
    for i in 0..100 {
        state.apply(batch([3 * i, 3 * i + 1, 3 * i + 2])).unwrap();
        if i == 49 {
            state.sync().unwrap();
        }
        if i % 10 != 9 {
            continue;
        }
        let killed = dir.path().join(format!("killed-{i}"));
        copy(&state.dir, &killed);
        let (found, opened) = open(&killed);
        assert_eq!(opened, Opened::AfterKill);
        let found = content(&found);
        let batches = found.len() as u32 / 3;
        assert!(
            batches <= i + 1 && (i < 49 || batches >= 50),
            "{batches} of {}",
            i + 1
        );
        assert_eq!(found, expected(0..3 * batches));
    }
}

/// sled writes its buffers as they fill up, in the middle of batches: a kill leaves whole ones all the same.
#[test]
fn a_kill_in_the_middle_of_a_batch_leaves_all_of_it_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _) = open(&dir.path().join("state"));
    let batch = |i: u32| Batch {
        changes: (0..100)
            .map(|key: u32| (key.to_be_bytes().to_vec(), Some(i.to_be_bytes().to_vec())))
            .chain((0..100).map(|key| (format!("{i} {key}").into_bytes(), Some(vec![7; 200]))))
            .chain((0..50).map(|key| (format!("{} {key}", i.wrapping_sub(1)).into_bytes(), None)))
            .map(|(key, value)| (key.into(), value.map(Bytes::from)))
            .collect(),
    };
    let mut found = std::collections::BTreeSet::new();
    for i in 0..300 {
        state.apply(batch(i)).unwrap();
        if i % 20 != 19 {
            continue;
        }
        let killed = dir.path().join(format!("killed-{i}"));
        copy(&state.dir, &killed);
        let (killed, opened) = open(&killed);
        assert_eq!(opened, Opened::AfterKill);
        let content = content(&killed);
        let last = content.get(&0_u32.to_be_bytes()[..]).cloned();
        let Some(last) = last.map(|bytes| u32::from_be_bytes(bytes.try_into().unwrap())) else {
            assert!(content.is_empty());
            continue;
        };
        let mut due = BTreeMap::new();
        for (key, value) in (0..=last).flat_map(|i| batch(i).changes) {
            match value {
                Some(value) => due.insert(key.to_vec(), value.to_vec()),
                None => due.remove(key.as_ref()),
            };
        }
        assert!(content == due, "not whole after batch {last} of {i}");
        found.insert(last);
    }
    assert!(found.len() > 5, "sled wrote nothing: {found:?}");
}

#[test]
fn after_another_boot_it_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _) = open(&dir.path().join("state"));
    state.apply(batch(0..10)).unwrap();
    for (name, boot) in [("other", "another boot"), ("unknown", "")] {
        let killed = dir.path().join(name);
        copy(&state.dir, &killed);
        let (found, opened) = open::open_on(&killed, SledOptions::default(), boot).unwrap();
        assert!(set_aside(&opened).contains("the machine stopped"));
        assert_eq!(content(&found), BTreeMap::new());
        found.apply(batch(0..10)).unwrap();
        found.close().unwrap();
        assert_eq!(open(&killed).1, Opened::Clean);
    }
}

#[test]
fn two_of_those_that_were_set_aside_are_kept() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("state");
    let mut aside = Vec::new();
    for _ in 0..4 {
        closed(&dir);
        std::fs::remove_file(dir.join("CONDITION")).unwrap();
        match open(&dir).1 {
            Opened::SetAside { to, .. } => aside.push(to),
            other => panic!("{other:?}"),
        }
    }
    let kept: Vec<bool> = aside.iter().map(|path| path.exists()).collect();
    assert_eq!(kept, [false, false, true, true]);
}

#[test]
fn an_unfinished_snapshot_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _) = open(&dir.path().join("state"));
    state.apply(batch(0..10)).unwrap();
    state.sync().unwrap();
    let killed = dir.path().join("killed");
    copy(&state.dir, &killed);
    std::fs::write(killed.join("snap.00000000000000FF.generating"), b"half").unwrap();
    let (found, opened) = open(&killed);
    assert_eq!(
        (opened, content(&found)),
        (Opened::AfterKill, expected(0..10))
    );
}

#[test]
fn a_second_opener_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (_state, _) = open(dir.path());
    let error = open::open_on(dir.path(), SledOptions::default(), BOOT).unwrap_err();
    assert!(
        error.to_string().contains("another process holds"),
        "{error}"
    );
}

#[test]
fn a_panic_of_sled_is_damage_and_poisons() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _) = open(&dir.path().join("state"));
    state.apply(batch(0..10)).unwrap();
    let panics = |_: &Open| -> ::sled::Result<()> { panic!("on purpose") };
    let error = state.run("testing", panics).unwrap_err();
    assert!(matches!(&error, StorageError::Corrupt { what } if what.contains("on purpose")));
    assert!(matches!(state.get(b"a"), Err(StorageError::Poisoned)));
    assert!(matches!(
        state.apply(batch([1])),
        Err(StorageError::Poisoned)
    ));
    assert!(matches!(state.sync(), Err(StorageError::Poisoned)));
    let mut scan = state.scan(KeyRange::prefix(b""), false);
    assert!(matches!(scan.next(), Some(Err(StorageError::Poisoned))));
    assert!(scan.next().is_none());
    drop(scan);
    drop(state);
    let (state, opened) = open(&dir.path().join("state"));
    assert!(set_aside(&opened).contains("on purpose"));
    assert_eq!(content(&state), BTreeMap::new());
}

#[test]
fn a_scan_ends_at_the_poison() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _) = open(dir.path());
    state.apply(batch(0..10)).unwrap();
    let mut scan = state.scan(KeyRange::prefix(b""), false);
    assert!(matches!(scan.next(), Some(Ok(_))));
    state.is_poisoned.store(true, Ordering::Release);
    assert!(matches!(scan.next(), Some(Err(StorageError::Poisoned))));
    assert!(scan.next().is_none());
}

#[test]
fn a_folder_that_lost_files_is_set_aside_or_new() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    for name in ["db", "conf"] {
        closed(&path);
        std::fs::remove_file(path.join(name)).unwrap();
        let (state, opened) = open(&path);
        set_aside(&opened);
        assert_eq!(content(&state), BTreeMap::new());
        drop(state);
        std::fs::remove_dir_all(&path).unwrap();
        let (state, opened) = open(&path);
        assert_eq!((opened, content(&state)), (Opened::Clean, BTreeMap::new()));
    }
}

/// How a test damages sled's file.
#[derive(Debug, Clone)]
enum Harm {
    Flip { place: prop::sample::Index, bit: u8 },
    Cut { place: prop::sample::Index },
    Zeros { place: prop::sample::Index },
}

impl Harm {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let len = bytes.len();
        match self {
            Self::Flip { place, bit } => bytes[place.index(len)] ^= 1 << bit,
            Self::Cut { place } => bytes.truncate(place.index(len)),
            Self::Zeros { place } => bytes[place.index(len)..].fill(0),
        }
    }
}

fn harm() -> impl Strategy<Value = Harm> {
    let place = any::<prop::sample::Index>;
    prop_oneof![
        4 => (place(), 0_u8..8).prop_map(|(place, bit)| Harm::Flip { place, bit }),
        1 => place().prop_map(|place| Harm::Cut { place }),
        1 => place().prop_map(|place| Harm::Zeros { place }),
    ]
}

#[test]
fn harm_after_a_clean_close_is_always_seen() {
    let origin = tempfile::tempdir().unwrap();
    closed(origin.path());
    let whole = std::fs::read(origin.path().join("db")).unwrap();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(100));
    let property = |harm: Harm| {
        let mut bytes = whole.clone();
        harm.apply(&mut bytes);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        copy(origin.path(), &path);
        std::fs::write(path.join("db"), &bytes).unwrap();
        let (state, opened) = open(&path);
        if bytes == whole {
            prop_assert_eq!((opened, content(&state)), (Opened::Clean, expected(0..300)));
        } else {
            set_aside(&opened);
            prop_assert_eq!(content(&state), BTreeMap::new());
        }
        Ok(())
    };
    runner.run(&harm(), property).unwrap();
}

/// Nothing vouches for the files after a kill: sled's own checks are all there is. No panic may
/// leave the store, and what it gives must be what was put in.
#[test]
fn harm_after_a_kill_never_panics_and_never_invents_a_value() {
    let origin = tempfile::tempdir().unwrap();
    let (state, _) = open(origin.path());
    for i in 0..30 {
        state.apply(batch(10 * i..10 * i + 10)).unwrap();
    }
    state.sync().unwrap();
    let whole = std::fs::read(origin.path().join("db")).unwrap();
    let all = expected(0..300);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(100));
    let property = |harm: Harm| {
        let mut bytes = whole.clone();
        harm.apply(&mut bytes);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        copy(origin.path(), &path);
        std::fs::write(path.join("db"), &bytes).unwrap();
        let (state, opened) = open(&path);
        for pair in state.scan(KeyRange::prefix(b""), false) {
            let Ok((key, value)) = pair else { break };
            prop_assert_eq!(
                all.get(key.as_ref()).map(Vec::as_slice),
                Some(value.as_ref())
            );
        }
        if opened != Opened::AfterKill {
            set_aside(&opened);
            state.apply(batch([1])).unwrap();
            prop_assert_eq!(content(&state), expected([1]));
        }
        Ok(())
    };
    runner.run(&harm(), property).unwrap();
}
