//! Which keys a log was signed with, and up to which size each of them is believed.
//!
//! One rule: a signature of a checkpoint is believed where its key is of the log's history and the checkpoint's
//! size is not above the size of any later key change. The key in force may sign any size, so that a seed
//! that was replaced can be destroyed.

use super::{
    entry::timestamp,
    key_change::KeyChange,
    merkle::Hash,
    note::{Checkpoint, Note, NoteError, VerifierKey},
};
use crate::{proto::ledger::v1 as pb, types::LedgerTime};

/// A key change that this node believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Believed {
    /// The statement.
    pub change: KeyChange,
    /// Whose word stands for it where the old key's does not: a SPIFFE ID, or [`FIRST_SIGHT`]. Empty where the old
    /// key has signed.
    pub authorised_by: String,
}

/// What stands for changes of a log that this node had never seen before: its keys are taken as they are told.
pub const FIRST_SIGHT: &str = "first sight";

impl Believed {
    /// As a frame and the state keep it.
    pub(super) fn to_message(&self, time: LedgerTime, node: &str) -> pb::KeyChange {
        pb::KeyChange {
            note: self.change.note(),
            authorised_by: self.authorised_by.clone(),
            time: Some(timestamp(time)),
            node: node.to_owned(),
        }
    }

    /// From what was kept.
    ///
    /// # Errors
    /// [`NoteError`] where the statement does not hold.
    pub fn of(kept: &pb::KeyChange) -> Result<Self, NoteError> {
        Ok(Self {
            change: KeyChange::parse(&kept.note)?,
            authorised_by: kept.authorised_by.clone(),
        })
    }
}

impl Authorisation {
    /// From what was kept; `None` for anything else.
    #[must_use]
    pub fn of(kept: &pb::KeyAuthorisation) -> Option<Self> {
        Some(Self {
            key: kept.verifier_key.parse().ok()?,
            size: kept.from_size,
            by: kept.authorised_by.clone(),
        })
    }
}

/// A log's keys, oldest first. There is always one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyHistory {
    first: VerifierKey,
    changes: Vec<Believed>,
}

/// One key of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyPeriod<'a> {
    /// The key.
    pub key: &'a VerifierKey,
    /// The change that brought it; `None` for the first.
    pub by: Option<&'a Believed>,
    /// The size up to which it is believed; `None` for the key in force.
    pub until: Option<u64>,
}

/// What an operator said of a key that its predecessor cannot vouch for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorisation {
    /// The new key.
    pub key: VerifierKey,
    /// The size from which on it holds, and no older one is believed.
    pub size: u64,
    /// The operator: a SPIFFE ID.
    pub by: String,
}

/// What becomes of a key change that is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is in the history.
    Known,
    /// It is believed.
    Believed(Box<Believed>),
    /// Only an operator can say whether it is true.
    Unauthorised,
    /// It is not of this log, or cannot follow what is known.
    Invalid(&'static str),
    /// A key that is believed has signed what cannot be true.
    Contradicts(String),
}

impl KeyHistory {
    /// A history of one key.
    #[must_use]
    pub fn new(first: VerifierKey) -> Self {
        Self {
            first,
            changes: Vec::new(),
        }
    }

    /// A history as a peer tells it: the key in force, and how it came to be.
    ///
    /// # Errors
    /// [`NoteError`] where a statement is wrong, or does not follow the one before.
    pub fn told(current: VerifierKey, changes: &[String]) -> Result<Self, NoteError> {
        let changes = changes.iter().map(|note| KeyChange::parse(note));
        let changes: Vec<_> = changes.collect::<Result<_, _>>()?;
        let first = changes.first().map_or(&current, KeyChange::old).clone();
        let mut history = Self::new(first);
        for change in changes {
            let old = history.position(change.old());
            if old.is_none() || history.position(change.new_key()).is_some() {
                return Err(NoteError::BadKey(
                    "its key changes do not follow one another",
                ));
            }
            let authorised_by = String::new();
            history.push(Believed {
                change,
                authorised_by,
            });
        }
        if *history.current() == current {
            Ok(history)
        } else {
            Err(NoteError::BadKey("its key changes do not lead to its key"))
        }
    }

    /// Adds a change that was believed.
    pub fn push(&mut self, believed: Believed) {
        self.changes.push(believed);
    }

