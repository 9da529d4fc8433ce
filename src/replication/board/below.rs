//! How the logs of children stand here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    super::status::{LinkState, Standing, by_courier},
    Board, lock,
};
use crate::{
    ledger::LogView,
    types::{LogNo, NodeId},
};

pub(super) struct Below {
    sessions: u64,
    direct: BTreeSet<NodeId>,
    logs: BTreeMap<LogNo, Carried>,
    started: Timestamp,
}

/// One log from below.
#[derive(Clone)]
pub(super) struct Carried {
    /// The sessions that carry it.
    by: BTreeSet<u64>,
    pub signed: u64,
    pub heard: Option<Timestamp>,
    refused: Option<String>,
    /// When it was brought by courier, if it was so the last time.
    courier: Option<Timestamp>,
    pub standing: Standing,
}

impl Board {
    /// A session with a child begins; it lasts as long as what is returned.
    pub(in super::super) fn open_session(
        self: &Arc<Self>,
        child: &NodeId,
        courier: bool,
    ) -> Carrying {
        let mut below = lock(&self.below);
        below.sessions += 1;
        below.direct.insert(child.clone());
        Carrying {
            board: self.clone(),
            session: below.sessions,
            courier,
        }
    }

    /// Whether a node has dialled this one since the start.
    pub(in super::super) fn is_direct(&self, node: &NodeId) -> bool {
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
pub(in super::super) struct Carrying {
    board: Arc<Board>,
    session: u64,
    courier: bool,
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
            carried.courier = self.courier.then_some(now);
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
    pub(super) fn new(started: Timestamp) -> Self {
        Self {
            sessions: 0,
            direct: BTreeSet::new(),
            logs: BTreeMap::new(),
            started,
        }
    }

    pub(super) fn carried(&self, view: &LogView, now: Timestamp) -> Carried {
        let held = self.logs.get(&view.log).cloned();
        let mut carried = held.unwrap_or_else(|| Carried {
            by: BTreeSet::new(),
            signed: 0,
            heard: None,
            refused: None,
            courier: None,
            standing: Standing::new(self.started),
        });
        carried.settle(view, now);
        carried
    }
}

impl Carried {
    fn settle(&mut self, view: &LogView, now: Timestamp) {
        let courier = self.courier.filter(|_| self.by.is_empty());
        let (state, reason) = match (&view.quarantined, &self.refused) {
            (Some(reason), _) => (LinkState::Quarantined, reason.clone()),
            (None, Some(reason)) => (LinkState::Refused, reason.clone()),
            (None, None) if self.by.is_empty() && courier.is_none() => {
                (LinkState::Disconnected, String::new())
            }
            (None, None) => {
                let behind = view.tree.size() < self.signed;
                let reason = courier.map(by_courier).unwrap_or_default();
                match behind {
                    true => (LinkState::CatchingUp, reason),
                    false => (LinkState::Current, reason),
                }
            }
        };
        self.standing.turn(state, &reason, now);
    }
}
