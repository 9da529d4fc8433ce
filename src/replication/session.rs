//! The child's side of one connection: offer every log, send each from where the parent stands,
//! keep what the parent and those above it cosign, take back what the parent holds more of.

mod place;
mod recover;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, future::join_all};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Agreement, Board, Link, LinkError, LinkState, Versions, agreement,
    lane::Lane,
    outflow::{Cut, Dispatched, Outflow},
    receipt::{self, Receipt},
    uplink::Wants,
};
use crate::{
    ledger::{Ledger, LogView, entry::ledger_time, note::VerifierKey},
    proto::{
        error::v1::ErrorReason,
        ledger::v1 as ledger_pb,
        replication::v1::{
            self as pb, replicate_request::Message as Request,
            replicate_response::Message as Response,
        },
    },
    storage::StorageError,
    types::LogNo,
};

/// Cosignatures are kept at most this often while there are many: each costs the journal a frame.
const KEEP_EVERY: Duration = Duration::from_millis(200);
/// A log that was refused is offered again after this long, or when somebody asks for a sync: what was
/// wrong may have been mended.
const OFFER_AGAIN: Duration = Duration::from_secs(60);
/// A parent that owes an answer and says nothing for this long is given up.
const SILENCE: Duration = Duration::from_secs(60);

pub(super) struct Session {
    board: Arc<Board>,
    link: Link,
    wants: Wants,
    flow: Outflow,
    origins: HashMap<String, LogNo>,
    /// What goes out next. A batch is cut only when this is empty.
    outbox: VecDeque<Request>,
    /// The parent's key for cosignatures, once it said Welcome.
    parent: Option<VerifierKey>,
    /// Verified, not kept yet: the newest of every log and node.
    receipts: BTreeMap<(LogNo, String), Arc<ledger_pb::Cosignature>>,
    kept: Option<Instant>,
    heard: Instant,
    /// When a log was refused that was not offered again since.
    refused: Option<Instant>,
    /// Syncs that were asked for.
    asked: u64,
    /// Whether something was cosigned.
    pub progress: bool,
    versions: Versions,
}

enum Event<'a> {
    Heard(Option<Result<pb::ReplicateResponse, LinkError>>),
    Room(Option<mpsc::Permit<'a, pb::ReplicateRequest>>),
    Cut(Cut),
    Grown,
    Keep,
    Wants,
    Again,
}

impl Session {
    pub fn new(board: Arc<Board>, link: Link, wants: Wants, versions: Versions) -> Self {
        Self {
            refused: None,
            asked: wants.ever(),
            board,
            link,
            wants,
            flow: Outflow::new(),
            origins: HashMap::new(),
            outbox: VecDeque::new(),
            parent: None,
            receipts: BTreeMap::new(),
            kept: None,
            heard: Instant::now(),
            progress: false,
            versions,
        }
    }

    /// Runs until nobody wants it any more, or until it fails.
    pub async fn run(&mut self, shutdown: &CancellationToken) -> Result<(), LinkError> {
        self.board.connecting();
        self.hello();
        let ended = self.drive(shutdown).await;
        // The last cosignatures are kept whatever ended the session.
        self.keep().await?;
        ended
    }

