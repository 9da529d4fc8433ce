//! Clocks that run: an index of what is not done yet, in the order of time.
//!
//! `d` register 0 kind base agency 0 item, with no value of its own. The base is when a clock began to run, as the
//! record or the ledger has it, encoded as in index keys; how long it may run stands in rule tables that can be
//! replaced, so it is added when it is asked, and a new table rewrites nothing. A key goes when what it waits
//! for is done. Both are on disk and stay.

use std::{collections::BTreeSet, ops::ControlFlow};

use jiff::{SignedDuration, Timestamp};

use super::super::{AnyRegister, Registers};
use super::{index, value::Value};
use crate::{
    ledger::{Ledger, entry::StoredEntry, keys::CLOCKS, rules::Revision},
    storage::{Batch, KeyRange, StorageError},
    types::{AgencyId, RecordName},
};

/// A kind of clock of a register: its number in keys, on disk, and its name.
pub type Kind = (u8, &'static str);

/// A clock that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// Its kind.
    pub kind: u8,
    /// From when.
    pub base: Timestamp,
}

/// What a record says of a clock, by the rules of now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// When it is due.
    pub at: Timestamp,
    /// The record's title.
    pub title: String,
    /// Where.
    pub division: String,
    /// The unit.
    pub unit: String,
}

/// A clock that was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its key: where to go on behind it, and its identity.
    pub key: Vec<u8>,
    /// The record.
    pub name: RecordName,
    /// The clock's name.
    pub clock: &'static str,
    /// From when it runs.
    pub base: Timestamp,
    /// The rest.
    pub due: Due,
}

/// What to look for.
pub struct Search<'a> {
    /// The register; `None` for all.
    pub register: Option<&'a str>,
    /// Due after this; `None` for all that is past.
    pub after: Option<Timestamp>,
    /// Due by then.
    pub until: Timestamp,
    /// Go on behind this key.
    pub behind: Option<&'a [u8]>,
    /// Whose records; others are not there.
    pub visible: &'a dyn Fn(&str, &AgencyId) -> bool,
}

/// Is told of every clock that was looked at: its key, and what was found where it is due. Says when to stop.
pub type Each<'a> = &'a mut dyn FnMut(&[u8], Option<Found>) -> ControlFlow<()>;

/// Starts and stops clocks with a revision.
pub(super) fn change(
    register: &dyn AnyRegister,
    name: &RecordName,
    before: Option<Revision<'_>>,
    after: Revision<'_>,
    batch: &mut Batch,
) {
    let keys = |revision: Revision<'_>| -> BTreeSet<Vec<u8>> {
        if revision.withdrawn || register.clocks().is_empty() {
            return BTreeSet::new();
        }
        let running = register.running(revision.record, revision.time).into_iter();
        running
            .map(|running| key(register.about().id, running, name))
            .collect()
    };
    let (old, new) = (before.map(keys).unwrap_or_default(), keys(after));
    for key in old.difference(&new) {
        batch.remove(key.clone());
    }
    for key in new.difference(&old) {
        batch.put(key.clone(), Vec::new());
    }
}

/// Walks the clocks that may be due in the window, kind by kind.
///
/// # Errors
/// As the ledger.
pub fn walk(
    ledger: &Ledger,
    registers: &Registers,
    search: &Search<'_>,
    each: Each<'_>,
) -> Result<(), StorageError> {
    for (id, register) in registers.iter() {
        if search.register.is_some_and(|wanted| wanted != id.as_str()) {
            continue;
        }
        for kind in register.clocks() {
            if walk_kind(ledger, register, *kind, search, each)?.is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn walk_kind(
    ledger: &Ledger,
    register: &dyn AnyRegister,
    kind: Kind,
    search: &Search<'_>,
    each: Each<'_>,
) -> Result<ControlFlow<()>, StorageError> {
    let id = register.about().id;
    let (shortest, longest) = register.spread(kind.0);
    let less = |at: Timestamp, by: SignedDuration| at.saturating_sub(by).unwrap_or(Timestamp::MIN);
    let first = search
        .after
        .map_or(Timestamp::MIN, |after| less(after, longest));
    let bound = |at: Timestamp| prefix(id, kind.0, at);
    let mut range = KeyRange {
        start: bound(first),
        end: KeyRange::prefix(&bound(less(search.until, shortest))).end,
    };
    if let Some(behind) = search.behind {
        if range.end.as_deref().is_some_and(|end| end <= behind) {
            return Ok(ControlFlow::Continue(()));
        }
        range.start = range.start.max([behind, &[0]].concat());
    }
    for pair in ledger.state().scan(range, false) {
        let (key, _) = pair?;
        let found = found(ledger, register, kind, search, &key)?;
        if each(&key, found).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn found(
    ledger: &Ledger,
    register: &dyn AnyRegister,
    (kind, clock): Kind,
    search: &Search<'_>,
    key: &[u8],
) -> Result<Option<Found>, StorageError> {
    let id = register.about().id;
    let Some(name) = index::name(id, key) else {
        return Ok(None);
    };
    if !(search.visible)(id, name.agency()) {
        return Ok(None);
    }
    let Some(head) = ledger.head(&name)? else {
        return Ok(None);
    };
    let entry: StoredEntry = ledger.entry(head.entry)?;
    let record = &entry.message.record;
    // The state moves on while it is read: what no longer runs is not due.
    let running = register.running(record, entry.time).into_iter();
    let mut running = running.filter(|r| r.kind == kind && !head.withdrawn);
    let Some(running) = running.find(|r| self::key(id, *r, &name) == key) else {
        return Ok(None);
    };
    let due = register.due(kind, record, running.base);
    let in_window =
        |due: &Due| due.at <= search.until && search.after.is_none_or(|after| due.at > after);
    Ok(due.filter(in_window).map(|due| Found {
        key: key.to_vec(),
        name,
        clock,
        base: running.base,
        due,
    }))
}

fn prefix(register: &str, kind: u8, base: Timestamp) -> Vec<u8> {
    let mut key = vec![CLOCKS];
    key.extend_from_slice(register.as_bytes());
    key.extend_from_slice(&[0, kind]);
    key.extend_from_slice(&index::encode(&Value::Time(base)));
    key
}

pub(super) fn key(register: &str, running: Running, name: &RecordName) -> Vec<u8> {
    let mut key = prefix(register, running.kind, running.base);
    key.extend_from_slice(name.agency().as_str().as_bytes());
    key.push(0);
    key.extend_from_slice(name.item().as_str().as_bytes());
    key
}
