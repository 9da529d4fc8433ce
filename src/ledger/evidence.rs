//! An evidence file: two checkpoints of one log that cannot both be true, each signed with the log's key. It is
//! checked offline, with a public key that its reader trusts already.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};

use super::{
    entry::ledger_time,
    merkle::{Hash, empty_root, verify_consistency},
    note::{KeyUse, Note, VerifierKey},
};
use crate::proto::{ledger::v1 as pb, r#type::v1::Digest};

/// The version of the file.
const FORMAT: u32 = 1;

/// Evidence as it lies in a file, as JSON. Only the key, the notes and the proof between them are proven; the rest is
/// the word of the node that exported it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceFile {
    hefu_evidence: u32,
    origin: String,
    /// Which evidence of the log, and when and why it was kept.
    number: i64,
    noticed: String,
    reason: String,
    key: String,
    held: String,
    offered: String,
    /// The root of the held tree at the size of the offered checkpoint; empty where it is larger.
    held_root: String,
    consistency: Vec<String>,
}

/// Why evidence proves nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// It is no evidence of this version.
    #[error("it is no evidence of this version: {0}")]
    Malformed(String),
    /// A note does not bear the signature of the log's key.
    #[error("the {0} checkpoint: {1}")]
    Unsigned(&'static str, String),
    /// Both are signed, and both can be true.
    #[error("the two checkpoints do not contradict each other: {0}")]
    NoContradiction(&'static str),
    /// The reader trusts another key of the log.
    #[error("the log is signed with another key than the one that is trusted")]
    AnotherKey,
}

/// What evidence proves: the log's key has signed two trees, of which one is not the beginning of the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contradiction {
    /// The log.
    pub origin: String,
    /// Why the node kept it, in its words.
    pub reason: String,
    /// When the node kept it, by its word.
    pub noticed: String,
    /// The size of the tree that was held.
    pub held_size: u64,
    /// The size of the tree that was offered.
    pub offered_size: u64,
    /// The key that signed both.
    pub key: VerifierKey,
    /// Whether the reader trusts it: without that, nothing is proven about the origin.
    pub trusted: bool,
}

impl EvidenceFile {
    /// What a node answered, as a file: each note keeps the log's own signature alone.
    ///
    /// # Errors
    /// [`EvidenceError::Malformed`] where the answer is not whole.
    pub fn of(answer: &pb::GetEvidenceResponse) -> Result<Self, EvidenceError> {
        let missing = || EvidenceError::Malformed("the node's answer is not whole".to_owned());
        let evidence = answer.evidence.as_ref().ok_or_else(missing)?;
        let key = read_key(&answer.verifier_key)?;
        let bearing = |note: &str| match note.parse::<Note>() {
            Ok(note) => note.bearing(&[&key]).to_string(),
            Err(_) => note.to_owned(),
        };
        let encode = |digest: &Digest| BASE64.encode(&digest.value);
        Ok(Self {
            hefu_evidence: FORMAT,
            origin: evidence.origin.clone(),
            number: evidence.number,
            noticed: ledger_time(evidence.time.as_ref())
                .map(|time| time.to_string())
                .unwrap_or_default(),
            reason: evidence.reason.clone(),
            key: answer.verifier_key.clone(),
            held: bearing(&evidence.held),
            offered: bearing(&evidence.offered),
            held_root: answer.held_root.as_ref().map(encode).unwrap_or_default(),
            consistency: answer.consistency.iter().map(encode).collect(),
        })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`EvidenceError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, EvidenceError> {
        serde_json::from_str(text).map_err(|e| EvidenceError::Malformed(e.to_string()))
    }

    /// The file.
    #[must_use]
    pub fn text(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// Checks it against keys that the reader trusts.
    ///
    /// # Errors
    /// [`EvidenceError`]: then it proves nothing.
    pub fn verify(&self, trusted: &[VerifierKey]) -> Result<Contradiction, EvidenceError> {
        if self.hefu_evidence != FORMAT {
            let text = format!("its version is {}", self.hefu_evidence);
            return Err(EvidenceError::Malformed(text));
        }
        let key = read_key(&self.key)?;
        if key.purpose() != KeyUse::Log || key.name() != self.origin {
            let text = "its key is not the log key of its origin".to_owned();
            return Err(EvidenceError::Malformed(text));
        }
        let mut others = trusted.iter().filter(|other| other.name() == key.name());
        let is_trusted = trusted.contains(&key);
        if !is_trusted && others.any(|other| other.purpose() == KeyUse::Log) {
            return Err(EvidenceError::AnotherKey);
        }
        let held = signed("held", &self.held, &key)?;
        let offered = signed("offered", &self.offered, &key)?;
        self.contradict(&held, &offered)?;
        Ok(Contradiction {
            origin: self.origin.clone(),
            reason: self.reason.clone(),
            noticed: self.noticed.clone(),
            held_size: held.checkpoint().size,
            offered_size: offered.checkpoint().size,
            key,
            trusted: is_trusted,
        })
    }

    /// A tree has one beginning of each size: if that which was held has another root there than was offered, they
    /// are trees of two histories.
    fn contradict(&self, held: &Note, offered: &Note) -> Result<(), EvidenceError> {
        let (held, offered) = (held.checkpoint(), offered.checkpoint());
        if offered.size > held.size {
            return Err(EvidenceError::NoContradiction(
                "the offered one is larger, so that it is the word of the exporting node alone that \
                 its entries did not hash to it",
            ));
        }
        let path: Option<Vec<Hash>> = self.consistency.iter().map(|h| hash(h)).collect();
        let root = hash(&self.held_root).filter(|root| offered.size > 0 || *root == empty_root());
        let (Some(path), Some(root)) = (path, root) else {
            return Err(EvidenceError::Malformed(
                "its proof is no list of hashes".to_owned(),
            ));
        };
        if !verify_consistency(offered.size, &root, held.size, &held.root, &path) {
            let text = "its proof does not lead to the held checkpoint".to_owned();
            return Err(EvidenceError::Malformed(text));
        }
        match root == offered.root {
            true => Err(EvidenceError::NoContradiction(
                "one is the beginning of the other",
            )),
            false => Ok(()),
        }
    }
}

fn hash(text: &str) -> Option<Hash> {
    BASE64.decode(text).ok()?.try_into().ok()
}

fn read_key(text: &str) -> Result<VerifierKey, EvidenceError> {
    text.parse()
        .map_err(|e| EvidenceError::Malformed(format!("{e}")))
}

fn signed(which: &'static str, text: &str, key: &VerifierKey) -> Result<Note, EvidenceError> {
    let unsigned = |why: String| EvidenceError::Unsigned(which, why);
    let note: Note = text.parse().map_err(|e| unsigned(format!("{e}")))?;
    note.verify_log(key).map_err(|e| unsigned(format!("{e}")))?;
    Ok(note)
}
