//! What the parent holds more of than this node: the node was restored from an old copy, or built anew.

use std::sync::Arc;

use super::{
    super::{
        LinkError, LinkState,
        inflow::{self, Fault, malformed},
        lane::Lane,
    },
    Receipt, Request, Session,
};
use crate::{
    ledger::LogView,
    proto::replication::v1 as pb,
    types::{LogNo, Reason, Refusal},
};

impl Session {
    /// The parent proves, by the origin's signature, that a log was longer once than it is here: it is asked for
    /// the rest. Of the own log nothing new is taken in until it is here, or the log would fork.
    pub(super) async fn recover(
        &mut self,
        view: &LogView,
        receipt: Receipt,
    ) -> Result<(), LinkError> {
        let target = receipt.checkpoint().size;
        let lane = self.flow.lanes.get_mut(&view.log);
        if !lane.is_some_and(|lane| lane.recover(target)) {
            return Ok(());
        }
        let mut held = view.tree.size();
        let mut text = format!("recovering: {held} of {target} entries are here");
        if view.log == LogNo::OWN {
            text = format!(
                "the parent holds {target} entries of this node's log, the node itself {held}: it was \
                 restored from an old copy. It takes nothing in until it has recovered the missing \
                 entries from the parent, or its log would fork"
            );
            let ledger = self.ledger();
            let closed = ledger.quarantine(LogNo::OWN, receipt.note, text.clone());
            closed.await.map_err(|_| LinkError::Stopping)?;
            // From here on the own log grows by what is recovered alone.
            held = self.view(view.log).map_or(held, |view| view.tree.size());
        }
        tracing::warn!(
            origin = view.origin(),
            held,
            target,
            "recovering entries from the parent"
        );
        self.board.trouble(view.log, LinkState::Recovering, &text);
        self.outbox.push_back(Request::Position(pb::LogPosition {
            origin: view.origin().to_owned(),
            size: held,
            cosigned: String::new(),
            verifier_key: String::new(),
            key_changes: Vec::new(),
        }));
        Ok(())
    }

    /// Entries that the parent gives back.
    pub(super) async fn take(&mut self, batch: pb::Batch) -> Result<(), LinkError> {
        let origin = batch.origin.clone();
        let (answer, stop) = match self.taken(batch).await {
            Ok((view, cosigned)) => {
                self.outbox.push_back(Request::Cosigned(cosigned.clone()));
                self.went_on(&view, cosigned.size);
                return Ok(());
            }
            Err(Fault::Session(refusal)) => {
                return Err(match refusal.reason {
                    Reason::ShuttingDown => LinkError::Stopping,
                    _ => LinkError::Storage(refusal.en),
                });
            }
            Err(Fault::Elsewhere(size)) => {
                let en = format!("the log goes on at {size}");
                let refusal = Refusal::new(Reason::IndexOutOfRange);
                (refused(&origin, refusal.because(en, ""), size), None)
            }
            Err(Fault::Log(refusal)) => {
                let en = &refusal.en;
                let text = format!(
                    "what the parent gives back is refused, and nothing of it was stored: {en}; either \
                     the parent is at fault, or this node has grown since it was restored"
                );
                (refused(&origin, refusal, 0), Some(text))
            }
        };
        self.outbox.push_back(Request::Refused(answer));
        let log = self.origins.get(&origin).copied();
        let recovers = |log: &LogNo| self.recovers(*log).is_some();
        if let (Some(log), Some(text)) = (log.filter(recovers), stop) {
            self.stop(log, LinkState::Refused, &text);
        }
        Ok(())
    }

    async fn taken(&mut self, batch: pb::Batch) -> Result<(Arc<LogView>, pb::Cosigned), Fault> {
        let view = self.known(&batch.origin);
        let view = view.filter(|view| self.recovers(view.log).is_some());
        let view = view.ok_or_else(|| Fault::Log(malformed("this log was not asked for")))?;
        let ledger = self.ledger();
        let note = inflow::verify(ledger, &view, &batch, true).await?;
        // Whoever cosigned it above has no place in what this node keeps of logs from below.
        let keys: Vec<_> = view
            .keys
            .periods()
            .iter()
            .map(|period| period.key)
            .collect();
        let note = note.bearing(&keys);
        let own = self.board.own().node();
        let cosigned = inflow::store(ledger, own, &view, batch, note).await?;
        Ok((view, cosigned))
    }

    fn recovers(&self, log: LogNo) -> Option<u64> {
        self.flow.lanes.get(&log).and_then(Lane::recovers)
    }

    /// Once everything is here the parent is asked again where it stands: that opens the way up, and of the
    /// own log the intake.
    fn went_on(&mut self, view: &LogView, size: u64) {
        self.progress = true;
        let Some(target) = self.recovers(view.log) else {
            return;
        };
        if size < target {
            let text = format!("recovering: {size} of {target} entries are here");
            self.board.trouble(view.log, LinkState::Recovering, &text);
            return;
        }
        tracing::info!(
            origin = view.origin(),
            size,
            "everything that the parent holds is here again"
        );
        if let Some(lane) = self.flow.lanes.get_mut(&view.log) {
            lane.recovered();
        }
        self.board.untrouble(view.log);
        let Some(view) = self.view(view.log) else {
            return;
        };
        let log = Some(self.offer(&view));
        self.outbox.push_back(Request::Offer(pb::Offer { log }));
    }
}

fn refused(origin: &str, refusal: Refusal, size: u64) -> pb::Refused {
    pb::Refused {
        origin: origin.to_owned(),
        reason: refusal.reason.number(),
        message: refusal.en,
        size,
    }
}
