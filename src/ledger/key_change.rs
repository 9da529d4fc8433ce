//! The statement that a log is signed with another key from a size on.
//!
//! It is a signed note (C2SP signed-note) of six lines: a title that begins no checkpoint, the old and the new
//! verifier key, the size and the root of the log from which the new key holds, and the second at which it
//! was made. The new key's signature shows that its holder has it; the old key's authorises the change. A key
//! that is lost cannot sign: then an operator of each node above says whether the change is believed.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use super::{
    merkle::Hash,
    note::{KeyUse, NodeKey, NoteError, Signed, VerifierKey, from_seconds, parse_root, parse_size},
};
use crate::types::LedgerTime;

const TITLE: &str = "hefu key change v1";
/// The longest statement that is read, in bytes: it fits into a value of the state.
pub const MAX_KEY_CHANGE_BYTES: usize = 3_000;

/// A key change whose signatures are right; whether it is believed is another question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    old: VerifierKey,
    new: VerifierKey,
    size: u64,
    root: Hash,
    time: LedgerTime,
    by_old: bool,
    signed: Signed,
}

/// What a key change says, before it is signed.
pub(super) struct NewKey<'a> {
    /// The key that was in force.
    pub old: &'a VerifierKey,
    /// The key that comes into force.
    pub new: &'a NodeKey,
    /// From which size of the log on.
    pub size: u64,
    /// The root of that size.
    pub root: Hash,
    /// When.
    pub time: LedgerTime,
}

impl NewKey<'_> {
    /// Signs it with the new key, and with the old one where it is at hand.
    pub fn sign(&self, old: Option<&NodeKey>) -> Result<KeyChange, NoteError> {
        let seconds = self.time.as_micros().div_euclid(1_000_000).max(0);
        let text = format!(
            "{TITLE}\n{}\n{}\n{}\n{}\n{seconds}\n",
            self.old,
            self.new.log_key(),
            self.size,
            BASE64.encode(self.root),
        );
        let by_old = old.map(|old| old.line(&text)).unwrap_or_default();
        KeyChange::parse(&format!("{text}\n{by_old}{}", self.new.line(&text)))
    }
}

impl KeyChange {
    /// Reads a statement, and checks the signatures that it bears: the new key's always.
    ///
    /// # Errors
    /// [`NoteError`] says what is wrong.
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        let malformed = || NoteError::Malformed("it is no key change of this version");
        let signed = Signed::parse(note, MAX_KEY_CHANGE_BYTES)?;
        let lines: Vec<_> = signed.text().lines().collect();
        let [TITLE, old, new, size, root, seconds] = lines.as_slice() else {
            return Err(malformed());
        };
        let (old, new): (VerifierKey, VerifierKey) = (old.parse()?, new.parse()?);
        if old.purpose() != KeyUse::Log
            || new.purpose() != KeyUse::Log
            || old.name() != new.name()
            || old.is_key_of(&new)
        {
            return Err(NoteError::BadKey("a key change names two keys of one log"));
        }
        let seconds = i64::try_from(parse_size(seconds)?).map_err(|_| malformed())?;
        let (size, root) = (parse_size(size)?, parse_root(root)?);
        let time = from_seconds(seconds).ok_or_else(malformed)?;
        signed.verify(&new)?;
        let by_old = signed.bears(&old);
        if by_old {
            signed.verify(&old)?;
        }
        // Every byte is text or a signature of these two, so one change is one text.
        if signed.bearing(&[&old, &new]).to_string() != note {
            return Err(malformed());
        }
        Ok(Self {
            old,
            new,
            size,
            root,
            time,
            by_old,
            signed,
        })
    }

    /// The log.
    #[must_use]
    pub fn origin(&self) -> &str {
        self.new.name()
    }

    /// The key that was in force.
    #[must_use]
    pub fn old(&self) -> &VerifierKey {
        &self.old
    }

    /// The key that comes into force.
    #[must_use]
    pub fn new_key(&self) -> &VerifierKey {
        &self.new
    }

    /// The size of the log up to which the old key is believed.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root of that size.
    #[must_use]
    pub fn root(&self) -> &Hash {
        &self.root
    }

    /// When the origin made it, to the second: cosignatures by the old key are believed up to then.
    #[must_use]
    pub fn time(&self) -> LedgerTime {
        self.time
    }

    /// Whether the old key has authorised it.
    #[must_use]
    pub fn is_signed_by_old(&self) -> bool {
        self.by_old
    }

    /// The statement.
    #[must_use]
    pub fn note(&self) -> String {
        self.signed.to_string()
    }
}

impl fmt::Display for KeyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.signed.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: &str = "nantong.gov.cn/qidong/5f0c9a1e";

    fn key(seed: u8) -> NodeKey {
        NodeKey::new(&[seed; 32], ORIGIN, "nantong.gov.cn/qidong")
    }

    fn change(old: Option<&NodeKey>) -> KeyChange {
        let (first, new) = (key(1), key(2));
        let change = NewKey {
            old: first.log_key(),
            new: &new,
            size: 7,
            root: [5; 32],
            time: from_seconds(1_700_000_000).unwrap(),
        };
        change.sign(old).unwrap()
    }

    #[test]
    fn says_who_authorised_it() {
        for (old, by_old) in [(Some(key(1)), true), (None, false)] {
            let change = change(old.as_ref());
            assert_eq!(KeyChange::parse(&change.note()), Ok(change.clone()));
            assert_eq!(change.is_signed_by_old(), by_old);
            assert_eq!((change.size(), change.origin()), (7, ORIGIN));
            assert_eq!(change.new_key(), key(2).log_key());
        }
        // A stranger's signature in the place of the old key's is no signature.
        let (text, _) = change(None).note().split_once("\n\n").map_or_else(
            || unreachable!(),
            |(text, rest)| (text.to_owned(), rest.to_owned()),
        );
        let text = format!("{text}\n");
        let forged = format!("{text}\n{}{}", key(3).line(&text), key(2).line(&text));
        assert!(KeyChange::parse(&forged).is_err());
        // Nor is one without the new key's: whoever announces a key must have it.
        let alone = format!("{text}\n{}", key(1).line(&text));
        assert_eq!(
            KeyChange::parse(&alone),
            Err(NoteError::Unsigned(ORIGIN.to_owned()))
        );
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let note = change(Some(&key(1))).note();
        for at in 0..note.len() {
            let mut bytes = note.clone().into_bytes();
            bytes[at] ^= 1;
            let Ok(text) = String::from_utf8(bytes) else {
                continue;
            };
            assert!(KeyChange::parse(&text).is_err(), "byte {at}");
        }
    }

    #[test]
    fn passes_for_no_checkpoint() {
        let note: Result<super::super::note::Note, _> = change(Some(&key(1))).note().parse();
        assert!(note.is_err());
    }
}
