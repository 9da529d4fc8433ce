//! Stopping: nothing new, the endless ends, the rest may finish, and then it is over.

use tokio::net::TcpStream;
use tonic::Code;

use super::*;
use crate::{
    proto::{error::v1::ErrorReason, risk::v1::risk_service_client::RiskServiceClient},
    services::status::decode,
};

#[tokio::test]
async fn watches_end_at_once_and_nothing_waits_for_them() {
    let mut gateway = Gateway::start().await;
    let mut client = RiskServiceClient::new(gateway.channel("agency/qidong-emergency").await);
    let mut watched = client
        .watch_risks(pb::WatchRisksRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(watched.message().await.unwrap().is_some());
    let begun = std::time::Instant::now();
    gateway.stop.take().unwrap().send(()).unwrap();
    let answer = decode(&soon(watched.message()).await.unwrap_err());
    assert_eq!(answer.code, Code::Unavailable);
    assert_eq!(answer.reason, Some(ErrorReason::ShuttingDown));
    assert!(answer.retry_after.is_some());
    soon(gateway.served).await.unwrap().unwrap();
    assert!(
        begun.elapsed() < Limits::default().drain,
        "it did not wait for the drain to pass"
    );
    assert!(
        TcpStream::connect(gateway.address).await.is_err(),
        "the port is free again"
    );
}

#[tokio::test]
async fn calls_that_do_not_finish_are_cut_after_the_drain() {
    let limits = Limits {
        drain: Duration::from_millis(50),
        ..Limits::default()
    };
    let mut gateway = Gateway::with(limits).await;
    let mut client = RiskServiceClient::new(gateway.channel("agency/qidong-emergency").await);
    let call =
        tokio::spawn(async move { client.list_risks(pb::ListRisksRequest::default()).await });
    soon(gateway.fake.begun.notified()).await;
    gateway.stop.take().unwrap().send(()).unwrap();
    soon(gateway.served).await.unwrap().unwrap();
    assert!(
        soon(call).await.unwrap().is_err(),
        "the connection was closed"
    );
}

#[tokio::test]
async fn dropping_what_serves_closes_every_connection() {
    let gateway = Gateway::start().await;
    let mut client = RiskServiceClient::new(gateway.channel("agency/qidong-emergency").await);
    let mut watched = client
        .watch_risks(pb::WatchRisksRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(watched.message().await.unwrap().is_some());
    gateway.served.abort();
    assert!(soon(watched.message()).await.is_err());
}

#[tokio::test]
async fn a_channel_connects_again_by_itself() {
    let mut gateway = Gateway::start().await;
    let mut client = RiskServiceClient::new(gateway.channel("agency/qidong-emergency").await);
    client
        .submit_risk(pb::SubmitRiskRequest::default())
        .await
        .unwrap();
    gateway.stop.take().unwrap().send(()).unwrap();
    soon(gateway.served).await.unwrap().unwrap();
    assert!(
        client
            .submit_risk(pb::SubmitRiskRequest::default())
            .await
            .is_err()
    );

    let listener = TcpListener::bind(gateway.address).await.unwrap();
    let again = credentials(&gateway.pki.issue("node/nantong"));
    let connections = Connections::new(Keys::new(again).unwrap());
    let routes = Routes::new(server::RiskServiceServer::new(Fake::default()));
    let never = future::pending();
    let _served = tokio::spawn(serve(
        listener,
        connections,
        domain(),
        gate(&gateway.pki, Policy::default()),
        routes,
        never,
        Limits::default(),
    ));
    soon(async {
        while client
            .submit_risk(pb::SubmitRiskRequest::default())
            .await
            .is_err()
        {}
    })
    .await;
}
