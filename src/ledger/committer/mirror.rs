//! Entries that come as they were written elsewhere: those of other logs, and those of the own log that
//! a parent still holds. Beside them, what contradicts.

use std::sync::Arc;

use prost::Message as _;

use super::{
    super::{
        Intake, LogView, MirrorBatch, Mirrored, apply::Parsed, entry::timestamp, head::EntryRef,
        keys, note::Note, staged::StateRead as _,
    },
    Committer, Group,
};
use crate::{
    proto::ledger::v1 as pb,
    storage::{FrameKind, StorageError},
    types::{LedgerTime, LogIndex, LogNo},
};

impl Committer {
    /// Takes a batch of another log: only where it continues what is held, and only if it hashes to the
    /// root that the origin signed.
    pub(super) fn mirror(
        &mut self,
        batch: &MirrorBatch,
        parsed: &[Parsed],
        group: &mut Group<'_>,
    ) -> Result<Mirrored, StorageError> {
        if batch.log == LogNo::OWN {
            return self.take_back(batch, parsed, group);
        }
        let Some(tree) = self.trees.get(&batch.log) else {
            return Ok(Mirrored::Unknown);
        };
        let held = self.published.borrow().logs.get(&batch.log).cloned();
        let quarantined = held.as_ref().and_then(|view| view.quarantined.clone());
        if let Some(reason) = quarantined {
            return Ok(Mirrored::Quarantined(reason));
        }
        if let Some(reason) = held.as_ref().and_then(|view| view.closed.clone()) {
            return Ok(Mirrored::Closed(reason));
        }
        if tree.size() != batch.start {
            return Ok(Mirrored::Elsewhere(tree.size()));
        }
        // A node that is behind its parent with its own log may go on with others'.
        if matches!(*self.intake.borrow(), Intake::Full | Intake::Failed(_)) {
            return Ok(Mirrored::NoSpace);
        }
        let leaves: Vec<_> = parsed.iter().map(|parsed| parsed.leaf).collect();
        let checkpoint = batch.note.checkpoint();
        let grown = tree.size() + leaves.len() as u64;
        if grown != checkpoint.size || tree.root_with(&leaves) != checkpoint.root {
            let reason = "the entries do not hash to the root that the origin signed";
            self.quarantine(batch.log, &batch.note, held.as_deref(), reason, group)?;
            return Ok(Mirrored::Quarantined(reason.to_owned()));
        }
        self.add_entries(batch, parsed, group)?;
        let time = LedgerTime::from(self.clock.now());
        let cosigned = format!("{}{}", batch.note, self.key.cosign(checkpoint, time));
        self.add(
            FrameKind::Checkpoint,
            batch.log,
            cosigned.clone().into_bytes().into(),
            group,
        )?;
        group.touched.entry(batch.log).or_default().note = Some(cosigned.clone());
        Ok(Mirrored::Cosigned {
            size: grown,
            note: cosigned,
        })
    }

    fn add_entries(
        &mut self,
        batch: &MirrorBatch,
        parsed: &[Parsed],
        group: &mut Group<'_>,
    ) -> Result<(), StorageError> {
        for ((bytes, parsed), index) in batch.entries.iter().zip(parsed).zip(batch.start..) {
            let at = EntryRef {
                log: batch.log,
                index: LogIndex(index),
            };
            let before = parsed.before(&group.staged)?;
            self.add_entry(at, bytes.clone(), parsed, before, group)?;
        }
        group.proposals += batch.entries.len();
        Ok(())
    }

    /// Takes entries of the own log back: only while the node takes no new ones, only where they continue
    /// what is held, and only if they hash to a root that this node has signed. Nothing is judged again.
    fn take_back(
        &mut self,
        batch: &MirrorBatch,
        parsed: &[Parsed],
        group: &mut Group<'_>,
    ) -> Result<Mirrored, StorageError> {
        let behind = matches!(*self.intake.borrow(), Intake::BehindParent(_));
        let Some(tree) = self.trees.get(&batch.log).filter(|_| behind) else {
            return Ok(Mirrored::Unknown);
        };
        if tree.size() != batch.start {
            return Ok(Mirrored::Elsewhere(tree.size()));
        }
        let leaves: Vec<_> = parsed.iter().map(|parsed| parsed.leaf).collect();
        let checkpoint = batch.note.checkpoint();
        let grown = tree.size() + leaves.len() as u64;
        if grown != checkpoint.size || tree.root_with(&leaves) != checkpoint.root {
            return Ok(Mirrored::NotAsSigned);
        }
        let times = parsed
            .iter()
            .map(|parsed| Some(parsed.entry.as_ref()?.0.time));
        let Some(times) = times.collect::<Option<Vec<_>>>() else {
            return Ok(Mirrored::Unreadable);
        };
        self.add_entries(batch, parsed, group)?;
        self.last_time = times.into_iter().fold(self.last_time, LedgerTime::max);
        let time = LedgerTime::from(self.clock.now());
        let note = format!("{}{}", batch.note, self.key.cosign(checkpoint, time));
        Ok(Mirrored::Cosigned { size: grown, note })
    }

