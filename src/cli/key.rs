//! `hefu key`: the keys that logs are signed with.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    CliError, Exit,
    client::{
        ClientError,
        args::{Connection, Output},
        table::table,
    },
    serve::ConfigArgs,
};
use crate::{
    ledger::note::VerifierKey,
    node::open_offline,
    proto::{
        ledger::v1::{GetKeysRequest, LogKey, ledger_service_client::LedgerServiceClient},
        node::v1::{
            AuthoriseKeyRequest, RetireKeyRequest, RotateKeyRequest,
            node_service_client::NodeServiceClient,
        },
    },
    types::beijing_time,
};

/// The keys that logs are signed with: show them, change this node's, authorise another node's.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  hefu key list\n  hefu key rotate --server https://qidong:7443 --cert admin.pem \
                  --key admin.key"
)]
pub struct Key {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show every key of a log: its id, from which size on it was in force, up to which it is believed
    #[command(
        visible_alias = "show",
        after_help = "Examples:\n  hefu key list\n  hefu key list nantong.gov.cn/qidong/5f0c9a1e --output json"
    )]
    List {
        /// The origin; empty for the node's own log
        #[arg(default_value = "")]
        origin: String,
    },
    /// Sign with a new key from now on. Nothing stops, and what was signed before still verifies
    #[command(
        after_help = "Example:\n  hefu key rotate --server https://qidong:7443 --cert admin.pem --key admin.key\n\n\
                      Then back up log.key of the data folder: copies of the old one sign nothing any more."
    )]
    Rotate,
    /// Sign with a new key, and have no older one believed above a size: one of them was compromised
    #[command(
        after_help = "Example:\n  hefu key retire --from 41200\n\nA parent that holds more than that takes the new \
                      key once its operator authorises it, with the command that this one prints."
    )]
    Retire {
        /// The size of the log up to which older keys are still believed
        #[arg(long = "from", value_name = "SIZE")]
        from_size: i64,
    },
    /// Authorise another node's new key, which its old one cannot vouch for
    #[command(
        after_help = "Example:\n  hefu key authorise nantong.gov.cn/qidong/5f0c9a1e+033de0ae+Ac4z... --from 41200\n\n\
                      Have the node's operator read the key to you first, by telephone or on paper: whoever is \
                      believed here can continue that log."
    )]
    Authorise {
        /// The verifier key, as name+id+key
        verifier_key: VerifierKey,
        /// The size from which on it holds, and above which no older key is believed
        #[arg(long = "from", value_name = "SIZE")]
        from_size: i64,
    },
    /// The seed of this node's key is lost: go on with a new one. The node must be stopped
    #[command(
        after_help = "Example:\n  systemctl stop hefu && hefu key replace --config /etc/hefu/hefu.toml\n\nThe operators \
                      of the nodes above must authorise the new key, with the command that this one prints."
    )]
    Replace(ConfigArgs),
}

impl Key {
    pub(super) async fn run(self, connection: &Connection) -> Result<Exit, CliError> {
        match self.command {
            Command::List { origin } => list(connection, origin).await?,
            Command::Rotate => {
                let mut node = node(connection).await?;
                let rotated = node.rotate_key(RotateKeyRequest {}).await;
                let rotated = rotated.map_err(ClientError::from)?.into_inner();
                changed(
                    connection.output,
                    &rotated.verifier_key,
                    rotated.from_size,
                    false,
                );
            }
            Command::Retire { from_size } => {
                let mut node = node(connection).await?;
                let retired = node.retire_key(RetireKeyRequest { from_size }).await;
                let retired = retired.map_err(ClientError::from)?.into_inner();
                changed(
                    connection.output,
                    &retired.verifier_key,
                    retired.from_size,
                    true,
                );
            }
            Command::Authorise {
                verifier_key,
                from_size,
            } => {
                let verifier_key = verifier_key.to_string();
                let request = AuthoriseKeyRequest {
                    verifier_key,
                    from_size,
                };
                let mut node = node(connection).await?;
                let authorised = node.authorise_key(request).await;
                let origin = authorised.map_err(ClientError::from)?.into_inner().origin;
                println!("authorised: {origin} may go on with this key from size {from_size} on");
            }
            Command::Replace(config) => replace(&config, connection.output).await?,
        }
        Ok(Exit::Done)
    }
}

async fn node(
    connection: &Connection,
) -> Result<NodeServiceClient<tonic::transport::Channel>, ClientError> {
    Ok(NodeServiceClient::new(connection.dial().await?.0))
}

async fn list(connection: &Connection, origin: String) -> Result<(), ClientError> {
    let mut ledger = LedgerServiceClient::new(connection.dial().await?.0);
    let answer = ledger
        .get_keys(GetKeysRequest { origin })
        .await?
        .into_inner();
    if connection.output == Output::Json {
        for key in &answer.keys {
            println!("{}", row(&answer.origin, key));
        }
        return Ok(());
    }
    let mut rows = table([
        "id",
        "in force from",
        "at",
        "believed up to",
        "vouched for by",
    ]);
    for key in &answer.keys {
        let until = match key.until_size {
            Some(size) => size.to_string(),
            None => "in force".to_owned(),
        };
        let by = match (key.change.is_empty(), key.authorised_by.as_str()) {
            (true, _) => "the first",
            (false, "") => "the key before",
            (false, by) => by,
        };
        let at = key.time.and_then(|time| {
            let time = jiff::Timestamp::new(time.seconds, time.nanos).ok()?;
            Some(beijing_time(time))
        });
        rows.add_row([
            key.id.clone(),
            key.from_size.to_string(),
            at.unwrap_or_default(),
            until,
            by.to_owned(),
        ]);
    }
    println!("{}\n{rows}", answer.origin);
    if let Some(key) = answer.keys.last() {
        println!("verifier key: {}", key.verifier_key);
    }
    Ok(())
}

fn row(origin: &str, key: &LogKey) -> serde_json::Value {
    json!({
        "origin": origin,
        "id": key.id,
        "verifier_key": key.verifier_key,
        "from_size": key.from_size,
        "until_size": key.until_size,
        "time_seconds": key.time.map(|time| time.seconds),
        "authorised_by": key.authorised_by,
        "change": key.change,
    })
}

/// What the operator should know of a new key, and do.
fn changed(output: Output, key: &str, size: i64, to_authorise: bool) {
    if output == Output::Json {
        println!("{}", json!({ "verifier_key": key, "from_size": size }));
        return;
    }
    println!("in force from size {size} on: {key}");
    println!("now back up log.key of the data folder; copies of the old one sign nothing any more");
    if to_authorise {
        println!("at each node above that holds more than {size} entries, its operator must run:");
        println!("  hefu key authorise {key} --from {size}");
    }
}

async fn replace(config: &ConfigArgs, output: Output) -> Result<(), CliError> {
    let config = config.load()?;
    let (ledger, _) = open_offline(&config, true).await?;
    let own = ledger.log("");
    ledger.stop().await;
    let last = own.as_ref().and_then(|own| own.keys.changes().last());
    match last.filter(|last| !last.change.is_signed_by_old()) {
        Some(last) => {
            let (key, size) = (last.change.new_key().to_string(), last.change.size());
            changed(output, &key, i64::try_from(size).unwrap_or(i64::MAX), true);
            Ok(())
        }
        None => Err(CliError::Other(
            "the seed of the key in force is there: change it with `hefu key rotate`".to_owned(),
        )),
    }
}
