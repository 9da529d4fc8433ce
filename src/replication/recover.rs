//! What a parent holds of the logs of a node that has lost everything.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::timeout;

use super::{Connector, LinkError, VERSIONS};
use crate::{
    ledger::note::{KeyUse, Note, VerifierKey},
    proto::replication::v1::{
        self as pb, replicate_request::Message as Request, replicate_response::Message as Response,
    },
    types::{LedgerTime, NodeId, Origin, TrustDomain},
};

/// A parent that has not answered by then is given up.
const ANSWER: Duration = Duration::from_secs(60);

/// What a parent says that it holds, as far as signatures bear it out.
#[derive(Debug)]
pub struct Held {
    /// Logs that the node may bring.
    pub logs: Vec<HeldLog>,
    /// Logs that are not given back, with the parent's reason.
    pub refused: Vec<(String, String)>,
}

/// One log that a parent holds.
#[derive(Debug)]
pub struct HeldLog {
    /// Its origin.
    pub origin: Origin,
    /// The key that signs it.
    pub key: VerifierKey,
    /// Its newest checkpoint, signed by that key and cosigned by the parent; `None` for an empty log.
    pub note: Option<Note>,
    /// When the parent cosigned it.
    pub time: Option<LedgerTime>,
}

impl HeldLog {
    /// The entries that the parent holds.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.note.as_ref().map_or(0, |note| note.checkpoint().size)
    }

    fn read(
        position: &pb::LogPosition,
        domain: &TrustDomain,
        parent: &VerifierKey,
    ) -> Result<Self, String> {
        let of = |what: String| format!("{}: {what}", position.origin);
        let origin: Origin = position.origin.parse().map_err(|e| of(format!("{e}")))?;
        let key: VerifierKey = position
            .verifier_key
            .parse()
            .map_err(|e| of(format!("{e}")))?;
        let fits = key.purpose() == KeyUse::Log && key.name() == origin.as_str();
        if !fits || origin.domain() != domain {
            return Err(of(
                "its key is not that of a log of this trust domain".to_owned()
            ));
        }
        let mut log = Self {
            origin,
            key,
            note: None,
            time: None,
        };
        if !position.cosigned.is_empty() {
            let note: Note = position.cosigned.parse().map_err(|e| of(format!("{e}")))?;
            note.verify_log(&log.key).map_err(|e| of(e.to_string()))?;
            let time = note.verify_cosignature(parent);
            log.time = Some(time.map_err(|e| of(e.to_string()))?);
            log.note = Some(note);
        }
        match log.size() == position.size {
            true => Ok(log),
            false => Err(of("its size is not the one that is signed".to_owned())),
        }
    }
}

/// Asks the parent which logs it holds that this node may bring.
///
/// # Errors
/// [`LinkError`], also where what it says is not borne out by signatures.
pub async fn held(
    connector: &dyn Connector,
    parent: &NodeId,
    domain: &TrustDomain,
) -> Result<Held, LinkError> {
    let mut link = connector.connect().await?;
    let hello = Request::Hello(pb::Hello {
        version_min: VERSIONS.min,
        version_max: VERSIONS.max,
        logs: Vec::new(),
        recover: true,
    });
    let message = Some(hello);
    let sent = link.up.send(pb::ReplicateRequest { message }).await;
    sent.map_err(|_| LinkError::Ended)?;
    let mut refused = Vec::new();
    loop {
        let heard = timeout(ANSWER, link.down.next()).await;
        let heard = heard.map_err(|_| LinkError::Silent)?;
        match heard.ok_or(LinkError::Ended)??.message {
            Some(Response::Refused(log)) => refused.push((log.origin, log.message)),
            Some(Response::Welcome(welcome)) => {
                let logs = welcomed(&welcome, parent, domain).map_err(LinkError::Protocol)?;
                return Ok(Held { logs, refused });
            }
            _ => {}
        }
    }
}

fn welcomed(
    welcome: &pb::Welcome,
    parent: &NodeId,
    domain: &TrustDomain,
) -> Result<Vec<HeldLog>, String> {
    if welcome.node != parent.as_str() {
        return Err(format!("it is node {}, not {parent}", welcome.node));
    }
    let key: VerifierKey = welcome.verifier_key.parse().map_err(|e| format!("{e}"))?;
    if key.purpose() != KeyUse::Cosigner || key.name() != format!("{domain}/{parent}") {
        return Err("its key for cosignatures is not its own".to_owned());
    }
    let logs = welcome.logs.iter();
    logs.map(|position| HeldLog::read(position, domain, &key))
        .collect()
}
