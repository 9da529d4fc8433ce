//! The gateway over real sockets, with real certificates.

mod abuse;
mod calls;
mod connections;
mod stopping;

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _, future, stream};
use tokio::{
    net::TcpListener,
    sync::{Notify, oneshot, watch},
    task::JoinHandle,
};
use tonic::{
    Request, Response, Status, Streaming, codec::CompressionEncoding, service::Routes,
    transport::Channel,
};

use super::{
    client::{DialError, Dialer},
    connections::Connections,
    keys::Keys,
    meter::Meters,
    pki::{Authority, DEFAULT_DAYS, Issued, leaf},
    serve::{Limits, serve},
    stack::Gate,
    tls::Credentials,
};
use crate::{
    audit::Trail,
    metrics::Metrics,
    proto::risk::v1::{self as pb, risk_service_server as server},
    registers::Registers,
    services::{
        MAX_MESSAGE_BYTES,
        access::{Access, Rules},
        methods::Methods,
        quota::Quotas,
    },
    types::{DivisionTable, Identity, Policy, RuleTable, SystemClock, TrustDomain},
};

const DOMAIN: &str = "nantong.gov.cn";

fn domain() -> TrustDomain {
    DOMAIN.parse().unwrap()
}

fn identity(role: &str) -> Identity {
    format!("spiffe://{DOMAIN}/{role}").parse().unwrap()
}

/// A policy, over no agencies.
fn gate(pki: &Pki, policy: Policy) -> Gate {
    let (divisions, rules) = (DivisionTable::builtin(), RuleTable::builtin());
    let rules_now = Rules {
        agencies: Arc::default(),
        policy: Arc::new(policy),
    };
    let rules_now = watch::Sender::new(Arc::new(rules_now)).subscribe();
    let folder = pki.folder.path().join("audit");
    let access = Access::new(rules_now, "nantong".parse().unwrap());
    Gate {
        meters: Meters::new(&Metrics::default()),
        trail: Trail::open(&folder, 200, Arc::new(SystemClock)).unwrap(),
        quotas: Quotas::new(access.clone()),
        access,
        methods: Methods::new(&Registers::new(divisions.into(), rules.into())),
    }
}

/// An authority in a folder of its own.
struct Pki {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Pki {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(folder.path(), "test authority").unwrap();
        Self { folder, authority }
    }

    fn issue(&self, role: &str) -> Issued {
        let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        self.authority
            .issue(&identity(role), &hosts, DEFAULT_DAYS)
            .unwrap()
    }

    /// Signs what `change` makes of an ordinary certificate of that role.
    fn odd(&self, role: &str, change: impl FnOnce(&mut rcgen::CertificateParams)) -> Issued {
        let mut params = leaf(&identity(role), &["localhost".to_owned()], 1).unwrap();
        change(&mut params);
        self.authority.sign("odd", &params).unwrap()
    }
}

fn credentials(issued: &Issued) -> Credentials {
    let roots = [issued.root.clone()];
    Credentials::load(&issued.certificate, &issued.key, &roots).unwrap()
}

/// The same certificate and key, but trusting another authority's peers.
fn trusting(issued: &Issued, other: &Pki) -> Credentials {
    let roots = [other.folder.path().join("ca.pem")];
    Credentials::load(&issued.certificate, &issued.key, &roots).unwrap()
}

fn dialer(issued: &Issued) -> Dialer {
    Dialer::new(Keys::new(credentials(issued)).unwrap())
}

fn tls(issued: &Issued) -> Arc<rustls::ClientConfig> {
    let keys = Keys::new(credentials(issued)).unwrap();
    keys.current().client.clone()
}

/// A gateway that serves [`Fake`] and health as the node `nantong`.
struct Gateway {
    pki: Pki,
    address: SocketAddr,
    fake: Fake,
    connections: Arc<Connections>,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<std::io::Result<()>>,
}

impl Gateway {
    async fn start() -> Self {
        Self::with(Limits::default()).await
    }

    async fn with(limits: Limits) -> Self {
        let pki = Pki::new();
        let issued = pki.issue("node/nantong");
        Self::serving(pki, &issued, limits).await
    }

    async fn serving(pki: Pki, issued: &Issued, limits: Limits) -> Self {
        Self::governed(pki, issued, limits, Policy::default()).await
    }

    /// With limits for callers beside what the policy that is built in has.
    async fn under(limits: &str) -> Self {
        Self::ruled(limits, Limits::default()).await
    }

