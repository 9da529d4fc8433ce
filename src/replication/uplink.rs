//! The child's side: dials the parent, resumes where it says, keeps what it cosigns.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, future::BoxFuture};
use jiff::Timestamp;
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::{
    MAX_MESSAGE_BYTES, VERSIONS, batch,
    status::{Link, LinkState, Links, LinksSender},
};
use crate::{
    ledger::{
        Intake, Ledger, LogView,
        entry::timestamp,
        note::{Note, VerifierKey},
    },
    proto::{
        error::v1::ErrorReason,
        ledger::v1::Cosignature,
        replication::v1::{
            Cosigned, Hello, LogOffer, LogPosition, Refused, ReplicateRequest, ReplicateResponse,
            Welcome, replicate_request, replicate_response::Message,
            replication_service_client::ReplicationServiceClient,
        },
    },
    types::{Clock, LogNo, NodeId, TrustDomain},
};

/// Batches of one log that may be unanswered.
const WINDOW: usize = 4;
/// Messages that may wait for the connection.
const QUEUE: usize = 16;
/// While catching up, at most one cosignature of a log is kept in this time; the last one always is.
const KEEP_EVERY: Duration = Duration::from_millis(200);
/// First and longest pause before dialling again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// A parent that does not answer Hello by then is dialled again.
const WELCOME: Duration = Duration::from_secs(30);

/// Makes a connection to the parent, or says why not.
pub type Connect = Box<dyn Fn() -> BoxFuture<'static, Result<Channel, String>> + Send + Sync>;

/// The uplink of a node.
pub struct Uplink {
    ledger: Ledger,
    clock: Arc<dyn Clock>,
    trust_domain: TrustDomain,
    parent: NodeId,
    connect: Connect,
    links: LinksSender,
    /// Runs of [`Uplink::sync`] under way: in manual mode, the reason to be connected.
    demand: watch::Sender<usize>,
}

/// What one log moved in a [`Uplink::sync`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    /// The log.
    pub origin: String,
    /// Its size when the call came.
    pub size: u64,
    /// What the parent had cosigned then.
    pub before: u64,
    /// What it has cosigned now.
    pub after: u64,
    /// Why it will not get further; empty where it may.
    pub stopped: String,
}

impl Uplink {
    /// An uplink to `parent`.
    #[must_use]
    pub fn new(
        ledger: Ledger,
        clock: Arc<dyn Clock>,
        trust_domain: TrustDomain,
        parent: NodeId,
        connect: Connect,
    ) -> Self {
        let links = watch::Sender::new(Links::new());
        let demand = watch::Sender::new(0);
        let uplink = Self {
            ledger,
            clock,
            trust_domain,
            parent,
            connect,
            links,
            demand,
        };
        uplink.refresh();
        uplink
    }

    /// The parent's id.
    #[must_use]
    pub fn parent(&self) -> &NodeId {
        &self.parent
    }

    /// How every log stands.
    #[must_use]
    pub fn links(&self) -> watch::Receiver<Links> {
        self.links.subscribe()
    }

