//! What goes down: entries that a child has lost.

use super::{
    super::{
        lane::Lane,
        outflow::{Cut, Dispatched},
    },
    Fault, Response, Session, forked, malformed, pb,
};
use crate::types::{Reason, Refusal};

impl Session {
    /// The child holds less of a log than is held here, and says how much.
    pub(super) fn asked_back(&mut self, position: &pb::LogPosition) -> Result<(), Fault> {
        let view = self.view(&position.origin)?;
        if let Some(reason) = &view.quarantined {
            return Err(Fault::Log(forked(reason)));
        }
        let held = view.tree.size();
        if position.size >= held {
            return Err(Fault::Elsewhere(held));
        }
        if self.flow.lanes.get(&view.log).is_some_and(Lane::waits) {
            return Err(Fault::Log(malformed("batches of this log are unanswered")));
        }
        tracing::info!(
            child = %self.child, origin = view.origin(), from = position.size, to = held,
            "the child recovers entries"
        );
        let lane = Lane::until(position.size, held);
        self.flow.lanes.insert(view.log, lane);
        Ok(())
    }

    /// A batch of what was asked back is ready.
    pub(super) async fn give(&mut self, cut: Cut) -> Result<(), Refusal> {
        let dispatched = self.flow.dispatch(cut).map_err(|error| {
            tracing::error!(%error, "replication cannot read what is stored");
            Refusal::new(Reason::DataDamaged)
        })?;
        match dispatched {
            Dispatched::Nothing => {}
            Dispatched::Batch(_, batch) => self.answer(Response::Batch(batch)).await,
            Dispatched::Stopped(log, why) => {
                tracing::warn!(child = %self.child, log = log.0, why, "a log is not given back");
                self.flow.lanes.remove(&log);
                let origin = self.logs.iter().find(|(_, held)| **held == log);
                let refused = pb::Refused {
                    origin: origin.map(|(origin, _)| origin.clone()).unwrap_or_default(),
                    reason: Reason::DataDamaged.number(),
                    message: format!("the parent cannot give it back: {why}"),
                    size: 0,
                };
                self.answer(Response::Refused(refused)).await;
            }
        }
        Ok(())
    }

    /// The child has answered the oldest batch of a log, which it holds up to `size` now.
    pub(super) fn given(&mut self, origin: &str, size: u64, taken: bool) -> Result<(), Refusal> {
        let log = self.logs.get(origin).copied();
        let lane = log.and_then(|log| self.flow.lanes.get_mut(&log));
        let (Some(log), Some(lane)) = (log, lane) else {
            return Err(malformed("it answers what was not sent"));
        };
        match lane.answered() {
            Some(sent) if !taken || sent.checkpoint.size == size => {}
            _ => return Err(malformed("it answers what was not sent")),
        }
        if lane.asks_again() {
            lane.open(size);
        }
        if lane.is_done() {
            self.flow.lanes.remove(&log);
        }
        Ok(())
    }

    /// The child has not taken the oldest batch of a log.
    pub(super) fn not_given(&mut self, refused: &pb::Refused) -> Result<(), Refusal> {
        let (origin, why) = (&refused.origin, &refused.message);
        let log = self.logs.get(origin);
        if let Some(lane) = log.and_then(|log| self.flow.lanes.get_mut(log)) {
            match refused.reason == Reason::IndexOutOfRange.number() {
                true => lane.stray(),
                false => {
                    tracing::warn!(child = %self.child, origin, why, "the child does not take its entries");
                    lane.stop();
                }
            }
        }
        self.given(origin, refused.size, false)
    }
}
