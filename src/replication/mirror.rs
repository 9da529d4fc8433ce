//! The parent's side: trusts nothing that it has not hashed.

use std::{collections::BTreeMap, sync::Arc};

use super::{VERSIONS, batch::MAX_ENTRIES, status::Children};
use crate::{
    ledger::{
        Ledger, LogView, MirrorBatch, Mirrored,
        note::{KeyUse, MAX_FOREIGN_NOTE_BYTES, Note, VerifierKey},
    },
    proto::{
        error::v1::ErrorReason,
        replication::v1::{
            Batch, Cosigned, Hello, LogOffer, LogPosition, Refused, ReplicateResponse, Welcome,
            replicate_response::Message,
        },
    },
    types::{Clock, LogNo, NodeId, Origin, Reason, Refusal, TrustDomain},
};

/// What all sessions of a parent share.
#[derive(Clone)]
pub struct Mirror {
    /// The ledger.
    pub ledger: Ledger,
    /// What was heard.
    pub children: Arc<Children>,
    /// The trust domain: origins of another are refused.
    pub trust_domain: TrustDomain,
    /// This node.
    pub node: NodeId,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

/// One child's stream.
pub struct Session {
    mirror: Mirror,
    child: NodeId,
    logs: BTreeMap<String, Carried>,
}

/// A log that the child carries.
struct Carried {
    log: LogNo,
    key: VerifierKey,
    /// For each node above, the size of its newest cosignature that the child was sent.
    relayed: BTreeMap<String, i64>,
}

/// One log that is refused; the others go on.
type LogRefused = (Reason, String, u64);

impl Session {
    /// A session with the child that the certificate names.
    #[must_use]
    pub fn new(mirror: Mirror, child: NodeId) -> Self {
        Self {
            mirror,
            child,
            logs: BTreeMap::new(),
        }
    }

    /// Answers the first message.
    ///
    /// # Errors
    /// [`Reason::ProtocolUnsupported`], [`Reason::CheckpointInvalid`] for a child that offers another's
    /// log as its own, [`Reason::StorageFailed`]: the stream ends.
    pub async fn hello(&mut self, hello: Hello) -> Result<Vec<ReplicateResponse>, Refusal> {
        let (low, high) = VERSIONS;
        if hello.version_min > high || hello.version_max < low {
            let (min, max) = (hello.version_min, hello.version_max);
            let en = format!("this node speaks {low} to {high}, the child {min} to {max}");
            let zh = format!("本节点支持 {low} 至 {high}，下级支持 {min} 至 {max}");
            return Err(Refusal::new(Reason::ProtocolUnsupported).because(en, zh));
        }
        let own = hello
            .logs
            .first()
            .and_then(|offer| offer.origin.parse::<Origin>().ok());
        if own.as_ref().map(Origin::node) != Some(&self.child) {
            let en = "the first log offered must be the child's own";
            return Err(
                Refusal::new(Reason::CheckpointInvalid).because(en, "首个日志应为下级自身的日志")
            );
        }
        self.offers(hello.logs, hello.version_max.min(high)).await
    }

    /// Answers a log that appeared later.
    ///
    /// # Errors
    /// [`Reason::StorageFailed`].
    pub async fn offer(&mut self, offer: LogOffer) -> Result<Vec<ReplicateResponse>, Refusal> {
        self.offers(vec![offer], VERSIONS.1).await
    }

    async fn offers(
        &mut self,
        offers: Vec<LogOffer>,
        version: u32,
    ) -> Result<Vec<ReplicateResponse>, Refusal> {
        let (mut logs, mut refused) = (Vec::new(), Vec::new());
        for offer in offers {
            match self.take_offer(&offer).await? {
                Ok(position) => logs.push(position),
                Err(why) => refused.push(refusal(&offer.origin, why)),
            }
        }
        let welcome = Welcome {
            version,
            node: self.mirror.node.to_string(),
            verifier_key: self.mirror.ledger.key().cosigner_key().to_string(),
            logs,
        };
        let mut answers = vec![message(Message::Welcome(welcome))];
        answers.append(&mut refused);
        answers.append(&mut self.relays()?);
        Ok(answers)
    }

