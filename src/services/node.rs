//! The node's own service: how it stands, and bringing the parent up to date.

use std::{path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    convert::int,
    register::Shared,
    status::{status, storage},
};
use crate::{
    ledger::{Intake, LogView, entry::timestamp, note::Note},
    proto::node::v1::{self as pb, node_service_server::NodeService},
    replication::{
        status::{Children, Link, LinkState},
        uplink::{Synced, Uplink},
    },
    storage::durable,
    types::{LedgerTime, LogNo, NodeId, Reason, Refusal},
};

/// How long a sync may take at most, and by default.
const SYNC_LIMIT: (Duration, Duration) = (Duration::from_secs(3_600), Duration::from_secs(300));

/// The service.
pub struct Nodes {
    /// What all services share.
    pub shared: Arc<Shared>,
    /// This node.
    pub node: NodeId,
    /// When it started.
    pub started: Timestamp,
    /// When its certificate ends.
    pub certificate_end: Timestamp,
    /// The link to the parent; `None` at the top.
    pub uplink: Option<Arc<Uplink>>,
    /// What was heard from below.
    pub children: Arc<Children>,
    /// The data folder.
    pub data: PathBuf,
    /// Intake stops below this many free bytes.
    pub watermark: u64,
}

impl Nodes {
    fn status(&self) -> Result<pb::GetStatusResponse, Refusal> {
        let ledger = &self.shared.ledger;
        let published = ledger.published();
        let own = ledger
            .log("")
            .ok_or_else(|| Refusal::new(Reason::StorageFailed))?;
        let (health, health_reason) = health(&ledger.intake().borrow());
        let counts = ledger.counts().map_err(storage)?;
        let below = published
            .logs
            .values()
            .filter(|view| view.log != LogNo::OWN);
        Ok(pb::GetStatusResponse {
            node: self.node.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            health: health.into(),
            health_reason,
            start_time: stamp(Some(self.started)),
            origin: own.origin().to_owned(),
            size: int(own.tree.size()),
            checkpoint: own.note.clone(),
            uplinks: self.uplinks(),
            children: below
                .map(|view| self.child(view))
                .collect::<Result<_, _>>()?,
            registers: totals(counts.iter().map(|(id, _, counts)| (id.as_str(), *counts))),
            journal_bytes: int(ledger.journal().bytes_on_disk()),
            state_bytes: int(ledger.state().bytes_on_disk()),
            free_bytes: durable::space(&self.data)
                .map(|space| int(space.free_bytes))
                .unwrap_or(0),
            watermark_bytes: int(self.watermark),
            certificate_end_time: stamp(Some(self.certificate_end)),
            damage: ledger.damage(),
        })
    }

    fn uplinks(&self) -> Vec<pb::Uplink> {
        let Some(uplink) = &self.uplink else {
            return Vec::new();
        };
        let links = uplink.links().borrow().clone();
        let published = self.shared.ledger.published();
        let idle = Link::idle(0, None, self.started);
        let logs = published.logs.values().map(|view| {
            let link = links.get(view.origin()).unwrap_or(&idle);
            let size = view.tree.size();
            let lag = size.saturating_sub(link.cosigned);
            // Entries that came since the link was last looked at: it is not current any more.
            let state = match link.state {
                LinkState::Current if lag > 0 => LinkState::CatchingUp,
                state => state,
            };
            pb::Uplink {
                origin: view.origin().to_owned(),
                parent: uplink.parent().to_string(),
                size: int(size),
                cosigned_size: int(link.cosigned),
                lag: int(lag),
                state: link_state(state).into(),
                since: stamp(Some(link.since)),
                reason: link.reason.clone(),
                cosigned_time: stamp(link.cosigned_time),
            }
        });
        logs.collect()
    }

