//! The layers around every call, in order: the first sees the request first.
//!
//! 1. **span**: a call id, the method and the caller, so that everything below logs under them. Never
//!    a body.
//! 2. **gate**: who calls, and whether the policy lets them call this method at all. Before anything is decoded
//!    or counted: a stranger takes no place from those who may.
//! 3. **account**: what comes of the call is written to the audit trail before its answer ends.
//! 4. **limit**: past its own quota a caller is refused, by itself; past the limit of calls at once, new ones
//!    are turned away at once. Not health, as to the latter: a busy node is not a dead one. Many refusals are
//!    answered slowly, so that whoever floods waits for its own flood.
//! 5. **rescue**: the one place where what went wrong below, hefu's own or tonic's, becomes a status
//!    with details; so callers and logs see the same codes. In headers here, in trailers in `body`.
//! 6. **deadline**: the caller's, over the whole call. tonic's own stands outside these layers, ends
//!    with the first byte, and says CANCELLED.
//! 7. **catch panic**: a fault of ours is an answer with a reference, not a dropped connection.

use std::{
    future,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, OptionFuture},
};
use http::{HeaderMap, Request, Response};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::Instrument as _;
use uuid::Uuid;

use super::{
    accept::Counterpart,
    body::{Ends, Guarded, panicked, told},
    connections::{FINISH, Standing},
    line::{Line, Open},
    meter::{Meter, Meters},
    pace::Paced,
    sent::{Patience, Sent},
};
use crate::{
    audit::{Account, AuditError, Incoming, Trail},
    services::{
        access::Access,
        methods::{Methods, Need, known, lasts},
        quota::{self, Held, Quotas},
        status::{mapped, status},
    },
    types::{Identity, Limit, Peer, Reason, Refusal},
};

/// Who may call what.
#[derive(Clone)]
pub struct Gate {
    /// The policy.
    pub access: Access,
    /// What each method needs.
    pub methods: Methods,
    /// How much each caller may use.
    pub quotas: Quotas,
    /// Where it is recorded.
    pub trail: Trail,
    /// Where it is counted.
    pub meters: Meters,
}

impl Gate {
    /// What the method needs, where the caller has it.
    fn open(&self, identity: &Identity, need: Option<Need>) -> Result<Need, Refusal> {
        let need = need.ok_or_else(|| Refusal::new(Reason::MethodUnknown))?;
        if self.access.allows(identity, &need) {
            Ok(need)
        } else {
            Err(Refusal::new(Reason::MethodNotAllowed).with("role", &identity.role))
        }
    }

    /// Ends when a change of the policy takes from the caller what the method needs.
    async fn closed(self, identity: Identity, need: Need) {
        let mut changes = self.access.changes();
        while self.access.allows(&identity, &need) {
            if changes.changed().await.is_err() {
                // The node is going: that ends the call by itself.
                return future::pending().await;
            }
        }
    }
}

/// The layers.
#[derive(Clone)]
pub(super) struct Stack {
    calls: Arc<Semaphore>,
    gate: Gate,
    stopping: CancellationToken,
}

impl Stack {
    /// Layers that let `calls` calls through at once, of those whom the gate lets in, and none after
    /// `stopping`.
    pub(super) fn new(calls: usize, gate: Gate, stopping: CancellationToken) -> Self {
        Self {
            calls: Arc::new(Semaphore::new(calls)),
            gate,
            stopping,
        }
    }

    fn account(
        &self,
        caller: Option<&Counterpart>,
        need: Option<&Need>,
        path: &str,
        id: Uuid,
    ) -> Account {
        let peer = caller.and_then(|caller| caller.peer.as_ref().ok());
        let incoming = Incoming {
            caller: peer.map_or_else(String::new, |peer| peer.identity.to_string()),
            address: caller.map_or_else(String::new, |caller| caller.address.to_string()),
            method: need.map_or_else(String::new, |_| path.to_owned()),
            id: id.to_string(),
            always: need.is_some_and(|need| need.is_recorded(path)),
        };
        Account::open(self.gate.trail.clone(), incoming)
    }

    /// The gate and the limit.
    fn admit(
        &self,
        caller: &Counterpart,
        need: Option<Need>,
        path: &str,
        account: &Account,
    ) -> Result<Admitted, Refusal> {
        let peer = caller.peer.clone().map_err(|why| {
            let zh = why.zh();
            Refusal::new(Reason::IdentityMissing).because(why, zh)
        })?;
        if caller.standing.is_over() {
            return Err(Reason::CertificateEnded.into());
        }
        let need = self.gate.open(&peer.identity, need)?;
        if self.stopping.is_cancelled() {
            return Err(Reason::ShuttingDown.into());
        }
        let meter = self.gate.quotas.meter(&peer.identity);
        let health = path.starts_with("/grpc.health.v1.");
        let held = self.hold(&meter, path, health)?;
        if lasts(path) && need.is_recorded(path) {
            account.begins().map_err(unrecorded)?;
        }
        let permit = if health {
            None
        } else {
            let permit = self.calls.clone().try_acquire_owned();
            Some(permit.map_err(|_| Refusal::new(Reason::Overloaded))?)
        };
        Ok(Admitted {
            patience: self.patience(&caller.line, path),
            line: caller.line.clone(),
            peer,
            need,
            standing: caller.standing.clone(),
            meter,
            places: Places(permit, held),
        })
    }

