//! How the logs of children stand here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    super::{
        heartbeat::{Beat, Pulse},
        status::{LinkState, Standing, by_courier},
    },
    Board, lock,
};
use crate::{
    ledger::{LogView, note::Note},
    types::{ChildTable, LogNo, NodeId, UtcOffset},
};

pub(super) struct Below {
    sessions: u64,
    direct: BTreeSet<NodeId>,
    pub(super) logs: BTreeMap<LogNo, Carried>,
    pub(super) started: Timestamp,
    pub(super) pulse: Pulse,
    pub(super) expected: Arc<ChildTable>,
    pub(super) zone: UtcOffset,
    /// Which expected children are missing, as far as the log was told.
    pub(super) missing: BTreeSet<NodeId>,
}

/// One log from below.
#[derive(Clone)]
pub(super) struct Carried {
    /// The sessions that carry it.
    by: BTreeSet<u64>,
    /// The largest size that its origin has signed, and the note that says so.
    pub signed: u64,
    pub signed_note: String,
    /// When a child last spoke of it.
    pub heard: Option<Timestamp>,
    /// When its origin last gave a sign of life.
    pub alive: Option<Timestamp>,
    pub beat: Option<Arc<Beat>>,
    /// Why the last heartbeat that came was not taken.
    faint: Option<String>,
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
            child: child.clone(),
            courier,
        }
    }

    /// Whether a node has dialled this one since the start.
    pub(in super::super) fn is_direct(&self, node: &NodeId) -> bool {
        lock(&self.below).direct.contains(node)
    }

    pub(super) fn change(&self, log: LogNo, change: impl FnOnce(&mut Carried)) {
        let (published, now) = (self.ledger.published(), self.clock.now());
        let Some(view) = published.logs.get(&log) else {
            return;
        };
        let mut below = lock(&self.below);
        let mut carried = below.carried(view, now);
        change(&mut carried);
        below.settle(&mut carried, view, now);
        below.logs.insert(log, carried);
        self.changed();
    }
}

/// What one session with a child carries.
pub(in super::super) struct Carrying {
    board: Arc<Board>,
    session: u64,
    child: NodeId,
    courier: bool,
}

impl Carrying {
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// The child spoke of a log; its origin has signed `note`, if there is one.
    pub fn heard(&self, view: &LogView, note: Option<&Note>) {
        let now = self.board.clock.now();
        // A child speaks for its own log; what it carries for others says nothing of their being alive.
        let alive = view.node() == self.child.as_str();
        self.board.change(view.log, |carried| {
            carried.by.insert(self.session);
            carried.heard = Some(now);
            carried.courier = self.courier.then_some(now);
            carried.refused = None;
            let news = note.is_some_and(|note| carried.has_signed(note));
            // A file may have been under way for long: it is a sign of life where it brings something new.
            if alive && (news || !self.courier) {
                carried.alive = carried.alive.max(Some(now));
            }
        });
    }

    /// A heartbeat of a log came, and was verified.
    pub fn beat(&self, log: LogNo, note: &Note, beat: Beat) {
        self.board.change(log, |carried| {
            carried.by.insert(self.session);
            carried.take(note, beat);
        });
    }

    /// A heartbeat came that is not taken.
    pub fn faint(&self, log: LogNo, why: &str) {
        let why = Some(why.to_owned());
        self.board.change(log, |carried| carried.faint = why);
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
        let mut below = lock(&self.board.below);
        let mut logs = std::mem::take(&mut below.logs);
        for (log, carried) in &mut logs {
            if carried.by.remove(&self.session)
                && let Some(view) = published.logs.get(log)
            {
                below.settle(carried, view, now);
            }
        }
        below.logs = logs;
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
            pulse: Pulse::default(),
            expected: Arc::default(),
            zone: UtcOffset::default(),
            missing: BTreeSet::new(),
        }
    }

    pub(super) fn carried(&self, view: &LogView, now: Timestamp) -> Carried {
        let held = self.logs.get(&view.log).cloned();
        let mut carried = held.unwrap_or_else(|| Carried::new(self.started));
        self.settle(&mut carried, view, now);
        carried
    }

    pub(super) fn settle(&self, carried: &mut Carried, view: &LogView, now: Timestamp) {
        // A clock that was set back must not make a log look alive for longer.
        carried.alive = carried.alive.map(|alive| alive.min(now));
        let behind = view.tree.size() < carried.signed;
        if let Some(reason) = &view.closed {
            carried.standing.turn(LinkState::Closed, reason, now);
            return;
        }
        // What comes by courier comes when it comes: there is nobody to be silent.
        let courier = carried.courier.filter(|_| carried.by.is_empty());
        let (state, reason, since) = match (&view.quarantined, &carried.refused) {
            (Some(reason), _) => (LinkState::Quarantined, reason.clone(), now),
            (None, Some(reason)) => (LinkState::Refused, reason.clone(), now),
            (None, None) if courier.is_some() => {
                let reason = courier.map(by_courier).unwrap_or_default();
                match behind {
                    true => (LinkState::CatchingUp, reason, now),
                    false => (LinkState::Current, reason, now),
                }
            }
            (None, None) => match self.silent(carried, now) {
                Some(since) => (LinkState::Silent, carried.silence(), since),
                None if carried.by.is_empty() => (LinkState::Disconnected, String::new(), now),
                None if behind => (LinkState::CatchingUp, String::new(), now),
                None => (LinkState::Current, String::new(), now),
            },
        };
        carried.standing.turn(state, &reason, since);
    }

    /// Since when a log counts as silent; `None` while it does not.
    pub(super) fn silent(&self, carried: &Carried, now: Timestamp) -> Option<Timestamp> {
        let last = carried.alive.unwrap_or(self.started.min(now));
        let since = last.saturating_add(self.pulse.silent_after);
        since.ok().filter(|since| *since <= now)
    }
}

impl Carried {
    fn new(started: Timestamp) -> Self {
        Self {
            by: BTreeSet::new(),
            signed: 0,
            signed_note: String::new(),
            heard: None,
            alive: None,
            beat: None,
            faint: None,
            refused: None,
            courier: None,
            standing: Standing::new(started),
        }
    }

    /// Its origin has signed a checkpoint; whether it is the largest so far.
    pub(super) fn has_signed(&mut self, note: &Note) -> bool {
        let news = note.checkpoint().size > self.signed || self.signed_note.is_empty();
        if news {
            (self.signed, self.signed_note) = (note.checkpoint().size, note.to_string());
        }
        news
    }

    /// Takes a heartbeat, if it is news.
    pub(super) fn take(&mut self, note: &Note, beat: Beat) {
        if self.beat.as_ref().is_some_and(|held| !beat.is_newer(held)) {
            return;
        }
        self.has_signed(note);
        self.faint = None;
        self.heard = self.heard.max(Some(beat.heard));
        self.alive = self.alive.max(Some(beat.heard));
        self.beat = Some(Arc::new(beat));
    }

    fn silence(&self) -> String {
        let last = match self.alive {
            Some(alive) => format!("no sign of life since {alive:.0}"),
            None => "no sign of life since this node started".to_owned(),
        };
        match &self.faint {
            Some(why) => format!("{last}; its last heartbeat was not taken: {why}"),
            None => last,
        }
    }
}
