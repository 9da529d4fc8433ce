//! Tests of what only a journal on a disk can get wrong.

mod audit;
mod damage;
mod recovery;

use std::fs::OpenOptions;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::storage::suite::{assert_holds, entry, groups, log_suite};

/// Small enough that a few groups roll over segments and settle.
const SMALL: JournalOptions = JournalOptions {
    segment_bytes: 300,
    settle_bytes: 500,
};

fn open(dir: &Path) -> Journal {
    Journal::open(dir, JournalOptions::default()).unwrap()
}

/// Closes without settling, as a kill would.
fn kill(journal: Journal) {
    let poison = |writer: &mut Writer| {
        writer.poison();
        Ok(())
    };
    journal.writer(poison).unwrap();
}

/// A journal with these groups that was killed, and so has no mark.
fn killed(dir: &Path, options: JournalOptions, groups: &[Vec<Frame>]) {
    let journal = Journal::open(dir, options).unwrap();
    for group in groups {
        journal.append(group).unwrap();
    }
    kill(journal);
}

/// A few groups of two logs.
fn some_groups() -> Vec<Vec<Frame>> {
    vec![
        vec![entry(0, 0), entry(1, 0)],
        vec![entry(0, 1)],
        vec![entry(1, 1), entry(0, 2), entry(1, 2)],
        vec![entry(0, 3), entry(0, 4)],
    ]
}

fn corrupt(result: Result<Journal, StorageError>) -> String {
    match result {
        Err(StorageError::Corrupt { what }) => what,
        other => panic!("expected damage, got {other:?}"),
    }
}

fn seg(dir: &Path, number: u64) -> PathBuf {
    segment::path(dir, number)
}

#[test]
fn it_keeps_the_contract() {
    log_suite(open);
}

#[test]
fn it_keeps_the_contract_with_small_segments() {
    log_suite(|dir| Journal::open(dir, SMALL).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_was_appended_is_there_after_every_reopen(
        groups in groups(),
        ends in prop::collection::vec(any::<Option<bool>>(), 12),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path(), SMALL).unwrap();
        for (i, group) in groups.iter().enumerate() {
            journal.append(group).unwrap();
            let Some(is_clean) = ends[i] else { continue };
            if is_clean { journal.close().unwrap() } else { kill(journal) }
            journal = Journal::open(dir.path(), SMALL).unwrap();
            assert_holds(&journal, &groups[..=i]);
        }
        assert_holds(&journal, &groups);
    }
}

#[test]
fn a_second_opener_is_told_who_is_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let error = Journal::open(dir.path(), JournalOptions::default()).unwrap_err();
    assert!(
        error.to_string().contains("another process holds"),
        "{error}"
    );
    drop(first);
    open(dir.path());
}

#[test]
fn a_full_disk_poisons_and_reads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    journal.append(&[entry(0, 0)]).unwrap();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    journal.writer.lock().unwrap().file = full;
    assert!(matches!(
        journal.append(&[entry(0, 1)]),
        Err(StorageError::Full { .. })
    ));
    assert!(matches!(
        journal.append(&[entry(0, 1)]),
        Err(StorageError::Poisoned)
    ));
    assert!(matches!(journal.settle(), Err(StorageError::Poisoned)));
    assert_holds(&journal, &[vec![entry(0, 0)]]);
    drop(journal);
    assert_holds(&open(dir.path()), &[vec![entry(0, 0)]]);
}

#[test]
fn a_failed_fdatasync_is_never_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    // It takes every write and cannot be synced.
    let unsynced = OpenOptions::new().write(true).open("/dev/null").unwrap();
    journal.writer.lock().unwrap().file = unsynced;
    assert!(matches!(
        journal.append(&[entry(0, 0)]),
        Err(StorageError::Failed { .. })
    ));
    assert!(matches!(
        journal.append(&[entry(0, 0)]),
        Err(StorageError::Poisoned)
    ));
    assert_holds(&journal, &[]);
}

#[test]
fn a_failed_roll_poisons() {
    let dir = tempfile::tempdir().unwrap();
    let options = JournalOptions {
        segment_bytes: 1,
        ..SMALL
    };
    let journal = Journal::open(dir.path(), options).unwrap();
    journal.append(&[entry(0, 0)]).unwrap();
    std::fs::create_dir(seg(dir.path(), 2)).unwrap();
    assert!(matches!(
        journal.append(&[entry(0, 1)]),
        Err(StorageError::Failed { .. })
    ));
    assert!(matches!(
        journal.append(&[entry(0, 1)]),
        Err(StorageError::Poisoned)
    ));
}

#[test]
fn a_panic_of_the_writer_poisons() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path());
    std::thread::scope(|scope| {
        let panics = || journal.writer(|_| -> Result<(), StorageError> { panic!("on purpose") });
        assert!(scope.spawn(panics).join().is_err());
    });
    assert!(matches!(
        journal.append(&[entry(0, 0)]),
        Err(StorageError::Poisoned)
    ));
}

#[test]
fn more_segments_than_open_files_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let options = JournalOptions {
        segment_bytes: 1,
        ..JournalOptions::default()
    };
    let journal = Journal::open(dir.path(), options).unwrap();
    let groups: Vec<Vec<Frame>> = (0..OPEN_FILES as u64 + 10)
        .map(|i| vec![entry(0, i)])
        .collect();
    for group in &groups {
        journal.append(group).unwrap();
    }
    assert_holds(&journal, &groups);
    assert!(journal.shared.files.lock().unwrap().len() <= OPEN_FILES);
    drop(journal);
    assert_holds(&Journal::open(dir.path(), options).unwrap(), &groups);
}

#[test]
fn settling_shortens_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let options = JournalOptions {
        settle_bytes: 200,
        ..JournalOptions::default()
    };
    killed(dir.path(), options, &some_groups());
    let recovered = recover::recover(dir.path()).unwrap();
    assert!(recovered.read_from > 0 && recovered.read_from < recovered.end);
    let journal = open(dir.path());
    assert_holds(&journal, &some_groups());
    journal.close().unwrap();
    let recovered = recover::recover(dir.path()).unwrap();
    assert_eq!(recovered.read_from, recovered.end);
}
