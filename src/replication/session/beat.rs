//! Heartbeats on their way up: the own log's, made now, and those of logs from below, as they came.

use tokio::time::Instant;

use super::{
    super::heartbeat::{self, MAX_BEATS},
    Request, Session,
};
use crate::{proto::replication::v1 as pb, types::LogNo};

impl Session {
    /// Sends what the parent asked to hear. While one waits for room, none is added.
    pub(super) fn beat(&mut self) {
        let Some((every, due)) = &mut self.beats else {
            return;
        };
        *due = Instant::now() + *every;
        let waits = |request: &Request| matches!(request, Request::Heartbeats(_));
        if self.outbox.iter().any(waits) {
            return;
        }
        let mut beats: Vec<_> = self.own_beat().into_iter().collect();
        beats.extend(self.relayed_beats());
        for beats in beats.chunks(MAX_BEATS) {
            let beats = beats.to_vec();
            self.outbox
                .push_back(Request::Heartbeats(pb::Heartbeats { beats }));
        }
    }

    fn own_beat(&self) -> Option<pb::Heartbeat> {
        let view = self.view(LogNo::OWN)?;
        Some(pb::Heartbeat {
            origin: view.origin().to_owned(),
            note: heartbeat::sign(self.ledger(), &view, self.board.now()),
        })
    }

    /// Heartbeats that came since the last ones went up.
    fn relayed_beats(&mut self) -> Vec<pb::Heartbeat> {
        let mut relayed = Vec::new();
        for (log, beat) in self.board.beats() {
            let told = self.beaten.get(&log).is_some_and(|told| *told >= beat.time);
            let Some(view) = self.view(log).filter(|_| !told) else {
                continue;
            };
            self.beaten.insert(log, beat.time);
            relayed.push(pb::Heartbeat {
                origin: view.origin().to_owned(),
                note: beat.note.clone(),
            });
        }
        relayed
    }
}
