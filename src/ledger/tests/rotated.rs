//! Rotation at one node: nothing stops, what was signed before still verifies, and a crash at any step is mended by the
//! next start.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::{
    key_history::Verdict,
    seeds::{MemorySeeds, Seed},
    *,
};

fn checked(store: &Store) -> audit::Report {
    let scratch = MemoryState::default();
    let (journal, state) = (store.journal.as_ref(), store.state.as_ref());
    let report = audit::audit(journal, Some(state), &scratch, &Plain, &mut |_, _| ()).unwrap();
    assert_eq!(report.defects, Vec::new());
    report
}

fn note(ledger: &Ledger) -> Note {
    ledger.log("").unwrap().note.parse().unwrap()
}

#[tokio::test]
async fn a_key_rotates_while_entries_come_in() {
    let store = Store::new("qidong");
    let ledger = store.open().await;
    let first = ledger.key().log_key().clone();
    let mut notes = Vec::new();
    for round in 0..4 {
        let submitting =
            (0..50).map(|n| ledger.submit(vec![submit(&format!("R-{round}-{n}"), "a")]));
        let (submitted, rotated) =
            futures::future::join(futures::future::join_all(submitting), ledger.rotate(None)).await;
        let change = rotated.unwrap();
        assert!(change.is_signed_by_old() && change.size() <= (round + 1) * 50);
        for submitted in submitted {
            let submitted = submitted.unwrap();
            assert!(submitted.results[0].is_ok());
            notes.push(submitted.checkpoint.parse::<Note>().unwrap());
        }
    }
    let view = ledger.log("").unwrap();
    assert_eq!(view.keys.changes().len(), 4);
    assert_eq!(view.keys.first(), &first);
    assert_eq!(view.keys.current(), ledger.key().log_key());
    for note in &notes {
        assert_eq!(view.keys.verify(note).unwrap(), note.checkpoint());
    }
    ledger.stop().await;
    let again = store.open().await;
    assert_eq!(again.log("").unwrap().keys, view.keys);
    assert_eq!(again.log("").unwrap().note, view.note);
    again.stop().await;
    assert_eq!(checked(&store).key_changes, 4);
}

#[tokio::test]
async fn a_retired_key_is_believed_up_to_a_size() {
    let store = Store::new("qidong");
    let ledger = store.open().await;
    let mut notes = Vec::new();
    for n in 0..10 {
        one(&ledger, submit(&format!("R-{n}"), "a")).await.unwrap();
        notes.push(note(&ledger));
    }
    let beyond = ledger.rotate(Some(11)).await.err().unwrap();
    assert_eq!(beyond.reason, Reason::IndexOutOfRange);
    assert_eq!(
        store.seeds.load().unwrap()[1],
        None,
        "a refused rotation leaves no seed"
    );
    let middle = ledger.rotate(None).await.unwrap();
    let change = ledger.rotate(Some(6)).await.unwrap();
    assert_eq!((middle.size(), change.size()), (10, 6));
    let view = ledger.log("").unwrap();
    for note in &notes {
        let believed = view.keys.verify(note).is_ok();
        assert_eq!(
            believed,
            note.checkpoint().size <= 6,
            "{}",
            note.checkpoint().size
        );
        assert!(view.keys.signer(note).is_ok());
    }
    assert!(view.keys.verify(&note(&ledger)).is_ok());
    let until: Vec<_> = view
        .keys
        .periods()
        .iter()
        .map(|period| period.until)
        .collect();
    assert_eq!(until, [Some(6), Some(6), None]);
    ledger.stop().await;
    checked(&store);
    store.open().await.stop().await;
}

/// Seeds whose process is killed before a step of the test's choice: what was done before it stays.
#[derive(Default)]
struct Killed {
    inner: Arc<MemorySeeds>,
    stage: AtomicBool,
    promote: AtomicBool,
}

impl SeedStore for Killed {
    fn load(&self) -> Result<[Option<Seed>; 2], StorageError> {
        self.inner.load()
    }

    fn stage(&self, seed: &Seed) -> Result<(), StorageError> {
        match self.stage.load(SeqCst) {
            true => Err(StorageError::Poisoned),
            false => self.inner.stage(seed),
        }
    }

    fn promote(&self) -> Result<(), StorageError> {
        match self.promote.load(SeqCst) {
            true => Err(StorageError::Poisoned),
            false => self.inner.promote(),
        }
    }

    fn discard(&self) -> Result<(), StorageError> {
        self.inner.discard()
    }
}