    /// Runs until `shutdown` ends: always connected, or in manual mode only while a sync asks.
    pub async fn run(&self, manual: bool, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = shutdown => {}
            () = self.keep_going(manual) => {}
        }
    }

    async fn keep_going(&self, manual: bool) {
        let mut pause = BACK_OFF.0;
        let mut demand = self.demand.subscribe();
        loop {
            if manual && demand.wait_for(|runs| *runs > 0).await.is_err() {
                return;
            }
            let started = Instant::now();
            let ended = if manual {
                tokio::select! {
                    ended = self.session() => ended,
                    _ = demand.wait_for(|runs| *runs == 0) => Ok(()),
                }
            } else {
                self.session().await
            };
            let reason = ended.err().unwrap_or_default();
            if !reason.is_empty() {
                tracing::warn!(parent = %self.parent, reason, "replication is interrupted");
            }
            self.disconnected(&reason);
            if started.elapsed() > BACK_OFF.1 {
                pause = BACK_OFF.0;
            }
            if !reason.is_empty() {
                sleep(jittered(pause)).await;
                pause = (pause * 2).min(BACK_OFF.1);
            }
        }
    }

    /// Waits until everything that the node holds now is cosigned, at most for `limit`; `progress` is called
    /// with every change.
    pub async fn sync(&self, limit: Duration, mut progress: impl FnMut(&[Synced])) -> Vec<Synced> {
        let _demand = Demand::new(&self.demand);
        self.refresh();
        let mut links = self.links.subscribe();
        let published = self.ledger.published();
        let mut synced: Vec<Synced> = published
            .logs
            .values()
            .map(|view| {
                let before = links
                    .borrow()
                    .get(view.origin())
                    .map_or(0, |link| link.cosigned);
                Synced {
                    origin: view.origin().to_owned(),
                    size: view.tree.size(),
                    before,
                    after: before,
                    stopped: String::new(),
                }
            })
            .collect();
        let waiting = async {
            loop {
                for log in &mut synced {
                    if let Some(link) = links.borrow_and_update().get(&log.origin) {
                        log.after = link.cosigned;
                        let stopped =
                            matches!(link.state, LinkState::Refused | LinkState::Quarantined);
                        log.stopped = if stopped {
                            link.reason.clone()
                        } else {
                            String::new()
                        };
                    }
                }
                progress(&synced);
                let done = |log: &Synced| log.after >= log.size || !log.stopped.is_empty();
                if synced.iter().all(done) || links.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = timeout(limit, waiting).await;
        synced
    }

    /// Links for logs that are new, and cosignatures that are stored.
    fn refresh(&self) {
        let now = self.clock.now();
        for view in self.ledger.published().logs.values() {
            let held = self.ledger.cosignatures(view.log).unwrap_or_default();
            let held = held.into_iter().find(|c| c.node == self.parent.as_str());
            let size = held
                .as_ref()
                .and_then(|c| u64::try_from(c.size).ok())
                .unwrap_or(0);
            let time = held.and_then(|c| c.time);
            let time = time.and_then(|t| Timestamp::new(t.seconds, t.nanos).ok());
            self.links.send_if_modified(|links| {
                let known = links.contains_key(view.origin());
                let link = links
                    .entry(view.origin().to_owned())
                    .or_insert_with(|| Link::idle(size, time, now));
                if view.quarantined.is_some() {
                    let reason = view.quarantined.clone().unwrap_or_default();
                    link.enter(LinkState::Quarantined, &reason, now);
                }
                !known
            });
        }
    }

    fn disconnected(&self, reason: &str) {
        let now = self.clock.now();
        self.links.send_modify(|links| {
            for link in links.values_mut() {
                if matches!(link.state, LinkState::Current | LinkState::CatchingUp)
                    || (link.state == LinkState::Disconnected && !reason.is_empty())
                {
                    link.enter(LinkState::Disconnected, reason, now);
                }
            }
        });
    }

    fn update(&self, origin: &str, change: impl FnOnce(&mut Link)) {
        self.links.send_modify(|links| {
            if let Some(link) = links.get_mut(origin) {
                change(link);
            }
        });
    }

    /// One connection, from Hello until it breaks.
    async fn session(&self) -> Result<(), String> {
        self.refresh();
        let channel = (self.connect)().await?;
        let mut client = ReplicationServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let (sender, receiver) = mpsc::channel(QUEUE);
        let views: Vec<_> = self.ledger.published().logs.values().cloned().collect();
        let hello = Hello {
            version_min: VERSIONS.0,
            version_max: VERSIONS.1,
            logs: views.iter().map(|view| offer(view)).collect(),
        };
        let _ = sender.try_send(request(replicate_request::Message::Hello(hello)));
        let opened = timeout(WELCOME, client.replicate(ReceiverStream::new(receiver))).await;
        let opened = opened.map_err(|_| "the parent does not answer".to_owned())?;
        let inbound = opened.map_err(|status| said(&status))?.into_inner();
        let mut session = Session {
            uplink: self,
            sender,
            logs: BTreeMap::new(),
            parent_key: None,
        };
        for view in &views {
            session
                .logs
                .insert(view.origin().to_owned(), Sending::new(view.log));
        }
        let ended = session.run(inbound).await;
        let kept = session.keep_all().await;
        ended.and(kept)
    }
}

/// Counts as a reason to be connected until it is dropped.
struct Demand<'a>(&'a watch::Sender<usize>);

impl<'a> Demand<'a> {
    fn new(demand: &'a watch::Sender<usize>) -> Self {
        demand.send_modify(|runs| *runs += 1);
        Self(demand)
    }
}

impl Drop for Demand<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|runs| *runs = runs.saturating_sub(1));
    }
}

