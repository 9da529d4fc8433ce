//! The layout of courier files: writing one, and reading one that may be cut or damaged anywhere.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use jiff::Timestamp;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::super::{Board, MAX_MESSAGE_BYTES};
use crate::{
    ledger::entry::timestamp,
    proto::replication::v1::{self as pb, courier_frame::Frame},
    types::{LedgerTime, Reason, Refusal},
};

const MAGIC: &[u8; 8] = b"HEFUCOUR";
const VERSION: u32 = 1;
/// Magic and version.
const START: usize = 12;
/// Length and checksum before each frame.
const FRONT: usize = 8;
/// Bytes of a frame, at most: a message, and what the frame adds.
const MAX_FRAME_BYTES: usize = MAX_MESSAGE_BYTES + 64 * 1024;
/// Bytes of a chunk, at most.
const CHUNK_BYTES: usize = 1024 * 1024;

/// Writes a file into a channel, chunk by chunk: what is not taken is not made.
pub struct Chunks {
    to: mpsc::Sender<Result<Bytes, Refusal>>,
    digest: Sha256,
    /// Bytes so far.
    pub bytes: u64,
}

impl Chunks {
    /// Begins a file that goes from this node to another one; `false` where nobody reads it any more.
    pub(super) async fn begin(
        to: mpsc::Sender<Result<Bytes, Refusal>>,
        kind: pb::CourierKind,
        board: &Board,
        for_node: &str,
    ) -> Option<Self> {
        let mut chunks = Self {
            to,
            digest: Sha256::new(),
            bytes: 0,
        };
        let start = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
        chunks.put(start.into()).await?;
        let header = pb::CourierHeader {
            kind: kind.into(),
            trust_domain: board.own().domain().to_string(),
            from: board.own().node().to_string(),
            to: for_node.to_owned(),
            create_time: Some(timestamp(LedgerTime::from(board.now()))),
        };
        chunks.frame(Frame::Header(header)).await?;
        Some(chunks)
    }

    pub(super) async fn frame(&mut self, frame: Frame) -> Option<()> {
        let frame = Some(frame);
        let payload = pb::CourierFrame { frame }.encode_to_vec();
        let length = u32::try_from(payload.len()).ok()?.to_le_bytes();
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&length), &payload);
        let mut bytes = BytesMut::with_capacity(FRONT + payload.len());
        bytes.put_slice(&length);
        bytes.put_u32_le(checksum);
        bytes.put_slice(&payload);
        self.put(bytes.freeze()).await
    }

    /// Ends the file.
    pub(super) async fn end(mut self) -> Option<()> {
        let sha256 = self.digest.clone().finalize().to_vec();
        self.frame(Frame::End(pb::CourierEnd { sha256 })).await
    }

    async fn put(&mut self, mut bytes: Bytes) -> Option<()> {
        self.digest.update(&bytes);
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let chunk = bytes.split_to(bytes.len().min(CHUNK_BYTES));
            self.to.send(Ok(chunk)).await.ok()?;
        }
        Some(())
    }
}

/// Reads a file from chunks of any size.
pub struct Incoming<S> {
    chunks: S,
    buffer: BytesMut,
    /// Where the buffer begins in the file.
    at: u64,
    digest: Sha256,
    started: bool,
    ended: bool,
}

impl<S: Stream<Item = Result<Bytes, Refusal>> + Unpin> Incoming<S> {
    /// A file whose bytes come in chunks.
    pub fn new(chunks: S) -> Self {
        Self {
            chunks,
            buffer: BytesMut::new(),
            at: 0,
            digest: Sha256::new(),
            started: false,
            ended: false,
        }
    }

    /// The header; `kind` is what the file must carry, if that is known.
    ///
    /// # Errors
    /// [`Reason::CourierInvalid`] with the place; and what the chunks fail with.
    pub async fn header(
        &mut self,
        kind: Option<pb::CourierKind>,
    ) -> Result<pb::CourierHeader, Refusal> {
        let header = match self.next().await? {
            Some(Frame::Header(header)) => header,
            _ => return Err(self.wrong("the first frame is no header", "首帧不是文件头")),
        };
        match kind {
            Some(kind) if header.kind() != kind => Err(self.wrong(
                &format!("it is of {}", header.kind().as_str_name()),
                "文件种类不符",
            )),
            _ => Ok(header),
        }
    }