#[tokio::test]
async fn a_crash_at_any_step_is_mended_by_the_next_start() {
    let store = Store::new("qidong");
    store.open().await.stop().await;
    // Before the seed is kept, and before the one in force is replaced.
    for (stage, promote, changes) in [(true, false, 0), (false, true, 1)] {
        let killed = Arc::new(Killed {
            inner: store.seeds.clone(),
            stage: stage.into(),
            promote: promote.into(),
        });
        let seeds: Arc<dyn SeedStore> = killed.clone();
        let ledger = Ledger::open(Options {
            seeds,
            ..store.options()
        })
        .await
        .unwrap();
        assert!(ledger.rotate(None).await.is_err());
        ledger.stop().await;
        let ledger = store.open().await;
        assert_eq!(ledger.log("").unwrap().keys.changes().len(), changes);
        one(&ledger, submit("R-1", &format!("{changes}")))
            .await
            .unwrap();
        assert!(ledger.log("").unwrap().keys.verify(&note(&ledger)).is_ok());
        ledger.stop().await;
        assert_eq!(store.seeds.load().unwrap()[1], None);
    }
    // After the seed was kept and before anything was committed: no log names it, and it is discarded.
    store.seeds.stage(&[9; 32]).unwrap();
    let ledger = store.open().await;
    assert_eq!(ledger.log("").unwrap().keys.changes().len(), 1);
    assert_eq!(store.seeds.load().unwrap()[1], None);
    ledger.stop().await;
    checked(&store);
}

#[tokio::test]
async fn a_lost_key_is_replaced_when_somebody_says_so_and_not_by_itself() {
    let store = Store::new("qidong");
    let ledger = store.open().await;
    one(&ledger, submit("R-1", "a")).await.unwrap();
    let (old, last) = (ledger.key().log_key().id(), note(&ledger));
    ledger.stop().await;
    let empty: Arc<dyn SeedStore> = Arc::new(MemorySeeds::default());
    let options = |key_is_lost| Options {
        seeds: empty.clone(),
        key_is_lost,
        ..store.options()
    };
    let refused = Ledger::open(options(false)).await.err().unwrap();
    assert!(
        matches!(&refused, OpenError::KeyMissing { id, .. } if *id == old),
        "{refused}"
    );
    assert_eq!(
        empty.load().unwrap(),
        [None, None],
        "no key is made behind one's back"
    );
    let ledger = Ledger::open(options(true)).await.unwrap();
    let view = ledger.log("").unwrap();
    assert_eq!(view.keys.changes().len(), 1);
    assert!(!view.keys.changes()[0].change.is_signed_by_old());
    assert!(
        view.keys.verify(&last).is_ok(),
        "what was signed before is believed"
    );
    one(&ledger, submit("R-2", "a")).await.unwrap();
    ledger.stop().await;
    // With its seed there, nothing is lost, whatever is said.
    let ledger = Ledger::open(options(true)).await.unwrap();
    assert_eq!(ledger.log("").unwrap().keys, view.keys);
    ledger.stop().await;
    checked(&store);
}

#[tokio::test]
async fn an_audit_names_key_changes_that_nobody_vouches_for() {
    let store = Store::new("qidong");
    store.open().await.stop().await;
    let ledger = store.open().await;
    let (old, origin) = (ledger.key(), ledger.log("").unwrap().origin().to_owned());
    ledger.stop().await;
    let other = NodeKey::new(&[77; 32], &origin, "nantong.gov.cn/qidong");
    let statement = key_change::NewKey {
        old: old.log_key(),
        new: &other,
        size: 0,
        root: merkle::empty_root(),
        time: LedgerTime::from_micros(0).unwrap(),
    };
    let change = statement.sign(None).unwrap();
    let believed = key_history::Believed {
        change,
        authorised_by: String::new(),
    };
    let payload = believed.to_message(LedgerTime::from_micros(0).unwrap(), "");
    let frame = crate::storage::Frame {
        kind: FrameKind::KeyChange,
        log: LogNo::OWN,
        index: LogIndex(0),
        payload: payload.encode_to_vec().into(),
    };
    store.journal.append(&[frame]).unwrap();
    let scratch = MemoryState::default();
    let report = audit::audit(
        store.journal.as_ref(),
        None,
        &scratch,
        &Plain,
        &mut |_, _| (),
    );
    let defects = report.unwrap().defects;
    assert!(
        defects
            .iter()
            .any(|defect| defect.0.contains("nobody vouches for it")),
        "{defects:?}"
    );
}