    /// Somebody shows what contradicts a log that is held here. Of the own log, it is the parent that shows
    /// what this node itself has signed: then this node is the one that takes nothing in, until it holds
    /// that again.
    pub(super) fn contradicted(
        &mut self,
        log: LogNo,
        offered: &Note,
        reason: &str,
        group: &mut Group<'_>,
    ) -> Result<(), StorageError> {
        let held = self.published.borrow().logs.get(&log).cloned();
        if log != LogNo::OWN {
            let open = |view: &Arc<LogView>| view.quarantined.is_none() && view.closed.is_none();
            if held.as_ref().is_some_and(open) {
                self.quarantine(log, offered, held.as_deref(), reason, group)?;
            }
            return Ok(());
        }
        self.intake.send_if_modified(|intake| {
            let fails = matches!(intake, Intake::Failed(_));
            if !fails {
                *intake = Intake::BehindParent(reason.to_owned());
            }
            !fails
        });
        let known = group.staged.get(&keys::evidence(log))?;
        let known = known.and_then(|bytes| pb::Evidence::decode(bytes).ok());
        if known.is_some_and(|known| known.offered == offered.to_string()) {
            return Ok(());
        }
        self.keep_evidence(log, offered, held.as_deref(), reason, group)
    }

    /// Keeps what contradicts, and takes nothing more of that log.
    fn quarantine(
        &mut self,
        log: LogNo,
        offered: &Note,
        held: Option<&LogView>,
        reason: &str,
        group: &mut Group<'_>,
    ) -> Result<(), StorageError> {
        let origin = &offered.checkpoint().origin;
        tracing::warn!(origin, reason, "a log contradicts itself; quarantined");
        self.keep_evidence(log, offered, held, reason, group)?;
        group.touched.entry(log).or_default().standing = Some((Some(reason.to_owned()), None));
        Ok(())
    }

    /// Keeps an operator's decision about a log that is quarantined; `false` where it is not.
    pub(super) fn resolve(
        &mut self,
        log: LogNo,
        resolution: pb::Resolution,
        group: &mut Group<'_>,
    ) -> Result<bool, StorageError> {
        let held = self.published.borrow().logs.get(&log).cloned();
        let Some(view) = held.filter(|view| view.quarantined.is_some()) else {
            return Ok(false);
        };
        let newest = group.staged.get(&keys::evidence(log))?;
        let newest = newest.and_then(|bytes| pb::Evidence::decode(bytes).ok());
        let closes = resolution.action() == pb::ResolutionAction::Close;
        let closed = closes.then(|| resolution.reason.clone());
        let resolution = pb::Resolution {
            origin: view.origin().to_owned(),
            evidence: newest.map_or(0, |newest| newest.number),
            size: i64::try_from(view.tree.size()).unwrap_or(i64::MAX),
            time: Some(timestamp(LedgerTime::from(self.clock.now()))),
            ..resolution
        };
        tracing::warn!(
            origin = resolution.origin,
            reason = resolution.reason,
            closed = closes,
            "an operator has ended the quarantine of a log"
        );
        let payload = resolution.encode_to_vec().into();
        self.add(FrameKind::Resolution, log, payload, group)?;
        group.touched.entry(log).or_default().standing = Some((None, closed));
        Ok(true)
    }

    fn keep_evidence(
        &mut self,
        log: LogNo,
        offered: &Note,
        held: Option<&LogView>,
        reason: &str,
        group: &mut Group<'_>,
    ) -> Result<(), StorageError> {
        let evidence = pb::Evidence {
            origin: offered.checkpoint().origin.clone(),
            reason: reason.to_owned(),
            held: held.map(|view| view.note.clone()).unwrap_or_default(),
            offered: offered.to_string(),
            time: Some(timestamp(LedgerTime::from(self.clock.now()))),
            number: 0,
        };
        self.add(
            FrameKind::Evidence,
            log,
            evidence.encode_to_vec().into(),
            group,
        )
    }
}
