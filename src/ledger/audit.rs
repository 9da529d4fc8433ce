//! The auditor: reads a journal from its first frame to its last, trusts nothing, names what is wrong.

use std::collections::BTreeMap;

use prost::Message as _;

use super::{
    apply::{StateTiles, Trees},
    entry::StoredEntry,
    head::EntryRef,
    keys,
    merkle::{Hash, Tree},
    note::{Note, VerifierKey},
    open::{applied, check_format, check_registers, replay},
    rules::Rules,
};
use crate::{
    proto::ledger::v1 as pb,
    storage::{Frame, FrameKind, KeyRange, KeyValue, LogStore, Position, StateStore, StorageError},
    types::{LedgerTime, LogNo},
};

/// Payload bytes read at a time.
const SCAN_BYTES: usize = 1024 * 1024;
/// Differences between states that are named; the rest is counted.
const MAX_DIFFERENCES: usize = 20;

/// One thing that is wrong, in words that name where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect(pub String);

/// One log, as audited.
#[derive(Debug, Clone)]
pub struct AuditedLog {
    /// Its origin.
    pub origin: String,
    /// Its key.
    pub key: VerifierKey,
    /// Entries.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
    /// Size of the newest checkpoint that was checked.
    pub signed_size: u64,
    /// Why it is quarantined.
    pub quarantined: Option<String>,
}

/// What an audit found.
#[derive(Debug, Default)]
pub struct Report {
    /// Everything that is wrong; empty is good.
    pub defects: Vec<Defect>,
    /// The logs.
    pub logs: BTreeMap<LogNo, AuditedLog>,
    /// Entries hashed.
    pub entries: u64,
    /// Signatures of origins checked.
    pub signatures: u64,
    /// Cosignatures checked.
    pub cosignatures: u64,
    /// Keys of the derived state compared.
    pub keys_compared: u64,
    last_times: BTreeMap<LogNo, LedgerTime>,
}

impl Report {
    fn defect(&mut self, what: String) {
        self.defects.push(Defect(what));
    }
}

/// Audits the journal against itself: hashes, signatures, order; and, with a `state`, against it.
/// `scratch` is an empty state that the audit fills anew from the journal.
///
/// # Errors
/// [`StorageError`] where reading itself fails; damage that was found is in the report.
pub fn audit(
    journal: &dyn LogStore,
    state: Option<&dyn StateStore>,
    scratch: &dyn StateStore,
    rules: &dyn Rules,
    progress: &mut dyn FnMut(Position, Position),
) -> Result<Report, StorageError> {
    let mut report = Report::default();
    check_format(scratch)?;
    check_registers(scratch, rules)?;
    let until = match state {
        Some(state) => applied(journal, state)?,
        None => Some(journal.end()),
    };
    let Some(until) = until else {
        report.defect("the derived state is ahead of the journal".to_owned());
        return Ok(report);
    };
    let (mut at, mut trees) = (Position(0), Trees::new());
    let mut compared = false;
    while at < journal.end() {
        if at == until && !compared {
            compare(state, scratch, &mut report)?;
            compared = true;
        }
        let stop = if at < until { until } else { journal.end() };
        let scan = match journal.scan(at, SCAN_BYTES) {
            Ok(scan) => scan,
            Err(StorageError::Corrupt { what }) => {
                report.defect(what);
                return Ok(report);
            }
            Err(error) => return Err(error),
        };
        // The check walks ahead of the replay with trees of its own, frame by frame.
        let mut checked = trees.clone();
        for (position, frame) in &scan.frames {
            if *position >= stop {
                break;
            }
            check_frame(frame, &mut checked, scratch, &mut report);
        }
        at = replay(journal, scratch, rules, at, stop, &mut trees)?;
        progress(at, journal.end());
    }
    if !compared {
        compare(state, scratch, &mut report)?;
    }
    for (log, tree) in &trees {
        if let Some(audited) = report.logs.get_mut(log) {
            audited.size = tree.size();
            audited.root = tree.root();
        }
    }
    Ok(report)
}

fn check_frame(frame: &Frame, trees: &mut Trees, state: &dyn StateStore, report: &mut Report) {
    match frame.kind {
        FrameKind::Log => check_log(frame, trees, report),
        FrameKind::Entry => check_entry(frame, trees, report),
        FrameKind::Checkpoint => {
            if let Err(what) = check_checkpoint(frame, trees, report) {
                let index = frame.index.0;
                report.defect(format!(
                    "checkpoint at {index} of log {}: {what}",
                    frame.log.0
                ));
            }
        }
        FrameKind::Cosignature => {
            if let Err(what) = check_cosignature(frame, trees, state, report) {
                report.defect(format!("cosignature of log {}: {what}", frame.log.0));
            }
        }
        // Of the own log it is the parent's proof that this node had to recover entries.
        FrameKind::Evidence if frame.log == LogNo::OWN => {}
        FrameKind::Evidence => {
            if let (Some(log), Ok(evidence)) = (
                report.logs.get_mut(&frame.log),
                pb::Evidence::decode(frame.payload.clone()),
            ) {
                log.quarantined = Some(evidence.reason);
            }
        }
    }
}

fn check_log(frame: &Frame, trees: &mut Trees, report: &mut Report) {
    trees.entry(frame.log).or_default();
    let log = pb::Log::decode(frame.payload.clone()).unwrap_or_default();
    match log.verifier_key.parse::<VerifierKey>() {
        Ok(key) if key.name() == log.origin => {
            let audited = AuditedLog {
                origin: log.origin,
                key,
                size: 0,
                root: super::merkle::empty_root(),
                signed_size: 0,
                quarantined: None,
            };
            report.logs.insert(frame.log, audited);
        }
        _ => report.defect(format!(
            "the registration of log {} has no usable key",
            frame.log.0
        )),
    }
}

