//! The parent's side: a session for each child. It takes what it can verify, log by log, keeps what
//! contradicts as evidence, and gives back what the child has lost.

mod give;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Board, MAX_LOGS, VERSIONS, Versions,
    board::{Carrying, Receipts},
    inflow::{self, Fault, forked, malformed},
    offer::Offered,
    outflow::Outflow,
};
use crate::{
    ledger::LogView,
    proto::replication::v1::{
        self as pb, replicate_request::Message as Request, replicate_response::Message as Response,
    },
    types::{AgencyId, Identity, LogNo, NodeId, Origin, Reason, Refusal},
};

/// A child that has not introduced itself by then is let go.
const HELLO: Duration = Duration::from_secs(20);

/// Where answers to a child go.
pub type Answers = mpsc::Sender<Result<pb::ReplicateResponse, Refusal>>;

/// Takes what children send.
#[derive(Clone)]
pub struct Mirror {
    board: Arc<Board>,
    admission: Arc<dyn Admission>,
    shutdown: CancellationToken,
    /// Whether what it serves is a file that somebody brought.
    courier: bool,
    versions: Versions,
}

/// Which logs a node takes in, and what may be in them.
pub trait Admission: Send + Sync + 'static {
    /// Whether a child may bring a log of that origin.
    fn brings(&self, child: &Identity, origin: &Origin) -> bool;

    /// Whether a log of that origin may hold records of an agency. One that is not known may lie
    /// anywhere.
    fn belongs(&self, agency: &AgencyId, origin: &Origin) -> bool;
}

impl Mirror {
    /// The parent's side of a node, until `shutdown`.
    #[must_use]
    pub fn new(
        board: Arc<Board>,
        admission: Arc<dyn Admission>,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            board,
            admission,
            shutdown,
            courier: false,
            versions: VERSIONS,
        }
    }

    /// The same, as a program of other versions would be.
    #[cfg(test)]
    pub(super) fn speaking(&self, versions: Versions) -> Self {
        Self {
            versions,
            ..self.clone()
        }
    }

    /// The same, for what a courier brings.
    pub(super) fn by_courier(&self) -> Self {
        Self {
            courier: true,
            ..self.clone()
        }
    }

    pub(super) fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Serves one child, whose certificate names it, until its messages end.
    ///
    /// # Errors
    /// Why the session as a whole is ended; a log that is refused does not end it.
    pub async fn serve<S>(
        &self,
        child: Identity,
        mut messages: S,
        answers: Answers,
    ) -> Result<(), Refusal>
    where
        S: Stream<Item = Result<pb::ReplicateRequest, Refusal>> + Send + Unpin,
    {
        let Some(node) = child.node().cloned() else {
            return Err(Reason::MethodNotAllowed.into());
        };
        let first = timeout(HELLO, messages.next()).await;
        let hello = match first {
            Ok(Some(first)) => match first?.message {
                Some(Request::Hello(hello)) => hello,
                _ => return Err(malformed("the first message must be a Hello")),
            },
            Ok(None) => return Ok(()),
            Err(_) => return Err(Refusal::new(Reason::DeadlineExceeded)),
        };
        let mut receipts = self.board.receipts();
        let mut session = Session {
            carrying: self.board.open_session(&node, self.courier),
            child: node,
            identity: child,
            admission: self.admission.clone(),
            answers,
            logs: BTreeMap::new(),
            told: 0,
            relayed: BTreeMap::new(),
            flow: Outflow::new(),
            versions: self.versions,
            version: self.versions.min,
        };
        tracing::info!(child = %session.child, logs = hello.logs.len(), "child connected");
        session.greet(hello).await?;
        loop {
            session.tell(&mut receipts).await;
            session.flow.cut_next(self.board.ledger());
            // In this order, so that a simulation repeats itself.
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Err(Reason::ShuttingDown.into()),
                changed = receipts.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    receipts.mark_changed();
                }
                cut = session.flow.cut() => session.give(cut).await?,
                message = messages.next() => match message {
                    Some(message) => session.take(message?).await?,
                    None => return Ok(()),
                },
            }
        }
    }
}

struct Session {
    carrying: Carrying,
    child: NodeId,
    identity: Identity,
    admission: Arc<dyn Admission>,
    answers: Answers,
    /// What the child carries, by origin.
    logs: BTreeMap<String, LogNo>,
    /// Logs that the child had when it was last told of cosignatures from above.
    told: usize,
    /// The sizes of those.
    relayed: BTreeMap<(LogNo, String), i64>,
    /// What the child has asked back.
    flow: Outflow,
    /// What this node speaks, and what was agreed on.
    versions: Versions,
    version: u32,
}

