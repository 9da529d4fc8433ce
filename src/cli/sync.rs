//! `hefu sync`: bring the parent up to date, and say what moved.

use std::time::Duration;

use clap::Args;
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::{
    CliError, Exit,
    client::{
        ClientError,
        args::{Connection, Output},
        dynamic::{dynamic, json},
        table::table,
    },
    serve::ConfigArgs,
};
use crate::{
    config::Config,
    gateway::{
        client::{DialError, Dialer},
        keys::Keys,
        tls::Credentials,
    },
    node::{NodeError, open_offline},
    proto::node::v1::{
        SyncParentRequest, SyncParentResponse, node_service_client::NodeServiceClient,
    },
    services::node::synced,
};

/// Bring the parent up to date. Where the node is running it is asked to; where it is not, this
/// process opens the data folder itself. Safe at any time, and twice at once.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  hefu sync --once --config /etc/hefu/hefu.toml --timeout 600\n\n\
    Exit codes: 0 the parent has cosigned everything, 4 the parent was not reached, 5 the parent \
    refused a log, 6 not finished in time, 1 anything else"
)]
pub struct Sync {
    #[command(flatten)]
    config: ConfigArgs,
    /// One run, then exit
    #[arg(long, required = true)]
    once: bool,
    /// Seconds to go on at most
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    timeout: u64,
}

impl Sync {
    pub(super) async fn run(self, connection: &Connection) -> Result<Exit, CliError> {
        let config = self.config.load()?;
        if config.parent.is_none() {
            return Err(CliError::Other(
                "the configuration names no parent".to_owned(),
            ));
        }
        let limit = Duration::from_secs(self.timeout);
        let answer = match ask(&config, limit).await {
            Ok(answer) => answer,
            Err(CliError::Client(ClientError::Dial(DialError::Connect { .. }))) => {
                alone(&config, limit).await?
            }
            Err(error) => return Err(error),
        };
        print(&answer, connection.output);
        Ok(exit(&answer))
    }
}

/// Asks the running node.
async fn ask(config: &Config, limit: Duration) -> Result<SyncParentResponse, CliError> {
    let credentials = Credentials::of(&config.tls).map_err(NodeError::from)?;
    let dialer = Dialer::new(Keys::new(credentials).map_err(NodeError::from)?);
    let listen = config.node.listen;
    let host = if listen.ip().is_unspecified() {
        "localhost".to_owned()
    } else {
        listen.ip().to_string()
    };
    let server = format!("https://{host}:{}", listen.port());
    let (domain, node) = (config.trust_domain(), config.node_id());
    let expected = (
        domain.map_err(NodeError::from)?,
        node.map_err(NodeError::from)?,
    );
    let channel = dialer
        .connect(&server, Some(expected))
        .await
        .map_err(ClientError::from)?;
    let request = SyncParentRequest {
        timeout: limit.try_into().ok(),
    };
    let answers = NodeServiceClient::new(channel).sync_parent(request).await;
    let mut answers = answers.map_err(ClientError::from)?.into_inner();
    let mut last = SyncParentResponse::default();
    while let Some(answer) = answers.next().await {
        last = answer.map_err(ClientError::from)?;
    }
    Ok(last)
}

/// Opens the data folder and carries it up, as no node is running.
async fn alone(config: &Config, limit: Duration) -> Result<SyncParentResponse, CliError> {
    let (ledger, uplink) = open_offline(config).await?;
    let uplink = uplink.ok_or_else(|| CliError::Other("no parent".to_owned()))?;
    let stop = CancellationToken::new();
    let running = uplink.run(stop.clone());
    let syncing = async {
        let end = uplink.sync(limit, |_| ()).await;
        stop.cancel();
        end
    };
    let ((), end) = tokio::join!(running, syncing);
    ledger.stop().await;
    Ok(synced(uplink.parent(), &end))
}

fn print(answer: &SyncParentResponse, output: Output) {
    if output == Output::Json {
        let shown = dynamic("hefu.node.v1.SyncParentResponse", answer);
        return shown.iter().for_each(|shown| println!("{}", json(shown)));
    }
    let mut table = table(["log", "entries", "cosigned before", "cosigned now", "moved"]);
    for log in &answer.logs {
        table.add_row([
            log.origin.clone(),
            log.size.to_string(),
            log.cosigned_before.to_string(),
            log.cosigned_after.to_string(),
            (log.cosigned_after - log.cosigned_before).to_string(),
        ]);
    }
    println!("{table}");
    if answer.complete {
        println!("{} has cosigned everything", answer.parent);
    } else {
        println!("not complete: {}", answer.reason);
    }
}

fn exit(answer: &SyncParentResponse) -> Exit {
    match &answer.reason {
        _ if answer.complete => Exit::Done,
        reason if reason.contains("cannot reach") => Exit::NotReached,
        reason if reason.contains("in time") => Exit::Behind,
        _ => Exit::Refused,
    }
}
