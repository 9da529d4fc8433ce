//! The registers, as the ledger sees them.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{
    super::{AnyRegister, Linked, Registers, Tie},
    index, tally,
};
use crate::{
    ledger::{
        head::Head,
        keys,
        rules::{Change, Intent, JudgeError, Judgement, Revision, Rules},
        staged::StateRead,
    },
    storage::{Batch, KeyRange, StorageError},
    types::{FieldReason, Reason, RecordName, Refusal, RegisterId, Violations},
};

/// Dependents that a refusal names.
const NAMED: usize = 5;
/// Dependents that are looked for: one more than a withdrawal may cascade to.
const MAX_FOUND: usize = 1_001;

impl Rules for Registers {
    fn knows(&self, register: &RegisterId) -> bool {
        self.get(register).is_some()
    }

    fn registers(&self) -> Vec<&str> {
        self.iter().map(|(id, _)| id.as_str()).collect()
    }

    fn judge(&self, state: &dyn StateRead, change: &Change<'_>) -> Result<Judgement, JudgeError> {
        let register = self.get(change.name.register());
        let register = register.ok_or_else(|| Refusal::new(Reason::MethodUnknown))?;
        match change.intent {
            Intent::Submit(record) => {
                let before = change.standing.filter(|(_, withdrawn)| !withdrawn);
                register.step(before.map(|(bytes, _)| bytes.as_ref()), record)?;
                self.check_links(state, register, change.name, before, record)?;
                self.check_silence(state, register, change.name, record)?;
                Ok(Judgement {
                    record: record.clone(),
                    cascade: Vec::new(),
                })
            }
            Intent::Withdraw { cascade, .. } => {
                let dependents = self.live_dependents(state, change.name)?;
                if !dependents.is_empty() && !cascade {
                    return Err(live_dependents(&dependents).into());
                }
                let standing = change.standing.map(|(bytes, _)| bytes.as_ref());
                let record = [standing.unwrap_or_default(), &register.withdrawal()].concat();
                Ok(Judgement {
                    record: Bytes::from(record),
                    cascade: dependents,
                })
            }
        }
    }

    fn index(
        &self,
        name: &RecordName,
        before: Option<Revision<'_>>,
        after: Revision<'_>,
        batch: &mut Batch,
    ) {
        let Some(register) = self.get(name.register()) else {
            return;
        };
        let keys = |revision: Revision<'_>| -> BTreeSet<Vec<u8>> {
            register
                .index_keys(name, revision.record)
                .into_iter()
                .collect()
        };
        let (old, new) = (before.map(keys).unwrap_or_default(), keys(after));
        for key in old.difference(&new) {
            batch.changes.insert(key.clone(), None);
        }
        for key in new.difference(&old) {
            batch.changes.insert(key.clone(), Some(Vec::new()));
        }
    }

    fn count(
        &self,
        name: &RecordName,
        before: Option<Revision<'_>>,
        after: Revision<'_>,
        state: &dyn StateRead,
        batch: &mut Batch,
    ) -> Result<(), StorageError> {
        let Some(register) = self.get(name.register()).filter(|r| r.counts()) else {
            return Ok(());
        };
        let tally = |revision: Revision<'_>| {
            let live = !revision.withdrawn;
            live.then(|| register.tally(revision.record, revision.created))?
        };
        let (before, after) = (before.and_then(tally), tally(after));
        tally::change(register, name, before, after, state, batch)
    }
}

impl Registers {
    fn live_dependents(
        &self,
        state: &dyn StateRead,
        name: &RecordName,
    ) -> Result<Vec<RecordName>, StorageError> {
        let mut found = Vec::new();
        for (id, register) in self.iter() {
            for prefix in register.naming(name, Tie::Part) {
                live_under(state, id, &prefix, MAX_FOUND, &mut found)?;
            }
        }
        Ok(found)
    }

