//! The ledger as a whole, in memory.

mod rotated;

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    rules::{Change, Intent, JudgeError, Judgement, Revision, Rules},
    staged::StateRead,
    *,
};
use crate::{
    storage::{Batch, FrameKind, MemoryLog, MemoryState},
    types::{ManualClock, Reason, RequestId},
};

/// A register that takes everything, refuses the record `bad`, and indexes its bytes.
struct Plain;

impl Rules for Plain {
    fn knows(&self, register: &RegisterId) -> bool {
        register.as_str() == "notes"
    }

    fn judge(&self, _: &dyn StateRead, change: &Change<'_>) -> Result<Judgement, JudgeError> {
        let record = match change.intent {
            Intent::Submit(record) if record.as_ref() == b"bad" => {
                return Err(Refusal::new(Reason::TransitionNotAllowed).into());
            }
            Intent::Submit(record) => record.clone(),
            Intent::Withdraw { .. } => change.standing.map(|(r, _)| r.clone()).unwrap_or_default(),
        };
        Ok(Judgement {
            record,
            cascade: Vec::new(),
        })
    }

    fn index(
        &self,
        name: &RecordName,
        before: Option<Revision<'_>>,
        after: Revision<'_>,
        batch: &mut Batch,
    ) {
        let key =
            |revision: Revision<'_>| [b"i", revision.record, name.to_string().as_bytes()].concat();
        if let Some(before) = before {
            batch.remove(key(before));
        }
        if !after.withdrawn {
            batch.put(key(after), Bytes::new());
        }
    }
}

struct Store {
    journal: Arc<MemoryLog>,
    state: Arc<MemoryState>,
    clock: Arc<ManualClock>,
    seeds: Arc<seeds::MemorySeeds>,
    node: &'static str,
}

impl Store {
    fn new(node: &'static str) -> Self {
        let start = "2026-11-23T08:00:00Z".parse().unwrap();
        Self {
            journal: Arc::default(),
            state: Arc::default(),
            clock: Arc::new(ManualClock::new(start)),
            seeds: Arc::new(seeds::MemorySeeds::new([node.len() as u8; 32])),
            node,
        }
    }

    fn options(&self) -> Options {
        Options {
            journal: self.journal.clone(),
            state: self.state.clone(),
            rules: Arc::new(Plain),
            clock: self.clock.clone(),
            trust_domain: "nantong.gov.cn".parse().unwrap(),
            node: self.node.parse().unwrap(),
            seeds: self.seeds.clone(),
            key_is_lost: false,
            incarnation: 7,
            head_file: None,
            progress: None,
        }
    }

    async fn open(&self) -> Ledger {
        Ledger::open(self.options()).await.unwrap()
    }
}

#[tokio::test]
async fn a_state_of_another_layout_is_not_taken_for_this_one() {
    let store = Store::new("qidong");
    let ledger = store.open().await;
    ledger.submit(vec![submit("N-1", "a")]).await.unwrap();
    ledger.stop().await;
    let mut batch = Batch::default();
    let older = (keys::FORMAT - 1).to_be_bytes().to_vec();
    batch.put(keys::FORMAT_KEY, older);
    store.state.apply(batch).unwrap();
    let opened = Ledger::open(store.options()).await;
    assert!(matches!(opened.err(), Some(OpenError::StateAhead)));
    // The node sets it aside: an empty one is filled from the journal.
    let derived = Store {
        state: Arc::default(),
        ..store
    };
    assert_eq!(derived.open().await.log("").unwrap().tree.size(), 1);
}

fn submit(item: &str, record: &str) -> Proposal {
    Proposal {
        name: format!("agencies/qidong-emergency/notes/{item}")
            .parse()
            .unwrap(),
        intent: Intent::Submit(Bytes::copy_from_slice(record.as_bytes())),
        submitter: "spiffe://nantong.gov.cn/agency/qidong-emergency".to_owned(),
        request: None,
        etag: None,
        validate_only: false,
    }
}

fn withdraw(item: &str) -> Proposal {
    let intent = Intent::Withdraw {
        reason: "gone".to_owned(),
        cascade: false,
    };
    Proposal {
        intent,
        ..submit(item, "")
    }
}

async fn one(ledger: &Ledger, proposal: Proposal) -> Result<Accepted, Refusal> {
    ledger
        .submit(vec![proposal])
        .await
        .unwrap()
        .results
        .remove(0)
}

fn reason<T>(result: Result<T, Refusal>) -> Reason {
    result.err().map(|refusal| refusal.reason).unwrap()
}

