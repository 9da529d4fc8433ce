//! One gRPC service for every register: same shapes, stored bytes, no code of a register's own.

mod charge;
mod read;
mod submit;
mod watch;

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{Stream, future::BoxFuture};
use tonic::{
    Request, Response, Status, Streaming, body::Body, codec::CompressionEncoding, server::Grpc,
};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

use super::{
    MAX_MESSAGE_BYTES,
    access::{Access, Caller},
    position::Positions,
    quota::{Meter, Quotas},
    status::status,
    token::Tokens,
    wire,
};
use crate::{
    audit::{Account, Trail},
    ledger::{Ledger, entry::StoredEntry},
    registers::{AnyRegister, Registers},
    types::{AgencyId, Clock, Limit, Peer, Reason, RecordName, Refusal, RegisterId, TrustDomain},
};

/// What all registers' services share.
pub struct Shared {
    /// The ledger.
    pub ledger: Ledger,
    /// The registers.
    pub registers: Arc<Registers>,
    /// Who may do what.
    pub access: Access,
    /// How much each caller may use.
    pub quotas: Quotas,
    /// Page tokens.
    pub tokens: Tokens,
    /// Positions.
    pub positions: Positions,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The audit trail.
    pub trail: Trail,
}

impl Shared {
    fn origin_of(&self, entry: &StoredEntry) -> String {
        let published = self.ledger.published();
        published
            .logs
            .get(&entry.at.log)
            .map(|view| view.origin().to_owned())
            .unwrap_or_default()
    }
}

/// The service of one register.
#[derive(Clone)]
pub struct RegisterService {
    shared: Arc<Shared>,
    id: RegisterId,
}

/// One call's view: the register, and who calls.
struct Call {
    shared: Arc<Shared>,
    id: RegisterId,
    caller: Caller,
    account: Account,
    meter: Arc<Meter>,
}

impl Call {
    /// A record is shown: one of another agency is recorded.
    fn shows(&self, owner: &AgencyId, lasts: bool) -> Result<(), Refusal> {
        if self.caller.crosses(owner) {
            let recorded = self.account.crosses(lasts);
            return recorded.map_err(|_| Reason::StorageFailed.into());
        }
        Ok(())
    }

    fn register(&self) -> Result<&dyn AnyRegister, Refusal> {
        self.shared
            .registers
            .get(&self.id)
            .ok_or_else(|| Reason::MethodUnknown.into())
    }

    /// A name of this register's records; anything else is a violation of `name`.
    fn name(&self, text: &str) -> Result<RecordName, Refusal> {
        let mut violations = crate::types::Violations::new();
        let name: Option<RecordName> = violations.parse("name", text);
        if let Some(name) = &name
            && *name.register() != self.id
        {
            let id = &self.id;
            violations.field(
                "name",
                crate::types::FieldReason::BadFormat,
                format!("it must be agencies/{{agency}}/{id}/{{item}}"),
                format!("应为 agencies/{{单位}}/{id}/{{编号}}"),
            );
        }
        let name = violations.into_complete(name).map_err(Refusal::from)?;
        self.account.names(&name);
        Ok(name)
    }

    /// A revision as it goes out: the stored bytes, what the ledger says, what the rules derive.
    fn revision(&self, entry: &StoredEntry) -> Result<wire::Revision, Refusal> {
        let now = self.shared.clock.now();
        let record = &entry.message.record;
        Ok(wire::Revision {
            record: record.clone(),
            info: Some(super::convert::info_of_entry(
                entry,
                &self.shared.origin_of(entry),
            )),
            assessment: self.register()?.assess(record, entry.time, now),
        })
    }
}

impl RegisterService {
    /// The service of a register.
    #[must_use]
    pub fn new(shared: Arc<Shared>, id: RegisterId) -> Self {
        Self { shared, id }
    }

    fn call<M>(&self, request: &Request<M>) -> Result<Call, Status> {
        let peer = request.extensions().get::<Peer>();
        let peer = peer.ok_or_else(|| status(Reason::IdentityMissing.into()))?;
        let caller = self.shared.access.caller(&peer.identity);
        let account = request.extensions().get::<Account>();
        let account = account.ok_or_else(|| status(Reason::Internal.into()))?;
        let meter = request.extensions().get::<Arc<Meter>>();
        let meter = meter.ok_or_else(|| status(Reason::Internal.into()))?;
        Ok(Call {
            shared: self.shared.clone(),
            id: self.id.clone(),
            caller,
            account: account.clone(),
            meter: meter.clone(),
        })
    }

