//! The hot pieces by themselves: hash, tree, sign, validate.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use hefu::{
    ledger::{
        merkle::{Tree, leaf_hash},
        note::{Checkpoint, NodeKey, Note},
    },
    registers::{Context, Registers},
    types::{AgencyTable, DivisionTable, RegisterId, RuleTable},
};
use prost::Message as _;

#[path = "../tests/support/mod.rs"]
mod support;

fn pieces(c: &mut Criterion) {
    let record = support::risk("R-1").encode_to_vec();
    c.bench_function("leaf hash of a 512-byte entry", |b| {
        b.iter(|| leaf_hash(black_box(&[7; 512])))
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

criterion_group!(benches, pieces);
criterion_main!(benches);
