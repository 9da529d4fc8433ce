//! `hefu new-incarnation`: a new log for a node whose former one its parent has closed.

use clap::Args;

use super::{CliError, Exit, client::ClientError, serve::ConfigArgs};
use crate::{
    node::new_incarnation,
    types::{Violations, required_prose},
};

/// Begin a new log, once the parent's operator has closed the former one (`hefu evidence resolve --accept
/// new-incarnation`). The node must be stopped. The new log begins with the standing revision of every record of
/// this node, and takes these records over at the parent too; the former journal is set aside, whole. Logs of nodes
/// below come again from those nodes.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  systemctl stop hefu && hefu new-incarnation --config /etc/hefu/hefu.toml --reason \
    'restored from a backup and grown since; closed by the city on 27 November'\n\nRun again after it was cut off, it \
    goes on; until then the node does not start"
)]
pub struct NewIncarnation {
    #[command(flatten)]
    config: ConfigArgs,
    /// Why, for the journal and the audit trail; nothing about persons
    #[arg(long)]
    reason: String,
}

impl NewIncarnation {
    pub(super) async fn run(self) -> Result<Exit, CliError> {
        let mut violations = Violations::new();
        required_prose(&mut violations, "reason", &self.reason, 500);
        if let Err(wrong) = violations.into_result(()) {
            let wrong = wrong.into_iter().map(|v| format!("--reason: {}", v.en));
            return Err(ClientError::Usage(wrong.collect::<Vec<_>>().join("; ")).into());
        }
        let config = self.config.load()?;
        let begun = new_incarnation(&config, &self.reason).await?;
        println!("{} begins with {} records", begun.origin, begun.records);
        println!("{} lies in {}", begun.former, begun.folder.display());
        Ok(Exit::Done)
    }
}
