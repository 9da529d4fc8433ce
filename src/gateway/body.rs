//! The body of a response: what ends it early, and what becomes of an error at its end.

use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tonic::{Code, Status, body::Body};

use super::stack::{Closing, Places};
use crate::{
    services::status::{decode, internal, mapped, status},
    types::Reason,
};

/// What ends a call from outside, and why.
pub(super) type Ends = Pin<Box<dyn Future<Output = Reason> + Send>>;

/// A body that ends with a whole status, whatever happens below; the call counts against the limit
/// until its last byte has gone out.
pub(super) struct Guarded {
    /// None once it has ended.
    inner: Option<Body>,
    ends: Ends,
    account: Closing,
    _places: Places,
}

impl Guarded {
    /// A body that `ends` can end.
    pub(super) fn new(inner: Body, ends: Ends, account: Closing, places: Places) -> Self {
        Self {
            inner: Some(inner),
            ends,
            account,
            _places: places,
        }
    }

    fn end(&mut self, trailers: HeaderMap) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.inner = None;
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Self {
            inner: Some(inner),
            ends,
            account,
            ..
        } = &mut *self
        else {
            return Poll::Ready(None);
        };
        // First, so that a body that is always ready ends too.
        if let Poll::Ready(reason) = ends.as_mut().poll(cx) {
            let refused = account.refused(status(reason.into()));
            return self.end(trailers(&refused));
        }
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(inner).poll_frame(cx)));
        match polled {
            Err(panic) => {
                let refused = account.refused(panicked(&*panic));
                self.end(trailers(&refused))
            }
            Ok(Poll::Ready(Some(Ok(frame)))) => match frame.into_trailers() {
                Ok(found) => {
                    let found = closed(found, account);
                    self.end(found)
                }
                Err(data) => Poll::Ready(Some(Ok(data))),
            },
            Ok(polled) => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner
            .as_ref()
            .is_none_or(http_body::Body::is_end_stream)
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