    /// The next frame; `None` at the end of a file that is whole. What comes before that has a sound
    /// checksum, and may yet turn out to be of a file that is not.
    ///
    /// # Errors
    /// As [`Incoming::header`].
    pub async fn next(&mut self) -> Result<Option<Frame>, Refusal> {
        if !self.started {
            self.start().await?;
        }
        if self.ended {
            return match self.fill(1).await? {
                true => Err(self.wrong("bytes follow its end", "文件结束后还有内容")),
                false => Ok(None),
            };
        }
        self.need(FRONT).await?;
        let (mut length, mut front) = (0, self.buffer.as_ref());
        if front.len() >= FRONT {
            length = front.get_u32_le() as usize;
        }
        if length > MAX_FRAME_BYTES {
            return Err(self.wrong("a frame is too long", "帧过长"));
        }
        self.need(FRONT + length).await?;
        let frame = self.buffer.split_to(FRONT + length).freeze();
        let decoded = decode(&frame);
        let frame_sound = match &decoded {
            Some(Frame::End(end)) => {
                self.ended = true;
                end.sha256 == self.digest.clone().finalize().as_slice()
            }
            decoded => decoded.is_some(),
        };
        if !frame_sound {
            return Err(self.wrong("its bytes are not those that were written", "内容已被改动"));
        }
        self.digest.update(&frame);
        self.at += frame.len() as u64;
        Ok(decoded)
    }

    async fn start(&mut self) -> Result<(), Refusal> {
        self.need(START).await?;
        let start = self.buffer.split_to(START);
        if !start.starts_with(MAGIC) {
            return Err(self.wrong("this is no courier file", "不是摆渡文件"));
        }
        if !start.ends_with(&VERSION.to_le_bytes()) {
            let en = format!("its layout is not version {VERSION}, the one that is read here");
            return Err(self.wrong(&en, &format!("文件版本不是本节点支持的 {VERSION}")));
        }
        self.digest.update(&start);
        (self.at, self.started) = (START as u64, true);
        Ok(())
    }

    async fn need(&mut self, bytes: usize) -> Result<(), Refusal> {
        match self.fill(bytes).await? {
            true => Ok(()),
            false => Err(self.wrong("it ends too early", "文件不完整")),
        }
    }

    /// Takes chunks until so many bytes wait; `false` where the file ends first.
    async fn fill(&mut self, bytes: usize) -> Result<bool, Refusal> {
        while self.buffer.len() < bytes {
            match self.chunks.next().await {
                Some(chunk) => self.buffer.put_slice(&chunk?),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    pub(super) fn wrong(&self, en: &str, zh: &str) -> Refusal {
        let at = self.at;
        let refusal = Refusal::new(Reason::CourierInvalid).with("byte", at);
        refusal.because(
            format!("at byte {at}, {en}"),
            format!("第 {at} 字节处，{zh}"),
        )
    }
}

fn decode(frame: &Bytes) -> Option<Frame> {
    let (length, rest) = frame.split_first_chunk::<4>()?;
    let (checksum, payload) = rest.split_first_chunk::<4>()?;
    let sound = crc32c::crc32c_append(crc32c::crc32c(length), payload);
    if sound != u32::from_le_bytes(*checksum) {
        return None;
    }
    pb::CourierFrame::decode(frame.slice(FRONT..)).ok()?.frame
}

/// What is in a file that is whole.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// From where to where.
    pub header: pb::CourierHeader,
    /// Entries of every log, from one index to another; for a receipt, 0 and the size that is cosigned.
    pub logs: std::collections::BTreeMap<String, (u64, u64)>,
    /// When it was written.
    pub created: Option<Timestamp>,
}

/// Reads a file to its end, and says what is in it.
///
/// # Errors
/// As [`Incoming::header`].
pub async fn check<S>(chunks: S) -> Result<Summary, Refusal>
where
    S: Stream<Item = Result<Bytes, Refusal>> + Unpin,
{
    use pb::{replicate_request::Message as Request, replicate_response::Message as Response};
    let mut incoming = Incoming::new(chunks);
    let header = incoming.header(None).await?;
    let mut summary = Summary {
        created: header
            .create_time
            .as_ref()
            .and_then(|time| Timestamp::new(time.seconds, time.nanos).ok()),
        header,
        ..Summary::default()
    };
    while let Some(frame) = incoming.next().await? {
        let (origin, start, end) = match frame {
            Frame::Request(pb::ReplicateRequest {
                message: Some(Request::Batch(batch)),
            }) => {
                let end = batch.start.saturating_add(batch.entries.len() as u64);
                (batch.origin, batch.start, end)
            }
            Frame::Response(pb::ReplicateResponse {
                message: Some(Response::Cosigned(cosigned)),
            }) => (cosigned.origin, 0, cosigned.size),
            _ => continue,
        };
        let range = summary.logs.entry(origin).or_insert((start, end));
        range.1 = range.1.max(end);
    }
    Ok(summary)
}
