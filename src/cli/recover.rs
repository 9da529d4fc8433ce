//! `hefu recover`: a node whose disk is gone, built anew from what its parent holds.

use std::{path::PathBuf, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use clap::Args;

use super::{
    CliError, Exit,
    client::{
        args::{Connection, Output},
        table::table,
    },
    serve::ConfigArgs,
};
use crate::{
    node::{Recovered, RecoveredLog, Recovery, recover},
    types::LedgerTime,
};

/// Build the data folder of a node whose disk is gone from what its parent holds: the node's own log, which it
/// goes on writing, and the logs of nodes below it. Every batch is checked against the checkpoint that the
/// log's own key signed. The node must be stopped. Cut at any moment, it goes on when it is run again.
///
/// What the node acknowledged and the parent had not received yet is lost with the disk; the summary
/// says from when on.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  hefu recover --config /etc/hefu/hefu.toml --log-key /media/backup/log.key\n\n\
    Exit codes: 0 everything that the parent holds is here, 4 the parent was not reached, 5 something \
    was refused, 6 not finished in time (run it again), 1 anything else"
)]
pub struct Recover {
    #[command(flatten)]
    config: ConfigArgs,
    /// The backup of the node's log.key; not needed where the data folder still has it
    #[arg(long)]
    log_key: Option<PathBuf>,
    /// The signing key is lost too: go on with a new one. The operators above must authorise it: the parent's refusal
    /// says how; then run this again
    #[arg(long, conflicts_with = "log_key")]
    new_key: bool,
    /// The node's own log alone: the nodes below bring theirs again
    #[arg(long)]
    own: bool,
    /// Seconds to go on at most
    #[arg(long, default_value_t = 3_600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

impl Recover {
    pub(super) async fn run(self, connection: &Connection) -> Result<Exit, CliError> {
        let config = self.config.load()?;
        let recovery = Recovery {
            key: self.log_key,
            new_key: self.new_key,
            own_only: self.own,
            limit: Duration::from_secs(self.timeout),
        };
        let recovered = recover(&config, recovery, |_| ()).await?;
        match connection.output {
            Output::Json => println!("{}", as_json(&recovered)),
            _ => print(&recovered),
        }
        Ok(match (recovered.complete, recovered.stopped) {
            (true, _) => Exit::Done,
            (false, true) => Exit::Refused,
            (false, false) => Exit::Behind,
        })
    }
}

fn time(time: Option<LedgerTime>) -> String {
    time.map(|time| time.to_string()).unwrap_or_default()
}

fn print(recovered: &Recovered) {
    let mut table = table([
        "log",
        "entries before",
        "now",
        "cosigned",
        "cosigned at",
        "root",
    ]);
    for log in &recovered.logs {
        table.add_row([
            log.origin.clone(),
            log.before.to_string(),
            log.size.to_string(),
            log.held.to_string(),
            time(log.time),
            BASE64.encode(log.root),
        ]);
    }
    println!("{table}");
    for (origin, why) in &recovered.refused {
        println!("{} does not give {origin} back: {why}", recovered.parent);
    }
    if !recovered.complete {
        println!("not complete: {}", recovered.reason);
        return;
    }
    let parent = &recovered.parent;
    println!("everything that {parent} holds is here, and is what its origins have signed");
    if let Some(own) = recovered.logs.first() {
        println!("{}", lost(own, parent));
    }
}

/// What cannot be known to have come back.
fn lost(own: &RecoveredLog, parent: &str) -> String {
    let (held, at) = (own.held, time(own.time));
    if own.held == 0 {
        return format!("{parent} held no entry: whatever this node had acknowledged is lost");
    }
    format!(
        "{parent} cosigned {held} entries, last at {at}: what this node acknowledged after that, with an \
         index of {held} or more in its receipt, may be lost; ask its agencies to submit again what they \
         have submitted since then"
    )
}

fn as_json(recovered: &Recovered) -> String {
    let log = |log: &RecoveredLog| {
        serde_json::json!({
            "origin": log.origin,
            "entriesBefore": log.before,
            "entries": log.size,
            "root": BASE64.encode(log.root),
            "cosigned": log.held,
            "cosignedTime": log.time.map(|time| time.to_string()),
            "proven": log.proven,
        })
    };
    let own = recovered.logs.first();
    let report = serde_json::json!({
        "parent": recovered.parent,
        "complete": recovered.complete,
        "reason": recovered.reason,
        "logs": recovered.logs.iter().map(log).collect::<Vec<_>>(),
        "refused": recovered.refused,
        "mayBeLostFromIndex": own.map(|own| own.held),
        "mayBeLostSince": own.and_then(|own| own.time).map(|time| time.to_string()),
    });
    report.to_string()
}
