//! The sections of the measurement, one after the other.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Instant,
};

use futures::future::try_join_all;
use prost::Message as _;
use tonic::transport::Channel;

use super::{
    Failed, Plan, load,
    load::Singles,
    reads::{CALLS, calls},
    records::Source,
    report::{Report, memory, written},
    site::{AGENCIES, CITY, NODE, Running, Site, agency, disk},
    watch,
};
use crate::types::{LogIndex, LogNo};

/// Calls at once.
const IN_FLIGHT: [usize; 3] = [1, 64, 256];
/// Calls at once on one connection.
const PER_CONNECTION: usize = 64;
/// Watches at once, and submits a second meanwhile.
const WATCHES: usize = 100;
const WATCH_RATE: u64 = 1_000;
/// Rows of one list, when a ledger is filled: the service takes no longer ones.
const FILL: u64 = 500_000;

/// Connections for so many calls at once.
pub(super) fn connections(in_flight: usize) -> usize {
    in_flight.div_ceil(PER_CONNECTION)
}

/// What every section needs.
pub(super) struct Stage<'a> {
    pub(super) site: &'a Site,
    pub(super) plan: &'a Plan,
    pub(super) report: &'a mut Report,
}

impl Stage<'_> {
    /// Single submits at a node of its own.
    pub(super) async fn single(&mut self) -> Result<(), Failed> {
        let county = self.site.node(NODE, "single", None).await?;
        let source = Source::default();
        let mut ours = Vec::new();
        for _ in 0..connections(256) {
            ours.push(self.site.connect(&source, county.address).await?);
        }
        self.singles_of(&ours, &source).await?;
        let entries = county.ledger.log("").map_or(0, |view| view.tree.size());
        let report = &mut self.report;
        report.plain(
            "single.entries",
            entries as f64,
            "entries in the log by then",
        );
        let rss = memory("self", "VmRSS");
        report.plain("single.rss_mib", rss, "MiB resident, clients included");
        county.stop().await
    }

    /// Single submits, hefu and bare by turns.
    pub(super) async fn singles_of(
        &mut self,
        ours: &[Channel],
        source: &Source,
    ) -> Result<(), Failed> {
        let record = source.risk(1).encoded_len();
        self.report
            .title("single submits, each acknowledged when durable");
        self.report
            .plain("record.bytes", record as f64, "bytes in a record");
        let sync = load::fdatasync(self.site.folder())?;
        let meaning = "us for an append and its fdatasync";
        self.report.plain("fdatasync.p50_us", sync, meaning);
        let bare = self.site.bare().await?;
        let next = Arc::new(AtomicU64::new(0));
        for in_flight in IN_FLIGHT {
            let mut theirs = Vec::new();
            for _ in 0..connections(in_flight) {
                theirs.push(self.site.connect(&Source::default(), bare).await?);
            }
            let ours = ours.get(..theirs.len()).unwrap_or(ours);
            let warm = self.plan.round / 4;
            load::singles(ours, source, in_flight, warm, &next).await?;
            load::singles(&theirs, source, in_flight, warm, &next).await?;
            let (mut hefu, mut tonic) = (Singles::default(), Singles::default());
            for _ in 0..self.plan.rounds {
                let round = self.plan.round;
                hefu.add(load::singles(ours, source, in_flight, round, &next).await?);
                tonic.add(load::singles(&theirs, source, in_flight, round, &next).await?);
            }
            self.report.singles(in_flight, &hefu, &tonic);
            if in_flight == 1 {
                let bound = (tonic.percentile(50) + sync) * 1.25;
                let of = hefu.percentile(50) / bound;
                let meaning = "p50 over 1.25 x (bare p50 + fdatasync)";
                self.report.plain("submit_1.of_bound", of, meaning);
            } else {
                let spread = hefu.percentile(99) / hefu.percentile(50).max(1.0);
                let name = format!("submit_{in_flight}.p99_over_p50");
                self.report.plain(&name, spread, "p99 over p50");
            }
        }
        Ok(())
    }

    /// A list beside the same one to the bare server, before and after.
    async fn beside(
        &mut self,
        name: &str,
        ours: &Channel,
        source: &Source,
        rows: u64,
    ) -> Result<(), Failed> {
        let bare = self.site.bare().await?;
        let bare = self.site.connect(&Source::default(), bare).await?;
        let before = load::list(&bare, source, 0, rows).await?;
        let hefu = load::list(ours, source, 0, rows).await?;
        let after = load::list(&bare, source, 0, rows).await?;
        self.report
            .rate(name, hefu, (before + after) / 2.0, "rows/s");
        Ok(())
    }

    /// A list at a node that is there.
    pub(super) async fn list_of(
        &mut self,
        ours: &[Channel],
        source: &Source,
    ) -> Result<(), Failed> {
        let channel = ours.first().ok_or("no connection")?;
        let source = Source {
            prefix: format!("{}-L", source.prefix),
            ..source.clone()
        };
        self.report.title("a list, streamed in");
        self.beside("list", channel, &source, self.plan.rows).await
    }

    /// A burst at a node that was idle.
    pub(super) async fn burst(&mut self) -> Result<(), Failed> {
        let rows = self.plan.burst;
        self.report
            .title(&format!("a burst of {rows} rows, streamed in as a list"));
        let county = self.site.node(NODE, "burst", None).await?;
        let source = Source::default();
        let channel = self.site.connect(&source, county.address).await?;
        self.beside("list_burst", &channel, &source, rows).await?;
        county.stop().await
    }

    /// As many rows from many agencies at once.
    pub(super) async fn many(&mut self) -> Result<(), Failed> {
        let rows = self.plan.burst / AGENCIES as u64;
        let title = format!("{AGENCIES} agencies at once, {rows} rows each");
        self.report.title(&title);
        let county = self.site.node(NODE, "many", None).await?;
        let bare = self.site.bare().await?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for n in 1..=AGENCIES {
            let source = agency(n);
            ours.push((
                self.site.connect(&source, county.address).await?,
                source.clone(),
            ));
            theirs.push((self.site.connect(&source, bare).await?, source));
        }
        let before = together(&theirs, rows).await?;
        let hefu = together(&ours, rows).await?;
        let after = together(&theirs, rows).await?;
        let bare = (before + after) / 2.0;
        self.report.rate("list_16", hefu, bare, "rows/s in all");
        county.stop().await
    }

    /// A long list in, then up; and what both take on disk.
    pub(super) async fn sustained(&mut self, up: bool) -> Result<(), Failed> {
        let rows = self.plan.rows;
        let city = self.site.node(CITY, "city", None).await?;
        let county = self.site.node(NODE, "county", Some(city.address)).await?;
        let source = Source::default();
        let channel = self.site.connect(&source, county.address).await?;
        self.report
            .title(&format!("a list of {rows} rows, sustained"));
        let start = written();
        self.beside("list_sustained", &channel, &source, rows)
            .await?;
        let wrote = written() - start;
        let rss = memory("self", "VmRSS");
        let meaning = "MiB resident, client and a parent included";
        self.report.plain("list_sustained.rss_mib", rss, meaning);
        if up {
            self.catch_up(&county).await?;
        }
        let entries = entry_bytes(&county)? as f64;
        let (below, above) = (county.data.clone(), city.data.clone());
        county.stop().await?;
        city.stop().await?;
        self.report.title("disk, per byte of entry");
        let meaning = "written while the list came in";
        self.report
            .plain("disk.list_written", wrote / entries, meaning);
        let nodes = [("county", below), ("city", above)];
        for (node, data) in nodes.into_iter().take(1 + usize::from(up)) {
            let journal = disk(&data.join("journal"))? as f64 / entries;
            let state = disk(&data.join("state"))? as f64 / entries;
            let report = &mut self.report;
            let name = |what: &str| format!("disk.{node}{what}");
            report.plain(&name("_journal"), journal, "kept in the journal");
            report.plain(&name("_state"), state, "kept in the derived state");
            report.plain(&name(""), journal + state, "kept in all");
        }
        Ok(())
    }

    async fn catch_up(&mut self, county: &Running) -> Result<(), Failed> {
        self.report
            .title("the parent brought up to date, verified and cosigned");
        let bare = self.site.bare().await?;
        let bare = self.site.connect(&Source::default(), bare).await?;
        let batches = load::batches(&county.ledger)?;
        let before = load::bare_catch_up(&bare, &batches).await?;
        let hefu = load::catch_up(county).await?;
        let after = load::bare_catch_up(&bare, &batches).await?;
        let bare = (before + after) / 2.0;
        self.report.rate("replication", hefu, bare, "entries/s");
        let rss = memory("self", "VmRSS");
        let meaning = "MiB resident, both nodes and the bare stream's copy";
        self.report.plain("replication.rss_mib", rss, meaning);
        Ok(())
    }

    /// Deliveries at a steady rate.
    pub(super) async fn watch(&mut self) -> Result<(), Failed> {
        let title = format!("{WATCHES} watches at {WATCH_RATE} submits/s");
        self.report.title(&title);
        let county = self.site.node(NODE, "watch", None).await?;
        let source = Source::default();
        let mut channels = Vec::new();
        for _ in 0..4 {
            channels.push(self.site.connect(&source, county.address).await?);
        }
        let time = self.plan.watch;
        let delivered = watch::deliveries(&channels, &source, WATCHES, WATCH_RATE, time, 0);
        let mut delivered = delivered.await?;
        let report = &mut self.report;
        report.plain(
            "watch.submits_per_second",
            delivered.rate,
            "submits acknowledged per s",
        );
        let (p50, p99) = (
            delivered.latencies.percentile(50),
            delivered.latencies.percentile(99),
        );
        report.plain(
            "watch.p50_us",
            p50,
            "us from acknowledgement to delivery, p50",
        );
        report.plain(
            "watch.p99_us",
            p99,
            "us from acknowledgement to delivery, p99",
        );
        let missing = delivered.missing as f64;
        report.plain(
            "watch.missing",
            missing,
            "deliveries that were missing at the end",
        );
        county.stop().await
    }

    /// A ledger that grows, in a process of its own.
    pub(super) async fn grow(&mut self) -> Result<(), Failed> {
        let apart = self.site.apart("grow")?;
        let (source, mut size) = (Source::default(), 0);
        // Records of single submits are numbered behind all that the lists will bring.
        let mut next = 100_000_000;
        let mut process = apart.start()?;
        for goal in self.plan.sizes.clone() {
            self.report.title(&format!("a ledger of {goal} entries"));
            let channel = self.site.connect(&source, process.address).await?;
            let begun = Instant::now();
            let from = size;
            while size < goal {
                let rows = FILL.min(goal - size);
                load::list(&channel, &source, size, rows).await?;
                size += rows;
            }
            let rate = (size - from) as f64 / begun.elapsed().as_secs_f64();
            let name = |what: &str| format!("at_{goal}.{what}");
            let report = &mut self.report;
            report.plain(&name("fill_per_second"), rate, "rows/s until there");
            let took = calls(&channel, &source, size, self.plan.calls, &mut next).await?;
            for (call, mut took) in CALLS.into_iter().zip(took) {
                let (p50, p99) = (took.percentile(50), took.percentile(99));
                report.plain(&name(&format!("{call}_p50_us")), p50, "us, p50");
                report.plain(&name(&format!("{call}_p99_us")), p99, "us, p99");
            }
            let rss = memory(&process.id(), "VmRSS");
            report.plain(&name("rss_mib"), rss, "MiB resident, the node alone");
            process.kill()?;
            process = apart.start()?;
            let started = process.started.as_secs_f64();
            report.plain(
                &name("start_after_kill_s"),
                started,
                "s to start after kill -9",
            );
            // One that answers has also begun to wait for its signal.
            self.site.connect(&source, process.address).await?;
            process.stop()?;
            process = apart.start()?;
            let started = process.started.as_secs_f64();
            report.plain(
                &name("start_clean_s"),
                started,
                "s to start after a clean stop",
            );
            let kept = (
                disk(&apart.data.join("journal"))?,
                disk(&apart.data.join("state"))?,
            );
            let per_entry = (kept.0 + kept.1) as f64 / goal as f64;
            report.plain(
                &name("disk_per_entry"),
                per_entry,
                "bytes on disk per entry",
            );
        }
        process.stop()?;
        let rebuilt = apart.rebuild()?.as_secs_f64();
        let rate = size as f64 / rebuilt;
        let meaning = "entries/s when the state is derived again";
        self.report.plain("rebuild.per_second", rate, meaning);
        self.flat();
        Ok(())
    }

    /// What each call costs in the longest ledger beside the shortest.
    fn flat(&mut self) {
        let sizes = &self.plan.sizes;
        let (Some(first), Some(last)) = (sizes.first(), sizes.last()) else {
            return;
        };
        self.report
            .title(&format!("cost at {last} entries over that at {first}"));
        for call in CALLS {
            for percentile in ["p50", "p99"] {
                let of = |size: &u64| {
                    let name = format!("at_{size}.{call}_{percentile}_us");
                    let figure = self.report.figures().get(&name);
                    figure.and_then(serde_json::Value::as_f64).unwrap_or(0.0)
                };
                let ratio = of(last) / of(first).max(1.0);
                let name = format!("flat.{call}_{percentile}");
                self.report.plain(&name, ratio, "times");
            }
        }
    }
}

/// A list from each; returns rows per second in all.
async fn together(from: &[(Channel, Source)], rows: u64) -> Result<f64, Failed> {
    let begun = Instant::now();
    let lists = from
        .iter()
        .map(|(channel, source)| load::list(channel, source, 0, rows));
    try_join_all(lists).await?;
    Ok((rows * from.len() as u64) as f64 / begun.elapsed().as_secs_f64())
}

fn entry_bytes(node: &Running) -> Result<usize, Failed> {
    let size = node.ledger.log("").map_or(0, |view| view.tree.size());
    let mut total = 0;
    for index in 0..size {
        let entry = node.ledger.journal().read(LogNo::OWN, LogIndex(index))?;
        total += entry.map_or(0, |bytes| bytes.len());
    }
    Ok(total)
}
