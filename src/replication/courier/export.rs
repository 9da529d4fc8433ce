//! What the parent has not cosigned yet, into a file.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    super::{Board, VERSIONS, batch::cut},
    file::Chunks,
};
use crate::{
    ledger::LogView,
    proto::replication::v1::{
        self as pb, courier_frame::Frame, replicate_request::Message as Request,
    },
    types::{Reason, Refusal},
};

/// Writes a file for the parent, from where its newest cosignature stands, as far as it came back. It ends
/// behind the batch with which it has `max_bytes`; 0 is no limit. Where nobody reads it any more, it ends.
///
/// # Errors
/// [`Reason::ParentUnavailable`] where there is none; [`Reason::DataDamaged`] for entries that cannot be read.
pub async fn export(
    board: &Arc<Board>,
    max_bytes: u64,
    to: mpsc::Sender<Result<Bytes, Refusal>>,
) -> Result<(), Refusal> {
    let parent = board.parent().map(ToString::to_string);
    let parent = parent.ok_or_else(|| Refusal::new(Reason::ParentUnavailable))?;
    let kind = pb::CourierKind::Batches;
    let Some(mut chunks) = Chunks::begin(to, kind, board, &parent).await else {
        return Ok(());
    };
    let published = board.ledger().published();
    let offers = published.logs.values().map(|view| pb::LogOffer {
        origin: view.origin().to_owned(),
        verifier_key: view.key.to_string(),
        checkpoint: view.note.clone(),
    });
    let hello = pb::Hello {
        version_min: VERSIONS.min,
        version_max: VERSIONS.max,
        logs: offers.collect(),
        ..pb::Hello::default()
    };
    let mut going = chunks.frame(request(Request::Hello(hello))).await;
    let mut batches = 0;
    for view in published.logs.values() {
        // However small the limit: every trip brings something.
        let mut start = board.cosigned_size(view.log);
        while going.is_some() && (max_bytes == 0 || batches == 0 || chunks.bytes < max_bytes) {
            let Some((batch, end)) = next(board, view, start).await? else {
                break;
            };
            going = chunks.frame(request(Request::Batch(batch))).await;
            start = end;
            batches += 1;
        }
    }
    if going.is_some() {
        chunks.end().await;
    }
    Ok(())
}

async fn next(
    board: &Arc<Board>,
    view: &Arc<LogView>,
    start: u64,
) -> Result<Option<(pb::Batch, u64)>, Refusal> {
    if start >= view.tree.size() {
        return Ok(None);
    }
    let (ledger, view) = (board.ledger().clone(), view.clone());
    let cutting = board.ledger().reading(move || cut(&ledger, &view, start));
    match cutting.await {
        Ok(Ok(cut)) => Ok(cut.map(|batch| (batch.message, batch.checkpoint.size))),
        Ok(Err(error)) => {
            tracing::error!(%error, "a courier file cannot be written");
            Err(Reason::DataDamaged.into())
        }
        Err(_) => Err(Reason::ShuttingDown.into()),
    }
}

fn request(message: Request) -> Frame {
    let message = Some(message);
    Frame::Request(pb::ReplicateRequest { message })
}
