//! Looks at a directory without making it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access, geteuid};

use super::facts::{Answer, Place, Space};

/// What there is at `path`, or in the nearest directory above it that is there.
pub(super) fn look(path: &Path) -> Answer<Place> {
    let words = |error: io::Error| error.to_string();
    let facts = match path.metadata() {
        Ok(facts) => Some(facts),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(words(error)),
    };
    let there = path.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"));
    let not_writable = match access(there, AccessFlags::W_OK | AccessFlags::X_OK) {
        _ if !there.is_dir() => Some(format!("{} is no directory", there.display())),
        Ok(()) => None,
        Err(error) => Some(format!("{}: {}", there.display(), error.desc())),
    };
    Ok(Place {
        path: path.into(),
        mode: facts.as_ref().map(|facts| facts.mode() & 0o7777),
        is_ours: facts.as_ref().is_none_or(|facts| facts.uid() == geteuid().as_raw()),
        not_writable,
        space: space(there).map_err(words)?,
        on_overlay: statfs(there).is_ok_and(|system| system.filesystem_type() == OVERLAYFS_SUPER_MAGIC),
    })
}

/// Space of the file system that holds `path`.
pub(super) fn space(path: &Path) -> io::Result<Space> {
    let system = statvfs(path)?;
    let size = system.fragment_size();
    Ok(Space { free: system.blocks_available() * size, total: system.blocks() * size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_not_there_is_judged_by_the_one_above_and_not_made() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a/b");
        let place = look(&path).expect("a place");
        assert!(place.mode.is_none() && place.not_writable.is_none() && place.space.total > 0);
        assert!(!directory.path().join("a").exists());
        let file = directory.path().join("file");
        std::fs::write(&file, "").expect("written");
        assert!(look(&file).is_ok_and(|place| place.not_writable.is_some_and(|why| why.contains("no directory"))));
    }
}