    /// Pins a log to its key, and checks what it says of itself against what is held.
    async fn take_offer(
        &mut self,
        offer: &LogOffer,
    ) -> Result<Result<LogPosition, LogRefused>, Refusal> {
        let key = match self.check_key(offer) {
            Ok(key) => key,
            Err(why) => return Ok(Err((Reason::CheckpointInvalid, why, 0))),
        };
        let ledger = self.mirror.ledger.clone();
        if ledger
            .log(&offer.origin)
            .is_some_and(|view| view.key != key)
        {
            let why = "the log is pinned to another key".to_owned();
            return Ok(Err((Reason::LogForked, why, 0)));
        }
        let registered = ledger.register(key.clone()).await;
        let log = registered.map_err(|_| Refusal::new(Reason::StorageFailed))?;
        let Some(view) = ledger.log(&offer.origin) else {
            return Err(Refusal::new(Reason::StorageFailed));
        };
        let signed = match self.check_checkpoint(offer, &view).await? {
            Ok(signed) => signed,
            Err(why) => return Ok(Err(why)),
        };
        let now = self.mirror.clock.now();
        self.mirror
            .children
            .heard(&offer.origin, &self.child, signed, now);
        let carried = Carried {
            log,
            key,
            relayed: BTreeMap::new(),
        };
        self.logs.insert(offer.origin.clone(), carried);
        Ok(Ok(LogPosition {
            origin: offer.origin.clone(),
            size: view.tree.size(),
            cosigned: view.note.clone(),
        }))
    }

    fn check_key(&self, offer: &LogOffer) -> Result<VerifierKey, String> {
        let origin: Origin = offer.origin.parse().map_err(|e| format!("origin: {e}"))?;
        if *origin.domain() != self.mirror.trust_domain {
            return Err("the origin is of another trust domain".to_owned());
        }
        if *origin.node() == self.mirror.node {
            return Err("the origin is this node itself".to_owned());
        }
        let key: VerifierKey = offer.verifier_key.parse().map_err(|e| format!("{e}"))?;
        if key.purpose() != KeyUse::Log || key.name() != offer.origin {
            return Err("the key is not that of the origin".to_owned());
        }
        Ok(key)
    }

    /// What the origin signed must agree with what is held; if it does not, both are evidence.
    async fn check_checkpoint(
        &self,
        offer: &LogOffer,
        view: &LogView,
    ) -> Result<Result<u64, LogRefused>, Refusal> {
        if let Some(reason) = &view.quarantined {
            return Ok(Err((Reason::LogForked, reason.clone(), view.tree.size())));
        }
        if offer.checkpoint.is_empty() {
            return Ok(Ok(0));
        }
        if offer.checkpoint.len() > MAX_FOREIGN_NOTE_BYTES {
            let why = "the checkpoint is too long".to_owned();
            return Ok(Err((Reason::CheckpointInvalid, why, 0)));
        }
        let note = offer.checkpoint.parse::<Note>();
        let verified = note.and_then(|note| note.verify_log(&view.key).map(|_| note.clone()));
        let note = match verified {
            Ok(note) => note,
            Err(error) => return Ok(Err((Reason::CheckpointInvalid, error.to_string(), 0))),
        };
        let checkpoint = note.checkpoint();
        if checkpoint.size <= view.tree.size() {
            let held = self.mirror.ledger.root_at(view, checkpoint.size);
            let held = held.map_err(|_| Refusal::new(Reason::DataDamaged))?;
            if held != checkpoint.root {
                let size = checkpoint.size;
                let why = format!("it signed another root at size {size} than it did before");
                let kept = self
                    .mirror
                    .ledger
                    .quarantine(view.log, note, why.clone())
                    .await;
                kept.map_err(|_| Refusal::new(Reason::StorageFailed))?;
                return Ok(Err((Reason::LogForked, why, view.tree.size())));
            }
        }
        Ok(Ok(checkpoint.size))
    }

