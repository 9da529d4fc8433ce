//! Courier files of a running node: what `hefu courier` asks for.

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{convert::int, replication::refusal_of, status::status};
use crate::{
    proto::replication::v1::{self as pb, courier_service_server::CourierService},
    replication::{
        Board, Mirror,
        courier::{Carried, export, import, receive},
    },
    types::Refusal,
};

/// Chunks that may wait for a slow caller.
const CHUNKS: usize = 2;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send + 'static>>;

/// The service.
pub struct Couriers {
    /// How every log stands.
    pub board: Arc<Board>,
    /// What takes a child's logs in.
    pub mirror: Mirror,
}

fn logs(carried: Vec<Carried>) -> Vec<pb::CourierLog> {
    let log = |carried: Carried| {
        let (reason, message) = carried.refused.unwrap_or_default();
        pb::CourierLog {
            origin: carried.origin,
            size_before: int(carried.before),
            size_after: int(carried.after),
            reason,
            message,
        }
    };
    carried.into_iter().map(log).collect()
}

#[tonic::async_trait]
impl CourierService for Couriers {
    type ExportCourierStream = Answers<pb::ExportCourierResponse>;
    type ImportCourierStream = Answers<pb::ImportCourierResponse>;

    async fn export_courier(
        &self,
        request: Request<pb::ExportCourierRequest>,
    ) -> Result<Response<Self::ExportCourierStream>, Status> {
        let max_bytes = u64::try_from(request.into_inner().max_bytes).unwrap_or(0);
        let (to, chunks) = mpsc::channel(CHUNKS);
        let board = self.board.clone();
        tokio::spawn(async move {
            if let Err(refusal) = export(&board, max_bytes, to.clone()).await {
                let _ = to.send(Err(refusal)).await;
            }
        });
        let answers = ReceiverStream::new(chunks).map(|chunk| {
            let chunk: Bytes = chunk.map_err(status)?;
            Ok(pb::ExportCourierResponse { chunk })
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn import_courier(
        &self,
        request: Request<Streaming<pb::ImportCourierRequest>>,
    ) -> Result<Response<Self::ImportCourierStream>, Status> {
        let (to, answers) = mpsc::channel(CHUNKS);
        let chunks = request.into_inner();
        let chunks = chunks.map(|chunk| chunk.map(|c| c.chunk).map_err(refusal_of));
        let mirror = self.mirror.clone();
        tokio::spawn(async move {
            let (receipt, pieces) = mpsc::channel(CHUNKS);
            let passing = pass(pieces, to.clone());
            let (imported, ()) = tokio::join!(import(&mirror, chunks.boxed(), receipt), passing);
            let last = imported.map(|carried| pb::ImportCourierResponse {
                receipt_chunk: Bytes::new(),
                logs: logs(carried),
            });
            let _ = to.send(last).await;
        });
        let answers = ReceiverStream::new(answers).map(|answer| answer.map_err(status));
        Ok(Response::new(answers.boxed()))
    }

    async fn import_receipt(
        &self,
        request: Request<Streaming<pb::ImportReceiptRequest>>,
    ) -> Result<Response<pb::ImportReceiptResponse>, Status> {
        let chunks = request.into_inner();
        let chunks = chunks.map(|chunk| chunk.map(|c| c.chunk).map_err(refusal_of));
        let received = receive(&self.board, chunks.boxed()).await;
        let logs = logs(received.map_err(status)?);
        Ok(Response::new(pb::ImportReceiptResponse { logs }))
    }
}

/// Passes the pieces of a receipt on.
async fn pass(
    mut pieces: mpsc::Receiver<Result<Bytes, Refusal>>,
    to: mpsc::Sender<Result<pb::ImportCourierResponse, Refusal>>,
) {
    while let Some(piece) = pieces.recv().await {
        let answer = piece.map(|receipt_chunk| pb::ImportCourierResponse {
            receipt_chunk,
            logs: Vec::new(),
        });
        if to.send(answer).await.is_err() {
            return;
        }
    }
}