    async fn drive(&mut self, shutdown: &CancellationToken) -> Result<(), LinkError> {
        let mut published = self.board.ledger().follow();
        let up = self.link.up.clone();
        while self.parent.is_none() || self.wants.any() || self.asks() {
            self.offer_new();
            if self.outbox.is_empty() {
                self.flow.cut_next(self.board.ledger());
            }
            let keep_at = self.keep_at();
            let give_up = self.give_up_at();
            // In this order, so that a simulation repeats itself: what comes seldom is asked first, and
            // none that follows can be kept waiting for long.
            let event = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Err(LinkError::Stopping),
                () = at(keep_at) => Event::Keep,
                () = at(give_up) => return Err(LinkError::Silent),
                () = at(self.refused.map(|at| at + OFFER_AGAIN)) => Event::Again,
                () = self.wants.changed() => Event::Wants,
                done = self.flow.cut() => Event::Cut(done),
                room = up.reserve(), if !self.outbox.is_empty() => Event::Room(room.ok()),
                heard = self.link.down.next() => Event::Heard(heard),
                changed = published.changed() => {
                    changed.map_err(|_| LinkError::Stopping)?;
                    Event::Grown
                }
            };
            match event {
                Event::Heard(message) => self.hear(message).await?,
                Event::Room(room) => self.send(room)?,
                Event::Cut(done) => self.dispatch(done)?,
                Event::Keep => self.keep().await?,
                Event::Wants if self.wants.ever() == self.asked => {}
                Event::Wants | Event::Again => self.offer_again(),
                Event::Grown => {}
            }
        }
        Ok(())
    }

    /// Whether it is still to be told where the parent stands, or to be given what it has lost.
    fn asks(&self) -> bool {
        self.flow.lanes.values().any(Lane::asks)
    }

    fn ledger(&self) -> &Ledger {
        self.board.ledger()
    }

    fn view(&self, log: LogNo) -> Option<Arc<LogView>> {
        self.ledger().published().logs.get(&log).cloned()
    }

    fn known(&self, origin: &str) -> Option<Arc<LogView>> {
        self.view(*self.origins.get(origin)?)
    }

    // What goes up.

    fn hello(&mut self) {
        let published = self.ledger().published();
        let logs = published
            .logs
            .values()
            .map(|view| self.offer(view))
            .collect();
        let (version_min, version_max) = (self.versions.min, self.versions.max);
        self.outbox.push_back(Request::Hello(pb::Hello {
            version_min,
            version_max,
            logs,
            recover: false,
        }));
    }

    fn offer(&mut self, view: &LogView) -> pb::LogOffer {
        self.flow.lanes.entry(view.log).or_insert_with(Lane::new);
        self.origins.insert(view.origin().to_owned(), view.log);
        pb::LogOffer {
            origin: view.origin().to_owned(),
            verifier_key: view.key.to_string(),
            checkpoint: view.note.clone(),
        }
    }

    /// Offers logs that have appeared.
    fn offer_new(&mut self) {
        let published = self.ledger().published();
        if self.parent.is_none() || published.logs.len() == self.flow.lanes.len() {
            return;
        }
        for view in published.logs.values() {
            if !self.flow.lanes.contains_key(&view.log) {
                let log = Some(self.offer(view));
                self.outbox.push_back(Request::Offer(pb::Offer { log }));
            }
        }
    }

    fn dispatch(&mut self, done: Cut) -> Result<(), LinkError> {
        match self.flow.dispatch(done).map_err(storage)? {
            Dispatched::Nothing => {}
            Dispatched::Batch(log, batch) => {
                self.outbox.push_back(Request::Batch(batch));
                self.board.grown(log);
            }
            Dispatched::Stopped(log, why) => self.stop(log, LinkState::Refused, why),
        }
        Ok(())
    }

    fn send(
        &mut self,
        room: Option<mpsc::Permit<'_, pb::ReplicateRequest>>,
    ) -> Result<(), LinkError> {
        let room = room.ok_or(LinkError::Ended)?;
        if let Some(message) = self.outbox.pop_front() {
            room.send(pb::ReplicateRequest {
                message: Some(message),
            });
        }
        Ok(())
    }

    fn stop(&mut self, log: LogNo, state: LinkState, reason: &str) {
        tracing::warn!(log = log.0, reason, "a log is not replicated");
        if let Some(lane) = self.flow.lanes.get_mut(&log) {
            if state == LinkState::Refused {
                lane.refuse();
                self.refused = Some(Instant::now());
            } else {
                lane.stop();
            }
        }
        self.board.trouble(log, state, reason);
    }

    fn give_up_at(&self) -> Option<Instant> {
        let owed = self.parent.is_none() || self.flow.lanes.values().any(Lane::waits);
        owed.then(|| self.heard + SILENCE)
    }

    // What comes down.

    async fn hear(
        &mut self,
        message: Option<Result<pb::ReplicateResponse, LinkError>>,
    ) -> Result<(), LinkError> {
        let response = message.ok_or(LinkError::Ended)??;
        self.heard = Instant::now();
        match response.message {
            Some(Response::Welcome(welcome)) => self.welcomed(welcome).await,
            Some(Response::Cosigned(cosigned)) => self.cosigned(&cosigned),
            Some(Response::Refused(refused)) => {
                self.refused(&refused);
                Ok(())
            }
            Some(Response::Batch(batch)) => self.take(batch).await,
            // A later version's message: what matters to this one is sent as this one knows it.
            None => Ok(()),
        }
    }

    async fn welcomed(&mut self, welcome: pb::Welcome) -> Result<(), LinkError> {
        let protocol = |text: String| LinkError::Protocol(text);
        if !self.versions.has(welcome.version) {
            let (chosen, own) = (welcome.version, self.versions);
            return Err(protocol(format!(
                "it chose version {chosen}, this node speaks {own}"
            )));
        }
        let parent = self
            .board
            .parent()
            .map(ToString::to_string)
            .unwrap_or_default();
        if welcome.node != parent {
            return Err(protocol(format!(
                "it is node {}, not {parent}",
                welcome.node
            )));
        }
        let key = receipt::cosigner(&self.board, &welcome.node, &welcome.verifier_key);
        let key = key.map_err(protocol)?;
        for position in &welcome.logs {
            self.place(&parent, &key, position).await?;
        }
        if self.parent.replace(key).is_none() {
            // Where the parent stands is known as soon as it is said to be connected.
            self.keep().await?;
            self.board.connected();
        }
        Ok(())
    }

    fn cosigned(&mut self, cosigned: &pb::Cosigned) -> Result<(), LinkError> {
        let protocol = |text: String| LinkError::Protocol(text);
        let view = self.known(&cosigned.origin);
        let view =
            view.ok_or_else(|| protocol(format!("no log {} was offered", cosigned.origin)))?;
        if self
            .board
            .parent()
            .is_none_or(|parent| parent.as_str() != cosigned.node)
        {
            self.relayed(&view, cosigned);
            return Ok(());
        }
        let key = self
            .parent
            .as_ref()
            .ok_or_else(|| protocol("no Welcome came".to_owned()))?;
        let receipt =
            receipt::read(&view, &cosigned.node, key, &cosigned.note).map_err(protocol)?;
        let sent = self.flow.lanes.get_mut(&view.log).and_then(Lane::answered);
        if sent.is_none_or(|sent| sent.checkpoint != *receipt.checkpoint()) {
            return Err(protocol("it cosigned what was not sent".to_owned()));
        }
        self.progress = true;
        self.queue(view.log, receipt);
        self.ask_again(&view);
        Ok(())
    }

    /// A cosignature of a node further up. One that does not fit is not kept, and stops nothing.
    fn relayed(&mut self, view: &LogView, cosigned: &pb::Cosigned) {
        let key = receipt::cosigner(&self.board, &cosigned.node, &cosigned.verifier_key);
        let receipt = key.and_then(|key| receipt::read(view, &cosigned.node, &key, &cosigned.note));
        let fits = receipt.and_then(|receipt| {
            match agreement(self.ledger(), view, receipt.checkpoint()) {
                Ok(Agreement::Agrees) => Ok(receipt),
                Ok(_) => Err("its root is not that of this log".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        });
        match fits {
            Ok(receipt) => self.queue(view.log, receipt),
            Err(why) => tracing::warn!(
                origin = view.origin(),
                node = cosigned.node,
                why,
                "a relayed cosignature is dropped"
            ),
        }
    }

    fn refused(&mut self, refused: &pb::Refused) {
        let Some(view) = self.known(&refused.origin) else {
            return;
        };
        let sent = self.flow.lanes.get_mut(&view.log).and_then(Lane::answered);
        match (refused.reason(), sent) {
            (ErrorReason::IndexOutOfRange, Some(sent)) if sent.start != refused.size => {
                if let Some(lane) = self.flow.lanes.get_mut(&view.log) {
                    lane.stray();
                }
                self.ask_again(&view);
            }
            (ErrorReason::LogForked, _) => {
                self.stop(view.log, LinkState::Quarantined, &refused.message);
            }
            _ => self.stop(view.log, LinkState::Refused, &refused.message),
        }
    }

    /// Offers a log anew where another connection has carried it further: the Welcome brings the parent's
    /// cosignature of what it holds.
    fn ask_again(&mut self, view: &LogView) {
        if self
            .flow
            .lanes
            .get_mut(&view.log)
            .is_some_and(Lane::asks_again)
        {
            let log = Some(self.offer(view));
            self.outbox.push_back(Request::Offer(pb::Offer { log }));
        }
    }

    /// Offers the logs anew that were refused.
    fn offer_again(&mut self) {
        (self.refused, self.asked) = (None, self.wants.ever());
        let again = self.flow.lanes.iter_mut();
        let again: Vec<_> = again
            .filter_map(|(log, lane)| lane.offers_again().then_some(*log))
            .collect();
        for log in again {
            let Some(view) = self.view(log) else { continue };
            self.board.untrouble(view.log);
            let log = Some(self.offer(&view));
            self.outbox.push_back(Request::Offer(pb::Offer { log }));
        }
    }

    // What is kept.

    fn queue(&mut self, log: LogNo, receipt: Receipt) {
        let cosignature = receipt.cosignature;
        self.receipts
            .insert((log, cosignature.node.clone()), Arc::new(cosignature));
    }

    fn keep_at(&self) -> Option<Instant> {
        let now = Instant::now();
        let due = self.kept.map_or(now, |kept| kept + KEEP_EVERY);
        (!self.receipts.is_empty()).then_some(due)
    }

    /// Keeps the newest cosignature of every log, and lets everybody see it.
    async fn keep(&mut self) -> Result<(), LinkError> {
        if self.receipts.is_empty() {
            return Ok(());
        }
        let receipts = std::mem::take(&mut self.receipts);
        let ledger = self.board.ledger();
        let keeping = receipts.iter().map(|((log, _), cosignature)| {
            ledger.keep_cosignature(*log, cosignature.as_ref().clone())
        });
        if join_all(keeping).await.iter().any(Result::is_err) {
            return Err(LinkError::Stopping);
        }
        for ((log, node), cosignature) in receipts {
            if self
                .board
                .parent()
                .is_some_and(|parent| parent.as_str() == node)
            {
                let size = u64::try_from(cosignature.size).unwrap_or(0);
                self.board
                    .cosigned(log, size, ledger_time(cosignature.time.as_ref()));
            }
            self.board.kept(log, cosignature);
        }
        self.kept = Some(Instant::now());
        Ok(())
    }
}

fn storage(error: StorageError) -> LinkError {
    LinkError::Storage(error.to_string())
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
