//! The one place that knows how every log stands, above and below. Sessions write it, services read
//! it, and sessions with children learn from it what was cosigned above.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use tokio::sync::watch;

use super::status::{ChildStatus, LinkState, Standing, UplinkStatus};
use crate::{
    ledger::{Ledger, LogView, entry::ledger_time},
    proto::ledger::v1 as pb,
    storage::StorageError,
    types::{Clock, LedgerTime, LogNo, NodeId, Origin},
};

/// Every node's newest cosignature of every log, as kept by the ledger.
pub(super) type Receipts = BTreeMap<(LogNo, String), Arc<pb::Cosignature>>;

/// How the node's logs stand with its parent, and its children's logs with it.
pub struct Board {
    ledger: Ledger,
    clock: Arc<dyn Clock>,
    own: Origin,
    parent: Option<NodeId>,
    above: Mutex<Above>,
    below: Mutex<Below>,
    receipts: watch::Sender<Receipts>,
    changes: watch::Sender<u64>,
}

struct Above {
    /// Why there is no connection; `None` while there is one.
    down: Option<String>,
    /// Whether the parent was met since the start, or could not be.
    met: bool,
    started: Timestamp,
    logs: BTreeMap<LogNo, Rung>,
}

/// One log towards the parent.
#[derive(Clone)]
struct Rung {
    cosigned: u64,
    time: Option<LedgerTime>,
    trouble: Option<(LinkState, String)>,
    standing: Standing,
}

struct Below {
    sessions: u64,
    direct: BTreeSet<NodeId>,
    logs: BTreeMap<LogNo, Carried>,
    started: Timestamp,
}

/// One log from below.
#[derive(Clone)]
struct Carried {
    /// The sessions that carry it.
    by: BTreeSet<u64>,
    signed: u64,
    heard: Option<Timestamp>,
    refused: Option<String>,
    standing: Standing,
}

impl Board {
    /// The board of a node with this parent. What was cosigned before the start is read back.
    ///
    /// # Errors
    /// Where the ledger's state cannot be read.
    pub fn new(
        ledger: Ledger,
        clock: Arc<dyn Clock>,
        parent: Option<NodeId>,
    ) -> Result<Arc<Self>, StorageError> {
        let own = ledger.key().log_key().name();
        let own = own.parse().map_err(|e| StorageError::Corrupt {
            what: format!("the own log's origin {own}: {e}"),
        })?;
        let started = clock.now();
        let mut receipts = Receipts::new();
        let mut logs = BTreeMap::new();
        for log in ledger.published().logs.keys() {
            for cosignature in ledger.cosignatures(*log)? {
                if parent
                    .as_ref()
                    .is_some_and(|p| p.as_str() == cosignature.node)
                {
                    logs.insert(*log, Rung::kept(&cosignature, started));
                }
                receipts.insert((*log, cosignature.node.clone()), Arc::new(cosignature));
            }
        }
        let down = Some("not connected since the start".to_owned());
        Ok(Arc::new(Self {
            ledger,
            clock,
            own,
            parent,
            above: Mutex::new(Above {
                down,
                met: false,
                started,
                logs,
            }),
            below: Mutex::new(Below {
                sessions: 0,
                direct: BTreeSet::new(),
                logs: BTreeMap::new(),
                started,
            }),
            receipts: watch::Sender::new(receipts),
            changes: watch::Sender::new(0),
        }))
    }

    /// How every log stands with the parent, the own one first; empty without a parent.
    #[must_use]
    pub fn uplinks(&self) -> Vec<UplinkStatus> {
        let Some(parent) = &self.parent else {
            return Vec::new();
        };
        let (published, now) = (self.ledger.published(), self.clock.now());
        let above = lock(&self.above);
        let status = |view: &Arc<LogView>| {
            let rung = above.rung(view.log, view.tree.size(), now);
            UplinkStatus {
                log: view.log,
                origin: view.origin().to_owned(),
                parent: parent.clone(),
                size: view.tree.size(),
                cosigned: rung.cosigned,
                state: rung.standing.state,
                since: rung.standing.since,
                reason: rung.standing.reason,
                cosigned_time: rung.time,
            }
        };
        published.logs.values().map(status).collect()
    }

