//! `hefu evidence`: what contradicts, as a proof, and the way out of a quarantine.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use super::{
    CliError, Exit,
    client::{
        ClientError,
        args::{Connection, Output},
        dynamic::{dynamic, json},
        table::table,
    },
};
use crate::{
    ledger::{entry::ledger_time, evidence::EvidenceFile},
    proto::ledger::v1::{
        Evidence, GetEvidenceRequest, GetEvidenceResponse, ListEvidenceRequest, Resolution,
        ResolutionAction, ResolveEvidenceRequest, evidence_service_client::EvidenceServiceClient,
    },
    types::beijing_time,
};

/// Evidence that a log contradicts itself, and the way out of its quarantine.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  hefu evidence list\n  hefu evidence export nantong.gov.cn/qidong/5f0c9a1e fork.json\n  \
    hefu verify --evidence fork.json --vkeys trusted-keys.txt\n\ndocs/operations.md says what to do, step by step"
)]
pub struct EvidenceArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List all evidence that the node keeps
    #[command(after_help = "Example:\n  hefu evidence list --server https://city:7443")]
    List,
    /// Show one piece of evidence, and whether it proves a contradiction
    #[command(
        after_help = "Example:\n  hefu evidence show nantong.gov.cn/qidong/5f0c9a1e\n\nHere the key is the one that \
        the node names; `hefu verify --evidence` trusts only yours"
    )]
    Show(Which),
    /// Write a file that proves it offline
    #[command(
        after_help = "Example:\n  hefu evidence export nantong.gov.cn/qidong/5f0c9a1e fork.json"
    )]
    Export {
        #[command(flatten)]
        which: Which,
        /// The file; one that exists is not replaced
        file: PathBuf,
    },
    /// End a log's quarantine
    #[command(
        after_help = "Example:\n  hefu evidence resolve nantong.gov.cn/qidong/5f0c9a1e --accept resume --reason \
        'disk replaced, log recovered from here'\n  hefu evidence resolve nantong.gov.cn/qidong/5f0c9a1e --accept \
        new-incarnation --reason 'restored from a backup and grown since'\n\nThe reason is kept for ever: nothing \
        about persons"
    )]
    Resolve {
        /// The log
        origin: String,
        /// What is to become of it
        #[arg(long)]
        accept: Accept,
        /// Why, for the journal and the audit trail
        #[arg(long)]
        reason: String,
    },
}