    /// How long a caller may take to send.
    fn patience(&self, line: &Line, path: &str) -> Patience {
        let limits = line.limits();
        let between = match self.gate.methods.is_stream(path) {
            true => (!lasts(path)).then_some(limits.quiet),
            false => Some(limits.message),
        };
        Patience {
            message: limits.message,
            between,
        }
    }

    /// What a call takes of its caller's quota before it runs.
    fn hold(
        &self,
        meter: &Arc<quota::Meter>,
        path: &str,
        health: bool,
    ) -> Result<Vec<Held>, Refusal> {
        meter.take(Limit::Requests, 1)?;
        if health {
            return Ok(Vec::new());
        }
        let call = meter.hold(Limit::Calls)?;
        if self.gate.methods.is_stream(path) {
            return Ok(vec![call, meter.hold(Limit::Streams)?]);
        }
        Ok(vec![call])
    }

    /// When a refusal is answered: at once, but for many that are over a quota.
    fn until(&self, caller: &Counterpart, refusal: &Refusal) -> Option<Instant> {
        let peer = caller.peer.as_ref().ok()?;
        let over = refusal.reason == Reason::QuotaExceeded;
        over.then(|| {
            self.gate
                .quotas
                .meter(&peer.identity)
                .answers(Instant::now())
        })
    }

    /// What ends a call from outside.
    fn ends(&self, admitted: &Admitted, path: &str, deadline: Option<Instant>) -> Ends {
        let (standing, finish) = (admitted.standing.clone(), !lasts(path));
        let over = async move {
            standing.over().await;
            if finish {
                sleep(FINISH).await;
            }
        };
        let lasts = lasts(path).then(|| {
            let (gate, peer) = (self.gate.clone(), &admitted.peer);
            let closed = gate.closed(peer.identity.clone(), admitted.need.clone());
            let stopping = self.stopping.clone().cancelled_owned();
            let aged = admitted.line.aged();
            async move {
                tokio::select! {
                    () = stopping => Reason::ShuttingDown,
                    () = closed => Reason::MethodNotAllowed,
                    () = aged => Reason::ConnectionAged,
                }
            }
        });
        let deadline = deadline.map(sleep_until);
        Box::pin(async move {
            tokio::select! {
                Some(reason) = OptionFuture::from(lasts) => reason,
                () = over => Reason::CertificateEnded,
                Some(()) = OptionFuture::from(deadline) => Reason::DeadlineExceeded,
            }
        })
    }
}

/// A call that the gate let through.
struct Admitted {
    peer: Peer,
    need: Need,
    standing: Standing,
    line: Arc<Line>,
    meter: Arc<quota::Meter>,
    places: Places,
    patience: Patience,
}

/// What a call takes up until it is over: one of the node's places, and those of its caller.
#[expect(dead_code, reason = "they are given back when they are dropped")]
pub(super) struct Places(Option<OwnedSemaphorePermit>, Vec<Held>);

impl<S> Layer<S> for Stack {
    type Service = Stacked<S>;

    fn layer(&self, inner: S) -> Stacked<S> {
        Stacked {
            inner,
            stack: self.clone(),
        }
    }
}

/// A service inside the layers.
#[derive(Clone)]
pub(super) struct Stacked<S> {
    inner: S,
    stack: Stack,
}

impl<S> Service<Request<Body>> for Stacked<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The instance that was polled ready is the one to call; its clone waits for the next.
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        let path = request.uri().path().to_owned();
        let caller = request.extensions_mut().remove::<Counterpart>();
        let id = Uuid::now_v7();
        let span = span(caller.as_ref(), &path, id);
        let need = self.stack.gate.methods.need(&path);
        let stack = &self.stack;
        let account = stack.account(caller.as_ref(), need.as_ref(), &path, id);
        let meter = stack
            .gate
            .meters
            .begin(known(&path).unwrap_or("other"), lasts(&path));
        let open = caller.as_ref().map(|caller| caller.line.open());
        let admitted = match caller {
            Some(ref caller) => stack.admit(caller, need, &path, &account),
            None => Err(Reason::IdentityMissing.into()),
        };
        let admitted = admitted.map(|admitted| {
            // Reckoned now, so that it passes before tonic's own, which begins after this returns.
            let deadline = deadline(request.headers());
            let ends = self.stack.ends(&admitted, &path, deadline);
            (admitted, ends)
        });
        let until = match (&admitted, &caller) {
            (Err(refusal), Some(caller)) => self.stack.until(caller, refusal),
            _ => None,
        };
        let work = async move {
            let account = Closing {
                account,
                meter,
                _open: open,
            };
            match admitted {
                Ok((admitted, ends)) => admitted.run(inner, request, ends, account).await,
                Err(refusal) => {
                    if let Some(until) = until {
                        sleep_until(until).await;
                    }
                    Ok(account.refused(status(refusal)).into_http())
                }
            }
        };
        Box::pin(work.instrument(span))
    }
}

