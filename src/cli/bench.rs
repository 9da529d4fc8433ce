//! `hefu bench`: what a node does on this machine, beside a server of the same transport that keeps nothing.

mod bare;
mod load;
mod plot;
mod reads;
pub mod records;
mod report;
mod sections;
mod site;
mod watch;

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use tonic::transport::Channel;

use self::{records::Source, report::Report, sections::Stage, site::Site};
use super::{CliError, Exit, client::args::Connection};

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Measure a node: submits, lists, replication, watches, reads, start-up, memory and disk, each beside a
/// bare server with the same TLS and the same messages in the same run. Absolute figures are those of this
/// machine; the ratios are what counts.
///
/// Nodes are started in a folder of their own, which is removed at the end. With --into it is the
/// node of --server that is measured, and what is written stays in its ledger for good.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  hefu bench --quick\n  hefu bench --json > figures.json\n  hefu bench \
    --only grow --sizes 10000,100000,1000000 --plot cost.svg\n  hefu bench --server \
    https://county:7443 --into qidong-emergency --division 320681\n\nEverything runs on this machine, \
    clients included: stop what else is running. The folder must lie on the disk that is meant: a \
    figure from a memory disk says nothing of durability"
)]
pub struct Bench {
    /// Less than a minute, with shorter lists and smaller ledgers
    #[arg(long)]
    quick: bool,
    /// One object, every figure under a stable name; else a table as it goes
    #[arg(long)]
    json: bool,
    /// Only these sections
    #[arg(long, value_delimiter = ',')]
    only: Vec<Section>,
    /// Rows of the sustained list and of the catch-up; default 1,000,000, with --quick 40,000
    #[arg(long)]
    rows: Option<u64>,
    /// Ledger sizes at which calls are measured; default 10,000, 100,000 and 1,000,000, with --quick
    /// 2,000 and 10,000
    #[arg(long, value_delimiter = ',')]
    sizes: Vec<u64>,
    /// Where the folder is made
    #[arg(long, default_value = ".")]
    folder: PathBuf,
    /// Write a plot of cost against ledger size
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Measure the node of --server: submit risks of this agency, whose certificate --cert is. They stay
    /// in the ledger
    #[arg(long, value_name = "AGENCY")]
    into: Option<String>,
    /// With --into: a division that the agency may write for
    #[arg(long, default_value = "320681", requires = "into")]
    division: String,
}

/// A part of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Single submits: 1, 64 and 256 in flight
    Single,
    /// Lists: a burst, a sustained one, 16 agencies at once; disk
    List,
    /// The parent brought up to date
    Replication,
    /// 100 watches at 1,000 submits a second
    Watch,
    /// Calls at growing ledger sizes, start-up, rebuilding, memory
    Grow,
}

/// How much is measured.
struct Plan {
    rounds: usize,
    round: Duration,
    burst: u64,
    rows: u64,
    sizes: Vec<u64>,
    calls: u64,
    watch: Duration,
}

impl Bench {
    pub(super) async fn run(self, connection: &Connection) -> Result<Exit, CliError> {
        super::log_to_stderr("warn", false);
        let ran = match &self.into {
            Some(agency) => self.node(agency, connection).await,
            None => self.stage().await,
        };
        ran.map(|()| Exit::Done)
            .map_err(|error| CliError::Other(error.to_string()))
    }

    fn plan(&self) -> Plan {
        let (long, quick) = (self.rows.unwrap_or(1_000_000), self.rows.unwrap_or(40_000));
        let sizes = |default: &[u64]| match self.sizes.is_empty() {
            true => default.to_vec(),
            false => self.sizes.clone(),
        };
        if self.quick {
            return Plan {
                rounds: 1,
                round: Duration::from_millis(1_500),
                burst: quick.min(20_000),
                rows: quick,
                sizes: sizes(&[2_000, 10_000]),
                calls: 100,
                watch: Duration::from_secs(2),
            };
        }
        Plan {
            rounds: 4,
            round: Duration::from_secs(3),
            burst: 100_000,
            rows: long,
            sizes: sizes(&[10_000, 100_000, 1_000_000]),
            calls: 1_000,
            watch: Duration::from_secs(10),
        }
    }

    fn wants(&self, section: Section) -> bool {
        self.only.is_empty() || self.only.contains(&section)
    }

    /// Nodes of its own.
    async fn stage(&self) -> Result<(), Failed> {
        let (site, plan, mut report) = (
            Site::open(&self.folder)?,
            self.plan(),
            Report::new(self.json),
        );
        let mut stage = Stage {
            site: &site,
            plan: &plan,
            report: &mut report,
        };
        if self.wants(Section::Single) {
            stage.single().await?;
        }
        if self.wants(Section::List) {
            stage.burst().await?;
            stage.many().await?;
        }
        if self.wants(Section::List) || self.wants(Section::Replication) {
            stage.sustained(self.wants(Section::Replication)).await?;
        }
        if self.wants(Section::Watch) {
            stage.watch().await?;
        }
        if self.wants(Section::Grow) {
            stage.grow().await?;
        }
        if let Some(file) = &self.plot {
            std::fs::write(file, plot::svg(report.figures(), &plan.sizes))?;
        }
        report.end();
        Ok(())
    }

    /// A node that is there.
    async fn node(&self, agency: &str, connection: &Connection) -> Result<(), Failed> {
        let source = Source {
            agency: agency.to_owned(),
            division: self.division.clone(),
            prefix: format!("BENCH-{}", jiff::Timestamp::now().as_second()),
        };
        let mut ours: Vec<Channel> = Vec::new();
        for _ in 0..sections::connections(256) {
            ours.push(connection.dial().await?.0);
        }
        let (site, mut plan, mut report) = (
            Site::open(&self.folder)?,
            self.plan(),
            Report::new(self.json),
        );
        plan.rows = self.rows.unwrap_or(10_000);
        let mut stage = Stage {
            site: &site,
            plan: &plan,
            report: &mut report,
        };
        if self.wants(Section::Single) {
            stage.singles_of(&ours, &source).await?;
        }
        if self.wants(Section::List) {
            stage.list_of(&ours, &source).await?;
        }
        report.end();
        Ok(())
    }
}
