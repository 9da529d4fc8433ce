//! `hefu pki`: certificates for pilots and tests.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{CliError, Exit};
use crate::{
    gateway::pki::{Authority, DEFAULT_DAYS},
    types::Identity,
};

/// A small certificate authority for pilots and tests: SPIFFE IDs, short lives, keys that only their
/// owner can read.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  hefu pki init --dir pki\n  hefu pki issue --dir pki node/qidong \
    --host qidong.example\n  hefu pki issue --dir pki agency/qidong-emergency"
)]
pub struct Pki {
    #[command(subcommand)]
    command: PkiCommand,
}

#[derive(Debug, Subcommand)]
enum PkiCommand {
    /// Make an authority in a folder that has none
    #[command(after_help = "Example:\n  hefu pki init --dir pki")]
    Init {
        /// The folder
        #[arg(long)]
        dir: PathBuf,
        /// A name for people
        #[arg(long, default_value = "hefu pilot authority")]
        name: String,
    },
    /// Issue a certificate: node/ID, agency/ID or admin/ID
    #[command(
        after_help = "Example:\n  hefu pki issue --dir pki node/qidong --host qidong.example"
    )]
    Issue {
        /// Whose: node/ID, agency/ID or admin/ID
        identity: String,
        /// The folder
        #[arg(long)]
        dir: PathBuf,
        /// The trust domain
        #[arg(long, default_value = "nantong.gov.cn")]
        trust_domain: String,
        /// For nodes: names and addresses under which it is dialled, beside localhost
        #[arg(long)]
        host: Vec<String>,
        /// Days that it lives
        #[arg(long, default_value_t = DEFAULT_DAYS, value_parser = clap::value_parser!(u32).range(1..=825))]
        days: u32,
    },
}

impl Pki {
    pub(super) fn run(self) -> Result<Exit, CliError> {
        let failed = |e: crate::gateway::pki::PkiError| CliError::Other(e.to_string());
        match self.command {
            PkiCommand::Init { dir, name } => {
                if dir.join("ca.key").exists() {
                    let text = format!("{} has an authority already", dir.display());
                    return Err(CliError::Other(text));
                }
                Authority::create(&dir, &name).map_err(failed)?;
                println!("{}", dir.join("ca.pem").display());
            }
            PkiCommand::Issue {
                identity,
                dir,
                trust_domain,
                host,
                days,
            } => {
                let uri = format!("spiffe://{trust_domain}/{identity}");
                let identity: Identity = uri
                    .parse()
                    .map_err(|e| CliError::Other(format!("{uri}: {e}")))?;
                let mut hosts = host;
                if identity.node().is_some() {
                    hosts.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
                }
                let authority = Authority::open(&dir).map_err(failed)?;
                let issued = authority.issue(&identity, &hosts, days).map_err(failed)?;
                println!("{}\n{}", issued.certificate.display(), issued.key.display());
            }
        }
        Ok(Exit::Done)
    }
}
