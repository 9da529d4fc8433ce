//! What an operator should see to: of all that a node knows of its logs, what is not as it should be.

use jiff::Timestamp;

use crate::{
    ledger::entry::timestamp,
    proto::node::v1::{Alert, AlertKind},
    replication::{ChildStatus, LinkState, UplinkStatus},
    types::{LedgerTime, LogNo},
};

/// The alerts of these standings. `wanted` is whether there should be a connection to the parent now.
#[must_use]
pub fn alerts(uplinks: &[UplinkStatus], children: &[ChildStatus], wanted: bool) -> Vec<Alert> {
    let below = children.iter().filter_map(child);
    let above = uplinks.iter().filter_map(|status| uplink(status, wanted));
    let mut alerts: Vec<_> = below.chain(above).collect();
    // A node with several logs is missing once.
    alerts.dedup_by(|a, b| a.kind() == AlertKind::ChildMissing && a == b);
    alerts
}

/// A child that is expected by an hour may be silent until then.
fn child(status: &ChildStatus) -> Option<Alert> {
    let reason = status.reason.clone();
    match (status.state, status.missing_since) {
        (LinkState::Quarantined, _) => {
            let kind = AlertKind::LogQuarantined;
            Some(alert(kind, &status.origin, status.since, reason))
        }
        (LinkState::Refused, _) => {
            let kind = AlertKind::LogRefused;
            Some(alert(kind, &status.origin, status.since, reason))
        }
        (_, Some(since)) => {
            let text = match (status.due, status.alive) {
                (Some(due), _) => format!("it was due by {due} and has not come"),
                (None, Some(_)) => "it is silent".to_owned(),
                (None, None) => "it has never come".to_owned(),
            };
            let kind = AlertKind::ChildMissing;
            Some(alert(kind, &status.node, since, text))
        }
        (LinkState::Silent, None) if !status.expected => {
            let kind = AlertKind::LogSilent;
            Some(alert(kind, &status.origin, status.since, reason))
        }
        _ => None,
    }
}

fn uplink(status: &UplinkStatus, wanted: bool) -> Option<Alert> {
    let kind = match status.state {
        LinkState::Quarantined => AlertKind::LogQuarantined,
        LinkState::Refused => AlertKind::LogRefused,
        // Every log says so; once is enough.
        LinkState::Disconnected if wanted && status.log == LogNo::OWN => {
            let (parent, reason) = (status.parent.as_str(), status.reason.clone());
            let kind = AlertKind::ParentUnreachable;
            return Some(alert(kind, parent, status.since, reason));
        }
        _ => return None,
    };
    let text = format!("{}: {}", status.parent, status.reason);
    Some(alert(kind, &status.origin, status.since, text))
}

fn alert(kind: AlertKind, subject: &str, since: Timestamp, text: String) -> Alert {
    Alert {
        kind: kind.into(),
        subject: subject.to_owned(),
        since: Some(timestamp(LedgerTime::from(since))),
        text,
    }
}
