//! A custody file: an entry, and who has signed that it is in the log. It is checked offline, with public keys that
//! its reader trusts already; the keys in it only say which ones those would have to be.

mod chain;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};

use self::chain::Chain;
use super::{
    entry::{StoredEntry, ledger_time},
    head::EntryRef,
    key_history::KeyHistory,
    merkle::{Hash, verify_inclusion},
    note::{KeyUse, Note, NoteError, VerifierKey},
};
use crate::{
    proto::{ledger::v1 as pb, r#type::v1::Digest},
    types::{LedgerTime, LogIndex, LogNo},
};

/// The version of the file.
const FORMAT: u32 = 1;

/// A custody as it lies in a file, as JSON. What people read in it is compared with what is proven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Custody {
    hefu_custody: u32,
    record: String,
    revision: u64,
    submitter: String,
    accepted: String,
    origin: String,
    index: u64,
    entry: String,
    /// The origin's first; then those who cosigned, earliest first.
    statements: Vec<Statement>,
    /// How the keys under the statements followed one another, where one of them was replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    key_changes: Vec<String>,
}

/// What one node has signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Statement {
    node: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    key: String,
    note: String,
    /// The entry's path in the tree that the note is of.
    inclusion: Vec<String>,
}

/// Why a custody is not what it says.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CustodyError {
    /// It is no custody of this version.
    #[error("it is no custody of this version: {0}")]
    Malformed(String),
    /// The node showed a hash in the place of the entry.
    #[error("the entry's bytes were not shown; ask as one who may read the record")]
    Withheld,
    /// What is written beside the proof is not what is proven.
    #[error("its {0} is not what the signed bytes say")]
    Differs(&'static str),
    /// A statement does not hold.
    #[error("the statement of {node}: {why}")]
    Statement {
        /// Whose.
        node: String,
        /// Why not.
        why: String,
    },
}

/// What a custody proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ladder {
    /// The record.
    pub record: String,
    /// Its revision.
    pub revision: u64,
    /// Who submitted it: a SPIFFE ID.
    pub submitter: String,
    /// When the origin took it in, by its clock.
    pub accepted: LedgerTime,
    /// Its index in the origin's log.
    pub index: u64,
    /// Who signed for it, the origin first.
    pub rungs: Vec<Rung>,
}

/// One node that has signed for an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rung {
    /// The node.
    pub node: String,
    /// The size of the tree that it signed.
    pub size: u64,
    /// When it cosigned, by its clock; `None` for the origin, whose signature bears no time.
    pub time: Option<LedgerTime>,
    /// The key that the signature is right under.
    pub key: VerifierKey,
    /// Whether the reader trusts that key: without it, the statement proves nothing.
    pub trusted: bool,
}

