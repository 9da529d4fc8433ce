//! The metrics of real nodes, read as a Prometheus server reads them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]
#![allow(
    clippy::too_many_lines,
    reason = "a test tells one story from start to end"
)]

mod support;

use std::{collections::BTreeSet, net::SocketAddr};

use hefu::proto::risk::v1::{GetRiskRequest, WatchRisksRequest};
use support::{Domain, QIDONG, Running, dial, foreign, risk};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const DOCUMENT: &str = include_str!("../docs/metrics.md");

async fn get(address: SocketAddr, path: &str) -> String {
    let mut tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn read(node: &Running) -> String {
    let answer = get(node.metrics.unwrap(), "/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("content-type: text/plain; version=0.0.4"),
        "{answer}"
    );
    answer
}

/// The value of a sample.
fn value(text: &str, sample: &str) -> Option<f64> {
    let rest = text
        .lines()
        .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    rest.map(|value| value.parse().unwrap())
}

fn served(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect()
}

fn documented() -> BTreeSet<String> {
    let rows = DOCUMENT
        .lines()
        .filter_map(|line| line.strip_prefix("| `hefu_"));
    let names = rows.map(|row| row.split('`').next().unwrap());
    names
        .filter(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        .map(|name| format!("hefu_{name}"))
        .collect()
}

async fn start(domain: &Domain, name: &str, parent: Option<(&str, SocketAddr)>) -> Running {
    let mut config = domain.config(name, parent);
    config.metrics.listen = Some("127.0.0.1:0".parse().unwrap());
    config.tls.crls = vec![domain.folder.path().join("pki/crl.pem")];
    if parent.is_none() {
        domain.replace("children.csv", "node,name\nqidong,启东市\n");
        config.reference.children = Some(domain.folder.path().join("children.csv"));
    }
    Running::start(config).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_documented_is_served_and_nothing_else() {
    let domain = Domain::new();
    let city = start(&domain, "nantong", None).await;
    let county = start(&domain, "qidong", Some(("nantong", city.address))).await;
    let mut agency = domain.agency(QIDONG, &county).await;
    agency.submit(risk("R-1")).await.unwrap();
    agency.submit(risk("R-2")).await.unwrap();
    let absent = GetRiskRequest {
        name: risk("R-9").name,
    };
    assert!(agency.risks.get_risk(absent).await.is_err());
    let mut clients = domain.admin(&county).await;
    assert!(clients.sync().await.complete);
    let mut unknown = foreign("admin/operator", &domain.folder);
    unknown.root = domain.folder.path().join("pki/ca.pem");
    assert!(dial(&unknown, county.address).await.is_err());
    let mut stranger = domain.agency("duty-room", &county).await;
    let refused = stranger.submit(risk("R-3")).await;
    assert!(refused.is_err());
    // What a caller sends as a method's name is no label.
    let odd = http::uri::PathAndQuery::from_static("/hefu.risk.v1.RiskService/Sesame");
    let mut raw = tonic::client::Grpc::new(agency.channel.clone());
    raw.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<GetRiskRequest, GetRiskRequest>::default();
    let absent = tonic::Request::new(GetRiskRequest::default());
    assert!(raw.unary(absent, odd, codec).await.is_err());
    let everything = WatchRisksRequest {
        parent: "agencies/-/risks".into(),
        ..Default::default()
    };
    let watch = agency.risks.watch_risks(everything).await.unwrap();

    let text = read(&county).await;
    let at = |sample: &str| value(&text, sample).unwrap_or_else(|| panic!("no {sample}: {text}"));
    let submitted = "{method=\"hefu.risk.v1.RiskService/SubmitRisk\",code=\"OK\"}";
    assert_eq!(at(&format!("hefu_calls_total{submitted}")), 2.0);
    let missed = "{method=\"hefu.risk.v1.RiskService/GetRisk\",code=\"NOT_FOUND\"}";
    assert_eq!(at(&format!("hefu_calls_total{missed}")), 1.0);
    assert_eq!(
        at("hefu_calls_total{method=\"other\",code=\"UNIMPLEMENTED\"}"),
        1.0
    );
    let durations =
        "hefu_call_duration_seconds_count{method=\"hefu.risk.v1.RiskService/SubmitRisk\"}";
    assert_eq!(at(durations), 3.0);
    assert_eq!(at("hefu_refusals_total{reason=\"RECORD_NOT_FOUND\"}"), 1.0);
    assert_eq!(at("hefu_calls_in_flight"), 1.0);
    assert_eq!(at("hefu_ledger_entries"), 2.0);
    assert_eq!(at("hefu_intake{state=\"open\"}"), 1.0);
    assert_eq!(at("hefu_intake{state=\"full\"}"), 0.0);
    assert!(at("hefu_handshake_failures_total{reason=\"certificate\"}") >= 1.0);
    assert_eq!(at("hefu_certificate_left_days{kind=\"certificate\"}"), 59.0);
    assert_eq!(
        at("hefu_client_certificate_left_days{agency=\"qidong-emergency\"}"),
        59.0
    );
    // Not in the agency table: not a label.
    assert!(!text.contains("duty-room"), "{text}");
    for secret in ["Sesame", "R-1", "储罐"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    drop(watch);

    let above = read(&city).await;
    assert_eq!(
        value(&above, "hefu_child_missing{node=\"qidong\"}"),
        Some(0.0)
    );
    let origin = county.ledger.log("").unwrap().origin().to_owned();
    assert_eq!(
        value(
            &above,
            &format!("hefu_child_lag_entries{{origin=\"{origin}\"}}")
        ),
        Some(0.0)
    );
    assert_eq!(
        value(
            &text,
            &format!("hefu_uplink_lag_entries{{origin=\"{origin}\"}}")
        ),
        Some(0.0)
    );
    assert_eq!(
        value(&above, "hefu_ledger_entries"),
        Some(0.0),
        "each node has its own"
    );

    // A policy that is wrong, and one that is right again.
    domain.replace(
        "policy.toml",
        "[[grant]]\nwho = [\"everyone\"]\nmay = [\"read\"]\n",
    );
    until(&county, "hefu_reload_failing{what=\"policy\"}", 1.0).await;
    domain.replace("policy.toml", support::POLICY);
    let text = until(&county, "hefu_reload_failing{what=\"policy\"}", 0.0).await;
    assert_eq!(
        value(&text, "hefu_reload_failures_total{what=\"policy\"}"),
        Some(1.0)
    );
    assert_eq!(
        value(&text, "hefu_reloads_total{what=\"policy\"}"),
        Some(1.0)
    );
    let all: BTreeSet<_> = served(&text).union(&served(&above)).cloned().collect();
    assert_eq!(all, documented());

    assert!(
        get(county.metrics.unwrap(), "/")
            .await
            .starts_with("HTTP/1.1 404")
    );
}

async fn until(node: &Running, sample: &str, wanted: f64) -> String {
    let waiting = async {
        loop {
            let text = read(node).await;
            if value(&text, sample) == Some(wanted) {
                return text;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let bound = std::time::Duration::from_secs(20);
    tokio::time::timeout(bound, waiting).await.unwrap()
}