fn check_entry(frame: &Frame, trees: &mut Trees, report: &mut Report) {
    let (log, index) = (frame.log, frame.index);
    let tree: &mut Tree = trees.entry(log).or_default();
    if tree.size() != index.0 {
        report.defect(format!(
            "log {}: entry {} where {} was due",
            log.0,
            index.0,
            tree.size()
        ));
    }
    tree.push(super::merkle::leaf_hash(&frame.payload), |_| ());
    report.entries += 1;
    match StoredEntry::parse(EntryRef { log, index }, frame.payload.clone()) {
        Ok(entry) => {
            let last = report.last_times.insert(log, entry.time);
            if last.is_some_and(|last| last > entry.time) {
                report.defect(format!("log {}: time runs backwards at {}", log.0, index.0));
            }
        }
        Err(error) if log == LogNo::OWN => {
            report.defect(format!("entry {} of the own log: {error}", index.0));
        }
        // A newer node below may write what this program does not know; it is carried.
        Err(_) => {}
    }
}

fn check_checkpoint(frame: &Frame, trees: &Trees, report: &mut Report) -> Result<(), String> {
    let note = parse(&frame.payload)?;
    let log = report
        .logs
        .get_mut(&frame.log)
        .ok_or("the log is not registered")?;
    let signed = note.verify_log(&log.key).map_err(|e| e.to_string())?;
    let tree = trees.get(&frame.log).ok_or("the log has no entries")?;
    if (signed.size, signed.root) != (tree.size(), tree.root()) {
        return Err("the entries do not hash to its root".to_owned());
    }
    log.signed_size = signed.size;
    report.signatures += 1;
    Ok(())
}

fn check_cosignature(
    frame: &Frame,
    trees: &Trees,
    state: &dyn StateStore,
    report: &mut Report,
) -> Result<(), String> {
    let cosignature = pb::Cosignature::decode(frame.payload.clone()).map_err(|e| e.to_string())?;
    let note = parse(cosignature.note.as_bytes())?;
    let log = report
        .logs
        .get(&frame.log)
        .ok_or("the log is not registered")?;
    let signed = note.verify_log(&log.key).map_err(|e| e.to_string())?;
    let key: VerifierKey = cosignature
        .verifier_key
        .parse()
        .map_err(|_| "its key is not usable")?;
    note.verify_cosignature(&key).map_err(|e| e.to_string())?;
    let tree = trees.get(&frame.log).ok_or("the log has no entries")?;
    let tiles = StateTiles {
        state: &state,
        log: frame.log,
    };
    // Tiles of this very stretch are not in the state yet: only what can be read is compared.
    match tree.root_at(signed.size, &tiles) {
        Ok(root) if root != signed.root => return Err("it cosigns another root".to_owned()),
        Err(super::merkle::ProofError::OutOfRange) => {
            return Err("it cosigns more than the log has".to_owned());
        }
        Ok(_) | Err(_) => {}
    }
    report.cosignatures += 1;
    Ok(())
}

fn parse(bytes: &[u8]) -> Result<Note, String> {
    let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
    text.parse()
        .map_err(|e: super::note::NoteError| e.to_string())
}

/// Every key and value of the state against those that the journal gives.
fn compare(
    state: Option<&dyn StateStore>,
    scratch: &dyn StateStore,
    report: &mut Report,
) -> Result<(), StorageError> {
    let Some(state) = state else { return Ok(()) };
    let all = || KeyRange {
        start: Vec::new(),
        end: None,
    };
    // Both reflect the same frames; they may say so by another position.
    let told = |pair: &Result<KeyValue, StorageError>| {
        pair.as_ref()
            .map_or(true, |(key, _)| key.as_ref() != keys::APPLIED)
    };
    let mut held = state.scan(all(), false).filter(told);
    let mut due = scratch.scan(all(), false).filter(told);
    let (mut left, mut right) = (held.next().transpose()?, due.next().transpose()?);
    let mut differences = 0;
    loop {
        let what = match (&left, &right) {
            (None, None) => break,
            (Some(a), Some(b)) if a == b => None,
            (Some(a), Some(b)) if a.0 == b.0 => Some(("has another value", a.0.clone())),
            (Some(a), b) if b.as_ref().is_none_or(|b| a.0 < b.0) => {
                Some(("is not borne out by the entries", a.0.clone()))
            }
            (_, Some(b)) => Some(("is missing", b.0.clone())),
            (Some(_), None) => break,
        };
        let order = match (&left, &right) {
            (Some(a), Some(b)) => a.0.cmp(&b.0),
            (Some(_), None) => std::cmp::Ordering::Less,
            _ => std::cmp::Ordering::Greater,
        };
        if let Some((what, key)) = what {
            differences += 1;
            if differences <= MAX_DIFFERENCES {
                report.defect(format!("derived state: key {} {what}", readable(&key)));
            }
        }
        report.keys_compared += 1;
        if order.is_le() {
            left = held.next().transpose()?;
        }
        if order.is_ge() {
            right = due.next().transpose()?;
        }
    }
    if differences > MAX_DIFFERENCES {
        report.defect(format!(
            "derived state: {} further differences",
            differences - MAX_DIFFERENCES
        ));
    }
    Ok(())
}

fn readable(key: &[u8]) -> String {
    keys::name_of_head(key).map_or_else(
        || key.escape_ascii().to_string(),
        |name| format!("of the head of {name}"),
    )
}
