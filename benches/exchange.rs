//! The exchange beside a bare tonic server, in one run: same messages, same TLS, same machine.
//!
//! `cargo bench --bench exchange` runs it whole, `-- --quick` in under a minute, `-- --json` prints one
//! object. What counts are the ratios: client and servers share the processors.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::{StreamExt as _, future::BoxFuture};
use hefu::{
    config::ReplicationMode,
    gateway::{accept::accept, serve::Limits, tls::Credentials},
    proto::{
        node::v1::GetStatusRequest,
        risk::v1::{
            Risk, SubmitRiskRequest, SubmitRiskResponse, SubmitRisksRequest, SubmitRisksResponse,
            risk_service_client::RiskServiceClient,
        },
    },
};
use support::{Clients, DOMAIN, Domain, QIDONG, Running, dial, risk};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status, Streaming, body::Body, server::Grpc, server::NamedService,
    transport::Channel,
};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

/// Answers at once and keeps nothing.
#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "hefu.risk.v1.RiskService";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            if request.uri().path().ends_with("SubmitRisk") {
                let one = service_fn(|_: Request<SubmitRiskRequest>| async {
                    Ok::<_, Status>(Response::new(SubmitRiskResponse::default()))
                });
                let codec = ProstCodec::<SubmitRiskResponse, SubmitRiskRequest>::default();
                return Ok(Grpc::new(codec).unary(one, request).await);
            }
            let list = service_fn(|rows: Request<Streaming<SubmitRisksRequest>>| async {
                let answers = rows
                    .into_inner()
                    .map(|rows| rows.map(|_| SubmitRisksResponse::default()));
                Ok::<_, Status>(Response::new(answers))
            });
            let codec = ProstCodec::<SubmitRisksResponse, SubmitRisksRequest>::default();
            Ok(Grpc::new(codec).streaming(list, request).await)
        })
    }
}

async fn echo(domain: &Domain) -> SocketAddr {
    let issued = domain.issue("node/echo");
    let credentials = Credentials::load(&issued.certificate, &issued.key, &[issued.root]).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Arc::new(credentials.server().unwrap());
    let connections = accept(
        listener,
        server,
        DOMAIN.parse().unwrap(),
        Limits::default(),
        CancellationToken::new(),
        None,
    );
    let incoming = tokio_stream::wrappers::ReceiverStream::new(connections);
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(1 << 22)
        .add_service(Echo)
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    address
}

#[derive(Debug, Clone, Copy)]
struct Measured {
    per_second: f64,
    p50: Duration,
    p99: Duration,
}

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A record of about 512 bytes that was never submitted before.
fn fresh() -> Risk {
    risk(&format!("B-{}", NUMBER.fetch_add(1, Ordering::Relaxed)))
}

async fn singles(channel: &Channel, in_flight: usize, time: Duration) -> Measured {
    let (started, deadline) = (Instant::now(), Instant::now() + time);
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..in_flight {
        let mut client = RiskServiceClient::new(channel.clone());
        workers.spawn(async move {
            let mut times = Vec::new();
            while Instant::now() < deadline {
                let request = SubmitRiskRequest {
                    risk: Some(fresh()),
                    ..Default::default()
                };
                let sent = Instant::now();
                client.submit_risk(request).await.unwrap();
                times.push(sent.elapsed());
            }
            times
        });
    }
    let mut times: Vec<_> = workers.join_all().await.into_iter().flatten().collect();
    let elapsed = started.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    Measured {
        per_second: times.len() as f64 / elapsed,
        p50: at(0.5),
        p99: at(0.99),
    }
}

async fn list(channel: &Channel, rows: usize) -> f64 {
    let mut messages: Vec<_> = (0..rows.div_ceil(250))
        .map(|_| SubmitRisksRequest {
            risks: (0..250).map(|_| fresh()).collect(),
            ..Default::default()
        })
        .collect();
    messages[0].parent = format!("agencies/{QIDONG}/risks");
    let mut client = RiskServiceClient::new(channel.clone());
    let started = Instant::now();
    let mut answers = client
        .submit_risks(futures::stream::iter(messages))
        .await
        .unwrap()
        .into_inner();
    while let Some(answer) = answers.message().await.unwrap() {
        if let Some(summary) = answer.summary {
            assert_eq!(summary.created, rows as i64);
        }
    }
    rows as f64 / started.elapsed().as_secs_f64()
}

struct Results {
    figures: BTreeMap<String, f64>,
    json: bool,
}

impl Results {
    fn add(&mut self, name: &str, value: f64) {
        self.figures
            .insert(name.to_owned(), (value * 1_000.0).round() / 1_000.0);
    }

