//! The audit trail's service: lists by field, export with hashes, and where the trail stands.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, stream};
use prost_types::Timestamp;
use tonic::{Request, Response, Status};

use super::{
    convert::{digest, int},
    register::Shared,
    status::{internal, status},
};
use crate::{
    audit::{AuditError, Chained, Trail},
    proto::audit::v1::{self as pb, audit_service_server::AuditService},
    types::{FieldReason, Peer, Reason, Refusal, Violations},
};

/// Records of a page, by default and at most.
const PAGE: (i32, i32) = (100, 1_000);
/// Records that are looked at for a page, at most.
const LOOKED_AT: u64 = 100_000;
/// Records of one message of an export.
const EXPORTED: usize = 500;
/// Longest text of a condition, in bytes.
const MAX_CONDITION: usize = 500;

/// The service.
#[derive(Clone)]
pub struct Audits(pub Arc<Shared>);

impl Audits {
    fn list(
        &self,
        caller: &str,
        request: &pb::ListAuditRecordsRequest,
    ) -> Result<pb::ListAuditRecordsResponse, Refusal> {
        check(request)?;
        let count = match request.page_size {
            0 => PAGE.0,
            n => n.min(PAGE.1),
        };
        let query = pb::ListAuditRecordsRequest {
            page_size: 0,
            page_token: String::new(),
            ..request.clone()
        };
        let query = prost::Message::encode_to_vec(&query);
        let binding: [&[u8]; 3] = [b"audit", caller.as_bytes(), &query];
        let before = match request.page_token.as_str() {
            "" => self.0.trail.head().size,
            token => {
                let cursor = self.0.tokens.open(&binding, token);
                let cursor = cursor.and_then(|c| c.first_chunk::<8>().copied());
                u64::from_be_bytes(cursor.ok_or_else(|| Refusal::new(Reason::PageTokenInvalid))?)
            }
        };
        let count = usize::try_from(count).unwrap_or(0);
        let (records, next) = newest(&self.0.trail, before, request, count).map_err(failed)?;
        let next = next.map(|next| self.0.tokens.seal(&binding, &next.to_be_bytes()));
        Ok(pb::ListAuditRecordsResponse {
            records,
            next_page_token: next.unwrap_or_default(),
        })
    }
}

/// Refuses conditions that cannot be meant.
fn check(request: &pb::ListAuditRecordsRequest) -> Result<(), Refusal> {
    let mut violations = Violations::new();
    if request.page_size < 0 {
        let (en, zh) = ("it must be 0 or more", "不得为负数");
        violations.field("page_size", FieldReason::OutOfRange, en, zh);
    }
    for (field, text) in [
        ("caller", &request.caller),
        ("method", &request.method),
        ("resource_prefix", &request.resource_prefix),
        ("reason", &request.reason),
    ] {
        if text.len() > MAX_CONDITION {
            let en = format!("at most {MAX_CONDITION} bytes");
            let zh = format!("至多 {MAX_CONDITION} 字节");
            violations.field(field, FieldReason::TooLong, en, zh);
        }
    }
    violations.into_result(()).map_err(Refusal::from)
}

/// The newest records before `before` that match, and where to go on; `None` at the end of the trail.
fn newest(
    trail: &Trail,
    before: u64,
    wanted: &pb::ListAuditRecordsRequest,
    count: usize,
) -> Result<(Vec<pb::AuditRecord>, Option<u64>), AuditError> {
    let (mut found, mut at, mut looked) = (Vec::new(), before, 0);
    let oldest = trail.head().oldest;
    while at > oldest {
        let Some((_, records)) = trail.file_of(at - 1)? else {
            return Ok((found, None));
        };
        let mut moved = false;
        for Chained { record, .. } in records.into_iter().rev() {
            let sequence = u64::try_from(record.sequence).unwrap_or(0);
            if sequence >= at {
                continue;
            }
            (at, moved, looked) = (sequence, true, looked + 1);
            if matches(&record, wanted) {
                found.push(record);
            }
            if found.len() >= count || looked >= LOOKED_AT {
                return Ok((found, (at > oldest).then_some(at)));
            }
        }
        if !moved {
            break;
        }
    }
    Ok((found, None))
}