impl Admitted {
    /// The call itself, within the deadline, its panics and errors rescued.
    async fn run<S>(
        self,
        mut inner: S,
        request: Request<Body>,
        mut ends: Ends,
        account: Closing,
    ) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>>,
    {
        let (meter, patience) = (self.meter.clone(), self.patience);
        let mut request = request.map(|body| Body::new(Sent::new(body, meter.clone(), patience)));
        request.extensions_mut().insert(self.peer);
        request.extensions_mut().insert(account.account.clone());
        request.extensions_mut().insert(self.meter);
        let called = AssertUnwindSafe(async { inner.call(request).await }).catch_unwind();
        let response = tokio::select! {
            biased;
            reason = &mut ends => return Ok(account.refused(status(reason.into())).into_http()),
            called = called => match called {
                Ok(response) => response?,
                Err(panic) => return Ok(account.refused(panicked(&*panic)).into_http()),
            },
        };
        match Status::from_header_map(response.headers()) {
            Some(foreign) if foreign.code() != Code::Ok => {
                Ok(account.refused(mapped(foreign)).into_http())
            }
            _ => Ok(response.map(|body| {
                let body = Paced::new(body, meter, Limit::BytesOut);
                let body = Guarded::new(body, ends, account, self.places);
                self.line.answers(body.held());
                Body::new(body)
            })),
        }
    }
}

/// An account that is closed when the call is over, however it ends; and what is measured of it.
pub(super) struct Closing {
    account: Account,
    meter: Meter,
    _open: Option<Open>,
}

impl Closing {
    /// A call that ends well; what it is answered with instead where that cannot be recorded.
    pub(super) fn done(&self) -> Result<(), Status> {
        self.account.close(0, "").map_err(|error| {
            let status = status(unrecorded(error));
            let reason = told(&status).trim_start_matches("ERROR_REASON_");
            self.meter.end(status.code(), reason);
            status
        })?;
        self.meter.end(Code::Ok, "");
        Ok(())
    }

    /// A call that is refused, and with what.
    pub(super) fn refused(&self, status: Status) -> Status {
        let reason = told(&status).trim_start_matches("ERROR_REASON_");
        let closed = self.account.close(status.code().into(), reason);
        let status = match closed {
            Ok(()) => status,
            Err(error) => crate::services::status::status(unrecorded(error)),
        };
        self.meter.end(status.code(), reason);
        status
    }
}

impl Drop for Closing {
    /// Its caller has cut it.
    fn drop(&mut self) {
        // Nobody is there to be told; a trail that fails stops the node by itself.
        let _ = self.account.close(Code::Cancelled.into(), "");
        self.meter.end(Code::Cancelled, "");
    }
}

/// What cannot be recorded is not done. The trail has logged why.
fn unrecorded(_: AuditError) -> Refusal {
    Reason::StorageFailed.into()
}

fn span(caller: Option<&Counterpart>, path: &str, id: Uuid) -> tracing::Span {
    let peer = caller.and_then(|caller| caller.peer.as_ref().ok());
    let caller = peer
        .map(|peer| peer.identity.to_string())
        .unwrap_or_default();
    tracing::info_span!("call", %id, path, caller)
}

/// When the caller's deadline passes. Source: gRPC over HTTP/2, `grpc-timeout`: at most eight digits
/// and a unit. One that is not so counts as none, as in tonic.
fn deadline(headers: &HeaderMap) -> Option<Instant> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    let left = match unit {
        "H" => Duration::from_secs(count * 3_600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    };
    Instant::now().checked_add(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_as_grpc_writes_them() {
        let left = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            let before = Instant::now();
            deadline(&headers).map(|at| at.duration_since(before).as_secs())
        };
        assert_eq!(left("2H"), Some(7_200));
        assert_eq!(left("3M"), Some(180));
        assert_eq!(left("99999999S"), Some(99_999_999));
        assert_eq!(left("4000m"), Some(4));
        assert_eq!(left("5000000u"), Some(5));
        assert_eq!(left("99999999n"), Some(0));
        for wrong in [
            "",
            "S",
            "1",
            "1s",
            "-1S",
            "+1S",
            "123456789S",
            "1.5S",
            "秒",
            "1 S",
        ] {
            assert_eq!(left(wrong), None, "{wrong}");
        }
    }
}
