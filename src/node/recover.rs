//! A node whose disk is gone, built anew from what its parent holds.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{DataFolder, NodeError, Opening, Reference, board, dial, uplink};
use crate::{
    config::Config,
    gateway::{keys::Keys, tls::Credentials},
    ledger::{
        Intake, Ledger, LogView,
        merkle::Hash,
        note::{NodeKey, Note},
    },
    replication::{HeldLog, LinkState, Synced, Uplink, held},
    storage::durable,
    types::{Clock, LedgerTime, SystemClock},
};

/// What is asked of a recovery.
#[derive(Debug, Clone)]
pub struct Recovery {
    /// A backup of the signing seed; `None` where it lies in the data folder.
    pub key: Option<PathBuf>,
    /// The signing key is lost too: go on with a new one, which the operators above must authorise.
    pub new_key: bool,
    /// The own log alone; those of nodes below bring themselves again.
    pub own_only: bool,
    /// It goes on for so long at most.
    pub limit: Duration,
}

/// What a recovery has brought back.
#[derive(Debug)]
pub struct Recovered {
    /// The parent.
    pub parent: String,
    /// The own log first.
    pub logs: Vec<RecoveredLog>,
    /// Logs that the parent does not give back, with its reason.
    pub refused: Vec<(String, String)>,
    /// Whether everything that the parent holds is here, and intake is open.
    pub complete: bool,
    /// Whether the parent, or this node, refused.
    pub stopped: bool,
    /// Why not complete; empty otherwise.
    pub reason: String,
}

/// One log of a recovery.
#[derive(Debug)]
pub struct RecoveredLog {
    /// Its origin.
    pub origin: String,
    /// Entries that were here before.
    pub before: u64,
    /// Entries that are here now.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
    /// Entries that the parent has cosigned.
    pub held: u64,
    /// When.
    pub time: Option<LedgerTime>,
    /// Whether those are here, by the root that the origin signed.
    pub proven: bool,
}

/// Builds the data folder of a node from what its parent holds: the node's own log, under the key that
/// signed it, and those of nodes below. It may be cut at any moment and be run again.
///
/// # Errors
/// [`NodeError`] says what to do; a recovery that was begun and not finished is no error.
pub async fn recover(
    config: &Config,
    recovery: Recovery,
    progress: impl FnMut(&Synced),
) -> Result<Recovered, NodeError> {
    let (id, domain) = (config.node_id()?, config.trust_domain()?);
    let Some(parent) = &config.parent else {
        let text = "the configuration names no parent".to_owned();
        return Err(NodeError::Recover(text));
    };
    let keys = Keys::new(Credentials::of(&config.tls)?)?;
    let data = DataFolder::create(&config.node.data)?;
    bring_seed(&data, &recovery)?;
    let [seed, _] = data.seeds()?.load()?;
    let dialer = dial(config, keys.clone(), parent)?;
    let mut found = held(&dialer, &parent.node_id()?, &domain).await?;
    let standing = data.origin()?;
    let signs = |log: &HeldLog| {
        // Whether the seed is the one in force is found out when a log that is here already is opened.
        let known = standing.is_some() || recovery.new_key;
        let key = |seed| NodeKey::new(&seed, log.origin.as_str(), "");
        let signs = seed.is_some_and(|seed| key(seed).log_key() == log.keys.current());
        *log.origin.node() == id && (known || signs)
    };
    let own = choose(&found.logs, signs, standing.as_deref());
    let own = own.map_err(|why| NodeError::Recover(no_log(&why, &found.logs, &found.refused)))?;
    let own = found.logs.remove(own);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let rules = Arc::new(Reference::load(config)?.registers());
    let opening = Opening {
        key_is_lost: recovery.new_key,
        lost: Some(&own),
        ..Opening::new(config, &data, rules, clock.clone())
    };
    let ledger = opening.once().await?;
    let mut logs = vec![own];
    if !recovery.own_only {
        for log in found.logs {
            let registered = ledger.register(log.keys.clone()).await;
            registered.map_err(|e| NodeError::Failed(e.to_string()))?;
            logs.push(log);
        }
    }
    let before = logs
        .iter()
        .map(|log| size(&ledger, log))
        .collect::<Vec<_>>();
    let uplink = uplink(config, keys, board(config, &ledger, &clock)?, false)?;
    let synced = match uplink {
        Some(uplink) => run(&uplink, recovery.limit, progress).await,
        None => return Err(NodeError::Recover("there is no parent".to_owned())),
    };
    let recovered = logs.iter().zip(before);
    let recovered = recovered.map(|(log, before)| compare(&ledger, log, before));
    let recovered: Vec<_> = recovered.collect();
    let open = *ledger.intake().borrow() == Intake::Open;
    let complete = open && synced.complete && recovered.iter().all(|log| log.proven);
    ledger.stop().await;
    let stops = |state| matches!(state, LinkState::Refused | LinkState::Quarantined);
    Ok(Recovered {
        parent: parent.node.clone(),
        logs: recovered,
        refused: found.refused,
        complete,
        stopped: synced.logs.iter().any(|log| stops(log.state)),
        reason: match complete {
            true => String::new(),
            false => synced.reason,
        },
    })
}