    /// What a record says is not there must not be there.
    fn check_silence(
        &self,
        state: &dyn StateRead,
        register: &dyn AnyRegister,
        name: &RecordName,
        record: &[u8],
    ) -> Result<(), JudgeError> {
        let Some(silence) = register.silence(record) else {
            return Ok(());
        };
        let Some(of) = self.get(&silence.register) else {
            return Ok(());
        };
        let count = tally::count_of(of, name.agency(), state, &silence.days)?;
        if count == 0 {
            return Ok(());
        }
        let (from, to) = (silence.days.start(), silence.days.end());
        Err(Refusal::new(Reason::NilContradicted)
            .because(
                format!("{count} {} from {from} to {to}", silence.register),
                format!("{from} 至 {to} 有 {} {count} 条", silence.register),
            )
            .with("count", count)
            .into())
    }

    /// Every record that a record names must be there, as far as its tie asks for that.
    fn check_links(
        &self,
        state: &dyn StateRead,
        register: &dyn AnyRegister,
        name: &RecordName,
        before: Option<(&Bytes, bool)>,
        record: &[u8],
    ) -> Result<(), JudgeError> {
        let named = register.links(record);
        if named.is_empty() {
            return Ok(());
        }
        let stood = before.map(|(bytes, _)| register.links(bytes));
        let stood = stood.unwrap_or_default();
        for linked in named {
            if linked.tie != Tie::Part && stood.contains(&linked) {
                continue;
            }
            check_live(state, name, &linked, register.about().field)?;
            if linked.tie == Tie::Same {
                check_unnamed(state, register, name, linked.field)?;
            }
        }
        Ok(())
    }
}

fn is_live(state: &dyn StateRead, name: &RecordName) -> Result<bool, StorageError> {
    let head = state.get(&keys::head(name))?;
    Ok(head
        .and_then(|bytes| Head::from_bytes(&bytes))
        .is_some_and(|head| !head.withdrawn))
}

/// Live records with an index key of that prefix, up to `most` in all.
fn live_under(
    state: &dyn StateRead,
    register: &RegisterId,
    prefix: &[u8],
    most: usize,
    found: &mut Vec<RecordName>,
) -> Result<(), StorageError> {
    for pair in state.scan(KeyRange::prefix(prefix)) {
        let (key, _) = pair?;
        let Some(name) = index::name(register.as_str(), &key) else {
            continue;
        };
        if found.len() >= most {
            break;
        }
        if is_live(state, &name)? {
            found.push(name);
        }
    }
    Ok(())
}

fn check_live(
    state: &dyn StateRead,
    of: &RecordName,
    linked: &Linked,
    field: &str,
) -> Result<(), JudgeError> {
    // Validation has parsed it; bytes that skipped validation cannot get here.
    let parsed: Option<RecordName> = linked.name.parse().ok();
    let live = match &parsed {
        Some(name) if linked.tie != Tie::Part && name.agency() != of.agency() => true,
        Some(name) => is_live(state, name)?,
        None => false,
    };
    if live {
        return Ok(());
    }
    Err(Refusal::new(Reason::ReferenceMissing)
        .because(&linked.name, &linked.name)
        .with("field", format!("{field}.{}", linked.field))
        .into())
}

/// A record that others say is the same as theirs stays the one that they mean.
fn check_unnamed(
    state: &dyn StateRead,
    register: &dyn AnyRegister,
    name: &RecordName,
    field: &str,
) -> Result<(), JudgeError> {
    let mut found = Vec::new();
    for prefix in register.naming(name, Tie::Same) {
        live_under(state, name.register(), &prefix, 1, &mut found)?;
    }
    if found.is_empty() {
        return Ok(());
    }
    let mut v = Violations::new();
    let (en, zh) = (
        "is set on a record that others name as theirs: leave it empty here, and let them name the other one",
        "已有记录以本记录为原件：此处留空，改由它们指向另一条",
    );
    let path = format!("{}.{field}", register.about().field);
    v.field(&path, FieldReason::NotAllowed, en, zh);
    Err(Refusal::from(v).into())
}

fn live_dependents(dependents: &[RecordName]) -> Refusal {
    let names: Vec<_> = dependents
        .iter()
        .take(NAMED)
        .map(ToString::to_string)
        .collect();
    let (count, names) = (dependents.len(), names.join(", "));
    Refusal::new(Reason::LiveDependents)
        .because(format!("{count}: {names}"), format!("{count} 条：{names}"))
        .with("count", count)
        .with("names", names)
}
