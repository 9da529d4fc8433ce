//! The node's own service: how it stands, and bringing the parent up to date.

use std::{path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    convert::int,
    quota,
    register::Shared,
    status::{status, storage},
};
use crate::{
    ledger::{Counts, Intake, entry::timestamp},
    proto::node::v1::{self as pb, node_service_server::NodeService},
    replication::{Board, ChildStatus, LinkState, Synced, SyncedLog, Uplink, UplinkStatus},
    storage::durable,
    types::{LedgerTime, LogNo, NodeId, Reason, Refusal, RegisterId},
};

/// How long a sync may take at most, and by default.
const SYNC_LIMIT: (Duration, Duration) = (Duration::from_secs(3_600), Duration::from_secs(300));

/// Callers that a status tells were held back, at most.
const LIMITED: usize = 20;

/// The service.
pub struct Nodes {
    /// What all services share.
    pub shared: Arc<Shared>,
    /// This node.
    pub node: NodeId,
    /// When it started.
    pub started: Timestamp,
    /// What its operator should see to.
    pub upkeep: Box<dyn Upkeep>,
    /// The link to the parent; `None` at the top.
    pub uplink: Option<Arc<Uplink>>,
    /// How every log stands.
    pub board: Arc<Board>,
    /// The data folder.
    pub data: PathBuf,
    /// Intake stops below this many free bytes.
    pub watermark: u64,
}

/// What a node's operator should see to.
pub trait Upkeep: Send + Sync + 'static {
    /// When the certificate ends that is in force now.
    fn certificate_end(&self) -> Option<Timestamp>;

    /// What is wrong or soon will be, in words.
    fn warnings(&self) -> Vec<String>;
}

impl Nodes {
    /// Those whom their quota held back, the worst first.
    fn limited(&self) -> Vec<pb::LimitedCaller> {
        let limited = self.shared.quotas.limited().into_iter().take(LIMITED);
        let told = limited.map(|(identity, usage)| pb::LimitedCaller {
            caller: identity.to_string(),
            refused: int(usage.refused),
            slowed: int(usage.slowed),
            first_time: stamp(usage.first),
            last_time: stamp(usage.last.map(|(_, last)| last)),
            last_limit: quota::last(&usage),
        });
        told.collect()
    }

    fn status(&self) -> Result<pb::GetStatusResponse, Refusal> {
        let ledger = &self.shared.ledger;
        let own = ledger
            .log("")
            .ok_or_else(|| Refusal::new(Reason::StorageFailed))?;
        let (health, health_reason) = health(&ledger.intake().borrow());
        let counts = ledger.counts().map_err(storage)?;
        Ok(pb::GetStatusResponse {
            node: self.node.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            health: health.into(),
            health_reason,
            start_time: stamp(Some(self.started)),
            origin: own.origin().to_owned(),
            size: int(own.tree.size()),
            checkpoint: own.note.clone(),
            uplinks: self.board.uplinks().iter().map(uplink).collect(),
            children: self
                .board
                .children()
                .into_iter()
                .map(|status| self.child(status, &counts))
                .collect::<Result<_, _>>()?,
            registers: totals(counts.iter().map(|(id, _, counts)| (id.as_str(), *counts))),
            journal_bytes: int(ledger.journal().bytes_on_disk()),
            state_bytes: int(ledger.state().bytes_on_disk()),
            free_bytes: durable::space(&self.data)
                .map(|space| int(space.free_bytes))
                .unwrap_or(0),
            watermark_bytes: int(self.watermark),
            certificate_end_time: stamp(self.upkeep.certificate_end()),
            damage: ledger.damage(),
            limited: self.limited(),
            policy_digest: self.shared.access.rules().policy.digest().to_owned(),
            warnings: self.upkeep.warnings(),
        })
    }

    /// A log from below: what its origin has signed against what this node has cosigned.
    fn child(
        &self,
        status: ChildStatus,
        counts: &[(RegisterId, LogNo, Counts)],
    ) -> Result<pb::Child, Refusal> {
        let lag = status.lag();
        let own = counts.iter().filter(|(_, log, _)| *log == status.log);
        let unindexed = self.shared.ledger.unindexed(status.log);
        Ok(pb::Child {
            node: status.node,
            origin: status.origin,
            signed_size: int(status.signed_size),
            size: int(status.size),
            // Whatever is held was cosigned with it.
            cosigned_size: int(status.size),
            lag: int(lag),
            state: link_state(status.state).into(),
            since: stamp(Some(status.since)),
            reason: status.reason,
            heard_time: stamp(status.heard),
            registers: totals(own.map(|(id, _, counts)| (id.as_str(), *counts))),
            unknown_entries: int(unindexed.map_err(storage)?),
        })
    }
}

