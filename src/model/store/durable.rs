//! Writing that a crash cannot tear: everything is on the disk before it gets its name, and the name comes by rename.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

use crate::disk::{self, sync_directory};
use crate::model::digest::files_below;

/// Times a rename is tried again when the directory it goes to was removed in between, by whoever emptied it.
const TRIES: u32 = 16;

/// Writes a file whole: beside the store's other unfinished things in `staging` first, then to its name.
pub(super) fn write(staging: &Path, target: &Path, bytes: &[u8], modified: Option<SystemTime>) -> io::Result<()> {
    let unfinished = staging.join("manifest");
    // Models are no secret, and a server may run as another user than the one that imported them.
    let file = disk::create(&unfinished, bytes, 0o644)?;
    if let Some(modified) = modified {
        file.set_modified(modified)?;
    }
    file.sync_all()?;
    move_to(&unfinished, target)
}

/// Moves a finished file or directory to its name, over a file of that name, and makes the name last.
pub(super) fn move_to(finished: &Path, target: &Path) -> io::Result<()> {
    let parent = target.parent().ok_or_else(|| io::Error::other("a name in the store has a parent"))?;
    let mut tries = 0;
    loop {
        make_directories(parent)?;
        match fs::rename(finished, target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && finished.exists() && tries < TRIES => tries += 1,
            outcome => {
                outcome?;
                return sync_directory(parent);
            }
        }
    }
}

/// Makes a directory and its parents, each of which lasts.
pub(super) fn make_directories(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        make_directories(parent)?;
        match fs::create_dir(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => sync_directory(parent)?,
        }
    }
    Ok(())
}

/// Brings every file and directory below `directory` to the disk, readable for all.
pub(super) fn settle(directory: &Path) -> io::Result<()> {
    let mut directories = std::collections::BTreeSet::from([directory.to_path_buf()]);
    for relative in files_below(directory)? {
        let path = directory.join(relative);
        let file = File::open(&path)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.sync_all()?;
        directories.extend(path.ancestors().skip(1).take_while(|above| *above != directory).map(Path::to_path_buf));
    }
    for directory in directories {
        let file = File::open(&directory)?;
        file.set_permissions(Permissions::from_mode(0o755))?;
        file.sync_all()?;
    }
    Ok(())
}

/// Gives the files below `from` a second name below `to`, without copying a byte. With `copy`, where the file system
/// has no second names, they are copied.
pub(super) fn link_all(from: &Path, to: &Path, except: &str, copy: bool) -> io::Result<()> {
    for relative in files_below(from)?.into_iter().filter(|file| file.as_os_str() != except) {
        let target = to.join(&relative);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        let source = from.join(&relative);
        match fs::hard_link(&source, &target) {
            Err(_) if copy => _ = fs::copy(&source, &target)?,
            outcome => outcome?,
        }
    }
    Ok(())
}

/// Removes directories that have become empty, from `directory` up to, not including, `root`.
pub(super) fn prune(directory: &Path, root: &Path) {
    for directory in directory.ancestors().take_while(|above| *above != root && above.starts_with(root)) {
        // One that is not empty ends it.
        if fs::remove_dir(directory).is_err() {
            return;
        }
    }
}
