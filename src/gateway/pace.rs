//! A body that goes no faster than its caller's bytes a second.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use tokio::time::{Sleep, sleep};
use tonic::{Status, body::Body};

use crate::{services::quota::Meter, types::Limit};

/// A body whose frames wait for their rate.
pub(super) struct Paced {
    inner: Body,
    meter: Arc<Meter>,
    limit: Limit,
    /// A frame that waits, and for how long.
    held: Option<(Frame<Bytes>, Pin<Box<Sleep>>)>,
}

impl Paced {
    pub fn new(inner: Body, meter: Arc<Meter>, limit: Limit) -> Self {
        let held = None;
        Self {
            inner,
            meter,
            limit,
            held,
        }
    }

    /// Whether a frame waits for its rate.
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    pub fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.inner.is_end_stream()
    }

    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let (frame, mut again) = match self.held.take() {
            Some((frame, mut wait)) => {
                if wait.as_mut().poll(cx).is_pending() {
                    self.held = Some((frame, wait));
                    return Poll::Pending;
                }
                (frame, true)
            }
            None => match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => (frame, false),
                ended => return Poll::Ready(ended),
            },
        };
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        while let Some(wait) = self.meter.wait(self.limit, bytes, again) {
            let mut wait = Box::pin(sleep(wait));
            if wait.as_mut().poll(cx).is_pending() {
                self.held = Some((frame, wait));
                return Poll::Pending;
            }
            again = true;
        }
        Poll::Ready(Some(Ok(frame)))
    }
}