/// A log's standing with the parent.
fn uplink(status: &UplinkStatus) -> pb::Uplink {
    pb::Uplink {
        origin: status.origin.clone(),
        parent: status.parent.to_string(),
        size: int(status.size),
        cosigned_size: int(status.cosigned),
        lag: int(status.lag()),
        state: link_state(status.state).into(),
        since: stamp(Some(status.since)),
        reason: status.reason.clone(),
        cosigned_time: status.cosigned_time.map(timestamp),
    }
}

fn health(intake: &Intake) -> (pb::Health, String) {
    match intake {
        Intake::Open => (pb::Health::Serving, String::new()),
        Intake::Full => (
            pb::Health::ReadOnly,
            "the disk is below its watermark".to_owned(),
        ),
        Intake::BehindParent(why) => (pb::Health::ReadOnly, why.clone()),
        // The cause names files of this machine: it stands in the log.
        Intake::Failed(_) => (
            pb::Health::Failed,
            "storage failed; see the node's log".to_owned(),
        ),
    }
}

fn totals<'a>(counts: impl Iterator<Item = (&'a str, Counts)>) -> Vec<pb::RegisterCount> {
    let mut totals = std::collections::BTreeMap::new();
    for (register, counts) in counts {
        let total: &mut (u64, u64) = totals.entry(register).or_default();
        total.0 += counts.live;
        total.1 += counts.withdrawn;
    }
    let row = |(register, (live, withdrawn)): (&str, (u64, u64))| pb::RegisterCount {
        register: register.to_owned(),
        live: int(live),
        withdrawn: int(withdrawn),
    };
    totals.into_iter().map(row).collect()
}

/// A state as callers see it.
#[must_use]
pub fn link_state(state: LinkState) -> pb::LinkState {
    match state {
        LinkState::Current => pb::LinkState::Current,
        LinkState::CatchingUp => pb::LinkState::CatchingUp,
        LinkState::Recovering => pb::LinkState::Recovering,
        LinkState::Disconnected => pb::LinkState::Disconnected,
        LinkState::Refused => pb::LinkState::Refused,
        LinkState::Quarantined => pb::LinkState::Quarantined,
    }
}

fn stamp(time: Option<Timestamp>) -> Option<prost_types::Timestamp> {
    time.map(|time| timestamp(LedgerTime::from(time)))
}

/// A message of a sync; the last one says whether everything that was there is cosigned, and if not, why.
#[must_use]
pub fn synced(parent: &NodeId, synced: &Synced) -> pb::SyncParentResponse {
    let log = |log: &SyncedLog| pb::SyncedLog {
        origin: log.origin.clone(),
        size: int(log.size),
        cosigned_before: int(log.before),
        cosigned_after: int(log.after),
    };
    pb::SyncParentResponse {
        logs: synced.logs.iter().map(log).collect(),
        complete: synced.complete,
        parent: parent.to_string(),
        reason: synced.reason.clone(),
    }
}

#[tonic::async_trait]
impl NodeService for Nodes {
    type SyncParentStream =
        Pin<Box<dyn Stream<Item = Result<pb::SyncParentResponse, Status>> + Send + 'static>>;

    async fn get_status(
        &self,
        _: Request<pb::GetStatusRequest>,
    ) -> Result<Response<pb::GetStatusResponse>, Status> {
        self.status().map(Response::new).map_err(status)
    }

    async fn sync_parent(
        &self,
        request: Request<pb::SyncParentRequest>,
    ) -> Result<Response<Self::SyncParentStream>, Status> {
        let uplink = self.uplink.clone();
        let uplink = uplink.ok_or_else(|| status(Reason::ParentUnavailable.into()))?;
        let asked = request
            .into_inner()
            .timeout
            .and_then(|limit| limit.try_into().ok());
        let limit = asked.unwrap_or(SYNC_LIMIT.1).min(SYNC_LIMIT.0);
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(async move {
            let parent = uplink.parent().clone();
            let told = sender.clone();
            let syncing = uplink.sync(limit, |step| {
                // A caller that reads slowly misses steps, never the end.
                let _ = told.try_send(Ok(synced(&parent, step)));
            });
            tokio::select! {
                end = syncing => {
                    let _ = sender.send(Ok(synced(uplink.parent(), &end))).await;
                }
                () = sender.closed() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
