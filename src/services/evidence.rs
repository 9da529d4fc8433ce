//! The evidence service: what contradicts, with its proof, and the operator's decision.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    convert::digest,
    register::Shared,
    status::{internal, status, storage},
};
use crate::{
    audit::Account,
    ledger::{LogView, merkle::ProofError, note::Note},
    proto::ledger::v1::{self as pb, evidence_service_server::EvidenceService},
    storage::StorageError,
    types::{FieldReason, Peer, Reason, Refusal, Violations, required_prose},
};

/// Longest reason of a decision, in characters.
const MAX_REASON: usize = 500;

/// The service.
#[derive(Clone)]
pub struct Evidences(pub Arc<Shared>);

impl Evidences {
    fn list(&self, origin: &str) -> Result<pb::ListEvidenceResponse, Refusal> {
        let ledger = &self.0.ledger;
        let mut response = pb::ListEvidenceResponse::default();
        let published = ledger.published();
        for view in published.logs.values() {
            if origin.is_empty() || view.origin() == origin {
                let evidence = ledger.evidence(view.log).map_err(storage)?;
                response.evidence.extend(evidence);
                let resolution = ledger.resolution(view.log).map_err(storage)?;
                response.resolutions.extend(resolution);
            }
        }
        Ok(response)
    }

    fn view(&self, origin: &str) -> Result<Arc<LogView>, Refusal> {
        let view = self.0.ledger.log(origin).filter(|_| !origin.is_empty());
        view.ok_or_else(|| Refusal::new(Reason::LogNotFound))
    }

    fn get(&self, request: &pb::GetEvidenceRequest) -> Result<pb::GetEvidenceResponse, Refusal> {
        let (view, ledger) = (self.view(&request.origin)?, &self.0.ledger);
        let evidence = ledger.evidence(view.log).map_err(storage)?.into_iter();
        let evidence = match request.number {
            0 => evidence.last(),
            number => evidence.into_iter().find(|e| e.number == number),
        };
        let evidence = evidence.ok_or_else(|| Refusal::new(Reason::EvidenceNotFound))?;
        let size = |note: &str| note.parse::<Note>().ok().map(|n| n.checkpoint().size);
        let mut response = pb::GetEvidenceResponse {
            verifier_key: view.key.to_string(),
            resolution: ledger.resolution(view.log).map_err(storage)?,
            ..pb::GetEvidenceResponse::default()
        };
        if let (Some(held), Some(offered)) = (size(&evidence.held), size(&evidence.offered))
            && offered <= held
        {
            let root = ledger.root_at(&view, offered).map_err(proof)?;
            let path = ledger.consistency(&view, offered, held).map_err(proof)?;
            response.held_root = Some(digest(&root));
            response.consistency = path.iter().map(digest).collect();
        }
        response.evidence = Some(evidence);
        Ok(response)
    }

    async fn resolve(
        &self,
        caller: &str,
        account: &Account,
        request: pb::ResolveEvidenceRequest,
    ) -> Result<pb::ResolveEvidenceResponse, Refusal> {
        let mut violations = Violations::new();
        let action = request.action();
        if action == pb::ResolutionAction::Unspecified {
            let (en, zh) = ("RESUME or CLOSE", "RESUME 或 CLOSE");
            violations.field("action", FieldReason::UnknownEnum, en, zh);
        }
        required_prose(&mut violations, "reason", &request.reason, MAX_REASON);
        violations.into_result(()).map_err(Refusal::from)?;
        let (view, ledger) = (self.view(&request.origin)?, &self.0.ledger);
        account.names(&view.origin());
        let resolution = pb::Resolution {
            action: action.into(),
            reason: request.reason,
            operator: caller.to_owned(),
            ..pb::Resolution::default()
        };
        let resolved = ledger.resolve(view.log, resolution).await;
        if !resolved.map_err(|_| Refusal::new(Reason::ShuttingDown))? {
            return Err(Reason::EvidenceNotFound.into());
        }
        let resolution = ledger.resolution(view.log).map_err(storage)?;
        let resolution = resolution.unwrap_or_default();
        let told = format!(
            "{}: {} by {caller}: {}",
            view.origin(),
            action.as_str_name(),
            resolution.reason
        );
        let told = self.0.trail.event(told);
        told.map_err(|error| internal(&error.to_string()))?;
        Ok(pb::ResolveEvidenceResponse {
            resolution: Some(resolution),
        })
    }
}

fn proof(error: ProofError<StorageError>) -> Refusal {
    match error {
        ProofError::Source(error) => storage(error),
        ProofError::OutOfRange => Reason::IndexOutOfRange.into(),
    }
}

#[tonic::async_trait]
impl EvidenceService for Evidences {
    async fn list_evidence(
        &self,
        request: Request<pb::ListEvidenceRequest>,
    ) -> Result<Response<pb::ListEvidenceResponse>, Status> {
        let listed = self.list(&request.into_inner().origin);
        listed.map(Response::new).map_err(status)
    }

    async fn get_evidence(
        &self,
        request: Request<pb::GetEvidenceRequest>,
    ) -> Result<Response<pb::GetEvidenceResponse>, Status> {
        let got = self.get(&request.into_inner());
        got.map(Response::new).map_err(status)
    }

    async fn resolve_evidence(
        &self,
        request: Request<pb::ResolveEvidenceRequest>,
    ) -> Result<Response<pb::ResolveEvidenceResponse>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let account = request.extensions().get::<Account>().cloned();
        let (Some(peer), Some(account)) = (peer, account) else {
            return Err(status(Reason::IdentityMissing.into()));
        };
        let caller = peer.identity.to_string();
        let resolved = self.resolve(&caller, &account, request.into_inner()).await;
        resolved.map(Response::new).map_err(status)
    }
}
