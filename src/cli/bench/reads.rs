//! What one call costs, and whether it costs the same in a ledger a thousand times as long.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use tonic::transport::Channel;

use super::{Failed, records::Source};
use crate::proto::{
    ledger::v1::{
        GetCustodyRequest, GetInclusionProofRequest, ledger_service_client::LedgerServiceClient,
    },
    risk::v1::{
        GetRiskRequest, ListRisksRequest, SubmitRiskRequest, WatchRisksRequest,
        risk_service_client::RiskServiceClient,
    },
};

/// The calls, in the order in which they are printed.
pub(super) const CALLS: [&str; 6] = ["get", "list", "proof", "custody", "submit", "watch"];

/// Where a delivery is given up.
const DELIVERY: Duration = Duration::from_secs(10);

/// Latencies of one kind of call.
#[derive(Default)]
pub(super) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(super) fn add(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    /// A percentile, in microseconds.
    pub(super) fn percentile(&mut self, percent: usize) -> f64 {
        self.0.sort_unstable();
        let at = (self.0.len() * percent / 100).min(self.0.len().saturating_sub(1));
        self.0.get(at).map_or(0.0, |took| took.as_secs_f64() * 1e6)
    }
}

/// A spread over `size` that looks random and is the same every time.
fn pick(round: u64, size: u64) -> u64 {
    round.wrapping_mul(0x9E37_79B9_7F4A_7C15) % size.max(1)
}

/// Calls one after the other, `rounds` of each, on records 0 to `size`; `next` numbers new ones.
pub(super) async fn calls(
    channel: &Channel,
    source: &Source,
    size: u64,
    rounds: u64,
    next: &mut u64,
) -> Result<[Latencies; CALLS.len()], Failed> {
    let mut took: [Latencies; CALLS.len()] = Default::default();
    let [get, list, proof, custody, submit, watch] = &mut took;
    let mut risks =
        RiskServiceClient::new(channel.clone()).max_decoding_message_size(16 * 1024 * 1024);
    let mut ledger = LedgerServiceClient::new(channel.clone());
    // The first round only warms caches.
    for round in 0..=rounds {
        let (name, warm) = (source.name(pick(round, size)), round > 0);
        let begun = Instant::now();
        risks
            .get_risk(GetRiskRequest { name: name.clone() })
            .await?;
        keep(get, begun, warm);
        if round % 4 == 0 {
            let request = ListRisksRequest {
                parent: source.collection(),
                page_size: 100,
                filter: "level = MAJOR".to_owned(),
                ..ListRisksRequest::default()
            };
            let begun = Instant::now();
            let page = risks.list_risks(request).await?.into_inner();
            keep(list, begun, warm);
            if page.revisions.len() != 100 {
                return Err(format!("a page of {} rows", page.revisions.len()).into());
            }
        }
        let request = GetInclusionProofRequest {
            index: i64::try_from(pick(round, size))?,
            ..GetInclusionProofRequest::default()
        };
        let begun = Instant::now();
        ledger.get_inclusion_proof(request).await?;
        keep(proof, begun, warm);
        let begun = Instant::now();
        ledger
            .get_custody(GetCustodyRequest { name, revision: 0 })
            .await?;
        keep(custody, begun, warm);
    }
    deliveries(&mut risks, source, rounds, next, submit, watch).await?;
    Ok(took)
}

fn keep(latencies: &mut Latencies, begun: Instant, warm: bool) {
    if warm {
        latencies.add(begun.elapsed());
    }
}

/// Submits, and how long after each acknowledgement a watch has it.
async fn deliveries(
    risks: &mut RiskServiceClient<Channel>,
    source: &Source,
    rounds: u64,
    next: &mut u64,
    submit: &mut Latencies,
    watch: &mut Latencies,
) -> Result<(), Failed> {
    let request = WatchRisksRequest {
        parent: source.collection(),
        ..WatchRisksRequest::default()
    };
    let mut changes = risks.clone().watch_risks(request).await?.into_inner();
    let (sender, mut delivered) = tokio::sync::mpsc::unbounded_channel();
    let watching = tokio::spawn(async move {
        while let Some(Ok(change)) = changes.next().await {
            if change.revision.is_some() && sender.send(Instant::now()).is_err() {
                break;
            }
        }
    });
    for round in 0..=rounds {
        *next += 1;
        let request = SubmitRiskRequest {
            risk: Some(source.risk(*next)),
            ..SubmitRiskRequest::default()
        };
        let begun = Instant::now();
        risks.submit_risk(request).await?;
        let acknowledged = Instant::now();
        let seen = tokio::time::timeout(DELIVERY, delivered.recv()).await;
        let seen = seen.ok().flatten().ok_or("a watch got nothing")?;
        if round > 0 {
            submit.add(acknowledged - begun);
            watch.add(seen.saturating_duration_since(acknowledged));
        }
    }
    watching.abort();
    Ok(())
}
