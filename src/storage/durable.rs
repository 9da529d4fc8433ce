//! Files that survive a power cut.
//!
//! A file is on the disk only when its bytes are (`fdatasync`) and when its name is (`fsync` of its
//! folder). This is the one module that creates, renames and syncs, so that no caller forgets half.
//! An error names its path; after one, the caller must not sync again and hope.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::StorageError;

/// Who may read what is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The owner only: mode 0600, 0700 for a folder. For keys and for everything stored.
    Owner,
    /// Everyone, less the umask: mode 0644, 0755 for a folder. For certificates to hand out.
    Everyone,
}

impl Access {
    const fn file_mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Everyone => 0o644,
        }
    }

    const fn dir_mode(self) -> u32 {
        match self {
            Self::Owner => 0o700,
            Self::Everyone => 0o755,
        }
    }
}

/// The room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this process can still write (the superuser's reserve is not counted).
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// The room on the file system that holds `path`.
///
/// # Errors
/// Whatever `statvfs` says, with the path.
pub fn space(path: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(path).map_err(|e| at(path, e.into()))?;
    Ok(Space {
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}

/// Creates a folder and the ones above it that are missing, and makes their names durable.
///
/// # Errors
/// As the operating system says; a folder that is there is none.
pub fn create_dir_all(path: &Path, access: Access) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent(path);
    create_dir_all(&parent, access)?;
    match DirBuilder::new().mode(access.dir_mode()).create(path) {
        Ok(()) => sync_dir(&parent),
        Err(e) if e.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(e) => Err(at(path, e)),
    }
}

/// Creates a file that is not there yet, with its content, durably.
///
/// # Errors
/// `AlreadyExists`, or as the operating system says.
pub fn create(path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    write_synced(path, bytes, access, OpenOptions::new().create_new(true))?;
    sync_dir(&parent(path))
}

/// Puts a file with this content in place of whatever is there, durably: after a power cut there is
/// the old file or the new one, whole.
///
/// The new content passes through `<path>.tmp`, which a crash may leave behind; the next replace
/// overwrites it.
///
/// # Errors
/// As the operating system says; the old file is then still there.
pub fn replace(path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    let temporary = temporary(path);
    remove(&temporary)?;
    write_synced(
        &temporary,
        bytes,
        access,
        OpenOptions::new().create_new(true),
    )?;
    rename(&temporary, path)
}

/// Renames within a folder, durably.
///
/// # Errors
/// As the operating system says.
#[expect(clippy::disallowed_methods, reason = "this is the place that renames")]
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to).map_err(|e| at(from, e))?;
    sync_dir(&parent(to))
}

/// Removes a folder with everything in it, durably.
///
/// # Errors
/// As the operating system says.
pub fn remove_dir_all(path: &Path) -> io::Result<()> {
    std::fs::remove_dir_all(path).map_err(|e| at(path, e))?;
    sync_dir(&parent(path))
}

/// Removes a file, durably. One that is not there is no error.
///
/// # Errors
/// As the operating system says.
pub fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_dir(&parent(path)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(at(path, e)),
    }
}

/// Opens a file for reading and writing, creating an empty one (owner only) if there is none; its
/// name is durable, its bytes are the caller's to sync.
///
/// # Errors
/// As the operating system says.
pub fn open_or_create(path: &Path) -> io::Result<File> {
    let is_new = !path.exists();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(Access::Owner.file_mode())
        .open(path)
        .map_err(|e| at(path, e))?;
    if is_new {
        sync_dir(&parent(path))?;
    }
    Ok(file)
}

/// Cuts a file to `len` bytes, durably.
///
/// # Errors
/// As the operating system says.
pub fn truncate(path: &Path, len: u64) -> io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(|e| at(path, e))?;
    file.set_len(len)
        .and_then(|()| file.sync_all())
        .map_err(|e| at(path, e))
}

/// Makes the names in a folder durable.
///
/// # Errors
/// As the operating system says.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(|e| at(dir, e))
}

/// Where [`replace`] writes before it renames.
pub(super) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

/// Adds a path to an error, which keeps its kind.
pub(super) fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// What an I/O error means to a caller of storage.
pub(super) fn storage_error(doing: &'static str, error: &io::Error) -> StorageError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StorageError::Full { doing },
        _ => StorageError::Failed {
            doing,
            cause: error.to_string(),
        },
    }
}

fn write_synced(
    path: &Path,
    bytes: &[u8],
    access: Access,
    options: &mut OpenOptions,
) -> io::Result<()> {
    let mut file = options
        .write(true)
        .mode(access.file_mode())
        .open(path)
        .map_err(|e| at(path, e))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_data())
        .map_err(|e| at(path, e))
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn replace_swaps_the_content_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("head");
        std::fs::write(temporary(&path), b"left by a crash").unwrap();
        replace(&path, b"one", Access::Owner).unwrap();
        replace(&path, b"two", Access::Owner).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn create_refuses_to_overwrite() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        create(&path, b"secret", Access::Owner).unwrap();
        let error = create(&path, b"other", Access::Owner).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert!(error.to_string().contains("key.pem"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"secret");
    }

    #[test]
    fn folders_are_the_owners() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        create_dir_all(&deep, Access::Owner).unwrap();
        create_dir_all(&deep, Access::Owner).unwrap();
        assert_eq!((mode(&deep), mode(&dir.path().join("a"))), (0o700, 0o700));
    }

    #[test]
    fn removing_what_is_not_there_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        remove(&dir.path().join("none")).unwrap();
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        let full = io::Error::from_raw_os_error(28);
        assert!(matches!(
            storage_error("test", &full),
            StorageError::Full { .. }
        ));
        let named = at(Path::new("x"), full);
        assert!(matches!(
            storage_error("test", &named),
            StorageError::Full { .. }
        ));
    }

    #[test]
    fn space_is_measured() {
        let space = space(Path::new(".")).unwrap();
        assert!(space.total_bytes > 0 && space.free_bytes <= space.total_bytes);
    }
}