/// One log in one session.
struct Sending {
    log: LogNo,
    /// The next index to send; `None` until the parent has said where.
    next: Option<u64>,
    /// Batches that are not answered.
    in_flight: usize,
    /// Where to go on once nothing is in flight, after a batch that started elsewhere.
    resume: Option<u64>,
    stopped: bool,
    /// The newest cosignature that is verified and not kept yet.
    unkept: Option<Cosignature>,
    kept: Instant,
}

impl Sending {
    fn new(log: LogNo) -> Self {
        Self {
            log,
            next: None,
            in_flight: 0,
            resume: None,
            stopped: false,
            unkept: None,
            kept: Instant::now(),
        }
    }
}

struct Session<'a> {
    uplink: &'a Uplink,
    sender: mpsc::Sender<ReplicateRequest>,
    logs: BTreeMap<String, Sending>,
    parent_key: Option<VerifierKey>,
}

impl Session<'_> {
    async fn run(&mut self, mut inbound: Streaming<ReplicateResponse>) -> Result<(), String> {
        let mut follow = self.uplink.ledger.follow();
        let mut keep = tokio::time::interval(KEEP_EVERY);
        let sender = self.sender.clone();
        loop {
            let more = self.send()?;
            tokio::select! {
                answer = inbound.next() => match answer {
                    Some(Ok(answer)) => self.take(answer).await?,
                    Some(Err(status)) => return Err(said(&status)),
                    None => return Err("the parent ended the stream".to_owned()),
                },
                changed = follow.changed() => {
                    changed.map_err(|_| "the node stops".to_owned())?;
                    self.offer_new();
                }
                // The queue was full with more to send: go on when there is room.
                room = sender.reserve(), if more => drop(room.map_err(|_| closed())?),
                _ = keep.tick() => self.keep_due().await?,
            }
        }
    }

    /// Fills every log's window, one batch of each in turn; `true` where the queue is full and more waits.
    fn send(&mut self) -> Result<bool, String> {
        let published = self.uplink.ledger.published();
        loop {
            let mut sent = false;
            for sending in self.logs.values_mut() {
                if sending.in_flight == 0
                    && let Some(resume) = sending.resume.take()
                {
                    sending.next = Some(resume);
                }
                let idle =
                    sending.stopped || sending.in_flight >= WINDOW || sending.resume.is_some();
                let (Some(next), false) = (sending.next, idle) else {
                    continue;
                };
                let Some(view) = published.logs.get(&sending.log) else {
                    continue;
                };
                let cut = batch::cut(&self.uplink.ledger, view, next);
                let Some(batch) = cut.map_err(|e| e.to_string())? else {
                    continue;
                };
                let count = batch.entries.len() as u64;
                match self
                    .sender
                    .try_send(request(replicate_request::Message::Batch(batch)))
                {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => return Ok(true),
                    Err(mpsc::error::TrySendError::Closed(_)) => return Err(closed()),
                }
                sending.next = Some(next + count);
                sending.in_flight += 1;
                sent = true;
            }
            if !sent {
                return Ok(false);
            }
        }
    }

    /// Offers logs that have appeared since.
    fn offer_new(&mut self) {
        for view in self.uplink.ledger.published().logs.values() {
            if self.logs.contains_key(view.origin()) {
                continue;
            }
            let message = request(replicate_request::Message::Offer(
                crate::proto::replication::v1::Offer {
                    log: Some(offer(view)),
                },
            ));
            // Where the queue is full, the next change offers it.
            if self.sender.try_send(message).is_ok() {
                self.logs
                    .insert(view.origin().to_owned(), Sending::new(view.log));
                self.uplink.refresh();
            }
        }
    }

    async fn take(&mut self, answer: ReplicateResponse) -> Result<(), String> {
        match answer.message {
            Some(Message::Welcome(welcome)) => self.welcome(welcome),
            Some(Message::Cosigned(cosigned)) => self.cosigned(cosigned).await,
            Some(Message::Refused(refused)) => self.refused(&refused),
            None => Ok(()),
        }
    }

    fn welcome(&mut self, welcome: Welcome) -> Result<(), String> {
        if welcome.node != self.uplink.parent.as_str() {
            return Err(format!("the parent calls itself {}", welcome.node));
        }
        let key: VerifierKey = welcome.verifier_key.parse().map_err(|e| format!("{e}"))?;
        self.parent_key = Some(key);
        for position in welcome.logs {
            self.position(position)?;
        }
        Ok(())
    }

    /// Where the parent stands decides whether this node may go on: a parent that holds more of the own
    /// log, or another one, has seen what this node has forgotten.
    fn position(&mut self, position: LogPosition) -> Result<(), String> {
        let ledger = &self.uplink.ledger;
        let (Some(sending), Some(view)) = (
            self.logs.get_mut(&position.origin),
            ledger.log(&position.origin),
        ) else {
            return Ok(());
        };
        let own = sending.log == LogNo::OWN;
        let why = if position.size > view.tree.size() {
            let (theirs, ours) = (position.size, view.tree.size());
            Some(format!(
                "the parent holds {theirs} entries, this node {ours}"
            ))
        } else if contradicts(ledger, &view, &position) {
            Some("the parent has cosigned another log than this node holds".to_owned())
        } else {
            None
        };
        if let Some(why) = why {
            sending.stopped = true;
            if own {
                tracing::error!(
                    why,
                    "this node was restored from an old state; it takes nothing in"
                );
                ledger.set_intake(Intake::BehindParent(why.clone()));
            }
            let now = self.uplink.clock.now();
            let origin = position.origin;
            self.uplink
                .update(&origin, |link| link.enter(LinkState::Refused, &why, now));
            return Ok(());
        }
        sending.next = Some(position.size);
        let size = view.tree.size();
        // What the parent cosigned before the last session broke may not have reached this node.
        if let Ok(note) = position.cosigned.parse::<Note>()
            && let Some(key) = self.parent_key.clone()
            && let Ok(kept) = self.verify(&view, &note, &key, position.cosigned.clone())
        {
            self.hold(&position.origin, kept, size);
        } else {
            self.stand(&position.origin, position.size.min(size), size);
        }
        Ok(())
    }

    fn stand(&self, origin: &str, cosigned: u64, size: u64) {
        let now = self.uplink.clock.now();
        let state = if cosigned >= size {
            LinkState::Current
        } else {
            LinkState::CatchingUp
        };
        self.uplink
            .update(origin, |link| link.enter(state, "", now));
    }

    async fn cosigned(&mut self, cosigned: Cosigned) -> Result<(), String> {
        let Some(view) = self.uplink.ledger.log(&cosigned.origin) else {
            return Ok(());
        };
        let from_parent = cosigned.node == self.uplink.parent.as_str();
        if from_parent && let Some(sending) = self.logs.get_mut(&cosigned.origin) {
            sending.in_flight = sending.in_flight.saturating_sub(1);
        }
        let key: VerifierKey = cosigned.verifier_key.parse().map_err(|e| format!("{e}"))?;
        if key.name() != format!("{}/{}", self.uplink.trust_domain, cosigned.node) {
            return Err(format!(
                "a cosignature of {} bears the key of {}",
                cosigned.node,
                key.name()
            ));
        }
        let note: Note = cosigned.note.parse().map_err(|e| format!("{e}"))?;
        let kept = self.verify(&view, &note, &key, cosigned.note)?;
        if from_parent {
            self.hold(&cosigned.origin, kept, view.tree.size());
        } else {
            self.keep(view.log, kept).await?;
        }
        Ok(())
    }

    /// A cosignature counts only if it is of what this node holds, and by the key that this node has seen
    /// before.
    fn verify(
        &self,
        view: &LogView,
        note: &Note,
        key: &VerifierKey,
        text: String,
    ) -> Result<Cosignature, String> {
        let ledger = &self.uplink.ledger;
        let signed = note.verify_log(&view.key).map_err(|e| e.to_string())?;
        let time = note.verify_cosignature(key).map_err(|e| e.to_string())?;
        let root = ledger
            .root_at(view, signed.size)
            .map_err(|e| e.to_string())?;
        if root != signed.root {
            return Err("the parent cosigned another root than this node has".to_owned());
        }
        let node = key.name().rsplit('/').next().unwrap_or_default().to_owned();
        let held = ledger.cosignatures(view.log).map_err(|e| e.to_string())?;
        let pinned = held.iter().find(|held| held.node == node);
        if pinned.is_some_and(|pinned| pinned.verifier_key != key.to_string()) {
            return Err(format!(
                "the cosigning key of {node} is not the one seen before"
            ));
        }
        Ok(Cosignature {
            node,
            size: i64::try_from(signed.size).unwrap_or(i64::MAX),
            time: Some(timestamp(time)),
            note: text,
            verifier_key: key.to_string(),
        })
    }

    /// Takes the parent's newest cosignature into account; it is kept soon, or at once when caught up.
    fn hold(&mut self, origin: &str, cosignature: Cosignature, size: u64) {
        let cosigned = u64::try_from(cosignature.size).unwrap_or(0);
        if let Some(sending) = self.logs.get_mut(origin) {
            let newer = sending
                .unkept
                .as_ref()
                .is_none_or(|held| held.size <= cosignature.size);
            if newer {
                sending.unkept = Some(cosignature);
            }
            if cosigned >= size {
                sending.kept = Instant::now() - KEEP_EVERY;
            }
        }
        if cosigned < size {
            self.stand(origin, cosigned, size);
        }
    }

    async fn keep_due(&mut self) -> Result<(), String> {
        let due: Vec<_> = self
            .logs
            .iter_mut()
            .filter(|(_, sending)| sending.kept.elapsed() >= KEEP_EVERY)
            .filter_map(|(_, sending)| {
                sending.kept = Instant::now();
                Some((sending.log, sending.unkept.take()?))
            })
            .collect();
        for (log, cosignature) in due {
            self.keep(log, cosignature).await?;
        }
        Ok(())
    }

    async fn keep_all(&mut self) -> Result<(), String> {
        let all: Vec<_> = self
            .logs
            .values_mut()
            .filter_map(|sending| Some((sending.log, sending.unkept.take()?)))
            .collect();
        for (log, cosignature) in all {
            self.keep(log, cosignature).await?;
        }
        Ok(())
    }

    /// Keeps a cosignature; only then does it count as received.
    async fn keep(&self, log: LogNo, cosignature: Cosignature) -> Result<(), String> {
        let ledger = &self.uplink.ledger;
        let from_parent = cosignature.node == self.uplink.parent.as_str();
        let size = u64::try_from(cosignature.size).unwrap_or(0);
        let time = cosignature
            .time
            .and_then(|t| Timestamp::new(t.seconds, t.nanos).ok());
        ledger
            .keep_cosignature(log, cosignature)
            .await
            .map_err(|e| e.to_string())?;
        let published = ledger.published();
        let Some(view) = published.logs.get(&log).filter(|_| from_parent) else {
            return Ok(());
        };
        self.uplink.update(view.origin(), |link| {
            if size >= link.cosigned {
                link.cosigned = size;
                link.cosigned_time = time;
            }
        });
        self.stand(view.origin(), size, view.tree.size());
        Ok(())
    }

    fn refused(&mut self, refused: &Refused) -> Result<(), String> {
        let reason = refused.reason();
        if reason == ErrorReason::StorageFull {
            return Err(refused.message.clone());
        }
        let Some(sending) = self.logs.get_mut(&refused.origin) else {
            return Ok(());
        };
        sending.in_flight = sending.in_flight.saturating_sub(1);
        if reason == ErrorReason::IndexOutOfRange {
            sending.resume = Some(refused.size);
            return Ok(());
        }
        sending.stopped = true;
        tracing::error!(
            origin = refused.origin,
            message = refused.message,
            "the parent refuses a log"
        );
        let now = self.uplink.clock.now();
        let state = match reason {
            ErrorReason::LogForked => LinkState::Quarantined,
            _ => LinkState::Refused,
        };
        self.uplink.update(&refused.origin, |link| {
            link.enter(state, &refused.message, now);
        });
        Ok(())
    }
}