#[tokio::test]
async fn a_record_lives_through_its_revisions() {
    let store = Store::new("qidong");
    let ledger = store.open().await;
    let created = one(&ledger, submit("R-1", "a")).await.unwrap();
    assert_eq!(created.outcome, Outcome::Created);
    assert_eq!(
        one(&ledger, submit("R-1", "a")).await.unwrap().outcome,
        Outcome::Unchanged
    );
    let revised = one(&ledger, submit("R-1", "b")).await.unwrap();
    assert_eq!(
        (revised.outcome, revised.head.revision),
        (Outcome::Revised, 2)
    );
    let stale = Proposal {
        etag: Some(created.head.etag()),
        ..submit("R-1", "c")
    };
    assert_eq!(reason(one(&ledger, stale).await), Reason::EtagStale);
    let fresh = Proposal {
        etag: Some(revised.head.etag()),
        ..submit("R-1", "c")
    };
    assert_eq!(one(&ledger, fresh).await.unwrap().outcome, Outcome::Revised);
    assert_eq!(
        reason(one(&ledger, submit("R-1", "bad")).await),
        Reason::TransitionNotAllowed
    );
    assert_eq!(
        one(&ledger, withdraw("R-1")).await.unwrap().outcome,
        Outcome::Withdrawn
    );
    assert_eq!(
        one(&ledger, withdraw("R-1")).await.unwrap().outcome,
        Outcome::Unchanged
    );
    assert_eq!(
        reason(one(&ledger, withdraw("R-2")).await),
        Reason::RecordNotFound
    );
    let again = one(&ledger, submit("R-1", "a")).await.unwrap();
    assert_eq!((again.outcome, again.head.revision), (Outcome::Revised, 5));
    let head = ledger.head(&submit("R-1", "").name).unwrap().unwrap();
    assert_eq!(ledger.entry(head.entry).unwrap().message.previous, Some(3));
    assert_eq!(
        ledger.counts().unwrap()[0].2,
        Counts {
            live: 1,
            withdrawn: 0
        }
    );
}

#[tokio::test]
async fn a_retry_gets_the_first_answer_for_ever() {
    let store = Store::new("qidong");
    let ledger = store.open().await;
    let request = Some((RequestId::random(), [1; 32]));
    let proposal = Proposal {
        request,
        ..submit("R-1", "a")
    };
    let first = one(&ledger, proposal.clone()).await.unwrap();
    one(&ledger, submit("R-1", "b")).await.unwrap();
    let again = one(&ledger, proposal.clone()).await.unwrap();
    assert_eq!((again.outcome, again.head), (Outcome::Created, first.head));
    assert_eq!(again.leaf_hash, first.leaf_hash);
    ledger.stop().await;
    let ledger = store.open().await;
    assert_eq!(
        one(&ledger, proposal.clone()).await.unwrap().head,
        first.head
    );
    let other = Proposal {
        request: request.map(|(id, _)| (id, [2; 32])),
        ..proposal
    };
    assert_eq!(reason(one(&ledger, other).await), Reason::RequestIdReused);
}

#[tokio::test]
async fn a_dry_run_writes_nothing() {
    let store = Store::new("qidong");
    let ledger = store.open().await;
    let size = ledger.published().end;
    let proposal = Proposal {
        validate_only: true,
        ..submit("R-1", "a")
    };
    let accepted = one(&ledger, proposal).await.unwrap();
    assert_eq!(
        (accepted.outcome, accepted.leaf_hash),
        (Outcome::Created, None)
    );
    assert_eq!(ledger.published().end, size);
    assert_eq!(ledger.head(&submit("R-1", "").name).unwrap(), None);
}

#[tokio::test]
async fn entry_time_never_runs_backwards() {
    let store = Store::new("qidong");
    let ledger = store.open().await;
    let first = one(&ledger, submit("R-1", "a")).await.unwrap().head.updated;
    store.clock.set("2020-01-01T00:00:00Z".parse().unwrap());
    assert!(one(&ledger, submit("R-1", "b")).await.unwrap().head.updated >= first);
    ledger.stop().await;
    let ledger = store.open().await;
    assert!(one(&ledger, submit("R-1", "c")).await.unwrap().head.updated >= first);
}

#[tokio::test]
async fn intake_closes_and_opens() {
    let store = Store::new("qidong");
    let ledger = store.open().await;
    one(&ledger, submit("R-1", "a")).await.unwrap();
    ledger.set_intake(Intake::Full);
    assert_eq!(
        reason(one(&ledger, submit("R-2", "a")).await),
        Reason::StorageFull
    );
    ledger.set_intake(Intake::Open);
    one(&ledger, submit("R-2", "a")).await.unwrap();
}

