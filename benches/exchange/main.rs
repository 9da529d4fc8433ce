//! The whole exchange beside bare tonic: `cargo bench --bench exchange`.
//!
//! Everything runs in this process: a county node and a city node as `hefu serve` runs them (mutual TLS
//! over loopback, data under `target/`), and a server with the same TLS and the same messages that
//! answers at once and keeps nothing. Client and servers share the machine. Absolute figures
//! depend on it; the ratios are what counts.
//!
//! `-- --quick` takes less than a minute; `-- --json` prints one object; `-- --rows N` sets the
//! length of the list.

#![allow(missing_docs)]

mod bare;
mod load;
mod records;
mod report;
mod site;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use hefu::types::{LogIndex, LogNo};
use prost::Message as _;

use load::Singles;
use report::{Report, memory, written};
use site::{CITY, Running, Site, disk};

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Calls at once.
const IN_FLIGHT: [usize; 3] = [1, 64, 256];
/// Calls at once on one connection.
const PER_CONNECTION: usize = 64;

/// How much is measured.
struct Plan {
    rounds: usize,
    round: Duration,
    rows: u64,
    json: bool,
}

impl Plan {
    /// From the command line; `None` where this is not a run of `cargo bench`.
    fn read() -> Result<Option<Self>, Failed> {
        let mut plan = Self {
            rounds: 4,
            round: Duration::from_secs(3),
            rows: 100_000,
            json: false,
        };
        let (mut is_bench, mut rows) = (false, None);
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--bench" => is_bench = true,
                "--quick" => {
                    plan.rounds = 2;
                    plan.round = Duration::from_millis(1_500);
                    plan.rows = 40_000;
                }
                "--json" => plan.json = true,
                "--rows" => rows = Some(words.next().ok_or("--rows N")?.parse()?),
                // Criterion's options and filters of a run over all benches are not for this one.
                _ => {}
            }
        }
        plan.rows = rows.unwrap_or(plan.rows);
        Ok(is_bench.then_some(plan))
    }
}

fn main() -> Result<(), Failed> {
    let Some(plan) = Plan::read()? else {
        return Ok(());
    };
    let site = Site::open()?;
    let mut report = Report::new(plan.json);
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        single(&site, &plan, &mut report).await?;
        lists(&site, &plan, &mut report).await
    })?;
    report.end();
    Ok(())
}

/// Single submits, hefu and bare by turns.
async fn single(site: &Site, plan: &Plan, report: &mut Report) -> Result<(), Failed> {
    let record = records::risk(1).encoded_len();
    report.title("single submits, each acknowledged when durable");
    report.plain("record.bytes", record as f64, "bytes in a record");
    let sync = load::fdatasync(site.folder())?;
    report.plain(
        "fdatasync.p50_us",
        sync,
        "us for an append and its fdatasync",
    );
    let (county, bare) = (
        site.node(records::NODE, "single", None).await?,
        site.bare().await?,
    );
    let next = Arc::new(AtomicU64::new(0));
    for in_flight in IN_FLIGHT {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..in_flight.div_ceil(PER_CONNECTION) {
            ours.push(site.connect(county.address).await?);
            theirs.push(site.connect(bare).await?);
        }
        let warm = plan.round / 4;
        load::singles(&ours, in_flight, warm, &next).await?;
        load::singles(&theirs, in_flight, warm, &next).await?;
        let (mut hefu, mut tonic) = (Singles::default(), Singles::default());
        for _ in 0..plan.rounds {
            hefu.add(load::singles(&ours, in_flight, plan.round, &next).await?);
            tonic.add(load::singles(&theirs, in_flight, plan.round, &next).await?);
        }
        report.singles(in_flight, &hefu, &tonic);
        if in_flight == 1 {
            let bound = (tonic.percentile(50) + sync) * 1.25;
            let of = hefu.percentile(50) / bound;
            report.plain(
                "submit_1.of_bound",
                of,
                "p50 over 1.25 x (bare p50 + fdatasync)",
            );
        }
    }
    let entries = county.ledger.log("").map_or(0, |view| view.tree.size());
    report.plain(
        "single.entries",
        entries as f64,
        "entries in the log by then",
    );
    report.plain(
        "single.rss_mib",
        memory("VmRSS"),
        "MiB resident, clients included",
    );
    county.stop().await
}

/// A list in, then up.
async fn lists(site: &Site, plan: &Plan, report: &mut Report) -> Result<(), Failed> {
    let city = site.node(CITY, "city", None).await?;
    let county = site
        .node(records::NODE, "county", Some(city.address))
        .await?;
    let bare = site.connect(site.bare().await?).await?;
    let channel = site.connect(county.address).await?;

    report.title(&format!("a list of {} rows, streamed in", plan.rows));
    let before = load::list(&bare, 0, plan.rows).await?;
    let start = written();
    let hefu = load::list(&channel, 0, plan.rows).await?;
    let wrote = written() - start;
    let after = load::list(&bare, 0, plan.rows).await?;
    report.rate("list", hefu, (before + after) / 2.0, "rows/s");
    report.plain(
        "list.rss_mib",
        memory("VmRSS"),
        "MiB resident, client included",
    );

    report.title("the parent brought up to date, verified and cosigned");
    let batches = load::batches(&county.ledger)?;
    let before = load::bare_catch_up(&bare, &batches).await?;
    let hefu = load::catch_up(&county).await?;
    let after = load::bare_catch_up(&bare, &batches).await?;
    report.rate("replication", hefu, (before + after) / 2.0, "entries/s");
    report.plain(
        "replication.rss_mib",
        memory("VmRSS"),
        "MiB resident, both nodes",
    );
    report.plain(
        "peak.rss_mib",
        memory("VmHWM"),
        "MiB resident at most, all of it",
    );
    drop(batches);

    let entries = entry_bytes(&county)? as f64;
    let (below, above) = (county.data.clone(), city.data.clone());
    county.stop().await?;
    city.stop().await?;
    report.title("disk, per byte of entry");
    report.plain(
        "disk.list_written",
        wrote / entries,
        "written while the list came in",
    );
    for (node, data) in [("county", below), ("city", above)] {
        let journal = disk(&data.join("journal"))? as f64 / entries;
        let state = disk(&data.join("state"))? as f64 / entries;
        report.plain(
            &format!("disk.{node}_journal"),
            journal,
            "kept in the journal",
        );
        report.plain(
            &format!("disk.{node}_state"),
            state,
            "kept in the derived state",
        );
        report.plain(&format!("disk.{node}"), journal + state, "kept in all");
    }
    Ok(())
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
