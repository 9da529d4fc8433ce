//! What a hostile or broken peer may do to HTTP/2, and that it costs only itself.

use std::{io, time::Duration};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;
use tonic::{Code, codec::CompressionEncoding};

use super::*;
use crate::{
    proto::{error::v1::ErrorReason, risk::v1::risk_service_client::RiskServiceClient},
    services::status::{Decoded, decode},
};

const AGENCY: &str = "agency/qidong-emergency";
const SUBMIT: &str = "/hefu.risk.v1.RiskService/SubmitRisk";
const LIST: &str = "/hefu.risk.v1.RiskService/SubmitRisks";
const WATCH: &str = "/hefu.risk.v1.RiskService/WatchRisks";
const ENDLESS: &str = "/hefu.risk.v1.RiskService/ListRisks";

fn short(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

async fn tls_to(gateway: &Gateway, role: &str) -> TlsStream<TcpStream> {
    let config = tls(&gateway.pki.issue(role));
    let tcp = TcpStream::connect(gateway.address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let connector = tokio_rustls::TlsConnector::from(config);
    let name = "localhost".try_into().unwrap();
    connector.connect(name, tcp).await.unwrap()
}

type H2 = (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>);

/// A client that gives streams so large a window, and no more unless it is told to.
async fn h2_to(gateway: &Gateway, role: &str, window: u32) -> H2 {
    let stream = tls_to(gateway, role).await;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(window);
    let (client, connection) = builder.handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    (client.ready().await.unwrap(), connection)
}

fn post(method: &str) -> http::Request<()> {
    http::Request::post(format!("https://localhost{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

/// Sends bytes, and no end; what the call is answered with.
async fn answered(client: &mut SendRequest<Bytes>, method: &str, bytes: &'static [u8]) -> Decoded {
    let (response, mut body) = client.send_request(post(method), false).unwrap();
    body.send_data(Bytes::from_static(bytes), false).unwrap();
    let response = soon(response).await.unwrap();
    if let Some(status) = Status::from_header_map(response.headers()) {
        return decode(&status);
    }
    let mut answer = response.into_body();
    while let Some(data) = soon(answer.data()).await {
        let size = data.unwrap().len();
        answer.flow_control().release_capacity(size).unwrap();
    }
    let trailers = answer.trailers().await.unwrap().expect("a status");
    decode(&Status::from_header_map(&trailers).expect("a status"))
}

async fn serves(gateway: &Gateway, role: &str) -> bool {
    let mut client = RiskServiceClient::new(gateway.channel(role).await);
    let answer = client.submit_risk(pb::SubmitRiskRequest::default()).await;
    answer.is_ok()
}

#[tokio::test]
async fn a_connection_that_is_old_ends_and_says_so() {
    let limits = short(|limits| limits.age = Duration::from_millis(300));
    let gateway = Gateway::with(limits).await;
    let mut client = RiskServiceClient::new(gateway.channel(AGENCY).await);
    let watched = client.watch_risks(pb::WatchRisksRequest::default()).await;
    let mut watched = watched.unwrap().into_inner();
    assert!(watched.message().await.unwrap().is_some());
    let ended = decode(&soon(watched.message()).await.unwrap_err());
    assert_eq!(ended.code, Code::Unavailable);
    assert_eq!(ended.reason, Some(ErrorReason::ConnectionAged));
    assert!(ended.retry_after.is_some());
    // The client connects again by itself.
    let answer = client.submit_risk(pb::SubmitRiskRequest::default()).await;
    answer.expect("a new connection");
}

#[tokio::test]
async fn a_call_that_does_not_end_is_cut_when_its_connection_is_too_old() {
    let limits = short(|limits| {
        limits.age = Duration::from_millis(200);
        limits.grace = Duration::from_millis(200);
    });
    let gateway = Gateway::with(limits).await;
    let (mut client, connection) = h2_to(&gateway, AGENCY, 65_535).await;
    let (response, mut body) = client.send_request(post(ENDLESS), false).unwrap();
    body.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
    assert!(soon(response).await.is_err());
    let _ = soon(connection).await.unwrap();
}

#[tokio::test]
async fn a_connection_without_calls_is_closed_and_one_with_a_call_is_not() {
    let limits = short(|limits| limits.idle = Duration::from_millis(200));
    let gateway = Gateway::with(limits).await;
    let (_idle, idle) = h2_to(&gateway, AGENCY, 65_535).await;
    let (mut busy, busy_connection) = h2_to(&gateway, AGENCY, 65_535).await;
    let (response, mut body) = busy.send_request(post(ENDLESS), false).unwrap();
    body.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
    soon(gateway.fake.begun.notified()).await;
    let _ = soon(idle).await.unwrap();
    assert!(!busy_connection.is_finished());
    drop((response, body));
    let _ = soon(busy_connection).await.unwrap();
}

/// A watch that is not read, where an agency has one place.
async fn unread(limits: Limits) -> (Gateway, H2) {
    let policy = "[[limit]]\nwho = [\"agency/*\"]\ncalls = 1\n";
    let gateway = Gateway::ruled(policy, limits).await;
    let (mut client, connection) = h2_to(&gateway, AGENCY, 1).await;
    let (response, mut body) = client.send_request(post(WATCH), false).unwrap();
    body.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
    let response = soon(response).await.unwrap();
    assert_eq!(response.status(), 200);
    // The answer is kept, and nothing of it read.
    let kept = tokio::spawn(async move {
        let _response = response;
        connection.await.unwrap()
    });
    (gateway, (client, kept))
}

#[tokio::test]
async fn an_answer_that_nobody_reads_loses_its_place_and_then_its_connection() {
    let limits = short(|limits| limits.stall = Duration::from_millis(300));
    let (gateway, (_client, connection)) = unread(limits).await;
    soon(async { while !serves(&gateway, AGENCY).await {} }).await;
    let _ = soon(connection).await.unwrap();
    // Without the limit it keeps both.
    let (gateway, (_client, connection)) = unread(Limits::default()).await;
    for _ in 0..3 {
        assert!(!serves(&gateway, AGENCY).await);
    }
    assert!(!connection.is_finished());
}

#[tokio::test]
async fn a_request_that_trickles_is_ended() {
    let limits = short(|limits| {
        limits.message = Duration::from_millis(200);
        limits.quiet = Duration::from_millis(200);
    });
    let gateway = Gateway::with(limits).await;
    let (mut client, _connection) = h2_to(&gateway, AGENCY, 65_535).await;
    for (method, bytes) in [
        (SUBMIT, &b""[..]),
        (SUBMIT, b"\0\0\0"),
        (SUBMIT, b"\0\0\0\0\x09abc"),
        (LIST, b""),
        (LIST, b"\0\0\0\0\x09abc"),
    ] {
        let answer = answered(&mut client, method, bytes).await;
        assert_eq!(answer.code, Code::ResourceExhausted, "{method} {bytes:?}");
        assert_eq!(
            answer.reason,
            Some(ErrorReason::TooSlow),
            "{method} {bytes:?}"
        );
    }
}

#[tokio::test]
async fn a_message_past_the_callers_limit_is_refused_by_its_first_bytes() {
    let policy = "[[limit]]\nwho = [\"agency/*\"]\nmessage_bytes = 1000\n";
    let gateway = Gateway::under(policy).await;
    let (mut client, _connection) = h2_to(&gateway, AGENCY, 65_535).await;
    for method in [SUBMIT, LIST] {
        let answer = answered(&mut client, method, b"\0\0\0\x03\xe9a").await;
        assert_eq!(
            answer.reason,
            Some(ErrorReason::MessageTooLarge),
            "{method}"
        );
        assert!(answer.en.contains("1000 bytes"), "{}", answer.en);
    }
    assert!(serves(&gateway, AGENCY).await);
}

#[tokio::test]
async fn bombs_are_refused_before_they_go_off() {
    let gateway = Gateway::start().await;
    let mut client = RiskServiceClient::new(gateway.channel(AGENCY).await);
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let bomb = pb::SubmitRiskRequest {
            request_id: "0".repeat(64 << 20),
            ..Default::default()
        };
        let mut client = client.clone().send_compressed(encoding);
        let answer = soon(client.submit_risk(bomb)).await.map(|_| ());
        let answer = decode(&answer.unwrap_err());
        assert_eq!(
            answer.reason,
            Some(ErrorReason::MessageTooLarge),
            "{encoding:?}"
        );
    }
    let answer = client.submit_risk(pb::SubmitRiskRequest::default()).await;
    answer.expect("the connection lives");
}

#[tokio::test]
async fn an_identity_takes_no_more_connections_than_its_own() {
    let policy = "[[limit]]\nwho = [\"agency/*\"]\nconnections = 1\n";
    let gateway = Gateway::under(policy).await;
    let issued = gateway.pki.issue(AGENCY);
    let first = gateway.dial(&issued).await.unwrap();
    assert!(gateway.dial(&issued).await.is_err());
    assert!(serves(&gateway, "agency/rudong-emergency").await);
    drop(first);
    soon(async { while gateway.dial(&issued).await.is_err() {} }).await;
}

/// A frame of HTTP/2. Source: RFC 9113, 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// The headers of a call, each a literal. Source: RFC 7541, 6.2.2.
fn headers() -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let pairs = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", ENDLESS),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let pairs = pairs.map(|(name, value)| [vec![0], text(name), text(value)].concat());
    pairs.concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Sends what `part` makes of 1, 2, 3, ... until the server has closed the connection; how many that took.
async fn flood(gateway: &Gateway, most: u32, part: impl Fn(u32) -> Vec<u8>) -> u32 {
    let stream = tls_to(gateway, AGENCY).await;
    let (mut from, mut to) = tokio::io::split(stream);
    let reading = tokio::spawn(async move {
        let mut bytes = vec![0; 64 * 1024];
        while from.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
    });
    let hello = [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        &frame(SETTINGS, 0, 0, &[]),
    ]
    .concat();
    to.write_all(&hello).await.unwrap();
    for n in 0..most {
        let sent = async {
            to.write_all(&part(n)).await?;
            to.flush().await
        };
        let sent: Result<io::Result<()>, _> = timeout(Duration::from_secs(20), sent).await;
        if sent.expect("the server reads, or closes").is_err() || reading.is_finished() {
            return n;
        }
        tokio::task::yield_now().await;
    }
    most
}

#[tokio::test]
async fn floods_of_frames_end_their_connection_and_no_other() {
    let gateway = Gateway::start().await;
    let odd = |n: u32| n * 2 + 1;
    let call = |n: u32| frame(HEADERS, END_HEADERS, odd(n), &headers());
    // Rapid reset: CVE-2023-44487.
    let reset = |n: u32| [call(n), frame(3, 0, odd(n), &8u32.to_be_bytes())].concat();
    // MadeYouReset: CVE-2025-8671. The server resets what breaks the protocol.
    let made = |n: u32| [call(n), frame(WINDOW_UPDATE, 0, odd(n), &[0; 4])].concat();
    let continued = |n: u32| match n {
        0 => frame(HEADERS, 0, 1, &headers()),
        _ => frame(CONTINUATION, 0, 1, &[]),
    };
    let empty = |n: u32| match n {
        0 => call(0),
        _ => frame(DATA, 0, 1, &[]),
    };
    let other = gateway.channel("agency/rudong-emergency").await;
    let most = 20_000;
    for (name, closed) in [
        ("rapid reset", flood(&gateway, most, reset).await),
        ("made reset", flood(&gateway, most, made).await),
        ("CONTINUATION", flood(&gateway, most, continued).await),
        ("empty DATA", flood(&gateway, most, empty).await),
    ] {
        println!("{name}: closed after {closed}");
        assert!(closed < most, "{name} goes on");
    }
    let mut other = RiskServiceClient::new(other);
    let answer = other.submit_risk(pb::SubmitRiskRequest::default()).await;
    answer.expect("the other connection lives");
}

#[tokio::test]
async fn headers_past_their_limit_are_refused() {
    let gateway = Gateway::start().await;
    let (mut client, _connection) = h2_to(&gateway, AGENCY, 65_535).await;
    let mut request = post(SUBMIT);
    let long = "x".repeat(20 * 1024).parse().unwrap();
    request.headers_mut().insert("x-long", long);
    // The server's settings must have come; until then the client may not know the limit.
    let sent = client.send_request(request, true);
    match sent {
        Err(_told_before) => {}
        Ok((response, _)) => match soon(response).await {
            Ok(response) => assert_eq!(response.status(), 431),
            Err(_reset) => {}
        },
    }
    assert!(serves(&gateway, AGENCY).await);
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_given_up() {
    let limits = short(|limits| {
        limits.keepalive = Duration::from_millis(100);
        limits.alive = Duration::from_millis(100);
    });
    let gateway = Gateway::with(limits).await;
    let mut dead = tls_to(&gateway, AGENCY).await;
    let hello = [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        &frame(SETTINGS, 0, 0, &[]),
    ]
    .concat();
    dead.write_all(&hello).await.unwrap();
    let (_client, alive) = h2_to(&gateway, AGENCY, 65_535).await;
    let mut bytes = Vec::new();
    let _ = soon(dead.read_to_end(&mut bytes)).await;
    assert!(!alive.is_finished(), "one that answers stays");
}
