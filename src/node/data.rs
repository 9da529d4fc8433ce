//! The data folder: its files, its signing seed, its stores.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use prost::Message as _;

use super::NodeError;
use crate::{
    config::Config,
    gateway::tls,
    proto::ledger::v1::Log,
    storage::{
        Behind, Journal, JournalOptions, LogStore as _, Opened, Position, SledOptions, SledState,
        durable,
    },
};

/// Bytes of the derived state that may wait to be applied: some 70,000 entries.
const BACKLOG: usize = 64 * 1024 * 1024;

/// The files of a data folder.
#[derive(Debug, Clone)]
pub struct DataFolder(PathBuf);

impl DataFolder {
    /// A data folder.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// A data folder, made where there is none.
    ///
    /// # Errors
    /// [`NodeError::Data`].
    pub fn create(path: &Path) -> Result<Self, NodeError> {
        let failed = |cause| NodeError::Data {
            path: path.to_owned(),
            cause,
        };
        durable::create_dir_all(path, durable::Access::Owner).map_err(failed)?;
        Ok(Self::new(path))
    }

    /// The journal: the truth.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.0.join("journal")
    }

    /// The derived state.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    /// Where a derived state goes that does not belong to the journal.
    #[must_use]
    pub fn set_aside(&self) -> PathBuf {
        self.0.join(format!(
            "state.damaged-{}",
            Timestamp::now().as_millisecond()
        ))
    }

    /// The audit trail.
    #[must_use]
    pub fn audit(&self) -> PathBuf {
        self.0.join("audit")
    }

    /// The newest signed checkpoint, outside the journal.
    #[must_use]
    pub fn head(&self) -> PathBuf {
        self.0.join("head")
    }

    /// When children were last heard, and what they have signed.
    #[must_use]
    pub fn heard(&self) -> PathBuf {
        self.0.join("heard.json")
    }

    /// The journal of a new log that is about to be begun; while it is there, the node does not start.
    #[must_use]
    pub fn next(&self) -> PathBuf {
        self.0.join("next")
    }

    /// Where the journal of a log lies that the node has given up.
    #[must_use]
    pub fn former(&self, incarnation: &str) -> PathBuf {
        self.0.join(format!("former-{incarnation}"))
    }

    /// The log's signing seed: 32 bytes, readable by its owner only.
    #[must_use]
    pub fn seed(&self) -> PathBuf {
        self.0.join("log.key")
    }

    /// Puts a backup of the signing seed in its place. One that is there already must be the same.
    ///
    /// # Errors
    /// [`NodeError::Data`], [`NodeError::Tls`] where others can read the backup, [`NodeError::Recover`].
    pub fn restore_seed(&self, backup: &Path) -> Result<(), NodeError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |cause| NodeError::Data { path, cause }
        };
        tls::owner_only(backup)?;
        let seed = std::fs::read(backup).map_err(failed(backup))?;
        if seed.len() != 32 {
            let wrong = std::io::Error::other("a signing seed has 32 bytes");
            return Err(failed(backup)(wrong));
        }
        let path = self.seed();
        if !path.exists() {
            return durable::create(&path, &seed, durable::Access::Owner).map_err(failed(&path));
        }
        if std::fs::read(&path).map_err(failed(&path))? == seed {
            return Ok(());
        }
        let text = format!(
            "{} is another key than {}",
            path.display(),
            backup.display()
        );
        Err(NodeError::Recover(text))
    }

    /// The origin of the log that lies here; `None` for a folder without one.
    ///
    /// # Errors
    /// [`NodeError::Storage`].
    pub fn origin(&self) -> Result<Option<String>, NodeError> {
        if !self.journal().exists() {
            return Ok(None);
        }
        let journal = Journal::open(&self.journal(), JournalOptions::default())?;
        let first = journal.scan(Position(0), 1)?.frames.into_iter().next();
        let log = first.and_then(|(_, frame)| Log::decode(frame.payload).ok());
        Ok(log.map(|log| log.origin))
    }

    /// The mark that an operator sets on a copy that was put back: nothing is taken in before the parent has
    /// said that nothing is missing.
    #[must_use]
    pub fn restored(&self) -> PathBuf {
        self.0.join("restored")
    }

    /// The signing seed, made on first use.
    ///
    /// # Errors
    /// [`NodeError::Data`].
    pub fn load_seed(&self) -> Result<[u8; 32], NodeError> {
        let path = self.seed();
        let failed = |cause| NodeError::Data {
            path: path.clone(),
            cause,
        };
        if !path.exists() {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).map_err(|e| failed(std::io::Error::other(e.to_string())))?;
            durable::create(&path, &seed, durable::Access::Owner).map_err(failed)?;
        }
        tls::owner_only(&path)?;
        let bytes = std::fs::read(&path).map_err(failed)?;
        let wrong = |_| failed(std::io::Error::other("a signing seed has 32 bytes"));
        bytes.try_into().map_err(wrong)
    }
}

/// The stores of a data folder.
pub struct Stores {
    /// The truth.
    pub journal: Arc<Journal>,
    /// What is derived.
    pub state: Arc<Behind<SledState>>,
}

impl Stores {
    /// Opens both; a derived state that cannot be trusted is set aside, to be derived again.
    ///
    /// # Errors
    /// [`NodeError::Storage`].
    pub fn open(config: &Config) -> Result<Self, NodeError> {
        let (data, storage) = (DataFolder::new(&config.node.data), &config.storage);
        if data.next().exists() {
            let text = "a new log is half begun; run `hefu new-incarnation` again";
            return Err(NodeError::Failed(text.to_owned()));
        }
        let options = JournalOptions {
            segment_bytes: storage.segment_mib * 1024 * 1024,
            ..JournalOptions::default()
        };
        let journal = Journal::open(&data.journal(), options)?;
        let cache_bytes = storage.cache_mib * 1024 * 1024;
        let (state, opened) = SledState::open(&data.state(), SledOptions { cache_bytes })?;
        match opened {
            Opened::Clean => {}
            Opened::AfterKill => tracing::warn!("the node was killed before; catching up"),
            Opened::SetAside { why, to } => {
                let to = to.display();
                tracing::warn!(%why, %to, "the derived state was set aside; deriving it again");
            }
        }
        Ok(Self {
            journal: Arc::new(journal),
            state: Arc::new(Behind::new(state, BACKLOG)?),
        })
    }
}
