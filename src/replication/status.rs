//! How a log stands with the parent, and how a child's log stands here.

use jiff::Timestamp;

use crate::types::{ExpectedChild, LedgerTime, LogNo, NodeId, TimeOfDay};

/// How a log's replication stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkState {
    /// Everything that was signed is cosigned.
    Current,
    /// Connected; entries are on their way.
    CatchingUp,
    /// Connected; the parent holds more than this node, which takes it back.
    Recovering,
    /// Not connected.
    Disconnected,
    /// Refused, or stopped because something does not fit; the reason says what to do.
    Refused,
    /// Quarantined for a contradiction; evidence is kept.
    Quarantined,
    /// An operator has closed it; its node goes on with a new one.
    Closed,
    /// Its origin gives no sign of life, whether or not a connection looks open.
    Silent,
    /// A child that is expected and has never come.
    NeverSeen,
}

/// A state, since when, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    pub state: LinkState,
    pub since: Timestamp,
    pub reason: String,
}

impl Standing {
    pub fn new(now: Timestamp) -> Self {
        Self {
            state: LinkState::Disconnected,
            since: now,
            reason: String::new(),
        }
    }

    /// Takes on a state; the time is that of the change of state, not of the reason.
    pub fn turn(&mut self, state: LinkState, reason: &str, now: Timestamp) {
        if self.state != state {
            (self.state, self.since) = (state, now);
        }
        if self.reason != reason {
            reason.clone_into(&mut self.reason);
        }
    }
}

/// The reason of a state that rests on what a courier brought.
pub(super) fn by_courier(at: Timestamp) -> String {
    format!("by courier, at {at:.0}")
}

/// How one log stands with the parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UplinkStatus {
    /// The log's number here.
    pub log: LogNo,
    /// Its origin.
    pub origin: String,
    /// The parent.
    pub parent: NodeId,
    /// Entries here, signed by the origin.
    pub size: u64,
    /// Entries that the parent says it holds, under its signature.
    pub cosigned: u64,
    /// The state.
    pub state: LinkState,
    /// Since when.
    pub since: Timestamp,
    /// Why, where the state needs it; empty otherwise.
    pub reason: String,
    /// The time inside the parent's newest cosignature.
    pub cosigned_time: Option<LedgerTime>,
}

impl UplinkStatus {
    /// Entries that are signed and not cosigned.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.size.saturating_sub(self.cosigned)
    }
}

/// How one log from below stands here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildStatus {
    /// The log's number here; `None` for a child that is expected and has no log here.
    pub log: Option<LogNo>,
    /// The node that is its origin.
    pub node: String,
    /// Its origin.
    pub origin: String,
    /// Entries that the origin has signed, as far as this node was told.
    pub signed_size: u64,
    /// Entries held here, verified and durable; every one of them is cosigned.
    pub size: u64,
    /// The state.
    pub state: LinkState,
    /// Since when.
    pub since: Timestamp,
    /// Why, where the state needs it; empty otherwise.
    pub reason: String,
    /// When a child last spoke of this log; `None` since this node's start.
    pub heard: Option<Timestamp>,
    /// When its origin last gave a sign of life: a heartbeat, or words of its own over its own connection.
    pub alive: Option<Timestamp>,
    /// The time inside its newest heartbeat, by the origin's clock.
    pub heartbeat: Option<LedgerTime>,
    /// Whether the node is in the table of expected children.
    pub expected: bool,
    /// The hour by which it must come every day.
    pub due: Option<TimeOfDay>,
    /// Since when it is missing: it was expected and has not come.
    pub missing_since: Option<Timestamp>,
}

impl ChildStatus {
    /// Entries that are signed and not held here.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.signed_size.saturating_sub(self.size)
    }

    pub(super) fn expect(&mut self, expected: &ExpectedChild, missing: Option<Timestamp>) {
        (self.expected, self.due) = (true, expected.due);
        self.missing_since = missing;
    }
}
