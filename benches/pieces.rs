//! The hot pieces by themselves: validate, encode, hash, tree, sign, commit.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::{cell::Cell, hint::black_box, path::Path, sync::Arc};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use hefu::{
    cli::bench::records::Source,
    ledger::{
        Ledger, Options,
        merkle::{Tree, leaf_hash},
        note::{Checkpoint, NodeKey, Note},
        rules::{Intent, Proposal},
    },
    proto::ledger::v1::{Action, Entry},
    registers::{Context, Registers},
    storage::{Journal, JournalOptions, SledOptions, SledState},
    types::{AgencyTable, DivisionTable, RegisterId, RuleTable, SystemClock},
};
use prost::Message as _;

const NODE: &str = "qidong";

fn pieces(c: &mut Criterion) {
    let record = Source::default().risk(1).encode_to_vec();
    let entry = Entry {
        format: 1,
        time: Some(prost_types::Timestamp::default()),
        name: Source::default().risk(1).name,
        submitter: SUBMITTER.to_owned(),
        action: Action::Submit.into(),
        revision: 1,
        record: record.clone().into(),
        create_time: Some(prost_types::Timestamp::default()),
        ..Entry::default()
    };
    c.bench_function("encode an entry and hash its leaf", |b| {
        b.iter(|| leaf_hash(&black_box(&entry).encode_to_vec()))
    });
    c.bench_function("tree push and root", |b| {
        let mut tree = Tree::default();
        b.iter(|| {
            tree.push([9; 32], |tile| drop(black_box(tile)));
            tree.root()
        });
    });
    let key = NodeKey::new(
        &[7; 32],
        "nantong.gov.cn/qidong/5f0c9a1e",
        "nantong.gov.cn/qidong",
    );
    let checkpoint = Checkpoint {
        origin: "nantong.gov.cn/qidong/5f0c9a1e".into(),
        size: 42,
        root: [9; 32],
    };
    c.bench_function("sign a checkpoint", |b| {
        b.iter(|| key.sign(black_box(&checkpoint)))
    });
    let note = key.sign(&checkpoint);
    c.bench_function("parse and verify a checkpoint", |b| {
        b.iter(|| {
            let note: Note = black_box(&note).parse().unwrap();
            note.verify_log(key.log_key()).unwrap().size
        });
    });
    let registers = Registers::new(DivisionTable::builtin().into(), RuleTable::builtin().into());
    let id: RegisterId = "risks".parse().unwrap();
    let agencies = "id,name,divisions,kind,node\nqidong-emergency,局,320681,county,qidong\n";
    let agencies = AgencyTable::from_csv(agencies).unwrap();
    let agency = agencies.get(&"qidong-emergency".parse().unwrap()).unwrap();
    let context = Context {
        now: jiff::Timestamp::now(),
        agency,
    };
    c.bench_function("validate a risk", |b| {
        b.iter(|| {
            registers
                .get(&id)
                .unwrap()
                .validate(black_box(&record), &context)
                .unwrap()
        });
    });
}

const SUBMITTER: &str = "spiffe://nantong.gov.cn/agency/qidong-emergency";

/// From the proposals to the acknowledgement, on the disk that holds `target/`.
fn commit(c: &mut Criterion) {
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("pieces-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let journal = Journal::open(&folder.join("journal"), JournalOptions::default()).unwrap();
    let (state, _) = SledState::open(&folder.join("state"), SledOptions::default()).unwrap();
    let options = Options {
        journal: Arc::new(journal),
        state: Arc::new(state),
        rules: Arc::new(Registers::new(
            DivisionTable::builtin().into(),
            RuleTable::builtin().into(),
        )),
        clock: Arc::new(SystemClock),
        trust_domain: "nantong.gov.cn".parse().unwrap(),
        node: NODE.parse().unwrap(),
        seeds: Arc::new(hefu::ledger::seeds::MemorySeeds::new([7; 32])),
        key_is_lost: false,
        incarnation: 1,
        head_file: None,
        progress: None,
    };
    let ledger = runtime.block_on(Ledger::open(options)).unwrap();
    let next = Cell::new(0);
    let proposal = |_| {
        let risk = Source::default().risk(next.replace(next.get() + 1));
        Proposal {
            name: risk.name.parse().unwrap(),
            intent: Intent::Submit(risk.encode_to_vec().into()),
            submitter: SUBMITTER.to_owned(),
            request: None,
            etag: None,
            validate_only: false,
        }
    };
    for size in [1, 64] {
        c.bench_function(
            &format!("commit a group of {size} to journal and state"),
            |b| {
                b.iter_batched(
                    || (0..size).map(proposal).collect(),
                    |group| runtime.block_on(ledger.submit(group)).unwrap(),
                    BatchSize::PerIteration,
                );
            },
        );
    }
    runtime.block_on(ledger.stop());
    drop(ledger);
    std::fs::remove_dir_all(folder).unwrap();
}

criterion_group!(benches, pieces, commit);
criterion_main!(benches);
