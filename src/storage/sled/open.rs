//! Opening the store, or setting it aside.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::blocks::Blocks;
use super::condition::{self, Condition};
use super::{Open, Opened, PATIENCE, SledOptions, SledState, caught};
use crate::storage::StorageError;
use crate::storage::durable::{self, Access, storage_error};

/// sled's file.
const DB: &str = "db";
/// How many folders that were set aside are kept.
const KEPT: usize = 2;
const DOING: &str = "opening the derived state";

pub(super) fn open(dir: &Path, options: SledOptions) -> Result<(SledState, Opened), StorageError> {
    // Unreadable is as good as another boot.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    open_on(dir, options, boot.trim())
}

/// Opens the store on a machine with this boot id; empty if it is not known.
pub(super) fn open_on(
    dir: &Path,
    options: SledOptions,
    boot: &str,
) -> Result<(SledState, Opened), StorageError> {
    let io = |e| storage_error(DOING, &e);
    let opened = match condition::judge(dir, boot).map_err(io)? {
        Ok(opened) => opened,
        Err(why) => set_aside(dir, why).map_err(io)?,
    };
    match start(dir, options, boot) {
        Ok(state) => Ok((state, opened)),
        Err(StorageError::Corrupt { what }) => {
            let opened = set_aside(dir, what).map_err(io)?;
            Ok((start(dir, options, boot)?, opened))
        }
        Err(error) => Err(error),
    }
}

/// Opens what is there. `Corrupt` if that cannot be done and a new store could.
fn start(dir: &Path, options: SledOptions, boot: &str) -> Result<SledState, StorageError> {
    let io = |e| storage_error(DOING, &e);
    durable::create_dir_all(dir, Access::Owner).map_err(io)?;
    // Before sled writes its first byte.
    Condition::Open(boot.to_owned()).store(dir).map_err(io)?;
    remove_unfinished_snapshots(dir).map_err(io)?;
    wait_for_lock(&dir.join(DB))?;
    let config = ::sled::Config::new()
        .path(dir)
        .cache_capacity(options.cache_bytes)
        .flush_every_ms(None)
        .mode(::sled::Mode::HighThroughput);
    let db = match caught(DOING, || config.open())? {
        Ok(db) => db,
        Err(::sled::Error::Io(error)) if is_of_the_machine(error.kind()) => return Err(io(error)),
        Err(error) => {
            return Err(StorageError::Corrupt {
                what: format!("{DOING}: {error}"),
            });
        }
    };
    let pairs = match caught(DOING, || Blocks::open(&db))? {
        Ok(pairs) => pairs,
        Err(::sled::Error::Io(error)) if is_of_the_machine(error.kind()) => return Err(io(error)),
        Err(error) => {
            return Err(StorageError::Corrupt {
                what: format!("{DOING}: {error}"),
            });
        }
    };
    condition::sync_files(dir).map_err(io)?;
    let file = File::open(dir.join(DB)).map_err(|e| io(durable::at(dir, e)))?;
    let is_poisoned = AtomicBool::new(false);
    Ok(SledState {
        dir: dir.to_path_buf(),
        db: Some(Open { db, pairs }),
        file,
        is_poisoned,
    })
}

/// Errors that a new store would meet as well.
fn is_of_the_machine(kind: ErrorKind) -> bool {
    use ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(
        kind,
        PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull
    )
}

/// A kill or a full disk leaves these behind, and sled then takes itself for damaged.
fn remove_unfinished_snapshots(dir: &Path) -> io::Result<()> {
    for path in condition::files(dir)? {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            durable::remove(&path)?;
        }
    }
    Ok(())
}

/// Waits until nobody holds sled's file; a store that was just dropped still may.
fn wait_for_lock(path: &Path) -> Result<(), StorageError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(storage_error(DOING, &durable::at(path, e))),
    };
    if lock_in_time(&file) {
        return Ok(());
    }
    let cause = format!("another process holds {}", path.display());
    Err(StorageError::Failed {
        doing: DOING,
        cause,
    })
}

/// Takes sled's lock, for as long as the file is open, once sled lets go of it.
pub(super) fn lock_in_time(file: &File) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while file.try_lock().is_err() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(PATIENCE / 500);
    }
    true
}

/// Renames the folder, so that its evidence is kept, and drops all but the newest of its kind.
fn set_aside(dir: &Path, why: String) -> io::Result<Opened> {
    let name = dir
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or("state");
    let prefix = format!("{name}.damaged-");
    let to = dir.with_file_name(format!(
        "{prefix}{}",
        jiff::Timestamp::now().as_nanosecond()
    ));
    durable::rename(dir, &to)?;
    let parent = to
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut old = Vec::new();
    for found in std::fs::read_dir(parent).map_err(|e| durable::at(parent, e))? {
        let path = found?.path();
        if path
            .file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with(&prefix))
        {
            old.push(path);
        }
    }
    old.sort();
    for path in old.iter().rev().skip(KEPT) {
        std::fs::remove_dir_all(path).map_err(|e| durable::at(path, e))?;
    }
    tracing::error!(%why, to = %to.display(), "set the derived state aside; it will be rebuilt");
    Ok(Opened::SetAside { why, to })
}
