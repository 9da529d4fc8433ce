//! What the committer decides of a proposal by itself, before and after a register's judgement.

use bytes::Bytes;

use super::{
    Intake, Outcome,
    entry::{FORMAT, StoredEntry, timestamp},
    head::{Head, content_hash},
    rules::{Intent, Proposal},
};
use crate::{
    proto::ledger::v1::{self as pb, Action},
    types::{LedgerTime, LogNo, Reason, RecordName, Refusal},
};

pub(super) fn refuse_intake(intake: &Intake) -> Result<(), Refusal> {
    match intake {
        Intake::Open => Ok(()),
        Intake::Full => Err(Refusal::new(Reason::StorageFull)),
        Intake::BehindParent(_) => Err(Refusal::new(Reason::BehindParent)),
        Intake::Failed(_) => Err(Refusal::new(Reason::StorageFailed)),
    }
}

pub(super) fn check_preconditions(proposal: &Proposal, head: Option<&Head>) -> Result<(), Refusal> {
    if head.is_some_and(|head| head.entry.log != LogNo::OWN) {
        return Err(Refusal::new(Reason::RecordElsewhere));
    }
    if head.is_none() && matches!(proposal.intent, Intent::Withdraw { .. }) {
        return Err(Refusal::new(Reason::RecordNotFound));
    }
    match (&proposal.etag, head) {
        (Some(etag), Some(head)) if *etag == head.etag() => Ok(()),
        (Some(_), _) => Err(Refusal::new(Reason::EtagStale)),
        (None, _) => Ok(()),
    }
}

pub(super) fn is_so_already(intent: &Intent, head: &Head) -> bool {
    match intent {
        Intent::Submit(record) => !head.withdrawn && content_hash(record) == head.hash,
        Intent::Withdraw { .. } => head.withdrawn,
    }
}

pub(super) fn new_entry(
    proposal: &Proposal,
    head: Option<&Head>,
    record: &Bytes,
    cascaded: &[RecordName],
    now: LedgerTime,
) -> pb::Entry {
    let (action, reason) = match &proposal.intent {
        Intent::Submit(_) => (Action::Submit, String::new()),
        Intent::Withdraw { reason, .. } => (Action::Withdraw, reason.clone()),
    };
    let (id, hash) = match &proposal.request {
        Some((id, hash)) => (id.to_string(), hash.to_vec()),
        None => (String::new(), Vec::new()),
    };
    let revision = head.map_or(1, |head| head.revision + 1);
    pb::Entry {
        format: FORMAT,
        time: Some(timestamp(now)),
        name: proposal.name.to_string(),
        submitter: proposal.submitter.clone(),
        action: action.into(),
        revision: i64::try_from(revision).unwrap_or(i64::MAX),
        previous: head.map(|head| head.entry.index.0),
        request_id: id,
        request_hash: hash,
        record: record.clone(),
        withdraw_reason: reason,
        create_time: Some(timestamp(head.map_or(now, |head| head.created))),
        cascaded: cascaded.iter().map(ToString::to_string).collect(),
    }
}

pub(super) fn outcome_of(entry: &StoredEntry) -> Outcome {
    match (entry.withdrawn(), entry.revision()) {
        (true, _) => Outcome::Withdrawn,
        (false, 1) => Outcome::Created,
        (false, _) => Outcome::Revised,
    }
}
