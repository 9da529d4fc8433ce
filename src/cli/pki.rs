//! `hefu pki`: certificates for pilots and tests.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{CliError, Exit, client::table::table};
use crate::{
    gateway::pki::{Authority, DEFAULT_DAYS, Entry, PkiError, Renewal, Shown},
    types::{Clock as _, Identity, Role, SystemClock},
};

/// A small certificate authority for pilots and tests: SPIFFE IDs, short lives, keys that only their
/// owner can read.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  hefu pki init --dir pki\n  hefu pki issue --dir pki node/qidong \
    --host qidong.example\n  hefu pki issue --dir pki agency/qidong-emergency\n  hefu pki revoke --dir pki \
    agency/qidong-emergency --reason 'key lost'\n  hefu pki renew --dir pki node/qidong\n  hefu pki show --dir \
    pki node/qidong\n  hefu pki list --dir pki"
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
    /// Issue another certificate for who has one, in the place of its files
    #[command(
        after_help = "Examples:\n  hefu pki renew --dir pki node/qidong\n  hefu pki renew --dir pki \
        agency/qidong-emergency --days 30 --same-key\n\nThe old certificate stays good until its end, unless it is \
        revoked. A node reads the new files by itself within seconds, and nobody is cut."
    )]
    Renew {
        /// Whose: node/ID, agency/ID, admin/ID or auditor/ID
        identity: Role,
        /// The folder
        #[arg(long)]
        dir: PathBuf,
        /// Names and addresses in the place of those of before
        #[arg(long)]
        host: Vec<String>,
        /// Days that it lives
        #[arg(long, default_value_t = DEFAULT_DAYS, value_parser = clap::value_parser!(u32).range(1..=825))]
        days: u32,
        /// Keep the key; without it there is a new one
        #[arg(long)]
        same_key: bool,
    },
    /// Show what a certificate says, and whether it can be used; exit code 7 if it cannot
    #[command(
        after_help = "Examples:\n  hefu pki show /etc/hefu/pki/node-qidong.pem\n  hefu pki show --dir pki \
        node/qidong\n  hefu pki show city.pem --key-file city.key --crl authority-crl.pem\n\nThe key and the revocation \
        list are looked for beside the certificate, as <stem>.key and crl.pem, unless they are named."
    )]
    Show {
        /// A certificate's file; with --dir, an identity such as node/qidong
        which: String,
        /// The folder of an authority
        #[arg(long)]
        dir: Option<PathBuf>,
        /// The file of its key
        #[arg(long)]
        key_file: Option<PathBuf>,
        /// A revocation list of its authority
        #[arg(long)]
        crl: Option<PathBuf>,
    },
    /// Revoke a certificate, and write the revocation list anew
    #[command(
        after_help = "Examples:\n  hefu pki revoke --dir pki agency/qidong-emergency --reason 'key lost'\n  \
        hefu pki revoke --dir pki 5f0c9a1e00112233445566778899aabb --reason 'issued by mistake'\n\n\
        Then copy crl.pem to every node's tls.crls: it is in force within 2 seconds, and within 5 the connections of \
        the revoked are closed."
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
        self.command
            .run()
            .map_err(|e| CliError::Other(e.to_string()))
    }
}

impl PkiCommand {
    fn run(self) -> Result<Exit, PkiError> {
        match self {
            Self::Init { dir, name } => {
                Authority::create(&dir, &name)?;
                println!("{}", dir.join("ca.pem").display());
            }
            Self::Issue {
                identity,
                dir,
                trust_domain,
                host,
                days,
            } => issue(&identity, &dir, &trust_domain, host, days)?,
            Self::Renew {
                identity,
                dir,
                host,
                days,
                same_key,
            } => {
                let renewal = Renewal {
                    hosts: reached_here(&identity, host),
                    days,
                    same_key,
                };
                let issued = Authority::open(&dir)?.renew(&identity, &renewal)?;
                println!("{}\n{}", issued.certificate.display(), issued.key.display());
            }
            Self::Show {
                which,
                dir,
                key_file: key,
                crl,
            } => {
                let file = match &dir {
                    Some(dir) => dir.join(format!("{}.pem", which.replace('/', "-"))),
                    None => PathBuf::from(which),
                };
                return Ok(show(&Shown::read(&file, key.as_deref(), crl.as_deref())?));
            }
            Self::Revoke { which, dir, reason } => {
                for entry in Authority::open(&dir)?.revoke(&which, &reason)? {
                    println!("revoked {} {}", entry.serial, entry.identity);
                }
                println!("{}", dir.join("crl.pem").display());
            }
            Self::List { dir } => list(Authority::open(&dir)?.issued()?),
            Self::Crl { dir } => {
                Authority::open(&dir)?.renew_list()?;
                println!("{}", dir.join("crl.pem").display());
            }
        }
        Ok(Exit::Done)
    }
}

