//! A city with two hundred children that come at once, and some that do not keep up.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod support;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::join_all;
use hefu::{
    gateway::client::{ClientFiles, Dialer},
    ledger::{
        Ledger, Options,
        rules::{Intent, Proposal},
    },
    registers::Registers,
    replication::{Board, Connector as _, Uplink, UplinkOptions},
    services::replication::Dial,
    storage::{MemoryLog, MemoryState},
    types::{DivisionTable, RuleTable, SystemClock},
};
use prost::Message as _;
use support::{DOMAIN, Domain, Running, risk};
use tokio_util::sync::CancellationToken;

const CHILDREN: usize = 200;
const ENTRIES: usize = 5;
/// A wait that only a failing test waits to the end.
const LONG: Duration = Duration::from_secs(120);

struct Child {
    name: String,
    ledger: Ledger,
    connector: Dial,
}

/// A node in memory that dials the city over real sockets with real TLS.
async fn child(domain: &Domain, city: &Running, number: usize) -> Child {
    let name = format!("county{number}");
    let issued = domain.issue(&format!("node/{name}"));
    let files = ClientFiles {
        certificate: issued.certificate,
        key: issued.key,
        roots: vec![issued.root],
    };
    let (dialer, address) = (Dialer::from_files(&files).unwrap(), city.address);
    let connector = Dial(Box::new(move || {
        let dialer = dialer.clone();
        Box::pin(async move {
            let server = format!("https://{address}");
            let channel = dialer.connect(&server, None).await;
            channel.map_err(|error| error.to_string())
        })
    }));
    let (divisions, rules) = (DivisionTable::builtin(), RuleTable::builtin());
    let ledger = Ledger::open(Options {
        journal: Arc::new(MemoryLog::new()),
        state: Arc::new(MemoryState::new()),
        rules: Arc::new(Registers::new(divisions.into(), rules.into())),
        clock: Arc::new(SystemClock),
        trust_domain: DOMAIN.parse().unwrap(),
        node: name.parse().unwrap(),
        seed: [u8::try_from(number).unwrap(); 32],
        incarnation: 7,
        head_file: None,
        progress: None,
    });
    let ledger = ledger.await.unwrap();
    let proposals = (0..ENTRIES).map(|item| {
        let mut risk = risk("R-1");
        risk.name = format!("agencies/{name}-emergency/risks/R-{item}");
        Proposal {
            name: risk.name.parse().unwrap(),
            intent: Intent::Submit(Bytes::from(risk.encode_to_vec())),
            submitter: String::new(),
            request: None,
            etag: None,
            validate_only: false,
        }
    });
    let submitted = ledger.submit(proposals.collect()).await.unwrap();
    assert!(submitted.results.iter().all(Result::is_ok));
    Child {
        name,
        ledger,
        connector,
    }
}

impl Child {
    /// Connects, and waits until the city has cosigned everything.
    async fn arrive(self, stop: CancellationToken) -> Ledger {
        let parent = Some("nantong".parse().unwrap());
        let board = Board::new(self.ledger.clone(), Arc::new(SystemClock), parent).unwrap();
        let options = UplinkOptions::default();
        let uplink = Uplink::new(board.clone(), Arc::new(self.connector), options).unwrap();
        let running = uplink.clone();
        tokio::spawn(async move { running.run(stop).await });
        let synced = uplink.sync(LONG, |_| ()).await;
        assert!(synced.complete, "{}: {synced:?}", self.name);
        self.ledger
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_children_at_once_and_some_that_do_not_keep_up() {
    let domain = Domain::new();
    let city = domain.start("nantong", None).await;
    let mut children = Vec::new();
    for number in 0..CHILDREN + 4 {
        children.push(child(&domain, &city, number).await);
    }
    // Four that connect, and then neither say a word nor read one.
    let mut mute = Vec::new();
    for child in children.split_off(CHILDREN) {
        mute.push(child.connector.connect().await.unwrap());
    }
    let (began, stop) = (Instant::now(), CancellationToken::new());
    let arrived = children.into_iter().map(|child| child.arrive(stop.clone()));
    let ledgers = join_all(arrived).await;
    println!(
        "{CHILDREN} children with {ENTRIES} entries each, cosigned over TLS in {:.1} s, beside {} mute ones",
        began.elapsed().as_secs_f64(),
        mute.len()
    );
    let published = city.ledger.published();
    for ledger in &ledgers {
        let own = ledger.log("").unwrap();
        let held = city.ledger.log(own.origin()).unwrap();
        assert_eq!(held.tree.root(), own.tree.root(), "{}", own.origin());
        let kept = ledger.cosignatures(own.log).unwrap();
        assert_eq!(kept[0].size, i64::try_from(ENTRIES).unwrap());
    }
    assert_eq!(published.logs.len(), CHILDREN + 1);
    stop.cancel();
}
