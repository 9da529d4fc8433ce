//! The body of a response: what ends it early, and what becomes of an error at its end.

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{
    pace::Paced,
    stack::{Closing, Places},
};
use crate::{
    services::status::{decode, internal, mapped, status},
    types::Reason,
};

/// What ends a call from outside, and why.
pub(super) type Ends = Pin<Box<dyn Future<Output = Reason> + Send>>;

/// A body that ends with a whole status, whatever happens below; the call counts against the limits until
/// its last byte has gone out, or nobody reads it any more.
pub(super) struct Guarded(Arc<Mutex<Answer>>);

/// What an answer holds while it goes out.
pub(super) struct Answer {
    /// None once it has ended.
    inner: Option<Paced>,
    ends: Ends,
    account: Closing,
    places: Option<Places>,
    /// Since when its reader is waited for.
    waits: Option<Instant>,
    /// What it ends with when its reader comes back.
    left: Option<Status>,
}

/// An answer that nobody reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stalled {
    /// Its place was freed now.
    Freed,
    /// It was freed before, and is not read still.
    StillThen,
}

impl Guarded {
    /// A body that `ends` can end.
    pub(super) fn new(inner: Paced, ends: Ends, account: Closing, places: Places) -> Self {
        Self(Arc::new(Mutex::new(Answer {
            inner: Some(inner),
            ends,
            account,
            places: Some(places),
            waits: None,
            left: None,
        })))
    }

    /// What a watchdog may look at.
    pub(super) fn held(&self) -> &Arc<Mutex<Answer>> {
        &self.0
    }
}

impl Answer {
    fn end(&mut self, trailers: HeaderMap) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        (self.inner, self.places) = (None, None);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    /// Looks at an answer from outside: its own task does not run while its reader does not read, so neither
    /// a deadline nor a change of the policy would end it.
    pub(super) fn look(&mut self, now: Instant, stall: Duration) -> Option<Stalled> {
        let since = now.saturating_duration_since(self.waits?);
        if self.left.is_some() {
            return (since >= stall * 2).then_some(Stalled::StillThen);
        }
        self.inner.as_ref()?;
        let mut nobody = Context::from_waker(Waker::noop());
        let reason = match self.ends.as_mut().poll(&mut nobody) {
            Poll::Ready(reason) => reason,
            Poll::Pending if since >= stall => Reason::TooSlow,
            Poll::Pending => return None,
        };
        self.left = Some(self.account.refused(status(reason.into())));
        (self.inner, self.places) = (None, None);
        Some(Stalled::Freed)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.waits = None;
        if let Some(left) = self.left.take() {
            return self.end(trailers(&left));
        }
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        // First, so that a body that is always ready ends too.
        if let Poll::Ready(reason) = self.ends.as_mut().poll(cx) {
            let refused = self.account.refused(status(reason.into()));
            return self.end(trailers(&refused));
        }
        let polled = catch_unwind(AssertUnwindSafe(|| inner.poll(cx)));
        match polled {
            Err(panic) => {
                let refused = self.account.refused(panicked(&*panic));
                self.end(trailers(&refused))
            }
            Ok(Poll::Ready(Some(Ok(frame)))) => match frame.into_trailers() {
                Ok(found) => {
                    let found = closed(found, &self.account);
                    self.end(found)
                }
                Err(data) => {
                    self.waits = Some(Instant::now());
                    Poll::Ready(Some(Ok(data)))
                }
            },
            Ok(polled) => polled,
        }
    }
}

fn lock(held: &Mutex<Answer>) -> MutexGuard<'_, Answer> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        lock(&self.0).poll(cx)
    }

    fn is_end_stream(&self) -> bool {
        let held = lock(&self.0);
        held.left.is_none() && held.inner.as_ref().is_none_or(Paced::is_end_stream)
    }
}

/// The status of a panic. Its text goes to the log only.
pub(super) fn panicked(panic: &(dyn Any + Send)) -> Status {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    status(internal(text.unwrap_or("panic")))
}

/// Logs a refusal, by its reason alone, and returns that: its texts may repeat what the caller sent.
pub(super) fn told(status: &Status) -> &'static str {
    let reason = decode(status).reason.map(|reason| reason.as_str_name());
    tracing::info!(code = ?status.code(), reason, "refused");
    reason.unwrap_or_default()
}

/// Trailers in which an error has its details, once what they say is recorded.
fn closed(found: HeaderMap, account: &Closing) -> HeaderMap {
    match Status::from_header_map(&found) {
        Some(foreign) if foreign.code() != Code::Ok => trailers(&account.refused(mapped(foreign))),
        _ => match account.done() {
            Ok(()) => found,
            Err(status) => trailers(&status),
        },
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        // Only a text that no header can carry gets here; the code alone always can be.
        let code = http::HeaderValue::from(i32::from(status.code()));
        trailers.insert(Status::GRPC_STATUS, code);
    }
    trailers
}
