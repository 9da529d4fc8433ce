//! Damaged stores: what can be derived comes back by itself, what cannot is named and never served wrong.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use hefu::{
    cli::verify,
    config::Config,
    node::Node,
    proto::risk::v1::SubmitRisksRequest,
    types::{LogIndex, LogNo},
};
use support::{
    Domain, QIDONG,
    process::{Random, times},
    risk,
};

const ROWS: u64 = 400;

/// A stopped node's folder with a few hundred entries, and its configuration.
async fn stopped(domain: &Domain) -> Config {
    let county = domain.start("qidong", None).await;
    let mut agency = domain.agency(QIDONG, &county).await;
    for part in 0..ROWS / 50 {
        let risks = (0..50)
            .map(|n| risk(&format!("R-{}", part * 50 + n)))
            .collect();
        let message = SubmitRisksRequest {
            risks,
            parent: format!("agencies/{QIDONG}/risks"),
            ..Default::default()
        };
        let stream = futures::stream::iter([message]);
        let mut answers = agency
            .risks
            .submit_risks(stream)
            .await
            .unwrap()
            .into_inner();
        while answers.message().await.unwrap().is_some() {}
    }
    let mut config = county.stop().await;
    config.node.listen.set_port(0);
    config
}

fn copied(config: &Config, to: &Path) -> Config {
    let _ = std::fs::remove_dir_all(to);
    support::copy(&config.node.data, &to.to_owned());
    let mut copy = config.clone();
    copy.node.data = to.to_owned();
    copy
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for item in std::fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.metadata().unwrap().len() > 0 {
            found.push(path);
        }
    }
    found.sort();
}

/// Everything that a node's own log holds.
fn entries(node: &Node) -> Vec<Option<Bytes>> {
    let journal = node.ledger().journal();
    (0..journal.size(LogNo::OWN))
        .map(|i| journal.read(LogNo::OWN, LogIndex(i)).ok().flatten())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_state_is_derived_again() {
    let (domain, mut random) = (Domain::new(), Random::new());
    let (tries, seed) = (times("HEFU_DAMAGES", 100), random.seed());
    let whole = stopped(&domain).await;
    let mut set_aside = 0;
    for n in 0..tries {
        let config = copied(&whole, &domain.folder.path().join("copy"));
        let state = config.node.data.join("state");
        let mut found = Vec::new();
        files(&state, &mut found);
        let file = found[usize::try_from(random.below(found.len() as u64)).unwrap()].clone();
        let mut bytes = std::fs::read(&file).unwrap();
        match n % 4 {
            0 => std::fs::remove_dir_all(&state).unwrap(),
            1 => {
                bytes.truncate(usize::try_from(random.below(bytes.len() as u64)).unwrap());
                std::fs::write(&file, bytes).unwrap();
            }
            2 => {
                for _ in 0..=random.below(8) {
                    let at = usize::try_from(random.below(bytes.len() as u64)).unwrap();
                    bytes[at] ^= 1 << random.below(8);
                }
                std::fs::write(&file, bytes).unwrap();
            }
            _ => std::fs::write(state.join("RUNNING"), "another boot").unwrap(),
        }
        let node = Node::open(config.clone()).await;
        let node = node.unwrap_or_else(|e| panic!("try {n}: {e} (seed {seed})"));
        let counts = node.ledger().counts().unwrap();
        assert_eq!(counts[0].2.live, ROWS, "try {n} (seed {seed})");
        for item in [0, 17, ROWS - 1] {
            let head = node
                .ledger()
                .head(&risk(&format!("R-{item}")).name.parse().unwrap());
            let entry = node.ledger().entry(head.unwrap().unwrap().entry).unwrap();
            assert_eq!(entry.name.to_string(), risk(&format!("R-{item}")).name);
        }
        node.ledger().stop().await;
        drop(node);
        let verified = verify::folder(&config.node.data).unwrap();
        assert_eq!(
            verified.defects,
            Vec::<String>::new(),
            "try {n} (seed {seed})"
        );
        let names = std::fs::read_dir(&config.node.data).unwrap();
        let aside = |name: String| name.starts_with("state.");
        set_aside += names
            .filter(|item| aside(item.as_ref().unwrap().file_name().into_string().unwrap()))
            .count();
    }
    println!("{tries} damaged states, {set_aside} set aside, all derived again (seed {seed})");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_the_journal_is_named_and_never_served() {
    let (domain, mut random) = (Domain::new(), Random::new());
    let (tries, seed) = (times("HEFU_DAMAGES", 100), random.seed());
    let whole = stopped(&domain).await;
    let node = Node::open(whole.clone()).await.unwrap();
    let due = entries(&node);
    node.ledger().stop().await;
    drop(node);
    let (mut refused, mut served) = (0, 0);
    for n in 0..tries {
        let config = copied(&whole, &domain.folder.path().join("copy"));
        let mut found = Vec::new();
        files(&config.node.data.join("journal"), &mut found);
        found.retain(|file| file.extension().is_some_and(|e| e == "seg"));
        let file = &found[0];
        let mut bytes = std::fs::read(file).unwrap();
        let at = usize::try_from(random.below(bytes.len() as u64)).unwrap();
        bytes[at] ^= 1 << random.below(8);
        std::fs::write(file, &bytes).unwrap();
        match verify::folder(&config.node.data) {
            Ok(verified) => {
                assert!(
                    !verified.defects.is_empty(),
                    "byte {at} passed (seed {seed})"
                );
                assert!(
                    verified.defects[0].contains("seg"),
                    "{:?}",
                    verified.defects
                );
            }
            Err(error) => assert!(error.to_string().contains("seg"), "byte {at}: {error}"),
        }
        match Node::open(config).await {
            Err(_) => refused += 1,
            Ok(node) => {
                served += 1;
                for (index, (held, due)) in entries(&node).iter().zip(&due).enumerate() {
                    assert!(
                        held.is_none() || held == due,
                        "try {n}: entry {index} (seed {seed})"
                    );
                }
                node.ledger().stop().await;
            }
        }
    }
    println!(
        "{tries} flipped bits, all named; {refused} refused to start, {served} served everything \
         else (seed {seed})"
    );
}
