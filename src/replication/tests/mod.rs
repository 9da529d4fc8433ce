//! Nodes in memory, joined by channels.

mod courier;
mod dishonest;
mod honest;
mod random;
mod recorded;
mod recovered;
mod restored;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    ledger::{
        Intake, Options,
        rules::{Change, Intent, JudgeError, Judgement, Proposal, Revision, Rules},
        staged::StateRead,
    },
    storage::{Batch, LogStore as _, MemoryLog, MemoryState, Position},
    types::{
        AgencyId, Identity, LogIndex, LogNo, ManualClock, NodeId, Origin, RecordName, RegisterId,
    },
};

/// A wait that only a failing test waits to the end.
const LONG: Duration = Duration::from_secs(60);

/// Lets every child bring every log; agencies named `elsewhere` are at no node.
struct Open;

impl Admission for Open {
    fn brings(&self, _: &Identity, origin: &Origin) -> bool {
        origin.node().as_str() != "barred"
    }

    fn belongs(&self, agency: &AgencyId, _: &Origin) -> bool {
        agency.as_str() != "elsewhere"
    }
}

/// Knows no register: everything is carried.
struct Carry;

impl Rules for Carry {
    fn knows(&self, _: &RegisterId) -> bool {
        false
    }

    fn judge(&self, _: &dyn StateRead, change: &Change<'_>) -> Result<Judgement, JudgeError> {
        let record = match change.intent {
            Intent::Submit(record) => record.clone(),
            Intent::Withdraw { .. } => Bytes::new(),
        };
        Ok(Judgement {
            record,
            cascade: Vec::new(),
        })
    }

    fn index(&self, _: &RecordName, _: Option<Revision<'_>>, _: Revision<'_>, _: &mut Batch) {}
}

/// What survives a restart.
#[derive(Clone)]
struct Disk {
    node: &'static str,
    journal: Arc<MemoryLog>,
    state: Arc<MemoryState>,
    clock: Arc<ManualClock>,
}

impl Disk {
    fn new(node: &'static str) -> Self {
        let now = "2026-11-23T08:00:00Z".parse().unwrap();
        Self {
            node,
            journal: Arc::default(),
            state: Arc::default(),
            clock: Arc::new(ManualClock::new(now)),
        }
    }

    /// An old copy: the journal up to a position.
    fn copy(&self, until: Position) -> Self {
        let frames = self.journal.scan(Position(0), usize::MAX).unwrap().frames;
        let old = frames.into_iter().filter(|(at, _)| *at < until);
        let old: Vec<_> = old.map(|(_, frame)| frame).collect();
        let copy = Self::new(self.node);
        copy.journal.append(&old).unwrap();
        copy
    }

    async fn open(&self) -> Ledger {
        let mut seed = [0; 32];
        seed[..self.node.len()].copy_from_slice(self.node.as_bytes());
        let opened = Ledger::open(Options {
            journal: self.journal.clone(),
            state: self.state.clone(),
            rules: Arc::new(Carry),
            clock: self.clock.clone(),
            trust_domain: "nantong.gov.cn".parse().unwrap(),
            node: self.node.parse().unwrap(),
            seed,
            incarnation: 7,
            head_file: None,
            progress: None,
        });
        opened.await.unwrap()
    }
}

/// Where a node listens: whoever runs there now.
#[derive(Clone, Default)]
struct Address(Arc<Mutex<Option<Mirror>>>);

/// Dials a parent; its connections may be set to break.
#[derive(Clone)]
struct Wire {
    child: NodeId,
    parent: Address,
    /// Messages up and down after which the next connections break.
    breaks: Arc<Mutex<Vec<(usize, usize)>>>,
    /// What becomes of the parent's messages on their way.
    lies: Arc<Mutex<Option<Lie>>>,
}

/// Changes a message of the parent.
type Lie = Box<dyn FnMut(&mut pb::ReplicateResponse) + Send>;

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connector for Wire {
    fn connect(&self) -> BoxFuture<'_, Result<Link, LinkError>> {
        let mirror = lock(&self.parent.0).clone();
        let (up, down) = lock(&self.breaks).pop().unwrap_or((usize::MAX, usize::MAX));
        let child = self.child.clone();
        let lies = self.lies.clone();
        let down_error = || LinkError::Unreachable("it is down".to_owned());
        async move {
            let link = join(mirror.ok_or_else(down_error)?, child, up, down);
            let lie = move |mut message: Result<pb::ReplicateResponse, LinkError>| {
                if let (Ok(message), Some(lie)) = (&mut message, lock(&lies).as_mut()) {
                    lie(message);
                }
                message
            };
            Ok(Link {
                up: link.up,
                down: link.down.map(lie).boxed(),
            })
        }
        .boxed()
    }
}

/// A connection to a mirror that carries so many messages up and down.
fn join(mirror: Mirror, child: NodeId, up: usize, down: usize) -> Link {
    let (to_parent, from_child) = mpsc::channel(2);
    let (to_child, from_parent) = mpsc::channel(2);
    let messages = ReceiverStream::new(from_child).take(up).map(Ok);
    let child = format!("spiffe://nantong.gov.cn/node/{child}")
        .parse()
        .unwrap();
    tokio::spawn(async move {
        if let Err(refusal) = mirror.serve(child, messages, to_child.clone()).await {
            let _ = to_child.send(Err(refusal)).await;
        }
    });
    let answers = ReceiverStream::new(from_parent).take(down);
    let answers = answers.map(|a| a.map_err(|r| LinkError::Refused(r.to_string())));
    Link {
        up: to_parent,
        down: answers.boxed(),
    }
}

