//! Heartbeats that come up.

use super::{
    super::heartbeat::{self, MAX_BEATS},
    Fault, Response, Session, inflow, malformed, pb,
};
use crate::types::Refusal;

impl Session {
    /// Heartbeats: of logs that are known, each judged alone. One that does not verify is not taken, and the
    /// status says why; one that contradicts what is held is evidence like any other checkpoint.
    pub(super) async fn beats(&mut self, heartbeats: &pb::Heartbeats) -> Result<(), Refusal> {
        if heartbeats.beats.len() > MAX_BEATS {
            return Err(malformed("too many heartbeats in one message"));
        }
        for beat in &heartbeats.beats {
            if let Err(fault) = self.heartbeat(beat).await {
                let refused = self.refusal(&beat.origin, fault)?;
                self.answer(Response::Refused(refused)).await;
            }
        }
        Ok(())
    }

    async fn heartbeat(&self, beat: &pb::Heartbeat) -> Result<(), Fault> {
        let ledger = self.board().ledger();
        // One of a log that was not taken up is no fault of the child.
        let Ok(view) = self.view(&beat.origin) else {
            return Ok(());
        };
        match heartbeat::read(&view, &beat.note, self.board().now()) {
            Ok((note, beat)) => {
                self.carrying.beat(view.log, &note, beat);
                if inflow::takes(&view).is_err() {
                    return Ok(());
                }
                inflow::compare(ledger, &view, note).await
            }
            Err(why) => {
                tracing::warn!(child = %self.child, origin = beat.origin, %why, "a heartbeat is dropped");
                self.carrying.faint(view.log, &why.to_string());
                Ok(())
            }
        }
    }
}
