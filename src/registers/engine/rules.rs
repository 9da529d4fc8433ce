//! The registers, as the ledger sees them.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{super::Registers, index};
use crate::{
    ledger::{
        head::Head,
        keys,
        rules::{Change, Intent, JudgeError, Judgement, Revision, Rules},
        staged::StateRead,
    },
    storage::{Batch, KeyRange, StorageError},
    types::{Reason, RecordName, Refusal, RegisterId},
};

/// Dependents that a refusal names.
const NAMED: usize = 5;
/// Dependents that are looked for: one more than a withdrawal may cascade to.
const MAX_FOUND: usize = 1_001;

impl Rules for Registers {
    fn knows(&self, register: &RegisterId) -> bool {
        self.get(register).is_some()
    }

    fn judge(&self, state: &dyn StateRead, change: &Change<'_>) -> Result<Judgement, JudgeError> {
        let register = self.get(change.name.register());
        let register = register.ok_or_else(|| Refusal::new(Reason::MethodUnknown))?;
        match change.intent {
            Intent::Submit(record) => {
                let before = change.standing.filter(|(_, withdrawn)| !withdrawn);
                register.step(before.map(|(bytes, _)| bytes.as_ref()), record)?;
                if let Some((_, name)) = register.link(record) {
                    check_link(state, &name, register.about().field)?;
                }
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
}

impl Registers {
    fn live_dependents(
        &self,
        state: &dyn StateRead,
        name: &RecordName,
    ) -> Result<Vec<RecordName>, StorageError> {
        let mut found = Vec::new();
        for (id, register) in self.iter() {
            let Some(prefix) = register.dependents(name) else {
                continue;
            };
            for pair in state.scan(KeyRange::prefix(&prefix)) {
                let (key, _) = pair?;
                let Some(dependent) = index::name(id.as_str(), &key) else {
                    continue;
                };
                if is_live(state, &dependent)? {
                    found.push(dependent);
                }
                if found.len() >= MAX_FOUND {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }
}

fn is_live(state: &dyn StateRead, name: &RecordName) -> Result<bool, StorageError> {
    let head = state.get(&keys::head(name))?;
    Ok(head
        .and_then(|bytes| Head::from_bytes(&bytes))
        .is_some_and(|head| !head.withdrawn))
}

fn check_link(state: &dyn StateRead, name: &str, field: &str) -> Result<(), JudgeError> {
    // Validation has parsed it; bytes that skipped validation cannot get here.
    let parsed: Option<RecordName> = name.parse().ok();
    let live = parsed
        .as_ref()
        .map(|name| is_live(state, name))
        .transpose()?;
    if live == Some(true) {
        return Ok(());
    }
    Err(Refusal::new(Reason::ReferenceMissing)
        .because(name, name)
        .with("field", field)
        .into())
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
