//! From the ledger's types to messages.

use crate::{
    ledger::{
        Accepted, Outcome,
        entry::{StoredEntry, timestamp},
        head::Head,
        merkle::Hash,
    },
    proto::r#type::v1::{self as pb, Digest, HashAlgorithm, Receipt, RevisionInfo},
    types::{FieldReason, Refusal, Violation, Violations},
};

/// A SHA-256 hash as a message.
#[must_use]
pub fn digest(hash: &Hash) -> Digest {
    Digest {
        algorithm: HashAlgorithm::Sha256.into(),
        value: hash.to_vec(),
    }
}

/// An outcome as a message's value.
#[must_use]
pub fn outcome(outcome: Outcome) -> pb::Outcome {
    match outcome {
        Outcome::Created => pb::Outcome::Created,
        Outcome::Revised => pb::Outcome::Revised,
        Outcome::Unchanged => pb::Outcome::Unchanged,
        Outcome::Withdrawn => pb::Outcome::Withdrawn,
    }
}

/// Indexes and sizes are int64 in messages; none comes near that bound.
#[must_use]
pub fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The receipt of an accepted proposal; `None` for a dry run.
#[must_use]
pub fn receipt(accepted: &Accepted, origin: &str, checkpoint: &str) -> Option<Receipt> {
    Some(Receipt {
        log: origin.to_owned(),
        index: int(accepted.head.entry.index.0),
        leaf_hash: Some(digest(&accepted.leaf_hash?)),
        time: Some(timestamp(accepted.head.updated)),
        checkpoint: checkpoint.to_owned(),
    })
}

/// What the ledger says of the revision that stands after a proposal.
#[must_use]
pub fn info_of(accepted: &Accepted, origin: &str) -> RevisionInfo {
    info(
        &accepted.head,
        &accepted.submitter,
        &accepted.withdraw_reason,
        origin,
    )
}

/// What the ledger says of an entry's revision.
#[must_use]
pub fn info_of_entry(entry: &StoredEntry, origin: &str) -> RevisionInfo {
    info(
        &entry.head(),
        &entry.message.submitter,
        &entry.message.withdraw_reason,
        origin,
    )
}

fn info(head: &Head, submitter: &str, withdraw_reason: &str, origin: &str) -> RevisionInfo {
    RevisionInfo {
        revision: int(head.revision),
        etag: head.etag(),
        withdrawn: head.withdrawn,
        withdraw_reason: withdraw_reason.to_owned(),
        submitter: submitter.to_owned(),
        create_time: Some(timestamp(head.created)),
        update_time: Some(timestamp(head.updated)),
        log: origin.to_owned(),
        index: int(head.entry.index.0),
    }
}

/// One broken rule as a message.
#[must_use]
pub fn violation(violation: &Violation) -> pb::FieldViolation {
    pb::FieldViolation {
        field: violation.field.clone(),
        reason: violation.reason.as_str().to_owned(),
        description: violation.en.clone(),
        description_zh: violation.zh.clone(),
    }
}

/// A refused row.
#[must_use]
pub fn refused(row: i64, name: String, refusal: &Refusal) -> pb::RowResult {
    pb::RowResult {
        row,
        name,
        outcome: pb::Outcome::Refused.into(),
        reason: refusal.reason.number(),
        message: refusal.en.clone(),
        message_zh: refusal.zh.clone(),
        violations: refusal.violations.iter().map(violation).collect(),
        ..pb::RowResult::default()
    }
}

/// A row that was taken, or is so already.
#[must_use]
pub fn taken(row: i64, name: String, accepted: &Accepted, origin: &str) -> pb::RowResult {
    pb::RowResult {
        row,
        name,
        outcome: outcome(accepted.outcome).into(),
        receipt: receipt(accepted, origin, ""),
        etag: accepted.head.etag(),
        ..pb::RowResult::default()
    }
}

/// The refusal of a number that must not be negative.
#[must_use]
pub fn negative(field: &str) -> Refusal {
    let mut violations = Violations::new();
    violations.field(
        field,
        FieldReason::OutOfRange,
        "it must be 0 or more",
        "不得为负数",
    );
    violations.into()
}