/// Whether the parent's cosigned note is of another log than this node holds.
fn contradicts(ledger: &Ledger, view: &LogView, position: &LogPosition) -> bool {
    let Ok(note) = position.cosigned.parse::<Note>() else {
        return false;
    };
    let Ok(signed) = note.verify_log(&view.key) else {
        return false;
    };
    ledger
        .root_at(view, signed.size)
        .is_ok_and(|root| root != signed.root)
}

fn offer(view: &LogView) -> LogOffer {
    LogOffer {
        origin: view.origin().to_owned(),
        verifier_key: view.key.to_string(),
        checkpoint: if view.tree.size() == 0 {
            String::new()
        } else {
            view.note.clone()
        },
    }
}

fn request(message: replicate_request::Message) -> ReplicateRequest {
    ReplicateRequest {
        message: Some(message),
    }
}

fn said(status: &tonic::Status) -> String {
    format!("{}: {}", status.code(), status.message())
}

fn closed() -> String {
    "the connection is closed".to_owned()
}

/// Between half and all of a pause, so that many children do not dial at once.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0; 2];
    let share = match getrandom::fill(&mut random) {
        Ok(()) => f64::from(u16::from_be_bytes(random)) / f64::from(u16::MAX),
        Err(_) => 1.0,
    };
    pause.mul_f64(0.5 + share / 2.0)
}
