//! What a caller is answered, whatever happens to its call.

use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use tonic::{Code, client::Grpc};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_prost::ProstCodec;

use super::*;
use crate::{
    proto::{
        error::v1::ErrorReason, node::v1 as node, risk::v1::risk_service_client::RiskServiceClient,
    },
    services::status::{Decoded, decode},
};

const AGENCY: &str = "agency/qidong-emergency";

async fn risks(gateway: &Gateway, role: &str) -> RiskServiceClient<Channel> {
    RiskServiceClient::new(gateway.channel(role).await)
}

fn refused<T>(answer: Answered<T>) -> Decoded {
    decode(&answer.map(|_| ()).expect_err("refused"))
}

/// Calls any path with any bytes as the message.
async fn raw(gateway: &Gateway, path: &'static str, bytes: &'static [u8]) -> Answered<()> {
    let mut grpc = Grpc::new(gateway.channel(AGENCY).await);
    grpc.ready().await.expect("connected");
    // A message of one unknown field carries any bytes; here they stand for the message itself.
    let codec = ProstCodec::<Bytes, ()>::default();
    let message = Request::new(Bytes::from_static(bytes));
    grpc.unary(message, PathAndQuery::from_static(path), codec)
        .await
}

#[tokio::test]
async fn the_handler_learns_who_calls() {
    let gateway = Gateway::start().await;
    let mut client = risks(&gateway, AGENCY).await;
    client
        .submit_risk(pb::SubmitRiskRequest::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn roles_call_only_what_is_theirs() {
    let gateway = Gateway::start().await;
    for role in ["node/qidong", "admin/operator"] {
        let mut client = risks(&gateway, role).await;
        let answer = refused(client.submit_risk(pb::SubmitRiskRequest::default()).await);
        assert_eq!(answer.code, Code::PermissionDenied);
        assert_eq!(answer.reason, Some(ErrorReason::MethodNotAllowed));
    }
    let channel = gateway.channel(AGENCY).await;
    let mut client = node::node_service_client::NodeServiceClient::new(channel);
    let answer = refused(client.get_status(node::GetStatusRequest::default()).await);
    assert_eq!(answer.reason, Some(ErrorReason::MethodNotAllowed));
}

#[tokio::test]
async fn what_is_too_large_or_no_message_is_told_so() {
    let gateway = Gateway::start().await;
    let mut client = risks(&gateway, AGENCY).await;
    let request_id = "x".repeat(MAX_MESSAGE_BYTES);
    let large = pb::SubmitRiskRequest {
        request_id,
        ..Default::default()
    };
    let answer = refused(client.submit_risk(large).await);
    assert_eq!(answer.code, Code::ResourceExhausted);
    assert_eq!(answer.reason, Some(ErrorReason::MessageTooLarge));

    // In a stream the headers have gone out before, so the trailers tell it.
    let large = pb::SubmitRisksRequest {
        parent: "x".repeat(MAX_MESSAGE_BYTES),
        ..Default::default()
    };
    let rows = client.submit_risks(stream::iter([large])).await;
    let mut rows = rows.expect("it begins well").into_inner();
    let answer = decode(&rows.message().await.unwrap_err());
    assert_eq!(answer.code, Code::ResourceExhausted);
    assert_eq!(answer.reason, Some(ErrorReason::MessageTooLarge));

    let submit = "/hefu.risk.v1.RiskService/SubmitRisk";
    // `Bytes` is encoded as field 1, wire type 2: for this message a submessage, of which 0xff is none.
    let answer = refused(raw(&gateway, submit, b"\xff\xff").await);
    assert_eq!(answer.code, Code::InvalidArgument);
    assert_eq!(answer.reason, Some(ErrorReason::RequestMalformed));
    assert!(
        answer.en.contains("SubmitRiskRequest."),
        "the field is named: {}",
        answer.en
    );
}

#[tokio::test]
async fn unknown_methods_are_told_so() {
    let gateway = Gateway::start().await;
    for path in [
        "/hefu.risk.v1.RiskService/SubmitNothing",
        "/hefu.risk.v2.RiskService/SubmitRisk",
        "/hefu.measure.v1.MeasureService/SubmitMeasure",
        "/grpc.health.v1.Health/Nothing",
        "/",
    ] {
        let answer = refused(raw(&gateway, path, b"").await);
        assert_eq!(answer.code, Code::Unimplemented, "{path}");
        assert_eq!(answer.reason, Some(ErrorReason::MethodUnknown), "{path}");
    }
}

#[tokio::test]
async fn faults_are_answered_with_a_reference_and_nothing_else() {
    let gateway = Gateway::start().await;
    let mut client = risks(&gateway, AGENCY).await;
    let call = client.get_risk(pb::GetRiskRequest::default()).await;
    let status = client
        .list_risk_revisions(pb::ListRiskRevisionsRequest::default())
        .await;
    let rows = client.submit_risks(stream::empty()).await;
    let mut rows = rows.expect("it begins well").into_inner();
    for error in [
        call.unwrap_err(),
        status.unwrap_err(),
        rows.message().await.unwrap_err(),
    ] {
        let answer = decode(&error);
        assert_eq!(answer.code, Code::Internal);
        assert_eq!(answer.reason, Some(ErrorReason::Internal));
        assert!(
            answer.en.contains("reference ") && answer.zh.contains("编号 "),
            "{}",
            answer.en
        );
        let whole = format!("{error:?}{}", String::from_utf8_lossy(error.details()));
        assert!(!whole.contains("secret"), "{whole}");
    }
    client
        .submit_risk(pb::SubmitRiskRequest::default())
        .await
        .expect("the connection lives");
}

#[tokio::test]
async fn past_the_limit_calls_are_turned_away_but_health_is_not() {
    let gateway = Gateway::with(Limits {
        calls: 1,
        ..Limits::default()
    })
    .await;
    let channel = gateway.channel(AGENCY).await;
    let mut client = RiskServiceClient::new(channel.clone());
    let mut endless = RiskServiceClient::new(channel.clone());
    let endless =
        tokio::spawn(async move { endless.list_risks(pb::ListRisksRequest::default()).await });
    soon(gateway.fake.begun.notified()).await;
    let answer = refused(client.submit_risk(pb::SubmitRiskRequest::default()).await);
    assert_eq!(answer.code, Code::ResourceExhausted);
    assert_eq!(answer.reason, Some(ErrorReason::Overloaded));
    assert_eq!(answer.retry_after, Some(Duration::from_secs(1)));
    let answer = refused(
        risks(&gateway, "node/qidong")
            .await
            .submit_risk(pb::SubmitRiskRequest::default())
            .await,
    );
    assert_eq!(
        answer.reason,
        Some(ErrorReason::MethodNotAllowed),
        "the gate comes first"
    );
    HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await
        .unwrap();

    endless.abort();
    let again = async {
        while client
            .submit_risk(pb::SubmitRiskRequest::default())
            .await
            .is_err()
        {}
    };
    soon(again).await;
}

#[tokio::test]
async fn a_stream_counts_until_it_ends() {
    let gateway = Gateway::with(Limits {
        calls: 1,
        ..Limits::default()
    })
    .await;
    let mut client = risks(&gateway, AGENCY).await;
    let mut watched = client
        .watch_risks(pb::WatchRisksRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(watched.message().await.unwrap().is_some());
    let answer = refused(client.submit_risk(pb::SubmitRiskRequest::default()).await);
    assert_eq!(answer.reason, Some(ErrorReason::Overloaded));
    drop(watched);
    soon(async {
        while client
            .submit_risk(pb::SubmitRiskRequest::default())
            .await
            .is_err()
        {}
    })
    .await;
}

/// A call as a client makes it that leaves its deadline to the server, as tonic's own does not.
async fn with_deadline(gateway: &Gateway, method: &str, deadline: &str) -> (usize, Status) {
    let issued = gateway.pki.issue(AGENCY);
    let tcp = tokio::net::TcpStream::connect(gateway.address)
        .await
        .unwrap();
    let tls = tokio_rustls::TlsConnector::from(tls(&issued));
    let tls = tls
        .connect("localhost".try_into().unwrap(), tcp)
        .await
        .unwrap();
    let (client, connection) = h2::client::handshake(tls).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let request = http::Request::post(format!("https://localhost{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", deadline)
        .body(())
        .unwrap();
    let (response, mut body) = client.send_request(request, false).unwrap();
    body.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
    let response = soon(response).await.unwrap();
    if let Some(status) = Status::from_header_map(response.headers()) {
        return (0, status);
    }
    let (mut body, mut bytes) = (response.into_body(), 0);
    while let Some(data) = soon(body.data()).await {
        let data = data.unwrap();
        bytes += data.len();
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    let trailers = body.trailers().await.unwrap().expect("a status");
    (bytes, Status::from_header_map(&trailers).expect("a status"))
}

#[tokio::test]
async fn a_deadline_is_told_as_one_in_calls_and_in_streams() {
    let gateway = Gateway::start().await;
    for _ in 0..10 {
        let list = "/hefu.risk.v1.RiskService/ListRisks";
        let (bytes, status) = with_deadline(&gateway, list, "1m").await;
        let answer = decode(&status);
        assert_eq!((bytes, answer.code), (0, Code::DeadlineExceeded));
        assert_eq!(answer.reason, Some(ErrorReason::DeadlineExceeded));
    }
    let watch = "/hefu.risk.v1.RiskService/WatchRisks";
    let (bytes, status) = with_deadline(&gateway, watch, "300m").await;
    assert!(bytes > 0, "the first answer came");
    assert_eq!(decode(&status).reason, Some(ErrorReason::DeadlineExceeded));
}

#[tokio::test]
async fn a_connection_is_told_its_limit_of_calls() {
    let gateway = Gateway::start().await;
    let tcp = tokio::net::TcpStream::connect(gateway.address)
        .await
        .unwrap();
    let tls = tokio_rustls::TlsConnector::from(tls(&gateway.pki.issue(AGENCY)));
    let tls = tls
        .connect("localhost".try_into().unwrap(), tcp)
        .await
        .unwrap();
    let (client, mut connection) = h2::client::handshake(tls).await.unwrap();
    // The client starts with a guess; the server's settings replace it.
    soon(future::poll_fn(|cx| {
        let _ = Pin::new(&mut connection).poll(cx);
        match client.current_max_send_streams() {
            256 => std::task::Poll::Ready(()),
            _ => std::task::Poll::Pending,
        }
    }))
    .await;
}

/// What is answered to a call past a limit.
fn held_back(answer: &Decoded, limit: &str) {
    assert_eq!(answer.code, Code::ResourceExhausted, "{answer:?}");
    assert_eq!(
        answer.reason,
        Some(ErrorReason::QuotaExceeded),
        "{answer:?}"
    );
    assert!(answer.en.contains(limit), "{}", answer.en);
    assert!(answer.zh.starts_with("超出"), "{}", answer.zh);
}

#[tokio::test]
async fn an_agency_past_its_calls_a_second_is_refused_by_itself_with_the_wait() {
    let policy = "[[limit]]\nwho = [\"agency/*\"]\nrequests_per_second = 1\nburst_seconds = 3\n";
    let gateway = Gateway::under(policy).await;
    let mut flooder = risks(&gateway, AGENCY).await;
    for _ in 0..3 {
        let answer = flooder.submit_risk(pb::SubmitRiskRequest::default()).await;
        answer.expect("within the burst");
    }
    // However many connections it has.
    let mut again = risks(&gateway, AGENCY).await;
    let answer = again.submit_risk(pb::SubmitRiskRequest::default()).await;
    let error = answer.expect_err("past the burst");
    let answer = decode(&error);
    held_back(&answer, "1 calls a second");
    let wait = answer.retry_after.expect("it says when");
    assert!(
        wait > Duration::ZERO && wait <= Duration::from_secs(1),
        "{wait:?}"
    );
    let details = tonic_types::StatusExt::get_error_details(&error);
    let quota = details.quota_failure().expect("QuotaFailure");
    assert_eq!(quota.violations[0].subject, AGENCY);
    let mut other = risks(&gateway, "agency/rudong-emergency").await;
    let answer = other.submit_risk(pb::SubmitRiskRequest::default()).await;
    answer.expect("another agency has its own");
    tokio::time::sleep(wait).await;
    let answer = again.submit_risk(pb::SubmitRiskRequest::default()).await;
    answer.expect("the wait was the true one");
}

#[tokio::test]
async fn an_agency_takes_no_more_than_its_calls_and_streams_at_once() {
    let policy = "[[limit]]\nwho = [\"agency/*\"]\ncalls = 3\nstreams = 1\n";
    let gateway = Gateway::under(policy).await;
    let mut client = risks(&gateway, AGENCY).await;
    let mut watched = client
        .watch_risks(pb::WatchRisksRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(watched.message().await.unwrap().is_some());
    let second = client.watch_risks(pb::WatchRisksRequest::default()).await;
    held_back(&refused(second), "1 streams and watches at once");
    let endless: Vec<_> = (0..2)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.list_risks(pb::ListRisksRequest::default()).await })
        })
        .collect();
    for _ in 0..2 {
        soon(gateway.fake.begun.notified()).await;
    }
    let answer = refused(client.submit_risk(pb::SubmitRiskRequest::default()).await);
    held_back(&answer, "3 calls at once");
    let mut other = risks(&gateway, "agency/rudong-emergency").await;
    let answer = other.submit_risk(pb::SubmitRiskRequest::default()).await;
    answer.expect("the places of another are its own");
    endless.iter().for_each(tokio::task::JoinHandle::abort);
    drop(watched);
    soon(async {
        while client
            .watch_risks(pb::WatchRisksRequest::default())
            .await
            .is_err()
        {}
    })
    .await;
}
