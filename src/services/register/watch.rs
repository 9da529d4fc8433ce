//! Watching: the journal from a position on, one register's revisions in it.
//!
//! A watch reads the journal, not a queue of its own: however slow its caller is, it holds one
//! stretch of it in memory, and nothing is lost.

use std::{collections::VecDeque, time::Duration};

use futures::stream;
use tokio::{sync::watch, time::timeout};
use tonic::Status;

use super::{Answers, Call};
use crate::{
    ledger::{Published, entry::StoredEntry, head::EntryRef},
    registers::Filter,
    services::{
        status::{status, storage},
        wire,
    },
    storage::{Frame, FrameKind, Position},
    types::{Collection, FieldReason, Reason, Refusal, Violations},
};

/// Longest silence: then a sign of life with the position goes out.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Payload bytes of the journal read at a time.
const SCAN_BYTES: usize = 256 * 1024;

struct Watch {
    call: Call,
    collection: Collection,
    filter: Filter,
    /// Everything before it was looked at.
    at: Position,
    ready: VecDeque<(wire::Revision, Position)>,
    follow: watch::Receiver<std::sync::Arc<Published>>,
    ended: bool,
}

/// Starts a watch; what is wrong with the request is answered at once.
pub(super) fn watch(
    call: Call,
    request: wire::WatchRequest,
) -> Result<Answers<wire::RevisionResponse>, Refusal> {
    let mut violations = Violations::new();
    let parent: Option<Collection> = violations.parse("parent", &request.parent);
    if request.from_start && !request.position.is_empty() {
        let (en, zh) = (
            "it must be empty with from_start",
            "与 from_start 同用时应为空",
        );
        violations.field("position", FieldReason::NotAllowed, en, zh);
    }
    let collection = violations.into_complete(parent).map_err(Refusal::from)?;
    if *collection.register() != call.id {
        return Err(Refusal::new(Reason::RecordNotFound));
    }
    call.account.names(&collection);
    let filter = call.filter(&request.filter)?;
    let follow = call.shared.ledger.follow();
    let at = match (request.from_start, request.position.as_str()) {
        (true, _) => Position::default(),
        (false, "") => follow.borrow().end,
        (false, position) => call.shared.positions.open(position)?,
    };
    let ready = VecDeque::new();
    let watch = Watch {
        call,
        collection,
        filter,
        at,
        ready,
        follow,
        ended: false,
    };
    Ok(Box::pin(stream::unfold(watch, |mut watch| async move {
        if watch.ended {
            return None;
        }
        let answer = watch.next().await;
        watch.ended = answer.is_err();
        Some((answer, watch))
    })))
}

impl Watch {
    async fn next(&mut self) -> Result<wire::RevisionResponse, Status> {
        loop {
            if let Some((revision, position)) = self.ready.pop_front() {
                return Ok(self.answer(Some(revision), position));
            }
            let end = self.follow.borrow_and_update().end;
            if self.at < end {
                let looked_at = self.read(end).map_err(status)?;
                // A watch that is behind waits for its rate, and a long stretch without a match must not keep
                // its thread from others.
                self.call.looked_at(looked_at).await.map_err(status)?;
                tokio::task::yield_now().await;
                continue;
            }
            match timeout(HEARTBEAT, self.follow.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(status(Reason::ShuttingDown.into())),
                Err(_) => return Ok(self.answer(None, self.at)),
            }
        }
    }

    fn answer(&self, revision: Option<wire::Revision>, at: Position) -> wire::RevisionResponse {
        wire::RevisionResponse {
            revision,
            position: self.call.shared.positions.seal(at),
        }
    }

    /// Reads one stretch, never past what was published: the rest is not applied yet. Tells how many frames
    /// it looked at.
    fn read(&mut self, end: Position) -> Result<usize, Refusal> {
        let scan = self
            .call
            .shared
            .ledger
            .journal()
            .scan(self.at, SCAN_BYTES)
            .map_err(storage)?;
        let nexts = scan.frames.iter().skip(1).map(|(position, _)| *position);
        let nexts: Vec<_> = nexts.chain([scan.next]).collect();
        let looked_at = scan.frames.len();
        for ((position, frame), next) in scan.frames.into_iter().zip(nexts) {
            if position >= end {
                break;
            }
            if let Some(revision) = self.matching(frame)? {
                self.ready.push_back((revision, next));
            }
            self.at = next;
        }
        Ok(looked_at)
    }

    fn matching(&self, frame: Frame) -> Result<Option<wire::Revision>, Refusal> {
        if frame.kind != FrameKind::Entry {
            return Ok(None);
        }
        let at = EntryRef {
            log: frame.log,
            index: frame.index,
        };
        let Ok(entry) = StoredEntry::parse(at, frame.payload) else {
            return Ok(None);
        };
        let wanted = self.collection.contains(&entry.name)
            && self.call.caller.sees(&self.call.id, entry.name.agency())
            && self
                .call
                .register()?
                .matches(&self.filter, &entry, self.call.shared.clock.now());
        if wanted {
            self.call.shows(entry.name.agency(), true)?;
            self.call.revision(&entry).map(Some)
        } else {
            Ok(None)
        }
    }
}
