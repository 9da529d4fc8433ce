//! How replication stands, on both sides; told by what was verified, never by what was hoped.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::types::NodeId;

/// The state of one log's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Everything is cosigned.
    Current,
    /// Connected; entries are on their way.
    CatchingUp,
    /// Not connected.
    Disconnected,
    /// The parent refused the log.
    Refused,
    /// The log contradicts itself.
    Quarantined,
}

/// One log's link to the parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The size that the parent has cosigned.
    pub cosigned: u64,
    /// The time inside the newest cosignature.
    pub cosigned_time: Option<Timestamp>,
    /// The state.
    pub state: LinkState,
    /// Since when.
    pub since: Timestamp,
    /// Why, where the state needs a reason.
    pub reason: String,
}

impl Link {
    /// A link that has not been used since the node started.
    #[must_use]
    pub fn idle(cosigned: u64, cosigned_time: Option<Timestamp>, now: Timestamp) -> Self {
        let state = LinkState::Disconnected;
        Self {
            cosigned,
            cosigned_time,
            state,
            since: now,
            reason: String::new(),
        }
    }

    /// Moves to a state; `since` changes only with it.
    pub fn enter(&mut self, state: LinkState, reason: &str, now: Timestamp) {
        if self.state != state || self.reason != reason {
            self.state = state;
            self.since = now;
            reason.clone_into(&mut self.reason);
        }
    }
}

/// Every log's link to the parent, by origin.
pub type Links = BTreeMap<String, Link>;

/// The links as others follow them.
pub type LinksSender = watch::Sender<Links>;

/// What a parent has heard of a log from below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// The child that carries it.
    pub carrier: NodeId,
    /// The largest size that its origin has signed, as far as this node was told.
    pub signed: u64,
    /// When it was last heard of.
    pub time: Timestamp,
    /// Whether its carrier is connected.
    pub connected: bool,
    /// Since when it is connected, or not.
    pub since: Timestamp,
}

/// What a parent has heard of all logs from below since it started.
#[derive(Debug, Default)]
pub struct Children(Mutex<BTreeMap<String, Heard>>);

impl Children {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Heard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A log was heard of.
    pub fn heard(&self, origin: &str, carrier: &NodeId, signed: u64, now: Timestamp) {
        let mut held = self.lock();
        let entry = held.entry(origin.to_owned()).or_insert_with(|| Heard {
            carrier: carrier.clone(),
            signed,
            time: now,
            connected: true,
            since: now,
        });
        if !entry.connected {
            entry.connected = true;
            entry.since = now;
        }
        entry.carrier = carrier.clone();
        entry.signed = entry.signed.max(signed);
        entry.time = now;
    }

    /// A child's stream ended.
    pub fn lost(&self, carrier: &NodeId, now: Timestamp) {
        for heard in self.lock().values_mut() {
            if heard.carrier == *carrier && heard.connected {
                heard.connected = false;
                heard.since = now;
            }
        }
    }

    /// What was heard of a log.
    #[must_use]
    pub fn get(&self, origin: &str) -> Option<Heard> {
        self.lock().get(origin).cloned()
    }
}