impl Custody {
    /// What a node answered, as a file: each note keeps the signatures that the custody rests on.
    ///
    /// # Errors
    /// [`CustodyError::Malformed`] where the answer is not whole, [`CustodyError::Withheld`].
    pub fn of(answer: &pb::GetCustodyResponse) -> Result<Self, CustodyError> {
        let missing = || CustodyError::Malformed("the node's answer is not whole".to_owned());
        let logged = answer.entry.as_ref().ok_or_else(missing)?;
        let log = answer.log.as_ref().ok_or_else(missing)?;
        let proof = answer.inclusion.as_ref().ok_or_else(missing)?;
        if logged.entry_bytes.is_empty() {
            return Err(CustodyError::Withheld);
        }
        let index = u64::try_from(logged.index).map_err(|_| missing())?;
        let entry = parse(index, &logged.entry_bytes)?;
        let keys = KeyHistory::told(read_key(&log.verifier_key)?, &log.key_changes);
        let keys = keys.map_err(|e| CustodyError::Malformed(format!("{e}")))?;
        let (note, key) = signed_by(&answer.checkpoint, &keys, None)?;
        let mut key_changes = log.key_changes.clone();
        let mut statements = vec![Statement {
            node: node_of_origin(&log.origin).to_owned(),
            time: None,
            key: key.to_string(),
            note,
            inclusion: path(&proof.hashes),
        }];
        for cosignature in &answer.cosignatures {
            let cosigner = read_key(&cosignature.verifier_key)?;
            let time = ledger_time(cosignature.time.as_ref()).ok_or_else(missing)?;
            statements.push(Statement {
                node: cosignature.node.clone(),
                time: Some(time.to_string()),
                key: cosignature.verifier_key.clone(),
                note: signed_by(&cosignature.note, &keys, Some(&cosigner))?.0,
                inclusion: path(&cosignature.inclusion),
            });
            let changes = cosignature.key_changes.iter();
            key_changes.extend(
                changes
                    .filter(|note| !log.key_changes.contains(note))
                    .cloned(),
            );
        }
        Ok(Self {
            hefu_custody: FORMAT,
            record: entry.name.to_string(),
            revision: entry.revision(),
            submitter: entry.message.submitter.clone(),
            accepted: entry.time.to_string(),
            origin: log.origin.clone(),
            index,
            entry: BASE64.encode(&logged.entry_bytes),
            statements,
            key_changes,
        })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`CustodyError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, CustodyError> {
        serde_json::from_str(text).map_err(|e| CustodyError::Malformed(e.to_string()))
    }

    /// The file.
    #[must_use]
    pub fn text(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// The keys that it names, to be trusted only where the node that it came from is.
    ///
    /// # Errors
    /// [`CustodyError::Malformed`].
    pub fn keys(&self) -> Result<Vec<VerifierKey>, CustodyError> {
        let keys = self.statements.iter();
        keys.map(|statement| read_key(&statement.key)).collect()
    }

    /// Checks everything: the entry, its place in each tree that was signed, every signature, and
    /// whatever is written beside them. Statements under keys that are not among `trusted` are checked
    /// as well, and marked.
    ///
    /// # Errors
    /// [`CustodyError`] says what does not hold.
    pub fn verify(&self, trusted: &[VerifierKey]) -> Result<Ladder, CustodyError> {
        if self.hefu_custody != FORMAT {
            let text = format!("its version is {}, not {FORMAT}", self.hefu_custody);
            return Err(CustodyError::Malformed(text));
        }
        let bytes = BASE64
            .decode(&self.entry)
            .map_err(|_| CustodyError::Malformed("its entry is no base64".to_owned()))?;
        let entry = parse(self.index, &bytes)?;
        self.says(&entry)?;
        let Some(first) = self.statements.first() else {
            return Err(CustodyError::Malformed("nobody signed it".to_owned()));
        };
        let origin = read_key(&first.key)?;
        if origin.purpose() != KeyUse::Log || origin.name() != self.origin {
            return Err(CustodyError::Differs("origin"));
        }
        let chain = Chain::read(&self.key_changes)
            .map_err(|e| CustodyError::Malformed(format!("a key change: {e}")))?;
        let scene = Scene {
            leaf: entry.leaf_hash(),
            origin,
            chain,
            trusted,
        };
        let rung = |(at, statement): (usize, &Statement)| {
            let cosigner = match at {
                0 => None,
                _ => Some(read_key(&statement.key)?),
            };
            let rung = self.rung(statement, cosigner, &scene);
            rung.map_err(|why| CustodyError::Statement {
                node: statement.node.clone(),
                why,
            })
        };
        let rungs: Result<Vec<_>, CustodyError> =
            self.statements.iter().enumerate().map(rung).collect();
        Ok(Ladder {
            record: self.record.clone(),
            revision: self.revision,
            submitter: self.submitter.clone(),
            accepted: entry.time,
            index: self.index,
            rungs: rungs?,
        })
    }

    /// Whether what people read in the file is what the entry says.
    fn says(&self, entry: &StoredEntry) -> Result<(), CustodyError> {
        let written = [
            ("record", self.record == entry.name.to_string()),
            ("revision", self.revision == entry.revision()),
            ("submitter", self.submitter == entry.message.submitter),
            ("accepted", self.accepted == entry.time.to_string()),
        ];
        match written.iter().find(|(_, same)| !same) {
            Some((what, _)) => Err(CustodyError::Differs(what)),
            None => Ok(()),
        }
    }

    fn rung(
        &self,
        statement: &Statement,
        cosigner: Option<VerifierKey>,
        scene: &Scene<'_>,
    ) -> Result<Rung, String> {
        let note: Note = statement.note.parse().map_err(|e| format!("{e}"))?;
        let origin = match &cosigner {
            None => scene.origin.clone(),
            Some(_) => scene.chain.signer(&note, &scene.origin),
        };
        let keys: Vec<_> = [Some(&origin), cosigner.as_ref()]
            .into_iter()
            .flatten()
            .collect();
        // What nobody checks is not carried: every byte of the note is text or a signature of these.
        if note.bearing(&keys).to_string() != statement.note {
            return Err("its note bears other lines than the signatures it rests on".to_owned());
        }
        let signed = note.verify_log(&origin).map_err(|e| e.to_string())?;
        scene.chain.believes_size(&origin, signed.size)?;
        let (node, time) = match &cosigner {
            None => (node_of_origin(&self.origin), None),
            Some(key) => {
                let time = note.verify_cosignature(key).map_err(|e| e.to_string())?;
                scene.chain.believes_time(key, time)?;
                (self.node_of_cosigner(key), Some(time))
            }
        };
        if node != statement.node || time.map(|time| time.to_string()) != statement.time {
            return Err("its node or time is not what is signed".to_owned());
        }
        let decode = |hash: &String| BASE64.decode(hash).ok()?.try_into().ok();
        let path: Option<Vec<Hash>> = statement.inclusion.iter().map(decode).collect();
        let path = path.ok_or("its path is no list of hashes")?;
        if !verify_inclusion(&scene.leaf, self.index, signed.size, &path, &signed.root) {
            return Err("the entry is not in the tree that it signed".to_owned());
        }
        let (node, size) = (node.to_owned(), signed.size);
        let key = cosigner.unwrap_or(origin);
        Ok(Rung {
            node,
            size,
            time,
            trusted: scene.chain.trusts(scene.trusted, &key)?,
            key,
        })
    }

    /// The node that a cosigner's key is named after; empty for one of another trust domain.
    fn node_of_cosigner<'a>(&self, key: &'a VerifierKey) -> &'a str {
        match key.name().split_once('/') {
            Some((domain, node)) if self.origin.split('/').next() == Some(domain) => node,
            _ => "",
        }
    }
}

/// What every statement is checked against.
struct Scene<'a> {
    leaf: Hash,
    /// The key of the origin's own statement.
    origin: VerifierKey,
    chain: Chain,
    trusted: &'a [VerifierKey],
}

fn parse(index: u64, bytes: &[u8]) -> Result<StoredEntry, CustodyError> {
    let at = EntryRef {
        log: LogNo::OWN,
        index: LogIndex(index),
    };
    StoredEntry::parse(at, bytes.to_vec().into())
        .map_err(|e| CustodyError::Malformed(format!("its entry: {e}")))
}

fn read_key(text: &str) -> Result<VerifierKey, CustodyError> {
    text.parse()
        .map_err(|e| CustodyError::Malformed(format!("{e}")))
}

/// A note with the lines of the origin's key and of the cosigner, and the key of the origin that it bears.
fn signed_by(
    note: &str,
    keys: &KeyHistory,
    cosigner: Option<&VerifierKey>,
) -> Result<(String, VerifierKey), CustodyError> {
    let malformed = |e: NoteError| CustodyError::Malformed(format!("{e}"));
    let note: Note = note.parse().map_err(malformed)?;
    let key = keys.signer(&note).map_err(malformed)?.key;
    let bears: Vec<_> = [Some(key), cosigner].into_iter().flatten().collect();
    Ok((note.bearing(&bears).to_string(), key.clone()))
}

fn path(hashes: &[Digest]) -> Vec<String> {
    let encoded = hashes.iter().map(|hash| BASE64.encode(&hash.value));
    encoded.collect()
}

/// The node of an origin: its middle part.
fn node_of_origin(origin: &str) -> &str {
    origin.split('/').nth(1).unwrap_or_default()
}

#[cfg(test)]
mod tests;
