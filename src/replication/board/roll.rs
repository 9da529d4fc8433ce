//! Who is expected and who is heard: children that are missing by name, and what a restart must not forget.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    super::{
        heartbeat::{self, Pulse},
        status::{ChildStatus, LinkState},
    },
    Board,
    below::Below,
    lock,
};
use crate::{
    ledger::{LogView, note::Note},
    types::{ChildTable, ExpectedChild, LogNo, NodeId, UtcOffset},
};

/// What is kept of a log from below, so that a restart does not forget when it was last heard and how much it
/// has signed. All of it is signed by the log's origin, and verified when it is read again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The origin.
    pub origin: String,
    /// The newest heartbeat; empty for none.
    pub heartbeat: String,
    /// The checkpoint of the largest size that was signed; empty where all of it is held.
    pub signed: String,
    /// When the origin last gave a sign of life.
    pub alive: Option<Timestamp>,
}

impl Board {
    /// How often this node wants to hear of each log.
    pub fn set_pulse(&self, pulse: Pulse) {
        lock(&self.below).pulse = pulse;
        self.changed();
    }

    pub(in super::super) fn pulse(&self) -> Pulse {
        lock(&self.below).pulse
    }

    /// Which children are expected, with hours in this zone.
    pub fn expect(&self, children: Arc<ChildTable>, zone: UtcOffset) {
        let mut below = lock(&self.below);
        (below.expected, below.zone) = (children, zone);
        drop(below);
        self.changed();
    }

    /// Expected children that are missing, each with since when.
    #[must_use]
    pub fn missing(&self) -> Vec<(NodeId, Timestamp)> {
        let children = self.children();
        let missing = children.iter().filter_map(|child| {
            let node = child.node.parse().ok()?;
            Some((node, child.missing_since?))
        });
        let unique: std::collections::BTreeMap<_, _> = missing.collect();
        unique.into_iter().collect()
    }

    /// Looks at the time: logs fall silent, children are missing, without anybody having said a word. What
    /// turns is told to the log, once. To be called every second or so.
    pub fn look(&self) {
        let (published, now) = (self.ledger.published(), self.clock.now());
        let mut turned = false;
        let mut below = lock(&self.below);
        for view in published.logs.values().filter(|v| v.log != LogNo::OWN) {
            let before = below.logs.get(&view.log).map(|held| held.standing.state);
            let carried = below.carried(view, now);
            if before != Some(carried.standing.state) {
                turned = true;
                tell(
                    view,
                    before,
                    carried.standing.state,
                    &carried.standing.reason,
                );
            }
            below.logs.insert(view.log, carried);
        }
        drop(below);
        turned |= self.look_for_missing();
        if turned {
            self.changed();
        }
    }

    fn look_for_missing(&self) -> bool {
        let missing = self.missing();
        let nodes: BTreeSet<_> = missing.iter().map(|(node, _)| node.clone()).collect();
        let mut below = lock(&self.below);
        for (node, since) in &missing {
            if !below.missing.contains(node) {
                tracing::warn!(%node, %since, "a child that is expected is missing");
            }
        }
        for node in below.missing.difference(&nodes) {
            tracing::info!(%node, "a child that was missing has come");
        }
        let turned = below.missing != nodes;
        below.missing = nodes;
        turned
    }

    /// What a restart must not forget.
    #[must_use]
    pub fn keep(&self) -> Vec<Kept> {
        let published = self.ledger.published();
        let below = lock(&self.below);
        let kept = below.logs.iter().filter_map(|(log, carried)| {
            let (view, beat) = (published.logs.get(log)?, carried.beat.as_ref());
            let behind = carried.signed > view.tree.size();
            let kept = Kept {
                origin: view.origin().to_owned(),
                heartbeat: beat.map(|beat| beat.note.clone()).unwrap_or_default(),
                signed: match behind {
                    true => carried.signed_note.clone(),
                    false => String::new(),
                },
                alive: carried.alive,
            };
            (kept.alive.is_some() || !kept.signed.is_empty()).then_some(kept)
        });
        kept.collect()
    }

    /// Takes on what was kept before a restart, as far as it verifies.
    pub fn recall(&self, kept: &[Kept]) {
        let now = self.clock.now();
        for kept in kept {
            let Some(view) = self.ledger.log(&kept.origin) else {
                continue;
            };
            let beat = heartbeat::read(&view, &kept.heartbeat, now).ok();
            let signed: Option<Note> = kept.signed.parse().ok();
            let signed = signed.filter(|note| view.keys.verify(note).is_ok());
            self.change(view.log, |carried| {
                if let Some(note) = &signed {
                    carried.has_signed(note);
                }
                if let Some((note, mut beat)) = beat {
                    // When it came was another time than now.
                    beat.heard = kept.alive.unwrap_or(beat.heard).min(beat.heard);
                    carried.take(&note, beat);
                }
                let alive = kept.alive.map(|alive| alive.min(now));
                carried.alive = carried.alive.max(alive);
                carried.heard = carried.heard.max(alive);
            });
        }
    }
}

fn tell(view: &LogView, before: Option<LinkState>, state: LinkState, reason: &str) {
    let origin = view.origin();
    match (before, state) {
        (_, LinkState::Silent) => tracing::warn!(origin, reason, "a log is silent"),
        (Some(LinkState::Silent), _) => tracing::info!(origin, "a log is heard again"),
        _ => {}
    }
}

impl Below {
    /// Adds what is expected of the children, and those of which there is no log.
    pub(super) fn judge(&self, children: &mut Vec<ChildStatus>, now: Timestamp) {
        for expected in self.expected.iter() {
            let of_node = |child: &&mut ChildStatus| child.node == expected.node.as_str();
            let alive = children
                .iter()
                .filter(|child| child.node == expected.node.as_str())
                .filter_map(|child| child.alive)
                .max();
            let last = alive.unwrap_or(self.started.min(now));
            let silent = last.saturating_add(self.pulse.silent_after).ok();
            let silent = silent.filter(|since| *since <= now);
            let missing = expected.missing(alive, silent, now, self.zone);
            let mut seen = false;
            for child in children.iter_mut().filter(of_node) {
                seen = true;
                child.expect(expected, missing);
            }
            if !seen {
                children.push(self.never_seen(expected, missing));
            }
        }
    }

    fn never_seen(&self, expected: &ExpectedChild, missing: Option<Timestamp>) -> ChildStatus {
        let mut child = ChildStatus {
            log: None,
            node: expected.node.to_string(),
            origin: String::new(),
            signed_size: 0,
            size: 0,
            state: LinkState::NeverSeen,
            since: self.started,
            reason: format!("{} has never come", expected.name),
            heard: None,
            alive: None,
            heartbeat: None,
            expected: false,
            due: None,
            missing_since: None,
        };
        child.expect(expected, missing);
        child
    }
}