fn run(uplink: Arc<Uplink>, shutdown: &CancellationToken) -> JoinHandle<()> {
    let shutdown = shutdown.clone();
    tokio::spawn(async move { uplink.run(shutdown).await })
}

/// A running node.
struct Node {
    disk: Disk,
    ledger: Ledger,
    board: Arc<Board>,
    address: Address,
    wire: Option<Wire>,
    uplink: Option<Arc<Uplink>>,
    shutdown: CancellationToken,
    running: Option<JoinHandle<()>>,
}

impl Node {
    async fn top(node: &'static str) -> Self {
        Self::start(Disk::new(node), Address::default(), None, true).await
    }

    async fn below(node: &'static str, parent: &Node) -> Self {
        Self::on(Disk::new(node), parent, true).await
    }

    /// A child on a disk that may have something on it.
    async fn on(disk: Disk, parent: &Node, continuous: bool) -> Self {
        let wire = Wire {
            child: disk.node.parse().unwrap(),
            parent: parent.address.clone(),
            breaks: Arc::default(),
            lies: Arc::default(),
        };
        Self::start(
            disk,
            Address::default(),
            Some((wire, parent.disk.node)),
            continuous,
        )
        .await
    }

    async fn start(
        disk: Disk,
        address: Address,
        above: Option<(Wire, &str)>,
        continuous: bool,
    ) -> Self {
        let ledger = disk.open().await;
        let parent = above.as_ref().map(|(_, parent)| parent.parse().unwrap());
        let wire = above.map(|(wire, _)| wire);
        let board = Board::new(ledger.clone(), disk.clock.clone(), parent).unwrap();
        let shutdown = CancellationToken::new();
        let mirror = Mirror::new(board.clone(), Arc::new(Open), shutdown.clone());
        lock(&address.0).replace(mirror);
        let backoff = Duration::from_millis(1);
        let options = UplinkOptions {
            continuous,
            backoff,
            backoff_max: backoff,
            ..UplinkOptions::default()
        };
        let uplink = wire
            .clone()
            .and_then(|wire| Uplink::new(board.clone(), Arc::new(wire), options));
        let running = uplink.clone().map(|up| run(up, &shutdown));
        Self {
            disk,
            ledger,
            board,
            address,
            wire,
            uplink,
            shutdown,
            running,
        }
    }

    async fn stop(&mut self) {
        lock(&self.address.0).take();
        self.shutdown.cancel();
        if let Some(running) = self.running.take() {
            running.await.unwrap();
        }
        self.ledger.stop().await;
    }

    async fn restart(mut self) -> Self {
        self.stop().await;
        let parent = self.board.parent().map(ToString::to_string);
        let above = self.wire.clone().zip(parent.as_deref());
        Self::start(self.disk.clone(), self.address.clone(), above, true).await
    }

    fn mirror(&self) -> Mirror {
        lock(&self.address.0).clone().unwrap()
    }

    async fn submit(&self, records: std::ops::Range<usize>) {
        let proposals = records.map(|record| Proposal {
            name: format!("agencies/{}-emergency/notes/N-{record}", self.disk.node)
                .parse()
                .unwrap(),
            intent: Intent::Submit(Bytes::from(format!("record {record}"))),
            submitter: String::new(),
            request: None,
            etag: None,
            validate_only: false,
        });
        let submitted = self.ledger.submit(proposals.collect()).await.unwrap();
        assert!(submitted.results.iter().all(Result::is_ok));
    }

    /// Brings the parent up to date.
    async fn sync(&self) {
        let synced = self.uplink.as_ref().unwrap().sync(LONG, |_| ()).await;
        assert!(synced.complete, "{synced:?}");
    }

    fn origin(&self) -> String {
        self.ledger.log("").unwrap().origin().to_owned()
    }

    /// Every entry of a log.
    fn entries(&self, origin: &str) -> Vec<Bytes> {
        let Some(view) = self.ledger.log(origin) else {
            return Vec::new();
        };
        let read = |index| {
            self.ledger
                .journal()
                .read(view.log, LogIndex(index))
                .unwrap()
                .unwrap()
        };
        (0..view.tree.size()).map(read).collect()
    }

    fn uplink_of(&self, origin: &str) -> UplinkStatus {
        let mut uplinks = self.board.uplinks().into_iter();
        uplinks.find(|status| status.origin == origin).unwrap()
    }

    fn child_of(&self, origin: &str) -> ChildStatus {
        let mut children = self.board.children().into_iter();
        children.find(|status| status.origin == origin).unwrap()
    }

    async fn takes_in(&self) {
        let mut intake = self.ledger.intake();
        let open = intake.wait_for(|intake| *intake == Intake::Open);
        tokio::time::timeout(LONG, open).await.unwrap().unwrap();
    }

    fn is_behind(&self) -> bool {
        matches!(*self.ledger.intake().borrow(), Intake::BehindParent(_))
    }

    /// Waits until the board shows something.
    async fn until(&self, shows: impl Fn(&Node) -> bool) {
        let mut changes = self.board.changes();
        let waiting = async {
            while !shows(self) {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(LONG, waiting)
            .await
            .expect("it never shows");
    }
}

/// Checks that a parent holds exactly what a node holds of a log. An empty one it may not have heard of.
fn same(below: &Node, above: &Node, origin: &str) {
    assert_eq!(below.entries(origin), above.entries(origin), "{origin}");
    let left = below.ledger.log(origin).unwrap();
    match above.ledger.log(origin) {
        Some(right) => {
            assert_eq!(left.tree.root(), right.tree.root(), "{origin}");
            assert_eq!(right.quarantined, None);
        }
        None => assert_eq!(left.tree.size(), 0, "{origin}"),
    }
}