/// There is no version that both speak.
fn unspoken(own: Versions, child: Versions) -> Refusal {
    let (older, zh) = match own.max < child.min {
        true => ("this node", "本节点"),
        false => ("the child", "下级"),
    };
    Refusal::new(Reason::ProtocolUnsupported).because(
        format!("this node speaks versions {own}, the child {child}; upgrade {older}"),
        format!("本节点支持版本 {own}，下级支持 {child}，请升级{zh}"),
    )
}

impl Session {
    fn board(&self) -> &Arc<Board> {
        self.carrying.board()
    }

    async fn answer(&self, message: Response) {
        let response = pb::ReplicateResponse {
            message: Some(message),
        };
        // A child that is gone ends the stream of its messages too.
        let _ = self.answers.send(Ok(response)).await;
    }

    async fn greet(&mut self, hello: pb::Hello) -> Result<(), Refusal> {
        let child = Versions {
            min: hello.version_min,
            max: hello.version_max,
        };
        let common = self.versions.common(child);
        self.version = common.ok_or_else(|| unspoken(self.versions, child))?;
        if hello.recover {
            return self.greet_lost().await;
        }
        self.check_own(&hello)?;
        let (mut positions, mut refused) = (Vec::new(), Vec::new());
        // Logs that are known come first: they say which nodes lie below this child.
        let (known, new): (Vec<_>, Vec<_>) = hello
            .logs
            .iter()
            .partition(|offer| self.board().ledger().log(&offer.origin).is_some());
        for offer in known.into_iter().chain(new) {
            match self.offer(offer).await {
                Ok(position) => positions.push(position),
                Err(fault) => refused.push(self.refusal(&offer.origin, fault)?),
            }
        }
        self.welcome(positions).await;
        for refused in refused {
            self.answer(Response::Refused(refused)).await;
        }
        Ok(())
    }

    /// Tells a child that has lost everything which logs there are that it may bring. One that is
    /// quarantined is not given back; the reason is told first.
    async fn greet_lost(&mut self) -> Result<(), Refusal> {
        let mut positions = Vec::new();
        for view in self.board().ledger().published().logs.values() {
            let origin = view.origin().parse::<Origin>();
            let brings = |origin: &Origin| self.admission.brings(&self.identity, origin);
            if view.log == LogNo::OWN || !origin.is_ok_and(|origin| brings(&origin)) {
                continue;
            }
            if let Some(reason) = &view.quarantined {
                let refused = self.refusal(view.origin(), Fault::Log(forked(reason)))?;
                self.answer(Response::Refused(refused)).await;
                continue;
            }
            positions.push(pb::LogPosition {
                origin: view.origin().to_owned(),
                size: view.tree.size(),
                cosigned: view.note.clone(),
                verifier_key: view.key.to_string(),
            });
        }
        tracing::info!(child = %self.child, logs = positions.len(), "a child that lost everything asks");
        self.welcome(positions).await;
        Ok(())
    }

    /// The first log must be the child's own.
    fn check_own(&self, hello: &pb::Hello) -> Result<(), Refusal> {
        if hello.logs.len() > MAX_LOGS {
            return Err(malformed("too many logs are offered"));
        }
        let first = hello
            .logs
            .first()
            .map(|offer| offer.origin.parse::<Origin>());
        match first {
            Some(Ok(origin)) if *origin.node() == self.child => Ok(()),
            _ => Err(malformed("the first log must be the child's own")),
        }
    }

    async fn welcome(&self, logs: Vec<pb::LogPosition>) {
        let board = self.board();
        let welcome = pb::Welcome {
            version: self.version,
            node: board.own().node().to_string(),
            verifier_key: board.ledger().key().cosigner_key().to_string(),
            logs,
        };
        self.answer(Response::Welcome(welcome)).await;
    }

