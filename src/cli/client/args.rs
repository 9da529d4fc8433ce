//! What the client commands take, and what their help says.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{Client, ClientError, figures::FiguresCommand, hazard::HazardCommand};
use crate::gateway::client::{ClientFiles, Dialer};

/// Which node, and as whom.
#[derive(Debug, Clone, Args)]
pub struct Connection {
    /// The node, as https://host:port
    #[arg(
        long,
        env = "HEFU_SERVER",
        global = true,
        default_value = "https://localhost:7443"
    )]
    pub server: String,
    /// PEM file of your certificate
    #[arg(long, env = "HEFU_CERT", global = true, default_value = "client.pem")]
    pub cert: PathBuf,
    /// PEM file of its private key
    #[arg(long, env = "HEFU_KEY", global = true, default_value = "client.key")]
    pub key: PathBuf,
    /// PEM files of the roots that the node is verified with
    #[arg(
        long,
        env = "HEFU_ROOTS",
        global = true,
        value_delimiter = ',',
        default_value = "ca.pem"
    )]
    pub roots: Vec<PathBuf>,
    /// How results are printed
    #[arg(long, short, global = true, default_value = "table")]
    pub output: Output,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// One JSON object a line, for programs.
    Json,
}

impl Connection {
    /// Dials the node.
    ///
    /// # Errors
    /// [`ClientError::Dial`].
    pub async fn dial(&self) -> Result<Client, ClientError> {
        let files = ClientFiles {
            certificate: self.cert.clone(),
            key: self.key.clone(),
            roots: self.roots.clone(),
        };
        let dialer = Dialer::from_files(&files)?;
        Ok(Client(dialer.connect(&self.server, None).await?))
    }
}

/// A client command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Submit a CSV list to a register; safe to run again
    #[command(
        after_help = "Example:\n  hefu submit risks risks.csv --agency qidong-emergency\n  \
        hefu submit risks risks.csv --complete   # also withdraws what the list no longer names"
    )]
    Submit {
        /// The register: risks, measures, incidents, hazards
        register: String,
        /// The file; - reads standard input. Its header names fields, such as place.latitude
        file: PathBuf,
        /// Completes bare item numbers in the name column
        #[arg(long)]
        agency: Option<String>,
        /// The list is complete: withdraw what it does not name
        #[arg(long)]
        complete: bool,
        /// Why, for what is withdrawn
        #[arg(long, default_value = "")]
        reason: String,
        /// Check every row, write nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Report incidents from a CSV file, one report a row, in order; safe to run again
    #[command(after_help = "Example:\n  hefu report first-report.csv --agency qidong-emergency")]
    Report {
        /// The file; - reads standard input
        file: PathBuf,
        /// Completes bare item numbers in the name column
        #[arg(long)]
        agency: Option<String>,
    },
    /// Move one hazard along its way to closure
    #[command(
        after_help = "Example:\n  hefu hazard move agencies/qidong-emergency/hazards/H-2024-001 --to \
        rectifying"
    )]
    Hazard {
        /// What is done to it
        #[command(subcommand)]
        command: HazardCommand,
    },
    /// Figures and reporters
    #[command(flatten)]
    Figures(FiguresCommand),
    /// Read one record
    #[command(after_help = "Example:\n  hefu get agencies/qidong-emergency/risks/R-2024-0001")]
    Get {
        /// Its name
        name: String,
    },
    /// List records
    #[command(
        after_help = "Example:\n  hefu list risks --filter 'level = MAJOR AND division = \
        \"320681\"' --limit 20"
    )]
    List {
        /// The register
        register: String,
        /// One agency's records; - for all that you may read
        #[arg(long, default_value = "-")]
        agency: String,
        /// An AIP-160 filter
        #[arg(long, default_value = "")]
        filter: String,
        /// name, or an indexed field; add desc for the reverse
        #[arg(long, default_value = "")]
        order_by: String,
        /// Records at most
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Withdrawn records too
        #[arg(long)]
        withdrawn: bool,
    },
    /// Read every revision of a record, newest first
    #[command(after_help = "Example:\n  hefu history agencies/qidong-emergency/risks/R-2024-0001")]
    History {
        /// Its name
        name: String,
    },
    /// Follow changes as they come; resumes by itself after a cut
    #[command(after_help = "Example:\n  hefu watch incidents --from-start -o json")]
    Watch {
        /// The register
        register: String,
        /// One agency's records; - for all that you may read
        #[arg(long, default_value = "-")]
        agency: String,
        /// An AIP-160 filter
        #[arg(long, default_value = "")]
        filter: String,
        /// Resume behind this position, as printed before
        #[arg(long, default_value = "")]
        from: String,
        /// Begin with the oldest change
        #[arg(long, conflicts_with = "from")]
        from_start: bool,
        /// End after so many changes
        #[arg(long)]
        count: Option<usize>,
    },
    /// Withdraw a record
    #[command(
        after_help = "Example:\n  hefu withdraw agencies/qidong-emergency/risks/R-2024-0001 \
        --reason 'plant closed' --cascade"
    )]
    Withdraw {
        /// Its name
        name: String,
        /// Why
        #[arg(long)]
        reason: String,
        /// Withdraw the live records that depend on it too
        #[arg(long)]
        cascade: bool,
        /// Only if this is still the record's etag
        #[arg(long, default_value = "")]
        etag: String,
    },
    /// Show who holds a record since when, and check the proofs
    #[command(
        after_help = "Example:\n  hefu custody agencies/qidong-emergency/risks/R-2024-0001\n  hefu \
        custody agencies/qidong-emergency/risks/R-2024-0001 --out R-2024-0001.custody.json\n\nHere the \
        keys are those that the node names; `hefu verify --custody FILE --vkey ...` trusts only yours"
    )]
    Custody {
        /// Its name
        name: String,
        /// The revision; 0 for the standing one
        #[arg(long, default_value_t = 0)]
        revision: i64,
        /// Write a file that proves it offline
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Show a log's newest signed checkpoint
    #[command(after_help = "Example:\n  hefu checkpoint\n  hefu checkpoint \
        nantong.gov.cn/qidong/5f0c9a1e")]
    Checkpoint {
        /// The origin; empty for the node's own log
        #[arg(default_value = "")]
        origin: String,
    },
    /// Show how a node stands
    #[command(
        after_help = "Example:\n  hefu status --server https://city:7443\n\nExit codes: 0 \
        serving, 2 read-only, 1 failed, 4 not reached"
    )]
    Status,
    /// Show how much you may use, and where you stand
    #[command(after_help = "Example:\n  hefu quota\n  hefu quota -o json")]
    Quota,
}