    /// The log.
    #[must_use]
    pub fn origin(&self) -> &str {
        self.first.name()
    }

    /// The first key.
    #[must_use]
    pub fn first(&self) -> &VerifierKey {
        &self.first
    }

    /// The key in force.
    #[must_use]
    pub fn current(&self) -> &VerifierKey {
        let last = self.changes.last();
        last.map_or(&self.first, |last| last.change.new_key())
    }

    /// Every change, oldest first.
    #[must_use]
    pub fn changes(&self) -> &[Believed] {
        &self.changes
    }

    /// The statements, oldest first, as peers take them.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let changes = self.changes.iter();
        changes.map(|believed| believed.change.note()).collect()
    }

    /// Every key, oldest first.
    #[must_use]
    pub fn periods(&self) -> Vec<KeyPeriod<'_>> {
        let mut until = None;
        let mut periods = Vec::new();
        for believed in self.changes.iter().rev() {
            let (key, by) = (believed.change.new_key(), Some(believed));
            periods.push(KeyPeriod { key, by, until });
            let size = believed.change.size();
            until = Some(until.map_or(size, |until: u64| until.min(size)));
        }
        let (key, by) = (&self.first, None);
        periods.push(KeyPeriod { key, by, until });
        periods.reverse();
        periods
    }

    /// Where a key stands in the history.
    #[must_use]
    pub fn position(&self, key: &VerifierKey) -> Option<usize> {
        let mut keys = self.periods().into_iter();
        keys.position(|period| period.key.is_key_of(key))
    }

    /// The key that has signed a checkpoint of this log, and the size up to which it is believed.
    ///
    /// # Errors
    /// [`NoteError`] where none of them has.
    pub fn signer(&self, note: &Note) -> Result<KeyPeriod<'_>, NoteError> {
        for period in self.periods().into_iter().rev() {
            if note.bears(period.key) {
                return note.verify_log(period.key).map(|_| period);
            }
        }
        Err(NoteError::Unsigned(self.origin().to_owned()))
    }

    /// Whether a checkpoint of this log is believed.
    ///
    /// # Errors
    /// [`NoteError`] says why not.
    pub fn verify<'n>(&self, note: &'n Note) -> Result<&'n Checkpoint, NoteError> {
        let signer = self.signer(note)?;
        match signer.until {
            Some(until) if note.checkpoint().size > until => Err(NoteError::Replaced {
                key: signer.key.id(),
                until,
            }),
            _ => Ok(note.checkpoint()),
        }
    }

    /// What becomes of a change, where the log has `held` entries here, and `root` is the root of the size that the
    /// change names, as far as it is held.
    #[must_use]
    pub fn judge(
        &self,
        change: &KeyChange,
        held: u64,
        root: Option<&Hash>,
        authorisation: Option<&Authorisation>,
    ) -> Verdict {
        if change.origin() != self.origin() {
            return Verdict::Invalid("the key change is of another log");
        }
        if self.changes.iter().any(|known| known.change == *change) {
            return Verdict::Known;
        }
        if self.position(change.new_key()).is_some() {
            return Verdict::Invalid("a key that was used before does not come back");
        }
        let forked = || {
            Verdict::Contradicts(format!(
                "its key change names another root of size {}",
                change.size()
            ))
        };
        let other_root = root.is_some_and(|root| root != change.root());
        let said = authorisation
            .filter(|said| said.key == *change.new_key() && said.size == change.size());
        if let Some(said) = said {
            return match other_root {
                true => forked(),
                false => Verdict::Believed(Box::new(Believed {
                    change: change.clone(),
                    authorised_by: said.by.clone(),
                })),
            };
        }
        if change.old() != self.current() {
            return match self.position(change.old()) {
                Some(_) => Verdict::Invalid("the key that it replaces was replaced before"),
                None => Verdict::Unauthorised,
            };
        }
        match change.is_signed_by_old() {
            false => Verdict::Unauthorised,
            true if other_root => forked(),
            // The old key has signed more than it says: somebody must say since when it is not believed.
            true if change.size() < held => Verdict::Unauthorised,
            true => Verdict::Believed(Box::new(Believed {
                change: change.clone(),
                authorised_by: String::new(),
            })),
        }
    }
}