/// Keys of a log by number, and the changes between them.
fn change(old: u8, new: u8, size: u64, root: Hash, vouched: bool) -> key_change::KeyChange {
    let key = |seed| {
        NodeKey::new(
            &[seed; 32],
            "nantong.gov.cn/qidong/7",
            "nantong.gov.cn/qidong",
        )
    };
    let (old, new) = (key(old), key(new));
    let statement = key_change::NewKey {
        old: old.log_key(),
        new: &new,
        size,
        root,
        time: LedgerTime::from_micros(0).unwrap(),
    };
    statement.sign(vouched.then_some(&old)).unwrap()
}

#[test]
fn a_change_is_judged_by_what_is_held() {
    let first = change(1, 2, 0, [0; 32], true).old().clone();
    let mut history = KeyHistory::new(first);
    let said = |change: &key_change::KeyChange, size| key_history::Authorisation {
        key: change.new_key().clone(),
        size,
        by: "spiffe://nantong.gov.cn/admin/a".to_owned(),
    };
    let (root, other) = ([1; 32], [2; 32]);
    let ahead = change(1, 2, 10, root, true);
    let believes = |verdict| matches!(verdict, Verdict::Believed(_));
    assert!(
        believes(history.judge(&ahead, 7, None, None)),
        "it leads beyond what is held"
    );
    assert!(believes(history.judge(&ahead, 10, Some(&root), None)));
    assert!(matches!(
        history.judge(&ahead, 10, Some(&other), None),
        Verdict::Contradicts(_)
    ));
    // It takes back what the old key has signed: an operator must say so, and mean this very size.
    assert_eq!(
        history.judge(&ahead, 11, Some(&root), None),
        Verdict::Unauthorised
    );
    let word = said(&ahead, 10);
    assert!(believes(history.judge(
        &ahead,
        11,
        Some(&root),
        Some(&word)
    )));
    let elsewhere = said(&ahead, 9);
    assert_eq!(
        history.judge(&ahead, 11, Some(&root), Some(&elsewhere)),
        Verdict::Unauthorised
    );
    let lost = change(1, 2, 10, root, false);
    assert_eq!(
        history.judge(&lost, 10, Some(&root), None),
        Verdict::Unauthorised
    );
    assert!(believes(history.judge(&lost, 10, Some(&root), Some(&word))));
    assert!(matches!(
        history.judge(&lost, 10, Some(&other), Some(&word)),
        Verdict::Contradicts(_)
    ));
    // A key that this log never had vouches for nothing.
    let stranger = change(8, 2, 10, root, true);
    assert_eq!(
        history.judge(&stranger, 7, None, None),
        Verdict::Unauthorised
    );
    let Verdict::Believed(believed) = history.judge(&ahead, 7, None, None) else {
        unreachable!()
    };
    history.push(*believed);
    assert_eq!(history.judge(&ahead, 50, None, None), Verdict::Known);
    // The old key does not follow twice, and does not come back.
    let twice = change(1, 3, 12, root, true);
    assert!(matches!(
        history.judge(&twice, 7, None, None),
        Verdict::Invalid(_)
    ));
    let back = change(2, 1, 12, root, true);
    assert!(matches!(
        history.judge(&back, 7, None, None),
        Verdict::Invalid(_)
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is taken in, rotated, retired and restarted: every checkpoint that was ever handed out verifies by the
    /// history, unless it is beyond a retirement.
    #[test]
    fn every_checkpoint_verifies_unless_it_was_taken_back(
        steps in proptest::collection::vec((0_u8..4, 0_u64..40), 1..24),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = Store::new("qidong");
            let mut ledger = store.open().await;
            // Each with the size up to which it is to be believed.
            let mut handed: Vec<(Note, u64)> = Vec::new();
            for (at, (step, number)) in steps.into_iter().enumerate() {
                match step {
                    0 => {
                        one(&ledger, submit(&format!("R-{at}"), "a")).await.unwrap();
                    }
                    1 => {
                        ledger.rotate(None).await.unwrap();
                    }
                    2 => {
                        let size = ledger.log("").unwrap().tree.size();
                        let from = number % (size + 1);
                        ledger.rotate(Some(from)).await.unwrap();
                        handed.iter_mut().for_each(|(_, until)| *until = from.min(*until));
                    }
                    _ => {
                        ledger.stop().await;
                        ledger = store.open().await;
                    }
                }
                handed.push((note(&ledger), u64::MAX));
                let keys = ledger.log("").unwrap().keys.clone();
                for (note, until) in &handed {
                    let size = note.checkpoint().size;
                    prop_assert_eq!(keys.verify(note).is_ok(), size <= *until, "{} {}", size, until);
                }
            }
            ledger.stop().await;
            checked(&store);
            Ok(())
        })?;
    }
}
