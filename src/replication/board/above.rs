//! How the node's logs stand with its parent.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    super::status::{LinkState, Standing, by_courier},
    Board, lock,
};
use crate::{
    ledger::entry::ledger_time,
    proto::ledger::v1 as pb,
    types::{LedgerTime, LogNo},
};

pub(super) struct Above {
    /// Why there is no connection; `None` while there is one.
    down: Option<String>,
    /// Whether the parent was reached and would not have this node.
    turned_away: bool,
    /// Whether the parent was met since the start, or could not be.
    met: bool,
    started: Timestamp,
    logs: BTreeMap<LogNo, Rung>,
}

/// One log towards the parent.
#[derive(Clone)]
pub(super) struct Rung {
    pub cosigned: u64,
    pub time: Option<LedgerTime>,
    trouble: Option<(LinkState, String)>,
    /// When the newest cosignature came by courier, if it did.
    carried: Option<LedgerTime>,
    pub standing: Standing,
}

impl Board {
    /// A connection is there; what the parent says of each log comes next.
    pub(in super::super) fn connecting(&self) {
        self.turn_all(|above| {
            above.down = Some("greeting the parent".to_owned());
            above.logs.values_mut().for_each(|rung| rung.trouble = None);
        });
    }

    /// The parent has said where it stands.
    pub(in super::super) fn connected(&self) {
        self.turn_all(|above| {
            (above.down, above.met, above.turned_away) = (None, true, false);
        });
    }

    pub(in super::super) fn disconnected(&self, why: &str, turned_away: bool) {
        self.turn_all(|above| {
            (above.down, above.met) = (Some(why.to_owned()), true);
            above.turned_away = turned_away;
        });
    }

    pub(in super::super) fn is_turned_away(&self) -> bool {
        lock(&self.above).turned_away
    }

    pub(in super::super) fn is_connected(&self) -> bool {
        lock(&self.above).down.is_none()
    }

    /// Waits until the parent was met since the start, or could not be.
    pub(in super::super) async fn met(&self) {
        let mut changes = self.changes();
        while !lock(&self.above).met && changes.changed().await.is_ok() {}
    }

    pub(in super::super) fn cosigned_size(&self, log: LogNo) -> u64 {
        lock(&self.above)
            .logs
            .get(&log)
            .map_or(0, |rung| rung.cosigned)
    }

    /// A log has grown: it takes on the state that its size gives it.
    pub(in super::super) fn grown(&self, log: LogNo) {
        self.turn_one(log, |_| ());
    }

    /// The parent holds this much, by a cosignature that is kept, or by its own word.
    pub(in super::super) fn cosigned(&self, log: LogNo, size: u64, time: Option<LedgerTime>) {
        self.turn_one(log, |rung| {
            rung.cosigned = size;
            rung.time = time.or(rung.time);
            rung.carried = None;
        });
    }

    /// The parent holds this much, by a cosignature that a courier has brought.
    pub(in super::super) fn carried(
        &self,
        log: LogNo,
        size: u64,
        time: Option<LedgerTime>,
        at: LedgerTime,
    ) {
        self.turn_one(log, |rung| {
            (rung.cosigned, rung.time) = (size, time.or(rung.time));
            rung.carried = Some(at);
        });
    }

    pub(in super::super) fn trouble(&self, log: LogNo, state: LinkState, reason: &str) {
        self.turn_one(log, |rung| rung.trouble = Some((state, reason.to_owned())));
    }

    /// What the trouble was may be over: the parent is asked again.
    pub(in super::super) fn untrouble(&self, log: LogNo) {
        self.turn_one(log, |rung| rung.trouble = None);
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

    fn size(&self, log: LogNo) -> u64 {
        let published = self.ledger.published();
        published.logs.get(&log).map_or(0, |view| view.tree.size())
    }
}

impl Above {
    pub(super) fn new(started: Timestamp, logs: BTreeMap<LogNo, Rung>) -> Self {
        Self {
            down: Some("not connected since the start".to_owned()),
            turned_away: false,
            met: false,
            started,
            logs,
        }
    }

    /// A log as it stands at this size.
    pub(super) fn rung(&self, log: LogNo, size: u64, now: Timestamp) -> Rung {
        let held = self.logs.get(&log).cloned();
        let mut rung = held.unwrap_or_else(|| Rung::new(self.started));
        self.settle(&mut rung, size, now);
        rung
    }

    fn settle(&self, rung: &mut Rung, size: u64, now: Timestamp) {
        let (state, reason) = match (&self.down, &rung.trouble) {
            (Some(why), Some((LinkState::Recovering, _))) => (LinkState::Disconnected, why.clone()),
            (_, Some((state, reason))) => (*state, reason.clone()),
            (Some(why), None) => match rung.carried {
                Some(at) if rung.cosigned < size => (LinkState::CatchingUp, by_courier(at.into())),
                Some(at) => (LinkState::Current, by_courier(at.into())),
                None => (LinkState::Disconnected, why.clone()),
            },
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
            carried: None,
            standing: Standing::new(now),
        }
    }

    pub(super) fn kept(cosignature: &pb::Cosignature, now: Timestamp) -> Self {
        Self {
            cosigned: u64::try_from(cosignature.size).unwrap_or(0),
            time: ledger_time(cosignature.time.as_ref()),
            carried: ledger_time(cosignature.carried_time.as_ref()),
            ..Self::new(now)
        }
    }
}
