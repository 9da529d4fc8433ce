//! The layers around every call, in order: the first sees the request first.
//!
//! 1. **span**: a request id and the method, so that everything below logs under them. Never a body.
//! 2. **rescue**: the one place where what went wrong below, hefu's own or tonic's, becomes a status
//!    with details; so callers and logs see the same codes.
//! 3. **catch panic**: a fault of ours is an answer with a reference, not a dropped connection.
//! 4. **limit**: past the limit of calls at once, new ones are turned away at once. Not health: a busy node is
//!    not a dead one.
//! 5. **gate**: who calls, and whether the role may call this method at all. Before any decoding.

use std::{
    any::Any,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Status, body::Body};
use tower::{Layer, Service};
use tracing::Instrument as _;
use uuid::Uuid;

use super::policy;
use crate::{
    services::status::{internal, mapped, status},
    types::{Peer, Reason},
};

/// The layers.
#[derive(Clone)]
pub(super) struct Stack {
    calls: Arc<Semaphore>,
}

impl Stack {
    /// Layers that let `calls` calls through at once.
    pub(super) fn new(calls: usize) -> Self {
        Self {
            calls: Arc::new(Semaphore::new(calls)),
        }
    }
}

impl<S> Layer<S> for Stack {
    type Service = Stacked<S>;

    fn layer(&self, inner: S) -> Stacked<S> {
        Stacked {
            inner,
            calls: self.calls.clone(),
        }
    }
}

/// A service inside the layers.
#[derive(Clone)]
pub(super) struct Stacked<S> {
    inner: S,
    calls: Arc<Semaphore>,
}

impl<S> Service<Request<Body>> for Stacked<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: std::fmt::Display + Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The instance that was polled ready is the one to call; its clone waits for the next.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let peer = request.extensions().get::<Peer>().cloned();
        let caller = peer
            .as_ref()
            .map(|peer| peer.identity.to_string())
            .unwrap_or_default();
        let (path, id) = (request.uri().path().to_owned(), Uuid::now_v7());
        let span = tracing::info_span!("call", %id, path = path.as_str(), caller);
        let admitted = admit(peer.as_ref(), &path, &self.calls);
        let work = async move {
            let permit = match admitted {
                Ok(permit) => permit,
                Err(refused) => return Ok(refused.into_http()),
            };
            let called = std::panic::AssertUnwindSafe(inner.call(request));
            let response = match futures::FutureExt::catch_unwind(called).await {
                Ok(response) => response?,
                Err(panic) => status(internal(panic_text(&*panic))).into_http(),
            };
            Ok(rescue(response, permit))
        };
        Box::pin(work.instrument(span))
    }
}

/// The gate and the limit.
fn admit(
    peer: Option<&Peer>,
    path: &str,
    calls: &Arc<Semaphore>,
) -> Result<Option<OwnedSemaphorePermit>, Status> {
    let peer = peer.ok_or_else(|| status(Reason::IdentityMissing.into()))?;
    if peer.certificate_end < jiff::Timestamp::now() {
        return Err(status(Reason::IdentityMissing.into()));
    }
    if !policy::knows(path) {
        return Err(status(Reason::MethodUnknown.into()));
    }
    if !policy::allows(&peer.identity.role, path) {
        return Err(status(Reason::MethodNotAllowed.into()));
    }
    if path.starts_with("/grpc.health.v1.") {
        return Ok(None);
    }
    let permit = calls.clone().try_acquire_owned();
    permit
        .map(Some)
        .map_err(|_| status(Reason::Overloaded.into()))
}

/// Gives every error its details, whether it comes in the headers or in the trailers; the call counts against
/// the limit until its last byte has gone out.
fn rescue(response: Response<Body>, permit: Option<OwnedSemaphorePermit>) -> Response<Body> {
    if let Some(foreign) = Status::from_header_map(response.headers()) {
        let known = mapped(foreign);
        if known.code() != tonic::Code::Ok {
            tracing::info!(code = ?known.code(), message = known.message(), "refused");
        }
        return known.into_http();
    }
    response.map(|body| {
        let body = body.map_frame(move |frame| {
            let _held = &permit;
            match frame.into_trailers() {
                Ok(trailers) => http_body::Frame::trailers(mended(trailers)),
                Err(frame) => frame,
            }
        });
        Body::new(body)
    })
}

fn mended(trailers: http::HeaderMap) -> http::HeaderMap {
    match Status::from_header_map(&trailers) {
        Some(foreign) if foreign.code() != tonic::Code::Ok && foreign.details().is_empty() => {
            let mut mended = http::HeaderMap::new();
            match mapped(foreign).add_header(&mut mended) {
                Ok(()) => mended,
                Err(_) => trailers,
            }
        }
        _ => trailers,
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panic")
}
