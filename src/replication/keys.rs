//! Keys that change: of logs that are offered, and of the nodes that cosign them.

use super::{Board, MAX_KEY_CHANGES};
use crate::{
    ledger::{
        Ledger, LogView, SubmitError, Taken,
        key_change::KeyChange,
        key_history::Believed,
        note::{Note, NoteError, VerifierKey},
    },
    types::{LedgerTime, NodeId, Reason, Refusal},
};

/// How a node cosigns: its key, and those that it has replaced.
#[derive(Debug, Clone)]
pub(super) struct Cosigner {
    pub key: VerifierKey,
    older: Vec<VerifierKey>,
    /// Changes that led to the key from the one that was known here.
    pub news: Vec<Believed>,
}

impl Cosigner {
    /// A node's keys as it tells them itself, with nothing known here to compare them with.
    ///
    /// # Errors
    /// [`NoteError`] where a change is none.
    pub fn told(key: VerifierKey, told: &[String]) -> Result<Self, NoteError> {
        let told = told.iter().take(MAX_KEY_CHANGES);
        let changes: Vec<_> = told
            .map(|note| KeyChange::parse(note))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            older: older(&key, &changes),
            key,
            news: Vec::new(),
        })
    }

    /// Which of its keys has cosigned, and when.
    ///
    /// # Errors
    /// Why none has.
    pub fn verify(&self, note: &Note) -> Result<(&VerifierKey, LedgerTime), NoteError> {
        let mut ended = Err(NoteError::Unsigned(self.key.name().to_owned()));
        for key in std::iter::once(&self.key).chain(&self.older) {
            match note.verify_cosignature(key) {
                Ok(time) => return Ok((key, time)),
                Err(NoteError::Unsigned(_)) => {}
                Err(error) => ended = Err(error),
            }
        }
        ended
    }
}

/// The key under which a node cosigns: named after it, and the one that it has used before, or one that follows
/// from that by changes which the key before has signed, or an operator here has authorised.
///
/// # Errors
/// What does not fit.
pub(super) fn cosigner(
    board: &Board,
    node: &str,
    key: &str,
    told: &[String],
) -> Result<Cosigner, String> {
    let id: NodeId = node
        .parse()
        .map_err(|e| format!("the cosigner's node: {e}"))?;
    let key: VerifierKey = key.parse().map_err(|e| format!("the key of {id}: {e}"))?;
    let name = format!("{}/{id}", board.own().domain());
    if key.name() != name || key != key.as_cosigner() {
        return Err(format!("the key of {id} has the name {}", key.name()));
    }
    let changes = changes(board, node, &name, told)?;
    let known = {
        let receipts = board.receipts();
        let receipts = receipts.borrow();
        let known = receipts.iter().find(|((_, n), _)| n == node);
        known.and_then(|(_, known)| known.verifier_key.parse::<VerifierKey>().ok())
    };
    let news = match known {
        Some(known) if known != key && !older(&known, &changes).contains(&key) => {
            follow(board.ledger(), &id, known, &key, &changes)?
        }
        _ => Vec::new(),
    };
    Ok(Cosigner {
        older: older(&key, &changes),
        key,
        news,
    })
}

/// What is known of a node's key changes, and what was told now.
fn changes(
    board: &Board,
    node: &str,
    name: &str,
    told: &[String],
) -> Result<Vec<KeyChange>, String> {
    if told.len() > MAX_KEY_CHANGES {
        return Err(format!("{node} names too many key changes"));
    }
    let kept = board.ledger().key_changes_above(node);
    let kept = kept.map_err(|e| e.to_string())?;
    let mut changes: Vec<_> = kept.into_iter().map(|believed| believed.change).collect();
    for note in told {
        let change = KeyChange::parse(note).map_err(|e| format!("a key change of {node}: {e}"))?;
        if change.new_key().as_cosigner().name() != name {
            return Err(format!("a key change of {node} is of {}", change.origin()));
        }
        if !changes.contains(&change) {
            changes.push(change);
        }
    }
    Ok(changes)
}