fn batch(from: &Ledger, to_log: LogNo, start: u64, end: u64) -> MirrorBatch {
    let view = from.log("").unwrap();
    let entries = (start..end)
        .map(|index| {
            from.journal()
                .read(LogNo::OWN, LogIndex(index))
                .unwrap()
                .unwrap()
        })
        .collect();
    let checkpoint = note::Checkpoint {
        origin: view.origin().to_owned(),
        size: end,
        root: from.root_at(&view, end).unwrap(),
    };
    let note = from.key().sign(&checkpoint).parse().unwrap();
    MirrorBatch {
        log: to_log,
        start,
        entries,
        note,
    }
}

#[tokio::test]
async fn a_parent_takes_what_hashes_and_quarantines_what_does_not() {
    let (county, city) = (Store::new("qidong"), Store::new("nantong"));
    let (below, above) = (county.open().await, city.open().await);
    for item in 0..5 {
        one(&below, submit(&format!("R-{item}"), "a"))
            .await
            .unwrap();
    }
    let log = above
        .register(KeyHistory::new(below.key().log_key().clone()))
        .await
        .unwrap();
    assert_eq!(
        above
            .register(KeyHistory::new(below.key().log_key().clone()))
            .await
            .unwrap(),
        log
    );
    let mirrored = above.mirror(batch(&below, log, 0, 3)).await.unwrap();
    let Mirrored::Cosigned { size: 3, note, .. } = mirrored else {
        panic!("{mirrored:?}")
    };
    let note: Note = note.parse().unwrap();
    note.verify_log(below.key().log_key()).unwrap();
    note.verify_cosignature(above.key().cosigner_key()).unwrap();
    assert_eq!(
        above.mirror(batch(&below, log, 0, 3)).await.unwrap(),
        Mirrored::Elsewhere(3)
    );
    assert_eq!(
        above.mirror(batch(&below, log, 4, 5)).await.unwrap(),
        Mirrored::Elsewhere(3)
    );
    let head = above.head(&submit("R-1", "").name).unwrap().unwrap();
    assert_eq!(
        head.entry,
        EntryRef {
            log,
            index: LogIndex(1)
        }
    );
    assert_eq!(
        reason(one(&above, submit("R-1", "b")).await),
        Reason::RecordElsewhere
    );
    let mut forged = batch(&below, log, 3, 5);
    forged.entries[0] = Bytes::from_static(b"forged");
    let mirrored = above.mirror(forged).await.unwrap();
    assert!(matches!(mirrored, Mirrored::Quarantined(_)), "{mirrored:?}");
    let honest = above.mirror(batch(&below, log, 3, 5)).await.unwrap();
    assert!(
        matches!(honest, Mirrored::Quarantined(_)),
        "a quarantine stays"
    );
    above.stop().await;
    let above = city.open().await;
    let view = above.log(below.log("").unwrap().origin()).unwrap();
    assert!(view.quarantined.is_some());
    assert_eq!(view.tree.size(), 3);
}

#[tokio::test]
async fn an_audit_names_what_is_wrong() {
    let store = Store::new("qidong");
    let ledger = store.open().await;
    for item in 0..200 {
        one(
            &ledger,
            submit(&format!("R-{}", item % 50), &format!("{item}")),
        )
        .await
        .unwrap();
    }
    ledger.stop().await;
    let audit = |state: &MemoryState| {
        let scratch = MemoryState::default();
        let journal = store.journal.as_ref();
        audit::audit(journal, Some(state), &scratch, &Plain, &mut |_, _| ()).unwrap()
    };
    let report = audit(&store.state);
    assert_eq!(report.defects, Vec::new());
    assert_eq!(report.entries, 200);
    assert!(report.keys_compared > 50);
    let empty = audit(&MemoryState::default());
    assert_eq!(empty.defects, Vec::new(), "the next start derives it");
    let mut change = Batch::default();
    change.put(keys::head(&submit("R-7", "").name), vec![1, 2, 3]);
    store.state.apply(change).unwrap();
    let report = audit(&store.state);
    assert_eq!(report.defects.len(), 1);
    assert!(
        report.defects[0]
            .0
            .contains("agencies/qidong-emergency/notes/R-7")
    );
}

/// A state whose process is killed before an application of the test's choice.
struct Killed {
    inner: Arc<MemoryState>,
    left: std::sync::atomic::AtomicUsize,
}

