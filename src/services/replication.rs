//! Replication over gRPC: the stream as a parent serves it, and as a child dials it.

use std::pin::Pin;

use futures::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, transport::Channel};

use super::status::{decode, mapped, status};
use crate::{
    proto::replication::v1::{
        ReplicateRequest, ReplicateResponse, replication_service_client::ReplicationServiceClient,
        replication_service_server::ReplicationService,
    },
    replication::{Connector, Link, LinkError, MAX_MESSAGE_BYTES, Mirror},
    types::{Peer, Reason, Refusal},
};

/// Answers that may wait for a slow child.
const ANSWERS: usize = 16;
/// Messages that may wait for the connection: with [`MAX_MESSAGE_BYTES`], what they hold in memory.
const MESSAGES: usize = 2;

/// The service.
#[derive(Clone)]
pub struct Replication(pub Mirror);

#[tonic::async_trait]
impl ReplicationService for Replication {
    type ReplicateStream =
        Pin<Box<dyn Stream<Item = Result<ReplicateResponse, Status>> + Send + 'static>>;

    async fn replicate(
        &self,
        request: Request<Streaming<ReplicateRequest>>,
    ) -> Result<Response<Self::ReplicateStream>, Status> {
        let peer = request.extensions().get::<Peer>();
        let child = peer.map(|peer| peer.identity.clone());
        let child = child.ok_or_else(|| status(Reason::IdentityMissing.into()))?;
        let (answers, receiver) = mpsc::channel(ANSWERS);
        let (mirror, messages) = (self.0.clone(), request.into_inner().map(received).boxed());
        tokio::spawn(async move {
            if let Err(refusal) = mirror.serve(child, messages, answers.clone()).await {
                // A child that is gone needs no answer.
                let _ = answers.send(Err(refusal)).await;
            }
        });
        let answers = ReceiverStream::new(receiver).map(|answer| answer.map_err(status));
        Ok(Response::new(Box::pin(answers)))
    }
}

/// A message that came, or why none can come any more.
fn received(message: Result<ReplicateRequest, Status>) -> Result<ReplicateRequest, Refusal> {
    message.map_err(refusal_of)
}

/// Why no more messages of a caller can come.
pub(super) fn refusal_of(broken: Status) -> Refusal {
    let broken = decode(&mapped(broken));
    let reason = broken.reason.and_then(|reason| {
        Reason::ALL
            .iter()
            .copied()
            .find(|known| known.number() == i32::from(reason))
    });
    Refusal {
        en: broken.en,
        zh: broken.zh,
        ..Refusal::new(reason.unwrap_or(Reason::Internal))
    }
}

/// Connects to the parent's gateway, or says why not.
pub type Connect = Box<dyn Fn() -> BoxFuture<'static, Result<Channel, String>> + Send + Sync>;

/// Dials the parent over gRPC.
pub struct Dial(pub Connect);

impl Connector for Dial {
    fn connect(&self) -> BoxFuture<'_, Result<Link, LinkError>> {
        let channel = (self.0)();
        async move {
            let channel = channel.await.map_err(LinkError::Unreachable)?;
            let mut client = ReplicationServiceClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES);
            let (up, messages) = mpsc::channel(MESSAGES);
            let answers = client.replicate(ReceiverStream::new(messages)).await;
            let answers = answers.map_err(|status| broken(&status))?.into_inner();
            let down = answers
                .map(|answer| answer.map_err(|status| broken(&status)))
                .boxed();
            Ok(Link { up, down })
        }
        .boxed()
    }
}

/// A refusal where hefu speaks; a broken connection where only gRPC does.
fn broken(status: &Status) -> LinkError {
    let decoded = decode(status);
    match decoded.reason {
        Some(reason) => {
            let name = reason.as_str_name().trim_start_matches("ERROR_REASON_");
            LinkError::Refused(format!("{name}: {}", decoded.en))
        }
        None => LinkError::Broken(format!("{}: {}", status.code(), status.message())),
    }
}
