//! The `hefu` command: one file for each server command, one folder for the client.

mod audit;
pub mod bench;
pub mod client;
mod courier;
pub mod demo;
mod evidence;
mod incarnation;
mod pki;
mod policy;
mod recover;
mod serve;
mod sync;
pub mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::client::{ClientError, args, commands};
use crate::{gateway::client::DialError, node::NodeError, replication::LinkError};

/// How a command ended; the number is the process's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done = 0,
    /// 1: failed.
    Failed = 1,
    /// 2: wrong usage; for `status`: the node is read-only.
    ReadOnly = 2,
    /// 3: some rows were refused.
    RowsRefused = 3,
    /// 4: the node, or its parent, was not reached.
    NotReached = 4,
    /// 5: the node refused; for `sync`: the parent refused a log.
    Refused = 5,
    /// 6: `sync`: not everything was cosigned in time; `reporting`: somebody did not report.
    Behind = 6,
    /// 7: `verify`, `custody`: something does not verify.
    NotProven = 7,
    /// 8: `sync`: another one is under way.
    Busy = 8,
    /// 9: `status --check`: a child is missing or silent, or the parent is not reached.
    Missing = 9,
    /// 10: a log is quarantined; for `status --check`: or refused.
    Quarantined = 10,
}

/// hefu (合符): a data-exchange gateway between government agencies.
#[derive(Debug, Parser)]
#[command(
    name = "hefu",
    version,
    after_help = "Example:\n  hefu demo\n\nExit codes: 0 done, 1 failed, 2 wrong usage, 3 rows \
        refused, 4 not reached, 5 refused, 6 sync not finished in time, 7 something does not verify, 8 \
        another sync is under way, 9 a child is missing, 10 a log is quarantined"
)]
pub struct Cli {
    #[command(flatten)]
    connection: args::Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node
    Serve(serve::Serve),
    /// See it work: a city and eight counties on this machine
    Demo(demo::Demo),
    /// Bring the parent up to date, for a nightly job
    Sync(sync::Sync),
    /// Check a data folder, or a live node, entry by entry
    Verify(verify::Verify),
    /// Derive the state of a data folder again from its journal
    Rebuild(serve::Rebuild),
    /// Build a node whose disk is gone from what its parent holds
    Recover(recover::Recover),
    /// A small certificate authority for pilots and tests
    Pki(pki::Pki),
    /// Replication by files that somebody carries, for networks that must not touch
    Courier(courier::Courier),
    /// Who did what: the audit trail of a node
    Audit(audit::Audit),
    /// Measure a node beside a bare server
    Bench(bench::Bench),
    /// Begin a new log, once the parent has closed the former one
    NewIncarnation(incarnation::NewIncarnation),
    /// Evidence against a log, and the way out of its quarantine
    Evidence(evidence::EvidenceArgs),
    /// Ask an access policy, or test it
    Policy(policy::Policy),
    /// Show how a node stands
    #[command(
        after_help = "Example:\n  hefu status --server https://city:7443\n  hefu status --watch\n  hefu \
        status --check\n\nExit codes: 0 serving, 2 read-only, 1 failed, 4 not reached; with --check also 9 a \
        child is missing or silent, or the parent is not reached, 10 a log is refused or quarantined"
    )]
    Status(client::status::Status),
    #[command(flatten)]
    Client(args::Command),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error("{0}")]
    Other(String),
}

impl CliError {
    fn exit(&self) -> Exit {
        match self {
            Self::Client(ClientError::Dial(DialError::Connect { .. })) => Exit::NotReached,
            Self::Client(ClientError::Refused(status))
                if status.code() == tonic::Code::Unavailable =>
            {
                Exit::NotReached
            }
            Self::Client(ClientError::Refused(_)) => Exit::Refused,
            Self::Client(ClientError::NotProven(_)) => Exit::NotProven,
            Self::Client(ClientError::Usage(_)) => Exit::ReadOnly,
            Self::Node(NodeError::Parent(LinkError::Refused(_) | LinkError::Protocol(_))) => {
                Exit::Refused
            }
            Self::Node(NodeError::Parent(_)) => Exit::NotReached,
            Self::Client(ClientError::Dial(_)) | Self::Node(_) | Self::Other(_) => Exit::Failed,
        }
    }
}

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let exit = match runtime {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(error) => {
            eprintln!("hefu: {error}");
            Exit::Failed
        }
    };
    ExitCode::from(exit as u8)
}

async fn run(cli: Cli) -> Exit {
    let connection = cli.connection.settled();
    let ran: Result<Exit, CliError> = match cli.command {
        Command::Serve(serve) => serve.run().await,
        Command::Demo(demo) => demo.run().await,
        Command::Sync(sync) => sync.run(&connection).await,
        Command::Verify(verify) => verify.run(&connection).await,
        Command::Rebuild(rebuild) => rebuild.run().await,
        Command::Recover(recover) => recover.run(&connection).await,
        Command::Courier(courier) => courier.run(&connection).await,
        Command::Audit(audit) => audit.run(&connection).await,
        Command::Bench(bench) => bench.run(&connection).await,
        Command::NewIncarnation(new) => new.run().await,
        Command::Evidence(evidence) => evidence.run(&connection).await,
        Command::Policy(policy) => policy.run(),
        Command::Pki(pki) => pki.run(),
        Command::Status(status) => status.run(&connection).await.map_err(CliError::from),
        Command::Client(command) => commands::run(command, &connection)
            .await
            .map_err(CliError::from),
    };
    ran.unwrap_or_else(|error| {
        eprintln!("hefu: {error}");
        error.exit()
    })
}

/// Logs to standard error.
fn log_to_stderr(level: &str, json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_new(level).unwrap_or_default();
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second call, as in tests that run commands in one process, changes nothing.
    let _ = if json {
        logs.json().try_init()
    } else {
        logs.try_init()
    };
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_command_has_an_example_in_its_help() {
        fn walk(command: &clap::Command) {
            let subcommands: Vec<_> = command.get_subcommands().collect();
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                help.contains("Example"),
                "{} has no example",
                command.get_name()
            );
            subcommands.into_iter().for_each(walk);
        }
        let command = Cli::command();
        command.clone().debug_assert();
        walk(&command);
    }
}
