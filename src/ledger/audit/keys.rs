//! The auditor's part that looks at keys: each change must be vouched for by the key before it, or by an
//! operator whose word stands in the journal.

use prost::Message as _;

use super::Report;
use crate::{
    ledger::{
        apply::{StateTiles, Trees},
        key_history::{Authorisation, Believed, FIRST_SIGHT},
        merkle::Tree,
    },
    proto::ledger::v1 as pb,
    storage::{Frame, StateStore},
    types::LogNo,
};

pub(super) fn check_authorisation(frame: &Frame, report: &mut Report) -> Result<(), String> {
    let said = pb::KeyAuthorisation::decode(frame.payload.clone()).map_err(|e| e.to_string())?;
    let said = Authorisation::of(&said).ok_or("its key is not usable")?;
    if said.by.is_empty() {
        return Err("it does not say whose word it is".to_owned());
    }
    let origin = said.key.name().to_owned();
    report.authorisations.insert(origin, said);
    Ok(())
}

pub(super) fn check_change(
    frame: &Frame,
    trees: &Trees,
    state: &dyn StateStore,
    report: &mut Report,
) -> Result<(), String> {
    let kept = pb::KeyChange::decode(frame.payload.clone()).map_err(|e| e.to_string())?;
    let believed = Believed::of(&kept).map_err(|e| e.to_string())?;
    report.key_changes += 1;
    if !kept.node.is_empty() {
        // A node above: its log is not held here, so its roots cannot be compared.
        return vouched(&believed, report);
    }
    let tree = trees.get(&frame.log).ok_or("the log is not registered")?;
    let itself = frame.log == LogNo::OWN && !believed.authorised_by.is_empty();
    let at_first_sight = believed.authorised_by == FIRST_SIGHT && tree.size() == 0;
    if !itself && !at_first_sight {
        vouched(&believed, report)?;
    }
    let change = &believed.change;
    if believed.authorised_by.is_empty() && change.size() < tree.size() {
        return Err("it takes back what its key has signed, and nobody says so".to_owned());
    }
    // Tiles of this very stretch are not in the state yet: only what can be read is compared.
    let tiles = StateTiles {
        state: &state,
        log: frame.log,
    };
    let root = tree.root_at(change.size(), &tiles);
    if root.is_ok_and(|root| root != *change.root()) {
        return Err("it names another root".to_owned());
    }
    let log = report.logs.get_mut(&frame.log);
    let log = log.ok_or("the log is not registered")?;
    if change.origin() != log.origin {
        return Err(format!("it is of {}", change.origin()));
    }
    if believed.authorised_by.is_empty() && change.old() != log.keys.current() {
        return Err("it does not follow the key before it".to_owned());
    }
    log.keys.push(believed);
    Ok(())
}

/// Whether the old key or an operator stands for a change.
fn vouched(believed: &Believed, report: &Report) -> Result<(), String> {
    let change = &believed.change;
    if believed.authorised_by.is_empty() {
        return match change.is_signed_by_old() {
            true => Ok(()),
            false => Err("nobody vouches for it".to_owned()),
        };
    }
    let said = report.authorisations.get(change.origin());
    let same = said.is_some_and(|said| {
        said.by == believed.authorised_by
            && said.key == *change.new_key()
            && said.size == change.size()
    });
    match same {
        true => Ok(()),
        false => Err(format!(
            "no word of {} stands for it",
            believed.authorised_by
        )),
    }
}

/// A change may come before the entries up to its size: once they are there, they must have its root.
pub(super) fn check_root(log: LogNo, tree: &Tree, report: &mut Report) {
    let Some(audited) = report.logs.get(&log) else {
        return;
    };
    let mut changes = audited.keys.changes().iter();
    let broken = changes.any(|believed| {
        believed.change.size() == tree.size() && *believed.change.root() != tree.root()
    });
    if broken {
        let size = tree.size();
        report.defect(format!(
            "log {log}: its key change names another root of size {size}"
        ));
    }
}
