//! What a sync moved, and how it ended.

use jiff::Timestamp;

use super::{Board, LinkState, UplinkStatus};

/// How a sync ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncOutcome {
    /// Everything that was held when it began is cosigned.
    Complete,
    /// The parent was not reached in time.
    NotReached,
    /// The parent refused a log, or the node itself.
    Refused,
    /// The parent has quarantined a log.
    Quarantined,
    /// The parent was reached, and time ran out.
    OutOfTime,
    /// Another sync is under way.
    Busy,
}

/// What a sync moved, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    /// Every log that was held when it began.
    pub logs: Vec<SyncedLog>,
    /// Whether everything that was held when it began is cosigned.
    pub complete: bool,
    /// Why not, at the end of one that is not complete.
    pub reason: String,
    /// How it ended; `None` while it goes on.
    pub outcome: Option<SyncOutcome>,
    /// When it began.
    began: Timestamp,
}

/// What one log moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncedLog {
    /// Its origin.
    pub origin: String,
    /// Its size when the sync began.
    pub size: u64,
    /// Cosigned when the sync began.
    pub before: u64,
    /// Cosigned now.
    pub after: u64,
    /// How it stands now.
    pub state: LinkState,
    /// Why, where the state needs it; empty otherwise.
    pub reason: String,
}

impl SyncedLog {
    fn stopped(&self) -> bool {
        matches!(self.state, LinkState::Refused | LinkState::Quarantined)
    }

    fn behind(&self) -> bool {
        self.after < self.size && self.state != LinkState::Closed
    }
}

impl Synced {
    pub(super) fn start(uplinks: &[UplinkStatus], began: Timestamp) -> Self {
        let logs = uplinks.iter().map(|status| SyncedLog {
            origin: status.origin.clone(),
            size: status.size,
            before: status.cosigned,
            after: status.cosigned,
            state: status.state,
            reason: status.reason.clone(),
        });
        Self {
            logs: logs.collect(),
            complete: false,
            reason: String::new(),
            outcome: None,
            began,
        }
    }

    /// One that has left at once, for another is under way.
    #[must_use]
    pub fn busy(began: Timestamp) -> Self {
        Self {
            logs: Vec::new(),
            complete: false,
            reason: "another sync is under way; this one has done nothing".to_owned(),
            outcome: Some(SyncOutcome::Busy),
            began,
        }
    }

    /// Looks at how every log stands now; `true` where nothing moves any more. What the last connection
    /// said does not count, the parent may have been restored since; nor a refusal of before, what was
    /// wrong may be mended.
    pub(super) fn look(&mut self, board: &Board) -> bool {
        let mut settled = board.is_connected();
        let uplinks = board.uplinks();
        for log in &mut self.logs {
            if let Some(status) = uplinks.iter().find(|status| status.origin == log.origin) {
                (log.after, log.state) = (status.cosigned, status.state);
                log.reason.clone_from(&status.reason);
                settled &= !log.stopped() || status.since >= self.began;
                settled &= status.state != LinkState::Recovering;
            }
        }
        settled && self.logs.iter().all(|log| log.stopped() || !log.behind())
    }

    pub(super) fn end(&mut self, late: bool, board: &Board) {
        let behind = self.logs.iter().find(|log| log.behind() || log.stopped());
        self.complete = behind.is_none() && !late;
        self.reason = match (behind, late) {
            (None, false) => String::new(),
            (Some(log), false) => format!("{}: {}", log.origin, log.reason),
            (Some(log), true) => {
                let (after, size) = (log.after, log.size);
                let text = format!("{}: {after} of {size} cosigned in time", log.origin);
                if log.reason.is_empty() {
                    text
                } else {
                    format!("{text}; {}", log.reason)
                }
            }
            (None, true) => {
                let reason = self.logs.first().map_or("", |log| &log.reason);
                format!("the parent did not answer in time; {reason}")
            }
        };
        self.outcome = Some(self.outcome(board));
    }

    fn outcome(&self, board: &Board) -> SyncOutcome {
        let stands = |state| self.logs.iter().any(|log| log.state == state);
        match board.is_connected() {
            _ if self.complete => SyncOutcome::Complete,
            _ if stands(LinkState::Quarantined) => SyncOutcome::Quarantined,
            _ if stands(LinkState::Refused) || board.is_turned_away() => SyncOutcome::Refused,
            true => SyncOutcome::OutOfTime,
            false => SyncOutcome::NotReached,
        }
    }
}