    /// A log from below: what its origin has signed against what this node has cosigned.
    fn child(&self, view: &LogView) -> Result<pb::Child, Refusal> {
        let ledger = &self.shared.ledger;
        let heard = self.children.get(view.origin());
        let note: Option<Note> = view.note.parse().ok();
        let cosigned = note.map_or(0, |note| note.checkpoint().size);
        let signed = heard.as_ref().map_or(0, |heard| heard.signed).max(cosigned);
        let connected = heard.as_ref().is_some_and(|heard| heard.connected);
        let state = match (&view.quarantined, connected, cosigned < signed) {
            (Some(_), ..) => LinkState::Quarantined,
            (None, false, _) => LinkState::Disconnected,
            (None, true, true) => LinkState::CatchingUp,
            (None, true, false) => LinkState::Current,
        };
        let counts = ledger.counts().map_err(storage)?;
        let own = counts.iter().filter(|(_, log, _)| *log == view.log);
        Ok(pb::Child {
            node: view.node().to_owned(),
            origin: view.origin().to_owned(),
            signed_size: int(signed),
            size: int(view.tree.size()),
            cosigned_size: int(cosigned),
            lag: int(signed.saturating_sub(cosigned)),
            state: link_state(state).into(),
            since: stamp(
                heard
                    .as_ref()
                    .map_or(Some(self.started), |heard| Some(heard.since)),
            ),
            reason: view.quarantined.clone().unwrap_or_default(),
            heard_time: stamp(heard.map(|heard| heard.time)),
            registers: totals(own.map(|(id, _, counts)| (id.as_str(), *counts))),
            unknown_entries: int(ledger.unindexed(view.log).map_err(storage)?),
        })
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

fn totals<'a>(
    counts: impl Iterator<Item = (&'a str, crate::ledger::Counts)>,
) -> Vec<pb::RegisterCount> {
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

fn link_state(state: LinkState) -> pb::LinkState {
    match state {
        LinkState::Current => pb::LinkState::Current,
        LinkState::CatchingUp => pb::LinkState::CatchingUp,
        LinkState::Disconnected => pb::LinkState::Disconnected,
        LinkState::Refused => pb::LinkState::Refused,
        LinkState::Quarantined => pb::LinkState::Quarantined,
    }
}

fn stamp(time: Option<Timestamp>) -> Option<prost_types::Timestamp> {
    time.map(|time| timestamp(LedgerTime::from(time)))
}

/// One message of a sync.
#[must_use]
pub fn progress(parent: &NodeId, synced: &[Synced]) -> pb::SyncParentResponse {
    let log = |log: &Synced| pb::SyncedLog {
        origin: log.origin.clone(),
        size: int(log.size),
        cosigned_before: int(log.before),
        cosigned_after: int(log.after),
    };
    pb::SyncParentResponse {
        logs: synced.iter().map(log).collect(),
        complete: false,
        parent: parent.to_string(),
        reason: String::new(),
    }
}

/// The last message of a sync: whether everything that was there is cosigned, and if not, why.
#[must_use]
pub fn result(parent: &NodeId, synced: &[Synced]) -> pb::SyncParentResponse {
    let behind = synced.iter().find(|log| log.after < log.size);
    let stopped = synced.iter().find(|log| !log.stopped.is_empty());
    let reason = match (stopped, behind) {
        (Some(log), _) => format!("{}: {}", log.origin, log.stopped),
        (None, Some(log)) => format!(
            "{}: {} of {} cosigned in time",
            log.origin, log.after, log.size
        ),
        (None, None) => String::new(),
    };
    let complete = reason.is_empty();
    pb::SyncParentResponse {
        complete,
        reason,
        ..progress(parent, synced)
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
            let syncing = uplink.sync(limit, |synced| {
                // A caller that reads slowly misses steps, never the end.
                let _ = told.try_send(Ok(progress(&parent, synced)));
            });
            tokio::select! {
                synced = syncing => {
                    let _ = sender.send(Ok(result(uplink.parent(), &synced))).await;
                }
                () = sender.closed() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
