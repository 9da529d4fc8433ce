//! Where the parent stands with a log, and what it means where that does not fit what is here.

use std::sync::Arc;

use super::{
    super::{
        Agreement, LinkError, LinkState, agreement,
        batch::own_checkpoint,
        keys::{self, Cosigner, Told},
        receipt,
    },
    Receipt, Request, Session, storage,
};
use crate::{
    ledger::{Intake, LogView, entry::ledger_time, key_change::KeyChange},
    proto::replication::v1 as pb,
    types::LogNo,
};

impl Session {
    /// Where the parent stands with one log, and whether that fits what is here.
    pub(super) async fn place(
        &mut self,
        parent: &str,
        key: &Cosigner,
        position: &pb::LogPosition,
    ) -> Result<(), LinkError> {
        let Some(view) = self.known(&position.origin) else {
            return Ok(());
        };
        let view = match self.keys_above(view, &position.key_changes).await? {
            Some(view) => view,
            None => return Ok(()),
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

    /// Changes of a log's key that the parent knows and this node does not. `None` where the log must wait for them.
    async fn keys_above(
        &mut self,
        view: Arc<LogView>,
        told: &[String],
    ) -> Result<Option<Arc<LogView>>, LinkError> {
        if told.is_empty() {
            return Ok(Some(view));
        }
        let changes: Result<Vec<_>, _> = told.iter().map(|note| KeyChange::parse(note)).collect();
        let changes = match changes {
            Ok(changes) => changes,
            Err(error) => {
                let text = format!("the parent's word on its key: {error}");
                self.stop(view.log, LinkState::Refused, &text);
                return Ok(None);
            }
        };
        if view.log == LogNo::OWN {
            self.key_behind(&view, &changes);
            return Ok(None);
        }
        match keys::take(self.ledger(), &view, changes.into_iter()).await {
            Ok(()) => Ok(self.view(view.log)),
            Err(Told::Stopped) => Err(LinkError::Stopping),
            Err(Told::Refused(refusal)) => {
                self.stop(view.log, LinkState::Refused, &refusal.to_string());
                Ok(None)
            }
            Err(Told::Quarantined(reason)) => {
                self.stop(view.log, LinkState::Quarantined, &reason);
                Ok(None)
            }
        }
    }

    /// The parent knows a key of this node's own log that the node does not. Signed by the key in force, it proves that
    /// the node was restored from a copy of before the change.
    fn key_behind(&mut self, view: &LogView, changes: &[KeyChange]) {
        let proven =
            |change: &&KeyChange| change.is_signed_by_old() && change.old() == view.keys.current();
        let Some(change) = changes.iter().find(proven) else {
            let text = "the parent believes another key of this node's log, by its operator's word";
            return self.stop(view.log, LinkState::Refused, text);
        };
        let id = change.new_key().id();
        let text = format!(
            "this node's log is signed with key {id} at the parent, which the node itself does not know: it was \
             restored from an old copy. It takes nothing in, or its log would fork; recover it first"
        );
        self.ledger().set_intake(Intake::BehindParent(text.clone()));
        self.stop(view.log, LinkState::Refused, &text);
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