    async fn ruled(policy: &str, limits: Limits) -> Self {
        let pki = Pki::new();
        let issued = pki.issue("node/nantong");
        let built_in = include_str!("../../../seeds/policy.toml");
        let policy = Policy::from_toml(&format!("{built_in}\n{policy}")).unwrap();
        Self::governed(pki, &issued, limits, policy).await
    }

    async fn governed(pki: Pki, issued: &Issued, limits: Limits, policy: Policy) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Connections::new(Keys::new(credentials(issued)).unwrap());
        let fake = Fake::default();
        let risks = server::RiskServiceServer::new(fake.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd);
        let (_, health) = tonic_health::server::health_reporter();
        let routes = Routes::new(risks).add_service(health);
        let (stop, stopped) = oneshot::channel();
        let stopped = async { drop(stopped.await) };
        let served = tokio::spawn(serve(
            listener,
            connections.clone(),
            domain(),
            gate(&pki, policy),
            routes,
            stopped,
            limits,
        ));
        Self {
            pki,
            address,
            fake,
            connections,
            stop: Some(stop),
            served,
        }
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    async fn dial(&self, issued: &Issued) -> Result<Channel, DialError> {
        dialer(issued).connect(&self.url(), None).await
    }

    async fn channel(&self, role: &str) -> Channel {
        self.dial(&self.pki.issue(role)).await.unwrap()
    }

    /// Why the server cannot be reached with that certificate.
    async fn refusal(&self, issued: &Issued) -> String {
        match self.dial(issued).await {
            Ok(_) => panic!("connected"),
            Err(DialError::Connect { cause, .. }) => cause,
            Err(other) => panic!("{other}"),
        }
    }
}

/// Waits for something that must happen soon.
async fn soon<F: Future>(event: F) -> F::Output {
    let bound = Duration::from_secs(20);
    tokio::time::timeout(bound, event)
        .await
        .expect("it happens soon")
}

/// A register whose methods misbehave, each in its own way.
#[derive(Clone, Default)]
struct Fake {
    /// Told when a call that never answers has begun.
    begun: Arc<Notify>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answered<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl server::RiskService for Fake {
    type SubmitRisksStream = Answers<pb::SubmitRisksResponse>;
    type WatchRisksStream = Answers<pb::WatchRisksResponse>;

    /// Works.
    async fn submit_risk(
        &self,
        request: Request<pb::SubmitRiskRequest>,
    ) -> Answered<pb::SubmitRiskResponse> {
        let peer = request
            .extensions()
            .get::<crate::types::Peer>()
            .expect("the gate tells who");
        assert!(peer.identity.agency().is_some() && peer.address.ip().is_loopback());
        Ok(Response::new(pb::SubmitRiskResponse::default()))
    }

    /// Answers in its stream: with the error of the first message, or by a panic.
    async fn submit_risks(
        &self,
        request: Request<Streaming<pb::SubmitRisksRequest>>,
    ) -> Answered<Self::SubmitRisksStream> {
        let mut sent = request.into_inner();
        let rows = stream::once(async move {
            sent.message().await?;
            panic!("a secret in a stream")
        });
        Ok(Response::new(Box::pin(rows)))
    }

    /// Panics.
    async fn get_risk(&self, _: Request<pb::GetRiskRequest>) -> Answered<pb::GetRiskResponse> {
        panic!("a secret in a call")
    }

    /// Never answers.
    async fn list_risks(
        &self,
        _: Request<pb::ListRisksRequest>,
    ) -> Answered<pb::ListRisksResponse> {
        self.begun.notify_one();
        future::pending().await
    }

    /// Fails without details.
    async fn list_risk_revisions(
        &self,
        _: Request<pb::ListRiskRevisionsRequest>,
    ) -> Answered<pb::ListRiskRevisionsResponse> {
        Err(Status::unknown("a secret in a status"))
    }

    /// Answers once, then nothing more.
    async fn watch_risks(
        &self,
        _: Request<pb::WatchRisksRequest>,
    ) -> Answered<Self::WatchRisksStream> {
        let first = stream::iter([Ok(pb::WatchRisksResponse::default())]);
        Ok(Response::new(Box::pin(first.chain(stream::pending()))))
    }

    /// Works.
    async fn withdraw_risk(
        &self,
        _: Request<pb::WithdrawRiskRequest>,
    ) -> Answered<pb::WithdrawRiskResponse> {
        Ok(Response::new(pb::WithdrawRiskResponse::default()))
    }
}
