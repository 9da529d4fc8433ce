//! A new log for a node whose former one its parent has closed: the way out of a fork that nobody can undo.
//!
//! What a kill leaves: until `next` is there, the node as it was; from then on, a node that does not start, and
//! goes on when this is run again.

use std::path::PathBuf;

use bytes::Bytes;
use prost::Message as _;

use super::{DataFolder, NodeError, open_offline};
use crate::{
    audit::Trail,
    config::Config,
    ledger::{Ledger, head::Head, keys, note::NodeKey},
    proto::ledger::v1 as pb,
    storage::{
        Frame, FrameKind, Journal, JournalOptions, KeyRange, LogStore as _, StorageError, durable,
    },
    types::{Incarnation, LogIndex, LogNo, Origin, SystemClock},
};

/// Entries that are written at a time.
const GROUP: usize = 500;

/// A new log.
#[derive(Debug)]
pub struct Begun {
    /// The former origin.
    pub former: String,
    /// The new one.
    pub origin: String,
    /// Records that it begins with.
    pub records: usize,
    /// Where the former journal and state lie now.
    pub folder: PathBuf,
}

/// Begins a new log with the standing revision of every record of the node's own, under the same key. The node must
/// be stopped; its former journal is set aside, whole.
///
/// # Errors
/// [`NodeError`]; running it again goes on.
pub async fn new_incarnation(config: &Config, reason: &str) -> Result<Begun, NodeError> {
    let data = DataFolder::new(&config.node.data);
    if !data.next().exists() {
        build(config, &data, reason).await?;
    }
    let begun = swap(&data)?;
    let trail = Trail::open(
        &data.audit(),
        config.audit.keep_days,
        std::sync::Arc::new(SystemClock),
    )?;
    let (former, origin) = (&begun.former, &begun.origin);
    trail.event(format!("the log {former} is left for {origin}: {reason}"))?;
    trail.sync()?;
    Ok(begun)
}

/// Writes the new journal beside the old one.
async fn build(config: &Config, data: &DataFolder, reason: &str) -> Result<(), NodeError> {
    let failed = |cause| NodeError::Data {
        path: config.node.data.clone(),
        cause,
    };
    let (ledger, _) = open_offline(config).await?;
    let making = data.next().with_extension("making");
    if making.exists() {
        durable::remove_dir_all(&making).map_err(failed)?;
    }
    let log = succeed(&ledger, &data.load_seed()?, reason)?;
    let entries = standing(&ledger)?;
    ledger.stop().await;
    drop(ledger);
    let journal = Journal::open(&making.join("journal"), JournalOptions::default())?;
    let frame = |kind, index: usize, payload: Vec<u8>| Frame {
        kind,
        log: LogNo::OWN,
        index: LogIndex(index as u64),
        payload: Bytes::from(payload),
    };
    journal.append(&[frame(FrameKind::Log, 0, log.encode_to_vec())])?;
    for (group, entries) in entries.chunks(GROUP).enumerate() {
        let frames = entries.iter().enumerate().map(|(at, entry)| {
            let index = group * GROUP + at;
            frame(FrameKind::Entry, index, entry.encode_to_vec())
        });
        journal.append(&frames.collect::<Vec<_>>())?;
    }
    journal.close()?;
    durable::rename(&making, &data.next()).map_err(failed)
}

/// The registration of the log that comes after the own one.
fn succeed(ledger: &Ledger, seed: &[u8; 32], reason: &str) -> Result<pb::Log, NodeError> {
    let former = ledger.key().log_key().name().to_owned();
    let wrong = |text: &str| NodeError::Failed(format!("{former}: {text}"));
    let origin: Origin = former.parse().map_err(|_| wrong("it is no origin"))?;
    let next = origin.incarnation().0.checked_add(1);
    let next = next.ok_or_else(|| wrong("it has no incarnation after it"))?;
    let next = Origin::new(
        origin.domain().clone(),
        origin.node().clone(),
        Incarnation(next),
    );
    let cosigner = ledger.key().cosigner_key().name();
    let key = NodeKey::new(seed, next.as_str(), cosigner);
    Ok(pb::Log {
        origin: next.as_str().to_owned(),
        verifier_key: key.log_key().to_string(),
        own: true,
        former,
        former_reason: reason.to_owned(),
        ..pb::Log::default()
    })
}

/// The standing revision of every record of the node's own, in the order of their times, each as the first of its
/// record: with its submitter, its times and its request, so that a retry of it is still known.
fn standing(ledger: &Ledger) -> Result<Vec<pb::Entry>, StorageError> {
    let mut found = Vec::new();
    for pair in ledger.state().scan(KeyRange::prefix(keys::HEADS), false) {
        let (_, value) = pair?;
        let head = Head::from_bytes(&value).filter(|head| head.entry.log == LogNo::OWN);
        let Some(head) = head else { continue };
        let entry = ledger.entry(head.entry)?;
        let first = pb::Entry {
            revision: 1,
            previous: None,
            cascaded: Vec::new(),
            ..entry.message
        };
        found.push((entry.time, entry.at.index, first));
    }
    found.sort_by_key(|(time, index, _)| (*time, *index));
    Ok(found.into_iter().map(|(_, _, entry)| entry).collect())
}

/// Puts the new journal in the place of the old one.
fn swap(data: &DataFolder) -> Result<Begun, NodeError> {
    let failed = |cause| NodeError::Data {
        path: data.next(),
        cause,
    };
    let (log, records) = first(&data.next().join("journal"))?;
    let incarnation = log.former.rsplit('/').next().unwrap_or_default();
    let folder = data.former(incarnation);
    durable::create_dir_all(&folder, durable::Access::Owner).map_err(failed)?;
    for path in [data.head(), data.state(), data.journal()] {
        let Some(name) = path.file_name().filter(|_| path.exists()) else {
            continue;
        };
        let target = folder.join(name);
        // What is there already was moved before this was cut off.
        if !target.exists() {
            durable::rename(&path, &target).map_err(failed)?;
        }
    }
    durable::rename(&data.next().join("journal"), &data.journal()).map_err(failed)?;
    durable::remove_dir_all(&data.next()).map_err(failed)?;
    Ok(Begun {
        former: log.former,
        origin: log.origin,
        records,
        folder,
    })
}

/// The registration that a new journal begins with, and how many entries it has.
fn first(journal: &std::path::Path) -> Result<(pb::Log, usize), NodeError> {
    let journal = Journal::open(journal, JournalOptions::default())?;
    let scan = journal.scan(crate::storage::Position(0), 1)?;
    let frame = scan.frames.into_iter().next();
    let log = frame.and_then(|(_, frame)| pb::Log::decode(frame.payload).ok());
    let log = log.ok_or_else(|| NodeError::Failed("the new journal is empty".to_owned()))?;
    let entries = usize::try_from(journal.size(LogNo::OWN)).unwrap_or(usize::MAX);
    journal.close()?;
    Ok((log, entries))
}
