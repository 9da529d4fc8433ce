//! A child's file, at the parent: each message goes to the mirror as if the child had sent it, and what the
//! mirror answers becomes the receipt.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    super::{Board, Mirror},
    Carried,
    file::{Chunks, Incoming},
    gap, misplaced,
};
use crate::{
    proto::{
        error::v1::ErrorReason,
        replication::v1::{
            self as pb, courier_frame::Frame, replicate_request::Message as Request,
            replicate_response::Message as Response,
        },
    },
    types::{Identity, Reason, Refusal},
};

/// Answers that may wait.
const ANSWERS: usize = 16;

type Answer = Result<pb::ReplicateResponse, Refusal>;

/// Takes a file in, and writes the receipt. What is held already is looked at and left; a log that does not
/// fit is refused alone. A file that turns out to be damaged is refused there; what came before stands, for
/// it was verified by itself, and importing it again goes on behind it.
///
/// # Errors
/// [`Reason::CourierInvalid`] with the place, [`Reason::CourierMisplaced`] for another node's file; and what
/// ends a session of the stream.
pub async fn import<S>(
    mirror: &Mirror,
    chunks: S,
    receipt: mpsc::Sender<Result<Bytes, Refusal>>,
) -> Result<Vec<Carried>, Refusal>
where
    S: Stream<Item = Result<Bytes, Refusal>> + Unpin,
{
    let (mirror, board) = (mirror.by_courier(), mirror.board().clone());
    let mut file = Incoming::new(chunks);
    let header = file.header(Some(pb::CourierKind::Batches)).await?;
    let child = sender(&board, &header)?;
    let (requests, messages) = mpsc::channel(1);
    let (answers, answered) = mpsc::channel(ANSWERS);
    let messages = ReceiverStream::new(messages).map(Ok);
    let mut driver = Driver {
        own: board.own().node().to_string(),
        requests: Some(requests),
        answers: answered,
        logs: BTreeMap::new(),
        cosigned: BTreeMap::new(),
        key_changes: Vec::new(),
    };
    let (served, driven) = tokio::join!(
        mirror.serve(child, messages, answers),
        driver.run(&mut file)
    );
    // The mirror knows best why it ended; that the driver then got no answer is a consequence.
    match (served, driven) {
        (Ok(()), driven) => driven?,
        (Err(refusal), Err(other)) if other.reason != Reason::ShuttingDown => {
            tracing::debug!(%refusal, "the mirror ended with the file");
            return Err(other);
        }
        (Err(refusal), _) => return Err(refusal),
    }
    let written = write(&board, &header.from, driver.cosigned, receipt).await;
    written.ok_or_else(|| Refusal::new(Reason::ShuttingDown))?;
    Ok(driver.logs.into_values().collect())
}

/// Whose file it is. That it came from there is shown by what is in it, which its origin has signed.
fn sender(board: &Arc<Board>, header: &pb::CourierHeader) -> Result<Identity, Refusal> {
    let (domain, own) = (board.own().domain(), board.own().node());
    if header.trust_domain != domain.as_str() || header.to != own.as_str() {
        let (to, of) = (&header.to, &header.trust_domain);
        return Err(misplaced(
            format!("the file is for {to} of {of}, this node is {own} of {domain}"),
            format!("文件是给 {of} 的 {to} 的，本节点是 {domain} 的 {own}"),
        ));
    }
    let identity = format!("spiffe://{domain}/node/{}", header.from);
    identity.parse().map_err(|_| {
        misplaced(
            format!("{} is no node", header.from),
            "来源不是节点".to_owned(),
        )
    })
}

async fn write(
    board: &Arc<Board>,
    child: &str,
    cosigned: BTreeMap<(String, String), pb::Cosigned>,
    to: mpsc::Sender<Result<Bytes, Refusal>>,
) -> Option<()> {
    let mut chunks = Chunks::begin(to, pb::CourierKind::Receipt, board, child).await?;
    for cosigned in cosigned.into_values() {
        let message = Some(Response::Cosigned(cosigned));
        let frame = Frame::Response(pb::ReplicateResponse { message });
        chunks.frame(frame).await?;
    }
    chunks.end().await
}

struct Driver {
    own: String,
    requests: Option<mpsc::Sender<pb::ReplicateRequest>>,
    answers: mpsc::Receiver<Answer>,
    logs: BTreeMap<String, Carried>,
    /// The newest of every log and node.
    cosigned: BTreeMap<(String, String), pb::Cosigned>,
    /// How this node's own key came to be: whoever gets the receipt may not have heard of it.
    key_changes: Vec<String>,
}

impl Driver {
    async fn run<S>(&mut self, file: &mut Incoming<S>) -> Result<(), Refusal>
    where
        S: Stream<Item = Result<Bytes, Refusal>> + Unpin,
    {
        let drove = self.drive(file).await;
        // The mirror ends when nothing more can come; what it said until then counts.
        self.requests = None;
        while let Some(answer) = self.answers.recv().await {
            self.hear(answer?);
        }
        drove
    }