    async fn serve(self, request: http::Request<Body>) -> http::Response<Body> {
        let Some(about) = self.shared.registers.get(&self.id).map(AnyRegister::about) else {
            return status(Reason::MethodUnknown.into()).into_http();
        };
        let method = request
            .uri()
            .path()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        let (one, many) = (about.singular, about.plural);
        match method.as_str() {
            m if is(m, "Submit", one, "") => self.unary(request, Call::submit).await,
            m if is(m, "Submit", many, "") => self.submit_list(request).await,
            m if is(m, "Get", one, "") => self.unary(request, Call::get).await,
            m if is(m, "List", many, "") => self.unary(request, Call::list).await,
            m if is(m, "List", one, "Revisions") => self.unary(request, Call::history).await,
            m if is(m, "Watch", many, "") => self.watch(request).await,
            m if is(m, "Withdraw", one, "") => self.unary(request, Call::withdraw).await,
            _ => status(Reason::MethodUnknown.into()).into_http(),
        }
    }

    async fn unary<M, R, F>(
        self,
        request: http::Request<Body>,
        method: impl Fn(Call, M) -> F + Clone + Send + Sync + 'static,
    ) -> http::Response<Body>
    where
        M: prost::Message + Default + 'static,
        R: prost::Message + Default + 'static,
        F: Future<Output = Result<R, Refusal>> + Send + 'static,
    {
        let bytes = message_bytes(&request);
        let handler = service_fn(move |request: Request<M>| {
            let (call, method) = (self.call(&request), method.clone());
            async move {
                method(call?, request.into_inner())
                    .await
                    .map(Response::new)
                    .map_err(status)
            }
        });
        grpc::<R, M>(bytes).unary(handler, request).await
    }

    async fn submit_list(self, request: http::Request<Body>) -> http::Response<Body> {
        type Rows = Request<Streaming<wire::SubmitListRequest>>;
        let bytes = message_bytes(&request);
        let handler = service_fn(move |request: Rows| {
            let call = self.call(&request);
            async move { Ok(Response::new(submit::list(call?, request.into_inner()))) }
        });
        grpc::<wire::SubmitListResponse, _>(bytes)
            .streaming(handler, request)
            .await
    }

    async fn watch(self, request: http::Request<Body>) -> http::Response<Body> {
        let bytes = message_bytes(&request);
        let handler = service_fn(move |request: Request<wire::WatchRequest>| {
            let call = self.call(&request);
            async move {
                watch::watch(call?, request.into_inner())
                    .map(Response::new)
                    .map_err(status)
            }
        });
        grpc::<wire::RevisionResponse, _>(bytes)
            .server_streaming(handler, request)
            .await
    }
}

/// A stream of answers.
type Answers<M> = std::pin::Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

fn is(method: &str, verb: &str, noun: &str, tail: &str) -> bool {
    let rest = method
        .strip_prefix(verb)
        .and_then(|rest| rest.strip_prefix(noun));
    rest == Some(tail)
}

/// How large a message of the caller may be, decompressed.
fn message_bytes(request: &http::Request<Body>) -> usize {
    let meter = request.extensions().get::<Arc<Meter>>();
    let allowed = meter.map_or(MAX_MESSAGE_BYTES, |meter| meter.most(Limit::MessageBytes));
    allowed.min(MAX_MESSAGE_BYTES)
}

/// Sizes and compression of every register, set here once.
fn grpc<R, M>(message_bytes: usize) -> Grpc<ProstCodec<R, M>>
where
    R: prost::Message + Default + 'static,
    M: prost::Message + Default + 'static,
{
    Grpc::new(ProstCodec::default())
        .max_decoding_message_size(message_bytes)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd)
        .send_compressed(CompressionEncoding::Gzip)
}

/// The service as a router takes it.
pub(super) fn routed(
    service: RegisterService,
) -> impl Service<
    http::Request<axum::body::Body>,
    Response = http::Response<Body>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send
+ Sync
+ 'static {
    tower::util::MapRequest::new(service, |request: http::Request<axum::body::Body>| {
        request.map(Body::new)
    })
}

impl Service<http::Request<Body>> for RegisterService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.serve(request).await) })
    }
}
