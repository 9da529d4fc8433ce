//! The body of a request: as fast as its sender may send, and no slower than it must.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::Frame;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Status, body::Body};

use super::pace::Paced;
use crate::{
    services::{quota::Meter, status::status},
    types::{Limit, Reason, Refusal},
};

/// Bytes of a message that may take another second to come.
const SLOWEST: u64 = 16 * 1024;

/// How long a sender may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For a message of few bytes; one of 16 KiB more, a second more.
    pub message: Duration,
    /// For a message to begin, or the stream to end; `None` where silence is part of the method.
    pub between: Option<Duration>,
}

/// A body whose messages come within their size and time.
pub(super) struct Sent {
    inner: Paced,
    meter: Arc<Meter>,
    patience: Patience,
    message: Message,
    /// What is left of the time of the message that is coming.
    left: Duration,
    /// Since when it is waited for, and until when that may last.
    waits: Option<(Instant, Pin<Box<Sleep>>)>,
    failed: bool,
}

/// Where in a message the last byte stood. Source: gRPC over HTTP/2, Length-Prefixed-Message: a flag, four
/// bytes of length, the message.
#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    begun: bool,
    prefix: Vec<u8>,
    rest: u64,
}

/// What the bytes of a frame did.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    /// A message ended in it.
    ended: bool,
    /// The length of the message that it leaves unfinished, where that became known in it.
    length: Option<u64>,
    /// The longest message that began in it.
    longest: u64,
}

impl Message {
    fn read(&mut self, mut bytes: &[u8]) -> Read {
        let mut read = Read::default();
        while !bytes.is_empty() {
            self.begun = true;
            if self.prefix.len() < 5 {
                let (taken, more) = bytes.split_at(bytes.len().min(5 - self.prefix.len()));
                self.prefix.extend_from_slice(taken);
                bytes = more;
                if let [_, a, b, c, d] = *self.prefix.as_slice() {
                    self.rest = u32::from_be_bytes([a, b, c, d]).into();
                    read.longest = read.longest.max(self.rest);
                    read.length = Some(self.rest);
                }
            } else {
                let taken = self.rest.min(bytes.len() as u64);
                let (_, more) = bytes.split_at(usize::try_from(taken).unwrap_or(bytes.len()));
                self.rest -= taken;
                bytes = more;
            }
            if self.prefix.len() == 5 && self.rest == 0 {
                *self = Self::default();
                (read.ended, read.length) = (true, None);
            }
        }
        read
    }
}

impl Sent {
    pub fn new(inner: Body, meter: Arc<Meter>, patience: Patience) -> Self {
        Self {
            inner: Paced::new(inner, meter.clone(), Limit::BytesIn),
            meter,
            patience,
            message: Message::default(),
            left: patience.message,
            waits: None,
            failed: false,
        }
    }

    fn takes(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let read = self.message.read(bytes);
        let allowed = self.meter.limit(Limit::MessageBytes);
        if read.longest > allowed {
            let (en, zh) = (
                format!("{allowed} bytes at most"),
                format!("至多 {allowed} 字节"),
            );
            return Err(Refusal::new(Reason::MessageTooLarge).because(en, zh));
        }
        if read.ended {
            self.left = self.patience.message;
        }
        if let Some(length) = read.length {
            self.left += Duration::from_secs(length / SLOWEST);
        }
        Ok(())
    }

    fn fails(&mut self, refusal: Refusal) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.failed = true;
        Poll::Ready(Some(Err(status(refusal))))
    }
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.failed {
            return Poll::Ready(None);
        }
        match self.inner.poll(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some((since, _)) = self.waits.take()
                    && self.message.begun
                {
                    self.left = self.left.saturating_sub(since.elapsed());
                }
                let taken = frame.data_ref().map_or(Ok(()), |data| self.takes(data));
                match taken {
                    Ok(()) => Poll::Ready(Some(Ok(frame))),
                    Err(refusal) => self.fails(refusal),
                }
            }
            // It is the node that waits.
            Poll::Pending if self.inner.is_held() => Poll::Pending,
            Poll::Pending => {
                let patience = match self.message.begun {
                    true => Some(self.left),
                    false => self.patience.between,
                };
                let Some(patience) = patience else {
                    return Poll::Pending;
                };
                let (_, sleep) = self.waits.get_or_insert_with(|| {
                    let now = Instant::now();
                    (now, Box::pin(sleep_until(now + patience)))
                });
                if sleep.as_mut().poll(cx).is_ready() {
                    return self.fails(Refusal::new(Reason::TooSlow));
                }
                Poll::Pending
            }
            Poll::Ready(ended) => Poll::Ready(ended),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.failed || self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let bytes = [
            &[0, 0, 0, 0, 3],
            &b"abc"[..],
            &[1, 0, 0, 0, 0],
            &[0, 0, 0, 1, 0],
            &[7; 256],
        ];
        let bytes = bytes.concat();
        for size in 1..bytes.len() {
            let (mut message, mut ended, mut longest) = (Message::default(), 0, 0);
            for part in bytes.chunks(size) {
                let read = message.read(part);
                ended += u32::from(read.ended);
                longest = longest.max(read.longest);
                assert_eq!(message.begun, !message.prefix.is_empty());
            }
            assert!(ended >= 1 && longest == 256, "{size}");
            assert_eq!(message, Message::default(), "{size}");
        }
        let mut message = Message::default();
        let read = message.read(&[0, 0, 0, 4, 0, 9]);
        assert_eq!(
            (read.ended, read.length, message.rest),
            (false, Some(1_024), 1_023)
        );
    }
}