    /// How every log from below stands here.
    #[must_use]
    pub fn children(&self) -> Vec<ChildStatus> {
        let (published, now) = (self.ledger.published(), self.clock.now());
        let below = lock(&self.below);
        let status = |view: &Arc<LogView>| {
            let carried = below.carried(view, now);
            ChildStatus {
                log: view.log,
                node: view.node().to_owned(),
                origin: view.origin().to_owned(),
                signed_size: carried.signed.max(view.tree.size()),
                size: view.tree.size(),
                state: carried.standing.state,
                since: carried.standing.since,
                reason: carried.standing.reason,
                heard: carried.heard,
            }
        };
        let logs = published.logs.values();
        logs.filter(|view| view.log != LogNo::OWN)
            .map(status)
            .collect()
    }

    /// Changes whenever the standing of a log may have, above or below.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The own log's origin: trust domain and node are in it.
    pub(super) fn own(&self) -> &Origin {
        &self.own
    }

    pub(super) fn parent(&self) -> Option<&NodeId> {
        self.parent.as_ref()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// Towards the parent.
impl Board {
    /// A connection is there; what the parent says of each log comes next.
    pub(super) fn connecting(&self) {
        self.turn_all(|above| {
            above.down = Some("greeting the parent".to_owned());
            above.logs.values_mut().for_each(|rung| rung.trouble = None);
        });
    }

    /// The parent has said where it stands.
    pub(super) fn connected(&self) {
        self.turn_all(|above| (above.down, above.met) = (None, true));
    }

    pub(super) fn disconnected(&self, why: &str) {
        self.turn_all(|above| (above.down, above.met) = (Some(why.to_owned()), true));
    }

    pub(super) fn is_connected(&self) -> bool {
        lock(&self.above).down.is_none()
    }

    /// Waits until the parent was met since the start, or could not be.
    pub(super) async fn met(&self) {
        let mut changes = self.changes();
        while !lock(&self.above).met && changes.changed().await.is_ok() {}
    }

    pub(super) fn cosigned_size(&self, log: LogNo) -> u64 {
        lock(&self.above)
            .logs
            .get(&log)
            .map_or(0, |rung| rung.cosigned)
    }

    /// A log has grown: it takes on the state that its size gives it.
    pub(super) fn grown(&self, log: LogNo) {
        self.turn_one(log, |_| ());
    }

    /// The parent holds this much, by a cosignature that is kept, or by its own word.
    pub(super) fn cosigned(&self, log: LogNo, size: u64, time: Option<LedgerTime>) {
        self.turn_one(log, |rung| {
            rung.cosigned = size;
            rung.time = time.or(rung.time);
        });
    }

    pub(super) fn trouble(&self, log: LogNo, state: LinkState, reason: &str) {
        self.turn_one(log, |rung| rung.trouble = Some((state, reason.to_owned())));
    }

    fn turn_one(&self, log: LogNo, change: impl FnOnce(&mut Rung)) {
        let (size, now) = (self.size(log), self.clock.now());
        let mut above = lock(&self.above);
        let mut rung = above.rung(log, size, now);
        change(&mut rung);
        above.settle(&mut rung, size, now);
        above.logs.insert(log, rung);
        self.changed();
    }

    fn turn_all(&self, change: impl FnOnce(&mut Above)) {
        let (published, now) = (self.ledger.published(), self.clock.now());
        let mut above = lock(&self.above);
        change(&mut above);
        for view in published.logs.values() {
            let rung = above.rung(view.log, view.tree.size(), now);
            above.logs.insert(view.log, rung);
        }
        self.changed();
    }

    fn changed(&self) {
        self.changes.send_modify(|version| *version += 1);
    }

    fn size(&self, log: LogNo) -> u64 {
        let published = self.ledger.published();
        published.logs.get(&log).map_or(0, |view| view.tree.size())
    }
}

impl Above {
    /// A log as it stands at this size.
    fn rung(&self, log: LogNo, size: u64, now: Timestamp) -> Rung {
        let held = self.logs.get(&log).cloned();
        let mut rung = held.unwrap_or_else(|| Rung::new(self.started));
        self.settle(&mut rung, size, now);
        rung
    }

    fn settle(&self, rung: &mut Rung, size: u64, now: Timestamp) {
        let (state, reason) = match (&self.down, &rung.trouble) {
            (_, Some((state, reason))) => (*state, reason.clone()),
            (Some(why), None) => (LinkState::Disconnected, why.clone()),
            (None, None) if rung.cosigned < size => (LinkState::CatchingUp, String::new()),
            (None, None) => (LinkState::Current, String::new()),
        };
        rung.standing.turn(state, &reason, now);
    }
}

impl Rung {
    fn new(now: Timestamp) -> Self {
        Self {
            cosigned: 0,
            time: None,
            trouble: None,
            standing: Standing::new(now),
        }
    }

    fn kept(cosignature: &pb::Cosignature, now: Timestamp) -> Self {
        Self {
            cosigned: u64::try_from(cosignature.size).unwrap_or(0),
            time: ledger_time(cosignature.time.as_ref()),
            ..Self::new(now)
        }
    }
}

// Cosignatures from above, on their way down.
impl Board {
    pub(super) fn receipts(&self) -> watch::Receiver<Receipts> {
        self.receipts.subscribe()
    }

    /// A cosignature that the ledger keeps: children hear of it.
    pub(super) fn kept(&self, log: LogNo, cosignature: Arc<pb::Cosignature>) {
        self.receipts.send_modify(|receipts| {
            receipts.insert((log, cosignature.node.clone()), cosignature);
        });
        self.changed();
    }
}

// From below.
impl Board {
    /// A session with a child begins; it lasts as long as what is returned.
    pub(super) fn open_session(self: &Arc<Self>, child: &NodeId) -> Carrying {
        let mut below = lock(&self.below);
        below.sessions += 1;
        below.direct.insert(child.clone());
        Carrying {
            board: self.clone(),
            session: below.sessions,
        }
    }

    /// Whether a node has dialled this one since the start.
    pub(super) fn is_direct(&self, node: &NodeId) -> bool {
        lock(&self.below).direct.contains(node)
    }

    fn change(&self, log: LogNo, change: impl FnOnce(&mut Carried)) {
        let (published, now) = (self.ledger.published(), self.clock.now());
        let Some(view) = published.logs.get(&log) else {
            return;
        };
        let mut below = lock(&self.below);
        let mut carried = below.carried(view, now);
        change(&mut carried);
        carried.settle(view, now);
        below.logs.insert(log, carried);
        self.changed();
    }
}

/// What one session with a child carries.
pub(super) struct Carrying {
    board: Arc<Board>,
    session: u64,
}

impl Carrying {
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// The child spoke of a log, which its origin has signed up to this size.
    pub fn heard(&self, log: LogNo, signed: u64) {
        let now = self.board.clock.now();
        self.board.change(log, |carried| {
            carried.by.insert(self.session);
            carried.signed = carried.signed.max(signed);
            carried.heard = Some(now);
            carried.refused = None;
        });
    }

    pub fn refused(&self, log: LogNo, reason: &str) {
        let now = self.board.clock.now();
        self.board.change(log, |carried| {
            carried.by.insert(self.session);
            carried.heard = Some(now);
            carried.refused = Some(reason.to_owned());
        });
    }
}

impl Drop for Carrying {
    fn drop(&mut self) {
        let (published, now) = (self.board.ledger.published(), self.board.clock.now());
        for (log, carried) in &mut lock(&self.board.below).logs {
            if carried.by.remove(&self.session)
                && let Some(view) = published.logs.get(log)
            {
                carried.settle(view, now);
            }
        }
        self.board.changed();
    }
}

impl Below {
    fn carried(&self, view: &LogView, now: Timestamp) -> Carried {
        let held = self.logs.get(&view.log).cloned();
        let mut carried = held.unwrap_or_else(|| Carried {
            by: BTreeSet::new(),
            signed: 0,
            heard: None,
            refused: None,
            standing: Standing::new(self.started),
        });
        carried.settle(view, now);
        carried
    }
}

impl Carried {
    fn settle(&mut self, view: &LogView, now: Timestamp) {
        let (state, reason) = match (&view.quarantined, &self.refused) {
            (Some(reason), _) => (LinkState::Quarantined, reason.as_str()),
            (None, Some(reason)) => (LinkState::Refused, reason.as_str()),
            (None, None) if self.by.is_empty() => (LinkState::Disconnected, ""),
            (None, None) if view.tree.size() < self.signed => (LinkState::CatchingUp, ""),
            (None, None) => (LinkState::Current, ""),
        };
        let reason = reason.to_owned();
        self.standing.turn(state, &reason, now);
    }
}
