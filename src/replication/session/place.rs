//! Where the parent stands with a log, and what it means where that does not fit what is here.

use super::{
    super::{Agreement, LinkError, LinkState, agreement, batch::own_checkpoint, receipt},
    Receipt, Request, Session, storage,
};
use crate::{
    ledger::{LogView, entry::ledger_time, note::VerifierKey},
    proto::replication::v1 as pb,
    types::LogNo,
};

impl Session {
    /// Where the parent stands with one log, and whether that fits what is here.
    pub(super) async fn place(
        &mut self,
        parent: &str,
        key: &VerifierKey,
        position: &pb::LogPosition,
    ) -> Result<(), LinkError> {
        let Some(view) = self.known(&position.origin) else {
            return Ok(());
        };
        let receipt = match position.cosigned.as_str() {
            "" => None,
            note => match receipt::read(&view, parent, key, note) {
                Ok(receipt) => Some(receipt),
                Err(why) => {
                    self.stop(
                        view.log,
                        LinkState::Refused,
                        &format!("the parent's word: {why}"),
                    );
                    return Ok(());
                }
            },
        };
        if receipt
            .as_ref()
            .map_or(0, |receipt| receipt.checkpoint().size)
            != position.size
        {
            let text = format!(
                "the parent claims {} entries without a proof",
                position.size
            );
            self.stop(view.log, LinkState::Refused, &text);
            return Ok(());
        }
        let Some(receipt) = receipt else {
            if view.log == LogNo::OWN {
                self.ledger().caught_up().map_err(storage)?;
            }
            self.resume(&view, 0, None);
            return Ok(());
        };
        match agreement(self.ledger(), &view, receipt.checkpoint()).map_err(storage)? {
            Agreement::Agrees => {
                if view.log == LogNo::OWN {
                    self.ledger().caught_up().map_err(storage)?;
                }
                self.resume(&view, position.size, Some(receipt));
            }
            Agreement::Beyond => self.recover(&view, receipt).await?,
            Agreement::Contradicts if view.log == LogNo::OWN => self.forked(&view, receipt).await?,
            Agreement::Contradicts => self.quarantine(&view, receipt).await?,
        }
        Ok(())
    }

    fn resume(&mut self, view: &LogView, size: u64, receipt: Option<Receipt>) {
        let held = self.board.cosigned_size(view.log);
        if size < held {
            tracing::warn!(
                origin = view.origin(),
                cosigned = held,
                size,
                "the parent holds less than it has cosigned; it is sent again"
            );
        }
        let time = receipt
            .as_ref()
            .and_then(|r| ledger_time(r.cosignature.time.as_ref()));
        self.board.cosigned(view.log, size, time);
        if let Some(receipt) = receipt.filter(|_| size > held) {
            self.queue(view.log, receipt);
        }
        if let Some(lane) = self.flow.lanes.get_mut(&view.log) {
            lane.open(size);
        }
    }

    /// The parent proves, by this node's own signature, that the own log was another once: restored, and
    /// grown since. The parent is shown the contradicting checkpoint.
    async fn forked(&mut self, view: &LogView, receipt: Receipt) -> Result<(), LinkError> {
        let size = receipt.checkpoint().size;
        let text = format!(
            "this node's log has another root at size {size} than the parent holds under its \
             signature: it was restored from an old copy and has grown since. It takes nothing in; \
             ask the parent's operator"
        );
        let closed = self
            .ledger()
            .quarantine(view.log, receipt.note, text.clone());
        closed.await.map_err(|_| LinkError::Stopping)?;
        self.stop(view.log, LinkState::Quarantined, &text);
        let checkpoint = own_checkpoint(self.ledger(), view, size);
        let (checkpoint, _) = checkpoint.map_err(storage)?;
        let log = Some(pb::LogOffer {
            checkpoint,
            ..self.offer(view)
        });
        self.outbox.push_back(Request::Offer(pb::Offer { log }));
        Ok(())
    }

    /// The parent proves, by the origin's signature, that a log from below has forked.
    async fn quarantine(&mut self, view: &LogView, receipt: Receipt) -> Result<(), LinkError> {
        let size = receipt.checkpoint().size;
        let text =
            format!("its origin has signed two roots of size {size}; the parent holds the other");
        let quarantined = self
            .ledger()
            .quarantine(view.log, receipt.note, text.clone())
            .await;
        quarantined.map_err(|_| LinkError::Stopping)?;
        self.stop(view.log, LinkState::Quarantined, &text);
        Ok(())
    }
}
