//! The loads: single submits in a closed loop, a list, a catch-up.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{StreamExt as _, future::try_join_all};
use tonic::transport::Channel;

use super::{Failed, records::Source, site::Running};
use crate::{
    ledger::Ledger,
    proto::{
        replication::v1::{
            Batch, ReplicateRequest, replicate_request::Message,
            replication_service_client::ReplicationServiceClient,
        },
        risk::v1::{SubmitRiskRequest, SubmitRisksRequest, risk_service_client::RiskServiceClient},
    },
    types::{LogIndex, LogNo},
};
/// Rows of one message of a list.
const ROWS: u64 = 500;
/// Entries of one message of the bare replication stream: as many as a batch of hefu has.
const ENTRIES: u64 = 1_024;
/// A catch-up that takes longer has failed.
const CATCH_UP: Duration = Duration::from_secs(600);

/// What a closed loop measured.
#[derive(Default)]
pub(super) struct Singles {
    calls: u64,
    elapsed: Duration,
    latencies: Vec<u32>,
}

impl Singles {
    pub(super) fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.elapsed += other.elapsed;
        self.latencies.extend(other.latencies);
        self.latencies.sort_unstable();
    }

    pub(super) fn per_second(&self) -> f64 {
        self.calls as f64 / self.elapsed.as_secs_f64()
    }

    /// A percentile, in microseconds.
    pub(super) fn percentile(&self, percent: usize) -> f64 {
        let at = self.latencies.len() * percent / 100;
        let at = at.min(self.latencies.len().saturating_sub(1));
        self.latencies
            .get(at)
            .map_or(0.0, |ns| f64::from(*ns) / 1e3)
    }
}

/// Submits one record after the other from `in_flight` callers for `time`.
pub(super) async fn singles(
    channels: &[Channel],
    source: &Source,
    in_flight: usize,
    time: Duration,
    next: &Arc<AtomicU64>,
) -> Result<Singles, Failed> {
    let started = Instant::now();
    let callers = channels.iter().cycle().take(in_flight).map(|channel| {
        let (mut client, next) = (RiskServiceClient::new(channel.clone()), next.clone());
        let source = source.clone();
        let called = tokio::spawn(async move {
            let mut latencies = Vec::new();
            while started.elapsed() < time {
                let request = SubmitRiskRequest {
                    risk: Some(source.risk(next.fetch_add(1, Ordering::Relaxed))),
                    ..SubmitRiskRequest::default()
                };
                let sent = Instant::now();
                client.submit_risk(request).await?;
                latencies.push(u32::try_from(sent.elapsed().as_nanos()).unwrap_or(u32::MAX));
            }
            Ok::<_, tonic::Status>(latencies)
        });
        async { called.await.map_err(Failed::from)?.map_err(Failed::from) }
    });
    let latencies: Vec<u32> = try_join_all(callers).await?.concat();
    let mut singles = Singles::default();
    singles.add(Singles {
        calls: latencies.len() as u64,
        elapsed: started.elapsed(),
        latencies,
    });
    Ok(singles)
}

/// Streams a list of `rows` rows; returns rows per second, until the last answer.
pub(super) async fn list(
    channel: &Channel,
    source: &Source,
    first: u64,
    rows: u64,
) -> Result<f64, Failed> {
    let source = source.clone();
    let messages = (0..rows.div_ceil(ROWS)).map(move |at| {
        let from = at * ROWS;
        SubmitRisksRequest {
            risks: (from..rows.min(from + ROWS))
                .map(|n| source.risk(first + n))
                .collect(),
            parent: if at == 0 {
                source.collection()
            } else {
                String::new()
            },
            ..SubmitRisksRequest::default()
        }
    });
    let mut client =
        RiskServiceClient::new(channel.clone()).max_decoding_message_size(16 * 1024 * 1024);
    let started = Instant::now();
    let answers = client.submit_risks(futures::stream::iter(messages)).await?;
    let (mut answers, mut created) = (answers.into_inner(), 0);
    while let Some(answer) = answers.message().await? {
        created = answer.summary.map_or(created, |summary| summary.created);
    }
    let elapsed = started.elapsed();
    if u64::try_from(created) != Ok(rows) {
        return Err(format!("{created} of {rows} rows were created").into());
    }
    Ok(rows as f64 / elapsed.as_secs_f64())
}

/// Brings the parent up to date; returns entries per second, until the last cosignature is kept.
pub(super) async fn catch_up(county: &Running) -> Result<f64, Failed> {
    let uplink = county.uplink.as_ref().ok_or("no parent")?;
    let started = Instant::now();
    let synced = uplink.sync(CATCH_UP, |_| ()).await;
    let elapsed = started.elapsed();
    let own = synced.logs.first().ok_or("no log")?;
    if !synced.complete {
        let (after, size, why) = (own.after, own.size, &synced.reason);
        return Err(format!("{after} of {size} cosigned: {why}").into());
    }
    Ok((own.after - own.before) as f64 / elapsed.as_secs_f64())
}

/// The own log's entries, in the batches in which they are replicated.
pub(super) fn batches(ledger: &Ledger) -> Result<Vec<Batch>, Failed> {
    let view = ledger.log("").ok_or("no log")?;
    let size = view.tree.size();
    let batch = |start: u64| {
        let read = |index| ledger.journal().read(LogNo::OWN, LogIndex(index));
        let entries =
            (start..size.min(start + ENTRIES)).filter_map(|index| read(index).transpose());
        Ok(Batch {
            origin: view.origin().to_owned(),
            start,
            entries: entries.collect::<Result<_, _>>()?,
            checkpoint: view.note.clone(),
        })
    };
    (0..size).step_by(ENTRIES as usize).map(batch).collect()
}

/// Streams batches to the bare server; returns entries per second, until the last answer.
pub(super) async fn bare_catch_up(channel: &Channel, batches: &[Batch]) -> Result<f64, Failed> {
    let entries: usize = batches.iter().map(|batch| batch.entries.len()).sum();
    let messages: Vec<_> = batches
        .iter()
        .map(|batch| ReplicateRequest {
            message: Some(Message::Batch(batch.clone())),
        })
        .collect();
    let mut client = ReplicationServiceClient::new(channel.clone());
    let started = Instant::now();
    let answers = client.replicate(futures::stream::iter(messages)).await?;
    let answered = answers.into_inner().count().await;
    let elapsed = started.elapsed();
    if answered != batches.len() {
        return Err(format!("{answered} of {} batches answered", batches.len()).into());
    }
    Ok(entries as f64 / elapsed.as_secs_f64())
}

/// The median of an append of one record and its fdatasync, in microseconds.
pub(super) fn fdatasync(folder: &Path) -> Result<f64, Failed> {
    let path = folder.join("fdatasync");
    let mut file = File::options().create_new(true).write(true).open(&path)?;
    let mut times = Vec::new();
    for _ in 0..500 {
        let started = Instant::now();
        file.write_all(&[7; 700])?;
        file.sync_data()?;
        times.push(started.elapsed());
    }
    std::fs::remove_file(path)?;
    times.sort_unstable();
    Ok(times
        .get(times.len() / 2)
        .map_or(0.0, Duration::as_secs_f64)
        * 1e6)
}