    async fn take(&mut self, message: pb::ReplicateRequest) -> Result<(), Refusal> {
        match message.message {
            Some(Request::Batch(batch)) => {
                let origin = batch.origin.clone();
                let answer = match self.batch(batch).await {
                    Ok(cosigned) => Response::Cosigned(cosigned),
                    Err(fault) => Response::Refused(self.refusal(&origin, fault)?),
                };
                self.answer(answer).await;
                Ok(())
            }
            Some(Request::Offer(offer)) => {
                let offer = offer.log.unwrap_or_default();
                match self.offer(&offer).await {
                    Ok(position) => self.welcome(vec![position]).await,
                    Err(fault) => {
                        let refused = self.refusal(&offer.origin, fault)?;
                        self.answer(Response::Refused(refused)).await;
                    }
                }
                Ok(())
            }
            Some(Request::Position(position)) => {
                if let Err(fault) = self.asked_back(&position) {
                    let refused = self.refusal(&position.origin, fault)?;
                    self.answer(Response::Refused(refused)).await;
                }
                Ok(())
            }
            Some(Request::Cosigned(cosigned)) => self.given(&cosigned.origin, cosigned.size, true),
            Some(Request::Refused(refused)) => self.not_given(&refused),
            Some(Request::Hello(_)) => Err(malformed("a Hello comes once")),
            None => {
                tracing::debug!(child = %self.child, "a message of a later version is ignored");
                Ok(())
            }
        }
    }

    /// What the child is told of a fault; the refusal itself where it ends the session.
    fn refusal(&self, origin: &str, fault: Fault) -> Result<pb::Refused, Refusal> {
        let (refusal, size) = match fault {
            Fault::Session(refusal) => return Err(refusal),
            Fault::Elsewhere(size) => {
                let en = format!("the log goes on at {size}");
                let refusal = Refusal::new(Reason::IndexOutOfRange);
                (refusal.because(en, format!("应从 {size} 继续")), size)
            }
            Fault::Log(refusal) => {
                tracing::warn!(child = %self.child, origin, %refusal, "a log is refused");
                if let Some(log) = self.logs.get(origin) {
                    self.carrying.refused(*log, &refusal.to_string());
                }
                (refusal, 0)
            }
        };
        Ok(pb::Refused {
            origin: origin.to_owned(),
            reason: refusal.reason.number(),
            message: refusal.en,
            size,
        })
    }

    async fn offer(&mut self, offer: &pb::LogOffer) -> Result<pb::LogPosition, Fault> {
        let domain = self.board().own().domain();
        let offered = Offered::parse(offer, domain).map_err(Fault::Log)?;
        if !self.admission.brings(&self.identity, &offered.origin) {
            let (child, node) = (&self.child, offered.origin.node());
            let en = format!("the policy does not let {child} bring the log of {node}");
            let refusal = Refusal::new(Reason::MethodNotAllowed);
            return Err(Fault::Log(
                refusal.because(en, "策略未允许该节点上报此日志"),
            ));
        }
        let view = self.admit(&offered).await?;
        self.logs.insert(offer.origin.clone(), view.log);
        if let Some(reason) = &view.quarantined {
            return Err(Fault::Log(forked(reason)));
        }
        let signed = offered
            .note
            .as_ref()
            .map_or(0, |note| note.checkpoint().size);
        if let Some(note) = offered.note {
            inflow::compare(self.board().ledger(), &view, note).await?;
        }
        self.carrying.heard(view.log, signed);
        Ok(pb::LogPosition {
            origin: offer.origin.clone(),
            size: view.tree.size(),
            cosigned: view.note.clone(),
            verifier_key: String::new(),
        })
    }

    /// The log of an offer: held under this very key, or registered now.
    async fn admit(&self, offered: &Offered) -> Result<Arc<LogView>, Fault> {
        let ledger = self.board().ledger();
        let origin = offered.origin.as_str();
        if ledger.log(origin).is_none() {
            self.may_bring(&offered.origin).map_err(Fault::Log)?;
            ledger.register(offered.key.clone()).await?;
        }
        let view = ledger.log(origin);
        let view = view.ok_or_else(|| Fault::Log(Reason::LogNotFound.into()))?;
        if view.log == LogNo::OWN {
            return Err(Fault::Log(malformed("the log is this node's own")));
        }
        if view.key != offered.key {
            return Err(Fault::Log(forked("it is known under another key")));
        }
        Ok(view)
    }

