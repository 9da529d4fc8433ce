//! `hefu sync`: bring the parent up to date, and say what moved.

use std::{io::IsTerminal as _, num::NonZeroU64, time::Duration};

use clap::Args;
use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
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
        SyncOutcome, SyncParentRequest, SyncParentResponse, node_service_client::NodeServiceClient,
    },
    replication::Synced,
    services::node::synced,
    storage::StorageError,
    types::{Clock as _, SystemClock},
};

/// Bring the parent up to date. Where the node is running it is asked to; where it is not, this
/// process opens the data folder itself. Safe at any time; where another sync is under way this one says so
/// and leaves. One that is cut off has lost nothing: the next goes on where the parent stands.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  hefu sync --once --config /etc/hefu/hefu.toml --timeout 600\n  hefu sync --once \
    --config /etc/hefu/hefu.toml --bandwidth-kib-s 64 --json\n\n\
    Exit codes, those of SyncOutcome in proto/hefu/node/v1/node.proto: 0 the parent has cosigned \
    everything, 4 the parent was not reached, 5 it refused a log or the node, 6 not finished in time, 8 \
    another sync is under way, 10 the parent has quarantined a log; 1 anything else"
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
    /// KiB sent up in a second at most; 0 for what the configuration says
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_048_576))]
    bandwidth_kib_s: u32,
}

impl Sync {
    pub(super) async fn run(self, connection: &Connection) -> Result<Exit, CliError> {
        let config = self.config.load()?;
        if config.parent.is_none() {
            return Err(CliError::Other(
                "the configuration names no parent".to_owned(),
            ));
        }
        let bar = Bar::new(connection.output);
        let answer = match self.ask(&config, &bar).await {
            Err(CliError::Client(ClientError::Dial(DialError::Connect { .. }))) => {
                self.alone(&config, &bar).await
            }
            asked => asked,
        };
        bar.0.finish_and_clear();
        let answer = answer?;
        print(&answer, connection.output);
        Ok(exit(answer.outcome()))
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    /// Asks the running node.
    async fn ask(&self, config: &Config, bar: &Bar) -> Result<SyncParentResponse, CliError> {
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
            timeout: self.limit().try_into().ok(),
            bandwidth_kib_s: self.bandwidth_kib_s,
        };
        let answers = NodeServiceClient::new(channel).sync_parent(request).await;
        let mut answers = answers.map_err(ClientError::from)?.into_inner();
        let mut last = SyncParentResponse::default();
        while let Some(answer) = answers.next().await {
            last = answer.map_err(ClientError::from)?;
            bar.show(&last);
        }
        Ok(last)
    }

    /// Opens the data folder and carries it up, as no node is running.
    async fn alone(&self, config: &Config, bar: &Bar) -> Result<SyncParentResponse, CliError> {
        let (ledger, uplink) = match open_offline(config, false).await {
            // A node that just starts, or another sync.
            Err(NodeError::Storage(StorageError::InUse(_))) => {
                let parent = config.parent.as_ref().map(|parent| parent.node_id());
                let parent = parent.transpose().map_err(NodeError::from)?;
                let parent = parent.ok_or_else(|| CliError::Other("no parent".to_owned()))?;
                return Ok(synced(&parent, &Synced::busy(SystemClock.now())));
            }
            opened => opened?,
        };
        let uplink = uplink.ok_or_else(|| CliError::Other("no parent".to_owned()))?;
        let stop = CancellationToken::new();
        let running = uplink.run(stop.clone());
        let rate = NonZeroU64::new(u64::from(self.bandwidth_kib_s) * 1024);
        let syncing = async {
            let shown = |step: &Synced| bar.show(&synced(uplink.parent(), step));
            let end = uplink.sync_capped(self.limit(), rate, shown).await;
            stop.cancel();
            end
        };
        let ((), end) = tokio::join!(running, syncing);
        ledger.stop().await;
        Ok(synced(uplink.parent(), &end))
    }
}

/// Progress for people, on standard error.
struct Bar(ProgressBar);

impl Bar {
    fn new(output: Output) -> Self {
        if output == Output::Json || !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{bar:40} {pos} of {len} entries, {eta} {msg}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        Self(bar)
    }

    fn show(&self, answer: &SyncParentResponse) {
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        let logs = answer.logs.iter();
        let (moved, all) = logs.fold((0, 0), |(moved, all), log| {
            let before = log.cosigned_before;
            (
                moved + count(log.cosigned_after - before),
                all + count(log.size - before),
            )
        });
        self.0.set_length(all);
        self.0.set_position(moved);
        self.0.set_message(answer.parent.clone());
    }
}

fn print(answer: &SyncParentResponse, output: Output) {
    if output == Output::Json {
        let shown = dynamic("hefu.node.v1.SyncParentResponse", answer);
        let Some(mut shown) = shown.map(|shown| json(&shown)) else {
            return;
        };
        // What is zero or false is left out of JSON; a summary says how it ended in any case.
        if let Some(summary) = shown.as_object_mut() {
            let code = exit(answer.outcome()) as u8;
            let moved = answer.logs.iter();
            let moved: i64 = moved.map(|l| l.cosigned_after - l.cosigned_before).sum();
            summary.insert("complete".to_owned(), answer.complete.into());
            summary.insert("exit_code".to_owned(), code.into());
            summary.insert("moved".to_owned(), moved.into());
        }
        println!("{shown}");
        return;
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

/// The exit code that stands beside each outcome in the proto.
fn exit(outcome: SyncOutcome) -> Exit {
    match outcome {
        SyncOutcome::Complete => Exit::Done,
        SyncOutcome::NotReached => Exit::NotReached,
        SyncOutcome::Refused => Exit::Refused,
        SyncOutcome::OutOfTime => Exit::Behind,
        SyncOutcome::Busy => Exit::Busy,
        SyncOutcome::Quarantined => Exit::Quarantined,
        SyncOutcome::Unspecified => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proto_names_the_exit_code_of_every_outcome_and_alert() {
        let proto = include_str!("../../proto/hefu/node/v1/node.proto");
        let codes = |values: &str| -> Vec<(String, u8)> {
            let (_, rest) = proto.split_once(&format!("enum {values} {{")).unwrap();
            let (body, _) = rest.split_once("\n}").unwrap();
            let mut code = None;
            let mut found = Vec::new();
            for line in body.lines().map(str::trim) {
                if let Some(comment) = line.strip_prefix("//") {
                    let at = comment.to_lowercase();
                    let said = ["exit code ", "exits with "].iter().find_map(|words| {
                        let (_, number) = at.split_once(words)?;
                        number.trim_end_matches('.').parse::<u8>().ok()
                    });
                    code = said.or(code);
                } else if let Some((name, _)) = line.split_once(" = ") {
                    found.extend(code.take().map(|code| (name.to_owned(), code)));
                }
            }
            found
        };
        let outcomes = codes("SyncOutcome");
        assert_eq!(outcomes.len(), 6);
        for (name, code) in outcomes {
            let outcome = SyncOutcome::from_str_name(&name).unwrap();
            assert_eq!(exit(outcome) as u8, code, "{name}");
        }
        let alerts = codes("AlertKind");
        assert_eq!(alerts.len(), 5);
        for (name, code) in alerts {
            let kind = crate::proto::node::v1::AlertKind::from_str_name(&name).unwrap();
            assert_eq!(crate::cli::client::status::exit(kind) as u8, code, "{name}");
        }
    }
}