fn matches(record: &pb::AuditRecord, wanted: &pb::ListAuditRecordsRequest) -> bool {
    let at = |time: &Timestamp| (time.seconds, time.nanos);
    let time = record.time.as_ref().map(at);
    let caller = |text: &str| {
        record.caller == text
            || !text.contains("://") && record.caller.ends_with(&format!("/{text}"))
    };
    (wanted.caller.is_empty() || caller(&wanted.caller))
        && record.method.contains(&wanted.method)
        && record.resource.starts_with(&wanted.resource_prefix)
        && (wanted.reason.is_empty() || record.reason == wanted.reason)
        && (!wanted.refused_only || record.code > 1)
        && (!wanted.cross_agency_only || record.cross_agency)
        && (wanted.start_time.is_none() || time >= wanted.start_time.as_ref().map(at))
        && (wanted.end_time.is_none() || time < wanted.end_time.as_ref().map(at))
}

/// One message of an export: the records from `at` on, and where the next one starts.
fn exported(
    trail: &Trail,
    at: u64,
) -> Result<Option<(pb::ExportAuditRecordsResponse, u64)>, AuditError> {
    let Some((before, records)) = trail.file_of(at)? else {
        return Ok(None);
    };
    let sequence = |chained: &Chained| u64::try_from(chained.record.sequence).unwrap_or(0);
    let skipped = records.iter().take_while(|c| sequence(c) < at).count();
    let last = skipped.checked_sub(1).and_then(|last| records.get(last));
    let hash_before = last.map_or(before, |last| last.hash);
    let rest = records.into_iter().skip(skipped).take(EXPORTED);
    let records: Vec<_> = rest
        .map(|chained| pb::ChainedRecord {
            hash: Some(digest(&chained.hash)),
            record_bytes: chained.bytes,
            record: Some(chained.record),
        })
        .collect();
    let next = records.last().and_then(|last| last.record.as_ref());
    let Some(next) = next.and_then(|last| u64::try_from(last.sequence + 1).ok()) else {
        return Ok(None);
    };
    let response = pb::ExportAuditRecordsResponse {
        records,
        hash_before: Some(digest(&hash_before)),
    };
    Ok(Some((response, next)))
}

#[expect(clippy::needless_pass_by_value, reason = "made for map_err")]
fn failed(error: AuditError) -> Refusal {
    internal(&error.to_string())
}

/// Runs what reads files away from the threads that serve.
async fn reading<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(Reason::Internal.into()))
        .map_err(status)
}

#[tonic::async_trait]
impl AuditService for Audits {
    type ExportAuditRecordsStream =
        Pin<Box<dyn Stream<Item = Result<pb::ExportAuditRecordsResponse, Status>> + Send>>;

    async fn list_audit_records(
        &self,
        request: Request<pb::ListAuditRecordsRequest>,
    ) -> Result<Response<pb::ListAuditRecordsResponse>, Status> {
        let peer = request.extensions().get::<Peer>();
        let caller = peer.map(|peer| peer.identity.to_string());
        let caller = caller.unwrap_or_default();
        let (audits, request) = (self.clone(), request.into_inner());
        let list = reading(move || audits.list(&caller, &request)).await?;
        Ok(Response::new(list))
    }

    async fn export_audit_records(
        &self,
        request: Request<pb::ExportAuditRecordsRequest>,
    ) -> Result<Response<Self::ExportAuditRecordsStream>, Status> {
        let start = u64::try_from(request.get_ref().start).map_err(|_| {
            let mut violations = Violations::new();
            let (en, zh) = ("it must be 0 or more", "不得为负数");
            violations.field("start", FieldReason::OutOfRange, en, zh);
            status(violations.into())
        })?;
        let trail = self.0.trail.clone();
        // What is written while it runs, this very call among it, is for the next export.
        let size = trail.head().size;
        let parts = stream::try_unfold(start, move |at| {
            let trail = trail.clone();
            async move {
                if at >= size {
                    return Ok(None);
                }
                reading(move || exported(&trail, at).map_err(failed)).await
            }
        });
        Ok(Response::new(Box::pin(parts)))
    }

    async fn get_audit_head(
        &self,
        _: Request<pb::GetAuditHeadRequest>,
    ) -> Result<Response<pb::GetAuditHeadResponse>, Status> {
        let head = self.0.trail.head();
        Ok(Response::new(pb::GetAuditHeadResponse {
            size: int(head.size),
            oldest: int(head.oldest),
            hash: Some(digest(&head.hash)),
            kept: self.0.trail.kept().try_into().ok(),
        }))
    }
}
