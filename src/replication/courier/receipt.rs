//! The parent's receipt, back at the child.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::Stream;

use super::{
    super::{Agreement, Board, agreement, keys, receipt},
    Carried,
    file::Incoming,
    misplaced,
};
use crate::{
    ledger::{Intake, LogView, entry::ledger_time, entry::timestamp},
    proto::replication::v1::{
        self as pb, courier_frame::Frame, replicate_response::Message as Response,
    },
    types::{LedgerTime, LogNo, Reason, Refusal},
};

/// Cosignatures of one receipt, at most: some of every log that a node can hold.
const MAX_COSIGNED: usize = 50_000;

/// Takes a receipt in: nothing of it before all of it was read.
///
/// # Errors
/// [`Reason::CourierInvalid`] with the place, [`Reason::CourierMisplaced`] for another node's, or not of the
/// parent; [`Reason::CheckpointInvalid`] for what is not cosigned as it says; [`Reason::BehindParent`] where it
/// proves that this node was restored from an old copy.
pub async fn receive<S>(board: &Arc<Board>, chunks: S) -> Result<Vec<Carried>, Refusal>
where
    S: Stream<Item = Result<Bytes, Refusal>> + Unpin,
{
    let mut file = Incoming::new(chunks);
    let header = file.header(Some(pb::CourierKind::Receipt)).await?;
    let parent = addressed(board, &header)?;
    let mut all = Vec::new();
    while let Some(frame) = file.next().await? {
        match frame {
            Frame::Response(pb::ReplicateResponse {
                message: Some(Response::Cosigned(cosigned)),
            }) if all.len() < MAX_COSIGNED => all.push(cosigned),
            Frame::End(_) => {}
            _ => return Err(file.wrong("a frame is not in its place", "帧的位置不对")),
        }
    }
    let mut moved = BTreeMap::new();
    for cosigned in all {
        let Some(view) = board.ledger().log(&cosigned.origin) else {
            continue;
        };
        let (from_parent, before) = (cosigned.node == parent, board.cosigned_size(view.log));
        take(board, &view, cosigned).await?;
        if from_parent {
            let carried = Carried {
                origin: view.origin().to_owned(),
                before,
                after: board.cosigned_size(view.log),
                refused: None,
            };
            moved.insert(view.log, carried);
        }
    }
    Ok(moved.into_values().collect())
}

/// Whether the receipt is for this node, and of its parent: the name of the latter.
fn addressed(board: &Arc<Board>, header: &pb::CourierHeader) -> Result<String, Refusal> {
    let (own, domain) = (board.own().node(), board.own().domain());
    let parent = board.parent().map(ToString::to_string);
    let parent = parent.ok_or_else(|| Refusal::new(Reason::ParentUnavailable))?;
    let (to, from) = (&header.to, &header.from);
    if to != own.as_str() || *from != parent || header.trust_domain != domain.as_str() {
        return Err(misplaced(
            format!("the receipt is for {to}, of {from}; this node is {own}, its parent {parent}"),
            format!("回执由 {from} 给 {to}，本节点是 {own}，上级是 {parent}"),
        ));
    }
    Ok(parent)
}

async fn take(
    board: &Arc<Board>,
    view: &Arc<LogView>,
    cosigned: pb::Cosigned,
) -> Result<(), Refusal> {
    let invalid = |why: String| {
        let zh = "回执中的签名或根不符";
        Refusal::new(Reason::CheckpointInvalid).because(why, zh)
    };
    let (node, told) = (&cosigned.node, &cosigned.key_changes);
    let cosigner = keys::cosigner(board, node, &cosigned.verifier_key, told).map_err(invalid)?;
    let read = receipt::read(view, node, &cosigner, &cosigned.note).map_err(invalid)?;
    match agreement(board.ledger(), view, read.checkpoint()) {
        Ok(Agreement::Agrees) => {}
        Ok(_) if view.log == LogNo::OWN => return Err(restored(board, cosigned.size)),
        Ok(_) => {
            return Err(invalid(format!(
                "it is not of the {} held here",
                view.origin()
            )));
        }
        Err(_) => return Err(Reason::DataDamaged.into()),
    }
    if !cosigner.news.is_empty() {
        let kept = board.ledger().keep_key_changes(node.clone(), cosigner.news);
        kept.await.map_err(|_| Refusal::new(Reason::ShuttingDown))?;
    }
    let now = LedgerTime::from(board.now());
    let mut cosignature = read.cosignature;
    cosignature.carried_time = Some(timestamp(now));
    let time = ledger_time(cosignature.time.as_ref());
    let kept = board
        .ledger()
        .keep_cosignature(view.log, cosignature.clone());
    kept.await.map_err(|_| Refusal::new(Reason::ShuttingDown))?;
    let of_parent = board.parent().is_some_and(|p| p.as_str() == cosigned.node);
    // A receipt that comes after a newer one says nothing new.
    let size = u64::try_from(cosignature.size).unwrap_or(0);
    if of_parent && size >= board.cosigned_size(view.log) {
        board.carried(view.log, size, time, now);
    }
    board.kept(view.log, Arc::new(cosignature));
    Ok(())
}

/// By its own signature, this node's log was longer once, or another.
fn restored(board: &Arc<Board>, size: u64) -> Refusal {
    let en = format!(
        "the receipt proves {size} entries of this node's log that are not here, or are others: it \
         was restored from an old copy, and takes nothing in until they are recovered"
    );
    board.ledger().set_intake(Intake::BehindParent(en.clone()));
    let zh = format!("回执证明本节点日志曾有 {size} 条，现在没有或不同");
    Refusal::new(Reason::BehindParent).because(en, zh)
}