/// The backup of the signing key goes into its place, where one was named.
fn bring_seed(data: &DataFolder, recovery: &Recovery) -> Result<(), NodeError> {
    if let Some(key) = &recovery.key {
        data.restore_seed(key)?;
    }
    if !data.seed().exists() && !recovery.new_key {
        let path = data.seed().display().to_string();
        return Err(NodeError::Recover(format!(
            "there is no {path}: name the backup of it with --log-key, or where it is lost too, go on with a new \
             one: --new-key"
        )));
    }
    Ok(())
}

/// The log that the node goes on with: the one that lies in the folder already, or the newest one that its
/// key has signed.
fn choose(
    logs: &[HeldLog],
    signs: impl Fn(&HeldLog) -> bool,
    standing: Option<&str>,
) -> Result<usize, String> {
    let mine = logs.iter().enumerate().filter(|(_, log)| signs(log));
    match standing {
        Some(origin) => {
            let mut mine = mine.filter(|(_, log)| log.origin.as_str() == origin);
            let known = mine.next().map(|(at, _)| at);
            known.ok_or_else(|| {
                format!(
                    "the log {origin} lies in the data folder, and the parent holds none of that name \
                     under this key; name an empty folder"
                )
            })
        }
        None => {
            let newest = mine.max_by_key(|(_, log)| (log.time, log.size()));
            newest.map(|(at, _)| at).ok_or_else(|| {
                "the parent holds no log of this node that this key has signed".to_owned()
            })
        }
    }
}

fn no_log(why: &str, logs: &[HeldLog], refused: &[(String, String)]) -> String {
    let mut text = why.to_owned();
    for log in logs {
        text += &format!("; it holds {}, {} entries", log.keys.current(), log.size());
    }
    for (origin, why) in refused {
        text += &format!("; it does not give {origin} back: {why}");
    }
    text
}

/// Closes the intake of a folder that is marked as a copy that was put back, and takes the mark away once the
/// parent has said that nothing is missing. Without a mark nothing happens.
///
/// # Errors
/// [`NodeError::Recover`] where no parent could ever say so.
pub(super) fn heed_mark(
    config: &Config,
    data: &DataFolder,
    ledger: &Ledger,
) -> Result<(), NodeError> {
    let mark = data.restored();
    if !mark.exists() {
        return Ok(());
    }
    if config.parent.is_none() {
        let mark = mark.display();
        return Err(NodeError::Recover(format!(
            "{mark} marks a copy that was put back, and there is no parent that could tell what is missing; \
             if it is the newest copy there is, remove the mark"
        )));
    }
    if *ledger.intake().borrow() == Intake::Open {
        let text = "this is a copy that was put back; nothing is taken in before the parent has said \
                    what is missing";
        ledger.set_intake(Intake::BehindParent(text.to_owned()));
    }
    let mut intake = ledger.intake();
    tokio::spawn(async move {
        if intake
            .wait_for(|intake| *intake == Intake::Open)
            .await
            .is_ok()
        {
            match durable::remove(&mark) {
                Ok(()) => tracing::info!("nothing is missing any more: intake is open"),
                Err(error) => tracing::warn!(%error, "the mark of a restored copy stays"),
            }
        }
    });
    Ok(())
}

async fn run(uplink: &Uplink, limit: Duration, progress: impl FnMut(&Synced)) -> Synced {
    let stop = CancellationToken::new();
    let syncing = async {
        let end = uplink.sync(limit, progress).await;
        stop.cancel();
        end
    };
    tokio::join!(uplink.run(stop.clone()), syncing).1
}

fn view(ledger: &Ledger, log: &HeldLog) -> Option<Arc<LogView>> {
    ledger.log(log.origin.as_str())
}

fn size(ledger: &Ledger, log: &HeldLog) -> u64 {
    view(ledger, log).map_or(0, |view| view.tree.size())
}

fn compare(ledger: &Ledger, log: &HeldLog, before: u64) -> RecoveredLog {
    let view = view(ledger, log);
    let holds = |note: &Note| {
        let checkpoint = note.checkpoint();
        let root = view
            .as_ref()
            .map(|view| ledger.root_at(view, checkpoint.size));
        root.and_then(Result::ok) == Some(checkpoint.root)
    };
    RecoveredLog {
        origin: log.origin.to_string(),
        before,
        size: view.as_ref().map_or(0, |view| view.tree.size()),
        root: view
            .as_ref()
            .map(|view| view.tree.root())
            .unwrap_or_default(),
        held: log.size(),
        time: log.time,
        proven: log.note.as_ref().is_none_or(holds),
    }
}