impl StateStore for Killed {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        StateStore::get(self.inner.as_ref(), key)
    }

    fn scan<'a>(
        &'a self,
        range: KeyRange,
        reverse: bool,
    ) -> Box<dyn Iterator<Item = Result<crate::storage::KeyValue, StorageError>> + Send + 'a> {
        StateStore::scan(self.inner.as_ref(), range, reverse)
    }

    fn apply(&self, batch: Batch) -> Result<(), StorageError> {
        use std::sync::atomic::Ordering::SeqCst;
        let left = self.left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1));
        if left.is_err() {
            return Err(StorageError::Poisoned);
        }
        self.inner.apply(batch)
    }

    fn sync(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn bytes_on_disk(&self) -> u64 {
        0
    }
}

/// A kill before the application of any group leaves a state that the next start brings up to date.
#[tokio::test]
async fn a_kill_before_an_application_loses_and_doubles_nothing() {
    for kill_at in 0..3 {
        let store = Store::new("qidong");
        store.open().await.stop().await;
        let killed = Killed {
            inner: store.state.clone(),
            left: kill_at.into(),
        };
        let options = Options {
            state: Arc::new(killed),
            ..store.options()
        };
        let ledger = Ledger::open(options).await.unwrap();
        let group: Vec<_> = (0..700)
            .map(|n| submit(&format!("R-{}", n % 400), &n.to_string()))
            .collect();
        let answered = ledger.submit(group).await;
        drop(ledger);
        let ledger = store.open().await;
        assert_eq!(
            ledger.log("").unwrap().tree.size(),
            700,
            "durable, answered or not"
        );
        assert_eq!(
            ledger.counts().unwrap()[0].2,
            Counts {
                live: 400,
                withdrawn: 0
            }
        );
        assert_eq!(ledger.unindexed(LogNo::OWN).unwrap(), 0);
        ledger.stop().await;
        let report = audit::audit(
            store.journal.as_ref(),
            Some(store.state.as_ref()),
            &MemoryState::default(),
            &Plain,
            &mut |_, _| (),
        )
        .unwrap();
        assert_eq!(
            report.defects,
            Vec::new(),
            "killed before application {kill_at}"
        );
        assert_eq!(
            answered.is_err(),
            kill_at == 0,
            "a group is one application"
        );
    }
}

/// Everything that a state holds.
fn content(state: &MemoryState) -> Vec<(Bytes, Bytes)> {
    let all = KeyRange {
        start: Vec::new(),
        end: None,
    };
    state.scan(all, false).map(|pair| pair.unwrap()).collect()
}

#[derive(Debug, Clone)]
enum Step {
    Submit(u8, u8),
    Withdraw(u8),
    Restart,
    LoseState,
}

fn steps() -> impl Strategy<Value = Vec<Vec<Step>>> {
    let step = prop_oneof![
        8 => (0u8..6, 0u8..4).prop_map(|(item, value)| Step::Submit(item, value)),
        2 => (0u8..6).prop_map(Step::Withdraw),
        1 => Just(Step::Restart),
        1 => Just(Step::LoseState),
    ];
    proptest::collection::vec(proptest::collection::vec(step, 1..8), 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// The state is a function of the journal: through restarts, lost states, and a rebuild.
    #[test]
    fn the_state_follows_from_the_journal(groups in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut store = Store::new("qidong");
            let mut ledger = store.open().await;
            for group in groups {
                let mut proposals = Vec::new();
                for step in group {
                    match step {
                        Step::Submit(item, value) => {
                            proposals.push(submit(&format!("R-{item}"), &value.to_string()));
                        }
                        Step::Withdraw(item) => proposals.push(withdraw(&format!("R-{item}"))),
                        Step::Restart | Step::LoseState => {
                            ledger.stop().await;
                            if matches!(step, Step::LoseState) {
                                store.state = Arc::default();
                            }
                            ledger = store.open().await;
                        }
                    }
                }
                let count = proposals.len();
                assert_eq!(ledger.submit(proposals).await.unwrap().results.len(), count);
            }
            ledger.stop().await;
            let scratch = Store { state: Arc::default(), journal: store.journal.clone(),
                clock: store.clock.clone(), node: store.node, seeds: store.seeds.clone() };
            let rebuilt = scratch.open().await;
            let view = rebuilt.log("").unwrap();
            assert_eq!(view.tree, ledger.log("").unwrap().tree);
            assert_eq!(view.note, ledger.log("").unwrap().note);
            rebuilt.stop().await;
            assert_eq!(content(&store.state), content(&scratch.state));
            let audited = audit::audit(store.journal.as_ref(), None, &MemoryState::default(),
                &Plain, &mut |_, _| ()).unwrap();
            assert_eq!(audited.defects, Vec::new());
            assert!(store.journal.scan(Position(0), usize::MAX).unwrap().frames.iter()
                .any(|(_, frame)| frame.kind == FrameKind::Log));
        });
    }
}