    /// Takes a batch.
    ///
    /// # Errors
    /// [`Reason::StorageFailed`]: the stream ends.
    pub async fn batch(&mut self, batch: Batch) -> Result<ReplicateResponse, Refusal> {
        let origin = batch.origin.clone();
        match self.take_batch(batch).await? {
            Ok(cosigned) => Ok(message(Message::Cosigned(cosigned))),
            Err(why) => {
                let (reason, text, _) = &why;
                tracing::info!(origin, %reason, text, child = %self.child, "batch refused");
                Ok(refusal(&origin, why))
            }
        }
    }

    async fn take_batch(&mut self, batch: Batch) -> Result<Result<Cosigned, LogRefused>, Refusal> {
        let Some(carried) = self.logs.get(&batch.origin) else {
            return Ok(Err((
                Reason::LogNotFound,
                "the log was not offered".to_owned(),
                0,
            )));
        };
        let invalid = |why: String| Ok(Err((Reason::CheckpointInvalid, why, 0)));
        if batch.entries.is_empty() || batch.entries.len() > MAX_ENTRIES {
            return invalid(format!("a batch has 1 to {MAX_ENTRIES} entries"));
        }
        if batch.checkpoint.len() > MAX_FOREIGN_NOTE_BYTES {
            return invalid(format!(
                "a checkpoint has at most {MAX_FOREIGN_NOTE_BYTES} bytes"
            ));
        }
        let note: Note = match batch.checkpoint.parse() {
            Ok(note) => note,
            Err(error) => return invalid(format!("{error}")),
        };
        if let Err(error) = note.verify_log(&carried.key) {
            return invalid(error.to_string());
        }
        let now = self.mirror.clock.now();
        let signed = note.checkpoint().size;
        self.mirror
            .children
            .heard(&batch.origin, &self.child, signed, now);
        let taken = MirrorBatch {
            log: carried.log,
            start: batch.start,
            entries: batch.entries,
            note,
        };
        let mirrored = self.mirror.ledger.mirror(taken).await;
        match mirrored.map_err(|_| Refusal::new(Reason::StorageFailed))? {
            Mirrored::Cosigned { size, note } => Ok(Ok(Cosigned {
                origin: batch.origin,
                size,
                note,
                verifier_key: self.mirror.ledger.key().cosigner_key().to_string(),
                node: self.mirror.node.to_string(),
            })),
            Mirrored::Elsewhere(size) => Ok(Err((
                Reason::IndexOutOfRange,
                format!("the log goes on at {size}"),
                size,
            ))),
            Mirrored::Quarantined(reason) => Ok(Err((Reason::LogForked, reason, 0))),
            Mirrored::NoSpace => Ok(Err((
                Reason::StorageFull,
                "the parent takes nothing in now".to_owned(),
                0,
            ))),
            Mirrored::Unknown => Ok(Err((Reason::LogNotFound, "no such log".to_owned(), 0))),
        }
    }

    /// Cosignatures from above that the child has not been sent yet.
    ///
    /// # Errors
    /// [`Reason::StorageFailed`].
    pub fn relays(&mut self) -> Result<Vec<ReplicateResponse>, Refusal> {
        let mut answers = Vec::new();
        for (origin, carried) in &mut self.logs {
            let found = self.mirror.ledger.cosignatures(carried.log);
            for cosignature in found.map_err(|_| Refusal::new(Reason::StorageFailed))? {
                let sent = carried
                    .relayed
                    .entry(cosignature.node.clone())
                    .or_insert(-1);
                if *sent >= cosignature.size {
                    continue;
                }
                *sent = cosignature.size;
                answers.push(message(Message::Cosigned(Cosigned {
                    origin: origin.clone(),
                    size: u64::try_from(cosignature.size).unwrap_or(0),
                    note: cosignature.note,
                    verifier_key: cosignature.verifier_key,
                    node: cosignature.node,
                })));
            }
        }
        Ok(answers)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.mirror
            .children
            .lost(&self.child, self.mirror.clock.now());
    }
}

fn message(message: Message) -> ReplicateResponse {
    ReplicateResponse {
        message: Some(message),
    }
}

fn refusal(origin: &str, (reason, text, size): LogRefused) -> ReplicateResponse {
    let reason = ErrorReason::try_from(reason.number()).unwrap_or(ErrorReason::Internal);
    message(Message::Refused(Refused {
        origin: origin.to_owned(),
        reason: reason.into(),
        message: text,
        size,
    }))
}