    fn say(&self, text: &str) {
        if !self.json {
            println!("{text}");
        }
    }
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1_024.0
}

async fn measure_singles(ours: &Channel, bare: &Channel, time: Duration, results: &mut Results) {
    results.say(
        "durable single submits     per s   p50 us   p99 us | bare tonic  p50 us  p99 us | ratio",
    );
    for in_flight in [1, 64, 256] {
        let bare = singles(bare, in_flight, time).await;
        let ours = singles(ours, in_flight, time).await;
        let ratio = ours.per_second / bare.per_second;
        results.say(&format!(
            "{in_flight:>4} in flight          {:>9.0} {:>8} {:>8} | {:>10.0} {:>7} {:>7} | {ratio:.3}",
            ours.per_second,
            ours.p50.as_micros(),
            ours.p99.as_micros(),
            bare.per_second,
            bare.p50.as_micros(),
            bare.p99.as_micros(),
        ));
        let name = format!("submit_{in_flight}");
        results.add(&format!("{name}.per_second"), ours.per_second);
        results.add(&format!("{name}.bare_per_second"), bare.per_second);
        results.add(&format!("{name}.ratio"), ratio);
        results.add(&format!("{name}.p50_us"), ours.p50.as_micros() as f64);
        results.add(&format!("{name}.p99_us"), ours.p99.as_micros() as f64);
    }
}

async fn measure_list(ours: &Channel, bare: &Channel, rows: usize, results: &mut Results) {
    let bare = list(bare, rows).await;
    let ours = list(ours, rows).await;
    let ratio = ours / bare;
    results.say(&format!(
        "list of {rows} rows: {ours:.0} records/s durable and readable, bare tonic stream {bare:.0}, ratio {ratio:.3}"
    ));
    results.add("list.per_second", ours);
    results.add("list.bare_per_second", bare);
    results.add("list.ratio", ratio);
}

/// The county has been alone until now; the parent takes everything in.
async fn measure_replication(domain: &Domain, county: Running, results: &mut Results) -> Running {
    let entries = county.ledger.log("").unwrap().tree.size();
    let city = domain.start("nantong", None).await;
    let mut config = county.stop().await;
    config.parent = domain
        .config("qidong", Some(("nantong", city.address)))
        .parent;
    config.parent.as_mut().unwrap().mode = ReplicationMode::Manual;
    config.node.listen.set_port(0);
    let county = Running::start(config).await;
    let started = Instant::now();
    let synced = domain.admin(&county).await.sync().await;
    assert!(synced.complete, "{synced:?}");
    let per_second = entries as f64 / started.elapsed().as_secs_f64();
    results.say(&format!(
        "{entries} entries replicated, verified, cosigned: {per_second:.0} entries/s"
    ));
    results.add("replication.per_second", per_second);
    results.add("replication.entries", entries as f64);
    city.stop().await;
    county
}

#[tokio::main]
async fn main() {
    let (quick, json) = std::env::args().fold((false, false), |(quick, json), argument| {
        (quick || argument == "--quick", json || argument == "--json")
    });
    let mut results = Results {
        figures: BTreeMap::new(),
        json,
    };
    let domain = Domain::new();
    let county = domain.start("qidong", None).await;
    let bare = dial(
        &domain.issue(&format!("agency/{QIDONG}")),
        echo(&domain).await,
    )
    .await
    .unwrap();
    let ours = domain.channel(&format!("agency/{QIDONG}"), &county).await;
    let time = Duration::from_secs(if quick { 2 } else { 10 });
    singles(&ours, 8, Duration::from_millis(500)).await;
    measure_singles(&ours, &bare, time, &mut results).await;
    measure_list(
        &ours,
        &bare,
        if quick { 20_000 } else { 100_000 },
        &mut results,
    )
    .await;
    let mut operator: Clients = domain.admin(&county).await;
    let status = operator
        .node
        .get_status(GetStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    let bytes = (status.journal_bytes as f64, status.state_bytes as f64);
    let per_entry = (bytes.0 / status.size as f64, bytes.1 / status.size as f64);
    results.say(&format!(
        "{} entries: journal {:.0} bytes an entry, derived state {:.0}; resident {:.0} MiB (client and servers)",
        status.size,
        per_entry.0,
        per_entry.1,
        resident_mib(),
    ));
    results.add("disk.journal_bytes_per_entry", per_entry.0);
    results.add("disk.state_bytes_per_entry", per_entry.1);
    results.add("resident_mib", resident_mib());
    drop((ours, operator));
    let county = measure_replication(&domain, county, &mut results).await;
    county.stop().await;
    if json {
        println!("{}", serde_json::to_string(&results.figures).unwrap());
    }
}