#[derive(Debug, Args)]
struct Which {
    /// The log
    origin: String,
    /// Which of its evidence, from 1; 0 for the newest
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    number: i64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Accept {
    /// The log goes on from what is held here; one that still contradicts it is quarantined again.
    Resume,
    /// The log is closed for ever; its node goes on with a new one.
    NewIncarnation,
}

impl From<Accept> for ResolutionAction {
    fn from(accept: Accept) -> Self {
        match accept {
            Accept::Resume => Self::Resume,
            Accept::NewIncarnation => Self::Close,
        }
    }
}

type Service = EvidenceServiceClient<tonic::transport::Channel>;

impl EvidenceArgs {
    pub(super) async fn run(self, connection: &Connection) -> Result<Exit, CliError> {
        let client = connection.dial().await?;
        let mut service = EvidenceServiceClient::new(client.0);
        let output = connection.output;
        let done = match self.command {
            Command::List => list(&mut service, output).await,
            Command::Show(which) => show(&mut service, which, output).await,
            Command::Export { which, file } => export(&mut service, which, &file).await,
            Command::Resolve {
                origin,
                accept,
                reason,
            } => resolve(&mut service, origin, accept, reason, output).await,
        };
        done.map_err(CliError::from)
    }
}

async fn list(service: &mut Service, output: Output) -> Result<Exit, ClientError> {
    let request = ListEvidenceRequest::default();
    let answer = service.list_evidence(request).await?.into_inner();
    if output == Output::Json {
        let shown = dynamic("hefu.ledger.v1.ListEvidenceResponse", &answer);
        shown.iter().for_each(|shown| println!("{}", json(shown)));
        return Ok(Exit::Done);
    }
    let mut rows = table(["log", "no.", "noticed", "reason", "decision"]);
    for evidence in &answer.evidence {
        let of_log = |r: &&Resolution| r.origin == evidence.origin && r.evidence >= evidence.number;
        let decision = answer.resolutions.iter().find(of_log).map(decision);
        rows.add_row([
            evidence.origin.clone(),
            evidence.number.to_string(),
            noticed(evidence),
            evidence.reason.clone(),
            decision.unwrap_or_else(|| "QUARANTINED".to_owned()),
        ]);
    }
    println!("{rows}");
    Ok(Exit::Done)
}

async fn get(service: &mut Service, which: Which) -> Result<GetEvidenceResponse, ClientError> {
    let (origin, number) = (which.origin, which.number);
    let request = GetEvidenceRequest { origin, number };
    Ok(service.get_evidence(request).await?.into_inner())
}

async fn show(service: &mut Service, which: Which, output: Output) -> Result<Exit, ClientError> {
    let answer = get(service, which).await?;
    if output == Output::Json {
        let shown = dynamic("hefu.ledger.v1.GetEvidenceResponse", &answer);
        shown.iter().for_each(|shown| println!("{}", json(shown)));
        return Ok(Exit::Done);
    }
    let file = EvidenceFile::of(&answer).map_err(|e| ClientError::NotProven(e.to_string()))?;
    let evidence = answer.evidence.unwrap_or_default();
    println!(
        "{} evidence {}, noticed {}",
        evidence.origin,
        evidence.number,
        noticed(&evidence)
    );
    println!(
        "{}\n\nheld:\n{}\noffered:\n{}",
        evidence.reason, evidence.held, evidence.offered
    );
    if let Some(resolution) = &answer.resolution {
        println!("decision: {}", decision(resolution));
    }
    match file.verify(&[]) {
        Ok(found) => println!(
            "proven: {} has signed {} and {} entries of two histories",
            found.key, found.held_size, found.offered_size
        ),
        Err(why) => println!("not proven to others: {why}"),
    }
    Ok(Exit::Done)
}

async fn export(service: &mut Service, which: Which, path: &Path) -> Result<Exit, ClientError> {
    let answer = get(service, which).await?;
    let file = EvidenceFile::of(&answer).map_err(|e| ClientError::NotProven(e.to_string()))?;
    let failed = |e: std::io::Error| ClientError::Usage(format!("{}: {e}", path.display()));
    let access = crate::storage::durable::Access::Everyone;
    crate::storage::durable::create(path, file.text().as_bytes(), access).map_err(failed)?;
    match file.verify(&[]) {
        Ok(_) => println!("{} proves a contradiction", path.display()),
        Err(why) => println!(
            "{} is written, but proves nothing to others: {why}",
            path.display()
        ),
    }
    Ok(Exit::Done)
}

async fn resolve(
    service: &mut Service,
    origin: String,
    accept: Accept,
    reason: String,
    output: Output,
) -> Result<Exit, ClientError> {
    let request = ResolveEvidenceRequest {
        origin,
        action: ResolutionAction::from(accept).into(),
        reason,
    };
    let answer = service.resolve_evidence(request).await?.into_inner();
    match output {
        Output::Json => {
            let shown = dynamic("hefu.ledger.v1.ResolveEvidenceResponse", &answer);
            shown.iter().for_each(|shown| println!("{}", json(shown)));
        }
        Output::Table => {
            let resolution = answer.resolution.unwrap_or_default();
            println!("{}: {}", resolution.origin, decision(&resolution));
        }
    }
    Ok(Exit::Done)
}

fn noticed(evidence: &Evidence) -> String {
    let time = ledger_time(evidence.time.as_ref());
    time.map(|time| beijing_time(time.timestamp()))
        .unwrap_or_default()
}

fn decision(resolution: &Resolution) -> String {
    let what = match resolution.action() {
        ResolutionAction::Resume => "resumed",
        ResolutionAction::Close => "closed",
        ResolutionAction::Unspecified => "undecided",
    };
    let time = ledger_time(resolution.time.as_ref());
    let time = time
        .map(|time| beijing_time(time.timestamp()))
        .unwrap_or_default();
    format!(
        "{what} at {} entries by {} {time}: {}",
        resolution.size, resolution.operator, resolution.reason
    )
}
