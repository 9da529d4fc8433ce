//! Where the seed of the signing key lies, beside the journal and never in it.

use std::sync::{Mutex, PoisonError};

use super::{key_history::KeyHistory, note::NodeKey, open::OpenError};
use crate::storage::StorageError;

/// The seed of an Ed25519 key.
pub type Seed = [u8; 32];

/// Keeps the seed in force, and one that is about to follow it.
///
/// A rotation stages the new seed, commits the change to the journal, and promotes. What a crash leaves: after the
/// staging, a seed that no log names, which the next start discards; after the commit, two seeds, of which the
/// journal names the staged one, and the next start promotes it. A seed is durable before its key is used.
pub trait SeedStore: Send + Sync + 'static {
    /// The seed in force, and the one that is staged.
    ///
    /// # Errors
    /// [`StorageError::Failed`].
    fn load(&self) -> Result<[Option<Seed>; 2], StorageError>;

    /// Keeps a seed beside the one in force, durably.
    ///
    /// # Errors
    /// [`StorageError::Failed`].
    fn stage(&self, seed: &Seed) -> Result<(), StorageError>;

    /// Puts the staged seed in force, and destroys the one before it.
    ///
    /// # Errors
    /// [`StorageError::Failed`].
    fn promote(&self) -> Result<(), StorageError>;

    /// Destroys the staged seed.
    ///
    /// # Errors
    /// [`StorageError::Failed`].
    fn discard(&self) -> Result<(), StorageError>;
}

/// What is done with the key that was chosen, once the committer runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It is the one in force.
    Go,
    /// Its log is to be registered.
    Register,
    /// It takes the place of one that is lost.
    Replace,
}

/// The key to sign with: the one that the log's history names, wherever a crash has left its seed. `names` are the
/// origin and the cosigner's name.
pub(super) fn choose(
    seeds: &dyn SeedStore,
    own: Option<&KeyHistory>,
    names: (&str, &str),
    is_lost: bool,
) -> Result<(NodeKey, Step), OpenError> {
    let [held, staged] = seeds.load()?;
    let key = |seed: &Seed| NodeKey::new(seed, names.0, names.1);
    let Some(history) = own else {
        if let Some(seed) = held {
            return Ok((key(&seed), Step::Register));
        }
        let seed = random()?;
        seeds.stage(&seed)?;
        seeds.promote()?;
        return Ok((key(&seed), Step::Register));
    };
    let in_force = |seed: &Option<Seed>| {
        let key = key(&(*seed)?);
        (key.log_key() == history.current()).then_some(key)
    };
    if let Some(key) = in_force(&held) {
        if staged.is_some() {
            seeds.discard()?;
        }
        return Ok((key, Step::Go));
    }
    if let Some(key) = in_force(&staged) {
        seeds.promote()?;
        return Ok((key, Step::Go));
    }
    if is_lost {
        let seed = random()?;
        seeds.stage(&seed)?;
        return Ok((key(&seed), Step::Replace));
    }
    Err(OpenError::KeyMissing {
        origin: history.origin().to_owned(),
        id: history.current().id(),
    })
}

/// A new seed from the system's randomness.
///
/// # Errors
/// [`StorageError::Failed`] where there is none.
pub(super) fn random() -> Result<Seed, StorageError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| StorageError::Failed {
        doing: "making a signing key",
        cause: e.to_string(),
    })?;
    Ok(seed)
}

/// Seeds in memory.
#[derive(Debug, Default)]
pub struct MemorySeeds(Mutex<[Option<Seed>; 2]>);

impl MemorySeeds {
    /// With this one in force.
    #[must_use]
    pub fn new(seed: Seed) -> Self {
        Self(Mutex::new([Some(seed), None]))
    }

    fn change(&self, change: impl FnOnce(&mut [Option<Seed>; 2])) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl SeedStore for MemorySeeds {
    fn load(&self) -> Result<[Option<Seed>; 2], StorageError> {
        Ok(*self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn stage(&self, seed: &Seed) -> Result<(), StorageError> {
        self.change(|[_, staged]| *staged = Some(*seed));
        Ok(())
    }

    fn promote(&self) -> Result<(), StorageError> {
        self.change(|[held, staged]| *held = staged.take().or(*held));
        Ok(())
    }

    fn discard(&self) -> Result<(), StorageError> {
        self.change(|[_, staged]| *staged = None);
        Ok(())
    }
}
