//! `hefu pki`: certificates for pilots and tests.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{CliError, Exit, client::table::table};
use crate::{
    gateway::pki::{Authority, DEFAULT_DAYS},
    types::Identity,
};

/// A small certificate authority for pilots and tests: SPIFFE IDs, short lives, keys that only their
/// owner can read.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  hefu pki init --dir pki\n  hefu pki issue --dir pki node/qidong \
    --host qidong.example\n  hefu pki issue --dir pki agency/qidong-emergency\n  hefu pki revoke --dir pki \
    agency/qidong-emergency --reason 'key lost'\n  hefu pki list --dir pki"
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
    /// Issue a certificate: node/ID, agency/ID, admin/ID or auditor/ID
    #[command(
        after_help = "Example:\n  hefu pki issue --dir pki node/qidong --host qidong.example"
    )]
    Issue {
        /// Whose: node/ID, agency/ID, admin/ID or auditor/ID
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
    /// Revoke a certificate, and write the revocation list anew
    #[command(
        after_help = "Examples:\n  hefu pki revoke --dir pki agency/qidong-emergency --reason 'key lost'\n  \
        hefu pki revoke --dir pki 5f0c9a1e00112233445566778899aabb --reason 'issued by mistake'\n\n\
        Then copy crl.pem to every node's tls.crls, and restart it."
    )]
    Revoke {
        /// An identity, for all its certificates that are still good; or one serial number
        which: String,
        /// The folder
        #[arg(long)]
        dir: PathBuf,
        /// Why
        #[arg(long)]
        reason: String,
    },
    /// List what was issued, and how it stands
    #[command(after_help = "Example:\n  hefu pki list --dir pki")]
    List {
        /// The folder
        #[arg(long)]
        dir: PathBuf,
    },
    /// Write the revocation list anew, with a later date
    #[command(after_help = "Example:\n  hefu pki crl --dir pki")]
    Crl {
        /// The folder
        #[arg(long)]
        dir: PathBuf,
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
            PkiCommand::Revoke { which, dir, reason } => {
                let authority = Authority::open(&dir).map_err(failed)?;
                for entry in authority.revoke(&which, &reason).map_err(failed)? {
                    println!("revoked {} {}", entry.serial, entry.identity);
                }
                println!("{}", dir.join("crl.pem").display());
            }
            PkiCommand::List { dir } => {
                let authority = Authority::open(&dir).map_err(failed)?;
                let now = crate::types::Clock::now(&crate::types::SystemClock);
                let mut rows = table(["identity", "serial", "ends", "state", "reason"]);
                for entry in authority.issued().map_err(failed)? {
                    let state = entry.state(now).to_owned();
                    let (ends, reason) = (entry.ends.to_string(), entry.reason);
                    let ends = ends.chars().take(10).collect();
                    let reason = reason.unwrap_or_default();
                    rows.add_row([entry.identity, entry.serial, ends, state, reason]);
                }
                println!("{rows}");
            }
            PkiCommand::Crl { dir } => {
                let authority = Authority::open(&dir).map_err(failed)?;
                authority.renew_list().map_err(failed)?;
                println!("{}", dir.join("crl.pem").display());
            }
        }
        Ok(Exit::Done)
    }
}
