//! `hefu status`: how a node stands, once, again and again, or as an exit code for a monitor.

use std::{io::IsTerminal as _, time::Duration};

use clap::Args;
use jiff::Timestamp;

use super::{
    Client, ClientError,
    args::{Connection, Output},
    board,
    dynamic::{dynamic, json},
};
use crate::{
    cli::Exit,
    proto::node::v1::{
        AlertKind, GetStatusRequest, GetStatusResponse, Health,
        node_service_client::NodeServiceClient,
    },
    types::beijing_time,
};

/// What `hefu status` takes.
#[derive(Debug, Args)]
pub struct Status {
    /// Look again every so many seconds, in place, until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..=3_600))]
    watch: Option<u64>,
    /// With --watch: end after so many looks
    #[arg(long, requires = "watch")]
    times: Option<u64>,
    /// For monitors: print what needs attention, and say it with the exit code
    #[arg(long, conflicts_with = "watch")]
    check: bool,
}

impl Status {
    /// Shows how the node stands.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn run(self, connection: &Connection) -> Result<Exit, ClientError> {
        match self.watch {
            Some(seconds) => self.watch(connection, Duration::from_secs(seconds)).await,
            None => {
                let status = ask(&connection.dial().await?).await?;
                show(&status, connection.output, self.check);
                Ok(if self.check {
                    judge(&status)
                } else {
                    health(&status)
                })
            }
        }
    }

    /// A node that is not reached is part of what is shown.
    async fn watch(&self, connection: &Connection, every: Duration) -> Result<Exit, ClientError> {
        let mut client = None;
        let mut last = Exit::NotReached;
        for look in 1.. {
            if client.is_none() {
                client = connection.dial().await.ok();
            }
            let status = match &client {
                Some(client) => tokio::time::timeout(every.max(PATIENCE), ask(client))
                    .await
                    .ok(),
                None => None,
            };
            if std::io::stdout().is_terminal() {
                // Home, and clear what is below.
                print!("\u{1b}[H\u{1b}[J");
            }
            match status {
                Some(Ok(status)) => {
                    show(&status, connection.output, false);
                    last = health(&status);
                }
                Some(Err(error @ (ClientError::Usage(_) | ClientError::NotProven(_)))) => {
                    return Err(error);
                }
                Some(Err(error)) => {
                    println!("{}: {error}", connection.server);
                    (client, last) = (None, Exit::NotReached);
                }
                None => {
                    println!("{} does not answer", connection.server);
                    (client, last) = (None, Exit::NotReached);
                }
            }
            if self.times == Some(look) {
                break;
            }
            tokio::time::sleep(every).await;
        }
        Ok(last)
    }
}

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(5);

async fn ask(client: &Client) -> Result<GetStatusResponse, ClientError> {
    let mut client = NodeServiceClient::new(client.0.clone());
    Ok(client.get_status(GetStatusRequest {}).await?.into_inner())
}

fn show(status: &GetStatusResponse, output: Output, check: bool) {
    match output {
        Output::Json => {
            let shown = dynamic("hefu.node.v1.GetStatusResponse", status);
            shown.iter().for_each(|shown| println!("{}", json(shown)));
        }
        Output::Table if check => board::alerts(status),
        Output::Table => {
            println!("{}", beijing_time(Timestamp::now()));
            board::print(status);
        }
    }
}

fn health(status: &GetStatusResponse) -> Exit {
    match status.health() {
        Health::Serving => Exit::Done,
        Health::ReadOnly => Exit::ReadOnly,
        Health::Failed | Health::Unspecified => Exit::Failed,
    }
}

/// The node's own health first, then the worst of what needs attention.
fn judge(status: &GetStatusResponse) -> Exit {
    let codes = status.alerts.iter().map(|alert| exit(alert.kind()));
    let worst = codes.max_by_key(|exit| *exit as u8).unwrap_or(Exit::Done);
    match health(status) {
        Exit::Done => worst,
        unwell => unwell,
    }
}

/// The exit code that stands beside each kind in the proto.
#[must_use]
pub fn exit(kind: AlertKind) -> Exit {
    match kind {
        AlertKind::ChildMissing | AlertKind::LogSilent | AlertKind::ParentUnreachable => {
            Exit::Missing
        }
        AlertKind::LogRefused | AlertKind::LogQuarantined => Exit::Quarantined,
        AlertKind::Unspecified => Exit::Failed,
    }
}
