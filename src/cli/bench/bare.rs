//! What the figures are held against: the same messages answered at once, by nothing but tonic.

use std::pin::Pin;

use crate::proto::{
    replication::v1::{
        Cosigned, ReplicateRequest, ReplicateResponse, replicate_response::Message,
        replication_service_server::ReplicationService,
    },
    risk::v1::{
        GetRiskRequest, GetRiskResponse, ListRiskRevisionsRequest, ListRiskRevisionsResponse,
        ListRisksRequest, ListRisksResponse, SubmitRiskRequest, SubmitRiskResponse,
        SubmitRisksRequest, SubmitRisksResponse, WatchRisksRequest, WatchRisksResponse,
        WithdrawRiskRequest, WithdrawRiskResponse, risk_service_server::RiskService,
    },
    r#type::v1::ListSummary,
};
use futures::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

/// The server.
#[derive(Clone, Copy)]
pub(super) struct Bare;

type Answers<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

fn absent<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("the bare server only takes"))
}

#[tonic::async_trait]
impl RiskService for Bare {
    type SubmitRisksStream = Answers<SubmitRisksResponse>;
    type WatchRisksStream = Answers<WatchRisksResponse>;

    async fn submit_risk(
        &self,
        _: Request<SubmitRiskRequest>,
    ) -> Result<Response<SubmitRiskResponse>, Status> {
        Ok(Response::new(SubmitRiskResponse::default()))
    }

    /// Reads the list to its end and answers once, as a bare client stream would.
    async fn submit_risks(
        &self,
        request: Request<Streaming<SubmitRisksRequest>>,
    ) -> Result<Response<Self::SubmitRisksStream>, Status> {
        let rows = request.into_inner();
        let answer = async move {
            let count = rows.fold(Ok(0), |count: Result<i64, Status>, message| async move {
                Ok(count? + i64::try_from(message?.risks.len()).unwrap_or(i64::MAX))
            });
            Ok(SubmitRisksResponse {
                summary: Some(ListSummary {
                    created: count.await?,
                    ..ListSummary::default()
                }),
                ..SubmitRisksResponse::default()
            })
        };
        Ok(Response::new(Box::pin(futures::stream::once(answer))))
    }

    async fn get_risk(
        &self,
        _: Request<GetRiskRequest>,
    ) -> Result<Response<GetRiskResponse>, Status> {
        Ok(Response::new(GetRiskResponse::default()))
    }

    async fn list_risks(
        &self,
        _: Request<ListRisksRequest>,
    ) -> Result<Response<ListRisksResponse>, Status> {
        absent()
    }

    async fn list_risk_revisions(
        &self,
        _: Request<ListRiskRevisionsRequest>,
    ) -> Result<Response<ListRiskRevisionsResponse>, Status> {
        absent()
    }

    async fn watch_risks(
        &self,
        _: Request<WatchRisksRequest>,
    ) -> Result<Response<Self::WatchRisksStream>, Status> {
        absent()
    }

    async fn withdraw_risk(
        &self,
        _: Request<WithdrawRiskRequest>,
    ) -> Result<Response<WithdrawRiskResponse>, Status> {
        absent()
    }
}

#[tonic::async_trait]
impl ReplicationService for Bare {
    type ReplicateStream = Answers<ReplicateResponse>;

    /// Answers every message at once.
    async fn replicate(
        &self,
        request: Request<Streaming<ReplicateRequest>>,
    ) -> Result<Response<Self::ReplicateStream>, Status> {
        let answers = request.into_inner().map(|message| {
            message.map(|_| ReplicateResponse {
                message: Some(Message::Cosigned(Cosigned::default())),
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
