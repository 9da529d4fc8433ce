//! One log on its way over a connection: where it stands, and what is not answered yet.

use std::collections::VecDeque;

use super::{MAX_BATCH_BYTES, batch::Outgoing};
use crate::ledger::note::Checkpoint;

/// Batches of one log that may be unanswered.
const WINDOW_BATCHES: usize = 4;
/// Bytes of one log that may be unanswered: behind these no further batch goes out.
const WINDOW_BYTES: usize = 2 * MAX_BATCH_BYTES;

/// A log within one session.
pub(super) struct Lane {
    stage: Stage,
    /// The next entry to send.
    next: u64,
    unanswered: VecDeque<Sent>,
    /// Whether the parent stands elsewhere: to be asked again once everything is answered.
    astray: bool,
    /// Nothing goes beyond this size.
    end: u64,
    /// Key changes that it was offered with; `None` where the other side has asked for it.
    offered: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The parent has not said where it stands.
    Offered,
    /// Entries may go.
    Open,
    /// The parent holds more: it was asked to send what is missing, up to this size.
    Recovering(u64),
    /// Nothing goes until it is offered again.
    Refused,
    /// Nothing goes any more in this session.
    Stopped,
}

/// A batch that went out.
pub(super) struct Sent {
    pub start: u64,
    pub checkpoint: Checkpoint,
    bytes: usize,
}

impl Lane {
    /// A log that was offered.
    pub fn new() -> Self {
        Self {
            stage: Stage::Offered,
            next: 0,
            unanswered: VecDeque::new(),
            astray: false,
            end: u64::MAX,
            offered: Some(0),
        }
    }

    /// A stretch of a log that the other side has asked for.
    pub fn until(start: u64, end: u64) -> Self {
        let mut lane = Self::new();
        lane.open(start);
        (lane.end, lane.offered) = (end, None);
        lane
    }

    /// Whether nothing more goes, and nothing is unanswered.
    pub fn is_done(&self) -> bool {
        let over = self.stage == Stage::Stopped || self.next >= self.end;
        over && self.unanswered.is_empty()
    }

    /// It is offered with so many key changes.
    pub fn offers(&mut self, changes: usize) {
        self.offered = Some(changes);
    }

    /// Whether the parent was told of all its key changes.
    pub fn has_offered(&self, changes: usize) -> bool {
        self.offered.is_none_or(|offered| offered == changes)
    }

    /// The parent stands at `size`: go on there.
    pub fn open(&mut self, size: u64) {
        if self.stage == Stage::Offered {
            (self.stage, self.next) = (Stage::Open, size);
        }
    }

    /// The parent holds the log up to `target`, and is asked for what is missing here; `false` where the log
    /// is stopped.
    pub fn recover(&mut self, target: u64) -> bool {
        let may = self.stage == Stage::Offered;
        if may {
            self.stage = Stage::Recovering(target);
        }
        may
    }

    /// How much the parent was found to hold, while that is being recovered.
    pub fn recovers(&self) -> Option<u64> {
        match self.stage {
            Stage::Recovering(target) => Some(target),
            _ => None,
        }
    }

    /// Everything is here: the parent is to be asked again where it stands.
    pub fn recovered(&mut self) {
        if matches!(self.stage, Stage::Recovering(_)) {
            self.stage = Stage::Offered;
        }
    }

    pub fn stop(&mut self) {
        self.stage = Stage::Stopped;
    }

    /// The parent does not take the log as things are; what is wrong may be mended on either side.
    pub fn refuse(&mut self) {
        self.stage = Stage::Refused;
    }

    /// Whether a log that was refused can be offered again; then it is.
    pub fn offers_again(&mut self) -> bool {
        let now = self.stage == Stage::Refused && self.unanswered.is_empty();
        if now {
            (self.stage, self.astray) = (Stage::Offered, false);
        }
        now
    }

    /// Where the next batch starts; `None` while none may go, or a log of `size` has nothing more.
    pub fn wants(&self, size: u64) -> Option<u64> {
        let bytes: usize = self.unanswered.iter().map(|sent| sent.bytes).sum();
        let room = self.unanswered.len() < WINDOW_BATCHES && bytes < WINDOW_BYTES;
        let may = self.stage == Stage::Open && !self.astray && room;
        (may && self.next < size.min(self.end)).then_some(self.next)
    }

    /// A batch goes out; `false` where the lane has turned since it was cut.
    pub fn send(&mut self, batch: &Outgoing) -> bool {
        let start = batch.message.start;
        if self.wants(u64::MAX) != Some(start) {
            return false;
        }
        self.next = batch.checkpoint.size;
        self.unanswered.push_back(Sent {
            start,
            checkpoint: batch.checkpoint.clone(),
            bytes: batch.bytes,
        });
        true
    }

    /// The oldest batch is answered; `None` where there is none.
    pub fn answered(&mut self) -> Option<Sent> {
        self.unanswered.pop_front()
    }

    /// The parent stands elsewhere than a batch began.
    pub fn stray(&mut self) {
        self.astray = true;
    }

    /// Whether it is time to ask the parent again where it stands. Told once.
    pub fn asks_again(&mut self) -> bool {
        let now = self.astray && self.unanswered.is_empty() && self.stage == Stage::Open;
        if now {
            (self.stage, self.astray) = (Stage::Offered, false);
        }
        now
    }

    /// Whether the parent is asked where it stands, or for entries.
    pub fn asks(&self) -> bool {
        matches!(self.stage, Stage::Offered | Stage::Recovering(_))
    }

    /// Whether the parent owes an answer.
    pub fn waits(&self) -> bool {
        self.asks() || !self.unanswered.is_empty()
    }
}
