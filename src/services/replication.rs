//! The replication stream, as the parent serves it.

use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::status::status;
use crate::{
    proto::replication::v1::{
        ReplicateRequest, ReplicateResponse, replicate_request::Message,
        replication_service_server::ReplicationService,
    },
    replication::mirror::{Mirror, Session},
    types::{NodeId, Peer, Reason, Refusal},
};

/// Answers that may wait for a slow child.
const QUEUE: usize = 16;

/// The service.
#[derive(Clone)]
pub struct Replication(pub Mirror);

type Answers = mpsc::Sender<Result<ReplicateResponse, Status>>;

#[tonic::async_trait]
impl ReplicationService for Replication {
    type ReplicateStream =
        Pin<Box<dyn Stream<Item = Result<ReplicateResponse, Status>> + Send + 'static>>;

    async fn replicate(
        &self,
        request: Request<Streaming<ReplicateRequest>>,
    ) -> Result<Response<Self::ReplicateStream>, Status> {
        let peer = request.extensions().get::<Peer>();
        let child = peer.and_then(|peer| peer.identity.node()).cloned();
        let child = child.ok_or_else(|| status(Reason::MethodNotAllowed.into()))?;
        let (answers, receiver) = mpsc::channel(QUEUE);
        let (mirror, inbound) = (self.0.clone(), request.into_inner());
        tokio::spawn(async move {
            if let Err(error) = converse(mirror, child, inbound, &answers).await {
                let _ = answers.send(Err(error)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

async fn converse(
    mirror: Mirror,
    child: NodeId,
    mut inbound: Streaming<ReplicateRequest>,
    answers: &Answers,
) -> Result<(), Status> {
    let mut follow = mirror.ledger.follow();
    let mut session = Session::new(mirror, child);
    let first = inbound
        .next()
        .await
        .transpose()?
        .and_then(|request| request.message);
    let Some(Message::Hello(hello)) = first else {
        let en = "the first message must be Hello";
        let refusal = Refusal::new(Reason::RequestMalformed).because(en, "首条消息应为 Hello");
        return Err(status(refusal));
    };
    send(answers, session.hello(hello).await).await?;
    loop {
        tokio::select! {
            request = inbound.next() => {
                let Some(request) = request.transpose()? else { return Ok(()) };
                let answer = match request.message {
                    Some(Message::Batch(batch)) => session.batch(batch).await.map(|a| vec![a]),
                    Some(Message::Offer(offer)) => {
                        session.offer(offer.log.unwrap_or_default()).await
                    }
                    Some(Message::Hello(_)) | None => Err(Reason::RequestMalformed.into()),
                };
                send(answers, answer).await?;
            }
            changed = follow.changed() => {
                if changed.is_err() {
                    return Err(status(Reason::ShuttingDown.into()));
                }
                send(answers, session.relays()).await?;
            }
        }
    }
}

async fn send(
    answers: &Answers,
    messages: Result<Vec<ReplicateResponse>, Refusal>,
) -> Result<(), Status> {
    for message in messages.map_err(status)? {
        let gone = || status(Reason::ShuttingDown.into());
        answers.send(Ok(message)).await.map_err(|_| gone())?;
    }
    Ok(())
}
