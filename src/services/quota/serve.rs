//! The service that tells a caller where it stands.

use std::sync::Arc;

use jiff::Timestamp;
use tonic::{Request, Response, Status};

use super::{Meter, Usage};
use crate::{
    ledger::entry::timestamp,
    proto::quota::v1::{self as pb, quota_service_server::QuotaService},
    services::{
        convert::int,
        register::Shared,
        status::{status, storage},
    },
    types::{LedgerTime, Limit, Reason, Refusal},
};

/// The service.
pub struct Quoted(pub Arc<Shared>);

impl Quoted {
    fn quota(&self, meter: &Meter) -> Result<pb::GetQuotaResponse, Refusal> {
        let usage = meter.usage();
        let stored = match meter.identity().agency() {
            Some(agency) => Some(self.0.ledger.stored(agency).map_err(storage)?),
            None => None,
        };
        let limits = Limit::ALL.iter().map(|limit| {
            let allowed = usage.limits.get(*limit);
            let counted = usage.used.iter().find(|(counted, ..)| counted == limit);
            let used = match limit {
                Limit::StoredBytes => stored.map(|used| (used, allowed.saturating_sub(used))),
                _ => counted.map(|(_, used, left)| (*used, *left)),
            };
            pb::Usage {
                limit: limit.to_string(),
                allowed: int(allowed),
                used: used.map(|(used, _)| int(used)),
                remaining: used.map(|(_, left)| int(left)),
            }
        });
        Ok(pb::GetQuotaResponse {
            caller: meter.identity().to_string(),
            limits: limits.collect(),
            refused: int(usage.refused),
            slowed: int(usage.slowed),
            first_time: usage.first.and_then(stamp),
            last_time: usage.last.and_then(|(_, last)| stamp(last)),
            last_limit: last(&usage),
        })
    }
}

/// By which limit one was held back last; empty where it never was.
pub(in crate::services) fn last(usage: &Usage) -> String {
    let last = usage.last.map(|(limit, _)| limit.to_string());
    last.unwrap_or_default()
}

#[expect(clippy::unnecessary_wraps, reason = "a message field is optional")]
fn stamp(time: Timestamp) -> Option<prost_types::Timestamp> {
    Some(timestamp(LedgerTime::from(time)))
}

#[tonic::async_trait]
impl QuotaService for Quoted {
    async fn get_quota(
        &self,
        request: Request<pb::GetQuotaRequest>,
    ) -> Result<Response<pb::GetQuotaResponse>, Status> {
        let meter = request.extensions().get::<Arc<Meter>>();
        let meter = meter.ok_or_else(|| status(Reason::Internal.into()))?;
        self.quota(meter).map(Response::new).map_err(status)
    }
}