    /// Whether this child may bring a log that was never seen: one of its own, or one of a node that is not
    /// known to lie elsewhere.
    fn may_bring(&self, origin: &Origin) -> Result<(), Refusal> {
        let board = self.board();
        let (node, logs) = (origin.node(), &board.ledger().published().logs);
        if logs.len() >= MAX_LOGS {
            let en = format!("this node holds {MAX_LOGS} logs, and takes no more");
            return Err(Refusal::new(Reason::Overloaded).because(en, "日志数量已达上限"));
        }
        if *node == self.child {
            return Ok(());
        }
        let elsewhere = || {
            let mut known = logs.values().filter(|view| view.node() == node.as_str());
            let carried = |view: &Arc<LogView>| self.logs.contains_key(view.origin());
            let first = known.next();
            first.is_some_and(|view| !carried(view) && !known.any(carried))
        };
        if node == board.own().node() || board.is_direct(node) || elsewhere() {
            let en = format!("{} does not speak for node {node}", self.child);
            return Err(Refusal::new(Reason::CheckpointInvalid).because(en, "该节点不能代报此日志"));
        }
        Ok(())
    }

    async fn batch(&mut self, batch: pb::Batch) -> Result<pb::Cosigned, Fault> {
        let board = self.board();
        let (ledger, own) = (board.ledger(), board.own().node());
        let view = self.view(&batch.origin)?;
        let relayed = view.node() != self.child.as_str();
        let note = inflow::verify(ledger, &view, &batch, relayed).await?;
        self.belong(&view, &batch).map_err(Fault::Log)?;
        let cosigned = inflow::store(ledger, own, &view, batch, note).await?;
        self.carrying.heard(view.log, cosigned.size);
        Ok(cosigned)
    }

    /// A log that the child has offered.
    fn view(&self, origin: &str) -> Result<Arc<LogView>, Fault> {
        let log = self.logs.get(origin);
        let published = self.board().ledger().published();
        let view = log.and_then(|log| published.logs.get(log).cloned());
        view.ok_or_else(|| Fault::Log(Reason::LogNotFound.into()))
    }

    /// Whether a log may hold records of the agencies that its entries name: a node that writes in the name
    /// of another node's agencies is refused. Nothing is held against it, for the agency table may be
    /// the one that is wrong; once it is mended the log goes on.
    fn belong(&self, view: &LogView, batch: &pb::Batch) -> Result<(), Refusal> {
        let Ok(origin) = view.origin().parse::<Origin>() else {
            return Ok(());
        };
        let mut last = None;
        for (index, entry) in (batch.start..).zip(&batch.entries) {
            let agency = agency_of(entry).filter(|agency| last.as_ref() != Some(agency));
            let Some(agency) = agency else { continue };
            if !self.admission.belongs(&agency, &origin) {
                let node = origin.node();
                let en = format!(
                    "entry {index} is of {agency}, which the agency table here does not place at {node}"
                );
                let zh = format!("第 {index} 条属于 {agency}，本节点的单位表未将其归于 {node}");
                return Err(Refusal::new(Reason::OriginForged).because(en, zh));
            }
            last = Some(agency);
        }
        Ok(())
    }

    /// Tells the child what nodes above have cosigned of its logs, as far as it was not told.
    async fn tell(&mut self, receipts: &mut watch::Receiver<Receipts>) {
        if self.told == self.logs.len() && !receipts.has_changed().unwrap_or(false) {
            return;
        }
        self.told = self.logs.len();
        let news = self.news(&receipts.borrow_and_update());
        for cosigned in news {
            self.answer(Response::Cosigned(cosigned)).await;
        }
    }

    fn news(&mut self, receipts: &Receipts) -> Vec<pb::Cosigned> {
        let mut news = Vec::new();
        for (origin, log) in &self.logs {
            let of_log = (*log, String::new())..(LogNo(log.0.saturating_add(1)), String::new());
            for (place, cosignature) in receipts.range(of_log) {
                if self
                    .relayed
                    .get(place)
                    .is_some_and(|told| *told >= cosignature.size)
                {
                    continue;
                }
                self.relayed.insert(place.clone(), cosignature.size);
                news.push(pb::Cosigned {
                    origin: origin.clone(),
                    size: u64::try_from(cosignature.size).unwrap_or(0),
                    note: cosignature.note.clone(),
                    verifier_key: cosignature.verifier_key.clone(),
                    node: cosignature.node.clone(),
                });
            }
        }
        news
    }
}

/// The agency whose record an entry is; `None` for bytes that name none.
fn agency_of(entry: &[u8]) -> Option<AgencyId> {
    /// An entry's name and nothing else: the rest is skipped, not decoded.
    #[derive(Clone, PartialEq, prost::Message)]
    struct Named {
        #[prost(string, tag = "3")]
        name: String,
    }
    let named = <Named as prost::Message>::decode(entry).ok()?;
    named.name.split('/').nth(1)?.parse().ok()
}
