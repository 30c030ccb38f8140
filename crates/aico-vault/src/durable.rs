//! Files that are the old or the new one after a stop at any moment, never half of either
//! (`docs/spec/vault.md`, Files outside the encrypted stores).

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use zeroize::Zeroizing;

use crate::Error;

/// What [`replace`] is about to do; tests stop it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Create,
    Write,
    SyncFile,
    Rename,
    SyncFolder,
}

type Before<'a> = &'a mut dyn FnMut(Step) -> io::Result<()>;

/// Puts `bytes` at `path` with permissions `mode`, on disk when this returns.
///
/// On an error the old file is still there, unless the last step failed: then the new one is, and may not survive a
/// power cut.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    replace_in_steps(path, bytes, mode, &mut |_| Ok(()))
}

/// Makes a folder that only its owner may enter, and the folders above it; one that exists is left as it is.
pub(crate) fn create_folder(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    create_folder(folder_of(path))?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(Error::io("creating", path, source)),
        _ => sync_folder(folder_of(path)).map_err(|source| Error::io("creating", path, source)),
    }
}

/// Gives a file that is on disk already its final name, durably.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    let renamed = fs::rename(from, to).and_then(|()| sync_folder(folder_of(to)));
    renamed.map_err(|source| Error::io("renaming", from, source))
}

/// Removes the file at `path` and what a stopped [`replace`] may have left beside it. `Ok(false)` when there was none.
pub(crate) fn remove(path: &Path) -> Result<bool, Error> {
    let failed = |source| Error::io("removing", path, source);
    remove_if_there(&unfinished(path)).map_err(failed)?;
    let removed = remove_if_there(path).map_err(failed)?;
    sync_folder(folder_of(path)).map_err(failed)?;
    Ok(removed)
}

/// Gives a file that does not change a second name; a file system without such names gets a second file.
pub(crate) fn link_or_copy(from: &Path, to: &Path) -> Result<(), Error> {
    let linked = fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop));
    linked.map_err(|source| Error::io("copying", from, source))
}

/// Puts on disk which names the folder of `path` has.
pub(crate) fn sync_folder_of(path: &Path) -> Result<(), Error> {
    sync_folder(folder_of(path)).map_err(|source| Error::io("syncing", path, source))
}

/// Opens a file for reading; never follows a symbolic link at its name and never waits on a pipe.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// Reads a whole file, and at most one byte more than `limit`, by which the caller sees that it is too long.
pub(crate) fn read_at_most(file: &File, limit: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    // Enough room from the start: growing would leave unwiped copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit.saturating_add(1)));
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn replace_in_steps(path: &Path, bytes: &[u8], mode: u32, before: Before<'_>) -> Result<(), Error> {
    let new = unfinished(path);
    let failed = |source| Error::io("writing", path, source);
    if let Err(source) = write_and_rename(&new, path, bytes, mode, before) {
        // Best effort: the next attempt clears what stays.
        let _ = fs::remove_file(&new);
        return Err(failed(source));
    }
    before(Step::SyncFolder).and_then(|()| sync_folder(folder_of(path))).map_err(failed)
}

fn write_and_rename(new: &Path, path: &Path, bytes: &[u8], mode: u32, before: Before<'_>) -> io::Result<()> {
    before(Step::Create)?;
    remove_if_there(new)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
    before(Step::Write)?;
    file.write_all(bytes)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    before(Step::SyncFile)?;
    file.sync_all()?;
    before(Step::Rename)?;
    fs::rename(new, path)
}

/// Where the new file grows. One fixed name, so that stopped attempts do not pile up.
fn unfinished(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) => Path::new("."),
        None => Path::new("/"),
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(source),
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    const STEPS: [Step; 5] = [Step::Create, Step::Write, Step::SyncFile, Step::Rename, Step::SyncFolder];

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn the_file_reaches_the_disk_before_its_name_does() {
        let folder = tempfile::tempdir().unwrap();
        let mut steps = Vec::new();
        let mut note = |step| {
            steps.push(step);
            Ok(())
        };
        replace_in_steps(&folder.path().join("f"), b"new", 0o600, &mut note).unwrap();
        assert_eq!(steps, STEPS);
    }

    #[test]
    fn a_stop_at_any_step_leaves_the_old_or_the_new_file() {
        for stop in STEPS {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("f");
            replace(&path, b"old", 0o600).unwrap();
            let stopped = catch_unwind(AssertUnwindSafe(|| {
                replace_in_steps(&path, b"new", 0o600, &mut |step| {
                    assert_ne!(step, stop, "stopped");
                    Ok(())
                })
            }));
            assert!(stopped.is_err());
            let wanted: &[u8] = if stop == Step::SyncFolder { b"new" } else { b"old" };
            assert_eq!(fs::read(&path).unwrap(), wanted, "{stop:?}");
            replace(&path, b"newer", 0o600).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"newer");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left over");
        }
    }

    #[test]
    fn a_full_disk_is_told_and_keeps_the_old_file() {
        for full in [Step::Create, Step::Write, Step::SyncFile, Step::Rename] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("f");
            replace(&path, b"old", 0o600).unwrap();
            let mut fail = |step| if step == full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) };
            let error = replace_in_steps(&path, b"new", 0o600, &mut fail).unwrap_err();
            assert!(matches!(error, Error::Full { .. }), "{error}");
            assert_eq!(fs::read(&path).unwrap(), b"old");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn folders_and_files_have_their_modes() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b");
        create_folder(&deep).unwrap();
        create_folder(&deep).unwrap();
        assert_eq!((mode(&deep), mode(deep.parent().unwrap())), (0o700, 0o700));
        replace(&deep.join("f"), b"x", 0o640).unwrap();
        assert_eq!(mode(&deep.join("f")), 0o640);
        fs::write(deep.join("file"), b"").unwrap();
        assert!(create_folder(&deep.join("file/under")).is_err());
    }

    #[test]
    fn removing_takes_the_unfinished_file_along() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        replace(&path, b"x", 0o600).unwrap();
        fs::write(unfinished(&path), b"half").unwrap();
        assert!(remove(&path).unwrap());
        assert!(!remove(&path).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_link_at_the_name_is_replaced_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, target) = (folder.path().join("f"), folder.path().join("target"));
        fs::write(&target, b"target").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(open(&path).is_err());
        replace(&path, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"target");
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }
}