    async fn drive<S>(&mut self, file: &mut Incoming<S>) -> Result<(), Refusal>
    where
        S: Stream<Item = Result<Bytes, Refusal>> + Unpin,
    {
        while let Some(frame) = file.next().await? {
            match frame {
                Frame::Request(pb::ReplicateRequest {
                    message: Some(Request::Hello(hello)),
                }) if self.logs.is_empty() => self.hello(hello).await?,
                Frame::Request(pb::ReplicateRequest {
                    message: Some(Request::Batch(batch)),
                }) if self.logs.contains_key(&batch.origin) => self.batch(batch).await?,
                Frame::End(_) => {}
                _ => return Err(file.wrong("a frame is not in its place", "帧的位置不对")),
            }
        }
        Ok(())
    }

    async fn send(&mut self, message: Request) -> Result<(), Refusal> {
        let request = pb::ReplicateRequest {
            message: Some(message),
        };
        let sent = match &self.requests {
            Some(requests) => requests.send(request).await.is_ok(),
            None => false,
        };
        match sent {
            true => Ok(()),
            false => Err(Reason::ShuttingDown.into()),
        }
    }

    async fn answer(&mut self) -> Result<Response, Refusal> {
        loop {
            let answer = self.answers.recv().await;
            let answer = answer.ok_or_else(|| Refusal::new(Reason::ShuttingDown))?;
            if let Some(message) = self.hear(answer?) {
                return Ok(message);
            }
        }
    }

    /// Notes what the mirror says; `None` for what answers nothing that was sent.
    fn hear(&mut self, answer: pb::ReplicateResponse) -> Option<Response> {
        let message = answer.message?;
        if let Response::Cosigned(cosigned) = &message {
            let place = (cosigned.origin.clone(), cosigned.node.clone());
            let relayed = cosigned.node != self.own;
            let mut kept = cosigned.clone();
            if !relayed {
                kept.key_changes.clone_from(&self.key_changes);
                if !cosigned.key_changes.is_empty() {
                    kept.key_changes.clone_from(&cosigned.key_changes);
                }
            }
            self.cosigned.insert(place, kept);
            if relayed {
                return None;
            }
        }
        Some(message)
    }

    /// Says Hello: the mirror welcomes some of the logs, and refuses the others.
    async fn hello(&mut self, hello: pb::Hello) -> Result<(), Refusal> {
        for offer in &hello.logs {
            let carried = Carried {
                origin: offer.origin.clone(),
                before: 0,
                after: 0,
                refused: None,
            };
            self.logs.insert(offer.origin.clone(), carried);
        }
        let mut open = self.logs.len();
        self.send(Request::Hello(hello)).await?;
        while open > 0 {
            match self.answer().await? {
                Response::Welcome(welcome) => {
                    open = open.saturating_sub(welcome.logs.len());
                    self.welcomed(welcome);
                }
                Response::Refused(refused) => {
                    open -= 1;
                    self.refuse(&refused);
                }
                Response::Cosigned(_) | Response::Batch(_) => {}
            }
        }
        Ok(())
    }

    /// Where this node stands: what it cosigned before goes into the receipt too, for an earlier one may have
    /// been lost.
    fn welcomed(&mut self, welcome: pb::Welcome) {
        self.key_changes.clone_from(&welcome.key_changes);
        for position in welcome.logs {
            if let Some(log) = self.logs.get_mut(&position.origin) {
                (log.before, log.after) = (position.size, position.size);
            }
            if position.size > 0 {
                let place = (position.origin.clone(), welcome.node.clone());
                let cosigned = pb::Cosigned {
                    origin: position.origin,
                    size: position.size,
                    note: position.cosigned,
                    verifier_key: welcome.verifier_key.clone(),
                    node: welcome.node.clone(),
                    key_changes: welcome.key_changes.clone(),
                };
                self.cosigned.insert(place, cosigned);
            }
        }
    }

    fn refuse(&mut self, refused: &pb::Refused) {
        if let Some(log) = self.logs.get_mut(&refused.origin) {
            log.refused = Some((refused.reason, refused.message.clone()));
        }
    }

    async fn batch(&mut self, mut batch: pb::Batch) -> Result<(), Refusal> {
        let Some(log) = self.logs.get_mut(&batch.origin) else {
            return Ok(());
        };
        if log.refused.is_some() {
            return Ok(());
        }
        if batch.start > log.after {
            let refusal = gap(batch.start, log.after);
            log.refused = Some((refusal.reason.number(), refusal.en));
            return Ok(());
        }
        // A batch of which the first entries are held: another file ended within it.
        let end = batch.start.saturating_add(batch.entries.len() as u64);
        if end > log.after {
            let held = usize::try_from(log.after - batch.start).unwrap_or(0);
            batch.entries.drain(..held.min(batch.entries.len()));
            batch.start = log.after;
        }
        let origin = batch.origin.clone();
        self.send(Request::Batch(batch)).await?;
        loop {
            match self.answer().await? {
                Response::Cosigned(cosigned) if cosigned.origin == origin => {
                    if let Some(log) = self.logs.get_mut(&origin) {
                        log.after = cosigned.size;
                    }
                    return Ok(());
                }
                Response::Refused(refused) if refused.origin == origin => {
                    // What is held is not taken again.
                    let again = refused.reason() == ErrorReason::IndexOutOfRange;
                    match self.logs.get_mut(&origin).filter(|_| again) {
                        Some(log) => log.after = log.after.max(refused.size),
                        None => self.refuse(&refused),
                    }
                    return Ok(());
                }
                _ => {}
            }
        }
    }
}
