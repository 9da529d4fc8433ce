//! `hefu serve` and `hefu rebuild`.

use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{CliError, Exit, log_to_stderr};
use crate::{
    config::{Config, LogFormat},
    node::{DataFolder, Node, NodeError, open_offline},
    storage::durable,
};

/// Where the configuration is.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// The configuration file; deploy/county.toml is a commented example
    #[arg(long)]
    pub config: PathBuf,
    /// Overrides a key, such as node.listen=0.0.0.0:7443; wins over HEFU_NODE_LISTEN
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl ConfigArgs {
    pub(super) fn load(&self) -> Result<Config, NodeError> {
        let config = Config::load(&self.config, &self.set)?;
        log_to_stderr(&config.log.level, config.log.format == LogFormat::Json);
        Ok(config)
    }
}

/// Run a node until it is told to stop (SIGTERM or Ctrl-C): calls under way finish, nothing
/// acknowledged is lost.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  hefu serve --config /etc/hefu/hefu.toml\n\nExit codes: 0 \
    stopped as told, 1 cannot start, or storage failed"
)]
pub struct Serve {
    #[command(flatten)]
    config: ConfigArgs,
}

impl Serve {
    pub(super) async fn run(self) -> Result<Exit, CliError> {
        let config = self.config.load()?;
        let id = config.node.id.clone();
        let node = Node::open(config).await?;
        let address = node.address()?;
        println!("node {id} listens on {address}");
        node.serve(told_to_stop()).await?;
        Ok(Exit::Done)
    }
}

/// Ends at SIGTERM or Ctrl-C.
pub(super) async fn told_to_stop() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        let _ = tokio::signal::ctrl_c().await;
        return;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// Derive everything but the journal again: registers, indexes, positions, tiles. The node must be
/// stopped; the old state is set aside beside the new one.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  systemctl stop hefu && hefu rebuild --config \
    /etc/hefu/hefu.toml"
)]
pub struct Rebuild {
    #[command(flatten)]
    config: ConfigArgs,
    /// Start anew with a head file: only when it is damaged, and after `hefu verify` found the journal whole
    #[arg(long)]
    forget_head: bool,
}

impl Rebuild {
    pub(super) async fn run(self) -> Result<Exit, CliError> {
        let config = self.config.load()?;
        let data = DataFolder::new(&config.node.data);
        let failed = |cause| NodeError::Data {
            path: config.node.data.clone(),
            cause,
        };
        // The journal's lock says whether a node is running; it is held while the state is moved.
        let lock = crate::storage::Journal::open(
            &data.journal(),
            crate::storage::JournalOptions::default(),
        )
        .map_err(NodeError::from)?;
        if data.state().exists() {
            let aside = data.set_aside();
            durable::rename(&data.state(), &aside).map_err(failed)?;
            println!("the old state is now {}", aside.display());
        }
        if self.forget_head {
            durable::remove(&data.head()).map_err(failed)?;
        }
        drop(lock);
        let (ledger, _) = open_offline(&config, false).await?;
        for view in ledger.published().logs.values() {
            println!("{}: {} entries", view.origin(), view.tree.size());
        }
        for (register, log, counts) in ledger.counts().map_err(NodeError::from)? {
            let (live, withdrawn) = (counts.live, counts.withdrawn);
            println!("log {log}: {register}: {live} live, {withdrawn} withdrawn");
        }
        ledger.stop().await;
        Ok(Exit::Done)
    }
}