/// The keys before one: whoever has the later key says with it which came before.
fn older(key: &VerifierKey, changes: &[KeyChange]) -> Vec<VerifierKey> {
    let mut keys: Vec<VerifierKey> = Vec::new();
    let mut at = key.clone();
    while let Some(change) = changes.iter().find(|c| c.new_key().is_key_of(&at)) {
        at = change.old().as_cosigner();
        if keys.contains(&at) || at == *key {
            break;
        }
        keys.push(at.clone());
    }
    keys
}

/// The changes that lead from a key that is known to another.
fn follow(
    ledger: &Ledger,
    node: &NodeId,
    known: VerifierKey,
    key: &VerifierKey,
    changes: &[KeyChange],
) -> Result<Vec<Believed>, String> {
    let (mut at, mut news) = (known, Vec::new());
    while at != *key {
        let next = changes.iter().find(|change| change.old().is_key_of(&at));
        let Some(change) = next.filter(|_| news.len() <= changes.len()) else {
            return Err(format!(
                "{node} cosigns with another key than before; if it was renewed, an operator must say so"
            ));
        };
        let said = ledger
            .authorisation(change.origin())
            .map_err(|e| e.to_string())?;
        let said = said
            .filter(|said| said.key == *change.new_key() && said.size == change.size())
            .map(|said| said.by);
        let authorised_by = match (change.is_signed_by_old(), said) {
            (true, _) => String::new(),
            (false, Some(by)) => by,
            (false, None) => return Err(unvouched(change).en),
        };
        at = change.new_key().as_cosigner();
        news.push(Believed {
            change: change.clone(),
            authorised_by,
        });
    }
    Ok(news)
}

/// Takes changes of a log's key that were told, as far as they are new here.
///
/// # Errors
/// [`Told`]: what stands against them.
pub(super) async fn take(
    ledger: &Ledger,
    view: &LogView,
    changes: impl Iterator<Item = KeyChange>,
) -> Result<(), Told> {
    for change in changes {
        if view
            .keys
            .changes()
            .iter()
            .any(|known| known.change == change)
        {
            continue;
        }
        let invalid =
            |why: &str| Refusal::new(Reason::CheckpointInvalid).because(why, "日志的密钥变更无效");
        match ledger.take_key_change(view.log, change.clone()).await? {
            Taken::Believed => {}
            Taken::Unauthorised => return Err(Told::Refused(unvouched(&change))),
            Taken::Invalid(why) => return Err(Told::Refused(invalid(why))),
            Taken::Quarantined(reason) => return Err(Told::Quarantined(reason)),
            Taken::Unknown => return Err(Told::Refused(Reason::LogNotFound.into())),
        }
    }
    Ok(())
}

/// The newest checkpoint of a log, as far as its key is still believed for it; otherwise empty.
pub(super) fn believed_note(view: &LogView) -> String {
    let stands = || {
        let note: Option<Note> = view.note.parse().ok();
        note.is_some_and(|note| view.believes(&note))
    };
    match view.note.is_empty() || stands() {
        true => view.note.clone(),
        false => String::new(),
    }
}

/// Why key changes are not taken.
pub(super) enum Told {
    /// They are not believed.
    Refused(Refusal),
    /// The log is quarantined.
    Quarantined(String),
    /// The node is stopping.
    Stopped,
}

impl From<SubmitError> for Told {
    fn from(_: SubmitError) -> Self {
        Self::Stopped
    }
}

/// A key that the one before it does not vouch for, and what an operator can do.
fn unvouched(change: &KeyChange) -> Refusal {
    let (key, size) = (change.new_key(), change.size());
    let (id, origin) = (key.id(), change.origin());
    let en = format!(
        "key {id} of {origin} from size {size} on; where its operator confirms it by another way: \
         hefu key authorise {key} --from {size}"
    );
    let zh = format!(
        "{origin} 自 {size} 起的密钥 {id}；经对方运维人员另行确认后执行 hefu key authorise"
    );
    Refusal::new(Reason::KeyNotAuthorised)
        .because(en, zh)
        .with("verifier_key", key)
        .with("from_size", size)
}
