//! Children that fall silent or are missing, and a small file that remembers what was heard of them.
//!
//! The file holds signed notes and nothing else that matters, so it is verified when it is read, and losing it
//! loses no more than when a child was last heard before a restart. It stands beside the journal, for a
//! heartbeat every few seconds is not worth a frame that is kept for ever.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::time::{Instant, interval};

use crate::{
    replication::{Board, Kept},
    storage::durable::{self, Access},
};

/// How often children are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often the file is written while nothing but times changes. A size that was signed and is not held here is
/// written at the next look: a restart must not make the lag smaller.
const WRITE: Duration = Duration::from_secs(10);

/// Takes on what the file says.
pub(super) fn recall(board: &Board, path: &PathBuf) {
    let kept = match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice::<Vec<Kept>>(&bytes).map_err(|e| e.to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => Err(error.to_string()),
    };
    match kept {
        Ok(kept) => board.recall(&kept),
        Err(error) => {
            let path = path.display();
            tracing::warn!(%path, error, "when children were last heard is not known");
        }
    }
}

/// Looks at the children until it is dropped, and remembers what it sees.
pub(super) async fn watch(board: Arc<Board>, path: PathBuf) {
    let mut every = interval(LOOK);
    let (mut written, mut at) = (Vec::new(), Instant::now());
    loop {
        every.tick().await;
        board.look();
        let kept = board.keep();
        let grown = |kept: &&Kept| !kept.signed.is_empty() && !has(&written, kept);
        let urgent = kept.iter().any(|kept| grown(&kept));
        if kept != written && (urgent || at.elapsed() >= WRITE) {
            (written, at) = (kept.clone(), Instant::now());
            let path = path.clone();
            let _ = tokio::task::spawn_blocking(move || write(&path, &kept)).await;
        }
    }
}

fn has(written: &[Kept], kept: &Kept) -> bool {
    let mut same = written.iter();
    same.any(|held| held.origin == kept.origin && held.signed == kept.signed)
}

/// Writes the file. That it cannot be written stops nothing.
pub(super) fn write(path: &std::path::Path, kept: &[Kept]) {
    let bytes = serde_json::to_vec(kept).unwrap_or_default();
    if let Err(error) = durable::replace(path, &bytes, Access::Owner) {
        tracing::warn!(%error, "when children were last heard is not written down");
    }
}