fn issue(
    identity: &str,
    dir: &Path,
    trust_domain: &str,
    hosts: Vec<String>,
    days: u32,
) -> Result<(), PkiError> {
    let uri = format!("spiffe://{trust_domain}/{identity}");
    let identity: Identity = uri
        .parse()
        .map_err(|e| PkiError::BadIdentity(uri.clone(), e))?;
    let mut hosts = hosts;
    if identity.node().is_some() {
        hosts.extend(LOCAL.map(str::to_owned));
    }
    let issued = Authority::open(dir)?.issue(&identity, &hosts, days)?;
    println!("{}\n{}", issued.certificate.display(), issued.key.display());
    Ok(())
}

/// Beside the hosts that are named, a node is reached on its own machine, by `hefu sync` and `hefu status`.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Hosts that are to stand in the place of those of before; none, where those stay.
fn reached_here(role: &Role, hosts: Vec<String>) -> Vec<String> {
    let mut hosts = hosts;
    if !hosts.is_empty() && matches!(role, Role::Node(_)) {
        hosts.extend(LOCAL.map(str::to_owned));
    }
    hosts
}

fn list(entries: Vec<Entry>) {
    let now = SystemClock.now();
    let mut rows = table(["identity", "serial", "ends", "state", "renews", "reason"]);
    for entry in entries {
        let (state, ends) = (entry.state(now).to_owned(), entry.ends.to_string());
        let ends = ends.chars().take(10).collect();
        let (renews, reason) = (entry.renews.unwrap_or_default(), entry.reason);
        let reason = reason.unwrap_or_default();
        rows.add_row([entry.identity, entry.serial, ends, state, renews, reason]);
    }
    println!("{rows}");
}

fn show(shown: &Shown) -> Exit {
    let now = SystemClock.now();
    let identity = shown.identity.as_ref().map(ToString::to_string);
    let left = shown.end.duration_since(now).as_secs().max(0) / 86_400;
    let key = shown.key.as_ref().map_or_else(
        || "none beside it".to_owned(),
        |key| {
            let fits = match key.fits {
                Some(true) => "its own",
                Some(false) => "of another certificate",
                None => "not readable here",
            };
            format!("{}, mode {:04o}, {fits}", key.path.display(), key.mode)
        },
    );
    let revoked = match (&shown.revoked, &shown.list) {
        (Some(time), _) => format!("on {time}"),
        (None, Some(list)) => format!("no, by {}", list.display()),
        (None, None) => "not known: no revocation list of its issuer".to_owned(),
    };
    let unusable = shown.unusable(now);
    for (what, value) in [
        ("identity", identity.unwrap_or_else(|| "none".to_owned())),
        ("subject", shown.subject.clone()),
        ("hosts", shown.hosts.join(", ")),
        ("serial", shown.serial.clone()),
        ("fingerprint", shown.fingerprint.clone()),
        ("issuer", shown.issuer.clone()),
        ("from", shown.begin.to_string()),
        ("until", format!("{}, {left} days left", shown.end)),
        ("key", key),
        ("revoked", revoked),
        (
            "usable",
            unusable.map_or_else(|| "yes".to_owned(), |why| format!("no: {why}")),
        ),
    ] {
        println!("{what:<12}{value}");
    }
    unusable.map_or(Exit::Done, |_| Exit::NotProven)
}
