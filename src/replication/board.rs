//! The one place that knows how every log stands, above and below. Sessions write it, services read
//! it, and sessions with children learn from it what was cosigned above.

mod above;
mod below;
mod roll;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use tokio::sync::watch;

pub(super) use self::below::Carrying;
pub use self::roll::Kept;
use self::{
    above::{Above, Rung},
    below::Below,
};
use super::{
    heartbeat::Beat,
    status::{ChildStatus, UplinkStatus},
};
use crate::{
    ledger::{Ledger, LogView},
    proto::ledger::v1 as pb,
    storage::StorageError,
    types::{Clock, LogNo, NodeId, Origin},
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

impl Board {
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The board of a node with this parent. What was cosigned before the start is read back.
    ///
    /// # Errors
    /// Where the ledger's state cannot be read.
    pub fn new(
        ledger: Ledger,
        clock: Arc<dyn Clock>,
        parent: Option<NodeId>,
    ) -> Result<Arc<Self>, StorageError> {
        let key = ledger.key();
        let own = key.log_key().name();
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
        Ok(Arc::new(Self {
            ledger,
            clock,
            own,
            parent,
            above: Mutex::new(Above::new(started, logs)),
            below: Mutex::new(Below::new(started)),
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

    /// How every log from below stands here, and who is expected and has none.
    #[must_use]
    pub fn children(&self) -> Vec<ChildStatus> {
        let (published, now) = (self.ledger.published(), self.clock.now());
        let below = lock(&self.below);
        let status = |view: &Arc<LogView>| {
            let carried = below.carried(view, now);
            ChildStatus {
                log: Some(view.log),
                node: view.node().to_owned(),
                origin: view.origin().to_owned(),
                signed_size: carried.signed.max(view.tree.size()),
                size: view.tree.size(),
                state: carried.standing.state,
                since: carried.standing.since,
                reason: carried.standing.reason,
                heard: carried.heard,
                alive: carried.alive,
                heartbeat: carried.beat.as_ref().map(|beat| beat.time),
                expected: false,
                due: None,
                missing_since: None,
            }
        };
        let logs = published.logs.values();
        let logs = logs.filter(|view| view.log != LogNo::OWN).map(status);
        let mut children: Vec<_> = logs.collect();
        below.judge(&mut children, now);
        children
    }

    /// Changes whenever the standing of a log may have, above or below.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|version| *version += 1);
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The own log's origin: trust domain and node are in it.
    #[must_use]
    pub fn own(&self) -> &Origin {
        &self.own
    }

    pub(super) fn parent(&self) -> Option<&NodeId> {
        self.parent.as_ref()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// Cosignatures from above, on their way down.
impl Board {
    /// Whether a node is the parent, or a node above it that has cosigned.
    #[must_use]
    pub fn knows_above(&self, node: &str) -> bool {
        let parent = self
            .parent
            .as_ref()
            .is_some_and(|parent| parent.as_str() == node);
        let receipts = self.receipts.borrow();
        let cosigned = receipts.keys().any(|(_, cosigner)| cosigner == node);
        parent || cosigned
    }

    pub(super) fn receipts(&self) -> watch::Receiver<Receipts> {
        self.receipts.subscribe()
    }

    /// The newest heartbeat of every log from below, for the parent.
    pub(super) fn beats(&self) -> Vec<(LogNo, Arc<Beat>)> {
        let below = lock(&self.below);
        let beats = below.logs.iter();
        beats
            .filter_map(|(log, carried)| Some((*log, carried.beat.clone()?)))
            .collect()
    }

    /// A cosignature that the ledger keeps: children hear of it.
    pub(super) fn kept(&self, log: LogNo, cosignature: Arc<pb::Cosignature>) {
        self.receipts.send_modify(|receipts| {
            receipts.insert((log, cosignature.node.clone()), cosignature);
        });
        self.changed();
    }
}
