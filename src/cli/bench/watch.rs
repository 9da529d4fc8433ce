//! Many watches at a steady rate: how long behind the acknowledgement each delivery comes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tonic::transport::Channel;

use super::{Failed, reads::Latencies, records::Source};
use crate::proto::risk::v1::{
    SubmitRiskRequest, WatchRisksRequest, risk_service_client::RiskServiceClient,
};

/// Submits of one tick: the timer is no finer than that many at the rate.
const TICKS: u64 = 100;

type Times = Arc<Mutex<HashMap<String, Instant>>>;
type Seen = Arc<Mutex<Vec<(String, Instant)>>>;

/// What came of it.
pub(super) struct Delivered {
    pub(super) latencies: Latencies,
    /// Deliveries that did not come.
    pub(super) missing: u64,
    /// Submits a second that were acknowledged.
    pub(super) rate: f64,
}

/// `watches` watches over some connections, and `rate` submits a second for `time`, whether or not the
/// ones before are answered.
pub(super) async fn deliveries(
    channels: &[Channel],
    source: &Source,
    watches: usize,
    rate: u64,
    time: Duration,
    first: u64,
) -> Result<Delivered, Failed> {
    let (acknowledged, seen) = (Times::default(), Seen::default());
    let mut watching = Vec::new();
    for channel in channels.iter().cycle().take(watches) {
        let request = WatchRisksRequest {
            parent: source.collection(),
            ..WatchRisksRequest::default()
        };
        let mut client = RiskServiceClient::new(channel.clone());
        let changes = client.watch_risks(request).await?;
        let (mut changes, seen) = (changes.into_inner(), seen.clone());
        watching.push(tokio::spawn(async move {
            while let Some(Ok(change)) = changes.next().await {
                let now = Instant::now();
                let record = change.revision.and_then(|revision| revision.risk);
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.extend(record.map(|record| (record.name, now)));
            }
        }));
    }
    let mut ticks = interval(Duration::from_secs(1) / u32::try_from(TICKS)?);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (begun, mut next, mut calls) = (Instant::now(), first, Vec::new());
    while begun.elapsed() < time {
        ticks.tick().await;
        for _ in 0..rate / TICKS {
            let channel = channels.get(next as usize % channels.len().max(1));
            let mut client = RiskServiceClient::new(channel.ok_or("no connection")?.clone());
            let (risk, acknowledged) = (source.risk(next), acknowledged.clone());
            next += 1;
            calls.push(tokio::spawn(async move {
                let name = risk.name.clone();
                let request = SubmitRiskRequest {
                    risk: Some(risk),
                    ..SubmitRiskRequest::default()
                };
                client.submit_risk(request).await?;
                let mut times = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
                times.insert(name, Instant::now());
                Ok::<_, tonic::Status>(())
            }));
        }
    }
    let made = next - first;
    for call in calls {
        call.await??;
    }
    let took = begun.elapsed();
    sleep(Duration::from_secs(1)).await;
    watching.iter().for_each(tokio::task::JoinHandle::abort);
    let times = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let mut latencies = Latencies::default();
    for (name, at) in seen.iter() {
        if let Some(acknowledged) = times.get(name) {
            latencies.add(at.saturating_duration_since(*acknowledged));
        }
    }
    Ok(Delivered {
        latencies,
        missing: (made * watches as u64).saturating_sub(seen.len() as u64),
        rate: made as f64 / took.as_secs_f64(),
    })
}
