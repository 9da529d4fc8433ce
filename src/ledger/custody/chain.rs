//! How the keys in a custody file follow one another.
//!
//! One who trusts a key trusts the keys that it has led to by its own signature, and those that came before it: the
//! change to a key is signed with it, and says which key was in force until then. Never a key that came another way
//! from a common ancestor.

use crate::{
    ledger::{
        key_change::KeyChange,
        note::{Note, NoteError, VerifierKey},
    },
    types::LedgerTime,
};

pub(super) struct Chain(Vec<KeyChange>);

impl Chain {
    pub fn read(notes: &[String]) -> Result<Self, NoteError> {
        let changes = notes.iter().map(|note| KeyChange::parse(note));
        Ok(Self(changes.collect::<Result<_, _>>()?))
    }

    /// The key of an origin that a note bears, of those that hang together with `known`.
    pub fn signer(&self, note: &Note, known: &VerifierKey) -> VerifierKey {
        let keys = self.0.iter().flat_map(|c| [c.old(), c.new_key()]);
        let mut keys = keys.filter(|key| note.bears(key) && self.vouches(known, key));
        keys.next().unwrap_or(known).clone()
    }

    /// Whether a key is believed for a checkpoint of that size.
    pub fn believes_size(&self, key: &VerifierKey, size: u64) -> Result<(), String> {
        match self.later(key).into_iter().find(|c| c.size() < size) {
            Some(change) => Err(NoteError::Replaced {
                key: key.id(),
                until: change.size(),
            }
            .to_string()),
            None => Ok(()),
        }
    }

    /// Whether a key is believed for a cosignature of that time.
    pub fn believes_time(&self, key: &VerifierKey, time: LedgerTime) -> Result<(), String> {
        match self.later(key).into_iter().find(|c| c.time() < time) {
            Some(change) => Err(format!(
                "it is cosigned with key {}, which was replaced at {}",
                key.id(),
                change.time()
            )),
            None => Ok(()),
        }
    }

    /// Whether a key is trusted. Another one under a name that is trusted, and to which nothing leads, is no matter of
    /// opinion.
    pub fn trusts(&self, trusted: &[VerifierKey], key: &VerifierKey) -> Result<bool, String> {
        let mut same = trusted
            .iter()
            .filter(|other| other.name() == key.name() && other.purpose() == key.purpose())
            .peekable();
        if same.peek().is_none() {
            return Ok(false);
        }
        if same.any(|known| self.vouches(known, key)) {
            return Ok(true);
        }
        Err("it is signed with another key than the one that is trusted".to_owned())
    }

    /// Whether one who trusts `known` may trust `key`.
    fn vouches(&self, known: &VerifierKey, key: &VerifierKey) -> bool {
        if known.is_key_of(key) {
            return true;
        }
        let behind = self.later(key);
        let ahead = self.later(known);
        let leads = ahead
            .iter()
            .position(|change| change.new_key().is_key_of(key));
        let signed = |changes: &[&KeyChange]| changes.iter().all(|c| c.is_signed_by_old());
        leads.is_some_and(|at| signed(ahead.get(..=at).unwrap_or_default()))
            || behind
                .iter()
                .any(|change| change.new_key().is_key_of(known))
    }

    /// The changes that came after a key, in order.
    fn later(&self, key: &VerifierKey) -> Vec<&KeyChange> {
        let (mut at, mut changes) = (key, Vec::new());
        while let Some(change) = self.0.iter().find(|change| change.old().is_key_of(at)) {
            if changes.contains(&change) {
                break;
            }
            changes.push(change);
            at = change.new_key();
        }
        changes
    }
}
